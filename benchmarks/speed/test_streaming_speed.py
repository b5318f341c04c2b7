"""The comparison of readers in small: equal values, honest pages. Nothing here looks at a clock."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.streaming import growth, page, pairs, peers, rounds
from benchmarks.streaming.pairs import Forms
from emsynth.sample import Sample

SAMPLES, SIZE, SHARD = 96, 64, 32


@pytest.fixture(scope="module")
def distinct() -> list[Sample]:
    """Four rendered pairs."""
    return pairs.rendered(4, SIZE, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, distinct: list[Sample]) -> Forms:
    """96 pairs of 64² in three shards, and as .npy files."""
    return pairs.forms(tmp_path_factory.mktemp("forms"), distinct, SAMPLES, "none", SHARD)


@pytest.fixture(scope="module")
def sides(made: Forms) -> list[peers.Reader]:
    """Every reader that is installed."""
    return _installed(made)


def _installed(made: Forms) -> list[peers.Reader]:
    found, missing = peers.readers(made)
    for name, reason in missing.items():
        print(f"skipped: {name}: {reason}")
    return found


def test_all_readers_deliver_what_was_written(made: Forms, sides: list[peers.Reader]) -> None:
    """Types, shapes and values of a batch of each; emsynth and the memory map are always there."""
    assert {"emsynth", "memmap", "zarr-python"} <= {side.library for side in sides}
    for side in sides:
        rounds.check(side, *made.mapped())


def test_all_readers_deliver_what_was_compressed(tmp_path: Path, distinct: list[Sample]) -> None:
    """The same with lz4."""
    made = pairs.forms(tmp_path, distinct, SAMPLES, "lz4", SHARD)
    for side in _installed(made):
        rounds.check(side, *made.mapped())


def test_a_wrong_reader_is_found(made: Forms, sides: list[peers.Reader]) -> None:
    """One that mixes up its samples, and one that delivers another type."""
    def shifted() -> Iterator[peers.Batch]:
        yield from (replace(batch, index=(batch.index + 1) % SAMPLES) for batch in sides[0].batches())

    def doubled() -> Iterator[peers.Batch]:
        yield from (replace(batch, truth=batch.truth.astype(np.float64)) for batch in sides[0].batches())

    for batches in (shifted, doubled):
        with pytest.raises(ValueError, match="truth"):
            rounds.check(replace(sides[0], batches=batches), *made.mapped())


def test_every_reader_shuffles(sides: list[peers.Reader]) -> None:
    """No order of the samples in which a sequential reader would have it easy."""
    for side in sides:
        if side.library != "disk":
            index = next(side.batches()).index
            assert not (np.diff(index) == 1).all(), side.name


def test_the_pairs_differ(made: Forms) -> None:
    """What is mirrored and turned is another picture; the same index is the same picture in both arrays."""
    truth, _ = made.mapped()
    assert len({picture.tobytes() for picture in truth[:64]}) == 64


def test_pages_are_dropped_and_loaded(tmp_path: Path) -> None:
    """Cold is cold and warm is warm."""
    files = [tmp_path / "some"]
    files[0].write_bytes(bytes(1 << 24))
    assert rounds.resident(files) == 1.0
    try:
        rounds.drop(files)
    except OSError as reason:
        if os.major(files[0].stat().st_dev):
            raise
        pytest.skip(f"a file system without a disk keeps its pages: {reason}")
    assert rounds.resident(files) < 0.2  # what looked at them brought some in
    rounds.load(files)
    assert rounds.resident(files) == 1.0


def test_rounds_are_counted(sides: list[peers.Reader]) -> None:
    """Each reader has a rate for each round, by wall and by CPU second."""
    rows = rounds.measure(sides[:2], 2, 2, 1.0, cold=False)
    assert [row.name for row in rows] == [side.name for side in sides[:2]]
    for row in rows:
        assert len(row.pace.wall) == len(row.pace.cpu) == len(row.read) == 2
        assert min(row.pace.wall) > 0


def _row(name: str, library: str, rate: float) -> dict[str, Any]:
    return asdict(rounds.Row(name, library, "", True, True, rounds.Pace([rate], [rate / 2]), [1.0]))


def test_the_page_says_what_was_measured() -> None:
    """Ratios are of the best reader of each library, and what is missed is said."""
    rows = [_row("ours", "emsynth", 1000.0), _row("ours, two", "emsynth", 1700.0), _row("map", "memmap", 2000.0),
            _row("slow", "tensorstore", 100.0), _row("quick", "tensorstore", 1000.0), _row("tar", "WebDataset", 500.0)]
    assert page.ratios(rows) == [("ours, two to quick", 1.7, 1.8), ("ours, two to tar", 3.4, 1.8),
                                 ("ours to map", 0.5, 0.65), ("ours, two to map", 0.85, 0.65)]
    text = page.report({
        "environment": {"processor": "P", "cores": "2"},
        "tables": [{"codec": "none", "cold": True, "rows": rows, "missing": {"MosaicML MDS": "no module"}}],
        "fresh": [{"threads": n, "wall": [100.0 * n], "cpu": [100.0]} for n in (1, 2)], "fresh_data": "Fresh.",
        "opening": {"samples": 100_000, "emsynth.stream": 0.25}, "memory": {"stored": [[5000, 100.0], [10000, 101.5]]}})
    for said in ("| 1.70 | 1.8 | missed |", "| 0.85 | 0.65 |  |", "MosaicML MDS (no module)", "two 2.00 times",
                 "| emsynth.stream | 0.25 |", "+1.5 MB"):
        assert said in text


def test_opening_and_memory_are_measured(tmp_path: Path) -> None:
    """Of a new process each."""
    path = growth.tiny_store(tmp_path / "tiny.zarr", 128, 64)
    found = growth.opening(path, 1)
    assert found["samples"] == 128
    assert 0 < found["emsynth.stream"] <= found["emsynth.stream to the first batch"]
    series = growth.memory({"path": str(path), "batch_size": 8, "fresh": False}, 40, 20)
    assert [batches for batches, _ in series] == [20, 40]
    assert json.dumps(series)


def test_fresh_pairs_are_counted(tmp_path: Path) -> None:
    """A rate for each number of threads and each round."""
    path = growth.small_store(tmp_path / "fresh.zarr", 8, 64, 1)
    found = growth.fresh_rates(path, 1, 2, 5.0, batch_size=4)
    assert [row["threads"] for row in found] == [0, 1, 2]
    assert all(len(row["wall"]) == 1 for row in found)
