"""The substitute for Small-ImageNet, on small made-up files: the table, grey and small, balanced, what is missing."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as published
from PIL import Image

from glorot_jax import small_imagenet as described
from glorot_jax.data import dataset, pictures, small_imagenet
from glorot_jax.errors import InputError

NAMES = small_imagenet.CLASSES

WORDNET = """  1 This software and database is being provided to you
00000001 03 n 01 entity 0 000 | all
01503061 05 n 01 bird 0 001 @ 00000001 n 0000 | wings
01503062 05 n 02 wren 0 jenny_wren 0 002 @ 01503061 n 0000 ~ 09999999 n 0000 | small
01503063 05 n 01 king_of_wrens 0 001 @i 01503062 n 0000 | one
04451818 05 n 01 tool 0 001 @ 00000001 n 0000 | handy
04451819 05 n 0b a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 k 0 002 + 01503061 n 0101 @ 04451818 n 0000 | eleven words
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Data and cache in a folder of the test's own, and no more than 22 pictures of a superclass."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(small_imagenet, "PER_CLASS", 22)
    return tmp_path


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def npz(path: Path, counts: dict[str, int], **changes) -> Path:
    """A file of so many random pictures of each superclass, shuffled."""
    names = np.array(list(counts))
    y = np.random.default_rng(1).permutation(np.repeat(np.arange(len(names)), list(counts.values())))
    fields = {"x": noise(len(y), 37, 37), "y": y.astype(np.uint8), "names": names} | changes
    np.savez(path, **{k: v for k, v in fields.items() if v is not None})
    return path


# ---- the table


def test_the_table_has_the_numbers_of_classes_that_ilsvrc_has():
    table = small_imagenet.table()
    counts = {name: list(table.values()).count(name) for name in NAMES}
    assert counts == {
        "reptiles": 36,
        "vehicles": 67,
        "birds": 59,
        "mammals": 218,
        "fish": 16,
        "furniture": 22,
        "instruments": 26,
        "tools": 14,
        "flowers": 2,
        "fruits": 16,
    }
    assert set(table) <= set(small_imagenet._ilsvrc())
    assert table["n02119789"] == "mammals"  # kit fox
    assert table["n11939491"] == "flowers"  # daisy
    assert "n06874185" not in table  # traffic light


def test_a_superclass_is_what_lies_above_in_wordnet(tmp_path):
    file = tmp_path / "data.noun"
    file.write_text(WORDNET)
    synsets = ["n00000001", "n01503061", "n01503062", "n01503063", "n04451819"]
    assert small_imagenet.derive(file, synsets) == {
        "n01503061": "birds",
        "n01503062": "birds",
        "n01503063": "birds",
        "n04451819": "tools",
    }


# ---- grey and small


@pytest.mark.parametrize("side", [37, 64, 74, 100])
def test_a_small_pixel_is_the_mean_over_its_area(side):
    """Against each old pixel repeated 37 times and cut into whole blocks."""
    images = noise(3, side, side)
    fine = images.repeat(37, axis=1).repeat(37, axis=2).astype(float)
    truth = fine.reshape(3, 37, side, 37, side).mean(axis=(2, 4))
    found = small_imagenet.small(images)
    assert found.dtype == np.uint8
    assert found.shape == (3, 37, 37)
    assert np.abs(found - truth).max() <= 0.5 + 1e-6


def test_colours_become_their_luma():
    """As Pillow has it, to the rounding of its integers."""
    images = noise(4, 37, 37, 3)
    truth = np.stack([np.asarray(Image.fromarray(i).convert("L"), int) for i in images])
    assert np.abs(small_imagenet.small(images) - truth).max() <= 1


def test_what_is_not_square_is_cut_to_its_middle():
    images = noise(2, 37, 57)
    np.testing.assert_array_equal(small_imagenet.small(images), images[:, :, 10:47])
    np.testing.assert_array_equal(small_imagenet.small(images.transpose(0, 2, 1)), images.transpose(0, 2, 1)[:, 10:47])


# ---- prepared from a file


def test_superclasses_are_balanced_and_what_is_missing_is_said(home):
    counts = dict.fromkeys(NAMES, 30) | {"fish": 22, "flowers": 13}
    del counts["tools"]
    path, said = pictures.prepare("small_imagenet", npz(home / "a.npz", counts))
    assert said == [
        "small_imagenet: tools has 0 pictures, not 22",
        "small_imagenet: flowers has 13 pictures, not 22",
    ]
    assert path == str(home / "data" / "small_imagenet" / "1.0.0")
    splits = pictures.check("small_imagenet")["splits"]
    expected = {"train": (18, 11), "validation": (2, 1), "test": (2, 1)}
    for split, (full, flowers) in expected.items():
        assert dict(zip(NAMES, splits[split]["per_class"], strict=True)) == dict.fromkeys(NAMES, full) | {
            "tools": 0,
            "flowers": flowers,
        }
    data = dataset.build(described(data_dir=str(home / "data")))
    assert (data.shape, data.classes, data.class_names) == ((37, 37, 1), 10, NAMES)
    assert [len(part[1]) for part in (data.valid, data.test)] == [17, 17]
    source = published.data_source("small_imagenet", split="test", data_dir=str(home / "data"), download=False)
    assert len(source) == 17


def test_the_order_of_the_pictures_in_the_file_changes_nothing(home):
    file = npz(home / "a.npz", dict.fromkeys(NAMES, 30))
    pictures.prepare("small_imagenet", file, str(home / "one"))
    with np.load(file) as held:
        order = np.random.default_rng(2).permutation(len(held["y"]))
        np.savez(home / "b.npz", x=held["x"][order], y=held["y"][order], names=held["names"])
    pictures.prepare("small_imagenet", home / "b.npz", str(home / "other"))
    one, other = (pictures.load(described(data_dir=str(home / d))).splits for d in ("one", "other"))
    for split in one:
        np.testing.assert_array_equal(one[split][0], other[split][0])
        np.testing.assert_array_equal(one[split][1], other[split][1])


def test_no_picture_is_in_two_splits_or_twice_in_one(home):
    x = noise(300, 37, 37)
    x[100:200] = x[:100]
    y = np.tile(np.arange(10), 30).astype(np.uint8)
    np.savez(home / "a.npz", x=x, y=y, names=np.array(NAMES))
    pictures.prepare("small_imagenet", home / "a.npz")
    splits = pictures.load(described()).splits
    digests = [hashlib.sha256(p.tobytes()).hexdigest() for images, _ in splits.values() for p in images]
    assert len(set(digests)) == len(digests) == 200


WRONG = {
    "y is missing": ({"y": None}, "y is missing"),
    "y is too long": ({"y": np.zeros(5, int)}, "x, y and names don't fit each other"),
    "y is no index": ({"y": np.full(220, 10)}, "x, y and names don't fit each other"),
    "x is floating": ({"x": np.zeros((220, 37, 37))}, "x, y and names don't fit each other"),
    "a name is unknown": ({"names": np.array([*NAMES[:9], "trees"])}, "'trees' is not a superclass"),
    "names are objects": ({"names": np.array(NAMES, object)}, "damaged, or not an .npz of plain arrays"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_said_in_one_line_and_nothing_is_left_behind(home, what):
    changes, line = WRONG[what]
    file = npz(home / "a.npz", dict.fromkeys(NAMES, 22), **changes)
    with pytest.raises(InputError, match=line) as error:
        pictures.prepare("small_imagenet", file)
    assert len(str(error.value).splitlines()) <= 2
    assert not (home / "data").exists()


def test_a_torn_file_and_one_that_is_not_there_are_said(home):
    file = npz(home / "a.npz", dict.fromkeys(NAMES, 22))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged, or not an"):
        pictures.prepare("small_imagenet", file)
    with pytest.raises(InputError, match="no such file or folder"):
        pictures.prepare("small_imagenet", home / "b.npz")
    with pytest.raises(InputError, match="too few pictures"):
        pictures.prepare("small_imagenet", npz(home / "c.npz", {"fish": 5}))
    assert not (home / "data").exists()


@pytest.mark.parametrize("at", [("writing", 33), ("writing", 219)])
def test_an_interrupted_preparation_leaves_nothing_and_can_be_repeated(home, at):
    file = npz(home / "a.npz", dict.fromkeys(NAMES, 22))

    def interrupt(text: str, done: int, total: int) -> None:
        if (text, done) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pictures.prepare("small_imagenet", file, progress=interrupt)
    assert [p for p in (home / "data").rglob("*") if p.is_file()] == []
    assert pictures.prepare("small_imagenet", file)[1] == []
    assert sum(s["examples"] for s in pictures.check("small_imagenet")["splits"].values()) == 220


# ---- prepared from imagenet_resized


def synsets() -> tuple[list[str], np.ndarray]:
    """ILSVRC's synsets, and the labels of one of each superclass and of one that has none."""
    order, table = small_imagenet._ilsvrc(), small_imagenet.table()
    firsts = [next(i for i, s in enumerate(order) if table.get(s) == name) for name in NAMES]
    return order, np.array([*firsts, next(i for i, s in enumerate(order) if s not in table)])


def resized(home: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A tree of ``imagenet_resized/64x64`` as TFDS's own builder names and describes it."""
    from tensorflow_datasets.datasets.imagenet_resized import imagenet_resized_dataset_builder as module

    def generators(self, downloads):
        rows = zip(images, labels, strict=True)
        return {"train": ((f"f{i}", {"image": Image.fromarray(x), "label": int(y)}) for i, (x, y) in enumerate(rows))}

    members = {"name": "imagenet_resized", "_split_generators": generators, "__module__": module.__name__}
    kind = type("Builder", (module.Builder,), members, skip_registration=True)
    builder = kind(config="64x64", data_dir=str(home / "data"), file_format="array_record")
    published.disable_progress_bar()
    builder.download_and_prepare()


def flower_tree(home: Path, name: str, pictures: list[np.ndarray]) -> None:
    """A tree of flowers of different sizes, with the features and splits of TFDS's own."""
    classes, version, splits = {
        "oxford_flowers102": (102, "2.1.1", ("train", "test", "validation")),
        "tf_flowers": (5, "3.0.1", ("train",)),
    }[name]

    def info(self):
        features = {
            "image": published.features.Image(),
            "label": published.features.ClassLabel(num_classes=classes),
            **({"file_name": published.features.Text()} if name == "oxford_flowers102" else {}),
        }
        return published.core.DatasetInfo(builder=self, features=published.features.FeaturesDict(features))

    def examples(number):
        for i in range(number, len(pictures), len(splits)):
            row = {"image": Image.fromarray(pictures[i]), "label": i % classes, "file_name": str(i)}
            yield i, {k: v for k, v in row.items() if k in ("image", "label") or name == "oxford_flowers102"}

    members = {
        "name": name,
        "__module__": __name__,
        "VERSION": published.core.Version(version),
        "_info": info,
        "_split_generators": lambda self, downloads: {s: examples(i) for i, s in enumerate(splits)},
        "_generate_examples": lambda self: iter(()),
    }
    kind = type("Flowers", (published.core.GeneratorBasedBuilder,), members, skip_registration=True)
    kind(data_dir=str(home / "data"), file_format="array_record").download_and_prepare()


def uneven(count: int, seed: int) -> list[np.ndarray]:
    return [noise(1, 70 + i, 90 - i, 3, seed=seed + i)[0] for i in range(count)]


@pytest.fixture
def examples() -> tuple[np.ndarray, np.ndarray]:
    """25 pictures of 64×64 of each superclass but three flowers, and as many of none."""
    _, labels = synsets()
    y = np.repeat(labels, [3 if name == "flowers" else 25 for name in (*NAMES, "none")])
    return noise(len(y), 64, 64, 3), y


def test_it_is_made_of_the_tree_of_tfds_and_filled_up_with_flowers(home, examples, capsys):
    resized(home, *examples)
    flower_tree(home, "oxford_flowers102", uneven(12, seed=0))
    capsys.readouterr()
    _, said = pictures.prepare("small_imagenet")
    assert said == [
        "small_imagenet: 12 flowers from oxford_flowers102",
        "small_imagenet: flowers has 15 pictures, not 22",
    ]
    splits = pictures.load(described()).splits
    images, labels = examples
    order, table = small_imagenet._ilsvrc(), small_imagenet.table()
    known = {
        picture.tobytes(): NAMES.index(table[order[y]])
        for picture, y in zip(small_imagenet.small(images), labels, strict=True)
        if order[y] in table
    }
    flowers = 0
    for inputs, found in splits.values():
        for picture, label in zip(inputs, found, strict=True):
            flowers += picture.tobytes() not in known
            assert label == known.get(picture.tobytes(), NAMES.index("flowers"))
    assert flowers == 12


def test_a_second_set_of_flowers_fills_up_what_the_first_leaves_missing(home, examples, capsys):
    """Of 22 flowers ImageNet has 3 and the first set 12; of the second's 15 those 7 with the smallest digests come."""
    resized(home, *examples)
    first, second = uneven(12, seed=0), uneven(15, seed=100)
    flower_tree(home, "tf_flowers", [*second, first[0]])
    flower_tree(home, "oxford_flowers102", [*first, first[0]])
    capsys.readouterr()
    _, said = pictures.prepare("small_imagenet")
    assert said == ["small_imagenet: 12 flowers from oxford_flowers102", "small_imagenet: 7 flowers from tf_flowers"]

    def digests(some: list[np.ndarray]) -> list[bytes]:
        small = [small_imagenet.small(image[None])[0].tobytes() for image in some]
        return sorted(hashlib.blake2b(pixels, digest_size=16).digest() for pixels in small)

    splits = pictures.load(described()).splits.values()
    flowers = [x for inputs, labels in splits for x in inputs[labels == NAMES.index("flowers")]]
    there = {hashlib.blake2b(x.tobytes(), digest_size=16).digest() for x in flowers}
    assert len(there) == 22
    assert there >= {*digests(first), *digests(second)[:7]}
    assert not there & {*digests(second)[7:]}


def test_flowers_from_the_second_set_alone(home, examples, capsys):
    resized(home, *examples)
    flower_tree(home, "tf_flowers", uneven(5, seed=0))
    capsys.readouterr()
    assert pictures.prepare("small_imagenet")[1] == [
        "small_imagenet: 5 flowers from tf_flowers",
        "small_imagenet: flowers has 8 pictures, not 22",
    ]


def test_it_is_made_of_the_published_zip_files_and_gives_the_same(home, examples, monkeypatch):
    """Labels count from 1 there, and pixels lie colour by colour."""
    images, labels = examples
    resized(home, *examples)
    (home / "zips").mkdir()
    for name, part in zip(small_imagenet._ZIPS, (slice(None, 100), slice(100, None)), strict=True):
        held = io.BytesIO()
        np.savez(held, data=images[part].transpose(0, 3, 1, 2).reshape(-1, 3 * 64 * 64), labels=labels[part] + 1)
        with zipfile.ZipFile(home / "zips" / name, "w") as made:
            made.writestr("some/train_data_batch_1.npz", held.getvalue())
    with pytest.raises(InputError, match=r"its SHA-256 is .* as TFDS registers"):
        pictures.prepare("small_imagenet", home / "zips", str(home / "other"))
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (home / "zips").iterdir()}
    monkeypatch.setattr(small_imagenet, "_registered", lambda: sums)
    pictures.prepare("small_imagenet", home / "zips", str(home / "other"))
    pictures.prepare("small_imagenet")
    one, other = (pictures.load(described(data_dir=d)).splits for d in (None, str(home / "other")))
    for split in one:
        np.testing.assert_array_equal(one[split][0], other[split][0])
        np.testing.assert_array_equal(one[split][1], other[split][1])


def test_what_tfds_registers_covers_the_zip_files():
    assert set(small_imagenet._ZIPS) <= small_imagenet._registered().keys()


def test_without_anything_to_make_it_of_it_says_what_to_do(home):
    with pytest.raises(InputError, match="imagenet_resized/64x64 is not prepared") as error:
        pictures.prepare("small_imagenet")
    assert "--from" in str(error.value)
    (home / "zips").mkdir()
    with pytest.raises(InputError, match=r"part1_npz\.zip and Imagenet64_train_part2_npz\.zip missing"):
        pictures.prepare("small_imagenet", home / "zips")
