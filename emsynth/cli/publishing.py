"""The verbs for those who give a data set or a network to others, and for those who take one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsynth.cli.commands import DatasetArgument, _flag, _print_pairs, _stderr, app
from emsynth.errors import NetworkError, StoreExistsError


@app.command(epilog="Example: emsynth card datasets/stem_hd.zarr --creator 'M. Curie'")
def card(
    dataset: DatasetArgument,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to; by default into the data set.")] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Name for people.")] = "",
    creator: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Who made it; may be given several "
                                                                          "times.")] = None,
    contact: Annotated[str, typer.Option(metavar="TEXT", help="Who keeps it, or where to write to.")] = "",
    url: Annotated[str, typer.Option(metavar="URL", help="Where it is published.")] = "",
    version: Annotated[str, typer.Option(metavar="X.Y.Z", help="Version; 1.0.0 if never given.")] = "",
    date: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="Day of publication; the day when it was finished if "
                                                                 "never given.")] = "",
) -> None:
    """Write what a finished data set is and what to cite: README, Croissant metadata, table of samples, pictures."""
    from emsynth.card import Publication, write_card

    typer.echo(write_card(dataset, out, Publication(title, tuple(creator or ()), contact, url, version, date)))


@app.command(epilog="Example: emsynth export datasets/stem_hd.zarr --to hdf5 --out s.h5")
def export(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET|MODEL", help="A data set, such as datasets/stem_hd.zarr; "
                                            "or a shipped network or a file of weights, for onnx.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="webdataset (a folder of tar files), hdf5 (one file), or "
                                                           "zip (the store itself in one file); onnx for a network.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder or file to write.")],
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Only train, val or test.")] = None,
    overwrite: Annotated[bool, _flag("--overwrite", about="Replace an export that is there.")] = False,
    quiet: Annotated[bool, _flag("--quiet", "-q", about="No progress on stderr.")] = False,
) -> None:
    """Write a finished data set in a format that other loaders read, or a network for other programs."""
    if to == "onnx":
        if split:
            raise typer.BadParameter("--split is for data sets, and --to onnx for networks")
        _export_network(str(dataset), out, overwrite)
        return
    from emsynth.cli.progress import Watch
    from emsynth.export import export as write

    with Watch(_stderr(), quiet) as watch:
        typer.echo(write(dataset, to, out, split, overwrite, watch))


@app.command(epilog="Example: emsynth datasets lattices_mini")
def datasets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Fetch this one and print where it "
                                                                      "is.")] = None,
    entry: Annotated[Path | None, typer.Option(metavar="DATASET", help="Print the entry that the registry needs for "
                                                                       "this finished data set.")] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="With --entry: what it is.")] = "",
    where: Annotated[list[str] | None, typer.Option(metavar="URL", help="With --entry: where its zip archive is, or "
                                                                       "'shipped'.")] = None,
    citation: Annotated[str, typer.Option(metavar="TEXT", help="With --entry: how to cite it.")] = "",
) -> None:
    """List the published data sets, or fetch one of them into the cache (EMSYNTH_CACHE) and check it."""
    from emsynth import registry

    if entry is not None:
        places = tuple(where or ())
        made = registry.entry_of(entry, title, "shipped" if places == ("shipped",) else places, citation)
        typer.echo(made.model_dump_json(indent=1))
    elif name is not None:
        typer.echo(registry.fetch(name, lambda line: typer.echo(line, err=True)))
    else:
        _print_registry()


def _export_network(model: str, out: Path, overwrite: bool) -> None:
    from emsynth.restoration.shipped import shipped

    try:
        from emsynth.networks.onnx import export_onnx
        from emsynth.networks.weights import load_weights
    except ModuleNotFoundError as missing:
        raise NetworkError(f"--to onnx needs {missing.name}, which is not installed; pip install "
                           "'emsynth[train,onnx]'") from missing
    if out.exists() and not overwrite:
        raise StoreExistsError(f"{out}: is already there; give another --out, or --overwrite to replace it")
    network, about = load_weights(shipped().get(model, Path(model)))
    difference = export_onnx(out, network, about)
    typer.echo(out)
    typer.echo(f"equal to the network within {difference:.1g} of the range", err=True)


def _print_registry() -> None:
    from emsynth import registry
    from emsynth.cli.progress import spoken_size

    found = registry.entries()
    if not found:
        typer.echo("no data set is published yet", err=True)
    for one in found:
        there = registry.place(one)
        source = "shipped" if one.where == "shipped" else one.where[0]
        _print_pairs([("name", one.name), ("what", one.title), ("pairs", f"{one.pairs:,}"),
                      ("size", spoken_size(one.bytes)), ("licence", one.licence), ("where", source),
                      ("here", str(there) if there else f"no; emsynth datasets {one.name} fetches it")])
        typer.echo()
