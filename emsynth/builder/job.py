"""Building a data set: outline its fields, simulate them, render its shards.

What is finished is marked in the store's manifests, so that a build can be stopped at any moment and goes on where it
was, and so that several builds can share one store.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emsynth import store
from emsynth.budget import Budget, budget, field_seconds, machine_speed, shard_seconds
from emsynth.builder.repetition import Replay, replay
from emsynth.builder.tasks import Engine, FieldTask, OutlineTask, PartTask, ShardTask
from emsynth.builder.workers import Crew, Task, Team, usable_cores
from emsynth.errors import EmsynthError, RecipeError, StoreExistsError
from emsynth.passes import Outline
from emsynth.provenance import changed_since
from emsynth.recipe import Recipe
from emsynth.store import claims, manifest
from emsynth.store.dataset import (
    Store,
    check_creatable,
    check_replaceable,
    check_writable,
    exists,
    join,
    open_store,
    sweep_beside,
)
from emsynth.store.layout import field_count, shard_count, shard_range

__all__ = ["Budget", "Progress", "Replay", "build", "part_range", "plan", "replay"]

_DEFAULT = Engine()
_ENDING = "nothing that is finished is lost; go on with --resume"
_OUTLINES = 8  # in one task, at most


class Progress(Protocol):
    """Who wants to know how far a build is."""

    def begin(self, phase: str, total: float) -> None:
        """A phase of `total` units of work begins; the one before has ended."""

    def step(self, amount: float, what: str) -> None:
        """So much of the work was done, by finishing `what`."""

    def note(self, message: str) -> None:
        """Something that the user should know."""


class Silence:
    """Nobody wants to know."""

    def begin(self, phase: str, total: float) -> None:
        """Say nothing."""

    def step(self, amount: float, what: str) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""


def part_range(text: str, count: int, option: str) -> range:
    """The parts that ``--fields A:B`` or ``--shards A:B`` means: A, A + 1, ... B - 1.

    Parameters
    ----------
    text : str
        ``"A:B"``, ``"A:"``, ``":B"`` or ``"A"``.
    count : int
        How many parts there are.
    option : str
        Name of the option, for the message.

    Raises
    ------
    RecipeError
        Where it is not of that form, or none of the parts is there.
    """
    found = re.fullmatch(r"(\d*)(:?)(\d*)", text.strip())
    if found and (found[1] or found[2]):
        first = int(found[1] or 0)
        last = int(found[3] or count) if found[2] else first + 1
        if first < last <= count:
            return range(first, last)
    raise RecipeError(f"{option} {text}: not a part of 0:{count}; give A:B for the ones from A up to but not B, "
                      f"e.g. {option} 0:{count}")


def build(recipe: Recipe | str | os.PathLike[str], out: str | os.PathLike[str] | None = None,
          workers: int | None = None, fields: range | None = None, shards: range | None = None, resume: bool = False,
          overwrite: bool = False, progress: Progress | None = None, engine: Engine = _DEFAULT,
          scheduler: str | None = None) -> Path:
    """Build a data set, or a part of it.

    Parameters
    ----------
    recipe : Recipe, path or str
        What to build; a file, or the name of a shipped recipe, is loaded.
    out : path, optional
        Where to; by default ``datasets/<name>.zarr``.
    workers : int, optional
        Processes; by default one for each core that may be used.
    fields, shards : range, optional
        Build these only (and the fields that these shards need); several such builds may share one store, at the same
        time.
    resume : bool
        Go on with a store that is there.
    overwrite : bool
        Replace a store that is there.
    progress : Progress, optional
        Who wants to know how far it is.
    engine : Engine, optional
        Other functions to simulate and render with.
    scheduler : str, optional
        Address of a Dask scheduler, e.g. ``"tcp://10.0.0.1:8786"``, whose workers do the work in place of processes on
        this machine; they must all see `out` under the same path.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    EmsynthError
        What is wrong with the recipe, the place, the cluster, or a task; whatever was finished stays.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    path = Path(out) if out is not None else Path("datasets") / f"{recipe.name}.zarr"
    part = fields is not None or shards is not None
    if overwrite and (resume or part):
        raise StoreExistsError("--overwrite starts anew; it goes with neither --resume, --fields nor --shards")
    wanted_fields, wanted_shards = _wanted(recipe, fields, shards)
    progress = progress or Silence()
    if scheduler is not None:
        path = path.absolute()  # a worker has a working folder of its own
    job = _Job(recipe, path, wanted_fields, wanted_shards, resume or part, resume, overwrite, progress, engine)
    there = job.look()
    interrupted = False
    try:
        with _crew(workers, scheduler, path, progress) as crew:
            job.run(crew, there)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        claims.sweep(path)
        sweep_beside(path)
    # Raised out here, the new error does not keep the workers' semaphores alive as its context.
    if interrupted:
        raise KeyboardInterrupt(f"{path}: stopped; {_ENDING}")
    return path


@contextlib.contextmanager
def _crew(workers: int | None, scheduler: str | None, out: Path, progress: Progress) -> Iterator[Crew]:
    if scheduler is None:
        with Team(workers or usable_cores()) as team:
            yield team
        return
    if workers is not None:
        raise EmsynthError(f"workers {workers} and scheduler {scheduler}: give one of them; a cluster has the workers "
                           f"that it has")
    from emsynth.builder.cluster import Cluster

    with Cluster(scheduler, out, progress.note) as cluster:
        yield cluster


def _wanted(recipe: Recipe, fields: range | None, shards: range | None) -> tuple[tuple[int, ...], range]:
    """Fields and shards to build: those that were named, with what they need; all where none were."""
    everything, shown = range(shard_count(recipe.samples, recipe.store.shard)), _shown(recipe)
    if fields is None and shards is None:
        return tuple(shown), everything
    rendered = _within(shards, everything, "shards") if shards is not None else range(0)
    named = _within(fields, shown, "fields") if fields is not None else range(0)
    return tuple(sorted({*named, *_needed(recipe, rendered)})), rendered


def _shown(recipe: Recipe) -> range:
    """Fields that some sample is cut from; the others are not simulated."""
    return range(field_count(recipe.samples, recipe.fields))


def _within(wanted: range, count: range, what: str) -> range:
    if not wanted or wanted[0] not in count or wanted[-1] not in count:
        raise RecipeError(f"{what}: {wanted} is not within {count}")
    return wanted


def _needed(recipe: Recipe, shards: Sequence[int]) -> set[int]:
    """Fields that some shards are cut from."""
    ranges = (shard_range(n, recipe.samples, recipe.store.shard) for n in shards)
    # The fields repeat after as many samples as there are fields.
    return {recipe.field_of(i) for samples in ranges for i in samples[:recipe.fields]}


@dataclass(frozen=True)
class _Job:
    """What one call of `build` was asked for.

    `joins`: whether a store may be there already; `mends`: whether its damaged parts are made again.
    """

    recipe: Recipe
    path: Path
    fields: tuple[int, ...]
    shards: range
    joins: bool
    mends: bool
    overwrite: bool
    progress: Progress
    engine: Engine

    def look(self) -> Store | None:
        """The store to go on with; None where it is to be created. Raises StoreError where neither can be done."""
        if not os.path.lexists(self.path):
            check_creatable(self.path)
            return None
        if self.overwrite:
            check_replaceable(self.path.resolve())
            return None
        if not self.joins:
            raise exists(self.path)
        return self._join()

    def _join(self) -> Store:
        if self.mends:
            manifest.check_metadata(open_store(self.path).path)
        there = join(self.path, self.recipe)
        claims.sweep(self.path)  # drafts of killed builds, which may have filled the disk
        for problem in manifest.give_up_damaged(self.path) if self.mends else ():
            self.progress.note(f"{problem}: it is made again")
        changed = changed_since(there.attributes)
        if changed:
            self.progress.note(f"{self.path} was begun elsewhere: {'; '.join(changed)}; the same bytes are promised "
                               f"only where all of it is built alike")
        return there

    def run(self, crew: Crew, there: Store | None) -> None:
        """Do what is left to do."""
        if there is None:
            outlines = outline_all(crew, self.recipe, tuple(_shown(self.recipe)), self.engine, self.progress)
            there = self._create(list(outlines.values()))
        else:
            done = there.intact("field", self.fields)
            left = tuple(j for j in self.fields if j not in done)
            if left or len(there.intact("shard", self.shards)) < len(self.shards):
                check_writable(self.path)
            outlines = outline_all(crew, self.recipe, left, self.engine, self.progress)
        try:
            self._simulate(crew, there, outlines)
            self._render(crew, there)
        except EmsynthError as reason:
            raise type(reason)(f"{reason}; {_ENDING}") from None

    def _create(self, outlines: list[Outline]) -> Store:
        try:
            return store.create(self.path, self.recipe, outlines, self.overwrite)
        except StoreExistsError:
            if not self.joins:
                raise
            return self._join()  # another slice was faster

    def _simulate(self, crew: Crew, there: Store, outlines: dict[int, Outline]) -> None:
        finished = there.intact("field", outlines)
        left = (j for j in self.fields if j in outlines and j not in finished)
        seconds = {j: field_seconds(self.recipe, outlines[j]) for j in left}
        # The longest first: the processes then end at about the same time.
        order = sorted(seconds, key=lambda j: (-seconds[j], j))
        self._run(crew, "fields", [FieldTask(self.path, self.recipe, j, seconds[j], self.engine) for j in order])

    def _render(self, crew: Crew, there: Store) -> None:
        finished = there.intact("shard", self.shards)
        tasks = [ShardTask(self.path, self.recipe, n, shard_seconds(self.recipe, len(there.samples_of(n))), self.engine)
                 for n in self.shards if n not in finished]
        self._run(crew, "shards", tasks)

    def _run(self, crew: Crew, phase: str, tasks: Sequence[PartTask]) -> None:
        told: set[str] = set()

        def done(task: Task[bool], made: bool) -> None:
            self.progress.step(seconds[task.name], task.name)

        def held(task: Task[bool]) -> None:
            part = manifest.part_name(*parts[task.name])
            owner = claims.owner(self.path, part)
            if owner is not None and part not in told:
                told.add(part)
                self.progress.note(f"{task.name} is being made by {owner}: waiting for it; if that process is gone, "
                                   f"its claim ends {claims.LEASE / 60:.0f} min after its last touch")

        seconds = {task.name: task.seconds for task in tasks}
        parts = {task.name: (task.kind, task.number) for task in tasks}
        self.progress.begin(phase, sum(seconds.values()))
        crew.run(tasks, done, held)


def outline_all(crew: Crew, recipe: Recipe, fields: Sequence[int], engine: Engine,
                progress: Progress) -> dict[int, Outline]:
    """Outlines of some fields, by index and in order."""
    found: dict[int, Outline] = {}

    def done(task: Task[list[Outline]], outlines: list[Outline]) -> None:
        found.update({o.field: o for o in outlines})
        progress.step(len(outlines), task.name)

    each = max(1, min(_OUTLINES, len(fields) // (2 * crew.count)))
    tasks = [OutlineTask(recipe, tuple(fields[n:n + each]), engine) for n in range(0, len(fields), each)]
    progress.begin("specimens", len(fields))
    crew.run(tasks, done)
    return dict(sorted(found.items()))


def plan(recipe: Recipe, workers: int | None = None, fields: range | None = None, shards: range | None = None,
         progress: Progress | None = None, engine: Engine = _DEFAULT, scheduler: str | None = None) -> Budget:
    """What a build will cost; simulates nothing and writes nothing.

    Parameters
    ----------
    recipe : Recipe
        What to build.
    workers : int, optional
        Processes that the build may use; by default one for each core.
    fields, shards : range, optional
        Build these only.
    progress : Progress, optional
        Who wants to know how far it is.
    engine : Engine, optional
        Other functions to outline with.
    scheduler : str, optional
        Address of a Dask scheduler whose workers the build may use in place of processes.

    Raises
    ------
    EmsynthError
        Whatever would stop the build before it starts.
    """
    wanted_fields, wanted_shards = _wanted(recipe, fields, shards)
    progress = progress or Silence()
    with _crew(workers, scheduler, Path.cwd(), progress) as crew:
        count, found = crew.count, outline_all(crew, recipe, wanted_fields, engine, progress)
    size = recipe.store.shard
    samples = range(wanted_shards.start * size, min(recipe.samples, wanted_shards.stop * size))
    return budget(recipe, list(found.values()), samples, count, machine_speed())
