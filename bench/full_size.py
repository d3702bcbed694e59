"""Networks of full size in torch, on a GPU where there is one: frames a second in each mode and number of steps, against eager diffusers.

    liveanchor bench gpu --json bench/results/gpu.json

The weights are random, so these are figures of speed alone. One run measures the device's ceilings (a copy, a large matrix product),
then the live engine's own stages, captured and eager, on the same weights and poses. No GPU has run this yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.modes import Setting
from bench.record import record
from engine.avatar import (
    Avatar,
    CameraFields,
    ConditionFields,
    DenoiseFields,
    FaceFields,
    HandFields,
    LatentFields,
    bundled_avatar,
)
from engine.given import Given
from engine.live import LiveEngine, context_and_hop, needed
from engine.network import Network
from engine.networks import folder as stored
from engine.networks.configs import AvatarConfig
from engine.networks.folder import AvatarNetworks
from engine.steps import Schedule, spaced
from export.graphs import Graph, graphs
from export.live import Graphs
from export.manifest import Manifest
from export.runtime import WINDOW, loaded, opened
from export.samples import motion, spread
from export.seam import Source

PIXELS_OF_A_LATENT = 8
MATRIX, COPIED = 8192, 1 << 30  # rows of the matrix product, bytes of the copy
GRAPHS = ("body", "body_windows", "body_bank", "decoder", "encoder", "face", "face_decoder")
WARM_UP = 12  # frames that are not counted: kernels are chosen, graphs captured, windows filled
PAINTED = ("denoise", "decode", "face")  # the stages that are networks, but for warps and blending


SETTINGS = tuple(
    Setting(*way, steps) for way in (("exact", 16, 4), ("causal", 1, 0), ("bank", 2, 1)) for steps in (1, 2, 4)
)


@dataclass(frozen=True)
class Row:
    """What was measured of a setting. Milliseconds are of one frame's networks."""

    setting: Setting
    provider: str  # of the runtime torch
    frames: int
    fps: float
    p50_ms: float
    p95_ms: float
    tflop: float  # of one frame
    tflop_s: float
    ceiling: float  # how much of the matrix product's speed that is


def random_avatar(config: AvatarConfig, folder: Path, seed: int = 0) -> Avatar:
    """An avatar of `config` with random weights in half precision, written into `folder`; it has no graphs, only networks."""
    torch.manual_seed(seed)
    networks = stored.build(config, hand=False)
    with torch.no_grad():
        for _, network in networks.parts():
            for parameter in network.parameters():
                if parameter.ndim > 1 and not parameter.any():  # what begins at zero would cost nothing
                    parameter.normal_(0, 0.5 / parameter[0].numel() ** 0.5)
    stored.save(networks, folder)
    avatar = described(config, folder)
    rng = np.random.default_rng(seed)
    for half, width in (("body", config.body), ("head", config.head)):
        tokens = rng.standard_normal((1, 50, width.unet["cross_attention_dim"])).astype(np.float32)
        file = folder / "appearance" / f"{half}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, tokens)
    for name in GRAPHS:
        (folder / avatar.networks[name]).touch()  # what an avatar must have; torch reads the networks themselves
    avatar.write(folder)
    Manifest({}, {}).write(folder)
    return avatar


def described(config: AvatarConfig, folder: Path) -> Avatar:
    """What avatar.toml would say: Stable Diffusion's schedule, no guidance, the bundled anchor's body."""
    bundled = Avatar.load(bundled_avatar())
    size = config.body.latent_size * PIXELS_OF_A_LATENT
    denoise = DenoiseFields(spaced(Schedule(), 1).now)
    camera = bundled.camera.camera()
    scaled = replace(
        bundled.camera, size=size, fx=camera.fx * size / camera.width, fy=camera.fy * size / camera.width,
        cx=size / 2, cy=size / 2,
    )  # fmt: skip
    channels = config.body.unet["out_channels"]
    return Avatar(
        name="random", size=size, fps=bundled.fps, networks={name: f"{name}.onnx" for name in GRAPHS}, latent=LatentFields(channels, config.body.latent_size, 0.18215),
        denoise=denoise, camera=CameraFields.of(scaled.camera()), condition=ConditionFields("authors", size), body=bundled.body,
        face=FaceFields(
            True, config.head.latent_size * PIXELS_OF_A_LATENT, latent=LatentFields(channels, config.head.latent_size, 0.18215), denoise=denoise
        ),
        hands=HandFields(False), appearance={"body": "appearance/body.npy", "head": "appearance/head.npy"}, folder=folder,
    )  # fmt: skip


def networks_of(avatar: Avatar, provider: str, precision: str, context: int | None, hop: int) -> Graphs:
    """The graphs that an engine calls, loaded straight from the networks."""
    module, options = opened(f"torch:{provider}", precision)
    given = Given(avatar, {})

    def load(name: str) -> Network:
        match = WINDOW.fullmatch(name)
        graph, batch = (f"{match[1]}_windows", int(match[2])) if match else (name, 1)
        source = Source(avatar.folder, graph, avatar.folder / f"{graph}.onnx", "random", "random", batch)
        return loaded(module, source, options, lambda shapes: given(name, shapes))

    return Graphs({name: load(name) for name in needed(avatar, context, hop)}, load)


def paint(
    avatar: Avatar, setting: Setting, provider: str, precision: str, frames: int, warm_up: int = WARM_UP
) -> np.ndarray:
    """Milliseconds that the networks of each of `frames` took; a window's frames share its time."""
    own = avatar.with_steps(setting.steps).with_mode(setting.mode).with_window(setting.window, setting.overlap)
    context, hop = context_and_hop(setting.mode, setting.window, setting.overlap)
    if setting.mode == "bank":
        own = replace(own, denoise=replace(own.denoise, context=context or 1))
    engine = LiveEngine(own, networks_of(own, provider, precision, context, hop), context=context, hop=hop)
    clip = motion(Avatar.load(bundled_avatar()))
    (poses,) = spread(clip, 1, min(len(clip), frames + 2 * setting.window + warm_up))
    pictures = [picture for frame in poses for picture in engine.feed(frame)]
    return np.array([sum(p.stage_ns[name] for name in PAINTED) / 1e6 for p in pictures[warm_up:][:frames]])


def measure(
    avatar: Avatar,
    precision: str,
    settings: tuple[Setting, ...] = SETTINGS,
    frames: int = 200,
    providers: tuple[str, ...] = ("auto", "eager"),
    ceiling: float = 0.0,
    warm_up: int = WARM_UP,
    tell: Callable[[Row], None] = lambda row: None,
) -> Iterator[Row]:
    """Every setting with every provider in turn. `ceiling`: TFLOP/s of a large matrix product."""
    work = flops(avatar, stored.load(avatar.folder), {setting.window for setting in settings})
    for setting in settings:
        tflop = per_frame(work, setting) / 1e12
        for provider in providers:
            ms = paint(avatar, setting, provider, precision, frames, warm_up)
            rate = tflop / (float(ms.mean()) / 1e3)
            p50, p95 = (float(v) for v in np.percentile(ms, (50, 95)))
            share = rate / ceiling if ceiling else 0.0
            row = Row(setting, provider, len(ms), 1e3 / float(ms.mean()), p50, p95, tflop, rate, share)
            tell(row)
            yield row


def flops(avatar: Avatar, networks: AvatarNetworks, windows: Iterable[int] = (16,)) -> dict[tuple[str, int], float]:
    """Operations of one call of each graph, by its name and frames; a multiplication and an addition are two."""
    found = {}
    for graph in graphs(avatar, networks):
        for frames in (1, *windows) if graph.name == "body_windows" else (1,):
            found[graph.name, frames] = _counted(graph, frames)
    return found


def per_frame(work: Mapping[tuple[str, int], float], setting: Setting) -> float:
    """Operations of one finished frame: its share of a window's evaluations, decoder, and the face's pass of one step."""
    once = sum(work[name, 1] for name in ("decoder", "encoder", "face", "face_decoder"))
    if setting.mode == "bank":
        return setting.steps * work["body_bank", 1] + once
    if setting.window == 1:
        return setting.steps * work["body", 1] + once
    return setting.steps * work["body_windows", setting.window] / (setting.window - setting.overlap) + once


def _counted(graph: Graph, frames: int) -> float:
    """Shapes alone: nothing is computed, so that full size is counted in seconds."""
    module = deepcopy(graph.module).to("meta")
    inputs = [tensor.to("meta") for tensor in (graph.of(frames) if graph.open else graph.inputs).values()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return float(counter.get_total_flops())


def ceilings(device: str, rows: int = MATRIX, size: int = COPIED) -> dict[str, float]:
    """TFLOP/s of a bf16 matrix product of so many rows, GB/s of a copy of so many bytes: read and written."""
    a, b = (torch.randn(rows, rows, dtype=torch.bfloat16, device=device) for _ in range(2))
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    out = torch.empty_like(a)
    product, copied = (
        _seconds(work, device) for work in (lambda: torch.matmul(a, b, out=out), lambda: target.copy_(source))
    )
    return {"matmul_bf16_tflop_s": 2 * rows**3 / product / 1e12, "copy_gb_s": 2 * size / copied / 1e9}


def run(
    config: AvatarConfig,
    folder: Path,
    precision: str,
    frames: int,
    settings: tuple[Setting, ...] = SETTINGS,
    seed: int = 0,
    rows: int = MATRIX,
    size: int = COPIED,
    warm_up: int = WARM_UP,
    tell: Callable[[Row], None] = lambda row: None,
) -> dict[str, Any]:
    """Everything, as it is to be written as JSON. `folder` holds the random avatar meanwhile."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = ceilings(device, rows, size)
    avatar = random_avatar(config, folder, seed)
    measured = measure(
        avatar, precision, settings, frames, ceiling=found["matmul_bf16_tflop_s"], warm_up=warm_up, tell=tell
    )
    gpu = {"name": torch.cuda.get_device_name(), "peak_bytes": 0} if device == "cuda" else None
    table = [asdict(row) for row in measured]
    if gpu is not None:
        gpu["peak_bytes"] = torch.cuda.max_memory_allocated()
    return {
        **record(), "device": device, "gpu": gpu, "weights": "random", "precision": precision, "seed": seed,
        "ceilings": found, "rows": table,
    }  # fmt: skip


def _seconds(work: Callable[[], Any], device: str, times: int = 10) -> float:
    """The best of some runs, each waited for."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(times))
