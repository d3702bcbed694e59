"""The networks that full-size training begins with, of a base model or of an avatar, and what it leaves as a folder to import."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPVisionModel

from engine import toml
from engine.avatar import FILE, Avatar
from engine.condition import Style
from engine.errors import InputError
from engine.importing.base import quiet, read_base, read_image_encoder
from engine.networks.diffusion import StructureGuided
from engine.networks.folder import load_guided, load_part, save_part
from engine.steps import Schedule, few
from engine.training import checkpoint
from engine.training.weights import gathered


@dataclass(frozen=True)
class FullSize:
    """What learns, and what it learns with."""

    guided: StructureGuided
    vae: Any  # AutoencoderKL
    image_encoder: CLIPVisionModel
    schedule: Schedule
    style: Style  # of the conditions


def of_base(folder: Path, part: str) -> FullSize:
    """A base model in diffusers' layout, with CLIP's vision tower in `image_encoder`: Stable Diffusion 1.5 for the `part` body, its
    inpainting model for the head. InputError where something is missing, broken or another model's."""
    encoder = read_image_encoder(folder / "image_encoder")
    base = read_base(folder, 1 + (encoder.config.image_size // encoder.config.patch_size) ** 2)
    if base.prediction != "epsilon":
        raise InputError(str(folder / "scheduler"), "prediction_type", "epsilon", base.prediction)
    with quiet():
        unet = load_part(UNet2DConditionModel, folder, "unet")
    latents = int(base.vae.config.latent_channels)
    wanted = latents if part == "body" else 2 * latents + 1  # noisy latents; mask; latents of what is kept
    for field, expected in (("in_channels", wanted), ("cross_attention_dim", encoder.config.hidden_size)):
        if unet.config[field] != expected:
            raise InputError(str(folder / "unet"), field, str(expected), str(unet.config[field]))
    guided = StructureGuided(unet, ControlNetModel.from_unet(unet), None)
    return FullSize(guided, base.vae, encoder, base.schedule, "authors")


def of_avatar(folder: Path, part: str) -> FullSize:
    """An avatar of the same kind, an imported one say. InputError where it is of another."""
    avatar = toml.read(folder / FILE, Avatar)
    with quiet():
        vae, guided = load_part(AutoencoderKL, folder, "vae"), load_guided(folder, part)
        encoder = load_part(CLIPVisionModel, folder, "image_encoder")
    if avatar.denoise.prediction != "epsilon":
        raise InputError(str(folder / FILE), "denoise.prediction", "epsilon", avatar.denoise.prediction)
    return FullSize(guided, vae, encoder, avatar.schedule, avatar.condition.style)


def write_tree(runs: Path, base: Path, out: Path, config: str = "sd15") -> list[str]:
    """Write what was trained in RUNS as `{body,head}/{unet,controlnet}`, the layout that `liveanchor avatar import` reads.

    `base` says the networks' sizes: a base model's folder. Returns the names of the networks. InputError where the body has
    not been trained, or for another base.
    """
    written = []
    for part, stages in (("body", ("pretrain", "finetune")), ("head", ("face",))):
        weights = gathered(runs, stages, None, config)
        if not weights and part == "body":
            raise InputError(str(runs), "stages", "a checkpoint of pretrain or finetune", "none")
        if not weights:
            continue
        channels = weights[f"{part}.unet.conv_in.weight"].shape[1]  # more in a model that inpaints
        with torch.device("meta"):
            sizes = UNet2DConditionModel.load_config(base / "unet", local_files_only=True)
            unet = UNet2DConditionModel.from_config({**sizes, "in_channels": channels})
            networks = {"unet": unet, "controlnet": ControlNetModel.from_unet(unet)}
        for kind, network in networks.items():
            name = f"{part}.{kind}."
            own = {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}
            try:
                network.load_state_dict(own, assign=True)
            except RuntimeError as error:
                raise InputError(
                    str(base / "unet"), "sizes", "those of the networks in RUNS", str(error)[:200]
                ) from None
            save_part(network, out, f"{part}/{kind}")
            written.append(f"{part}/{kind}")
    return written


def write_distilled(runs: Path, folder: Path, out: Path, steps: int, config: str = "sd15") -> Avatar:
    """Write the avatar of `folder` with the body that `distill` left in RUNS, run in `steps`, without its graphs.

    InputError where `out` is not new, nothing has been distilled, or from another avatar.
    """
    if out.exists():
        raise InputError(str(out), "out", "a folder that is new", "one that is there")
    weights = checkpoint.read(runs / "distill" / checkpoint.FILE, config)["average"]
    avatar = toml.read(folder / FILE, Avatar)
    unet = load_part(UNet2DConditionModel, folder, "body/unet")
    own = {key.removeprefix("body.unet."): value for key, value in weights.items() if key.startswith("body.unet.")}
    try:
        unet.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(str(runs / "distill"), "weights", f"those of {folder}", str(error)[:200]) from None
    half = out.with_name(f".{out.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(folder, half, ignore=shutil.ignore_patterns("*.onnx*", "graphs.json", FILE))
    with quiet():
        save_part(unet, half, "body/unet")
    denoise = replace(avatar.denoise, timesteps=few(avatar.schedule, steps).now, sampler="lcm", guidance=1.0)
    avatar = replace(avatar, denoise=denoise)
    avatar.write(half)
    half.rename(out)
    return avatar
