"""Checkpoints in the layout of Make-Your-Anchor's, with random weights, and the base model's parts that belong to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

SCHEDULER = {  # the fields that come with Stable Diffusion 1.5
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


@dataclass(frozen=True)
class Sizes:
    """The configurations of all networks; block types are the defaults, which are Stable Diffusion 1.5's."""

    unet: dict[str, Any]
    controlnet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    vision: dict[str, Any]


_COMMON = {
    "block_out_channels": (16, 16, 32, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
SMALL = Sizes(
    unet={"sample_size": 16, **_COMMON},
    controlnet={"conditioning_embedding_out_channels": (8, 8, 16, 16), **_COMMON},
    vae={
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 8,
    },
    text={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 4,
    },
    vision={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
)


@dataclass(frozen=True)
class Tree:
    """Where everything lies that an import needs."""

    source: Path
    base: Path
    image_encoder: Path
    body_picture: Path
    head_picture: Path


def write_tree(folder: Path, sizes: Sizes = SMALL, head: bool = True, safe: bool = True, half: bool = False) -> Tree:
    """Write checkpoint, base, image encoder and pictures into `folder`; `safe` False: weights as torch's .bin."""
    tree = Tree(*(folder / name for name in ("seth", "sd15", "clip", "body.png", "head.png")))
    for i, part in enumerate(("body", "head") if head else ("body",)):
        channels = {"in_channels": 4 if part == "body" else 9}
        _store(lambda: UNet2DConditionModel(**sizes.unet, **channels), tree.source / part / "unet", safe, half, 2 * i)  # noqa: B023
        _store(lambda: ControlNetModel(**sizes.controlnet), tree.source / part / "controlnet", safe, half, 2 * i + 1)
    _store(lambda: AutoencoderKL(**sizes.vae), tree.base / "vae", safe, half, 10)
    torch.manual_seed(11)
    CLIPTextModel(CLIPTextConfig(**sizes.text)).save_pretrained(tree.base / "text_encoder")
    CLIPVisionModel(CLIPVisionConfig(**sizes.vision)).save_pretrained(tree.image_encoder)
    _write_base_words(tree.base)
    random = np.random.default_rng(0)
    for file, (height, width) in ((tree.body_picture, (96, 80)), (tree.head_picture, (64, 64))):
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    return tree


def write_weights(weights: dict[str, torch.Tensor], folder: Path, safe: bool = True) -> Path:
    """Weights as diffusers calls their file."""
    from safetensors.torch import save_file

    file = folder / f"diffusion_pytorch_model.{'safetensors' if safe else 'bin'}"
    if safe:
        save_file(weights, file)
    else:
        torch.save(weights, file)
    return file


def _store(build: Callable[[], Any], folder: Path, safe: bool, half: bool, seed: int) -> None:
    """config.json and random weights: cut from one stretch of noise, scaled so that signals keep their size."""
    with torch.device("meta"):
        network = build()
    network.save_config(folder)
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(1 << 20, generator=random)
    weights = {}
    for key, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            values = noise.repeat(-(-tensor.numel() // len(noise)))[: tensor.numel()].reshape(tensor.shape)
            values = values * (2 / tensor[0].numel()) ** 0.5  # He et al. 2015: activations halve the variance
        else:
            values = (torch.ones if key.endswith("weight") else torch.zeros)(tensor.shape)
        weights[key] = (values.half() if half else values).contiguous()
    write_weights(weights, folder, safe)


def _write_base_words(base: Path) -> None:
    """A tokenizer of four words, and the schedule."""
    (base / "tokenizer").mkdir(parents=True)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    (base / "tokenizer" / "vocab.json").write_text(json.dumps(words))
    (base / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (base / "scheduler").mkdir()
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
