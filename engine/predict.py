"""A diffusion graph as a `Predict`: it remembers what each of the newest frames was conditioned on.

Graph inputs by name: `sample` latents, `timestep` one per frame, constants (engine.given), and whatever is remembered per frame (hints, an inpainting mask and what it keeps). The first output is the prediction. A graph with a bank of past
frames also takes `filled` and some `past_...`, and gives a `new_...` for each of those (engine.denoise.Bank).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.network import Network

SAMPLE, TIMESTEP = "sample", "timestep"
FILLED, PAST, NEW = "filled", "past_", "new_"


class Predictor:
    """Calls `network` on windows of exactly the number of frames it was exported for."""

    def __init__(
        self,
        network: Network,
        timesteps: Sequence[int],
        constants: Mapping[str, np.ndarray] | None = None,
        reach: int = 1,
        beside: Sequence[str] = (),
    ) -> None:
        """`constants` by input name, those that the network was loaded for among them; two branches carry the unconditional
        one first.

        `reach`: frames of a window. `beside`: what is remembered that follows the latents in `sample`'s channels.
        ValueError where the network's shapes are not those of such windows.
        """
        shapes = {**network.inputs, **{name: array.shape for name, array in network.fixed.items()}}
        for name in (SAMPLE, TIMESTEP):
            if name not in shapes:
                raise ValueError(f"the network has no input {name!r}, only {', '.join(shapes)}")
        self.network, self.timesteps = network, tuple(timesteps)
        self.reach, self.beside = reach, tuple(beside)
        self.branches, odd = divmod(shapes[SAMPLE][0], reach)
        if odd or self.branches not in (1, 2):
            raise ValueError(f"the network was exported for {shapes[SAMPLE][0]} frames at once, not for {reach}")
        constants = {n: spread(n, array, shapes[n]) for n, array in (constants or {}).items() if n in shapes}
        self.constants = {n: c for n, c in constants.items() if n not in (SAMPLE, TIMESTEP, *network.fixed)}
        self.bank = {name: shape for name, shape in shapes.items() if name.startswith(PAST)}
        given = (SAMPLE, TIMESTEP, FILLED, *self.bank, *constants, *network.fixed)
        self.remembered = tuple(name for name in shapes if name not in given) + self.beside
        self._output = next(iter(network.outputs))
        self._memory: dict[str, np.ndarray] = {}
        self._newest = 0
        self._sample = np.empty(shapes[SAMPLE], np.float32)
        self._timestep = np.empty(shapes[TIMESTEP], np.int64)
        self._filled = np.empty(1, np.int64)

    def remember(self, position: int, arrays: Mapping[str, np.ndarray]) -> None:
        """What frame `position` (counted from the stream's first) is conditioned on: (1, ...) by input name."""
        self._newest = position
        for name in self.remembered:
            array = arrays[name]
            if name not in self._memory:
                self._memory[name] = np.empty((self.reach, *array.shape[1:]), array.dtype)
            self._memory[name][position % self.reach] = array[0]

    def __call__(self, latents: np.ndarray, frames: range, step: int) -> np.ndarray:
        """The prediction (B, n, C, h, w) for `latents` (n, C, h, w) of `frames`; overwritten by the next call."""
        return self._prediction(self._run(latents, frames, step, {}))

    def attend(
        self, latents: np.ndarray, frame: int, step: int, bank: Mapping[str, np.ndarray], filled: int
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """The same for one frame of a graph with a bank, as engine.denoise.Attend has it."""
        self._filled[...] = filled
        said = self._run(latents, range(frame, frame + 1), step, {FILLED: self._filled, **bank})
        return self._prediction(said), {name: said[name.replace(PAST, NEW, 1)] for name in bank}

    def _run(
        self, latents: np.ndarray, frames: range, step: int, more: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        # Before the first frame stand copies of it, and after the newest copies of that.
        slots = [min(max(frame, 0), self._newest) % self.reach for frame in frames]
        given = {name: self._window(name, slots) for name in self.remembered if name not in self.beside}
        given.update({**self.constants, **more})
        if SAMPLE in self.network.inputs:
            given[SAMPLE] = self._beside(latents, slots)
        if TIMESTEP in self.network.inputs:
            self._timestep[...] = self.timesteps[step]
            given[TIMESTEP] = self._timestep
        return self.network(**given)

    def _beside(self, latents: np.ndarray, slots: list[int]) -> np.ndarray:
        """The latents of both branches, with the channels that follow them."""
        channels = latents.shape[1]
        for branch in range(self.branches):
            part = self._sample[branch * self.reach : (branch + 1) * self.reach]
            part[:, :channels] = latents
            at = channels
            for name in self.beside:
                extra = self._memory[name]
                part[:, at : at + extra.shape[1]] = extra[slots]
                at += extra.shape[1]
        return self._sample

    def _prediction(self, said: Mapping[str, np.ndarray]) -> np.ndarray:
        prediction = said[self._output]
        return prediction.reshape(self.branches, self.reach, *prediction.shape[1:])

    def _window(self, name: str, slots: list[int]) -> np.ndarray:
        memory = self._memory[name]
        return memory if self.reach == self.branches == 1 else memory[slots * self.branches]


def spread(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A constant (B, ...) as the network wants it: as it is, or repeated for each frame of each branch."""
    repeated = array if array.shape == shape else np.repeat(array, max(1, shape[0] // len(array)), axis=0)
    if repeated.shape != shape:
        raise ValueError(f"{name} is {array.shape}, and the network wants {shape}")
    return repeated
