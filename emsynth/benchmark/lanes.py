"""A lane of a bench: one task at a time is restored in one process and measured in another."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from emsynth.benchmark.suite import Case
from emsynth.benchmark.trial import Floats, Outcome, Plea, Status
from emsynth.benchmark.workers import Contender, Limits, Trial, Worker, Workers

MEASURE = "emsynth.benchmark.measures:measure"
_RESPONSE = "response_"


@dataclass(frozen=True)
class Entry:
    """What is kept of one image: one restorer, one condition, one scene.

    Attributes
    ----------
    restorer, condition : str
    scene : int
        Its index in the suite.
    status, message : str
    seconds : float
        NaN where the image failed.
    values : dict of str to float
        What was measured.
    steady : bool
        Whether the restorer returned the same as at first where it was given an image twice.
    """

    restorer: str
    condition: str
    scene: int
    status: Status
    message: str
    seconds: float
    values: dict[str, float]
    steady: bool = True


@dataclass(frozen=True)
class Task:
    """Images that are restored and measured together: one scene, or all that share a partner, under one condition.

    Attributes
    ----------
    contender : Contender
    cases : tuple of Case
        A partner comes before those that need it.
    wanted : tuple of int
        Indices of the scenes of which entries are made; a partner may not be among them.
    """

    contender: Contender
    cases: tuple[Case, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """A finished task: its entries, and the restored images (scene index to image) of those that did not fail."""

    entries: tuple[Entry, ...]
    restored: dict[int, Floats]


def flat(case: Case) -> Floats:
    """What a failed image is measured as: the mean of the distorted image everywhere."""
    return np.full(case.image.shape, case.image.mean(dtype=np.float64), np.float32)


class Lane:
    """Restores and measures one task at a time, in two processes that know nothing of each other."""

    def __init__(self, limits: Limits, workers: Workers, measure: str) -> None:
        self._limits, self._workers, self._measure = limits, workers, measure
        self._judge: Worker | None = None
        self._trial: Trial | None = None
        self._runs: Contender | None = None

    def run(self, task: Task, given_up: Outcome | None = None) -> Done:
        """Do a task; where it is `given_up`, nothing is restored and that is what became of every image."""
        outcomes: dict[int, Outcome] = {}
        for case in task.cases:
            outcomes[case.scene.index] = given_up or self._ready(task.contender).restore(case)
        cases = {case.scene.index: case for case in task.cases}
        entries = tuple(self._entry(task, cases, outcomes, scene) for scene in task.wanted)
        kept = {n: o.restored for n, o in outcomes.items() if o.restored is not None and n in task.wanted}
        return Done(entries, kept)

    def _ready(self, contender: Contender) -> Trial:
        if self._trial is None or self._runs is not contender:
            if self._trial is not None:
                self._trial.close()
            self._trial, self._runs = Trial(contender.order, self._limits, self._workers), contender
        return self._trial

    def _entry(self, task: Task, cases: dict[int, Case], outcomes: dict[int, Outcome], scene: int) -> Entry:
        case, outcome = cases[scene], outcomes[scene]
        restored = flat(case) if outcome.restored is None else outcome.restored
        twin = cases.get(-1 if case.scene.partner is None else case.scene.partner)
        if twin is None:
            values = self._measured(case, restored, None)
        else:
            of_twin = outcomes[twin.scene.index].restored
            values = self._measured(case, restored, (twin, flat(twin) if of_twin is None else of_twin))
            if of_twin is None and outcome.restored is not None:
                # A response is the difference of two images: it failed where one of them did.
                failed = self._measured(case, flat(case), (twin, flat(twin)))
                values |= {name: value for name, value in failed.items() if name.startswith(_RESPONSE)}
        return Entry(task.contender.name, case.condition.name, scene, outcome.status, outcome.message,
                     outcome.seconds, values, all(one.steady for one in outcomes.values()))

    def _measured(self, case: Case, restored: Floats, partner: tuple[Case, Floats] | None) -> dict[str, float]:
        if self._judge is None:
            self._judge = self._workers.start("serve_measure")
            self._judge.ask(self._measure)
        found = self._judge.ask((case, restored, partner))
        if isinstance(found, Plea):
            raise RuntimeError(f"{case.condition.name}, scene {case.scene.index}: cannot be measured: {found.message}")
        return {name: float(value) for name, value in found.items()}


class Lanes:
    """One lane for each thread of a pool."""

    def __init__(self, limits: Limits, workers: Workers, measure: str = MEASURE) -> None:
        self._limits, self._workers, self._measure = limits, workers, measure
        self._own = threading.local()

    def run(self, task: Task, given_up: Outcome | None = None) -> Done:
        """Do a task on the lane of this thread."""
        if not hasattr(self._own, "lane"):
            self._own.lane = Lane(self._limits, self._workers, self._measure)
        lane: Lane = self._own.lane
        return lane.run(task, given_up)
