"""A declared substitute for the paper's Small-ImageNet: ten superclasses of ILSVRC 2012, grey, 37×37.

A synset belongs to the superclass whose root lies above it in WordNet 3.0 (``small_imagenet.csv``); the digits of a
synset's name are its place in WordNet's ``data.noun`` (Debian: ``wordnet-base``), from which the table was derived by

    python -m glorot_jax.data.small_imagenet derive DATA.NOUN > glorot_jax/data/small_imagenet.csv

Pictures are chosen and ordered by a digest of their own pixels, so that it does not matter in which order they come.

Source: Glorot & Bengio (2010), section 2.2; Chrabaszcz, Loshchilov & Hutter (2017), arXiv:1707.08819.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import math
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glorot_jax.data import tfds
from glorot_jax.errors import InputError

ROOTS = {
    "reptiles": ("01661091",),
    "vehicles": ("04524313",),
    "birds": ("01503061",),
    "mammals": ("01861778",),
    "fish": ("02512053",),
    "furniture": ("03405725",),
    "instruments": ("03800933",),
    "tools": ("04451818",),
    "flowers": ("11669921",),
    "fruits": ("13134947", "07705931"),
}
"""WordNet 3.0's synset above each superclass: musical instruments; fruits as parts of plants and as food."""
CLASSES = tuple(ROOTS)
SIDE = 37
PER_CLASS = 11_000
HELD_OUT = 11
"""One picture in so many is for validation, and one for the test: 1000 of 11 000."""

_BASE = "imagenet_resized/64x64"
_FLOWERS = ("oxford_flowers102", "tf_flowers")
"""Sets of TFDS with flowers in all their splits, in the order in which they fill up what is missing."""
_LUMA = np.array([0.299, 0.587, 0.114])
"""Source: ITU-R BT.601."""


# ---- the table


def table() -> dict[str, str]:
    """Returns the superclass of each synset that has one."""
    path = Path(__file__).with_suffix(".csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["synset"]: row["superclass"] for row in csv.DictReader(file)}


def derive(data_noun: str | Path, synsets: list[str]) -> dict[str, str]:
    """Returns the superclass of each synset that has one, from WordNet's own file.

    Args:
        data_noun: WordNet 3.0's ``data.noun``.
        synsets: such as ``n02084071``.
    """
    above: dict[str, list[str]] = {}
    for line in Path(data_noun).read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):  # so begins the licence
            words = line.partition("|")[0].split()
            pointers = words[4 + 2 * int(words[3], 16) + 1 :]
            above[words[0]] = [at for kind, at in zip(pointers[::4], pointers[1::4], strict=True) if kind in "@i"]
    return {s: found for s in synsets if (found := _superclass(s[1:], above))}


def _superclass(synset: str, above: Mapping[str, list[str]]) -> str | None:
    seen, edge = set(), {synset}
    while edge:
        seen |= edge
        edge = {up for one in edge for up in above[one]} - seen
    return next((name for name, roots in ROOTS.items() if seen & set(roots)), None)


def _ilsvrc() -> list[str]:
    """The thousand synsets of ILSVRC 2012 in ``imagenet_resized``'s order of labels."""
    import tensorflow_datasets

    path = tensorflow_datasets.core.tfds_path("image_classification/imagenet_resized_labels.txt")
    return path.read_text().split()


# ---- pictures


def small(images: np.ndarray) -> np.ndarray:
    """Returns grey pictures of 37×37 bytes: luma, then the mean over the area of each new pixel.

    Args:
        images: [n, height, width] or [n, height, width, 1 or 3], uint8; what is not square is cut to its middle.
    """
    if images.ndim == 4:
        images = images[..., 0] if images.shape[-1] == 1 else images @ _LUMA
    side = min(images.shape[1:3])
    top, left = ((size - side) // 2 for size in images.shape[1:3])
    if side == SIDE and images.dtype == np.uint8:
        return images[:, top : top + side, left : left + side]
    mean = _areas(side)
    made = mean @ images[:, top : top + side, left : left + side] @ mean.T
    return np.round(made).astype(np.uint8)


def _areas(side: int) -> np.ndarray:
    """[37, side]: which share of each new pixel every old one covers."""
    edges = np.linspace(0, side, SIDE + 1)
    old = np.arange(side)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.maximum(overlap, 0) * SIDE / side


def _digested(images: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yields each picture made small, and a digest of its pixels."""
    for picture in small(images):
        yield hashlib.blake2b(picture.tobytes(), digest_size=16).digest(), picture.copy()


class _Chosen:
    """Of each superclass the ``PER_CLASS`` pictures whose pixels have the smallest digests."""

    def __init__(self) -> None:
        self._kept: list[dict[bytes, np.ndarray]] = [{} for _ in CLASSES]

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        for (digest, picture), label in zip(_digested(images), labels, strict=True):
            kept = self._kept[label]
            kept[digest] = picture
            if len(kept) >= 2 * PER_CLASS:
                self._kept[label] = self._smallest(kept)

    def fill(self, label: int, images: Iterable[np.ndarray]) -> int:
        """Adds what a superclass lacks, again the pictures with the smallest digests; returns how many it took."""
        kept, missing = self._kept[label], PER_CLASS - len(self._kept[label])
        if missing <= 0:
            return 0
        found = {digest: picture for image in images for digest, picture in _digested(image[None])}
        taken = sorted(found.keys() - kept.keys())[:missing]
        kept.update((digest, found[digest]) for digest in taken)
        return len(taken)

    @staticmethod
    def _smallest(kept: dict[bytes, np.ndarray]) -> dict[bytes, np.ndarray]:
        return {digest: kept[digest] for digest in sorted(kept)[:PER_CLASS]}

    def splits(self) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[int]]:
        """Returns the splits, each in the order of the digests, and how many pictures each superclass has."""
        parts: dict[str, list[tuple[bytes, int, np.ndarray]]] = {"train": [], "validation": [], "test": []}
        counts = []
        for label, kept in enumerate(self._kept):
            rows = [(digest, label, picture) for digest, picture in self._smallest(kept).items()]
            held = len(rows) // HELD_OUT
            held -= held % 10 if held > 10 else 0  # a round number is evaluated in equal chunks
            parts["train"] += rows[: len(rows) - 2 * held]
            parts["validation"] += rows[len(rows) - 2 * held : len(rows) - held]
            parts["test"] += rows[len(rows) - held :]
            counts.append(len(rows))
        made = {}
        for split, rows in parts.items():
            rows.sort(key=lambda row: row[0])
            pixels = np.array([picture for *_, picture in rows], np.uint8).reshape(-1, SIDE, SIDE, 1)
            made[split] = pixels, np.array([label for _, label, _ in rows], np.uint8)
        return made, counts


# ---- where they come from

Batch = tuple[np.ndarray, np.ndarray]
"""Images and the index of their superclass."""


def _from_npz(path: Path) -> Iterator[Batch]:
    """Fields ``x`` [n, height, width(, 3)] uint8, ``y`` [n] and ``names``: superclass y[i] is called names[y[i]]."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            x, y, names = file["x"], file["y"], [str(n) for n in file["names"]]
    except KeyError as error:
        raise InputError(
            f"from: {path}: {str(error.args[0]).split()[0]} is missing", "it needs x, y and names"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"from: {path}: damaged, or not an .npz of plain arrays: {error}") from None
    unknown = [n for n in names if n not in CLASSES]
    fits = x.dtype == np.uint8 and x.ndim in (3, 4) and y.shape == x.shape[:1] and np.issubdtype(y.dtype, np.integer)
    if unknown or not fits or (y.size and not 0 <= y.min() <= y.max() < len(names)):
        what = f"{unknown[0]!r} is not a superclass" if unknown else "x, y and names don't fit each other"
        raise InputError(
            f"from: {path}: {what}",
            f"x: [n, height, width] bytes, y: [n], an index into names; names: {', '.join(CLASSES)}",
        )
    known = np.array([CLASSES.index(n) for n in names])
    for start in range(0, len(y), 1000):
        yield x[start : start + 1000], known[y[start : start + 1000]]


def _from_tree(tree: tfds.Tree, progress: tfds.Progress) -> Iterator[Batch]:
    synsets = tfds.class_names(tree)
    for images, labels in tfds.batches(tree, "train", progress):
        yield from _of_superclasses(images, labels, synsets)


def _of_superclasses(images: np.ndarray, labels: np.ndarray, synsets: tuple[str, ...]) -> Iterator[Batch]:
    indices = _superclasses(synsets)[labels]
    yield images[indices >= 0], indices[indices >= 0]


@functools.cache
def _superclasses(synsets: tuple[str, ...]) -> np.ndarray:
    """The index of each synset's superclass, −1 for none."""
    known = table()
    return np.array([CLASSES.index(known[s]) if s in known else -1 for s in synsets])


_ZIPS = ("Imagenet64_train_part1_npz.zip", "Imagenet64_train_part2_npz.zip")


def _from_zips(folder: Path, progress: tfds.Progress) -> Iterator[Batch]:
    """The published files of ``imagenet_resized/64x64``'s training split."""
    synsets = tuple(_ilsvrc())
    for number, name in enumerate(_ZIPS):
        progress("verifying", number, len(_ZIPS))
        tfds.verify(folder / name, _registered()[name])
    for name in _ZIPS:
        with zipfile.ZipFile(folder / name) as archive:
            members = [m for m in archive.namelist() if m.endswith(".npz")]
            for number, member in enumerate(members):
                with archive.open(member) as packed, zipfile.ZipFile(packed) as arrays:
                    labels = _array(arrays, "labels").astype(np.int64) - 1
                    for start, rows in _array_in_parts(arrays, "data"):
                        part = rows.reshape(-1, 3, 64, 64).transpose(0, 2, 3, 1)
                        yield from _of_superclasses(part, labels[start : start + len(part)], synsets)
                progress(f"reading {name}", number + 1, len(members))


def _array(arrays: zipfile.ZipFile, name: str) -> np.ndarray:
    with arrays.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _array_in_parts(arrays: zipfile.ZipFile, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields a thousand rows at a time, and where they begin, of an array of bytes that is larger than is held."""
    with arrays.open(f"{name}.npy") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        (count, *shape), _, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape) * dtype.itemsize
        for start in range(0, count, 1000):
            rows = min(1000, count - start)
            yield start, np.frombuffer(file.read(rows * size), dtype).reshape(rows, *shape)


def _registered() -> dict[str, str]:
    """SHA-256 of the published files by name, as TFDS registers them."""
    from tensorflow_datasets.datasets.imagenet_resized import imagenet_resized_dataset_builder as module

    return {url.rpartition("/")[2]: info.checksum for url, info in module.Builder.url_infos.items()}


def _flowers(data_dir: str | None, chosen: _Chosen, progress: tfds.Progress) -> dict[str, int]:
    """Fills up the class that ImageNet has little of from flower sets that are prepared; returns what each gave."""
    used = {}
    for name in _FLOWERS:
        tree = tfds.find(name, data_dir, any_size=True)
        if tree:
            images = itertools.chain.from_iterable(tfds.images(tree, split, progress) for split in tree.sizes)
            used[name] = chosen.fill(CLASSES.index("flowers"), images)
    return used


def prepare(source: str | Path | None, data_dir: str | None, progress: tfds.Progress) -> tuple[str, list[str]]:
    """Prepares the data set and returns where it is, with a line for each superclass that is short of pictures.

    Args:
        source: an ``.npz`` of ``x``, ``y`` and ``names``, or a folder with the zip files of ``imagenet_resized``'s
            64×64 training split; if not said, TFDS's tree of ``imagenet_resized/64x64``.
    """
    there = tfds.find("small_imagenet", data_dir)
    if there:
        return str(there.path), ["small_imagenet: already prepared"]
    chosen, said = _Chosen(), []
    for images, labels in _batches(source, data_dir, progress):
        chosen.add(images, labels)
    if source is None or Path(source).is_dir():
        used = _flowers(data_dir, chosen, progress)
        said += [f"small_imagenet: {count:,} flowers from {name}" for name, count in used.items() if count]
    splits, counts = chosen.splits()
    if not len(splits["test"][1]):
        raise InputError(f"from: {source}: too few pictures for a test set: {sum(counts)}")
    path = tfds.build(_builder(splits, progress), CLASSES, data_dir)
    short = [(name, n) for name, n in zip(CLASSES, counts, strict=True) if n < PER_CLASS]
    said += [f"small_imagenet: {name} has {n:,} pictures, not {PER_CLASS:,}" for name, n in short]
    return str(path), said


def _batches(source: str | Path | None, data_dir: str | None, progress: tfds.Progress) -> Iterator[Batch]:
    if source is None:
        tree = tfds.find(_BASE, data_dir)
        if tree is None:
            raise InputError(
                f"data: {_BASE} is not prepared in {tfds.data_folder(data_dir)}",
                f"prepare it with TFDS, or say --from a folder of {' and '.join(_ZIPS)}, or an .npz of x, y, names",
            )
        return _from_tree(tree, progress)
    path = Path(source)
    if path.is_dir():
        missing = [name for name in _ZIPS if not (path / name).is_file()]
        if missing:
            raise InputError(f"from: {path}: {' and '.join(missing)} missing", "as imagenet_resized publishes them")
        return _from_zips(path, progress)
    if not path.is_file():
        raise InputError(f"from: {path}: no such file or folder")
    return _from_npz(path)


def _builder(splits: Mapping[str, tuple[np.ndarray, np.ndarray]], progress: tfds.Progress) -> type:
    """A builder of TFDS that keeps the order of its examples."""
    import tensorflow_datasets

    def info(self: Any) -> Any:
        features = {
            "image": tensorflow_datasets.features.Image(shape=(SIDE, SIDE, 1)),
            "label": tensorflow_datasets.features.ClassLabel(num_classes=len(CLASSES)),
        }
        return tensorflow_datasets.core.DatasetInfo(
            builder=self,
            description=(__doc__ or "").partition("\n")[0],
            features=tensorflow_datasets.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    members = {
        "name": "small_imagenet",
        "__module__": __name__,
        "VERSION": tensorflow_datasets.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": tfds.generators(splits, False, progress),
        "_generate_examples": lambda self: iter(()),
    }
    return type("SmallImagenet", (tensorflow_datasets.core.GeneratorBasedBuilder,), members, skip_registration=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "derive":
        sys.exit("usage: python -m glorot_jax.data.small_imagenet derive DATA.NOUN")
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("synset", "superclass"))
    rows.writerows(derive(sys.argv[2], _ilsvrc()).items())
