"""The hint encoder: the mesh condition as a pyramid of features, computed once a frame because it does not see the timestep.

The coarsest level is the ControlNet's conditioning image; the two finer ones are skips for the decoder.
"""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from engine.networks.autoencoder import blocks, space_to_depth


class HintEncoder(ModelMixin, ConfigMixin):
    """Condition (B, 3, H, W) in [0, 1] to hints at 1/16 (for the ControlNet), 1/8 and 1/4 (for the decoder)."""

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, int, int] = (32, 64, 96),  # at 1/4, 1/8 and 1/16
        layers: tuple[int, int, int] = (0, 1, 1),
    ) -> None:
        super().__init__()
        c4, c8, c16 = channels
        self.conv_in = nn.Conv2d(48, c4, 3, padding=1)
        self.blocks4, self.blocks8, self.blocks16 = (blocks(c, n) for c, n in zip(channels, layers, strict=True))
        self.down8 = nn.Conv2d(c4, c8, 3, stride=2, padding=1)
        self.down16 = nn.Conv2d(c8, c16, 3, stride=2, padding=1)

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.from_cells(space_to_depth(condition))

    def from_cells(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same from what space_to_depth gives."""
        hint4 = F.silu(self.blocks4(self.conv_in(cells)))
        hint8 = F.silu(self.blocks8(self.down8(hint4)))
        hint16 = F.silu(self.blocks16(self.down16(hint8)))
        return hint16, hint8, hint4
