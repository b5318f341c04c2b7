"""The report: one HTML file with the leaderboard, curves, worst cases and images to look at; it needs no network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from emsynth.benchmark import report_tables as tables
from emsynth.benchmark.leaderboard import competitors, oracles
from emsynth.benchmark.reference import Reference, figures, reference
from emsynth.benchmark.report_figures import RELATIVE, curves, draw, series_class
from emsynth.benchmark.report_images import Image, Shown, card, cases_shown, shown_value, uris, worst
from emsynth.benchmark.report_tables import text
from emsynth.benchmark.score import Score
from emsynth.benchmark.suite import Case, Suite
from emsynth.errors import SuiteError
from emsynth.metrics import fidelity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["cases_shown", "write_report"]

_GAIN = 4  # of the residual
_TITLES = {
    "psnr": "PSNR of the mean error", "ssim": "SSIM", "mean_bias": "bias of the mean intensity",
    "column_error": "position error of the columns", "column_error_median": "position error of the columns, median",
    "column_drift": "common shift of the columns", "intensity_error": "intensity error of the columns",
    "intensity_bias": "intensity bias of the columns", "column_precision": "precision of the column search",
    "column_recall": "recall of the column search", "false_structure": "invented periodicity",
    "empty_residual": "residual in empty regions", "response_shift": "share of a shift returned",
    "response_dopant": "share of a dopant returned", "response_vacancy": "share of a vacancy returned",
    "frc_mean": "Fourier ring correlation, mean", "frc_band": "Fourier ring correlation, band",
    "row_jitter": "row jitter",
}
_CAPTION = ("psnr", "ssim", "column_error", "column_bound")
_MOST_BYTES = 16_000_000  # of images, so that the file stays under 20 MB

_Restored = Mapping[tuple[str, str, int], Image]


def write_report(path: str | os.PathLike[str], suite: Suite, table: pd.DataFrame, scores: Sequence[Score],
                 restored: _Restored, provenance: Mapping[str, Any], against: Reference | None = None) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    path : path
        The ``.html`` file.
    suite : Suite
        What was restored.
    table : DataFrame
        Tidy table of the run.
    scores : sequence of Score
        Of the same table.
    restored : mapping of (restorer, condition, scene) to ndarray (H, W)
        Images to show, ADU; those of `cases_shown`.
    provenance : mapping
        Versions, command, machine; shown as it is.
    against : Reference, optional
        The one kept with the suite where not given.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SuiteError
        Where the file cannot be written, or no reference is kept.
    """
    against = reference(suite) if against is None else against
    target = Path(path)
    content = _page(suite, table, scores, restored, provenance, against)
    try:
        target.write_text(content, encoding="utf-8")
    except OSError as reason:
        raise SuiteError(f"{target}: cannot be written ({reason.strerror or reason}); give another place") from reason
    return target


def _page(suite: Suite, table: pd.DataFrame, scores: Sequence[Score], restored: _Restored,
          provenance: Mapping[str, Any], against: Reference) -> str:
    order = [s.restorer for s in (*competitors(scores), *oracles(scores))]
    images, data = _images(suite, table, order, restored, against)
    return Template(_part("_report.html")).substitute(
        name=text(suite.name), title=text(suite.title), reference=text(against.restorer),
        facts=text(f"{len(suite):,} images: {len(suite.scenes)} scenes of {suite.shape[0]} × {suite.shape[1]} px, "
                   f"{len(suite.families)} families of distortions, {len(suite.conditions)} conditions; digest "
                   f"{suite.digest[:12]}"),
        style=_part("_report.css"), script=_part("_report.js"), leaderboard=tables.leaderboard(scores),
        curves=_curves(suite, table, order, against), families=tables.families(suite, scores), images=images,
        worst=tables.worst_cases(suite, table, order, against, set(data["names"])), failures=tables.failures(table),
        definitions=tables.definitions(scores), provenance=tables.provenance(suite, provenance),
        # "<" would let a name end the element.
        data=json.dumps(data["held"], ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def _part(name: str) -> str:
    return files("emsynth.benchmark").joinpath(name).read_text(encoding="utf-8")


def _curves(suite: Suite, table: pd.DataFrame, order: Sequence[str], against: Reference) -> str:
    from emsynth.benchmark.measures import METRICS

    present = set(table["metric"])
    known = {name: m for name, m in METRICS.items() if name in present}
    drawn: dict[str, tuple[str, str, str, float | None]] = {RELATIVE: (
        f"error relative to the tuned {against.restorer}", "%", "Lower is better; 100 is the reference.", 100.0)}
    drawn |= {name: (_TITLES.get(name, name.replace("_", " ")), m.unit, m.definition,
                     m.ceiling if m.direction == "one" else None)
              for name, m in known.items()}
    classes = {name: series_class(name, order, against.restorer) for name in order}
    panels: list[str] = []
    options = []
    for name, (title, unit, about, target) in drawn.items():
        inner = draw(name, unit, curves(suite, table, order, name, against), classes, target)
        if inner:
            said = f" [{unit}]" if unit else ""
            panels.append(f'<div class="panels" data-metric="{text(name)}"{" hidden" if panels else ""}>'
                          f'<p class="about-metric"><strong>{text(title + said)}</strong> {text(about)}</p>'
                          f"{inner}</div>")
            options.append(f'<option value="{text(name)}">{text(title + said)}</option>')
    keys = "".join(f'<li><button type="button" class="{kind}" data-restorer="{n}" aria-pressed="true">'
                   f'<i class="key"></i>{text(name)}</button></li>' for n, (name, kind) in enumerate(classes.items()))
    return (f'<div class="bar js-only"><label>metric <select id="metric" autocomplete="off">{"".join(options)}</select>'
            f'</label></div><ul class="legend" aria-label="Restorers">{keys}</ul>{"".join(panels)}')


def _images(suite: Suite, table: pd.DataFrame, order: Sequence[str], restored: _Restored,
            against: Reference) -> tuple[str, dict[str, Any]]:
    """Cards of the images, and what the script has to know of them."""
    number = {c.name: n for n, c in enumerate(suite.conditions)}
    shown = sorted({(condition, scene) for _, condition, scene in restored}, key=lambda c: (number[c[0]], c[1]))
    worst_of = _worst_of(suite, table, order, against)
    known = {(r, m): figures(suite, table, r, m) for r in order for m in _CAPTION}
    cards: list[str] = []
    held: list[dict[str, Any]] = []
    names: list[Shown] = []
    size = 0
    for condition, scene in shown:
        case = suite.case(number[condition], scene)
        made = uris(case, {r: restored[r, condition, scene] for r in order if (r, condition, scene) in restored})
        size += sum(map(len, made.values()))
        if size > _MOST_BYTES:
            break
        of = [r for r in order if (condition, scene) in worst_of[r]]
        words = {r: _caption(case, r, *(float(known[r, m][number[condition], scene]) for m in _CAPTION)) for r in order}
        cards.append(card(len(cards), case, order[0], made, words, of))
        held.append({"images": made, "words": words,
                     "groups": [f"family {case.condition.family}", *(f"worst of {r}" for r in of)]})
        names.append((condition, scene))
    if not cards:
        return "<p>No images were kept.</p>", {"names": [], "held": {"gain": _GAIN, "cases": []}}
    left_out = len(shown) - len(cards)
    note = f"<p>{left_out} further images are left out: the file would be too large.</p>" if left_out else ""
    page = f'{_controls(order, held)}{note}<div class="cases">{"".join(cards)}</div>'
    return page, {"names": names, "held": {"gain": _GAIN, "cases": held}}


def _worst_of(suite: Suite, table: pd.DataFrame, order: Sequence[str], against: Reference) -> dict[str, list[Shown]]:
    return {r: [(w.condition, w.scene) for w in worst(suite, table, r, against)] for r in order}


def _caption(case: Case, restorer: str, psnr: float, ssim: float, position: float, bound: float) -> str:
    """Figures of a restored image in words, its PSNR beside that of the image as it was."""
    before = fidelity.psnr(case.truth, case.image, data_range=case.data_range) if case.data_range else math.nan
    said = f"{restorer}: PSNR {shown_value(psnr, 2)} dB (input {shown_value(before, 2)}), SSIM {shown_value(ssim, 3)}"
    if math.isfinite(position):
        said += f", position error {position:.1f} pm" + (f" (bound {bound:.1f})" if math.isfinite(bound) else "")
    return said


def _controls(order: Sequence[str], held: Sequence[Mapping[str, Any]]) -> str:
    groups = list(dict.fromkeys(g for h in held for g in h["groups"]))
    groups.sort(key=lambda g: g.startswith("worst"))

    def select(name: str, label: str, options: Mapping[str, str]) -> str:
        inner = "".join(f'<option value="{text(v)}">{text(t)}</option>' for v, t in options.items())
        return f'<label>{label} <select id="{name}" autocomplete="off">{inner}</select></label>'

    return ('<div class="bar js-only">' + select("restorer", "restorer", {r: r for r in order})
            + select("left", "left", {"distorted": "distorted", "truth": "truth"})
            + select("right", "right", {"restored": "restored", "truth": "truth", "residual": f"residual ×{_GAIN}"})
            + select("cases", "show", {"": "all"} | {g: g.replace("_", " ") for g in groups})
            + '<label class="check"><input type="checkbox" id="columns" autocomplete="off">columns and probes</label>'
            '</div><p class="probe-key js-only">Columns in blue; probes: <i style="color:#c9a000"></i>shift '
            '<i style="color:#ff5d8f"></i>dopant <i style="color:#4fbf40"></i>vacancy. <span id="residual-key" hidden>'
            f"Residual: restored less truth, {_GAIN} times; red is too much, blue too little, white is right."
            "</span></p>")
