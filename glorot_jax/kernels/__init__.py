"""Dense layers of many runs: the products and the update that a training step is made of, in several forms."""
