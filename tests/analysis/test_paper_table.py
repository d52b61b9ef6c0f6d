"""Table 1: our numbers above the paper's, of the runs that are as the paper's and of no others."""

from __future__ import annotations

import io
import json
import re

import pandas as pd
import pytest

from glorot_jax import adam, cifar10, compare, digits, grid, load, mlp, mnist, sgd, shapeset, small_imagenet
from glorot_jax.analysis.comparison import render_compare
from glorot_jax.analysis.tables import render_table, tabulate
from glorot_jax.cli import main
from glorot_jax.errors import InputError
from glorot_jax.paper.published import DATA, MODELS, TABLE_1
from glorot_jax.paper.table import table_1
from tests.analysis import invented

LAYOUT = "glorot2010"
DEPTHS = ((8,) * 4, (8,) * 5)


def models(**changes):
    settings = {"activation": grid("sigmoid", "tanh", "softsign"), "init": grid("standard", "normalized")}
    return mlp(**{"widths": grid(*DEPTHS), **settings, **changes})


def sweep(name: str, data, **changes):
    settings = {
        "model": models(),
        "optimizer": sgd(learning_rate=grid(0.03, 0.1)),
        "exclude": [{"model.activation": "sigmoid", "model.init": "normalized"}],
        "seeds": range(2),
    }
    return invented.sweep(name=name, data=data, **settings | changes)


def printed(run) -> float:
    return TABLE_1[MODELS[run.model.activation, run.model.init]][DATA[run.data.kind()]].error / 100


def error(run, name, _) -> float:
    """The paper's numbers where depth is 5 and the rate 0.1; depth 4 is better for sigmoid and worse for all others."""
    four = len(run.model.widths) == 4
    factor = 0.5 if four and run.model.activation == "sigmoid" else 1.1 if four else 1.0
    extra = 0.01 * (run.optimizer.learning_rate != 0.1)
    return printed(run) * factor * (1 + extra) + 1e-4 * (run.seed - 0.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("paper")
    return [
        invented.results(where / "shapes", sweep("shapes", shapeset(validation=20, test=20)), error),
        invented.results(where / "numerals", sweep("numerals", mnist()), error),
    ]


@pytest.fixture(scope="module")
def loaded(folders):
    return load(folders)


SMALL = {"model": models(widths=DEPTHS[1]), "optimizer": sgd(learning_rate=0.1), "seeds": (0,)}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One seed of the five models, on Shapeset."""
    data = shapeset(validation=20, test=20)
    return invented.results(tmp_path_factory.mktemp("small") / "small", sweep("small", data, **SMALL), error)


def caption(folders) -> str:
    return table_1(load(folders)).caption


def test_the_published_table_is_whole():
    assert list(TABLE_1) == list(MODELS.values())
    assert {tuple(row) for row in TABLE_1.values()} == {("Shapeset", "MNIST", "CIFAR-10", "ImageNet")}
    assert sum(one.bold for row in TABLE_1.values() for one in row.values()) == 12
    for column in DATA.values():
        assert TABLE_1["Tanh N"][column].bold
        assert not TABLE_1["Sigmoid"][column].bold


def test_rows_and_columns_are_the_papers_and_depth_is_chosen_for_each_model(loaded):
    made = table_1(loaded)
    assert made.rows == ("Softsign", "Softsign N", "Tanh", "Tanh N", "Sigmoid")
    assert made.columns == ("Shapeset", "MNIST", "CIFAR-10", "ImageNet")
    assert len(made.cells) == 10
    for (row, column), cell in made.cells.items():
        sigmoid = row == "Sigmoid"
        assert cell.chosen == ("0.1", "4" if sigmoid else "5")
        assert cell.mean == pytest.approx(TABLE_1[row][column].error / 100 * (0.5 if sigmoid else 1), rel=1e-5)
    assert "Learning rate and depth chosen for each by validation error" in made.caption
    assert "--depth 5 takes those alone" in made.caption


def test_with_depth_5_all_is_as_the_papers_caption_says(loaded):
    made = table_1(loaded, depth=5)
    for (row, column), cell in made.cells.items():
        assert cell.chosen == ("0.1",)
        assert cell.mean == pytest.approx(TABLE_1[row][column].error / 100, rel=1e-5)
    assert "5 hidden layers of 8 units, 10 updates of 10 examples; in the paper 5 of 1,000" in made.caption


def test_the_choice_may_leave_the_depth_open_and_says_so(loaded):
    made = table_1(loaded, select="learning_rate")
    assert made.chosen_names == ("learning rate",)
    assert "pooled, widths" in made.caption


def test_what_was_not_run_is_a_dash_with_the_word_that_adds_it(small):
    for name in ("MNIST (glorot run glorot2010/mnist)", "CIFAR-10", "ImageNet (glorot run glorot2010/small_imagenet)"):
        assert name in caption(small)
    lines = render_table(small, layout=LAYOUT).splitlines()
    assert [len(re.findall("–", line)) for line in lines[2:5]] == [3, 0, 3]  # ours, the paper's, chosen


def test_a_model_that_is_missing_on_one_data_set_is_named(tmp_path):
    made = sweep("some", mnist(), **SMALL | {"model": models(activation="tanh", widths=DEPTHS[1]), "exclude": []})
    found = caption(invented.results(tmp_path, made, error))
    assert "Sigmoid on MNIST" in found
    assert "Tanh on MNIST" not in found


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss": "quadratic"}, "loss"),
        ({"optimizer": adam(learning_rate=0.1)}, "optimizer"),
        ({"optimizer": sgd(learning_rate=0.1, momentum=0.9)}, "momentum"),
        ({"model": models(gain=2.0, widths=DEPTHS[1])}, "gain"),
        ({"model": models(activation="relu", widths=DEPTHS[1]), "exclude": []}, "activation and init"),
        ({"data": digits()}, "data"),
        ({"model": models(activation="tanh", widths=(6, 7, 8)), "exclude": []}, "widths"),
        ({"model": models(activation="tanh", widths=(9,) * 5), "exclude": []}, "units"),
        ({"model": models(activation="tanh", widths=DEPTHS[1]), "exclude": [], "steps": 20}, "steps"),
    ],
)
def test_runs_that_are_not_as_the_papers_are_left_out_and_counted(tmp_path, small, changes, told):
    """Were one let in, it would be the best: its error is zero."""
    strange = {"name": "strange", "data": shapeset(validation=20, test=20), **SMALL, **changes}
    count = len(load(invented.results(tmp_path, sweep(**strange), lambda *_: 0.0)).runs)
    made = table_1(load([small, tmp_path]))
    assert len(made.cells) == 5
    assert all(cell.mean > 0.1 for cell in made.cells.values())
    assert re.search(rf"Left out: {count} runs, which differ from these in .*{told}", made.caption)


def test_a_folder_without_a_run_of_it_is_refused_and_says_what_differs(tmp_path):
    made = sweep("strange", shapeset(validation=20, test=20), **SMALL, loss="quadratic")
    with pytest.raises(InputError, match="layout: no run of strange belongs to Table 1\n  hint: they differ in loss"):
        table_1(load(invented.results(tmp_path, made, error)))


@pytest.mark.parametrize(
    "changes", [{"steps": 20}, {"batch_size": 5}, {"data": shapeset(scaling="unit", size=16, validation=9, test=9)}]
)
def test_size_scaling_and_length_are_free(tmp_path, changes):
    made = sweep(**{"name": "free", "data": shapeset(validation=20, test=20), **SMALL, **changes})
    assert len(table_1(load(invented.results(tmp_path, made, error))).cells) == 5


def test_the_substitute_for_imagenet_is_said_to_be_one(tmp_path):
    made = sweep("pictures", small_imagenet(), **SMALL)
    folder = invented.results(tmp_path, made, error)
    assert "substitute for the paper's Small-ImageNet" in caption(folder)
    assert "ImageNet (glorot" not in caption(folder)


def test_the_papers_bold_print_stands_beside_our_marks(folders):
    text = render_table(folders, layout=LAYOUT)
    papers = [line for line in text.splitlines() if line.startswith("  paper")]
    assert [re.findall(r"([\d.]+)( \*)?", line) for line in papers] == [
        [(f"{one.error:.2f}", " *" if one.bold else "") for one in row.values()] for row in TABLE_1.values()
    ]
    assert max(map(len, text.splitlines())) <= 85


def test_the_papers_own_test_gives_its_own_bold_print(tmp_path, monkeypatch):
    """With its numbers, its test and 10 000 examples: all that is bold there is bold here, and nothing else."""
    outputs = {k: v._replace(attrs={"examples": 10_000}) for k, v in invented.OUTPUTS.items()}
    monkeypatch.setattr(invented, "OUTPUTS", outputs)
    parts = [
        invented.results(
            tmp_path / data.kind(),
            sweep(data.kind(), data, **SMALL),
            lambda run, *_: printed(run),
        )
        for data in (shapeset(), mnist(), cifar10(), small_imagenet())
    ]
    made = table_1(load(parts), test="proportions")
    assert {key: cell.bold for key, cell in made.cells.items()} == {
        (row, column): one.bold for row, of in TABLE_1.items() for column, one in of.items()
    }
    assert "n = 10,000 examples" in made.caption


def test_diverged_seeds_have_a_line_of_their_own(tmp_path):
    made = sweep("lost", mnist(), **SMALL | {"seeds": (0, 1)})
    folder = invented.results(tmp_path, made, error, diverged={"tanh-normalized-s1": 7})
    assert re.search(r"^Tanh N .*\n  paper.*\n.*\n  diverged +– +1 +– +–$", render_table(folder, layout=LAYOUT), re.M)
    assert "counts a diverged run as an error of 100 %" in caption(folder)


# ---- formats


def test_data_formats_hold_every_cell_with_the_papers_number(folders, loaded):
    frames = [
        pd.read_csv(io.StringIO(render_table(folders, "csv", LAYOUT))),
        pd.DataFrame(json.loads(render_table(folders, "json", LAYOUT), parse_constant=pytest.fail)["cells"]),
        pd.read_parquet(io.BytesIO(render_table(folders, "parquet", LAYOUT))),
    ]
    made = table_1(loaded)
    for frame in frames:
        assert len(frame) == 20
        for _, line in frame.iterrows():
            one = TABLE_1[line["row"]][line["column"]]
            assert (line["paper"], line["paper_bold"]) == (pytest.approx(one.error / 100), one.bold)
            cell = made.cells.get((line["row"], line["column"]))
            assert pd.isna(line["test_error"]) if cell is None else line["test_error"] == pytest.approx(cell.mean)
            assert cell is None or (str(line["depth"]).removesuffix(".0"), bool(line["bold"])) == (
                cell.chosen[1],
                cell.bold,
            )


def test_latex_is_plain_ascii_and_every_line_has_its_five_cells(folders):
    text = render_table(folders, "latex", LAYOUT)
    assert text.isascii()
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 15
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {4}
    assert all(line.endswith(r" \\") for line in body)
    assert body[1].split(" & ")[:2] == [r"    \quad paper", r"\textbf{16.27}"]
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_html_and_markdown_have_as_many_lines(folders):
    assert render_table(folders, "html", LAYOUT).count("<tr>") == 16
    markdown = [line for line in render_table(folders, "markdown", LAYOUT).splitlines() if line.startswith("|")]
    assert len(markdown) == 17
    assert {line.count("|") for line in markdown} == {6}


def test_its_pairs_can_be_listed(folders, loaded):
    found = compare(loaded, layout=LAYOUT, pairs="all")
    assert len(found) == 20
    assert set(found["column"]) == {"Shapeset", "MNIST"}
    assert re.search(r"^Shapeset: above Tanh N, 15\.", render_compare(folders, layout=LAYOUT), re.M)


def test_the_command_line_makes_it(folders, capsys):
    assert main(["table", *map(str, folders), "--layout", LAYOUT, "--depth", "5"]) == 0
    out = capsys.readouterr().out
    assert "Made by: glorot table shapes numerals --layout glorot2010 --depth 5" in out.replace("\n", " ")
    assert main(["table", str(folders[0]), "--layout", LAYOUT, "--rows", "init"]) == 2
    assert capsys.readouterr().err.startswith("error: rows: the layout glorot2010 has its own")


def test_a_loss_is_no_error_and_a_test_result_chooses_nothing(loaded):
    with pytest.raises(InputError, match="value: 'test_loss' is no error"):
        tabulate(loaded, LAYOUT, value="test_loss")
    with pytest.raises(InputError, match="would choose on test results"):
        tabulate(loaded, LAYOUT, by="test_error")
