"""The arrays of a store: names, dimensions, types and units; no Zarr here."""

from __future__ import annotations

from dataclasses import dataclass

# Raise with every change of the layout, and keep reading what was written before: 2 has no crc32c behind its chunks.
FORMAT_VERSION = 3
READABLE = (2, 3)


@dataclass(frozen=True)
class ArrayLayout:
    """One array of the store.

    Attributes
    ----------
    name : str
        Name in the store.
    dims : tuple of str
        Dimension names; the first is ``"sample"``.
    dtype : str
        NumPy type code, or ``"str"`` for strings of any length.
    units : str
        Unit in the field's notation; empty where there is none.
    about : str
        What the numbers mean, the ``long_name`` of the array.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    units: str
    about: str

    @property
    def sharded(self) -> bool:
        """Whether one sample is one chunk in a shard; small arrays have one chunk per shard instead."""
        return len(self.dims) > 1

    @property
    def text(self) -> bool:
        """Whether it holds strings."""
        return self.dtype == "str"

    @property
    def missing(self) -> float | int | str:
        """What a sample that is not written yet reads as."""
        if self.text:
            return ""
        if self.dtype.startswith("f"):
            return float("nan")
        return -1 if self.name in ("field", "column_index") else 0

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Lengths along `dims`."""
        return tuple(sizes[dim] for dim in self.dims)

    def file(self, shard: int) -> str:
        """File of one shard, relative to the store."""
        return "/".join((self.name, "c", str(shard), *("0" for _ in self.dims[1:])))


_PICTURE = ("sample", "y", "x")

LAYOUT = (
    ArrayLayout("truth", _PICTURE, "f4", "ADU", "expected value of the detector's output without scan displacement, "
                "streaks, saturation, clipping at either end and defects"),
    ArrayLayout("distorted", _PICTURE, "f4", "ADU", "what the detector put out"),
    ArrayLayout("displacement", ("sample", "axis", "y", "x"), "f2", "px", "probe position minus truth position"),
    ArrayLayout("affine", ("sample", "axis", "coefficient"), "f8", "px", "part of the displacement that is affine: "
                "affine @ [row, col, 1]"),
    ArrayLayout("mask", _PICTURE, "u1", "", "bits of pixels that are not what the detector counted; see flag_meanings"),
    ArrayLayout("class_map", _PICTURE, "u1", "", "what the truth shows: 0 vacuum, 1 amorphous, 2 + n grain n, 255 "
                "unknown"),
    ArrayLayout("split", ("sample",), "str", "", "train, val or test; no structure prototype is in two of them"),
    ArrayLayout("field", ("sample",), "i4", "", "index of the simulation pass"),
    ArrayLayout("physics", ("sample",), "str", "", "how the field was simulated"),
    ArrayLayout("structure", ("sample",), "str", "", "name of the specimen's structure"),
    ArrayLayout("prototype", ("sample",), "str", "", "structure prototype"),
    ArrayLayout("detector", ("sample",), "str", "", "name of the detector"),
    ArrayLayout("sampling", ("sample",), "f8", "Å", "side of a pixel"),
    ArrayLayout("thickness", ("sample",), "f8", "Å", "specimen thickness at the middle of the window; with a thickness "
                "map, exit planes are blended"),
    ArrayLayout("expected_counts", ("sample",), "f8", "electrons/px", "mean electrons per pixel in the truth"),
    ArrayLayout("gain", ("sample",), "f8", "ADU/electron", "detector output per electron"),
    ArrayLayout("black_level", ("sample",), "f8", "ADU", "detector output at no electrons"),
    ArrayLayout("step", ("sample",), "f8", "ADU", "quantisation step, 0 for none"),
    ArrayLayout("column_count", ("sample",), "i4", "", "atom columns in the window"),
    ArrayLayout("column_position", ("sample", "column", "axis"), "f4", "px", "atom columns in the truth; pixel centres "
                "are whole numbers; NaN beyond column_count"),
    ArrayLayout("column_index", ("sample", "column"), "i4", "", "the column's place among those of its field, whose "
                "attribute formula has its content; -1 beyond column_count"),
    ArrayLayout("column_number", ("sample", "column"), "u1", "", "atomic number of the column's heaviest element; 0 "
                "beyond column_count"),
    ArrayLayout("column_intensity", ("sample", "column"), "f4", "ADU px2", "truth less its black level, integrated "
                "over a disc of column_radius; NaN beyond column_count"),
    ArrayLayout("column_radius", ("sample",), "f8", "px", "half of the closest distance between columns of the "
                "structure"),
    ArrayLayout("column_resolved", ("sample", "column"), "u1", "", "0 where the tilt smears the column by more than "
                "0.5 Å"),
    ArrayLayout("drawn", ("sample",), "str", "", "drawn recipe as JSON; rendering it again gives the sample"),
)

# Arrays of a field, and their dimensions.
FIELD_DIMS = {"image": ("thickness", "detector", "field_y", "field_x"), "thickness": ("thickness",),
              "class_map": ("class_y", "class_x"), "column_position": ("column", "axis"), "column_number": ("column",),
              "column_depth": ("column", "end"), "column_atoms": ("column",)}

# Labels along the short dimensions, kept as coordinates.
LABELS = {"axis": ("row", "col"), "coefficient": ("row", "col", "constant")}


def sizes(samples: int, size: int, columns: int) -> dict[str, int]:
    """Length of every dimension.

    Parameters
    ----------
    samples : int
        Number of samples.
    size : int
        Rows and columns of an image in px.
    columns : int
        Most atom columns in a window.
    """
    return {"sample": samples, "y": size, "x": size, "axis": len(LABELS["axis"]),
            "coefficient": len(LABELS["coefficient"]), "column": max(1, columns)}


def field_count(samples: int, fields: int) -> int:
    """Number of fields that some sample is cut from: the first ones, where there are fewer samples than fields."""
    return min(samples, fields)


def shard_count(samples: int, shard: int) -> int:
    """Number of shards; the last may be partial."""
    return -(-samples // shard)


def shard_range(number: int, samples: int, shard: int) -> range:
    """Samples of shard `number`."""
    return range(number * shard, min(samples, (number + 1) * shard))
