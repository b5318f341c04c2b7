"""The state of a training: everything that is needed to go on exactly, in one safetensors file; never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from emsynth.errors import EmsynthError, TrainingError
from emsynth.imagery import replacing
from emsynth.training.recipe import TrainingRecipe

FORMAT = 1
_KEY = "emsynth training"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Progressed:
    """How far a training is.

    Attributes
    ----------
    stage, step : int
        Stage of the recipe, and steps made in it.
    steps, samples : int
        Made in all stages.
    seconds : float
        Spent, in all runs together.
    """

    stage: int = 0
    step: int = 0
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0

    def stepped(self, samples: int) -> Progressed:
        """After one more step."""
        return replace(self, step=self.step + 1, steps=self.steps + 1, samples=self.samples + samples)

    @property
    def begun(self) -> int:
        """Stages that have begun."""
        return self.stage + (self.step > 0)

    def next_stage(self) -> Progressed:
        """At the beginning of the next stage."""
        return replace(self, stage=self.stage + 1, step=0)


def write_state(path: Path, progressed: Progressed, about: Mapping[str, Any], modules: Mapping[str, torch.nn.Module],
                optimisers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Write a checkpoint, whole or not at all.

    Parameters
    ----------
    path : Path
        Of the file, which is replaced.
    progressed : Progressed
        How far it is.
    about : mapping
        JSON values: ``digest`` of the training recipe up to the last stage that has begun and ``world``, how many ranks
        there are, both of which whoever goes on must have too; ``scaler``, state of the gradient scaler; and others.
    modules, optimisers : mapping
        By name; an optimiser of the same name as a module has that module's parameters.
    """
    tensors: Tensors = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimiser in optimisers.items():
        tensors |= _of_optimiser(optimiser, modules[name], name)
    plain = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
    header = {**about, "format": FORMAT, "progressed": asdict(progressed)}
    written = save(plain, {_KEY: json.dumps(header)})
    with replacing(path) as file:
        file.write(written)
        file.flush()
        os.fsync(file.fileno())


def read_state(path: Path, recipe: TrainingRecipe, world: int, modules: Mapping[str, torch.nn.Module],
               optimisers: Mapping[str, torch.optim.Optimizer]) -> tuple[Progressed, dict[str, Any]]:
    """Put a checkpoint into modules and optimisers; returns how far it is, and what is written about it.

    What a stage that has not begun brings, such as a discriminator, need not be in it.

    Raises
    ------
    TrainingError
        There is none, it is damaged, or of another training recipe.
    """
    header, tensors = _read(path)
    progressed = Progressed(**header["progressed"])
    if header.get("world", world) != world:
        raise TrainingError(f"{path}: is of {header['world']} processes, and there are {world} now, which would take "
                            "other samples; go on with as many (hardware.devices, hardware.nodes)")
    if header["digest"] != recipe.digest_of_first(progressed.begun):
        changed = _difference(path, recipe, progressed.begun)
        raise TrainingError(f"{path}: is of another training: {changed} changed since; go on with the recipe"
                            " that began it (recipe.yaml beside it), or train into another --out")
    try:
        there = {key.partition("/")[0] for key in tensors}
        for name, module in modules.items():
            if name in there or name == "network":
                module.load_state_dict(_below(tensors, name))
        for name, optimiser in optimisers.items():
            _into_optimiser(optimiser, modules[name], _below(tensors, f"{name}.adam"))
    except (KeyError, RuntimeError) as reason:
        said = " ".join(str(reason).split())[:120]
        raise TrainingError(f"{path}: does not hold the state of this network ({said}); begin anew in another "
                            "--out") from None
    return progressed, header


def _read(path: Path) -> tuple[dict[str, Any], Tensors]:
    if not path.is_file():
        raise TrainingError(f"{path}: there is no checkpoint; leave --resume out to begin")
    try:
        with safe_open(str(path), framework="pt") as opened:
            header = json.loads((opened.metadata() or {})[_KEY])
            if header["format"] > FORMAT:
                raise TrainingError(f"{path}: is of format {header['format']}, and this emsynth reads up to {FORMAT}; "
                                    "pip install --upgrade emsynth")
            return header, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError) as reason:
        said = " ".join(str(reason).split())[:120]
        raise TrainingError(f"{path}: is no checkpoint of a training, or a damaged one ({said}); take a copy of it, or "
                            "begin anew in another --out") from None


def _difference(path: Path, recipe: TrainingRecipe, stages: int) -> str:
    """Which keys are others than in the recipe that a run keeps beside its checkpoint."""
    try:
        keys = recipe.changed_since(TrainingRecipe.load(path.with_name("recipe.yaml")), stages)
    except EmsynthError:
        keys = []
    named = ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
    return named or "data, network, seed, optimiser or a stage that has begun"


def _below(tensors: Tensors, name: str) -> Tensors:
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _of_optimiser(optimiser: torch.optim.Optimizer, module: torch.nn.Module, name: str) -> Tensors:
    """What an optimiser remembers of each parameter, by the parameter's name."""
    found: Tensors = {}
    for key, parameter in module.named_parameters():
        for what, value in optimiser.state.get(parameter, {}).items():
            found[f"{name}.adam/{key}/{what}"] = torch.as_tensor(value)
    return found


def _into_optimiser(optimiser: torch.optim.Optimizer, module: torch.nn.Module, tensors: Tensors) -> None:
    remembered: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        parameter, what = key.rsplit("/", 1)
        remembered.setdefault(parameter, {})[what] = value
    named = dict(module.named_parameters())
    for key, state in remembered.items():
        weight = named[key]
        # Adam counts its steps on the CPU, and keeps its moments in the layout of the parameter.
        optimiser.state[weight] = {what: value if what == "step" else torch.empty_like(weight).copy_(value)
                                   for what, value in state.items()}
