"""The weights that training hands from stage to stage, by one set of names, and an avatar's own under the same names.

`vae.`, `body.`, `image_encoder.`, `head.`, `head_decoder.`, `hand.`, `hand_decoder.` as in engine.networks.folder; `decoder.` is
the autoencoder's decoder as the newest stage left it, `unconditional` an avatar's tokens (1, n, D) for nobody, where it is guided.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from engine import toml
from engine.appearance import UNCONDITIONAL, load_tokens
from engine.avatar import FILE, Avatar
from engine.networks import folder as stored
from engine.training import checkpoint

Weights = dict[str, Tensor]


def gathered(runs: Path, stages: Sequence[str], avatar: Path | None = None, config: str | None = None) -> Weights:
    """The averaged weights that `stages`, in their order, left in RUNS; an avatar's own where RUNS has none.

    InputError where a checkpoint is broken or of another configuration than `config`.
    """
    weights = {} if avatar is None else of_avatar(avatar)
    for stage in stages:
        file = runs / stage / checkpoint.FILE
        if file.exists():
            newer = checkpoint.read(file, config)["average"]
            parts = {key.partition(".")[0] for key in newer}  # each replaces the earlier one whole, which may be larger
            weights = {key: value for key, value in weights.items() if key.partition(".")[0] not in parts} | newer
            if stage == "autoencoder":  # `decoder` is the newest: at first the autoencoder's own
                weights |= _decoder(weights)
    return weights


def of_avatar(folder: Path) -> Weights:
    """An avatar's weights under the names that the stages give them. InputError where they are missing or broken."""
    networks = stored.load(folder)
    parts: dict[str, nn.Module] = {
        "vae": networks.vae, "body": networks.body, "image_encoder": networks.image_encoder,
    }  # fmt: skip
    if networks.head is not None and networks.head_decoder is not None:
        parts |= {"head": networks.head, "head_decoder": networks.head_decoder.decoder}
    if networks.hand is not None and networks.hand_decoder is not None:
        parts |= {"hand": networks.hand, "hand_decoder": networks.hand_decoder.decoder}
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    nobody = unconditional(folder)
    weights |= {} if nobody is None else {UNCONDITIONAL: nobody}
    return weights | _decoder(weights)


def unconditional(folder: Path) -> Tensor | None:
    """An avatar's tokens (1, n, D) of the unconditional branch, where it has one."""
    nobody = toml.read(folder / FILE, Avatar).appearance.get(UNCONDITIONAL)
    return None if nobody is None else torch.from_numpy(load_tokens(folder / nobody))


@torch.no_grad()
def warm_start(modules: nn.ModuleDict, weights: Weights) -> list[str]:
    """Give `modules` the weights of the same name and shape; returns the names of those that stay fresh."""
    own = modules.state_dict()
    known = {key: weights[key] for key, value in own.items() if key in weights and weights[key].shape == value.shape}
    modules.load_state_dict(known, strict=False)
    return [key for key in own if key not in known]


def started(modules: nn.ModuleDict, fresh: Sequence[str]) -> str:
    """One line: which parts of `modules` begin anew."""
    own = list(modules.state_dict())
    if len(fresh) == len(own):
        return "all weights start fresh"
    if not fresh:
        return "goes on from trained weights"
    trained = {prefix for key in own if key not in set(fresh) for prefix in accumulate(key.split("."), "{}.{}".format)}
    parts = {next(p for p in accumulate(key.split("."), "{}.{}".format) if p not in trained) for key in fresh}
    return f"goes on from trained weights; {len(fresh)} of {len(own)} start fresh: {', '.join(sorted(parts))}"


def _decoder(weights: Weights) -> Weights:
    whole = "vae.decoder."
    return {"decoder." + key[len(whole) :]: value for key, value in weights.items() if key.startswith(whole)}
