"""Claims: which process works on which part of a store, so that several builds can share one.

A claim is a lease: a file that its owner touches while it works. It saves work and nothing else. A part comes out the
same whoever makes it, and is put into its place file by file (see `emsynth.store.draft`), so that two owners of one
part, such as one that slept and the one that took over, do no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from emsynth.errors import StoreError

FOLDER = "claims"
# Seconds after which a claim from elsewhere that nobody has touched is anybody's, and between two touches. Network file
# systems may show a touch a minute late.
LEASE, RENEWAL = 600.0, 30.0
# A claim is written right after it is created; one that stays empty was left by a process killed in between.
_EMPTY_FOR = 10.0
_CLAIM = re.compile(r"[a-z]+-\d+")
_CLOCK = ".clock"
_OWNER = ".owner"  # in the folder of a draft


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
        # Machines may share a name; no two of them share a run.
        return (self.host, self.boot, self.namespace) == (socket.gethostname(), _boot(), _namespace())

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended."""
        return self.here and _started(self.pid) != self.started

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
    """Claim one part of a store for this process, until `release` or its end.

    Parameters
    ----------
    store : Path
        Folder of the store.
    part : str
        Name of the part, e.g. ``"shard-00003"``.

    Returns
    -------
    bool
        True when the part is now this process's; False when another one has it. A claim is taken over where its
        process has ended on this machine, or where it comes from another machine or container and was not touched
        for `LEASE` seconds by the clock of the file system.

    Raises
    ------
    StoreError
        Where the store cannot be written.
    """
    path = file_of(store, part)
    try:
        path.parent.mkdir(exist_ok=True)
        _take_away_stale(path, path.parent)
        try:
            sign(path)
        except FileExistsError:
            return owner(store, part) == myself()
        return True
    except OSError as reason:
        raise StoreError(f"{path}: cannot be written ({reason.strerror})") from reason


def release(store: Path, part: str) -> None:
    """Give a part back; nothing happens where it is not this process's."""
    path = file_of(store, part)
    _renewal.drop(path)
    if owner(store, part) == myself():
        path.unlink(missing_ok=True)


def sign(path: Path) -> None:
    """Create a file that says that this process works here, and touch it until the process ends or `release`.

    Raises
    ------
    OSError
        FileExistsError where there is one already; what else the file system says.
    """
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(myself()), file)
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    _renewal.add(path)


def owner(store: Path, part: str) -> Owner | None:
    """Who has claimed a part; None where nobody has, or where the claim is just being written."""
    try:
        return _owner(file_of(store, part).read_bytes())
    except OSError:
        return None


def _owner(content: bytes) -> Owner | None:
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


def live(store: Path) -> dict[str, Owner]:
    """Parts that processes work on now, as far as this machine can tell."""
    found = {path.name: owner(store, path.name) for path in _claims(store) if not _stale(path, path.parent)}
    return {name: who for name, who in sorted(found.items()) if who is not None}


def _claims(store: Path) -> list[Path]:
    return [path for path in (store / FOLDER).glob("*-*") if _CLAIM.fullmatch(path.name)]


def sweep(store: Path) -> None:
    """Remove what ended processes left: their claims, and drafts of what they were about to write."""
    folder = store / FOLDER
    with contextlib.suppress(OSError):
        for path in _claims(store):
            _take_away_stale(path, folder)
        for path in folder.glob(".?*"):
            if not path.is_dir():
                if path.name != _CLOCK and _old(path, folder, LEASE):
                    path.unlink(missing_ok=True)
            elif _stale(path / _OWNER, folder) or (_old(path, folder, _EMPTY_FOR) and not (path / _OWNER).exists()):
                shutil.rmtree(path, ignore_errors=True)
        if not _claims(store):
            (folder / _CLOCK).unlink(missing_ok=True)


def owner_of_draft(folder: Path) -> Path:
    """The file in a draft's folder that says whose it is; see `sign` and `sign_off`."""
    return folder / _OWNER


def sign_off(path: Path) -> None:
    """Touch a file of `sign` no more."""
    _renewal.drop(path)


def _stale(path: Path, folder: Path) -> bool:
    """Whether the owner of a claim is gone, or has not touched it for a lease."""
    return _judged(path, folder) is not None


def _judged(path: Path, folder: Path) -> bytes | None:
    """What a stale claim says; None where it is not stale."""
    try:
        with open(path, "rb") as file:  # opened, so that a network file system asks its server
            content, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    found = _owner(content)
    if found is not None and found.here:
        return content if found.gone else None
    return content if _now(folder) - touched > (LEASE if found is not None else _EMPTY_FOR) else None


def _old(path: Path, folder: Path, seconds: float) -> bool:
    try:
        return _now(folder) - path.stat().st_mtime > seconds
    except OSError:
        return False


def _now(folder: Path) -> float:
    """Time by the clock that dates the claims: that of the file system, with which machines need not agree."""
    clock = folder / _CLOCK
    try:
        clock.touch()
        return clock.stat().st_mtime
    except OSError:  # only to be read
        return time.time()


def _take_away_stale(path: Path, folder: Path) -> None:
    """Remove a claim where it is stale.

    Two that find it so may not both remove a file of this name, for the second would remove the first's new claim:
    each renames what is there, which one of them can do, and looks at what it has got.
    """
    content = _judged(path, folder)
    if content is None:
        return
    aside = folder / f".{path.name}.{uuid.uuid4().hex}"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if aside.read_bytes() != content:
        with contextlib.suppress(OSError):  # where it cannot be put back, its part is made twice
            os.link(aside, path)
    aside.unlink(missing_ok=True)


class _Renewal:
    """Touches the claims of this process, in a thread of its own."""

    def __init__(self) -> None:
        self._held: set[Path] = set()
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, path: Path) -> None:
        with self._changing:
            self._held.add(path)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="emsynth claims", daemon=True)
                self._thread.start()

    def drop(self, path: Path) -> None:
        with self._changing:
            self._held.discard(path)

    def _run(self) -> None:
        while True:
            time.sleep(RENEWAL)
            self.renew()

    def renew(self) -> None:
        """Touch whatever is still this process's: a claim that was taken over is its new owner's to touch."""
        with self._changing:
            held = list(self._held)
        for path in held:
            with contextlib.suppress(OSError):
                if _owner(path.read_bytes()) == myself():
                    os.utime(path)


_renewal = _Renewal()
