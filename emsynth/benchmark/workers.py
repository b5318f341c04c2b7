"""Processes that restore and measure on behalf of a bench: started, waited for so long, and replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from emsynth.benchmark.contender import Identity
from emsynth.benchmark.suite import Case
from emsynth.benchmark.trial import Order, Outcome, Plea
from emsynth.errors import RestorerError

ORACLE_PATIENCE = 20  # times as long as a restorer may an oracle take, which restores with many values
_LOADING = 120.0  # seconds that a restorer has to load, or its timeout, if that is longer
_TO_END = 5.0
# One thread each: more would make times depend on what else runs, and sums on how threads share them.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
               "NUMBA_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class DiedError(Exception):
    """A worker process ended by itself."""


class Worker:
    """One process that answers messages.

    Parameters
    ----------
    served : str
        Name of the function in `emsynth.benchmark.trial` that answers.
    """

    def __init__(self, served: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A plain interpreter rather than multiprocessing's: it does not import the user's script, which would run
            # its bench again.
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from emsynth.benchmark import trial; "
                                       f"trial.{served}({theirs.fileno()})"],
                pass_fds=[theirs.fileno()], start_new_session=True,  # so that Ctrl-C reaches this process only
                env=os.environ | dict.fromkeys(_ONE_THREAD, "1"))
        self._connection = Connection(ours.detach())
        self._end = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether it has not been ended, as far as is known here."""
        return self._process.returncode is None

    def ask(self, message: Any, seconds: float | None = None) -> Any:
        """Send a message and wait for the answer.

        Raises
        ------
        TimeoutError
            There was none in time; the process is killed.
        DiedError
            The process ended instead.
        """
        try:
            self._connection.send(message)
            if self._connection.poll(seconds):
                return self._connection.recv()
        except (EOFError, OSError):
            raise DiedError(self._last_words()) from None
        self.kill()
        raise TimeoutError

    def kill(self) -> None:
        """End the process, and those that it started, now; any thread may do so, more than once."""
        with self._end:
            # Its number is its own only until it was waited for.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _last_words(self) -> str:
        patience = time.monotonic() + _TO_END
        while self._alive and time.monotonic() < patience:
            time.sleep(0.005)
        self.kill()
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return "its process was killed, most often by the system for want of memory"
        if code < 0:
            return f"its process died of {signal.Signals(-code).name}"
        return f"its process ended itself with code {code}"

    @property
    def _alive(self) -> bool:
        with self._end:
            # Without taking the exit code away, so that the rest of its group can still be killed by its number.
            return self._process.returncode is None and os.waitid(
                os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


class Workers:
    """All processes of a bench, so that all can be ended from any thread."""

    def __init__(self) -> None:
        self._all: list[Worker] = []
        self._lock, self._stopped = threading.Lock(), False

    def start(self, served: str) -> Worker:
        """A new process; `DiedError` once they are stopped."""
        with self._lock:
            if self._stopped:
                raise DiedError("the bench was stopped")
            self._all = [worker for worker in self._all if worker.running]
            self._all.append(Worker(served))
            return self._all[-1]

    def close(self) -> None:
        """End them all, and start no more."""
        with self._lock:
            self._stopped = True
            for worker in self._all:
                worker.kill()


@dataclass(frozen=True)
class Limits:
    """What a restorer may take: seconds for an image, and GB beyond what it has when loaded; 0 GB is no limit."""

    timeout: float
    memory: float


@dataclass(frozen=True)
class Contender:
    """A restorer that takes part.

    Attributes
    ----------
    name : str
        In the table.
    order : Order
        How a worker loads it.
    identity : Identity
    """

    name: str
    order: Order
    identity: Identity


def identify(order: Order, limits: Limits, workers: Workers) -> Identity:
    """What a restorer is; it is loaded in a process of its own to find out.

    Raises
    ------
    RestorerError
        It cannot be loaded.
    """
    trial = Trial(order, limits, workers)
    try:
        return trial.load()
    finally:
        trial.close()


class Trial:
    """One restorer in a process of its own, which is replaced when it does not survive an image."""

    def __init__(self, order: Order, limits: Limits, workers: Workers) -> None:
        self._order, self._workers = order, workers
        self._limits = replace(limits, timeout=limits.timeout * (ORACLE_PATIENCE if order.oracle else 1))
        self._worker: Worker | None = None

    def load(self) -> Identity:
        """Start the process; RestorerError where the restorer cannot be loaded in it."""
        self._worker = self._workers.start("serve_restorer")
        patience = max(_LOADING, self._limits.timeout)
        try:
            found = self._worker.ask(self._order, patience)
        except TimeoutError:
            raise RestorerError(f"{self._called}: is not loaded after {patience:g} s; give a quicker one") from None
        except DiedError as reason:
            raise RestorerError(f"{self._called}: cannot be loaded: {reason}") from None
        if isinstance(found, Plea):
            named = found.message.startswith(self._called)
            raise RestorerError(found.message if named else f"{self._called}: {found.message}")
        identity: Identity = found
        return identity

    def restore(self, case: Case) -> Outcome:
        """What the restorer makes of the image of `case`.

        The first image of a process is restored twice, so that what is done at the first call only is not in the time,
        and what it returns can be compared.
        """
        if self._worker is None:
            try:
                self.load()
            except RestorerError as reason:  # it could be loaded when it was identified
                self.close()
                return Outcome("exception", str(reason))
            first = self._ask(case)
            if self._worker is None:
                return first
            second = self._ask(case)
            return replace(second, steady=self._worker is None or _alike(first, second))
        return self._ask(case)

    def _ask(self, case: Case) -> Outcome:
        assert self._worker is not None
        try:
            outcome: Outcome = self._worker.ask(_shown(case, self._order.oracle), self._limits.timeout)
        except TimeoutError:
            outcome = Outcome("timeout", f"took longer than {self._limits.timeout:g} s")
        except DiedError as reason:
            outcome = Outcome("killed", str(reason))
        if outcome.status in ("timeout", "killed"):
            self.close()
        return outcome

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    @property
    def _called(self) -> str:
        return self._order.restorer if isinstance(self._order.restorer, str) else "the callable"


def _alike(one: Outcome, other: Outcome) -> bool:
    if one.restored is None or other.restored is None:
        return one.status == other.status
    return np.array_equal(one.restored, other.restored)


def _shown(case: Case, truth: bool) -> Case:
    """A case as a restorer's process gets it: without the truth, but for an oracle."""
    if truth:
        return case
    nothing = np.zeros((0, 0), np.float32)
    scene = replace(case.scene, truth=nothing, classes=np.zeros((0, 0), np.uint8), columns=np.zeros((0, 2)),
                    number=np.zeros(0, np.uint8), formula=(), probes=(), about={})
    return replace(case, scene=scene, truth=nothing, counts=nothing, data_range=0.0)
