"""TensorFlow Datasets without TensorFlow: trees of array_record files, written by us, read by anybody.

A tree that ``write`` leaves has the features, version and order that TFDS's own builder gives it, so that plain
``tfds.data_source(name, data_dir=…)`` reads it. TFDS shuffles when it writes, by a digest of each example's key; where
the key is the example's number, as in MNIST and CIFAR-10, that shuffle is undone and the published order is back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import io
import itertools
import json
import logging
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glorot_jax.data import cache
from glorot_jax.data.originals import Original, Split
from glorot_jax.errors import InputError, ResumableError
from glorot_jax.files import TEMPORARY, flush, full_disk
from glorot_jax.files import write as write_file

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""

PATIENCE = 5.0
"""Seconds that a server has to answer at all."""
CHUNK = 2_000
"""Examples decoded at a time."""


def silent(text: str, done: int, total: int) -> None:
    """Tells nobody."""


def data_folder(data_dir: str | None) -> Path:
    """Returns where trees are: what was said, else as TFDS has it, ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


# ---- finding trees


@dataclass(frozen=True)
class Tree:
    """A prepared data set on the disk.

    Attributes:
        path: its folder, such as ``mnist/3.0.1``.
        sizes: examples of each split.
        shape: of an input.
    """

    path: Path
    sizes: Mapping[str, int]
    shape: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that change when a file of the tree does."""
        files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in self.path.iterdir())
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8]


def find(name: str, data_dir: str | None, *, any_size: bool = False) -> Tree | None:
    """Returns the newest tree of ``name``, which may hold a config and a version (``a``, ``a/b``, ``a:1.0.0``).

    Args:
        any_size: its images may differ in size; ``shape`` is then empty.

    Raises:
        InputError: there is one, but it can't be read without TensorFlow, or it is damaged.
    """
    plain, _, version = name.partition(":")
    folder = data_folder(data_dir) / plain
    found = [p for p in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name)] if folder.is_dir() else []
    found = [p for p in found if not version or p.name == version]
    if not found:
        return None
    path = max(found, key=lambda p: tuple(map(int, p.name.split("."))))
    try:
        info = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))
        splits = {s["name"]: sum(map(int, s["shardLengths"])) for s in info["splits"]}
        form = info.get("fileFormat", "tfrecord")
        features = json.loads((path / "features.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    if form != "array_record":
        raise InputError(
            f"data: {path}: its files are {form}, which needs TensorFlow to be read",
            f"glorot data prepare {name} --data-dir another folder, or TFDS with file_format='array_record'",
        )
    return Tree(path, splits, () if any_size else _image_shape(path, features))


def _image_shape(path: Path, features: Mapping[str, Any]) -> tuple[int, ...]:
    try:
        entries = features["featuresDict"]["features"]
        (image,) = (f["image"]["shape"]["dimensions"] for f in entries.values() if "image" in f)
        shape = tuple(int(d) for d in image)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"data: {path}: its examples don't hold one image each", "use arrays(…) for such data"
        ) from None
    if min(shape, default=0) < 1:
        raise InputError(f"data: {path}: its images differ in size", "resize them and use arrays(…)")
    return shape


def _damaged(path: Path, error: object) -> InputError:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"data: {path}: damaged: {said}", "move that folder away and prepare the data set again")


# ---- reading


def read(tree: Tree, split: str, progress: Progress = silent) -> dict[str, np.ndarray]:
    """Returns a split as it lies on the disk: ``inputs`` uint8, ``labels`` int32, and ``ids`` if examples have one.

    Raises:
        InputError: the tree lacks the split, is damaged, or is not labelled images.
    """
    count = tree.sizes.get(split, 0)
    inputs, labels, ids = cache.room((count, *tree.shape), np.uint8), np.empty(count, np.int32), []
    for start, rows in _rows(tree, split, progress):
        here = slice(start, start + len(rows))
        inputs[here], labels[here] = [row["image"] for row in rows], [row["label"] for row in rows]
        ids += [row["id"] for row in rows if "id" in row]
    if labels.min(initial=0) < 0:
        raise InputError(f"data: {tree.path}: its {split} split is not labelled", "use a labelled split or arrays(…)")
    found = {"inputs": inputs, "labels": labels}
    return found | {"ids": np.array(ids)} if len(ids) == count else found


def batches(tree: Tree, split: str, progress: Progress = silent) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images [n, …] and labels [n] of a split too large to be held at once; raises as ``read``."""
    for _, rows in _rows(tree, split, progress):
        yield np.array([row["image"] for row in rows]), np.array([row["label"] for row in rows])


def images(tree: Tree, split: str, progress: Progress = silent) -> Iterator[np.ndarray]:
    """Yields the images of a split one by one, whatever their sizes; raises as ``read``."""
    for _, rows in _rows(tree, split, progress):
        yield from (row["image"] for row in rows)


def _rows(tree: Tree, split: str, progress: Progress) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yields a place and the examples from there on, their image, label and ``id`` under these names."""
    if split not in tree.sizes:
        raise InputError(f"data: {tree.path}: it has no split {split!r}", f"its splits: {', '.join(tree.sizes)}")
    count = tree.sizes[split]
    for start in range(0, count, CHUNK):
        try:
            if not start:
                logging.getLogger("absl").addFilter(_no_advice)
                builder = _tfds().builder_from_directory(str(tree.path))
                image, label = _fields(builder.info.features, tree.path)
                source = builder.as_data_source(split=split)
            found = source.__getitems__(range(start, min(start + CHUNK, count)))
        except InputError:
            raise
        except Exception as error:  # whatever the reader of a torn file comes up with
            raise _damaged(tree.path, error) from error
        progress(f"decoding {split}", min(start + CHUNK, count), count)
        yield start, [{"image": row[image], "label": row[label], **_number(row)} for row in found]


def _number(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row["id"]} if "id" in row else {}


def _no_advice(record: logging.LogRecord) -> bool:
    """TFDS recommends OpenCV at every reading; one reading is all that we do."""
    return "OpenCV" not in record.getMessage()


def class_names(tree: Tree) -> tuple[str, ...]:
    """Returns the names of the classes in label order, as the tree's features have them."""
    features = _tfds().builder_from_directory(str(tree.path)).info.features
    return tuple(features[_fields(features, tree.path)[1]].names)


def _fields(features: Any, path: Path) -> tuple[str, str]:
    """The names of the image and of the label: the supervised pair is the first of each kind."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = sorted((name for name, kind in kinds.items() if kind == "ClassLabel"), key=lambda n: (n != "label", n))
    if len(images) != 1 or not labels or features[images[0]].np_dtype != np.uint8:
        raise InputError(f"data: {path}: it is not images of bytes with a class each", "use arrays(…) for such data")
    return images[0], labels[0]


def original_order(split: str, count: int) -> np.ndarray:
    """Returns where on the disk example 0, 1, … lies if TFDS shuffled by the examples' numbers.

    Source: TensorFlow Datasets, core/shuffle.py: sorted by the MD5 of the split's name followed by the key.
    """
    salt = hashlib.md5(split.encode(), usedforsecurity=False)

    def digest(number: int) -> bytes:
        own = salt.copy()
        own.update(str(number).encode())
        return own.digest()

    place = np.empty(count, np.int64)
    place[sorted(range(count), key=digest)] = np.arange(count)
    return place


# ---- writing


def write(original: Original, splits: Mapping[str, Split], data_dir: str | None, progress: Progress = silent) -> Path:
    """Writes the tree of a known data set as TFDS's own builder would, whole or not at all, and returns its folder."""
    module, name = original.builder
    base = getattr(_tfds(module), name)
    made = generators(splits, original.numbered, progress)
    members = {"name": original.name, "__module__": module, "_split_generators": made}
    kind = type(name, (base,), members, skip_registration=True)
    return build(kind, original.class_names, data_dir)


def generators(splits: Mapping[str, Split], numbered: bool, progress: Progress) -> Callable:
    """Returns the method of a builder that yields these examples, by number and, if ``numbered``, with it."""
    total, done = sum(len(y) for _, y in splits.values()), itertools.count(1)

    def examples(split: str, inputs: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        from PIL import Image

        for i, (pixels, label) in enumerate(zip(inputs, labels, strict=True)):
            picture = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]))
            number = {"id": f"{split}_{i:05d}"} if numbered else {}
            yield i, {"image": picture, "label": int(label), **number}
            progress("writing", next(done), total)

    def split_generators(self: Any, downloads: Any) -> dict[str, Any]:
        return {split: examples(split, *pair) for split, pair in splits.items()}

    return split_generators


def build(kind: type, names: Sequence[str], data_dir: str | None) -> Path:
    """Runs a builder beside its goal and moves what it made there in one step.

    A folder that a killed run left behind is cleared by the next; two at once are refused.
    """
    tfds = _tfds()
    root = data_folder(data_dir)
    staging = root / f"{TEMPORARY}glorot-{kind.name}"
    with full_disk(root), _alone(staging):
        builder = kind(data_dir=str(staging), file_format="array_record")
        builder.info.features["label"].names = list(names)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        made = Path(builder.data_dir)
        goal = root / made.relative_to(staging)
        goal.parent.mkdir(parents=True, exist_ok=True)
        for path in (*made.iterdir(), made):
            flush(path)
        try:
            made.rename(goal)
        except OSError as error:
            raise InputError(
                f"data: {goal}: can't be put in place: {error.strerror}", "move that folder away"
            ) from None
        flush(goal.parent)
    return goal


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """An empty folder of one's own, gone at the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"data_dir: {folder.parent}: can't be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"data: {folder.parent}: another process is preparing this data set there") from None
        try:
            _clear(folder)
            yield
        finally:
            _clear(folder)
            folder.rmdir()
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _tfds(module: str = "tensorflow_datasets") -> Any:
    return importlib.import_module(module)


# ---- downloading


def download(original: Original, data_dir: str | None, progress: Progress = silent) -> Path:
    """Returns a folder with the published files, each checked against the SHA-256 that TFDS registers.

    What is there already is kept, so that a stopped download goes on with the next file.

    Raises:
        InputError: the server can't be reached, within seconds.
        ResumableError: it broke off or sent something else.
    """
    known = registered(original)
    folder = data_folder(data_dir) / "downloads" / "glorot_jax" / original.name
    for url in original.urls:
        sha256, size = known[url]
        path = folder / url.rpartition("/")[2]
        if path.is_file() and _sha256(path) == sha256:
            continue
        if not _answers(url):
            raise InputError(
                f"data: {original.name}: {url} can't be reached",
                f"glorot data prepare {original.name} --from PATH, with its files from elsewhere",
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, lambda p, url=url, size=size: _fetch(url, p, size, progress))
        if _sha256(path) != sha256:
            path.unlink()
            raise ResumableError(f"data: {url}: what came is not what TFDS registers; try again, or use --from PATH")
    return folder


def registered(original: Original) -> dict[str, tuple[str, int]]:
    """Returns SHA-256 and size of each of the published files by URL, as they are registered in TFDS."""
    module, name = original.builder
    return {url: (i.checksum, int(i.size)) for url, i in getattr(_tfds(module), name).url_infos.items()}


def _answers(url: str) -> bool:
    """Whether the server says anything within ``PATIENCE``; name servers that don't answer are not waited for."""
    heard: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            heard.append(True)
        except (OSError, ValueError):
            heard.append(False)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * PATIENCE)
    return bool(heard and heard[0])


def _fetch(url: str, path: Path, size: int, progress: Progress) -> None:
    try:
        with urllib.request.urlopen(url, timeout=4 * PATIENCE) as answer, path.open("wb") as file:
            while part := answer.read(2**20):
                file.write(part)
                progress(f"downloading {url.rpartition('/')[2]}", file.tell(), size)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ResumableError(f"data: {url}: broken off: {error}; the same command goes on") from None


def verify(path: Path, sha256: str) -> None:
    """Raises InputError if a file's SHA-256 is another."""
    found = _sha256(path)
    if found != sha256:
        raise InputError(f"from: {path}: its SHA-256 is {found[:12]}…, not {sha256[:12]}… as TFDS registers")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
