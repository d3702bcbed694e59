"""Films a person in the studio: a motion goes in, a clip folder (engine.training.dataset) comes out, resumable, on every core."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import toml
from engine.avatar import BodyFields, CameraFields
from engine.camera import Camera, look_at
from engine.clips import write_clip
from engine.errors import InputError
from engine.pose import PoseClip
from engine.training.dataset import ClipFields, SplitFields
from engine.training.studio.person import ANCHORS, Person
from engine.training.studio.renderer import Renderer
from engine.training.studio.lights import news_studio
from engine.training.studio.standin_mesh import PEOPLE
from engine.training.studio.textures import studio_background

LICENCE = "rendered from MakeHuman's CC0 assets; CC0-1.0"


@dataclass(frozen=True)
class Take:
    """What is filmed: who, where the assets are, and how large."""

    assets: Path
    identity: str
    size: int = 512
    backdrop: bool = True


def studio_camera(size: int) -> Camera:
    """The upper body with both hands in reach: 0.88 m of it fill the picture's height."""
    distance, extent = 2.6, 0.88
    return look_at((0.0, 0.115, distance), (0.0, 0.085, 0.0), size, 2 * float(np.arctan(0.5 * extent / distance)))


def film(
    take: Take,
    motion: PoseClip,
    out: Path,
    held_out: int,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Renders every sample of `motion` into the clip folder `out`; the last `held_out` samples are for judging only.

    A second call goes on where the first was stopped. InputError where the identity is unknown or the motion is another.
    """
    if take.identity not in ANCHORS:
        raise InputError("studio", "identity", f"one of {', '.join(ANCHORS)}", take.identity)
    out.mkdir(parents=True, exist_ok=True)
    motion_file = out / "clip.npz"
    if not motion_file.exists():
        write_clip(motion_file, motion)
        frames = np.lib.format.open_memmap(out / "frames.npy", "w+", np.uint8, (len(motion), take.size, take.size, 3))
        frames.flush()
        np.save(out / "done.npy", np.zeros(len(motion), bool))
    done = np.lib.format.open_memmap(out / "done.npy", "r+")
    if len(done) != len(motion):
        raise InputError(str(out), "clip.npz", f"the {len(done)} samples it was begun with", f"{len(motion)}")
    with np.load(_packed_standin()) as packed:
        betas = packed["identity_betas"][PEOPLE.index(ANCHORS[take.identity].people)]
    fields = ClipFields(
        fps=motion.fps, size=take.size, camera=CameraFields.of(studio_camera(take.size)), identity=take.identity,
        splits=SplitFields(((0, len(motion) - held_out),), ((len(motion) - held_out, len(motion)),) if held_out else ()),
        body=BodyFields(betas=tuple(float(b) for b in betas)), licence=LICENCE, seed=seed,
    )  # fmt: skip
    (out / "clip.toml").write_text(toml.dumps(fields), encoding="utf-8")
    todo = np.nonzero(~done)[0]
    start, total = len(motion) - len(todo), len(motion)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _enter, (take, out, motion)) as pool:
        for count, _ in enumerate(pool.imap_unordered(_render, todo, chunksize=8), start + 1):
            if progress:
                progress(count, total)


@dataclass
class _Worker:
    person: Person
    renderer: Renderer
    motion: PoseClip
    frames: np.ndarray
    done: np.ndarray


_workers: list[_Worker] = []  # one a process: Pool hands its workers nothing but globals


def _enter(take: Take, out: Path, motion: PoseClip) -> None:
    os.environ["NUMBA_NUM_THREADS"] = "1"
    person = Person(take.assets, ANCHORS[take.identity])
    backdrop = studio_background(take.size) if take.backdrop else None
    renderer = Renderer(studio_camera(take.size), person.parts, news_studio(), backdrop)
    frames = np.lib.format.open_memmap(out / "frames.npy", "r+")
    _workers.append(_Worker(person, renderer, motion, frames, np.lib.format.open_memmap(out / "done.npy", "r+")))


def _render(index: int) -> None:
    worker = _workers[0]
    motion = worker.motion
    parts = worker.person.vertices(motion.poses[index], motion.expressions[index], motion.transl[index])
    worker.frames[index] = worker.renderer.render(parts)[0]
    worker.done[index] = True


def _packed_standin() -> Path:
    return Path(__file__).parents[2] / "data" / "standin.npz"
