"""The passes of a training step that are worth a program of their own, each in more than one way."""

GENERAL = "general"
"""No kernel: ``jax.grad`` and an optimizer of Optax's form, for every network."""
KERNELS = ("xla", "native", "pallas", "cuda")
"""See ``kernels.dense``."""
