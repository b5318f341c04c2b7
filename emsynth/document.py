"""YAML documents with line numbers: reading, overriding, and errors that say file, line, path and way out."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

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
            raise RecipeError(f"--set {setting}: {text!r} is not YAML; quote it, e.g. "
                              f"--set \"{key}='{text}'\"") from None
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

    def resolve_files(self, *below: Step) -> list[str]:
        """Make each ``file:`` below a key absolute: relative to the recipe, or to here where ``--set`` gave it.

        Returns
        -------
        list of str
            One complaint for each file that is not there.
        """
        return list(self._resolve(self.content, (), below))

    def _resolve(self, node: Any, at: tuple[Step, ...], below: tuple[Step, ...]) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "file" and at[:len(below)] == below:
                    base = Path.cwd() if self._setting((*at, key)) else self.path.parent
                    node[key] = _absolute(value, base)
                    for name in _files(node[key]):
                        if not Path(name).is_file():
                            yield self.line((*at, key), f"{name}: no such file; a path is relative to the recipe, "
                                                        f"with --set to the working directory")
                else:
                    yield from self._resolve(value, (*at, key), below)
        elif isinstance(node, list):
            for number, value in enumerate(node):
                yield from self._resolve(value, (*at, number), below)

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
        return f"{self.path}:{self.number(at)}"

    def number(self, at: tuple[Step, ...]) -> int:
        """Line of a path of keys, or of the part that it would stand in."""
        return next((self.lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in self.lines), 1)

    def line(self, at: tuple[Step, ...], message: str) -> str:
        """``place: path: message`` of a path of keys."""
        return f"{self.place(at)}: {'.'.join(map(str, at)) or 'recipe'}: {message}"

    def node(self, at: tuple[Step, ...]) -> Any:
        """What stands at a path of keys that the document has; None where it has not."""
        node: Any = self.content
        for step in at:
            inside = (isinstance(node, dict) and step in node) or (isinstance(node, list) and isinstance(step, int))
            node = node[step] if inside else None
        return node

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
        raise RecipeError(_not_yaml(path, error)) from None
    except YAMLError as error:
        raise RecipeError(f"{path}:1: not valid YAML: {str(error).splitlines()[0]}") from None
    if loaded is None:
        raise RecipeError(f"{path}:1: the file is empty; a recipe has at least name, samples, fields and specimen")
    lines: dict[tuple[Step, ...], int] = {}
    content = _plain(loaded, (), lines)
    if not isinstance(content, dict):
        what = "a list" if isinstance(content, list) else f"the single value {content!r}"
        raise RecipeError(f"{path}:1: a recipe is a mapping of keys such as `name: stem_hd`, and this is {what}")
    return Document(path, content, lines)


_YAML_HINTS = {
    "cannot start any token": "YAML is indented with spaces, never with tabs",
    "mapping values are not allowed": "look for a missing colon in the line above, or a wrong indentation",
    "another document": "a recipe is one document; remove the line ---",
    "undefined alias": "quote a value that begins with *",
    "could not find expected ':'": "a key is followed by a colon and a space",
    "did not find expected": "look for a wrong indentation, or a bracket that is not closed",
    "expected <block end>": "look for a wrong indentation in the lines above",
}


def _not_yaml(path: Path, error: MarkedYAMLError) -> str:
    mark, start = error.problem_mark or error.context_mark, error.context_mark
    said = " ".join(str(error.problem or error.context).split())
    hint = next((f"; {text}" for words, text in _YAML_HINTS.items() if words in said), "")
    if start is not None and mark is not None and start.line < mark.line and "flow" in str(error.context):
        hint = f"; a bracket that is opened in line {start.line + 1} is not closed"
    return f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {said}{hint}"


def _plain(node: Any, at: tuple[Step, ...], lines: dict[tuple[Step, ...], int]) -> Any:
    """Plain dict, list, str, int, float, bool, None of a ruamel node; notes the line of each path."""
    if isinstance(node, dict):
        for key in node:
            lines[(*at, str(key))] = node.lc.key(key)[0] + 1 if hasattr(node, "lc") else 1
        return {str(key): _plain(value, (*at, str(key)), lines) for key, value in node.items()}
    if isinstance(node, list):
        for number in range(len(node)):
            lines[(*at, number)] = cast(Any, node).lc.item(number)[0] + 1
        return [_plain(value, (*at, number), lines) for number, value in enumerate(node)]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node if node is None else str(node)


def entry(node: Any, step: str) -> Step | None:
    """Key or list index that a step of a dotted key means: an index, or the stage or name of an entry; None if none."""
    if isinstance(node, dict):
        return step if step in node else None
    if isinstance(node, list):
        for n, value in enumerate(node):
            if isinstance(value, dict) and step in (value.get("stage"), value.get("name")):
                return n
        return int(step) if step.isdigit() and int(step) < len(node) else None
    return None


def _entry(node: Any, step: str, setting: str) -> Step:
    """As `entry`, of a setting, which may add a key."""
    found = entry(node, step)
    if found is not None or isinstance(node, dict):
        return step if found is None else found
    if isinstance(node, list):
        names = [str((isinstance(e, dict) and (e.get("stage") or e.get("name"))) or n) for n, e in enumerate(node)]
        raise RecipeError(f"--set {setting}: {step!r} is none of the entries there; give one of {', '.join(names)}, or "
                          f"a number from 0 to {len(node) - 1}")
    raise RecipeError(f"--set {setting}: {step!r} stands below a plain value, which has no keys; leave it out")


def _files(value: Any) -> list[str]:
    names = value.get("values") if isinstance(value, dict) else [value]
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, str):
        return str((base / value).resolve())
    if isinstance(value, dict) and isinstance(value.get("values"), list):
        return {**value, "values": [_absolute(v, base) for v in value["values"]]}
    return value
