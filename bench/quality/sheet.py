"""The contact sheet: condition, truth, painted and error of some frames, with face and hands twice as large."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from bench.quality.parts import Part
from engine.training.dataset import HEAD, LEFT_HAND, RIGHT_HAND

PICTURE, ZOOM = 352, 176  # pixels of a cell of the sheet
GAIN = 4  # of the error
LARGEST = 400_000  # bytes
LABEL = 16


def sheet(chosen: Sequence[tuple[Part, int, np.ndarray]]) -> np.ndarray:
    """(part, position, painted picture) to one picture; a row each."""
    rows = [labelled(row(part, i, painted), f"{part.name} {int(part.indices[i])}") for part, i, painted in chosen]
    width = rows[0].shape[1]
    head = Image.new("RGB", (width, LABEL), "white")
    titles = ["condition", "truth", "painted", f"error x{GAIN}", "head: truth, painted", "left hand", "right hand"]
    for n, title in enumerate(titles):
        at = n * PICTURE if n < 4 else 4 * PICTURE + (n - 4) * ZOOM
        ImageDraw.Draw(head).text((at + 3, 2), title, fill="black")
    return np.concatenate([np.asarray(head), *rows])


def row(part: Part, i: int, painted: np.ndarray) -> np.ndarray:
    """One frame: four pictures, then head and hands, the truth above the painted."""
    clip, index = part.clip, part.indices[i]
    truth = np.asarray(clip.frames[index])
    error = np.clip(GAIN * np.abs(painted.astype(np.int16) - truth), 0, 255).astype(np.uint8)
    pictures = [scaled(p, PICTURE) for p in (np.asarray(clip.condition[index]), truth, painted, error)]
    zooms = []
    for region in (HEAD, LEFT_HAND, RIGHT_HAND):
        box = clip.boxes[index][region]
        centre = (box[:2] + box[2:]) / 2 + (0, 0.1 * (box[3] - box[1]) if region == HEAD else 0)
        zooms.append(np.concatenate([zoomed(p, centre) for p in (truth, painted)]))
    return np.concatenate([*pictures, *zooms], axis=1)


def zoomed(picture: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """A square of the picture about `centre`, twice as large; pulled in at the picture's borders."""
    half = ZOOM // 4
    x, y = np.clip(centre.round(), half, len(picture) - half).astype(int)
    return scaled(picture[y - half : y + half, x - half : x + half], ZOOM)


def scaled(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((size, size), Image.Resampling.LANCZOS))


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((3, 2), text, fill="white")
    return np.asarray(image)


def write_jpeg(picture: np.ndarray, path: Path, largest: int = LARGEST) -> int:
    """Write `picture` with the best quality that fits into `largest` bytes, at once or not at all; returns its size."""
    for quality in (90, 84, 78, 70, 60, 50, 40, 30):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True, comment=b"a synthetic person")
        if buffer.tell() <= largest:
            break
    half = path.with_name(f".{path.name}.part")
    half.write_bytes(buffer.getvalue())
    os.replace(half, path)
    return buffer.tell()
