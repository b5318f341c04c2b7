"""`emsynth train`: a training recipe in, a network out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsynth.cli.commands import Settings, _flag, _print_pairs, _stderr, app

TrainingArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A training recipe file, or the name of a "
                                                                        "shipped one.")]


@app.command(epilog="Example: emsynth train train_stem_hd --set hardware.accelerator=cuda --set data.workers=8")
def train(
    recipe: TrainingArgument,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Of the run; by default runs/<name>.")] = None,
    resume: Annotated[bool, _flag("--resume", about="Go on from the checkpoint in that folder; stages that have not "
                                                    "begun may have changed.")] = False,
    settings: Settings = None,
    dry_run: Annotated[bool, _flag("--dry-run", about="Say what would be trained, and train nothing.")] = False,
) -> None:
    """Train a restorer: fields are simulated where they are missing, and distorted afresh for every step.

    The folder holds recipe.yaml, metrics.csv, a picture of each validation, checkpoint.safetensors to go on from, and
    weights.safetensors for emsynth restore and emsynth bench. Ctrl-C saves a checkpoint and stops.
    """
    from emsynth.training.requirements import check_installed

    check_installed()
    from emsynth.training.recipe import TrainingRecipe

    read = TrainingRecipe.load(recipe, settings or [])
    if dry_run:
        from emsynth.training.outline import outline

        _print_pairs(outline(read))
        return
    from emsynth.cli.progress import Watch
    from emsynth.training.data import field_library
    from emsynth.training.folder import check_folder
    from emsynth.training.train import check_hardware, starting_network
    from emsynth.training.train import train as run

    folder = out or Path("runs") / read.name
    check_folder(folder, resume)
    check_hardware(read)
    if not resume:
        starting_network(read)
    try:
        # Before the training, which has a progress of its own, and before it starts other processes.
        with Watch(_stderr()) as watch:
            field_library(read, watch)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped while fields were simulated; those that are finished are kept: give the same "
                                "command again") from None
    typer.echo(run(read, folder, resume))
