"""The loop that every stage of training runs in: optimiser, learning rate, average of weights, checkpoints.

A batch is a function of (seed, step, process), so a run that was killed and resumed ends in the weights of one that was not. Several
processes, on GPUs or hosts, each learn from their own batches, and average their gradients. It knows nothing of what is trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn

from engine.errors import InputError
from engine.training import checkpoint
from engine.training.batches import Batches
from engine.training.checkpoint import Learnt, State
from engine.training.journal import Journal
from engine.training.precision import Precision, mixed


class Stage(Protocol):
    """What is trained. `modules` holds every weight that moves; `average` is its slow copy, which is what counts."""

    name: str
    modules: nn.ModuleDict

    def batch(self, rng: np.random.Generator, progress: float) -> Any:
        """A random batch, drawn with `rng` alone, on the CPU: a dataclass. `progress` 0 to 1 through the run.

        It is drawn in a thread beside the one that learns.
        """
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch whose tensors are on the device of `modules`, and its parts."""
        ...

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """Figures on held-out frames, and a picture (H, W, 3) uint8 to look at."""
        ...


@runtime_checkable
class OwnTarget(Protocol):
    """A stage that learns from its own average, which the loop lends it: consistency distillation."""

    average: nn.ModuleDict


@dataclass(frozen=True)
class Recipe:
    """How long and how fast.

    A run is `steps` long, and `minutes` are then what one piece of it may take; without `steps` it is `minutes` long.
    """

    rate: float = 1e-3
    final: float = 0.02  # of `rate`, where the cosine ends
    warm_up: int = 50
    weight_decay: float = 1e-2
    clip: float = 1.0
    decay: float = 0.998  # of the average
    accumulate: int = 1  # batches a step
    precision: Precision = "auto"
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    save_seconds: float = 30.0
    validate_seconds: float = 180.0

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done after so many steps and seconds of training; 1 at its end."""
        if self.steps is not None:
            return step / self.steps
        return seconds / (60 * self.minutes) if self.minutes else 1.0


class Learner(nn.Module):
    """A stage as a module whose forward is its loss, so that its gradients can be averaged over processes."""

    def __init__(self, stage: Stage, device: torch.device, precision: Precision) -> None:
        super().__init__()
        self.learnt, self._stage = stage.modules, stage
        self._device, self._precision = device, precision

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        with mixed(self._precision, self._device):
            return self._stage.loss(batch)


def machine(device: str | None = None) -> Accelerator:
    """Where to train: on `device` (cpu, cuda), by default on a GPU where there is one, in all processes of torchrun."""
    if device not in (None, "cpu", "cuda"):
        raise InputError("train", "device", "cpu or cuda", str(device))
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("train", "device", "a GPU that torch can use", "none")
    # A phase of training may leave a network out, such as the decoder while the loss is on latents.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[unused])


def run(
    stage: Stage,
    folder: Path,
    recipe: Recipe,
    accelerator: Accelerator | None = None,
    *,
    config: str = "",
    clock: Callable[[], float] = time.monotonic,
    began: float | None = None,
    show: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> nn.ModuleDict:
    """Train `stage` to the end of `recipe`, or of this piece of it, from where `folder` left it; returns the averaged weights.

    `began`: when this piece did, by `clock`. InputError where the recipe has no length, the checkpoint does not fit, or the
    disc is full: the last whole checkpoint stays.
    """
    if recipe.steps is None and recipe.minutes is None:
        raise InputError("recipe", "length", "steps or minutes", "neither")
    accelerator = accelerator or machine("cpu")
    began = clock() if began is None else began
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / checkpoint.FILE
    modules = stage.modules.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average: nn.ModuleDict = deepcopy(modules).requires_grad_(False)
    if isinstance(stage, OwnTarget):
        stage.average = average
    optimiser = torch.optim.AdamW(modules.parameters(), recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=recipe.precision == "fp16")
    learnt = Learnt(modules, average, optimiser, scaler, config)
    state = checkpoint.resume(file, learnt) if file.exists() else State()
    learner = accelerator.prepare(Learner(stage, accelerator.device, recipe.precision))
    last = saved = validated = clock()
    pause = 0.0

    def draw(step: int, part: int) -> Any:
        rng = np.random.default_rng([recipe.seed, step, part, accelerator.process_index])
        return stage.batch(rng, recipe.progress(step, state.seconds))

    with ExitStack() as stack:
        batches = stack.enter_context(Batches(draw, state.step, recipe.accumulate, accelerator.device))
        journal = None
        if accelerator.is_main_process:  # the others only learn
            journal = stack.enter_context(Journal(folder, stage.name, show, state.step))
        while (progress := recipe.progress(state.step, state.seconds)) < 1.0:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * rate_at(state.step, progress, recipe)
            modules.train()
            loss, figures = learn(learner, learnt, recipe, state.step, batches, accelerator)
            state.history = [*state.history[-99:], loss]
            state.step += 1
            now = clock()
            state.seconds, elapsed = agreed(accelerator, state.seconds + now - last, now - began)
            last = now
            over = recipe.steps is not None and recipe.minutes is not None and elapsed >= 60 * recipe.minutes
            if journal is not None:
                journal.moved(state, progress)
                if state.step % 20 == 1:
                    journal.learnt(state, progress, figures)
                if now - saved >= max(recipe.save_seconds, pause):
                    checkpoint.save(file, learnt, state)
                    saved = clock()
                    pause = 10 * (saved - now)  # a checkpoint of many gigabytes: a tenth of the time is enough
                if now - validated >= recipe.validate_seconds:
                    journal.judged(state, *judge(stage, average, recipe))
                    validated = clock()
                last += clock() - now  # saving and judging are no training
            if over:
                break
        if journal is not None:
            checkpoint.save(file, learnt, state)
            journal.judged(state, *judge(stage, average, recipe))
            tell(f"{stage.name}: {ending(state, recipe)}")
    accelerator.wait_for_everyone()
    return average


def learn(
    learner: nn.Module, learnt: Learnt, recipe: Recipe, step: int, batches: Batches, accelerator: Accelerator
) -> tuple[float, dict[str, float]]:
    """One step of the optimiser, and the average's; returns the loss, and its parts with the gradient's norm.

    Weights whose gradient is not finite stay as they are.
    """
    modules, scaler = learnt.modules, learnt.scaler
    learnt.optimiser.zero_grad(set_to_none=True)
    total = 0.0
    for part in range(recipe.accumulate):
        batch = next(batches)
        noise = np.random.default_rng([recipe.seed, step, part, accelerator.process_index, 1])
        torch.manual_seed(int(noise.integers(2**62)))
        with ExitStack() as stack:
            if part + 1 < recipe.accumulate:  # gradients are averaged over processes once a step
                stack.enter_context(accelerator.no_sync(learner))
            loss, figures = learner(batch)
            scaler.scale(loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach()) / recipe.accumulate
    scaler.unscale_(learnt.optimiser)
    norm = float(nn.utils.clip_grad_norm_(modules.parameters(), recipe.clip))
    if math.isfinite(norm) or scaler.is_enabled():  # the scaler steps over it, and scales less from then on
        scaler.step(learnt.optimiser)
        scaler.update()
    if math.isfinite(norm):
        follow(learnt.average, modules, min(recipe.decay, (1 + step) / (10 + step)))
    return total, {"norm": norm, **figures}


def agreed(accelerator: Accelerator, *seconds: float) -> list[float]:
    """The times of the first process, in all of them: they must end, and slow down, at the same step."""
    if accelerator.num_processes == 1:
        return list(seconds)
    times = torch.tensor(seconds, dtype=torch.float64, device=accelerator.device)
    return [float(t) for t in broadcast(times)]


def ending(state: State, recipe: Recipe) -> str:
    """One line: how far the run has come, and how it goes on."""
    minutes = f"{state.seconds / 60:.1f} minutes of training"
    if recipe.progress(state.step, state.seconds) < 1.0:
        return f"stopped after step {state.step} of {recipe.steps}, {minutes}; the same command goes on from there"
    return f"done after {state.step} steps, {minutes}"


def rate_at(step: int, progress: float, recipe: Recipe) -> float:
    """The learning rate as a part of its largest: linear warm-up, then a cosine down to `final`."""
    warm = min(1.0, (step + 1) / max(1, recipe.warm_up))
    return warm * (recipe.final + (1 - recipe.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def follow(average: nn.Module, modules: nn.Module, decay: float) -> None:
    """Move the average towards the weights; what is no weight (statistics, counters) is copied."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in modules.parameters()], 1 - decay)
    for a, b in zip(average.buffers(), modules.buffers(), strict=True):
        a.copy_(b)


@torch.no_grad()
def judge(stage: Stage, average: nn.ModuleDict, recipe: Recipe) -> tuple[dict[str, float], np.ndarray]:
    """The stage's figures and picture of held-out frames, in the precision of training."""
    average.eval()
    with mixed(recipe.precision, next(average.parameters()).device):
        return stage.validate(average)
