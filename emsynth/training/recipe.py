"""The training recipe: one document that says which data, which network and which losses, in which order."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from emsynth import document
from emsynth.complaints import explain
from emsynth.distortion import Chain
from emsynth.draw import Strict
from emsynth.errors import RecipeError
from emsynth.recipe import Recipe, digest_of
from emsynth.training.basket import Basket

_BEGINS = "name, data, network, stages"
_JUDGED = 24  # px: least side that the discriminator takes


class Mixed(Strict):
    """One way to distort, and its share of the samples."""

    share: float = Field(1.0, gt=0, description="weight among the others")
    distort: Chain | None = Field(None, description="as in a recipe; without it, the recipe's own")


class Data(Strict):
    """What is learnt from: the fields of a recipe, distorted afresh for every sample."""

    recipe: str = Field(description="a building recipe: the name of a shipped one, or a file")
    settings: tuple[str, ...] = Field((), alias="set", description="changes of it, KEY=VALUE as emsynth build takes "
                                                                "them")
    library: str | None = Field(None, description="data set with its fields; made where it is missing, by default "
                                                  "datasets/<recipe>-<digest>.zarr")
    distort: tuple[Mixed, ...] = Field((), description="what to distort by, each sample by one of these; by default "
                                                       "the recipe's own section")
    workers: int = Field(0, ge=0, le=256, description="processes that prepare batches; 0 for threads of the trainer")
    threads: int = Field(1, ge=0, le=64, description="threads that prepare batches where there are no processes")
    memory: float = Field(4.0, gt=0, description="GB of fields that each process may hold")

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.building  # noqa: B018 - whoever reads a training recipe wants to know now what is wrong with its data
        return self

    @cached_property
    def building(self) -> Recipe:
        """The building recipe with its changes."""
        try:
            return Recipe.load(self.recipe, list(self.settings))
        except RecipeError as reason:
            said = str(reason)
            raise ValueError(f"set: {said.removeprefix('--set ')}" if said.startswith("--set ") else f"recipe: {said}"
                             ) from None

    def chains(self) -> tuple[tuple[float, Chain], ...]:
        """What to distort by, with shares."""
        own = self.building.distort
        return tuple((mixed.share, mixed.distort or own) for mixed in self.distort) or ((1.0, own),)


class Network(Strict):
    """The numbers of a CGRDN; see `emsynth.networks.cgrdn.Size`."""

    layers: int = Field(4, ge=1, le=64, description="dense convolutions of a block")
    growth: int = Field(32, ge=1, le=1024, description="channels that each adds")
    width: int = Field(64, ge=1, le=1024, description="channels between blocks")
    groups: int = Field(4, ge=1, le=64, description="groups of blocks")
    blocks: int = Field(4, ge=1, le=64, description="blocks of a group")
    fourier: int = Field(0, ge=0, le=1024, description="channels inside of the Fourier unit in front of each block; 0 "
                                                       "for the network of the paper, which has none")
    start: str | None = Field(None, description="file of weights to begin with; by default random ones")


class Rate(Strict):
    """The learning rate of a stage."""

    peak: float = Field(1e-3, gt=0, le=1, description="after the warm-up")
    warm_up: int = Field(512, ge=0, description="steps of a linear rise")
    decay: Literal["cosine", "exponential", "none"] = Field("cosine", description="cosine falls to `floor` at the "
                                                            "end of the stage; exponential by `factor` for each `per` "
                                                            "samples")
    floor: float = Field(0.01, ge=0, le=1, description="share of the peak at the end of a cosine")
    factor: float = Field(0.85, gt=0, le=1, description="of an exponential decay")
    per: int = Field(250_000, ge=1, description="samples of an exponential decay")


class Stage(Strict):
    """A part of the training, under one set of losses."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")] = Field(description="for the log")
    samples: int = Field(ge=1, description="pairs to learn from, over all ranks")
    batch: int = Field(8, ge=1, description="pairs of a step, on each rank")
    patch: int | None = Field(None, ge=16, description="side of the patches [px]; by default whole windows")
    rate: Rate = Rate()
    losses: Basket = Basket()
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: it is left as it is")

    def rate_at(self, step: int, steps: int, world: int = 1) -> float:
        """Learning rate of a step from 0 on, of `steps` on `world` ranks: a rise over the warm-up, times the decay."""
        rate = self.rate
        rise = min(1.0, (step + 1) / rate.warm_up) if rate.warm_up else 1.0
        if rate.decay == "cosine":
            fall = rate.floor + (1 - rate.floor) * 0.5 * (1 + math.cos(math.pi * step / steps))
        elif rate.decay == "exponential":
            fall = rate.factor ** (step * self.batch * world / rate.per)
        else:
            fall = 1.0
        return rate.peak * rise * fall


class Optimiser(Strict):
    """Adam."""

    beta1: float = Field(0.9, ge=0, lt=1, description="of the generator")
    beta1_discriminator: float = Field(0.5, ge=0, lt=1, description="of the discriminator")
    beta2: float = Field(0.999, ge=0, lt=1, description="of both")
    epsilon: float = Field(1e-5, gt=0, description="of both")


class Hardware(Strict):
    """What it runs on; see lightning-fabric."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1, description="GPUs, or processes on the CPU, of each machine")
    nodes: int = Field(1, ge=1, description="machines")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="bf16-mixed is three times as quick on processors with AMX, and on GPUs since Ampere")
    threads: int | None = Field(None, ge=1, description="of torch on the CPU; by default all cores")


class Watching(Strict):
    """What is looked at on the way."""

    every: int = Field(20_000, ge=1, description="samples between two validations")
    images: int = Field(32, ge=1, le=4096, description="pairs of the val split")
    log: int = Field(100, ge=1, description="steps between two rows of metrics.csv")
    tensorboard: bool = Field(False, description="write events for TensorBoard too (extra tensorboard)")


class TrainingRecipe(Strict):
    """A training in one document."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = Field(description="of the run")
    seed: int = Field(0, ge=0, lt=2**63, description="same seed, same training on one machine")
    data: Data
    network: Network = Network()
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    average: float = Field(0.999, ge=0, lt=1, description="decay of the moving average of the weights; 0 for none")
    hardware: Hardware = Hardware()
    validation: Watching = Watching()
    checkpoint: float = Field(10.0, gt=0, description="minutes between two checkpoints")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size = self.data.building.image.size
        names = [stage.name for stage in self.stages]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(f"stages.{number}.name: {name!r} is the name of an earlier stage; give it its own")
        for number, stage in enumerate(self.stages):
            if (stage.patch or size) > size:
                raise ValueError(f"stages.{number}.patch: {stage.patch} px is more than the {size} px of the windows; "
                                 f"lower it, or set image.size in data.set")
            if stage.losses.adversarial and (stage.patch or size) < _JUDGED:
                raise ValueError(f"stages.{number}.patch: {stage.patch or size} px is too small for the discriminator, "
                                 f"which needs {_JUDGED} px; take larger ones, or losses.adversarial: 0")
            if (stage.patch or size) % 2:
                raise ValueError(f"stages.{number}.patch: {stage.patch or size} px is odd; the network halves it")
        return self

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """Read a training recipe.

        Parameters
        ----------
        path_or_name : path or str
            A YAML file, or the name of a shipped one.
        overrides : sequence of str
            ``KEY=VALUE`` changes, dotted keys; a stage is named by its name or its number.

        Raises
        ------
        RecipeError
            One line per mistake: ``file:line: path: message``.
        """
        read = document.read(document.find(path_or_name))
        for override in overrides:
            read.override(override)
        _resolve(read)
        if "stages" not in read.content:
            own = f"train_{read.path.stem}.yaml"
            there = any((folder / own).is_file() for folder in document.shipped_folders())
            known = f"needed: {_BEGINS}" if "samples" not in read.content else (
                "it is a building recipe, for emsynth build" + (f"; {own[:-5]} trains on it" if there else ""))
            raise RecipeError(f"{read.path}:1: is no training recipe; {known}")
        try:
            return cls.model_validate(read.content)
        except ValidationError as error:
            raise RecipeError("\n".join(explain(error, read))) from None

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what is learnt: not of how it is watched, or on how many threads."""
        return digest_of(self._deciding(len(self.stages)))

    def digest_of_first(self, stages: int) -> str:
        """The same up to a stage, but for how fast that learns: what may not change while a training goes on."""
        return digest_of(self._fixed(stages))

    def changed_since(self, other: TrainingRecipe, stages: int) -> list[str]:
        """Keys that decide what the first stages learn, and that another recipe has otherwise."""
        mine, theirs = _flat(self._fixed(stages)), _flat(other._fixed(stages))
        return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))

    def _deciding(self, stages: int) -> dict[str, Any]:
        content = self.content()
        content["stages"] = content["stages"][:stages]
        for aside in ("name", "hardware", "validation", "checkpoint"):
            del content[aside]
        for name in ("workers", "threads", "memory", "library", "recipe", "set"):
            del content["data"][name]
        content["data"]["building"] = self.data.building.digest
        start = self.network.start
        if start is not None and os.path.isfile(start):
            content["network"]["start"] = hashlib.sha256(Path(start).read_bytes()).hexdigest()
        return content

    def _fixed(self, stages: int) -> dict[str, Any]:
        content = self._deciding(stages)
        # A training that diverges goes on at a lower rate.
        for name in ("rate", "clip") if content["stages"] else ():
            content["stages"][-1].pop(name)
        return content

    def content(self) -> dict[str, Any]:
        """The recipe as JSON values, under its keys in YAML."""
        written: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True))
        return written

    @property
    def total(self) -> int:
        """Samples of all stages."""
        return sum(stage.samples for stage in self.stages)

    @property
    def library(self) -> Path:
        """Where the fields are, or will be."""
        if self.data.library is not None:
            return Path(self.data.library)
        building = self.data.building
        return Path("datasets") / f"{building.name}-{building.digest[:8]}.zarr"


def _flat(content: Any, at: str = "") -> dict[str, Any]:
    """Plain values by their dotted keys."""
    if isinstance(content, dict | list):
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        return {key: value for name, part in entries for key, value in _flat(part, f"{at}.{name}" if at else str(name)
                                                                             ).items()}
    return {at: content}


def _resolve(read: document.Document) -> None:
    """Make the files that are named in a training recipe relative to it, where they are files."""
    data, network = read.content.get("data"), read.content.get("network")
    for part, key in ((data, "recipe"), (network, "start")):
        if isinstance(part, dict) and isinstance(part.get(key), str):
            beside = read.path.parent / os.path.expanduser(part[key])
            if beside.is_file():
                part[key] = str(beside.resolve())
