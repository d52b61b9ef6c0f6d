"""Objects of a store: whole or not there, replaced only where nobody else did, and patience while it is away."""

from __future__ import annotations

import sys
import tarfile
import threading
import time

import numpy as np
import pytest

from glorot_jax.errors import InputError, ResumableError
from glorot_jax.store import objects
from glorot_jax.store.objects import Objects, Overtaken, is_url


@pytest.fixture
def store(server) -> Objects:
    return Objects(server.url())


def test_a_url_is_told_from_a_path(tmp_path):
    assert is_url("s3://bucket/prefix")
    assert not is_url("results/small")
    assert not is_url(tmp_path)


def test_what_was_put_is_got_and_listed(store):
    assert store.get("a/b.json") is None
    store.put("a/b.json", b"one")
    store.put("ab.json", b"three")
    content, _ = store.get("a/b.json")
    assert content == b"one"
    assert {(found.name, found.size) for found in store.list()} == {("a/b.json", 3), ("ab.json", 5)}
    assert [found.name for found in store.list("a")] == ["a/b.json"]
    store.delete(["a/b.json", "never/there"])
    assert store.get("a/b.json") is None


def test_an_object_is_created_once(store):
    store.create("x", b"mine")
    with pytest.raises(Overtaken):
        store.create("x", b"yours")
    assert store.get("x")[0] == b"mine"


def test_an_object_is_replaced_only_by_who_knows_it(store):
    first = store.create("x", b"1")
    second = store.replace("x", b"2", first)
    with pytest.raises(Overtaken):
        store.replace("x", b"stale", first)
    assert store.get("x")[0] == b"2"
    store.delete(["x"])
    with pytest.raises(Overtaken):
        store.replace("x", b"3", second)


def test_a_write_whose_answer_is_lost_is_known_as_ours(store, server):
    """The store did it and said nothing; tried again, it says that the object is not the one to be replaced."""
    tag = store.create("x", b"1")
    server.feels("deaf")
    threading.Timer(0.4, server.feels, [""]).start()
    assert store.replace("x", b"2", tag) == store.get("x")[1]
    server.feels("deaf")
    threading.Timer(0.4, server.feels, [""]).start()
    assert store.create("y", b"1") == store.get("y")[1]


def test_a_folder_goes_up_as_one_object_and_comes_down_the_same(store, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PART", 5 * 2**20)  # the least that S3 takes of an upload in parts
    folder = tmp_path / "one"
    (folder / "d" / "e").mkdir(parents=True)
    (folder / "d" / "e" / "large").write_bytes(np.random.default_rng(0).bytes(12 * 2**20))
    (folder / "small").write_bytes(b"small")
    store.pack(folder, "one.tar")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "of before").write_bytes(b"")
    store.unpack("one.tar", tmp_path / "two")
    found = {p.relative_to(tmp_path / "two"): p.read_bytes() for p in (tmp_path / "two").rglob("*") if p.is_file()}
    assert found == {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    store.fetch("one.tar", tmp_path / "one.tar")
    with tarfile.open(tmp_path / "one.tar") as packed:
        assert sorted(packed.getnames()) == ["d/e/large", "small"]


def test_a_torn_object_leaves_what_was_there(store, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "x").write_bytes(bytes(2**20))
    store.pack(folder, "one.tar")
    store.put("torn.tar", store.get("one.tar")[0][: 2**19])
    with pytest.raises(tarfile.TarError):
        store.unpack("torn.tar", folder)
    with pytest.raises(FileNotFoundError):
        store.unpack("none.tar", folder)
    with pytest.raises(FileNotFoundError):
        store.fetch("none", folder / "x")
    assert [p.name for p in tmp_path.rglob("*")] == ["one", "x"]
    assert (folder / "x").read_bytes() == bytes(2**20)


@pytest.mark.parametrize("work", ["get", "put", "create", "list", "pack", "unpack", "fetch", "delete"])
def test_a_store_that_comes_back_in_time_was_never_away(store, server, tmp_path, work):
    told: list[str] = []
    store.note = told.append
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_bytes(b"x")
    store.pack(tmp_path / "folder", "packed.tar")
    store.put("plain", b"x")
    server.feels("down")
    threading.Timer(0.5, server.feels, [""]).start()
    begin = time.monotonic()
    match work:
        case "get":
            assert store.get("plain")[0] == b"x"
        case "put":
            store.put("new", b"x")
        case "create":
            store.create("new", b"x")
        case "list":
            assert len(store.list()) == 2
        case "pack":
            store.pack(tmp_path / "folder", "new.tar")
            assert store.get("new.tar")[0] == store.get("packed.tar")[0]
        case "unpack":
            store.unpack("packed.tar", tmp_path / "again")
            assert (tmp_path / "again" / "x").read_bytes() == b"x"
        case "fetch":
            store.fetch("plain", tmp_path / "plain")
            assert (tmp_path / "plain").read_bytes() == b"x"
        case "delete":
            store.delete(["plain"])
            assert store.get("plain") is None
    assert time.monotonic() - begin > 0.4
    assert len(told) == 1
    assert "out of reach" in told[0]


def test_a_store_that_stays_away_is_told_in_one_line(store, server):
    store.patience = 1.0
    server.feels("down")
    with pytest.raises(ResumableError) as caught:
        store.put("x", b"1")
    line = str(caught.value)
    assert line.startswith(store.url)
    assert "the same command goes on" in line
    assert "503" in line
    assert "\n" not in line
    assert len(line) < 500


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/x", "the scheme 'ftp' is not s3"),
        ("s3://nobody/x", "NoSuchBucket"),
        ("s3://", "Unable to recognise URL"),
    ],
)
def test_an_address_that_is_none_is_refused(server, url, says):
    with pytest.raises(InputError, match=says) as caught:
        Objects(url)
    assert str(caught.value).startswith(url.rstrip("/"))


def test_a_missing_obstore_is_named_with_the_command_that_adds_it(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InputError, match=r"obstore, which is not installed\n  hint: pip install 'glorot-jax\[store\]'"):
        Objects(server.url())


def test_a_store_that_is_not_there_is_told_soon(server, monkeypatch):
    monkeypatch.setattr(objects, "FIRST_PATIENCE", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ResumableError, match="out of reach"):
        Objects(server.url())
