"""YAML documents with line numbers: reading, overriding, and errors that say file, line, path and way out."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
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
            value = _load(text, f"--set {setting}", {})
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
        return list(self._resolve(self.content, (), below, "file", _unreadable))

    def resolve_folders(self, *below: Step) -> list[str]:
        """As `resolve_files`, each ``folder:``."""
        return list(self._resolve(self.content, (), below, "folder", _no_folder))

    def _resolve(self, node: Any, at: tuple[Step, ...], below: tuple[Step, ...], named: str,
                 wrong: Callable[[str], str | None]) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == named and at[:len(below)] == below:
                    base = Path.cwd() if self._setting((*at, key)) else self.path.parent
                    node[key] = _absolute(value, base)
                    yield from (self.line((*at, key), said) for said in map(wrong, _files(node[key])) if said)
                else:
                    yield from self._resolve(value, (*at, key), below, named, wrong)
        elif isinstance(node, list):
            for number, value in enumerate(node):
                yield from self._resolve(value, (*at, number), below, named, wrong)

    def _setting(self, at: tuple[Step, ...]) -> str | None:
        for length in range(len(at), 0, -1):
            if at[:length] in self.overridden:
                return self.overridden[at[:length]]
        return None

    def _setting_within(self, part: tuple[Step, ...], message: str) -> str | None:
        """The ``--set`` inside a part that a message about the whole part may be owed to."""
        inside = [at for at in self.overridden if at[:len(part)] == part]
        # "'ADF' is not a detector of the microscope" speaks of microscope.detectors, in the singular.
        spoken = [at for at in inside
                  if all(step.removesuffix("s") in message for step in at[:2] if isinstance(step, str))]
        # Everything is inside the whole recipe, which says nothing of the cause.
        blamed = spoken or (inside if part else [])
        return self.overridden[blamed[-1]] if blamed else None

    def place(self, at: tuple[Step, ...], message: str = "", part: tuple[Step, ...] | None = None) -> str:
        """Where a path of keys stands: ``file:line``, or the ``--set`` that gave it, or something of it.

        Parameters
        ----------
        at : tuple
            Path of keys.
        message : str
            What is said about it.
        part : tuple, optional
            The part that the message is about, where that is more than what stands at `at`.
        """
        setting = self._setting(at)
        if setting is not None:
            return f"--set {setting}"
        place = f"{self.path}:{self.number(at)}"
        within = self._setting_within(at if part is None else part, message)
        return place if within is None else f"--set {within} ({place})"

    def number(self, at: tuple[Step, ...]) -> int:
        """Line of a path of keys, or of the part that it would stand in."""
        return next((self.lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in self.lines), 1)

    def line(self, at: tuple[Step, ...], message: str, part: tuple[Step, ...] | None = None) -> str:
        """``place: path: message`` of a path of keys; see `place`."""
        return f"{self.place(at, message, part)}: {'.'.join(map(str, at)) or 'recipe'}: {message}"

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


def placed(path_or_name: str | os.PathLike[str], overrides: Sequence[str], complaint: str) -> str:
    """A complaint ``path: message`` of what came of a recipe, with its file and line, or ``--set``, before it.

    As it is, where it does not begin with a key of a recipe.
    """
    key, colon, message = complaint.partition(": ")
    if not colon or not re.fullmatch(r"(image|simulate|specimen|microscope|distort|fields)(\.\w+)*", key):
        return complaint
    document = read(find(path_or_name))
    for override in overrides:
        document.override(override)
    return document.line(tuple(key.split(".")), message)


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
    lines: dict[tuple[Step, ...], int] = {}
    try:
        content = _load(text, f"{path}:1", lines)
    except MarkedYAMLError as error:
        raise RecipeError(_not_yaml(path, error)) from None
    except YAMLError as error:
        raise RecipeError(f"{path}:1: not valid YAML: {str(error).splitlines()[0]}") from None
    if content is None:
        raise RecipeError(f"{path}:1: the file is empty; a recipe has at least name, samples, fields and specimen")
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


# A recipe has some hundred values, at most eight levels deep. Aliases of aliases make billions of a few lines.
_MOST_VALUES, _MOST_LEVELS = 100_000, 50


def _load(text: str, place: str, lines: dict[tuple[Step, ...], int]) -> Any:
    """Plain values of YAML text, and the line of each; YAMLError or RecipeError where it cannot be that."""
    try:
        return _plain(YAML(typ="rt").load(text), (), lines)
    except RecursionError:
        raise RecipeError(f"{place}: nested too deep; a recipe has at most {_MOST_LEVELS} levels") from None
    except OverflowError as reason:
        raise RecipeError(f"{place}: {reason}") from None
    except ValueError as reason:
        # Of a date or a number that YAML takes for one and Python does not.
        raise RecipeError(f"{place}: not valid YAML: {' '.join(str(reason).split())}") from None


def _plain(node: Any, at: tuple[Step, ...], lines: dict[tuple[Step, ...], int]) -> Any:
    """Plain dict, list, str, int, float, bool, None of a ruamel node; notes the line of each path."""
    if len(at) > _MOST_LEVELS:
        raise RecursionError
    if len(lines) > _MOST_VALUES:
        raise OverflowError(f"holds more than {_MOST_VALUES} values; look for aliases (*name) of aliases")
    if isinstance(node, dict):
        for key in node:
            lines[(*at, str(key))] = _line(node, key, lines.get(at, 1))
        return {str(key): _plain(value, (*at, str(key)), lines) for key, value in node.items()}
    if isinstance(node, list):
        for number in range(len(node)):
            lines[(*at, number)] = cast(Any, node).lc.item(number)[0] + 1
        return [_plain(value, (*at, number), lines) for number, value in enumerate(node)]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node if node is None else str(node)


def _line(node: Any, key: Any, otherwise: int) -> int:
    """Line of a key of a ruamel mapping; `otherwise` of one that a merge (``<<: *name``) brought."""
    try:
        return int(node.lc.key(key)[0]) + 1
    except (AttributeError, KeyError, TypeError):
        return otherwise


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


def _unreadable(name: str) -> str | None:
    """What is wrong with the name of a structure file; None where nothing is."""
    if not name:
        return "is empty; give the path of a structure file, or remove the key"
    if os.path.isdir(name):
        return f"{name}: is a folder; give a structure file in it"
    if os.path.isfile(name):
        return None
    return f"{name}: no such file; a path is relative to the recipe, with --set to the working directory"


def _no_folder(name: str) -> str | None:
    """What is wrong with the name of a folder; None where nothing is."""
    if not name:
        return "is empty; give the path of a folder"
    if os.path.isfile(name):
        return f"{name}: is a file; give the folder that it is in"
    if os.path.isdir(name):
        return None
    return f"{name}: no such folder; a path is relative to the recipe, with --set to the working directory"


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, str):
        return str((base / os.path.expanduser(value)).resolve()) if value else value
    if isinstance(value, dict) and isinstance(value.get("values"), list):
        return {**value, "values": [_absolute(v, base) for v in value["values"]]}
    return value
