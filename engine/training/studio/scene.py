"""Films a person in the studio: a motion goes in, a clip folder (engine.training.dataset) comes out, resumable, on every core."""

from __future__ import annotations

import multiprocessing
import signal
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
from engine.clips import read_clip, write_clip
from engine.errors import InputError
from engine.pose import PoseClip
from engine.training.arrays import Rows, check_room, create
from engine.training.dataset import DONE, FRAMES, MATTE, MOTION, TICKS, ClipFields, write_fields
from engine.training.studio.lessons import Script
from engine.training.studio.lights import news_studio
from engine.training.studio.person import ANCHORS, Person
from engine.training.studio.renderer import Renderer
from engine.training.studio.standin_mesh import PEOPLE
from engine.training.studio.textures import studio_background

LICENCE = "rendered from MakeHuman's CC0 assets; CC0-1.0"
PACKED_STANDIN = Path(__file__).parents[2] / "data" / "standin.npz"


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
    script: Script,
    out: Path,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Renders every sample of `script` into the clip folder `out`, on `workers` processes.

    A second call goes on where the first was stopped. InputError where identity or assets are unknown, the disc is too
    full, or the folder holds another film.
    """
    if take.identity not in ANCHORS:
        raise InputError("studio", "identity", f"one of {', '.join(ANCHORS)}", take.identity)
    if not take.assets.is_dir():
        raise InputError(str(take.assets), "folder", "MakeHuman's CC0 assets", "no such folder")
    fields = _fields(take, script, seed)
    if (out / "clip.toml").exists():
        _check_same(out, fields, script)
    else:
        _begin(out, fields, script)
    done = np.load(out / DONE)
    todo, total = np.nonzero(~done)[0], len(done)
    count = total - len(todo)
    if progress:
        progress(count, total)
    context = multiprocessing.get_context("spawn")
    finished: Queue[int | InputError] = context.Queue()
    shares = [share for share in (todo[first::workers] for first in range(workers)) if len(share)]
    processes = [context.Process(target=_render, args=(take, out, script.motion, share, finished)) for share in shares]
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


def _fields(take: Take, script: Script, seed: int) -> ClipFields:
    with np.load(PACKED_STANDIN) as packed:
        betas = packed["identity_betas"][PEOPLE.index(ANCHORS[take.identity].people)]
    return ClipFields(
        fps=script.motion.fps, size=take.size, camera=CameraFields.of(studio_camera(take.size)), identity=take.identity,
        splits=script.splits, body=BodyFields(betas=tuple(float(b) for b in betas)), licence=LICENCE, seed=seed,
        synthetic=True,
    )  # fmt: skip


def _begin(out: Path, fields: ClipFields, script: Script) -> None:
    """Everything but the pictures; that a film has begun is told by clip.toml, which comes last."""
    n, size = len(script.motion), fields.size
    out.mkdir(parents=True, exist_ok=True)
    check_room(out, n * size * size * 4)
    create(out / DONE, (n,), np.bool_)
    create(out / FRAMES, (n, size, size, 3), np.uint8)
    create(out / MATTE, (n, size, size), np.uint8)
    np.save(out / TICKS, script.ticks)
    write_clip(out / MOTION, script.motion)
    write_fields(out, fields)


def _check_same(out: Path, fields: ClipFields, script: Script) -> None:
    """InputError where the film that was begun in `out` is of another person or motion."""
    begun = toml.read(out / "clip.toml", ClipFields)
    for name in ("identity", "size", "seed", "splits", "camera", "body"):
        old, new = getattr(begun, name), getattr(fields, name)
        if old != new:
            raise InputError(str(out), f"{name} of the film begun there", str(old)[:80], str(new)[:80])
    motion = read_clip(out / MOTION)
    same = len(motion) == len(script.motion) and all(
        np.array_equal(getattr(motion, name), getattr(script.motion, name))
        for name in ("poses", "expressions", "transl")
    )
    if not same:
        raise InputError(str(out / MOTION), "motion", "that of the film begun there", "another; choose another folder")


def _wait(finished: Queue[int | InputError], processes: Sequence[BaseProcess]) -> None:
    """Until one more picture is done. What went wrong in a process is raised here; RuntimeError where it just died."""
    while True:
        try:
            told = finished.get(timeout=1.0)
        except Empty:
            if any(process.exitcode for process in processes):
                raise RuntimeError("a rendering process died; its reason stands above") from None
            continue
        if isinstance(told, InputError):
            raise told
        return


def _render(take: Take, out: Path, motion: PoseClip, share: np.ndarray, finished: Queue[int | InputError]) -> None:
    """Renders the samples `share` into the folder's arrays: one process's work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the one who started us ends us
    parent = multiprocessing.parent_process()
    try:
        person = Person(take.assets, ANCHORS[take.identity])
        backdrop = studio_background(take.size) if take.backdrop else None
        renderer = Renderer(studio_camera(take.size), person.parts, news_studio(), backdrop)
        with Rows(out / FRAMES) as frames, Rows(out / MATTE) as mattes, Rows(out / DONE) as done:
            for index in share:
                if parent is not None and not parent.is_alive():
                    return  # it was killed: whoever goes on films the rest
                parts = person.vertices(motion.poses[index], motion.expressions[index], motion.transl[index])
                frames[index], mattes[index] = renderer.render(parts)
                done[index] = True
                finished.put(int(index))
    except InputError as error:
        finished.put(error)
