"""Claims: which process works on which part of a store, so that several builds can share one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from emsynth.errors import StoreError

FOLDER = "claims"
# A claim is written right after it is created; one that stays empty was left by a process killed in between.
_EMPTY_FOR = 10.0


@dataclass(frozen=True)
class Owner:
    """A process, told apart from any other that had or will have its number.

    Attributes
    ----------
    pid : int
        Process number.
    started : str
        When the process started, in the system's own terms.
    host, boot : str
        Machine, and which of its runs.
    namespace : str
        In which process numbers count: containers on one machine may have their own, and even the same host name.
    """

    pid: int
    started: str
    host: str
    boot: str
    namespace: str = ""

    @property
    def here(self) -> bool:
        """Whether this process can tell if that one still lives."""
        return self.host == socket.gethostname() and self.namespace == _namespace()

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended."""
        return self.here and (self.boot != _boot() or _started(self.pid) != self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def myself() -> Owner:
    """The calling process."""
    return Owner(os.getpid(), _started(os.getpid()) or "", socket.gethostname(), _boot(), _namespace())


def _started(pid: int) -> str | None:
    """Start of a process that lives; None where none does (a zombie does not)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def file_of(store: Path, part: str) -> Path:
    """Claim file of a part, e.g. of ``"shard-00003"``."""
    return store / FOLDER / part


def claim(store: Path, part: str) -> bool:
    """Claim one part of a store for this process.

    Parameters
    ----------
    store : Path
        Folder of the store.
    part : str
        Name of the part, e.g. ``"shard-00003"``.

    Returns
    -------
    bool
        True when the part is now this process's; False when another live process has it. A claim whose process
        has ended on this machine is taken over; one from another machine or container stands.

    Raises
    ------
    StoreError
        Where the store cannot be written.
    """
    path = file_of(store, part)
    try:
        with _one_at_a_time(store):
            if path.exists() and _stale(path):
                path.unlink(missing_ok=True)
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return owner(store, part) == myself()
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(myself()), file)
        return True
    except OSError as reason:
        raise StoreError(f"{path}: cannot be written ({reason.strerror})") from reason


def release(store: Path, part: str) -> None:
    """Give a part back; nothing happens where it is not this process's."""
    if owner(store, part) == myself():
        file_of(store, part).unlink(missing_ok=True)


def owner(store: Path, part: str) -> Owner | None:
    """Who has claimed a part; None where nobody has, or where the claim is just being written."""
    try:
        return Owner(**json.loads(file_of(store, part).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def live(store: Path) -> dict[str, Owner]:
    """Parts that processes work on now, as far as this machine can tell."""
    names = [p.name for p in (store / FOLDER).glob("*-*")]
    owners = {name: owner(store, name) for name in sorted(names)}
    return {name: found for name, found in owners.items() if found is not None and not found.gone}


def sweep(store: Path) -> None:
    """Remove the claims that ended processes left."""
    with contextlib.suppress(OSError), _one_at_a_time(store):
        for path in (store / FOLDER).glob("*-*"):
            if _stale(path):
                path.unlink(missing_ok=True)


def _stale(path: Path) -> bool:
    found = owner(path.parent.parent, path.name)
    if found is not None:
        return found.gone
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > _EMPTY_FOR
    return False


@contextlib.contextmanager
def _one_at_a_time(store: Path) -> Iterator[None]:
    # Two processes that find the same stale claim must not both remove it: the second would remove the first's new
    # one. Claims are taken over on their own machine only, and there a lock on a file ends with its process.
    import fcntl

    (store / FOLDER).mkdir(exist_ok=True)
    with open(store / FOLDER / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
