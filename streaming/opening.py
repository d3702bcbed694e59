"""From settings to a show: the avatar, its networks, the clip and its speech, the ports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.avatar import Avatar, bundled_avatar
from engine.body import BodyModel
from engine.clips import read_clip
from engine.errors import InputError
from engine.gear import Gear, ladder
from engine.live import LiveEngine, context_and_hop
from engine.pose_log import DECIDING, FIELDS_FILE, LogFields, PoseLog
from export.ladder import resolved
from export.live import open_live
from streaming.audio import read_audio
from streaming.cast import Cast
from streaming.clock import MS, Clock
from streaming.governor import Budget, Governor
from streaming.live_show import LiveShow
from streaming.pipeline import grouped
from streaming.recorder import Recorder, check_place
from streaming.settings import Settings, load_settings
from streaming.sources.file import Player

# By which options another field than the recorded one is asked for.
ASKS = {
    "avatar": ("avatar",), "fingerprint": ("avatar",), "seed": ("seed",), "steps": ("steps", "avatar"),
    "mode": ("mode", "avatar"), "body": ("body",), "runtime": ("runtime",),
    "precision": ("precision", "runtime"), "threads": ("threads",),
    **dict.fromkeys(("window", "overlap", "context", "hop"), ("window", "overlap", "mode", "avatar")),
}  # fmt: skip


def open_show(settings: Settings, clock: Clock | None = None, version: str = "") -> LiveShow:
    """The show that `settings` ask for. InputError at once where a file is wrong; the networks load later.

    `version`: the program's, for the pose log.
    """
    if settings.mode == "offline":
        raise InputError("settings", "mode", "exact, causal or bank: live", "offline", "liveanchor render has it")
    folder = settings.avatar or bundled_avatar()
    governor = _governor(settings, Avatar.load(folder))
    gears = governor.ladder if governor is not None else ()
    recorder = Recorder(settings.record) if settings.record is not None else None

    def ready(engine: LiveEngine) -> None:
        if recorder is not None:
            recorder.start(replace(described(engine, settings), program=version))

    cast = open_cast(settings, gears, folder, ready)
    if settings.body is not None:
        BodyModel.load(settings.body)  # says at once what is wrong with it
    pose, audio = settings.pose, settings.audio
    if pose is None:
        pose, own = bundled_clip(folder)
        audio = audio or own
    clip = read_clip(pose, format=settings.format, bone_map=settings.bone_map)
    speech = read_audio(audio) if audio is not None else None
    if settings.record is not None:
        check_place(settings.record)
    return LiveShow(
        cast.prepare,
        cast.fps,
        player=Player(clip, speech, loop=settings.loop),
        avatar=cast.avatar,
        person=cast.person,
        source=pose.name,
        sound=audio.name if audio is not None else "",
        udp=(settings.udp_host, settings.udp_port) if settings.udp_port is not None else None,
        governor=governor,
        recorder=recorder,
        clock=clock,
        another=partial(open_cast, settings, gears),
    )


def _governor(settings: Settings, avatar: Avatar) -> Governor | None:
    if not settings.govern:
        return None
    budget = Budget(round(settings.delay_budget_ms * MS), settings.fps_budget or avatar.fps)
    return Governor(budget, ladder(avatar.with_steps(settings.steps).with_mode(settings.mode)))


def open_cast(
    settings: Settings, gears: Iterable[Gear], folder: Path, ready: Callable[[LiveEngine], None] = lambda engine: None
) -> Cast:
    """The avatar in `folder`, to be run as `settings` ask, in these gears. InputError where its `avatar.toml` is wrong.

    `ready` is called with the engine once it is loaded and warm.
    """
    avatar = Avatar.load(folder)

    def prepare() -> LiveEngine:
        engine = open_engine(settings.model_copy(update={"avatar": folder}), gears)
        engine.warm_up()
        ready(engine)
        return engine

    return Cast(prepare, avatar.fps, avatar.name, avatar.person)


def open_engine(settings: Settings, gears: Iterable[Gear] = ()) -> LiveEngine:
    """The engine that `settings` ask for, its networks loaded, with `gears` beside its own. InputError where one of its files is wrong."""
    folder = settings.avatar or bundled_avatar()
    avatar = Avatar.load(folder)
    body = None
    if settings.body is not None:
        body = BodyModel.load(settings.body).shaped(np.array(avatar.body.betas))
    context, hop = context_and_hop(settings.mode or avatar.denoise.mode, settings.window, settings.overlap)
    return open_live(
        avatar, settings.runtime, settings.precision, settings.threads, steps=settings.steps, seed=settings.seed,
        context=context, hop=hop, body=body, mode=settings.mode, window=settings.window, overlap=settings.overlap,
        gears=gears,
    )  # fmt: skip


def described(engine: LiveEngine, settings: Settings) -> LogFields:
    """What a pose log says of the show of `engine`, which `open_engine(settings)` gave."""
    groups = [[stage.name for stage in group] for group in grouped(engine)]
    runtime, precision = resolved(settings.runtime, settings.precision)
    body = ""
    if settings.body is not None:
        with settings.body.open("rb") as file:
            body = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(
        engine.described(groups),
        folder=str(settings.avatar.resolve()) if settings.avatar is not None else "",
        body=body,
        runtime=runtime,
        precision=precision,
        threads=settings.threads or 0,
    )


def open_replay(folder: Path, **options: Any) -> tuple[LiveEngine, PoseLog, list[str]]:
    """An engine as the pose log in `folder` says, the log, and what differs from it where `options` (None: not given) ask.

    InputError where something differs for which nobody asked: the avatar has changed, or this machine has another runtime.
    """
    log = PoseLog.open(folder)
    said, given = log.fields, {name: value for name, value in options.items() if value is not None}
    recorded = {
        "avatar": said.folder or bundled_avatar(), "runtime": said.runtime, "precision": said.precision,
        "threads": said.threads or None, "steps": said.steps, "mode": said.mode, "seed": said.seed,
    }  # fmt: skip
    if said.mode != "bank" and given.get("mode", said.mode) == said.mode:  # a bank's graph says how many it sees
        recorded |= {"window": said.window, "overlap": said.overlap}
    settings = load_settings(**(recorded | given))
    engine = open_engine(settings, said.prepared(str(folder / FIELDS_FILE)))
    own, differs = described(engine, settings), []
    for name in DECIDING:
        mine, theirs = getattr(own, name), getattr(said, name)
        if mine == theirs:
            continue
        if given.keys().isdisjoint(ASKS[name]):
            hint = f"--{ASKS[name][0]} asks for another one" if ASKS[name] else ""
            raise InputError(str(folder / FIELDS_FILE), name, f"{_said(mine)}, as here", _said(theirs), hint)
        differs.append(f"{name} {_said(theirs)} recorded, {_said(mine)} here")
    return engine, log, differs


def _said(value: object) -> str:
    return "none" if value == "" else str(value)


def bundled_clip(folder: Path) -> tuple[Path, Path | None]:
    """The avatar's own clip and its speech, or those of the bundled avatar."""
    for place in (folder, bundled_avatar()):
        if (place / "clip.npz").is_file():
            speech = place / "clip.opus"
            return place / "clip.npz", speech if speech.is_file() else None
    raise InputError(str(folder), "clip.npz", "a clip to play", "no such file", "name one with --pose")
