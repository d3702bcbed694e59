"""The loop that every stage of training runs in: optimiser, learning rate, average of weights, checkpoints, log, pictures.

A batch is a function of (seed, step), so a run that was killed and resumed ends in the weights of one that was not.
It knows nothing of what is trained.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from engine.errors import InputError

CHECKPOINT = "checkpoint.pt"


class Stage(Protocol):
    """What is trained. `modules` holds every weight that moves; `average` is its slow copy, which is what counts."""

    name: str
    modules: nn.ModuleDict

    def loss(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The loss of one random batch, drawn with `rng` alone; `progress` 0 to 1 through the run."""
        ...

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """Figures on held-out frames, and a picture (H, W, 3) uint8 to look at."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. The run ends at `steps` or after `minutes` of its own time, whichever is first."""

    rate: float = 1e-3
    final: float = 0.02  # of `rate`, where the cosine ends
    warm_up: int = 50
    weight_decay: float = 1e-2
    clip: float = 1.0
    decay: float = 0.998  # of the average
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    save_seconds: float = 30.0
    validate_seconds: float = 180.0
    bf16: bool = True


@dataclass
class State:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0
    history: list[float] = field(default_factory=list)  # recent losses


def run(
    stage: Stage,
    folder: Path,
    recipe: Recipe,
    *,
    clock: Callable[[], float] = time.monotonic,
    show: bool = True,
) -> nn.ModuleDict:
    """Train `stage` to the end of `recipe`, resuming from `folder` where it was left; returns the averaged weights."""
    if recipe.steps is None and recipe.minutes is None:
        raise InputError("recipe", "length", "steps or minutes", "neither")
    folder.mkdir(parents=True, exist_ok=True)
    modules = stage.modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average: nn.ModuleDict = deepcopy(modules).requires_grad_(False)
    optimiser = torch.optim.AdamW(modules.parameters(), recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    state = State()
    if (folder / CHECKPOINT).exists():
        resume(folder / CHECKPOINT, modules, average, optimiser, state)
    saved = validated = clock()

    bar = Progress(
        TextColumn(stage.name), BarColumn(), TextColumn("step {task.fields[step]} loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(), TimeRemainingColumn(), disable=not show,
    )  # fmt: skip
    with bar:
        task = bar.add_task(stage.name, total=1.0, step=state.step, loss=math.nan)
        while (progress := _progress(state, recipe)) < 1.0:
            began = clock()
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * rate_at(state.step, progress, recipe)
            rng = np.random.default_rng([recipe.seed, state.step])
            modules.train()
            torch.manual_seed(int(rng.integers(2**62)))
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                loss, parts = stage.loss(rng, progress)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(modules.parameters(), recipe.clip))
            if math.isfinite(norm):
                optimiser.step()
                follow(average, modules, min(recipe.decay, (1 + state.step) / (10 + state.step)))
            state.step += 1
            state.seconds += clock() - began
            state.history = [*state.history[-99:], float(loss.detach())]
            bar.update(task, completed=progress, step=state.step, loss=float(np.mean(state.history)))
            if state.step % 20 == 1:
                _log(folder, stage.name, state, progress, {"norm": norm, **parts})
            if clock() - saved >= recipe.save_seconds:
                save(folder / CHECKPOINT, modules, average, optimiser, state)
                saved = clock()
            if clock() - validated >= recipe.validate_seconds:
                validate(stage, average, folder, state)
                validated = clock()
    save(folder / CHECKPOINT, modules, average, optimiser, state)
    validate(stage, average, folder, state)
    return average


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


def save(path: Path, modules: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, state: State) -> None:
    """Write a checkpoint at once or not at all."""
    half = path.with_name(f".{path.name}.part")
    whole = {"modules": modules.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({**whole, "step": state.step, "seconds": state.seconds}, half)
    os.replace(half, path)


def resume(path: Path, modules: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, state: State) -> None:
    """Take everything up from a checkpoint. InputError where it is truncated or of another network."""
    whole = read(path)
    try:
        modules.load_state_dict(whole["modules"])
        average.load_state_dict(whole["average"])
        optimiser.load_state_dict(whole["optimiser"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(str(path), "weights", "those of this stage's networks", str(error).split("\n")[0]) from None
    state.step, state.seconds = whole["step"], whole["seconds"]


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's contents; InputError where there is none, or half of one."""
    try:
        whole: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(str(path), "file", "a checkpoint of this stage", "no such file") from None
    except Exception as error:  # torch raises many kinds for a broken archive
        raise InputError(str(path), "file", "a whole checkpoint", str(error).split("\n")[0]) from None
    return whole


def validate(stage: Stage, average: nn.ModuleDict, folder: Path, state: State) -> None:
    """Log the stage's figures and write its picture as validation.png."""
    from PIL import Image

    average.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        figures, picture = stage.validate(average)
    _log(folder, stage.name, state, None, figures)
    half = folder / ".validation.part"
    Image.fromarray(picture).save(half, format="PNG")
    os.replace(half, folder / "validation.png")


def _progress(state: State, recipe: Recipe) -> float:
    by_step = state.step / recipe.steps if recipe.steps else 0.0
    by_time = state.seconds / (60 * recipe.minutes) if recipe.minutes else 0.0
    return max(by_step, by_time)


def _log(folder: Path, name: str, state: State, progress: float | None, figures: dict[str, float]) -> None:
    row: dict[str, Any] = {"stage": name, "step": state.step, "seconds": round(state.seconds, 1)}
    if progress is not None:
        row |= {"progress": round(progress, 4), "loss": round(float(np.mean(state.history)), 5)}
    row |= {key: round(float(value), 5) for key, value in figures.items()}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
