"""Dense layers in CUDA C++: how they are called and built anywhere; what they compute where a GPU is."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from glorot_jax.kernels import cuda, dense
from glorot_jax.kernels.library import Unavailable
from tests.kernels.test_native import layer, stand_in

SHAPES = [
    (784, 1000, 8),
    (1000, 10, 5),
    (128, 128, 40),
    (63, 37, 3),
    (33, 130, 2),
    (5, 66, 4),
    (1, 1, 1),
    (1001, 999, 3),
]
"""Fan-in, fan-out and runs: with and without whole groups of rows, and of columns."""


def both(a, input_error=True):
    back = partial(cuda.backward_update, input_error=input_error)
    return (
        jax.jit(jax.vmap(cuda.forward))(a["z"], a["w"], a["b"]),
        *jax.jit(jax.vmap(back))(a["z"], a["error"], a["w"], a["b"]),
    )


@pytest.fixture
def gpu() -> None:
    if (reason := cuda.why_not()) is not None:
        pytest.skip(f"no CUDA kernels: {reason}")


@pytest.mark.parametrize("batch", [10, 3])
@pytest.mark.parametrize(("fan_in", "fan_out", "runs"), SHAPES)
def test_any_layer_is_right_again_and_in_any_company(gpu, batch, fan_in, fan_out, runs):
    a = layer((runs,), batch, fan_in, fan_out)
    z, error, w, b = (a[name].astype(np.float64) for name in ("z", "error", "w", "b"))
    exact = (
        z @ w + b[:, None],
        error @ w.swapaxes(1, 2),
        w + z.swapaxes(1, 2) @ error,
        b + error.sum(1),
    )
    found = [np.asarray(array) for array in both(a)]
    for one, other in zip(found, exact, strict=True):
        assert np.abs(one - other).max() < 3e-6 * np.abs(other).max()
    assert [f.tobytes() for f in found] == [np.asarray(f).tobytes() for f in both(a)]
    alone = both({name: array[-1:] for name, array in a.items()})
    assert [f[-1:].tobytes() for f in found] == [np.asarray(f).tobytes() for f in alone]
    _, nothing, *updated = both(a, input_error=False)
    assert nothing is None
    assert [f.tobytes() for f in found[2:]] == [np.asarray(f).tobytes() for f in updated]


def test_a_run_without_error_stays_as_it_is_whatever_it_holds(gpu):
    a = layer((3,), 10, 50, 70)
    a["error"][1], a["z"][1, 0, 0], a["w"][1, 3, 3] = 0.0, np.nan, np.inf
    _, below, w, b = both(a)
    np.testing.assert_array_equal(below[1], 0)
    np.testing.assert_array_equal(w[1], a["w"][1])
    np.testing.assert_array_equal(b[1], a["b"][1])
    assert np.isfinite(below[2]).all()


def test_they_are_one_call_a_pass_for_all_runs_and_in_place(monkeypatch):
    """In the program that JAX makes for a GPU, which needs none."""
    monkeypatch.setattr(cuda, "_load", lambda batch: cuda.Library(Path(), "none", 0.0))
    a = layer((6,), 10, 100, 70)
    found = []
    for function, names in (
        (cuda.forward, ("z", "w", "b")),
        (partial(cuda.backward_update, input_error=True), ("z", "error", "w", "b")),
        (partial(cuda.backward_update, input_error=False), ("z", "error", "w", "b")),
    ):
        traced = jax.jit(jax.vmap(function)).trace(*(a[name] for name in names))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("stablehlo.custom_call") == 1
        aliases = re.findall(r"output_tuple_indices = \[(\d)\],\s*operand_index = (\d)", text)
        found.append((re.search(r"@(Glorot\w+?)_10_", text)[1], sorted(aliases)))
    assert found == [
        ("GlorotForward", []),
        ("GlorotBackwardUpdate", [("1", "2"), ("2", "3")]),
        ("GlorotUpdate", [("0", "2"), ("1", "3")]),
    ]


def test_a_batch_too_large_for_registers_is_plain_jax():
    a = layer((), cuda.LARGEST_BATCH + 1, 20, 30)
    for one, other in (
        (cuda.forward(a["z"], a["w"], a["b"]), dense.forward(a["z"], a["w"], a["b"])),
        *zip(
            cuda.backward_update(a["z"], a["error"], a["w"], a["b"], input_error=True),
            dense.backward_update(a["z"], a["error"], a["w"], a["b"], input_error=True),
            strict=True,
        ),
    ):
        np.testing.assert_array_equal(one, other)


def test_a_cpu_and_other_precisions_are_told_why_not(monkeypatch):
    if jax.default_backend() == "cpu":
        assert cuda.why_not() == dense.why_not("cuda") == "for GPUs only, not cpu"
    assert dense.why_not("cuda", "bfloat16") == dense.why_not("cuda", "tensorfloat32") == "it knows float32 alone"
    monkeypatch.setenv("GLOROT_NATIVE", "0")
    assert cuda.why_not() == "switched off by GLOROT_NATIVE=0"


# Building, with a stand-in for nvcc.


@pytest.fixture
def anew(monkeypatch, tmp_path) -> Path:
    """No compiler found and nothing built yet."""
    monkeypatch.setattr(cuda, "_usual_places", lambda: iter(()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("NVCC", raising=False)
    return tmp_path


def test_without_nvcc_it_says_so(anew):
    with pytest.raises(Unavailable, match=r"^no nvcc: "):
        cuda.build(10, "90")


def test_it_is_built_for_one_batch_and_one_kind_of_gpu_and_kept(anew):
    stand_in(anew / "nvcc", 'echo "$@" >> "$0.log"; echo built > "$out"')
    first, again, other = cuda.build(10, "90"), cuda.build(10, "90"), cuda.build(7, "80")
    assert first.path == again.path != other.path
    assert again.seconds == 0 < first.seconds
    one, two = (anew / "nvcc.log").read_text().splitlines()
    assert "-DGLOROT_BATCH=10 -gencode=arch=compute_90,code=sm_90" in one
    assert "-DGLOROT_BATCH=7 -gencode=arch=compute_80,code=sm_80" in two


def test_a_failing_nvcc_is_one_line(anew):
    stand_in(anew / "nvcc", 'echo "cuda.cu(3): error: no host compiler" >&2; exit 1')
    with pytest.raises(Unavailable, match=r"^nvcc can't compile cuda\.cu: cuda\.cu\(3\): error: no host compiler$"):
        cuda.build(10, "90")
