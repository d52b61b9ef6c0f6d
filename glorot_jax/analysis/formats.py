"""A sheet of texts, written for a screen or a paper, and the frame behind it, for a program."""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from glorot_jax.errors import unknown
from glorot_jax.units import wrapped


class Entry(NamedTuple):
    """The text of one cell of a sheet, and whether it is set off: bold, or with a star on the screen."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """Texts by line and column, the first column on the left and the others on the right.

    Attributes:
        header: one text a column.
        lines: as long as the header each, or of one entry, a heading over those that follow. A label that begins with
            two blanks is indented.
        caption: what has to be said of it.
    """

    header: tuple[str, ...]
    lines: tuple[tuple[Entry, ...], ...]
    caption: str


def rendered(sheet: Sheet, frame: pd.DataFrame, key: str, format: str) -> str | bytes:
    """Returns a sheet as text, or what is behind it as data.

    Args:
        frame: raw numbers, for CSV, JSON and Parquet.
        key: what the frame's rows are, in JSON.
        format: one of ``FORMATS``.
    """
    if format in SHEETS:
        return SHEETS[format](sheet)
    if format == "csv":
        return frame.to_csv(index=False).rstrip("\n")
    if format == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if format == "json":
        rows = json.loads(frame.to_json(orient="records", double_precision=15))
        return json.dumps({"caption": sheet.caption, key: rows}, indent=1, ensure_ascii=False)
    raise unknown("format", format, FORMATS)


def cut(mean: float, half: float, percent: bool) -> tuple[str, str]:
    """Returns mean and half-width as text, cut by the interval: two digits of it."""
    if math.isnan(mean):
        return ("–", "")
    scale = 100 if percent else 1
    mean, half = mean * scale, half * scale
    if math.isnan(half):
        return (f"{mean:.4g}", "")
    kept = float(f"{half:.1e}")  # 0.0996 is 0.10: counted after rounding
    digits = min(6, max(0, 1 - math.floor(math.log10(kept)))) if half > 0 else 2
    return (f"{mean:.{digits}f}", f"{half:.{digits}f}")


# ---- writers


def _screen(sheet: Sheet) -> str:
    # Numbers end under each other; stars hang out to the right.
    lines = [[Entry(text) for text in sheet.header], *(line for line in sheet.lines if len(line) > 1)]
    columns = list(zip(*lines, strict=True))
    widths = [max(len(entry.text) for entry in column) for column in columns]
    stars = ["  " if any(entry.bold for entry in column) else "" for column in columns]

    def laid(line: Sequence[Entry]) -> str:
        cells = [line[0].text.ljust(widths[0])]
        for entry, width, none in zip(line[1:], widths[1:], stars[1:], strict=False):
            cells.append(entry.text.rjust(width) + (" *" if entry.bold else none))
        return "  ".join(cells).rstrip()

    rule = "─" * min(100, max(len(laid(line)) for line in lines))
    body = [rule, *map(laid, sheet.lines), rule]
    return "\n".join([laid(lines[0]), *body, *wrapped(sheet.caption, more="")])


def _markdown(sheet: Sheet) -> str:
    def written(entry: Entry, heading: bool) -> str:
        text = entry.text.strip().replace("|", "\\|")
        return f"**{text}**" if entry.bold else f"*{text}*" if heading else text

    align = [":--", *["--:"] * (len(sheet.header) - 1)]
    lines = [[text.replace("|", "\\|") for text in sheet.header], align]
    for line in sheet.lines:
        lines.append([written(entry, len(line) == 1) for entry in line] + [""] * (len(align) - len(line)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{sheet.caption}"


def _latex(sheet: Sheet) -> str:
    def written(entry: Entry) -> str:
        text = (r"\quad " if entry.text.startswith("  ") else "") + _tex(entry.text.strip())
        return rf"\textbf{{{text}}}" if entry.bold else text

    columns = len(sheet.header)
    body = []
    for line in sheet.lines:
        if len(line) == 1:
            body.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{written(line[0])}}}}}")
        else:
            body.append(" & ".join(map(written, line)))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(sheet.caption)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (columns - 1)}}}",
            r"    \toprule",
            rf"    {' & '.join(map(_tex, sheet.header))} \\",
            r"    \midrule",
            *(rf"    {line} \\" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "[": "{[}",  # after \\ or \midrule a bracket would open an option
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "α": r"$\alpha$",
    "≤": r"$\le$",
    "−": "$-$",
    "–": "--",
    "·": r"$\cdot$",
    "“": "``",
    "”": "''",
}


def _tex(text: str) -> str:
    return re.sub("[" + re.escape("".join(_TEX)) + "]", lambda m: _TEX[m.group()], text)


_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em; max-width: 70em }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid }
caption { caption-side: bottom; text-align: left; padding-top: .7em }
th, td { padding: .2em .8em; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
th { font-weight: normal } thead th { border-bottom: 1px solid }
th:first-child, .heading { text-align: left } .heading { font-style: italic } .inner { padding-left: 2em }
""".strip()


def _html(sheet: Sheet) -> str:
    def row(line: Sequence[Entry]) -> str:
        if len(line) == 1:
            return f'<tr><th class="heading" colspan="{len(sheet.header)}">{html.escape(line[0].text)}</th></tr>'
        inner = ' class="inner"' if line[0].text.startswith("  ") else ""
        cells = [f'<th scope="row"{inner}>{html.escape(line[0].text.strip())}</th>']
        for entry in line[1:]:
            text = html.escape(entry.text)
            cells.append(f"<td>{f'<strong>{text}</strong>' if entry.bold else text}</td>")
        return f"<tr>{''.join(cells)}</tr>"

    header = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in sheet.header)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><title>Table</title>',
            f"<style>\n{_STYLE}\n</style></head><body>",
            f"<table><caption>{html.escape(sheet.caption)}</caption>",
            f"<thead><tr>{header}</tr></thead>",
            "<tbody>",
            *map(row, sheet.lines),
            "</tbody></table></body></html>",
        ]
    )


SHEETS: dict[str, Callable[[Sheet], str]] = {
    "table": _screen,
    "markdown": _markdown,
    "latex": _latex,
    "html": _html,
}
FORMATS = ("table", "markdown", "csv", "latex", "parquet", "json", "html")
