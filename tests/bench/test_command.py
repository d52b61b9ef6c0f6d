"""``glorot bench`` at sizes of seconds: what it returns, prints, writes and draws."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from glorot_jax import cli
from glorot_jax.bench import command, memory, others, sections
from glorot_jax.bench.engine import Size
from glorot_jax.bench.report import markdown
from glorot_jax.bench.sections import Settings
from glorot_jax.engine import devices
from glorot_jax.engine.planning import peaks
from glorot_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TINY = Settings(
    rounds=2,
    turn=0.002,
    sizes=(Size(16, 8, 4),),
    scaling=(Size(16, 8, 4),),
    recorded=("weights",),
    presets=("weights",),
)
MEMORY = {"predicted": 4_000_000, "measured": 4_200_000}


@pytest.fixture(scope="module", autouse=True)
def small_machine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "SIDE", {"cpu": 64})
        patch.setattr(peaks, "COPIED", {"cpu": 2**16})
        yield


@pytest.fixture(scope="module")
def result(compiled_quickly, small_machine) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "of", lambda size: MEMORY)  # a process of its own: see below
        patch.setattr(devices, "cores", lambda: 1)  # threads that wait for each other wait long beside other tests
        return command.bench(("sizes", "scaling", "probes", "checkpoint"), clock="process", settings=TINY)


def test_the_result_is_json_with_every_round_s_number(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == _listed(result)
    assert result["format"] == 1
    about = result["machine"]
    assert {"versions", "devices", "platform", "processor", "cores", "flags", "flops", "bandwidth"} <= about.keys()
    assert result["settings"]["clock"] == "process"
    for name, rows in result["sections"].items():
        assert rows, name
        for row in rows:
            for times in row["seconds"].values():
                assert len(times) == TINY.rounds
                assert all(seconds > 0 for seconds in times)
    (size,) = result["sections"]["sizes"]
    for engine, recorded in zip(size["seconds"]["engine"], size["seconds"]["recorded"], strict=True):
        assert engine < recorded < 2 * engine  # 11 records in 20 000 steps
    assert size["bounds"]["arithmetic"] == pytest.approx(Size(16, 8, 4).flops / about["flops"])
    assert size["bounds"]["bandwidth"] == pytest.approx(Size(16, 8, 4).moved / about["bandwidth"])
    assert [row["runs"] for row in result["sections"]["scaling"]] == [4]


def _listed(value):
    """With lists for tuples, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _listed(one) for key, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def test_ratios_in_markdown_are_the_medians_of_the_rounds_ratios(result):
    text = markdown(result)
    (size,) = result["sections"]["sizes"]
    seconds = size["seconds"]
    told = {
        name: [
            statistics.median(a / b for a, b in zip(seconds[name], seconds[engine], strict=True))
            for engine in ("engine", "recorded")
        ]
        for name in seconds
        if name in others.TORCH or name == "sequential"
    }
    line = next(line for line in text.splitlines() if line.count("×") > 1 and " / " in line)
    pairs = re.findall(r"([\d.]+) / ([\d.]+) ×", line)
    assert [(float(a), float(b)) for a, b in pairs] == [
        tuple(float(f"{value:.2f}") for value in pair) for pair in told.values()
    ]
    assert f" {statistics.median(seconds['engine']) * 1e6:.3g} |" in text
    assert "+5%" in text  # of memory


def test_tables_read_well_at_a_hundred_columns(result):
    for line in markdown(result).splitlines():
        if line.startswith("|"):
            assert len(line) <= 100 + 15  # wide numbers of tiny networks


def test_without_torch_a_note_stands_in_its_place(monkeypatch):
    monkeypatch.setattr(others, "torch_version", lambda: None)
    monkeypatch.setattr(others, "torch_contestants", lambda *_: pytest.fail("PyTorch is used"))
    found = command.bench(("scaling",), settings=Settings(rounds=1, turn=0.001, scaling=(Size(16, 8, 4),)))
    (row,) = found["sections"]["scaling"]
    assert row["seconds"].keys() == {"engine", "sequential"}
    assert "pip install 'glorot-jax[bench]'" in markdown(found)


def test_files_hold_what_was_measured_and_drawn(result, tmp_path):
    written, notes = command.write_files(
        result, out=tmp_path / "out", to_json=tmp_path / "b.json", to_figure=tmp_path / "b.pdf"
    )
    assert notes == []
    assert {path.name for path in written} == {"b.json", "b.pdf", "bench.json", "bench.md", "scaling.png"}
    assert command.read(tmp_path / "b.json") == _listed(result)
    assert (tmp_path / "out" / "bench.md").read_text(encoding="utf-8") == markdown(result) + "\n"
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 10_000


def test_a_figure_without_its_section_or_library_says_so(result, tmp_path, monkeypatch):
    without = result | {"sections": {"sizes": result["sections"]["sizes"]}}
    with pytest.raises(InputError, match="without the section scaling"):
        command.write_files(without, out=None, to_json=None, to_figure=tmp_path / "b.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    _, notes = command.write_files(result, out=tmp_path, to_json=None, to_figure=None)
    assert "pip install 'glorot-jax[figures]'" in notes[0]
    assert (tmp_path / "bench.json").exists()


def test_the_command_prints_markdown_and_tells_its_progress_apart(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sections, "QUICK", Settings(rounds=1, turn=0.001, sizes=(Size(16, 8, 4),)))
    assert cli.main(["bench", "--only", "checkpoint", "--quick", "--json", str(tmp_path / "b.json")]) == 0
    said = capsys.readouterr()
    assert "| 16-8×5-10, 4" in said.out
    assert "checkpoint: 16-8×5-10" in said.err
    assert list(json.loads((tmp_path / "b.json").read_text())["sections"]) == ["checkpoint"]


def test_wrong_names_are_refused_with_the_nearest(capsys):
    assert cli.main(["bench", "--only", "sises"]) == 2
    assert "'sizes'?" in capsys.readouterr().err
    assert cli.main(["bench", "--json", "/nowhere/at/all.json"]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process holds")
def test_measured_memory_is_near_what_is_planned(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    found = memory.of(Size(784, 128, 4))
    assert found is not None
    assert 0.8 < found["measured"] / found["predicted"] < 1.2
