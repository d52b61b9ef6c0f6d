"""The command: exit codes, one line for what is wrong, and stops after which the same command goes on."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from glorot_jax import activations, config, doctor, initializers, load, load_sweep, losses, specs
from glorot_jax.analysis import status
from glorot_jax.cli import main
from glorot_jax.engine import drive, watching
from tests.cli.disk import small_disk
from tests.engine.small import assert_same_bits, parameters, records

TINY = """
from glorot_jax import Sweep, every, grid, mlp, sgd, shapeset

sweep = Sweep(
    name="tiny",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=(6,), activation=grid("tanh", "relu")),
    optimizer=sgd(learning_rate=0.05),
    seeds=range(2),
    steps=24,
    record=every(1),
    probes=("evaluation",),
)
"""
WIDTH = ("--width", "2")


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> tuple[Path, str, str]:
    """The tiny sweep, trained by the command: its folder, and what stood on standard output and error."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.py").write_text(TINY)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(["run", str(folder / "tiny.py"), "--out", str(folder / "tiny"), *WIDTH]) == 0
    return folder / "tiny", out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def trained(printed) -> Path:
    return printed[0]


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "tiny")


@pytest.fixture
def sweep_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Runs a command that has to end with exit code 2 and one line, and returns the line with its hint."""

    def call(*arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        said = err[err.index("error: ") :]
        lines = said.splitlines()
        assert len(lines) <= 2, err
        assert all(line.startswith("  hint: ") for line in lines[1:])
        assert "Traceback" not in err
        return said.removeprefix("error: ").rstrip("\n")

    return call


# ---- bad input: exit code 2, one line, and nothing is touched


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["rum"], "'rum' is not a command\n  hint: 'run'? known: baseline, bench, claims"),
        (["data", "shwo"], "'shwo' is not a command\n  hint: 'show'? known: check, list, prepare, show"),
        (["run", "quickstart", "--freh"], "No such option '--freh'. (Did you mean one of: '--fresh', '--fuse'?)"),
        (
            ["table", ".", "--format", "latx"],
            "format: 'latx' is not known\n  hint: 'latex'? known: csv, html, json",
        ),
        (["status", ".", "--format", "jsn"], "format: 'jsn' is not known\n  hint: 'json'?"),
        (["list"], "Missing argument 'KIND'. Known: activations, datasets, engines"),
        (["list", "activation"], "kind: 'activation' is not known\n  hint: 'activations'? known:"),
        (["completion", "bsh"], "shell: 'bsh' is not known\n  hint: 'bash'?"),
        (["data", "show", "shapset"], "name: 'shapset' is not known\n  hint: 'shapeset'?"),
        (["run", "quickstrat"], "sweep: 'quickstrat' is not known\n  hint: 'quickstart'?"),
        (["run", "nowhere.py"], "sweep: nowhere.py: no such file"),
        (["run"], "Missing argument 'SWEEP'."),
        (["run", "quickstart", "--set", "steps"], "--set steps: it has no value"),
        (["run", "quickstart", "--set", "steps=-1"], "steps: -1 is not an integer ≥ 0"),
        (["run", "quickstart", "--set", "stps=5"], "stps: 'stps' is not known\n  hint: 'steps'?"),
        (
            ["run", "quickstart", "--set", "model.activation=tahn"],
            "model.activation: 'tahn' is not known\n  hint: 'tanh'?",
        ),
        (["plan", "quickstart", "--set", "optimizer.learning_rate=0"], "optimizer.learning_rate: 0.0 is not a finite"),
        (["run", "quickstart", "--width", "0"], "width: 0 is not an integer ≥ 1"),
        (["run", "quickstart", "--at-once", "0"], "at_once: 0 is not an integer ≥ 1"),
        (["run", "quickstart", "--set", "search=halving"], "search: 'halving' is not successive_halving(…) | dropp"),
        (["run", "quickstart", "--set", "search=successive_halving(at=7)"], "search: nothing is recorded at step 7"),
        (["run", "quickstart", "--width", "two"], "Invalid value for '--width': 'two' is not a valid integer."),
        (["run", "quickstart", "--segment-seconds", "0"], "segment_seconds: 0.0 is not a finite number > 0"),
        (["plan", "quickstart", "--quick", "--calibrate"], "quick: it compiles nothing, and so calibrates nothing"),
        (["bench", "--figure", "scaling.bmp"], "figure: 'bmp' is not known"),
        (["data", "show", "shapeset", "--count", "0"], "Invalid value for '--count'"),
        (["data", "show", "shapeset", "--output", "x.jpg"], "output: 'x.jpg' does not end in .png"),
        (["data", "show", "shapeset", "--output", "no/x.png"], "output: 'no/x.png' can't be written"),
    ],
)
def test_wrong_words_are_named_with_the_nearest_and_nothing_is_touched(refused, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert refused(*arguments).startswith(line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "quickstart", "--out", "{}"],
        ["paper", "--out", "{}/paper"],
        ["bench", "--out", "{}"],
        ["drill", "--out", "{}"],
        ["figures", ".", "--out", "{}"],
        *([verb, "{}"] for verb in ("resume", "status", "table", "compare", "figures", "claims", "theory")),
        ["status", "{}/results"],
    ],
)
def test_a_file_is_no_folder(refused, tmp_path, arguments):
    (tmp_path / "notes").write_text("kept")
    assert refused(*(a.format(tmp_path / "notes") for a in arguments)).endswith(f"{tmp_path}/notes is a file")
    assert (tmp_path / "notes").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_a_group_alone_is_its_help_with_every_sentence_whole(arguments, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("Usage: glorot")
    assert "..." not in said.replace("[ARGS]...", "")
    assert main([*arguments, "--help"]) == 0
    assert capsys.readouterr().out == said


def test_the_machine_s_own_words_are_one_line_and_exit_code_1(monkeypatch, capsys):
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/there")

    monkeypatch.setattr(status, "render_status", fails)
    assert main(["status", "."]) == 1
    assert capsys.readouterr().err == "error: /there: Permission denied\n"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("steps=24", "steps=-3", "Sweep.steps: -3 is not an integer ≥ 0"),
        ('grid("tanh", "relu")', "grid()", "grid: () is empty"),
        ('"tanh", "relu"', '"tanh", "rleu"', "mlp.activation: 'rleu' is not known\n  hint: 'relu'?"),
        ("0.05", "nope", "tiny.py:8: NameError: name 'nope' is not defined"),
        ("sweep = Sweep(", "sweep = (", "tiny.py:"),
        ("sweep = ", "swept = ", "tiny.py: it defines no `sweep`"),
        ("range(2)", "()", "sweep.seeds: () is empty"),
    ],
)
def test_a_wrong_sweep_file_is_one_line(refused, sweep_file, old, new, line):
    assert old in TINY
    sweep_file.write_text(TINY.replace(old, new))
    said = refused("run", "tiny.py", "--no-progress")
    assert said.startswith(line), said
    assert not Path("results").exists()


def test_a_folder_of_another_sweep_is_refused_and_left_as_it_was(refused, sweep_file, copy):
    before = sorted((p, p.stat().st_mtime_ns) for p in copy.rglob("*"))
    sweep_file.write_text(TINY.replace('"tiny"', '"other"'))
    assert "holds the sweep 'tiny', not 'other'" in refused("run", "tiny.py", "--out", copy)
    assert sorted((p, p.stat().st_mtime_ns) for p in copy.rglob("*")) == before


def test_a_folder_of_something_else_is_refused(refused, sweep_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "mine holds something else" in refused("run", "tiny.py", "--out", "mine")
    assert "is a file" in refused("run", "tiny.py", "--out", "tiny.py")


@pytest.mark.parametrize("verb", ["status", "resume", "table"])
def test_a_folder_without_a_sweep_is_said(refused, tmp_path, verb):
    said = refused(verb, tmp_path / "nowhere")
    assert said.startswith(f"{tmp_path / 'nowhere'}: ")
    assert "sweep.json" in said


@pytest.mark.parametrize("verb", ["status", "resume", "table", "run"])
def test_a_damaged_manifest_is_said(refused, sweep_file, copy, verb):
    (manifest,) = copy.glob("shards/*/manifest.json")
    manifest.write_text(manifest.read_text()[:100])
    arguments = ["tiny.py", "--out", copy] if verb == "run" else [copy]
    assert "manifest.json: damaged, it is not JSON\n  hint: move the shard's folder away" in refused(verb, *arguments)


def test_a_damaged_description_is_said(refused, copy):
    (copy / "sweep.json").write_text("{")
    for verb in ("status", "resume", "table"):
        assert "sweep.json: damaged" in refused(verb, copy)


def test_the_whole_trace_comes_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("GLOROT_FULL_ERROR", "1")
    assert main(["run", "quickstrat"]) == 2
    assert "Traceback" in capsys.readouterr().err


# ---- run, resume


def test_run_prints_the_table_on_standard_output_and_talks_on_standard_error(printed, capsys):
    folder, out, err = printed
    assert main(["table", str(folder)]) == 0
    assert out == capsys.readouterr().out
    assert err.splitlines()[0] == "tiny: starting JAX"
    assert "4 runs · step 24/24 · 100%" in err
    assert err.splitlines()[-1] == f"results: {folder}"
    assert "\r" not in err


def test_a_finished_sweep_says_nothing_to_do(trained, capsys):
    before = sorted((p, p.stat().st_mtime_ns) for p in trained.rglob("rec-*"))
    assert main(["run", str(trained.parent / "tiny.py"), "--out", str(trained)]) == 0
    assert "tiny: nothing to do, 4 runs are done" in capsys.readouterr().err
    assert main(["resume", str(trained)]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime_ns) for p in trained.rglob("rec-*")) == before


def stopped(out: Path, *settings: str) -> None:
    """Leaves a folder with one commit, at step 0."""

    class Stop(watching.Silent):
        def advance(self, news):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive.run(load_sweep("tiny.py").with_settings(settings), out, width=2, progress=Stop())


def test_resume_goes_on_as_the_folder_says_with_what_was_set_by_hand(sweep_file, trained, tmp_path, capsys):
    stopped(tmp_path / "half", "seeds=1")
    assert main(["status", str(tmp_path / "half")]) == 0
    assert f"go on with: glorot resume {tmp_path / 'half'}" in capsys.readouterr().out
    sweep_file.unlink()
    assert main(["resume", str(tmp_path / "half"), "--no-progress"]) == 0
    assert load(tmp_path / "half").runs[["seed", "step"]].to_numpy().tolist() == [[1, 24]] * 2
    assert_same_bits(parameters(tmp_path / "half"), parameters(trained))
    assert_same_bits(records(tmp_path / "half"), records(trained))


def test_fresh_moves_the_old_folder_aside_and_deletes_nothing(sweep_file, copy):
    old = {p.relative_to(copy): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert main(["run", "tiny.py", "--out", str(copy), "--fresh", "--no-progress", *WIDTH]) == 0
    (aside,) = copy.parent.glob("tiny.before-*")
    assert {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()} == old
    assert_same_bits(parameters(copy), parameters(aside))


def test_a_sweep_without_evaluation_ends_well(sweep_file, capsys):
    """It has no test error for the table that a run ends with: its status is printed in place of it."""
    assert main(["run", "tiny.py", "--set", "probes=activations,", "--set", "record=at()", "--set", "steps=2"]) == 0
    assert capsys.readouterr().out.startswith("tiny: done · 4 done")


# ---- plan, status, table, list, data


def test_plan_says_what_would_be_trained_and_keeps_nothing(sweep_file, capsys):
    assert main(["plan", "tiny.py", "--set", "seeds=range(3)"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny: 6 runs · 1 program · 24 steps · about ")
    assert "453 parameters a run" in said  # (64 + 1) × 6 + (6 + 1) × 9
    assert "25 records" in said
    assert "probes take " in said
    assert main(["plan", "tiny.py", "--format", "json", "--width", "2", "--quick"]) == 0
    (cohort,) = json.loads(capsys.readouterr().out)["cohorts"]
    assert (cohort["runs"], cohort["width"], cohort["parameters_per_run"]) == (4, 2, 453)
    assert not Path("results").exists()


def test_status_and_table_print_every_format(trained, capsys, tmp_path):
    for form in ("table", "json", "csv", "markdown"):
        assert main(["status", str(trained), "--format", form]) == 0
        assert capsys.readouterr().out.strip()
    for form in ("table", "json", "csv", "markdown", "latex", "html"):
        file = tmp_path / f"t.{form}"
        assert main(["table", str(trained), "--format", form]) == 0
        printed = capsys.readouterr().out
        assert main(["table", str(trained), "--format", form, "--output", str(file)]) == 0
        assert capsys.readouterr().out == ""
        assert file.read_text(encoding="utf-8") == printed


def test_results_are_found_by_their_name_alone(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "results" / "mine")
    for verb in ("status", "table", "compare"):
        codes, said = [], []
        for folder in ("mine", "results/mine"):
            codes.append(main([verb, folder]))
            said.append(capsys.readouterr().out)
        assert codes == [0, 0]
        assert said[0] == said[1] != ""


def test_table_takes_rows_columns_value_and_by(trained, capsys):
    wanted = ["--rows", "activation", "--value", "valid_loss", "--by", "valid_loss", "--format", "json"]
    assert main(["table", str(trained), *wanted]) == 0
    cells = {c["row"]: c["valid_loss"] for c in json.loads(capsys.readouterr().out)["cells"]}
    runs = load(trained).runs
    for activation in ("tanh", "relu"):
        mine = runs.loc[runs["model.activation"] == activation, "valid_loss"].astype(float)
        assert cells[activation] == pytest.approx(mine.mean(), rel=1e-6)


def test_parquet_is_written_to_a_file_and_not_to_a_screen(trained, refused, tmp_path):
    assert "'parquet' is not for a screen" in refused("table", trained, "--format", "parquet")
    assert "can't be written" in refused("table", trained, "--output", tmp_path / "no" / "t.csv")
    assert main(["table", str(trained), "--format", "parquet", "--output", str(tmp_path / "t.parquet")]) == 0
    assert (tmp_path / "t.parquet").read_bytes()[:4] == b"PAR1"


def known(kind: str) -> set[str]:
    """The names of a kind by another way than the command's."""
    modules = {"activations": activations, "initializers": initializers, "losses": losses}
    if kind in modules:
        return set(modules[kind].__all__)
    if kind in ("optimizers", "datasets"):
        family = {"optimizers": specs.Optimizer, "datasets": specs.Data}[kind]
        return {cls.__name__ for cls in family.__subclasses__() if cls.__module__ == specs.__name__}
    if kind == "probes":
        from glorot_jax import probes

        return set(probes.BUILT_IN)
    if kind == "engines":
        return {path.stem for path in (Path(__file__).parents[2] / "launch").glob("*.py")}
    return {"quickstart"}


@pytest.mark.parametrize(
    "kind", ["activations", "initializers", "losses", "optimizers", "datasets", "probes", "sweeps", "engines"]
)
def test_list_names_all_of_a_kind_with_a_line_each(kind, capsys):
    assert main(["list", kind, "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert known(kind) <= listed.keys()
    assert kind == "sweeps" or known(kind) == listed.keys()
    assert all(listed.values())
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(listed)
    if kind in ("activations", "initializers", "losses"):
        assert set(config.names_in(kind)) == listed.keys()


@pytest.mark.parametrize(("state", "code"), [("good", 0), ("warning", 0), ("wrong", 1)])
def test_doctor_says_what_it_finds_and_ends_with_1_where_no_sweep_would_run(state, code, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "report", lambda out: [doctor.Check("disk", state, f"of {out}", "another one")])
    assert main(["doctor", "--out", "there"]) == code
    assert capsys.readouterr().out.splitlines()[:2] == doctor.render(doctor.report("there")).splitlines()[:2]
    assert main(["doctor", "--format", "json"]) == code
    assert json.loads(capsys.readouterr().out)["checks"][0]["said"] == "of None"


def test_data_show_writes_a_page_of_examples(tmp_path, capsys):
    file = tmp_path / "x.png"
    assert main(["data", "show", "shapeset", "--count", "12", "--size", "16", "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    with Image.open(file) as page:
        assert page.format == "PNG"
        assert len(set(page.convert("L").tobytes())) > 2  # not blank


def test_version_and_completion(capsys):
    import glorot_jax

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"glorot {glorot_jax.__version__}\n"
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "_GLOROT_COMPLETE" in capsys.readouterr().out


# ---- processes of their own


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "activations"], ["list", "sweeps"]])
def test_help_and_lists_are_quick_and_import_no_jax(arguments):
    script = (
        "import sys, time\n"
        "begin = time.process_time()\n"
        "from glorot_jax.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "seconds = time.process_time() - begin\n"
        "print([code, seconds, sorted({'jax', 'pandas', 'xarray', 'rich'} & set(sys.modules))], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    code, seconds, heavy = ast.literal_eval(done.stderr.splitlines()[-1])
    assert (code, heavy) == (0, [])
    assert seconds < 1
    assert done.stdout


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "glorot_jax.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_commit(out: Path, more_than: int, process: subprocess.Popen[str]) -> None:
    """Returns once the manifest's generation is above a number."""
    deadline = time.monotonic() + 120
    while generation(out) <= more_than:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def generation(out: Path) -> int:
    found = list(out.glob("shards/*/manifest.json"))
    return json.loads(found[0].read_text())["generation"] if found else 0


def test_sigint_and_sigterm_save_and_the_same_command_goes_on(sweep_file, trained, tmp_path):
    """Stopped by the one, then by the other, then left alone: the bits are those of the run that was never stopped."""
    out = tmp_path / "out"
    arguments = ["run", "tiny.py", "--out", out, "--segment-seconds", "0.000001", *WIDTH]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(*arguments)
        wait_for_commit(out, generation(out) + 1, process)
        process.send_signal(number)
        table, said = process.communicate(timeout=60)
        assert process.returncode == code, said
        step = json.loads(next(out.glob("shards/*/manifest.json")).read_text())["step"]
        assert f"saved at step {step} of 24; the same command goes on" in said.splitlines()[-1]
        assert 0 < step < 24
        assert table == ""
        assert "Traceback" not in said
        assert (load(out).runs["step"] == step).all()
    assert main([str(a) for a in arguments]) == 0
    assert_same_bits(parameters(out), parameters(trained))
    assert_same_bits(records(out), records(trained))
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [e["code"] for e in events if e["event"] == "stop"] == [130, 143]


LONG = ("--set", "record=at()", "--set", "steps=1000000000")
"""Segments of ten seconds, once it is known what a step takes."""


def wait_for_event(out: Path, wanted: Callable[[dict], bool], process: subprocess.Popen[str]) -> None:
    """Returns once such a line stands among the events."""
    deadline, path = time.monotonic() + 120, out / "events.jsonl"
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if any(wanted(json.loads(line)) for line in lines if line.endswith("}")):
            return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_second_sigint_leaves_at_once_and_the_last_commit_is_whole(sweep_file, tmp_path):
    """The signals come in the middle of a segment of many seconds: one that follows one of a second."""
    out = tmp_path / "out"
    process = start("run", "tiny.py", "--out", out, *LONG)
    wait_for_event(out, lambda e: e["event"] == "commit" and e["seconds"] > 1, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None, "the first signal waits for the segment's end"
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begin < 2
    assert process.returncode == 130
    assert "left at once; what was committed is whole, the same command goes on" in said
    assert parameters(out)
    assert len(load(out).records()["step"]) == 1


def test_signals_while_a_stopped_process_leaves_change_nothing(sweep_file, tmp_path):
    """From the moment at which all is saved until there is no process any more, one a millisecond."""
    out = tmp_path / "out"
    process = start("run", "tiny.py", "--out", out, "--segment-seconds", "0.000001", *LONG, *WIDTH)
    wait_for_commit(out, 2, process)
    process.send_signal(signal.SIGINT)
    wait_for_event(out, lambda e: e["event"] == "stop", process)
    sent = 0
    while process.poll() is None:
        process.send_signal((signal.SIGINT, signal.SIGTERM)[sent % 2])
        sent += 1
        time.sleep(0.001)
    _, said = process.communicate(timeout=60)
    assert sent
    assert process.returncode == 130, said
    assert re.fullmatch(r"saved at step [0-9,]+ of 1,000,000,000; the same command goes on", said.splitlines()[-1])
    assert parameters(out)


@pytest.mark.parametrize("arguments", [["--help"], ["list", "activations"], ["table", "{trained}"]])
def test_a_closed_pipe_is_quiet_and_exits_141(trained, arguments):
    """As in `glorot table … | true`."""
    command = [a.format(trained=trained) for a in arguments]
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "glorot_jax.cli", *command], stdout=writes, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_pipe_in_process_leaves_the_streams_as_they_were(monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("glorot_jax.cli._entries", closed)
    monkeypatch.setattr("glorot_jax.cli._closed_pipe", lambda: 141)
    before = sys.stdout, sys.stderr
    assert main(["list", "activations"]) == 141
    assert (sys.stdout, sys.stderr) == before


def test_on_a_full_disk_it_exits_1_and_goes_on_when_there_is_room(sweep_file, trained, tmp_path):
    """Room for the first commits alone."""
    out = tmp_path / "disk" / "out"
    arguments = ["run", "tiny.py", "--out", out, "--segment-seconds", "0.000001", *WIDTH]
    with small_disk(tmp_path / "disk", "320k") as resize:
        process = start(*arguments)
        table, said = process.communicate(timeout=120)
        assert (process.returncode, table) == (1, ""), said
        assert said.splitlines()[-1].startswith("error: ")
        assert said.splitlines()[-1].endswith(": no space left on the disk; make room and run the same command")
        assert "Traceback" not in said
        assert 0 < generation(out) < 24
        assert load(out).runs["step"].iloc[0] < 24
        resize("20m")
        assert main([str(a) for a in arguments]) == 0
        assert_same_bits(parameters(out), parameters(trained))
        assert_same_bits(records(out), records(trained))
