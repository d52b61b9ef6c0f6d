"""Programs are counted with the seconds they took and where they came from; what is not known is judged by size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.compilation_cache import compilation_cache

from glorot_jax.engine import compiling
from glorot_jax.engine.compiling import Compilation


def lowered(factor: float) -> jax.stages.Lowered:
    def grown(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, v: jnp.sin(v @ v) * factor, x)

    return jax.jit(grown).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32))


def test_a_program_that_the_cache_has_is_told_from_one_that_it_has_not(tmp_path):
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", _LEAST)}
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update(_LEAST, 0.0)
    jax.clear_caches()
    compilation_cache.reset_cache()
    notes: list[Compilation] = []
    try:
        for name in ("first", "second"):
            compiling.noted(name, lambda: compiling.compiled(lowered(0.37), "cpu"), notes)
            jax.clear_caches()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert [(note.program, note.cached) for note in notes] == [("first", False), ("second", True)]
    assert all(note.seconds > 0 for note in notes)
    assert notes[0].operations == notes[1].operations > 5


_LEAST = "jax_persistent_cache_min_compile_time_secs"


def test_a_program_that_two_devices_load_counts_once():
    notes = [
        Compilation("train", 5.0, False, 10),
        Compilation("train", 0.5, True, 10),
        Compilation("initialize", 0.25, True, 4),
    ]
    made = compiling.summary(notes)
    assert (made["programs"], made["from_cache"], made["seconds"]) == (2, 1, 5.75)
    assert made["each"][0] == {"program": "train", "seconds": 5.0, "cached": False}
    assert compiling.said(made) == "2 programs ready in 5.75 s, 1 from the cache"
    assert compiling.said(compiling.summary(notes[:1])) == "1 program ready in 5 s, none from the cache"
    assert compiling.said(compiling.summary(notes[2:])) == "1 program ready in 0.25 s, all from the cache"


def test_what_compiling_took_is_kept_but_not_what_loading_took(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiling.remembered("cohort") is None
    compiling.remember("cohort", Compilation("train", 0.5, True, 100))
    assert compiling.remembered("cohort") is None
    compiling.remember("cohort", Compilation("train", 7.0, False, 100))
    compiling.remember("cohort", Compilation("train", 0.5, True, 100))
    assert compiling.remembered("cohort") == 7.0
    assert compiling.expected(200) == pytest.approx(14.0)


def test_where_nothing_was_compiled_the_usual_rate_holds(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiling.expected(5000) == pytest.approx(5000 * compiling.SECONDS_PER_OPERATION)


@settings(deadline=None)
@given(
    st.floats(0.01, 5),
    st.floats(1e-4, 1e-2),
    st.lists(st.integers(100, 10**5), min_size=3, max_size=8, unique=True),
    st.integers(100, 10**5),
)
def test_seconds_that_lie_on_a_line_are_foretold(offset, slope, known, asked):
    line = compiling.line([(n, offset + slope * n) for n in known])
    assert line(asked) == pytest.approx(offset + slope * asked, rel=1e-3)


# ---- options


CUDA = "PJRT C API\ncuda 12090"


def on_gpu(text: str = "", version: str = CUDA, flags: str = "") -> dict:
    return compiling.options("gpu", text, version, flags)


@pytest.mark.parametrize("name", [*on_gpu(), "xla_gpu_no_such_option"])
def test_xla_knows_every_option_of_a_gpus_programs_and_takes_its_value(name):
    """XLA checks names and values whatever it compiles for."""
    options = {name: on_gpu().get(name, True)}
    if name in on_gpu():
        lowered(0.4).compile(compiler_options=options)
    else:
        with pytest.raises(jax.errors.JaxRuntimeError, match=name):
            lowered(0.4).compile(compiler_options=options)


def test_a_gpus_programs_are_graphs_whose_bits_depend_on_nothing_else():
    made = on_gpu()
    assert made["xla_gpu_autotune_level"] == 0
    assert made["xla_gpu_exclude_nondeterministic_ops"]
    assert made["xla_gpu_graph_min_graph_size"] == 1
    assert {"CUSTOM_CALL", "CONDITIONAL", "WHILE"} <= set(made["xla_gpu_enable_command_buffer"].split(","))
    for version in ("PJRT C API\ncuda 12080", "rocm 60000", ""):
        assert "WHILE" not in on_gpu(version=version)["xla_gpu_enable_command_buffer"]
    assert not on_gpu("stablehlo.select_and_scatter")["xla_gpu_exclude_nondeterministic_ops"]


def test_what_a_person_has_set_stays_and_no_other_platform_gets_a_gpus_options():
    flags = "--xla_gpu_autotune_level=4 --xla_gpu_enable_command_buffer="
    assert on_gpu(flags=flags).keys() == {"xla_gpu_exclude_nondeterministic_ops", "xla_gpu_graph_min_graph_size"}
    assert not [name for name in compiling.options("cpu", "", CUDA) if "gpu" in name]
    assert compiling.options("tpu", "") is None
