"""The ``data`` verbs: list, prepare, show, check; results on standard output, talk on standard error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from glorot_jax.cli import main
from glorot_jax.data.progress import Bar
from tests.data import made_up


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Made-up sets stand in for the real ones; the working folder is empty."""
    with made_up.installed(tmp_path):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield tmp_path


@pytest.fixture
def prepared(home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["data", "prepare", "mnist", "--from", str(made_up.folder("mnist", home / "files"))]) == 0
    capsys.readouterr()
    return home / "data" / "mnist" / "3.0.1"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["data", *arguments]) == 2
    out, err = capsys.readouterr()
    said = err[err.index("error: ") :].splitlines()
    assert out == ""
    assert len(said) <= 2
    return "\n".join(said).removeprefix("error: ")


def test_prepare_prints_the_folder_and_tells_what_it_does(home, capsys):
    files = made_up.folder("mnist", home / "files")
    assert main(["data", "prepare", "mnist", "--from", str(files), "--data-dir", str(home / "mine")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{home / 'mine' / 'mnist' / '3.0.1'}\n"
    assert err.splitlines() == [f"mnist: {t}" for t in ("reading files", "writing", "decoding train", "decoding test")]
    assert main(["data", "prepare", "mnist", "--data-dir", str(home / "mine"), "--no-progress"]) == 0
    assert capsys.readouterr().err == "mnist: already prepared\n"


def test_list_says_what_is_ready(home, prepared, capsys):
    assert main(["data", "list", "--format", "json"]) == 0
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {
        "shapeset": "drawn",
        "mnist": "ready",
        "fashion_mnist": "not prepared",
        "cifar10": "not prepared",
        "digits": "ready",
        "small_imagenet": "not prepared",
    }
    prepared.parent.rename(home / "data" / "kmnist")
    (home / "data" / "fashion_mnist" / "3.0.1").mkdir(parents=True)
    assert main(["data", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "not prepared" in lines["mnist"]
    assert "unreadable" in lines["fashion_mnist"]
    assert "ready" in lines["kmnist"], "sets of others are listed where they are prepared"


def test_check_counts_and_compares(home, prepared, capsys):
    assert main(["data", "check", "mnist", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["checksums"], found["shape"]) == ("as published", [28, 28, 1])
    assert sum(found["splits"]["train"]["per_class"]) == found["splits"]["train"]["examples"] == 60
    assert main(["data", "check", "digits"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("digits: 8×8×1, 10 classes")
    assert "1,497 examples" in said


def test_check_reads_the_disk_although_the_cache_is_whole(home, prepared, capsys):
    for path in prepared.glob("*test.array_record*"):
        content, times = bytearray(path.read_bytes()), path.stat()
        for at in range(len(content) // 2, len(content) // 2 + 4000):
            content[at] ^= 0xFF
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert str(prepared) in refused(capsys, "check", "mnist")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "digits"])
def test_show_writes_a_page_of_real_examples(home, capsys, name):
    if name != "digits":
        main(["data", "prepare", name, "--from", str(made_up.folder(name, home / "more"))])
        capsys.readouterr()
    assert main(["data", "show", name, "--count", "12"]) == 0
    assert capsys.readouterr().out == f"{name}.png\n"
    with Image.open(f"{name}.png") as page:
        assert page.format == "PNG"
        assert len(set(page.convert("L").tobytes())) > 2


def test_the_same_seed_shows_the_same_page(home, capsys):
    for seed, file in (("3", "a.png"), ("3", "b.png"), ("4", "c.png")):
        assert main(["data", "show", "digits", "--count", "5", "--seed", seed, "--output", file]) == 0
    one, same, other = (Path(f"{n}.png").read_bytes() for n in "abc")
    assert one == same != other


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["prepare", "mnst"], "name: 'mnst' is not known\n  hint: 'mnist'? known: "),
        (["prepare", "mnist", "--from", "nowhere"], "from: nowhere: no such file or folder"),
        (["check", "mnist"], "data: mnist is not prepared in "),
        (["check", "mnsit"], "name: 'mnsit' is not known\n  hint: 'mnist'? known: "),
        (["check", "shapeset"], "name: shapeset is drawn anew for every step"),
        (["show", "cifar10"], "data: cifar10 is not prepared in "),
        (["show", "digits", "--output", "no/x.png"], "output: 'no/x.png' can't be written"),
        (["list", "--format", "jsn"], "format: 'jsn' is not known"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_touched(home, capsys, arguments, line):
    assert refused(capsys, *arguments).startswith(line)
    assert list(Path().iterdir()) == []
    assert not (home / "data").exists()


def test_a_sweep_on_data_that_are_not_prepared_touches_nothing(home, capsys):
    assert main(["run", "quickstart", "--set", "data=mnist()", "--no-progress"]) == 2
    assert "error: data: mnist is not prepared in " in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_nothing_to_prepare_is_said(home, capsys):
    assert main(["data", "prepare", "digits"]) == 0
    assert capsys.readouterr().err == "digits: nothing to prepare\n"


def test_listing_is_quick_and_imports_neither_jax_nor_tfds(home):
    script = (
        "import sys\n"
        "from glorot_jax.cli import main\n"
        "code = main(['data', 'list'])\n"
        "print(code, sorted({'jax', 'tensorflow_datasets', 'pandas'} & set(sys.modules)), file=sys.stderr)\n"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "0 []"
    assert time.perf_counter() - begin < 5


# ---- progress


class Stream:
    def __init__(self, terminal: bool):
        self.text, self._terminal = "", terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_in_a_pipe_is_a_plain_line_for_each_piece_of_work(monkeypatch):
    now = iter([0.0, 1.0, 61.0, 62.0, 63.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Stream(terminal=False)
    bar = Bar("mnist", stream)
    for text, done in (("writing", 1), ("writing", 2), ("writing", 50), ("writing", 51), ("decoding", 0)):
        bar(text, done, 100)
    bar.close()
    assert stream.text == "mnist: writing\nmnist: writing  50 %\nmnist: decoding\n"


def test_progress_in_a_terminal_is_one_line_that_goes_away(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream(terminal=True)
    bar = Bar("mnist", stream)
    bar("writing", 1, 100)
    bar("writing", 100, 100)
    bar.close()
    assert stream.text == "\r\x1b[2Kmnist: writing   1 %\r\x1b[2Kmnist: writing 100 %\r\x1b[2K"
