"""The networks whose weights come with emsynth, by name."""

from __future__ import annotations

from pathlib import Path

_WEIGHTS = Path(__file__).with_name("weights")


def shipped() -> dict[str, Path]:
    """Files of weights by the name of the network, in alphabetical order."""
    return {path.stem: path for path in sorted(_WEIGHTS.glob("*.safetensors"))}
