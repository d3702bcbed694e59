"""From trained stages to an avatar's folder: networks, reference pictures, avatar.toml. Graphs come afterwards, by `export`.

The newest stage that is there counts; what RUNS lacks comes from an avatar, where one is given.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from engine import face, toml
from engine.avatar import FILE, Avatar, ConditionFields, DenoiseFields, FaceFields, HandFields, LatentFields, Mode
from engine.crop import warp
from engine.errors import InputError
from engine.networks import folder as stored
from engine.networks.configs import CONFIGS, AvatarConfig
from engine.networks.folder import AvatarNetworks
from engine.steps import Schedule, few
from engine.training import checkpoint
from engine.training.dataset import Clip
from engine.training.frames import CELL, Frames
from engine.training.stages.body import LAST, load
from engine.training.weights import gathered

FPS = 25.0
LICENCE = "CC0-1.0 (weights trained on renders of CC0 assets)"
STAGES = ("autoencoder", "pretrain", "finetune", "distill", "face", "hands")


def write_bundle(
    runs: Path,
    clips: Sequence[Path],
    out: Path,
    *,
    config: str = "tiny",
    name: str | None = None,
    licence: str = LICENCE,
    seed: int = 0,
    context: int = 0,
    mode: Mode = "causal",
    steps: int = 1,
    smoothing: float = 0.0,
    avatar: Path | None = None,
) -> Avatar:
    """Write the avatar that RUNS/<stage>/checkpoint.pt of `clips` make into `out`; what else lies there stays.

    `context`: past frames that the body sees beside the new one, and `mode` how. `steps` of the body's denoising: LCM's for one that was
    distilled, else DDIM's, from the noisiest timestep on in both cases. `smoothing`: see engine.sampler. `seed` is told, not used. `avatar`: a folder whose
    weights stand in for stages that RUNS lacks. InputError where a stage that is needed has not been trained, or a
    checkpoint is broken.
    """
    opened = [Clip.open(folder) for folder in clips]
    networks, stages = trained(runs, CONFIGS[config], avatar)
    described = describe(opened, networks, name or opened[0].fields.identity or out.name, licence, context, mode)
    sampler: Literal["lcm", "ddim"] = "lcm" if "distill" in stages else "ddim"
    live = replace(described.denoise, timesteps=few(Schedule(), steps).now, sampler=sampler, smoothing=smoothing)
    told = provenance(runs, opened, stages, seed)
    if avatar is not None:
        earlier = toml.read(avatar / FILE, Avatar)  # it need not have been exported
        told["started_from"] = f"{earlier.name}, made at commit {earlier.provenance.get('commit') or 'unknown'}"
        told["before"] = earlier.provenance
    return write(networks, replace(described, denoise=live, provenance=told), opened, out)


def write(networks: AvatarNetworks, avatar: Avatar, clips: Sequence[Clip], out: Path) -> Avatar:
    """Write networks, reference pictures and avatar.toml into `out`, each file at once or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    stored.save(networks, out)
    for part, pixels in references(clips, avatar.face.size).items():
        if part in avatar.appearance:
            write_png(pixels, out / avatar.appearance[part])
    avatar.write(out)
    return avatar


def trained(runs: Path, config: AvatarConfig, avatar: Path | None = None) -> tuple[AvatarNetworks, tuple[str, ...]]:
    """The averaged weights of all stages that are there, as networks, and the names of those stages.

    Weights are rounded to bf16, which is what runtimes compute with where a CPU has it: a history of them stays small.
    """
    there = tuple(stage for stage in STAGES if (runs / stage / checkpoint.FILE).exists())
    weights = gathered(runs, there, avatar)
    for prefix, stage in (("vae.", "autoencoder"), ("body.", "pretrain or finetune")):
        if not any(key.startswith(prefix) for key in weights):
            raise InputError(str(runs), "stages", f"a checkpoint of {stage}", ", ".join(there) or "none")
    head, hand = (any(key.startswith(part) for key in weights) for part in ("head.", "hand."))
    networks = stored.build(config, head, hand)
    try:
        load(networks.vae, weights, "vae")
        load(networks.body, weights, "body")
        load(networks.image_encoder, weights, "image_encoder")
        load(networks.vae.decoder, weights, "decoder")
        if networks.head is not None and networks.head_decoder is not None:
            load(networks.head, weights, "head")
            load(networks.head_decoder.decoder, weights, "head_decoder")
        if networks.hand is not None and networks.hand_decoder is not None:
            load(networks.hand, weights, "hand")
            load(networks.hand_decoder.decoder, weights, "hand_decoder")
    except RuntimeError as error:
        raise InputError(str(runs), "weights", "those of this configuration", str(error).split("\n")[0][:200]) from None
    for _, network in networks.parts():
        for parameter in network.parameters():
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)
    return networks.eval(), there


def describe(
    clips: Sequence[Clip],
    networks: AvatarNetworks,
    name: str,
    licence: str = LICENCE,
    context: int = 0,
    mode: Mode = "causal",
) -> Avatar:
    """avatar.toml, but for what training took: sizes, camera and shape are those of the first clip."""
    fields = clips[0].fields
    head = networks.head is not None
    graphs = ["body", "decoder"]
    if head:
        graphs += ["face", "face_decoder"]
    if networks.hand is not None:
        graphs += ["hand_encoder", "hand", "hand_decoder"]
    channels = int(networks.vae.config.latent_channels)
    face_size = face.CROP if fields.size >= 2 * face.CROP else fields.size // 2 // CELL * CELL
    live = DenoiseFields((LAST,), "sample", mode=mode, context=context, window=1 + context, overlap=context)
    alone = DenoiseFields((LAST,), "sample", window=1, overlap=0)
    hands = HandFields()
    if networks.hand is not None:
        size = int(networks.hand.unet.config.sample_size)
        hands = HandFields(True, size * CELL, LatentFields(channels, size), alone)
    return Avatar(
        name=name,
        size=fields.size,
        fps=FPS,
        networks={graph: f"{graph}.onnx" for graph in graphs},  # the export completes them
        latent=LatentFields(channels, fields.size // CELL),
        denoise=live,
        camera=fields.camera,
        condition=ConditionFields("normals", fields.size),
        body=fields.body,
        face=FaceFields(head, face_size, latent=LatentFields(channels, face_size // CELL), denoise=alone),
        hands=hands,
        appearance={part: f"appearance/{part}.png" for part in (("body", "head") if head else ("body",))},
        person="synthetic" if all(clip.fields.synthetic for clip in clips) else "real",
        licence=licence,
    )  # fmt: skip


def references(clips: Sequence[Clip], face_size: int) -> dict[str, np.ndarray]:
    """The pictures that the appearance tokens are made of: the first training frame, and its aligned crop."""
    clip, index = Frames.train(clips).index[0]
    picture = np.ascontiguousarray(clips[clip].frames[index])
    transform = np.ascontiguousarray(clips[clip].faces[index])
    if face_size != face.CROP:  # transforms are stored for crops of that size
        transform = (transform * (face_size / face.CROP)).astype(np.float32)
    return {"body": picture, "head": warp(picture, transform, face_size)}


def provenance(runs: Path, clips: Sequence[Clip], stages: Sequence[str], seed: int) -> dict[str, Any]:
    """Where the weights come from: minutes, steps and held-out figures by stage, data, machine, commit."""
    told: dict[str, Any] = {
        "clips": [clip.folder.name for clip in clips],
        "train_frames": len(Frames.train(clips)),
        "held_out_frames": int(sum(len(clip.held_out()) for clip in clips)),
        "data_licence": "; ".join(sorted({clip.fields.licence for clip in clips})),
        "data_seeds": [clip.fields.seed for clip in clips],
        "seed": seed,
        "machine": machine(),
        "torch": torch.__version__,
        "commit": commit(),
    }
    return told | {stage: _minutes(runs / stage / "log.jsonl") for stage in stages}


def machine() -> str:
    """The processor's model and the number of its cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = lines[0] if lines else model
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the source that made it; empty outside a repository."""
    here = Path(__file__).parent
    try:
        said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file of weights below `folder`."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*.safetensors"))}


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 at once or not at all."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")
    Image.fromarray(pixels).save(half, format="PNG", optimize=True)
    os.replace(half, path)


def _minutes(log: Path) -> dict[str, Any]:
    """From a stage's log: how long it took, and the last figures on held-out frames."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line]
    figures = [{k: v for k, v in row.items() if k.startswith(("psnr", "ssim"))} for row in rows]
    last: dict[str, Any] = next((f for f in reversed(figures) if f), {})
    return {"minutes": round(rows[-1]["seconds"] / 60, 1), "steps": rows[-1]["step"], **last}
