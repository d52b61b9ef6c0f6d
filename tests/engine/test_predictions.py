"""What theory predicts stands beside what is measured: kept once, the numbers of ``theory.predict``, as siblings."""

from __future__ import annotations

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from glorot_jax import at, grid, load, mlp, run, shapeset, theory
from glorot_jax.data.dataset import build
from glorot_jax.engine import watching
from tests.engine import small

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WIDTHS, EXAMPLES, JACOBIANS, GAIN = (64, 48), 40, 3, 1.3
DATA = shapeset(size=16, validation=20, test=50)
PROBES = ("activations", "gradients", "jacobians", "weights", "jacobian_spectra")
HIDDEN = ("activation_mean", "activation_std", "gradient_std", "weight_gradient_std", "weight_std")
JACOBIAN = ("jacobian_mean_singular_value", "jacobian_rms_singular_value")
OUTPUT = ("output_gradient_std", "output_weight_gradient_std", "output_weight_std")


def steep(s):
    return jnp.tanh(2 * s)


def single(s):
    """Of float32 alone, which theory does not compute in."""
    if s.dtype != jnp.float32:
        raise TypeError(f"{s.dtype} is not float32")
    return jnp.tanh(s)


def drawn(key, shape, dtype):
    """An initializer of one's own, whose variance nobody knows."""
    return 0.1 * jnp.ones(shape, dtype)


def sweep(**changes):
    settings = {
        "data": DATA,
        "model": mlp(
            widths=WIDTHS,
            activation=grid("tanh", steep),
            init=grid("normalized", "orthogonal", "identity"),
            gain=GAIN,
        ),
        "seeds": range(4),
        "steps": 12,
        "record": at(4, 8),
        "probes": PROBES,
        "examples": EXAMPLES,
        "jacobian_examples": JACOBIANS,
    }
    return small.sweep(**settings | changes)


class Noting(watching.Silent):
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def theory_files(folder):
    return sorted((folder / "shards").glob("*/theory.nc"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Died at the third commit, then finished."""
    folder = tmp_path_factory.mktemp("predictions") / "sweep"
    with pytest.raises(KeyboardInterrupt):
        run(sweep(), folder, width=4, progress=small.DiesAtThirdCommit(), segment_seconds=1e-3)
    return run(sweep(), folder)


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def by_hand(activation, init) -> theory.Prediction:
    data = build(DATA)
    inputs = np.asarray(data.scale(data.test[0][:EXAMPLES]), np.float64)
    moments = (inputs**2).mean(axis=1)
    settings = {"input_second_moment": moments, "jacobian_input_second_moment": moments[:JACOBIANS], "gain": GAIN}
    return theory.predict(activation, init, WIDTHS, 256, 9, **settings)


@pytest.mark.parametrize(("name", "activation"), [("tanh", "tanh"), ("steep", steep)])
@pytest.mark.parametrize("init", ["normalized", "orthogonal"])
def test_what_is_stored_is_what_theory_predicts(trained, name, activation, init):
    """Of the very examples that the probes see, also of functions of one's own; none of what nobody measures."""
    records = load(trained).records()
    wanted = by_hand(activation, init)._asdict()
    mine = records.where(records["model.activation"].str.contains(name) & (records["model.init"] == init), drop=True)
    assert mine.sizes["run"] == 4
    for output in (*HIDDEN, *JACOBIAN, *OUTPUT):
        found = mine[f"{output}_theory"]
        assert found.dims == (("run",) if output in OUTPUT else ("run", "layer"))
        np.testing.assert_allclose(found, np.broadcast_to(wanted[output], found.shape), rtol=1e-12, atol=1e-15)
    siblings = {str(n).removesuffix("_theory") for n in records.data_vars if str(n).endswith("_theory")}
    assert siblings == {*HIDDEN, *JACOBIAN, *OUTPUT}


def test_measured_and_predicted_agree_at_step_0(trained):
    """Within four standard errors of the four networks' mean and 3 % of what finite width and few images add."""
    records = load(trained).records()
    for activation in ("tanh", "steep"):
        for init in ("normalized", "orthogonal"):
            chosen = records["model.activation"].str.contains(activation) & (records["model.init"] == init)
            mine = records.where(chosen, drop=True)
            for output in (*HIDDEN[1:], *JACOBIAN, *OUTPUT):
                seen, wanted = mine[output].sel(step=0), mine[f"{output}_theory"].isel(run=0)
                allowed = 4 * seen.std("run", ddof=1) / 2 + 0.03 * wanted
                assert (abs(seen.mean("run") - wanted) <= allowed).all(), (activation, init, output)


def test_predictions_say_what_they_are(trained):
    found = load(trained).records()["gradient_std_theory"]
    assert found.attrs["long_name"] == "standard deviation of the back-propagated gradients ∂C/∂s, predicted"
    assert found.attrs["units"] == "1"
    assert found.attrs["valid_at_step"] == 0
    assert found.attrs["examples"] == EXAMPLES
    assert "Glorot & Bengio (2010)" in found.attrs["source"]
    assert "wide layers" in found.attrs["assumptions"]


def test_runs_of_which_nothing_is_known_hold_nan(trained):
    records = load(trained).records()
    identity = records.where(records["model.init"] == "identity", drop=True)
    assert identity.sizes["run"] == 8
    assert all(np.isnan(identity[f"{name}_theory"]).all() for name in (*HIDDEN, *JACOBIAN, *OUTPUT))
    assert np.isfinite(identity["activation_std"]).all()


def test_more_runs_bring_their_own_and_leave_what_is_there(copy):
    """And are read beside a shard of an older version, which has none."""
    (before,) = theory_files(copy)
    content = before.read_bytes()
    run(sweep(seeds=range(5)), copy, width=4)
    assert len(theory_files(copy)) == 2
    assert before.read_bytes() == content
    found = load(copy).records()["activation_std_theory"]
    before.unlink()
    records = load(copy).records()
    new = records["seed"] == 4
    known = np.isfinite(records["activation_std_theory"]).all("layer")
    assert known[new].sum() == 4
    assert not known[~new].any()
    for (_, init), runs in found.to_dataframe().groupby(["model.activation", "model.init"]):
        assert len(runs) == 5 * len(WIDTHS)
        spread = runs.groupby("layer")["activation_std_theory"].agg(np.ptp)
        assert (spread == 0).all() or init == "identity"


def test_folders_without_predictions_are_read(copy, trained):
    """Those of older versions."""
    (file,) = theory_files(copy)
    file.unlink()
    with_them = load(trained).records()
    theirs = [n for n in with_them.data_vars if str(n).endswith("_theory")]
    xr.testing.assert_identical(load(copy).records(), with_them.drop_vars(theirs))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda _: b"no netCDF"])
def test_a_damaged_file_is_one_line(copy, damage):
    (file,) = theory_files(copy)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{file.parent.name}/theory.nc: can't be read") as error:
        load(copy).records()
    assert "remove the file: the records are whole without it" in str(error.value)
    assert len(load(copy).runs) == 24


def test_what_can_not_be_predicted_is_said_and_trained_all_the_same(tmp_path):
    """Also of another loss: its gradients are not those of −log P(y|x)."""
    watcher = Noting()
    made = sweep(
        model=mlp(widths=WIDTHS, activation=grid("tanh", single), init=grid("standard", drawn)),
        probes=("activations", "gradients"),
        loss="quadratic",
        seeds=(0,),
        steps=0,
        record=at(),
    )
    found = load(run(made, tmp_path / "sweep", progress=watcher)).records()
    (note,) = watcher.notes
    assert note.startswith("no prediction for single-standard-s0 and its like: TypeError: float")
    assert [str(n) for n in found.data_vars if str(n).endswith("_theory")] == [
        "activation_mean_theory",
        "activation_std_theory",
    ]
    known = np.isfinite(found["activation_std_theory"]).all("layer")
    assert found["name"].to_numpy()[known].tolist() == ["tanh-standard-s0"]
    assert np.isfinite(found["activation_std"]).all()
