"""An avatar's graphs loaded for the one live engine that runs them, with all that never changes known beforehand."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

from engine.avatar import Avatar, Mode
from engine.body import Body
from engine.gear import Gear
from engine.given import READERS, Given
from engine.live import AGAIN, LiveEngine, needed
from export.runtime import load


def open_live(
    avatar: Avatar,
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    *,
    steps: int | None = None,
    context: int | None = None,
    hop: int = 1,
    seed: int = 0,
    body: Body | None = None,
    again: Container[str] = AGAIN,
    mode: Mode | None = None,
    gears: Iterable[Gear] = (),
) -> LiveEngine:
    """A LiveEngine of `avatar` on graphs of its folder; the first five as export.runtime.load's, the others as LiveEngine's.

    InputError as theirs.
    """
    avatar, gears = avatar.with_steps(steps).with_mode(mode), tuple(gears)
    names = needed(avatar, context, hop, again, gears=gears)
    how = runtime, precision, threads, cache
    readers = load(avatar.folder, [name for name in names if name in READERS], *how)
    given = Given(avatar, readers, seed)
    others = load(avatar.folder, [name for name in names if name not in READERS], *how, fixed=given)
    return LiveEngine(
        avatar, {**readers, **others}, context=context, hop=hop, seed=seed, body=body, again=again, gears=gears
    )
