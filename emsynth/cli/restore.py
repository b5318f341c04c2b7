"""The verb that restores micrographs: restore."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emsynth import __version__
from emsynth.cli.commands import FAILED, _complain, _flag, _stderr, app
from emsynth.errors import EmsynthError, RestorerError, StoreError, StoreExistsError

if TYPE_CHECKING:
    from emsynth.cli.progress import Watch
    from emsynth.restoration.micrograph import Micrograph
    from emsynth.restoration.protocol import Restorer

_DTYPES = ("float32", "same")


@dataclass(frozen=True)
class _Wishes:
    """What was asked for, for each of the images."""

    model: str
    restorer: Restorer
    digest: str | None
    tile: int | None
    dtype: str
    dataset: int | None
    frames: str | None
    picture: bool
    overwrite: bool


@app.command(epilog="Example: emsynth restore stem_hd *.dm3 --out restored --picture")
def restore(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A shipped network, a .safetensors or .onnx file, or a "
                                                               "function image -> image as module:function.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="DM3, DM4, SER, EMD or MRC files, which need "
                                                 "the extra io; grey TIFF, PNG or NPY.")],
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="A folder, or for one image a .tif, .npy or .emd "
                                             "file; by default NAME-restored.tif beside each image.")] = None,
    tile: Annotated[int | None, typer.Option(metavar="N", help="Side of the tiles, px, even; a smaller one takes less "
                                             "memory. By default what suits the network.")] = None,
    picture: Annotated[bool, _flag("--picture", about="Also draw before, restored and residual as a PNG beside the "
                                                      "output.")] = False,
    dtype: Annotated[str, typer.Option(metavar="|".join(_DTYPES), help="float32, or the same as the image: whole "
                                                                       "numbers are then rounded.")] = "float32",
    frames: Annotated[str | None, typer.Option(metavar="A:B", help="Of a stack, only frames A to B - 1, from 0; or "
                                                                   "only one, as A.")] = None,
    dataset: Annotated[int | None, typer.Option(metavar="N", help="Of a file that holds several datasets, the one with "
                                                "this number, from 0; by default the first that is an image.")] = None,
    overwrite: Annotated[bool, _flag("--overwrite", about="Replace files that are there; never the image "
                                                          "itself.")] = False,
    quiet: Annotated[bool, _flag("--quiet", "-q", about="No progress on stderr.")] = False,
) -> None:
    """Restore micrographs; each is written as a new file that keeps pixel size and metadata."""
    if dtype not in _DTYPES:
        raise typer.BadParameter(f"--dtype {dtype}: give float32 or same")
    _parsed(frames)
    from emsynth.cli.progress import Watch
    from emsynth.restoration.micrograph_writing import target_for

    wishes = _Wishes(model, *_loaded(model, tile), tile, dtype, dataset, frames, picture, overwrite)
    targets = [target_for(image, out, len(images) > 1) for image in images]
    failed, written = 0, dict[Path, Path]()
    with Watch(_stderr(), quiet) as watch:
        watch.begin("restore", len(images))
        for image, target in zip(images, targets, strict=True):
            try:
                if target in written:
                    raise StoreExistsError(f"{image}: would be written to {target}, as {written[target]} was; restore "
                                           "it by itself, with --out FILE")
                for path in _restore_one(image, target, wishes, watch, quiet):
                    typer.echo(path)
                written[target] = image
            except EmsynthError as error:
                failed += 1
                _complain(" ".join(str(error).splitlines()))
            watch.step(1, image.name)
    if failed:
        if len(images) > 1:
            _complain(f"{failed} of {len(images)} images were not restored; why is said above")
        raise typer.Exit(FAILED)


def _parsed(frames: str | None) -> slice | int | None:
    """``3`` as a number, ``A:B`` with either left out as a slice."""
    if frames is None:
        return None
    first, colon, last = frames.partition(":")
    try:
        if not colon:
            return int(first)
        return slice(int(first) if first else None, int(last) if last else None)
    except ValueError:
        raise typer.BadParameter(f"--frames {frames}: give A:B, such as 0:10, or one number") from None


def _loaded(model: str, tile: int | None) -> tuple[Restorer, str | None]:
    """The restorer, and the SHA-256 of the file of its weights where it has one."""
    from emsynth.restoration.finding import find
    from emsynth.restoration.protocol import Baseline
    from emsynth.restoration.tiling import Tiles

    found = find(model)
    if isinstance(found, Baseline):
        raise RestorerError(f"{model}: is a baseline, which has to be tuned on images whose truth is known ("
                            "emsynth bench does that); give a shipped network, a .safetensors or .onnx file, or "
                            "module:function")
    if tile is not None:
        Tiles(tile, 0)
    weights = Path(getattr(found, "path", None) or model)
    return found, hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def _restore_one(image: Path, target: Path, wishes: _Wishes, watch: Watch, quiet: bool) -> list[Path]:
    """Restore one file; what was written."""
    from emsynth.restoration.micrograph_reading import read_micrograph
    from emsynth.restoration.micrograph_writing import check_target, write_micrograph
    from emsynth.restoration.picture import Residual, draw_restoration

    began = time.monotonic()
    drawn = target.with_suffix(".png")
    check_target(target, image, wishes.overwrite)
    if wishes.picture:
        _check_picture(drawn, image, wishes.overwrite)
    read = read_micrograph(image, wishes.dataset)
    if read.choice:
        watch.note(f"{image}: {read.choice}; --dataset N takes another")
    taken = _frames_of(read, wishes.frames)
    for hint in _hints(taken, wishes):
        watch.note(f"{image}: {hint}")
    restored = _restored(taken, wishes)
    written = [write_micrograph(target, replace(taken, image=restored), _made(taken, wishes), wishes.overwrite)]
    if not quiet:
        watch.note(f"{image}: {taken}; taken away: {Residual.of(taken.image, restored)}; "
                   f"{time.monotonic() - began:.1f} s")
    if wishes.picture:
        middle = () if restored.ndim == 2 else (len(restored) // 2,)
        title = f"{image.name}, {wishes.model}" + (f", frame {middle[0]} of 0 to {len(restored) - 1}" if middle else "")
        written.append(draw_restoration(drawn, taken.image[middle], restored[middle], taken.pixel_size, title))
    return written


def _check_picture(drawn: Path, image: Path, overwrite: bool) -> None:
    if drawn.is_dir() or (drawn.exists() and image.exists() and drawn.samefile(image)):
        raise StoreError(f"{drawn}: is {'a folder' if drawn.is_dir() else 'the image itself'}, and the picture would "
                         "have its name; give another --out")
    if drawn.exists() and not overwrite:
        raise StoreExistsError(f"{drawn}: is already there; give another name, or allow it to be replaced "
                               "(--overwrite)")


def _frames_of(read: Micrograph, wanted: str | None) -> Micrograph:
    chosen = _parsed(wanted)
    if chosen is None:
        return read
    if read.image.ndim == 2:
        raise StoreError(f"{read.source}: is one image, which has no --frames {wanted}; leave that out")
    count = len(read.image)
    empty = not -count <= chosen < count if isinstance(chosen, int) else read.image[chosen].size == 0
    if empty:
        raise StoreError(f"{read.source}: has frames 0 to {count - 1}; --frames {wanted} is none of them")
    return replace(read, image=read.image[chosen])


def _hints(read: Micrograph, wishes: _Wishes) -> list[str]:
    """What speaks against trusting this network with this image."""
    trained, size = getattr(wishes.restorer, "about", {}).get("pixel_size"), read.pixel_size
    if size is not None and "1/" in size.unit:
        return [f"has pixels of {size}, so it is a diffraction pattern; networks of emsynth were trained on images"]
    if not (isinstance(trained, list | tuple) and len(trained) == 2):
        return []
    known = None if size is None else size.angstrom
    if known is None:
        return [f"does not say how large its pixels are; {wishes.model} was trained on {trained[0]:g}-{trained[1]:g} Å"]
    if min(known) < 0.99 * trained[0] or max(known) > 1.01 * trained[1]:
        finer = "bin it before" if min(known) < trained[0] else "record it with smaller pixels"
        return [f"pixels of {size} are outside {trained[0]:g}-{trained[1]:g} Å, on which {wishes.model} was "
                f"trained; it is restored as it is, but trust it less, or {finer}"]
    return []


def _restored(read: Micrograph, wishes: _Wishes) -> Any:
    import numpy as np

    from emsynth.restoration.finding import Imported
    from emsynth.restoration.restoring import restore as restore_array

    try:
        restored = restore_array(read.image, wishes.restorer, tile=wishes.tile,
                                 dtype="same" if wishes.dtype == "same" else None)
    except EmsynthError as error:
        raise RestorerError(f"{read.source}: {error}") from None
    except MemoryError:
        raise RestorerError(f"{read.source}: not enough memory for {read}; give a smaller --tile, or fewer --frames"
                            ) from None
    except Exception as error:
        # A network that needs too much; or the user's own function.
        if isinstance(error, RuntimeError) and "allocate" in str(error):
            raise RestorerError(f"{read.source}: not enough memory for {read}; give a smaller --tile") from error
        if not isinstance(wishes.restorer, Imported):
            raise
        raise RestorerError(f"{read.source}: {wishes.model} failed: {type(error).__name__}: {error}") from error
    return restored if wishes.dtype == "same" else restored.astype(np.float32, copy=False)


def _made(read: Micrograph, wishes: _Wishes) -> dict[str, Any]:
    """How it was made, for the file that is written."""
    source = read.source
    return {"made_by": "emsynth restore", "version": __version__, "model": wishes.model,
            "weights_sha256": wishes.digest, "source": None if source is None else source.name,
            "dataset": read.dataset, "frames": wishes.frames, "tile": wishes.tile, "dtype": str(wishes.dtype)}
