"""STREAMING.md from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OTHERS, MEMMAP = 1.8, 0.65  # times the best other reader, times a memory map: required
FRESH, SECOND = 450.0, 1.6  # pairs/s of one thread, and how many times that two must make: required
OPENED = 2.0  # s: required
_OTHERS = ("tensorstore", "WebDataset", "MDS")
_KINDS = {"none": "codec none", "lz4": "codec lz4 with bit shuffling"}


def _median(row: Mapping[str, Any]) -> float:
    return float(statistics.median(row["pace"]["wall"]))


def _best(rows: Sequence[Mapping[str, Any]], *libraries: str) -> Mapping[str, Any] | None:
    """The quickest reader of some libraries."""
    return max((row for row in rows if row["library"] in libraries), key=_median, default=None)


def _table(rows: Sequence[Mapping[str, Any]], cold: bool) -> Iterator[str]:
    last = " disk |" if cold else ""
    yield f"| reader | pairs/s, median (best) | pairs per CPU s | threads | checksums |{last}"
    yield "|---|---:|---:|---|---|" + ("---:|" if cold else "")
    for row in rows:
        wall, cpu = row["pace"]["wall"], statistics.median(row["pace"]["cpu"])
        disk = f" {statistics.median(row['read']):.2f} |" if cold else ""
        yield (f"| {row['name']} | {statistics.median(wall):,.0f} ({max(wall):,.0f}) | {cpu:,.0f} | {row['threads']} | "
               f"{'crc32c' if row['checked'] else 'no'} |{disk}")


def ratios(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """What is required of the table: (in words, ratio of the medians, required)."""
    best = _best(rows, "emsynth")
    first = next((row for row in rows if row["library"] == "emsynth"), None)
    if best is None or first is None:
        return []
    against = [(best, other, OTHERS) for other in (_best(rows, library) for library in _OTHERS) if other is not None]
    against += [(own, row, MEMMAP) for row in rows if row["library"] == "memmap"
                for own in ((first,) if first is best else (first, best))]
    return [(f"{own['name']} to {other['name']}", _median(own) / _median(other), required)
            for own, other, required in against]


def _ratios(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| ratio of medians | measured | required | |"
    yield "|---|---:|---:|---|"
    for words, ratio, required in ratios(rows):
        yield f"| {words} | {ratio:.2f} | {required:g} | {'' if ratio >= required else 'missed'} |"


def _tables(found: Mapping[str, Any]) -> Iterator[str]:
    for table in found.get("tables", ()):
        pages = "cold" if table["cold"] else "warm"
        yield f"\n## {_KINDS[table['codec']].capitalize()}, {pages} page cache\n"
        yield from _table(table["rows"], table["cold"])
        yield ""
        yield from _ratios(table["rows"])
        for name, reason in table["missing"].items():
            yield f"\nNot measured: {name} ({reason})."


def _fresh(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    by = {row["threads"]: row for row in rows}
    yield "| threads | pairs/s, median (best) | pairs per CPU s |"
    yield "|---:|---:|---:|"
    for threads, row in by.items():
        yield (f"| {threads} | {statistics.median(row['wall']):,.0f} ({max(row['wall']):,.0f}) | "
               f"{statistics.median(row['cpu']):,.0f} |")
    one, two = (statistics.median(by[threads]["wall"]) for threads in (1, 2))
    yield (f"\nOne thread makes {one:,.0f} pairs/s (required {FRESH:g}), two {two / one:.2f} times that (required "
           f"{SECOND:g}).")


def _opening(found: Mapping[str, float]) -> Iterator[str]:
    yield f"{found['samples']:,.0f} samples, a new process each time, medians; required {OPENED:g} s:\n"
    yield "| | s |"
    yield "|---|---:|"
    for name, seconds in found.items():
        if name != "samples":
            yield f"| {name} | {seconds:.2f} |"


def _memory(series: Mapping[str, Sequence[tuple[int, float]]]) -> Iterator[str]:
    names = list(series)
    yield "| batches | " + " | ".join(f"{name}, MB" for name in names) + " |"
    yield "|---:|" + "---:|" * len(names)
    rows: dict[int, dict[str, float]] = {}
    for name in names:
        for batches, size in series[name]:
            rows.setdefault(batches, {})[name] = size
    for batches in sorted(rows):
        cells = (f"{rows[batches][name]:.1f}" if name in rows[batches] else "" for name in names)
        yield f"| {batches:,} | " + " | ".join(cells) + " |"
    for name, found in series.items():
        grown = found[-1][1] - found[0][1]
        yield f"\n{name.capitalize()}: {grown:+.1f} MB from batch {found[0][0]:,} to batch {found[-1][0]:,}."


def report(found: Mapping[str, Any]) -> str:
    """The whole page, of the parts that were measured so far."""
    about = ", ".join(f"{name} {value}" for name, value in found["environment"].items() if name != "processor")
    lines = [_OPENING.format(processor=found["environment"]["processor"], about=about,
                             data=found.get("data", ""), note=found.get("note", ""))]
    lines += _tables(found)
    for title, key, part in (("Fresh distortion", "fresh", _fresh), ("Opening", "opening", _opening),
                             ("Memory", "memory", _memory)):
        if key in found:
            lines += [f"\n## {title}\n", *([found["fresh_data"] + "\n"] if key == "fresh" else []), *part(found[key])]
    return "\n".join(lines) + "\n"


_OPENING = """# Speed of streaming

Written by `python -m benchmarks.speed.streaming`: one process, random batches of 32 pairs of 2 × 256² float32, all
readers in turn, each round beginning with another one; before each, its files are loaded into the page cache, or
dropped from it and looked for. Every reader delivers two NumPy arrays (32, 256, 256), which the user may keep unless
the row says that they are overwritten, and whose values are compared with what was written. A loop that asks for the
next batch and does nothing else; with `threads=0` the caller's thread does all, else it only waits. CPU seconds are
those of all threads. tensorstore reads the same files as emsynth, with the quickest settings that were found and
without a cache. WebDataset reads shards in sequence, through a buffer of 1,000 pairs, with a decoder twice as quick as
its own. In a table of cold pages, "disk" is bytes read from the disk for each byte delivered; a memory map reads by the
system's read-ahead, unless it announces its rows. {data}

{processor}; {about}. {note}"""
