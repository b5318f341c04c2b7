"""What runs in a worker process: a restorer on one image after another, or the measures; never both in one process.

A restorer is somebody else's code. It gets the distorted image and nothing else, so that it cannot look at the truth,
and it is not in the process that judges it, so that it cannot change the judge.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import EmsynthError
from emsynth.streams import stream_key

if TYPE_CHECKING:
    from emsynth.benchmark.suite import Case, Condition, Scene

Floats = NDArray[np.float32]
Status = Literal["ok", "wrong_shape", "not_finite", "exception", "killed", "timeout"]
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LONGEST = 300  # characters of a message


@dataclass(frozen=True)
class Order:
    """What a worker is to load.

    Attributes
    ----------
    restorer : str or bytes
        What `emsynth.restoration.find` takes, or a pickled callable.
    suite : str
        Name of the suite, whose tuned values a baseline uses.
    conditions : tuple of Condition
        What it will be asked to restore.
    memory : float
        GB that the restorer may take beyond what it has once it is loaded; 0 for as much as it likes.
    oracle : bool
        Tune a baseline on the truth of each image.
    shape : tuple of int, or None
        Rows and columns of the images, where they are known.
    """

    restorer: str | bytes
    suite: str
    conditions: tuple[Condition, ...]
    memory: float
    oracle: bool = False
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plea:
    """Why something cannot be had, in words for the user."""

    message: str


@dataclass(frozen=True)
class Outcome:
    """What a restorer made of one image.

    Attributes
    ----------
    status : str
        ``ok``, or what went wrong.
    message : str
        What went wrong, in words.
    seconds : float
        Around the call only; NaN where it failed.
    restored : ndarray (H, W), float32, or None
    steady : bool
        Whether this is what came of the same image before, where it was restored twice.
    """

    status: Status
    message: str = ""
    seconds: float = float("nan")
    restored: Floats | None = field(default=None, repr=False, compare=False)
    steady: bool = True


def serve_restorer(descriptor: int) -> None:
    """Restore what comes through a socket, until it is closed."""
    with _opened(descriptor) as connection:
        order: Order = connection.recv()
        _mute()
        try:
            from emsynth.benchmark.contender import Loaded

            loaded = Loaded(order)
        except EmsynthError as error:
            connection.send(Plea(str(error)))
            return
        except BaseException as error:
            connection.send(Plea(f"cannot be loaded: {_told(error)}"))
            return
        connection.send(loaded.identity)
        _limit_memory(order.memory)
        while True:
            case: Case = connection.recv()
            connection.send(attempt(partial(loaded.restore, case), case))


def serve_measure(descriptor: int) -> None:
    """Measure the restored images that come through a socket, until it is closed."""
    with _opened(descriptor) as connection:
        measure = _imported(connection.recv())
        connection.send(True)
        scenes: dict[int, Scene] = {}
        while True:
            case, restored, partner = connection.recv()
            case = _known(case, scenes)
            partner = None if partner is None else (_known(partner[0], scenes), partner[1])
            try:
                connection.send(dict(measure(case, restored, partner)))
            except Exception as error:
                connection.send(Plea(f"{_told(error)}\n{traceback.format_exc()}"))


def _known(case: Case, scenes: dict[int, Scene]) -> Case:
    """The case with the scene that came first: what is measured of a scene once is found again by the scene itself."""
    return replace(case, scene=scenes.setdefault(case.scene.index, case.scene))


def attempt(restore: Callable[[Floats], Any], case: Case) -> Outcome:
    """One restorer on one image, whatever it does short of ending or blocking the process."""
    _seed(case)
    shape = case.image.shape  # the restorer may change it, and the pixels: the image is its own copy
    try:
        began = time.perf_counter()
        returned = np.asarray(restore(case.image))  # what is computed only when it is looked at is computed here
        seconds = time.perf_counter() - began
        if returned.shape != shape:
            if returned.dtype.kind == "O" and returned.shape == () and returned.item() is None:
                return Outcome("wrong_shape", "returned None; is a return missing?")
            what = f"shape {returned.shape}" if returned.shape else str(returned.dtype)
            return Outcome("wrong_shape", f"returned {what}, not an image of shape {shape}")
        return _finite(_real(returned), seconds)
    except MemoryError as error:
        return Outcome("killed", f"wanted more memory than it may have: {_told(error)}")
    except BaseException as error:  # sys.exit() among them
        return Outcome("exception", _told(error))


def _real(returned: NDArray[Any]) -> Floats:
    if returned.dtype.kind not in "fiub":
        raise TypeError(f"returned values of type {returned.dtype}, not real numbers")
    with np.errstate(over="ignore"):  # found as not finite
        return np.ascontiguousarray(returned, np.float32)


def _finite(restored: Floats, seconds: float) -> Outcome:
    wrong = int(restored.size - np.isfinite(restored).sum())
    if wrong:
        return Outcome("not_finite", f"{wrong} of {restored.size} pixels are NaN or infinite")
    return Outcome("ok", "", seconds, restored)


def _seed(case: Case) -> None:
    # A restorer that draws from a global generator gives the same image whatever was restored before.
    # Twins get the same numbers, so that their difference is no noise of the restorer's.
    scene = case.scene.index if case.scene.partner is None else case.scene.partner
    key = stream_key(0, scene, f"bench {case.condition.name}") % 2**32
    random.seed(key)
    np.random.seed(key)  # noqa: NPY002 - it is the global one that is meant
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(key)


def _told(error: BaseException) -> str:
    """Type, message and innermost place of an error, in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    place, at = "", error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename != __file__:
            place = f" ({os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno})"
        at = at.tb_next
    return text[:_LONGEST].replace(os.path.expanduser("~"), "~").removesuffix(":") + place


def _imported(name: str) -> Callable[..., Mapping[str, float]]:
    import importlib

    module, function = name.split(":")
    found: Callable[..., Mapping[str, float]] = getattr(importlib.import_module(module), function)
    return found


@contextlib.contextmanager
def _opened(descriptor: int) -> Any:
    """The socket to the parent; the process ends with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a restorer that never returns must end as well
    code = 1
    try:
        with contextlib.suppress(EOFError, ConnectionError), Connection(descriptor) as connection:
            yield connection
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)  # a restorer may have left threads that never end


def _mute() -> None:
    """Let nothing that a restorer prints get between the bench's own words."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)


def _limit_memory(allowance: float) -> None:
    if not allowance:
        return
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115
        most = pages * resource.getpagesize() + int(allowance * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def unpickled(data: bytes) -> Callable[[Floats], Any]:
    """A callable from the parent, which made the bytes itself."""
    found: Callable[[Floats], Any] = pickle.loads(data)
    return found
