"""A stream of shuffled batches, resumable at any step, with threads that work ahead."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Chain
from emsynth.errors import StreamError
from emsynth.store.reading import Readable, open_reading
from emsynth.streaming.batch import Batch
from emsynth.streaming.blocks import Blocks
from emsynth.streaming.order import Order
from emsynth.streaming.source import Chains, Fresh, Source, Stored

if TYPE_CHECKING:
    from emsynth.streaming.tensors import Tensors

_SPLITS = ("train", "val", "test", None)
MEMORY = 4 << 30  # bytes of fields


def stream(path: Any, batch_size: int = 32, seed: int = 0, split: str | None = "train", fresh: bool = True,
           patch: int | None = None, rank: int = 0, world: int = 1, *, views: int = 1, also: Sequence[str] = (),
           symmetric: bool = False, shuffle: bool = True, drop_last: bool = False, threads: int = 2,
           memory: int = MEMORY, tensors: bool = False, pin: bool | None = None,
           distort: Chain | Sequence[tuple[float, Chain]] | None = None) -> Stream:
    """Stream a data set as shuffled batches; one epoch per iteration.

    Parameters
    ----------
    path : path, str or zarr store
        A local folder, a ``.zip`` file of one, an address that fsspec understands, or any `zarr.abc.store.Store`. Local
        folders are read straight from their files, all others through zarr, with the same results.
    batch_size : int
        Samples in a batch; the last of an epoch may have fewer.
    seed : int
        Key of order, windows and fresh distortions.
    split : str or None
        ``"train"``, ``"val"``, ``"test"``, or None for all.
    fresh : bool
        Distort the stored fields afresh in every epoch, so that no pair is ever seen twice; only fields need to be in
        the data set. Else the stored pairs.
    patch : int, optional
        Side of a random window of each image, px. A fresh one is rendered at that size, as a part of the whole scan,
        and truth and image are aligned over it; a stored one is cut out.
    rank, world : int
        Of distributed training: the ranks see disjoint samples whose union is the split, in the same number of steps.
    views : int
        Independent distortions of each truth, for Noise2Noise [1]_; with `fresh` only.
    also : sequence of str
        Arrays of the store besides truth and distorted image, e.g. ``("displacement", "mask", "expected_counts")``.
    symmetric : bool
        Turn and mirror stored pairs by those symmetries that leave their statistics as they are: most cameras allow
        all eight of the square, a scan hardly any. Fresh pairs come from a turned and mirrored field already.
    shuffle : bool
        Whether each epoch has an order of its own; else it is that of the samples.
    drop_last : bool
        Leave out the samples that do not fill a batch on every rank.
    threads : int
        Threads that prepare batches ahead; 0 prepares each when it is asked for. The batches do not depend on it.
    memory : int
        Bytes of fields to hold at a time. Where they need more, each epoch goes through random sets of them in turn.
    tensors : bool
        Give torch tensors, pictures with a channel: (N, 1, H, W).
    pin : bool, optional
        Put tensors into pinned memory; by default where there is a GPU.
    distort : Chain or sequence of (float, Chain), optional
        Distort fresh pairs by this chain in place of the recipe's `distort` section; of several, each sample is
        distorted by one, drawn with these weights.

    Returns
    -------
    Stream

    Raises
    ------
    StreamError
        Where it cannot be streamed in this way; says what can.
    StoreError
        Where it is not a data set, or not finished.

    References
    ----------
    .. [1] Lehtinen et al., Noise2Noise, Proc. ICML (2018).
    """
    batch_size, seed = _whole("batch_size", batch_size, 1), _whole("seed", seed, 0)
    world, threads = _whole("world", world, 1), _whole("threads", threads, 0)
    rank, views, memory = _whole("rank", rank, 0), _whole("views", views, 1), _whole("memory", memory, 1)
    patch = None if patch is None else _whole("patch", patch, 1)
    _check(fresh, split, views, symmetric, also,
           {"fresh": fresh, "symmetric": symmetric, "shuffle": shuffle, "drop_last": drop_last, "tensors": tensors})
    readable = open_reading(path)
    readable.check_metadata()
    chains = _chains(distort, fresh)
    size = int(readable.store.attributes["recipe"]["image"]["size"])
    if patch is not None and patch > size:
        raise StreamError(f"patch: {patch} px is outside 1 to {size} px, the images of {readable.label}")
    source = _source(readable, split, fresh, patch, views, tuple(also), symmetric, seed, memory, chains)
    groups, sets = source.groups()
    order = Order(source.samples, batch_size, seed, rank, world, shuffle, drop_last, groups if shuffle else (), sets)
    kept = {"data": str(readable.store.attributes["recipe_digest"])[:16], "fresh": bool(fresh), "patch": patch,
            "views": views, "symmetric": bool(symmetric)}
    if chains:
        kept["distort"] = _digest(chains)
    return Stream(source, order, threads, tensors, pin, kept)


def _whole(name: str, value: Any, low: int) -> int:
    """A whole number, as NumPy's are too, from `low` on."""
    try:
        found = operator.index(value)
    except TypeError:
        found = low - 1
    if isinstance(value, bool | np.bool_) or not low <= found < 2**63:
        raise StreamError(f"{name}: {value!r} is not a whole number from {low} on (and below 2**63)")
    return found


def _check(fresh: bool, split: str | None, views: int, symmetric: bool, also: Sequence[str],
           flags: dict[str, Any]) -> None:
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise StreamError(f"{name}: {flag!r} is neither True nor False")
    if not (split is None or isinstance(split, str)) or split not in _SPLITS:
        raise StreamError(f"split: {split!r} is none of {', '.join(map(repr, _SPLITS))}")
    if isinstance(also, str) or not isinstance(also, Sequence) or not all(isinstance(name, str) for name in also):
        raise StreamError(f"also: {also!r} is no list of names; give e.g. also=('displacement',)")
    if views > 1 and not fresh:
        raise StreamError(f"views: {views} distortions of one truth are made of fresh ones only; take fresh=True")
    if symmetric and fresh:
        raise StreamError("symmetric: the fields of fresh pairs are turned and mirrored by the recipe "
                          "(image.rotation, image.flip); take fresh=False, or leave it out")


def _source(readable: Readable, split: str | None, fresh: bool, patch: int | None, views: int, also: tuple[str, ...],
            symmetric: bool, seed: int, memory: int, chains: Chains) -> Source:
    if fresh:
        return Fresh(readable, split, also, patch, seed, views, memory, chains)
    if symmetric:
        return Stored(readable, split, also, patch, seed, readable.store.recipe.distort.symmetry)
    return Stored(readable, split, also, patch, seed)


def _chains(distort: Any, fresh: bool) -> Chains:
    """What fresh pairs are distorted by, with weights; none where that is the recipe's own chain."""
    if distort is None:
        return ()
    if not fresh:
        raise StreamError("distort: stored pairs are distorted already; take fresh=True, or leave it out")
    listed = [(1.0, distort)] if isinstance(distort, Chain) else distort
    try:
        chains = tuple((float(weight), chain) for weight, chain in listed)
    except (TypeError, ValueError):
        raise StreamError(f"distort: {distort!r:.80} is neither a chain nor a list of (weight, chain)") from None
    if not chains or not all(isinstance(chain, Chain) and 0 < weight < math.inf for weight, chain in chains):
        raise StreamError("distort: give a Chain, such as Recipe.load('stem_hd').distort, or a list of (weight, chain) "
                          "with weights above 0")
    return chains


def _digest(chains: Chains) -> str:
    written = json.dumps([[weight, chain.model_dump(mode="json")] for weight, chain in chains], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def _tensors(pin: bool | None) -> Tensors:
    try:
        from emsynth.streaming.tensors import Tensors  # torch takes seconds to import, and is an extra
    except ImportError as reason:
        raise StreamError(f"tensors: torch is not there ({reason}); pip install 'emsynth[train]', or take NumPy "
                          f"arrays") from None
    return Tensors(pin)


class Stream:
    """Batches of a data set; a position in it, (epoch, step), says which comes next.

    Iterating goes on from the position to the end of its epoch; the next iteration is the next epoch. A loop that was
    left early is gone on with. `stream` makes one.

    Attributes
    ----------
    epoch, step : int
        Position: what has been given out is before it. Of a loop's body: that batch is given out.
    waited : float
        Seconds that the consumer has waited for batches so far.
    """

    def __init__(self, source: Source, order: Order, threads: int, tensors: bool, pin: bool | None,
                 kept: dict[str, Any]) -> None:
        self._kept = kept
        self._source, self._order, self._threads = source, order, threads
        self._blocks = Blocks()
        self._tensors = _tensors(pin) if tensors else None
        self.epoch = self.step = 0
        self.waited = 0.0

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return self._order.steps

    @property
    def parts(self) -> int:
        """Parts that an epoch goes through in turn, because not all fields can be held; 0 where they can."""
        return len(self._order.groups)

    @property
    def samples(self) -> NDArray[np.int64]:
        """Indices of the samples of the split, of all ranks."""
        return self._order.samples

    def batch(self, epoch: int, step: int) -> Batch:
        """One batch: a pure function of data set, seed, epoch, rank and step.

        Parameters
        ----------
        epoch : int
            From 0 on.
        step : int
            0 to ``len(stream) - 1``.

        Raises
        ------
        IntegrityError
            Where the bytes of a sample are not those that were written; names file and sample.
        """
        if epoch < 0:
            raise StreamError(f"epoch: {epoch} is below 0")
        indices, following = self._order.batch(epoch, step), step + max(1, self._threads)
        if following < len(self):
            self._source.expect(self._order.batch(epoch, following))
        if self._tensors is None:
            return Batch({"index": indices.copy(), **self._source.read(indices, epoch, self._blocks.array)})
        rooms = self._tensors.rooms(self._blocks)
        return Batch(rooms.tensors({"index": indices.copy(), **self._source.read(indices, epoch, rooms.array)}))

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the position to the end of its epoch."""
        epoch, steps = self.epoch, range(self.step, len(self))
        ahead = self._ahead(epoch, steps) if self._threads else map(partial(self.batch, epoch), steps)
        for step in steps:
            asked = time.perf_counter()
            made = next(ahead)
            self.waited += time.perf_counter() - asked
            self.seek(epoch, step + 1)
            position = self.epoch, self.step
            yield made
            del made  # so that its memory can be used again as soon as the consumer lets it go
            if (self.epoch, self.step) != position:
                raise StreamError(f"epoch {self.epoch}, step {self.step}: the position was changed inside of a loop "
                                  f"over the stream; leave the loop, and begin another one")

    def seek(self, epoch: int, step: int = 0) -> None:
        """Go to a position; the next iteration begins there."""
        epoch, step = _whole("epoch", epoch, 0), _whole("step", step, 0)
        if step > len(self):
            raise StreamError(f"epoch {epoch}, step {step} is no position; steps are 0 to {len(self)}")
        self.epoch, self.step = (epoch + 1, 0) if step == len(self) else (epoch, step)

    def state_dict(self) -> dict[str, Any]:
        """The position and what the order depends on, as plain JSON values."""
        order = self._order
        return {"epoch": self.epoch, "step": self.step, "seed": order.seed, "samples": len(order.samples),
                "batch_size": order.batch_size, "world": order.world, **self._kept, "order": order.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position of a state.

        Raises
        ------
        StreamError
            Where it is of a stream whose order is another one.
        """
        own = self.state_dict()
        if not isinstance(state, Mapping):
            raise StreamError(f"{state!r} is no state; give what state_dict() of a stream returned")
        missing = [name for name in own if name not in state]
        if missing:
            raise StreamError(f"{', '.join(missing)}: not in this state; give what state_dict() of a stream returned")
        other = [name for name in own if name not in ("epoch", "step", "order") and state[name] != own[name]]
        if other:
            raise StreamError("; ".join(f"{name}: the state is of a stream with {state[name]!r}, this one has "
                                        f"{own[name]!r}" for name in other))
        if state["order"] != own["order"]:
            raise StreamError("order: the state is of a stream of another split, or with another shuffle, drop_last or "
                              "memory; open this one as that one was")
        self.seek(state["epoch"], state["step"])

    def _ahead(self, epoch: int, steps: range) -> Generator[Batch, None, None]:
        pool, made = ThreadPoolExecutor(self._threads, "emsynth-stream"), deque[Future[Batch]]()
        try:
            for step in steps:
                made.append(pool.submit(self.batch, epoch, step))
                # One batch waits for the consumer while each thread prepares another.
                if len(made) > self._threads:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            # Without waiting: a loop that is left may be collected in one of these very threads.
            pool.shutdown(wait=False, cancel_futures=True)
