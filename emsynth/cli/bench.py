"""The verb that judges restorers: bench."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emsynth.cli.commands import _flag, _stderr, app
from emsynth.errors import RestorerError, SuiteError

if TYPE_CHECKING:
    import pandas as pd

    from emsynth.benchmark.suite import Suite
    from emsynth.cli.progress import Watch


@app.command(epilog="Example: emsynth bench stem_hd_v1 --restorer gaussian --restorer my_package.denoise:restore "
                    "--out mine.csv --report mine.html")
def bench(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite, such as stem_hd_v1, or the file of one.")],
    restorers: Annotated[list[str] | None, typer.Option(
        "--restorer", metavar="NAME|FILE|MODULE:FUNCTION",
        help="A baseline by name, a network's file, or a function image -> image of your own; OTHER=... gives it "
             "another name in the table. May be given several times. By default identity and gaussian.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the table, as .csv or .parquet, and where it "
                                             "comes from beside it as FILE.json. By default neither is kept.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Images restored at the same time; by default "
                                                                         "one per core. No figure depends on it but "
                                                                         "the time.")] = None,
    resume: Annotated[bool, _flag("--resume", about="Go on with the table at --out, finished or not; restorers may be "
                                                    "added.")] = False,
    overwrite: Annotated[bool, _flag("--overwrite", about="Replace the table and the report.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Most time for an image. After 3 images in a row of "
                                           "one condition that took longer, the rest of it counts as if it had, too; "
                                           "after 9 that took longer or crashed, the rest of the "
                                           "suite.")] = 60.0,
    memory: Annotated[float, typer.Option(metavar="GB", help="Most memory for a restorer beyond what it has "
                                          "when loaded; 0 for no limit, which CUDA needs.")] = 4.0,
    oracle: Annotated[bool, _flag("--oracle", about="Also tune each baseline on the truth of each image: a bound, "
                                                    "shown apart.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a report with curves, worst cases and "
                                                                          "images, in one file.")] = None,
    families: Annotated[str | None, typer.Option(metavar="A,B", help="Only these families of distortions; there is no "
                                                                     "score then.")] = None,
    severities: Annotated[str | None, typer.Option(metavar="1,3", help="Only these severities; there is no score "
                                                                       "then.")] = None,
    quiet: Annotated[bool, _flag("--quiet", "-q", about="No progress on stderr.")] = False,
) -> None:
    """Judge restorers on a frozen suite and print the leaderboard; one that fails or hangs loses that image only."""
    if resume and overwrite:
        raise typer.BadParameter("give either --resume, to go on, or --overwrite, to begin again")
    if resume and out is None:
        raise typer.BadParameter("--resume goes on with a table; give --out, too")
    if not 0 < timeout < math.inf:
        raise typer.BadParameter(f"--timeout {timeout:g}: give a number of seconds above 0")
    if not 0 <= memory < math.inf:
        raise typer.BadParameter(f"--memory {memory:g}: give a number of GB, or 0 for no limit")
    levels = None if severities is None else _levels(severities)
    kinds = None if families is None else [name.strip() for name in families.split(",") if name.strip()]
    from emsynth.benchmark import shipped
    from emsynth.benchmark.bench import DEFAULT, run
    from emsynth.builder.workers import usable_cores
    from emsynth.cli.progress import Watch

    loaded = shipped.load(suite)
    with Watch(_stderr(), quiet) as watch:
        try:
            made = run(loaded, restorers or DEFAULT, workers=workers or usable_cores(), out=out, resume=resume,
                       overwrite=overwrite, timeout=timeout, memory=memory, families=kinds, severities=levels,
                       oracle=oracle, report=report, progress=watch)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; go on with --resume --out {out}" if out else "stopped") from None
        for path in (out, report):
            if path is not None:
                watch.note(f"written: {path}")
        _print_leaderboard(loaded, made, watch)
    if not (made["status"] == "ok").any():
        raise RestorerError("no image of any restorer succeeded; what went wrong is said above")


def _levels(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--severities {text}: give whole numbers, such as 1,3") from None


def _print_leaderboard(suite: Suite, table: pd.DataFrame, watch: Watch) -> None:
    import shutil
    import sys

    from emsynth.benchmark import leaderboard
    from emsynth.benchmark.standing import reference_for, scores

    try:
        against = reference_for(suite, table)
    except SuiteError as missing:
        watch.note(f"no score: {missing}")
        against = None
    found = scores(suite, table, against)
    wide = shutil.get_terminal_size().columns
    shown = leaderboard.plain(suite, found, wide) if sys.stdout.isatty() else leaderboard.markdown(suite, found)
    typer.echo(shown, nl=False)
