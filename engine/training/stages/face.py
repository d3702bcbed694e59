"""The face, drawn again at twice the size by inpainting on the aligned crop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import face
from engine.crop import warp_mask
from engine.networks.configs import AvatarConfig, DiffusionConfig
from engine.networks.diffusion import appearance_tokens
from engine.training.dataset import Clip
from engine.training.frames import to_picture
from engine.training.stages.repaint import RepaintStage, scaled

# Where the features lie in an aligned crop, as parts of its size: both eyes, the mouth (FFHQ's template), and their spread.
FEATURES = ((0.377, 0.469, 0.07), (0.623, 0.469, 0.07), (0.502, 0.735, 0.11))


class FaceStage(RepaintStage):
    """Aligned faces: all of the crop but its border counts, eyes and mouth most."""

    name = "face"
    part = "head"

    def networks(self, config: AvatarConfig) -> tuple[DiffusionConfig, dict[str, Any]]:
        assert config.head_vae is not None
        return config.head, config.head_vae

    def cuts(self, clip: Clip, index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        transform = scaled(clip.faces[index], self.size / face.CROP)
        yield transform, warp_mask(np.asarray(clip.face_mask[index]), 255, transform, self.size)

    def weights(self, mask: Tensor) -> Tensor:
        return feature_weights(self.size, (mask > 0.5).float())

    def blended(self, mask: np.ndarray) -> np.ndarray:
        return self.alpha

    def appearance(self, encoder: nn.Module, tokens: Tensor) -> Tensor:
        """Those of the first training frame's crop."""
        first = (to_picture(self.crops.truth[:1]).to(self.device) + 1) / 2
        return appearance_tokens(encoder, first).float()  # type: ignore[arg-type]


def feature_weights(size: int, face: Tensor, margin: int = 10) -> Tensor:
    """(B, 1, size, size): heavier on the face, its eyes and mouth; nothing within `margin` of the border, which is blended out."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    weight = 1 + 1.5 * face
    for cx, cy, spread in FEATURES:
        weight = weight + 4 * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
    inside = torch.zeros(size, size)
    inside[margin:-margin, margin:-margin] = 1
    return weight * inside
