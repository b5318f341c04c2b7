"""Training a restorer: read from top to bottom, this file is the experiment."""

from __future__ import annotations

import importlib.metadata
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning_fabric
import torch

from emsynth.builder import Progress
from emsynth.errors import TrainingError
from emsynth.imagery import write_npz
from emsynth.networks.cgrdn import CGRDN, Size
from emsynth.networks.discriminator import PatchDiscriminator, with_noise
from emsynth.networks.weights import load_weights, save_weights
from emsynth.streams import stream_key
from emsynth.training import state
from emsynth.training.data import Feed, Pairs, field_library
from emsynth.training.folder import CHECKPOINT, alone_in
from emsynth.training.logbook import Logbook
from emsynth.training.losses import adversarial_discriminator, generator_loss
from emsynth.training.pace import Meter, stoppable
from emsynth.training.recipe import Stage, TrainingRecipe
from emsynth.training.state import Progressed
from emsynth.training.validation import Validation

WEIGHTS = "weights.safetensors"
_AVERAGE_BEGINS = 10  # steps: the average of the first ones forgets quickly
_CHANNELS_LAST = torch.channels_last


def train(recipe: TrainingRecipe, out: Path | None = None, resume: bool = False,
          progress: Progress | None = None) -> Path:
    """Train a network as a recipe says, or go on with it.

    Parameters
    ----------
    recipe : TrainingRecipe
        Data, network, stages.
    out : Path, optional
        Folder of the run; by default ``runs/<name>``.
    resume : bool
        Go on from the checkpoint in that folder.
    progress : Progress, optional
        Who wants to know how far the simulation of missing fields is.

    Returns
    -------
    Path
        The weights, averaged where the recipe averages them. Beside them lie ``recipe.yaml``, ``metrics.csv``,
        ``checkpoint.safetensors``, and a picture of each validation.

    Raises
    ------
    TrainingError
        It cannot begin or go on; or a loss is not a number, in which case the batch is kept.
    StoreExistsError
        There is a run in that folder, and `resume` was not asked for.
    KeyboardInterrupt
        It was stopped, and has saved a checkpoint.
    """
    folder = out or Path("runs") / recipe.name
    fabric = launched(recipe)
    with alone_in(folder, resume, fabric.is_global_zero):
        library = field_library(recipe, progress) if fabric.is_global_zero else recipe.library
        fabric.barrier()
        with stoppable() as stop:
            run = Run(fabric, recipe, folder, library, resume, stop)
            try:
                for number, stage in enumerate(recipe.stages):
                    if number >= run.progressed.stage:
                        run.learn(number, stage)
                run.save()
            finally:
                run.logbook.close()
    return folder / WEIGHTS


@dataclass
class Run:
    """One training: its networks, and how far it is."""

    fabric: lightning_fabric.Fabric
    recipe: TrainingRecipe
    folder: Path
    library: Path
    resume: bool
    stop: Callable[[], bool]
    progressed: Progressed = field(init=False, default_factory=Progressed)
    figures: dict[str, float | None] = field(init=False, default_factory=dict)
    wrong: TrainingError | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_key(self.recipe.seed, 0, "training.weights") >> 65)
            self.network = _quick(starting_network(self.recipe))
            critic = PatchDiscriminator() if any(stage.losses.adversarial for stage in self.recipe.stages) else None
        self.average = CGRDN(self.network.size).requires_grad_(False) if self.recipe.average else None
        if self.average is not None:
            self.average.load_state_dict(self.network.state_dict())
            _quick(self.average).to(self.fabric.device)
        own, first = self.recipe.optimiser, self.recipe.stages[0].rate.peak
        adam = torch.optim.Adam(self.network.parameters(), first, betas=(own.beta1, own.beta2), eps=own.epsilon)
        self.modules: dict[str, torch.nn.Module] = {"network": self.network}
        self.optimisers: dict[str, torch.optim.Optimizer] = {"network": adam}
        if self.average is not None:
            self.modules["average"] = self.average
        self.generator, self.adam = self.fabric.setup(self.network, adam)
        if critic is not None:
            self.modules["critic"], self.optimisers["critic"] = critic, torch.optim.Adam(
                critic.parameters(), first, betas=(own.beta1_discriminator, own.beta2), eps=own.epsilon)
            self.critic, self.critic_adam = self.fabric.setup(critic, self.optimisers["critic"])
        if self.resume:
            self.progressed, about = state.read_state(self.folder / CHECKPOINT, self.recipe, self.fabric.world_size,
                                                      self.modules, self.optimisers)
            self.figures = about["figures"]
            self.fabric.strategy.precision.load_state_dict(about["scaler"])
        self.saved, self.began = time.monotonic(), time.monotonic() - self.progressed.seconds
        if self.fabric.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            _keep(self.folder / "recipe.yaml", self.recipe)
            self.validation = Validation(self.library, self.recipe.validation.images, self.recipe.data.building,
                                         chains=self.recipe.data.chains())
        self.logbook = Logbook(self.folder, self.progressed.steps if self.resume else None,
                               steps=sum(self.steps_of(stage) for stage in self.recipe.stages),
                               tensorboard=self.recipe.validation.tensorboard, rank=self.fabric.global_rank)
        if not self.resume:
            self.save()  # so that there is something to go on from, whatever happens

    def steps_of(self, stage: Stage) -> int:
        """Steps of a stage: its samples are those of all ranks."""
        return max(1, round(stage.samples / (stage.batch * self.fabric.world_size)))

    def learn(self, number: int, stage: Stage) -> None:
        """Go through a stage, from where it is."""
        feed = Feed(self.recipe, self.library, number, self.fabric.global_rank, self.fabric.world_size)
        steps = self.steps_of(stage)
        self.learn_until(stage, feed, steps, steps)
        self.progressed = self.progressed.next_stage()

    def learn_until(self, stage: Stage, feed: Feed, until: int, steps: int) -> None:
        """Go on to a step of a stage that has so many."""
        meter, batches = Meter(feed), feed.batches(self.progressed.step)
        together = stage.batch * self.fabric.world_size
        while self.progressed.step < until:
            rate = stage.rate_at(self.progressed.step, steps, self.fabric.world_size)
            losses = self.step(stage, next(batches), rate)
            lost, stopped, due = self.agreed(self.wrong is not None, self.stop(),
                                             time.monotonic() - self.saved > 60 * self.recipe.checkpoint)
            if lost:
                raise self.wrong or TrainingError("another process has lost its way; see its message")
            self.progressed = self.progressed.stepped(together)
            meter.add(losses, together)
            last, samples = self.progressed.step == steps, self.progressed.samples
            place: dict[str, Any] = {"step": self.progressed.steps, "samples": samples, "stage": stage.name,
                                     "epoch": feed.position(self.progressed.step)[0]}
            if self.progressed.steps % self.recipe.validation.log == 0 or last:
                self.logbook.trained(**place, lr=rate, **meter.read())
            if _passed(samples - together, samples, self.recipe.validation.every) or last:
                with meter.paused():
                    self.validate(place)
            if due or stopped or last:
                self.save()
            if stopped:
                raise KeyboardInterrupt(f"stopped after step {self.progressed.steps:,}; go on with --resume")

    def step(self, stage: Stage, pairs: Pairs, rate: float) -> dict[str, float]:
        """One step of the generator, after one of the discriminator where there is one; returns the losses."""
        distorted = pairs.distorted.to(self.fabric.device, memory_format=_CHANNELS_LAST, non_blocking=True)
        truth = pairs.truth.to(self.fabric.device, non_blocking=True)
        restored = self.generator(distorted)
        parts, logits = {}, None
        if stage.losses.adversarial:
            parts["discriminator"] = self.judge(distorted, restored.detach(), truth, rate)
            logits = self.opinion(self.modules["critic"].requires_grad_(False), distorted, restored, truth, "generator")
        loss, found = generator_loss(stage.losses, restored, truth, logits)
        parts |= found
        self.adam.zero_grad()
        self.fabric.backward(loss)
        gradient = self.descend(self.generator, self.adam, rate, stage.clip)
        self.follow()
        # Judged after the step, which is not kept: of several processes all have to stop.
        if not all(map(math.isfinite, (loss.item(), gradient, *map(float, parts.values())))):
            self.wrong = self.lost(stage, pairs, parts | {"gradient": torch.tensor(gradient)})
        return {"loss": loss.item(), **{name: float(value) for name, value in parts.items()}}

    def judge(self, distorted: torch.Tensor, restored: torch.Tensor, truth: torch.Tensor, rate: float) -> torch.Tensor:
        """One step of the discriminator."""
        self.critic.requires_grad_(True)
        loss = adversarial_discriminator(*self.opinion(self.critic, distorted, restored, truth, "discriminator"))
        self.critic_adam.zero_grad()
        self.fabric.backward(loss)
        self.descend(self.critic, self.critic_adam, rate, None)
        return loss.detach()

    def opinion(self, critic: Any, distorted: torch.Tensor, restored: torch.Tensor, truth: torch.Tensor,
                purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What the discriminator says of the truth, and of the restored images."""
        key = stream_key(self.recipe.seed, self.progressed.steps, f"training.{purpose}.{self.fabric.global_rank}")
        numbers = torch.Generator().manual_seed(key >> 65)
        given, true, made = (with_noise(image, truth, numbers) for image in (distorted, truth, restored.float()))
        with self.fabric.autocast():
            # In one pass: batch normalisation would tell them apart by their statistics, and DDP allows one.
            real, false = critic(torch.cat([given, given]), torch.cat([true, made])).chunk(2)
        return real, false

    def descend(self, module: Any, adam: Any, rate: float, clip: float | None) -> float:
        """One step of an optimiser down the gradient that is there; returns the gradient's norm."""
        norm = self.fabric.clip_gradients(module, adam, max_norm=clip or math.inf, error_if_nonfinite=False)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        # A scaler finds out by itself which scale is too large.
        return 0.0 if self.fabric.strategy.precision.state_dict() or norm is None else float(norm)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average of the weights after them."""
        if self.average is None:
            return
        done = self.progressed.steps + 1
        weight = 1 - min(self.recipe.average, done / (done + _AVERAGE_BEGINS))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), weight)

    def validate(self, place: dict[str, Any]) -> None:
        """Restore the validation's images, write down how well, and draw some of them."""
        if self.fabric.is_global_zero:
            judged = self.average or self.network
            found = self.validation.run(judged)
            self.figures = {name: value if math.isfinite(value) else None for name, value in found.items()}
            self.logbook.validated(**place, figures=found)
            self.validation.picture(self.folder / "validation" / f"step_{place['step']:06d}.png", judged)
        self.fabric.barrier()

    def save(self) -> None:
        """Write a checkpoint, and the weights as they are."""
        self.saved = time.monotonic()
        self.progressed = replace(self.progressed, seconds=self.saved - self.began)
        if self.fabric.is_global_zero:
            # Weights first: they are refused where they are not finite, and the last good checkpoint stays.
            save_weights(self.folder / WEIGHTS, self.average or self.network, self.about())
            state.write_state(self.folder / CHECKPOINT, self.progressed, {
                "digest": self.recipe.digest_of_first(self.progressed.begun), "world": self.fabric.world_size,
                "figures": self.figures, "scaler": self.fabric.strategy.precision.state_dict()},
                self.modules, self.optimisers)
        self.fabric.barrier()

    def about(self) -> dict[str, Any]:
        """What the file of weights says of them."""
        building = self.recipe.data.building
        stage = self.recipe.stages[max(self.progressed.begun - 1, 0)]
        pixel = building.image.pixel_size
        return {"name": self.recipe.name, "recipe": self.recipe.content(), "digest": self.recipe.digest,
                "data": building.name, "data_digest": building.digest, "steps": self.progressed.steps,
                "samples": self.progressed.samples, "of_samples": self.recipe.total,
                "hours": round(self.progressed.seconds / 3600, 3), "patch": stage.patch or building.image.size,
                "pixel_size": list(pixel.support()) if not isinstance(pixel, float | int) else [pixel, pixel],
                "hardware": f"{self.fabric.world_size} x {self.fabric.device.type}, {self.recipe.hardware.precision}",
                "validation": self.figures,
                "versions": {name: importlib.metadata.version(name) for name in ("emsynth", "torch", "numpy")}}

    def agreed(self, *asked: bool) -> list[bool]:
        """What any process asks for: all of them have to do it, after the same step."""
        if self.fabric.world_size == 1:
            return list(asked)
        told = torch.tensor([float(one) for one in asked], device=self.fabric.device)
        summed: Any = self.fabric.all_reduce(told, reduce_op="sum")
        return [bool(one) for one in summed.tolist()]

    def lost(self, stage: Stage, pairs: Pairs, parts: dict[str, torch.Tensor]) -> TrainingError:
        """Keep the batch at which a loss was not a number; what to say of it."""
        step, rank = self.progressed.steps + 1, self.fabric.global_rank
        kept = self.folder / f"lost_step_{step:06d}_rank_{rank}.npz"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_npz(kept, {"distorted": pairs.distorted.numpy(), "truth": pairs.truth.numpy(), "index": pairs.samples})
        wrong = ", ".join(name for name, value in parts.items() if not math.isfinite(float(value))) or "the sum"
        return TrainingError(
            f"step {step:,} (stage {stage.name}): the loss is not a number ({wrong}); samples "
            f"{', '.join(map(str, pairs.samples.tolist()))} are kept in {kept}. Go on from the last checkpoint with "
            f"--resume and a lower learning rate (--set stages.{stage.name}.rate.peak=...), or with hardware.precision "
            "32-true")


def launched(recipe: TrainingRecipe) -> lightning_fabric.Fabric:
    """The hardware of a recipe, with its processes."""
    if recipe.hardware.threads is not None:
        torch.set_num_threads(recipe.hardware.threads)
    fabric = check_hardware(recipe)
    fabric.launch()
    return fabric


def check_hardware(recipe: TrainingRecipe) -> lightning_fabric.Fabric:
    """The hardware of a recipe before anything runs on it; TrainingError where it is not there."""
    wanted = recipe.hardware
    if wanted.precision == "16-mixed" and (wanted.accelerator == "cpu" or not torch.cuda.is_available()):
        raise TrainingError("hardware.precision: 16-mixed is for GPUs, and this is a CPU; take bf16-mixed or 32-true")
    try:
        fabric = lightning_fabric.Fabric(accelerator=wanted.accelerator, devices=wanted.devices,
                                         num_nodes=wanted.nodes, precision=wanted.precision)
    except (RuntimeError, ValueError, ImportError) as reason:
        there = "cuda, cpu" if torch.cuda.is_available() else "cpu"
        raise TrainingError(f"hardware: {wanted.accelerator} with {wanted.devices} devices and {wanted.precision} "
                            f"cannot be had here (available: {there}; {' '.join(str(reason).split())[:160]})") from None
    return fabric


def starting_network(recipe: TrainingRecipe) -> CGRDN:
    """As the recipe has it; TrainingError where the weights to begin with are of another one."""
    numbers = recipe.network.model_dump(exclude={"start"})
    if recipe.network.start is None:
        return CGRDN(Size(**numbers))
    network, _ = load_weights(recipe.network.start)
    if network.size != Size(**numbers):
        raise TrainingError(f"network.start: {recipe.network.start} is of {network.size}, and the recipe wants "
                            f"{Size(**numbers)}")
    return network.train()


def _quick(network: Any) -> CGRDN:
    """A network in the layout in which convolutions are quickest."""
    laid: CGRDN = network.to(memory_format=_CHANNELS_LAST)
    return laid


def _keep(path: Path, recipe: TrainingRecipe) -> None:
    """The recipe with everything filled in; JSON is YAML too."""
    path.write_text(json.dumps(recipe.content(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _passed(before: int, now: int, every: int) -> bool:
    return before // every != now // every
