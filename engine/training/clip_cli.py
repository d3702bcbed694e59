"""The commands `liveanchor studio` and `liveanchor clip`: clips to train on, filmed or brought. Imports come when one runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import InputError
from engine.progress import bar_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from engine.training.studio.lessons import Script

STUDIO_EXAMPLE = (
    "Examples:  liveanchor studio makehuman-cc0 clips/noah   |   "
    "liveanchor studio makehuman-cc0 clips --identity all --explored 400 --no-talk"
)
CLIP_EXAMPLE = (
    "Examples:  liveanchor clip talk.mp4 talk.pkl clips/me --identity me --body SMPLX_NEUTRAL.npz   |   "
    "liveanchor clip talk.mp4 talk.npz clips/me --identity me --camera camera.toml --crop 420,0,1080"
)


def studio(
    assets: Annotated[Path, typer.Argument(help="Folder of MakeHuman's CC0 assets.")],
    out: Annotated[Path, typer.Argument(help="The clip's folder; with --identity all, the folder of their folders.")],
    identity: Annotated[str, typer.Option(help="Who is filmed, or all.")] = "noah",
    explored: Annotated[int, typer.Option(min=1, help="Pictures of exploring motion to train on.")] = 1500,
    talk: Annotated[
        Path | None, typer.Option(help="Motion of a talk, its last tenth held out; the bundled one by default.")
    ] = None,
    no_talk: Annotated[bool, typer.Option("--no-talk", help="Exploring motion only.")] = False,
    judge: Annotated[
        list[Path] | None, typer.Option(help="Motion to be judged by, any clip; held out. May be given again.")
    ] = None,
    judged_frames: Annotated[int, typer.Option(min=1, help="Pictures of each of them.")] = 150,
    size: Annotated[int, typer.Option(min=64, help="Pixels of a picture's side.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the exploring motion.")] = 11,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one for each core by default.")] = None,
) -> None:
    """Film a synthetic person: pictures with their SMPL-X motion, camera and split, ready for `liveanchor train`.

    A film that was stopped goes on where it was. What a clip's folder holds: docs/clips.md.
    """
    import os

    from engine.avatar import bundled_avatar
    from engine.clips import read_clip
    from engine.training.studio.lessons import lessons
    from engine.training.studio.person import ANCHORS

    if identity != "all" and identity not in ANCHORS:
        raise InputError("studio", "--identity", f"{', '.join(ANCHORS)} or all", identity)
    motion = None if no_talk else read_clip(talk or bundled_avatar() / "clip.npz")
    judged = {file.stem: read_clip(file) for file in judge or ()}
    script = lessons(explored, motion, judged, judged_frames=judged_frames, seed=seed)
    for name in ANCHORS if identity == "all" else (identity,):
        folder = out / name if identity == "all" else out
        with bar_of() as bar:
            _shoot(bar, assets, name, folder, script, size, seed, workers or os.cpu_count() or 1)
        typer.echo(f"{folder}: {len(script.motion)} pictures of {name}")


def clip(
    video: Annotated[Path, typer.Argument(help="A video of one person, any that FFmpeg reads.")],
    motion: Annotated[Path, typer.Argument(help="The SMPL-X fits of its pictures: SHOW .pkl, .npz, .npy.")],
    out: Annotated[Path, typer.Argument(help="The clip's folder.")],
    identity: Annotated[str, typer.Option(help="The person's name.")],
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,SIZE", help="The square to keep; the largest, centred, by default.")
    ] = None,
    camera: Annotated[
        Path | None, typer.Option(help="TOML file of the video's camera; a SHOW .pkl brings its own.")
    ] = None,
    body: Annotated[Path | None, typer.Option(help="Your SMPLX_*.npz; the fits' betas belong to it.")] = None,
    size: Annotated[int, typer.Option(min=64, help="Pixels of a picture's side.")] = 512,
    licence: Annotated[str, typer.Option(help="What the video may be used for; kept with every avatar of it.")] = "",
) -> None:
    """Make a clip's folder of your own video and the SMPL-X fits that belong to it, ready for `liveanchor train`."""
    from engine.training.adopt import adopt
    from engine.training.dataset import observe

    square = _square(crop) if crop is not None else None
    with bar_of() as bar:
        adopt(
            video, motion, out, identity=identity, size=size, crop=square, camera=camera, body=body, licence=licence,
            progress=_task(bar, "cut"),
        )  # fmt: skip
        observe(out, progress=_task(bar, "observe"))
    typer.echo(f"{out}: a clip of {identity}")


def _shoot(
    bar: Progress, assets: Path, name: str, folder: Path, script: Script, size: int, seed: int, workers: int
) -> None:
    """Film, pack and observe one person."""
    from engine.training.dataset import FRAMES, MATTE, MATTE_VIDEO, VIDEO, observe
    from engine.training.studio.scene import LICENCE, Take, film
    from engine.training.video import pack

    take, fps, comment = Take(assets, name, size), script.motion.fps, f"a synthetic person, {name}; {LICENCE}"
    film(take, script, folder, seed=seed, workers=workers, progress=_task(bar, f"{name}: film"))
    pack(folder / FRAMES, folder / VIDEO, fps, comment, _task(bar, f"{name}: video"))
    pack(folder / MATTE, folder / MATTE_VIDEO, fps, comment, _task(bar, f"{name}: matte"))
    observe(folder, progress=_task(bar, f"{name}: observe"))


def _square(text: str) -> tuple[int, int, int]:
    try:
        x, y, side = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError("clip", "--crop", "X,Y,SIZE in pixels, as in 420,0,1080", text) from None
    return x, y, side


def _task(bar: Progress, what: str) -> Callable[[int, int], None]:
    """What reports progress; its line appears with the first report."""
    task = bar.add_task(what, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=True)
