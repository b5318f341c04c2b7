"""Several trainings in one process, which take turns until each has had the same processor time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from emsynth.builder import Progress
from emsynth.errors import TrainingError
from emsynth.imagery import replacing
from emsynth.networks.weights import load_weights
from emsynth.training.data import Feed, Pairs, field_library
from emsynth.training.folder import CHECKPOINT
from emsynth.training.pace import stoppable
from emsynth.training.recipe import TrainingRecipe
from emsynth.training.train import WEIGHTS, Run, launched

TURN = 20.0  # s of processor time
_WARM_UP = 20  # a warm-up is at most the twentieth part of its stage
_UNKNOWN = 10**9  # steps of a stage of which none was made


class Shared:
    """Batches of one stage that several networks learn from, each at its own pace; each batch is made once.

    Attributes
    ----------
    cpu : float
        Seconds of processor time that making them took.
    """

    def __init__(self, feed: Feed, places: Mapping[str, int]) -> None:
        self.feed, self.cpu, self._places = feed, 0.0, dict(places)
        self._made = min(places.values())
        self._batches = feed.batches(self._made)
        self._held: dict[int, Pairs] = {}

    def at(self, name: str, step: int) -> Pairs:
        """The batch of a step, for a network that is done with those before."""
        began = time.process_time()
        while self._made <= step:
            self._held[self._made] = next(self._batches)
            self._made += 1
        self._places[name] = step
        self._forget()
        self.cpu += time.process_time() - began
        return self._held[step]

    def leave(self, name: str) -> bool:
        """A network has learnt enough from this stage; returns whether all have."""
        self._places.pop(name, None)
        self._forget()
        return not self._places

    def _forget(self) -> None:
        least = min(self._places.values(), default=self._made)
        for step in [step for step in self._held if step < least]:
            del self._held[step]


@dataclass
class View:
    """Shared batches as one network sees them: what a `Run` takes for its feed."""

    shared: Shared
    name: str
    waited: float = 0.0

    def position(self, step: int) -> tuple[int, int]:
        """Epoch of a step, and its place in that."""
        return self.shared.feed.position(step)

    def batches(self, step: int) -> Iterator[Pairs]:
        """Batches from a step on."""
        while True:
            yield self.shared.at(self.name, step)
            step += 1


@dataclass
class Learner:
    """One variant in training, with a clock for each stage.

    A stage has the share of the time that it has of the recipe's pixels. How many steps that makes is not known in
    advance: for the decay of the learning rate it is estimated again and again, from the pace so far.
    """

    name: str
    recipe: TrainingRecipe
    folder: Path
    minutes: float
    run: Run | None = None
    clock: list[float] = field(default_factory=list)
    finished: bool = False

    def __post_init__(self) -> None:
        pixels = [stage.samples * (stage.patch or self.recipe.data.building.image.size) ** 2
                  for stage in self.recipe.stages]
        self.budget = [60.0 * self.minutes * part / sum(pixels) for part in pixels]
        self.clock = [0.0] * len(pixels)
        if self._kept.exists():
            kept = json.loads(self._kept.read_text(encoding="utf-8"))
            if kept["minutes"] != self.minutes:
                raise TrainingError(f"{self.folder}: was begun with {kept['minutes']} minutes; go on with as many, "
                                    "or give another --out")
            self.clock, self.finished = kept["clock"], kept["finished"]

    def begin(self, library: Path, stop: Callable[[], bool]) -> None:
        """Make the networks, or take them from the checkpoint."""
        resume = self._kept.exists() and (self.folder / CHECKPOINT).exists()
        if not resume:
            self.clock = [0.0] * len(self.budget)
            (self.folder / "metrics.csv").unlink(missing_ok=True)
        self.run = Run(launched(self.recipe), self.recipe, self.folder, library, resume, stop)

    def turn(self, feeds: Feeds, seconds: float) -> None:
        """Learn for some seconds of processor time, and save."""
        assert self.run is not None
        until = sum(self.clock) + seconds
        try:
            while sum(self.clock) < until and not self.finished:
                self._learn(self.run, feeds, until - sum(self.clock))
        except KeyboardInterrupt:
            self._keep()
            raise
        self.run.save()
        self._keep()

    def _learn(self, run: Run, feeds: Feeds, seconds: float) -> None:
        """Some steps of a stage, no more than were made before: so the pace is known better and better."""
        number, step = run.progressed.stage, run.progressed.step
        stage, shared = self.recipe.stages[number], feeds.of(self, number)
        pace = self.clock[number] / step if step else 0.0
        left = self.budget[number] - self.clock[number]
        until = step + (max(1, min(step, round(min(seconds, left) / pace))) if pace else 1)
        steps = max(until + 1, round(self.budget[number] / pace)) if pace else _UNKNOWN
        rate = stage.rate.model_copy(update={"warm_up": min(stage.rate.warm_up, steps // _WARM_UP)})
        began, making = time.process_time(), shared.cpu
        try:
            run.learn_until(stage.model_copy(update={"rate": rate}), View(shared, self.name),  # type: ignore[arg-type]
                            until, steps)
        finally:
            self.clock[number] += time.process_time() - began - (shared.cpu - making)
        if self.clock[number] >= self.budget[number]:
            feeds.leave(self, number)
            self._next_stage(run, number)

    def _next_stage(self, run: Run, number: int) -> None:
        self.finished = number + 1 == len(self.recipe.stages)
        if self.finished:
            run.validate({"step": run.progressed.steps, "samples": run.progressed.samples, "epoch": 0,
                          "stage": self.recipe.stages[number].name})
        run.progressed = run.progressed.next_stage()

    @property
    def place(self) -> tuple[int, int]:
        """Stage and step where it is."""
        return (0, 0) if self.run is None else (self.run.progressed.stage, self.run.progressed.step)

    @property
    def _kept(self) -> Path:
        return self.folder / "clock.json"

    def _keep(self) -> None:
        with replacing(self._kept) as file:
            file.write(json.dumps({"minutes": self.minutes, "clock": self.clock, "finished": self.finished}).encode())


@dataclass
class Feeds:
    """The batches of each stage, for all networks that learn from the same data."""

    learners: Sequence[Learner]
    libraries: Mapping[str, Path]
    kept: dict[tuple[str, int], Shared] = field(default_factory=dict)

    def of(self, learner: Learner, number: int) -> Shared:
        """Those that one network learns from in a stage."""
        data = learner.recipe.data.building.digest
        if (data, number) not in self.kept:
            places = {one.name: one.place[1] if one.place[0] == number else 0 for one in self.learners
                      if one.recipe.data.building.digest == data and one.place[0] <= number and not one.finished}
            self.kept[data, number] = Shared(Feed(learner.recipe, self.libraries[data], number), places)
        return self.kept[data, number]

    def leave(self, learner: Learner, number: int) -> None:
        """One network is done with a stage; what nobody learns from any more is dropped, with the fields it holds."""
        data = learner.recipe.data.building.digest
        if self.kept[data, number].leave(learner.name):
            del self.kept[data, number]


def train_in_turns(recipes: Mapping[str, TrainingRecipe], out: Path, minutes: float, turn: float = TURN,
                   console: Console | None = None, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """Train every recipe for the same processor time, or go on with that.

    Parameters
    ----------
    recipes : mapping of str to TrainingRecipe
        By name; with the same stages, as far as these make batches.
    out : Path
        Folder, with one of each name in it.
    minutes : float
        Of processor time, for learning, of each.
    turn : float
        Seconds after which the next one has its turn.
    console : Console, optional
        Who is told how far it is.
    progress : Progress, optional
        Who wants to know how far the simulation of missing fields is.

    Returns
    -------
    dict
        Name to ``seconds`` (processor time), ``samples``, ``steps``, ``parameters`` and ``weights``.

    Raises
    ------
    KeyboardInterrupt
        It was stopped, and has saved its checkpoints.
    """
    learners = [Learner(name, recipe, out / name, minutes) for name, recipe in recipes.items()]
    going = [one for one in learners if not one.finished]
    libraries = {one.recipe.data.building.digest: field_library(one.recipe, progress) for one in going}
    out.mkdir(parents=True, exist_ok=True)
    # The logbooks of several trainings at once would draw over each other.
    with (out / "log.txt").open("a", encoding="utf-8") as log, stoppable() as stop, contextlib.redirect_stderr(log):
        for one in going:
            one.begin(libraries[one.recipe.data.building.digest], stop)
        feeds = Feeds(going, libraries)
        while any(not one.finished for one in going):
            for one in going:
                if not one.finished:
                    one.turn(feeds, turn)
            if console is not None:
                console.print(", ".join(f"{one.name} {sum(one.clock) / sum(one.budget):.1%}" for one in going))
    return {one.name: _trained(one) for one in learners}


def _trained(one: Learner) -> dict[str, Any]:
    weights = one.folder / WEIGHTS
    network, about = load_weights(weights)
    return {"seconds": sum(one.clock), "samples": about["samples"], "steps": about["steps"],
            "parameters": network.parameters_in_all, "weights": str(weights)}
