"""Tables: every cell is the mean over seeds, every format says the same, and what is missing is said."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from glorot_jax import grid, load, mlp, mnist, sgd
from glorot_jax.analysis import tables
from glorot_jax.analysis.formats import FORMATS, SHEETS, cut
from glorot_jax.analysis.tables import LAYOUTS, TESTS, Cell, Table, render_table, shown, table
from glorot_jax.cli import cli
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
        mine = runs[(runs[ACT] == row.split()[0]) & (runs[GAIN] == 1.0) & (runs[LR] == float(cell.chosen[0]))]
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
        assert made.chosen_names == ()  # the learning rate stands in the columns, so nothing is chosen
        mine = runs[(runs[ACT] == "tanh") & (runs[GAIN] == 1.0) & (runs[LR] == 0.2)]
        cell = made.cells["tanh · gain 1", "learning_rate 0.2"]
        assert cell.mean == pytest.approx(mine["train_loss"].astype(float).mean(), rel=1e-6)


def test_another_setting_can_be_chosen(trained):
    runs = load(trained).runs
    made = table(load(trained), rows=["activation"], columns=["learning_rate"], select="gain", by="valid_loss")
    for (row, column), cell in made.cells.items():
        mine = runs[(runs[ACT] == row) & (runs[LR] == float(column.split()[1]))]
        scores = mine.groupby(GAIN)["valid_loss"].agg(lambda v: v.mean() if v.notna().all() else math.inf)
        assert float(cell.chosen[0]) == scores.idxmin()


def test_choosing_looks_at_validation_and_never_at_test_results(tmp_path):
    """Learning rate 0.1 is best in validation, 0.2 in test."""
    good = {0.1: {"valid_error": 0.2, "test_error": 0.6}, 0.2: {"valid_error": 0.3, "test_error": 0.1}}
    folder = invented.results(
        tmp_path, invented.sweep(), lambda r, name, _: good[r.optimizer.learning_rate].get(name, 1.0)
    )
    cells = table(load(folder)).cells.values()
    assert {(cell.chosen, round(cell.mean, 6)) for cell in cells} == {(("0.1",), 0.6)}
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
    assert cut(mean, half, percent) == expected


def test_a_cell_that_is_not_there_is_a_dash():
    assert shown(None, percent=True) == ("–", False)


def test_the_best_of_each_column_is_its_lowest_mean_with_diverged_runs_counted(trained):
    made = table(load(trained), rows=["activation", "gain"], columns=["learning_rate"])
    for column in made.columns:
        inside = [cell for (_, c), cell in made.cells.items() if c == column]
        (best,) = (cell for cell in inside if cell.best)
        assert best.mean == min(cell.mean for cell in inside if not cell.diverged)


def gaussian(run, name, _) -> float:
    """Errors of 30 ± 1 % (tanh) and 20 ± 1 % (relu), other in each seed."""
    drawn = np.random.default_rng([run.seed, int(run.id, 16) % 2**32, len(name)]).normal()
    return {"tanh": 0.3, "relu": 0.2}[run.model.activation] + 0.01 * drawn


@pytest.mark.parametrize(("seeds", "marked"), [(1, {"relu"}), (3, {"tanh", "relu"}), (6, {"relu"})])
def test_marked_are_the_best_and_those_that_the_seeds_do_not_tell_apart_from_it(tmp_path, seeds, marked):
    """Ten standard deviations apart: three seeds can't say so, as 2 / 2³ is above α, six can."""
    made = invented.sweep(optimizer=sgd(learning_rate=0.1), seeds=range(seeds))
    folder = invented.results(tmp_path, made, gaussian)
    found = table(load(folder))
    assert {cell.row for cell in found.cells.values() if cell.bold} == marked
    assert [cell.row for cell in found.cells.values() if cell.best] == ["relu"]
    for form, mark in (("table", " *"), ("markdown", "| **"), ("latex", r"\textbf{"), ("html", "<strong>")):
        assert render_table(folder, form).count(mark) == len(marked)


def test_the_caption_names_the_test_and_what_so_few_seeds_can_not_tell(tmp_path):
    folder = invented.results(tmp_path, invented.sweep(), gaussian)
    caption = table(load(folder)).caption
    for words in (
        "exact sign-flip permutation test of the mean, two-sided, paired over seeds",
        "Holm's correction over the 1 comparison of a column, α = 0.05",
        "With 3 seeds nothing can be told apart: no p lies below 0.25 before the correction. It takes 6 seeds.",
    ):
        assert words in caption
    more = table(load(invented.results(tmp_path / "6", invented.sweep(seeds=range(6)), gaussian))).caption
    assert "nothing can be told apart" not in more


def test_with_one_seed_the_best_mean_alone_is_marked_and_the_caption_says_why(tmp_path):
    folder = invented.results(tmp_path, invented.sweep(seeds=(0,)), gaussian)
    assert "no test of difference was made: with one seed there is none over seeds" in table(load(folder)).caption


def test_proportions_count_examples_and_say_so(tmp_path):
    """20 examples, 30 % against 20 %: p = 0.47, by hand; 50 seeds would tell, but are not counted."""
    made = invented.sweep(optimizer=sgd(learning_rate=0.1), seeds=range(2))
    errors = {"tanh": 0.3, "relu": 0.2}
    folder = invented.results(tmp_path, made, lambda r, *_: errors[r.model.activation] + (0.1 if r.seed else -0.1))
    found = table(load(folder), test="proportions")
    z = 0.1 / math.sqrt(0.25 * 0.75 * 2 / 20)
    cell = found.cells["tanh", "test error"]
    assert cell.p == pytest.approx(2 * scipy.stats.norm.sf(z), rel=1e-5)
    assert cell.bold
    for words in ("two-proportion z-test at α = 0.005", "n = 20 examples", "counts examples, not seeds"):
        assert words in found.caption


def test_proportions_of_a_loss_or_of_unknown_size_are_refused(trained, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="test: 'proportions' counts examples, and 'valid_loss' is no share"):
        table(load(trained), value="valid_loss", test="proportions")
    with pytest.raises(InputError, match="value: of 'best_valid_step' lower is not better"):
        table(load(trained), value="best_valid_step", test="paired")
    monkeypatch.setattr(invented, "OUTPUTS", {k: v._replace(attrs={}) for k, v in invented.OUTPUTS.items()})
    folder = invented.results(tmp_path, invented.sweep(), gaussian)
    with pytest.raises(InputError, match="don't say of how many examples test_error is a share"):
        table(load(folder), test="proportions")


def test_the_size_of_the_test_set_is_read_from_the_records_of_a_real_run(trained):
    made = table(load(trained), test="proportions")
    size = int(load(trained).configurations["data.test"].iloc[0])
    assert {one.n for one in made.differences} == {size}


def test_a_diverged_run_counts_as_the_worst_and_is_never_left_out_of_the_test(wounded):
    """tanh: 0.10 0.11 0.12; relu: 0.10 0.11 and one that diverged. Without that they would be equal."""
    made = table(load(wounded))
    (found,) = made.differences
    assert (found.lower, found.higher) == ("tanh", "relu")
    assert found.mean == pytest.approx((1 - 0.12) / 3, rel=1e-5)
    assert made.cells["tanh", "test error"].best  # though relu's survivors have the lower mean
    assert found.note == "1 of relu diverged"
    assert "counts a diverged run as an error of 100 %; the means shown leave it out" in made.caption
    loss = table(load(wounded), value="test_loss", by="valid_loss")
    assert "counts a diverged run as the highest loss of its column" in loss.caption
    assert loss.differences[0].mean == pytest.approx(0, abs=1e-6)  # 0.12 is the highest


def test_very_many_comparisons_are_made_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_PAIRS", 2)
    folder = invented.results(tmp_path, invented.sweep(seeds=(0, 1)), gaussian)
    rows = ["activation", "learning_rate"]
    assert "more than 2 comparisons in a column are made if --test asks" in table(load(folder), rows=rows).caption
    assert len(table(load(folder), rows=rows, test="paired").differences) == 3
    assert len(table(load(folder), rows=rows, test="paired", pairs="all").differences) == 6


def test_pooled_runs_of_a_seed_are_one_number_in_the_test(tmp_path):
    """Two gains share each seed: the test sees three numbers, not six."""
    made = invented.sweep(model=mlp(widths=(6, 6), activation=grid("tanh", "relu"), gain=grid(1.0, 2.0)))
    found = table(load(invented.results(tmp_path, made, gaussian)), rows=["activation"])
    assert "mean over seeds and, pooled, gain" in found.caption
    assert "n = 6 runs" in found.caption
    assert found.differences[0].n == 3


def deep(run, name, _) -> float:
    """Two hidden layers are better in validation, one is in test; a learning rate of 0.1 is better in both."""
    two = len(run.model.widths) == 2
    return 0.2 + run.optimizer.learning_rate + (0.05 if two == name.startswith("test") else 0) + run.seed / 1000


@pytest.fixture(scope="module")
def depths(tmp_path_factory):
    made = invented.sweep(model=mlp(widths=grid((6,), (6, 6)), activation=grid("tanh", "relu")))
    return invented.results(tmp_path_factory.mktemp("depths"), made, deep)


def test_depth_and_learning_rate_are_chosen_together_on_validation_and_shown(depths):
    made = table(load(depths), select=["learning_rate", "depth"])
    assert made.rows == ("tanh", "relu")
    assert made.chosen_names == ("learning rate", "depth")
    for cell in made.cells.values():
        assert cell.chosen == ("0.1", "2")
        assert cell.mean == pytest.approx(0.351, rel=1e-5)
    assert set(made.frame()["depth"]) == {"2"}
    assert re.search(r"tanh +0\.1 +2 +35\.", SHEETS["table"](made.sheet()))
    assert "Learning rate and depth chosen for each row by validation error." in made.caption


def test_one_depth_alone_can_be_asked_for(depths):
    made = table(load(depths), depth=1)
    assert made.rows == ("tanh", "relu")
    assert {round(cell.mean, 6) for cell in made.cells.values()} == {0.301}
    assert "All of 1 hidden layers." in made.caption
    with pytest.raises(InputError, match="depth: no run has 3 hidden layers\n  hint: there are: 1, 2"):
        table(load(depths), depth=3)


def test_depth_can_be_the_rows(depths):
    assert table(load(depths), rows=["depth"], columns=["activation"]).rows == ("depth 1", "depth 2")


def test_several_folders_are_one_table_and_what_belongs_to_one_data_set_alone_is_no_row(tmp_path):
    one = invented.results(tmp_path / "one", invented.sweep(name="one"), gaussian)
    other = invented.results(tmp_path / "other", invented.sweep(name="other", data=mnist()), gaussian)
    made = table(load([one, other]))
    assert (made.rows, made.columns) == (("tanh", "relu"), ("shapeset", "mnist"))
    assert "of one, other:" in made.caption
    assert "Made by: glorot table one other" in " ".join(render_table([one, other]).splitlines())


def test_where_lower_is_not_better_nothing_is_marked(wounded):
    assert not any(cell.best for cell in table(load(wounded), value="best_valid_step").cells.values())


# ---- formats


def test_the_command_offers_all_formats_tests_and_layouts():
    """It lists them without importing what needs pandas."""
    offered = {p.name: p.type.choices for p in cli.commands["table"].params if hasattr(p.type, "choices")}
    assert offered == {"form": FORMATS, "test": TESTS, "layout": LAYOUTS}


def raw(folder) -> pd.DataFrame:
    cells = table(load(folder)).cells.values()
    return pd.DataFrame([(c.row, c.column, c.mean, c.half_width, c.n, c.diverged, c.best, c.bold) for c in cells])


def read(folder, form: str) -> pd.DataFrame:
    """What a program reads."""
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
    assert list(frame.columns) == [*columns, "bold", "p", "p_corrected"]
    got = frame.drop(columns=["learning_rate", "p", "p_corrected"])
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
    assert mine[2].strip("*") == shown(made, percent=True).text


HOSTILE = r"a_b & 50% #1 {x} ~ ^ \y $z"


def hostile() -> Table:
    rows = ("[16, 12]", HOSTILE, "[8]")
    cells = {(row, "c_1"): Cell(row, "c_1", 0.5, 0.1, 3, 1, ("[0.1]",), bold=row == HOSTILE) for row in rows}
    return Table(rows, ("c_1",), cells, ("learning rate",), "test_error", f"Of {HOSTILE}, 95 % ± – · “α” < × ≤ −")


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
    made = SHEETS["latex"](hostile().sheet())
    assert balanced(made)
    assert r"a\_b \& 50\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}y \$z" in made
    body = made.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    assert not re.search(r"(?<!\\)[_#%~^]", body.replace(r"\\", ""))
    lines = [line for line in body.splitlines() if line.strip()]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {3}
    assert all(line.endswith(r" \\") for line in lines)


def test_latex_rows_that_begin_with_a_bracket_are_not_taken_for_an_option():
    """After a rule or a line's end LaTeX reads [16, 12] as a length."""
    made = SHEETS["latex"](hostile().sheet())
    assert not re.search(r"(\\\\|\\midrule)\s*\[", made)
    assert "{[}16, 12]" in made


@pytest.mark.skipif(not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="no LaTeX on this machine")
def test_latex_compiles_untouched(tmp_path):
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + "\n" + SHEETS["latex"](hostile().sheet())
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


class Cells(HTMLParser):
    """The texts of a page's table, line by line."""

    def __init__(self, page: str):
        super().__init__()
        self.lines, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta",):
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("th", "td"):
            self.lines[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.lines[-1][-1] += data


def test_html_is_one_page_with_the_cells_of_the_screen_and_nothing_from_elsewhere(trained):
    page = render_table(trained, "html")
    found = Cells(page)
    assert found.open == []
    sheet = table(load(trained)).sheet()
    assert found.lines == [list(sheet.header), *([entry.text for entry in line] for line in sheet.lines)]
    assert "src=" not in page
    assert "href=" not in page


def test_html_is_escaped():
    hostile_label = '<script>alert(1)</script> & "x"'
    cells = {(hostile_label, "c"): Cell(hostile_label, "c", 0.5, 0.1, 3, 0)}
    page = SHEETS["html"](Table((hostile_label,), ("c",), cells, (), "test_error", hostile_label).sheet())
    assert "<script" not in page
    assert Cells(page).lines[1][0] == hostile_label


# ---- what is said


def test_the_caption_says_n_interval_choice_and_command(trained):
    caption = render_table(trained).rpartition("─")[2].replace("\n", " ")
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
        ({"test": "paird"}, "test: 'paird' is not known\n  hint: 'paired'?"),
        ({"layout": "glorot"}, "layout: 'glorot' is not known\n  hint: 'glorot2010'?"),
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
