"""What a data set says about itself, as rows for people; no Zarr here."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emsynth.provenance import changed_since
from emsynth.store import claims, manifest
from emsynth.store.dataset import Store

_STRUCTURES = 12  # named, at most


def rows(store: Store, words: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Rows of name and value.

    Parameters
    ----------
    store : Store
        The data set.
    words : mapping
        ``split``, ``structure``, ``physics`` and ``detector`` of every finished sample.
    """
    about, recipe = store.attributes, store.attributes["recipe"]
    versions = " ".join(f"{name} {value}" for name, value in about["versions"].items())
    found = [
        ("data set", str(store.path)),
        ("recipe", f"{about['name']}, seed {recipe['seed']}, digest {about['recipe_digest'][:16]}"),
        ("pairs", f"{store.samples:,} of {recipe['image']['size']} x {recipe['image']['size']} px, {store.shards:,} "
                  f"shards of {store.shard_size:,}"),
        ("complete", _completeness(store)),
        *((name, _counted(words[key])) for name, key in (
            ("splits", "split"), ("structures", "structure"), ("detectors", "detector"), ("physics", "physics"))),
        ("images", f"{store.fields:,} from {recipe['simulate']['folder']}") if "folder" in recipe["simulate"]
        else ("phonons", _phonons(store)),
        ("on disk", _size(store.path)),
        ("licence", about["licence"]),
        ("made with", versions),
        ("platform", f"{about['platform']['system']} {about['platform']['machine']}, {about['platform']['libc']}"),
    ]
    changed = changed_since(about)
    return [*found, ("here", "; ".join(changed))] if changed else found


def _completeness(store: Store) -> str:
    if store.complete:
        return "yes"
    left = ", ".join(f"{len(store.finished(kind)):,} of {count:,} {kind}s" for kind, count in (
        ("field", store.fields), ("shard", store.shards)))
    working = [f"{owner} is making {manifest.spoken(part)}" for part, owner in claims.live(store.path).items()]
    return f"no: {left} are finished; " + ("; ".join(working) or "build with --resume to go on")


def _counted(words: Sequence[str]) -> str:
    counts = Counter(words).most_common()
    shown = ", ".join(f"{word} {count:,}" for word, count in counts[:_STRUCTURES])
    return shown + (f" and {len(counts) - _STRUCTURES} more" if len(counts) > _STRUCTURES else "") or "none yet"


def _phonons(store: Store) -> str:
    """Standard errors of the phonon means that the fields reached, by detector."""
    reached: dict[str, list[float]] = {}
    configurations: list[int] = []
    atoms = True
    for number in sorted(store.finished("field")):
        provenance = _provenance(store.path, number)
        atoms = "phonon_configurations" in provenance
        configurations.append(int(provenance.get("phonon_configurations", 0)))
        for detector, error in dict(provenance.get("standard_error", {})).items():
            reached.setdefault(detector, []).append(float(error))
    if not configurations or not max(configurations):
        return ("static lattice" if atoms else "none, there are no atoms") if configurations else "no field yet"
    errors = ", ".join(f"{detector} {_span([100 * e for e in errors])} %" for detector, errors in reached.items())
    return f"{_span(configurations)} configurations; standard error of the mean: {errors}"


def _provenance(path: Path, number: int) -> dict[str, Any]:
    try:
        content = json.loads((path / "fields" / str(number) / "zarr.json").read_text())
        return dict(content["attributes"]["provenance"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # `verify` is who complains about damage


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def _size(path: Path) -> str:
    sizes: Counter[str] = Counter()
    for name in manifest.files_below(path):
        sizes[name.split("/")[0]] += os.path.getsize(path / name)
    parts = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in sizes.most_common(5))
    return f"{sizes.total() / 1e6:,.1f} MB ({parts}, ...)"
