"""Micrographs keep their pixels, their pixel size and their metadata through every format; what is none is refused."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import REAL_INPUT
from PIL import Image
from scipy.ndimage import gaussian_filter

from emsynth.errors import StoreError, StoreExistsError
from emsynth.restoration.micrograph import Micrograph, PixelSize, pixels, plain
from emsynth.restoration.micrograph_reading import read_micrograph
from emsynth.restoration.micrograph_writing import write_micrograph
from emsynth.restoration.picture import Residual, bar_length, draw_restoration

COUNTS = np.random.default_rng(0).poisson(50, (3, 20, 30)).astype(np.uint16)
SIZE = PixelSize(0.020216817036271095, 0.03, "nm")
REAL_FOLDER = REAL_INPUT / "micrographs"


def write_mrc(path: Path, image: np.ndarray, side: float) -> Path:
    """MRC 2014, mode 1 or 2, with a cell of so many Å a pixel."""
    frames, rows, cols = image.shape
    header = bytearray(1024)
    struct.pack_into("<10i", header, 0, cols, rows, frames, 2 if image.dtype == np.float32 else 1, 0, 0, 0, cols, rows,
                     frames)
    struct.pack_into("<6f3i", header, 40, cols * side, rows * side, frames * side, 90, 90, 90, 1, 2, 3)
    header[208:216] = b"MAP DD\0\0"
    path.write_bytes(bytes(header) + image.tobytes())
    return path


def write_velox(path: Path, image: np.ndarray, metres: float) -> Path:
    """The least of a Velox file that RosettaSciIO reads: one image, beside what it says about itself."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra io)")
    told = {"BinaryResult": {"PixelSize": {"width": str(metres), "height": str(metres)}, "PixelUnitX": "m",
                             "PixelUnitY": "m", "Detector": "HAADF"}, "Core": {}, "Scan": {"FrameTime": "1"},
            "Detectors": {}, "Acquisition": {}, "Instrument": {}, "Optics": {}, "Stage": {}, "CustomProperties": {}}
    with h5py.File(path, "w") as file:
        file["Version"] = np.array([json.dumps({"format": "Velox", "version": "1.0"}).encode()])
        held = file.create_group("Data/Image/0a1b")
        held.create_dataset("Data", data=image[..., None], chunks=(*image.shape, 1))
        held["Metadata"] = np.frombuffer(json.dumps(told).encode().ljust(4000, b"\0"), np.uint8)[:, None]
    return path


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".emd"])
@pytest.mark.parametrize(("image", "size"), [
    (COUNTS[0].astype(np.float32), SIZE), (COUNTS, PixelSize(0.2, 0.2, "Å")), (COUNTS[0].astype(np.int32), None),
    (COUNTS.astype(np.int16), PixelSize(1.5, 1.25, "µm")), (COUNTS[0, :1], PixelSize(4.0, 4.0, "1/nm"))])
def test_what_is_written_is_read_again(suffix, image, size, tmp_path):
    """Pixels exactly, in their own type; the pixel size to what a TIFF's fractions hold."""
    if suffix == ".emd":
        pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
        pytest.importorskip("h5py", reason="h5py is not installed (extra io)")
    path = write_micrograph(tmp_path / f"a{suffix}", Micrograph(image, size), {})
    again = read_micrograph(path)
    assert again.image.dtype == image.dtype
    np.testing.assert_array_equal(again.image, image)
    assert (again.pixel_size is None) == (size is None)
    if size is not None:
        assert again.pixel_size.unit == size.unit
        assert (again.pixel_size.row, again.pixel_size.col) == pytest.approx((size.row, size.col), rel=1e-7)


@pytest.mark.parametrize("metres", [2e-11, 3.3e-6, 0.5])
def test_a_size_in_metres_comes_back_in_a_unit_that_a_tiff_can_hold(metres, tmp_path):
    """Its resolution is a fraction of two whole numbers of 32 bit."""
    write_micrograph(tmp_path / "a.tif", Micrograph(COUNTS, PixelSize(metres, metres * 1.5, "m")), {})
    assert read_micrograph(tmp_path / "a.tif").pixel_size.angstrom == pytest.approx((metres * 1e10, metres * 1.5e10))


@pytest.mark.parametrize(("suffix", "place"), [(".tif", "Info"), (".npy", "beside")])
def test_provenance_and_metadata_of_the_original_are_in_the_file(suffix, place, tmp_path):
    """As JSON, whatever the instrument's values were."""
    original = plain({"HV": np.float32(200), "name": "µm Å", "gain": float("nan"), "raw": np.zeros(1000)})
    path = write_micrograph(tmp_path / f"a{suffix}", Micrograph(COUNTS, SIZE, original), {"model": "m"})
    told = read_micrograph(path).metadata[place]
    assert told["emsynth"] == {"model": "m"}
    assert told["original"] == {"HV": 200.0, "name": "µm Å", "gain": "nan", "raw": "<1000 float64>"}


def test_a_restored_tiff_is_one_of_imagej(tmp_path):
    """ImageJ finds its unit, its frames and its pixels per unit."""
    write_micrograph(tmp_path / "a.tif", Micrograph(COUNTS, SIZE), {})
    with tifffile.TiffFile(tmp_path / "a.tif") as held:
        assert held.is_imagej
        assert held.imagej_metadata["frames"] == 3
        assert held.imagej_metadata["unit"] == "nm"
        top, bottom = held.pages[0].tags["XResolution"].value
    assert top / bottom == pytest.approx(1 / 0.03)


def test_mrc(tmp_path):
    """A stack, with the cell's pixel size, which MRC has in Å."""
    pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
    read = read_micrograph(write_mrc(tmp_path / "a.mrc", COUNTS.astype(np.int16), 2.5))
    np.testing.assert_array_equal(read.image, COUNTS)
    assert read.pixel_size.angstrom == pytest.approx((2.5, 2.5))


def test_velox(tmp_path):
    """Velox keeps rows, columns, frames, and metres."""
    pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
    read = read_micrograph(write_velox(tmp_path / "a.emd", COUNTS[0], 2e-11))
    np.testing.assert_array_equal(read.image, COUNTS[0])
    assert read.pixel_size.angstrom == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"tile": (16, 16), "compression": "zlib"},
                                     {"imagej": True, "resolution": (50, 50), "metadata": {"unit": "um"}}])
def test_tiff_of_others(options, tmp_path):
    """Big-endian, tiled and compressed, and ImageJ's own."""
    tifffile.imwrite(tmp_path / "a.tif", COUNTS, photometric="minisblack", **options)
    read = read_micrograph(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.image, COUNTS)
    assert read.image.dtype.isnative
    assert read.pixel_size == (PixelSize(0.02, 0.02, "µm") if "imagej" in options else None)


def test_tiff_of_a_microscope(tmp_path):
    """DigitalMicrograph's tags, which RosettaSciIO understands."""
    pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
    tags = [(65003, "s", 2, "nm", True), (65004, "s", 2, "nm", True), (65009, "d", 1, 0.02, True),
            (65010, "d", 1, 0.03, True)]
    tifffile.imwrite(tmp_path / "a.tif", COUNTS[0], extratags=tags)
    assert read_micrograph(tmp_path / "a.tif").pixel_size == PixelSize(0.03, 0.02, "nm")


@pytest.mark.parametrize("options", [{"resolutionunit": "INCH"}, {"imagej": True, "metadata": {"unit": "inch"}}])
def test_dots_per_inch_are_no_pixel_size(options, tmp_path):
    """They are those of a printer."""
    tifffile.imwrite(tmp_path / "a.tif", COUNTS[0], resolution=(72, 72), **options)
    assert read_micrograph(tmp_path / "a.tif").pixel_size is None


def test_tiff_with_a_compression_of_pillow(tmp_path):
    """LZW, for which tifffile alone needs another package."""
    grey = COUNTS[0].astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif").image, grey)


def test_png_of_16_bit(tmp_path):
    """Counts stay counts."""
    Image.fromarray(COUNTS[0] * 1000).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.png").image, COUNTS[0] * 1000)


def test_units_of_an_axis_each_become_one():
    """Where a file has the rows in Å and the columns in nm."""
    assert PixelSize.of((2.0, -1.0), ("A", "[n_m]")) == PixelSize(0.2, 1.0, "nm")
    assert PixelSize(0.2, 1.0, "nm").angstrom == pytest.approx((2.0, 10.0))


@pytest.mark.parametrize(("scales", "units"), [((0, 1), ("nm", "nm")), ((1, 1), ("", None)), ((1, 1), ("px", "px")),
                                               ((1, 1), ("nm", "s")), ((np.nan, 1), ("nm", "nm")),
                                               ((None, 1), ("nm", "nm"))])
def test_what_is_no_pixel_size_is_none(scales, units):
    """None is better than a wrong one."""
    assert PixelSize.of(scales, units) is None


@pytest.mark.parametrize(("dataset", "shape"), [(None, (20, 30)), (1, (10, 10))])
def test_a_file_of_several_images(dataset, shape, tmp_path):
    """The first one that is an image is taken and all are named, unless a number says which."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb")
        file.write(np.ones((10, 10), np.uint8), photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(COUNTS[0], metadata=None)
        file.write(np.ones((10, 10), np.uint8), metadata=None)
    first, second = read_micrograph(tmp_path / "a.tif", dataset), read_micrograph(tmp_path / "b.tif", dataset)
    assert first.image.shape == (10, 10)
    assert second.image.shape == shape
    assert ("took 1" in first.choice, "took 0" in second.choice) == ((dataset is None,) * 2)
    with pytest.raises(StoreError, match=r"a\.tif: has no dataset 2; it has 0 to 1: 0 "):
        read_micrograph(tmp_path / "a.tif", 2)


@pytest.mark.parametrize(("data", "said"), [
    (COUNTS[0] * 1j, "complex128"), (COUNTS[0] > 50, "a mask"), (COUNTS[0, 0], "a spectrum"),
    (np.zeros((20, 30, 3)), "3 colour channels"), (np.zeros((2, 3, 4, 5)), "4D-STEM"), (np.zeros((0, 5)), "is empty"),
    (np.zeros((4, 4), [("R", "u1"), ("G", "u1")]), "R, G")])
def test_what_is_no_micrograph_is_refused(data, said, tmp_path):
    """With its place and the reason, in one line."""
    np.save(tmp_path / "a.npy", data)
    with pytest.raises(StoreError, match=said) as refused:
        read_micrograph(tmp_path / "a.npy")
    assert str(refused.value).startswith(str(tmp_path / "a.npy"))
    assert "\n" not in str(refused.value)


def test_axes_of_one_pixel_are_dropped():
    """A stack of one channel, as OME or ImageJ have it, is a stack."""
    assert pixels(np.zeros((3, 1, 20, 30)), "a").shape == (3, 20, 30)
    assert pixels(np.zeros((20, 30, 1)), "a").shape == (20, 30)
    assert pixels(np.zeros((20, 1)), "a").shape == (20, 1)


@pytest.mark.parametrize("suffix", [".dm3", ".dm4", ".ser", ".emd", ".mrc", ".tif", ".png", ".npy"])
@pytest.mark.parametrize("content", [b"", b"this is a text that somebody has renamed\n" * 30])
def test_empty_and_foreign_files_are_refused(suffix, content, tmp_path):
    """In one line that names the file."""
    if suffix not in (".tif", ".png", ".npy"):
        pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is an empty file|cannot be read as|pickled") as refused:
        read_micrograph(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy", ".mrc", ".emd"])
def test_a_file_that_was_cut_off_is_refused(suffix, tmp_path):
    """Not restored in part."""
    path, image = tmp_path / f"a{suffix}", np.tile(COUNTS[0], (8, 8))
    if suffix in (".mrc", ".emd"):
        pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
    if suffix == ".png":
        Image.fromarray(image).save(path)
    elif suffix == ".mrc":
        write_mrc(path, image[None].astype(np.int16), 1.0)
    elif suffix == ".emd":
        write_velox(path, image, 1e-11)
    else:
        write_micrograph(path, Micrograph(image, SIZE), {})
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 3])
    with pytest.raises(StoreError, match="cannot be read as"):
        read_micrograph(path)


def test_arrays_of_another_machine(tmp_path):
    """Big-endian numbers become the machine's own."""
    np.save(tmp_path / "a.npy", COUNTS.astype(">i4"))
    read = read_micrograph(tmp_path / "a.npy").image
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, COUNTS)


def test_pickles_are_never_loaded(tmp_path):
    """They could run anything."""
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(StoreError, match="pickled"):
        read_micrograph(tmp_path / "a.npy")


def test_without_rosettasciio(tmp_path, monkeypatch):
    """The message names the file, the package and the extra."""
    (tmp_path / "a.dm3").write_bytes(b"\0\0\0\3")
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", None)
    with pytest.raises(StoreError, match=r"a\.dm3: a \.dm3 file needs rsciio.*pip install 'emsynth\[io\]'"):
        read_micrograph(tmp_path / "a.dm3")


def test_nothing_is_replaced_unasked(tmp_path):
    """Not the output of before, and the image itself never."""
    shown = Micrograph(COUNTS[0], SIZE)
    path = write_micrograph(tmp_path / "a.tif", shown, {})
    before = path.read_bytes()
    with pytest.raises(StoreExistsError, match="--overwrite"):
        write_micrograph(path, shown, {})
    with pytest.raises(StoreError, match="never replaced"):
        write_micrograph(path, Micrograph(COUNTS[1], SIZE, source=path), {}, overwrite=True)
    assert path.read_bytes() == before
    write_micrograph(path, Micrograph(COUNTS[1], SIZE), {}, overwrite=True)
    np.testing.assert_array_equal(read_micrograph(path).image, COUNTS[1])
    assert [one.name for one in tmp_path.iterdir()] == ["a.tif"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    """And no draft beside it."""
    path = write_micrograph(tmp_path / "a.tif", Micrograph(COUNTS[0], SIZE), {})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(StoreError, match="No space left"):
        write_micrograph(path, Micrograph(COUNTS[1], SIZE), {}, overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["a.tif"]
    np.testing.assert_array_equal(read_micrograph(path).image, COUNTS[0])


def test_the_residual_in_figures():
    """Blurring takes structure away, which correlates with what is left; white noise does not."""
    rows, cols = np.indices((64, 64))
    truth = 100 + 10 * np.sin(rows / 3) * np.sin(cols / 4)
    noise = np.random.default_rng(1).normal(0, 5, truth.shape)
    alone, faded = Residual.of(truth + noise, truth), Residual.of(truth, 100 + (truth - 100) / 2)
    assert alone.mean == pytest.approx(noise.mean())
    assert alone.deviation == pytest.approx(noise.std())
    assert abs(alone.likeness) < 5 / 64
    assert faded.likeness == pytest.approx(1)
    assert (alone.share, faded.share) == (pytest.approx(noise.var() / (truth + noise).var()), pytest.approx(1 / 4))
    assert Residual.of(truth, truth) == Residual(0, 0, 0)


def test_a_lattice_in_the_residual_shows_where_the_correlation_is_blind():
    """One half is sharpened and one blurred, or all of it is gone; taking the noise is 1, whatever its colour."""
    rows, cols = np.indices((256, 256))
    wave = np.cos(rows / 3) + np.cos(cols / 4)
    noise = gaussian_filter(np.random.default_rng(1).normal(0, 5, wave.shape), 0.6)
    before = 100 + 5 * wave + noise
    clean, flat = Residual.of(before, before - noise), Residual.of(before, np.full_like(before, 100))
    mixed = Residual.of(before, 100 + 5 * wave * np.where(cols < 128, 1.2, 0.6))
    assert clean.lattice == pytest.approx(1, abs=1)
    assert flat.lattice > 100
    assert mixed.lattice > 10
    assert abs(mixed.likeness) < 0.1
    assert Residual.of(noise, np.zeros_like(noise)).lattice is None
    assert Residual.of(np.stack([noise, before]), np.stack([noise, before * 0])).lattice == flat.lattice
    assert "no lattice" in str(Residual.of(noise, noise * 0))


@pytest.mark.parametrize(("metadata", "mode"), [
    ({"metadata": {"Acquisition_instrument": {"TEM": {"acquisition_mode": "STEM"}}}}, "stem"),
    ({"metadata": {"Acquisition_instrument": {"TEM": {"acquisition_mode": "TEM"}}}}, "tem"),
    ({"ImageTags": [{"Microscope Info": {"Operation Mode": "SCANNING"}}]}, "stem"),
    ({"BinaryResult": {"Detector": "HAADF"}}, "stem"), ({"Mode": "TEM uP SA Zoom"}, "tem"), ({"Mode": "SYSTEM"}, None),
    ({"Mode": "TEM", "Detector": "HAADF"}, None), ({"title": "STEM", "mode": 2}, None), ({}, None)])
def test_how_an_image_was_recorded(metadata, mode):
    """None where the instrument does not say, or says both."""
    assert Micrograph(COUNTS, metadata=metadata).mode == mode


@pytest.mark.parametrize(("mode", "said"), [("1", "a mask"), ("P", "a palette picture"), ("RGB", "3 channels")])
def test_pictures_that_are_no_grey_images(mode, said, tmp_path):
    """Are called what they are."""
    Image.new(mode, (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(StoreError, match=said):
        read_micrograph(tmp_path / "a.png")


def test_a_file_that_only_has_the_name_of_a_dm3(tmp_path):
    """Its first bytes are not reported as a version."""
    (tmp_path / "a.dm3").write_bytes(b"junk" * 100)
    with pytest.raises(StoreError, match="another kind of file, or damaged"):
        read_micrograph(tmp_path / "a.dm3")


@pytest.mark.parametrize(("width", "length"), [(8.0, 2.0), (7.9, 1.0), (1024, 200), (0.03, 0.005)])
def test_scale_bars_are_of_1_2_or_5(width, length):
    """At most a quarter of the picture."""
    assert bar_length(width) == pytest.approx(length)


@pytest.mark.parametrize("shape", [(200, 150), (20, 30), (1, 30), (300, 2)])
def test_the_picture_is_drawn(shape, tmp_path):
    """Whatever the image's proportions; wide images have a second row for their middle."""
    image = np.random.default_rng(0).normal(size=shape)
    path = draw_restoration(tmp_path / "a.png", image, image / 2, PixelSize(1000.0, 2.0, "pm"))
    with Image.open(path) as drawn:
        assert drawn.width > 1000
        assert 100 < drawn.height < 4000
        assert np.asarray(drawn.convert("L")).std() > 5


@pytest.fixture(scope="module")
def real() -> Path:
    """Real files, where the machine has them."""
    folder = Path(os.environ.get("EMSYNTH_MICROGRAPHS", REAL_FOLDER))
    if not folder.is_dir():
        pytest.skip(f"no real micrographs: {folder} is absent, and EMSYNTH_MICROGRAPHS names no other")
    pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
    return folder


@pytest.mark.parametrize(("name", "shape", "dtype", "angstrom"), [
    ("CdTe_twin_HAADF.dm3", (512, 512), "uint16", 0.20217),
    ("Si_tilt_boundary_HAADF.dm3", (512, 512), "uint16", 0.16388),
    ("SrTiO3_HAADF_1.ser", (1024, 1024), "uint16", 0.10013), ("noisy_HAADF_ncem.emd", (1024, 1024), "uint16", 0.12247),
    ("nonsquare_float32.dm4", (64, 128), "float32", 10.0), ("stack_int16_64x65x66.dm4", (66, 65, 64), "int16", 0.02),
    ("volume_small.mrc", (3, 128, 128), "float32", 2.0)])
def test_real_files(real, name, shape, dtype, angstrom):
    """Shape, type and the size of a pixel along a row."""
    if not (real / name).is_file():
        pytest.skip(f"{name} is not among the real micrographs")
    read = read_micrograph(real / name)
    assert (read.image.shape, str(read.image.dtype)) == (shape, dtype)
    assert read.pixel_size.angstrom[1] == pytest.approx(angstrom, rel=1e-4)
    assert json.dumps(read.metadata, allow_nan=False)


def test_a_real_spectrum_is_refused(real):
    """It has the shape of an image of one row."""
    if not (real / "spectrum_not_an_image.dm3").is_file():
        pytest.skip("the spectrum is not among the real micrographs")
    with pytest.raises(StoreError, match="is a spectrum or a map of spectra"):
        read_micrograph(real / "spectrum_not_an_image.dm3")
