"""The JSON schemas of recipes, for editors: descriptions, units, ranges and the names that a key may take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from emsynth.recipe import Recipe
from emsynth.specimen.amorphous import MATERIALS
from emsynth.specimen.layer import layer_names
from emsynth.specimen.table import drawable_names, structure

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SHARED = {5: "Distribution", 2: "Choosing"}  # the unions of distributions that stand at nearly every key, by length


def recipe_schema() -> str:
    """The schema as JSON text, one stable form for one version of emsynth."""
    schema = Recipe.model_json_schema()
    shared: dict[str, Any] = {}
    schema = _readable(schema, shared)
    schema["$defs"] = dict(sorted((schema["$defs"] | shared).items()))
    names_of = drawable_names()
    solids = [name for name in names_of if not structure(name).layer]
    for kind, key, names in (("Crystal", "structure", names_of), ("Defects", "structure", names_of),
                             ("Boundary", "structure", names_of), ("Edge", "structure", names_of),
                             ("Nanoparticle", "structure", solids), ("Layer", "structure", layer_names()),
                             ("Amorphous", "material", MATERIALS)):
        _offer_names(schema["$defs"][kind]["properties"][key], names)
    whole = {"$schema": _DIALECT, "title": "emsynth recipe", **schema}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def training_schema() -> str:
    """As `recipe_schema`, of training recipes."""
    from emsynth.training.recipe import TrainingRecipe

    shared: dict[str, Any] = {}
    schema = _readable(TrainingRecipe.model_json_schema(by_alias=True), shared)
    schema["$defs"] = dict(sorted((schema["$defs"] | shared).items()))
    whole = {"$schema": _DIALECT, "title": "emsynth training recipe", **schema}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _readable(node: Any, shared: dict[str, Any]) -> Any:
    """What pydantic says, as validators and editors understand it."""
    if isinstance(node, list):
        return [_readable(part, shared) for part in node]
    if not isinstance(node, dict):
        return node
    # Titles made of the keys are noise in a tooltip; `discriminator` is OpenAPI's, not JSON schema's.
    made = {key: _readable(value, shared) for key, value in node.items()
            if not (key == "title" and isinstance(value, str)) and key != "discriminator"}
    if isinstance(made.get("low"), int | float) and isinstance(made.get("high"), int | float):
        _bound(made, made.pop("low"), made.pop("high"))
    if isinstance(made.get("properties"), dict):
        _require_tags(made)
    tag = node.get("discriminator")
    return _share(made, shared) if isinstance(tag, dict) and tag.get("propertyName") == "dist" else made


def _share(union: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    name = _SHARED[len(union["oneOf"])]
    shared[name] = {"oneOf": union["oneOf"]}
    return {**{key: value for key, value in union.items() if key != "oneOf"}, "$ref": f"#/$defs/{name}"}


def _bound(node: dict[str, Any], low: float, high: float) -> None:
    for plain in node.get("anyOf", [node]):
        if plain.get("type") in ("number", "integer"):
            plain |= {"minimum": low, "maximum": high}


def _require_tags(part: dict[str, Any]) -> None:
    """The tag that says what a part is cannot be left out, though it has a default in Python."""
    tags = [name for name, value in part["properties"].items() if isinstance(value, dict) and "const" in value]
    for tag in tags:
        part["properties"][tag].pop("default", None)
    if tags:
        part["required"] = [*tags, *part.get("required", [])]


def _offer_names(node: dict[str, Any], names: Iterable[str]) -> None:
    for plain in node["anyOf"]:
        if plain.get("type") == "string":
            plain["enum"] = list(names)
