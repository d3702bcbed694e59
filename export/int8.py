"""Graphs of OpenVINO in int8: quantized with NNCF, calibrated on what they are told while the avatar's own clip is painted.

Only graphs that are mostly convolutions: diffusion graphs normalise and attend between them, and lose in changing back and forth
what they win; those that read reference pictures run once. bench/NOTES.md has the figures, section int8.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.avatar import Avatar
from engine.errors import InputError
from engine.given import READERS
from engine.live import needed
from engine.predict import TIMESTEP
from export.samples import Inputs, motion, recorded, spread

STREAMS, FRAMES = 32, 2  # of the clip, that a graph is calibrated on
PROFILE = f"calibrated on {STREAMS}x{FRAMES} frames"


def suits(graph: str, inputs: Collection[str]) -> bool:
    """Whether a graph of that name, with those inputs, is worth it."""
    return graph not in READERS and TIMESTEP not in inputs


def calls(folder: Path, threads: int | None = None) -> dict[str, list[Inputs]]:
    """What each graph of a live engine is told in PROFILE, by graph. InputError as from export.runtime.load."""
    avatar = Avatar.load(folder)
    face = replace(avatar.face, enabled="face" in avatar.networks)
    hands = replace(avatar.hands, enabled="hand" in avatar.networks)
    avatar = replace(avatar, face=face, hands=hands)
    streams = spread(motion(avatar), STREAMS, FRAMES)
    return recorded(avatar, streams, needed(avatar), runtime="openvino", precision="f32", threads=threads)


def quantized(model: Any, told: Sequence[Inputs]) -> Any:
    """An OpenVINO model in int8, of one in float32 and what it is `told`. InputError where NNCF is not installed."""
    os.environ.setdefault("NNCF_CI", "1")  # otherwise it reports over the network that it is used
    try:
        import nncf
    except ImportError:
        raise InputError("int8", "package", "nncf", "none", "pip install 'liveanchor[int8]'") from None
    nncf.set_log_level(logging.ERROR)
    names = [port.get_node().get_friendly_name() for port in model.inputs]
    data = nncf.Dataset(told, lambda inputs: [inputs[name] for name in names])
    with contextlib.redirect_stdout(io.StringIO()):  # bars of its own
        return nncf.quantize(model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(told))
