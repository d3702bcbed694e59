"""Clips on disc: a person's video beside the SMPL-X motion that it shows. docs/clips.md has a worked example.

    DIR/clip.toml      fps, size, identity, licence, seed, synthetic, motion, video; [body] file, betas; [camera]; [splits]
                       train, and [splits.held_out] by name, as [first, end) ranges of frames
    DIR/clip.npz       the motion, one sample per picture; clip.toml may name any file that engine.clips.read_clip reads
    DIR/frames.npy     (N, size, size, 3) uint8 RGB, or DIR/video.mkv
    DIR/matte.npy      (N, size, size) uint8, the person's coverage, or DIR/matte.mkv; optional
    DIR/ticks.npy      (N,) int64, each picture's time in frames, rising; without it one follows the other
    DIR/done.npy       (N,) bool, where filming is resumable: the pictures that are there
    DIR/observed/      what the mesh says about each picture, made once by `observe`: condition.npy, boxes.npy, faces.npy,
                       face_mask.npy, hands.npy, hand_mask.npy; and frames.npy and matte.npy where there were only videos

It knows files and frames; what a mesh looks like it asks an Observer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine import toml
from engine.avatar import STANDIN, BodyFields, CameraFields
from engine.clips import HandSpace, read_clip
from engine.errors import InputError
from engine.pose import PoseClip
from engine.training.arrays import Rows, check_room, create, mapped
from engine.training.video import examine, unpack

PERSON, HEAD, LEFT_HAND, RIGHT_HAND = range(4)  # rows of boxes
MOTION, FRAMES, MATTE, TICKS, DONE = "clip.npz", "frames.npy", "matte.npy", "ticks.npy", "done.npy"
VIDEO, MATTE_VIDEO = "video.mkv", "matte.mkv"
Ranges = tuple[tuple[int, ...], ...]  # [first, end) each


@dataclass(frozen=True)
class SplitFields:
    """Ranges [first, end) of frames. What is held out has names, so that each part can be judged on its own."""

    train: Ranges
    held_out: dict[str, Ranges] = field(default_factory=dict)


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
    synthetic: bool = False  # nobody real is shown
    motion: str = MOTION
    video: str = VIDEO
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What the mesh says about one picture."""

    condition: np.ndarray  # (S, S, 3) uint8
    boxes: np.ndarray  # (4, 4) float32: person, head, left hand, right hand as x0, y0, x1, y1 in pixels
    face: np.ndarray  # (2, 3) float32: picture to aligned face crop
    face_mask: np.ndarray  # (S, S) bool: where the face is drawn
    hands: np.ndarray  # (2, 2, 3) float32: picture to aligned crop of the left and the right hand
    hand_mask: np.ndarray  # (S, S) uint8: 0, 1 where the left hand is drawn, 2 where the right one


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
    hands: np.ndarray  # (N, 2, 2, 3) float32
    hand_mask: np.ndarray  # (N, S, S) uint8: 0, 1 left, 2 right
    ticks: np.ndarray  # (N,) int64, rising: frames at fps
    matte: np.ndarray | None = None  # (N, S, S) uint8, the person's coverage; None: unknown

    @classmethod
    def open(cls, folder: Path) -> Clip:
        """An observed clip. InputError where a file is missing, or its length or size is not the others'."""
        folder = Path(folder)
        fields = toml.read(folder / "clip.toml", ClipFields)
        frames = mapped(array_file(folder, FRAMES), (None, fields.size, fields.size, 3), np.uint8)
        n, s = len(frames), fields.size
        for name, ranges in (("train", fields.splits.train), *fields.splits.held_out.items()):
            for bounds in ranges:
                if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] <= n:
                    expected = f"ranges [first, end) within {n} frames"
                    raise InputError(str(folder / "clip.toml"), f"splits, {name}", expected, str(list(bounds)))
        observed = {
            name: mapped(folder / "observed" / f"{name}.npy", shape, dtype)
            for name, (shape, dtype) in observed_arrays(n, s).items()
        }
        matte, ticks = array_file(folder, MATTE), folder / TICKS
        return cls(
            folder, fields, frames, **observed,
            ticks=mapped(ticks, (n,), np.int64) if ticks.exists() else np.arange(n, dtype=np.int64),
            matte=mapped(matte, (n, s, s), np.uint8) if matte.exists() else None,
        )  # fmt: skip

    def motion(self) -> PoseClip:
        """The motion, a sample for every picture."""
        return read_motion(self.folder, self.fields)

    def train(self) -> np.ndarray:
        """Indices of the training frames; of a clip that is still being filmed, those that are done."""
        return self._there(self.fields.splits.train)

    def held_out(self, part: str | None = None) -> np.ndarray:
        """Indices of the frames that no training sees, of one part or of all. InputError where there is no such part."""
        parts = self.fields.splits.held_out
        if part is not None and part not in parts:
            raise InputError(str(self.folder), "held-out part", " | ".join(parts) or "none", part)
        return self._there(tuple(r for name, ranges in parts.items() if part in (None, name) for r in ranges))

    def _there(self, ranges: Ranges) -> np.ndarray:
        indices = np.concatenate([np.zeros(0, np.int64), *(np.arange(a, b) for a, b in ranges)])
        done = self.folder / DONE
        return indices[np.load(done)[indices]] if done.exists() else indices


def write_fields(folder: Path, fields: ClipFields) -> None:
    """Write DIR/clip.toml at once or not at all. It comes last: a folder without it is no clip."""
    half = folder / ".clip.toml.part"
    half.write_text(toml.dumps(fields), encoding="utf-8")
    os.replace(half, folder / "clip.toml")


def array_file(folder: Path, name: str) -> Path:
    """The clip's FRAMES or MATTE, wherever they lie."""
    return folder / name if (folder / name).exists() else folder / "observed" / name


def read_motion(folder: Path, fields: ClipFields) -> PoseClip:
    """The clip's motion; hands that are coefficients are those of the body file that the clip names."""
    body = standin_or(fields.body, folder)
    motion = read_clip(folder / fields.motion, hands=HandSpace.load(body) if body else None)
    if abs(motion.fps - fields.fps) > 1e-3 * fields.fps:
        raise InputError(
            str(folder / fields.motion), "frame rate", f"{fields.fps:g} as in clip.toml", f"{motion.fps:g}"
        )
    return motion


def observe(folder: Path, observer: Observer | None = None, progress: Callable[[int, int], None] | None = None) -> None:
    """Fill DIR/observed: ask `observer` (default: the mesh, see engine.training.observer) about every frame.

    InputError where video and motion are not of one length, a file is damaged, the disc is full, or a frame shows nobody.
    """
    folder = Path(folder)
    fields = toml.read(folder / "clip.toml", ClipFields)
    (folder / "observed").mkdir(exist_ok=True)
    frames = array_file(folder, FRAMES)
    if observer is None:
        from engine.training.observer import mesh_observer  # the mesh needs a body model: only when asked for

        n = len(np.load(frames, mmap_mode="r")) if frames.exists() else examine(folder / fields.video).pictures
        observer = mesh_observer(folder, fields, n)
    if not frames.exists():
        unpack(folder / fields.video, frames, fields.size)
    n, s = len(mapped(frames, (None, fields.size, fields.size, 3), np.uint8)), fields.size
    matte = array_file(folder, MATTE)
    if not matte.exists() and (folder / MATTE_VIDEO).exists():
        unpack(folder / MATTE_VIDEO, matte, s, gray=True)
    _check_covered(folder, matte, n, s)
    arrays = observed_arrays(n, s)
    halves = {name: folder / "observed" / f".{name}.part" for name in arrays}
    check_room(folder, sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays.values()))
    for name, (shape, dtype) in arrays.items():
        create(halves[name], shape, dtype)
    with ExitStack() as stack:
        rows = {name: stack.enter_context(Rows(half)) for name, half in halves.items()}
        for i in range(n):
            seen = observer(i)
            rows["condition"][i], rows["boxes"][i], rows["faces"][i] = seen.condition, seen.boxes, seen.face
            rows["face_mask"][i] = np.where(seen.face_mask, 255, 0)
            rows["hands"][i], rows["hand_mask"][i] = seen.hands, seen.hand_mask
            if progress:
                progress(i + 1, n)
    for name, half in halves.items():
        os.replace(half, folder / "observed" / f"{name}.npy")


def observed_arrays(n: int, size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of the arrays in DIR/observed, for `n` pictures."""
    return {
        "condition": ((n, size, size, 3), np.uint8),
        "boxes": ((n, 4, 4), np.float32),
        "faces": ((n, 2, 3), np.float32),
        "face_mask": ((n, size, size), np.uint8),
        "hands": ((n, 2, 2, 3), np.float32),
        "hand_mask": ((n, size, size), np.uint8),
    }


def _check_covered(folder: Path, matte: Path, n: int, s: int) -> None:
    """InputError where the matte of a picture that is there is empty."""
    if not matte.exists():
        return
    done = np.load(folder / DONE) if (folder / DONE).exists() else np.ones(n, bool)
    for i, coverage in enumerate(mapped(matte, (n, s, s), np.uint8)):
        if done[i] and not coverage.any():
            raise InputError(str(matte), f"frame {i}", "a person in the picture", "nobody")


def standin_or(fields: BodyFields, folder: Path) -> Path | None:
    """The SMPL-X file that the clip names; None: the stand-in."""
    return None if fields.file == STANDIN else folder / fields.file
