"""Who takes part in a bench: restorers as a user gives them, each with a name of its own, known by what it is."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.score import ORACLE
from emsynth.benchmark.suite import Suite
from emsynth.benchmark.trial import Order
from emsynth.benchmark.workers import Contender, Limits, Workers, identify
from emsynth.errors import RestorerError
from emsynth.restoration import BASELINES

Called = Callable[[NDArray[np.float32]], Any]
Restorers = str | Called | Sequence[str | Called] | Mapping[str, str | Called]

_OWN = "--restorer NAME=SPEC, or {'NAME': restorer} in Python"
_NO_RESTORER = "not a restorer; give a callable image -> image, or the name of one"


class _Group(Protocol):
    @property
    def condition(self) -> int: ...


def contenders(restorers: Restorers, suite: Suite, groups: Sequence[_Group], limits: Limits, oracle: bool,
               workers: Workers) -> list[Contender]:
    """Load each restorer once, in a process of its own, and say what it is.

    Raises
    ------
    RestorerError
        One cannot be had, has no name that it could be known by, or has that of another.
    """
    conditions = tuple(suite.conditions[n] for n in dict.fromkeys(group.condition for group in groups))
    found: list[Contender] = []
    for name, restorer in _listed(restorers):
        order = Order(restorer if isinstance(restorer, str) else _sent(restorer), suite.name, conditions, limits.memory,
                      shape=suite.shape)
        found += _contender(name, order, limits, oracle, workers)
    if not found:
        raise RestorerError("no restorer is given; give one, such as identity or gaussian")
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise RestorerError(f"{name}: {names.count(name)} restorers have this name; give each once, or names of "
                                f"their own: {_OWN}")
    return found


def _listed(restorers: Any) -> list[tuple[str | None, Any]]:
    """Restorers and the names that the user gave them; None where he gave none."""
    if isinstance(restorers, Mapping):
        for name in restorers:
            _check_name(name)
        return list(restorers.items())
    if isinstance(restorers, str) or callable(restorers):
        restorers = [restorers]
    elif not isinstance(restorers, Iterable):
        raise RestorerError(f"{type(restorers).__name__} is {_NO_RESTORER}")
    return [_with_name(one) if isinstance(one, str) else (None, one) for one in restorers]


def _with_name(text: str) -> tuple[str | None, str]:
    """``NAME=SPEC`` in its parts; the path of a file may have an = in it, too."""
    name, equals, spec = text.partition("=")
    if not equals or os.sep in name or Path(text).is_file():
        return None, text
    _check_name(name)
    return name, spec


def _check_name(name: Any) -> None:
    """RestorerError where a restorer must not be called so."""
    if not isinstance(name, str) or not name.strip():
        raise RestorerError(f"{name!r} is not a name; give each restorer one: {_OWN}")
    if not name.isprintable():
        raise RestorerError(f"{name!r}: a name is one line of printable characters; give another: {_OWN}")
    if name.endswith(ORACLE):
        raise RestorerError(f"{name}: names that end in {ORACLE.strip()!r} are those of oracles; give another: {_OWN}")


def _contender(name: str | None, order: Order, limits: Limits, oracle: bool, workers: Workers) -> list[Contender]:
    identity = identify(order, limits, workers)
    name = identity.name if name is None else name
    _check_name(name)
    if name in BASELINES and (identity.kind, identity.name) != ("baseline", name):
        raise RestorerError(f"{name}: is the name of a baseline, and this is another restorer; give it a name of its "
                            f"own: {_OWN}")
    made = [Contender(name, order, identity)]
    if oracle and identity.tunable:
        tuned = replace(order, oracle=True)
        made.append(Contender(name + ORACLE, tuned, identify(tuned, limits, workers)))
    return made


def _sent(restorer: Called) -> bytes:
    """A callable as a worker can load it: by name where it has one there, else with its code."""
    import cloudpickle

    if not callable(restorer):
        raise RestorerError(f"{type(restorer).__name__} is {_NO_RESTORER}")
    try:
        return bytes(cloudpickle.dumps(restorer))
    except (TypeError, AttributeError, ValueError, pickle.PicklingError) as reason:
        called = getattr(restorer, "__name__", type(restorer).__name__)
        raise RestorerError(f"{called}: cannot be sent to another process ({' '.join(str(reason).split())}); put it "
                            "into a module and give 'module:function', or let it load its network in its first "
                            "call") from None
