"""The tidy table of a bench: one row for each image × condition × metric × restorer, as a frame, CSV or Parquet."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emsynth.benchmark.lanes import Entry
from emsynth.benchmark.suite import Suite
from emsynth.errors import StoreError, StoreExistsError
from emsynth.imagery import replacing

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("suite", "restorer", "family", "severity", "scene", "content", "metric", "value", "status", "message")
TIME = "time"  # s per megapixel; the only metric that is not the same in a second run
SUFFIXES = (".csv", ".parquet")
_TYPES = {"suite": "str", "restorer": "str", "family": "str", "severity": "int64", "scene": "int64", "content": "str",
          "metric": "str", "value": "float64", "status": "str", "message": "str"}


def check_out(out: Path) -> None:
    """Whether a table can be written there at all; asked before anything is restored.

    Raises
    ------
    StoreError
        The suffix, the folder or pyarrow is wrong or missing.
    """
    if out.suffix not in SUFFIXES:
        raise StoreError(f"{out}: a table is written as {' or '.join(SUFFIXES)}; end its name so")
    if out.is_dir():
        raise StoreError(f"{out}: is a folder; give the name of a file in it")
    if not out.parent.is_dir():
        raise StoreError(f"{out}: there is no folder {out.parent}; make it first")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise StoreError(f"{out}: Parquet needs pyarrow: pip install 'emsynth[parquet]', or write .csv")


def check_report(path: Path, replace: bool) -> None:
    """Whether a report can be written there; StoreError where not."""
    if path.suffix != ".html":
        raise StoreError(f"{path}: a report is written as .html; end its name so")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not replace:
        raise StoreExistsError(f"{path}: is already there; give --overwrite, or another --report")


def check_new(out: Path, record: Path, journal: Path) -> None:
    """StoreExistsError where there is a table, its record, or a part of one."""
    for there, what in ((out, "is already there"), (journal, "holds a bench that was not finished"),
                        (record, "is already there")):
        if there.exists():
            raise StoreExistsError(f"{there}: {what}; go on with --resume, begin again with --overwrite, or give "
                                   "another --out")


def frame(suite: Suite, entries: Iterable[Entry]) -> pd.DataFrame:
    """Entries as rows, in the order in which they come; the metrics of an image in the order of its measure."""
    import pandas as pd

    contents = {scene.index: scene.content for scene in suite.scenes}
    area = math.prod(suite.shape) / 1e6
    rows = []
    for entry in entries:
        at = suite.condition(entry.condition)
        where = (suite.name, entry.restorer, at.family, at.severity, entry.scene, contents[entry.scene])
        told = (entry.status, entry.message)
        rows += [(*where, name, value, *told) for name, value in entry.values.items()]
        rows.append((*where, TIME, entry.seconds / area, *told))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(_TYPES)


def entries_of(suite: Suite, table: pd.DataFrame) -> list[Entry]:
    """The entries that `frame` made the table of."""
    area = math.prod(suite.shape) / 1e6
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    row: Any
    for row in table.itertuples(index=False):
        made = found.setdefault((row.restorer, f"{row.family}-{row.severity}", int(row.scene)), {
            "status": row.status, "message": row.message, "seconds": math.nan, "values": {}})
        if row.metric == TIME:
            made["seconds"] = float(row.value) * area
        else:
            made["values"][row.metric] = float(row.value)
    return [Entry(*key, **made) for key, made in found.items()]


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write a table as its suffix says; a file that is there is replaced once the new one is whole."""
    check_out(out)
    with replacing(out) as file:
        if out.suffix == ".parquet":
            table.to_parquet(file, index=False)
        else:
            file.write(table.to_csv(index=False, lineterminator="\n").encode())


def read_table(path: Path) -> pd.DataFrame:
    """A table as it was written, bit for bit.

    Raises
    ------
    StoreError
        It is not the table of a bench.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            # Python reads back the number that it wrote; how pandas reads one depends on its version.
            table = pd.read_csv(path, dtype="str", keep_default_na=False)
            table["value"] = [float(value or "nan") for value in table["value"]]
        return table[list(COLUMNS)].astype(_TYPES)
    except (KeyError, ValueError, OSError) as reason:
        raise StoreError(f"{path}: is not the table of a bench ({' '.join(str(reason).split())}); give another "
                         "file") from None
