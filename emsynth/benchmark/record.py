"""Where a table comes from: suite, restorers, versions, platform, limits, and what failed; JSON beside the table."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from emsynth.benchmark.lanes import Entry
from emsynth.benchmark.suite import Suite
from emsynth.benchmark.workers import Contender, Limits
from emsynth.errors import StoreError
from emsynth.imagery import replacing
from emsynth.provenance import fingerprint

FORMAT = 1
# Whatever has a hand in the restored images or in the figures of the shipped restorers.
_PACKAGES = ("emsynth", "numpy", "scipy", "numba", "scikit-image", "PyWavelets", "bm3d", "torch", "onnxruntime")


def versions() -> dict[str, str]:
    """Versions of Python and of those packages that are installed and may determine a figure."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def head(suite: Suite) -> dict[str, Any]:
    """What two runs must have in common so that one can go on with the other."""
    return {"emsynth_bench": FORMAT, "suite": suite.name, "digest": suite.digest, "versions": versions(),
            "platform": fingerprint()}


def content(suite: Suite, contenders: Sequence[Contender], limits: Limits, entries: Iterable[Entry], workers: int,
            cores: int, seconds: float) -> dict[str, Any]:
    """Where a table comes from.

    Parameters
    ----------
    suite : Suite
        What was restored.
    contenders : sequence of Contender
        By whom.
    limits : Limits
        What each might take.
    entries : iterable of Entry
        What came of it, on all images.
    workers, cores : int
        Images that were restored at the same time, and cores that there are: times depend on both.
    seconds : float
        Of this run; where it went on with another, without that one's.

    Returns
    -------
    dict
        JSON-compatible; no names of hosts, users or folders.
    """
    made = list(entries)
    unsteady = {e.restorer for e in made if not e.steady}
    statuses = {c.name: Counter(e.status for e in made if e.restorer == c.name) for c in contenders}
    return head(suite) | {
        "date": datetime.now(UTC).date().isoformat(), "limits": asdict(limits), "workers": workers, "cores": cores,
        "seconds": round(seconds, 1), "images": len(made), "licence": suite.about.get("licence", ""),
        "restorers": [asdict(c.identity) | {"name": c.name, "statuses": dict(sorted(statuses[c.name].items())),
                                            "reproducible": c.name not in unsteady} for c in contenders]}


def beside(out: Path) -> Path:
    """Where the record of a table is: named so that it is nobody else's."""
    return out.with_name(f"{out.name}.json")


def write_record(out: Path, told: dict[str, Any]) -> Path:
    """Write where the table `out` comes from beside it."""
    path = beside(out)
    with replacing(path) as file:
        file.write(json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n")
    return path


def read_record(out: Path) -> dict[str, Any]:
    """The record of a table.

    Raises
    ------
    StoreError
        There is none.
    """
    path = beside(out)
    try:
        told = json.loads(path.read_text("utf-8"))
        if told["emsynth_bench"] != FORMAT:
            raise KeyError("emsynth_bench")
        return dict(told)
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{path}: does not say where {out.name} comes from, so that nothing can go on with it; begin "
                         "again with --overwrite, or give another --out") from None
