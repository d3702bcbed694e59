"""A pinhole camera in the OpenGL habit: it looks along its own -Z, +Y is up, pixels count from the top left."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels; `view` takes world points (metres, Y up) to camera space."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    view: np.ndarray  # (4, 4) float64, world to camera

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) to (N, 3): pixel x, pixel y, depth (metres in front of the camera, positive)."""
        p = points @ self.view[:3, :3].T + self.view[:3, 3]
        depth = -p[:, 2]
        return np.stack([self.cx + self.fx * p[:, 0] / depth, self.cy - self.fy * p[:, 1] / depth, depth], axis=1)

    def scaled(self, factor: float) -> Camera:
        """The same view in a picture `factor` times as large."""
        return replace(
            self, width=round(self.width * factor), height=round(self.height * factor), fx=self.fx * factor,
            fy=self.fy * factor, cx=self.cx * factor, cy=self.cy * factor,
        )  # fmt: skip


def look_at(
    eye: tuple[float, float, float], target: tuple[float, float, float], size: int, vertical_fov: float
) -> Camera:
    """A square camera of `size` pixels at `eye` (metres), aimed at `target`, upright; `vertical_fov` in radians."""
    e, t = np.asarray(eye, np.float64), np.asarray(target, np.float64)
    back = (e - t) / np.linalg.norm(e - t)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    view = np.eye(4)
    view[:3, :3] = np.stack([right, np.cross(back, right), back])
    view[:3, 3] = -view[:3, :3] @ e
    focal = 0.5 * size / np.tan(0.5 * vertical_fov)
    return Camera(size, size, focal, focal, size / 2, size / 2, view)
