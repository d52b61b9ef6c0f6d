"""The passes of a training step that are worth a program of their own, each in more than one way."""
