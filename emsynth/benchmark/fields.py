"""The clean fields of a suite's scenes, simulated until the standard error that suites ask for is reached."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.plan import ScenePlan, SuitePlan, load_plan
from emsynth.benchmark.probes import Planted, twins
from emsynth.draw import Streams
from emsynth.errors import EmsynthError, SuiteError
from emsynth.microscope import Instrument, Microscope
from emsynth.simulation import field as field_cache
from emsynth.simulation.field import Field
from emsynth.simulation.plan import Phenomenological, Phonons, Simulation
from emsynth.specimen import Crystal, Morphology
from emsynth.specimen.base import Specimen
from emsynth.specimen.defects import Defects

Images = NDArray[np.float64]
# Largest standard error of the phonon mean in a suite, relative to the mean (of a TEM image: to its contrast).
LARGEST_ERROR = 0.03
_BATCH = 2


@dataclass(frozen=True)
class SceneFields:
    """What one scene of a plan is seen in.

    Attributes
    ----------
    clean : Field
    perturbed : Field or None
        The twin with the probes.
    planted : tuple of Planted
        The probes.
    """

    clean: Field
    perturbed: Field | None = None
    planted: tuple[Planted, ...] = ()


def fields_of(plan: SuitePlan, number: int) -> SceneFields:
    """The field or fields of one scene, simulated or from the field cache.

    Parameters
    ----------
    plan : SuitePlan
        What the suite is made from.
    number : int
        Of the scene in the plan.

    Raises
    ------
    SuiteError
        Where the largest standard error of the phonon mean is exceeded.
    """
    if plan.scenes[number].field_of is not None:
        shown = next(n for n, scene in enumerate(plan.scenes) if scene.name == plan.scenes[number].field_of)
        return SceneFields(fields_of(plan, shown).clean)
    scene, streams = plan.scenes[number], Streams(plan.seed, number)
    microscope = plan.microscopes[scene.microscope].draw(streams, "microscope")
    drawn = scene.specimen.draw(streams, "specimen")
    if isinstance(plan.simulate, Phenomenological):
        from emsynth.simulation import survey

        assert isinstance(drawn, Morphology)
        return SceneFields(_cached(plan, scene, number, "field", lambda: survey.simulate(
            drawn, microscope, plan.simulate, streams)))  # type: ignore[arg-type]
    assert not isinstance(drawn, Morphology)
    if scene.probes is None:
        clean = _cached(plan, scene, number, "field", lambda: _simulated(
            drawn.build(streams, plan.purpose), microscope, plan.simulate, streams))  # type: ignore[arg-type]
        return SceneFields(_accurate(clean, scene.name))
    return _twin_fields(plan, scene, number, drawn, microscope)  # type: ignore[arg-type]


def _simulated(specimen: Specimen, microscope: Instrument, settings: Simulation, streams: Streams) -> Field:
    # abTEM takes seconds to import: only who simulates pays for it.
    from emsynth.simulation import multislice, tem

    if isinstance(microscope, Microscope):
        return multislice.simulate(specimen, microscope, settings, streams)
    return tem.simulate(specimen, microscope, settings, streams)


def _cached(plan: SuitePlan, scene: ScenePlan, number: int, part: str, made: Any) -> Field:
    key = field_cache.content_digest({
        "suite": plan.name, "seed": plan.seed, "number": number, "part": part,
        "scene": scene.model_dump(mode="json", include={"specimen", "probes"}),
        "microscope": plan.microscopes[scene.microscope].model_dump(mode="json"),
        "simulate": plan.simulate.model_dump(mode="json")})
    kept = field_cache.load(key)
    if kept is None:
        kept = made()
        field_cache.keep(key, kept)
    return kept


def _twin_fields(plan: SuitePlan, scene: ScenePlan, number: int, drawn: Any, microscope: Instrument) -> SceneFields:
    """A lattice and its twin from the same frozen phonons.

    The lattice is averaged over its cells. The twin is that average plus the mean difference of the two, in which
    what the vibrations do to all other columns cancels: a control variate, unbiased, and ten times as quick.
    """
    if not isinstance(drawn, Defects):
        raise SuiteError(f"{scene.name}: a scene with probes is simulated in a box; give its specimen kind: defects")
    streams = Streams(plan.seed, number)
    assert scene.probes is not None
    assert isinstance(plan.simulate, Simulation)
    perfect, perturbed, planted = twins(drawn.build(streams, plan.purpose), scene.probes, streams)
    cells = _cells(drawn, plan)
    settings = plan.simulate.model_copy(update={"phonons": Phonons(minimum=_BATCH, maximum=_BATCH)})
    one: list[Field] = []
    other: list[Field] = []
    for batch in range(plan.batches):
        own = Streams(plan.seed, 1000 * (number + 1) + batch)
        for specimen, kept in ((perfect, one), (perturbed, other)):
            kept.append(_cached(plan, scene, number, f"{'clean' if kept is one else 'twin'} {batch}", partial(
                _simulated, specimen, microscope, settings, own)))
    clean, twin = _averaged(one, other, cells, by_contrast=not isinstance(microscope, Microscope))
    return SceneFields(_accurate(clean, scene.name), _accurate(twin, scene.name), planted)


def _cells(drawn: Defects, plan: SuitePlan) -> tuple[int, int]:
    """Whole tiles of the perfect crystal along (row, col) of the box."""
    asked = drawn.model_dump(include=set(Crystal.model_fields) & set(Defects.model_fields) - {"kind"})
    tile = Crystal(**asked).build(Streams(0, 0), plan.purpose).tile
    box = drawn.build(Streams(0, 0), plan.purpose).atoms.cell.lengths()
    rows, cols = box[1] / tile[0], box[0] / tile[1]
    if max(abs(rows - round(rows)), abs(cols - round(cols))) > 1e-6:
        raise SuiteError(f"{drawn.structure}: the box of {box[1]:.2f} × {box[0]:.2f} Å is not of whole tiles")
    return round(rows), round(cols)


def _averaged(one: Sequence[Field], other: Sequence[Field], cells: tuple[int, int],
              by_contrast: bool) -> tuple[Field, Field]:
    """Mean of both over their batches, with the standard error that it reached."""
    rows, cols = (max(field.image.shape[axis] for field in (*one, *other)) for axis in (-2, -1))
    clean = np.stack([over_cells(_finer(field.image, rows, cols), cells) for field in one])
    step = np.stack([_finer(b.image, rows, cols) - _finer(a.image, rows, cols)
                     for a, b in zip(one, other, strict=True)])
    mean, twin = clean.mean(0), clean.mean(0) + step.mean(0)
    batches = len(one)
    spread = clean.var(0, ddof=1) / batches, (clean.var(0, ddof=1) + step.var(0, ddof=1)) / batches
    fields = []
    for image, variance, field in ((mean, spread[0], one[0]), (twin, spread[1], other[0])):
        scale = image.std(axis=(-2, -1)) if by_contrast else image.mean(axis=(-2, -1))
        error = (np.sqrt(variance.mean(axis=(-2, -1))) / scale).max(axis=0)
        about = field.provenance | {
            "phonon_configurations": batches * _BATCH,
            "standard_error": {name: float(value) for name, value in zip(field.detectors, error, strict=True)},
            "average": f"over {cells[0]} × {cells[1]} cells; of the twin, plus the mean difference under equal phonons"}
        sampling = field.extent[0] / rows, field.extent[1] / cols
        fields.append(replace(field, image=image.astype(np.float32), sampling=sampling, provenance=about))
    return fields[0], fields[1]


def _finer(image: NDArray[np.float32], rows: int, cols: int) -> Images:
    """A periodic image on its own grid or, by its Fourier series, a finer one: TEM images are as fine as they need."""
    from scipy.signal import resample

    down: Images = resample(image.astype(np.float64), rows, axis=-2) if image.shape[-2] < rows else image.astype(float)
    return np.asarray(resample(down, cols, axis=-1) if image.shape[-1] < cols else down)


def over_cells(image: NDArray[np.floating], cells: tuple[int, int]) -> Images:
    """Mean of a periodic image (..., H, W) over its cells: of its Fourier series, the cell's own frequencies."""
    rows, cols = image.shape[-2:]
    series = np.fft.rfft2(image.astype(np.float64))
    keep = np.zeros(series.shape[-2:], bool)
    frequency = np.rint(np.fft.fftfreq(rows, 1 / rows)).astype(int)
    keep[np.ix_(frequency % cells[0] == 0, np.arange(series.shape[-1]) % cells[1] == 0)] = True
    averaged: Images = np.fft.irfft2(np.where(keep, series, 0), s=(rows, cols))
    return averaged


def _accurate(field: Field, name: str) -> Field:
    reached = field.provenance.get("standard_error", {})
    worst = max(reached.values(), default=0.0)
    if worst > LARGEST_ERROR:
        raise SuiteError(f"{name}: the standard error of the phonon mean is {worst:.1%}, above the {LARGEST_ERROR:.0%} "
                         f"of suites; raise simulate.phonons.maximum, or batches")
    return field


def _told(name: str, number: int) -> str:
    plan, began = load_plan(name), time.perf_counter()
    made = fields_of(plan, number)
    reached = made.clean.provenance.get("standard_error", {})
    twin = made.perturbed.provenance["standard_error"] if made.perturbed is not None else {}
    return (f"{plan.scenes[number].name}: {time.perf_counter() - began:.0f} s, "
            f"{made.clean.provenance.get('phonon_configurations', 0)} configurations, {reached} {twin}")


def make(name: str, workers: int = 1, scenes: Sequence[int] | None = None) -> None:
    """Simulate the fields of a plan into the cache, `workers` at a time, and say on stderr how it went."""
    numbers = range(len(load_plan(name).scenes)) if scenes is None else scenes
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for line in [pool.submit(_told, name, number) for number in numbers]:
            try:
                print(line.result(), file=sys.stderr, flush=True)
            except EmsynthError as wrong:
                print(wrong, file=sys.stderr, flush=True)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description="Simulate the clean fields of a suite into the field cache.")
    asked.add_argument("suite")
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--scenes", type=int, nargs="*")
    given = asked.parse_args()
    make(given.suite, given.workers, given.scenes)
