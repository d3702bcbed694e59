"""What surfaces are made of, and the table of numbers that the kernels read it from.

It knows nothing about which file a garment comes from, or about light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.training.studio.raster import BLEND, CUTOUT, OPAQUE

# Columns of the table of surfaces, after those that `raster` reads.
RED, GREEN, BLUE, ALPHA, ROUGHNESS, SPECULAR, SKIN, HAIR, SHEEN, NORMAL_MAP, AO_MAP, NORMAL_SCALE = range(6, 18)
COLUMNS = 18


@dataclass(frozen=True, eq=False)
class Material:
    """How a part reflects light.

    `color` multiplies the texture (linear light; below 1 darkens). `cut` is the alpha from which a cut-out surface is
    solid: below it the edge is blended. `skin` in [0, 1] lets light bleed past the shadow's edge, red furthest; `hair`
    in [0, 1] stretches the highlight across the strands, which run along the texture's v; `sheen` is the pale rim of
    cloth. `wet` keeps the highlight where alpha is 0 (a cornea) and makes it a mirror of the lamps. `bias` metres
    bring a surface that lies on another one (a brow) nearer to the eye.
    """

    base_color_texture: np.ndarray | None = None  # (h, w, 4) uint8, row 0 is v = 1
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    alpha: float = 1.0
    alpha_mode: Literal["opaque", "cutout", "blend"] = "opaque"
    cut: float = 0.75
    roughness: float = 0.6
    specular: float = 0.04
    skin: float = 0.0
    hair: float = 0.0
    sheen: float = 0.0
    wet: bool = False
    normal_map: np.ndarray | None = None  # (h, w, 4) uint8, tangent space
    normal_scale: float = 1.0
    ao_map: np.ndarray | None = None  # (h, w, 4) uint8, red is open
    double_sided: bool = False
    bias: float = 0.0

    def row(self, texture: int, normal_map: int, ao_map: int) -> np.ndarray:
        """This material as a row of the table of surfaces (COLUMNS,), with its textures' indices, -1 for none."""
        mode = {"opaque": OPAQUE, "cutout": CUTOUT, "blend": BLEND}[self.alpha_mode]
        if mode == CUTOUT and texture < 0:
            mode = OPAQUE
        return np.array(
            [mode, texture, self.double_sided, self.cut, self.bias, self.wet, *self.color, self.alpha, self.roughness,
             self.specular, self.skin, self.hair, self.sheen, normal_map, ao_map, self.normal_scale],
            np.float32,
        )  # fmt: skip
