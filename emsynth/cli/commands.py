"""The command line: thin verbs over the library; nothing heavy is loaded before a verb runs."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from emsynth import __version__
from emsynth.errors import EmsynthError, RecipeError, StoreError

if TYPE_CHECKING:
    from rich.console import Console

    from emsynth.budget import Budget
    from emsynth.passes import Outline
    from emsynth.recipe import Recipe

# `emsynth check` looks at fields for this long, and at this many at most.
_CHECK_SECONDS = 4.0
_CHECK_FIELDS = 16

FAILED, INTERRUPTED = 1, 130


class Verbs(TyperGroup):
    """The verbs; what goes wrong in one becomes a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. An unexpected error keeps its traceback: it is a bug, and must be seen."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except EmsynthError as error:
            for line in str(error).splitlines():
                _complain(line)
        except BrokenPipeError:
            # The reader, such as `head`, has gone: so that Python does not complain at its own end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt as stopped:
            _complain(str(stopped) or "stopped")
            raise typer.Exit(INTERRUPTED) from None
        except MemoryError:
            _complain("not enough memory; try fewer --workers, or a smaller image.size or box")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _complain(f"{error.filename or 'the disk'}: no space left; make room and go on with --resume")
        raise typer.Exit(FAILED)


def _complain(line: str) -> None:
    typer.echo(f"error: {line}", err=True)


app = typer.Typer(cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="A data set, such as datasets/stem_hd.zarr.")]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="KEY=VALUE", help="Change one value of the recipe; may be given several times.")]


def _flag(*names: str, about: str) -> Any:
    # The help of a flag should not say that it takes a <bool>.
    return typer.Option(*names, metavar=" ", help=about)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emsynth {__version__}")
        raise typer.Exit


@app.callback()
def emsynth(version: Annotated[bool, typer.Option("--version", metavar=" ", help="Show the version and exit.",
                                                  callback=_version, is_eager=True)] = False) -> None:
    """Simulated electron micrographs with the distortions of a real instrument: pairs of truth and distorted image."""


@app.command(epilog="Example: emsynth build stem_hd --set samples=64 --set fields=4 --out try.zarr")
def build(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="Where to; by default datasets/<name>.zarr.")] = None,
    settings: Settings = None,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes; by default one per core.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Let the workers of a Dask scheduler do it, "
                                                                          "e.g. of tcp://10.0.0.1:8786.")] = None,
    fields: Annotated[str | None, typer.Option(metavar="A:B", help="Simulate only fields A to B - 1; A: for all "
                                                                   "from A on.")] = None,
    shards: Annotated[str | None, typer.Option(metavar="A:B", help="Render only shards A to B - 1, and simulate the "
                                                                   "fields that they need.")] = None,
    resume: Annotated[bool, _flag("--resume", about="Go on with a data set that is there.")] = False,
    overwrite: Annotated[bool, _flag("--overwrite", about="Replace a data set that is there.")] = False,
    dry_run: Annotated[bool, _flag("--dry-run", about="Say what it would cost, and build nothing.")] = False,
    quiet: Annotated[bool, _flag("--quiet", "-q", about="No progress on stderr.")] = False,
) -> None:
    """Build a data set: simulate the fields of a recipe, and render its pairs of truth and distorted image."""
    if resume and overwrite:
        raise typer.BadParameter("give either --resume, to go on, or --overwrite, to begin again")
    if workers is not None and scheduler is not None:
        raise typer.BadParameter("give either --workers, for processes here, or --scheduler, for those of a cluster")
    from emsynth import builder
    from emsynth.cli.progress import Watch
    from emsynth.recipe import Recipe
    from emsynth.store.layout import field_count, shard_count

    read = Recipe.load(recipe, settings or [])
    count = shard_count(read.samples, read.store.shard)
    shown = field_count(read.samples, read.fields)
    of_fields = None if fields is None else builder.part_range(fields, shown, "--fields")
    of_shards = None if shards is None else builder.part_range(shards, count, "--shards")
    with Watch(_stderr(), quiet) as watch:
        if dry_run:
            cost = builder.plan(read, workers, of_fields, of_shards, watch, scheduler=scheduler)
        else:
            path = builder.build(read, out, workers, of_fields, of_shards, resume, overwrite, watch,
                                 scheduler=scheduler)
    if dry_run:
        _print_cost(cost, out or Path("datasets") / f"{read.name}.zarr")
    else:
        typer.echo(path)


def _print_cost(cost: Budget, out: Path) -> None:
    from emsynth.cli.progress import spoken_size, spoken_time

    splits = ", ".join(f"{name} {n:,}" for name, n in cost.splits.items())
    _print_pairs([
        ("would build", str(out)),
        ("pairs", f"{cost.samples:,} in {cost.shards:,} shards ({splits})"),
        ("fields", f"{cost.fields:,} of {cost.structures:,} structures, {cost.cached:,} in the cache"),
        ("time", f"about {spoken_time(cost.seconds)} with {cost.workers} workers"),
        ("disk", f"about {spoken_size(cost.bytes)}"),
        ("memory", f"about {cost.memory:.1f} GB for each worker"),
    ])


@app.command(epilog="Example: emsynth check stem_hd --set image.pixel_size=0.2")
def check(recipe: RecipeArgument, settings: Settings = None) -> None:
    """Show a recipe with its units and ranges, or every mistake in it as FILE:LINE: PATH: MESSAGE."""
    from emsynth.recipe import Recipe

    read = Recipe.load(recipe, settings or [])
    seen = _outlines(read, recipe, settings or [])
    _print_recipe(read)
    names = list(dict.fromkeys(o.structure for o in seen))
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    memory = max(o.memory for o in seen)
    own = [("images", _images(read, seen))] if seen[0].kind == "image" else []
    _print_pairs([
        *own,
        ("looked at", f"{len(seen)} of {read.fields:,} fields: {shown}"),
        ("windows", "fit into these fields"),
        ("memory", f"up to {memory:.2g} GB for one field"),
        ("digest", read.digest[:16]),
    ])


def _images(recipe: Recipe, seen: list[Outline]) -> str:
    from collections import Counter

    from emsynth.simulation.images import OwnImages

    there = len(recipe.simulate.files()) if isinstance(recipe.simulate, OwnImages) else 0
    sizes = Counter(o.shape for o in seen).most_common()
    shown = ", ".join(f"{count} of {rows} x {cols} px" for (rows, cols), count in sizes[:6])
    more = f" and {len(sizes) - 6} more sizes" if len(sizes) > 6 else ""
    return f"{there:,} in the folder, {recipe.fields:,} used; {shown}{more}"


def _outlines(recipe: Recipe, named: str, settings: list[str]) -> list[Outline]:
    """What some fields will be; the errors of all of them, where one cannot be."""
    import time

    from emsynth.document import placed
    from emsynth.passes import outline

    began, seen, wrong = time.monotonic(), list[Any](), dict[str, str]()
    for field in range(min(recipe.fields, _CHECK_FIELDS)):
        try:
            seen.append(outline(recipe, field))
        except EmsynthError as error:
            # The same mistake in another field, with other numbers, is not worth another line.
            said = placed(named, settings, str(error))
            wrong.setdefault(re.sub(r"\d+", "", str(error)), said if said != str(error) else f"field {field}: {said}")
        if time.monotonic() - began > _CHECK_SECONDS:
            break
    if wrong:
        raise RecipeError("\n".join(wrong.values()))
    return seen


def _print_recipe(recipe: Recipe) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from emsynth.preview.resolved import rows

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("allowed", style="dim", no_wrap=True)
    for row in rows(recipe):
        table.add_row(Text("  " * row.depth + row.key, style="bold" if row.part else ""), Text(row.value), row.allowed)
    _stdout().print(table)


@app.command(epilog="Example: emsynth preview stem_hd -n 4 --out sheet.html")
def preview(
    source: Annotated[str, typer.Argument(metavar="RECIPE|DATASET", help="A recipe, or a data set.")],
    count: Annotated[int, typer.Option("-n", min=1, max=24, metavar="N", help="Samples to show.")] = 6,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A .png or .html file; by default "
                                                                  "<name>-preview.png here.")] = None,
    settings: Settings = None,
) -> None:
    """Show a few samples: truth, distorted image, displacement and what was drawn; a recipe simulates some fields."""
    from emsynth import preview as show_samples
    from emsynth.recipe import Recipe

    console = _stderr()
    if Path(source).is_dir() or source.rstrip("/").endswith(".zarr"):
        if settings:
            raise typer.BadParameter("a data set cannot be changed; give --set with a recipe")
        target = out or Path(f"{Path(source).resolve().stem}-preview.png")
        typer.echo(show_samples.preview_dataset(source, target, count))
        return
    read = Recipe.load(source, settings or [])
    target = out or Path(f"{read.name}-preview.png")
    typer.echo(show_samples.preview_recipe(read, target, count, lambda line: console.print(line, markup=False)))


@app.command(epilog="Example: emsynth show datasets/stem_hd.zarr")
def show(dataset: DatasetArgument) -> None:
    """Show what is in a data set, from which recipe, by which physics, and how complete it is."""
    from emsynth import store

    _print_pairs(store.describe(dataset))


@app.command(epilog="Example: emsynth verify datasets/stem_hd.zarr")
def verify(dataset: DatasetArgument) -> None:
    """Compare every file of a data set with its checksum; name what is wrong and exit with 1."""
    from emsynth import store

    wrong = store.verify(dataset)
    if wrong:
        for line in wrong:
            typer.echo(f"{dataset}: {line}")
        raise StoreError(f"{dataset}: {len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} not as written; "
                         f"{store.ways_out(wrong)}")
    typer.echo(f"{dataset}: every checksum is right")


@app.command(epilog="Example: emsynth replay datasets/stem_hd.zarr 17")
def replay(dataset: DatasetArgument, index: Annotated[int, typer.Argument(min=0, help="Index of the sample.")]) -> None:
    """Render one sample of a data set again and compare; exit with 1 where it differs."""
    from emsynth import builder

    found = builder.replay(dataset, index)
    for difference in found.differences:
        typer.echo(difference)
    elsewhere = "".join(f"; {change}" for change in found.changed)
    if not found.same:
        raise StoreError(f"{dataset}: sample {index} does not come out again as it is kept{elsewhere}")
    exact = "bit for bit" if not found.differences else "within the tolerance that holds for another platform"
    typer.echo(f"{dataset}: sample {index} is the same, {exact}{elsewhere}")


@app.command(epilog="Example: emsynth schema > recipe.schema.json")
def schema(training: Annotated[bool, _flag("--training", about="Of training recipes, for emsynth train.")] = False,
           ) -> None:
    """Print the JSON schema of recipes, with which editors complete keys and show units and ranges."""
    from emsynth.cli.schema import recipe_schema, training_schema

    typer.echo(training_schema() if training else recipe_schema(), nl=False)


def _key(value: int | None) -> int | None:
    """A seed or an index, where it is one; checked before anything is computed."""
    if value is not None and value < 0:
        raise typer.BadParameter(f"{value} is too small: at least 0")
    if value is not None and value >= 2**63:
        raise typer.BadParameter(f"{value} is too large: below 2**63 ({2.0**63:g})")
    return value


@app.command(epilog="Example: emsynth distort clean.tif --recipe stem_hd --set distort.expected_counts=20")
def distort(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A clean image: .npy, .npz with one array, grey "
                                                                ".png or .tif.")],
    recipe: Annotated[str, typer.Option(metavar="RECIPE", help="A recipe file, or the name of a shipped one; its "
                                                               "'distort' section is used. A file with that section "
                                                               "or its keys alone will do.")],
    seed: Annotated[int | None, typer.Option(metavar="S", callback=_key, help="Seed; by default the recipe's, or "
                                                                              "0.")] = None,
    index: Annotated[int, typer.Option(metavar="I", callback=_key, help="Draw as for sample I.")] = 0,
    settings: Settings = None,
    sampling: Annotated[float | None, typer.Option(metavar="Å", help="Size of a pixel in Å, if known.")] = None,
    edge: Annotated[str, typer.Option(metavar="mirror|crop", help="Beyond the image, show its mirror and flag it; or "
                                                                  "crop, so that nothing is seen there.")] = "mirror",
    periodic: Annotated[bool, _flag("--periodic", about="The image tiles without end: wrap.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A .npz, .tif or .png file (.png: the distorted "
                                             "image, and the rest beside it as .npz); by default "
                                             "IMAGE-distorted.npz here.")] = None,
    overwrite: Annotated[bool, _flag("--overwrite", about="Replace a file that is there.")] = False,
) -> None:
    """Distort a clean image of your own as the instrument of a recipe would have done."""
    if edge not in ("mirror", "crop"):
        raise typer.BadParameter(f"--edge {edge}: give mirror or crop")
    from emsynth import imagery, retake

    target = out or Path(f"{image.stem}-distorted.npz")
    retake.check_outputs(target, overwrite, image)
    chain, own_seed = retake.load_chain(recipe, settings or [])
    clean = imagery.read_image(image)
    result = retake.distort(clean, chain, own_seed if seed is None else seed, index, sampling,
                            edge="crop" if edge == "crop" else "mirror", periodic=periodic)
    saved = result.save(target, overwrite)
    typer.echo(result.told, err=True)
    typer.echo(saved)


def _stdout() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _print_pairs(pairs: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in pairs:
        table.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    _stdout().print(table)


def main() -> None:
    """Entry point of the `emsynth` command."""
    app()
