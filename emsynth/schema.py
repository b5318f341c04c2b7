"""The JSON schema of the recipe, for editors: descriptions, units, ranges and the names that a key may take."""

from __future__ import annotations

import json
from typing import Any

from emsynth.recipe import Recipe
from emsynth.specimen.table import drawable_names

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> str:
    """The schema as JSON text, one stable form for one version of emsynth."""
    schema = Recipe.model_json_schema()
    _walk(schema)
    structure = schema["$defs"]["Crystal"]["properties"]["structure"]
    _offer_names(structure, drawable_names())
    return json.dumps({"$schema": _DIALECT, "title": "emsynth recipe", **{k: v for k, v in schema.items() if k != "title"}},
                      indent=1, ensure_ascii=False) + "\n"


def _walk(node: Any) -> None:
    if isinstance(node, list):
        for part in node:
            _walk(part)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("low"), int | float) and isinstance(node.get("high"), int | float):
        _bound(node)
    # pydantic makes titles of the keys: noise in an editor's tooltip.
    if isinstance(node.get("title"), str):
        del node["title"]
    for part in list(node.values()):
        _walk(part)


def _bound(node: dict[str, Any]) -> None:
    """Turn our own `low` and `high` into what validators know."""
    low, high = node.pop("low"), node.pop("high")
    for plain in node.get("anyOf", [node]):
        if plain.get("type") in ("number", "integer"):
            plain |= {"minimum": low, "maximum": high}


def _offer_names(node: dict[str, Any], names: tuple[str, ...]) -> None:
    for plain in node["anyOf"]:
        if plain.get("type") == "string":
            plain["enum"] = list(names)
