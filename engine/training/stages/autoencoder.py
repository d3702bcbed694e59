"""Pictures to latents and back, on crops, half of them about the head and the hands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.networks.autoencoder import Autoencoder16
from engine.networks.configs import AvatarConfig
from engine.training.batches import CPU
from engine.training.dataset import HEAD, LEFT_HAND, RIGHT_HAND
from engine.training.frames import Frames, crop_corner, cut_weight, region_weights, sheet, to_picture, to_pixels
from engine.training.losses import Criterion, picture_loss, psnr, ssim_map

MARGIN = 24  # pixels beside a cut side that are not judged: the network saw no neighbours there


@dataclass(frozen=True)
class Batch:
    """Crops of pictures (B, 3, c, c) in [-1, 1], how their pixels count (B, 1, c, c), and the noise on their latents."""

    image: Tensor
    weight: Tensor
    noise: float


class AutoencoderStage:
    """min |D(E(x) + noise) - x| in L1, gradients and structure. The noise makes the decoder bear the generator's errors."""

    name = "autoencoder"

    def __init__(
        self,
        config: AvatarConfig,
        train: Frames,
        held_out: Frames,
        batch: int = 6,
        crop: int = 224,
        criterion: Criterion = picture_loss,
        device: torch.device = CPU,
    ) -> None:
        assert config.vae is not None
        self.criterion = criterion
        self.train, self.held_out, self.size, self.crop = train, held_out, batch, min(crop, train.size)
        self.device = device
        vae = Autoencoder16(**config.vae)
        # The skips are trained with the hints (in pretrain); they are no part of this stage's average.
        self.modules = nn.ModuleDict({"vae": vae})

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        frames, crop, size = self.train, self.crop, self.train.size
        pictures, weights = [], []
        at = frames.draw(rng, self.size)
        regions = region_weights(frames.boxes(at), size, head=3, hand=3, person=1.5, rest=1).numpy()[:, 0]
        for position, boxes, region in zip(at, frames.boxes(at), regions, strict=True):
            choice = rng.choice(4, p=(0.3, 0.15, 0.15, 0.4))
            x, y = crop_corner(rng, boxes[(HEAD, LEFT_HAND, RIGHT_HAND)[choice]] if choice < 3 else None, crop, size)
            clip, index = frames.index[position]
            pictures.append(frames.clips[clip].frames[index, y : y + crop, x : x + crop])
            cut = cut_weight(x, y, crop, size, MARGIN)
            weights.append(cut * region[y : y + crop, x : x + crop])
        weight = torch.from_numpy(np.stack(weights))[:, None]
        return Batch(to_picture(np.stack(pictures)), weight, 0.1 * float(rng.random()))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        vae: Autoencoder16 = self.modules["vae"]  # type: ignore[assignment]
        latents = vae.encode(batch.image)
        noisy = latents + batch.noise * torch.randn_like(latents)
        return self.criterion(vae.decode(noisy), batch.image, batch.weight), {}

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        vae: Autoencoder16 = average["vae"]  # type: ignore[assignment]
        frames = self.held_out
        figures, rows = Figures(), []
        for at in range(len(frames)):
            image = frames.pictures([at])
            out = vae(image.to(self.device)).float().cpu()
            figures.add(out, image, frames.boxes([at])[0])
            rows.append([to_pixels(image)[0], to_pixels(out)[0]])
        return figures.mean(), sheet(rows[:3])


class Figures:
    """PSNR of the regions, and SSIM of the person, averaged over frames."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, out: Tensor, image: Tensor, boxes: np.ndarray) -> None:
        """One frame: pictures (1, 3, S, S) in [-1, 1] and its boxes (4, 4)."""
        size = image.shape[-1]
        for name, box in zip(("person", "head", "left_hand", "right_hand"), boxes, strict=True):
            x0, y0, x1, y1 = np.clip(np.round(box), 0, size).astype(int)
            if x1 - x0 >= 8 and y1 - y0 >= 8:
                a, b = out[..., y0:y1, x0:x1].clamp(-1, 1), image[..., y0:y1, x0:x1]
                self.values.setdefault(f"psnr_{name}", []).append(psnr(a, b))
                if name == "person":
                    self.values.setdefault("ssim_person", []).append(float(ssim_map(a, b).mean()))
        self.values.setdefault("psnr", []).append(psnr(out, image))

    def mean(self) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in self.values.items()}
