"""Accidents on purpose: a tiny sweep is disturbed in every way, goes on, and is compared with an undisturbed twin."""
