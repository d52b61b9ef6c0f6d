"""Which networks of several depths share a program: by counts, the same everywhere, or by the stopwatch if asked."""

from __future__ import annotations

import json

import pytest

from glorot_jax import at, grid, load, mlp, plan, run
from glorot_jax.engine import compiling, devices
from glorot_jax.engine.planning import sharing
from glorot_jax.engine.planning.plan import cohorts, shared
from glorot_jax.engine.planning.sharing import Estimate
from glorot_jax.errors import InputError
from tests.engine.networks import pictures
from tests.engine.small import sweep

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def depths(*found, **changes):
    """Two runs of each depth."""
    model = mlp(widths=grid(*((16,) * depth for depth in found)))
    settings = {
        "data": pictures(),
        "model": model,
        "seeds": (0, 1),
        "probes": ("evaluation",),
        "steps": 10,
        "record": at(5),
    }
    return sweep(**settings | changes)


def programs(made, how="auto", **options):
    """The depths of each program."""
    found = shared(made.runs(), how, devices.local()[:2], **options)
    return [sorted({len(run.config["model.widths"]) for run in cohort.runs}) for cohort in found.cohorts]


def test_short_trainings_share_a_program_and_long_ones_do_not():
    assert programs(depths(1, 2, 3)) == [[1, 2, 3]]
    assert programs(depths(1, 2, 3, steps=10**9)) == [[1], [2], [3]]
    assert programs(depths(1, 2, 3), "never") == [[1], [2], [3]]
    assert programs(depths(1, 2, 3, steps=10**9), "always") == [[1, 2, 3]]


def test_what_differs_otherwise_is_never_put_together():
    assert programs(depths(1, 2, batch_size=grid(5, 10)), "always") == [[1, 2], [1, 2]]
    assert programs(depths(1, 2, model=mlp(widths=grid((16,), (16, 12))))) == [[1], [2]]


def test_without_the_stopwatch_nothing_that_was_measured_decides(monkeypatch):
    monkeypatch.setattr(compiling, "remembered", lambda _: 1e9)
    monkeypatch.setattr(compiling, "expected", lambda _: 1e9)
    with_it = programs(depths(1, 2, 3, steps=10**9), stopwatch=True)
    assert with_it == [[1, 2, 3]], "compiling took very long here"
    assert programs(depths(1, 2, 3, steps=10**9)) == [[1], [2], [3]]


def test_estimates_grow_with_depth_and_training_with_steps():
    def estimate(steps):
        family = sorted(cohorts(depths(1, 2, 4, steps=steps).runs()), key=sharing.depth)
        made = []

        def build(cohort):
            from glorot_jax.data.dataset import build
            from glorot_jax.engine.planning.plan import _builder

            made.append(cohort)
            return _builder(cohort, build(cohort.runs[0].data), devices.local()[:2], None)

        found = Estimate(family, build, stopwatch=False)
        assert made == [family[0], family[-1]], "those between are not traced"
        return found

    once, twice = estimate(100), estimate(200)
    alone = [once(i, i + 1) for i in range(3)]
    assert alone[0].compiling < alone[1].compiling < alone[2].compiling == once(0, 3).compiling
    assert alone[0].training < alone[1].training < alone[2].training
    assert twice(0, 3).training == pytest.approx(2 * once(0, 3).training)
    apart = sum(one.training for one in alone)
    assert apart < once(0, 3).training < 1.25 * apart, "the device that has the deepest networks ends last"


def test_the_decision_and_its_reason_stand_in_the_manifest_and_stay(tmp_path):
    made = depths(1, 2)
    run(made, tmp_path / "small", fuse="auto")
    (manifest,) = load(tmp_path / "small").shards
    assert len(manifest["members"]) == 2
    assert "one program: " in manifest["why_shared"]
    run(depths(1, 2, seeds=(0, 1, 2)), tmp_path / "small", fuse="never")
    first, *others = load(tmp_path / "small").shards
    assert len(others) == 2
    assert all("members" not in shard for shard in others if shard["shard"] != manifest["shard"])
    assert json.dumps(manifest) in (json.dumps(shard) for shard in (first, *others))


def test_a_plan_says_what_sharing_would_bring():
    made = plan(depths(1, 2, 3), fuse="auto", quick=True)
    (family,) = made.to_dict()["families"]
    assert family["depths"] == [1, 2, 3]
    assert family["programs"] == [[1, 2, 3]]
    assert family["seconds"] == family["seconds_together"] < family["seconds_apart"]
    assert len(made.rows) == 1
    said = " ".join(made.text().split())
    assert "networks of 1, 2, 3 layers in programs of 1+2+3 layers (--fuse auto): one program: " in said
    assert all(len(line) <= 80 for line in made.text().splitlines())


def test_a_plan_that_measures_says_it_too():
    made = plan(depths(1, 2), fuse="always")
    (family,) = made.to_dict()["families"]
    assert family["programs"] == [[1, 2]]
    said = " ".join(made.text().split())
    assert "networks of 1, 2 layers in programs of 1+2 layers (--fuse always): one program: " in said


def test_another_way_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"fuse: 'perhaps' is not auto \| always \| never"):
        run(depths(1, 2), tmp_path / "small", fuse="perhaps")
    assert not list(tmp_path.iterdir())
