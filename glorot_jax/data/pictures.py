"""Real data sets from description to arrays: how each is split, ordered and kept ready; what the ``data`` verbs do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glorot_jax import specs
from glorot_jax.data import cache, digits, tfds
from glorot_jax.data.originals import ORIGINALS, Original
from glorot_jax.errors import InputError, unknown

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """A data set in memory.

    Attributes:
        title: for people.
        splits: split name -> (inputs uint8 [n, …], labels [n]), in ``order``.
        class_names: in label order.
        order: in words, how the examples lie.
        source: where they came from.
    """

    title: str
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    order: str
    source: str


def load(spec: Any, progress: tfds.Progress = tfds.silent, *, anew: bool = False) -> Pictures:
    """Returns the data set that a description names, as it is prepared on this machine.

    Args:
        anew: decode it from the disk although the decoded examples are kept.

    Raises:
        InputError: it is not prepared, or damaged; the line says what to do.
    """
    return _LOADERS[type(spec).__name__](spec, progress, anew)


def three_splits(spec: Any, found: Pictures) -> tuple[Split, Split, Split]:
    """Returns training, validation and test examples.

    The validation set is the last ``validation`` training examples, as in the paper's sizes; a set of TFDS that brings
    a validation split beside a test split keeps it unless ``validation`` says otherwise.
    """
    splits = found.splits
    test, held = _held_out(spec, {name: len(y) for name, (_, y) in splits.items()}, found.source)
    train = splits["train"]
    if not held:
        return train, splits["validation"], splits[test]
    return (train[0][:-held], train[1][:-held]), (train[0][-held:], train[1][-held:]), splits[test]


def _held_out(spec: Any, sizes: Mapping[str, int], source: object) -> tuple[str, int]:
    """The split to test on, and how many of the last training examples are for validation; 0 if a split of its own is.

    Raises:
        InputError: a split is missing, or there are too few training examples.
    """
    test = next((name for name in ("test", "validation") if name in sizes), None)
    if "train" not in sizes or test is None:
        raise InputError(f"data: {source}: it has no {'train' if test else 'test'} split, only {', '.join(sizes)}")
    count, wanted = sizes["train"], getattr(spec, "validation", None)
    if wanted is None and "validation" in sizes and test != "validation":
        return test, 0
    wanted = min(10_000, count // 6) if wanted is None else wanted
    if not 0 < wanted < count:
        raise InputError(f"data.validation: {wanted} is not an integer from 1 to {count - 1}")
    return test, wanted


def size(spec: Any) -> int:
    """Returns the bytes that the examples take on a device, found without reading them; 0 if not prepared."""
    if isinstance(spec, specs.digits):
        return digits.COUNT * (64 + 4)
    tree = _tree(spec)
    if tree is None:
        return 0
    test, held = _held_out(spec, tree.sizes, tree.path)
    count = tree.sizes[test] + (held or tree.sizes["validation"])
    if spec.placement == "device":
        count += tree.sizes["train"] - held
    return count * (math.prod(tree.shape) + 4)


def source(spec: Any) -> str | None:
    """Returns a text that changes when the files do that a description stands for here; None if it needs none."""
    tree = None if isinstance(spec, specs.digits) else _tree(spec)
    return f"{tree.path} {tree.digest}" if tree else None


def _tree(spec: Any) -> tfds.Tree | None:
    return tfds.find(_tree_name(spec), spec.data_dir)


# ---- one loader a kind


def _original(spec: Any, progress: tfds.Progress, anew: bool) -> Pictures:
    original = ORIGINALS[type(spec).__name__]
    tree = _prepared(spec)

    def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        splits = {split: _in_order(tree, split, progress) for split in original.sizes}
        wrong = [] if all(len(splits[s][1]) == n for s, n in original.sizes.items()) else list(original.files)
        wrong = wrong or original.wrong(splits)
        if wrong:
            raise InputError(
                f"data: {tree.path}: its pictures are not those of {original.title} as published ({wrong[0]} differs)",
                "move that folder away and prepare the data set again",
            )
        return _flat(splits), {}

    arrays, _ = cache.load(original.name, tree.digest, make, anew=anew)
    order = "the published order (TFDS's shuffle undone)"
    return Pictures(original.title, _nested(arrays), original.class_names, order, str(tree.path))


def _in_order(tree: tfds.Tree, split: str, progress: tfds.Progress) -> Split:
    found = tfds.read(tree, split, progress)
    place = tfds.original_order(split, len(found["labels"]))
    return found["inputs"][place], found["labels"][place].astype(np.uint8)


def _tfds(spec: Any, progress: tfds.Progress, anew: bool) -> Pictures:
    tree = _prepared(spec)

    def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        found = {split: tfds.read(tree, split, progress) for split in tree.sizes if split in _USED}
        ordered = all("ids" in f for f in found.values())
        splits = {}
        for split, f in found.items():
            splits[split] = _sorted(f) if ordered else (f["inputs"], f["labels"])
        order = (
            "sorted by the examples' id" if ordered else "TFDS's order on disk, a fixed shuffle of the published one"
        )
        order = _ORDERS.get(type(spec).__name__, order)
        return _flat(splits), {"order": order, "class_names": tfds.class_names(tree)}

    arrays, facts = cache.load(f"tfds-{_tree_name(spec)}", tree.digest, make, anew=anew)
    names = tuple(facts["class_names"])
    return Pictures(_tree_name(spec), _nested(arrays), names, facts["order"], str(tree.path))


def _sorted(found: Mapping[str, np.ndarray]) -> Split:
    """A split in the order of its examples' ids."""
    place = np.argsort(found["ids"], kind="stable")
    inputs = cache.room(found["inputs"].shape, found["inputs"].dtype)
    return np.take(found["inputs"], place, axis=0, out=inputs, mode="clip"), found["labels"][place]


_USED = ("train", "validation", "test")
_ORDERS = {"small_imagenet": "by a digest of each picture's pixels"}


def _digits(spec: Any, progress: tfds.Progress, anew: bool) -> Pictures:
    levels, labels = digits.table()
    inputs = np.round(levels * (255 / 16)).astype(np.uint8)[..., None]
    test = spec.test
    splits = {"train": (inputs[:-test], labels[:-test]), "test": (inputs[-test:], labels[-test:])}
    return Pictures("digits", splits, tuple("0123456789"), "the published order", "this package")


_LOADERS: dict[str, Callable[[Any, tfds.Progress, bool], Pictures]] = {
    **dict.fromkeys(ORIGINALS, _original),
    "tfds": _tfds,
    "small_imagenet": _tfds,
    "digits": _digits,
}


def _flat(splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
    return {f"{s}-{part}": a for s, pair in splits.items() for part, a in zip(("inputs", "labels"), pair, strict=True)}


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Split]:
    names = dict.fromkeys(key.rpartition("-")[0] for key in arrays)
    return {name: (arrays[f"{name}-inputs"], arrays[f"{name}-labels"]) for name in names}


def _tree_name(spec: Any) -> str:
    return spec.name if isinstance(spec, specs.tfds) else type(spec).__name__


def _prepared(spec: Any) -> tfds.Tree:
    name, tree = _tree_name(spec), _tree(spec)
    if tree is None:
        raise InputError(
            f"data: {name} is not prepared in {tfds.data_folder(spec.data_dir)}",
            f"glorot data prepare {name}; without a network glorot data prepare {name} --from PATH",
        )
    return tree


# ---- the verbs of ``glorot data``


def describe(name: str, data_dir: str | None = None) -> Any:
    """Returns the description that a name on the command line stands for: one of ours, or a prepared tree of TFDS.

    Raises:
        InputError: there is no such data set.
    """
    if name in ("shapeset", "digits"):
        return getattr(specs, name)()
    if name in NAMES:
        return getattr(specs, name)(data_dir=data_dir)
    if name.partition(":")[0] not in prepared_names(data_dir):
        raise unknown("name", name, (*NAMES, *prepared_names(data_dir)))
    return specs.tfds(name, data_dir=data_dir)


NAMES = ("shapeset", *ORIGINALS, "digits", "small_imagenet")


def prepared_names(data_dir: str | None = None) -> list[str]:
    """Returns the data sets of TFDS that are prepared on this machine and are not named by one of ours."""
    root = tfds.data_folder(data_dir)
    found = {p.parent.parent.relative_to(root).as_posix() for p in root.glob("*/*/dataset_info.json")}
    found |= {p.parent.parent.relative_to(root).as_posix() for p in root.glob("*/*/*/dataset_info.json")}
    return sorted(n for n in found - set(NAMES) if not n.startswith("."))


def listing(data_dir: str | None = None) -> list[dict[str, str]]:
    """Returns a row a data set: its name, whether it is ready, and its first line."""
    rows = []
    for name in (*NAMES, *prepared_names(data_dir)):
        kind = getattr(specs, name, specs.tfds) if name in NAMES else specs.tfds
        rows.append({"name": name, "state": _state(name, data_dir), "what": (kind.__doc__ or "").splitlines()[0]})
    return rows


def _state(name: str, data_dir: str | None) -> str:
    if name == "shapeset":
        return "drawn"
    if name == "digits":
        return "ready"
    try:
        return "ready" if tfds.find(name, data_dir) else "not prepared"
    except InputError:
        return "unreadable"


def prepare(
    name: str, source: str | Path | None = None, data_dir: str | None = None, progress: tfds.Progress = tfds.silent
) -> tuple[str, list[str]]:
    """Prepares a data set and returns where it is, with what there is to say.

    Args:
        name: ``glorot data list``.
        source: files, a folder or a package to take it from; downloaded if not said.
        data_dir: where trees of TFDS are.

    Raises:
        InputError: the source is missing, damaged or something else; nothing was left behind.
        ResumableError: a download broke off; the same command goes on.
    """
    if name in ("shapeset", "digits"):
        return name, [f"{name}: nothing to prepare"]
    if name == "small_imagenet":
        from glorot_jax.data import small_imagenet

        return small_imagenet.prepare(source, data_dir, progress)
    if name not in ORIGINALS:
        tree = tfds.find(name, data_dir)
        if tree is None:
            raise _by_tfds(name)
        return str(tree.path), [f"{name}: already prepared"]
    original = ORIGINALS[name]
    tree = tfds.find(name, data_dir)
    said = [f"{name}: already prepared"] if tree else []
    if tree is None:
        _write(original, source, data_dir, progress)
    spec = describe(name, data_dir)
    load(spec, progress)  # verified to the last bit, and in the cache for the first sweep
    return str(_prepared(spec).path), said


def _write(original: Original, source: str | Path | None, data_dir: str | None, progress: tfds.Progress) -> None:
    place = Path(source) if source is not None else tfds.download(original, data_dir, progress)
    progress("reading files", 0, 1)
    splits = original.read(place)
    progress("reading files", 1, 1)
    tfds.write(original, splits, data_dir, progress)


def _by_tfds(name: str) -> InputError:
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    return InputError(
        f"name: {name!r} is not known",
        f"{f'{near[0]!r}? ' if near else ''}known: {', '.join(NAMES)}; any other is prepared by TFDS itself, "
        f"where TensorFlow is installed: tfds build {name} --file_format=array_record",
    )


def check(name: str, data_dir: str | None = None, progress: tfds.Progress = tfds.silent) -> dict[str, Any]:
    """Returns what is in a data set: for each split on the disk its number of examples and how many each class has.

    The decoded pictures of a set that is known byte for byte were compared with the published files' SHA-256.
    """
    spec = describe(name, data_dir)
    if isinstance(spec, specs.shapeset):
        raise InputError("name: shapeset is drawn anew for every step, there is nothing to check")
    found = load(spec, progress, anew=True)
    known = name in ORIGINALS
    return {
        "name": name,
        "source": found.source,
        "shape": list(found.splits["train"][0].shape[1:]),
        "order": found.order,
        "checksums": "as published" if known else "none published; counted only",
        "classes": list(found.class_names),
        "splits": {
            part: {"examples": len(y), "per_class": np.bincount(y, minlength=len(found.class_names)).tolist()}
            for part, (_, y) in found.splits.items()
        },
    }


def checked_text(found: Mapping[str, Any]) -> str:
    """Returns what ``check`` found as lines for a person."""
    shape = "×".join(map(str, found["shape"]))
    lines = [
        f"{found['name']}: {shape}, {len(found['classes'])} classes, from {found['source']}",
        f"  order: {found['order']}",
        f"  checksums: {found['checksums']}",
    ]
    few = len(found["classes"]) <= 20
    for part, facts in found["splits"].items():
        counts = facts["per_class"]
        each = " ".join(map(str, counts)) if few else f"{min(counts)} to {max(counts)}"
        lines.append(f"  {part:<10} {facts['examples']:>9,} examples, per class {each}")
    return "\n".join(lines)


def sample(
    spec: Any, count: int, seed: int = 0, size: int = 64, progress: tfds.Progress = tfds.silent
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns random training examples: images [count, height, width(, 3)], labels, and the names of all classes.

    Args:
        size: side of Shapeset's images; others have a size of their own.
    """
    if isinstance(spec, specs.shapeset):
        import jax

        from glorot_jax.data import shapeset

        images, labels = shapeset.draw(jax.random.key(seed), count, size)
        return np.asarray(images), np.asarray(labels), shapeset.CLASSES
    found = load(spec, progress)
    inputs, labels = found.splits["train"]
    at = np.random.default_rng(seed).choice(len(labels), min(count, len(labels)), replace=False)
    images = inputs[at]
    return images[..., 0] if images.shape[-1] == 1 else images, labels[at], found.class_names
