"""Tables: every cell is the mean over seeds, every format says the same, and what is missing is said."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess

import pandas as pd
import pytest
import scipy.stats

from glorot_jax import grid, load, mlp, sgd
from glorot_jax.analysis.tables import WRITERS, Cell, Table, render_table, shown, table
from glorot_jax.errors import InputError
from tests.analysis import invented

ACT, GAIN, LR = "model.activation", "model.gain", "optimizer.learning_rate"
NAN = math.nan


def means(runs: pd.DataFrame, by: str = "valid_error", value: str = "test_error") -> pd.Series:
    """What the table should hold, by pandas: for each activation and gain the learning rate of lowest ``by``."""
    groups = runs.groupby([ACT, GAIN, LR])[[by, value]].mean()
    best = groups[by].unstack(LR).dropna(how="all").idxmin(axis=1)
    return pd.Series({key: groups.loc[(*key, lr), value] for key, lr in best.items()})


def test_cells_are_the_group_means_of_the_chosen_learning_rate(trained):
    made = table(load(trained))
    expected = means(load(trained).runs)
    assert len(made.rows) == 4
    assert made.columns == ("test error",)
    got = {row: made.cells[row, "test error"].mean for row in made.rows}
    for (activation, gain), mean in expected.items():
        assert got[f"{activation} · gain {gain:g}"] == pytest.approx(mean, rel=1e-6)
    assert math.isnan(got["relu · gain 1e+15"])


def test_intervals_are_students_over_the_seeds(trained):
    runs = load(trained).runs
    made = table(load(trained), select=LR, value="valid_loss", by="valid_loss")
    for row in ("tanh · gain 1", "relu · gain 1"):
        cell = made.cells[row, "validation loss"]
        mine = runs[(runs[ACT] == row.split()[0]) & (runs[GAIN] == 1.0) & (runs[LR] == float(cell.chosen))]
        low, high = scipy.stats.t.interval(
            0.95, 2, mine["valid_loss"].astype(float).mean(), scipy.stats.sem(mine["valid_loss"].astype(float))
        )
        assert len(mine) == cell.n == 3
        assert (cell.mean - cell.half_width, cell.mean + cell.half_width) == pytest.approx((low, high), rel=1e-6)


def test_rows_and_columns_are_settings_by_path_or_last_part(trained):
    runs = load(trained).runs
    for names in (("activation", "learning_rate"), (ACT, LR)):
        made = table(load(trained), rows=[names[0], "gain"], columns=[names[1]], value="train_loss")
        assert made.columns == ("learning_rate 0.05", "learning_rate 0.2")
        assert made.chosen_name == ""  # the learning rate stands in the columns, so nothing is chosen
        mine = runs[(runs[ACT] == "tanh") & (runs[GAIN] == 1.0) & (runs[LR] == 0.2)]
        cell = made.cells["tanh · gain 1", "learning_rate 0.2"]
        assert cell.mean == pytest.approx(mine["train_loss"].astype(float).mean(), rel=1e-6)


def test_another_setting_can_be_chosen(trained):
    runs = load(trained).runs
    made = table(load(trained), rows=["activation"], columns=["learning_rate"], select="gain", by="valid_loss")
    for (row, column), cell in made.cells.items():
        mine = runs[(runs[ACT] == row) & (runs[LR] == float(column.split()[1]))]
        scores = mine.groupby(GAIN)["valid_loss"].agg(lambda v: v.mean() if v.notna().all() else math.inf)
        assert float(cell.chosen) == scores.idxmin()


def test_choosing_looks_at_validation_and_never_at_test_results(tmp_path):
    """Learning rate 0.1 is best in validation, 0.2 in test."""
    good = {0.1: {"valid_error": 0.2, "test_error": 0.6}, 0.2: {"valid_error": 0.3, "test_error": 0.1}}
    folder = invented.results(
        tmp_path, invented.sweep(), lambda r, name, _: good[r.optimizer.learning_rate].get(name, 1.0)
    )
    cells = table(load(folder)).cells.values()
    assert {(cell.chosen, round(cell.mean, 6)) for cell in cells} == {("0.1", 0.6)}
    with pytest.raises(InputError, match="would choose on test results"):
        table(load(folder), by="test_error")


@pytest.fixture(scope="module")
def wounded(tmp_path_factory):
    """Of tanh all three seeds live, of relu one diverged at step 7; errors are 0.1 + seed / 100."""
    made = invented.sweep(optimizer=sgd(learning_rate=0.1))
    where = tmp_path_factory.mktemp("wounded")
    return invented.results(where, made, lambda r, *_: 0.1 + r.seed / 100, diverged={"relu-s2": 7})


def test_lost_seeds_are_counted_in_a_column_of_their_own_and_left_out_of_the_mean(wounded):
    cells = table(load(wounded)).cells
    tanh, relu = cells["tanh", "test error"], cells["relu", "test error"]
    assert (tanh.n, tanh.diverged, round(tanh.mean, 6)) == (3, 0, 0.11)
    assert (relu.n, relu.diverged, round(relu.mean, 6)) == (2, 1, 0.105)
    text = render_table(wounded)
    assert re.search(r"test error +diverged", text)
    assert re.search(r"tanh .* 0$", text, re.M)
    assert re.search(r"relu .* 1$", text, re.M)
    assert "n = 2 to 3 seeds" in text


def test_without_lost_seeds_there_is_no_such_column(tmp_path):
    folder = invented.results(tmp_path, invented.sweep(), lambda *_: 0.5)
    assert "diverged" not in render_table(folder)


@pytest.mark.parametrize(
    ("mean", "half", "percent", "expected"),
    [
        (0.123461, 0.00123, True, ("12.35", "0.12")),
        (0.833333, 0.1003952, True, ("83", "10")),
        (0.84, 0.065724, True, ("84.0", "6.6")),
        (2.302585, 0.00042, False, ("2.30259", "0.00042")),
        (0.5, 0.000996, True, ("50.00", "0.10")),  # two digits after rounding too
        (0.5, 0.0996, True, ("50", "10")),
        (1234.5, 321.0, False, ("1234", "321")),
        (0.5, 0.0, True, ("50.00", "0.00")),
        (0.123461, NAN, True, ("12.35", "")),
        (NAN, NAN, True, ("–", "")),
    ],
)
def test_digits_are_cut_by_the_interval(mean, half, percent, expected):
    assert shown(Cell("r", "c", mean, half, 3, 0, "", False), percent) == expected


def test_a_cell_that_is_not_there_is_a_dash():
    assert shown(None, percent=True) == ("–", "")


def test_the_best_of_each_column_is_marked_and_no_other(trained):
    made = table(load(trained), rows=["activation", "gain"], columns=["learning_rate"])
    for column in made.columns:
        inside = [cell for (_, c), cell in made.cells.items() if c == column and not math.isnan(cell.mean)]
        assert [cell.best for cell in inside].count(True) == 1
        assert next(cell for cell in inside if cell.best).mean == min(cell.mean for cell in inside)
    assert render_table(trained).count(" *") == 1
    assert render_table(trained, format="markdown").count("**") == 2
    assert render_table(trained, format="latex").count(r"\textbf{") == 1
    assert "no test of difference was made" in render_table(trained)


def test_where_lower_is_not_better_nothing_is_marked(wounded):
    assert not any(cell.best for cell in table(load(wounded), value="best_valid_step").cells.values())


# ---- formats


def raw(folder) -> pd.DataFrame:
    cells = table(load(folder)).cells.values()
    return pd.DataFrame([(c.row, c.column, c.mean, c.half_width, c.n, c.diverged, c.best) for c in cells])


def read(folder, form: str) -> pd.DataFrame:
    made = render_table(folder, format=form)
    if form == "csv":
        return pd.read_csv(io.StringIO(made))
    if form == "json":
        return pd.read_json(io.StringIO(json.dumps(json.loads(made)["cells"])))
    return pd.read_parquet(io.BytesIO(made))


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_data_formats_hold_the_raw_numbers(trained, form):
    frame, expected = read(trained, form), raw(trained)
    columns = ["row", "column", "test_error", "ci95_half_width", "n_seeds", "diverged", "learning_rate", "best"]
    assert list(frame.columns) == columns
    got = frame.drop(columns="learning_rate")
    got.columns = expected.columns
    pd.testing.assert_frame_equal(got, expected, check_dtype=False, rtol=1e-9, atol=1e-9)
    assert set(frame["learning_rate"].astype(float)) <= {0.05, 0.2}


def test_json_is_json_though_means_are_missing(trained):
    """NaN is no JSON: a strict reader would refuse the file."""
    made = json.loads(render_table(trained, format="json"), parse_constant=pytest.fail)
    assert None in [cell["test_error"] for cell in made["cells"]]
    assert made["caption"].startswith("Test error in percent of small")


def test_markdown_has_as_many_cells_in_every_line(trained):
    lines = [line for line in render_table(trained, format="markdown").splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert {len(line) for line in cells} == {4}
    assert cells[0] == ["", "learning rate", "test error", "diverged"]
    assert set(cells[1]) == {":--", "--:"}
    assert [line[0] for line in cells[2:]] == list(table(load(trained)).rows)
    made = table(load(trained)).cells["tanh · gain 1", "test error"]
    (mine,) = (line for line in cells[2:] if line[0] == "tanh · gain 1")
    assert mine[2].strip("*") == " ± ".join(shown(made, percent=True))


HOSTILE = r"a_b & 50% #1 {x} ~ ^ \y $z"


def hostile() -> Table:
    rows = ("[16, 12]", HOSTILE, "[8]")
    cells = {(row, "c_1"): Cell(row, "c_1", 0.5, 0.1, 3, 1, "[0.1]", row == HOSTILE) for row in rows}
    return Table(rows, ("c_1",), cells, "learning rate", "test_error", f"Of {HOSTILE}, 95 % ± – ·")


def balanced(text: str) -> bool:
    """Environments close in the order in which they open, and so do braces that are not escaped."""
    stack = []
    for opens, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if opens == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            return False
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace(r"\\", "")):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return not stack and depth == 0


def test_latex_is_balanced_and_escaped():
    made = WRITERS["latex"](hostile())
    assert balanced(made)
    assert r"a\_b \& 50\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}y \$z" in made
    body = made.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    assert not re.search(r"(?<!\\)[_#%~^]", body.replace(r"\\", ""))
    lines = [line for line in body.splitlines() if line.strip()]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {3}
    assert all(line.endswith(r" \\") for line in lines)


def test_latex_rows_that_begin_with_a_bracket_are_not_taken_for_an_option():
    """After a rule or a line's end LaTeX reads [16, 12] as a length."""
    made = WRITERS["latex"](hostile())
    assert not re.search(r"(\\\\|\\midrule)\s*\[", made)
    assert "{[}16, 12]" in made


@pytest.mark.skipif(not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="no LaTeX on this machine")
def test_latex_compiles_untouched(tmp_path):
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + "\n" + WRITERS["latex"](hostile())
    (tmp_path / "t.tex").write_text(text + "\n\\end{document}\n")
    tool = ["pdflatex", "-halt-on-error"] if shutil.which("pdflatex") else ["tectonic"]
    subprocess.run([*tool, "t.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_the_screen_puts_numbers_under_each_other(trained):
    lines = render_table(trained).splitlines()
    rule = next(line for line in lines if line.startswith("─"))
    body = lines[2 : lines.index(rule, 2)]
    assert lines[1] == rule
    assert len(body) == 4
    ends = {len(re.match(r".*?(±\s+[\d.]+)", line)[0]) for line in body if "±" in line}
    assert len(ends) == 1
    assert all(len(line) <= 100 for line in lines)


# ---- what is said


def test_the_caption_says_n_interval_choice_and_command(trained):
    caption = " ".join(render_table(trained).splitlines()[-6:])
    for words in ("mean over seeds", "95 % Student's t", "Learning rate chosen", "by validation error", "glorot table"):
        assert words in caption
    assert "Partial" not in caption


def test_partial_results_say_so(tmp_path):
    folder = invented.results(tmp_path, invented.sweep(), lambda *_: 0.5, steps=(0, 4))
    assert "Partial: step 4 of 10." in table(load(folder)).caption


def test_runs_of_different_length_are_not_partial_when_all_are_done(tmp_path):
    long = invented.sweep(steps=grid(5, 10))
    done = invented.results(tmp_path / "done", long, lambda *_: 0.5)
    assert "Partial" not in table(load(done)).caption
    half = invented.results(tmp_path / "half", long, lambda *_: 0.5, steps=(0, 5))
    assert "Partial: step 5 of 10." in table(load(half)).caption


def test_settings_that_stand_nowhere_are_said_to_be_pooled(trained):
    caption = table(load(trained), rows=["gain"]).caption
    assert "mean over seeds and, pooled, activation" in caption
    assert "6 runs" in caption
    assert "pooled" not in table(load(trained)).caption


def test_a_sweep_without_variants_is_one_row(tmp_path):
    made = invented.sweep(model=mlp(widths=(6, 6)), optimizer=sgd(learning_rate=0.1))
    folder = invented.results(tmp_path, made, lambda r, *_: r.seed / 10)
    cells = table(load(folder)).cells
    assert list(cells) == [("all runs", "test error")]
    assert cells["all runs", "test error"].mean == pytest.approx(0.1)
    assert not cells["all runs", "test error"].best


def test_runs_that_the_sweep_no_longer_names_are_left_out(tmp_path):
    invented.results(tmp_path, invented.sweep(seeds=(0, 1)), lambda r, *_: r.seed / 10)
    folder = invented.results(tmp_path, invented.sweep(seeds=(5, 6)), lambda r, *_: r.seed / 10)
    assert len(load(folder).runs) == 16
    assert {round(cell.mean, 6) for cell in table(load(folder)).cells.values()} == {0.55}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"value": "tst_error"}, "value: 'tst_error' is not known\n  hint: 'test_error'?"),
        ({"value": "name"}, "value: 'name' is not known"),
        ({"value": "status"}, "value: 'status' is not known"),
        ({"value": LR}, "value: 'optimizer.learning_rate' is not known"),
        ({"rows": ["activaton"]}, "rows: 'activaton' is not known\n  hint: 'activation'?"),
        ({"columns": ["gian"]}, "columns: 'gian' is not known\n  hint: 'gain'?"),
        ({"select": "learning_rat"}, "select: 'learning_rat' is not known\n  hint: 'learning_rate'?"),
        ({"by": "vald_error"}, "by: 'vald_error' is not known\n  hint: 'valid_error'?"),
        ({"by": "test_loss"}, "by: 'test_loss' would choose on test results"),
        ({"format": "jsn"}, "format: 'jsn' is not known\n  hint: 'json'?"),
    ],
)
def test_wrong_options_are_named_with_the_nearest(trained, options, line):
    with pytest.raises(InputError, match="^" + re.escape(line)):
        render_table(trained, **options)


def test_a_sweep_whose_shards_were_moved_away_has_no_results_yet(copy):
    shutil.rmtree(copy / "shards")
    with pytest.raises(InputError, match="it has no results yet"):
        render_table(copy)
