"""Freeze a suite: every scene under every condition, once and for all, into one file.

``python -m emsynth.benchmark.freezing stem_hd_v1`` simulates what is not in the field cache, and writes the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth import view
from emsynth.benchmark.fields import SceneFields, fields_of, make
from emsynth.benchmark.plan import ScenePlan, SuitePlan, load_plan
from emsynth.benchmark.shipped import FORMAT, Entry, parse, registered
from emsynth.benchmark.suite import Condition, Probe, Scene
from emsynth.distortion import Chain, Distorted, Grid, Window
from emsynth.distortion.exposure import Path as Way
from emsynth.distortion.severity import severity
from emsynth.draw import number
from emsynth.errors import SuiteError
from emsynth.maps import strain_map
from emsynth.provenance import fingerprint, versions
from emsynth.recipe import Image
from emsynth.simulation.field import Field
from emsynth.store.frozen import FrozenArray, write_frozen
from emsynth.streams import generator

# Levels of the converter over the range of the truth, at least, where the chain itself does not quantise.
LEVELS = 4096
_CODES = 65535
_INDICES = 10_000  # random numbers are keyed by this times the condition, plus the scene


@dataclass(frozen=True, eq=False)
class _Settled:
    """A sight that is moved so that the truth of a chain, affine part and all, looks exactly at the window's pixels.

    What a constant, linear or shearing displacement does to a picture is what a specimen that lies otherwise does: so
    all conditions share one truth.
    """

    sight: view.Sight
    back: NDArray[np.float64]

    def _moved(self, grid: Grid) -> Grid:
        affine = self.back[:2] @ np.vstack([grid.affine, [0.0, 0.0, 1.0]])
        offsets = grid.offsets
        if offsets is not None:
            offsets = np.einsum("ij,jrc->irc", self.back[:2, :2], offsets).astype(np.float32)
        return Grid(grid.shape, affine, offsets)

    def __call__(self, grid: Grid) -> NDArray[np.float32]:
        return self.sight(self._moved(grid))

    def along(self, grid: Grid, path: Way) -> NDArray[np.float32]:
        return self.sight.along(self._moved(grid), path)


@dataclass(frozen=True, eq=False)
class _Seen:
    """A scene with what its images are gathered from; `key` keys the random numbers, `dose` the mean of its twin."""

    scene: Scene
    sight: view.Sight
    mean: float
    key: int
    dose: float


def window_of(plan: SuitePlan, scene: ScenePlan, field: Field, key: int) -> Window:
    """The window of one scene."""
    extent = np.asarray(field.extent)
    part = generator(plan.seed, key, "centre").random(2) if scene.centre is None else np.array(scene.centre)
    shape = (plan.size, plan.size)
    window = Window(shape, scene.pixel_size, np.radians(scene.rotation), tuple((part * extent).tolist()))
    if scene.strain:
        wanted = Image(size=plan.size, pixel_size=scene.pixel_size, strain=scene.strain)
        window = Window(shape, window.pixel, window.rotation, window.origin,
                        warp=strain_map(wanted, window, plan.seed, key))
    return window


def _seen(plan: SuitePlan, key: int, fields: SceneFields, first: int) -> Iterator[_Seen]:
    """The scene of a plan, and its twin where it has one; `first` is the index of the first."""
    wanted, field = plan.scenes[key], fields.clean
    window = window_of(plan, wanted, field, key)
    position, column, kept = _columns(window, field, plan.resolution)
    common: dict[str, Any] = {
        "prototype": field.prototype, "structure": str(field.provenance["specimen"]["structure"]),
        "physics": str(field.provenance["physics"]), "detector": wanted.detector, "sampling": wanted.pixel_size,
        "classes": view.classes_at(window, field, Grid(window.shape, np.eye(2, 3))),
        "number": field.columns.number[column], "formula": tuple(field.columns.formula[c] for c in column)}
    sight = view.Sight(field, wanted.detector, window)
    truth, mean = _clean(sight)
    yield _Seen(Scene(first, wanted.name, wanted.content, truth=truth, columns=position, about=_about(wanted, field),
                      **common), sight, mean, key, mean)
    if fields.perturbed is None:
        return
    probes = tuple(Probe(planted.kind, int(n), planted.about) for planted in fields.planted
                   for n in np.flatnonzero(column == planted.column) if kept[n])
    moved = position.copy()
    for planted in fields.planted:
        own = column == planted.column
        moved[own] = window.to_window(window.to_specimen(position[own]) + planted.shift)
    sight = view.Sight(fields.perturbed, wanted.detector, window)
    truth, own_mean = _clean(sight)
    yield _Seen(Scene(first + 1, f"{wanted.name}_perturbed", "perturbed", truth=truth, columns=moved, partner=first,
                      probes=probes, about=_about(wanted, fields.perturbed), **common), sight, own_mean, key, mean)


def _clean(sight: view.Sight) -> tuple[NDArray[np.float32], float]:
    shown = sight(Grid(sight.window.shape, np.eye(2, 3)))
    mean = float(shown.mean(dtype=np.float64))
    return (shown / mean).astype(np.float32), mean


def _about(wanted: ScenePlan, field: Field) -> dict[str, Any]:
    kept = ("physics", "method", "average", "microscope", "specimen", "box", "grid", "slices", "beams", "atoms",
            "phonon_configurations", "standard_error", "defocus")
    return {"plan": wanted.model_dump(mode="json"), **{key: field.provenance[key] for key in kept
                                                       if key in field.provenance}}


def _columns(window: Window, field: Field,
             resolution: float) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Columns in a window that a microscope can tell from their neighbours; and which of them are no margin's."""
    from scipy.spatial import cKDTree

    position, column, resolved = view.columns_in(window, field, lambda points: points, 0.0)
    if len(position) > 1:
        wide = view.columns_in(Window(tuple(n + 40 for n in window.shape), window.pixel, window.rotation,  # type: ignore[arg-type]
                                      window.origin), field, lambda points: points, 0.0)[0] - 20
        apart = cKDTree(wide if window.warp is None else position).query(position, k=2)[0][:, 1] * window.pixel
        resolved &= apart >= resolution
    position, column = position[resolved], column[resolved]
    inside = np.all((position > 4) & (position < np.array(window.shape) - 5), axis=1)
    return position, column, inside


def chain_of(plan: SuitePlan, family: str, level: int) -> Chain:
    """The chain of one condition, from the committed table of severities."""
    return severity(plan.families[family], level)


def _condition(plan: SuitePlan, family: str, level: int) -> Condition:
    chain = chain_of(plan, family, level)
    stages = {stage.stage: stage for stage in chain.stages}
    counted = {"poisson", "compound_poisson", "conversion", "counting"} & set(stages)
    excess, variance = 1.0, 0.0
    if "compound_poisson" in stages:
        excess += number(stages["compound_poisson"].secondary_yield)  # type: ignore[attr-defined]
    for name in ("conversion", "counting"):
        if name in stages:
            excess /= number(stages[name].efficiency)  # type: ignore[attr-defined]
    if "pulse_spread" in stages:
        excess += number(stages["pulse_spread"].sigma) ** 2  # type: ignore[attr-defined]
    for name in ("read_noise", "dark_current"):
        if name in stages:
            variance += stages[name].variance(0.0)  # type: ignore[attr-defined]
    return Condition(family, level, number(chain.expected_counts), 1.0, 0.0, bool(counted), variance, excess,
                     chain.model_dump(mode="json"))


def _distorted(chain: Chain, seen: _Seen, seed: int, index: int) -> Distorted:
    shape = seen.sight.window.shape
    affine = np.vstack([chain.positions(shape, seed, index).truth_grid().affine, [0.0, 0.0, 1.0]])
    # A twin is exposed as its partner is, so that what differs is the probes alone.
    exposed = chain.model_copy(update={"expected_counts": number(chain.expected_counts) * seen.mean / seen.dose})
    made = exposed.run(_Settled(seen.sight, np.linalg.inv(affine)), shape, seed, index, seen.scene.sampling)
    expected = made.gain * made.scale * seen.mean * seen.scene.truth.astype(np.float64) + made.black_level
    deviation = float(np.abs(made.truth - expected).max() / np.ptp(expected))
    if deviation > 1e-5:
        raise SuiteError(f"{seen.scene.name}: the truth of {[s.stage for s in chain.stages]} deviates by "
                         f"{deviation:.1e} of its range from the scene's; the family cannot share it")
    return made


def _converted(made: Distorted) -> tuple[NDArray[np.uint16], float, float]:
    """Codes, step and offset of an image in electrons: as read out, less the black level, by the gain.

    Where the chain does not quantise, the step is a power of two, so that counts stay what they are.
    """
    step = made.step or 2.0 ** np.floor(np.log2(float(np.ptp(made.truth)) / LEVELS))
    while np.ptp(made.distorted) / step > _CODES - 1:
        step *= 2
    lowest = step * np.floor(float(made.distorted.min()) / step)
    codes = np.rint((made.distorted - lowest) / step).astype(np.uint16)
    return codes, step / made.gain, (lowest - made.black_level) / made.gain


def frozen(plan: SuitePlan) -> tuple[dict[str, FrozenArray], dict[str, Any]]:
    """Arrays and attributes of a suite."""
    seen: list[_Seen] = []
    for key in range(len(plan.scenes)):
        seen.extend(_seen(plan, key, fields_of(plan, key), len(seen)))
    pairs = [(family, level) for family in plan.families for level in plan.severities]
    size, count = plan.size, (len(pairs), len(seen))
    codes = np.zeros((*count, size, size), np.uint16)
    step, offset, scale = (np.zeros(count) for _ in range(3))
    conditions = []
    for c, (family, level) in enumerate(pairs):
        chain = chain_of(plan, family, level)
        for s, one in enumerate(seen):
            made = _distorted(chain, one, plan.seed, _INDICES * (c + 1) + one.key)
            codes[c, s], step[c, s], offset[c, s] = _converted(made)
            scale[c, s] = made.scale * one.mean
        conditions.append(_condition(plan, family, level))
    return _arrays([one.scene for one in seen], codes, step, offset, scale), _attributes(
        plan, [one.scene for one in seen], conditions)


def _arrays(scenes: list[Scene], codes: NDArray[np.uint16], *settings: NDArray[np.float64]) -> dict[str, FrozenArray]:
    count, most = len(scenes), max(1, *(len(scene.columns) for scene in scenes))
    image = ("condition", "scene", "y", "x")
    arrays = {"image": FrozenArray(codes, image, (1, *codes.shape[1:]))}
    for name, values in zip(("step", "offset", "scale"), settings, strict=True):
        arrays[name] = FrozenArray(values, image[:2], values.shape)
    truth, classes = (np.stack([getattr(scene, name) for scene in scenes]) for name in ("truth", "classes"))
    position, atom = np.full((count, most, 2), np.nan), np.zeros((count, most), np.uint8)
    for n, scene in enumerate(scenes):
        position[n, :len(scene.columns)], atom[n, :len(scene.columns)] = scene.columns, scene.number
    return arrays | {
        "truth": FrozenArray(truth, image[1:], truth.shape),
        "class_map": FrozenArray(classes, image[1:], classes.shape),
        "column_position": FrozenArray(position, ("scene", "column", "axis"), position.shape),
        "column_number": FrozenArray(atom, ("scene", "column"), atom.shape)}


def _attributes(plan: SuitePlan, scenes: list[Scene], conditions: list[Condition]) -> dict[str, Any]:
    told = ("index", "name", "content", "prototype", "structure", "physics", "detector", "sampling", "partner", "about")
    return {
        "emsynth_suite": FORMAT, "name": plan.name, "title": plan.title, "split": plan.split, "licence": plan.licence,
        "citation": plan.citation, "seed": plan.seed, "size": plan.size,
        "conditions": [asdict(condition) for condition in conditions],
        "scenes": [{key: getattr(scene, key) for key in told}
                   | {"formula": list(scene.formula), "probes": [asdict(probe) for probe in scene.probes]}
                   for scene in scenes],
        "units": {"image": "electrons = offset + step * code", "truth": "of mean 1; electrons = scale * truth",
                  "column_position": "px (row, col)", "sampling": "Å"},
        "versions": versions(), "platform": fingerprint()}


def freeze(name: str, out: Path, workers: int = 1) -> Entry:
    """Make a suite and write its file; the entry that `emsynth.benchmark.shipped` must hold to accept it.

    Raises
    ------
    SuiteError
        Where a released suite of that name has other bytes: what is released never changes, so take a new name.
    """
    make(name, workers)
    plan = load_plan(name)
    arrays, attributes = frozen(plan)
    digest = write_frozen(out, arrays, attributes)
    suite = parse(out, checked=False)
    entry = Entry(name=plan.name, title=plan.title, sha256=digest, bytes=out.stat().st_size, images=len(suite),
                  licence=plan.licence, citation=plan.citation)
    for known in registered():
        if known.name == plan.name and known.sha256 != digest:
            raise SuiteError(f"{out}: {plan.name} is released with SHA-256 {known.sha256[:12]}..., and this is "
                             f"{digest[:12]}...; a new version gets a new name")
    return entry


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description="Freeze a suite into one file.")
    asked.add_argument("suite")
    asked.add_argument("--out", type=Path)
    asked.add_argument("--workers", type=int, default=1)
    given = asked.parse_args()
    try:
        print(freeze(given.suite, given.out or Path("datasets", f"{given.suite}.zip"), given.workers)
              .model_dump_json(indent=2))
    except SuiteError as wrong:
        sys.exit(str(wrong))
