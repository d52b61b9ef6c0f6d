"""Figures show the numbers that were recorded, of the runs that validation chose, and say what they leave out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

from glorot_jax import grid, load, mlp, sgd
from glorot_jax.analysis.figures.curves import draw_learning_curves, learning_curves
from glorot_jax.analysis.figures.general import drawing_of
from glorot_jax.analysis.figures.over_training import SPREAD, draw_over_training, over_training
from glorot_jax.analysis.figures.style import End, Look, label_ends, looks, panels, style
from glorot_jax.analysis.figures.variants import NotRecordedError, variants
from glorot_jax.analysis.figures.write import write_drawings
from glorot_jax.cli import main
from glorot_jax.errors import InputError
from glorot_jax.figures import figures
from tests.analysis import invented

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS = (0, 4, 10)
BEST = {"tanh": 0.2, "relu": 0.1}
SPREAD_ARRAYS: invented.Arrays = {
    "activation_std": (("layer",), lambda run, step: [run.seed + step, 2 * (run.seed + step)]),
    "activation_quantile": (
        ("layer", "quantile"),
        lambda run, step: [[layer * q * (1 + run.seed) for q in (1, 2, 3, 4, 5)] for layer in (1, 2)],
    ),
}


def error(run, name, step) -> float:
    """Validation prefers BEST, the test set the other learning rate; errors grow with the seed's square."""
    rate, best = run.optimizer.learning_rate, BEST[run.model.activation]
    good = (rate == best) == name.startswith("valid")
    return (0.2 if good else 0.6) + 0.02 * run.seed**2 - 0.001 * step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two activations, two learning rates, four seeds; of tanh at its best rate seed 3 diverged at step 4."""
    made = invented.sweep(seeds=range(4))
    return invented.results(
        tmp_path_factory.mktemp("figures") / "invented",
        made,
        error,
        steps=STEPS,
        diverged={"tanh-lr0.2-s3": 4, "relu-lr0.1-s3": 4, "relu-lr0.2-s3": 4, "tanh-lr0.1-s3": 4},
        arrays=SPREAD_ARRAYS,
        commits=False,
    )


def test_curves_are_means_over_the_seeds_of_the_chosen_learning_rate(folder):
    data = learning_curves(variants(load(folder)), "test_error")
    assert list(data["model"].unique()) == ["tanh", "relu"]
    for model in ("tanh", "relu"):
        rows = data[data["model"] == model].set_index("step")
        for step in STEPS:
            seeds = [0.6 + 0.02 * s**2 - 0.001 * step for s in range(4 if step < 4 else 3)]
            low, high = scipy.stats.t.interval(0.95, len(seeds) - 1, np.mean(seeds), scipy.stats.sem(seeds))
            found = rows.loc[step]
            assert (found["mean"], found["half_width"]) == pytest.approx((np.mean(seeds), (high - low) / 2), rel=1e-5)
            assert (found["n"], found["diverged"]) == ((4, 0) if step < 4 else (3, 1))
            assert found["examples"] == 10 * step


def test_layers_are_means_over_seeds_of_each_seed_s_statistic(folder):
    data = over_training(variants(load(folder)), SPREAD).set_index(["model", "statistic", "layer", "step"])["mean"]
    assert data["tanh", "std", 1, 4] == pytest.approx(np.mean([4, 5, 6, 7]))
    assert data["tanh", "std", 2, 10] == pytest.approx(2 * np.mean([10, 11, 12, 13]))
    # of the five quantiles those of 1 % and 99 % are the first and the last
    assert data["relu", "quantile 0.01", 2, 0] == pytest.approx(2 * 1 * 2.5)
    assert data["relu", "quantile 0.99", 2, 0] == pytest.approx(2 * 5 * 2.5)


def test_runs_that_diverged_are_counted_and_marked_where_they_did(folder):
    data = learning_curves(variants(load(folder)), "test_error")
    with style():
        figure = draw_learning_curves(data, looks({"tanh": {}, "relu": {}}), "step", "updates", "error")
    axes = figure.axes[0]
    assert {t.get_text() for t in axes.texts} == {f"{model} (1 of 4 diverged)" for model in ("tanh", "relu")}
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[4], [4]]
    layers = over_training(variants(load(folder)), SPREAD)
    with style():
        panel = draw_over_training(layers, "step", "updates", "activation").axes[0]
    assert panel.get_title() == "tanh (1 of 4 diverged)"


def test_axes_are_set_by_the_survivors(tmp_path):
    """A curve that is far off is named at the edge, with the value at which it ends."""
    made = invented.sweep(optimizer=sgd(learning_rate=0.1), model=mlp(widths=(6,), activation=grid("tanh", "sigmoid")))
    where = invented.results(tmp_path, made, lambda r, *_: 0.8 if r.model.activation == "sigmoid" else 0.02, arrays={})
    drawing = drawing_of(load(where), "learning_curves", "command")
    with style():
        axes = drawing.draw(drawing.data).axes[0]
    assert axes.get_ylim()[1] < 10
    assert {t.get_text() for t in axes.texts} == {"tanh", "sigmoid: 80 ↑"}


def test_variants_of_which_all_runs_diverged_are_still_named(tmp_path):
    made = invented.sweep(optimizer=sgd(learning_rate=0.1))
    lost = {f"tanh-s{seed}": 1 for seed in range(3)}
    drawing = drawing_of(load(invented.results(tmp_path, made, error, diverged=lost)), "learning_curves", "command")
    with style():
        texts = {t.get_text() for t in drawing.draw(drawing.data).axes[0].texts}
    assert texts == {"tanh (3 of 3 diverged)", "relu"}
    assert "tanh: n = 3 seeds, learning rate 0.1, 3 diverged" in drawing.caption


def test_a_model_looks_the_same_in_every_figure():
    from glorot_jax.paper.figures import SOFTSIGN, TANH_N

    paths = ("model.activation", "model.init")
    one = looks(
        {
            "a": dict(zip(paths, ("relu", "he_normal"), strict=True)),
            "b": dict(zip(paths, ("tanh", "normalized"), strict=True)),
        }
    )
    other = looks(
        {
            "c": dict(zip(paths, ("softsign", "standard"), strict=True)),
            "d": dict(zip(paths, ("tanh", "normalized"), strict=True)),
        }
    )
    assert one["b"] == other["d"] == TANH_N.look
    assert other["c"] == SOFTSIGN.look
    assert len({look.color for look in (one["a"], one["b"], other["c"])}) == 3
    assert one["a"].dashes not in (one["b"].dashes, other["c"].dashes)


def test_variants_of_several_settings_all_look_different():
    for paths in (("depth", "norm", "residual"), ("model.activation", "depth", "model.init")):
        settings = {
            f"{a} {b} {c}": dict(zip(paths, (a, b, c), strict=True))
            for a in ("tanh", "relu")
            for b in (4, 5)
            for c in ("standard", "normalized")
        }
        assert len(set(looks(settings).values())) == 8


def test_labels_of_curves_that_end_together_do_not_touch():
    with style():
        figure, (axes,) = panels(1, 1, 3, 2)
        axes.plot([0, 1], [0, 1])
        label_ends(axes, [End(1, 0.5 + 0.001 * i, str(i), Look("black")) for i in range(6)])
        figure.draw_without_rendering()
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 6
    assert all(low.y1 <= high.y0 + 0.5 for low, high in pairwise(boxes))
    assert [t.get_text() for t in sorted(axes.texts, key=lambda t: t.get_position()[1])] == [str(i) for i in range(6)]


def test_what_is_drawn_is_what_was_recorded(folder, tmp_path):
    """All that the records allow, under the sweep's name, and no word on what was never asked for."""
    drawn = figures(folder, tmp_path, formats=[])
    assert [d.name for d in drawn.drawings] == ["invented-learning_curves", "invented-activations"]
    assert drawn.missing == []
    with pytest.raises(InputError, match=r"nothing could be drawn\n  gradient_std of invented was not recorded"):
        figures(folder, tmp_path, only=["gradients"])


def test_layers_at_the_start_stand_beside_their_predictions(tmp_path):
    """Runs that differ in the learning rate alone start alike and count once."""
    arrays: invented.Arrays = {"gradient_std": (("layer",), lambda run, step: [1 + run.seed + step, 10.0])}
    where = invented.results(tmp_path, invented.sweep(), error, arrays=arrays)
    invented.predict(where, {"gradient_std": 2.5})
    drawing = drawing_of(load(where), "start", "command")
    rows = drawing.data.set_index(["model", "layer"])
    assert set(rows.index) == {(model, layer) for model in ("tanh", "relu") for layer in (1, 2)}
    assert rows.loc[("tanh", 1), ["measured", "predicted", "n"]].tolist() == [2, 2.5, 3]
    low, high = scipy.stats.t.interval(0.95, 2, 2, scipy.stats.sem([1, 2, 3]))
    assert rows.loc[("tanh", 1), "half_width"] == pytest.approx((high - low) / 2)
    with style():
        (axes,) = drawing.draw(drawing.data).axes
    assert axes.get_title() == "∂C/∂s"


def test_files_are_small_whole_and_the_same_bits_again(folder, tmp_path):
    drawing = drawing_of(load(folder), "learning_curves", "glorot figures invented")
    files = write_drawings([drawing], tmp_path / "a", ("png", "pdf", "svg"), data=True)
    again = write_drawings([drawing], tmp_path / "b", ("png", "pdf", "svg"), data=True)
    stem = "invented-learning_curves"
    assert [f.name for f in files] == [
        *(f"{stem}.{e}" for e in ("png", "pdf", "svg", "csv")),
        "captions.json",
        "figures.md",
    ]
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    assert all(1000 < f.stat().st_size < 200_000 for f in files[:3])
    assert b"/FontFile2" in files[1].read_bytes()
    with Image.open(files[0]) as picture:
        assert picture.info["Description"] == drawing.caption
        assert len(np.unique(np.asarray(picture.convert("L")))) > 5
    pd.testing.assert_frame_equal(pd.read_csv(files[3]), drawing.data, check_dtype=False)


def test_captions_say_n_interval_choice_and_command_and_are_kept(folder, tmp_path):
    figures(folder, tmp_path, ["learning_curves"], ["png"])
    figures(folder, tmp_path, ["activations"], ["svg"])
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert list(captions) == ["invented-activations", "invented-learning_curves"]
    for told in captions.values():
        for words in (
            "tanh: n = 4 seeds, learning rate 0.2, 1 diverged",
            "relu: n = 4 seeds, learning rate 0.1, 1 diverged",
            "95 % Student's t",
            "chosen by validation error",
            "Made by: glorot figures invented --only",
        ):
            assert words in told["caption"]
    page = (tmp_path / "figures.md").read_text()
    assert "(invented-learning_curves.png)" in page
    assert "(invented-activations.svg)" in page


def test_settings_that_tell_no_variant_apart_are_said_to_be_pooled_and_runs_half_way_partial(tmp_path):
    made = invented.sweep(optimizer=sgd(learning_rate=0.1), steps=10)
    results = load(invented.results(tmp_path, made, lambda *_: 0.5, steps=(0, 4)))
    from glorot_jax.analysis.figures.general import told_of
    from glorot_jax.analysis.figures.variants import all_runs, chosen

    told = told_of([chosen(results, all_runs(results), "both")])
    assert "both: n = 6 seeds" in told
    assert "Pooled over activation." in told
    assert "Partial: step 4 of 10." in told


def test_of_many_variants_the_best_are_shown_and_the_others_counted(tmp_path):
    made = invented.sweep(
        model=mlp(widths=(6,), activation="tanh", gain=grid(*(1.0 + i for i in range(15)))),
        optimizer=sgd(learning_rate=0.1),
    )
    results = load(invented.results(tmp_path, made, lambda r, *_: r.model.gain / 100, arrays={}, commits=False))
    drawing = drawing_of(results, "learning_curves", "command")
    assert list(drawing.data["model"].unique()) == [f"gain {1 + i}" for i in range(12)]
    assert "3 more variants, of higher validation error, are not shown." in drawing.caption


def test_what_is_not_by_layer_is_refused(tmp_path):
    arrays: invented.Arrays = {"gradient_std": (("weight",), lambda *_: [1.0, 2.0])}
    results = load(invented.results(tmp_path, invented.sweep(), error, arrays=arrays))
    with pytest.raises(NotRecordedError, match="gradient_std of invented was not recorded layer by layer"):
        drawing_of(results, "gradients", "command")


# ---- the command


def test_the_command_prints_files_and_says_on_the_other_stream_what_is_missing(folder, tmp_path, capsys):
    assert main(["figures", str(folder), "--out", str(tmp_path), "--only", "5,11", "--formats", "svg", "--data"]) == 0
    out, err = capsys.readouterr()
    assert [line.rpartition("/")[2] for line in out.splitlines()] == [
        *("figure05.svg", "figure05.csv", "captions.json", "figures.md")
    ]
    assert err == (
        "figure 11: not drawn: there are no results of glorot2010-shapeset; glorot run glorot2010/shapeset gives them\n"
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--only", "13"], "only: '13' is not known"),
        (["--only", "learning_curve"], "only: 'learning_curve' is not known\n  hint: 'learning_curves'?"),
        (["--formats", "pgn"], "formats: 'pgn' is not known\n  hint: 'png'?"),
    ],
)
def test_wrong_options_are_named_with_the_nearest(folder, options, line, capsys):
    assert main(["figures", str(folder), *options]) == 2
    assert f"error: {line}" in capsys.readouterr().err


def test_a_folder_without_results_is_named(tmp_path, capsys):
    assert main(["figures", str(tmp_path)]) == 2
    assert "not a results folder" in capsys.readouterr().err


def test_without_matplotlib_one_line_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["figures", str(folder)]) == 2
    assert re.search(
        r"Matplotlib, which is not installed\n  hint: pip install 'glorot-jax\[figures\]'", capsys.readouterr().err
    )


def test_data_are_made_without_jax_and_matplotlib(folder):
    text = (
        "import sys; from glorot_jax.analysis.results import load; import glorot_jax.figures;"
        "from glorot_jax.analysis.figures.general import drawing_of;"
        f"drawing_of(load({str(folder)!r}), 'activations', '');"
        "print(sorted({'jax', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout == "[]\n"
