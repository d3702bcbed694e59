"""A small network that finds landmarks in pictures of one person, trained on true pictures alone: the judge of painted ones.

Heat maps at a quarter of the crop and their mean places (integral regression, Sun et al. 2018), one network each for face, body
and hands. What it takes for features is the last map before the heat maps, averaged under them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.quality.parts import Marks, marks
from bench.quality.views import SIZES, VIEWS, back, cut, inside, jittered, moved, square, transform, view
from engine.clips import read_clip
from engine.networks.autoencoder import blocks, space_to_depth
from engine.training import loop
from engine.training.dataset import MOTION, Clip

CELL = 4  # pixels of a crop to a cell of its heat maps
CHANNELS = (32, 64, 96)
FEATURES = CHANNELS[0]
LARGER = 1.4  # training crops are cut so much larger
MOST = 2000  # training frames that are looked at, evenly spread
RECIPE = loop.Recipe(rate=2e-3, decay=0.99, warm_up=20, steps=600, save_seconds=20.0, validate_seconds=1e9)


class LandmarkNet(nn.Module):
    """(B, 3, S, S) in [-1, 1] to landmarks (B, K, 2) in crop pixels, features (B, 32), and logarithms of heat maps (B, K, cells)."""

    def __init__(self, points: int, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        c4, c8, c16 = channels
        self.conv_in = nn.Conv2d(48, c4, 3, padding=1)
        self.blocks4, self.blocks8, self.blocks16 = blocks(c4, 1), blocks(c8, 1), blocks(c16, 2)
        self.down8, self.down16 = nn.Conv2d(c4, c8, 3, stride=2, padding=1), nn.Conv2d(c8, c16, 3, stride=2, padding=1)
        self.up8, self.up4 = nn.Conv2d(c16, 4 * c8, 1), nn.Conv2d(c8, 4 * c4, 1)
        self.merge8, self.merge4 = blocks(c8, 1), blocks(c4, 1)
        self.heat = nn.Conv2d(c4, points, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x4 = self.blocks4(self.conv_in(space_to_depth(image)))
        x8 = self.blocks8(self.down8(F.silu(x4)))
        x16 = self.blocks16(self.down16(F.silu(x8)))
        x8 = self.merge8(x8 + F.pixel_shuffle(self.up8(F.silu(x16)), 2))
        x4 = self.merge4(x4 + F.pixel_shuffle(self.up4(F.silu(x8)), 2))
        last = F.silu(x4)
        log_heat = self.heat(last).float().flatten(2).log_softmax(dim=2)  # (B, K, cells)
        heat = log_heat.exp()
        features = torch.einsum("bkn,bcn->bc", heat, last.float().flatten(2)) / heat.shape[1]
        return heat @ cells(image.shape[-1]), features, log_heat


def cells(size: int) -> Tensor:
    """The middles of a heat map's cells, row by row, in pixels of a crop of `size`: (n, 2), x and y."""
    side = size // CELL
    middle = (torch.arange(side, dtype=torch.float32) + 0.5) * CELL
    return torch.stack([middle.repeat(side), middle.repeat_interleave(side)], dim=1)


def spots(points: Tensor, size: int) -> Tensor:
    """What heat maps of points (B, K, 2) should be: Gaussians of one cell, (B, K, n), each of sum one."""
    apart = (cells(size) - points[:, :, None]).square().sum(dim=3)
    return (-0.5 * apart / CELL**2).softmax(dim=2)


@dataclass(frozen=True)
class Drawn:
    """Training crops of one view."""

    image: Tensor  # (B, 3, S, S) in [-1, 1]
    points: Tensor  # (B, K, 2) crop pixels
    seen: Tensor  # (B, K) bool: which of them the pictures show


@dataclass(frozen=True)
class Batch:
    """Of all views."""

    face: Drawn
    body: Drawn
    left_hand: Drawn
    right_hand: Drawn


@dataclass(frozen=True)
class Crops:
    """Training crops of one view, cut once a little too large, so that jittered ones can be drawn from them."""

    name: str  # of the view
    size: int  # of the pictures
    pixels: np.ndarray  # (N, P, P, 3) uint8
    cuts: np.ndarray  # (N, 2, 3) picture to crop pixels
    points: np.ndarray  # (N, K, 2) picture pixels

    @classmethod
    def of(cls, name: str, pictures: Iterable[np.ndarray], points: np.ndarray, size: int) -> Crops:
        """Of pictures (size, size, 3), one after the other, with their landmarks (N, K, 2)."""
        grown = 1.0 if VIEWS[name] == "body" else LARGER
        wide = round(SIZES[VIEWS[name]] * LARGER)
        squares = (square(name, p, size) for p in points)
        cuts = np.stack([transform(name, centre, side * grown, wide) for centre, side in squares])
        pixels = np.stack([cut(picture, by, wide) for picture, by in zip(pictures, cuts, strict=True)])
        return cls(name, size, pixels, cuts, points)

    def draw(self, chosen: np.ndarray, rng: np.random.Generator) -> Drawn:
        """Jittered crops of the samples `chosen` (B,)."""
        small, wide = SIZES[VIEWS[self.name]], self.pixels.shape[1]
        theta, points = np.empty((len(chosen), 2, 3), np.float32), []
        for row, i in enumerate(chosen):
            to_crop = jittered(self.name, self.points[i], self.size, rng)
            points.append(moved(self.points[i], to_crop))
            # from the drawn crop's [-1, 1] by way of the picture to the large crop's
            way = (
                _square(2 / wide, -1.0)
                @ _full(self.cuts[i])
                @ np.linalg.inv(_full(to_crop))
                @ _square(small / 2, small / 2)
            )
            theta[row] = way[:2]
        grid = F.affine_grid(torch.from_numpy(theta), [len(chosen), 3, small, small], align_corners=False)
        image = F.grid_sample(to_input(self.pixels[chosen]), grid, padding_mode="border", align_corners=False)
        seen = torch.from_numpy(inside(self.points[chosen], self.size))
        return Drawn(image.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.stack(points)), seen)


@dataclass
class LandmarkStage:
    """Trains the three networks side by side; a stage of engine.training.loop."""

    crops: Mapping[str, Crops]  # by view
    checked: tuple[list[np.ndarray], Marks]  # held-out pictures and their landmarks, for the log
    each: int = 16  # crops of a view in a batch
    name: str = "landmarks"
    modules: nn.ModuleDict = field(init=False)

    def __post_init__(self) -> None:
        counts = {VIEWS[name]: crops.points.shape[1] for name, crops in self.crops.items()}
        self.modules = nn.ModuleDict({kind: LandmarkNet(count) for kind, count in counts.items()})

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        """As many random crops of each view."""
        drawn = {name: c.draw(rng.integers(len(c.points), size=self.each), rng) for name, c in self.crops.items()}
        return Batch(**drawn)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Distance in crop pixels, softened below one, of the landmarks that the pictures show, and cross entropy of their heat maps.

        Distances alone learn slowly, for at first every cell of a heat map counts alike, and once did not converge.
        """
        parts: dict[str, Tensor] = {}
        for name, kind in VIEWS.items():
            drawn: Drawn = getattr(batch, name)
            found, _, log_heat = self.modules[kind](drawn.image)
            away = F.smooth_l1_loss(found, drawn.points, reduction="none").mean(dim=2)
            spread_out = -(spots(drawn.points, drawn.image.shape[-1]) * log_heat).sum(dim=2)
            parts[name] = ((away + spread_out) * drawn.seen).sum() / drawn.seen.sum().clamp_min(1)
        return torch.stack(list(parts.values())).sum(), {name: float(part.detach()) for name, part in parts.items()}

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """Errors in picture pixels, and crops of some frames with what was found in them."""
        pictures, truth = self.checked
        found = Regressor(average).find(pictures, truth).places
        size = len(pictures[0])
        errors = {name: float(np.nanmean(distances(found[name], truth[name], size))) for name in VIEWS}
        return errors, drawn(pictures[:4], {n: t[:4] for n, t in truth.items()}, {n: p[:4] for n, p in found.items()})


@dataclass(frozen=True)
class Found:
    """What the networks say about N pictures."""

    places: Marks  # by view (N, K, 2), picture pixels
    features: np.ndarray  # (N, 4 * FEATURES) float32


class Regressor:
    """Trained networks, ready to judge."""

    def __init__(self, networks: nn.ModuleDict) -> None:
        self.networks = networks.eval()

    @torch.no_grad()
    def find(self, pictures: Iterable[np.ndarray], about: Marks, batch: int = 32) -> Found:
        """Landmarks of pictures (N of (S, S, 3)); `about`: the mesh's, which only say roughly where to look."""
        crops: dict[str, list[np.ndarray]] = {name: [] for name in VIEWS}
        transforms: dict[str, list[np.ndarray]] = {name: [] for name in VIEWS}
        for i, picture in enumerate(pictures):
            for name in VIEWS:
                transforms[name].append(view(name, about[name][i], len(picture)))
                crops[name].append(cut(picture, transforms[name][-1], SIZES[VIEWS[name]]))
        places, features = {}, []
        for name, kind in VIEWS.items():
            said = [
                self.networks[kind](to_input(crops[name][a : a + batch])) for a in range(0, len(crops[name]), batch)
            ]
            points = torch.cat([s[0] for s in said]).float().numpy()
            places[name] = np.stack([back(p, t) for p, t in zip(points, transforms[name], strict=True)])
            features.append(torch.cat([s[1] for s in said]).float().numpy())
        return Found(places, np.concatenate(features, axis=1))


def trained(
    clips: Sequence[Clip], runs: Path, seed: int = 0, recipe: loop.Recipe = RECIPE, show: bool = True
) -> Regressor:
    """The networks for these clips' person, trained on their training frames, or taken up where `runs` holds them."""
    torch.manual_seed(seed)
    stage = LandmarkStage(training_crops(clips), some(clips))
    folder = runs / f"landmarks-{fingerprint(clips, recipe, seed)}"
    return Regressor(loop.run(stage, folder, replace(recipe, seed=seed), show=show))


def training_crops(clips: Sequence[Clip]) -> dict[str, Crops]:
    """Of at most MOST training frames, evenly spread, by view."""
    size, pieces = clips[0].fields.size, []
    for clip in clips:
        at = spread(clip.train(), MOST // len(clips))
        seen, pictures = marks(clip, read_clip(clip.folder / MOTION), at), clip.frames
        pieces.append({name: Crops.of(name, (pictures[i] for i in at), seen[name], size) for name in VIEWS})
    return {
        name: Crops(name, size, *(np.concatenate([getattr(p[name], field) for p in pieces]) for field in ("pixels", "cuts", "points")))
        for name in VIEWS
    }  # fmt: skip


def some(clips: Sequence[Clip], most: int = 24) -> tuple[list[np.ndarray], Marks]:
    """Held-out pictures (training ones where none are) and their landmarks."""
    clip = clips[0]
    held = clip.held_out()
    at = spread(held if len(held) else clip.train(), most)
    return [np.asarray(clip.frames[i]) for i in at], marks(clip, read_clip(clip.folder / MOTION), at)


def spread(indices: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of `indices`, evenly spread."""
    return np.asarray(indices[np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))])


def fingerprint(clips: Sequence[Clip], recipe: loop.Recipe, seed: int) -> str:
    """Of everything that the weights depend on, but for the pictures, of which a few stand for all."""
    digest = hashlib.sha256(repr((recipe, seed, CHANNELS, MOST)).encode())
    for clip in clips:
        digest.update((clip.folder / MOTION).read_bytes())
        for i in clip.train()[:: max(1, len(clip.train()) // 8)]:
            digest.update(clip.frames[i].tobytes())
    return digest.hexdigest()[:12]


def _full(affine: np.ndarray) -> np.ndarray:
    return np.concatenate([affine, [[0.0, 0.0, 1.0]]])


def _square(scale: float, shift: float) -> np.ndarray:
    return np.array([[scale, 0.0, shift], [0.0, scale, shift], [0.0, 0.0, 1.0]])


def to_input(crops: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """uint8 crops as (B, 3, S, S) in [-1, 1], channels last in memory."""
    pixels = torch.from_numpy(np.asarray(crops)).permute(0, 3, 1, 2)
    return pixels.to(torch.float32).mul_(1 / 127.5).sub_(1)


def distances(found: np.ndarray, truth: np.ndarray, size: int, shown: np.ndarray | None = None) -> np.ndarray:
    """Landmark mean distance by picture, pixels: (N, K, 2) to (N,); NaN where none of `shown` (`truth`) lies in the picture."""
    seen = inside(truth if shown is None else shown, size)
    apart = np.where(seen, np.linalg.norm(found - truth, axis=-1), 0.0)
    return np.asarray(np.where(seen.any(axis=1), apart.sum(axis=1) / np.maximum(seen.sum(axis=1), 1), np.nan))


def drawn(pictures: Sequence[np.ndarray], truth: Marks, found: Marks) -> np.ndarray:
    """A row of crops for each picture: the mesh's landmarks green, those found red."""
    rows = []
    for i, picture in enumerate(pictures):
        row = []
        for name in VIEWS:
            by = transform(name, *square(name, truth[name][i], len(picture)), 2 * SIZES["face"])
            crop = cut(picture, by, 2 * SIZES["face"]).copy()
            for points, colour in ((truth, (60, 255, 60)), (found, (255, 40, 40))):
                for x, y in np.clip(moved(points[name][i], by), 1, len(crop) - 2).astype(int):
                    crop[y - 1 : y + 1, x - 1 : x + 1] = colour
            row.append(crop)
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows, axis=0)
