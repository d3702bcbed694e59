"""Diffusion graphs as a `Predict`, and what they remember of each of the newest frames: what it was conditioned on.

Graph inputs by name: `sample` latents, `timestep` one per frame, constants (engine.given), and whatever is remembered per frame (hints, an inpainting mask and what it keeps). The first output is the prediction. A graph with a bank of past
frames also takes `filled` and some `past_...`, and gives a `new_...` for each of those (engine.denoise.Bank).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from engine.arrays import HOST, Array, Home, gather
from engine.network import Network

SAMPLE, TIMESTEP = "sample", "timestep"
FILLED, PAST, NEW = "filled", "past_", "new_"


class Memory:
    """What each of the newest `reach` frames was conditioned on, by input name; None: all frames, in memory that grows.

    It lies at `home`: whatever comes from elsewhere is moved there once.
    """

    def __init__(self, reach: int | None, home: Home = HOST) -> None:
        self.reach, self.home = reach, home
        self.newest = 0
        self._arrays: dict[str, Array] = {}

    def keep(self, position: int, arrays: Mapping[str, Array]) -> None:
        """Frame `position`, counted from the stream's first, was conditioned on these, (1, ...) each."""
        self.newest = position
        for name, array in arrays.items():
            if name not in self._arrays:
                self._arrays[name] = self.home.empty((self.reach or 64, *array.shape[1:]), array.dtype)
            kept = self._arrays[name]
            if self.reach is None and position == len(kept):
                self._arrays[name] = self.home.empty((2 * position, *kept.shape[1:]), kept.dtype)
                self._arrays[name][:position] = kept
                kept = self._arrays[name]
            slot = position % len(kept)
            self.home.put(array[:1], kept[slot : slot + 1])

    def slots(self, frames: range) -> list[int]:
        """Where frames lie. Before the first one stand copies of it, and after the newest copies of that."""
        modulus = self.reach or self.newest + 1
        return [min(max(frame, 0), self.newest) % modulus for frame in frames]

    def __getitem__(self, name: str) -> Array:
        """All that is kept under a name, (reach, ...)."""
        return self._arrays[name]


class Conditioned(Protocol):
    """A `Predict` that has to be told of each frame before it is asked about it."""

    @property
    def network(self) -> Network:
        """The graph, or one of them; they differ in how many frames they take."""
        ...

    def remember(self, position: int, arrays: Mapping[str, Array]) -> None: ...

    def __call__(self, latents: Array, frames: range, step: int) -> Array: ...


class Predictor:
    """Calls `network` on windows of exactly the number of frames it was exported for. Its arrays lie at the network's home."""

    def __init__(
        self,
        network: Network,
        timesteps: Sequence[int],
        constants: Mapping[str, np.ndarray] | None = None,
        frames: int = 1,
        beside: Sequence[str] = (),
        memory: Memory | None = None,
    ) -> None:
        """`constants` by input name, those that the network was loaded for among them; two branches carry the unconditional
        one first.

        `frames` of a window. `beside`: what is remembered that follows the latents in `sample`'s channels. `memory`: one that is
        shared, or one of its own for a window. ValueError where the network's shapes are not those of such windows.
        """
        shapes = {**network.inputs, **{name: array.shape for name, array in network.fixed.items()}}
        for name in (SAMPLE, TIMESTEP):
            if name not in shapes:
                raise ValueError(f"the network has no input {name!r}, only {', '.join(shapes)}")
        self.network, self.timesteps = network, tuple(timesteps)
        self.frames, self.beside = frames, tuple(beside)
        home = network.home
        self.memory = memory or Memory(frames, home)
        self.branches, odd = divmod(shapes[SAMPLE][0], frames)
        if odd or self.branches not in (1, 2):
            raise ValueError(f"the network was exported for {shapes[SAMPLE][0]} frames at once, not for {frames}")
        constants = {n: spread(n, array, shapes[n]) for n, array in (constants or {}).items() if n in shapes}
        varying = (SAMPLE, TIMESTEP, *network.fixed)
        self.constants = {n: home.put(c) for n, c in constants.items() if n not in varying}
        self.bank = {name: shape for name, shape in shapes.items() if name.startswith(PAST)}
        given = (SAMPLE, TIMESTEP, FILLED, *self.bank, *constants, *network.fixed)
        self.remembered = tuple(name for name in shapes if name not in given) + self.beside
        self._output = next(iter(network.outputs))
        self._sample = home.empty(shapes[SAMPLE], np.float32)
        self._timestep = home.empty(shapes[TIMESTEP], np.int64)
        self._filled = home.empty((1,), np.int64)
        self._windows: dict[str, Array] = {}

    def remember(self, position: int, arrays: Mapping[str, Array]) -> None:
        """What frame `position` (counted from the stream's first) is conditioned on: (1, ...) by input name."""
        self.memory.keep(position, {name: arrays[name] for name in self.remembered})

    def __call__(self, latents: Array, frames: range, step: int) -> Array:
        """The prediction (B, n, C, h, w) for `latents` (n, C, h, w) of `frames`; overwritten by the next call."""
        return self._prediction(self._run(latents, frames, step, {}))

    def attend(
        self, latents: Array, frame: int, step: int, bank: Mapping[str, Array], filled: int
    ) -> tuple[Array, Mapping[str, Array]]:
        """The same for one frame of a graph with a bank, as engine.denoise.Attend has it."""
        self._filled[...] = filled
        said = self._run(latents, range(frame, frame + 1), step, {FILLED: self._filled, **bank})
        return self._prediction(said), {name: said[name.replace(PAST, NEW, 1)] for name in bank}

    def _run(self, latents: Array, frames: range, step: int, more: Mapping[str, Array]) -> Mapping[str, Array]:
        slots = self.memory.slots(frames)
        given = {name: self._window(name, slots) for name in self.remembered if name not in self.beside}
        given.update({**self.constants, **more})
        if SAMPLE in self.network.inputs:
            given[SAMPLE] = self._beside(latents, slots)
        if TIMESTEP in self.network.inputs:
            self._timestep[...] = self.timesteps[step]
            given[TIMESTEP] = self._timestep
        return self.network(**given)

    def _beside(self, latents: Array, slots: list[int]) -> Array:
        """The latents of both branches, with the channels that follow them."""
        channels = latents.shape[1]
        for branch in range(self.branches):
            part = self._sample[branch * self.frames : (branch + 1) * self.frames]
            part[:, :channels] = latents
            at = channels
            for name in self.beside:
                kept = self.memory[name]
                gather(kept, slots, part[:, at : at + kept.shape[1]])
                at += kept.shape[1]
        return self._sample

    def _prediction(self, said: Mapping[str, Array]) -> Array:
        prediction = said[self._output]
        return prediction.reshape(self.branches, self.frames, *prediction.shape[1:])

    def _window(self, name: str, slots: list[int]) -> Array:
        kept = self.memory[name]
        if self.memory.reach == self.branches == 1:
            return kept
        if name not in self._windows:
            shape = self.branches * self.frames, *kept.shape[1:]
            self._windows[name] = self.network.home.empty(shape, kept.dtype)
        return gather(kept, slots * self.branches, self._windows[name])


class WindowPredictor:
    """Windows of every length up to `longest`, by a Predictor for each, which `make` makes when the first such one comes.

    Only the end of a stream has windows shorter than the longest. What `make` makes must remember in the memory it is given.
    """

    def __init__(
        self, make: Callable[[int, Memory], Predictor], longest: int, reach: int | None, home: Home = HOST
    ) -> None:
        """`reach`: how many of the newest frames may be asked about (None: any). `home`: the networks'. ValueError as Predictor's."""
        self.memory = Memory(reach, home)
        self._make = make
        self._whole = make(longest, self.memory)
        self._of = {longest: self._whole}

    @property
    def network(self) -> Network:
        return self._whole.network

    def remember(self, position: int, arrays: Mapping[str, Array]) -> None:
        """What frame `position` (counted from the stream's first) is conditioned on: (1, ...) by input name."""
        self._whole.remember(position, arrays)

    def __call__(self, latents: Array, frames: range, step: int) -> Array:
        """The prediction (B, n, C, h, w) for `latents` (n, C, h, w) of `frames`; overwritten by the next call."""
        count = len(frames)
        if count not in self._of:
            self._of[count] = self._make(count, self.memory)
        return self._of[count](latents, frames, step)


def spread(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A constant (B, ...) as the network wants it: as it is, or repeated for each frame of each branch."""
    repeated = array if array.shape == shape else np.repeat(array, max(1, shape[0] // len(array)), axis=0)
    if repeated.shape != shape:
        raise ValueError(f"{name} is {array.shape}, and the network wants {shape}")
    return repeated
