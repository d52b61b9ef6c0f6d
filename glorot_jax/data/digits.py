"""The 1797 handwritten digits of 8×8 pixels and 17 grey levels that come with this package.

They are the test part of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak (1998), UCI Machine
Learning Repository, doi:10.24432/C50P49, used under CC BY 4.0; the numbers are unchanged, their form is NumPy's. The
file was made from scikit-learn's copy by

    python -m glorot_jax.data.digits derive glorot_jax/data/digits.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
COUNT = 1797


def table() -> tuple[np.ndarray, np.ndarray]:
    """Returns grey levels [1797, 8, 8] from 0 to 16 and labels [1797], both uint8, in the published order."""
    with np.load(FILE, allow_pickle=False) as file:
        return file["levels"], file["labels"]


def derive(path: Path) -> None:
    """Writes the file from scikit-learn's copy."""
    from sklearn.datasets import load_digits

    found = load_digits()
    np.savez_compressed(path, levels=found.images.astype(np.uint8), labels=found.target.astype(np.uint8))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "derive":
        sys.exit("usage: python -m glorot_jax.data.digits derive FILE")
    derive(Path(sys.argv[2]))
