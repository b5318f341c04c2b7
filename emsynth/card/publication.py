"""What only the publisher knows of a data set, and a card made before remembers: title, creators, date, version."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from emsynth.errors import StoreError
from emsynth.store import manifest


@dataclass(frozen=True)
class Publication:
    """What the store of a data set does not say about it; whatever is not given is said to be missing.

    Attributes
    ----------
    title : str
        Name for people; by default the recipe's.
    creators : tuple of str
        Who made it.
    contact : str
        Where to write to about it.
    url : str
        Where it is, or will be, published.
    version : str
        ``MAJOR.MINOR.PATCH``.
    date : str
        Day of publication, ``YYYY-MM-DD``.
    """

    title: str = ""
    creators: tuple[str, ...] = ()
    contact: str = ""
    url: str = ""
    version: str = ""
    date: str = ""

    def completed(self, store: Path, earlier: Path) -> Self:
        """Fill in what is not given: from the card before, or version 1.0.0 and the day when the data were finished."""
        checked(self)
        kept = _remembered(earlier)
        missing = {name: value for name, value in kept.items() if value and not getattr(self, name)}
        filled = replace(self, **missing)
        return replace(filled, version=filled.version or "1.0.0", date=filled.date or _finished_on(store))


def checked(publication: Publication) -> None:
    """Raise StoreError where a date is none, or a version is not of three numbers."""
    try:
        good = not publication.date or datetime.date.fromisoformat(publication.date).isoformat() == publication.date
    except ValueError:
        good = False
    if not good:
        raise StoreError(f"--date {publication.date}: is not a day; give YYYY-MM-DD")
    if publication.url and not publication.url.startswith(("https://", "http://", "doi:")):
        raise StoreError(f"--url {publication.url}: is no address; give https://... or doi:...")
    numbers = publication.version.split(".")
    if publication.version and not (len(numbers) == 3 and all(n.isascii() and n.isdigit() for n in numbers)):
        raise StoreError(f"--version {publication.version}: is not MAJOR.MINOR.PATCH, such as 1.0.0")


def _remembered(card: Path) -> dict[str, Any]:
    try:
        held = json.loads(card.read_text())
        return {"title": str(held.get("alternateName", "")), "url": str(held.get("url", "")),
                "creators": tuple(str(one["name"]) for one in held.get("creator", ())),
                "contact": str(held.get("maintainer", {}).get("name", "")),
                "version": str(held["version"]), "date": str(held["datePublished"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _finished_on(store: Path) -> str:
    """The day when the last part was written, as the files' times say."""
    latest = max(part.stat().st_mtime for part in (store / manifest.FOLDER).glob("*-*.json"))
    return datetime.datetime.fromtimestamp(latest, datetime.UTC).date().isoformat()
