"""Micrographs from files: DM3, DM4, SER, EMD and MRC with RosettaSciIO; TIFF, PNG and NPY without."""

from __future__ import annotations

import importlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emsynth.errors import EmsynthError, StoreError
from emsynth.restoration.micrograph import Micrograph, PixelSize, canonical, pixels, plain, spoken_shape

_ROSETTA = {".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".ser": "tia", ".emi": "tia", ".emd": "emd",
            ".mrc": "mrc", ".mrcs": "mrc", ".rec": "mrc", ".st": "mrc", ".ali": "mrc"}
READABLE = (*_ROSETTA, ".tif", ".tiff", ".png", ".npy")
_ENERGY = ("ev", "kev", "mev")
# Tags of a TIFF that say how its bytes lie, not what it shows.
_LAYOUT = ("Offsets", "ByteCounts", "IJMetadata", "StripOffsets", "TileOffsets", "JPEGTables", "ColorMap")
_PNG_KINDS = {"1": "a mask (two-level picture)", "P": "a palette picture"}
_LISTED = 8  # datasets of a file in a message


class Dataset(NamedTuple):
    """One dataset of a file, before anyone has looked whether it is an image."""

    label: str
    data: Any
    pixel_size: PixelSize | None
    metadata: dict[str, Any]
    refusal: str = ""  # why it is no image, where the axes say so and the shape does not


def read_micrograph(path: str | os.PathLike[str], dataset: int | None = None) -> Micrograph:
    """Read an image or a stack of images.

    Parameters
    ----------
    path : path
        A ``.dm3``, ``.dm4``, ``.ser`` (or the ``.emi`` of several), ``.emd`` (Velox or NCEM) or ``.mrc`` file, which
        need RosettaSciIO (``pip install 'emsynth[io]'``); or a grey ``.tif``, ``.png`` or ``.npy``.
    dataset : int, optional
        Which one of a file that holds several, from 0; by default the first that is an image.

    Returns
    -------
    Micrograph

    Raises
    ------
    StoreError
        The file is absent, damaged, of another kind, or holds no image: a spectrum, a colour or a complex image, more
        axes than a stack has. Or what reads it is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    allowed = ", ".join(READABLE)
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; give the images in it: {allowed}")
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file; give an image: {allowed}")
    if suffix not in READABLE:
        raise StoreError(f"{path}: {suffix or 'no suffix'} is not one of {allowed}; save it as one of them, without "
                         "lossy compression")
    if path.stat().st_size == 0:
        raise StoreError(f"{path}: is an empty file; take another copy of it")
    reader: Callable[[Path], list[Dataset]] = _read_rosetta if suffix in _ROSETTA else _READERS[suffix]
    try:
        found = reader(path)
    except EmsynthError:
        raise
    except MemoryError:
        raise StoreError(f"{path}: needs more memory than there is; is it complete? Cut out a part of it") from None
    except Exception as reason:  # a damaged file fails in a dozen ways, and each of them means the same
        said = " ".join(str(reason).split())[:160]
        if not said or isinstance(reason, LookupError):
            said = f"{type(reason).__name__} {said}".strip()
        raise StoreError(f"{path}: cannot be read as {suffix} ({said}); is it complete, and what its name "
                         "says?") from reason
    return _chosen(path, found, dataset)


def _chosen(path: Path, found: list[Dataset], number: int | None) -> Micrograph:
    """The dataset of that number, or the first that is an image."""
    listed = "; ".join(f"{n} {one.label} {spoken_shape(np.shape(one.data))}" for n, one in enumerate(found[:_LISTED]))
    listed += f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    if not found:
        raise StoreError(f"{path}: holds no image")
    if number is not None:
        if not 0 <= number < len(found):
            raise StoreError(f"{path}: has no dataset {number}; it has 0 to {len(found) - 1}: {listed}")
        return _micrograph(path, found[number], len(found) > 1, "")
    first: StoreError | None = None
    for taken, one in enumerate(found):
        choice = f"holds {len(found)} datasets ({listed}); took {taken}" if len(found) > 1 else ""
        try:
            return _micrograph(path, one, len(found) > 1, choice)
        except StoreError as refused:
            first = first or refused
    assert first is not None
    raise first if len(found) == 1 else StoreError(f"{path}: none of its {len(found)} datasets is an image ({listed})")


def _micrograph(path: Path, one: Dataset, several: bool, choice: str) -> Micrograph:
    place = f"{path}: {one.label}" if several else str(path)
    if one.refusal:
        raise StoreError(f"{place}: {one.refusal}")
    return Micrograph(pixels(one.data, place), one.pixel_size, one.metadata, path, one.label if several else "", choice)


def _read_rosetta(path: Path) -> list[Dataset]:
    module = _ROSETTA[path.suffix.lower()]
    if module == "digitalmicrograph":
        _check_digitalmicrograph(path)
    try:
        reader = importlib.import_module(f"rsciio.{module}").file_reader
        with _silent():
            # Velox files hold spectra beside the images, which would take minutes to unpack.
            read = reader(str(path), **({"select_type": "images"} if module == "emd" else {}))
    except ModuleNotFoundError as missing:
        raise StoreError(f"{path}: a {path.suffix} file needs {missing.name}, which is not installed; "
                         "pip install 'emsynth[io]'") from missing
    return [_rosetta_dataset(one) for one in read]


def _check_digitalmicrograph(path: Path) -> None:
    """StoreError where a file does not begin with 3 or 4, the versions of its format."""
    with path.open("rb") as file:
        version = int.from_bytes(file.read(4), "big")
    if version not in (3, 4):
        raise StoreError(f"{path}: cannot be read as {path.suffix.lower()} (it does not begin as the files of "
                         "DigitalMicrograph do); it is another kind of file, or damaged: take another copy of it")


@contextmanager
def _silent() -> Iterator[None]:
    """Without the remarks that RosettaSciIO has about tags that do not concern the image."""
    logger = logging.getLogger("rsciio")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _rosetta_dataset(read: dict[str, Any]) -> Dataset:
    axes, metadata = list(read["axes"]), read.get("metadata") or {}
    label = str(metadata.get("General", {}).get("title") or "") or "unnamed"
    size = None
    if len(axes) > 1:
        down, along = axes[-2:]
        size = PixelSize.of((down.get("scale"), along.get("scale")), (down.get("units"), along.get("units")))
    kept = {"metadata": plain(metadata), "original_metadata": plain(read.get("original_metadata") or {})}
    return Dataset(label, read["data"], size, kept, _spectral(axes, metadata, np.shape(read["data"])))


def _spectral(axes: list[dict[str, Any]], metadata: dict[str, Any], shape: tuple[int, ...]) -> str:
    """Why these axes are those of a spectrum; empty where they are not."""
    energies = [axis for axis in axes if str(axis.get("units") or "").lower() in _ENERGY]
    kind = str(metadata.get("Signal", {}).get("signal_type") or "")
    if energies or kind.upper().startswith(("EELS", "EDS")):
        along = f", along {energies[0].get('name') or 'an axis'} in {energies[0]['units']}" if energies else ""
        return (f"is a spectrum or a map of spectra ({spoken_shape(shape)}{along}), not an image; give the survey "
                "image or a map of one energy window")
    if len(axes) > 1 and sum(not axis.get("navigate") for axis in axes) == 1:
        return f"is a series of lines or spectra ({spoken_shape(shape)}), not of images; give an image"
    return ""


def _read_tiff(path: Path) -> list[Dataset]:
    import tifffile

    with _tiff_remarks(), tifffile.TiffFile(path) as held:
        # A reduced copy is a thumbnail of another page.
        every = list(enumerate(held.series))
        series = [(number, one) for number, one in every if not one.keyframe.is_reduced] or every
        return [_tiff_dataset(path, held, one, number) for number, one in series]


@contextmanager
def _tiff_remarks() -> Iterator[None]:
    logger = logging.getLogger("tifffile")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _tiff_dataset(path: Path, held: Any, series: Any, number: int) -> Dataset:
    import tifffile

    page = series.keyframe
    refusal = ""
    if page.photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE):
        refusal = f"its numbers are not intensities ({page.photometric.name}); save it as plain grey"
    elif "S" in series.axes or page.photometric == tifffile.PHOTOMETRIC.RGB:
        refusal = (f"has {page.samplesperpixel} colour channels ({spoken_shape(series.shape)}); a micrograph has one: "
                   "save the original in grey, not a screenshot")
    try:
        data = np.empty(0) if refusal else series.asarray()
    except ValueError as reason:
        if "imagecodecs" not in str(reason):
            raise
        data = _unpacked(path, series)
    if data.size and data.size != int(np.prod(series.shape)):
        raise StoreError(f"{path}: holds {data.size} of {np.prod(series.shape)} pixels; take another copy of it")
    kept = {tag.name: plain(tag.value) for tag in series.pages[0].aspage().tags
            if not tag.name.endswith(_LAYOUT)} | _imagej_info(held)
    return Dataset(series.name or "unnamed", data, _tiff_pixel_size(path, held, series, number), kept, refusal)


def _unpacked(path: Path, series: Any) -> Any:
    """The pages of a TIFF whose compression tifffile needs another package for, such as LZW, by Pillow."""
    from PIL import Image

    try:
        with Image.open(path, formats=("TIFF",)) as held:
            pages = []
            for page in series.pages:
                held.seek(page.index)
                pages.append(np.asarray(held))
    except Exception as reason:
        raise StoreError(f"{path}: is compressed ({series.keyframe.compression.name}) in a way that needs imagecodecs; "
                         "pip install imagecodecs, or save it uncompressed") from reason
    return np.stack(pages).reshape(series.shape)


def _imagej_info(held: Any) -> dict[str, Any]:
    info = (held.imagej_metadata or {}).get("Info")
    if not isinstance(info, str):
        return {}
    try:
        return {"Info": json.loads(info)}
    except ValueError:
        return {"Info": info}


def _tiff_pixel_size(path: Path, held: Any, series: Any, number: int) -> PixelSize | None:
    """As ImageJ writes it, or as the microscope's program does where RosettaSciIO is there to understand that."""
    tags = series.pages[0].aspage().tags
    if held.is_imagej:
        # Resolutions in dots per inch are those of a printer.
        unit = str((held.imagej_metadata or {}).get("unit", "")).encode("latin-1", "backslashreplace")
        try:
            scales = [tags[name].value[1] / tags[name].value[0] for name in ("YResolution", "XResolution")]
        except (KeyError, ZeroDivisionError, TypeError):
            return None
        spelled = canonical(unit.decode("unicode_escape"))
        return None if spelled in ("inch", "") else PixelSize.of((scales[0], scales[1]), (spelled, spelled))
    vendor = held.is_fei or held.is_sem or held.is_sis or held.is_tvips or 65009 in tags
    if not vendor or importlib.util.find_spec("rsciio") is None:
        return None
    try:
        with _silent():
            axes = importlib.import_module("rsciio.tiff").file_reader(str(path))[number]["axes"]
    except Exception:  # the pixels are there all the same, without their size
        return None
    return PixelSize.of((axes[-2]["scale"], axes[-1]["scale"]), (axes[-2]["units"], axes[-1]["units"]))


def _read_png(path: Path) -> list[Dataset]:
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # a micrograph may be large
    try:
        with Image.open(path, formats=("PNG",)) as held:
            if held.mode not in ("L", "I", "I;16", "I;16B"):
                channels = len(held.getbands())
                kind = f"has {channels} channels ({held.mode})" if channels > 1 else (
                    f"is {_PNG_KINDS.get(held.mode, f'a picture of kind {held.mode}')}")
                raise StoreError(f"{path}: {kind}, not 8 or 16 bit grey; a micrograph has one channel: save the "
                                 "original in grey, not a screenshot")
            return [Dataset("image", np.asarray(held), None, plain(dict(held.info)))]
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_npy(path: Path) -> list[Dataset]:
    try:
        data = np.load(path, allow_pickle=False)
    except ValueError as reason:
        if "allow_pickle" not in str(reason):
            raise
        raise StoreError(f"{path}: holds pickled Python objects, which can run any code, or is no NPY file; save an "
                         "array of numbers with numpy.save") from None
    beside = Path(f"{path}.json")
    about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    told = about.get("pixel_size") if isinstance(about, dict) else None
    size = PixelSize.of((told["row"], told["col"]), (told["unit"],) * 2) if isinstance(told, dict) else None
    return [Dataset("array", data, size, {"beside": about} if about else {})]


_READERS: dict[str, Callable[[Path], list[Dataset]]] = {".tif": _read_tiff, ".tiff": _read_tiff, ".png": _read_png,
                                                        ".npy": _read_npy}
