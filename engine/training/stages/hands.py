"""The hands, drawn again by inpainting on their crops: one network for both, as the left one's crop is mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from engine import hand
from engine.condition import LEFT_HAND, RIGHT_HAND
from engine.crop import soften, warp_mask
from engine.networks.configs import AvatarConfig, DiffusionConfig
from engine.training.dataset import Clip
from engine.training.stages.repaint import RepaintStage, scaled

ELSEWHERE = 0.1  # the weight of what blending hides: enough that the decoder knows what a hand lies on


class HandsStage(RepaintStage):
    """Crops of both hands, those that the mesh shows: the hand and its border count."""

    name = "hands"
    part = "hand"
    shown = 8
    usual_batch = 24  # small crops: a batch of 8 costs nearly as much

    def networks(self, config: AvatarConfig) -> tuple[DiffusionConfig, dict[str, Any]]:
        assert config.hand is not None and config.hand_vae is not None
        return config.hand, config.hand_vae

    def cuts(self, clip: Clip, index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for stored, mark in zip(clip.hands[index], (LEFT_HAND, RIGHT_HAND), strict=True):
            transform = scaled(stored, self.size / hand.CROP)
            yield transform, soften(warp_mask(np.asarray(clip.hand_mask[index]), mark, transform, self.size))

    def weights(self, mask: Tensor) -> Tensor:
        return ELSEWHERE + mask

    def blended(self, mask: np.ndarray) -> np.ndarray:
        return self.alpha * mask * np.float32(1 / 255)
