"""One stage of training over a folder of runs: RUNS/autoencoder, RUNS/pretrain, RUNS/finetune, RUNS/distill, and so on.

    train("pretrain", [Path("noah"), Path("ada")], Path("runs"), minutes=30)

A stage goes on from what the stages before it left in RUNS, and where they left nothing from an avatar's own weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import toml
from engine.avatar import FILE, Avatar
from engine.errors import InputError
from engine.networks.configs import CONFIGS, AvatarConfig
from engine.training import checkpoint, loop
from engine.training.base import of_avatar, of_base
from engine.training.consistency import Distillation
from engine.training.losses import criterion
from engine.training.people import People, identity, opened
from engine.training.perturb import Perturbed
from engine.training.precision import Precision
from engine.training.recipes import Plan, plan
from engine.training.stages.autoencoder import AutoencoderStage
from engine.training.stages.body import BodyStage
from engine.training.stages.distill import DistillStage, nobody
from engine.training.stages.distill_full_size import DistillFullSizeStage
from engine.training.stages.epsilon import EpsilonStage, Face, View, Whole
from engine.training.stages.face import FaceStage
from engine.training.stages.hands import HandsStage
from engine.training.weights import Weights, gathered, started, unconditional, warm_start


def train(
    name: str,
    clips: Sequence[Path],
    runs: Path,
    *,
    config: str = "tiny",
    avatar: Path | None = None,
    base: Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    accumulate: int = 1,
    rate: float | None = None,
    perturb: float = 0.0,
    background: bool | None = None,
    distillation: Distillation | None = None,
    held_out: int = 12,
    seed: int = 0,
    device: str | None = None,
    precision: Precision = "auto",
    threads: int | None = None,
    compiled: bool = True,
    show: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> nn.ModuleDict:
    """Run or resume one stage; returns its averaged weights, which also lie in RUNS/<stage>/checkpoint.pt.

    `avatar`: a folder whose weights a new run starts from, where RUNS has none; what it lacks stays fresh and is told.
    `base`: the folder of the base model that full-size networks start from, where no avatar is given.
    `perturb`: by how many radians joints of the condition are moved at random (the body's stages). `background`: whether the
    clips keep theirs; None: as the stage has it, and only pretrain removes it. With `steps`, `minutes` are what this call may
    take; without, they are the run's length. InputError for an unknown stage or configuration, clips that do not belong
    together, and stages that are missing.
    """
    began = time.monotonic()
    if config not in CONFIGS:
        raise InputError("train", "config", " | ".join(CONFIGS), config)
    chosen = plan(config, name)
    chosen = replace(chosen, background=chosen.background if background is None else background)
    recipe = replace(
        chosen.recipe, steps=steps, minutes=minutes, rate=rate or chosen.recipe.rate, accumulate=accumulate,
        precision=precision, seed=seed,
    )  # fmt: skip
    accelerator = loop.machine(device)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)  # the fresh weights; every batch has its own seed
    frames, judged = data(chosen, name, clips, held_out)
    full_size = CONFIGS[config].vae is None  # its autoencoder is the base model's
    before = gathered(runs, chosen.before, None if full_size else avatar, config)
    sizes: dict[str, Any] = {"device": accelerator.device} | ({} if batch is None else {"batch": batch})
    sizes |= {} if full_size else {"criterion": criterion(compiled)}
    sizes |= {"distillation": distillation or Distillation()} if name == "distill" else {}
    stage = (
        distill_full_size(frames, judged, avatar, before, **sizes) if full_size and name == "distill"
        else build_full_size(name, frames, judged, perturb, base, avatar, **sizes) if full_size
        else build(name, CONFIGS[config], frames, judged, before, perturb, **sizes)
    )  # fmt: skip
    if not (runs / name / checkpoint.FILE).exists():
        fresh = warm_start(stage.modules, before)
        line = f"goes on from {avatar or base}" if full_size and not before else started(stage.modules, fresh)
        if accelerator.is_main_process:
            tell(f"{name}: {line}")
    return loop.run(stage, runs / name, recipe, accelerator, config=config, began=began, show=show, tell=tell)


def data(chosen: Plan, name: str, folders: Sequence[Path], held_out: int) -> tuple[People, People]:
    """The frames to train on and those to judge by. InputError where the clips do not suit the stage."""
    clips = opened(folders)
    shown = sorted({identity(clip) for clip in clips})
    if chosen.one_identity and len(shown) > 1:
        raise InputError("train", f"clips of {name}", "one identity", ", ".join(shown))
    frames, judged = People.train(clips), People.held_out(clips, held_out)
    assert isinstance(frames, People) and isinstance(judged, People)
    if len(frames) == 0:
        raise InputError(str(folders[0]), "splits", "frames to train on", "none")
    return (frames, judged) if chosen.background else (frames.without_background(), judged.without_background())


def build(
    name: str, config: AvatarConfig, frames: People, judged: People, before: Weights, perturb: float, **sizes: Any
) -> loop.Stage:
    """The stage of that name, with fresh weights where it learns and those `before` where it does not.

    InputError where nothing is before it, or where its conditions cannot be perturbed.
    """
    if perturb and name not in ("pretrain", "finetune"):
        raise InputError(f"train {name}", "--perturb", "one of the stages pretrain and finetune", name)
    if name == "autoencoder":
        return AutoencoderStage(config, frames, judged, **sizes)
    if not any(key.startswith("vae.") for key in before):
        raise InputError("train", name, "a checkpoint of the stage autoencoder, or --from an avatar", "neither")
    if name in ("face", "hands"):
        stage = FaceStage if name == "face" else HandsStage
        return stage(config, frames, judged, before, **sizes)
    known = name != "pretrain" and any(key.startswith("body.") for key in before)
    if name == "distill":
        if not known:
            raise InputError("train", name, "a checkpoint of the stage finetune, or --from an avatar", "neither")
        return DistillStage(config, frames, judged, before, **sizes)
    perturbed = Perturbed(frames, perturb) if perturb else None
    return BodyStage(
        name, config, frames, judged, before, on_latents=0.0 if known else 1 / 3, perturbed=perturbed, **sizes
    )


def build_full_size(
    name: str, frames: People, judged: People, perturb: float, base: Path | None, avatar: Path | None, **sizes: Any
) -> loop.Stage:
    """The paper's own training of that stage. InputError where its networks are missing or do not suit the pictures."""
    if base is None and avatar is None:
        raise InputError(
            f"train {name}", "networks", "--base, a base model's folder, or --from, an avatar's", "neither"
        )
    check_size(frames)
    part = "head" if name == "face" else "body"
    networks = of_avatar(avatar, part) if avatar is not None else of_base(base, part)  # type: ignore[arg-type]
    rendered, truly = (Perturbed(f, s, style=networks.style) for f, s in ((frames, perturb), (judged, 0.0)))
    views: tuple[View, View] = (Whole(frames, rendered), Whole(judged, truly))
    if name == "face":
        views = Face(frames, rendered, frames.size // 2), Face(judged, truly, frames.size // 2)
    return EpsilonStage(name, part, networks, *views, **sizes)


def distill_full_size(
    frames: People, judged: People, avatar: Path | None, before: Weights, distillation: Distillation, **sizes: Any
) -> loop.Stage:
    """The distillation of an avatar's body as the avatar runs it. InputError where there is none, or none for nobody."""
    if avatar is None:
        raise InputError("train distill", "networks", "--from, an avatar's folder", "none")
    check_size(frames)
    networks, denoise = of_avatar(avatar, "body"), toml.read(avatar / FILE, Avatar).denoise
    networks.guided.control_scale = denoise.control_scale
    empty = nobody(distillation.guidance, unconditional(avatar))
    rendered, truly = (Perturbed(f, 0.0, style=networks.style) for f in (frames, judged))
    return DistillFullSizeStage(
        networks, Whole(frames, rendered), Whole(judged, truly), before, distillation, empty, denoise.normalisation,
        **sizes,
    )  # fmt: skip


def check_size(frames: People) -> None:
    """InputError where Stable Diffusion's networks cannot halve the pictures' latents three times."""
    if frames.size % 64:
        raise InputError(str(frames.clips[0].folder), "size", "a multiple of 64", str(frames.size))
