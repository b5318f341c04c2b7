"""A restorer as a worker process loads it: by name or as a callable, with what identifies it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.suite import Case
from emsynth.benchmark.trial import Order, unpickled
from emsynth.errors import EmsynthError, SuiteError
from emsynth.streams import generator

if TYPE_CHECKING:
    from emsynth.restoration import Baseline

_SIDE = 64  # px

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Identity:
    """What tells whether two runs had the same restorer.

    Attributes
    ----------
    name : str
        As in the table.
    kind : {"baseline", "oracle", "function", "file"}
        A baseline of emsynth tuned for each condition, the same tuned on the truth, somebody's function, or a network
        in a file.
    source : str
        Name of the file that it comes from, without its folder.
    digest : str
        SHA-256 of that file, of a callable's pickle, or of a baseline's tuned values. What the file imports or loads is
        not looked at.
    parameters : dict
        Tuned values by condition, of a baseline.
    tunable : bool
        Whether an oracle can tune it.
    """

    name: str
    kind: str
    source: str = ""
    digest: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    tunable: bool = False


class Loaded:
    """A restorer that is ready to restore.

    Parameters
    ----------
    order : Order

    Attributes
    ----------
    identity : Identity

    Raises
    ------
    EmsynthError
        There is no such restorer, or it lacks something.
    """

    def __init__(self, order: Order) -> None:
        if isinstance(order.restorer, bytes):
            called = unpickled(order.restorer)
            self._restore: Callable[[Floats, Case], Any] = lambda image, case: called(image)
            self.identity = _of_callable(_named(called), called, order.restorer)
            return
        from emsynth import restoration
        from emsynth.restoration.network import Network

        found = restoration.find(order.restorer)
        if isinstance(found, Network) and order.shape is not None:
            found.check_shape(order.shape)
        if not isinstance(found, restoration.Baseline):
            self._restore = lambda image, case: found(image)
            self.identity = _of_spec(order.restorer, found)
        elif order.oracle:
            self._restore = _with_truth(found, order.suite)
            self.identity = Identity(str(found.name), "oracle", digest=_digest(str(found.parameters).encode()))
        else:
            self._restore, self.identity = _for_conditions(found, order)

    def restore(self, case: Case, image: Floats) -> Any:
        """What the restorer returns of `image`, a copy of that of `case`."""
        return self._restore(image, case)


def _for_conditions(baseline: Baseline, order: Order) -> tuple[Callable[[Floats, Case], Any], Identity]:
    from emsynth.benchmark.tuning import tuned_restorer

    ready = {one.name: tuned_restorer(order.suite, baseline.name, one) for one in order.conditions}
    for restorer in list(ready.values())[:1]:
        _try(restorer)
    told = json.dumps({name: dict(restorer.values) for name, restorer in ready.items()}, sort_keys=True)
    identity = Identity(baseline.name, "baseline", digest=_digest(told.encode()), parameters=json.loads(told),
                        tunable=bool(baseline.parameters))
    return lambda image, case: ready[case.condition.name](image), identity


def _try(restorer: Callable[[Floats], Any]) -> None:
    """Find out whether a baseline lacks a package before it fails on every image for that."""
    try:
        restorer(generator(0, 0, "bench.try").poisson(10.0, (_SIDE, _SIDE)).astype(np.float32))
    except EmsynthError:
        raise
    except Exception:
        return  # it may do better on real images, and where it does not the table says so


def _with_truth(baseline: Baseline, suite: str) -> Callable[[Floats, Case], Any]:
    from emsynth.benchmark.tuning import oracle, tuned_values

    def around(case: Case) -> Any:
        try:
            return tuned_values(suite, baseline.name, case.condition)
        except SuiteError:  # of a suite that nobody tuned on, the whole range is searched
            return None

    return lambda image, case: oracle(baseline, case, around(case))[0]


def _of_spec(spec: str, found: Any) -> Identity:
    named = Path(spec)
    # A shipped network is a file too, whose weights may be others in the next release.
    path = named if named.is_file() else getattr(found, "path", None)
    if path is not None:
        return Identity(path.name if path == named else spec, "file", path.name, _digest(path.read_bytes()))
    return _of_callable(spec, getattr(found, "function", found), spec.encode())


def _of_callable(name: str, called: Any, data: bytes) -> Identity:
    """A callable is the same where its pickle and the file that defines it are."""
    try:
        source = Path(inspect.getsourcefile(called if inspect.isroutine(called) else type(called)) or "")
        return Identity(name, "function", source.name, _digest(data + source.read_bytes()))
    except (TypeError, OSError):
        return Identity(name, "function", "", _digest(data))


def _named(called: Any) -> str:
    for name in (getattr(called, "name", None), getattr(called, "__name__", None)):
        if isinstance(name, str):
            return name
    return type(called).__name__


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
