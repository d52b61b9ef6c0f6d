"""Two processes as one program have the bits of one process with two devices, whatever befalls one of them.

There all runs train at once, here some wait; a search drops the same.
"""

from __future__ import annotations

import importlib.util
import shlex
import signal
from pathlib import Path

import jax
import pytest

from glorot_jax import load_sweep, run
from glorot_jax.drill import multihost, processes
from glorot_jax.drill.twin import differences, look
from glorot_jax.engine import devices
from glorot_jax.errors import InputError

ROOT = Path(__file__).parents[2]
SWEEP = """
from glorot_jax import Sweep, at, digits, grid, mlp, sgd, successive_halving

sweep = Sweep(
    name="two",
    data=digits(),
    model=mlp(widths=(12, 8), activation="relu"),
    optimizer=sgd(learning_rate=grid(0.02, 0.1, 1e18)),
    seeds=range(3),
    steps=20_000,
    record=at(100, 5_000, 15_000),
    probes="light",
    search=successive_halving(at=5_000, factor=2, by="train_loss"),
)
"""


@pytest.fixture(scope="module")
def launcher():
    spec = importlib.util.spec_from_file_location("launch_multihost", ROOT / "launch" / "multihost.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[str, ...]:
    """What the accidents befall, in the arguments of ``glorot run``; quicker to compile than the drill's own."""
    path = tmp_path_factory.mktemp("sweep") / "two.py"
    path.write_text(SWEEP)
    return (str(path), "--width", "2", "--at-once", "6", "--segment-seconds", "0.3")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, sweep) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "local", lambda: jax.local_devices()[:2])
        return run(load_sweep(sweep[0]), tmp_path_factory.mktemp("one") / "two", width=2)


@pytest.mark.engines
@pytest.mark.parametrize("kind", ["SIGKILL of one", "SIGTERM to one"])
def test_two_processes_have_the_bits_of_one_with_two_devices_through(kind, one_process, sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(multihost, "ARGUMENTS", sweep)
    monkeypatch.setattr(processes, "ARGUMENTS", sweep)
    (accident,) = [one for one in multihost.cases(tmp_path) if one.name == kind]
    assert "process 1" in accident.do(tmp_path / "two").said
    assert differences(tmp_path / "two", look(one_process)) == []


def test_what_would_be_started_is_shown(launcher, capsys):
    assert launcher.main(["quickstart", "--out", "x", "--local", "2", "--dry-run", "--set", "steps=3"]) == 0
    first, second = map(shlex.split, capsys.readouterr().out.splitlines())
    assert first[1:3] == ["-m", "glorot_jax.launching.hosts"]
    assert first[3].startswith("--coordinator")
    assert first[4].startswith("127.0.0.1:")
    assert [first[8], second[8]] == ["0", "1"]
    assert second[-6:] == ["run", "quickstart", "--out", "x", "--set", "steps=3"]


def test_what_is_not_said_jax_finds_by_itself(launcher, capsys):
    assert launcher.main(["quickstart", "--out", "x", "--dry-run"]) == 0
    assert "--coordinator" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--coordinator", "a:1"], "give all three, or none"),
        (["--coordinator", "a:1", "--processes", "2", "--process-id", "2"], "--process-id: 2 is not from 0 to 1"),
        (["--local", "2", "--processes", "2"], "--local: it can't stand beside"),
        (["--local", "0"], "--local: 0 is not an integer ≥ 1"),
        (["--local", "two"], "--local: invalid int value: 'two'"),
        (["--local", "1", "--heartbeat", "0"], "--heartbeat: 0 is not an integer ≥ 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(launcher, arguments, said):
    with pytest.raises(InputError) as refused:
        launcher.main(["quickstart", "--out", "x", *arguments])
    assert said in str(refused.value)


def test_a_program_that_died_is_started_again_as_often_as_asked_and_no_oftener(launcher, monkeypatch, capfd):
    monkeypatch.setattr(launcher, "PAUSE", 0)
    monkeypatch.setattr(launcher, "_commands", lambda own, arguments: [["/bin/false"], ["/bin/true"]])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert launcher.main(["quickstart", "--out", "x", "--local", "2", "--restarts", "2"]) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capfd.readouterr().err
    assert [line for line in said.splitlines() if "again" in line] == [f"starting again ({i} of 2)" for i in (1, 2)]
    assert said.endswith("a process of the program died; what was committed is whole, the same command goes on\n")
