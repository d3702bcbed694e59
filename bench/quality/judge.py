"""Painted against true frames: a table of figures by frame, and what can only be said of many frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.quality.metrics import correlation, frechet, psnr, ssim, stacked
from bench.quality.parts import Marks, Part
from bench.quality.regressor import Found, Regressor, distances
from bench.quality.views import mean_places
from engine.crop import warp
from engine.face import CROP
from engine.hand import CROP as HAND_CROP
from engine.training.dataset import HEAD, LEFT_HAND, PERSON, RIGHT_HAND

INNER = 20  # pixels of the aligned face crop that its blending erodes on every side
# The inner lips among the 51 landmarks: three on the upper lip, and those on the lower lip below them.
UPPER, LOWER = [44, 45, 46], [50, 49, 48]
IN_A_ROW, COMPONENTS = 8, 16  # of the video distance


@dataclass(frozen=True)
class Truth:
    """What is known of a part before anything is painted: computed once for all rows of the tables."""

    part: Part
    found: Found
    opening: np.ndarray  # (N,) pixels, as the regressor sees it
    opening_mesh: np.ndarray  # (N,) pixels, the mesh's own

    @classmethod
    def of(cls, part: Part, regressor: Regressor) -> Truth:
        found = regressor.find((part.clip.frames[i] for i in part.indices), part.marks)
        return cls(part, found, opening(found.places["face"]), opening(part.marks["face"]))

    def floor(self) -> dict[str, np.ndarray]:
        """The regressor's own error on true pictures, by frame."""
        return by_region(self.found.places, self.part.marks, self.part.clip.fields.size)

    def blind(self) -> dict[str, np.ndarray]:
        """The error of who knows the crops and this part's mean, and does not look."""
        size, marks = self.part.clip.fields.size, self.part.marks
        return by_region({name: mean_places(name, points, size) for name, points in marks.items()}, marks, size)


@dataclass(frozen=True)
class Scores:
    """A row's figures by frame, of one part or of several one after the other."""

    columns: Mapping[str, np.ndarray]  # by name (N,); NaN where a figure has no meaning
    features: np.ndarray  # (N, D)
    true_features: np.ndarray  # (N, D)
    follows: np.ndarray  # (N,) bool
    frames: tuple[tuple[str, int], ...]  # part and position of each

    @classmethod
    def joined(cls, scores: Sequence[Scores]) -> Scores:
        """Several parts' as one."""
        columns = {name: np.concatenate([s.columns[name] for s in scores]) for name in scores[0].columns}
        features = np.concatenate([s.features for s in scores])
        true_features = np.concatenate([s.true_features for s in scores])
        follows = np.concatenate([s.follows for s in scores])
        return cls(columns, features, true_features, follows, tuple(frame for s in scores for frame in s.frames))

    def of(self, frames: set[tuple[str, int]]) -> Scores:
        """Only these frames."""
        at = np.array([i for i, frame in enumerate(self.frames) if frame in frames], int)
        return Scores(
            {name: column[at] for name, column in self.columns.items()}, self.features[at], self.true_features[at],
            self.follows[at], tuple(self.frames[i] for i in at),
        )  # fmt: skip

    def value(self, name: str, at: np.ndarray | slice = slice(None)) -> float:
        """A figure over the frames `at`: a column's mean, or one of FREE, which are of all frames together."""
        if name in FREE:
            return FREE[name](self, at)
        column = self.columns[name][at]
        return float(np.nanmean(column)) if np.isfinite(column).any() else float("nan")

    def names(self) -> list[str]:
        return [*self.columns, *FREE]


def _frechet(s: Scores, at: np.ndarray | slice) -> float:
    return frechet(s.features[at], s.true_features[at]) if len(s.features[at]) > 8 else float("nan")


def _frechet_video(s: Scores, at: np.ndarray | slice) -> float:
    """Over stacks of consecutive features, in the directions in which true ones vary most."""
    centre = s.true_features.mean(axis=0)
    axes = np.linalg.svd(s.true_features - centre, full_matrices=False)[2][:COMPONENTS].T
    kept = np.arange(len(s.follows))[at]
    follows = s.follows[kept] & (np.diff(kept, prepend=-2) == 1)
    pair = [stacked((f[kept] - centre) @ axes, follows, IN_A_ROW) for f in (s.features, s.true_features)]
    return frechet(*pair) if len(pair[0]) > 8 else float("nan")


def _mouth(s: Scores, at: np.ndarray | slice) -> float:
    return correlation(s.columns["opening"][at], s.columns["opening_true"][at])


def _mouth_mesh(s: Scores, at: np.ndarray | slice) -> float:
    return correlation(s.columns["opening"][at], s.columns["opening_mesh"][at])


FREE: dict[str, Callable[[Scores, np.ndarray | slice], float]] = {
    "frechet": _frechet,
    "frechet_video": _frechet_video,
    "mouth_correlation": _mouth,
    "mouth_correlation_mesh": _mouth_mesh,
}


def judge(painted: np.ndarray, truth: Truth, regressor: Regressor) -> Scores:
    """Pictures (N, S, S, 3) uint8 of a part against its own."""
    part, size = truth.part, truth.part.clip.fields.size
    found = regressor.find(painted, part.marks)
    rows = [pixel_figures(painted, part, i) for i in range(len(part))]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns |= {f"lmd_{name}": d for name, d in by_region(found.places, part.marks, size).items()}
    columns |= {f"shift_{name}": d for name, d in by_region(found.places, truth.found.places, size, part.marks).items()}
    columns["opening"] = opening(found.places["face"])
    columns["opening_true"], columns["opening_mesh"] = truth.opening, truth.opening_mesh
    frames = tuple((part.name, i) for i in range(len(part)))
    return Scores(columns, found.features, truth.found.features, part.follows, frames)


def pixel_figures(painted: np.ndarray, part: Part, i: int) -> dict[str, float]:
    """Of one picture: PSNR and SSIM by region, and how its change since the one before differs from the true change."""
    clip, index = part.clip, part.indices[i]
    image, truth, boxes = painted[i], np.asarray(clip.frames[index]), clip.boxes[index]
    person, head = box(boxes[PERSON], len(image)), box(boxes[HEAD], len(image))
    to_crop = np.asarray(clip.faces[index])
    inner = slice(INNER, CROP - INNER)
    face = [warp(picture, to_crop, CROP)[inner, inner] for picture in (image, truth)]
    tight = [box(boxes[hand], len(image)) for hand in (LEFT_HAND, RIGHT_HAND)]
    crops = [shown_crop(to_hand, len(image)) for to_hand in clip.hands[index]]
    hands = [psnr(image[hand], truth[hand]) if hand else np.nan for hand in (*crops, *tight)]
    row = {
        "psnr_picture": psnr(image, truth),
        "psnr_person": psnr(image[person], truth[person]) if person else np.nan,
        "ssim_person": ssim(image[person], truth[person]) if person else np.nan,
        "psnr_head": psnr(image[head], truth[head]) if head else np.nan,
        "psnr_face": psnr(*face),
        "psnr_left_hand": hands[0],
        "psnr_right_hand": hands[1],
        "psnr_hands": mean(hands[:2]),
        "psnr_hands_tight": mean(hands[2:]),
        "change_error": np.nan,
        "still_change": np.nan,
    }
    if part.follows[i] and person:
        change = image.astype(np.int16) - painted[i - 1]
        true_change = truth.astype(np.int16) - clip.frames[part.indices[i - 1]]
        row["change_error"] = float(np.abs(change - true_change)[person].mean())
        still = ~true_change.any(axis=2)
        row["still_change"] = float(np.abs(change[still]).mean()) if still.any() else np.nan
    return row


def by_region(found: Marks, truth: Marks, size: int, shown: Marks | None = None) -> dict[str, np.ndarray]:
    """Landmark mean distances by frame: face, body, hands (the mean of those that the picture shows)."""
    d = {name: distances(found[name], truth[name], size, (shown or truth)[name]) for name in truth}
    hands = [mean(pair) for pair in zip(d["left_hand"], d["right_hand"], strict=True)]
    return {"face": d["face"], "body": d["body"], "hands": np.array(hands)}


def opening(face: np.ndarray) -> np.ndarray:
    """How far apart the inner lips are, pixels: (N, 51, 2) to (N,)."""
    return np.asarray(np.linalg.norm(face[:, UPPER] - face[:, LOWER], axis=-1).mean(axis=1))


def flicker(pictures: np.ndarray) -> float:
    """Mean absolute frame-to-frame difference, of 255: (N, H, W, 3)."""
    return float(np.mean([np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(pictures)]))


def mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of what is finite; NaN of nothing."""
    good = [v for v in values if np.isfinite(v)]
    return float(np.mean(good)) if good else float("nan")


def shown_crop(to_crop: np.ndarray, size: int) -> tuple[slice, slice] | None:
    """The hand crop of a transform (2, 3), as rows and columns of the picture; None where the picture shows less than half of it."""
    corners = np.array([[0, 0], [HAND_CROP, HAND_CROP]]) @ np.diag(1 / np.diag(to_crop))  # upright: no turn
    corners = corners - to_crop[:, 2] / np.diag(to_crop)
    low, high = corners.min(axis=0), corners.max(axis=0)
    within = np.clip(high, 0, size) - np.clip(low, 0, size)
    return box(np.concatenate([low, high]), size) if within.prod() > 0.5 * (high - low).prod() else None


def box(corners: np.ndarray, size: int) -> tuple[slice, slice] | None:
    """x0, y0, x1, y1 as rows and columns of a picture of `size`; None where nothing of it lies there."""
    x0, y0, x1, y1 = np.clip(corners.round(), 0, size).astype(int)
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None
