"""The folder of a run, in which one training works at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emsynth.errors import StoreError, StoreExistsError, TrainingError
from emsynth.training.logbook import FILE as METRICS

CHECKPOINT = "checkpoint.safetensors"
_LOCK = ".lock"


def check_folder(folder: Path, resume: bool) -> None:
    """Whether a training may begin, or go on, in a folder.

    Raises
    ------
    StoreExistsError
        There is a run, and it is not to be gone on with.
    TrainingError
        There is none to go on with.
    """
    checkpoint = (folder / CHECKPOINT).exists()
    if not resume and (checkpoint or (folder / METRICS).exists()):
        raise StoreExistsError(f"{folder}: there is a run already; go on with --resume, or give another --out")
    if resume and not checkpoint:
        raise TrainingError(f"{folder / CHECKPOINT}: there is no checkpoint; leave --resume out to begin")


@contextmanager
def alone_in(folder: Path, resume: bool, first: bool) -> Iterator[None]:
    """Keep other trainings out of a folder; `first` of the processes of this one does.

    Raises
    ------
    StoreExistsError, TrainingError
        As `check_folder`; or another training is at work in it.
    StoreError
        The folder cannot be made or written.
    """
    if not first:
        yield
        return
    check_folder(folder, resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as reason:
        raise StoreError(f"{folder}: cannot be written ({reason.strerror or reason}); give another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError(f"{folder}: another training is at work in it; wait for its end, or give another --out"
                                ) from None
        try:
            check_folder(folder, resume)  # the other one may just have ended
            yield
        finally:
            (folder / _LOCK).unlink(missing_ok=True)
