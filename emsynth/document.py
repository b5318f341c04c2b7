"""YAML documents with line numbers: reading, overriding, and errors that say file, line, path and way out."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from emsynth.errors import RecipeError

Step = str | int


@dataclass
class Document:
    """A YAML document as plain values, with the place of each.

    Attributes
    ----------
    path : Path
        The file.
    content : dict
        Plain values.
    lines : dict
        Line number, from 1, of each path of keys.
    overridden : dict
        Text of the ``--set`` that gave a path its value.
    """

    path: Path
    content: dict[str, Any]
    lines: dict[tuple[Step, ...], int]
    overridden: dict[tuple[Step, ...], str] = field(default_factory=dict)

    def override(self, setting: str) -> None:
        """Apply one ``KEY=VALUE``: a dotted key, list entries by number or by their ``stage``; a value in YAML.

        Raises
        ------
        RecipeError
            Where the setting is not of that form, or leads through something that has no keys.
        """
        key, equals, text = setting.partition("=")
        steps = key.strip().split(".")
        if not equals or not all(steps):
            raise RecipeError(f"--set {setting}: not of the form KEY=VALUE, e.g. --set samples=64 or --set "
                              f"image.pixel_size=0.2")
        try:
            value = _plain(YAML(typ="rt").load(text), (), {})
        except YAMLError:
            raise RecipeError(f"--set {setting}: {text!r} is not YAML; quote it, e.g. --set \"{key}='{text}'\"") from None
        node: Any = self.content
        path: list[Step] = []
        for step in steps[:-1]:
            at = _entry(node, step, setting)
            if isinstance(node, dict):
                node.setdefault(at, {})
            node = node[at]
            path.append(at)
        last = _entry(node, steps[-1], setting)
        node[last] = value
        self.overridden[(*path, last)] = setting

    def resolve_files(self, *below: Step) -> None:
        """Make each ``file:`` below a key absolute: relative to the recipe, or to here where ``--set`` gave it."""
        self._resolve(self.content, (), below)

    def _resolve(self, node: Any, at: tuple[Step, ...], below: tuple[Step, ...]) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "file" and at[:len(below)] == below:
                    base = Path.cwd() if self._setting((*at, key)) else self.path.parent
                    node[key] = _absolute(value, base)
                else:
                    self._resolve(value, (*at, key), below)
        elif isinstance(node, list):
            for number, value in enumerate(node):
                self._resolve(value, (*at, number), below)

    def _setting(self, at: tuple[Step, ...]) -> str | None:
        for length in range(len(at), 0, -1):
            if at[:length] in self.overridden:
                return self.overridden[at[:length]]
        return None

    def place(self, at: tuple[Step, ...]) -> str:
        """Where a path of keys stands: ``file:line``, or the ``--set`` that gave it."""
        setting = self._setting(at)
        if setting is not None:
            return f"--set {setting}"
        for length in range(len(at), 0, -1):
            if at[:length] in self.lines:
                return f"{self.path}:{self.lines[at[:length]]}"
        return f"{self.path}:1"

    def follow(self, loc: tuple[Step, ...]) -> tuple[Step, ...]:
        """The document's own path of a pydantic location, which also names the members of unions."""
        node: Any = self.content
        at: list[Step] = []
        for step in loc:
            inside = (isinstance(node, dict) and step in node) or (
                isinstance(node, list) and isinstance(step, int) and step < len(node))
            if inside:
                node = node[step]
                at.append(step)
        return tuple(at)


def find(path_or_name: str | os.PathLike[str]) -> Path:
    """File of a recipe: a path as it is, or the name of a shipped recipe.

    Raises
    ------
    RecipeError
        Where there is neither.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    shipped = {file.stem: file for folder in shipped_folders() for file in sorted(folder.glob("*.yaml"))}
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder, not a recipe")
    near = difflib.get_close_matches(path.stem, shipped, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise RecipeError(f"{path}: no such file, and no shipped recipe has that name{hint} (shipped: "
                      f"{', '.join(shipped) or 'none'})")


def shipped_folders() -> list[Path]:
    """Where recipes are shipped: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return [folder for folder in (here / "recipes", here.parent / "recipes") if folder.is_dir()]


def read(path: Path) -> Document:
    """Read one YAML 1.2 document.

    Raises
    ------
    RecipeError
        Where the file cannot be read, is not YAML, is empty, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        said = getattr(reason, "strerror", None) or "not UTF-8 text"
        raise RecipeError(f"{path}: cannot be read: {said}") from None
    try:
        loaded = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise RecipeError(f"{path}:1: not valid YAML: {str(error).splitlines()[0]}") from None
    if loaded is None:
        raise RecipeError(f"{path}:1: the file is empty; a recipe has at least name, samples, fields and specimen")
    lines: dict[tuple[Step, ...], int] = {}
    content = _plain(loaded, (), lines)
    if not isinstance(content, dict):
        raise RecipeError(f"{path}:1: a recipe is a mapping of keys, not a {type(content).__name__}")
    return Document(path, content, lines)


def _plain(node: Any, at: tuple[Step, ...], lines: dict[tuple[Step, ...], int]) -> Any:
    """Plain dict, list, str, int, float, bool, None of a ruamel node; notes the line of each path."""
    if isinstance(node, dict):
        for key in node:
            lines[(*at, key)] = node.lc.key(key)[0] + 1 if hasattr(node, "lc") else 1
        return {str(key): _plain(value, (*at, key), lines) for key, value in node.items()}
    if isinstance(node, list):
        for number in range(len(node)):
            lines[(*at, number)] = node.lc.item(number)[0] + 1
        return [_plain(value, (*at, number), lines) for number, value in enumerate(node)]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node if node is None else str(node)


def _entry(node: Any, step: str, setting: str) -> Step:
    """Key or list index that a step of a dotted key means."""
    if isinstance(node, dict):
        return step
    if isinstance(node, list):
        named = [n for n, value in enumerate(node) if isinstance(value, dict)
                 and step in (value.get("stage"), value.get("name"))]
        if named:
            return named[0]
        if step.isdigit() and int(step) < len(node):
            return int(step)
        raise RecipeError(f"--set {setting}: {step!r} is none of the {len(node)} entries there; give a number below "
                          f"{len(node)}, or the stage or name of an entry that the recipe has")
    raise RecipeError(f"--set {setting}: {step!r} stands below a plain value, which has no keys")


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, str):
        return str((base / value).resolve())
    if isinstance(value, dict) and isinstance(value.get("values"), list):
        return {**value, "values": [_absolute(v, base) for v in value["values"]]}
    return value


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
    found: dict[tuple[Step, ...], str] = {}
    for item in error.errors():
        at = document.follow(item["loc"])
        if item["type"] in ("missing", "unknown_key"):
            at = (*at, item["ctx"]["key"] if item["type"] == "unknown_key" else str(item["loc"][-1]))
        message = _message(item, at)
        # A union complains once per member: the member whose tag was meant says it best.
        if at not in found or _rank(item) > _rank_of(found[at]):
            found[at] = message
    # "a mapping is not a number" says nothing where the mapping has its own complaint.
    found = {at: message for at, message in found.items()
             if not (" is not " in message and any(len(other) > len(at) and other[:len(at)] == at for other in found))}
    rows = [(document.place(at), ".".join(map(str, at)) or "recipe", message) for at, message in found.items()]
    return [f"{place}: {path}: {message}" for place, path, message in rows]


_NUMBER = "a number, or a distribution such as {dist: uniform, low: 1, high: 2}"


def _rank(item: Any) -> int:
    return 0 if item["type"].endswith(("_type", "_parsing")) else 1


def _rank_of(message: str) -> int:
    return 0 if " is not " in message else 1


def _message(item: Any, at: tuple[Step, ...]) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "missing":
        return "is missing, and has no default"
    if kind == "unknown_key":
        return str(item["msg"])
    if kind == "union_tag_invalid":
        tags = re.findall(r"'([^']+)'", context["expected_tags"])
        near = difflib.get_close_matches(str(context["tag"]), tags, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{context['discriminator'].strip(chr(39))} {context['tag']!r} is unknown{hint} (allowed: {', '.join(tags)})"
    if kind == "union_tag_not_found":
        return f"needs a key {context['discriminator']} that says what it is"
    if kind.startswith("float") or kind == "model_attributes_type" and not isinstance(value, dict):
        return f"{value!r} is not {_NUMBER}"
    said = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "value_error":
        return said
    return f"{value!r} is not allowed here; it should be {said}"
