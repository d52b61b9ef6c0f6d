"""``glorot theory``: the numbers of the public function in four formats, and one line for what is wrong."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from glorot_jax import load, theory
from glorot_jax.analysis.against_theory import against_theory
from glorot_jax.cli import main
from glorot_jax.engine import predictions, records
from glorot_jax.models.predictions import Predicted
from tests.analysis import invented

SMALL = ("--depth", "2", "--width", "30", "--features", "20", "--classes", "4", "--input-moment", "0.5")


@pytest.fixture
def printed(capsys):
    """Runs the command and returns what it wrote on standard output."""

    def call(*arguments: str) -> str:
        assert main(["theory", *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return call


@pytest.fixture(scope="module")
def predicted() -> theory.Prediction:
    return theory.predict("softsign", "normalized", (30, 30), 20, 4, input_second_moment=0.5, gain=1.2)


WORDS = (*SMALL, "--activation", "softsign", "--init", "normalized", "--gain", "1.2")


def test_json_and_csv_hold_all_digits_of_the_prediction(printed, predicted):
    found = json.loads(printed(*WORDS, "--format", "json"))
    assert list(found) == list(predicted._fields)
    for name, value in predicted._asdict().items():
        np.testing.assert_array_equal(found[name], value)
    rows = list(csv.DictReader(io.StringIO(printed(*WORDS, "--format", "csv"))))
    assert [row["layer"] for row in rows] == ["1", "2", "output"]
    for name in predicted._fields[:9]:
        assert [float(row[name]) for row in rows[:2]] == list(getattr(predicted, name))
    assert float(rows[2]["gradient_std"]) == predicted.output_gradient_std
    assert float(rows[2]["weight_gradient_std"]) == predicted.output_weight_gradient_std
    assert rows[2]["activation_std"] == ""


def test_table_and_markdown_hold_four_digits(printed, predicted):
    table = printed(*WORDS).splitlines()
    markdown = printed(*WORDS, "--format", "markdown").splitlines()
    assert len(table) == 4
    assert len(markdown) == 5
    assert max(map(len, table)) <= 80
    for i in range(2):
        columns = ("activation_mean", "activation_std", "gradient_std", "weight_gradient_std")
        columns += ("weight_mean_singular_value", "jacobian_mean_singular_value", "jacobian_rms_singular_value")
        values = [getattr(predicted, name)[i] for name in columns]
        wanted = [str(i + 1), *(f"{v:.4g}" if abs(v) > 1e-12 else "0" for v in values)]
        assert table[i + 1].split() == wanted
        assert [cell.strip() for cell in markdown[i + 2].strip("|").split("|")] == wanted
    assert table[3].split()[0] == "output"


def test_without_words_it_is_the_papers_network(printed):
    found = json.loads(printed("--format", "json"))
    wanted = theory.predict("tanh", "standard", (1000,) * 5, 1024, 9, input_second_moment=0.37)
    np.testing.assert_array_equal(found["activation_std"], wanted.activation_std)
    np.testing.assert_array_equal(found["gradient_std"], wanted.gradient_std)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--activation", "tahn"], "activation: 'tahn' is not known\n  hint: 'tanh'? known: arctan, elu"),
        (["--init", "normalised"], "init: 'normalised' is not known\n  hint: 'normalized'? known: delta_orthogonal"),
        (
            ["--init", "identity"],
            "init: 'identity' has no variance that is known beforehand\n  hint: use delta_orthogonal",
        ),
        (["--format", "jsn"], "format: 'jsn' is not known\n  hint: 'json'?"),
        (["--depth", "0"], "Invalid value for '--depth': 0 is not in the range"),
        (["--width", "ten"], "Invalid value for '--width': 'ten' is not a valid integer"),
        (["--classes", "1"], "Invalid value for '--classes': 1 is not in the range"),
        (["--gain", "nan"], "gain: nan is not a finite number > 0"),
        (["--input-moment", "-1"], "input_second_moment: -1.0 is not a finite number > 0"),
    ],
)
def test_wrong_words_end_with_2_and_one_line(capsys, arguments, line):
    assert main(["theory", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err


def test_help_and_wrong_names_need_no_jax():
    program = (
        "import sys; from glorot_jax.cli import main; "
        "codes = main(['--help']), main(['theory', '--help']), main(['theory', '--init', 'normalised']); "
        "assert codes == (0, 0, 2), codes; assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "theory" in done.stdout


# ---- a results folder


@pytest.fixture
def measured(tmp_path):
    """At step 0 the activation std of layer 1 is the seed, that of layer 2 is 0; 2 and 4 are predicted, of tanh."""
    folder = invented.results(tmp_path / "measured", invented.sweep(), lambda *_: 0.5)
    told = Predicted({"activation_std": [2.0, 4.0]}, "a source", "assumptions")
    for shard in (folder / "shards").iterdir():
        runs = load(folder).configurations
        found = [told if activation == "tanh" else None for activation in runs["model.activation"]]
        made = predictions._dataset(found, invented.OUTPUTS, list(runs.index))
        (shard / predictions.PREDICTIONS).write_bytes(records.netcdf(made))
    return folder


def test_a_folder_is_compared_layer_by_layer(measured):
    """Over seeds: that two learning rates share each of them makes no more networks."""
    rows = against_theory(load(measured))
    assert rows["model.activation"].tolist() == ["tanh", "tanh"]
    assert rows["value"].tolist() == ["activation_std"] * 2
    assert rows["layer"].tolist() == ["1", "2"]
    assert rows["measured"].tolist() == [1, 0]
    assert rows["predicted"].tolist() == [2, 4]
    assert rows["ratio"].tolist() == [0.5, 0]
    half = 4.302653 / np.sqrt(3)
    np.testing.assert_allclose(rows["measured_half_width"], [half, 0], rtol=1e-6)
    np.testing.assert_allclose(rows["ratio_half_width"], [half / 2, 0], rtol=1e-6)
    assert rows["n"].tolist() == [3, 3]


def test_a_folders_comparison_is_printed_in_four_formats(printed, measured):
    table = printed(str(measured)).splitlines()
    assert table[0].split() == ["activation", "value", "layer", "measured", "predicted", "ratio"]
    assert table[1].split() == ["tanh", "activation_std", "1", "1", "±", "2.5", "2", "0.5", "±", "1.2"]
    assert table[-1].startswith("Step 0: mean over seeds ± half-width of the 95 % Student's t interval, n = 3")
    markdown = printed(str(measured), "--format", "markdown").splitlines()
    assert markdown[2] == "| tanh | activation_std | 1 | 1 ± 2.5 | 2 | 0.5 ± 1.2 |"
    rows = against_theory(load(measured))
    for found in (
        json.loads(printed(str(measured), "--format", "json")),
        list(csv.DictReader(io.StringIO(printed(str(measured), "--format", "csv")))),
    ):
        assert [float(row["ratio_half_width"]) for row in found] == pytest.approx(rows["ratio_half_width"].tolist())
        assert [row["layer"] for row in found] == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--value", "activation_sdt"], "value: 'activation_sdt' is not known\n  hint: 'activation_std'?"),
        (["--depth", "3"], "depth: it can't stand beside DIR\n  hint: DIR knows its own networks"),
    ],
)
def test_wrong_words_beside_a_folder_are_named(capsys, measured, arguments, line):
    assert main(["theory", str(measured), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_a_folder_without_predictions_and_a_value_without_a_folder_are_said(capsys, tmp_path):
    old = invented.results(tmp_path / "old", invented.sweep(), lambda *_: 0.5)
    assert main(["theory", str(old)]) == 2
    assert main(["theory", "--value", "activation_std"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {old}: it holds no predictions"
    assert lines[2] == "error: value: 'activation_std' needs a results folder"
