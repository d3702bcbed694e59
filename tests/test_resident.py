"""Arrays stay where the networks compute: what crosses the bus in a frame, counted, with torch's CPU tensors as a GPU's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeNetwork, pose_frame
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.arrays import HOST
from engine.avatar import Avatar, Mode
from engine.denoise import Causal
from engine.live import LiveEngine
from engine.network import Network, hosted
from engine.networks.tensors import Tensors
from engine.noise import Noise
from engine.predict import Predictor
from engine.sampler import Sampler
from engine.stages import DenoiseStage
from engine.steps import Schedule, listed
from engine.work import Work, advance
from export import live as export_live
from export.live import open_live
from export.runtimes import torch_way

PICTURE, CROP, HANDS = 3 * 128 * 128, 3 * 64 * 64, 2  # bytes; one face, two hands
LATENTS, CELLS = 4 * 8 * 8 * 8, 4 * 4 * 4  # of a frame; the mask of a crop
STEPS = {1: (999,), 4: (999, 749, 499, 249)}


@dataclass(frozen=True)
class Counting(Tensors):
    """Writes down how many bytes come and go."""

    up: list[int] = field(default_factory=list, compare=False)
    down: list[int] = field(default_factory=list, compare=False)
    open: list[bool] = field(default_factory=list, compare=False)  # not empty: something crosses, and may

    def put(self, array: np.ndarray | Tensor, out: Tensor | None = None) -> Tensor:
        if isinstance(array, np.ndarray):
            self.up.append(array.nbytes)
        with self.crossing():
            return super().put(array, out)

    def host(self, array: np.ndarray | Tensor, out: np.ndarray | None = None) -> np.ndarray:
        if isinstance(array, Tensor):
            self.down.append(array.nbytes)
        with self.crossing():
            return super().host(array, out)

    @contextmanager
    def crossing(self) -> Iterator[None]:
        self.open.append(True)
        yield
        self.open.pop()


class Guarded(TorchDispatchMode):
    """Nothing crosses but by its home: no tensor of an array or of a list, no value read back, no array of a tensor."""

    def __init__(self, home: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.home, self.on = home, False
        for name in ("numpy", "__array__", "tolist"):
            monkeypatch.setattr(Tensor, name, self.refusing(name, getattr(Tensor, name)))

    def refusing(self, name: str, plain: Any) -> Any:
        def asked(*args: Any, **kwargs: Any) -> Any:
            assert self.home.open or not self.on, name
            return plain(*args, **kwargs)

        return asked

    def __enter__(self) -> Any:
        self.on = True
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        self.on = False
        super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.home.open:
            made = (
                func is torch.ops.aten.lift_fresh.default and args[0].numel() > 1
            )  # one number is a kernel's argument
            assert not made and func is not torch.ops.aten._local_scalar_dense.default, func
        return func(*args, **(kwargs or {}))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Where the torch runtime's arrays lie in this test."""
    made = Counting(torch.device("cpu"))
    monkeypatch.setattr(torch_way, "Tensors", lambda device: made)
    return made


class ThroughNumPy:
    """A network whose arrays go through host memory each time."""

    home = HOST

    def __init__(self, network: Network) -> None:
        self.network = network
        self.fixed, self.inputs, self.outputs = network.fixed, network.inputs, network.outputs

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        assert all(isinstance(array, np.ndarray) for array in inputs.values())
        return hosted(self.network, **inputs)


def engine_of(avatar: Avatar, steps: int, mode: Mode, context: int | None, **fields: Any) -> LiveEngine:
    denoise = replace(avatar.denoise, timesteps=STEPS[steps], **fields)
    window = {"window": 3, "overlap": 1} if mode == "exact" else {}
    avatar = replace(avatar, denoise=denoise)
    return open_live(avatar, "torch", "f32", 1, mode=mode, context=context, **window)


def feed(engine: LiveEngine, index: int) -> list[np.ndarray]:
    """The pictures of the next frame, in which no part is out of sight."""
    works = advance(engine.stages[:2], [Work(index, 0, pose_frame(index * 40_000_000, index))], int)
    for work in works:
        for crops in work.crops.values():
            crops.masks[:, 8:-8, 8:-8] = 255
    return [work.image for work in advance(engine.stages[2:], works, int)]


MODES = [("bank", None), ("causal", 0), ("causal", 1), ("exact", None)]


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("mode", "context"), MODES)
def test_a_picture_goes_up_and_a_picture_comes_down(
    exported: Path, home: Counting, monkeypatch: pytest.MonkeyPatch, steps: int, mode: Mode, context: int | None
) -> None:
    """However many steps there are: the condition, and of each crop the mesh, what is kept and where; and what is painted."""
    engine = engine_of(Avatar.load(exported), steps, mode, context)
    before, frames = 12, 8  # an exact stream of four steps is 8 frames late
    for i in range(before):
        feed(engine, i)
    home.up.clear()
    home.down.clear()
    with Guarded(home, monkeypatch):
        painted = sum(len(feed(engine, before + i)) for i in range(frames))
    assert painted == frames
    hands = [HANDS * CROP, HANDS * CROP, *HANDS * [CELLS]]
    assert sorted(home.up) == sorted(frames * [PICTURE, *hands, CROP, CROP, CELLS])
    assert sorted(home.down) == sorted(frames * [PICTURE, HANDS * CROP, CROP])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("mode", "context"), MODES)
def test_it_paints_what_is_painted_through_host_memory(
    exported: Path, monkeypatch: pytest.MonkeyPatch, steps: int, mode: Mode, context: int | None
) -> None:
    """With noise of each frame's own and new noise at each step, and with predictions that agree with their neighbours."""
    avatar, more = Avatar.load(exported), {"noise": "per-frame", "sampler": "lcm", "smoothing": 0.2}
    ours = engine_of(avatar, steps, mode, context, **more)
    plain = export_live.load
    monkeypatch.setattr(
        export_live, "load", lambda *how, **given: {n: ThroughNumPy(x) for n, x in plain(*how, **given).items()}
    )
    theirs = engine_of(avatar, steps, mode, context, **more)
    pictures = [[image for i in range(14) for image in feed(engine, i)] for engine in (ours, theirs)]
    assert len(pictures[0]) > 5
    for a, b in zip(*pictures, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(pictures[0][0], pictures[0][1])


@pytest.mark.parametrize("steps", [1, 4])
def test_noise_goes_up_as_often_as_it_is_drawn(exported: Path, home: Counting, steps: int) -> None:
    """Once, once a frame, or (LCM) where a frame begins and after each of its steps."""
    for kind, sampler, each in (("shared", "lcm", 0), ("per-frame", "ddim", 1), ("per-frame", "lcm", 1 + steps)):
        engine = engine_of(Avatar.load(exported), steps, "causal", 0, noise=kind, sampler=sampler)
        feed(engine, 0)
        home.up.clear()
        feed(engine, 1)
        assert home.up.count(LATENTS) == each, (kind, sampler)


def test_a_condition_that_the_diffusion_graph_sees_itself_goes_up_once() -> None:
    """As in full-size avatars, which have no hint encoder: two branches of four steps over windows of three."""
    home, branches, window, size = Counting(torch.device("cpu")), 2, 3, 32

    def formula(given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        assert all(isinstance(array, Tensor) for array in given.values())
        return {"prediction": given["sample"] + given["condition"].float().mean() + given["timestep"].sum()}

    count = branches * window
    shapes = {"sample": (count, 4, 4, 4), "timestep": (count,), "condition": (count, size, size, 3)}
    network = FakeNetwork(shapes, {"prediction": (count, 4, 4, 4)}, formula, home=home)
    sampler = Sampler(Schedule(), listed(STEPS[4]), guidance=7.5)
    predictor = Predictor(network, STEPS[4], frames=window)
    stage = DenoiseStage(None, predictor, Causal(sampler, predictor, window - 1), Noise((4, 4, 4), home=home))
    for i in range(5):
        (work,) = stage(Work(i, 0, pose_frame(i), condition=np.full((size, size, 3), i, np.uint8)))
        assert isinstance(work.arrays["latents"], Tensor)
    assert network.calls == 20
    assert sorted(home.up) == [4 * 4**3, *5 * [3 * size * size]]  # the noise of all frames, and the conditions
    assert home.down == []


def test_whatever_crosses_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Counting(torch.device("cpu"))
    there = home.put(np.ones((2, 2), np.float32))
    with Guarded(home, monkeypatch):
        assert home.host(home.put(np.ones(3)))[0] == 1
        there[0], there[...] = 3.0, 2
        for crosses in (
            lambda: there[[0, 1]], lambda: there.new_tensor([1.0, 2.0]), lambda: torch.from_numpy(np.ones(2)),
            lambda: there.sum().item(), lambda: bool(there[0, 0] > 0), lambda: np.asarray(there), lambda: there.numpy(),
        ):  # fmt: skip
            with pytest.raises(AssertionError):
                crosses()
    assert (home.up, home.down) == ([16, 24], [24])
