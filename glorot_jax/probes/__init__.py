"""Diagnostics measured inside the compiled step: pure functions of what one run sees."""

from __future__ import annotations

from glorot_jax.probes.activations import activations
from glorot_jax.probes.evaluation import evaluation
from glorot_jax.probes.gradient_norms import gradient_norms
from glorot_jax.probes.gradients import gradients
from glorot_jax.probes.hessian import hessian
from glorot_jax.probes.hessian_diagonal import hessian_diagonal
from glorot_jax.probes.hessian_trace import hessian_trace
from glorot_jax.probes.histograms import histograms
from glorot_jax.probes.input_output_jacobian import input_output_jacobian
from glorot_jax.probes.jacobian_spectra import jacobian_spectra
from glorot_jax.probes.jacobians import jacobians
from glorot_jax.probes.module_outputs import module_outputs
from glorot_jax.probes.ntk import ntk
from glorot_jax.probes.saturation import saturation
from glorot_jax.probes.weights import weights

__all__ = [
    "activations",
    "evaluation",
    "gradient_norms",
    "gradients",
    "hessian",
    "hessian_diagonal",
    "hessian_trace",
    "histograms",
    "input_output_jacobian",
    "jacobian_spectra",
    "jacobians",
    "module_outputs",
    "ntk",
    "saturation",
    "weights",
]

BUILT_IN = {
    probe.name: probe
    for probe in (
        *(evaluation, activations, gradients, jacobians),
        *(saturation, histograms, weights, gradient_norms),
        *(jacobian_spectra, input_output_jacobian, hessian, hessian_trace),
        *(hessian_diagonal, ntk, module_outputs),
    )
}
"""Probes that a sweep may name."""
