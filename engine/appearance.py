"""Who the person is, as tokens: from a reference picture through the appearance encoder, or ready-made in a .npy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.avatar import Avatar
from engine.errors import InputError
from engine.network import Network, hosted
from engine.pixels import to_network

UNCONDITIONAL = "unconditional"


def appearance(avatar: Avatar, encoder: Network | None, part: str, guided: bool) -> np.ndarray:
    """Tokens (B, n, D) float32 of `part`, "body" or "head"; where `guided`, the unconditional ones come first: B is 2.

    `encoder` takes the picture; it is not needed for ready-made tokens. InputError where a file is missing or wrong.
    """
    tokens = _tokens(avatar, encoder, part)
    if not guided:
        return tokens
    nobody = _tokens(avatar, encoder, UNCONDITIONAL)
    if nobody.shape != tokens.shape:
        where = str(avatar.folder / avatar.appearance[UNCONDITIONAL])
        raise InputError(where, "tokens", f"shape {tokens.shape}", f"shape {nobody.shape}")
    return np.concatenate([nobody, tokens])


def _tokens(avatar: Avatar, encoder: Network | None, part: str) -> np.ndarray:
    if part not in avatar.appearance:
        raise InputError(str(avatar.folder), f"appearance.{part}", "a reference picture or a .npy of tokens", "none")
    path = avatar.folder / avatar.appearance[part]
    if path.suffix == ".npy":
        return load_tokens(path)
    if encoder is None:
        raise InputError(str(avatar.folder), "networks.appearance", f"a graph that reads {path.name}", "none")
    name, shape = next(iter(encoder.inputs.items()))
    picture = read_picture(path)
    try:
        said = hosted(encoder, **{name: to_network(picture, shape, 0.0)})
    except ValueError as error:
        raise InputError(str(path), "size", "a picture of the encoder's size", str(error)) from None
    return np.array(next(iter(said.values())), np.float32)


def read_picture(path: Path) -> np.ndarray:
    """A PNG or JPEG as (H, W, 3) uint8."""
    import av  # only where a picture is to be read

    try:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, OSError, StopIteration) as error:
        raise InputError(str(path), "file", "a picture", str(error) or "nothing in it") from None


def load_tokens(path: Path) -> np.ndarray:
    """Ready-made tokens (1, n, D) float32 of a .npy. InputError where it holds something else."""
    try:
        tokens = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(str(path), "file", "an array of tokens", str(error)) from None
    if tokens.ndim != 3 or tokens.dtype.kind != "f" or not np.isfinite(tokens).all():
        raise InputError(str(path), "tokens", "finite floats (1, n, D)", f"{tokens.dtype} {tokens.shape}")
    return np.asarray(tokens, np.float32)
