"""The lights of a studio: lamps with shadows, broad glows, and what wet eyes mirror.

All light is linear and scaled so that white paper facing the key light comes out a little below white. Directions
point towards the light, in world axes (Y up, the anchor faces +Z). It knows nothing about surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lamp:
    """A distant lamp with shadows. `softness`: width of its shadows' edges, metres; `size`: its half angle, radians."""

    direction: tuple[float, float, float]
    color: tuple[float, float, float]
    softness: float = 0.02
    size: float = 0.16

    def row(self, texel: float) -> np.ndarray:
        unit = np.asarray(self.direction, np.float64) / np.linalg.norm(self.direction)
        return np.array([*unit, *self.color, max(self.softness / texel, 1.0), np.cos(self.size)], np.float32)


@dataclass(frozen=True)
class Glow:
    """A broad source without edges, such as a fill panel or a bright wall: light falls off as cos(angle)^sharpness."""

    direction: tuple[float, float, float]
    color: tuple[float, float, float]
    sharpness: float = 4.0


@dataclass(frozen=True)
class Lights:
    """Lamps are shaded sample by sample with shadow maps; the surroundings per vertex through many small depth maps."""

    lamps: tuple[Lamp, ...]
    glows: tuple[Glow, ...] = ()
    mirrored: tuple[Lamp, ...] = ()  # what else wet eyes reflect: it lights nothing
    above: tuple[float, float, float] = (0.3, 0.3, 0.3)
    below: tuple[float, float, float] = (0.1, 0.1, 0.1)
    exposure: float = 1.0

    def surroundings(self, directions: np.ndarray) -> np.ndarray:
        """Radiance (N, 3) float32 that comes from unit `directions` (N, 3), lamps not counted."""
        up = (directions[:, 1:2] + 1) / 2
        radiance = up * np.asarray(self.above) + (1 - up) * np.asarray(self.below)
        for glow in self.glows:
            unit = np.asarray(glow.direction, np.float64) / np.linalg.norm(glow.direction)
            lobe = np.clip(directions @ unit, 0, 1) ** glow.sharpness
            radiance = radiance + lobe[:, None] * np.asarray(glow.color)
        return np.asarray(radiance, np.float32)


def news_studio() -> Lights:
    """Three-point light: a warm soft key from the upper left of the picture, a cool fill, two rims from behind."""
    return Lights(
        lamps=(
            Lamp((-0.55, 0.60, 0.85), (0.86, 0.81, 0.755), softness=0.026),
            Lamp((0.85, 0.55, -0.70), (0.66, 0.69, 0.74), softness=0.015),
            Lamp((-0.90, 0.50, -0.75), (0.38, 0.40, 0.44), softness=0.015),
        ),
        glows=(Glow((0.8, 0.25, 0.8), (0.275, 0.285, 0.305), 3.0), Glow((-0.2, 0.1, 1.0), (0.20, 0.19, 0.18), 2.0)),
        mirrored=(Lamp((-0.30, 0.34, 1.0), (1.0, 0.97, 0.92), size=0.17),),
        above=(0.275, 0.28, 0.29),
        below=(0.07, 0.065, 0.065),
    )


def sphere_directions(count: int) -> np.ndarray:
    """`count` unit vectors (count, 3) spread evenly over the sphere (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], axis=1)


def light_matrix(direction: np.ndarray, centre: np.ndarray, radius: float, size: int) -> np.ndarray:
    """Affine (3, 4) float32 of a parallel view along -direction: a sphere's square to [0, size), nearness metres."""
    unit = np.asarray(direction, np.float64) / np.linalg.norm(direction)
    side = np.cross([0.0, 1.0, 0.0] if abs(unit[1]) < 0.95 else [0.0, 0.0, 1.0], unit)
    side /= np.linalg.norm(side)
    rows = np.stack([side, np.cross(unit, side), unit])
    scale = np.array([size / (2 * radius), size / (2 * radius), 1.0])
    matrix = np.empty((3, 4))
    matrix[:, :3] = rows * scale[:, None]
    matrix[:, 3] = -matrix[:, :3] @ centre + [size / 2, size / 2, 0.0]
    return matrix.astype(np.float32)
