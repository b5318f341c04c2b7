"""Tuning the baselines on a suite's tune split, condition by condition, with the curves kept as JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emsynth.benchmark.suite import Case, Floats, Suite
from emsynth.errors import RestorerError, SuiteError
from emsynth.restoration import BASELINES, Baseline, TunedBaseline, apply
from emsynth.restoration.protocol import Noise, Value, Values
from emsynth.restoration.search import Found, Search

TUNED = Path(__file__).parent / "tuned"
IMAGES = 4
_SUFFIX = "_tune"
_PACKAGES = ("emsynth", "numpy", "scipy", "scikit-image", "PyWavelets", "bm3d", "bm4d")
_BEST = 99.0  # dB, where nothing differs
_UNDAMAGED = 1e-4  # of the range: an image that differs by less shows what the truth does
_OBJECTIVES = ("mean PSNR", "PSNR of the mean error")


@dataclass
class Tuning:
    """What was found for a suite.

    Attributes
    ----------
    suite : str
        The suite that is scored with these values, not its tune split.
    digest : str
        Of the tune split.
    images : list of str
        Scenes of the tune split that were used.
    versions : dict
        Of the packages.
    found : dict
        Of each baseline, of each condition: ``values``, ``psnr`` (mean over the images, dB), ``input`` (that of the
        images as they were), ``ends``, ``curves``, ``evaluations``; see `emsynth.restoration.search.Found`.
    """

    suite: str
    digest: str
    images: list[str]
    versions: dict[str, str]
    found: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it, sorted and rounded."""
        text = json.dumps({"about": _ABOUT, **vars(self)}, sort_keys=True, separators=(",", ":"))
        # A line per condition, so that a difference can be read.
        for mark in ('{"curves"', '"found":', '"images":', '"suite":'):
            text = text.replace(mark, "\n" + mark)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Tuning:
        """Read it; SuiteError where that is not what it is."""
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{name: held[name] for name in ("suite", "digest", "images", "versions", "found")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SuiteError(f"{path}: is not a record of tuning: {type(error).__name__}: {error}") from error


_ABOUT = ("Best values of each baseline on the tune split, by the objective in dB, over the scenes `images` or, where "
          "a condition spares some scenes, over all; "
          "curves are [value, PSNR] with the other values at their best.")


def tune(suite: Suite, names: Sequence[str] | None = None, workers: int = 1, images: int | Sequence[int] = IMAGES,
         out: Path | None = None, told: Callable[[str], None] = lambda line: None) -> Tuning:
    """Tune baselines for each condition of a suite's tune split.

    The objective is the mean over the images of the PSNR. Of a condition that leaves some scenes as they are (dropouts,
    hits, hot pixels) the mean would be that of the undamaged ones: there the objective is the PSNR of the mean error
    over all scenes, which is what the score weighs.

    Parameters
    ----------
    suite : Suite
        Of the split ``tune``.
    names : sequence of str, optional
        Baselines; all by default.
    workers : int
        Processes. The result does not depend on it.
    images : int or sequence of int
        How many scenes, spread over the contents, or which.
    out : Path, optional
        File that is written after each condition. What it already holds of the same suite and images is kept.
    told : callable
        Gets a line of progress now and then.

    Returns
    -------
    Tuning

    Raises
    ------
    SuiteError
        The suite is not a tune split, or `out` holds something else.
    RestorerError
        A name is not that of a baseline, or its package is missing.
    """
    if suite.split != "tune":
        raise SuiteError(f"{suite.name}: is the split that scores; baselines are tuned on {suite.name}{_SUFFIX} only")
    scenes = chosen_scenes(suite, images) if isinstance(images, int) else tuple(images)
    tuning = _begun(suite, scenes, out)
    tasks = [_task(suite, name, number, scenes) for name in names or BASELINES
             for number, condition in enumerate(suite.conditions)
             if condition.name not in tuning.found.get(_baseline(name).name, {})]
    order = [condition.name for condition in suite.conditions]
    finished = 0

    def done(task: Any, found: dict[str, Any]) -> None:
        nonlocal finished
        finished += 1
        tuning.found.setdefault(task.baseline, {})[task.condition] = found
        if out is not None:
            tuning.save(out)
        told(f"{finished}/{len(tasks)} {task.name}: {found['input']} dB -> {found['psnr']} dB at {found['values']}")

    _run(tasks, workers, done)
    for conditions in tuning.found.values():
        conditions.update({name: conditions.pop(name) for name in order if name in conditions})
    return tuning


def _task(suite: Suite, name: str, number: int, scenes: Sequence[int]) -> TuneOne:
    every = [suite.case(number, scene) for scene in chosen_scenes(suite, len(suite.scenes))]
    spared = any(_error(case, case.image) < _UNDAMAGED for case in every)
    cases = every if spared else [suite.case(number, scene) for scene in scenes]
    return TuneOne(name, suite.conditions[number].name, tuple(cases), spared)


def chosen_scenes(suite: Suite, count: int) -> tuple[int, ...]:
    """Scenes that are neither empty nor another's twin, one of each content in turn, until there are enough."""
    contents: dict[str, list[int]] = {}
    for scene in suite.scenes:
        if scene.partner is None and float(np.ptp(scene.truth)) > 0:
            contents.setdefault(scene.content, []).append(scene.index)
    chosen: list[int] = []
    while len(chosen) < count and any(contents.values()):
        chosen += [waiting.pop(0) for waiting in contents.values() if waiting]
    if not chosen:
        raise SuiteError(f"{suite.name}: holds no scene to tune on: all are empty, or twins of others")
    return tuple(sorted(chosen[:count]))


@dataclass(frozen=True)
class TuneOne:
    """One baseline under one condition, for one process."""

    baseline: str
    condition: str
    cases: tuple[Case, ...]
    pooled: bool = False

    @property
    def name(self) -> str:
        """``bm3d poisson-3``."""
        return f"{self.baseline} {self.condition}"

    def run(self) -> dict[str, Any]:
        """Tune it; what a `Tuning` holds of it."""
        with _one_thread():
            found = _search(BASELINES[self.baseline], self.cases, self.pooled).run()
        before = _quality(self.cases, [case.image for case in self.cases], self.pooled)
        return {"values": found.values, "psnr": round(found.score, 3), "input": round(before, 3),
                "objective": _OBJECTIVES[self.pooled], "images": len(self.cases), "ends": found.ends,
                "evaluations": found.evaluations, "curves": _curves(found)}


def oracle(baseline: Baseline, case: Case, around: Values | None = None) -> tuple[Floats, dict[str, Value]]:
    """The best that a baseline can do on one image, by the truth of that image: never for a leaderboard.

    Parameters
    ----------
    baseline : Baseline
        What is tuned.
    case : Case
        The image with its truth.
    around : mapping, optional
        Values to begin with, those of its condition: only near ones are tried then; otherwise the whole range.

    Returns
    -------
    restored : ndarray (H, W), float32
    values : dict
    """
    with _one_thread():
        found = _search(baseline, (case,)).run(around, near=around is not None)
        return apply(baseline.tuned(found.values, case.condition), case.image), found.values


def tuned_restorer(suite: str | Tuning, name: str, condition: Noise) -> TunedBaseline:
    """A baseline with the best values for a condition.

    Parameters
    ----------
    suite : str or Tuning
        Name of a shipped suite, or a record.
    name : str
        Of the baseline.
    condition : Condition
        One of the suite's.

    Raises
    ------
    SuiteError
        The baseline was not tuned for it.
    RestorerError
        There is no such baseline.
    """
    baseline = _baseline(name)
    if not baseline.parameters:
        return baseline.tuned({}, condition)
    return baseline.tuned(tuned_values(suite, name, condition), condition)


def tuned_values(suite: str | Tuning, name: str, condition: Noise) -> dict[str, Value]:
    """The values of `tuned_restorer`."""
    if not _baseline(name).parameters:
        return {}
    tuning = suite if isinstance(suite, Tuning) else shipped(suite)
    called = str(getattr(condition, "name", condition))
    try:
        return dict(tuning.found[name][called]["values"])
    except KeyError:
        raise SuiteError(f"{tuning.suite}: {name} was not tuned for {called}; python -m emsynth.benchmark.tuning "
                         f"{tuning.suite}{_SUFFIX} --restorer {name} --out FILE does that") from None


_read: dict[Path, Tuning] = {}


def shipped(suite: str) -> Tuning:
    """The record of a shipped suite, or that at a path of ``.json``, read once; SuiteError where there is none."""
    path = Path(suite) if suite.endswith(".json") else TUNED / f"{suite.removesuffix(_SUFFIX)}.json"
    if path not in _read:
        if not path.is_file():
            known = sorted(file.stem for file in TUNED.glob("*.json"))
            raise SuiteError(f"{suite}: its baselines were not tuned; tuned suites are {', '.join(known) or 'none'}; "
                             f"python -m emsynth.benchmark.tuning {suite}{_SUFFIX} --out {path.name} does that")
        _read[path] = Tuning.load(path)
    return _read[path]


def psnr(case: Case, image: Floats) -> float:
    """PSNR by the range of the truth, dB; 99 at most."""
    mean_square = float(np.mean((image.astype(np.float64) - case.truth) ** 2))
    if not math.isfinite(mean_square):
        return -math.inf
    peak = case.data_range or 1.0
    return min(_BEST, 10 * math.log10(peak**2 / mean_square)) if mean_square else _BEST


def _error(case: Case, restored: Floats) -> float:
    """Root mean square error over the truth's range."""
    return float(10.0 ** (-psnr(case, restored) / 20))


def _quality(cases: Sequence[Case], restored: Sequence[Floats], pooled: bool) -> float:
    if pooled:
        return -20 * math.log10(float(np.mean([_error(case, one) for case, one in zip(cases, restored, strict=True)])))
    return float(np.mean([psnr(case, one) for case, one in zip(cases, restored, strict=True)]))


def _search(baseline: Baseline, cases: Sequence[Case], pooled: bool = False) -> Search:
    condition = cases[0].condition

    def score(values: Values) -> float:
        restorer = baseline.tuned(values, condition)
        return _quality(cases, [restorer(case.image) for case in cases], pooled)

    return Search(baseline.parameters_for(condition), score, baseline.quick)


def _curves(found: Found) -> dict[str, list[list[Value]]]:
    return {name: [[value, round(score, 3)] for value, score in curve if math.isfinite(score)]
            for name, curve in found.curves.items()}


def _baseline(name: str) -> Baseline:
    if name not in BASELINES:
        raise RestorerError(f"{name!r} is not a baseline; baselines are {', '.join(BASELINES)}")
    return BASELINES[name]


def _begun(suite: Suite, scenes: Sequence[int], out: Path | None) -> Tuning:
    names = [suite.scenes[scene].name for scene in scenes]
    tuning = Tuning(suite.name.removesuffix(_SUFFIX), suite.digest, names, _versions())
    if out is None or not out.exists():
        return tuning
    held = Tuning.load(out)
    for what in ("suite", "digest", "images", "versions"):
        if getattr(held, what) != getattr(tuning, what):
            raise SuiteError(f"{out}: was tuned with {what} {getattr(held, what)}, not {getattr(tuning, what)}; "
                             "choose another file, or remove this one")
    return held


def _versions() -> dict[str, str]:
    def version(package: str) -> Iterator[tuple[str, str]]:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return

    return dict(pair for package in _PACKAGES for pair in version(package))


def _one_thread() -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _run(tasks: Sequence[TuneOne], workers: int, done: Callable[[Any, dict[str, Any]], None]) -> None:
    if workers <= 1:
        for task in tasks:
            done(task, task.run())
        return
    from emsynth.builder.workers import Team

    with Team(min(workers, max(1, len(tasks)))) as team:
        team.run(tasks, done)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: ``python -m emsynth.benchmark.tuning SUITE --out FILE``."""
    from emsynth.benchmark import shipped as suites

    parser = argparse.ArgumentParser(prog="python -m emsynth.benchmark.tuning", description=__doc__)
    parser.add_argument("suite", help="name or path of a tune split")
    parser.add_argument("--restorer", action="append", help="baseline; all by default")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--out", type=Path, required=True, help="JSON; what it already holds is kept")
    parser.add_argument("--figure", type=Path, help="PNG of the curves")
    given = parser.parse_args(arguments)
    try:
        tuning = tune(suites.load(given.suite), given.restorer, given.workers, given.images, given.out,
                      lambda line: print(line, file=sys.stderr, flush=True))
        tuning.save(given.out)
        if given.figure is not None:
            from emsynth.benchmark.tuning_curves import draw_curves

            given.figure.write_bytes(draw_curves(tuning))
    except (SuiteError, RestorerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Not this module's own: what worker processes unpickle must have its proper name.
    from emsynth.benchmark.tuning import main as run_main

    sys.exit(run_main())
