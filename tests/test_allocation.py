"""The frame path asks for no memory that it does not hand on: after the first frames NumPy's arrays are all there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from allocations import allocations
from fakes import pose_frame

from engine.arrays import HOST
from engine.avatar import Avatar, Mode
from engine.denoise import Bank, Causal, Denoiser, Exact
from engine.noise import Noise
from engine.predict import Memory, Predictor, WindowPredictor
from engine.sampler import Sampler
from engine.steps import Prediction, Schedule, listed
from engine.work import Work
from export import runtime
from export.ladder import describe
from export.live import open_live

RUNTIMES = [info.name for info in describe() if info.usable]
SHAPE = 16, 16, 16  # a frame's latents: 16 KiB
LATENTS = 4 * 16**3
HINT = 1, 32, 32, 8
BEFORE, FRAMES = 60, 20  # an exact stream of four steps is steady after 48 frames


@pytest.mark.parametrize(
    ("wasteful", "sizes"),
    [
        (lambda a: np.empty(4096, np.uint8), [4096]),
        (lambda a: np.empty(4095, np.uint8), []),
        (lambda a: np.zeros((2, 2048)), [32768]),
        (lambda a: a.copy(), [8192]),
        (lambda a: a + a * a, [8192, 8192]),
        (lambda a: a[[1, 0]], [8192]),
        (lambda a: np.add(a, a, out=a), []),
        (lambda a: a[:, :500].reshape(-1), [4000]),
    ],
)
def test_whatever_is_asked_for_is_counted(wasteful: Callable[[np.ndarray], object], sizes: list[int]) -> None:
    array = np.ones((2, 1024), np.float32)
    with allocations() as found:
        kept = [wasteful(array), wasteful(array)]  # freed or not
    assert found == [size for _ in kept for size in sizes if size >= 4096]
    with allocations() as found:
        pass
    np.empty(1 << 20)
    assert found == []


class Wasteful:
    """A network that asks for one array more than it needs."""

    def __init__(self, network: Callable[..., object]) -> None:
        self.network = network

    def __call__(self, **inputs: np.ndarray) -> None:
        np.empty(4096, np.uint8)
        self.network(**inputs)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_network_asks_for_nothing(exported: Path, name: str) -> None:
    for graph, network in runtime.load(exported, ["hint", "body_w2", "body_bank", "decoder"], name, "f32", 1).items():
        kinds = {"condition": np.uint8, "timestep": np.int64, "filled": np.int64}
        inputs = {key: np.ones(shape, kinds.get(key, np.float32)) for key, shape in network.inputs.items()}
        for called, expected in ((network, []), (Wasteful(network), [4096] * FRAMES)):
            for _ in range(3):
                called(**inputs)
            with allocations() as found:
                for _ in range(FRAMES):
                    called(**inputs)
            assert found == expected, graph


class Still:
    """A network that is done at once, in its own memory, so that what is asked for is asked for by others."""

    home = HOST
    fixed: Mapping[str, np.ndarray] = {}

    def __init__(self, frames: int, branches: int, slots: int = 0) -> None:
        count = frames * branches
        self.inputs = {"sample": (count, *SHAPE), "timestep": (count,), "hint": (count, *HINT[1:])}
        self.outputs = {"prediction": (count, *SHAPE)}
        if slots:
            self.inputs |= {"filled": (1,), "past_a": (2, 2, branches, slots, 64, 32)}
            self.outputs["new_a"] = (2, 2, branches, 64, 32)
        self._said = {name: np.zeros(shape, np.float32) for name, shape in self.outputs.items()}

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        assert {name: array.shape for name, array in inputs.items()} == self.inputs
        return self._said


def causal(sampler: Sampler, branches: int) -> tuple[Predictor, Denoiser]:
    predict = Predictor(Still(1, branches), sampler.times.now)
    return predict, Causal(sampler, predict)


def beside(sampler: Sampler, branches: int) -> tuple[Predictor, Denoiser]:
    predict = Predictor(Still(4, branches), sampler.times.now, frames=4)
    return predict, Causal(sampler, predict, context=3)


def banked(sampler: Sampler, branches: int) -> tuple[Predictor, Denoiser]:
    predict = Predictor(Still(1, branches, slots=3), sampler.times.now)
    return predict, Bank(sampler, predict)


def exact(sampler: Sampler, branches: int) -> tuple[WindowPredictor, Denoiser]:
    def make(frames: int, memory: Memory) -> Predictor:
        return Predictor(Still(frames, branches), sampler.times.now, frames=frames, memory=memory)

    mode = Exact(sampler, lambda *asked: predict(*asked), 8, 4)
    predict = WindowPredictor(make, 8, mode.reach)
    return predict, mode


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["sample", "epsilon"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("mode_of", [causal, beside, banked, exact])
def test_a_mode_asks_for_the_results_of_its_formulas_alone(
    mode_of: Callable[[Sampler, int], tuple[Predictor, Denoiser]], steps: int, kind: Prediction, guidance: float
) -> None:
    """A DDIM step is six operators on a frame's latents, guidance three more; they are formulas, and give new arrays.

    Of those the last one of each frame is handed on, so it could not lie in memory that is used again. All else lies in rings.
    """
    sampler = Sampler(Schedule(), listed([999, 749, 499, 249][:steps]), kind, guidance=guidance)
    predict, mode = mode_of(sampler, 1 if guidance == 1.0 else 2)
    noise, hint, left = Noise(SHAPE), np.ones(HINT, np.float32), []

    def push(position: int) -> None:
        predict.remember(position, {"hint": hint})
        left.extend(mode.push(noise.at(position)))

    for position in range(BEFORE):
        push(position)
    left.clear()
    with allocations() as found:
        for position in range(BEFORE, BEFORE + FRAMES):
            push(position)
    assert len(left) == FRAMES
    operators = 6 if guidance == 1.0 else 9
    assert sum(found) == FRAMES * steps * operators * LATENTS


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize(("mode", "context"), [("bank", None), ("causal", 0), ("causal", 1)])
def test_the_stages_ask_for_what_they_hand_on(exported: Path, name: str, mode: Mode, context: int | None) -> None:
    """A frame's latents are smaller here than what is counted, so formulas on them are not among it."""
    engine = open_live(Avatar.load(exported), name, "f32", 1, mode=mode, context=context)
    for i in range(5):
        works, asked = [Work(i, 0, pose_frame(i, i))], {}
        for stage in engine.stages:
            for crops in works[0].crops.values():
                crops.masks[:] = 255  # nothing is out of sight
            with allocations() as found:
                works = stage(works[0])
            asked[stage.name] = sorted(found)
    # Hints for the decoder are the frame's own, as another thread may decode it later; torch's tensors are not NumPy's.
    hints = [] if name == "torch" else [4 * 16 * 16 * 16, 4 * 16 * 32 * 32]
    assert asked["denoise"] == hints
    assert asked["decode"] == [3 * 128 * 128]  # the picture belongs to whoever shows it
    # What is redrawn; the crops as they are painted; for each hand where it is blended, a product of three.
    assert asked["face"] == [64 * 64, 3 * 64 * 64]
    assert asked["hands"] == [2 * 64 * 64, *4 * [4 * 64 * 64], 2 * 3 * 64 * 64]
