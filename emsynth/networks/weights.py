"""Files of weights: safetensors with the network's size and what is known about its training; never a pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from emsynth.errors import NetworkError
from emsynth.imagery import replacing
from emsynth.networks.cgrdn import CGRDN, Size

FORMAT = 1
_KEY = "emsynth"
_TRAINING = "emsynth training"  # of the state of a training (emsynth.training.state)
_SIDES = (32, 128)  # px: the least, and what is taken where none is known


def save_weights(path: str | os.PathLike[str], network: CGRDN, about: dict[str, Any] | None = None,
                 half: bool = False) -> Path:
    """Write the weights of a network, whole or not at all.

    Parameters
    ----------
    path : path
        Of the file, which is replaced.
    network : CGRDN
        Whose weights.
    about : dict, optional
        JSON values: recipe, steps, figures.
    half : bool
        Keep them in half precision, which is half the size; they are loaded as single precision all the same.

    Raises
    ------
    NetworkError
        A weight is not finite, or too large for half precision.
    StoreError
        The file cannot be written.
    """
    target = Path(path)
    kind = torch.float16 if half else torch.float32
    tensors = {name: tensor.detach().to("cpu", kind).contiguous() for name, tensor in network.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NetworkError(f"{target}: weight {name} is not finite{' in half precision' if half else ''}, so the "
                               "network is of no use; keep an earlier checkpoint")
    header = {"format": FORMAT, "network": asdict(network.size), "about": about or {}}
    with replacing(target) as file:
        file.write(save(tensors, {_KEY: json.dumps(header, sort_keys=True)}))
        file.flush()
        os.fsync(file.fileno())
    return target


def about_weights(path: str | os.PathLike[str]) -> tuple[Size, dict[str, Any]]:
    """Size of the network in a file, and what is written about it; NetworkError as `load_weights`."""
    return _header(Path(path), _opened(Path(path)))


def trained_side(about: dict[str, Any]) -> int:
    """Side of the patches that a network was trained on, px, made even; 128 where ``about["patch"]`` is none."""
    patch, (least, unknown) = about.get("patch"), _SIDES
    return patch + patch % 2 if isinstance(patch, int) and patch >= least else unknown


def load_weights(path: str | os.PathLike[str]) -> tuple[CGRDN, dict[str, Any]]:
    """The network in a file, in single precision and ready to restore, and what is written about it.

    Raises
    ------
    NetworkError
        There is no such file, it is damaged, or its weights are not those of a CGRDN that emsynth has written.
    """
    source = Path(path)
    opened = _opened(source)
    size, about = _header(source, opened)
    network = _empty(source, size, len(opened.keys()))
    try:
        tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as reason:
        raise NetworkError(f"{source}: is damaged ({_short(reason)}); take another copy of it") from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0]
        raise NetworkError(f"{source}: does not hold the weights of the network that it names ({odd[0]} {odd[1]}); "
                           "take another copy of it")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise NetworkError(f"{source}: holds weights that are not finite; take another checkpoint")
    network.load_state_dict(tensors, assign=True)
    return network.eval(), about


def _empty(path: Path, size: Size, tensors: int) -> CGRDN:
    """A network without numbers: the file's word for its size is not taken before its tensors bear it out."""
    convolutions = size.groups * size.blocks * (size.layers + 1)
    if convolutions > tensors:
        raise NetworkError(f"{path}: does not hold the weights of the network that it names ({convolutions} "
                           f"convolutions and more, in {tensors} tensors); take another copy of it")
    try:
        with torch.device("meta"):
            return CGRDN(size)
    except (RuntimeError, TypeError, OverflowError) as reason:
        raise NetworkError(f"{path}: does not hold the weights of the network that it names ({_short(reason)}); take "
                           "another copy of it") from None


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise NetworkError(f"{path}: there is no such file")
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError) as reason:
        raise NetworkError(f"{path}: is no file of weights, or a damaged one ({_short(reason)}); give a .safetensors "
                           "file that emsynth wrote") from None


def _header(path: Path, opened: Any) -> tuple[Size, dict[str, Any]]:
    """Size and description, of a file that emsynth has written."""
    metadata = opened.metadata() or {}
    if _TRAINING in metadata:
        raise NetworkError(f"{path}: is the state of a training; give weights.safetensors beside it")
    written = metadata.get(_KEY)
    if written is None:
        raise NetworkError(f"{path}: is a safetensors file of something else: it does not say which network its "
                           "weights are of; give one that emsynth wrote, or wrap yours in a function image -> image")
    try:
        header = json.loads(written)
        if header["format"] > FORMAT:
            raise NetworkError(f"{path}: is of format {header['format']}, and this emsynth reads up to {FORMAT}; "
                               "pip install --upgrade emsynth")
        return Size(**header["network"]), dict(header["about"])
    except (KeyError, TypeError, ValueError) as reason:
        if isinstance(reason, NetworkError):
            raise NetworkError(f"{path}: {str(reason).removeprefix(f'{path}: ')}") from None
        raise NetworkError(f"{path}: its description cannot be read ({_short(reason)}); take another copy") from None


def _short(reason: Exception) -> str:
    return " ".join(str(reason).split())[:120]
