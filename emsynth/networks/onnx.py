"""Networks as ONNX files, for other programs: height and width left open, and checked to be the network."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emsynth.errors import NetworkError
from emsynth.networks.cgrdn import CGRDN, FourierUnit
from emsynth.networks.weights import trained_side
from emsynth.streams import generator

OPSET = 18
CHECKED = ((48, 64), (74, 50))
"""Heights and widths at which a file is compared with its network, the latter with odd halves."""
LEAST = 32
"""px, to which smaller images are mirrored, as `emsynth.restoration.neural` does it."""
TOLERANCE = 1e-4
"""Largest difference from the network, as a share of the range of what it returns; rounding leaves about 1e-6."""


def export_onnx(path: str | os.PathLike[str], network: CGRDN, about: dict[str, Any] | None = None) -> float:
    """Write a network as ONNX, whole or not at all: (1, 1, H, W) of float32 in and out, any even sides.

    The file says how it wants its images (``emsynth.normalise``: ``standard``, ``emsynth.level``: ``kept``,
    ``emsynth.multiple``: 2, ``emsynth.least``: 32, with Fourier units ``emsynth.tile``: the side on which it was
    trained), which `emsynth.restoration.network.Network` reads, the network's size (``emsynth.network``), and what is
    known about it (``emsynth.about``), both JSON. Fourier transforms are written as products with matrices, which every
    runtime multiplies alike: onnxruntime's own transform (1.31) fails at sizes other than the first.

    Parameters
    ----------
    path : path
        Of the file, which is replaced.
    network : CGRDN
        Exact or with Fourier units; it is left as it is.
    about : dict, optional
        JSON values.

    Returns
    -------
    float
        Largest difference between the file's images and the network's at two sizes, as a share of their range.

    Raises
    ------
    NetworkError
        A package of the extra ``onnx`` is missing, the file cannot be there or is not called ``*.onnx``, the exporter
        cannot write the network, or what it wrote differs.
    """
    for package in ("onnxscript", "onnxruntime"):
        _needed(package)
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise NetworkError(f"{target}: the name of an ONNX file ends in .onnx, or nothing takes it for one")
    if not target.parent.is_dir():
        raise NetworkError(f"{target}: there is no folder {target.parent} to write it to")
    own = _in_products(network)
    program = _traced(own, target)
    program.model.metadata_props.update(_metadata(network, about or {}))
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        program.save(str(draft), external_data=False)
        difference = _difference(draft, network, target)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return difference


def _metadata(network: CGRDN, about: dict[str, Any]) -> dict[str, str]:
    wanted = {"normalise": "standard", "level": "kept", "multiple": "2", "least": str(LEAST),
              "network": json.dumps(asdict(network.size)), "about": json.dumps(about, sort_keys=True)}
    if network.size.fourier:
        wanted["tile"] = str(trained_side(about))
    return {f"emsynth.{name}": value for name, value in wanted.items()}


class _Products(torch.nn.Module):
    """A Fourier unit by matrix products: as `FourierUnit`, without transforms, which runtimes do not agree on."""

    def __init__(self, unit: FourierUnit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        unit, (rows, cols) = self.unit, features.shape[-2:]
        cos_down, sin_down = _waves(rows, rows)
        cos_across, sin_across = _waves(cols, cols // 2 + 1)
        entered = torch.relu(unit.enter(features))
        real, imaginary = entered @ cos_across, -(entered @ sin_across)
        parts = torch.cat([cos_down @ real + sin_down @ imaginary, cos_down @ imaginary - sin_down @ real], 1)
        real, imaginary = unit.second(torch.relu(unit.first(parts))).chunk(2, 1)
        real, imaginary = cos_down @ real - sin_down @ imaginary, cos_down @ imaginary + sin_down @ real
        # Half of the spectrum stands for all of it: each column for two, but for the first and, of an even side, the
        # last.
        columns = torch.arange(cols // 2 + 1)
        weight = 2.0 - ((columns == 0) | (2 * columns == cols)).to(torch.float32)
        inverse = (real * weight) @ cos_across.mT - (imaginary * weight) @ sin_across.mT
        restored: torch.Tensor = features + unit.leave(inverse)
        return restored


def _waves(side: int, frequencies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, (side, frequencies), over the square root of the side."""
    # Turns are counted in whole numbers, so that high frequencies are as exact as low ones. The exporter knows the
    # remainder of two tensors only where a side is open.
    turns = torch.remainder(torch.arange(side)[:, None] * torch.arange(frequencies), torch.full((1,), side))
    angles = turns.to(torch.float32) * (2 * torch.pi / side)
    return torch.cos(angles) / side**0.5, torch.sin(angles) / side**0.5


def _in_products(network: CGRDN) -> CGRDN:
    """A copy in single precision on the CPU, whose Fourier units do without transforms."""
    own = copy.deepcopy(network).to("cpu", torch.float32).eval()
    for module in list(own.modules()):
        for name, child in module.named_children():
            if isinstance(child, FourierUnit):
                setattr(module, name, _Products(child))
    return own


def _traced(network: CGRDN, target: Path) -> Any:
    height, width = (torch.export.Dim(name, min=1) for name in ("half_height", "half_width"))
    with _quiet():
        try:
            program = torch.onnx.export(
                network, (torch.zeros(1, 1, *CHECKED[0]),), dynamo=True, opset_version=OPSET, verbose=False,
                dynamic_shapes=({2: 2 * height, 3: 2 * width},), input_names=["image"], output_names=["restored"])
            assert program is not None  # with dynamo=True
        except Exception as error:
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            raise NetworkError(f"{target}: torch {torch.__version__} cannot write this network as ONNX "
                               f"({type(reason).__name__}: {' '.join(str(reason).split())[:200]}); use its file of "
                               "weights, or the version of torch that emsynth[train] names") from error
    # The exporter notes where on this computer each line of code is.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in program.model.graph.inputs:
        value.metadata_props.clear()
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about packages that are not needed."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _difference(file: Path, network: CGRDN, target: Path) -> float:
    """Largest difference of the file from the network, as a share of the range."""
    runtime = _needed("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    own = copy.deepcopy(network).to("cpu", torch.float32).eval()
    largest = 0.0
    for index, sides in enumerate(CHECKED):
        image = generator(0, index, "onnx.check").standard_normal((1, 1, *sides)).astype(np.float32)
        with torch.no_grad():
            expected = own(torch.from_numpy(image)).numpy()
        found = session.run(["restored"], {"image": image})[0]
        largest = max(largest, float(np.abs(found - expected).max() / np.ptp(expected)))
    if not largest < TOLERANCE:
        raise NetworkError(f"{target}: what the file makes of an image differs from what the network makes of it by "
                           f"{largest:.2g} of the range (at most {TOLERANCE:g} is rounding), so it was not kept; try "
                           "other versions of torch, onnxscript and onnxruntime")
    return largest


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise NetworkError(f"writing ONNX needs {package}, which is not installed; pip install 'emsynth[train,onnx]'"
                           ) from error
