"""What theory says of a shard's runs, beside what the probes measure: worked out while they train, written once.

The file holds a sibling ``NAME_theory`` (run, layer, …) for each recorded output of which the models' descriptions
predict something; it says what is expected at step 0. Runs of which nothing is predicted hold NaN.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from glorot_jax.config import canonical_json
from glorot_jax.engine import allocator, records
from glorot_jax.engine.planning.machine import digest, keep
from glorot_jax.files import cache_folder, write
from glorot_jax.models.predictions import Predicted, Start
from glorot_jax.probes.probe import Output
from glorot_jax.specs import Model
from glorot_jax.store.names import PREDICTIONS

if TYPE_CHECKING:
    import xarray as xr

    from glorot_jax.engine.planning.plan import Cohort
    from glorot_jax.engine.segment import Program
    from glorot_jax.engine.sweep import Run


class Predictions:
    """A shard's predictions, made in a thread of their own.

    Attributes:
        notes: of models whose prediction failed: training does not fail with it.
    """

    def __init__(self, folder: Path, cohort: Cohort, program: Program):
        self.path, self.cohort, self.program = folder / PREDICTIONS, cohort, program
        self.notes: list[str] = []
        self._worker = ThreadPoolExecutor(1)
        self._future: Future | None = None
        self._stopped = False

    def begin(self) -> None:
        """Starts the work, if it is not under way or done."""
        if self._future is None and not self.path.exists():
            self._future = self._worker.submit(self._made)

    def finish(self) -> None:
        """Returns when what is predicted is on the disk.

        Raises:
            ResumableError: the disk is full.
        """
        self.begin()
        made = self._future.result() if self._future else None
        if made is not None:
            write(self.path, records.netcdf(made))
            keep(mark(self.cohort, self.program), {"models": len({_model(run) for run in self.cohort.runs})})

    def stop(self) -> None:
        """Gives up what is not finished; the model at hand is still worked out."""
        self._stopped = True
        self._worker.shutdown(wait=False)

    def _made(self) -> xr.Dataset | None:
        with _host():
            start = _start(self.program, self.cohort)
            known: dict[str, Predicted | None] = {}
            for run in self.cohort.runs:
                if _model(run) not in known and not self._stopped:
                    known[_model(run)] = self._predicted(run, start)
                    allocator.trim()  # what compiling it left
        return _dataset(
            [known.get(_model(run)) for run in self.cohort.runs], self.program.outputs, [r.id for r in self.cohort.runs]
        )

    def _predicted(self, run: Run, start: Start) -> Predicted | None:
        if not predictable(run):
            return None
        try:
            return run.model.predict(start)
        except Exception as error:  # whatever a person's own activation can't do in float64, training goes on
            what = str(error).partition("\n")[0]
            self.notes.append(f"no prediction for {run.name} and its like: {type(error).__name__}: {what}")
            return None


def predictable(run: Run) -> bool:
    """Returns whether theory may say something of a run: of weights that pre-training has moved it never does."""
    return run.pretraining is None and type(run.model).predict is not Model.predict


def mark(cohort: Cohort, program: Program) -> Path:
    """Returns the file that is there once this machine has compiled what predicts a cohort's runs."""
    run, models = cohort.runs[0], sorted({_model(run) for run in cohort.runs})
    facts = [models, list(program.setup.input_shape), run.examples, run.jacobian_examples, jax.__version__]
    return cache_folder("predicted") / f"{digest(facts)}.json"


def _start(program: Program, cohort: Cohort) -> Start:
    data, run = program.setup.dataset, cohort.runs[0]
    pixels = np.asarray(data.test[0][: run.examples])
    inputs = np.asarray(data.scale(jax.numpy.asarray(pixels)))
    return Start(inputs.reshape(len(inputs), -1), run.jacobian_examples, data.classes, program.setup.loss)


def _host() -> contextlib.AbstractContextManager:
    """A processor that knows float64, where JAX has one, and leaves the accelerator to the runs."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def _model(run: Run) -> str:
    return canonical_json({k: v for k, v in run.config.items() if k.partition(".")[0] == "model"})


def _dataset(found: list[Predicted | None], outputs: Mapping[str, Output], run_ids: list[str]) -> xr.Dataset | None:
    """Labelled predictions of what is recorded, None if there are none."""
    import xarray as xr

    some = [one for one in found if one is not None]
    variables = {}
    for name, label in outputs.items():
        shapes = [np.shape(one.values[name]) for one in some if name in one.values]
        if not shapes or len(shapes[0]) != len(label.dims):
            continue
        shape = tuple(np.max(shapes, axis=0))
        values = [np.nan if one is None else one.values.get(name, np.nan) for one in found]
        attrs = {"long_name": f"{label.long_name}, predicted", "units": label.units, "valid_at_step": 0}
        attrs |= {k: v for k, v in label.attrs.items() if k == "examples"}
        attrs |= {"source": some[0].source, "assumptions": some[0].assumptions}
        stacked = np.stack([_widened(np.asarray(v, np.float64), shape) for v in values])
        variables[f"{name}_theory"] = (("run", *label.dims), stacked, attrs)
    if not variables:
        return None
    made = xr.Dataset(variables, {"run": ("run", np.array(run_ids, dtype=object))})
    return made.assign_coords({d: (d, np.arange(1, n + 1)) for d, n in made.sizes.items() if d != "run"})


def _widened(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One number everywhere, or values with NaN for layers that only others have."""
    if not values.ndim:
        return np.full(shape, values)
    return np.pad(values, [(0, most - n) for most, n in zip(shape, values.shape, strict=True)], constant_values=np.nan)
