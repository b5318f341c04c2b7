"""The tasks of a build: outline some fields, simulate one field, render one shard."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emsynth import sample, store
from emsynth.builder.workers import Held
from emsynth.errors import StoreError
from emsynth.passes import Outline
from emsynth.recipe import Recipe
from emsynth.sample import Sample
from emsynth.simulation.field import Field
from emsynth.store import claims, manifest
from emsynth.store.dataset import Store

# Clean stacks that one process keeps at hand, in bytes.
_FIELDS_AT_HAND = 1 << 30
# A network file system may go on saying for a minute that there is no such file.
_SEEN_WITHIN = 75.0  # seconds


@dataclass(frozen=True)
class Engine:
    """The functions that a build calls; each must be importable by its name.

    Attributes
    ----------
    outline, simulate, render : callable
        As those of `emsynth.sample`.
    """

    outline: Callable[[Recipe, int], Outline] = sample.outline
    simulate: Callable[[Recipe, int], Field] = sample.simulate
    render: Callable[[Recipe, int, Field | None], Sample] = sample.render


@dataclass(frozen=True)
class OutlineTask:
    """Outline some fields of a recipe."""

    recipe: Recipe
    fields: tuple[int, ...]
    engine: Engine

    @property
    def name(self) -> str:
        """What it works on, for messages."""
        first, last = self.fields[0], self.fields[-1]
        return f"field {first}" if first == last else f"fields {first} to {last}"

    def run(self) -> list[Outline]:
        """Outline each of them."""
        return [self.engine.outline(self.recipe, field) for field in self.fields]


@dataclass(frozen=True)
class PartTask:
    """Make one part of a store and write it.

    Attributes
    ----------
    path : Path
        The store.
    recipe : Recipe
        What to build.
    number : int
        Index of the field, or number of the shard.
    seconds : float
        How long it may take.
    engine : Engine
        Who does it.
    """

    kind: ClassVar[str]
    path: Path
    recipe: Recipe
    number: int
    seconds: float
    engine: Engine

    @property
    def name(self) -> str:
        """What it works on, for messages."""
        return f"{self.kind} {self.number}"

    def run(self) -> bool | Held:
        """Make and write the part as its only writer; whether there was anything left to write."""
        part = manifest.part_name(self.kind, self.number)
        if not claims.claim(self.path, part):
            return Held()
        try:
            if manifest.intact(self.path, part):
                return False
            self.make(_open(self.path, self.recipe))
            return True
        except StoreError:
            # A process that slept for longer than a lease finds its draft swept away, and another one at its part.
            if claims.owner(self.path, part) in (None, claims.myself()):
                raise
            return Held()
        finally:
            claims.release(self.path, part)

    def make(self, there: Store) -> None:
        """Make and write the part, which is claimed."""
        raise NotImplementedError


@dataclass(frozen=True)
class FieldTask(PartTask):
    """Simulate one field and put it into the store."""

    kind: ClassVar[str] = "field"

    def make(self, there: Store) -> None:
        """Simulate the field."""
        store.write_field(self.path, self.number, self.engine.simulate(self.recipe, self.number))


@dataclass(frozen=True)
class ShardTask(PartTask):
    """Render all samples of one shard and write it; its fields are in the store."""

    kind: ClassVar[str] = "shard"

    def make(self, there: Store) -> None:
        """Render the samples."""
        wanted = there.samples_of(self.number)
        digest, made = str(there.attributes["recipe_digest"]), {}
        # Sorted by field, so that each field is loaded once even where not all of them fit into memory.
        for index in sorted(wanted, key=lambda i: (self.recipe.field_of(i), i)):
            field = _at_hand.get(self.path, self.recipe.field_of(index), digest)
            made[index] = self.engine.render(self.recipe, index, field)
        store.write_shard(self.path, self.number, [made[index] for index in wanted])


def _open(path: Path, recipe: Recipe) -> Store:
    """The store, once a part of it is claimed: until then another build's --overwrite may have replaced it."""
    there = store.open_store(path)
    if there.attributes["recipe_digest"] != recipe.digest:
        raise StoreError(f"{path}: is now of another recipe than this build's; another build replaced it, or a "
                         f"structure file or an image was changed: give each build its own --out")
    return there


class FieldsAtHand:
    """The fields used last, up to a number of bytes.

    Parameters
    ----------
    limit : int
        Bytes of clean stacks to keep; one field is kept, however large.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[Path, int, str], Field] = OrderedDict()

    def get(self, path: Path, number: int, digest: str = "") -> Field:
        """The field, from memory or from the store; IntegrityError where its bytes there are not those written.

        The digest of the recipe tells apart what has been in one place: a worker of a cluster outlives a build.
        """
        key = (path, number, digest)
        if key not in self._held:
            part = manifest.part_name("field", number)
            _await(path, part)
            # Compares every file: a damaged picture would make a wrong shard with a right checksum.
            self._held[key] = store.read_field(path, number)
        self._held.move_to_end(key)
        while len(self._held) > 1 and sum(sample.bytes_at_hand(f) for f in self._held.values()) > self._limit:
            self._held.popitem(last=False)
        return self._held[key]


def _await(path: Path, part: str) -> None:
    """Wait until a part that another machine may just have finished is seen here."""
    end = time.monotonic() + _SEEN_WITHIN
    while not manifest.is_finished(path, part) and time.monotonic() < end:
        time.sleep(1.0)


_at_hand = FieldsAtHand(_FIELDS_AT_HAND)
