"""What a diffusion graph is told alike for every frame, whatever the pose: who the person is and, in one step from one noise, the
time and the noise as well.

A runtime that hears of it while it loads a graph computes what follows from it once instead of once a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.appearance import appearance
from engine.avatar import Avatar, DenoiseFields, LatentFields
from engine.network import Network
from engine.noise import Noise
from engine.predict import SAMPLE, TIMESTEP, spread
from engine.steps import listed

APPEARANCE = "appearance"
READERS = (APPEARANCE, "face_appearance")  # graphs that read the reference pictures


@dataclass(frozen=True)
class Given:
    """The constants of an avatar's diffusion graphs.

    given = Given(avatar, {"appearance": network}, seed=0)
    given("body", {"sample": (1, 16, 32, 32), "timestep": (1,), "appearance": (1, 16, 64), "hint": (1, 32, 32, 96)})
    """

    avatar: Avatar
    readers: Mapping[str, Network]
    seed: int = 0

    def __call__(self, graph: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Arrays by input name, of the inputs' own `shapes`; none for a graph that is no diffusion.

        InputError where a reference picture is missing or wrong, ValueError where the shapes are not an avatar's.
        """
        if TIMESTEP not in shapes:
            return {}
        fields, latent = self._fields(graph)
        constants = {}
        if APPEARANCE in shapes:
            constants[APPEARANCE] = self._appearance(graph, fields)
        times = listed(fields.timesteps).now
        if len(times) == 1:
            constants[TIMESTEP] = np.array(times, np.int64)
            noise = Noise((latent.channels, latent.size, latent.size), self.seed, fields.noise)
            if fields.noise == "shared" and shapes[SAMPLE][1:] == noise.shape:  # else more follows the noise
                constants[SAMPLE] = noise.at(0)[None]
        return {name: spread(name, array, shapes[name]) for name, array in constants.items()}

    def to(self, graph: str, network: Network) -> dict[str, np.ndarray]:
        """The same for a loaded graph, with what it was loaded for. ValueError where that was something else."""
        shapes = {**network.inputs, **{name: array.shape for name, array in network.fixed.items()}}
        constants = self(graph, shapes)
        for name, array in network.fixed.items():
            if name not in constants or not np.array_equal(array, constants[name]):
                raise ValueError(f"{graph} was loaded for another {name}")
        return constants

    def _fields(self, graph: str) -> tuple[DenoiseFields, LatentFields]:
        if graph == "face":
            return self.avatar.face.denoise, self.avatar.face.latent
        if graph == "hand":
            return self.avatar.hands.denoise, self.avatar.hands.latent
        return self.avatar.denoise, self.avatar.latent

    def _appearance(self, graph: str, fields: DenoiseFields) -> np.ndarray:
        # Hands know the person from the whole picture, the face from its own, which may be of another size.
        part = "head" if graph == "face" else "body"
        reader = "face_appearance" if graph == "face" and "face_appearance" in self.readers else APPEARANCE
        return appearance(self.avatar, self.readers.get(reader), part, guided=fields.guidance != 1.0)
