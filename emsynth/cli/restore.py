"""The verb that restores micrographs: restore."""

from __future__ import annotations

import difflib
import hashlib
import time
from collections.abc import Iterator
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


@app.command(epilog="Example: emsynth restore my_network.safetensors *.dm3 --out restored --picture")
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
    dtype: Annotated[str, typer.Option(metavar="|".join(_DTYPES), help="float32, or float64 where that would round "
                                           "too much; or the same as the image: whole numbers are then rounded.")
                     ] = "float32",
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
    from emsynth.restoration.shipped import shipped
    from emsynth.restoration.tiling import Tiles

    known = list(shipped())
    ways = (f"give a network that is shipped ({', '.join(known) or 'none with this version'}), a .safetensors or .onnx "
            "file, or module:function")
    if model and Path(model).is_dir():
        raise RestorerError(f"{model}: is a folder; {ways}")
    try:
        found = find(model)
    except RestorerError as error:
        if not str(error).startswith(f"{model!r} is not a restorer"):
            raise
        near = difflib.get_close_matches(model, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RestorerError(f"{model!r} is not a MODEL, which comes before the images; {hint}{ways}") from None
    if isinstance(found, Baseline):
        raise RestorerError(f"{model}: is a baseline, which has to be tuned on images whose truth is known ("
                            f"emsynth bench does that); {ways}")
    if tile is not None:
        Tiles(tile, 0)
    weights = Path(getattr(found, "path", None) or model)
    return found, hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def _restore_one(image: Path, target: Path, wishes: _Wishes, watch: Watch, quiet: bool) -> Iterator[Path]:
    """Restore one file; each path once it is written."""
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
        watch.note(f"hint: {image}: {hint}")
    restored = _restored(taken, wishes)
    yield write_micrograph(target, replace(taken, image=restored), _made(taken, wishes), wishes.overwrite)
    if not quiet:
        watch.note(f"{image}: {taken}; taken away: {Residual.of(taken.image, restored)}; "
                   f"{time.monotonic() - began:.1f} s")
    if wishes.picture:
        middle = () if restored.ndim == 2 else (len(restored) // 2,)
        title = f"{image.name}, {wishes.model}" + (f", frame {middle[0]} of 0 to {len(restored) - 1}" if middle else "")
        yield draw_restoration(drawn, taken.image[middle], restored[middle], taken.pixel_size, title)


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
    import numpy as np

    from emsynth.restoration.finding import Imported

    about, size, hints = getattr(wishes.restorer, "about", {}), read.pixel_size, list[str]()
    learnt = next((mode for mode in ("stem", "tem") if str(about.get("data", "")).startswith(mode)), None)
    if learnt and read.mode and read.mode != learnt:
        hints.append(f"its metadata say that it is a {read.mode.upper()} image, and {wishes.model} was trained on "
                     f"{learnt.upper()} images ({about['data']}); take a network of {read.mode.upper()}")
    if isinstance(wishes.restorer, Imported) and _single(read.image.astype(np.float64)).dtype != np.float32:
        hints.append("functions are given float32, which rounds this image by more than a thousandth of its deviation; "
                     "subtract its offset first")
    if size is not None and "1/" in size.unit:
        return [*hints, f"has pixels of {size}, so it is a diffraction pattern; networks of emsynth were trained on "
                        "images"]
    trained = about.get("pixel_size")
    if isinstance(trained, list | tuple) and len(trained) == 2:
        hints += _size_hints(None if size is None else size.angstrom, trained[0], trained[1], wishes.model)
    return hints


def _size_hints(known: tuple[float, float] | None, low: float, high: float, model: str) -> list[str]:
    """What pixels of a size (row, col), Å, mean for a network that was trained on those between two."""
    from emsynth.restoration.micrograph import PixelSize

    if known is None:
        return [f"does not say how large its pixels are; {model} was trained on {low:g}-{high:g} Å"]
    ways = ["bin it" if side < 0.99 * low else "record it with smaller pixels" if side > 1.01 * high else ""
            for side in known]
    if not any(ways):
        return []
    size = PixelSize(*known, "Å")
    advice = ways[0] if ways[0] == ways[1] else ", and ".join(
        f"{way} {where}" for way, where in zip(ways, ("down the columns", "along the rows"), strict=True) if way)
    return [f"pixels of {size} are outside {low:g}-{high:g} Å, on which {model} was trained; it is restored as it is, "
            f"but trust it less, or first {advice}"]


def _restored(read: Micrograph, wishes: _Wishes) -> Any:
    import numpy as np

    from emsynth.restoration.finding import Imported
    from emsynth.restoration.restoring import restore as restore_array

    same = wishes.dtype == "same"
    # Whole numbers too large for float32 are restored in double precision, and rounded only where that is harmless.
    wide = not same and read.image.dtype.kind in "iu" and read.image.dtype.itemsize > 2
    try:
        restored = restore_array(read.image.astype(np.float64) if wide else read.image, wishes.restorer,
                                 tile=wishes.tile, dtype="same" if same else None)
    except EmsynthError as error:
        raise RestorerError(f"{read.source}: {str(error).removeprefix('the image: ')}") from None
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
    return _finite(restored if same else _single(restored), f"{read.source}: {wishes.model}")


def _single(restored: Any) -> Any:
    """As float32, unless that rounds by more than a thousandth of the deviation."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        single = restored.astype(np.float32, copy=False)
        rounded = restored.dtype != np.float32 and np.abs(single - restored).max() > 1e-3 * restored.std()
    return restored if rounded else single


def _finite(restored: Any, place: str) -> Any:
    import numpy as np

    wrong = int(restored.size - np.isfinite(restored).sum())
    if wrong:
        raise RestorerError(f"{place}: returned {wrong} of {restored.size} pixels that are NaN or infinite, so nothing "
                            "is written; give another network, or an image in other units")
    return restored


def _made(read: Micrograph, wishes: _Wishes) -> dict[str, Any]:
    """How it was made, for the file that is written."""
    source = read.source
    return {"made_by": "emsynth restore", "version": __version__, "model": wishes.model,
            "weights_sha256": wishes.digest, "source": None if source is None else source.name,
            "dataset": read.dataset, "frames": wishes.frames, "tile": wishes.tile, "dtype": str(wishes.dtype)}
