"""The pairs behind a table, for a person and for a program."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from glorot_jax import compare, grid, load, mlp, mnist, sgd, shapeset, table
from glorot_jax.analysis.comparison import render_compare
from glorot_jax.cli import main
from glorot_jax.errors import InputError
from tests.analysis import invented

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SEEDS = 9
LEVELS = {"tanh": 0.30, "relu": 0.20, "sigmoid": 0.80}


def error(run, name, _) -> float:
    """Errors around the activation's level, the gain adding nothing; other noise in each seed."""
    drawn = np.random.default_rng([run.seed, int(run.id, 16) % 2**32, len(name)]).normal()
    return LEVELS[run.model.activation] + 0.01 * drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = invented.sweep(
        model=mlp(widths=(6, 6), activation=grid(*LEVELS), gain=grid(1.0, 2.0)),
        optimizer=sgd(learning_rate=0.1),
        seeds=range(SEEDS),
    )
    return invented.results(tmp_path_factory.mktemp("pairs") / "invented", made, error)


def test_all_pairs_with_their_numbers(folder):
    found = compare(load(folder), rows=["activation"], columns=["gain"])
    assert len(found) == 6
    runs = load(folder).runs
    for _, pair in found.iterrows():
        mine = runs[runs["model.gain"] == float(pair["column"].split()[1])].astype({"test_error": float})
        wide = mine.pivot(index="seed", columns="model.activation", values="test_error")
        d = wide[pair["higher"]] - wide[pair["lower"]]
        assert pair["difference"] == pytest.approx(d.mean())
        assert pair["effect"] == pytest.approx(d.mean() / d.std())
        assert pair["effect_ci95_low"] < pair["effect"] < pair["effect_ci95_high"]
        assert (pair["n"], pair["p"], pair["p_holm"]) == (SEEDS, 2 / 2**SEEDS, pytest.approx(3 * 2 / 2**SEEDS))
        assert pair["told_apart"]
        assert pd.isna(pair["more_seeds"])


def test_those_with_the_best_alone_are_corrected_for_their_own_number(folder):
    best, everything = (compare(load(folder), pairs=pairs) for pairs in ("best", "all"))
    assert set(best["lower"]) == {best["lower"].iloc[0]}
    assert (len(best), len(everything)) == (5, 15)
    assert best["p_holm"].min() == pytest.approx(5 * 2 / 2**SEEDS)
    assert best["told_apart"].sum() == 4
    assert everything["p_holm"].min() == pytest.approx(15 * 2 / 2**SEEDS)  # nothing is told apart by nine seeds
    assert not everything["told_apart"].any()
    assert set(everything[everything["difference"] > 0.05]["more_seeds"]) == {1}


def test_results_compare_the_values_of_one_setting_with_all_else_equal(folder):
    found = load(folder).compare("activation")
    assert set(found["column"]) == {"gain 1", "gain 2"}
    assert {frozenset(pair) for pair in found[["lower", "higher"]].to_numpy()} == {
        frozenset(pair) for pair in (("tanh", "relu"), ("tanh", "sigmoid"), ("relu", "sigmoid"))
    }
    gains = load(folder).compare("gain", value="valid_loss")
    assert set(gains["column"]) == set(LEVELS)
    assert len(gains) == 3


def test_results_compare_chooses_and_places_what_else_varies(tmp_path):
    """Two data sets, depths and rates: what is chosen, and what belongs to one data set alone, is no column."""
    model = mlp(widths=grid((6,), (6, 6)), activation=grid("tanh", "relu"))
    parts = [
        invented.results(tmp_path / data.kind(), invented.sweep(name=data.kind(), data=data, model=model), error)
        for data in (shapeset(size=8, validation=20, test=20), mnist())
    ]
    both = load(parts)
    columns = [f"{data} · {widths}" for data in ("shapeset", "mnist") for widths in ("[6]", "[6, 6]")]
    assert both.compare("activation")["column"].tolist() == columns
    chosen = both.compare("activation", select=["learning_rate", "depth"])
    assert chosen["column"].tolist() == ["shapeset", "mnist"]
    depths = both.compare("depth")
    assert {frozenset(pair) for pair in depths[["lower", "higher"]].to_numpy()} == {frozenset(("depth 1", "depth 2"))}
    assert set(depths["column"]) == {"shapeset · tanh", "shapeset · relu", "mnist · tanh", "mnist · relu"}


def test_the_table_marks_what_the_pairs_say(folder):
    made = table(load(folder))
    apart = {one.higher: one.told_apart for one in made.differences}
    found = compare(load(folder), pairs="best")
    for _, pair in found.iterrows():
        cell = made.cells[pair["higher"], "test error"]
        assert cell.bold == (not pair["told_apart"])
        assert cell.p_corrected == pytest.approx(pair["p_holm"])
    assert set(apart) >= set(found["higher"])


def test_the_screen_fits_a_terminal_and_says_what_would_settle_a_pair(folder):
    text = render_compare(folder, pairs="all")
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"^above relu · gain [12], \d\d\.\d+$", text, re.M)
    assert len(re.findall(r"open, \+1 seed$", text, re.M)) == 12
    caption = text.rpartition("─")[2].replace("\n", " ")
    for words in ("15 comparisons of a column", "With 9 seeds nothing can be told apart", "glorot compare"):
        assert words in caption
    assert render_compare(folder).count("told apart") == 4


def test_every_format_holds_the_same_pairs(folder):
    expected = compare(load(folder), pairs="best")
    kept = ["lower", "higher", "difference", "p_holm"]
    frames = [
        pd.read_csv(io.StringIO(render_compare(folder, format="csv"))),
        pd.DataFrame(json.loads(render_compare(folder, format="json"), parse_constant=pytest.fail)["pairs"]),
        pd.read_parquet(io.BytesIO(render_compare(folder, format="parquet"))),
    ]
    for frame in frames:
        assert list(frame.columns) == list(expected.columns)
        pd.testing.assert_frame_equal(frame[kept], expected[kept], check_dtype=False)
    for form in ("markdown", "latex", "html"):
        text = render_compare(folder, format=form)
        assert text.count("told apart") == 4
        assert "sigmoid · gain 1" in text.replace(r"$\cdot$", "·")


def test_a_diverged_run_is_named_where_it_counts(tmp_path):
    made = invented.sweep(optimizer=sgd(learning_rate=0.1), seeds=range(4))
    made_folder = invented.results(tmp_path, made, error, diverged={"tanh-s2": 7})
    assert compare(load(made_folder))["note"].tolist() == ["1 of tanh diverged"]
    text = render_compare(made_folder)
    assert "1 of tanh diverged" in text
    assert "A diverged run counts as an error of 100 %" in text.replace("\n", " ")


def test_proportions_have_no_effect_size_and_no_advice(folder):
    found = compare(load(folder), test="proportions")
    assert found["effect"].isna().all()
    assert found["more_seeds"].isna().all()
    assert set(found["n"]) == {20}
    text = render_compare(folder, test="proportions")
    assert "effect size" not in text
    assert "two-proportion z-test" in text


def test_one_seed_and_wrong_words_are_said(tmp_path, folder, capsys):
    single = invented.results(tmp_path, invented.sweep(seeds=(0,)), error)
    with pytest.raises(InputError, match="compare: there are no two variants with two seeds"):
        compare(load(single))
    assert main(["compare", str(folder), "--pairs", "al"]) == 2
    assert capsys.readouterr().err.startswith("error: pairs: 'al' is not known\n  hint: 'all'?")
    with pytest.raises(InputError, match="setting: 'activaton' is not known"):
        load(folder).compare("activaton")


def test_the_command_takes_several_folders_and_writes_files(folder, tmp_path, capsys):
    made = invented.sweep(name="other", seeds=range(SEEDS), model=mlp(widths=(7, 7), activation=grid(*LEVELS)))
    other = str(invented.results(tmp_path / "other", made, error))
    assert main(["compare", str(folder), other, "--rows", "activation", "--columns", "widths"]) == 0
    words = capsys.readouterr().out.replace("\n", " ")
    assert "[7, 7]: above relu" in words
    assert "glorot compare invented other --rows activation --columns widths" in words
    assert main(["compare", str(folder), "--format", "parquet", "--output", str(tmp_path / "p.parquet")]) == 0
    assert len(pd.read_parquet(tmp_path / "p.parquet")) == 5
