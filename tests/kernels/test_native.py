"""Dense layers in C++: against NumPy in float64, under vmap, in place, in any company, or without a compiler."""

from __future__ import annotations

import functools
import itertools
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glorot_jax.kernels import native
from glorot_jax.kernels.library import Unavailable

ROOT = Path(__file__).parents[2]
EPSILON = np.finfo(np.float32).eps
SIZES = st.sampled_from([1, 7, 10, 13, 33, 64])


@pytest.fixture(scope="module")
def compiler() -> None:
    """Skips where nothing can be built."""
    reason = native.why_not()
    if reason is not None:
        pytest.skip(f"no native kernels: {reason}")


def layer(runs: tuple[int, ...], batch: int, fan_in: int, fan_out: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"z": (batch, fan_in), "error": (batch, fan_out), "w": (fan_in, fan_out), "b": (fan_out,)}
    return {name: rng.standard_normal((*runs, *shape), np.float32) for name, shape in shapes.items()}


def vmapped(function, axes: int):
    for _ in range(axes):
        function = jax.vmap(function)
    return jax.jit(function)


def forward(a, axes=0):
    return vmapped(native.forward, axes)(a["z"], a["w"], a["b"])


def backward_update(a, axes=0, input_error=True):
    function = functools.partial(native.backward_update, input_error=input_error)
    return vmapped(function, axes)(a["z"], a["error"], a["w"], a["b"])


def assert_sums(found, terms: int, of, subscripts: str, start) -> None:
    """That ``found`` is start + einsum(of) to the rounding of so many float32 sums in whatever order."""
    product = functools.partial(np.einsum, subscripts)
    exact = start + product(*(np.float64(a) for a in of))
    size = np.abs(start) + product(*(np.abs(np.float64(a)) for a in of))
    np.testing.assert_array_less(np.abs(np.asarray(found) - exact), (terms + 2) * EPSILON * size + 1e-30)


def assert_right(a, axes: int) -> None:
    z, error, w, b = a["z"], a["error"], a["w"], a["b"]
    batch, fan_in = z.shape[-2:]
    assert_sums(forward(a, axes), fan_in, (z, w), "...bi,...io->...bo", b[..., None, :])
    below, w_after, b_after = backward_update(a, axes)
    assert_sums(below, w.shape[-1], (error, w), "...bo,...io->...bi", 0.0)
    assert_sums(w_after, batch, (z, error), "...bi,...bo->...io", w)
    assert_sums(b_after, batch, (error,), "...bo->...o", b)
    nothing, *updated = backward_update(a, axes, input_error=False)
    assert nothing is None
    np.testing.assert_array_equal(updated[0], w_after)
    np.testing.assert_array_equal(updated[1], b_after)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(runs=st.lists(st.integers(1, 3), max_size=2).map(tuple), batch=st.integers(1, 33), fan_in=SIZES, fan_out=SIZES)
@example(runs=(), batch=1, fan_in=1, fan_out=1)
@example(runs=(2,), batch=10, fan_in=33, fan_out=64)
@example(runs=(2, 1), batch=33, fan_in=64, fan_out=10)
@example(runs=(2,), batch=12, fan_in=13, fan_out=1100)
@example(runs=(2,), batch=10, fan_in=531, fan_out=300)  # streamed
@example(runs=(1,), batch=27, fan_in=531, fan_out=300)
def test_both_passes_are_those_of_float64(compiler, runs, batch, fan_in, fan_out):
    assert_right(layer(runs, batch, fan_in, fan_out, seed=batch), len(runs))


@pytest.mark.parametrize(
    "along", [a for a in itertools.product((0, None), repeat=4) if any(axis == 0 for axis in a)], ids=str
)
def test_what_runs_share_may_be_vmapped_over_or_not(compiler, along):
    """Any of z, error, W and b; and z and b in a vmap around it."""

    def both(z, error, w, b):
        return native.forward(z, w, b), native.backward_update(z, error, w, b, input_error=True)

    def wanted(a):
        return forward(a, 1), backward_update(a, 1)

    def assert_same(found, wanted):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)

    many = layer((3,), 5, 7, 18)
    shared = {name for name, axis in zip(many, along, strict=True) if axis is None}
    given = {name: v[0] if name in shared else v for name, v in many.items()}
    spread = {name: np.repeat(v[:1], 3, 0) if name in shared else v for name, v in many.items()}
    assert_same(jax.jit(jax.vmap(both, along))(*given.values()), wanted(spread))

    around = {name: np.stack([v, 2 * v]) if name in ("z", "b") else v for name, v in given.items()}
    outer = tuple(0 if name in ("z", "b") else None for name in given)
    found = jax.jit(jax.vmap(jax.vmap(both, along), outer))(*around.values())
    doubled = {**spread, "z": 2 * spread["z"], "b": 2 * spread["b"]}
    for place, a in enumerate((spread, doubled)):
        assert_same(jax.tree.map(lambda f, place=place: f[place], found), wanted(a))


def test_runs_that_share_their_weights_before_an_update_have_their_own_after_it(compiler):
    """Also where the vmap within is over a single run."""
    a = layer((2, 1), 3, 4, 20)
    a["w"], a["b"] = (np.repeat(a[name][:1], 2, 0) for name in ("w", "b"))
    update = functools.partial(native.backward_update, input_error=True)
    found = jax.jit(jax.vmap(jax.vmap(update), (0, 0, None, None)))(a["z"], a["error"], a["w"][0], a["b"][0])
    jax.tree.map(np.testing.assert_array_equal, found, backward_update(a, 2))


@pytest.mark.parametrize(("batch", "fan_in", "fan_out"), [(10, 20, 40), (13, 20, 40), (10, 300, 450), (3, 40, 10)])
def test_a_run_has_the_same_bits_in_any_company(compiler, batch, fan_in, fan_out):
    many = layer((5,), batch, fan_in, fan_out)
    s, updated = forward(many, 1), backward_update(many, 1)
    alone = {name: v[3] for name, v in many.items()}
    np.testing.assert_array_equal(s[3], forward(alone))
    jax.tree.map(lambda many, one: np.testing.assert_array_equal(many[3], one), updated, backward_update(alone))
    others = {name: np.stack([v[3], np.full_like(v[0], np.nan)]) for name, v in many.items()}
    np.testing.assert_array_equal(s[3], forward(others, 1)[0])
    jax.tree.map(lambda many, two: np.testing.assert_array_equal(many[3], two[0]), updated, backward_update(others, 1))


def test_weights_are_updated_in_place(compiler):
    a = {name: jnp.asarray(v) for name, v in layer((2,), 10, 30, 50).items()}
    update = jax.vmap(functools.partial(native.backward_update, input_error=True))
    donated = jax.jit(update, donate_argnums=(2, 3))
    places = a["w"].unsafe_buffer_pointer(), a["b"].unsafe_buffer_pointer()
    kept = jnp.array(a["w"]), jnp.array(a["b"])
    _, w, b = donated(*a.values())
    assert (w.unsafe_buffer_pointer(), b.unsafe_buffer_pointer()) == places
    _, again, _ = jax.jit(update)(a["z"], a["error"], *kept)
    np.testing.assert_array_equal(again, w)
    np.testing.assert_array_equal(kept[0], layer((2,), 10, 30, 50)["w"])  # not donated: not touched


def test_a_loop_that_carries_weights_never_copies_them(compiler):
    a = layer((3,), 10, 41, 57)

    def step(_, weights):
        w, b = weights
        s = jax.vmap(native.forward)(a["z"], w, b)
        _, w, b = jax.vmap(functools.partial(native.backward_update, input_error=True))(
            a["z"], -1e-3 * jnp.tanh(s), w, b
        )
        return w, b

    loop = jax.jit(lambda *weights: jax.lax.fori_loop(0, 7, step, weights), donate_argnums=(0, 1))
    text = loop.lower(a["w"], a["b"]).compile().as_text()
    assert len(re.findall(r"custom-call\(.*GlorotForward", text)) == 1
    assert not [line for line in text.splitlines() if re.search(r"f32\[3,41,57\]\S* copy\(", line)]
    w, b = np.float64(a["w"]), np.float64(a["b"])
    for _ in range(7):
        error = -1e-3 * np.tanh(a["z"] @ w + b[:, None])
        w, b = w + np.swapaxes(a["z"], 1, 2) @ error, b + error.sum(1)
    found = loop(jnp.asarray(a["w"]), jnp.asarray(a["b"]))
    np.testing.assert_allclose(found[0], w, atol=1e-5)
    np.testing.assert_allclose(found[1], b, atol=1e-5)


@pytest.mark.parametrize(("batch", "fan_in", "fan_out"), [(10, 18, 37), (13, 18, 37), (4, 18, 10)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["z", "error", "w", "b"])
def test_what_is_not_finite_goes_where_arithmetic_takes_it(compiler, batch, fan_in, fan_out, bad, where):
    a = layer((), batch, fan_in, fan_out)
    a[where].flat[a[where].size // 2] = bad
    z, error, w, b = (np.float64(v) for v in a.values())
    with np.errstate(invalid="ignore"):
        wanted = z @ w + b, (error @ w.T, w + z.T @ error, b + error.sum(0))
    found = forward(a), backward_update(a)

    def same_kind(found, wanted):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))

    jax.tree.map(same_kind, found, wanted)


@pytest.mark.parametrize(("batch", "fan_in", "fan_out"), [(10, 18, 37), (13, 18, 37), (4, 18, 10)])
def test_no_error_no_change(compiler, batch, fan_in, fan_out):
    """−0 is the zero that changes nothing: w + 0 · (−0) is w for a w of −0 too, if z is not negative."""
    a = layer((), batch, fan_in, fan_out)
    a["w"][3:9, ::2], a["b"][::3] = 0.0, -0.0
    for zero in (0.0, -0.0):
        a["error"][:] = zero
        below, w, b = backward_update(a)
        np.testing.assert_array_equal(below, 0)
        np.testing.assert_array_equal(np.asarray(w).view(np.int32), a["w"].view(np.int32))
        np.testing.assert_array_equal(b, a["b"])
    a["w"][:], a["z"] = -0.0, np.abs(a["z"])
    _, w, b = backward_update(a)
    assert np.signbit(w).all()
    np.testing.assert_array_equal(np.signbit(b), np.signbit(a["b"]))


# Building, with stand-ins for compilers.


@pytest.fixture
def anew(monkeypatch, tmp_path) -> Path:
    """No compiler found and nothing built yet; what this process has loaded is left alone."""
    monkeypatch.setattr(native, "_load", native._load.__wrapped__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path


def stand_in(path: Path, compile: str) -> Path:
    """A compiler that says its version, and else does what it is told with ``$out``."""
    version = 'case "$*" in *--version*) echo "stand-in 1.0"; exit 0;; esac'
    path.write_text(f'#!/bin/sh\n{version}\nfor word; do out="$word"; done\n{compile}\n')
    path.chmod(0o755)
    return path


def one_line(reason: str | None) -> str:
    assert reason is not None
    assert "\n" not in reason
    assert "Traceback" not in reason
    return reason


def test_without_a_compiler_it_says_so(anew):
    assert one_line(native.why_not()) == "no C++ compiler: none of $CXX, c++, g++ and clang++ is there"
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler"):
        native.forward(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4))


def test_a_source_that_does_not_compile_is_one_line(anew):
    stand_in(anew / "g++", 'echo "In file included from x.h:1:" >&2; echo "x.h:7:1: error: no such thing" >&2; exit 1')
    assert one_line(native.why_not()) == "g++ can't compile native.cc: x.h:7:1: error: no such thing"
    assert not list((anew / "cache").rglob("*.*"))


def test_what_can_not_be_loaded_or_kept_is_one_line(anew, monkeypatch):
    monkeypatch.setenv("CXX", str(stand_in(anew / "junk", 'echo junk > "$out"')))
    assert "can't be loaded" in one_line(native.why_not())
    (anew / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(anew / "file"))
    assert "can't be kept" in one_line(native.why_not())


def test_a_compiler_that_does_not_run_is_one_line(anew, monkeypatch):
    (anew / "c++").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    (anew / "c++").chmod(0o755)
    assert one_line(native.why_not()) == "c++ --version fails: broken"


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("GLOROT_NATIVE", "0")
    assert one_line(native.why_not()) == "switched off by GLOROT_NATIVE=0"


def test_it_is_for_cpus(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert one_line(native.why_not()) == "for CPUs only, not gpu"


def test_processes_that_build_at_once_both_get_a_whole_library(compiler, tmp_path):
    """The compiler's stand-in copies the library in two parts, with time between."""
    built = native.library().path
    slow = f'head -c 5000 "{built}" > "$out"; sleep 0.5; tail -c +5001 "{built}" >> "$out"'
    environment = {**os.environ, "CXX": str(stand_in(tmp_path / "slow", slow)), "PYTHONPATH": str(ROOT)}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    look = "from glorot_jax.kernels import native; print(native.why_not(), native.library().seconds > 0.4)"
    both = [subprocess.Popen([sys.executable, "-c", look], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.communicate(timeout=60)[0].decode().strip() for p in both] == ["None True"] * 2
    folder = tmp_path / "cache" / "glorot_jax" / "native"
    assert [p.read_bytes() for p in folder.iterdir()] == [built.read_bytes()]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
