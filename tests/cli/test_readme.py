"""What the README shows works as it is printed there."""

from __future__ import annotations

import re

import numpy as np

from glorot_jax import load, load_sweep, run
from tests.engine.small import ROOT


def printed(mark: str) -> str:
    """The block of code behind a mark."""
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def test_your_own_network_trains_as_printed(tmp_path):
    """In fewer than 30 lines of class and sweep, to networks that have learned."""
    text = printed("network")
    assert len([line for line in text.splitlines() if line.strip()]) < 30
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    out = run(load_sweep(tmp_path / "mine.py"), tmp_path / "mine")
    results = load(out)
    assert results.runs["test_error"].min() < 0.3
    found = results.records()
    assert np.isfinite(found["jacobian_early_late_mean_singular_value"]).all()
    assert set(found["module"].to_numpy()) == {"activation", "first", "norm", "readout", "second"}
