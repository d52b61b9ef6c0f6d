"""Shapeset-3×2 against the facts of the published generator, over 20 000 draws and in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from glorot_jax import arrays
from glorot_jax import shapeset as described
from glorot_jax.data import shapeset
from glorot_jax.data.dataset import build
from glorot_jax.randomness import key
from tests.data import published

COUNT, SIZE = 20_000, 32
CHANCE = 1e-3
"""The seed is fixed: a test that holds, holds always."""


@pytest.fixture(scope="module")
def scenes() -> shapeset.Scenes:
    made = jax.jit(lambda k: shapeset.compose(k, COUNT, SIZE))(jax.random.key(2010))
    return jax.tree.map(lambda a: np.asarray(a, np.float64 if a.dtype == jnp.float32 else a.dtype), made)


def both(scenes: shapeset.Scenes) -> shapeset.Objects:
    """All objects that are there."""
    there = scenes.has_second
    return jax.tree.map(lambda one, two: np.concatenate([one, two[there]]), scenes.first, scenes.second)


def thing(objects: shapeset.Objects, i: int) -> published.Thing:
    shape = int(objects.shape[i])
    corners = np.asarray(objects.corners[i], np.float64)[: published.CORNERS[shape]]
    return published.Thing(shape, corners, np.asarray(objects.centre[i], np.float64))


def maps(objects: shapeset.Objects, shape: int) -> np.ndarray:
    """For all objects of a shape, the matrix [n, 2, 2] that the regular polygon was multiplied by."""
    n, chosen = published.CORNERS[shape], objects.shape == shape
    offsets = objects.corners[chosen][:, :n] - objects.centre[chosen][:, None]
    return np.linalg.pinv(published.polygon(n)) @ offsets


def uniform(indices: np.ndarray, limit: int) -> float:
    """p-value of integers being uniform in [0, limit)."""
    return stats.chisquare(np.bincount(indices, minlength=limit)).pvalue if indices.max() < limit else 0.0


# ---- what is in a scene


def test_classes_have_the_published_proportions(scenes):
    counts = np.bincount(np.asarray(shapeset.label(scenes)), minlength=9)
    assert stats.chisquare(counts, COUNT * published.PROPORTIONS).pvalue > CHANCE


def test_the_label_says_which_shapes_are_there_whatever_their_order(scenes):
    shapes = zip(scenes.first.shape, scenes.second.shape, scenes.has_second, strict=True)
    truth = [published.CLASSES[tuple(sorted((a, b) if two else (a,)))] for a, b, two in shapes]
    np.testing.assert_array_equal(shapeset.label(scenes), truth)
    alone = ~scenes.has_second
    swapped = scenes._replace(
        first=scenes.second._replace(shape=np.where(alone, scenes.first.shape, scenes.second.shape)),
        second=scenes.first,
    )
    np.testing.assert_array_equal(shapeset.label(swapped), truth)


def test_class_names_spell_the_label():
    words = ("triangle", "parallelogram", "ellipse")
    for shapes, label in published.CLASSES.items():
        pair = len(shapes) == 2
        same = f"2 {words[shapes[0]]}s"
        spelled = {same} if pair and shapes[0] == shapes[1] else {" + ".join(words[s] for s in shapes)}
        assert shapeset.CLASSES[label] in spelled


def test_one_or_two_objects_by_a_fair_coin(scenes):
    assert stats.binomtest(int(scenes.has_second.sum()), COUNT).pvalue > CHANCE


def test_polarity_is_a_fair_coin_and_no_object_is_on_the_side_of_its_ground(scenes):
    light = scenes.ground >= 140
    assert stats.binomtest(int(light.sum()), COUNT).pvalue > CHANCE
    for grey, there in ((scenes.first_grey, np.full(COUNT, True)), (scenes.second_grey, scenes.has_second)):
        assert (grey[there & light] <= 114).all()
        assert (grey[there & ~light] >= 140).all()


@pytest.mark.parametrize("grey", ["ground", "first_grey", "second_grey"])
def test_greys_are_uniform_in_the_two_published_ranges(scenes, grey):
    levels = getattr(scenes, grey)
    assert uniform(levels[levels < 127], 115) > CHANCE
    assert uniform(levels[levels >= 127] - 140, 116) > CHANCE
    assert levels[levels >= 127].min() == 140


def test_the_greys_of_a_scene_are_drawn_apart(scenes):
    two = scenes.has_second
    for a, b in ((scenes.ground, scenes.first_grey), (scenes.first_grey, scenes.second_grey)):
        dark = two & (scenes.ground < 127)
        assert stats.spearmanr(a[dark], b[dark]).pvalue > CHANCE


def test_shapes_are_uniform_and_independent(scenes):
    two = scenes.has_second
    pairs = 3 * scenes.first.shape[two] + scenes.second.shape[two]
    assert uniform(pairs, 9) > CHANCE
    assert uniform(scenes.first.shape, 3) > CHANCE


# ---- geometry


def test_every_object_keeps_one_pixel_from_the_edge(scenes):
    corners = both(scenes).corners
    assert corners.min() >= 1 - 1e-4
    assert corners.max() <= SIZE - 1 + 1e-4
    assert corners.min() < 1.01, "some come that near"
    assert corners.max() > SIZE - 1.01


def test_positions_are_uniform_where_the_object_fits(scenes):
    first = scenes.first
    offsets = first.corners - first.centre[:, None]
    low, high = 1 - offsets.min(axis=1), SIZE - 1 - offsets.max(axis=1)
    free = (first.centre - low) / (high - low)
    for axis in range(2):
        assert stats.kstest(free[:, axis], "uniform").pvalue > CHANCE
    assert stats.spearmanr(*free.T).pvalue > CHANCE


@pytest.mark.parametrize("shape", range(3))
def test_scales_are_two_sorted_draws_between_a_fifth_and_four_fifths(scenes, shape):
    scales = np.linalg.svd(maps(scenes.first, shape), compute_uv=False) / SIZE
    assert scales.min() > 0.2 - 1e-5
    assert scales.max() < 0.8 + 1e-5
    large, small = ((scales - 0.2) / 0.6).T
    assert stats.kstest(large, lambda u: np.clip(u, 0, 1) ** 2).pvalue > CHANCE  # the larger of two uniform draws
    assert stats.kstest(small, lambda u: 1 - (1 - np.clip(u, 0, 1)) ** 2).pvalue > CHANCE


@pytest.mark.parametrize("shape", range(3))
def test_the_base_is_horizontal_before_one_of_254_equal_turns(scenes, shape):
    base = maps(scenes.first, shape)[:, 0]
    steps = np.arctan2(base[:, 1], base[:, 0]) / published.STEP % published.TURN
    index = np.round(steps).astype(int) % published.TURN
    np.testing.assert_allclose((steps - index + 1) % published.TURN, 1, atol=2e-3)
    assert uniform(index, 254) > CHANCE


@pytest.mark.parametrize("shape", range(3))
def test_turns_before_scaling_fill_one_symmetry_sector_evenly(scenes, shape):
    """What is left of M when the final turn is undone is L = R(before)·diag(s)·R(level); L Lᵀ has R(before)'s axes."""
    angles = published.sector(published.CORNERS[shape])
    matrix = maps(scenes.first, shape)
    scales = np.linalg.svd(matrix, compute_uv=False)
    matrix = matrix[scales[:, 0] - scales[:, 1] > 1]  # else the axes are too blurred to be read
    square = matrix @ matrix.transpose(0, 2, 1)
    axis = np.arctan2(-2 * square[:, 0, 1], square[:, 0, 0] - square[:, 1, 1]) / 2  # R(a) diag R(−a): −sin 2a off it
    nearest = np.argmin(np.abs(axis[:, None] - angles), axis=1)
    np.testing.assert_allclose(axis, angles[nearest], atol=2e-3)
    assert uniform(nearest, len(angles)) > CHANCE
    assert np.abs(angles).max() <= np.pi / published.CORNERS[shape]


def test_polygons_are_convex_and_their_area_follows_from_the_scales(scenes):
    """A regular n-gon of radius ½ has area n sin(2π/n)/8; the rule's own area is 4/π times the polygon's."""
    for shape, n in enumerate(published.CORNERS):
        chosen = scenes.first.shape == shape
        corners = scenes.first.corners[chosen]
        assert (corners[:, n:] == corners[:, n - 1 : n]).all(), "those that are not needed repeat the last"
        edges = np.roll(corners[:, :n], -1, axis=1) - corners[:, :n]
        after = np.roll(edges, -1, axis=1)
        assert (edges[..., 0] * after[..., 1] > edges[..., 1] * after[..., 0]).all()
        areas = np.array([thing(scenes.first, i).area for i in np.flatnonzero(chosen)])
        scales = np.linalg.svd(maps(scenes.first, shape), compute_uv=False)
        np.testing.assert_allclose(areas, scales.prod(axis=1) * n * np.sin(2 * np.pi / n) / 8, rtol=1e-4)
        np.testing.assert_allclose(scenes.first.area[chosen], areas * 4 / np.pi, rtol=1e-4)


def test_the_second_object_never_hides_more_than_half_of_the_first(scenes):
    pairs = np.flatnonzero(scenes.has_second)
    shares = np.array([published.hidden_share(thing(scenes.second, i), thing(scenes.first, i)) for i in pairs])
    assert shares.max() <= 0.5 + 1e-4
    assert shares.max() > 0.49, "some hide that much"


def test_scenes_are_those_of_the_published_algorithm_for_the_same_drawn_numbers(scenes):
    """Rejected tries too: shape and turns are kept, scale and position drawn anew."""
    count, redrawn = 500, 0
    key = jax.random.key(2010)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))

    def words(numbers: np.ndarray, many: int) -> np.ndarray:
        one = jax.vmap(lambda k, number: jax.random.bits(jax.random.fold_in(k, number), (many,)), (0, None))
        return np.asarray(jax.vmap(one, (None, 0))(keys, numbers))

    drawn, tries = words(np.arange(1), 16)[0], words(np.arange(1, 51), 4)
    for i, word in enumerate(drawn):
        light, two = word[0] >= 2**31, word[14] >= 2**31
        ground = 140 + published.whole(word[1], 116) if light else published.whole(word[1], 115)
        greys = [published.whole(w, 115) if light else 140 + published.whole(w, 116) for w in word[2:4]]
        first = published.place(published.turned(word[4:7]), word[7:11], SIZE)
        assert_same(first, thing(scenes.first, i))
        assert (scenes.ground[i], scenes.first_grey[i], scenes.has_second[i]) == (ground, greys[0], two)
        if not two:
            continue
        shape = published.turned(word[11:14])
        made = (published.place(shape, attempt[i], SIZE) for attempt in tries)
        number, second = next((n, new) for n, new in enumerate(made) if published.hidden_share(new, first) <= 0.5)
        redrawn += number > 0
        assert_same(second, thing(scenes.second, i))
        assert scenes.second_grey[i] == greys[1]
    assert redrawn > 30


def assert_same(truth: published.Thing, found: published.Thing) -> None:
    assert truth.shape == found.shape
    np.testing.assert_allclose(found.corners, truth.corners, atol=2e-4)
    np.testing.assert_allclose(found.centre, truth.centre, atol=2e-4)


def test_no_wanted_object_is_given_up(scenes):
    """At most 50 tries: never used up in 20 000 draws of the published generator."""
    key = jax.random.key(2010)
    coin = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, i), 0), (16,))[14] >> 31)
    np.testing.assert_array_equal(scenes.has_second, coin(jnp.arange(COUNT)) == 1)


# ---- pictures


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_pixel_has_the_grey_of_what_covers_its_centre(size):
    count, unsure = 200, 0
    key = jax.random.key(size)
    images, scenes = jax.jit(lambda k: (shapeset.draw(k, count, size)[0], shapeset.compose(k, count, size)))(key)
    images, scenes = np.asarray(images), jax.tree.map(np.asarray, scenes)
    for i in range(count):
        truth = np.full((size, size), scenes.ground[i])
        sure = np.full((size, size), True)
        objects = [(scenes.first, scenes.first_grey)]
        objects += [(scenes.second, scenes.second_grey)] if scenes.has_second[i] else []
        for made, grey in objects:
            inside, distance = published.covers(thing(made, i), size)
            truth[inside] = grey[i]
            sure &= distance > 1e-3
        np.testing.assert_array_equal(images[i][sure], truth[sure])
        assert thing(scenes.first, i).area > 0.2**2 * size**2 / 4
        unsure += np.sum(~sure)
    assert unsure < 0.02 * images.size


def test_draw_is_bytes_and_sample_is_the_same_between_0_and_1():
    (bytes_, labels), (images, same) = jax.jit(lambda k: (shapeset.draw(k, 300), shapeset.sample(k, 300)))(
        jax.random.key(1)
    )
    assert (bytes_.shape, bytes_.dtype, labels.dtype) == ((300, 32, 32), jnp.uint8, jnp.int32)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_allclose(images, np.asarray(bytes_, np.float64) / 255, rtol=2e-7)
    assert images.dtype == jnp.float32
    assert (images.min(), images.max()) == (0, 1)


# ---- randomness


def test_an_image_depends_on_its_own_number_and_key_alone():
    draw = jax.jit(shapeset.draw, static_argnums=(1, 2))
    many, few = (draw(jax.random.key(7), count, 16) for count in (40, 9))
    np.testing.assert_array_equal(many[0][:9], few[0])
    np.testing.assert_array_equal(many[1][:9], few[1])
    other, _ = draw(jax.random.key(8), 40, 16)
    assert not (np.asarray(other) == np.asarray(many[0])).all(axis=(1, 2)).any()


def test_an_image_has_the_same_bits_alone_batched_compiled_and_in_a_loop():
    keys = jax.random.split(jax.random.key(5), 4)

    def one(key):  # what ``draw`` does, and corners are more telling than pixels
        scenes = shapeset.compose(key, 3, 16)
        return shapeset.render(scenes, 16), shapeset.label(scenes), scenes

    def looped(keys):
        empty = jax.tree.map(lambda a: jnp.zeros((len(keys), *a.shape), a.dtype), jax.eval_shape(one, keys[0]))

        def body(i, filled):
            return jax.tree.map(lambda whole, part: whole.at[i].set(part), filled, one(keys[i]))

        return jax.lax.fori_loop(0, len(keys), body, empty)

    compiled = jax.jit(one)
    alone = jax.tree.map(lambda *parts: np.stack(parts), *map(compiled, keys))
    ways = {
        "step by step": lambda keys: jax.tree.map(lambda part: part[None], one(keys[0])),
        "vmap": jax.jit(jax.vmap(one)),
        "map": jax.jit(lambda keys: jax.lax.map(one, keys)),
        "loop": jax.jit(looped),
    }
    for way, function in ways.items():
        for truth, found in zip(jax.tree.leaves(alone), jax.tree.leaves(function(keys)), strict=True):
            assert truth[: len(found)].tobytes() == np.asarray(found).tobytes(), way


def test_training_validation_and_test_never_share_an_image():
    """With the seed of the fixed sets, too; nor do two steps, two seeds, two streams of one seed or the finite set."""
    made = build(described(validation=300, test=301))
    draw = jax.jit(lambda seed, stream, step: made.draw({}, seed, stream, step, 10)[0])
    train = [draw(seed, stream, step) for seed in (0, 1) for stream in (0, 9) for step in range(15)]
    sets = [np.concatenate(train), made.valid[0], made.test[0], shapeset.training_set(500)[0]]
    images = [row.tobytes() for part in sets for row in np.asarray(part).reshape(len(part), -1)]
    assert len(images) == 600 + 300 + 301 + 500
    assert len(set(images)) == len(images)


# ---- the finite training set

FEW = {"size": 8, "validation": 20, "test": 20}


def test_a_finite_set_is_the_beginning_of_a_stream_of_its_own():
    """Thousand by thousand, each image as the generator draws it for its number alone."""
    images, labels = shapeset.training_set(2300, 8)
    assert (images.shape, images.dtype, labels.shape) == ((2300, 8, 8), np.uint8, (2300,))
    few = shapeset.training_set(1200, 8)
    np.testing.assert_array_equal(few[0], images[:1200])
    np.testing.assert_array_equal(few[1], labels[:1200])
    for part in range(3):
        drawn, named = shapeset.drawn(key(0, "training set", step=part), 300, 8)
        np.testing.assert_array_equal(images[1000 * part :][:300], drawn)
        np.testing.assert_array_equal(labels[1000 * part :][:300], named)


def test_a_finite_set_has_the_streams_validation_and_test_sets():
    endless, finite = build(described(**FEW)), build(described(**FEW, examples=50))
    for one, other in zip((*endless.valid, *endless.test), (*finite.valid, *finite.test), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (finite.shape, finite.classes, finite.scaling) == (endless.shape, endless.classes, endless.scaling)


def test_batches_of_a_finite_set_are_those_of_the_same_examples_as_arrays():
    """So every epoch is a permutation without replacement, whatever else a run is."""
    finite = build(described(**FEW, examples=50))
    held = build(arrays(*shapeset.training_set(50, 8), validation=_as_numpy(finite.valid), test=_as_numpy(finite.test)))
    for seed, step in ((0, 0), (0, 7), (3, 7), (3, 12345)):
        one, other = (made.draw(made.arrays, seed, 0, step, 12) for made in (finite, held))
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def _as_numpy(split):
    return np.asarray(split[0]).reshape(-1, 8, 8), np.asarray(split[1])
