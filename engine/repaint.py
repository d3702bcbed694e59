"""Parts of a picture painted again at a larger scale: crop, encode what is kept, inpaint in a few steps, decode, blend.

The face and the hands share it. What it knows of them are their crops; it knows no body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from engine.arrays import gather
from engine.crop import blend, feather, warp
from engine.denoise import Causal
from engine.network import Network
from engine.noise import Noise
from engine.pixels import to_network
from engine.predict import Predictor
from engine.sampler import Sampler
from engine.stages import LATENTS, decode, hints_of
from engine.work import Work

LEAST = 1 / 512  # of a crop's pixels: fewer that are redrawn are nobody's


class RepaintStage:
    """All crops of a part in one call. A crop where the mesh hardly shows the part is left as it is, and counted.

    Mask 1 = keep, 0 = redraw; the diffusion graph's channels are noisy latents, mask, latents of what is kept. `blended`:
    the whole "crop" with a soft border, or the "mask" alone, which leaves everything else as the body painted it.
    """

    MASK, KEPT = "mask", "masked_latents"

    def __init__(
        self,
        name: str,
        hint: Network | None,
        encoder: Network,
        diffusion: Network,
        decoder: Network,
        sampler: Sampler,
        noise: Noise,
        constants: Mapping[str, np.ndarray],
        scale: float = 1.0,
        blended: Literal["crop", "mask"] = "crop",
    ) -> None:
        """The graphs say how many crops there are. ValueError where they do not agree on it."""
        self.name, self.blended = name, blended
        self.hint, self.encoder, self.decoder, self.scale = hint, encoder, decoder, scale
        self._picture, shape = next(iter(encoder.inputs.items()))
        self.count = shape[0]
        beside = () if self.MASK in diffusion.inputs else (self.MASK, self.KEPT)
        self.predictor = Predictor(diffusion, sampler.times.now, constants, self.count, beside)
        self.mode = Causal(sampler, self.predictor, hop=self.count)
        self.noise = noise
        self.unseen = 0  # crops that were left as they were, since the stage was made
        self._every = 1
        self._position = 0  # frames since the stream's first, or since this `_every` began
        size = max(shape[1:])
        self._kept = np.empty((self.count, size, size, 3), np.uint8)
        self._alpha = feather(size)
        self._latents = decoder.home.empty(decoder.inputs[LATENTS], np.float32)

    def __call__(self, work: Work) -> list[Work]:
        crops = work.crops.pop(self.name, None)
        if crops is None or work.image is None:
            return [work]
        if not self._due(work.gear.every(self.name)):
            work.skipped += (self.name,)
            return [work]
        redrawn = crops.masks > 127  # (n, s, s)
        seen = redrawn.mean((1, 2)) >= LEAST
        self.unseen += self.count - int(seen.sum())
        if not seen.any():
            return [work]
        for transform, kept in zip(crops.transforms, self._kept, strict=True):
            warp(work.image, transform, len(kept), kept)
        np.copyto(self._kept, 128, where=redrawn[..., None])  # mid grey is the network's zero
        for i, painted in enumerate(self._paint(crops.conditions, redrawn)):
            if seen[i]:
                alpha = self._alpha if self.blended == "crop" else self._alpha * crops.masks[i] * np.float32(1 / 255)
                blend(work.image, painted, crops.transforms[i], alpha, out=work.image)
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        self._position = 0
        self.mode.reset()  # a network may have raised between its crops
        return 0

    def _due(self, every: int) -> bool:
        """Whether this frame is painted: of those that come here, the first and then one of `every`; none of 0."""
        if every != self._every:
            self._every, self._position = every, 0
        position = self._position
        self._position += 1
        return every > 0 and position % every == 0

    def _paint(self, conditions: np.ndarray, redrawn: np.ndarray) -> np.ndarray:
        """Crops (n, s, s, 3) uint8, painted again where `redrawn` (n, s, s)."""
        encoded = next(iter(self.encoder(**{self._picture: self._encodable()}).values()))  # (n, C, h, w)
        hints = hints_of(self.hint, conditions, self.predictor.network)
        told = {**hints, self.MASK: _cells(redrawn, encoded.shape[-1]), self.KEPT: encoded * self.scale}
        for i in range(self.count):
            self.predictor.remember(i, {name: array[i : i + 1] for name, array in told.items()})
        latents = [done for _ in range(self.count) for done in self.mode.push(self.noise.at(0))]
        self.mode.reset()  # crops are on their own: no context
        return decode(self.decoder, {**hints, LATENTS: gather(latents, range(self.count), self._latents)}, self.scale)

    def _encodable(self) -> np.ndarray:
        return to_network(self._kept, self.encoder.inputs[self._picture], -1.0)


def _cells(redrawn: np.ndarray, size: int) -> np.ndarray:
    """How much of each latent cell is kept: (n, H, W) bool to (n, 1, size, size) float32."""
    n, cell = len(redrawn), redrawn.shape[1] // size
    parts = redrawn.reshape(n, size, cell, size, cell).mean((2, 4), dtype=np.float32)
    return np.asarray(1.0 - parts)[:, None]
