"""An avatar on disk: a folder whose `avatar.toml` says everything about it that is not a weight.

It knows the fields and their limits, not how a graph is run or what the networks look like inside.

    avatar = Avatar.load(bundled_avatar())
    avatar.size, avatar.fps, avatar.networks["body"]
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine import steps, toml
from engine.camera import Camera
from engine.errors import InputError

# How frames see each other. Live: "causal" windows of past frames and new ones, a "bank" of past frames' keys and values, or
# "exact", the published algorithm on a stream; "offline" is that algorithm on a clip as a whole.
Mode = Literal["offline", "exact", "causal", "bank"]

FILE = "avatar.toml"
STANDIN = "standin"

Person = Literal["synthetic", "real", "unknown"]  # synthetic: does not exist; the picture is generated in any case


@dataclass(frozen=True)
class LatentFields:
    """Latents are (channels, size, size); the decoder gets them divided by `scale`."""

    channels: int
    size: int
    scale: float = 1.0


@dataclass(frozen=True)
class DenoiseFields:
    """How noise becomes latents."""

    timesteps: tuple[int, ...]  # visited live, falling
    prediction: steps.Prediction = "epsilon"
    sampler: Literal["ddim", "lcm", "tcd"] = "ddim"
    guidance: float = 1.0  # classifier-free; 1 where none is needed or where it is distilled in
    control_scale: float = 1.0
    mode: Mode = "causal"
    context: int = 0  # finished frames that the networks see beside the new ones
    anchor: bool = False  # a bank keeps the stream's first frame as one of them
    window: int = 16  # of Algorithm 1
    overlap: int = 4
    normalisation: Literal["frame", "window"] = "frame"  # over what the networks' statistics pool
    noise: Literal["shared", "per-frame"] = "shared"
    smoothing: float = 0.0  # how far predictions are drawn to both neighbours' in a window; 0 as published


@dataclass(frozen=True)
class ConditionFields:
    """The picture of the mesh that the networks see."""

    style: Literal["normals", "authors"] = "normals"
    size: int = 512


@dataclass(frozen=True)
class CameraFields:
    """engine.camera.Camera of a square picture of `size` pixels; `view` by rows, world to camera."""

    size: int
    fx: float
    fy: float
    cx: float
    cy: float
    view: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, camera: Camera) -> CameraFields:
        """The fields of a square `camera`."""
        view = tuple(tuple(float(x) for x in row) for row in camera.view)
        return cls(
            camera.width,
            float(camera.fx),
            float(camera.fy),
            float(camera.cx),
            float(camera.cy),
            view,
        )

    def camera(self) -> Camera:
        """The camera itself."""
        view = np.array(self.view, np.float64)
        return Camera(self.size, self.size, self.fx, self.fy, self.cx, self.cy, view)


@dataclass(frozen=True)
class BodyFields:
    """Which SMPL-X file, and the person's shape."""

    file: str = STANDIN  # or a path, relative to the avatar's folder
    betas: tuple[float, ...] = ()


@dataclass(frozen=True)
class RootFields:
    """What becomes of a clip's root motion, see engine.staging."""

    policy: Literal["anchored", "free"] = "anchored"
    reach: float = 0.04  # metres
    turn: float = 0.35  # radians, about the vertical
    lean: float = 0.45  # radians, forwards and sideways


@dataclass(frozen=True)
class FaceFields:
    """The second pass over the aligned face, with its own latents and steps."""

    enabled: bool = False
    size: int = 256
    template: Literal["ffhq"] = "ffhq"  # where its five points lie in the crop, see engine.face
    latent: LatentFields = LatentFields(16, 16)
    denoise: DenoiseFields = DenoiseFields((999,))


@dataclass(frozen=True)
class HandFields:
    """The second pass over both hands' crops, with its own latents and steps."""

    enabled: bool = False
    size: int = 128
    latent: LatentFields = LatentFields(16, 8)
    denoise: DenoiseFields = DenoiseFields((999,))


@dataclass(frozen=True)
class Avatar:
    """Everything that `avatar.toml` holds, and the folder it lies in."""

    name: str
    size: int  # the picture is size x size
    fps: float
    networks: dict[str, str]  # graph name to file name: hint, body, decoder, ...
    latent: LatentFields
    denoise: DenoiseFields
    camera: CameraFields
    schedule: steps.Schedule = field(default_factory=steps.Schedule)
    condition: ConditionFields = ConditionFields()
    body: BodyFields = BodyFields()
    root: RootFields = RootFields()
    face: FaceFields = FaceFields()
    hands: HandFields = HandFields()
    appearance: dict[str, str] = field(default_factory=dict)  # body, head: the reference pictures' files
    person: Person = "unknown"  # whom the pictures show; files of before this field do not say
    licence: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path = field(default=Path(), compare=False, metadata=toml.NOT_STORED)  # where it was loaded from

    @classmethod
    def load(cls, folder: Path) -> Avatar:
        """Read and check `folder`. InputError with file, field, expected and got."""
        file = Path(folder) / FILE
        avatar = toml.read(file, cls)
        for name, expected, good, got in _conditions(avatar):
            if not good:
                raise InputError(str(file), name, expected, str(got)[:80])
        for name, relative in _files(avatar):
            if not (Path(folder) / relative).is_file():
                raise InputError(str(file), name, f"a file {relative} beside {FILE}", "no such file")
        return replace(avatar, folder=Path(folder))

    def write(self, folder: Path) -> Path:
        """Write `avatar.toml` into `folder` (made if missing) at once or not at all; returns its path."""
        folder = Path(folder)
        text = toml.dumps(self)
        folder.mkdir(parents=True, exist_ok=True)
        half, file = folder / f".{FILE}.part", folder / FILE
        half.write_text(text, encoding="utf-8")
        return half.replace(file)

    def fingerprint(self) -> str:
        """SHA-256 of the files that tell this avatar from others, those missing left out.

        `avatar.toml`, the list of exported graphs, which holds checksums of graphs and weights, and the files of
        appearance and body.
        """
        digest = hashlib.sha256()
        for name in (FILE, "graphs.json", *(relative for _, relative in _files(replace(self, networks={})))):
            file = self.folder / name
            if file.is_file():
                with file.open("rb") as stream:
                    digest.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    def body_file(self) -> Path | None:
        """The SMPL-X file that this avatar names; None: the stand-in."""
        return None if self.body.file == STANDIN else self.folder / self.body.file

    def with_steps(self, count: int | None) -> Avatar:
        """The same avatar with `count` steps, spread over the schedule where it names other ones (None: its own).

        An avatar that starts at the noisiest timestep goes on to do so: one that was distilled, or trained for one step.
        """
        own = self.denoise.timesteps
        if count is None or count == len(own):
            return self
        noisiest = own[0] == self.schedule.train_steps - 1 or self.denoise.sampler != "ddim"
        spread = steps.few if noisiest else steps.spaced
        return replace(self, denoise=replace(self.denoise, timesteps=spread(self.schedule, count).now))

    def with_mode(self, mode: Mode | None) -> Avatar:
        """The same avatar in another mode (None: its own)."""
        return self if mode is None else replace(self, denoise=replace(self.denoise, mode=mode))

    def with_window(self, size: int | None, overlap: int | None) -> Avatar:
        """The same avatar with windows of `size` that share `overlap` frames (None: its own, or a quarter of `size`).

        InputError where such windows do not move on.
        """
        if size is not None and overlap is None:
            overlap = size // 4
        size = self.denoise.window if size is None else size
        overlap = self.denoise.overlap if overlap is None else overlap
        if not 0 <= overlap < size:
            raise InputError("windows", "overlap", f"0 to {size - 1}, as the window is {size}", str(overlap))
        return replace(self, denoise=replace(self.denoise, window=size, overlap=overlap))


def bundled_avatar() -> Path:
    """The folder of the avatar that comes with the package."""
    return Path(__file__).parent / "avatars" / "anchor"


def _files(avatar: Avatar) -> Iterator[tuple[str, str]]:
    yield from ((f"networks.{name}", file) for name, file in avatar.networks.items())
    yield from ((f"appearance.{name}", file) for name, file in avatar.appearance.items())
    if avatar.body.file != STANDIN:
        yield "body.file", avatar.body.file


def _conditions(a: Avatar) -> Iterator[tuple[str, str, bool, object]]:
    """(field, what is expected, whether it holds, what it is) for every limit."""
    yield "name", "a name", bool(a.name.strip()), repr(a.name)
    yield (
        "size",
        "a multiple of 16 from 64 to 2048",
        64 <= a.size <= 2048 and a.size % 16 == 0,
        a.size,
    )
    yield "fps", "1 to 120 pictures a second", 1 <= a.fps <= 120, a.fps
    further = {"bank": ("body_bank",), "exact": ("body_windows",)}.get(a.denoise.mode, ())
    for name in ("body", "decoder", *further):
        yield f"networks.{name}", "a graph", name in a.networks, "none"
    yield from _latent_conditions("latent", a.latent, a.size)
    yield from _denoise_conditions("denoise", a.denoise, a.schedule)
    s = a.schedule
    yield (
        "schedule.train_steps",
        "1 to 10000",
        1 <= s.train_steps <= 10000,
        s.train_steps,
    )
    betas = 0 < s.beta_start <= s.beta_end < 1
    yield (
        "schedule.beta_start",
        "0 < beta_start <= beta_end < 1",
        betas,
        (s.beta_start, s.beta_end),
    )
    yield (
        "condition.size",
        "at least 64",
        64 <= a.condition.size <= 2048,
        a.condition.size,
    )
    c = a.camera
    yield (
        "camera.size",
        f"the condition's size, {a.condition.size}",
        c.size == a.condition.size,
        c.size,
    )
    yield "camera.fx", "positive focal lengths", c.fx > 0 and c.fy > 0, (c.fx, c.fy)
    yield (
        "camera.cx",
        "finite numbers",
        math.isfinite(c.cx) and math.isfinite(c.cy),
        (c.cx, c.cy),
    )
    shape = (len(c.view), *sorted({len(row) for row in c.view}))
    yield (
        "camera.view",
        "4 rows of 4 numbers",
        shape == (4, 4),
        f"rows and lengths {shape}",
    )
    view = np.array(c.view)
    rigid = np.allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3), atol=1e-4) and np.allclose(view[3], [0, 0, 0, 1])
    yield (
        "camera.view",
        "a rotation and a translation",
        rigid,
        "a matrix that stretches",
    )
    finite = all(map(math.isfinite, a.body.betas)) and len(a.body.betas) <= 300
    yield "body.betas", "at most 300 finite numbers", finite, len(a.body.betas)
    for name in ("reach", "turn", "lean"):
        value = getattr(a.root, name)
        yield f"root.{name}", "0 to 3", 0 <= value <= 3, value
    yield from _again_conditions("face", a.face, ("face", "face_decoder"), a)
    yield from _again_conditions("hands", a.hands, ("hand_encoder", "hand", "hand_decoder"), a)


def _again_conditions(
    at: str, fields: FaceFields | HandFields, graphs: tuple[str, ...], a: Avatar
) -> Iterator[tuple[str, str, bool, object]]:
    if not fields.enabled:
        return
    sizes = range(64, 1025, 16)
    yield f"{at}.size", "a multiple of 16 from 64 to 1024", fields.size in sizes, fields.size
    for name in graphs:
        yield f"networks.{name}", f"a graph, as {at}.enabled is true", name in a.networks, "none"
    yield from _latent_conditions(f"{at}.latent", fields.latent, fields.size)
    yield from _denoise_conditions(f"{at}.denoise", fields.denoise, a.schedule)
    alone = fields.denoise.mode == "causal" and fields.denoise.context == 0
    yield f"{at}.denoise.mode", "causal without context: crops see no other frames", alone, fields.denoise.mode
    yield (
        f"{at}.denoise.smoothing",
        "0: crops see no other frames",
        fields.denoise.smoothing == 0,
        fields.denoise.smoothing,
    )


def _latent_conditions(at: str, latent: LatentFields, picture: int) -> Iterator[tuple[str, str, bool, object]]:
    yield f"{at}.channels", "1 to 256", 1 <= latent.channels <= 256, latent.channels
    divides = latent.size > 0 and picture % latent.size == 0
    yield f"{at}.size", f"a divisor of the picture's {picture}", divides, latent.size
    yield (
        f"{at}.scale",
        "a positive number",
        math.isfinite(latent.scale) and latent.scale > 0,
        latent.scale,
    )


def _denoise_conditions(
    at: str, denoise: DenoiseFields, schedule: steps.Schedule
) -> Iterator[tuple[str, str, bool, object]]:
    t = denoise.timesteps
    falling = bool(t) and all(a > b for a, b in pairwise(t))
    fits = falling and t[0] < schedule.train_steps and t[-1] >= 0
    yield (
        f"{at}.timesteps",
        f"falling numbers from {schedule.train_steps - 1} to 0",
        fits,
        t,
    )
    yield f"{at}.guidance", "0 to 100", 0 <= denoise.guidance <= 100, denoise.guidance
    yield (
        f"{at}.control_scale",
        "0 to 100",
        0 <= denoise.control_scale <= 100,
        denoise.control_scale,
    )
    yield f"{at}.context", "0 to 256", 0 <= denoise.context <= 256, denoise.context
    room = denoise.mode != "bank" or denoise.context > denoise.anchor
    yield f"{at}.context", f"more than {int(denoise.anchor)}, as {at}.mode is bank", room, denoise.context
    yield f"{at}.smoothing", "0 to 1", 0 <= denoise.smoothing <= 1, denoise.smoothing
    yield f"{at}.mode", "exact, causal or bank", denoise.mode != "offline", denoise.mode
    yield f"{at}.window", "1 to 256", 1 <= denoise.window <= 256, denoise.window
    yield (
        f"{at}.overlap",
        "less than the window",
        0 <= denoise.overlap < denoise.window,
        denoise.overlap,
    )
