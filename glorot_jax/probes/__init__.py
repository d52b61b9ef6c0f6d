"""Diagnostics measured inside the compiled step: pure functions of what one run sees."""

from __future__ import annotations

from glorot_jax.probes.activations import activations
from glorot_jax.probes.evaluation import evaluation
from glorot_jax.probes.gradients import gradients
from glorot_jax.probes.jacobians import jacobians

__all__ = ["activations", "evaluation", "gradients", "jacobians"]

BUILT_IN = {probe.name: probe for probe in (evaluation, activations, gradients, jacobians)}
"""Probes that a sweep may name."""
