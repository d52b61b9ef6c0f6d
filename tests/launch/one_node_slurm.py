"""A real Slurm of one node on loopback, without accounting: ``python one_node_slurm.py COMMAND...`` runs COMMAND on it.

Three daemons with a configuration, a key and ports of their own in a temporary folder; nothing of an installed
cluster is read or touched. They end with the command. Two partitions: ``low``, which is used if none is said and whose
jobs are preempted, requeued after ``GRACE`` seconds, by those of ``high``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
GRACE = 120
"""Seconds that a preempted task has; those that save and requeue themselves need few of them."""
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def why_not() -> str | None:
    """Why it can't be started here, None if it can."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    missing = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=PATH) is None]
    return f"{missing[0]} is not installed (Debian: slurm-wlm, munge)" if missing else None


@contextlib.contextmanager
def one_node(cpus: int = 2, settings: str = "") -> Iterator[dict[str, str]]:
    """Runs the cluster; gives the environment in which Slurm's commands find it.

    Args:
        cpus: that the node claims to have.
        settings: lines added to slurm.conf.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, contextlib.ExitStack() as running:
        home = Path(folder)
        home.chmod(0o755)
        key = home / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        conf = home / "slurm.conf"
        conf.write_text(_configuration(home, cpus, settings))
        environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(conf)}
        munge = [f"--{name}={home / f'munge.{name}'}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        _start(running, home, "munged", "--foreground", "--force", f"--key-file={key}", *munge, environment=environment)
        _until("munged listens", home, (home / "munge.socket").exists)
        _start(running, home, "slurmctld", "-D", "-f", str(conf), environment=environment)
        _start(running, home, "slurmd", "-D", "-f", str(conf), environment=environment)
        _until(
            "the node is idle",
            home,
            lambda: set(_asked("sinfo", "-h", "-o", "%T", environment=environment)) == {"idle"},
        )
        try:
            yield environment
        finally:
            if jobs := _asked("squeue", "-h", "-o", "%A", environment=environment):
                _asked("scancel", "--signal=KILL", "--full", *jobs, environment=environment)
                _until("no job is left", home, lambda: not _asked("squeue", "-h", environment=environment))


def _asked(*command: str, environment: dict[str, str]) -> list[str]:
    """The words that one of Slurm's commands prints."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout.split()


def _configuration(home: Path, cpus: int, settings: str) -> str:
    host = socket.gethostname().partition(".")[0]
    controller, node = _free_ports(2)
    megabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
# A requeued task waits until the credentials of its run before are void: 120 s if not said, 5 s at least.
AuthInfo=socket={home}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MaxArraySize=1001
{settings}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={GRACE} MaxTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


def _start(running: contextlib.ExitStack, home: Path, name: str, *arguments: str, environment: dict[str, str]) -> None:
    """Starts a daemon, which ends, by its id, with what is running."""
    program = shutil.which(name, path=PATH)
    assert program is not None
    with (home / f"{name}.out").open("wb") as said:
        daemon = subprocess.Popen(
            [program, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    running.callback(_end, daemon)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _until(what: str, home: Path, reached, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(home.glob("*.[lo][ou][gt]"))
            )
            raise RuntimeError(f"not within {seconds:g} s: {what}\n{logs}")
        time.sleep(0.1)


def main(command: Sequence[str]) -> int:
    """Runs a command on a cluster of its own and returns its exit code."""
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return 2
    with one_node() as environment:
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
