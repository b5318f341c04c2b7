"""What training needs and a plain installation lacks."""

from __future__ import annotations

import importlib.util

from emsynth.errors import TrainingError

PACKAGES = ("torch", "lightning_fabric", "safetensors")


def check_installed() -> None:
    """TrainingError where a package of the extra `train` is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(f"training needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
                            "installed; pip install 'emsynth[train]'")
