"""A look at a recipe or a data set: a few telling samples as a contact sheet or an HTML report."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emsynth.budget import field_seconds, machine_speed
from emsynth.draw import number
from emsynth.errors import StoreError
from emsynth.passes import Outline, outline, simulate
from emsynth.preview.caption import heading
from emsynth.preview.resolved import Row, rows
from emsynth.preview.sheet import draw_sheet
from emsynth.recipe import Recipe
from emsynth.sample import Sample, render
from emsynth.store import describe, open_dataset, read_sample
from emsynth.store.dataset import open_store

# How far a preview of a recipe looks for fields and samples that differ.
_FIELDS_SEEN = 12
_SAMPLES_PER_FIELD = 24
_SAMPLES_SEEN = 400

Report = Callable[[str], None]


@dataclass(frozen=True)
class Traits:
    """What tells one sample from another at a glance.

    Attributes
    ----------
    index : int
        Index of the sample.
    structure, detector : str
        Names.
    counts : float
        Mean electrons per pixel.
    undistorted : bool
        Whether it is an identity pair.
    """

    index: int
    structure: str
    detector: str
    counts: float
    undistorted: bool = False

    def distance(self, other: Traits) -> float:
        """How different two samples look: 1 for each name, 1 for each decade of dose."""
        return ((self.structure != other.structure) + (self.detector != other.detector)
                + abs(math.log10(self.counts / other.counts)))


def choose(candidates: Sequence[Traits], count: int) -> list[int]:
    """Indices of `count` samples that differ as much as possible, brightest first; identity pairs come last."""
    left = sorted(candidates, key=lambda c: (c.undistorted, c.index))
    chosen = left[:1]
    while len(chosen) < min(count, len(left)):
        rest = [c for c in left if c not in chosen]
        chosen.append(max(rest, key=lambda c: (not c.undistorted, min(c.distance(o) for o in chosen), -c.index)))
    return [c.index for c in sorted(chosen, key=lambda c: (-c.counts, c.index))]


def preview_recipe(recipe: Recipe, out: str | os.PathLike[str], count: int = 6, report: Report = print) -> Path:
    """Render a few samples of a recipe and show them.

    Parameters
    ----------
    recipe : Recipe
        Any recipe.
    out : path
        ``.png`` or ``.html``.
    count : int
        Number of samples.
    report : callable
        Told what is going on.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    EmsynthError
        Where the samples cannot be rendered, or the file cannot be written.
    """
    target = writable(out)
    fields = _fields(recipe, count)
    candidates = [_drawn_traits(recipe, found, index) for found in fields.values()
                  for index in _samples_of(recipe, found.field)]
    indices = choose(candidates, count)
    samples: dict[int, Sample] = {}
    used = sorted({recipe.field_of(i) for i in indices})
    speed = machine_speed()
    for n, field in enumerate(used):
        seconds = field_seconds(recipe, fields[field]) / speed
        state = "from the cache" if fields[field].cached else f"simulating, about {max(1, round(seconds))} s"
        state = "reading" if fields[field].kind == "image" else state
        report(f"field {n + 1} of {len(used)}: {fields[field].structure}, {state}")
        clean = simulate(recipe, field)
        samples |= {i: render(recipe, i, clean) for i in indices if recipe.field_of(i) == field}
    about = f"{recipe.samples:,} pairs from {recipe.fields:,} fields, seed {recipe.seed}"
    return _write(target, [samples[i] for i in indices], recipe, about)


def preview_dataset(path: str | os.PathLike[str], out: str | os.PathLike[str], count: int = 6) -> Path:
    """Show a few samples of a data set, finished or not; see `preview_recipe`."""
    target = writable(out)
    store = open_store(path)
    finished = [i for shard in sorted(store.finished("shard")) for i in store.samples_of(shard)]
    if not finished:
        raise StoreError(f"{path}: no shard of it is finished yet; build with --resume to go on")
    samples = [read_sample(path, i) for i in choose(_kept_traits(path, finished), count)]
    about = (f"{len(finished):,} of {store.samples:,} pairs from {store.fields:,} fields, seed {store.recipe.seed}, "
             f"recipe {str(store.attributes['recipe_digest'])[:12]}")
    return _write(target, samples, store.recipe, about, describe(path))


def _kept_traits(path: str | os.PathLike[str], finished: Sequence[int]) -> list[Traits]:
    with open_dataset(path) as held:
        seen = finished[::max(1, len(finished) // _SAMPLES_SEEN)]
        kept = held[["structure", "detector", "expected_counts", "drawn"]].isel(sample=seen).load()
    return [Traits(i, str(kept["structure"].values[n]), str(kept["detector"].values[n]),
                   float(kept["expected_counts"].values[n]), '"undistorted":1.0' in str(kept["drawn"].values[n]))
            for n, i in enumerate(seen)]


def _fields(recipe: Recipe, count: int) -> dict[int, Outline]:
    """Few fields, of different structures: those in the cache before those that take little work."""
    seen = [outline(recipe, j) for j in range(min(recipe.fields, _FIELDS_SEEN))]
    left = sorted(seen, key=lambda o: (not o.cached, o.work))
    chosen: list[Outline] = []
    while left and len(chosen) < max(1, math.ceil(count / 2)):
        names = [o.structure for o in chosen]
        best = min(left, key=lambda o: (names.count(o.structure), left.index(o)))
        left.remove(best)
        chosen.append(best)
    return {o.field: o for o in chosen}


def _samples_of(recipe: Recipe, field: int) -> list[int]:
    return list(range(field, recipe.samples, recipe.fields)[:_SAMPLES_PER_FIELD])


def _drawn_traits(recipe: Recipe, found: Outline, index: int) -> Traits:
    drawn = recipe.draw(index)
    return Traits(index, found.structure, str(drawn.image.detector), number(drawn.distort.expected_counts),
                  number(drawn.distort.undistorted) == 1)


def writable(out: str | os.PathLike[str]) -> Path:
    """The file that a preview goes to.

    Raises
    ------
    StoreError
        Where its folder is not there or cannot be written, or it ends neither in ``.png`` nor in ``.html``.
    """
    path = Path(out)
    if path.suffix.lower() not in (".png", ".html"):
        raise StoreError(f"{path}: a preview is a .png or a .html file; give such an --out")
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.is_dir():
        what = ("is a folder" if path.is_dir() else "cannot be written: there is no such folder" if not folder.is_dir()
                else "cannot be written")
        raise StoreError(f"{path}: {what}; give another --out")
    return path


def _write(path: Path, samples: Sequence[Sample], recipe: Recipe, about: str,
           summary: Sequence[tuple[str, str]] = ()) -> Path:
    if path.suffix.lower() == ".png":
        content = draw_sheet(samples, recipe.name, about)
    else:
        content = _page(draw_sheet(samples, "", ""), samples, recipe, about, summary).encode()
    try:
        path.write_bytes(content)
    except OSError as reason:
        raise StoreError(f"{path}: cannot be written ({reason.strerror or reason}); give another --out") from reason
    return path


_STYLE = """
body { font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
       max-width: 1500px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; margin: 0; }
h2 { font-size: 1.1em; margin: 2em 0 .5em; } p { color: #6b6b6b; margin: .2em 0 1.4em; }
img { width: 100%; height: auto; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .22em 1em .22em 0; border-bottom: 1px solid #e6e6e6; vertical-align: top; }
thead th { border-bottom: 1.5px solid #1a1a1a; white-space: nowrap; }
tbody th { font-weight: normal; color: #6b6b6b; white-space: nowrap; } tr.part th { font-weight: 600; color: #1a1a1a; }
"""


def _page(picture: bytes, samples: Sequence[Sample], recipe: Recipe, about: str,
          summary: Sequence[tuple[str, str]]) -> str:
    """One HTML file that needs no other."""
    name = html.escape(recipe.name)
    image = base64.b64encode(picture).decode()
    whole = f"<h2>Data set</h2>\n{_table([], [(Row(0, k, v), (v,)) for k, v in summary])}" if summary else ""
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name} – emsynth</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
            f"<body><h1>{name}</h1><p>{html.escape(about)}</p>\n"
            f'<img alt="Truth, distorted image and probe displacement of {len(samples)} samples" '
            f'src="data:image/png;base64,{image}">\n{whole}\n<h2>Drawn values</h2>\n{_drawn_table(samples)}'
            f"\n<h2>Recipe</h2>\n{_recipe_table(recipe)}\n</body></html>\n")


def _cells(tag: str, words: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(word)}</{tag}>" for word in words)


def _table(head: Sequence[str], lines: Sequence[tuple[Row, Sequence[str]]]) -> str:
    body = "".join(f'<tr{"" if any(values) and not row.part else " class=part"}>'
                   f'<th style="padding-left:{1.2 * row.depth:g}em">{html.escape(row.key)}</th>{_cells("td", values)}'
                   f"</tr>\n" for row, values in lines)
    top = f"<thead><tr>{_cells('th', head)}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{top}<tbody>\n{body}</tbody></table></div>'


def _drawn_table(samples: Sequence[Sample]) -> str:
    """Every key that was drawn for one of the samples, in the order of the recipe; one column each."""
    found: dict[tuple[str, ...], tuple[Row, dict[int, str]]] = {}
    for n, sample in enumerate(samples):
        path: list[str] = []
        for row in rows(sample.drawn):
            path = [*path[:row.depth], row.key]
            found.setdefault(tuple(path), (row, {}))[1][n] = row.value
    # Stages that only some of the samples have would else stand behind everything that all of them have.
    order = sorted(found, key=lambda at: [list(found).index(at[:k]) for k in range(1, len(at) + 1)])
    lines = [(found[at][0], [found[at][1].get(n, "") for n in range(len(samples))]) for at in order
             if at[0] in ("image", "specimen", "microscope", "distort")]
    return _table(["", *(f"{s.index}: {heading(s)}" for s in samples)], lines)


def _recipe_table(recipe: Recipe) -> str:
    return _table(["key", "value", "allowed"], [(row, (row.value, row.allowed)) for row in rows(recipe)])
