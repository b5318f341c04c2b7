"""A recipe as rows for people: each key with its value or distribution, its unit and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from emsynth.draw import Choice, Deal, Distribution, Drawable, LogUniform, Normal, Uniform


@dataclass(frozen=True)
class Row:
    """One line of a resolved recipe.

    Attributes
    ----------
    depth : int
        How many parts it stands below the recipe.
    key : str
        Its key, or the name of a stage or detector in a list.
    value : str
        Number with unit, distribution, or nothing for a part that has rows of its own.
    allowed : str
        Range, or nothing.
    part : bool
        Whether it heads a part that has rows of its own.
    """

    depth: int
    key: str
    value: str
    allowed: str = ""
    part: bool = False


def rows(part: Drawable, depth: int = 0) -> Iterator[Row]:
    """Every value of a recipe, drawn or not, in the order of the document."""
    for name, value in _values(part):
        if isinstance(value, Drawable):
            yield Row(depth, name, _tag(value), part=True)
            yield from rows(value, depth + 1)
        elif isinstance(value, tuple) and value and isinstance(value[0], Drawable):
            yield Row(depth, name, "", part=True)
            yield from _listed(value, depth + 1)
        else:
            yield Row(depth, name, shown(value, _unit(part, name)), _allowed(part, name))


def shown(value: Any, unit: str = "") -> str:
    """A value or a distribution on one line, e.g. ``uniform 18 to 25 mrad``."""
    tail = f" {unit}" if unit else ""
    match value:
        case Uniform():
            return f"uniform {value.low:g} to {value.high:g}{tail}"
        case LogUniform():
            return f"log-uniform {value.low:g} to {value.high:g}{tail}"
        case Normal():
            low, high = value.support()
            return f"normal {value.mean:g} ± {value.sd:g}{tail}, within {low:g} to {high:g}"
        case Choice() | Deal():
            return _cards(value) + tail
        case None:
            return "not given"
    return _plain(value) + tail


def _cards(value: Choice | Deal) -> str:
    words = [_plain(v) for v in value.values]
    if isinstance(value, Choice) and value.weights is not None:
        whole = sum(value.weights)
        words = [f"{word} ({weight / whole:.0%})" for word, weight in zip(words, value.weights, strict=True)]
    if len(words) == 1:
        return words[0]
    return ("in turn " if isinstance(value, Deal) else "one of ") + ", ".join(words)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        if value and isinstance(value[0], str):
            return ", ".join(value)
        return "[" + " ".join(_plain(v) for v in value) + "]" if value else "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or "none"
    return str(value)


def _values(part: Drawable) -> Iterator[tuple[str, Any]]:
    # What stands in the heading of a part already, or behind its numbers.
    is_detector = "inner" in type(part).model_fields
    for name in type(part).model_fields:
        if name not in ("kind", "stage") and not (is_detector and name in ("name", "unit")):
            yield name, getattr(part, name)


def _tag(part: Drawable) -> str:
    return str(getattr(part, "kind", ""))


def _listed(parts: tuple[Drawable, ...], depth: int) -> Iterator[Row]:
    for number, part in enumerate(parts):
        title = getattr(part, "stage", None) or getattr(part, "name", None)
        yield Row(depth, str(title or number), _tag(part), part=True)
        yield from rows(part, depth + 1)


def _unit(part: Drawable, name: str) -> str:
    extra = type(part).model_fields[name].json_schema_extra
    unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
    if unit == "of `unit`":
        return "× convergence" if getattr(part, "unit", "") == "convergence" else str(getattr(part, "unit", ""))
    return "" if unit == "1" else unit


def _allowed(part: Drawable, name: str) -> str:
    field = type(part).model_fields[name]
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "low" in extra:
        return f"{extra['low']:g} to {extra['high']:g}"
    bounds = {kind: getattr(limit, kind) for limit in field.metadata for kind in ("ge", "gt", "le", "lt")
              if hasattr(limit, kind)}
    low = bounds.get("ge", bounds.get("gt"))
    high = bounds.get("le", bounds.get("lt"))
    if low is None or isinstance(getattr(part, name), Distribution | str):
        return ""
    above = "" if "ge" in bounds else "above "
    # A limit in the billions only says that there is enough room.
    return f"{above}{low:g} to {high:g}" if high is not None and high < 1e6 else f"{above}{low:g} up"
