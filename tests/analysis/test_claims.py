"""Claims are judged by Student's intervals over seeds, and nothing that was not measured looks like a verdict."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from glorot_jax import Undecided, claim, grid, growth_exponent, load, mlp, per_seed, sgd
from glorot_jax.analysis.claims import claims, judge, render_claims
from glorot_jax.analysis.measures import first_passage
from glorot_jax.cli import main
from glorot_jax.errors import InputError
from tests.analysis import invented

VALUES = [0.2, 0.3, 0.7]


def error(run, name, step) -> float:
    """At the end: tanh VALUES by seed, relu 0.5 more, a learning rate of 0.2 another 0.1 more; 0.9 before."""
    if step == 0:
        return 0.9
    setting = run.config
    more = 0.5 * (setting["model.activation"] == "relu") + 0.1 * (setting["optimizer.learning_rate"] == 0.2)
    return VALUES[run.seed] + more


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return invented.results(tmp_path_factory.mktemp("claims") / "invented", invented.sweep(), error)


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """Two of the three relu runs at 0.1 have diverged, one at the start and one at step 5 of 10."""
    one = invented.sweep(optimizer=sgd(learning_rate=0.1))
    diverged = {run.name: step for run, step in zip(one.runs()[3:5], (0, 5), strict=True)}
    return invented.results(tmp_path_factory.mktemp("claims") / "lost", one, error, steps=(0, 4, 10), diverged=diverged)


def at(activation: str, rate: float = 0.1) -> dict[str, object]:
    return {"model.activation": activation, "learning_rate": rate}


def of(*numbers: float, **settings):
    """A claim about these numbers, one a seed."""
    return claim("It is so.", lambda _: dict(enumerate(numbers)), **settings)


def one_line(said: str) -> str:
    return " ".join(said.split())


# ---- verdicts


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("side", "sign"), [("above", 1), ("below", -1)])
def test_the_verdict_is_where_scipys_interval_lies(log, side, sign):
    numbers = np.array([1.2, 1.9, 2.6, 1.4])
    seen = np.log(numbers) if log else numbers
    low, high = scipy.stats.t.interval(0.95, 3, loc=seen.mean(), scale=scipy.stats.sem(seen))
    back = np.exp if log else np.asarray
    for border, verdict in ((low - 1e-6, 1), (low + 1e-6, 0), (high - 1e-6, 0), (high + 1e-6, -1)):
        found = judge(of(*numbers, log=log, **{side: float(back(border))}), None)
        assert (found.mean, found.low, found.high) == pytest.approx([float(back(v)) for v in (seen.mean(), low, high)])
        assert found.verdict == {1: "reproduced", 0: "undecided", -1: "not reproduced"}[sign * verdict]
        assert (found.n, getattr(found, side)) == (4, float(back(border)))


def test_between_two_thresholds_the_whole_interval_has_to_lie():
    numbers = (0.9, 1.0, 1.1)
    low, high = scipy.stats.t.interval(0.95, 2, loc=1.0, scale=scipy.stats.sem(numbers))
    for above, below, verdict in (
        (low - 0.01, high + 0.01, "reproduced"),
        (low + 0.01, high + 0.01, "undecided"),
        (low - 0.01, high - 0.01, "undecided"),
        (high + 0.01, high + 0.02, "not reproduced"),
        (low - 0.02, low - 0.01, "not reproduced"),
    ):
        assert judge(of(*numbers, above=above, below=below), None).verdict == verdict
    found = judge(of(*numbers, above=0.85, below=1.3), None)
    assert (found.seed, found.breaks) == (0, False)
    half = scipy.stats.t.interval(0.95, 2 + found.more_seeds, scale=scipy.stats.sem(numbers) * math.sqrt(3))[1]
    assert half / math.sqrt(3 + found.more_seeds) < 0.15


def test_a_sweep_too_small_to_tell_leaves_a_claim_undecided_and_says_why(made):
    def measure(results):
        per_seed(results, "valid_error", {"activation": "relu"}, select="learning_rate")
        raise Undecided("10 updates of 700 000")

    found = judge(claim("It escapes.", measure, below=0.5), load(made))
    assert (found.verdict, found.reason, found.n) == ("undecided", "10 updates of 700 000", 0)
    assert (found.variants, found.chosen) == (("relu-lr0.1",), ("learning_rate",))


def test_the_counter_example_is_the_seed_that_breaks_it_or_comes_nearest():
    found = judge(of(3.0, 1.0, 2.0, above=0.5), None)
    assert (found.seed, found.value, found.breaks) == (1, 1.0, False)
    found = judge(of(3.0, 1.0, 2.0, below=2.5), None)
    assert (found.seed, found.value, found.breaks) == (0, 3.0, True)


def test_an_undecided_claim_says_how_many_seeds_would_settle_it():
    """Found again by SciPy's interval, with mean and deviation as they are."""
    numbers = np.array([0.5, 1.5, 2.5])
    found = judge(of(*numbers, above=1.0), None)
    assert found.verdict == "undecided"

    def half_width(n):
        return scipy.stats.t.interval(0.95, n - 1, scale=numbers.std(ddof=1) / math.sqrt(n))[1]

    n = 3 + found.more_seeds
    assert half_width(n) < 0.5 <= half_width(n - 1)
    assert judge(of(*numbers, above=1.5), None).more_seeds is None


def test_one_seed_settles_nothing_and_equal_seeds_all_but_the_threshold_itself():
    assert judge(of(5.0, above=1.0), None).verdict == "undecided"
    assert judge(of(5.0, above=1.0), None).more_seeds is None
    found = [judge(of(2.0, 2.0, above=border), None).verdict for border in (1.0, 2.0, 3.0)]
    assert found == ["reproduced", "undecided", "not reproduced"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_seed_without_a_finite_number_is_named_and_never_dropped(bad):
    found = judge(of(5.0, bad, 5.1, above=1.0), None)
    assert found.verdict == "not run"
    assert found.reason == f"not finite: seed 1 {bad:g}"
    assert math.isnan(found.mean)


def test_a_ratio_without_a_logarithm_is_named():
    found = judge(of(5.0, 0.0, 5.1, above=1.0, log=True), None)
    assert (found.verdict, found.reason) == ("not run", "no logarithm: seed 1 0")


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (
            lambda r: per_seed(r, "valid_error", {"model.activation": "gelu"}),
            "where: no run has model.activation = 'ge",
        ),
        (lambda r: {}["depth"], "KeyError: 'depth' (line "),
        (lambda r: 3.0, "the measure returned float, not one number a seed"),
        (lambda r: pd.DataFrame({1: [2.0]}), "the measure returned DataFrame, not one number a seed"),
        (lambda r: pd.Series([1.0, 2.0], [0, 0]), "the measure returned several numbers of one seed"),
        (lambda r: {}, "the measure returned no number"),
    ],
)
def test_a_check_that_can_not_run_says_why(made, measure, reason):
    found = judge(claim("It is so.", measure, above=1.0), load(made))
    assert found.verdict == "not run"
    assert found.reason.startswith(reason)


# ---- what measures read


def test_numbers_by_seed_are_those_of_the_runs_that_are_named(made):
    results = load(made)
    read = per_seed(results, "valid_error", at("relu", 0.2))
    assert read.index.tolist() == [0, 1, 2]
    assert read.to_numpy() == pytest.approx(np.array(VALUES) + 0.6)
    assert per_seed(results, "valid_error", at("relu", 0.2), step=0).to_numpy() == pytest.approx(np.full(3, 0.9))
    assert per_seed(results, "activation_std", at("tanh"), layer=-1).tolist() == [10.0, 10.0, 10.0]
    assert per_seed(results, "activation_std", at("tanh")).columns.tolist() == [1, 2]


def test_one_value_may_be_chosen_by_validation(made):
    read = per_seed(load(made), "test_error", {"activation": "relu"}, select="learning_rate")
    assert read.to_numpy() == pytest.approx(np.array(VALUES) + 0.5)


def test_several_values_may_be_chosen_together(tmp_path):
    """By the lowest mean of all pairs; what has one value is not said to be chosen."""
    errors = {(0.1, 1.0): 0.5, (0.1, 2.0): 0.2, (0.2, 1.0): 0.3, (0.2, 2.0): 0.4}

    def value(run, name, step):
        pair = run.config["optimizer.learning_rate"], run.config["model.gain"]
        return errors[pair] + (0.3 if name.startswith("test") else 0) + 0.01 * run.seed

    one = invented.sweep(model=mlp(widths=(6, 6), gain=grid(1.0, 2.0)))
    results = load(invented.results(tmp_path / "pairs", one, value))
    both = ("learning_rate", "gain")
    assert per_seed(results, "test_error", select=both).tolist() == pytest.approx([0.5, 0.51, 0.52])
    of_gain_1 = claim("It is so.", lambda r: per_seed(r, "test_error", {"gain": 1.0}, select=both), above=0.0)
    found = judge(of_gain_1, results)
    assert (found.mean, found.chosen) == (pytest.approx(0.61), ("learning_rate",))


def test_all_steps_are_a_table_and_those_not_due_are_left_out(made):
    results = load(made)
    read = per_seed(results, "valid_error", at("tanh"), step="all")
    assert read.columns.tolist() == [0, 10]
    assert read.to_numpy() == pytest.approx(np.stack([np.full(3, 0.9), VALUES], axis=1))
    assert per_seed(results, "activation_std", at("tanh"), step="all", layer=2)[10].tolist() == [10.0] * 3
    with pytest.raises(InputError, match="dimensions step and layer"):
        per_seed(results, "activation_std", at("tanh"), step="all")


def test_of_all_steps_diverged_runs_count_as_said_from_theirs_on(lost):
    read = per_seed(load(lost), "valid_error", {"activation": "relu"}, step="all", diverged=5.0)
    assert read.to_numpy() == pytest.approx(np.array([[5.0, 5.0, 5.0], [0.9, 0.8, 5.0], [0.9, 1.2, 1.2]]))


def test_steps_that_were_not_due_are_left_out(tmp_path):
    one = invented.sweep(optimizer=sgd(learning_rate=0.1))
    early = {one.runs()[0].name: 2}

    def sometimes(run, name, step):
        return math.nan if step == 4 else error(run, name, step)

    folder = invented.results(tmp_path / "some", one, sometimes, steps=(0, 4, 10), diverged=early)
    read = per_seed(load(folder), "valid_error", {"activation": "tanh"}, step="all", diverged=5.0)
    assert read.columns.tolist() == [0, 10]
    assert read[10].tolist() == pytest.approx([5.0, *VALUES[1:]])


def test_a_level_is_passed_between_records_on_a_straight_line():
    table = pd.DataFrame(
        [[0.0, 1.0, 0.2, 3.0], [0.9, 0.1, 0.1, 0.1], [0.0, 0.1, 0.2, 0.3], [0.0, math.nan, 1.0, 1.0], [math.nan] * 4],
        columns=[0, 10, 20, 40],
    )
    assert first_passage(table, 0.5).tolist() == pytest.approx([5.0, 0.0, math.inf, 10.0, math.nan], nan_ok=True)
    levels = pd.Series([2.0, 2.0, 0.15, 0.25, 1.0])
    wanted = [20 + 20 * 1.8 / 2.8, math.inf, 15.0, 5.0, math.nan]
    assert first_passage(table, levels).tolist() == pytest.approx(wanted, nan_ok=True)


def test_differences_are_paired_by_seed_and_the_runs_are_named(made):
    """Seeds differ by 0.5, the pairs by nothing."""

    def gap(results):
        return per_seed(results, "valid_error", at("relu")) - per_seed(results, "valid_error", at("tanh"))

    found = judge(claim("Relu is worse.", gap, above=0.4), load(made))
    assert found.variants == ("relu-lr0.1", "tanh-lr0.1")
    assert found.verdict == "reproduced"
    assert (found.low, found.high) == pytest.approx((0.5, 0.5), abs=1e-6)
    assert len(found.runs) == 2
    assert all(name.endswith(f"s{found.seed}") for name in found.runs)


def test_seeds_that_one_side_lacks_are_not_dropped(made):
    def gap(results):
        return per_seed(results, "valid_error", at("relu")).drop(1) - per_seed(results, "valid_error", at("tanh"))

    assert judge(claim("Relu is worse.", gap, above=0.4), load(made)).reason == "not finite: seed 1 nan"


def test_diverged_runs_count_as_said_and_it_is_told(lost):
    results = load(lost)

    def measure(**settings):
        return claim("It fails.", lambda r: per_seed(r, "valid_error", {"activation": "relu"}, **settings), above=0.8)

    found = judge(measure(diverged=0.95), results)
    assert (found.n, found.mean) == (3, pytest.approx((0.95 + 0.95 + 1.2) / 3))
    assert found.diverged == "2 of 3 runs diverged, counted as 0.95"
    found = judge(measure(), results)
    assert (found.verdict, found.reason) == ("not run", "not finite: seed 0 nan, seed 1 nan")
    assert found.diverged == "2 of 3 runs diverged, without a number"
    assert judge(measure(step=4, diverged=0.95), results).diverged == "1 of 3 runs diverged, counted as 0.95"
    assert per_seed(results, "valid_error", {"activation": "relu"}, step=4, diverged=5.0).tolist()[0] == 5.0


def test_a_number_that_is_missing_before_a_run_diverges_is_not_made_up(tmp_path):
    one = invented.sweep(model=mlp(widths=(6, 6)), optimizer=sgd(learning_rate=0.1))
    late = {run.name: 5 for run in one.runs()}
    folder = invented.results(tmp_path / "late", one, lambda *_: math.nan, diverged=late)
    assert per_seed(load(folder), "valid_error", step=0, diverged=0.95).isna().all()
    assert per_seed(load(folder), "valid_error", diverged=0.95).tolist() == [0.95] * 3


def test_runs_that_are_still_trained_have_no_end(tmp_path):
    folder = invented.results(tmp_path / "half", invented.sweep(), error, steps=(0, 5))
    with pytest.raises(InputError, match="has not been trained to its end"):
        per_seed(load(folder), "valid_error", at("tanh"))
    assert per_seed(load(folder), "valid_error", at("tanh"), step=0).to_numpy() == pytest.approx(np.full(3, 0.9))


def test_lists_and_depths_are_told_apart_by_value(tmp_path):
    """Cohorts of one and of three layers."""
    model = mlp(widths=grid((6,), (6, 6, 6)))
    folder = invented.results(tmp_path / "a", invented.sweep(model=model, optimizer=sgd(learning_rate=0.1)), error)
    assert per_seed(load(folder), "valid_error", {"widths": (6, 6, 6)}).to_numpy() == pytest.approx(np.array(VALUES))


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("valid_eror", at("tanh"), {}), "names: 'valid_eror' is not known\n  hint: 'valid_error'?"),
        (("valid_error", {"actvation": "tanh"}, {}), "where: 'actvation' is not known\n  hint: 'activation'?"),
        (
            ("valid_error", at("tanh", 0.3), {}),
            "where: no run has optimizer.learning_rate = 0.3\n  hint: there are: 0.1",
        ),
        (
            ("valid_error", {"activation": "tanh"}, {}),
            "where: 2 runs have seed 0\n  hint: say more of optimizer.learning_rate",
        ),
        (("valid_error", at("tanh"), {"step": 3}), "valid_error: step: 3 is not known"),
        (("activation_std", at("tanh"), {"layer": 9}), "activation_std: layer: 9 is not known\n  hint: known: 1"),
        (("activation_std", at("tanh"), {"weight": "a"}), "activation_std: 'weight' is not known"),
    ],
)
def test_bad_questions_get_one_line(made, asked, line):
    name, where, settings = asked
    with pytest.raises(InputError) as refused:
        per_seed(load(made), name, where, **settings)
    assert str(refused.value).startswith(line)


def test_the_exponent_of_a_power_law_is_found_again():
    seeds = pd.Index([0, 1], name="seed")
    law = {width: pd.Series([2.0 * width**0.5, 3.0 * width**-1.25], seeds) for width in (16, 64, 1024)}
    assert growth_exponent(law).tolist() == pytest.approx([0.5, -1.25])
    zero = growth_exponent(law | {4096: pd.Series([0.0, 1.0], seeds)})
    assert np.isfinite(zero).tolist() == [False, True]
    with pytest.raises(InputError, match="fewer than two sizes"):
        growth_exponent({16: law[16]})


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "claim: it has no threshold\n  hint: give above=… or below=…, or both"),
        ({"above": 2, "below": 2.0}, "claim.above: 2 is not less than below=2.0"),
        ({"above": "1"}, "claim.above: '1' is not a finite number"),
        ({"below": math.nan}, "claim.below: nan is not a finite number"),
        ({"above": 0.0, "log": True}, "claim.above: 0.0 has no logarithm"),
        ({"above": 1, "statement": " "}, "claim.statement: ' ' is not a sentence"),
        ({"above": 1, "measure": 3}, "claim.measure: 3 is not a function of results"),
    ],
)
def test_a_claim_that_is_none_gets_one_line(settings, line):
    with pytest.raises(InputError) as refused:
        claim(**{"statement": "It is so.", "measure": dict} | settings)
    assert str(refused.value).startswith(line)


# ---- a folder's claims


SWEEP = """
from glorot_jax import Sweep, claim, mlp, per_seed, sgd, shapeset

sweep = Sweep(name="invented", data=shapeset(), model=mlp(), optimizer=sgd(learning_rate=0.1), seeds=(0,), steps=1)


def by(activation, **where):
    return lambda results: per_seed(results, "valid_error", {"activation": activation, "learning_rate": 0.1, **where})


claims = (
    claim("Relu | errs.", by("relu"), above=0.1, statistic="validation error", source="somewhere"),
    claim("Tanh errs.", by("tanh"), below=0.1, log=True),
    claim("Gelu errs.", by("gelu"), below=0.1),
)
"""


@pytest.fixture
def folder(made):
    (made / "sweep.py").write_text(SWEEP)
    return made


def test_the_command_judges_what_the_sweep_file_says(folder, capsys):
    """A check that has not run makes its exit code 1."""
    assert main(["claims", str(folder)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("invented: 1 reproduced · 1 undecided · 1 not run\n")
    half = scipy.stats.t.interval(0.95, 2, scale=scipy.stats.sem(VALUES))[1]
    assert f"mean 0.9 [{0.9 - half:.3g}, {0.9 + half:.3g}], n = 3, claimed > 0.1\n" in said
    assert "of: validation error runs: relu-lr0.1 nearest" in one_line(said)
    assert max(map(len, said.splitlines())) <= 80
    assert "nearest to breaking it: seed 0, 0.7 (relu-lr0.1-s0)" in said
    assert "broken by seed 2, 0.7 (tanh-lr0.1-s2)" in said
    assert "claimed < 0.1: where: no run has model.activation = 'gelu'; hint: there are: tanh, relu" in one_line(said)


def test_the_exit_code_is_0_whatever_the_verdicts(folder, capsys):
    (folder / "sweep.py").write_text(SWEEP.replace('by("gelu"), below=0.1', 'by("relu"), below=0.1'))
    assert main(["claims", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("invented: 1 reproduced · 1 not reproduced · 1 undecided\n")


@pytest.fixture
def several(tmp_path, monkeypatch):
    """A folder of results of three sweeps, of which one has no claims; beside it what is none."""
    for name in ("one", "plain", "two"):
        folder = invented.results(tmp_path / "results" / name, invented.sweep(name=name), error)
        (folder / "sweep.py").write_text(SWEEP if name != "plain" else "sweep = 1\n")
    (tmp_path / "results" / "table").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def test_one_listing_for_all_sweeps_of_a_folder(several, capsys):
    """That of the working directory if none is named."""
    assert main(["claims"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("3 sweeps: 2 reproduced · 2 undecided · 2 not run\n\none: 1 reproduced")
    assert "\nplain: no claims, its sweep file: it defines no `claims`\n\ntwo: 1 reproduced" in said
    assert said.count("Relu | errs.") == 2
    assert main(["claims", str(several / "two"), str(several / "one")]) == 1
    assert "two: 1 reproduced" in capsys.readouterr().out.partition("one: 1 reproduced")[0]


def test_formats_of_several_sweeps_tell_them_apart(several):
    found = claims([several])
    told = json.loads(render_claims(found, "json"))
    assert told["summary"] == {"reproduced": 2, "not reproduced": 0, "undecided": 2, "not run": 2}
    assert [(one["sweep"], len(one["claims"])) for one in told["sweeps"]] == [("one", 3), ("plain", 0), ("two", 3)]
    rows = list(csv.DictReader(io.StringIO(render_claims(found, "csv"))))
    assert [row["sweep"] for row in rows] == ["one"] * 3 + ["two"] * 3
    assert rows[0]["variants"] == "relu-lr0.1"
    assert render_claims(found, "markdown").count("| verdict |") == 2


def test_folders_without_any_claims_are_refused(several):
    for name in ("one", "two"):
        (several / name / "sweep.py").unlink()
    with pytest.raises(InputError, match="no sweep file there ends with claims"):
        claims(several)
    with pytest.raises(InputError, match="not a results folder"):
        claims(several / "table")


def test_what_a_setting_left_out_is_not_run_and_the_setting_is_named(tmp_path):
    small = invented.sweep().with_settings(["model.activation=tanh"])
    folder = invented.results(tmp_path / "small", small, error)
    (folder / "sweep.py").write_text(SWEEP)
    said = render_claims(claims(folder))
    assert said.startswith("invented: 1 undecided · 2 not run · with --set model.activation=tanh\n")
    assert "where: no run has model.activation = 'relu'; hint: there are: tanh" in one_line(said)


def test_formats_hold_the_same(folder):
    listed = claims(folder)
    found = listed[0].judgements
    told = json.loads(render_claims(listed, "json"))["sweeps"][0]["claims"]
    rows = list(csv.DictReader(io.StringIO(render_claims(listed, "csv"))))
    assert [j.verdict for j in found] == [t["verdict"] for t in told] == [r["verdict"] for r in rows]
    assert [t["mean"] for t in told[:2]] == pytest.approx([j.mean for j in found[:2]])
    assert (told[2]["mean"], told[2]["seed"]) == (None, None)
    table = [line for line in render_claims(listed, "markdown").splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    assert all(line.replace("\\|", "").count("|") == 10 for line in table)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "sweep.py: missing\n"),
        ("sweep = 1\n", "sweep.py: it defines no `claims`\n"),
        ("claims = 3\n", "sweep.py: claims: int is not a tuple of claims\n"),
        ("claims = (3,)\n", "sweep.py: claims[0]: 3 is not a claim(…)"),
        ("claims = 1 / 0\n", "sweep.py:1: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_without_claims_gets_one_line(made, text, line):
    (made / "sweep.py").unlink(missing_ok=True)
    if text is not None:
        (made / "sweep.py").write_text(text)
    with pytest.raises(InputError) as refused:
        claims(made)
    assert str(refused.value).startswith(f"{made}/{line}")


def test_judging_never_imports_jax_nor_does_a_file_with_claims_import_pandas(folder):
    script = (
        "import sys\nfrom glorot_jax import load_sweep\nload_sweep(sys.argv[1] + '/sweep.py')\n"
        "assert not {'pandas', 'xarray'} & set(sys.modules)\n"
        "from glorot_jax.analysis.claims import claims, render_claims\nrender_claims(claims(sys.argv[1]))\n"
        "print(sorted({'jax', 'jaxlib', 'flax', 'optax', 'orbax'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    asked = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
