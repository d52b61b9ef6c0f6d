"""The benchmark's result as Markdown: every number comes from the JSON, none is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glorot_jax.bench.turns import ratio

Result = Mapping[str, Any]
WAYS = {
    "sequential": "JAX, one run",
    "torch_batched": "PyTorch by hand",
    "torch_func": "torch.func",
    "torch_eager": "PyTorch eager",
}
"""What the engine is compared with, as headings."""


def markdown(result: Result) -> str:
    """Returns tables of 100 columns at most, with a sentence on what they show."""
    parts = [_head(result)]
    parts += [_SECTIONS[name](rows, result) for name, rows in result["sections"].items() if rows]
    parts += [f"Note: {note}" for note in result["notes"]]
    return "\n\n".join(parts)


def _head(result: Result) -> str:
    machine, settings = result["machine"], result["settings"]
    versions = machine["versions"]
    told = " · ".join(f"{name} {versions[name]}" for name in ("glorot_jax", "jax", "torch") if versions.get(name))
    where = machine["processor"] if machine["platform"] == "cpu" else ", ".join(sorted(set(machine["devices"])))
    by, copied = (max(machine[name], key=machine[name].get) for name in ("flops_by", "bandwidth_by"))
    lines = [
        f"{where} · {machine['cores']} cores · {told}",
        f"reached here: {machine['flops'] / 1e9:,.0f} GFLOP/s in float32 products ({by}), "
        f"{machine['bandwidth'] / 1e9:,.1f} GB/s read and written ({copied})",
        f"medians of {settings['rounds']} rounds in which all take turns of {settings['turn']:g} s, "
        f"{settings['clock']} clock; a ratio is the median of the rounds' own",
    ]
    return "\n".join(lines)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], after: str = "") -> str:
    """A Markdown table whose columns are aligned for reading as it stands; the first is text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join([first, *rest])} |"

    rule = "|".join([f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])])
    return "\n".join([f"{title}\n", line(columns), f"|{rule}|", *map(line, rows), *([f"\n{after}"] if after else [])])


def _micro(times: Sequence[float]) -> str:
    return _three(statistics.median(times) * 1e6)


def _milli(times: Sequence[float]) -> str:
    return _three(statistics.median(times) * 1e3)


def _three(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _share(bound: float, times: Sequence[float]) -> str:
    return f"{bound / statistics.median(times):.0%}"


def _sizes(rows: Sequence[Result], _: Result) -> str:
    ways = [name for name in WAYS if name in rows[0]["seconds"]]
    times = _table(
        "Microseconds of a run-step: the engine's steps alone, with the quickstart's records, and others",
        ["network, runs", "width", "engine", "with records", *(WAYS[name] for name in ways)],
        [
            [
                _label(row),
                str(row["width"]),
                *(_micro(row["seconds"][name]) for name in ("engine", "recorded", *ways)),
            ]
            for row in rows
        ],
    )
    faster = _table(
        "How many times faster the engine is, steps alone / with records",
        ["network, runs", *(WAYS[name] for name in ways)],
        [[_label(row), *(_faster(row["seconds"], name) for name in ways)] for row in rows],
    )
    return "\n\n".join([times, faster, _bounds(rows), _memory(rows)])


def _faster(seconds: Mapping[str, Sequence[float]], way: str) -> str:
    return " / ".join(f"{ratio(seconds[way], seconds[engine]):.2f}" for engine in ("engine", "recorded")) + " ×"


def _bounds(rows: Sequence[Result]) -> str:
    return _table(
        "The engine's steps beside what the machine allows",
        ["network, runs", "run-steps/s", "arithmetic, µs", "reached", "four weight passes, µs", "reached"],
        [
            [
                _label(row),
                f"{1 / statistics.median(row['seconds']['engine']):,.0f}",
                _three(row["bounds"]["arithmetic"] * 1e6),
                _share(row["bounds"]["arithmetic"], row["seconds"]["engine"]),
                _three(row["bounds"]["bandwidth"] * 1e6),
                _share(row["bounds"]["bandwidth"], row["seconds"]["engine"]),
            ]
            for row in rows
        ],
        "Four passes through the weights are the least of memory traffic where no cache holds them from step to\n"
        "step; more than 100 % of it says that one does.",
    )


def _memory(rows: Sequence[Result]) -> str:
    def cells(found: Mapping[str, int] | None) -> list[str]:
        if found is None:
            return ["not told", "not told", ""]
        share = found["measured"] / found["predicted"] - 1
        return [*(f"{found[name] / 2**20:,.1f}" for name in ("predicted", "measured")), f"{share:+.0%}"]

    return _table(
        "Memory of a short sweep, MiB: planned, and taken, as `glorot status` tells it",
        ["network, runs", "planned", "measured", ""],
        [[_label(row), *cells(row["memory"])] for row in rows],
    )


def _label(row: Result) -> str:
    return f"{row['network']}, {row['runs']:,}"


def _scaling(rows: Sequence[Result], _: Result) -> str:
    ways = [name for name in WAYS if name in rows[0]["seconds"]]
    return _table(
        f"Microseconds of a run-step by number of runs, {rows[0]['network']}, steps alone",
        ["runs", "width", "engine", *(WAYS[name] for name in ways), "run-steps/s", "of the arithmetic bound"],
        [
            [
                f"{row['runs']:,}",
                str(row["width"]),
                *(_micro(row["seconds"][name]) for name in ("engine", *ways)),
                f"{1 / statistics.median(row['seconds']['engine']):,.0f}",
                _share(row["bounds"]["arithmetic"], row["seconds"]["engine"]),
            ]
            for row in rows
        ],
    )


def _start(rows: Sequence[Result], _: Result) -> str:
    return _table(
        "Seconds from `glorot run quickstart` to its first update, the record of step 0 included",
        ["compilation cache", "processor, all threads", "by the wall", "starts"],
        [
            [
                {"cold": "empty", "warm": "full"}[row["cache"]],
                *(f"{statistics.median(row[name]):.1f}" for name in ("process", "wall")),
                str(len(row["process"])),
            ]
            for row in rows
        ],
    )


def _probes(rows: Sequence[Result], _: Result) -> str:
    from glorot_jax.bench.engine import records_a_step

    share = records_a_step()

    def cells(seconds: Mapping[str, Sequence[float]]) -> list[str]:
        step, record = seconds["engine"], seconds["record"]
        part = statistics.median(share * r / (share * r + s) for r, s in zip(record, step, strict=True))
        return [_milli(record), f"{ratio(record, step):,.0f}", f"{part:.1%}"]

    return _table(
        f"A record of each preset of probes, {_label(rows[0])} runs",
        ["preset", "ms a run", "in steps of a run", "of the time at the quickstart's cadence"],
        [[row["preset"], *cells(row["seconds"])] for row in rows],
    )


def _checkpoint(rows: Sequence[Result], _: Result) -> str:
    def cells(row: Result) -> list[str]:
        seconds, runs = row["seconds"], row["runs"]
        steps = statistics.median(
            (g + s) / (runs * e) for g, s, e in zip(seconds["gather"], seconds["save"], seconds["engine"], strict=True)
        )
        times = [_milli(seconds[name]) for name in ("gather", "save", "restore")]
        return [f"{row['bytes'] / 2**20:,.1f}", *times, f"{steps:,.0f}"]

    return _table(
        "A checkpoint of all runs: to the host, durably on the disk, and read back; milliseconds",
        ["network, runs", "MiB", "to the host", "written", "read", "steps in that time"],
        [[_label(row), *cells(row)] for row in rows],
    )


def _data(rows: Sequence[Result], _: Result) -> str:
    def more(seconds: Mapping[str, Sequence[float]], name: str, than: str) -> str:
        return f"{ratio(seconds[name], seconds[than]) - 1:+.0%}"

    names = ("held_1024", "drawn_1024", "held_784", "pictures", "streamed")
    compared = (("drawn_1024", "held_1024"), ("pictures", "held_784"), ("streamed", "pictures"))
    return _table(
        f"Microseconds of a run-step by where examples come from; the pictures are {rows[0]['pictures']}",
        [
            *("hidden, runs", "32×32", "drawn", "28×28", "pictures", "streamed"),
            *("drawing", "pictures", "streaming"),
        ],
        [
            [
                f"{row['width']}×5, {row['runs']:,}",
                *(_micro(row["seconds"][name]) for name in names),
                *(more(row["seconds"], name, than) for name, than in compared),
            ]
            for row in rows
        ],
        "32×32 and 28×28 are held random bytes. The last three columns say what drawing adds to held arrays,\n"
        "real pictures to random bytes of their shape, and bringing them from the host.",
    )


_SECTIONS: dict[str, Callable[[Sequence[Result], Result], str]] = {
    "sizes": _sizes,
    "scaling": _scaling,
    "start": _start,
    "probes": _probes,
    "checkpoint": _checkpoint,
    "data": _data,
}
