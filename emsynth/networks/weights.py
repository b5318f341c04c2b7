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
from emsynth.networks.cgrdn import CGRDN, Size

FORMAT = 1
_KEY = "emsynth"


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
    """
    target = Path(path)
    kind = torch.float16 if half else torch.float32
    tensors = {name: tensor.detach().to("cpu", kind).contiguous() for name, tensor in network.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NetworkError(f"{target}: weight {name} is not finite{' in half precision' if half else ''}, so the "
                               "network is of no use; keep an earlier checkpoint")
    header = {"format": FORMAT, "network": asdict(network.size), "about": about or {}}
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            file.write(save(tensors, {_KEY: json.dumps(header, sort_keys=True)}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def about_weights(path: str | os.PathLike[str]) -> tuple[Size, dict[str, Any]]:
    """Size of the network in a file, and what is written about it; NetworkError as `load_weights`."""
    return _header(Path(path), _opened(Path(path)))


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
    # The file's word for its size is not taken before its tensors bear it out.
    with torch.device("meta"):
        network = CGRDN(size)
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
    written = (opened.metadata() or {}).get(_KEY)
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
