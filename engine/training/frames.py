"""What stages draw from clips: pictures, conditions, crops that know which of their sides are cut, and weights by region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from engine.training.dataset import HEAD, LEFT_HAND, PERSON, RIGHT_HAND, Clip

CELL = 16  # pixels of a latent cell


@dataclass(frozen=True)
class Frames:
    """The training frames, or the held-out ones, of several clips as one list of (clip, index)."""

    clips: Sequence[Clip]
    index: np.ndarray  # (N, 2) int: clip, frame

    @classmethod
    def train(cls, clips: Sequence[Clip]) -> Frames:
        return cls(clips, _index([clip.train() for clip in clips]))

    @classmethod
    def held_out(cls, clips: Sequence[Clip], count: int) -> Frames:
        """`count` frames evenly spread over all that are held out (over the training ones where none are)."""
        index = _index([clip.held_out() for clip in clips])
        index = index if len(index) else _index([clip.train() for clip in clips])
        return cls(clips, index[np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int)])

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> int:
        return self.clips[0].fields.size

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Positions of `count` random frames."""
        return rng.integers(len(self), size=count)

    def window(self, newest: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Positions (count,) of a window that ends at `newest`: up to two pictures apart and within a second of it, in
        order; where a take begins or changes, `newest` stands for the missing ones."""
        back = np.concatenate([[0], np.cumsum(rng.integers(1, 3, size=count - 1))])
        at = newest - back[::-1]
        at = np.where(at >= 0, at, newest)
        clip, _ = self.index[newest]
        ticks = np.array([self.clips[c].ticks[i] for c, i in self.index[at]])
        near = (
            (self.index[at, 0] == clip) & (ticks[-1] - ticks >= 0) & (ticks[-1] - ticks <= self.clips[clip].fields.fps)
        )
        return np.where(near, at, newest)

    def pictures(self, at: Sequence[int] | np.ndarray) -> Tensor:
        """(B, 3, S, S) in [-1, 1]."""
        return to_picture(np.stack([self.clips[c].frames[i] for c, i in self.index[at]]))

    def mattes(self, at: Sequence[int] | np.ndarray) -> Tensor:
        """(B, 1, S, S) in [0, 1]: the person's coverage. InputError where a clip has none."""
        mattes = []
        for c, i in self.index[at]:
            clip = self.clips[c]
            if clip.matte is None:
                raise InputError(str(clip.folder), "matte.npy", "the person's coverage of each picture", "no such file")
            mattes.append(clip.matte[i])
        return torch.from_numpy(np.stack(mattes)[:, None]).to(torch.float32).mul_(1 / 255)

    def conditions(self, at: Sequence[int] | np.ndarray) -> Tensor:
        """(B, 3, S, S) in [0, 1]."""
        return to_condition(np.stack([self.clips[c].condition[i] for c, i in self.index[at]]))

    def boxes(self, at: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B, 4, 4): person, head, left hand, right hand."""
        return np.stack([self.clips[c].boxes[i] for c, i in self.index[at]])


def to_picture(pixels: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in [-1, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 127.5).sub_(1)


def to_condition(pixels: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in [0, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 255)


def to_pixels(image: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3)."""
    pixels: np.ndarray = (image.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


def region_weights(boxes: np.ndarray, size: int, head: float, hand: float, person: float, rest: float) -> Tensor:
    """(B, 4, 4) boxes to weights (B, 1, size, size); the heavier region wins where two overlap."""
    weights = np.full((len(boxes), 1, size, size), rest, np.float32)
    for region, value in ((PERSON, person), (HEAD, head), (LEFT_HAND, hand), (RIGHT_HAND, hand)):
        for weight, box in zip(weights[:, 0], boxes[:, region], strict=True):
            x0, y0, x1, y1 = np.clip(np.round(box), 0, size).astype(int)
            weight[y0:y1, x0:x1] = np.maximum(weight[y0:y1, x0:x1], value)
    return torch.from_numpy(weights)


def crop_corner(rng: np.random.Generator, box: np.ndarray | None, crop: int, size: int) -> tuple[int, int]:
    """Top left corner (x, y), on the latents' grid, of a random `crop` within the picture; about `box` where one is given."""
    if box is None or box[2] <= box[0] or box[3] <= box[1]:
        # Corners past the edge are pulled back in, so that the picture's borders are seen as often as its middle.
        corner = rng.integers(-crop // 3, size - crop + crop // 3 + 1, size=2)
    else:
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.25, 0.25, 2) * np.maximum(box[2:] - box[:2], 32)
        corner = centre - crop / 2
    x, y = np.clip((np.asarray(corner) // CELL * CELL).astype(int), 0, size - crop)
    return int(x), int(y)


def cut_weight(x: int, y: int, crop: int, size: int, margin: int) -> np.ndarray:
    """(crop, crop): 0 within `margin` of a side that the crop cut, 1 elsewhere and up to the picture's own borders."""
    weight = np.ones((crop, crop), np.float32)
    weight[: margin if y > 0 else 0] = 0
    weight[:, : margin if x > 0 else 0] = 0
    if y + crop < size:
        weight[-margin:] = 0
    if x + crop < size:
        weight[:, -margin:] = 0
    return weight


def sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Pictures of one size in rows, as one picture."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def _index(ranges: Sequence[np.ndarray]) -> np.ndarray:
    pairs = [np.stack([np.full(len(r), c), r], axis=1) for c, r in enumerate(ranges) if len(r)]
    return np.concatenate(pairs).astype(np.int64) if pairs else np.zeros((0, 2), np.int64)
