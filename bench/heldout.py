"""`python -m bench.heldout CLIP`: the bundled anchor against the held-out pictures of a studio clip, through the shipped engine.

PSNR in dB over the picture and over the boxes of person, head and hands; no resampling, no encoder, root motion as filmed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from engine.avatar import Avatar, bundled_avatar
from engine.clips import read_clip
from engine.live import LiveEngine, needed
from engine.training.dataset import Clip
from export.runtime import load

REGIONS = ("person", "head", "left_hand", "right_hand")  # rows of Clip.boxes


def judge(folder: Path) -> dict[str, float]:
    """Mean PSNR by region, and how many pictures. InputError where `folder` is no observed clip."""
    avatar = Avatar.load(bundled_avatar())
    engine = LiveEngine(
        dataclasses.replace(avatar, root=dataclasses.replace(avatar.root, policy="free")),
        load(bundled_avatar(), needed(avatar)),
    )
    engine.warm_up()
    clip, motion = Clip.open(folder), read_clip(folder / "clip.npz")
    rows = []
    for i in clip.held_out():
        image, truth = engine.feed(motion.frame(int(i)))[0].image, clip.frames[i]
        rows.append([psnr(image, truth), *(_within(image, truth, box) for box in clip.boxes[i])])
    means = np.nanmean(np.array(rows), axis=0)
    return {"pictures": len(rows)} | {
        f"psnr_{name}_db": round(float(value), 2) for name, value in zip(("picture", *REGIONS), means, strict=True)
    }


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Of two uint8 pictures of the same shape, in dB."""
    error = ((image.astype(np.float64) - truth) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _within(image: np.ndarray, truth: np.ndarray, box: np.ndarray) -> float:
    """Within a box x0, y0, x1, y1; NaN where it lies outside the picture."""
    x0, y0, x1, y1 = np.clip(box.round(), 0, len(image)).astype(int)
    return psnr(image[y0:y1, x0:x1], truth[y0:y1, x0:x1]) if x1 > x0 and y1 > y0 else float("nan")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(judge(Path(sys.argv[1])), indent=2) + "\n")
