"""The logbook of a training: metrics.csv, TensorBoard where it is asked for, and a line that says how far it is."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from emsynth.errors import TrainingError
from emsynth.imagery import replacing

if TYPE_CHECKING:
    from rich.console import Console

FILE = "metrics.csv"
VALIDATION = "val_"
_FIRST = ("step", "samples", "epoch", "stage", "lr", "loss")
_LAST = ("samples_per_second", "waiting")
_EVERY = 10.0  # seconds between two plain lines

Value = float | int | str


class Logbook:
    """What a training writes down as it goes on; on ranks other than 0 nothing.

    Parameters
    ----------
    folder : path
        Of the run; ``metrics.csv`` lies in it, and TensorBoard's files under ``tensorboard``.
    resume_step : int, optional
        Step of the checkpoint that is gone on with: what was written down beyond it is dropped. None for a new run.
    steps : int
        At which the training ends, for the time that is left; 0 where that is not known.
    tensorboard : bool
        Write scalars for TensorBoard too.
    rank : int
        Of this process among those that train together.
    console : Console, optional
        Where the progress is shown; stderr where it is not given.

    Raises
    ------
    TrainingError
        There are metrics of another run, or of none that can be read; TensorBoard is asked for and not installed.
    StoreError
        The folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], resume_step: int | None = None, *, steps: int = 0,
                 tensorboard: bool = False, rank: int = 0, console: Console | None = None) -> None:
        self.path = Path(folder) / FILE
        self._silent = rank != 0
        if self._silent:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._table = _Table(self.path, resume_step)
        self._board = _board(Path(folder) / "tensorboard", resume_step) if tensorboard else None
        self._line = _Line(console, steps, resume_step or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def trained(self, *, step: int, samples: int, epoch: int, stage: str, lr: float, losses: Mapping[str, float],
                samples_per_second: float, waiting: float) -> None:
        """Write down a step, or the mean of the steps since the last that was.

        Parameters
        ----------
        step, samples, epoch : int
            Steps and samples since the training began, and its epoch.
        stage : str
            Name of the stage of the recipe.
        lr : float
            Learning rate.
        losses : mapping of str to float
            Parts of the loss by name, ``loss`` being what is descended.
        samples_per_second : float
            On all ranks together.
        waiting : float
            Share of the time in which the network waited for data, 0 to 1.
        """
        if self._silent:
            return
        row: dict[str, Value] = {"step": step, "samples": samples, "epoch": epoch, "stage": stage, "lr": lr, **losses,
                                 "samples_per_second": samples_per_second, "waiting": waiting}
        self._write(step, row)
        loss = losses.get("loss", next(iter(losses.values()), float("nan")))
        self._line.trained(step, f"{stage}, loss {loss:.4g}, {samples_per_second:.3g} samples/s, waiting "
                                 f"{waiting:.1%}")

    def validated(self, *, step: int, samples: int, epoch: int, stage: str, figures: Mapping[str, float]) -> None:
        """Write down a validation: `figures` by name, without ``val_``."""
        if self._silent:
            return
        self._write(step, {"step": step, "samples": samples, "epoch": epoch, "stage": stage,
                           **{f"{VALIDATION}{name}": value for name, value in figures.items()}})
        self._line.validated(step, figures)

    def note(self, message: str) -> None:
        """Tell the user something."""
        if not self._silent:
            self._line.note(message)

    def close(self) -> None:
        """Close the files and leave the terminal as it was."""
        if not self._silent:
            self._line.close()
            self._table.close()
            if self._board is not None:
                self._board.close()

    def _write(self, step: int, row: Mapping[str, Value]) -> None:
        self._table.add(row)
        if self._board is None:
            return
        for name, value in row.items():
            if name not in ("step", "stage"):
                group, bare = ("validation", name.removeprefix(VALIDATION)) if name.startswith(VALIDATION) else (
                    "training", name)
                self._board.add_scalar(f"{group}/{bare}", value, step)
        self._board.flush()


class _Table:
    """A CSV file to which rows are added, and columns where a row has new ones."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self.path, self._columns = path, list[str]()
        self._file: IO[str] | None = None
        if resume_step is None:
            if path.exists():
                raise TrainingError(f"{path}: holds the metrics of another training; go on with that one (--resume), "
                                    "or give another folder")
            return
        if path.exists():
            self._columns, rows = _read(path)
            self._rewrite([row for row in rows if int(row["step"]) <= resume_step])

    def add(self, row: Mapping[str, Value]) -> None:
        """Write a row so that a later crash does not lose it."""
        new = [name for name in row if name not in self._columns]
        if new:
            rows = _read(self.path)[1] if self._columns else []
            self._columns = _ordered([*self._columns, *new])
            self._rewrite(rows)
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8", newline="")
        self._file.write(_text([row], self._columns))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rewrite(self, rows: Iterable[Mapping[str, Value]]) -> None:
        self.close()
        with replacing(self.path) as file:
            file.write((_text([dict(zip(self._columns, self._columns, strict=True))], self._columns)
                        + _text(rows, self._columns)).encode())
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and whole rows; the row that was being written when the machine stopped is none."""
    text = path.read_text("utf-8", errors="replace")
    whole = text[:text.rfind("\n") + 1]
    found = csv.DictReader(io.StringIO(whole))
    columns = list(found.fieldnames or [])
    if "step" not in columns:
        raise TrainingError(f"{path}: is no table of metrics (it has no column 'step'); move it away")
    rows = [row for row in found if None not in row and None not in row.values() and row["step"].isdigit()]
    return columns, rows


def _text(rows: Iterable[Mapping[str, Value]], columns: list[str]) -> str:
    held = io.StringIO()
    # Nine digits tell any two numbers of single precision apart.
    csv.writer(held, lineterminator="\n").writerows(
        [f"{value:.9g}" if isinstance(value, float) else value for value in (row.get(name, "") for name in columns)]
        for row in rows)
    return held.getvalue()


def _ordered(names: Iterable[str]) -> list[str]:
    """The known ones first, then parts of the loss as they come, then speed and waiting, then the validation."""
    names = list(names)
    other = [n for n in names if n not in (*_FIRST, *_LAST) and not n.startswith(VALIDATION)]
    return ([n for n in _FIRST if n in names] + other + [n for n in _LAST if n in names]
            + [n for n in names if n.startswith(VALIDATION)])


def _board(folder: Path, resume_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError("tensorboard: is asked for and not installed; pip install 'emsynth[tensorboard]', or do "
                            "without: metrics.csv holds the same figures") from None
    return SummaryWriter(str(folder), purge_step=None if resume_step is None else resume_step + 1)


class _Line:
    """Progress on stderr: a bar on a terminal, now and then a line in a log."""

    def __init__(self, console: Console | None, steps: int, begun: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._console = console or Console(stderr=True)
        self._steps, self._begun, self._step, self._said = steps, begun, begun, float("-inf")
        self._began, self._validation = time.monotonic(), ""
        whole, cut = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis")
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=whole), BarColumn(14, table_column=whole),
            TextColumn("{task.fields[what]}", markup=False, table_column=cut),
            console=self._console) if self._console.is_terminal else None
        self._task = None if self._bar is None else self._bar.add_task("", total=steps or None, what="")
        if self._bar is not None:
            self._bar.start()

    def trained(self, step: int, what: str) -> None:
        """A step was written down."""
        self._step = step
        said = ", ".join(part for part in (what, self._validation, self._left()) if part)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description=self._place(), what=said)
        elif time.monotonic() - self._said > _EVERY or step == self._steps:
            self._said = time.monotonic()
            self.note(f"{self._place()}: {said}")

    def validated(self, step: int, figures: Mapping[str, float]) -> None:
        """A validation was written down."""
        shown = (("psnr", "{:.2f} dB"), ("ssim", "SSIM {:.3f}"), ("column_error", "columns {:.1f} pm"))
        self._validation = f"validation at {step:,}: " + ", ".join(
            form.format(figures[name]) for name, form in shown if np.isfinite(figures.get(name, np.nan)))
        if self._bar is None:
            self.note(self._validation)

    def note(self, message: str) -> None:
        """Say something by itself."""
        self._console.print(message, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _place(self) -> str:
        return f"step {self._step:,}" + (f"/{self._steps:,}" if self._steps else "")

    def _left(self) -> str:
        done, left = self._step - self._begun, self._steps - self._step
        if done <= 0 or left <= 0:
            return ""
        seconds = (time.monotonic() - self._began) * left / done
        return f"about {timedelta(seconds=round(seconds))} left"
