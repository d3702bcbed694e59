"""`load` an avatar's graphs as Networks in one of the runtimes of export.ladder.

It knows which files belong to a graph, not what the graphs compute. Runtimes are imported only when they are asked for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from engine.errors import InputError
from engine.network import Network
from export import ladder
from export.cache import EngineCache, Key
from export.manifest import Manifest
from export.seam import Builder, Fixed, Options, Runtime, Shapes, Source

WINDOW = re.compile(r"(\w+)_w([1-9]\d*)")  # a graph for windows of so many frames, or for so many crops


def load(
    avatar_dir: Path,
    names: Iterable[str],
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cache: EngineCache | None = None,
    fixed: Callable[[str, Shapes], Mapping[str, np.ndarray]] = lambda graph, shapes: {},
    together: dict[str, Any] | None = None,
) -> dict[str, Network]:
    """The graphs `names` of the avatar in `avatar_dir`, checked to be what was exported, by name.

    `fixed`: which inputs of a graph of that name and those inputs never change, and what they are (engine.given.Given). The
    network then no longer takes them, and computes what depends on nothing else when it is loaded. `body_w16` is `body_windows`
    for windows of 16 frames, `face_w3` is `face` for three crops at once. `cache` None: the user's. `together`: see Options; one
    that is given to several calls, for graphs that run one after the other.

    InputError for an unknown or missing runtime, a precision that it lacks, and files that are missing, truncated or others.
    """
    module, options = opened(runtime, precision, threads, cache, together)
    names = tuple(names)
    found = sources(Path(avatar_dir), names, module, options.precision)
    return {name: loaded(module, found[name], options, partial(fixed, name)) for name in names}


def opened(
    runtime: str,
    precision: str = "auto",
    threads: int | None = None,
    cache: EngineCache | None = None,
    together: dict[str, Any] | None = None,
) -> tuple[Runtime, Options]:
    """The module of that runtime, and how it is to run graphs; "onnxruntime:cuda" names its provider, too. InputError as from `load`."""
    said, resolved = ladder.resolved(runtime, precision)
    name, _, provider = said.partition(":")
    ladder.installed(ladder.choose(name))
    module = cast(Runtime, importlib.import_module(f"export.runtimes.{name.replace('-', '_')}"))
    if resolved not in module.PRECISIONS:
        raise InputError("runtime", "precision", " | ".join(("auto", *module.PRECISIONS)), precision)
    shared = {} if together is None else together
    return module, Options(resolved, threads, cache or EngineCache.of_user(), provider or "auto", shared)


def sources(folder: Path, names: Iterable[str], module: Runtime, precision: str) -> dict[str, Source]:
    """Where the graphs `names` lie that `module` reads for `precision`, checked. InputError where one is not as exported."""
    stored = module.GRAPHS.get(precision, "f32")
    manifest = Manifest.load(folder, stored)
    wanted = {name: _graph(name, manifest) for name in names}
    manifest.check(folder, {graph for graph, _ in wanted.values()})
    return {
        name: Source(
            folder, graph, manifest.file(folder, graph), *manifest.digests(graph), batch, manifest.graphs[graph].golden
        )
        for name, (graph, batch) in wanted.items()
    }


def loaded(module: Runtime, source: Source, options: Options, fixed: Fixed) -> Network:
    """One graph, ready to run. InputError where the runtime cannot."""
    with _refused(module, source, "runs"):
        return module.load(source, options, fixed)


def built_by(module: Runtime, source: Source, options: Options, tell: Callable[[float], None]) -> Key | None:
    """Make one graph's engine anew; None where the runtime keeps none of it. InputError where it cannot."""
    if not hasattr(module, "build"):
        return None
    with _refused(module, source, "compiles"):
        return cast(Builder, module).build(source, options, tell)


@contextmanager
def _refused(module: Runtime, source: Source, does: str) -> Iterator[None]:
    try:
        yield
    except InputError:  # of a file, or of an engine
        raise
    except Exception as error:  # the runtimes' own, of many kinds
        line = " ".join(str(error).split())[:200]
        name = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
        raise InputError(str(source.file), "graph", f"one that {name} {does}", line) from error


def _graph(name: str, manifest: Manifest) -> tuple[str, int]:
    """The graph's own name, and what its open dimension counts."""
    match = WINDOW.fullmatch(name)
    if match is None or name in manifest.graphs:
        entry = manifest.graphs.get(name)
        return name, (entry.batch or 1) if entry is not None else 1
    windows = f"{match[1]}_windows"
    return windows if windows in manifest.graphs else match[1], int(match[2])
