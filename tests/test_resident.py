"""State that stays where networks compute: what crosses to a device and back for each frame, and that nothing else changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import pose_frame

from engine.arrays import HOST
from engine.avatar import Avatar, Mode
from engine.given import Given
from engine.live import LiveEngine, needed
from engine.networks.tensors import Tensors
from engine.picture import Picture
from export import runtime

FRAMES = 12
CPU = torch.device("cpu")  # its tensors stand in for a device's: NumPy's arrays are not among them


class CountingHome(Tensors):
    """Counts what is taken there and back."""

    def __init__(self, crossings: Counter[str]) -> None:
        super().__init__(CPU)
        object.__setattr__(self, "crossings", crossings)

    def put(self, array: Any, out: Any = None) -> torch.Tensor:
        if isinstance(array, np.ndarray):
            self.crossings[f"put {array.shape}"] += 1  # type: ignore[attr-defined]
        return super().put(array, out)

    def host(self, array: Any, out: Any = None) -> np.ndarray:
        self.crossings[f"host {tuple(array.shape)}"] += 1  # type: ignore[attr-defined]
        return super().host(array, out)


class Watched:
    """A network that tells which of its inputs came from the host; `home` None: outputs go there, too."""

    def __init__(self, name: str, network: Any, home: CountingHome | None) -> None:
        self.name, self.network, self.home = name, network, home or HOST
        self.fixed, self.inputs, self.outputs = network.fixed, network.inputs, network.outputs

    def __call__(self, **inputs: Any) -> Mapping[str, Any]:
        if isinstance(self.home, CountingHome):
            crossings: Counter[str] = self.home.crossings  # type: ignore[attr-defined]
            crossings.update(f"{self.name}.{k}" for k, array in inputs.items() if isinstance(array, np.ndarray))
        said = self.network(**inputs)
        return {k: tensor.numpy() for k, tensor in said.items()} if self.home is HOST else said


def show(folder: Path, mode: Mode, steps: int, home: CountingHome | None) -> list[Picture]:
    avatar = Avatar.load(folder).with_mode(mode).with_steps(steps).with_window(4, 2)
    avatar = replace(avatar, denoise=replace(avatar.denoise, context=1))
    names = needed(avatar)
    read = runtime.load(folder, [n for n in names if n.endswith("appearance")], "torch", "f32", 2)
    readers = {name: Watched(name, network, None) for name, network in read.items()}
    given = Given(avatar, dict(readers))
    together: dict[str, Any] = {}

    for name in names:
        if name not in readers:
            network = runtime.load(folder, [name], "torch", "f32", 2, fixed=given, together=together)[name]
            readers[name] = Watched(name, network, home)
    engine = LiveEngine(avatar, readers)
    pictures = []
    for i in range(FRAMES):
        if home is not None and i == FRAMES - 4:  # four frames in the middle of a stream
            home.crossings.clear()  # type: ignore[attr-defined]
        pictures += engine.feed(pose_frame(i * 40_000_000, i))
    return pictures


@pytest.mark.parametrize(("mode", "steps"), [("bank", 1), ("bank", 4), ("causal", 2), ("exact", 1), ("exact", 4)])
def test_only_pictures_cross(exported: Path, mode: Mode, steps: int) -> None:
    crossings: Counter[str] = Counter()
    pictures = show(exported, mode, steps, CountingHome(crossings))
    assert pictures
    hands = crossings["hand_encoder.image"]  # frames in which they are seen
    expected = {  # pictures of the mesh, and what is kept of the crops
        "hint.condition": 4, "face_hint.condition": 4, "hand_hint.condition": hands, "encoder.image": 4, "hand_encoder.image": hands,
        # where crops are kept. Never hints, keys, values or latents; noise, which all frames share, when it is first wanted
        "put (1, 1, 4, 4)": 4 + 2 * hands, "put (8, 4, 4)": crossings["put (8, 4, 4)"],
        # finished pictures
        "host (1, 128, 128, 3)": 4, "host (1, 64, 64, 3)": 4, "host (2, 64, 64, 3)": hands,
    }  # fmt: skip
    assert crossings["put (8, 4, 4)"] <= 1
    assert crossings == Counter(expected)


@pytest.mark.parametrize(("mode", "steps"), [("bank", 2), ("causal", 1), ("exact", 2)])
def test_pictures_are_those_of_the_host(exported: Path, mode: Mode, steps: int) -> None:
    """NumPy's arithmetic between the networks, and torch's."""
    here, there = (show(exported, mode, steps, home) for home in (None, CountingHome(Counter())))
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        assert np.abs(a.image.astype(int) - b.image).max() <= 1
