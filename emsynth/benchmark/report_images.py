"""Images of the report: which are shown, as PNG in the page, and the cards with a before/after slider."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.leaderboard import significant
from emsynth.benchmark.reference import Reference, figures, reference
from emsynth.benchmark.score import ORACLE, error
from emsynth.benchmark.suite import Case, Suite

if TYPE_CHECKING:
    import pandas as pd

SEVERITIES_SHOWN = (3, 5)
WORST_SHOWN = 1
WORST_NAMED = 3
_MOST_SPREAD = 24
_ROUND_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # Å

Image = NDArray[np.float32]
Shown = tuple[str, int]


@dataclass(frozen=True)
class Worst:
    """One of the images that a restorer did worst on.

    Attributes
    ----------
    condition : str
    scene : int
    relative : float
        Its error over the reference's on that image, percent; NaN of the reference itself, which PSNR ranks.
    psnr : float
        dB.
    """

    condition: str
    scene: int
    relative: float
    psnr: float


def worst(suite: Suite, table: pd.DataFrame, restorer: str, against: Reference,
          count: int = WORST_NAMED) -> list[Worst]:
    """Images on which the restorer did not fail and its error is largest beside the reference's, worst first."""
    psnr = figures(suite, table, restorer, "psnr")
    rows = table[(table["restorer"] == restorer) & (table["metric"] == "psnr") & (table["status"] != "ok")]
    number = {c.name: n for n, c in enumerate(suite.conditions)}
    for family, severity, scene in zip(rows["family"], rows["severity"], rows["scene"], strict=True):
        psnr[number[f"{family}-{severity}"], int(scene)] = np.nan
    relative = 100 * error(psnr) / error(against.figures["psnr"])
    found = [Worst(c.name, s, float(relative[n, s]), float(psnr[n, s])) for n, c in enumerate(suite.conditions)
             for s in range(len(suite.scenes)) if np.isfinite(relative[n, s])]
    # The reference is as good as itself everywhere, which ranks nothing: then by PSNR.
    if all(abs(w.relative - 100) < 1e-6 for w in found):
        found = [replace(w, relative=math.nan) for w in found]
    return sorted(found, key=lambda w: (-round(w.relative, 6) if math.isfinite(w.relative) else 0.0, w.psnr,
                                        w.condition, w.scene))[:count]


def cases_shown(suite: Suite, table: pd.DataFrame, against: Reference | None = None) -> list[Shown]:
    """What the report shows as images: every family at severities 3 and 5, and the worst case of each restorer.

    Parameters
    ----------
    suite : Suite
        What was restored.
    table : DataFrame
        Tidy table of a run.
    against : Reference, optional
        The one kept with the suite where not given.

    Returns
    -------
    list of (str, int)
        Condition and scene, in the order of the suite.
    """
    against = reference(suite) if against is None else against
    families = [f for f in suite.families if f in set(table["family"])]
    wanted: list[Shown] = []
    for family in families:
        have = [c.severity for c in suite.conditions if c.family == family]
        severities = [s for s in SEVERITIES_SHOWN if s in have] or [max(have)]
        wanted += [(f"{family}-{s}", 0) for s in severities]
    seen = _scenes_in_turn(suite, len(wanted[:_MOST_SPREAD]))
    chosen = {(condition, scene) for (condition, _), scene in zip(wanted, seen, strict=False)}
    for name in sorted({str(r) for r in table["restorer"]}):
        if not name.endswith(ORACLE):
            chosen |= {(w.condition, w.scene) for w in worst(suite, table, name, against, WORST_SHOWN)}
    order = {c.name: n for n, c in enumerate(suite.conditions)}
    return sorted(chosen, key=lambda c: (order[c[0]], c[1]))


def _scenes_in_turn(suite: Suite, count: int) -> list[int]:
    """One content after another; the unperturbed twin, which shows less than its partner, last."""
    contents: dict[str, list[int]] = {}
    for scene in sorted(suite.scenes, key=lambda s: (s.content == "lattice", s.index)):
        contents.setdefault(scene.content, []).append(scene.index)
    groups = list(contents.values())
    return [groups[k % len(groups)][(k // len(groups)) % len(groups[k % len(groups)])] for k in range(count)]


def grey(image: Image, low: float, high: float) -> NDArray[np.uint8]:
    """8-bit greys, black at `low` and white at `high`; what is not a number is black."""
    scaled = (np.nan_to_num(np.asarray(image, np.float64), nan=low) - low) / max(high - low, 1e-12)
    return np.asarray(np.rint(255 * np.clip(scaled, 0, 1)), np.uint8)


def png_uri(image: NDArray[np.uint8]) -> str:
    """A grey image (H, W) as a ``data:`` URI."""
    from PIL import Image as Pillow

    held = io.BytesIO()
    Pillow.fromarray(image).save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def uris(case: Case, restored: Mapping[str, Image]) -> dict[str, str]:
    """``distorted``, ``truth`` and each restorer (as ``restored:NAME``) as PNG, on the truth's range."""
    low, high = float(case.truth.min()), float(case.truth.max())
    named = {"distorted": case.image, "truth": case.truth} | {f"restored:{k}": v for k, v in restored.items()}
    return {name: png_uri(grey(image, low, high)) for name, image in named.items()}


def marks(case: Case) -> str:
    """Scale bar, columns and probes of a scene as SVG over its image."""
    rows, cols = case.truth.shape
    scene = case.scene
    probed = {p.column: p for p in scene.probes}
    radius = max(1.5, min(0.45 / scene.sampling, 5.0))
    dots = "".join(f'<circle cx="{c:.2f}" cy="{r:.2f}" r="{radius * 0.5:.2f}"/>'
                   for n, (r, c) in enumerate(scene.columns) if n not in probed)
    rings = "".join(f'<circle class="{p.kind}" cx="{scene.columns[n][1]:.2f}" cy="{scene.columns[n][0]:.2f}" '
                    f'r="{radius * 1.5:.2f}"><title>{html.escape(p.kind)}: {html.escape(p.about)}</title></circle>'
                    for n, p in probed.items())
    return (f'<svg class="marks" viewBox="-0.5 -0.5 {cols} {rows}" aria-hidden="true"><g class="columns">{dots}</g>'
            f'<g class="probes">{rings}</g>{_scale_bar(case)}</svg>')


def _scale_bar(case: Case) -> str:
    rows, cols = case.truth.shape
    length = max((v for v in _ROUND_LENGTHS if v / case.scene.sampling <= cols / 3), default=1)
    wide, unit = length / case.scene.sampling, cols / 128
    words = f"{length} Å" if length < 10 else f"{length / 10:g} nm"
    left, bottom = 4 * unit, rows - 5 * unit
    return (f'<g class="scale"><rect x="{left:.2f}" y="{bottom:.2f}" width="{wide:.2f}" height="{1.6 * unit:.2f}"/>'
            f'<text x="{left + wide / 2:.2f}" y="{bottom - 2 * unit:.2f}" text-anchor="middle" '
            f'font-size="{6.5 * unit:.2f}">{words}</text></g>')


def shown_value(value: float, digits: int) -> str:
    """A number of a caption; a dash of none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def card(number: int, case: Case, first: str, images: Mapping[str, str], words: Mapping[str, str],
         worst_of: Sequence[str]) -> str:
    """One figure with its slider, good without JavaScript: `first` is the restorer then shown beside the input."""
    where, scene = case.condition, case.scene
    low, high = float(case.truth.min()), float(case.truth.max())
    label = f"{where.family.replace('_', ' ')}, severity {where.severity}"
    restored = images.get(f"restored:{first}", images["distorted"])
    name = html.escape(f"{where.name}/{scene.index}")
    unit = "electrons" if (where.gain, where.black_level) == (1, 0) else "ADU"
    about = (f"{scene.content}, {scene.structure}; {scene.sampling:.3g} Å/px, "
             f"{significant(where.expected_counts)} e/px, black {significant(low)}, "
             f"white {significant(high, 3)} {unit}")
    among = f'<p class="warn">Among the worst of {html.escape(", ".join(worst_of))}.</p>' if worst_of else ""
    return f"""<figure class="case" id="case-{number}" data-case="{number}" data-name="{name}">
<div class="compare">
<img class="right" src="{restored}" alt="Restored by {html.escape(first)}: {html.escape(label)}">
<canvas class="right" hidden></canvas>
<img class="left" src="{images['distorted']}" alt="Distorted: {html.escape(label)}">
{marks(case)}
<div class="line"></div><span class="tag leftname">distorted</span>
<span class="tag rightname">{html.escape(first)}</span>
<input type="range" min="0" max="100" value="50" step="1"
 aria-label="Share of the distorted image, {html.escape(label)}">
</div>
<figcaption><div class="case-head"><strong>{html.escape(label)}</strong>
<button type="button" class="enlarge js-only" aria-pressed="false">enlarge</button></div>
<p class="figures" aria-live="polite">{html.escape(words.get(first, ""))}</p>
<p class="about">{html.escape(scene.name)}: {html.escape(about)}</p>{among}</figcaption>
</figure>"""
