"""A Dask cluster of the user's, by its address, as the crew of a build.

The only file that imports `distributed`. Dask runs a task again elsewhere when its worker is lost, a few times at most;
what a task writes is the same each time, so that it does not matter how often it ran, or where.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from threadpoolctl import threadpool_limits

from emsynth.builder.workers import ONE_THREAD, Held, Outcome, Queue, Task, named
from emsynth.errors import EmsynthError, StoreError
from emsynth.provenance import fingerprint, versions

_CONNECT_WITHIN = 8.0  # seconds
_LOOK = 5.0  # seconds between two looks at who is there
# Tasks that the scheduler has for each worker: one that runs, and one so that the worker need not wait; and at least so
# many, by which a cluster that adapts sees that there is work.
_DEPTH, _LEAST = 2, 32


@dataclass(frozen=True)
class _Worker:
    """What a worker says of itself: where it is, whether it sees the output, and what determines its numbers."""

    host: str
    sees: bool
    answer: str
    determines: dict[str, str]


class Cluster:
    """The workers of a Dask scheduler, within a ``with`` block.

    Parameters
    ----------
    address : str
        Of the scheduler, e.g. ``"tcp://10.0.0.1:8786"``.
    out : Path
        The output, absolute; all workers must see it under this path.
    note : callable
        Called with what the user should know.

    Raises
    ------
    EmsynthError
        On entering: where no scheduler answers, or where a worker lacks emsynth or the output's file system.
    """

    def __init__(self, address: str, out: Path, note: Callable[[str], None]) -> None:
        self._address, self._out, self._note = address, out, note
        self._client: Any
        self._workers, self._looked, self._told = 0, 0.0, False

    @property
    def count(self) -> int:
        """Workers that are there now; each runs one task at a time, however many threads it has."""
        if time.monotonic() - self._looked > _LOOK:
            self._workers, self._looked = len(self._ask(self._client.nthreads)), time.monotonic()
        if not self._workers and not self._told:
            self._told = True
            self._note(f"{self._address}: the scheduler has no workers now; waiting for them")
        return max(1, self._workers)

    def __enter__(self) -> Self:
        self._client = self._connect()
        try:
            if self.count and not self._workers:
                self._ask(self._client.wait_for_workers, 1)
            self._inspect()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        # Where the scheduler is lost, Dask's client would print the traceback of its last try to find it again.
        log = logging.getLogger("distributed.client")
        before = log.level
        log.setLevel(logging.CRITICAL)
        self._client.close()
        log.setLevel(before)

    def _connect(self) -> Any:
        from distributed import Client

        class Visitor(Client):
            """A client that, where it could not connect, does not try to take its leave."""

            def __del__(self) -> None:
                pass

        try:
            _knock(self._address)
            # Not as the default: what else the user's process does with Dask is not to go there.
            return Visitor(self._address, timeout=_CONNECT_WITHIN, set_as_default=False)  # type: ignore[no-untyped-call]
        # Whatever else listens there may answer anything.
        except Exception as reason:
            raise EmsynthError(f"--scheduler {self._address}: no Dask scheduler can be reached there "
                               f"({str(reason) or type(reason).__name__}); give the address that `dask scheduler` "
                               f"prints, such as tcp://10.0.0.1:8786") from None

    def _inspect(self) -> None:
        """Raise EmsynthError where a worker cannot do its part; say where its numbers may differ."""
        folder = _nearest(self._out)
        token = f".emsynth-{uuid.uuid4().hex}"
        try:
            (folder / token).touch()
            found = self._ask(self._client.run, introduce, os.fspath(folder), token, on_error="return")
            for address, worker in found.items():
                self._check(address, worker, folder)
            self._compare([worker.determines for worker in found.values()])
        except OSError as reason:
            raise StoreError(f"{folder}: cannot be written ({reason.strerror}); give another --out") from None
        finally:
            for left in folder.glob(f"{token}*"):
                left.unlink(missing_ok=True)

    def _check(self, address: str, worker: Any, folder: Path) -> None:
        if not isinstance(worker, _Worker):
            raise EmsynthError(f"--scheduler {self._address}: worker {address} cannot run emsynth "
                               f"({type(worker).__name__}: {worker}); install the same version for all workers")
        if not worker.sees or not (folder / worker.answer).exists():
            raise EmsynthError(f"{self._out}: worker {address} on {worker.host} does not see {folder} as this machine "
                               f"does, or may not write there; give an --out on a file system that all of them share")

    def _compare(self, workers: Sequence[dict[str, str]]) -> None:
        here = _determines()
        differing: Counter[str] = Counter()
        for there in workers:
            other = {name: value for name, value in there.items() if here.get(name) != value}
            differing.update("other CPU features" if name == "cpu_features" else
                             f"{name} {value}, {here.get(name)} here" for name, value in other.items())
        for what, number in differing.items():
            self._note(f"{number} of {len(workers)} workers: {what}; the same bytes are promised only where all of it "
                       f"is built alike")

    def run(self, tasks: Sequence[Task[Outcome]], done: Callable[[Task[Outcome], Outcome], None],
            held: Callable[[Task[Outcome]], None] = lambda task: None) -> None:
        """As of a `Crew`; at an error, or Ctrl-C, tasks that have not begun are cancelled."""
        waiting = Queue(tasks)
        running: dict[str, tuple[Any, Task[Outcome]]] = {}
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        try:
            while running or waiting:
                while len(running) < max(_LEAST, _DEPTH * self.count) and (task := waiting.next()) is not None:
                    future = self._submit(task, ended)
                    running[future.key] = (future, task)
                with contextlib.suppress(queue.Empty):
                    future, task = running.pop(ended.get(timeout=0.5))
                    result = self._result(future, task)
                    if isinstance(result, Held):
                        held(task)
                        waiting.put_off(task)
                    else:
                        done(task, result)
        finally:
            if running:
                with contextlib.suppress(Exception):  # of a scheduler that is lost there is nothing to cancel
                    self._client.cancel([future for future, _ in running.values()], force=True)

    def _submit(self, task: Task[Outcome], ended: queue.SimpleQueue[str]) -> Any:
        key = f"{task.name.split()[0]}-{uuid.uuid4().hex}"
        future = self._ask(self._client.submit, run_alone, task, key=key, pure=False)
        future.add_done_callback(lambda which: ended.put(which.key))
        return future

    def _ask(self, verb: Callable[..., Any], *given: Any, **options: Any) -> Any:
        try:
            return verb(*given, **options)
        # A connection that is lost shows in as many ways as there are states that it is lost in.
        except Exception as reason:
            said = str(reason) or type(reason).__name__
            raise EmsynthError(f"the scheduler {self._address} was lost ({said})") from None

    def _result(self, future: Any, task: Task[Outcome]) -> Outcome | Held:
        from distributed import KilledWorker

        try:
            result: Outcome | Held = future.result()
            return result
        except KilledWorker as reason:
            raise EmsynthError(f"{task.name}: killed its worker {reason.allowed_failures + 1} times, the last at "
                               f"{reason.last_worker.address}, most often for want of memory; see what `emsynth build "
                               f"--dry-run` says of memory, and give the workers more of it") from None
        except CancelledError:
            raise EmsynthError(f"{task.name}: the scheduler {self._address} was lost, or has cancelled it") from None
        except Exception as reason:
            raise named(reason, task.name) from None


def _knock(address: str) -> None:
    """Raise OSError or ValueError where nobody listens, at once: Dask's client tries again and again."""
    from distributed.comm.addressing import parse_address, parse_host_port

    kind, rest = parse_address(address if "://" in address else f"tcp://{address}", strict=True)
    if kind in ("tcp", "tls"):
        socket.create_connection(parse_host_port(rest), timeout=_CONNECT_WITHIN).close()


def _nearest(out: Path) -> Path:
    """The output where it is there, else the folder that it will be made in."""
    while not out.is_dir():
        out = out.parent
    return out


def _determines() -> dict[str, str]:
    return {**versions(), **fingerprint()}


def introduce(folder: str, token: str) -> _Worker:
    """What a worker says before it gets work: whether it sees a file of this build's, with one of its own as proof."""
    answer = f"{token}.{uuid.uuid4().hex}"
    sees = (Path(folder) / token).exists()
    with contextlib.suppress(OSError):
        if sees:
            (Path(folder) / answer).touch()
    return _Worker(socket.gethostname(), sees, answer, _determines())


_one_at_a_time = threading.Lock()


def run_alone(task: Task[Outcome]) -> Outcome | Held:
    """Run a task on a worker, whatever threads it has: no two at a time, and with one thread of computation."""
    with _one_at_a_time, _one_thread():
        return task.run()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for libraries that are loaded, by their own calls, and for those that are still to be loaded."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        with threadpool_limits(1):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
