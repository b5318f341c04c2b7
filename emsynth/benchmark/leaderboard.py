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
MARK = "†"  # in the row of a restorer that ignores the data
_WIDE = 10.0  # percent that an interval spans where decimals say nothing
_RETURNED = "sh./dop./vac."
# Headings of the plain text, in the order in which they go where there is no room; what unmasks a cheat stays longest.
_FIRST_TO_GO = ("SSIM", "s/Mpx", "pos/bound", "pos", "PSNR", "columns", "fail", _RETURNED)
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
    minor : bool
        Whether Markdown, where a row is one line, leaves it out; the report has it.
    """

    title: str
    short: str
    about: str
    text: Callable[[Score], str]
    value: Callable[[Score], float]
    brief: Callable[[Score], str] | None = None
    minor: bool = False


def figure(value: float, digits: int = 1) -> str:
    """A number with so many decimals; ``-`` of none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def figure_estimate(estimate: Estimate, digits: int = 1) -> str:
    """``62.1 (58.0-66.3)``."""
    if not estimate:
        return NOTHING
    if not math.isfinite(estimate.high):
        return figure(estimate.value, digits)
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
    return f"{figure(error)} / {figure(bound)}" if math.isfinite(bound) else NOTHING


def _unbounded(score: Score) -> float:
    """Mean position error where no image has a bound."""
    return math.nan if math.isfinite(score.bounded[1]) else score.means.get("column_error", math.nan)


def _time(score: Score) -> float:
    return score.means.get("time", math.nan)


def _brief_estimate(estimate: Estimate) -> str:
    """``59 (17-153)``, with a decimal where the interval is narrow."""
    wide = estimate.high - estimate.low
    if wide == 0:
        return figure(estimate.value, 0)
    return figure_estimate(estimate, 0 if wide >= _WIDE else 1)


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

    def text(score: Score) -> str:
        return figure_estimate(score.responses.get(kind, Estimate()), 2)

    def brief(score: Score) -> str:
        return _brief_responses(score)
    first = kind == next(iter(RESPONSES))
    return {"text": text, "value": value} | ({"brief": brief} if first else {})


COLUMNS = (
    Column("score", "score", "Error of the image relative to the reference's, percent, with its 95 % interval.",
           lambda s: figure_estimate(s.overall), lambda s: s.overall.value, lambda s: _brief_estimate(s.overall)),
    Column("column score", "columns", "Error of the column positions relative to the reference's, percent.",
           lambda s: figure_estimate(s.columns), lambda s: s.columns.value, lambda s: _brief_estimate(s.columns)),
    Column("against reference", "", "Better or worse where the interval of the score leaves 100 out, else even.",
           lambda s: s.verdict or NOTHING, lambda s: s.overall.value),
    Column("PSNR of the mean error [dB]", "PSNR", "Of the mean over images of the rms error over the truth's range. A "
           "mean of decibels would be ruled by the images that are next to undamaged.",
           lambda s: figure(s.psnr, 2), lambda s: s.psnr, lambda s: figure(s.psnr, 2)),
    Column("SSIM", "SSIM", "Structural similarity, mean over images.", **_digits("ssim", 3, True)),
    Column("position error / bound [pm], of images with a bound", "pos/bound", "Position error of the columns, beside "
           "its Cramér-Rao bound; both are means over the images that have a bound, and over no others.", _bounded,
           lambda s: s.bounded[0], _brief_bounded),
    Column("position error [pm], of all images", "pos", "Position error of the columns where no image has a bound; "
           "mean over all images with columns.", lambda s: figure(_unbounded(s)), _unbounded,
           lambda s: figure(_unbounded(s))),
    Column("shift returned", _RETURNED, "Recovered over true shift of a single column, and its 95 % interval "
           "over pairs of twins; 1 is right.", **_response("shift")),
    Column("dopant returned", "", "Recovered over true change of intensity of a single dopant; 1 is right.",
           **_response("dopant")),
    Column("vacancy returned", "", "Recovered over true loss of intensity to a missing atom; 1 is right.",
           **_response("vacancy")),
    Column("invented periodicity [%]", "", "Rms of the periodic part of the residual in vacuum and amorphous regions, "
           "percent of the truth's range, mean over the images that it did not fail on. A weak pattern in a strong "
           "residual is not detected: read it beside the residual of the same regions.",
           **_digits("false_structure", 2)),
    Column("empty residual [%]", "", "Rms of the whole residual in those regions, percent of the truth's range, mean "
           "over the images that it did not fail on.", **_digits("empty_residual", 2)),
    Column("bias [%]", "", "Size of the difference of the mean intensities, percent of the truth's, mean over the "
           "images that it did not fail on.", **_digits("mean_bias", 2)),
    Column("time [s/Mpx]", "s/Mpx", "Seconds per megapixel.", lambda s: significant(_time(s)), _time,
           lambda s: significant(_time(s))),
    Column("failed", "fail", "Images that the restorer failed on.", lambda s: str(s.failures),
           lambda s: float(s.failures), lambda s: str(s.failures)),
    Column("precision", "", "Share of the columns found that are there.", minor=True, **_digits("column_precision", 3)),
    Column("recall", "", "Share of the columns there that are found.", minor=True, **_digits("column_recall", 3)),
)


def caption(suite: Suite, scores: Sequence[Score]) -> str:
    """What the leaderboard is of, in a line: suite, digest, images, and what 100 stands for."""
    reference = scores[0].reference if scores else "reference"
    hundred = (f"Score: 100 is as good as the tuned {reference}, 0 is perfect, lower is better; in brackets"
               if reference else "No score: there is no reference. In brackets")
    return (f"{suite.name}, digest {suite.digest[:12]}, {len(suite):,} images: {len(suite.scenes)} scenes under "
            f"{len(suite.conditions)} conditions. {hundred} the 95 % interval over scenes. "
            "PSNR is that of the mean error: a mean of decibels is ruled by the images that are next to undamaged.")


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


def notices(scores: Sequence[Score]) -> list[tuple[Score, str, str]]:
    """What a reader has to know: of whom, the mark of the row that it belongs to, and the words."""
    return [(s, f"{MARK} " if flag == s.ignores else "", flag) for s in _sorted(scores) for flag in s.flags]


def marked(score: Score, name: str) -> str:
    """`name`, with a mark that leads to the words below where the restorer ignores the data."""
    return f"{name} {MARK}" if score.ignores else name


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
    columns = [c for c in used(scores) if not c.minor]
    parts = [f"# {suite.name}: {suite.title}", caption(suite, scores)]
    for title, rows in (("", competitors(scores)), (ORACLE_TITLE, oracles(scores))):
        if rows:
            parts += [f"## {title}"] * bool(title) + [_markdown_table(columns, rows)]
    notes = [f"- {mark}**{_escaped(s.restorer)}** {flag}." for s, mark, flag in notices(scores)]
    if notes:
        parts += ["## To know", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[Column], scores: Sequence[Score]) -> str:
    lines = [["restorer", *(c.title for c in columns)], ["---", *("---:" for _ in columns)]]
    lines += [[marked(s, _escaped(s.restorer)), *(c.text(s) for c in columns)] for s in scores]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(name: str) -> str:
    # A name is somebody else's text: it must neither end a cell nor become markup.
    for sign in "\\`*_|<>[]":
        name = name.replace(sign, "\\" + sign)
    return " ".join(name.split())


def plain(suite: Suite, scores: Sequence[Score], width: int = 100) -> str:
    """The leaderboard for a terminal of `width` characters; columns that do not fit are left out, and named below."""
    columns = [c for c in used(scores) if c.brief]
    names = {s.restorer: marked(s, _shortened(s.restorer)) for s in scores}
    kept = _fitting(columns, scores, width - max([len("restorer"), *map(len, names.values())]))
    head = ["restorer", *(c.short for c in kept)]
    cells = {s.restorer: [names[s.restorer], *(c.brief(s) for c in kept if c.brief)] for s in scores}
    wide = [max(map(len, column)) for column in zip(head, *cells.values(), strict=True)]
    lines = [textwrap.fill(_heading(suite, scores, head), width)]
    for title, rows in (("", competitors(scores)), (ORACLE_TITLE, oracles(scores))):
        if rows:
            lines += ["", *([title] if title else []), _line(head, wide)]
            lines += [_line(cells[s.restorer], wide) for s in rows]
    notes = [textwrap.fill(f"{mark}{s.restorer}: {flag}", width, subsequent_indent="  ")
             for s, mark, flag in notices(scores)]
    gone = ", ".join(c.short for c in columns if c not in kept)
    if gone:
        notes.append(textwrap.fill(f"left out for want of room: {gone}; all are in --out and --report", width))
    return "\n".join(lines + [""] * bool(notes) + notes) + "\n"


def _heading(suite: Suite, scores: Sequence[Score], head: Sequence[str]) -> str:
    reference = scores[0].reference if scores else "reference"
    said = [f"{suite.name}  {suite.digest[:12]}  {len(suite):,} images",
            f"100 = tuned {reference}, 0 = perfect, with 95 % interval" if reference else "no reference, so no score"]
    about = {"PSNR": "PSNR of the mean error", _RETURNED: f"{_RETURNED} = share of a shift, dopant, vacancy that is "
             "returned, 1 is right", "pos/bound": "pos/bound in pm, of the images with a bound"}
    return "; ".join([*said, *(words for short, words in about.items() if short in head)])


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else name[:_NAME - 1] + "…"


def _fitting(columns: Sequence[Column], scores: Sequence[Score], room: int) -> list[Column]:
    """Columns of the plain text that fit into so many characters beside the names."""
    wide = {c.short: 2 + max(len(c.short), *(len(c.brief(s)) for s in scores if c.brief)) for c in columns}
    gone: dict[str, int] = {}
    for short in _FIRST_TO_GO:
        if sum(wide.values()) > room and short in wide:
            gone[short] = wide.pop(short)
    # A broad column that went last may have left room for narrow ones that went before.
    for short in reversed(gone):
        if sum(wide.values()) + gone[short] <= room:
            wide[short] = gone[short]
    return [c for c in columns if c.short in wide]


def _line(cells: Sequence[str], wide: Sequence[int]) -> str:
    kept = [f"{cell:>{w}}" for cell, w in zip(cells[1:], wide[1:], strict=True)]
    return "  ".join([f"{cells[0]:<{wide[0]}}", *kept]).rstrip()
