"""A user's own video and SMPL-X fits become a clip folder: cut square, lengths and rates checked, the camera taken along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from engine import rotation, toml
from engine.avatar import STANDIN, BodyFields, CameraFields
from engine.body import BodyModel
from engine.camera import Camera
from engine.clips import HandSpace, detect_format, read_clip, write_clip
from engine.clips.convention import PELVIS, UPRIGHT_FROM_CAMERA
from engine.clips.show import read_show_camera
from engine.condition import authors_camera
from engine.errors import InputError
from engine.pose import PoseClip
from engine.resample import resample
from engine.standin import standin_path
from engine.training.dataset import FRAMES, MOTION, ClipFields, Ranges, SplitFields, write_fields
from engine.training.video import Facts, examine, unpack

SAME_RATE = 2e-3  # of each other: 29.97 is 30, as SHOW has it, but 25 is not 24
HELD_OUT = 10  # one picture in so many, the clip's end, is for judging

Square = tuple[int, int, int]  # left, top and side in pixels of the video
Identity = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@dataclass(frozen=True)
class VideoCamera:
    """A camera file: engine.camera.Camera of the whole video. Without `view` it stands at the motion's origin, looking along -Z."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    view: tuple[tuple[float, ...], ...] = Identity  # by rows, world to camera


def adopt(
    video: Path,
    motion: Path,
    out: Path,
    *,
    identity: str,
    size: int = 512,
    crop: Square | None = None,
    camera: Path | None = None,
    body: Path | None = None,
    licence: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> ClipFields:
    """Make the clip folder `out` of a video and the motion fitted to it; returns what its clip.toml says.

    `motion` is any file that engine.clips.read_clip reads, with one sample for each picture, or at another rate and as long.
    `crop` is the square that is kept (default: the largest, in the middle), `camera` a TOML file of VideoCamera (not needed
    for SHOW's files), `body` the user's SMPLX_*.npz, to whose shapes the fits' betas belong. InputError on what does not fit.
    """
    if (out / "clip.toml").exists():
        raise InputError(str(out), "folder", "one without a clip", "a clip; choose another")
    facts = examine(video)
    poses = _matched(read_clip(motion, hands=HandSpace.load(body) if body else None), facts, video)
    square = crop or _middle(facts)
    whole = _video_camera(motion, camera, body, poses.betas, facts, video)
    n = facts.pictures
    held = n // HELD_OUT
    parts: dict[str, Ranges] = {"end": ((n - held, n),)} if held else {}
    fields = ClipFields(
        fps=facts.fps, size=size, camera=CameraFields.of(_cut_camera(whole, _checked(square, facts, video), size)),
        splits=SplitFields(((0, n - held),), parts), identity=identity, licence=licence,
        body=BodyFields(str(body.resolve()), _shape(poses.betas)) if body else BodyFields(STANDIN),
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    unpack(video, out / FRAMES, size, cut=lambda picture: _cut(picture, square, size), progress=progress)
    write_clip(out / MOTION, poses)
    write_fields(out, fields)
    return fields


def _shape(betas: np.ndarray) -> tuple[float, ...]:
    """Betas without the zeros at their end."""
    return tuple(float(b) for b in np.trim_zeros(betas, "b"))


def _matched(poses: PoseClip, facts: Facts, video: Path) -> PoseClip:
    """The motion with one sample for each picture. At another rate it may be one picture longer or shorter than the video."""
    expected = f"{facts.pictures} samples, one for each picture of {video.name}"
    if abs(poses.fps - facts.fps) <= SAME_RATE * facts.fps:
        if len(poses) != facts.pictures:
            raise InputError(poses.source, "length", expected, f"{len(poses)} samples")
        return replace(poses, fps=facts.fps)
    there = resample(poses, facts.fps)
    if abs(len(there) - facts.pictures) > 1:
        got = f"{len(there)} from {len(poses)} at {poses.fps:g} a second"
        raise InputError(poses.source, "length", f"{expected} at {facts.fps:g} a second", got)
    at = np.minimum(np.arange(facts.pictures), len(there) - 1)
    return replace(there, poses=there.poses[at], expressions=there.expressions[at], transl=there.transl[at])


def _video_camera(
    motion: Path, file: Path | None, body: Path | None, betas: np.ndarray, facts: Facts, video: Path
) -> Camera:
    """The camera of the whole video, from its file or from SHOW's."""
    if file is None:
        if detect_format(motion) != "show":
            hint = "width, height, fx, fy, cx, cy in pixels, view as 4 rows; see docs/clips.md"
            raise InputError(str(motion), "camera", "--camera FILE.toml, or a SHOW .pkl that knows it", "neither", hint)
        camera, source = _show_camera(motion, body, betas), motion
    else:
        given, source = toml.read(file, VideoCamera), file
        view = np.array([row for row in given.view if len(row) == 4])
        if view.shape != (4, 4) or not np.allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3), atol=1e-4):
            raise InputError(
                str(file), "view", "4 rows of 4 numbers, a rotation and a translation", str(given.view)[:60]
            )
        camera = Camera(given.width, given.height, given.fx, given.fy, given.cx, given.cy, view)
    if abs(camera.width * facts.height - camera.height * facts.width) > max(facts.width, facts.height):
        expected = f"the shape of {video.name}, {facts.width}x{facts.height}"
        raise InputError(str(source), "camera", expected, f"{camera.width}x{camera.height}")
    return camera.scaled(facts.width / camera.width)


def _show_camera(motion: Path, body: Path | None, betas: np.ndarray) -> Camera:
    """The camera of a SHOW file, for its motion as read_show turns it.

    It turns about a mean pelvis, where this body has its own: the camera is moved by the difference.
    """
    told = read_show_camera(motion)
    model = BodyModel.load(body or standin_path())
    off = model.shaped(betas if body else None).rest_joints[0] - PELVIS
    camera = authors_camera(np.array(told.translation))
    view = camera.view.copy()
    view[:3, 3] += view[:3, :3] @ (rotation.rotate(UPRIGHT_FROM_CAMERA, off) - off)
    return Camera(told.width, told.height, told.focal, told.focal, *told.centre, view)


def _middle(facts: Facts) -> Square:
    side = min(facts.width, facts.height)
    return (facts.width - side) // 2, (facts.height - side) // 2, side


def _checked(square: Square, facts: Facts, video: Path) -> Square:
    x, y, side = square
    if not (x >= 0 and y >= 0 and side > 0 and x + side <= facts.width and y + side <= facts.height):
        raise InputError(str(video), "crop", f"x,y,size within {facts.width}x{facts.height}", f"{x},{y},{side}")
    return square


def _cut_camera(camera: Camera, square: Square, size: int) -> Camera:
    x, y, side = square
    return replace(camera, width=side, height=side, cx=camera.cx - x, cy=camera.cy - y).scaled(size / side)


def _cut(picture: np.ndarray, square: Square, size: int) -> np.ndarray:
    x, y, side = square
    cut = picture[y : y + side, x : x + side]
    return cut if side == size else np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.LANCZOS))
