"""Frames of several persons: each person equally often, references of the same person, with the background or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from engine.errors import InputError
from engine.training.dataset import Clip
from engine.training.frames import Frames


@dataclass(frozen=True)
class People(Frames):
    """Frames whose clips may show several identities. Without `background` the person stands on black (section 3.4)."""

    background: bool = True

    def without_background(self) -> People:
        """The same frames, cut out by their clips' mattes. InputError where a clip has none."""
        cut = replace(self, background=False)
        for clip in {c: at for at, c in enumerate(self.index[:, 0])}.values():
            cut.mattes([clip])
        return cut

    def pictures(self, at: Sequence[int] | np.ndarray) -> Tensor:
        """(B, 3, S, S) in [-1, 1]."""
        pictures = super().pictures(at)
        return pictures if self.background else (pictures + 1) * self.mattes(at) - 1

    @cached_property
    def persons(self) -> np.ndarray:
        """(N,) int: whom each frame shows. Clips of one identity show one person."""
        identities = [identity(clip) for clip in self.clips]
        return np.unique(np.array(identities)[self.index[:, 0]], return_inverse=True)[1]

    @cached_property
    def by_person(self) -> tuple[np.ndarray, ...]:
        """The positions of each person's frames."""
        return tuple(np.flatnonzero(self.persons == person) for person in range(self.persons.max() + 1))

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Positions of `count` random frames, each person equally often."""
        return self._some(rng.integers(len(self.by_person), size=count), rng)

    def references(self, at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each position that of a random frame of the same person (section 3.4: the appearance's reference)."""
        return self._some(self.persons[at], rng)

    def reference_of(self, name: str) -> int:
        """The position of the first frame of the identity `name`: its avatar's reference."""
        return next((at for at in range(len(self)) if self.identity(at) == name), 0)

    def identity(self, at: int) -> str:
        """Whom the frame at a position shows."""
        return identity(self.clips[self.index[at, 0]])

    def _some(self, persons: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.array([rng.choice(self.by_person[person]) for person in persons])


def identity(clip: Clip) -> str:
    """Whom a clip shows; without a name, whoever only this clip does."""
    return clip.fields.identity or str(clip.folder)


def opened(folders: Sequence[Path]) -> list[Clip]:
    """Observed clips of one size. InputError where one has another."""
    clips = [Clip.open(folder) for folder in folders]
    for clip in clips:
        if clip.fields.size != clips[0].fields.size:
            wanted = f"{clips[0].fields.size}, as in {clips[0].folder}"
            raise InputError(str(clip.folder / "clip.toml"), "size", wanted, str(clip.fields.size))
    return clips
