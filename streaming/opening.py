"""From settings to a show: the avatar, its networks, the clip and its speech, the ports."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from engine.avatar import Avatar, bundled_avatar
from engine.body import BodyModel
from engine.clips import read_clip
from engine.errors import InputError
from engine.gear import Gear, ladder
from engine.live import LiveEngine, context_and_hop
from export.live import open_live
from streaming.audio import read_audio
from streaming.cast import Cast
from streaming.clock import MS, Clock
from streaming.governor import Budget, Governor
from streaming.live_show import LiveShow
from streaming.settings import Settings
from streaming.sources.file import Player


def open_show(settings: Settings, clock: Clock | None = None) -> LiveShow:
    """The show that `settings` ask for. InputError at once where a file is wrong; the networks load later."""
    if settings.mode == "offline":
        raise InputError("settings", "mode", "exact, causal or bank: live", "offline", "liveanchor render has it")
    folder = settings.avatar or bundled_avatar()
    governor = _governor(settings, Avatar.load(folder))
    gears = governor.ladder if governor is not None else ()
    cast = open_cast(settings, gears, folder)
    if settings.body is not None:
        BodyModel.load(settings.body)  # says at once what is wrong with it
    pose, audio = settings.pose, settings.audio
    if pose is None:
        pose, own = bundled_clip(folder)
        audio = audio or own
    clip = read_clip(pose, format=settings.format, bone_map=settings.bone_map)
    speech = read_audio(audio) if audio is not None else None

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
        clock=clock,
        another=partial(open_cast, settings, gears),
    )


def _governor(settings: Settings, avatar: Avatar) -> Governor | None:
    if not settings.govern:
        return None
    budget = Budget(round(settings.delay_budget_ms * MS), settings.fps_budget or avatar.fps)
    return Governor(budget, ladder(avatar.with_steps(settings.steps).with_mode(settings.mode)))


def open_cast(settings: Settings, gears: Iterable[Gear], folder: Path) -> Cast:
    """The avatar in `folder`, to be run as `settings` ask, in these gears. InputError where its `avatar.toml` is wrong."""
    avatar = Avatar.load(folder)

    def prepare() -> LiveEngine:
        engine = open_engine(settings.model_copy(update={"avatar": folder}), gears)
        engine.warm_up()
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


def bundled_clip(folder: Path) -> tuple[Path, Path | None]:
    """The avatar's own clip and its speech, or those of the bundled avatar."""
    for place in (folder, bundled_avatar()):
        if (place / "clip.npz").is_file():
            speech = place / "clip.opus"
            return place / "clip.npz", speech if speech.is_file() else None
    raise InputError(str(folder), "clip.npz", "a clip to play", "no such file", "name one with --pose")
