"""An avatar made ready for one runtime: graphs of the precision that it reads, then an engine of each, then all of them compared.

    for built in build(folder, "tensorrt", "f16", cache, ["body", "decoder"]):
        print(built)

Where a runtime keeps no engines it loads each graph once, so that what it cannot run is found now and not on air.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engine.errors import InputError
from export.cache import EngineCache, Key
from export.manifest import Manifest
from export.runtime import built_by, loaded, opened, sources
from export.samples import Inputs
from export.verify import Comparison, verify


@dataclass(frozen=True)
class Built:
    """One graph, ready in one runtime."""

    graph: str
    runtime: str
    precision: str
    seconds: float
    key: Key | None  # None: this runtime keeps no engines
    bytes: int  # of the engine

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:7.1f} MB" if self.key is not None else "  no file"
        return f"{self.graph:16} {self.runtime:12} {self.precision:4} {size} {self.seconds:6.1f} s"


def graphs_for(folder: Path, runtime: str, precision: str) -> tuple[str, tuple[str, ...]]:
    """The precision of the graphs that a runtime reads for `precision`, and their names; no names where one is not as exported."""
    module, options = opened(runtime, precision)
    stored = module.GRAPHS.get(options.precision, "f32")
    try:
        manifest = Manifest.load(folder, stored)
        manifest.check(folder, manifest.graphs)
    except InputError:
        return stored, ()
    return stored, tuple(manifest.graphs)


def build(
    folder: Path,
    runtime: str,
    precision: str,
    cache: EngineCache,
    names: Iterable[str],
    threads: int | None = None,
    tell: Callable[[str, float], None] = lambda graph, done: None,
) -> Iterator[Built]:
    """Every graph `names` of the avatar in `folder`, at the size that it has live; `tell` hears how far each one is.

    InputError where the runtime cannot: engines that were built before stay.
    """
    module, options = opened(runtime, precision, threads, cache)
    for name, source in sources(folder, names, module, options.precision).items():
        tell(name, 0.0)
        start = time.monotonic()
        key = built_by(module, source, options, partial(tell, name))
        if key is None:
            loaded(module, source, options, lambda shapes: {})
        seconds = time.monotonic() - start
        yield Built(name, runtime, options.precision, seconds, key, cache.size(key) if key is not None else 0)


def verified(
    folder: Path,
    ways: Sequence[tuple[str, str]],
    cache: EngineCache,
    built: Iterable[Built],
    real: Mapping[str, list[Inputs]],
    threads: int | None = None,
) -> Iterator[Comparison]:
    """Compare every graph with torch in the `ways` given. One that differs by more than its precision allows loses its engine."""
    keys = {one.graph: one.key for one in built if one.key is not None}
    for row in verify(folder, None, ways, threads, real=real, cache=cache):
        if not row.good and row.graph in keys:
            for key in tuple(cache.keys()):  # those for other numbers of frames, too, which were made to compare
                if replace(key, profile="") == replace(keys[row.graph], profile=""):
                    cache.drop(key)
        yield row
