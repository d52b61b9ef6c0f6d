"""Everything downstream of the results folder: no JAX, and nothing of the training code."""
