"""LiveAnchor's public names, loaded when they are first used, and the command `liveanchor`.

from liveanchor import Avatar, open_live, read_clip
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import app as bench
from engine.errors import InputError
from engine.progress import bar_of
from engine.training import clip_cli
from engine.training.cli import app as training
from export import export_cli
from export.cli import app as avatars

if TYPE_CHECKING:
    import numpy as np

    from engine.live import LiveEngine

__version__ = "0.1.0"

_PUBLIC = {
    "Avatar": "engine.avatar", "bundled_avatar": "engine.avatar", "BodyModel": "engine.body", "Camera": "engine.camera",
    "Condition": "engine.condition", "InputError": "engine.errors", "LiveEngine": "engine.live", "Picture": "engine.picture",
    "PoseClip": "engine.pose", "PoseFrame": "engine.pose", "PoseLog": "engine.pose_log", "Settings": "streaming.settings", "build_app": "streaming.server",
    "load_networks": "export.runtime:load", "needed": "engine.live", "open_live": "export.live", "open_show": "streaming.opening", "read_clip": "engine.clips",
    "resample": "engine.resample", "standin_path": "engine.standin", "write_clip": "engine.clips",
}  # fmt: skip
__all__ = [*_PUBLIC, "main"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'liveanchor' has no attribute {name!r}")
    module, _, inner = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), inner or name)


app = typer.Typer(
    help="Live virtual anchors: motion capture in, a person's video out.",
    epilog="Examples:  liveanchor serve   |   liveanchor render -o anchor.mp4   |   liveanchor doctor",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(training, name="train")
app.add_typer(avatars, name="avatar")
app.add_typer(bench, name="bench")
app.command("export", epilog=export_cli.EXAMPLE)(export_cli.export)
app.command("studio", epilog=clip_cli.STUDIO_EXAMPLE)(clip_cli.studio)
app.command("clip", epilog=clip_cli.CLIP_EXAMPLE)(clip_cli.clip)

ClipFormat = Annotated[
    str | None, typer.Option("--format", help="The clip's format where it cannot be told from the file: talkshow, show, beat2, amass, motionx, bvh.")
]  # fmt: skip
BoneMap = Annotated[
    Path | None,
    typer.Option(help="BVH: a TOML file with lines like  left_wrist = 'L_Hand'  for a skeleton of your own."),
]
AvatarFolder = Annotated[Path | None, typer.Option("--avatar", help="Avatar folder; the bundled anchor by default.")]
BodyFile = Annotated[Path | None, typer.Option("--body", help="Your own SMPLX_*.npz; the stand-in body by default.")]
RuntimeName = Annotated[
    str | None,
    typer.Option(
        "--runtime", help="What runs the networks; `liveanchor doctor` lists them, the fastest first: auto takes that."
    ),
]
Precision = Annotated[str | None, typer.Option(help="auto, f32, bf16, f16 or int8, as far as the runtime has it.")]
Threads = Annotated[int | None, typer.Option(help="Threads for the networks; all cores by default.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; the avatar's own number by default.")]
Mode = Annotated[
    str | None, typer.Option(help="How frames see each other: exact, causal, bank; the avatar's own way by default.")
]
Window = Annotated[int | None, typer.Option(min=1, help="Frames of a window; the avatar's own number by default.")]
Overlap = Annotated[
    int | None,
    typer.Option(min=0, help="Frames that two windows share; in causal mode past frames beside the new ones."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the noise: the same poses and seed give the same pictures.")]


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(epilog="Examples:  liveanchor serve --port 8080   |   liveanchor serve --pose dance.bvh --udp-port 9000")
def serve(
    pose: Annotated[
        Path | None, typer.Option(help="Clip to play; the bundled one by default. Live motion takes over.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Sound that belongs to the clip: any file that FFmpeg reads.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; a free one by default.")] = None,
    udp_port: Annotated[int | None, typer.Option(help="UDP port for live poses; none by default.")] = None,
    loop: Annotated[bool | None, typer.Option("--loop/--no-loop", help="Play the clip again when it ends.")] = None,
    avatar: AvatarFolder = None,
    body: BodyFile = None,
    format: ClipFormat = None,
    bone_map: BoneMap = None,
    runtime: RuntimeName = None,
    precision: Precision = None,
    threads: Threads = None,
    steps: Steps = None,
    mode: Mode = None,
    window: Window = None,
    overlap: Overlap = None,
    seed: Seed = None,
    govern: Annotated[
        bool | None,
        typer.Option("--govern/--no-govern", help="Paint cheaper while delay or frame rate are over budget."),
    ] = None,
    delay_budget_ms: Annotated[
        float | None, typer.Option(help="The governor's: milliseconds from pose to finished picture, 250 by default.")
    ] = None,
    fps_budget: Annotated[
        float | None, typer.Option(help="The governor's: painted pictures a second; the avatar's by default.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder for a pose log of the show; `liveanchor render` paints it again.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with these settings; LIVEANCHOR_* variables come before it.")
    ] = None,
) -> None:
    """Show the anchor in a browser, live over WebRTC, driven by a clip or by live motion capture.

    Motion capture programs send poses to ws://HOST:PORT/pose, or to the UDP port: see docs/wire.md.
    """
    from streaming.logs import set_up_logs
    from streaming.opening import open_show
    from streaming.server import build_app, run
    from streaming.settings import load_settings

    settings = load_settings(
        config, pose=pose, audio=audio, host=host, port=port, udp_port=udp_port, loop=loop, avatar=avatar, body=body,
        format=format, bone_map=bone_map, runtime=runtime, precision=precision, threads=threads, steps=steps, mode=mode,
        window=window, overlap=overlap, seed=seed, govern=govern, delay_budget_ms=delay_budget_ms, fps_budget=fps_budget,
        record=record,
    )  # fmt: skip
    set_up_logs(settings.log_format)
    show = open_show(settings, version=__version__)
    server = build_app(show, settings, on_pose=show.on_pose, version=__version__)
    run(server, settings.host, settings.port, ready=lambda url: typer.echo(f"The anchor is at {url}   (Ctrl-C ends)"))


@app.command(
    epilog="Examples:  liveanchor send clip.npz --to ws://127.0.0.1:8080/pose   |   liveanchor send a.bvh --to udp://127.0.0.1:9000"
)
def send(
    clip: Annotated[Path, typer.Argument(help="SMPL-X or BVH clip.")],
    to: Annotated[str, typer.Option(help="ws://HOST:PORT/pose or udp://HOST:PORT.")],
    audio: Annotated[Path | None, typer.Option(help="Speech that belongs to the clip.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Again and again, until Ctrl-C.")] = False,
    format: ClipFormat = None,
    bone_map: BoneMap = None,
) -> None:
    """Replay a clip at its own pace into a running server, as a motion capture program would."""
    import asyncio

    from engine.clips import read_clip
    from streaming.audio import read_audio
    from streaming.sender import send as replay

    poses = read_clip(clip, format=format, bone_map=bone_map)
    speech = read_audio(audio) if audio is not None else None
    with bar_of("s") as bar:
        task = bar.add_task("sending", total=None if loop else round(poses.seconds, 1))
        report = lambda p: bar.update(task, completed=round(p.seconds, 1))  # noqa: E731
        done = asyncio.run(replay(poses, speech, to, loop=loop, on_progress=report))
    typer.echo(
        f"sent {done.frames} poses and {done.speech} pieces of speech, {done.skipped} skipped, {done.refused} refused"
    )


@app.command(
    epilog="Examples:  liveanchor render talk.npz --audio talk.wav -o talk.mp4   |   liveanchor render RECORDED -o show.mp4"
)
def render(
    clip: Annotated[
        Path | None,
        typer.Argument(
            help="SMPL-X or BVH clip, or a folder that `serve --record` wrote; the bundled clip by default."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write: .mp4, .mov or .mkv.")] = Path("anchor.mp4"),
    audio: Annotated[Path | None, typer.Option(help="Sound that belongs to the clip.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Only the first so many seconds.")] = None,
    avatar: AvatarFolder = None,
    body: BodyFile = None,
    format: ClipFormat = None,
    bone_map: BoneMap = None,
    runtime: RuntimeName = None,
    precision: Precision = None,
    threads: Threads = None,
    steps: Steps = None,
    mode: Annotated[
        str | None,
        typer.Option(help="How frames see each other: offline, exact, causal, bank; the avatar's own way by default."),
    ] = None,
    window: Window = None,
    overlap: Overlap = None,
    seed: Seed = None,
) -> None:
    """Paint a clip into a file: the same engine as live, without hurry. `offline` is the published algorithm, whole.

    A folder that holds a pose log gives the pictures that left live, as its log.toml says; options that say otherwise
    give others.
    """
    from engine.avatar import bundled_avatar
    from engine.clips import read_clip
    from streaming.audio import read_audio
    from streaming.opening import bundled_clip, open_engine
    from streaming.render import render as paint
    from streaming.settings import load_settings

    options: dict[str, Any] = {
        "avatar": avatar, "body": body, "runtime": runtime, "precision": precision, "threads": threads, "steps": steps,
        "mode": mode, "window": window, "overlap": overlap, "seed": seed,
    }  # fmt: skip
    if clip is not None and clip.is_dir():
        _render_log(clip, out, audio, seconds, options)
        return
    folder = avatar or bundled_avatar()
    if clip is None:
        clip, own = bundled_clip(folder)
        audio = audio or own
    poses = read_clip(clip, format=format, bone_map=bone_map)
    if seconds is not None:
        poses = poses.first(seconds)
    speech: np.ndarray | None = read_audio(audio) if audio is not None else None
    settings = load_settings(**options)
    with bar_of("pictures") as bar:
        task = bar.add_task("loading", total=None)
        engine: LiveEngine = open_engine(settings)
        bar.update(task, description="painting")
        paint(engine, poses, speech, out, lambda done, total: bar.update(task, completed=done, total=total))
    typer.echo(f"{out}: {poses.seconds:.1f} s, {out.stat().st_size / 1e6:.1f} MB")


def _render_log(folder: Path, out: Path, audio: Path | None, seconds: float | None, options: dict[str, Any]) -> None:
    from streaming.audio import read_audio
    from streaming.opening import open_replay
    from streaming.render import render_log

    speech = read_audio(audio) if audio is not None else None
    with bar_of("pictures") as bar:
        task = bar.add_task("loading", total=None)
        engine, log, differs = open_replay(folder, **options)
        bar.update(task, description="painting")
        if differs:
            typer.echo(f"The pictures will differ from those that left live: {'; '.join(differs)}", err=True)
        report = lambda done: bar.update(task, completed=done)  # noqa: E731
        render_log(engine, log, speech, out, seconds, force=bool(differs), progress=report)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command(epilog="Examples:  liveanchor doctor   |   liveanchor doctor --json")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say what this machine has, what it means for the frame rate, and what to install."""
    from dataclasses import asdict

    from streaming.doctor import examine

    findings = examine()
    if as_json:
        import json

        typer.echo(json.dumps({"version": __version__, "findings": [asdict(f) for f in findings]}, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found", "means"):
        table.add_column(column)
    signs = {"ok": "[green]ok[/]", "note": "[yellow]--[/]", "missing": "[red]no[/]"}
    for finding in findings:
        means = escape(finding.means) + (f"; [bold]{escape(finding.todo)}[/]" if finding.todo else "")
        table.add_row(signs[finding.state], f"{finding.topic}: {finding.name}", escape(finding.found), means)
    Console().print(table)
    if any(f.state == "missing" for f in findings):
        raise typer.Exit(1)


def main() -> None:
    """The command. Exit status: 0 done, 1 bad input or failure, 2 wrong usage, 130 interrupted."""
    debug = "--debug" in sys.argv
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        line = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error} (--debug shows more)"
        typer.echo(f"liveanchor: {line}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
