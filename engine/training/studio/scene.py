"""Films a person in the studio: a motion goes in, a clip folder (engine.training.dataset) comes out, resumable, on every core."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import numpy as np

from engine import toml
from engine.avatar import BodyFields, CameraFields
from engine.camera import Camera, look_at
from engine.clips import write_clip
from engine.errors import InputError
from engine.pose import PoseClip
from engine.training.dataset import ClipFields, SplitFields
from engine.training.studio.lights import news_studio
from engine.training.studio.person import ANCHORS, Person
from engine.training.studio.renderer import Renderer
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
    count, total = len(motion) - len(todo), len(motion)
    context = multiprocessing.get_context("spawn")
    finished: Queue[int] = context.Queue()
    shares = [todo[first::workers] for first in range(workers)]
    processes = [context.Process(target=_render, args=(take, out, motion, share, finished)) for share in shares]
    for process in processes:
        process.start()
    try:
        while count < total:
            _wait(finished, processes)
            count += 1
            if progress:
                progress(count, total)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _wait(finished: Queue[int], processes: Sequence[BaseProcess]) -> None:
    """Until one more picture is done; RuntimeError where a process died over it."""
    while True:
        try:
            finished.get(timeout=1.0)
            return
        except Empty:
            if any(process.exitcode for process in processes):
                raise RuntimeError("a rendering process died; its reason stands above") from None


def _render(take: Take, out: Path, motion: PoseClip, share: np.ndarray, finished: Queue[int]) -> None:
    """Renders the samples `share` into the folder's arrays: one process's work."""
    person = Person(take.assets, ANCHORS[take.identity])
    backdrop = studio_background(take.size) if take.backdrop else None
    renderer = Renderer(studio_camera(take.size), person.parts, news_studio(), backdrop)
    frames = np.lib.format.open_memmap(out / "frames.npy", "r+")
    done = np.lib.format.open_memmap(out / "done.npy", "r+")
    for index in share:
        parts = person.vertices(motion.poses[index], motion.expressions[index], motion.transl[index])
        frames[index] = renderer.render(parts)[0]
        done[index] = True
        finished.put(int(index))


def _packed_standin() -> Path:
    return Path(__file__).parents[2] / "data" / "standin.npz"
