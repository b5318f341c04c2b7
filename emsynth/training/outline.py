"""What a training recipe would do, for people, before it does."""

from __future__ import annotations

from emsynth.networks.cgrdn import CGRDN, Size
from emsynth.training.recipe import Stage, TrainingRecipe


def outline(recipe: TrainingRecipe) -> list[tuple[str, str]]:
    """Words and what they stand for: network, data, one line for each stage, hardware."""
    network = CGRDN(Size(**recipe.network.model_dump(exclude={"start"})))
    building, hardware = recipe.data.building, recipe.hardware
    there = "is there" if recipe.library.exists() else "to be made"
    return [
        ("name", recipe.name),
        ("network", f"CGRDN {recipe.network.layers}/{recipe.network.growth}, {network.parameters_in_all:,} parameters, "
                    + (f"Fourier units of {recipe.network.fourier} channels" if recipe.network.fourier else "exact")),
        ("data", f"{building.fields:,} fields of {building.name} ({recipe.library}, {there}), distorted afresh in "
                 f"{len(recipe.data.chains())} way{'s' if len(recipe.data.chains()) > 1 else ''}"),
        *((f"stage {number + 1}", _stage(stage, building.image.size)) for number, stage in enumerate(recipe.stages)),
        ("samples", f"{recipe.total:,}"),
        ("hardware", f"{hardware.devices} x {hardware.accelerator} on {hardware.nodes} "
                     f"machine{'s' if hardware.nodes > 1 else ''}, {hardware.precision}"),
        ("digest", recipe.digest[:16]),
    ]


def _stage(stage: Stage, size: int) -> str:
    losses = ", ".join(f"{name} {weight:g}" for name, weight in stage.losses.model_dump().items() if weight)
    side = stage.patch or size
    return (f"{stage.name}: {stage.samples:,} samples of {side} x {side} px, {stage.batch} at a time, learning rate "
            f"{stage.rate.peak:g} ({stage.rate.decay}); {losses}")
