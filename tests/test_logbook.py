"""The logbook: one table that reads as one training, however often it was cut off."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys

import pytest
from rich.console import Console

from emsynth.errors import TrainingError
from emsynth.training.logbook import Logbook


def book(folder, resume=None, **more):
    return Logbook(folder, resume, console=more.pop("console", Console(file=io.StringIO())), **more)


def write(log, *steps, **losses):
    for step in steps:
        log.trained(step=step, samples=8 * step, epoch=0, stage="pixel", lr=1e-3, losses=losses or {"loss": 1 / step},
                    samples_per_second=50.0, waiting=0.02)


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_training_reads_as_one(tmp_path):
    """Cut off beyond its checkpoint, in the middle of a row too, and gone on with: the table of one that never was."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with book(whole) as log:
        write(log, 1, 2, 3, 4)
        log.validated(step=4, samples=32, epoch=0, stage="pixel", figures={"psnr": 30.0})
    with book(cut) as log:
        write(log, 1, 2, 3)
    with (cut / "metrics.csv").open("a") as file:
        file.write("4,32,0,pix")
    with book(cut, 2) as log:
        write(log, 3, 4)
        log.validated(step=4, samples=32, epoch=0, stage="pixel", figures={"psnr": 30.0})
    assert (whole / "metrics.csv").read_bytes() == (cut / "metrics.csv").read_bytes()


def test_a_new_column_leaves_what_was_written(tmp_path):
    """A stage with more losses widens the table; the rows before are empty there, and the validation stands last."""
    with book(tmp_path) as log:
        write(log, 1, loss=2.0)
        log.validated(step=1, samples=8, epoch=0, stage="pixel", figures={"psnr": 30.0})
        write(log, 2, loss=1.5, adversarial=0.1)
    assert list(rows(tmp_path)[0]) == ["step", "samples", "epoch", "stage", "lr", "loss", "adversarial",
                                       "samples_per_second", "waiting", "val_psnr"]
    assert [(row["loss"], row["adversarial"], row["val_psnr"]) for row in rows(tmp_path)] == [
        ("2", "", ""), ("", "", "30"), ("1.5", "0.1", "")]


def test_a_row_is_on_the_disk_once_it_is_written(tmp_path):
    """A training that is killed has lost no row."""
    log = book(tmp_path)
    write(log, 1, 2)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]
    log.close()


def test_numbers_keep_single_precision(tmp_path):
    """Losses of two runs can be compared bit for bit."""
    import numpy as np

    value = float(np.float32(1 / 3))
    with book(tmp_path) as log:
        write(log, 1, loss=value)
    assert np.float32(rows(tmp_path)[0]["loss"]) == np.float32(value)


def test_metrics_of_another_training_are_not_touched(tmp_path):
    """A new run in an old folder is refused, and so is a file that is no table of metrics."""
    with book(tmp_path) as log:
        write(log, 1)
    with pytest.raises(TrainingError, match="another training"):
        book(tmp_path)
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrainingError, match="no table of metrics"):
        book(tmp_path, 1)


def test_other_ranks_write_nothing(tmp_path):
    """One process keeps the logbook."""
    with book(tmp_path / "run", rank=1) as log:
        write(log, 1)
        log.note("nothing")
        log.validated(step=1, samples=8, epoch=0, stage="pixel", figures={"psnr": 30.0})
    assert not (tmp_path / "run").exists()


def test_a_log_gets_plain_lines(tmp_path):
    """Step, stage, loss, speed, waiting, validation; not one line for every step."""
    held = io.StringIO()
    with book(tmp_path, steps=500, console=Console(file=held, width=300)) as log:
        write(log, 1, 2, 3, loss=0.25)
        log.validated(step=3, samples=24, epoch=0, stage="pixel", figures={"psnr": 30.0, "ssim": 0.9})
        write(log, 500, loss=0.125)
    first, validation, last = held.getvalue().splitlines()
    assert first.startswith("step 1/500: pixel, loss 0.25, 50 samples/s, waiting 2.0%, about ")
    assert validation == "validation at 3: 30.00 dB, SSIM 0.900"
    assert last == f"step 500/500: pixel, loss 0.125, 50 samples/s, waiting 2.0%, {validation}"


def test_a_terminal_gets_a_bar(tmp_path):
    """With the same in it; names of stages are no markup."""
    held = io.StringIO()
    with book(tmp_path, steps=500, console=Console(file=held, width=200, force_terminal=True)) as log:
        log.trained(step=250, samples=1, epoch=0, stage="[bold]", lr=1e-3, losses={"loss": 1.0}, samples_per_second=5,
                    waiting=0.0)
    assert "step 250/500" in held.getvalue()
    assert "[bold], loss 1, 5 samples/s" in held.getvalue()


def test_tensorboard_has_the_same_figures(tmp_path):
    """Losses and validation as scalars; what was beyond the checkpoint is purged."""
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with book(tmp_path, tensorboard=True) as log:
        write(log, 1, 2, 3)
    with book(tmp_path, 2, tensorboard=True) as log:
        write(log, 3, loss=9.0)
        log.validated(step=3, samples=24, epoch=0, stage="pixel", figures={"psnr": 30.0})
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(s.step, s.value) for s in found.Scalars("training/loss")] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert [s.value for s in found.Scalars("validation/psnr")] == [30.0]


def test_tensorboard_that_is_missing_is_named(tmp_path, monkeypatch):
    """With the way out."""
    if importlib.util.find_spec("torch"):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"pip install 'emsynth\[tensorboard\]'"):
        book(tmp_path, tensorboard=True)
