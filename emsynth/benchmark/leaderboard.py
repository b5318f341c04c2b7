"""The leaderboard: all restorers of a run in one table, as Markdown and as plain text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emsynth.benchmark.score import RESPONSES, Estimate, Score
from emsynth.benchmark.suite import Suite

NOTHING = "-"
_NAME = 20  # characters of a restorer's name in the plain text


@dataclass(frozen=True)
class Column:
    """One column of the leaderboard.

    Attributes
    ----------
    title, short : str
        Heading, and heading where there is little room.
    about : str
        What it is, in a sentence.
    text : callable
        Score to the words of its cell.
    value : callable
        Score to the number that it is sorted by; NaN comes last.
    brief : callable, optional
        Score to the words of its cell in the plain text, which leaves a column without one out.
    """

    title: str
    short: str
    about: str
    text: Callable[[Score], str]
    value: Callable[[Score], float]
    brief: Callable[[Score], str] | None = None


def figure(value: float, digits: int = 1) -> str:
    """A number with so many decimals; ``-`` of none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def figure_estimate(estimate: Estimate, digits: int = 1) -> str:
    """``62.1 (58.0-66.3)``."""
    if not estimate:
        return NOTHING
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}–{estimate.high:.{digits}f})"


def significant(value: float, digits: int = 2) -> str:
    """So many significant digits without an exponent; ``-`` of none."""
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def _bounded(score: Score) -> str:
    error, bound = score.bounded
    whole = figure(score.means.get("column_error", math.nan))
    return f"{figure(error)} / {figure(bound)}" if math.isfinite(bound) else whole


def _time(score: Score) -> float:
    return score.means.get("time", math.nan)


def _brief_estimate(estimate: Estimate) -> str:
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.value:.1f} ±{half:.1f}" if estimate else NOTHING


def _brief_bounded(score: Score) -> str:
    return _bounded(score).replace(" ", "")


def _brief_responses(score: Score) -> str:
    held = [score.responses.get(kind, Estimate()).value for kind in RESPONSES]
    return "/".join(figure(value, 2) for value in held) if any(map(math.isfinite, held)) else NOTHING


def _digits(metric: str, digits: int, brief: bool = False) -> dict[str, Any]:
    def value(score: Score) -> float:
        return score.means.get(metric, math.nan)

    def text(score: Score) -> str:
        return figure(value(score), digits)
    return {"text": text, "value": value} | ({"brief": text} if brief else {})


def _response(kind: str) -> dict[str, Any]:
    def value(score: Score) -> float:
        return score.responses.get(kind, Estimate()).value

    def brief(score: Score) -> str:
        return _brief_responses(score)
    first = kind == next(iter(RESPONSES))
    return {"text": lambda score: figure(value(score), 2), "value": value} | ({"brief": brief} if first else {})


COLUMNS = (
    Column("score", "score", "Error of the image relative to the reference's, percent, with its 95 % interval.",
           lambda s: figure_estimate(s.overall), lambda s: s.overall.value, lambda s: _brief_estimate(s.overall)),
    Column("column score", "columns", "Error of the column positions relative to the reference's, percent.",
           lambda s: figure_estimate(s.columns), lambda s: s.columns.value, lambda s: _brief_estimate(s.columns)),
    Column("against reference", "", "Better or worse where the interval of the score leaves 100 out, else even.",
           lambda s: s.verdict or NOTHING, lambda s: s.overall.value),
    Column("PSNR [dB]", "PSNR", "Of the truth's range, at most 100 dB, mean over images.",
           **_digits("psnr", 2, True)),
    Column("SSIM", "SSIM", "Structural similarity, mean over images.", **_digits("ssim", 3, True)),
    Column("position error / bound [pm]", "pos/bound", "Position error of the columns, beside the Cramér-Rao "
           "bound of the same images; means over images.", _bounded, lambda s: s.means.get("column_error", math.nan),
           _brief_bounded),
    Column("shift returned", "sh./dop./vac.", "Recovered over true shift of a single column; 1 is right.",
           **_response("shift")),
    Column("dopant returned", "", "Recovered over true change of intensity of a single dopant; 1 is right.",
           **_response("dopant")),
    Column("vacancy returned", "", "Recovered over true loss of intensity to a missing atom; 1 is right.",
           **_response("vacancy")),
    Column("precision", "", "Share of the columns found that are there.", **_digits("column_precision", 3)),
    Column("recall", "", "Share of the columns there that are found.", **_digits("column_recall", 3)),
    Column("invented periodicity [%]", "", "Rms of the periodic part of the residual in vacuum and amorphous regions, "
           "percent of the truth's range, mean over images.",
           **_digits("false_structure", 2)),
    Column("bias [%]", "", "Size of the difference of the mean intensities, percent of the truth's, mean over images.",
           **_digits("mean_bias", 2)),
    Column("time [s/Mpx]", "s/Mpx", "Seconds per megapixel.", lambda s: significant(_time(s)), _time,
           lambda s: significant(_time(s))),
    Column("failed", "fail", "Images that the restorer failed on.", lambda s: str(s.failures),
           lambda s: float(s.failures), lambda s: str(s.failures)),
)


def caption(suite: Suite, scores: Sequence[Score]) -> str:
    """What the leaderboard is of, in a line: suite, digest, images, and what 100 stands for."""
    reference = scores[0].reference if scores else "the reference"
    return (f"{suite.name}, digest {suite.digest[:12]}, {len(suite):,} images: {len(suite.scenes)} scenes under "
            f"{len(suite.conditions)} conditions. Score: 100 is as good as the tuned {reference}, 0 is perfect, lower "
            "is better; in brackets the 95 % interval over scenes.")


def competitors(scores: Sequence[Score]) -> list[Score]:
    """Those that were not tuned on the truth, best first, those without a score last."""
    return _sorted([s for s in scores if not s.oracle])


def oracles(scores: Sequence[Score]) -> list[Score]:
    """Those that were tuned on the truth of each image, in the same order."""
    return _sorted([s for s in scores if s.oracle])


def _sorted(scores: Sequence[Score]) -> list[Score]:
    return sorted(scores, key=lambda s: (not s.overall, s.overall.value if s.overall else 0.0, s.restorer))


def used(scores: Sequence[Score]) -> list[Column]:
    """Columns that say something of at least one restorer; scores also where a dash has to say that there is none."""
    kept = COLUMNS[:2 if any(s.column_families for s in scores) else 1]
    return [c for c in COLUMNS if c in kept or any(c.text(s) != NOTHING for s in scores)]


ORACLE_TITLE = "Tuned on the truth of each image: a bound, not a competitor"


def markdown(suite: Suite, scores: Sequence[Score]) -> str:
    """The leaderboard as Markdown.

    Parameters
    ----------
    suite : Suite
        What was restored.
    scores : sequence of Score
        In any order.

    Returns
    -------
    str
        Caption, table of competitors, table of oracles where there are any, and what a reader has to know.
    """
    columns = used(scores)
    parts = [f"# {suite.name}: {suite.title}", caption(suite, scores)]
    for title, rows in (("", competitors(scores)), (ORACLE_TITLE, oracles(scores))):
        if rows:
            parts += [f"## {title}"] * bool(title) + [_markdown_table(columns, rows)]
    notes = [f"- **{_escaped(s.restorer)}** {flag}." for s in _sorted(scores) for flag in s.flags]
    if notes:
        parts += ["## To know", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[Column], scores: Sequence[Score]) -> str:
    lines = [["restorer", *(c.title for c in columns)], ["---", *("---:" for _ in columns)]]
    lines += [[_escaped(s.restorer), *(c.text(s) for c in columns)] for s in scores]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(name: str) -> str:
    # A name is somebody else's text: it must neither end a cell nor become markup.
    for sign in "\\`*_|<>[]":
        name = name.replace(sign, "\\" + sign)
    return " ".join(name.split())


def plain(suite: Suite, scores: Sequence[Score], width: int = 100) -> str:
    """The leaderboard for a terminal of `width` characters; columns that do not fit are left out from the right."""
    columns = [(c.short, c.brief) for c in used(scores) if c.brief]
    lines = [f"{suite.name}  {suite.digest[:12]}  {len(suite):,} images; "
             f"100 = tuned {scores[0].reference if scores else 'reference'}, 0 = perfect"]
    cells = {s.restorer: [s.restorer[:_NAME], *(brief(s) for _, brief in columns)] for s in scores}
    wide = _widths([["restorer", *(short for short, _ in columns)], *cells.values()], width)
    for title, rows in (("", competitors(scores)), (ORACLE_TITLE, oracles(scores))):
        if rows:
            head = _line(["restorer", *(short for short, _ in columns)], wide)
            lines += ["", *([title] if title else []), head, *(_line(cells[s.restorer], wide) for s in rows)]
    notes = [textwrap.fill(f"{s.restorer}: {flag}", width, subsequent_indent="  ")
             for s in _sorted(scores) for flag in s.flags]
    return "\n".join(lines + [""] * bool(notes) + notes) + "\n"


def _widths(table: Sequence[Sequence[str]], width: int) -> list[int]:
    wide = [max(map(len, column)) for column in zip(*table, strict=True)]
    while sum(wide) + 2 * (len(wide) - 1) > width and len(wide) > 2:
        wide.pop()
    return wide


def _line(cells: Sequence[str], wide: Sequence[int]) -> str:
    kept = [f"{cell:>{w}}" for cell, w in zip(cells[1:], wide[1:], strict=False)]
    return "  ".join([f"{cells[0]:<{wide[0]}}", *kept]).rstrip()
