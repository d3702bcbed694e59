"""Clips on disc: a person's video beside the SMPL-X motion that it shows.

    DIR/clip.toml      fps, size, identity, licence, seed; [body] file, betas; [camera]; [splits] train and held_out as
                       [first, end) ranges of frames
    DIR/clip.npz       the motion, as engine.clips.read_clip reads it, one sample per picture
    DIR/frames.npy     (N, size, size, 3) uint8 RGB, or DIR/video.mkv
    DIR/done.npy       (N,) bool, where filming is resumable: the pictures that are there
    DIR/observed/      what the mesh says about each picture, made once by `observe`: condition.npy, boxes.npy, faces.npy,
                       face_mask.npy, and frames.npy where there was only a video

It knows files and frames; what a mesh looks like it asks an Observer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine import toml
from engine.avatar import STANDIN, BodyFields, CameraFields
from engine.errors import InputError

PERSON, HEAD, LEFT_HAND, RIGHT_HAND = range(4)  # rows of boxes


@dataclass(frozen=True)
class SplitFields:
    """Ranges [first, end) of frames."""

    train: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class ClipFields:
    """clip.toml."""

    fps: float
    size: int
    camera: CameraFields
    splits: SplitFields
    identity: str = ""
    body: BodyFields = field(default_factory=BodyFields)
    licence: str = ""
    seed: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What the mesh says about one picture."""

    condition: np.ndarray  # (S, S, 3) uint8
    boxes: np.ndarray  # (4, 4) float32: person, head, left hand, right hand as x0, y0, x1, y1 in pixels
    face: np.ndarray  # (2, 3) float32: picture to aligned face crop
    face_mask: np.ndarray  # (S, S) bool: where the face is drawn


Observer = Callable[[int], Observation]


@dataclass(frozen=True)
class Clip:
    """An opened clip; arrays are memory maps, read-only."""

    folder: Path
    fields: ClipFields
    frames: np.ndarray  # (N, S, S, 3) uint8
    condition: np.ndarray  # (N, S, S, 3) uint8
    boxes: np.ndarray  # (N, 4, 4) float32
    faces: np.ndarray  # (N, 2, 3) float32
    face_mask: np.ndarray  # (N, S, S) uint8, 0 or 255

    @classmethod
    def open(cls, folder: Path) -> Clip:
        """An observed clip. InputError where a file is missing, or its length or size is not the others'."""
        folder = Path(folder)
        fields = toml.read(folder / "clip.toml", ClipFields)
        frames = _memmap(frames_file(folder), (None, fields.size, fields.size, 3), np.uint8)
        n, s = len(frames), fields.size
        for a, b in (*fields.splits.train, *fields.splits.held_out):
            if not 0 <= a < b <= n:
                raise InputError(str(folder / "clip.toml"), "splits", f"ranges within {n} frames", f"[{a}, {b})")
        observed = folder / "observed"
        return cls(
            folder, fields, frames,
            _memmap(observed / "condition.npy", (n, s, s, 3), np.uint8),
            _memmap(observed / "boxes.npy", (n, 4, 4), np.float32),
            _memmap(observed / "faces.npy", (n, 2, 3), np.float32),
            _memmap(observed / "face_mask.npy", (n, s, s), np.uint8),
        )  # fmt: skip

    def train(self) -> np.ndarray:
        """Indices of the training frames; of a clip that is still being filmed, those that are done."""
        return self._there(self.fields.splits.train)

    def held_out(self) -> np.ndarray:
        """Indices of the frames that no training sees."""
        return self._there(self.fields.splits.held_out)

    def _there(self, ranges: tuple[tuple[int, ...], ...]) -> np.ndarray:
        indices = np.concatenate([np.zeros(0, np.int64), *(np.arange(a, b) for a, b in ranges)])
        done = self.folder / "done.npy"
        return indices[np.load(done)[indices]] if done.exists() else indices


def frames_file(folder: Path) -> Path:
    """The clip's pictures as an array, wherever they lie."""
    own = folder / "frames.npy"
    return own if own.exists() else folder / "observed" / "frames.npy"


def observe(folder: Path, observer: Observer | None = None, progress: Callable[[int, int], None] | None = None) -> None:
    """Fill DIR/observed: ask `observer` (default: the mesh, see engine.training.observer) about every frame."""
    folder = Path(folder)
    fields = toml.read(folder / "clip.toml", ClipFields)
    (folder / "observed").mkdir(exist_ok=True)
    if not frames_file(folder).exists():
        decode_video(folder / "video.mkv", folder / "observed" / "frames.npy", fields.size)
    n, s = len(_memmap(frames_file(folder), (None, fields.size, fields.size, 3), np.uint8)), fields.size
    if observer is None:
        from engine.training.observer import mesh_observer  # the mesh needs a body model: only when asked for

        observer = mesh_observer(folder, fields, n)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "condition": ((n, s, s, 3), np.uint8),
        "boxes": ((n, 4, 4), np.float32),
        "faces": ((n, 2, 3), np.float32),
        "face_mask": ((n, s, s), np.uint8),
    }
    halves = {name: folder / "observed" / f".{name}.part" for name in shapes}
    maps = {
        name: np.lib.format.open_memmap(halves[name], "w+", dtype, shape) for name, (shape, dtype) in shapes.items()
    }
    for i in range(n):
        seen = observer(i)
        maps["condition"][i], maps["boxes"][i], maps["faces"][i] = seen.condition, seen.boxes, seen.face
        maps["face_mask"][i] = np.where(seen.face_mask, 255, 0)
        if progress:
            progress(i + 1, n)
    for name, half in halves.items():
        maps[name].flush()
        os.replace(half, folder / "observed" / f"{name}.npy")


def decode_video(video: Path, out: Path, size: int) -> None:
    """A video of `size` x `size` pictures to a .npy array."""
    import av

    if not video.exists():
        raise InputError(str(video), "file", "frames.npy or video.mkv in the clip's folder", "neither")
    pictures = []
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            if (frame.height, frame.width) != (size, size):
                raise InputError(str(video), "size", f"{size}x{size}", f"{frame.width}x{frame.height}")
            pictures.append(frame.to_ndarray(format="rgb24"))
    half = out.with_name(f".{out.name}.part")
    with half.open("wb") as file:
        np.save(file, np.stack(pictures))
    os.replace(half, out)


def standin_or(fields: BodyFields, folder: Path) -> Path | None:
    """The SMPL-X file that the clip names; None: the stand-in."""
    return None if fields.file == STANDIN else folder / fields.file


def _memmap(path: Path, shape: tuple[int | None, ...], dtype: Any) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise InputError(str(path), "file", "an array, made by `observe`", "no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), "file", "a whole .npy array", str(error)) from None
    if array.ndim != len(shape) or any(a is not None and a != b for a, b in zip(shape, array.shape, strict=True)):
        raise InputError(str(path), "shape", str(shape).replace("None", "N"), str(array.shape))
    if array.dtype != dtype:
        raise InputError(str(path), "dtype", np.dtype(dtype).name, str(array.dtype))
    return array
