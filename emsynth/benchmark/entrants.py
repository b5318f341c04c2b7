"""Who takes part in a bench: restorers as a user gives them, each with a name of its own, known by what it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.score import ORACLE
from emsynth.benchmark.suite import Condition, Suite
from emsynth.benchmark.trial import Order
from emsynth.benchmark.workers import Contender, Limits, Workers, identify
from emsynth.errors import RestorerError

Called = Callable[[NDArray[np.float32]], Any]
Restorers = str | Called | Sequence[str | Called] | Mapping[str, str | Called]


class _Group(Protocol):
    @property
    def condition(self) -> int: ...


def contenders(restorers: Restorers, suite: Suite, groups: Sequence[_Group], limits: Limits, oracle: bool,
               workers: Workers) -> list[Contender]:
    """Load each restorer once, in a process of its own, and say what it is.

    Raises
    ------
    RestorerError
        One cannot be had, or two have one name.
    """
    conditions = tuple(suite.conditions[n] for n in dict.fromkeys(group.condition for group in groups))
    found: list[Contender] = []
    for name, restorer in _listed(restorers):
        found += _contender(name, restorer, suite.name, conditions, limits, oracle, workers)
    if not found:
        raise RestorerError("no restorer is given; give one, such as identity or gaussian")
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise RestorerError(f"{name}: {names.count(name)} restorers have this name; give each once, or names of "
                                "their own: {'mine': restorer, ...}")
    return found


def _listed(restorers: Restorers) -> list[tuple[str, str | Called]]:
    if isinstance(restorers, str) or callable(restorers):
        return [("", restorers)]
    if isinstance(restorers, Mapping):
        return list(restorers.items())
    return [("", one) for one in restorers]


def _contender(name: str, restorer: str | Called, suite: str, conditions: tuple[Condition, ...], limits: Limits,
               oracle: bool, workers: Workers) -> list[Contender]:
    order = Order(restorer if isinstance(restorer, str) else _sent(restorer), suite, conditions, limits.memory)
    identity = identify(order, limits, workers)
    made = [Contender(name or identity.name, order, identity)]
    if oracle and identity.tunable:
        tuned = Order(order.restorer, suite, conditions, limits.memory, oracle=True)
        made.append(Contender(made[0].name + ORACLE, tuned, identify(tuned, limits, workers)))
    return made


def _sent(restorer: Called) -> bytes:
    """A callable as a worker can load it: by name where it has one there, else with its code."""
    import cloudpickle

    if not callable(restorer):
        raise RestorerError(f"{type(restorer).__name__} is not a restorer; give a callable image -> image, or the name "
                            "of one")
    try:
        return bytes(cloudpickle.dumps(restorer))
    except (TypeError, AttributeError, ValueError, pickle.PicklingError) as reason:
        called = getattr(restorer, "__name__", type(restorer).__name__)
        raise RestorerError(f"{called}: cannot be sent to another process ({' '.join(str(reason).split())}); put it "
                            "into a module and give 'module:function', or let it load its network in its first "
                            "call") from None
