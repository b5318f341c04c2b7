"""Streaming beside other readers of the same pairs: `python -m benchmarks.speed.streaming`.

Writes STREAMING.md and streaming.json; `--metadata` and `--memory` measure these alone and keep the rest of the page.
The readers are in benchmarks/streaming.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Before NumPy is loaded: a library counts its threads once.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

from benchmarks.streaming import growth, pairs, peers, rounds  # noqa: E402
from benchmarks.streaming.page import report  # noqa: E402
from emsynth.sample import Sample  # noqa: E402

HERE = Path(__file__).parent
PACKAGES = ("zarr", "numcodecs", "google-crc32c", "tensorstore", "webdataset", "mosaicml-streaming", "h5py")
SECONDS = 2.0  # of one round of one reader, at most


def environment() -> dict[str, str]:
    """Processor and versions."""
    from benchmarks.speed import compare

    found = {name: value for name, value in compare.environment().items() if name != "scipy"}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """A new folder below the one given, or below the system's; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="emsynth-streaming-", dir=folder) as name:
        yield Path(name)


def compare_readers(folder: Path, distinct: Sequence[Sample], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The tables: each codec with warm and with cold pages."""
    tables = []
    for codec in options.codecs:
        made = pairs.forms(folder, distinct, options.samples, codec, min(pairs.SHARD, options.samples))
        sides, missing = peers.readers(made)
        for name, reason in missing.items():
            print(f"skipped: {name}: {reason}", flush=True)
        for side in sides:
            rounds.check(side, *made.mapped())
        for cold in (False, True):
            rows = rounds.measure(sides, options.rounds, options.batches, SECONDS, cold)
            tables.append({"codec": codec, "cold": cold, "rows": [asdict(row) for row in rows], "missing": missing})
            for row in rows:
                print(f"{codec} {'cold' if cold else 'warm'} {row.name}: {max(row.pace.wall):,.0f}", flush=True)
        _remove(folder, codec)
    return tables


def _remove(folder: Path, codec: str) -> None:
    """What only one table needs."""
    for path in folder.glob(f"{codec}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Tables and fresh distortion."""
    source = options.fields_of
    distinct = pairs.of_store(source) if source else pairs.rendered(pairs.DISTINCT)
    what = f"the store {source.stem}" if source else "stem_ld"
    size = distinct[0].truth.shape[-1]
    found: dict[str, Any] = {
        "data": f"{options.samples:,} pairs of {size}², which are {len(distinct):,} of {what} turned, mirrored and "
                f"shifted, in shards of {min(pairs.SHARD, options.samples):,}.",
        "tables": compare_readers(folder, distinct, options)}
    fields = source or growth.small_store(folder / "fresh.zarr")
    return {**found, "fresh": growth.fresh_rates(fields, options.rounds, options.batches, SECONDS),
            "fresh_data": f"Pairs of {what}, distorted afresh from its fields, batches of 32 with all that "
                          f"`emsynth.stream(..., fresh=True)` does."}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields-of", type=Path, metavar="STORE", help="a built data set of 256² pairs whose pictures "
                        "and fields are taken; without it some of stem_ld, made for the purpose")
    parser.add_argument("--folder", type=Path, help="where to write up to 16 GB, removed afterwards")
    parser.add_argument("--samples", type=int, default=4096, help="pairs")
    parser.add_argument("--codecs", nargs="+", choices=("none", "lz4"), default=("none", "lz4"))
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each reader")
    parser.add_argument("--batches", type=int, default=32, help="batches of one round, at most")
    parser.add_argument("--metadata", action="store_true", help="only the time to open 100,000 samples")
    parser.add_argument("--memory", action="store_true", help="only the memory over 50,000 batches")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of STREAMING.md and streaming.json")
    parser.add_argument("--note", help="a sentence for the page, e.g. what else the machine did")
    options = parser.parse_args()
    kept = options.out / "streaming.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    with _scratch(options.folder) as folder:
        if options.metadata:
            found["opening"] = growth.opening(growth.tiny_store(folder / "tiny.zarr", 100_000))
        if options.memory:
            found["memory"] = growth.memory_series(folder, options.fields_of, 50_000)
        if not (options.metadata or options.memory):
            found |= measure(options, folder)
    found["environment"] = environment()
    if options.note is not None:
        found["note"] = options.note
    page = report(found)
    print(page)
    (options.out / "STREAMING.md").write_text(page, encoding="utf-8")
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
