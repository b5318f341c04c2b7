"""Who runs the tasks of a build: here worker processes, of which each runs one task at a time.

The death of one of them is the death of one task only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, Self, TypeVar

from emsynth.errors import EmsynthError

# One process per core, one thread per process: more threads only get in each other's way, and the order in which
# several of them add up numbers is not the same every time.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
              "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Seconds until a part that another process holds is asked for again: longer each time, for a shared disk's sake.
_ASK_AGAIN, _ASK_SELDOM = 0.5, 8.0
_TO_END = 5.0  # seconds that a worker without a parent has to end


class Held:
    """What a task returns when another process has its part: it is to be tried again later."""


Result = TypeVar("Result", covariant=True)


class Task(Protocol[Result]):
    """Something that a worker process can do; it must survive pickling."""

    @property
    def name(self) -> str:
        """What it works on, for messages."""

    def run(self) -> Result | Held:
        """Do it."""


Outcome = TypeVar("Outcome")


class Crew(Protocol):
    """Whoever can run the tasks of a build."""

    @property
    def count(self) -> int:
        """Tasks that run at the same time."""

    def run(self, tasks: Sequence[Task[Outcome]], done: Callable[[Task[Outcome], Outcome], None],
            held: Callable[[Task[Outcome]], None] = lambda task: None) -> None:
        """Run tasks, in this order as far as workers are free.

        Parameters
        ----------
        tasks : sequence of Task
            What to do.
        done : callable
            Called with each task and its result.
        held : callable
            Called with a task whose part another process holds, each time it is put off.

        Raises
        ------
        EmsynthError
            The first error of a task, with its name.
        """


class Queue(Generic[Outcome]):
    """Tasks that wait to be run; those whose part another process holds come back later, and later still."""

    def __init__(self, tasks: Sequence[Task[Outcome]]) -> None:
        self._waiting = deque(tasks)
        self._put_off: list[tuple[float, Task[Outcome]]] = []
        self._times: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting or self._put_off)

    def next(self) -> Task[Outcome] | None:
        """The next one; None where none is due."""
        now = time.monotonic()
        self._waiting.extend(task for due, task in self._put_off if due <= now)
        self._put_off = [(due, task) for due, task in self._put_off if due > now]
        return self._waiting.popleft() if self._waiting else None

    def put_off(self, task: Task[Outcome]) -> None:
        """Let it come back in a while."""
        wait_for = min(_ASK_SELDOM, _ASK_AGAIN * 1.5 ** self._times[task.name])
        self._times[task.name] += 1
        self._put_off.append((time.monotonic() + wait_for, task))


def usable_cores() -> int:
    """Cores that this process may use: its affinity and, in a container, its share of time."""
    counts = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        counts.append(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        counts.append(max(1, int(quota) // int(period)))
    return min(counts)


class Team:
    """A few worker processes, alive within a ``with`` block.

    Parameters
    ----------
    count : int
        Number of processes; even with one, tasks run in a process of their own, so that the result is the same.
    """

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        # One executor per process: an executor with several gives up all of its tasks when one process is killed.
        self._lanes = [ProcessPoolExecutor(1, context, _begin) for _ in range(max(1, count))]
        self._pids: list[int] = []

    @property
    def count(self) -> int:
        """Number of processes."""
        return len(self._lanes)

    def __enter__(self) -> Self:
        with _workers_environment():
            ready = [lane.submit(os.getpid) for lane in self._lanes]
        try:
            self._pids = [future.result() for future in ready]
        except BrokenProcessPool:
            self._stop()
            raise EmsynthError("the worker processes cannot start; too little memory, or a broken installation: try "
                               "python -c 'import emsynth.builder'") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for pid in self._pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        self._stop()

    def _stop(self) -> None:
        for lane in self._lanes:
            lane.shutdown(wait=True, cancel_futures=True)
        self._lanes.clear()

    def run(self, tasks: Sequence[Task[Outcome]], done: Callable[[Task[Outcome], Outcome], None],
            held: Callable[[Task[Outcome]], None] = lambda task: None) -> None:
        """As of a `Crew`; before an error is raised, tasks that were running by then are finished."""
        queue = Queue(tasks)
        running: dict[Future[Outcome | Held], tuple[ProcessPoolExecutor, Task[Outcome]]] = {}
        idle, failure = list(self._lanes), list[BaseException]()
        while running or (not failure and queue):
            while idle and not failure and (task := queue.next()) is not None:
                lane = idle.pop()
                running[lane.submit(task.run)] = (lane, task)
            if not running:
                time.sleep(_ASK_AGAIN / 5)
            for future in wait(running, timeout=_ASK_AGAIN, return_when=FIRST_COMPLETED).done:
                lane, task = running.pop(future)
                try:
                    result = future.result()
                except BaseException as reason:
                    failure.append(named(reason, task.name))
                    continue
                idle.append(lane)
                if isinstance(result, Held):
                    held(task)
                    queue.put_off(task)
                else:
                    done(task, result)
        if failure:
            raise failure[0]


def named(reason: BaseException, name: str) -> BaseException:
    """The error with the name of the task that it came from."""
    if isinstance(reason, BrokenProcessPool):
        return EmsynthError(f"{name}: its worker process was killed, most often for want of memory; try fewer "
                            f"--workers")
    if isinstance(reason, SystemExit):
        return EmsynthError(f"{name}: its worker process was told to end")
    if isinstance(reason, EmsynthError):
        return type(reason)(f"{name}: {reason}")
    reason.add_note(f"emsynth was working on {name}")
    return reason


def _begin() -> None:
    """First thing in a worker: leave Ctrl-C to the parent, and end when the parent does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _leave(*_: object) -> None:
    sys.exit(1)  # an exception: the task gives its claim back, and the process its semaphores


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    # First as if told to, so that the claim is given back: another machine could not know that it is stale.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_TO_END)
    os._exit(1)


@contextlib.contextmanager
def _workers_environment() -> Iterator[None]:
    """What new processes inherit: one thread each, no Ctrl-C, and not the user's script.

    Python imports the parent's main script into each new process. The tasks do not need it, and a script that calls
    `emsynth.build` outside of ``if __name__ == "__main__":`` would build again there.
    """
    before: dict[str, Any] = {name: os.environ.get(name) for name in ONE_THREAD}
    main = sys.modules["__main__"]
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        sys.modules["__main__"] = ModuleType("__main__")
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
