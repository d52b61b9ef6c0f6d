"""Where a sweep on a store stands, as a launcher shows it."""

from __future__ import annotations

import json
import threading
import time

from glorot_jax.launching import standing as watched
from glorot_jax.launching.standing import Standing, View, standing
from glorot_jax.store.objects import Objects

MANIFEST = {"runs": 4, "step": 30, "steps": 40, "run_steps": 120, "records": [], "checkpoint": None, "diverged": [{}]}


def test_a_launcher_sees_where_a_sweep_on_a_store_stands(server, capsys):
    url = server.url()
    assert standing(url) is None, "nothing was begun"
    objects = Objects(url)
    objects.put("sweep.json", json.dumps({"runs": list("abcdefgh")}).encode())
    objects.put("shards/a/manifest.json", json.dumps(MANIFEST).encode())
    assert standing(url) == Standing(8, 0.375, 1, 120)
    View(url).show(1, now=True)
    assert capsys.readouterr().err == "8 runs · 38% · 1 at work · 1 diverged\n"


def test_a_store_that_keeps_one_waiting_keeps_no_launcher_waiting(monkeypatch, capsys):
    answers = threading.Event()
    monkeypatch.setattr(watched, "standing", lambda _: answers.wait(60) and Standing(8, 0.5, 0, 9))
    view = View("s3://bucket/there")
    begin = time.monotonic()
    view.show(2)
    assert time.monotonic() - begin < 5
    answers.set()
    view.show(2, now=True)
    assert capsys.readouterr().err == "8 runs · 50% · 2 at work\n"
