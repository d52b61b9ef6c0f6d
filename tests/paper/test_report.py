"""``glorot paper``: what is there is kept, what can't be had is said, and the page holds what was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from glorot_jax.analysis.results import load
from glorot_jax.cli import main
from glorot_jax.paper import report, settings

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A paper of tiny networks on Shapeset alone, and what was said; MNIST is not on this disk."""
    out, said = tmp_path_factory.mktemp("paper"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(out / "nothing"))
        size = replace(
            settings.SIZES["small"],
            units=8,
            rates=(0.1,),
            sigmoid_rates=(0.1,),
            sigmoid_depths=(5,),
            seeds=range(2),
            updates=60,
        )
        patch.setitem(settings.SIZES, "small", size)
        page = report.paper(out, "small", only=("shapeset", "mnist"), say=said.append)
        before = {path: path.read_bytes() for path in out.rglob("*.nc")}
        again: list[str] = []
        assert report.paper(out, "small", only=("shapeset",), say=again.append) == page
        assert {path: path.read_bytes() for path in out.rglob("*.nc")} == before
    return out, page.read_text(encoding="utf-8"), said


def test_the_page_has_the_errors_that_were_measured(made):
    out, page, _ = made
    runs = load(out / "shapeset").runs
    tanh = runs[(runs["model.activation"] == "tanh") & (runs["model.init"] == "standard")]["test_error"]
    assert len(tanh) == 2
    (row,) = [line for line in page.splitlines() if line.startswith("| Tanh |")]
    assert float(row.split("|")[2].strip(" *").partition(" ±")[0]) == pytest.approx(100 * tanh.mean(), abs=1)


def test_the_page_says_what_was_reduced_and_what_was_left_out(made):
    _, page, said = made
    assert "10 runs of 5×8 units, 60 updates, 2 seeds, learning rates 0.1" in page
    assert "1000 runs of 1 to 5×1000 units, 5,000,000 updates, 8 seeds" in page
    missing = "mnist is not prepared here: glorot data prepare mnist"
    assert f"- mnist (Figure 12; Table 1): {missing}." in page
    assert "- quadratic_cost (section 4.1): not asked for." in page
    assert f"mnist: not run, {missing}" in said


def test_the_page_has_every_claim_and_lists_those_that_differ(made):
    out, page, _ = made
    told = (out / "claims.csv").read_text(encoding="utf-8")
    verdicts = ("| reproduced", "| not reproduced", "| undecided", "| not run")
    assert (
        told.count("glorot2010-shapeset,shapeset,") == sum(line.startswith(verdicts) for line in page.splitlines()) == 6
    )
    assert str(out) not in told + page
    assert page.index("## Where these results differ from the paper") < page.index("## Claims")


def test_figures_that_need_no_training_are_drawn_and_others_named(made):
    out, page, said = made
    for number in (1, 5, 11):
        assert (out / "figures" / f"figure{number:02}.png").stat().st_size > 5000
        assert f"(figures/figure{number:02}.png)" in page
    captions = json.loads((out / "figures" / "captions.json").read_text(encoding="utf-8"))
    assert "figure03" not in captions
    assert any(line.startswith("figure 3: not drawn") for line in said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "shapset"], "only: 'shapset' is not known\n  hint: 'shapeset'?"),
        (["--scale", "medium"], "scale: 'medium' is not known"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_made(tmp_path, capsys, arguments, said):
    assert main(["paper", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
