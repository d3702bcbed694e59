"""What an imported avatar takes from its base model: the autoencoder, the noise schedule, and what nobody looks like.

The base is a local folder in diffusers' layout: vae, scheduler, tokenizer, text_encoder. The last two say the unconditional
tokens: the embedding of the empty prompt. These parts are small and come in several generations of file layouts, all of
which the libraries know, so their own loaders read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel

from engine.errors import InputError
from engine.networks.folder import load_part
from engine.steps import Prediction, Schedule

PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
UNSUPPORTED = (
    "clip_sample",
    "thresholding",
    "rescale_betas_zero_snr",
    "trained_betas",
)  # of DDIM; SD 1.5 has none of them


@dataclass(frozen=True)
class Base:
    """The parts of a base model."""

    vae: Any  # AutoencoderKL
    schedule: Schedule
    prediction: Prediction
    unconditional: np.ndarray  # (1, tokens, D) float32

    @property
    def cell(self) -> int:
        """Pixels of the picture to a latent, across."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def read_base(folder: Path, tokens: int) -> Base:
    """The base in `folder`; the empty prompt is padded to `tokens`. InputError where a part is missing or broken."""
    with quiet():
        vae = load_part(AutoencoderKL, folder, "vae").eval()
        schedule, prediction = _schedule(folder)
        return Base(vae, schedule, prediction, _empty_prompt(folder, tokens))


def read_image_encoder(folder: Path) -> Any:
    """CLIP's vision tower, from a folder of its own or of the whole CLIP model."""
    with quiet():
        return load_part(CLIPVisionModel, folder, ".", alone=False).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """The libraries' loaders speak of what is not used here."""
    loggers = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


@torch.no_grad()
def _empty_prompt(folder: Path, tokens: int) -> np.ndarray:
    encoder = load_part(CLIPTextModel, folder, "text_encoder", alone=False).eval()
    where = folder / "tokenizer"
    if not where.is_dir():
        raise InputError(str(where), "tokenizer", "a folder with a CLIPTokenizer", "no such folder")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(where, local_files_only=True)
        said = tokenizer("", padding="max_length", max_length=tokens, truncation=True, return_tensors="pt").input_ids
        embedded = encoder(said)[0].numpy().astype(np.float32)  # (1, tokens, D)
    except Exception as error:  # of many kinds
        raise InputError(str(where), "tokenizer", "the text encoder's", " ".join(str(error).split())[:200]) from None
    if embedded.shape[:2] != (1, tokens) or not np.isfinite(embedded).all():
        raise InputError(str(folder), "text_encoder", f"{tokens} finite tokens", f"shape {embedded.shape}")
    return np.asarray(embedded)


def _schedule(folder: Path) -> tuple[Schedule, Prediction]:
    """The scheduler's fields as DDIM takes them, which is what Make-Your-Anchor samples with."""
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        raise InputError(str(file), "scheduler", "the fields of the noise schedule", "no such file")
    try:
        config = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True).config
    except Exception as error:  # of many kinds
        line = " ".join(str(error).split())[:200]
        raise InputError(str(file), "scheduler", "the fields of a noise schedule", line) from None
    hints = {
        "beta_schedule": ("scaled_linear", "linear"),
        "timestep_spacing": ("leading", "trailing"),
        "prediction_type": tuple(PREDICTIONS),
    }
    for name, known in hints.items():
        if config[name] not in known:
            raise InputError(str(file), name, " | ".join(known), str(config[name]))
    for name in UNSUPPORTED:
        if config[name]:
            raise InputError(str(file), name, "none of it", str(config[name])[:80])
    schedule = Schedule(
        config.num_train_timesteps, config.beta_start, config.beta_end, config.beta_schedule, config.timestep_spacing,
        config.steps_offset, config.set_alpha_to_one,
    )  # fmt: skip
    return schedule, PREDICTIONS[config.prediction_type]
