"""What an avatar's networks are really told: every input of every graph, kept while the live engine paints a clip.

Benchmarks time graphs on it, int8 is calibrated with it, and engines are verified by it. It knows the engine, not who asks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from engine.arrays import Array
from engine.avatar import Avatar
from engine.clips import read_clip
from engine.live import BANK_GRAPH, LiveEngine, needed
from engine.network import Network
from engine.pose import PoseClip, PoseFrame
from engine.repaint import LEAST
from engine.resample import resample
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.stages import ConditionStage
from engine.work import Work, advance
from export.runtime import WINDOW, load

Inputs = Mapping[str, np.ndarray]  # of one call, by input name


class Recorder:
    """A network that keeps what it is told, `fixed` inputs among it (engine.network.Network)."""

    def __init__(self, network: Network) -> None:
        self.home, self.fixed, self.inputs, self.outputs = network.home, network.fixed, network.inputs, network.outputs
        self.told: list[Inputs] = []
        self._network = network

    def __call__(self, **inputs: Array) -> Mapping[str, Array]:
        kept = {name: np.array(self.home.host(array), order="C") for name, array in inputs.items()}
        self.told.append(MappingProxyType({**self.fixed, **kept}))
        return self._network(**inputs)


def recorded(
    avatar: Avatar,
    streams: Sequence[Sequence[PoseFrame]],
    names: Iterable[str] | None = None,
    seed: int = 0,
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> dict[str, list[Inputs]]:
    """All inputs of every call of the graphs `names` (those that the live engine calls), by graph, in order.

    `streams` are painted one after the other, each from its beginning. Every frame calls every graph: a part that is out of
    sight is painted all the same. Names are export.runtime.load's: a graph for windows of N frames, body_wN, is told of N - 1
    past frames and a new one. InputError as from `load`.
    """
    names = needed(avatar) if names is None else tuple(dict.fromkeys(names))
    bodies = [name for name in names if name.startswith("body")]
    told: dict[str, list[Inputs]] = {}
    for body in bodies or [BANK_GRAPH if avatar.denoise.mode == "bank" else "body"]:
        context = None if body == BANK_GRAPH else _frames(body) - 1
        own = avatar.with_mode("bank" if context is None else "causal")
        loaded = load(avatar.folder, needed(own, context), runtime, precision, threads)
        recorders = {name: Recorder(network) for name, network in loaded.items()}
        engine = LiveEngine(own, recorders, context=context, seed=seed)
        for stream in streams:
            for index, frame in enumerate(stream):
                _paint(engine, Work(index, engine.epoch, frame))
            engine.reset()
        told = {name: recorder.told for name, recorder in recorders.items()} | told
    return {name: told[name] for name in names}


def _paint(engine: LiveEngine, work: Work) -> None:
    crops = next(i for i, stage in enumerate(engine.stages) if isinstance(stage, ConditionStage)) + 1
    works = advance(engine.stages[:crops], [work], time.perf_counter_ns)
    for part in work.crops.values():
        if ((part.masks > 127).mean((1, 2)) < LEAST).all():
            part.masks[:] = 255
    advance(engine.stages[crops:], works, time.perf_counter_ns)


def motion(avatar: Avatar, seed: int = 0) -> PoseClip:
    """The avatar's own clip at its rate; where there is none, a second of small random movements."""
    file = avatar.folder / "clip.npz"
    if file.is_file():
        return resample(read_clip(file), avatar.fps)
    frames, rng = round(avatar.fps), np.random.default_rng(seed)
    swing = np.sin(np.linspace(0, 2 * np.pi, frames, endpoint=False))[:, None]  # back to where it began
    poses, expressions = (swing * rng.normal(0, 0.1, size) for size in (POSE_DIMS, EXPRESSION_DIMS))
    still = np.zeros((frames, 3), np.float32)
    return PoseClip(avatar.fps, poses.astype(np.float32), expressions.astype(np.float32), still, source="random")


def spread(clip: PoseClip, streams: int, frames: int = 2, shift: float = 0.5) -> list[list[PoseFrame]]:
    """So many `streams` of consecutive `frames`, evenly over the clip: neighbours, since a frame may see the last one.

    `shift`, 0 to 1, says where in its share of the clip each begins: other shifts, other frames.
    """
    room = max(1, len(clip) - frames + 1)
    starts = ((np.arange(streams) + shift) * room / streams).astype(int)
    return [list(_from(clip, min(int(start), room - 1), frames)) for start in starts]


def _from(clip: PoseClip, start: int, frames: int) -> Iterator[PoseFrame]:
    return (clip.frame(i) for i in range(start, min(start + frames, len(clip))))


def _frames(body: str) -> int:
    window = WINDOW.fullmatch(body)
    return int(window[2]) if window else 1
