"""An avatar's graphs loaded for the one live engine that runs them, with all that never changes known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

from engine.avatar import Avatar, Mode
from engine.body import Body
from engine.gear import Gear
from engine.given import READERS, Given
from engine.live import AGAIN, LiveEngine, needed, window_graph
from engine.network import Network
from export.cache import EngineCache
from export.runtime import WINDOW, load


class Graphs(Mapping[str, Network]):
    """Loaded graphs by name; those of other windows are loaded when they are first asked for."""

    def __init__(self, loaded: Mapping[str, Network], more: Callable[[str], Network]) -> None:
        self._loaded, self._more = dict(loaded), more

    def __getitem__(self, name: str) -> Network:
        if name not in self._loaded and (name == window_graph(1) or WINDOW.fullmatch(name)):
            self._loaded[name] = self._more(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)


def open_graphs(
    avatar: Avatar,
    names: Iterable[str],
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cache: EngineCache | None = None,
    seed: int = 0,
) -> Graphs:
    """The graphs `names` of `avatar`, those that read its pictures first: what they say never changes. InputError as from `load`."""
    how, names = (runtime, precision, threads, cache), tuple(names)
    together: dict[str, Any] = {}
    readers = load(avatar.folder, [name for name in names if name in READERS], *how, together=together)
    given = Given(avatar, readers, seed)

    def others(*names: str) -> dict[str, Network]:
        return load(avatar.folder, names, *how, given, together)

    loaded = {**readers, **others(*(name for name in names if name not in READERS))}
    return Graphs(loaded, lambda name: others(name)[name])


def open_live(
    avatar: Avatar,
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cache: EngineCache | None = None,
    *,
    steps: int | None = None,
    context: int | None = None,
    hop: int = 1,
    seed: int = 0,
    body: Body | None = None,
    again: Container[str] = AGAIN,
    mode: Mode | None = None,
    window: int | None = None,
    overlap: int | None = None,
    gears: Iterable[Gear] = (),
) -> LiveEngine:
    """A LiveEngine of `avatar` on graphs of its folder; the first five as export.runtime.load's, the others as LiveEngine's.

    InputError as theirs.
    """
    avatar, gears = avatar.with_steps(steps).with_mode(mode).with_window(window, overlap), tuple(gears)
    names = needed(avatar, context, hop, again, gears=gears)
    graphs = open_graphs(avatar, names, runtime, precision, threads, cache, seed)
    return LiveEngine(
        avatar, graphs, context=context, hop=hop, seed=seed, body=body, again=again, gears=gears,
    )  # fmt: skip
