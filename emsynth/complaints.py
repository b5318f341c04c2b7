"""What is wrong with a recipe, one line per mistake: the place, the value, what is allowed, the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from emsynth.document import Document, Step, entry

# What may stand at a place, for each way of not being that.
_SHAPES = {
    "float_type": "a number", "float_parsing": "a number", "int_type": "a whole number",
    "int_parsing": "a whole number", "int_from_float": "a whole number", "string_type": "a name",
    "tuple_type": "a list", "model_type": "a mapping of keys", "model_attributes_type": "a mapping of keys",
    "literal_error": "", "bool_type": "true or false", "bool_parsing": "true or false",
}
_LENGTHS = ("too_short", "too_long")
_NUMBERS, _WORDS = "{dist: uniform, low: 1, high: 2}", "{dist: choice, values: [...]}"
_EXAMPLES = {"specimen": "{kind: crystal, structure: Au}", "simulate": "{max_angle: 120}",
             "scan": "{stage: row_jitter}", "detector": "{stage: poisson}"}
_REQUIRED = ("name", "samples", "fields", "specimen")
_LIMITS = {"greater_than_equal": ("ge", "too small: at least"), "greater_than": ("gt", "too small: above"),
           "less_than_equal": ("le", "too large: at most"), "less_than": ("lt", "too large: below")}

Path = tuple[Step, ...]


def explain(error: ValidationError, document: Document) -> list[str]:
    """One line per mistake: ``file:line: path: message``.

    Parameters
    ----------
    error : pydantic.ValidationError
        What pydantic found.
    document : Document
        Where the values came from.

    Returns
    -------
    list of str
        In the order of the document; several complaints about one value become one.
    """
    found: dict[Path, list[Any]] = {}
    for item in error.errors():
        found.setdefault(_place(item, document), []).append(item)
    said: list[tuple[Path, str, Path]] = []
    for at, items in found.items():
        # "a mapping is not a number" says nothing where something in the mapping has its own complaint.
        if any(len(other) > len(at) and other[:len(at)] == at for other in found) and all(map(_about_shape, items)):
            continue
        where, message = _moved(at, _message(items, at), document)
        said.append((where, " ".join(message.split()), at))
    said.sort(key=lambda row: document.number(row[0]))
    return [document.line(at, message, part) for at, message, part in said]


def _place(item: Any, document: Document) -> Path:
    at = document.follow(item["loc"])
    if item["type"] == "unknown_key":
        return (*at, item["ctx"]["key"])
    if item["type"] == "missing" and isinstance(item["loc"][-1], str):
        return (*at, item["loc"][-1])
    return at


def _about_shape(item: Any) -> bool:
    return item["type"] in _SHAPES or item["type"] in _LENGTHS or _lacks_entries(item)


def _lacks_entries(item: Any) -> bool:
    return item["type"] == "missing" and isinstance(item["loc"][-1], int)


def _message(items: Sequence[Any], at: Path) -> str:
    # A union complains once for each member; the one whose tag or length was meant says it best.
    telling = [i for i in items if i["type"] not in _SHAPES and not _lacks_entries(i)]
    return _telling(telling[0], at) if telling else _shape(items, at)


def _telling(item: Any, at: Path) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    match kind:
        case "missing":
            return "is missing, and has no default"
        case "union_tag_invalid":
            return _unknown_tag(context)
        case "union_tag_not_found":
            return f"needs a key {context['discriminator']}, such as {_example(context['discriminator'], at)}"
        case "too_short":
            return f"{_shown(value)} has {context['actual_length']} entries; at least {context['min_length']} needed"
        case "too_long":
            return f"{_shown(value)} has {context['actual_length']} entries; at most {context['max_length']} allowed"
        case "string_pattern_mismatch":
            return f"{_shown(value)} is not a name: {_pattern(context['pattern'])}"
        case _ if kind in _LIMITS:
            limit, words = _LIMITS[kind]
            return f"{_shown(value)} is {words} {context[limit]:g}"
    said = str(item["msg"]).removeprefix("Value error, ")
    meant = said.removeprefix("Input should be ")
    return said if meant == said else f"{_shown(value)} is not {meant}"


def _unknown_tag(context: Any) -> str:
    return f"{context['discriminator'].strip(chr(39))} {_unknown(context['tag'], context['expected_tags'])}"


def _unknown(value: Any, expected: str) -> str:
    known = re.findall(r"'([^']+)'", expected)
    near = difflib.get_close_matches(str(value), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{_shown(value)} is unknown{hint} (allowed: {', '.join(known)})"


def _example(discriminator: str, at: Path) -> str:
    if "dist" in discriminator:
        return _NUMBERS
    named = [_EXAMPLES[step] for step in at if isinstance(step, str) and step in _EXAMPLES]
    return named[-1] if named else f"{{{discriminator.strip(chr(39))}: ...}}"


def _pattern(pattern: str) -> str:
    # All names in a recipe are of this form; they differ in their length and in whether a dot may be in them.
    longest = max((int(n) for n in re.findall(r"(\d+)\}", pattern)), default=0) + pattern.count("][")
    return f"letters, digits{', .' if '.' in pattern else ','} _ and - only, at most {longest} of them"


def _shape(items: Sequence[Any], at: Path) -> str:
    value = items[0]["input"]
    example = _NUMBERS if any(item["type"].startswith("float") for item in items) else _WORDS
    meant = list(dict.fromkeys(_meant(item, at, example) for item in items))
    allowed = ", ".join(meant[:-1]) + (" or " if len(meant) > 1 else "") + meant[-1]
    if value is None:
        return f"is empty; give {allowed}" + ("" if at[-1] in _REQUIRED else ", or remove the key")
    if [item["type"] for item in items] == ["literal_error"]:
        return _unknown(value, items[0]["ctx"]["expected"])
    if isinstance(value, dict) and "dist" in value and not any("{dist" in words for words in meant):
        return f"cannot be a distribution; give {allowed}"
    if meant == ["a list"] and isinstance(value, dict):
        return "is a mapping of keys, and a list is meant; begin each entry with '- '"
    if meant == ["a name"] and isinstance(value, int | float):
        return f"{value} is a number, and a name is meant; quote it: \"{value}\""
    return f"{_shown(value)} is not {allowed}"


def _meant(item: Any, at: Path, distribution: str) -> str:
    if _lacks_entries(item):
        return f"a list of {item['loc'][-1] + 1} entries"
    if item["type"] == "literal_error":
        return str(item["ctx"]["expected"]).replace(" or ", ", ")
    if item["type"] == "model_attributes_type":
        if str(item["loc"][-1]).startswith("tagged-union"):
            return f"a distribution such as {distribution}"
        return f"a mapping of keys such as {_example(chr(39) + 'kind' + chr(39), at)}"
    return _SHAPES[item["type"]]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = "a mapping of keys" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _moved(at: Path, message: str, document: Document) -> tuple[Path, str]:
    """A complaint of a whole part that begins with the key it is about belongs to that key."""
    found = re.match(r"([a-z_]+(?:\.[\w-]+)*): (.+)", message, re.DOTALL)
    node = document.node(at)
    if found is None or (at and not (isinstance(node, dict) and found[1].split(".")[0] in node)):
        return at, message
    steps = list(at)
    for name in found[1].split("."):
        step = entry(node, name)
        node = None if step is None else node[step]
        steps.append(name if step is None else step)
    return tuple(steps), found[2]
