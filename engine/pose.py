"""Poses in the one convention of this project.

Native SMPL-X joint order, axis-angle in radians, metres, Y up, person facing +Z, hands absolute (the flat hand is
zero). A frame carries the time at which it was captured, in nanoseconds on the sender's clock. It knows nothing of
files or transports: those convert at the door.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from engine.errors import InputError
from engine.skeleton import BETAS_DIMS, EXPRESSION_DIMS, POSE_DIMS


@dataclass(frozen=True, slots=True)
class PoseFrame:
    """One pose sample. Arrays are float32 and owned by nobody: treat them as read-only."""

    time_ns: int
    pose: np.ndarray  # (165,) axis-angle, radians
    expression: np.ndarray  # (100,)
    transl: np.ndarray  # (3,) metres


@dataclass(frozen=True)
class PoseClip:
    """A recorded motion: T samples at a fixed rate, with the betas that belong to them."""

    fps: float
    poses: np.ndarray  # (T, 165) float32
    expressions: np.ndarray  # (T, 100) float32
    transl: np.ndarray  # (T, 3) float32, metres
    betas: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (<=300,), empty where unknown
    source: str = "clip"

    def __post_init__(self) -> None:
        check_array(self.source, "poses", self.poses, (None, POSE_DIMS))
        frames = len(self.poses)
        check_array(self.source, "expressions", self.expressions, (frames, EXPRESSION_DIMS))
        check_array(self.source, "transl", self.transl, (frames, 3))
        check_array(self.source, "betas", self.betas, (None,))
        if len(self.betas) > BETAS_DIMS:
            raise InputError(self.source, "betas", f"at most {BETAS_DIMS}", str(len(self.betas)))
        if frames == 0:
            raise InputError(self.source, "poses", "at least one frame", "none")
        if not (np.isfinite(self.fps) and 1.0 <= self.fps <= 1000.0):
            raise InputError(self.source, "frame rate", "1 to 1000 frames a second", f"{self.fps:g}")

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def seconds(self) -> float:
        """Duration: T samples at fps."""
        return len(self) / self.fps

    def frame(self, index: int, start_ns: int = 0) -> PoseFrame:
        """Sample `index` with its capture time, counted from `start_ns`."""
        time_ns = start_ns + round(index * 1e9 / self.fps)
        return PoseFrame(time_ns, self.poses[index], self.expressions[index], self.transl[index])

    def first(self, seconds: float) -> PoseClip:
        """The beginning of the clip, at least one sample of it."""
        count = max(1, round(seconds * self.fps))
        return replace(self, poses=self.poses[:count], expressions=self.expressions[:count], transl=self.transl[:count])

    def frames(self, start_ns: int = 0) -> Iterator[PoseFrame]:
        """All samples in order."""
        return (self.frame(i, start_ns) for i in range(len(self)))


def check_array(where: str, name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    """Raise InputError unless `array` is float32, finite and of `shape` (None: any length)."""
    wanted = "(" + ", ".join("T" if n is None else str(n) for n in shape) + ")"
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        raise InputError(where, name, f"shape {wanted}", f"shape {array.shape}")
    if array.dtype != np.float32:
        raise InputError(where, name, "float32", str(array.dtype))
    if not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise InputError(where, name, "finite numbers", f"NaN or infinity, first at index {bad}")
