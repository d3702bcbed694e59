"""The stages in their order over a folder of runs: RUNS/autoencoder, RUNS/body, RUNS/pixels, RUNS/face.

python -m engine.training observe CLIP
python -m engine.training autoencoder CLIP [CLIP ...] --runs RUNS --minutes 12
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import InputError
from engine.networks.configs import CONFIGS
from engine.training import loop
from engine.training.dataset import Clip
from engine.training.frames import Frames
from engine.training.losses import criterion
from engine.training.stages.autoencoder import AutoencoderStage
from engine.training.stages.body import BodyStage, PixelStage
from engine.training.stages.face import FaceStage

RECIPES = {
    "autoencoder": loop.Recipe(rate=2e-3, decay=0.998),
    "body": loop.Recipe(rate=1.2e-3, decay=0.998),
    "pixels": loop.Recipe(rate=6e-4, decay=0.998, warm_up=100),
    "face": loop.Recipe(rate=1e-3, decay=0.998),
}
NEEDS = {
    "autoencoder": (),
    "body": ("autoencoder",),
    "pixels": ("autoencoder", "body"),
    "face": ("autoencoder", "pixels"),
}


def train(
    name: str,
    clips: Sequence[Path],
    runs: Path,
    *,
    config: str = "tiny",
    minutes: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    held_out: int = 12,
    seed: int = 0,
    threads: int = 2,
    compiled: bool = True,
    show: bool = True,
) -> nn.ModuleDict:
    """Run or resume one stage; returns its averaged weights, which also lie in RUNS/<stage>/checkpoint.pt."""
    if name not in RECIPES:
        raise InputError("train", "stage", " | ".join(RECIPES), name)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)  # the fresh weights; every batch has its own seed
    opened = [Clip.open(folder) for folder in clips]
    data: tuple[Any, ...] = (CONFIGS[config], Frames.train(opened), Frames.held_out(opened, held_out))
    before = weights_before(name, runs)
    sizes: dict[str, Any] = {"criterion": criterion(compiled)} | ({} if batch is None else {"batch": batch})
    stage: loop.Stage
    if name == "autoencoder":
        stage = AutoencoderStage(*data, **sizes)
    else:
        stages: dict[str, Callable[..., loop.Stage]] = {"body": BodyStage, "pixels": PixelStage, "face": FaceStage}
        stage = stages[name](*data, before, **sizes)
    recipe = replace(RECIPES[name], minutes=minutes, steps=steps, seed=seed)
    if rate is not None:
        recipe = replace(recipe, rate=rate)
    return loop.run(stage, runs / name, recipe, show=show)


def weights_before(name: str, runs: Path) -> dict[str, Any]:
    """The averaged weights of all stages that `name` goes on from."""
    weights: dict[str, Any] = {}
    for stage in NEEDS[name]:
        weights |= loop.read(runs / stage / loop.CHECKPOINT)["average"]
    return weights
