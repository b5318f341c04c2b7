"""What a bench has measured so far, kept beside its table line by line, so that a killed one can go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from emsynth.benchmark.lanes import Entry
from emsynth.benchmark.workers import Limits
from emsynth.errors import StoreError

# Restored under other limits, these might not have failed.
_LIMITED = ("timeout", "killed")
Key = tuple[str, str, int]


def key(entry: Entry) -> Key:
    """Restorer, condition and scene."""
    return entry.restorer, entry.condition, entry.scene


def beside(out: Path) -> Path:
    """Where the journal of a table is."""
    return out.with_name(f"{out.name}.journal")


def check_free(path: Path) -> None:
    """StoreError where another bench writes this journal now."""
    with contextlib.suppress(ImportError, FileNotFoundError), path.open("rb") as file:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(path) from None


def _busy(path: Path) -> StoreError:
    return StoreError(f"{path}: another bench is writing it; wait for it, or give another --out")


def check_same(there: Path, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare what determines the figures: suite, versions, platform.

    Raises
    ------
    StoreError
        It was begun on another suite, or with other versions.
    """
    changed = [f"{name} was {_shown(kept.get(name))} then and is {_shown(now[name])} now"
               for name in ("suite", "digest") if kept.get(name) != now[name]]
    for part in ("versions", "platform"):
        then, today = kept.get(part, {}), now[part]
        changed += [f"{name} was {_shown(then.get(name))} then and is {_shown(today.get(name))} now"
                    for name in sorted({*then, *today}) if then.get(name) != today.get(name)]
    if changed:
        raise StoreError(f"{there}: cannot go on: {'; '.join(changed[:3])}; begin again with --overwrite, or give "
                         "another --out")


def _shown(value: Any) -> str:
    text = str(value) if value else "absent"
    return text if len(text) <= 24 else text[:12] + "…"


@dataclass(frozen=True)
class Kept:
    """An entry with the digest of its restorer and the limits of then."""

    entry: Entry
    digest: str
    limits: Limits


def still_good(kept: Iterable[Kept], digests: Mapping[str, str], limits: Limits,
               note: Callable[[str], None]) -> dict[Key, Entry]:
    """Those entries that need not be made again.

    Parameters
    ----------
    kept : iterable of Kept
        Of two of one image the later one counts.
    digests : mapping of str to str
        Of each restorer now, by its name.
    limits : Limits
        Of now; images that failed at others are tried again.
    note : callable
        Told which restorer is no longer the same.

    Returns
    -------
    dict of Key to Entry
    """
    good: dict[Key, Entry] = {}
    changed: dict[str, None] = {}
    for one in kept:
        entry = one.entry
        if digests.get(entry.restorer) == one.digest and (one.limits == limits or entry.status not in _LIMITED):
            good[key(entry)] = entry
        elif entry.restorer in digests and digests[entry.restorer] != one.digest:
            changed[entry.restorer] = None
    for name in changed:
        note(f"{name}: is not the restorer that it was; what is kept of it is not used, and its images are restored "
             "again")
    return good


class Journal:
    """The file of a run that is not finished, held by one bench at a time.

    Parameters
    ----------
    path : Path
    head : mapping
        What determines the figures.

    Raises
    ------
    StoreError
        Another bench writes it, or it cannot be written.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path, self._head = path, dict(head)
        try:
            self._file: IO[bytes] = path.open("a+b")
        except OSError as reason:
            raise StoreError(f"{path}: cannot be written ({reason.strerror}); give another --out") from None
        self._hold()

    def _hold(self) -> None:
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise _busy(self.path) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def read(self) -> tuple[dict[str, Any], list[Kept]]:
        """Head and entries; both empty of a new file. A last line that was torn is cut off."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[:content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        lines = [line for line in map(_parsed, whole.splitlines()) if line is not None]
        if not lines or "versions" not in lines[0]:
            return {}, []
        return lines[0], [_kept(line) for line in lines[1:]]

    def begin(self, alone: bool) -> None:
        """Start anew; `alone` where a table that is there does not count."""
        self._file.truncate(0)
        self._write({**self._head, "alone": alone})

    def add(self, kept: Kept) -> None:
        """Keep one more."""
        self._write(asdict(kept))

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """It is not needed any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _parsed(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        return found if isinstance(found, dict) else None
    return None


def _kept(line: Mapping[str, Any]) -> Kept:
    return Kept(Entry(**line["entry"]), line["digest"], Limits(**line["limits"]))
