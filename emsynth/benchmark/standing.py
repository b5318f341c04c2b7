"""How the restorers of a run stand: their scores, against the reference of the suite or the run's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emsynth.benchmark.reference import Reference, reference, reference_of
from emsynth.benchmark.score import scores as scores
from emsynth.benchmark.suite import Suite
from emsynth.errors import SuiteError

if TYPE_CHECKING:
    import pandas as pd


def reference_for(suite: Suite, table: pd.DataFrame) -> Reference:
    """The reference that is kept for a suite; of a suite of your own, which has none, the same baseline in this run.

    Raises
    ------
    SuiteError
        Neither is there.
    """
    try:
        return reference(suite)
    except SuiteError as missing:
        try:
            return reference_of(suite, table)
        except SuiteError:
            raise missing from None


def reference_or_none(suite: Suite, table: pd.DataFrame) -> Reference | None:
    """What `reference_for` gives, or None where neither is there: `scores` then has no score, but all other figures."""
    try:
        return reference_for(suite, table)
    except SuiteError:
        return None
