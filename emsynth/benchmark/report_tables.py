"""Tables of the report as HTML: leaderboard, families, worst cases, failures, definitions, provenance."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from re import split
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from emsynth.benchmark.leaderboard import (
    MARK,
    NOTHING,
    ORACLE_TITLE,
    Column,
    competitors,
    figure,
    notices,
    oracles,
    used,
)
from emsynth.benchmark.reference import Reference
from emsynth.benchmark.report_images import Shown, worst
from emsynth.benchmark.score import Score
from emsynth.benchmark.suite import Suite

if TYPE_CHECKING:
    import pandas as pd

_FAILURES_NAMED = 50
_MOST_DRAWN = 250.0  # percent; one that is worse is off the scale, instead of pressing all others together
_LONG = 24  # characters of a heading that one word a line would make too high
_DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "one": "the nearer to 1"}


def text(value: object) -> str:
    """Anything as text of a page; a name from outside cannot become markup."""
    return html.escape(str(value))


def _cell(words: str, value: float | str = "", kind: str = "", tag: str = "td", inner: str | None = None) -> str:
    """A cell that is sorted by `value`, and shows `words`, or `inner` as markup."""
    key = "" if isinstance(value, float) and not math.isfinite(value) else text(value)
    return (f'<{tag}{f" class={kind!r}" if kind else ""}{" scope=row" if tag == "th" else ""} data-value="{key}">'
            f"{text(words) if inner is None else inner}</{tag}>")


def _name(restorer: str, mark: bool = False) -> str:
    """The cell that names a row; a long name breaks where its parts end, and `mark` leads to the words below."""
    inner = "<wbr>".join(text(part) for part in split(r"(?<=[_.:/])", restorer))
    flag = f' <a class="mark" href="#flags" title="ignores the data: see below">{MARK}</a>' if mark else ""
    return _cell(restorer, restorer, "sticky", "th", inner + flag)


def _table(head: Iterable[tuple[str, str]], rows: Iterable[str], kind: str = "sortable") -> str:
    """A table; `head` holds (title, classes of the cell) and `rows` whole rows."""
    first = "".join(f'<th scope="col"{f" class={style!r}" if style else ""}>{text(title)}</th>'
                    for title, style in head)
    body = "\n".join(rows)
    return ('<p class="hint" hidden>More columns to the right: scroll the table sideways →</p>'
            f'<div class="wide" tabindex="0"><table class="{kind}"><thead><tr>{first}</tr></thead>'
            f"<tbody>\n{body}\n</tbody></table></div>")


def leaderboard(scores: Sequence[Score]) -> str:
    """Competitors, oracles apart, and what a reader has to know of them."""
    columns = used(scores)
    near = [s.overall for s in scores if s.overall and s.overall.value <= _MOST_DRAWN]
    most = max([o.high for o in near if math.isfinite(o.high)], default=100.0 if any(s.overall for s in scores)
               else math.nan)
    parts = [_score_table(columns, competitors(scores), most)]
    if oracles(scores):
        parts += [f"<h3>{text(ORACLE_TITLE)}</h3>", _score_table(columns, oracles(scores), most)]
    flags = "".join(f"<li>{mark}<strong>{text(s.restorer)}</strong> {text(flag)}.</li>"
                    for s, mark, flag in notices(scores))
    return "".join(parts) + (f'<ul class="flags" id="flags">{flags}</ul>' if flags else "")


def _score_table(columns: Sequence[Column], scores: Sequence[Score], most: float) -> str:
    """`most` is the end of the longest interval; without one there is nothing to draw."""
    drawn = math.isfinite(most)
    span = min(1.05 * max(most, 105.0), _MOST_DRAWN)
    rows = (f'<tr{" class=reference" if s.restorer == s.reference else ""}>{_name(s.restorer, bool(s.ignores))}'
            + (_cell("", s.overall.value, "spread", inner=_interval(s, span)) if drawn else "")
            + "".join(_cell(c.text(s), c.value(s), inner=_stacked(c.text(s))) for c in columns) + "</tr>"
            for s in scores)
    head = [("restorer", "text sticky"), *[("score drawn; the line is the reference, 100", "text spread")] * drawn,
            *((c.title, "roomy" * (len(c.title) > _LONG) + "-very" * (len(c.title) > 1.5 * _LONG)) for c in columns)]
    return _table(head, rows)


def _stacked(words: str) -> str:
    """An interval stands below its figure: side by side they would make the table too wide."""
    value, bracket, interval = words.partition(" (")
    return text(value) + (f"<small>({text(interval)}</small>" if bracket else "")


def _interval(score: Score, span: float) -> str:
    """A score and its interval drawn on a line from 0 to `span`."""
    if not score.overall:
        return NOTHING
    if score.overall.value > span:
        return '<span class="beyond">off the scale →</span>'
    low, mid, high = (100 * min(v, span) / span for v in (score.overall.low, score.overall.value, score.overall.high))
    return (f'<span class="interval" aria-hidden="true" style="--one:{100 * 100 / span:.2f}%">'
            f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i><b style="left:{mid:.2f}%"></b></span>')


def families(suite: Suite, scores: Sequence[Score]) -> str:
    """Score of every restorer in every family; the best competitor of each in bold."""
    best = {f: min((s.families[f].value for s in competitors(scores) if f in s.families), default=math.nan)
            for f in suite.families}
    rows = []
    for score in (*competitors(scores), *oracles(scores)):
        values = {f: score.families[f].value if f in score.families else math.nan for f in suite.families}
        cells = (_cell(figure(v), v, "best" if v == best[f] and not score.oracle else "") for f, v in values.items())
        rows.append(f"<tr>{_name(score.restorer)}{''.join(cells)}</tr>")
    return _table([("restorer", "text sticky"), *((f.replace("_", " "), "") for f in suite.families)], rows)


def worst_cases(suite: Suite, table: pd.DataFrame, order: Sequence[str], against: Reference,
                linked: set[Shown]) -> str:
    """The worst images of every restorer; those in `linked` lead to their picture."""
    rows = []
    for restorer in order:
        for at in worst(suite, table, restorer, against):
            scene = suite.scenes[at.scene]
            where = f"{at.condition}, {scene.name}"
            link = text(f"#case={at.condition}/{at.scene}&restorer={quote(restorer, safe='')}")
            inner = f'<a href="{link}">{text(where)}</a>' if (at.condition, at.scene) in linked else None
            rows.append(f"<tr>{_name(restorer)}{_cell(where, where, 'text', inner=inner)}"
                        f"{_cell(scene.content, scene.content, 'text')}{_cell(figure(at.relative), at.relative)}"
                        f"{_cell(figure(at.psnr, 2), at.psnr)}</tr>")
    return _table([("restorer", "text sticky"), ("image", "text"), ("content", "text"), ("relative error [%]", ""),
                   ("PSNR [dB]", "")], rows)


def failures(table: pd.DataFrame) -> str:
    """Images that a restorer failed on, and why; nothing where there are none."""
    failed = table[table["status"] != "ok"].drop_duplicates(["restorer", "family", "severity", "scene"])
    if failed.empty:
        return ""
    named = failed.head(_FAILURES_NAMED)
    rows = (f'<tr>{_name(r)}{_cell(f"{f}-{s}, scene {n}", kind="text")}{_cell(str(status), kind="text")}'
            f'{_cell(str(message), kind="long")}</tr>' for r, f, s, n, status, message in
            zip(*(named[c] for c in ("restorer", "family", "severity", "scene", "status", "message")), strict=True))
    more = f"<p>And {len(failed) - len(named)} more.</p>" if len(failed) > len(named) else ""
    return "<h3>Failures</h3>" + _table([("restorer", "text sticky"), ("image", "text"), ("what", "text"),
                                         ("message", "text")], rows, "") + more


def definitions(scores: Sequence[Score]) -> str:
    """What the columns of the leaderboard and the metrics are."""
    from emsynth.benchmark.measures import METRICS

    rows = (f'<tr>{_name(m.name.replace("_", " "))}{_cell(m.unit or "1", kind="text")}'
            f'{_cell(_DIRECTIONS[m.direction], kind="text")}{_cell(f"{m.ceiling:g}")}{_cell(m.definition, kind="long")}'
            f'{_cell(m.applies, kind="text")}</tr>' for m in METRICS.values())
    columns = "".join(f"<dt>{text(c.title)}</dt><dd>{text(c.about)}</dd>" for c in used(scores))
    return f"<h3>Columns of the leaderboard</h3><dl>{columns}</dl><h3>Metrics</h3>" + _table(
        [("metric", "text sticky"), ("unit", "text"), ("direction", "text"), ("perfect", ""), ("definition", "text"),
         ("scenes", "text")], rows, "")


def provenance(suite: Suite, told: Mapping[str, Any]) -> str:
    """Suite, versions and whatever else a run says of itself."""
    facts = {"suite": suite.name, **suite.about, **told, "digest": suite.digest}
    rows = "".join(f"<dt>{text(key)}</dt><dd>{_fact(value)}</dd>" for key, value in facts.items())
    return f"<dl>{rows}</dl>"


def _fact(value: Any) -> str:
    match value:
        case dict():
            told = {k: v for k, v in value.items() if v not in ({}, [], "", None)}
            return ", ".join(f"{text(k)} <code>{_plain(v)}</code>" for k, v in told.items())
        case list() | tuple() if any(isinstance(one, dict) for one in value):
            return "<br>".join(_fact(one) for one in value)
        case _:
            return f"<code>{_plain(value)}</code>"


def _plain(value: Any) -> str:
    return text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
