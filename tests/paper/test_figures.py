"""The paper's figures show what its text says they do: invented records in, the numbers of each figure out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from glorot_jax import denoising, grid, load, mlp, sgd
from glorot_jax.analysis.figures.style import style
from glorot_jax.analysis.figures.variants import NotRecordedError
from glorot_jax.data.shapeset import CLASSES
from glorot_jax.errors import InputError
from glorot_jax.figures import figures
from glorot_jax.paper import figures as paper
from glorot_jax.paper.cost_surface import cost_surface
from glorot_jax.probes.probe import ACTIVATION_BINS, GRADIENT_BINS
from tests.analysis import invented

STEPS = (0, 20_000, 40_000)
BEST = 0.1
QUANTILES = 5


def depth(run) -> int:
    return len(run.model.widths)


def error(run, name, step) -> float:
    """Falls with the steps; at the better learning rate by validation it is the greater one on the test set."""
    good = (run.optimizer.learning_rate == BEST) == name.startswith("valid")
    base = {"softsign": 0.2, "tanh": 0.3, "sigmoid": 0.8}[run.model.activation] + 0.01 * (run.model.init == "standard")
    return base + 0.05 * (not good) + 0.01 * run.seed + (0.1 if step == 0 else 0.0) - 0.02 * (depth(run) == 4)


def std(run, step) -> list[float]:
    """Of layer l, by seed, learning rate, initialization and epoch."""
    of_run = 1 + run.seed + 10 * (run.optimizer.learning_rate == BEST) + 100 * (run.model.init == "normalized")
    return [of_run * layer * (1 + step / 20_000) for layer in range(1, depth(run) + 1)]


def flat(run, step) -> list[list[float]]:
    """Activations spread evenly over (−1, 1): the bins around ±1 are half empty."""
    centres = np.array(ACTIVATION_BINS.centres)
    density = np.where(np.abs(centres) < 0.99, 0.5, np.where(np.abs(centres) < 1.01, 0.25, 0.0))
    return [density.tolist()] * depth(run)


ARRAYS: invented.Arrays = {
    "activation_mean": (("layer",), lambda run, step: [s / 1000 for s in std(run, step)]),
    "activation_std": (("layer",), std),
    "activation_quantile": (
        ("layer", "quantile"),
        lambda run, step: [[q * s for q in range(5)] for s in std(run, step)],
    ),
    "weight_gradient_std": (("layer",), lambda run, step: [s / 10 for s in std(run, step)]),
    "activation_histogram": (("layer", "activation_bin"), flat),
}


def all_models(name):
    """The paper's models, two learning rates, two seeds."""
    return invented.sweep(
        name=name,
        model=mlp(
            widths=grid((4,) * 4, (4,) * 5),
            activation=grid("softsign", "tanh", "sigmoid"),
            init=grid("standard", "normalized"),
        ),
        optimizer=sgd(learning_rate=grid(0.03, BEST)),
        exclude=[{"model.activation": "sigmoid", "model.init": "normalized"}],
        seeds=range(2),
        steps=STEPS[-1],
    )


@pytest.fixture(scope="module")
def shapeset(tmp_path_factory):
    where = tmp_path_factory.mktemp("paper") / "shapeset"
    return invented.results(where, all_models("glorot2010-shapeset"), error, steps=STEPS, arrays={}, commits=False)


@pytest.fixture(scope="module")
def saturation(tmp_path_factory):
    where = tmp_path_factory.mktemp("paper") / "saturation"
    made = all_models("glorot2010-saturation")
    return invented.results(where, made, error, steps=STEPS, arrays=ARRAYS, commits=False)


@pytest.fixture(scope="module")
def initialization(tmp_path_factory):
    """Gradients of layer l that are Gaussian of deviation (seed + 1) / l, before anything is trained, with theory."""
    made = invented.sweep(
        name="glorot2010-initialization",
        model=mlp(widths=(4,) * 5, activation="tanh", init=grid("standard", "normalized")),
        optimizer=sgd(learning_rate=0.01),
        seeds=range(2),
        steps=0,
    )
    relative = scipy.stats.norm.pdf(GRADIENT_BINS.centres).tolist()
    arrays: invented.Arrays = {
        "activation_histogram": (("layer", "activation_bin"), flat),
        "activation_std": (("layer",), std),
    }
    for kind in ("gradient", "weight_gradient"):
        arrays |= {
            f"{kind}_histogram": (("layer", "gradient_bin"), lambda run, step: [relative] * 5),
            f"{kind}_rms": (("layer",), lambda run, step: [(run.seed + 1) / layer for layer in range(1, 6)]),
            f"{kind}_std": (("layer",), lambda run, step: [(run.seed + 1) / layer for layer in range(1, 6)]),
        }
    where = tmp_path_factory.mktemp("paper") / "initialization"
    invented.results(where, made, lambda *_: 0.9, steps=(0,), arrays=arrays)
    invented.predict(where, dict.fromkeys(("activation_std", "gradient_std", "weight_gradient_std"), 0.5))
    return where


@pytest.fixture(scope="module")
def found(shapeset, saturation, initialization):
    return {results.name: results for results in map(load, (shapeset, saturation, initialization))}


def drawn(number, found):
    return paper.drawing_of(number, found, f"glorot figures --only {number}")


def by(drawing, *columns, value="mean"):
    return drawing.data.set_index(list(columns))[value]


def test_figure_2_is_mean_and_deviation_of_the_sigmoid_network_of_four_layers(found):
    data = drawn(2, found).data
    assert sorted(data["layer"].unique()) == [1, 2, 3, 4]
    of = by(drawn(2, found), "statistic", "layer", "epoch")
    for epoch in (0, 1, 2):
        assert of["std", 3, epoch] == pytest.approx(3 * 11.5 * (1 + epoch))
        assert of["mean", 3, epoch] == pytest.approx(3 * 11.5 * (1 + epoch) / 1000)


@pytest.mark.parametrize(
    ("number", "models", "init"), [(3, ["Tanh", "Softsign"], 0), (10, ["Tanh N"], 100)], ids=["3", "10"]
)
def test_figures_3_and_10_are_deviation_and_outer_quantiles(found, number, models, init):
    drawing = drawn(number, found)
    assert list(drawing.data["model"].unique()) == models
    of = by(drawing, "model", "statistic", "layer", "epoch")
    for model in models:
        assert of[model, "std", 5, 1] == pytest.approx(5 * (11.5 + init) * 2)
        assert of[model, "quantile 0.01", 5, 1] == 0
        assert of[model, "quantile 0.99", 5, 1] == pytest.approx(4 * 5 * (11.5 + init) * 2)
    assert set(drawing.data["statistic"]) == {"std", "quantile 0.01", "quantile 0.99"}


def test_figure_4_is_a_density_up_to_the_bounds_at_the_end_of_training(found):
    data = drawn(4, found).data
    assert list(data["model"].unique()) == ["Tanh", "Softsign"]
    assert set(data["step"]) == {STEPS[-1]}
    one = data[(data["model"] == "Tanh") & (data["layer"] == 1)]
    assert one["density"].to_numpy() == pytest.approx(0.5)
    assert one["x"].abs().max() == pytest.approx(0.9875)


def test_figure_4_is_not_drawn_from_the_first_step_alone(tmp_path):
    made = invented.sweep(
        name="glorot2010-saturation",
        model=mlp(widths=(4,) * 5, activation=grid("tanh", "softsign")),
        optimizer=sgd(learning_rate=0.1),
    )
    where = invented.results(tmp_path, made, lambda *_: 0.5, steps=(0,), arrays=ARRAYS)
    with pytest.raises(NotRecordedError, match=r"figure 4: not drawn: .* at step 0 alone"):
        drawn(4, {made.name: load(where)})


def test_figure_5_is_both_costs_of_the_random_examples_over_two_weights():
    data = drawn(5, {}).data
    assert set(data["cost"]) == {"cross-entropy", "quadratic"}
    assert (data["w1"].min(), data["w2"].max()) == (-4, 4)
    surface = cost_surface(paper.SURFACE_SEED, paper.EXAMPLES, points=41)
    for cost, values in (("cross-entropy", surface.cross_entropy), ("quadratic", surface.quadratic)):
        rows = data[data["cost"] == cost]
        for i, j in ((0, 0), (3, 30), (40, 12)):
            at = np.isclose(rows["w1"], surface.w1[i]) & np.isclose(rows["w2"], surface.w2[j])
            assert rows.loc[at, "value"].tolist() == [values[i, j]]
    assert data[data["w2"] == 0].groupby("cost")["value"].max().to_dict() == pytest.approx(
        {"cross-entropy": np.log(2), "quadratic": 0.25}
    )


@pytest.mark.parametrize("number", [7, 8])
def test_figures_7_and_8_are_gradients_on_their_own_scale(found, number):
    drawing = drawn(number, found)
    assert list(drawing.data["model"].unique()) == ["Standard initialization", "Normalized initialization"]
    for layer in (1, 4):
        rows = drawing.data.query("layer == @layer and source == 'measured' and model == 'Standard initialization'")
        scale = np.mean([1, 2]) / layer  # of two seeds
        assert rows["density"].to_numpy() == pytest.approx(scipy.stats.norm.pdf(rows["x"], scale=scale), rel=1e-5)
        assert np.trapezoid(rows["density"], rows["x"]) == pytest.approx(1, abs=1e-3)
        assert set(rows["n"]) == {2}


def test_predictions_are_gaussian_and_of_weight_gradients_the_product_of_two_gaussians(found):
    draws = np.random.default_rng(0).normal(size=(2, 1_000_000)).prod(axis=0) * 0.5
    for number, share in ((6, scipy.stats.norm(0, 0.5).cdf), (7, scipy.stats.norm(0, 0.5).cdf), (8, None)):
        rows = (
            drawn(number, found).data.query("layer == 2 and source == 'predicted'").iloc[: 202 if number == 8 else 201]
        )
        inside = rows[(rows["x"] > 0.1) & (rows["x"] < 1)]
        expected = (
            share(inside["x"].max()) - share(inside["x"].min())
            if share
            else np.mean((draws > inside["x"].min()) & (draws < inside["x"].max()))
        )
        assert np.trapezoid(inside["density"], inside["x"]) == pytest.approx(expected, rel=0.02)


def test_figure_9_is_weight_gradients_by_initialization(found):
    of = by(drawn(9, found), "model", "statistic", "layer", "epoch")
    assert of["Tanh", "std", 1, 2] == pytest.approx(11.5 * 3 / 10)
    assert of["Tanh N", "std", 1, 2] == pytest.approx(111.5 * 3 / 10)


def test_figure_11_is_the_test_error_of_each_model_at_the_rate_that_validation_chose(found):
    drawing = drawn(11, found)
    of = by(drawing, "model", "step")
    expected = {
        "Sigmoid depth 5": 0.86,
        "Sigmoid depth 4": 0.84,
        "Tanh": 0.36,
        "Tanh N": 0.35,
        "Softsign": 0.26,
        "Softsign N": 0.25,
    }
    assert list(drawing.data["model"].unique()) == list(expected)
    assert {model: of[model, STEPS[-1]] for model in expected} == pytest.approx(
        {m: e + 0.005 for m, e in expected.items()}
    )
    assert drawing.data["examples"].max() == 400_000
    assert drawing.caption.count("n = 2 seeds, learning rate 0.1") == 6
    assert drawing.missing == (
        "figure 11: drawn without Pre-training: there are no results of glorot2010-pretraining; "
        "glorot run glorot2010/pretraining gives them",
    )


def test_figure_11_has_the_pre_trained_runs_that_validation_prefers(found, tmp_path):
    made = invented.sweep(
        name="glorot2010-pretraining",
        model=mlp(widths=(4,) * 5, activation=grid("tanh", "softsign")),
        optimizer=sgd(learning_rate=grid(0.03, BEST)),
        pretraining=denoising(steps=2, learning_rate=grid(0.01, 0.001)),
        seeds=range(2),
    )

    def better_when_slow(run, name, step):
        return error(run, name, step) - 0.1 * (run.pretraining.learning_rate == 0.001)

    more = found | {made.name: load(invented.results(tmp_path, made, better_when_slow))}
    drawing = drawn(11, more)
    assert by(drawing, "model", "step")["Pre-training", 10] == pytest.approx(0.2 + 0.01 + 0.05 + 0.005 - 0.1)
    assert "Pre-training: denoising auto-encoders, softsign · standard · learning rate 0.001." in drawing.caption
    assert "Pre-training: n = 2 seeds, learning rate 0.1" in drawing.caption
    assert drawing.missing == ()


def test_figure_12_draws_the_data_set_that_is_there(tmp_path):
    made = invented.sweep(
        name="glorot2010-mnist",
        model=mlp(widths=(4,) * 5, activation=grid("tanh", "sigmoid")),
        optimizer=sgd(learning_rate=0.1),
    )
    found = {"glorot2010-mnist": load(invented.results(tmp_path, made, error))}
    drawing = drawn(12, found)
    assert list(drawing.data["panel"].unique()) == ["MNIST"]
    assert any(line.startswith("figure 12: drawn without CIFAR-10: there are no results") for line in drawing.missing)
    with style():
        assert [axes.get_title() for axes in drawing.draw(drawing.data).axes] == ["MNIST"]


def test_a_folder_of_several_results_is_drawn_whole(shapeset, saturation, initialization, tmp_path):
    """Under stable names, small, each with its caption; what can't be drawn is named with the command to run."""
    both = tmp_path / "both"
    both.mkdir()
    for where in (shapeset, saturation, initialization):
        (both / where.name).symlink_to(where)
    numbers = [str(n) for n in range(2, 13)]
    made = figures(both, only=numbers, formats=["png"], data=True)
    assert [f.name for f in made.files[:-2]] == [f"figure{n:02}.{e}" for n in range(2, 12) for e in ("png", "csv")]
    assert all(f.stat().st_size < 200_000 for f in made.files if f.suffix == ".png")
    assert made.files[0].parent == both / "figures"
    assert [line.partition(":")[0] for line in made.missing] == ["figure 11", "figure 12"]
    assert "glorot run glorot2010/mnist" in made.missing[1]
    assert all(f"glorot figures both --only {n}" in d.caption for n, d in enumerate(made.drawings, start=2))
    assert all(d.data.notna().any(axis=None) for d in made.drawings)


def test_the_paper_s_other_sweeps_are_drawn_when_asked_for(tmp_path):
    """Beside those of its figures they are passed over; alone, or by name, all that they recorded is drawn."""
    for name in ("pretraining", "second_order"):
        made = invented.sweep(name=f"glorot2010-{name}", optimizer=sgd(learning_rate=BEST))
        invented.results(tmp_path / name, made, lambda *_: 0.5, arrays={})
    other = "glorot2010-second_order-learning_curves"
    assert [d.name for d in figures(tmp_path / "second_order", formats=[]).drawings] == [other]
    assert [d.name for d in figures(tmp_path, only=["learning_curves"], formats=[]).drawings] == [other]
    assert other not in [d.name for d in figures(tmp_path, formats=[]).drawings]


def test_the_sweep_that_is_missing_is_named(initialization):
    with pytest.raises(
        InputError, match="figure 3: not drawn: there are no results of glorot2010-saturation; glorot run"
    ):
        figures(initialization, only=["3"])


def test_figure_1_shows_fifty_of_each_set_that_is_ready_and_their_classes(monkeypatch):
    def sample(spec, count, seed, size=64):
        if spec.kind() != "shapeset":
            raise InputError("it is not prepared")
        return np.linspace(0, 1, count)[:, None, None] * np.ones((count, size, size)), np.arange(count) % 9, CLASSES

    monkeypatch.setattr("glorot_jax.data.pictures.sample", sample)
    drawing = drawn(1, {})
    assert drawing.data["class"].tolist() == [CLASSES[i % 9] for i in range(50)]
    assert drawing.missing == (
        "figure 1: drawn without Small-ImageNet, which is not ready here; glorot data prepare small_imagenet makes it",
    )
    with style():
        (axes,) = drawing.draw(drawing.data).axes
    sheet = np.asarray(axes.images[0].get_array())
    assert sheet.shape == (5 * 67 - 3, 10 * 67 - 3)
    assert sheet[67, 67] == pytest.approx(11 / 49)  # the second of the second row
