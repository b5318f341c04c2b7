"""Where the pairs of a stream come from: stored ones, or stored fields that are distorted afresh."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Chain, Distorted
from emsynth.errors import EmsynthError, StreamError
from emsynth.fresh import SMALLEST_PATCH, take
from emsynth.oversampling import factor_of
from emsynth.passes import split_of
from emsynth.recipe import Recipe
from emsynth.sample import bytes_at_hand
from emsynth.simulation.field import Field
from emsynth.store.layout import LAYOUT
from emsynth.store.reading import Readable
from emsynth.streams import Streams, stream_key

Room = Callable[[tuple[int, ...], Any], NDArray[Any]]
Symmetry = tuple[bool, bool, bool]
Chains = tuple[tuple[float, Chain], ...]

_PAIR = ("truth", "distorted")


class Source(Protocol):
    """Pairs by the index of their sample."""

    @property
    def samples(self) -> NDArray[np.int64]:
        """Indices of the samples of the split, ascending."""

    def groups(self) -> tuple[tuple[NDArray[np.int64], ...], int]:
        """Parts of the samples that need the same memory, and how many parts may be held; none where all may be."""

    def read(self, indices: NDArray[np.int64], epoch: int, room: Room) -> dict[str, NDArray[Any]]:
        """Arrays of some samples, in memory that `room` gives."""

    def expect(self, indices: NDArray[np.int64]) -> None:
        """Prepare for a `read` of these that comes soon, as far as that helps."""


def chosen(splits: Sequence[str] | NDArray[Any], wanted: str | None, label: str) -> NDArray[np.int64]:
    """Indices at which `splits` is the wanted one; all of them for None."""
    found = np.asarray(splits, object)
    indices: NDArray[np.int64] = np.flatnonzero(found == wanted) if wanted is not None else np.arange(len(found))
    if len(indices) == 0:
        counts = ", ".join(f"{name} {np.count_nonzero(found == name):,}" for name in ("train", "val", "test"))
        raise StreamError(f"split: {label} has no samples of {wanted!r}; it has {counts}, and split=None takes all")
    return indices


@dataclass(frozen=True, eq=False)
class Stored:
    """Stored pairs.

    Attributes
    ----------
    readable : Readable
        The data set.
    split : str or None
        Which samples; None for all.
    also : tuple of str
        Arrays besides truth and distorted image.
    patch : int or None
        Side of a random window of each image, px; None for all of it.
    seed : int
        Key of windows and symmetries.
    symmetries : tuple
        Those that the physics allows, (transpose, flip rows, flip cols) each, one of which is applied; the identity
        alone for none.
    """

    readable: Readable
    split: str | None
    also: tuple[str, ...]
    patch: int | None
    seed: int
    symmetries: tuple[Symmetry, ...] = ((False, False, False),)

    def __post_init__(self) -> None:
        self.readable.check_finished("shard", self.readable.store.shards)
        known = {a.name: a for a in LAYOUT if a.name not in _PAIR}
        for name in self.also:
            if name not in known:
                raise StreamError(f"also: {name!r} is not kept of a sample; there are {', '.join(known)}")
            if self._moved and known[name].dims[1:] not in ((), ("y", "x"), ("axis", "y", "x")):
                raise StreamError(f"also: {name} belongs to the whole image as it is; leave it out, or patch and "
                                  f"symmetric")

    @property
    def _moved(self) -> bool:
        return self.patch is not None or len(self.symmetries) > 1

    @cached_property
    def samples(self) -> NDArray[np.int64]:
        """Indices of the samples of the split, ascending."""
        return chosen(self._column("split"), self.split, self.readable.label)

    def groups(self) -> tuple[tuple[NDArray[np.int64], ...], int]:
        """No parts: any sample can be read at any time."""
        return (), 1

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {}

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            self._columns[name] = self.readable.array(name).whole()
        return self._columns[name]

    def read(self, indices: NDArray[np.int64], epoch: int, room: Room) -> dict[str, NDArray[Any]]:
        """Arrays of some samples, in memory that `room` gives."""
        places = [self._place(int(i), epoch) for i in indices] if self._moved else []
        found = {}
        for name in (*_PAIR, *self.also):
            array = self.readable.array(name)
            if len(array.shape) == 1:
                found[name] = self._column(name)[indices]
            elif self._moved:
                found[name] = self._read_parts(name, indices, places, room)
            else:
                out = found[name] = room((len(indices), *array.shape[1:]), array.dtype)
                array.read(indices, out)
        return found

    def expect(self, indices: NDArray[np.int64]) -> None:
        """Have the disk bring these meanwhile."""
        for name in (*_PAIR, *self.also):
            if name not in self._columns:
                self.readable.array(name).expect(indices)

    def _read_parts(self, name: str, indices: NDArray[np.int64], places: list[tuple[int, int, Symmetry]],
                    room: Room) -> NDArray[Any]:
        array = self.readable.array(name)
        side = self.patch or array.shape[-1]
        out = room((len(indices), *array.shape[1:-2], side, side), array.dtype)
        whole = room((len(indices), *array.shape[1:]), array.dtype)
        array.read(indices, whole)
        for row, (top, left, symmetry) in enumerate(places):
            out[row] = turned(whole[row, ..., top:top + side, left:left + side], symmetry, name == "displacement")
        return out

    def _place(self, index: int, epoch: int) -> tuple[int, int, Symmetry]:
        own = Streams(stream_key(self.seed, epoch, "stream.window"), index)
        slack = self.readable.array("truth").shape[-1] - (self.patch or self.readable.array("truth").shape[-1])
        symmetry = self.symmetries[int(own.uniform("symmetry") * len(self.symmetries))]
        return int(own.uniform("row") * (slack + 1)), int(own.uniform("col") * (slack + 1)), symmetry


def turned(image: NDArray[Any], symmetry: Symmetry, vectors: bool = False) -> NDArray[Any]:
    """An image (..., R, C) transposed first, then flipped along rows, then along columns.

    Parameters
    ----------
    image : (..., R, C) array
        Picture, or with `vectors` a field (2, R, C) of (row, col) vectors, whose components turn too.
    symmetry : (bool, bool, bool)
        Transpose, flip rows, flip columns.
    vectors : bool
        Whether it holds vectors.
    """
    transpose, flip_rows, flip_cols = symmetry
    if transpose:
        image = np.swapaxes(image, -1, -2)
        image = image[::-1] if vectors else image
    image = image[..., ::-1, :] if flip_rows else image
    image = image[..., ::-1] if flip_cols else image
    if vectors and (flip_rows or flip_cols):
        image = image * np.array([-1 if flip_rows else 1, -1 if flip_cols else 1], image.dtype)[:, None, None]
    return image


class HeldFields:
    """The fields used last, up to a number of bytes, each read once however many threads want it.

    Parameters
    ----------
    readable : Readable
        The data set.
    limit : int
        Bytes to keep; one field is kept, however large.
    """

    def __init__(self, readable: Readable, limit: int) -> None:
        self._readable, self._limit = readable, limit
        self._held: OrderedDict[int, Field] = OrderedDict()
        self._reading: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, number: int) -> Field:
        """The field, from memory or from the store."""
        with self._lock:
            if number in self._held:
                self._held.move_to_end(number)
                return self._held[number]
            own = self._reading.setdefault(number, threading.Lock())
        with own:
            with self._lock:
                if number in self._held:
                    return self._held[number]
            field = self._readable.field(number)
            with self._lock:
                self._held[number] = field
                while len(self._held) > 1 and sum(map(_memory, self._held.values())) > self._limit:
                    self._held.popitem(last=False)
            return field


def _memory(field: Field) -> int:
    # The images, and what is interpolated from them.
    return field.image.nbytes + bytes_at_hand(field)


_OF_FRESH = ("displacement", "mask", "expected_counts", "gain", "black_level", "step", "sampling")


@dataclass(frozen=True, eq=False)
class Fresh:
    """Stored fields, distorted afresh in every epoch.

    Attributes
    ----------
    readable : Readable
        The data set; only its fields are needed.
    split : str or None
        Which samples; None for all.
    also : tuple of str
        Arrays besides truth and distorted image.
    patch : int or None
        Side of a random part of each image, px, of which alone is rendered; None for all of it.
    seed : int
        Key of every random number, with epoch and sample.
    views : int
        Independent distortions of each truth.
    memory : int
        Bytes of fields to hold.
    chains : tuple of (float, Chain)
        What to distort by, each with its weight; none for the recipe's own chain.
    """

    readable: Readable
    split: str | None
    also: tuple[str, ...]
    patch: int | None
    seed: int
    views: int
    memory: int
    chains: Chains = ()

    def __post_init__(self) -> None:
        self.readable.check_finished("field", self.readable.store.fields)
        if self.patch is not None and self.patch < SMALLEST_PATCH:
            raise StreamError(f"patch: {self.patch} px is too small for a fresh one, at least {SMALLEST_PATCH} px; a "
                              f"stored one (fresh=False) may be smaller")
        for name in self.also:
            if name not in _OF_FRESH:
                raise StreamError(f"also: {name!r} is not made of a fresh distortion; there are {', '.join(_OF_FRESH)}"
                                  f"; for what is stored of a sample take fresh=False")

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the data set."""
        return self.readable.store.recipe

    @cached_property
    def _recipes(self) -> tuple[tuple[float, Recipe], ...]:
        """The recipe under each chain, and the share of samples up to and with it."""
        if not self.chains:
            return ((1.0, self.recipe),)
        shares = np.cumsum([weight for weight, _ in self.chains]) / sum(weight for weight, _ in self.chains)
        return tuple((float(upto), self.recipe.model_copy(update={"distort": chain}))
                     for upto, (_, chain) in zip(shares, self.chains, strict=True))

    def _recipe_of(self, index: int, seed: int) -> Recipe:
        if len(self._recipes) == 1:
            return self._recipes[0][1]
        at = Streams(seed, index).uniform("stream.chain")
        return next((recipe for upto, recipe in self._recipes if at < upto), self._recipes[-1][1])

    @cached_property
    def _fields(self) -> HeldFields:
        return HeldFields(self.readable, self.memory)

    @cached_property
    def _about(self) -> list[dict[str, Any]]:
        return [self.readable.field_about(j) for j in range(self.readable.store.fields)]

    @cached_property
    def samples(self) -> NDArray[np.int64]:
        """Indices of the samples whose fields are of the split, ascending."""
        splits = [split_of(str(about["provenance"]["specimen"]["prototype"])) for about in self._about]
        of_sample = [splits[self.recipe.field_of(i)] for i in range(self.readable.store.samples)]
        return chosen(of_sample, self.split, self.readable.label)

    def groups(self) -> tuple[tuple[NDArray[np.int64], ...], int]:
        """Samples by their field, and how many fields may be held; no parts where all of them may."""
        sizes = [self._bytes(j) for j in range(len(self._about))]
        of_sample = self.samples % self.recipe.fields
        used = np.unique(of_sample)
        if sum(sizes[j] for j in used) <= self.memory:
            return (), 1
        largest = max(sizes[j] for j in used)
        parts = np.split(np.argsort(of_sample, kind="stable"), np.flatnonzero(np.diff(np.sort(of_sample))) + 1)
        return tuple(parts), max(1, self.memory // largest)

    def _bytes(self, number: int) -> int:
        shape, about = self.readable.array(f"fields/{number}/image").shape, self._about[number]
        critical = about["band_limit"] * max(about["sampling"]) > 0.49
        size = 4 * int(np.prod(shape))
        return size * (2 + (factor_of((shape[-2], shape[-1]))**2 if critical else 0))

    def read(self, indices: NDArray[np.int64], epoch: int, room: Room) -> dict[str, NDArray[Any]]:
        """Arrays of some samples, in memory that `room` gives."""
        # Below 2**63, as seeds of recipes are.
        seed = stream_key(self.seed, epoch, "stream.fresh") >> 65
        found: dict[str, NDArray[Any]] = {}
        for row, index in enumerate(indices.tolist()):
            field = self._fields.get(self.recipe.field_of(index))
            try:
                made = take(self._recipe_of(index, seed), field, seed, index, self.patch, self.views)
            except EmsynthError as reason:
                raise type(reason)(f"{self.readable.label}: sample {index} in epoch {epoch}: {reason}") from None
            if row == 0:
                found = self._rooms(made, len(indices), room)
            for name, out in found.items():
                if name == "truth" or self.views == 1:
                    out[row] = getattr(made[0], name)
                else:
                    for view, taken in enumerate(made):
                        out[row, view] = getattr(taken, name)
        return found

    def expect(self, indices: NDArray[np.int64]) -> None:
        """Do nothing: their fields are at hand, or too large to be brought beside others."""

    def _rooms(self, made: tuple[Distorted, ...], count: int, room: Room) -> dict[str, NDArray[Any]]:
        rooms = {}
        for name in (*_PAIR, *self.also):
            value = np.asarray(getattr(made[0], name))
            views = (self.views,) if self.views > 1 and name != "truth" else ()
            kind = np.float64 if value.ndim == 0 else value.dtype
            rooms[name] = room((count, *views, *value.shape), kind)
        return rooms
