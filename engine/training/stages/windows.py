"""What frames tell each other: the body's attention, taught on windows after everything else has been.

One step from one noise is a function of the pose alone, so a body that learns frame by frame has no use for its neighbours, and
windows in its batches did not change that (bench/NOTES.md). Here nothing else can move.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.networks.configs import AvatarConfig
from engine.training.batches import CPU
from engine.training.losses import Criterion, picture_loss
from engine.training.people import People
from engine.training.stages.body import BodyStage, Drawer


class WindowsStage(BodyStage):
    """BodyStage's loss on pixels, of the transformer blocks alone, where the error's change from frame to frame counts most.

    A frame alone is drawn now and then, so that streams may begin, and crops lie anywhere: what should stand still is mostly
    neither head nor hand.
    """

    change = 3.0
    about = (0.3, 0.3)

    def __init__(
        self,
        config: AvatarConfig,
        train: People,
        held_out: People,
        before: dict[str, Any],
        batch: int = 4,
        criterion: Criterion = picture_loss,
        device: torch.device = CPU,
    ) -> None:
        super().__init__("windows", config, train, held_out, before, batch, criterion, on_latents=0.0, device=device)
        # What comes before attention needs no gradients; what comes after it would not, but torch 2.13 crashes in the backward of
        # convolutions on channels last memory whose weights need none.
        earlier = self.modules["image_encoder"], self.body.hint, self.body.controlnet, self.body.unet.down_blocks
        for part in earlier:
            assert part is not None
            part.requires_grad_(False)
        self.then = Drawer(train, self.then.latents, batch, last=0.85, windows=0.8)

    def learns(self, name: str) -> bool:
        """The UNet's transformer blocks alone."""
        return name.startswith("body.unet.") and ".attentions." in name
