"""The autoencoder of our own avatars: 512x512 pictures to 32x32x16 latents and back, fast enough for two CPU cores.

No normalisation layers (convolution and SiLU fuse in every runtime), space-to-depth in and pixel shuffle out. The decoder can take
skips from the condition's hint encoder, so that edges, fingers and lips need not pass through the latents alone.
It knows nothing of diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity; the second starts at zero, so a fresh block passes its input on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def space_to_depth(image: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 48, H/4, W/4); channels ordered (row, column, colour), which in NHWC moves whole runs of bytes."""
    b, c, h, w = image.shape
    x = image.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, 16 * c, h // 4, w // 4).contiguous(memory_format=torch.channels_last)


def depth_to_space(x: Tensor) -> Tensor:
    """(B, 48, h, w) to (B, 3, 4h, 4w): the inverse of space_to_depth."""
    b, c, h, w = x.shape
    return x.reshape(b, 4, 4, c // 16, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 16, 4 * h, 4 * w)


def blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class Encoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] to (B, latent_channels, H/16, W/16)."""

    def __init__(self, channels: Sequence[int], layers: Sequence[int], latent_channels: int) -> None:
        super().__init__()
        c4, c8, c16 = channels  # at 1/4, 1/8 and 1/16 of the picture
        self.conv_in = nn.Conv2d(48, c4, 3, padding=1)
        self.blocks4, self.blocks8, self.blocks16 = (blocks(c, n) for c, n in zip(channels, layers, strict=True))
        self.down8 = nn.Conv2d(c4, c8, 3, stride=2, padding=1)
        self.down16 = nn.Conv2d(c8, c16, 3, stride=2, padding=1)
        self.conv_out = nn.Conv2d(c16, latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.from_cells(space_to_depth(image))

    def from_cells(self, cells: Tensor) -> Tensor:
        """The same from what space_to_depth gives."""
        x = self.blocks4(self.conv_in(cells))
        x = self.blocks8(self.down8(x))
        x = self.blocks16(self.down16(x))
        latents: Tensor = self.conv_out(F.silu(x))
        return latents


class Decoder(nn.Module):
    """(B, latent_channels, h, w) to (B, 48, 4h, 4w), a picture by depth_to_space; `skips` are the hints at 1/8 and 1/4 of the picture, or None."""

    def __init__(
        self, channels: Sequence[int], layers: Sequence[int], latent_channels: int, hint_channels: Sequence[int] | None
    ) -> None:
        super().__init__()
        c16, c8, c4 = channels  # at 1/16, 1/8 and 1/4 of the picture
        self.conv_in = nn.Conv2d(latent_channels, c16, 3, padding=1)
        self.blocks16, self.blocks8, self.blocks4 = (blocks(c, n) for c, n in zip(channels, layers, strict=True))
        self.up8 = nn.Conv2d(c16, 4 * c8, 1)
        self.up4 = nn.Conv2d(c8, 4 * c4, 1)
        self.conv_out = nn.Conv2d(c4, 48, 3, padding=1)
        if hint_channels is not None:
            self.skip8, self.skip4 = (nn.Conv2d(h, c, 1) for h, c in zip(hint_channels, (c8, c4), strict=True))
            for conv in (self.skip8, self.skip4):  # zero convolutions: at first the decoder is the autoencoder's own
                nn.init.zeros_(conv.weight)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, latents: Tensor, skips: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.blocks16(self.conv_in(latents))
        x = F.pixel_shuffle(self.up8(F.silu(x)), 2)
        if skips is not None:
            x = x + self.skip8(skips[0])
        x = self.blocks8(x)
        x = F.pixel_shuffle(self.up4(F.silu(x)), 2)
        if skips is not None:
            x = x + self.skip4(skips[1])
        x = self.blocks4(x)
        return self.conv_out(F.silu(x))


class Autoencoder16(ModelMixin, ConfigMixin):
    """A deterministic autoencoder: 16 times smaller, `latent_channels` deep, latents of mean 0 and variance 1 per channel.

    The latents' statistics are tracked in training (a batch normalisation without weights) and fixed afterwards, so that no
    scale factor travels beside the weights. `hint_channels`: those of the hint encoder at 1/8 and 1/4, None without skips.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        encoder_channels: tuple[int, int, int] = (48, 64, 96),
        encoder_layers: tuple[int, int, int] = (1, 1, 2),
        decoder_channels: tuple[int, int, int] = (128, 64, 48),
        decoder_layers: tuple[int, int, int] = (3, 2, 1),
        hint_channels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder_channels, encoder_layers, latent_channels)
        self.latent_norm = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.02)
        self.decoder = Decoder(decoder_channels, decoder_layers, latent_channels, hint_channels)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to latents (B, latent_channels, H/16, W/16)."""
        latents: Tensor = self.latent_norm(self.encoder(image).float())
        return latents

    def decode(self, latents: Tensor, skips: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Latents (B, latent_channels, h, w) to a picture (B, 3, 16h, 16w) in [-1, 1], not clipped."""
        image: Tensor = depth_to_space(self.decoder(latents, skips))
        return image

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))
