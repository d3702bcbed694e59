"""The seam to whatever executes graphs: `load` an avatar's graphs as Networks, `describe` the runtimes of this machine.

It knows which runtimes there are and which is the fastest here, not what the graphs compute. Runtimes are imported only when
they are asked for; none of them needs torch, onnx or safetensors.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np

from engine.errors import InputError
from engine.network import Network
from export import cpu
from export.manifest import Manifest

WINDOW = re.compile(r"(\w+)_w([1-9]\d*)")  # a graph for windows of so many frames
Precision = Literal["auto", "f32", "bf16"]
Shapes = Mapping[str, tuple[int, ...]]
Fixed = Callable[[Shapes], Mapping[str, np.ndarray]]  # of a graph's inputs, those that never change


@dataclass(frozen=True)
class Options:
    """How graphs are to be run. `threads` None: all cores. `cache`: a folder for compiled graphs, None for none.

    `frames`: of a window, where a graph leaves that open.
    """

    precision: Precision = "auto"
    threads: int | None = None
    cache: Path | None = None
    frames: int = 1


class Runtime(Protocol):
    """A module of export.runtimes."""

    PRECISIONS: tuple[str, ...]

    def load(self, path: Path, options: Options, fixed: Fixed) -> Network:
        """One graph, ready to run, its inputs `fixed` once and for all. Any exception: it cannot."""
        ...


@dataclass(frozen=True)
class RuntimeInfo:
    """A runtime on this machine. `version` None: not installed. `chosen`: what `auto` takes, and `reason` says why."""

    name: str
    version: str | None
    precision: str  # what `auto` computes in
    features: tuple[str, ...]  # of the processor, where they matter
    chosen: bool
    reason: str


@dataclass(frozen=True)
class _Known:
    name: str
    package: str
    extra: str
    why: str


# The fastest first, as measured on CPUs.
LADDER = (
    _Known("openvino", "openvino", "cpu", "the fastest on CPUs"),
    _Known("onnxruntime", "onnxruntime", "onnxruntime", "runs wherever ONNX does"),
)


def load(
    avatar_dir: Path,
    names: Iterable[str],
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    fixed: Callable[[str, Shapes], Mapping[str, np.ndarray]] = lambda graph, shapes: {},
) -> dict[str, Network]:
    """The graphs `names` of the avatar in `avatar_dir`, checked to be what was exported, by name.

    `fixed`: which inputs of a graph of that name and those inputs never change, and what they are (engine.given.Given). The
    network then no longer takes them, and computes what depends on nothing else when it is loaded. `body_w16` is `body_windows`
    for windows of 16 frames.

    InputError for an unknown or missing runtime, a precision that it lacks, and files that are missing, truncated or others.
    """
    names = tuple(names)
    folder = Path(avatar_dir)
    known = _choose(runtime)
    if importlib.util.find_spec(known.package) is None:
        raise InputError(
            "runtime", known.name, "an installed package", "none", f"pip install 'liveanchor[{known.extra}]'"
        )
    module = cast(Runtime, importlib.import_module(f"export.runtimes.{known.name}"))
    if precision != "auto" and precision not in module.PRECISIONS:
        raise InputError("runtime", "precision", " | ".join(("auto", *module.PRECISIONS)), precision)
    manifest = Manifest.load(folder)
    files = {name: _file(name, manifest) for name in names}
    manifest.check(folder, {file for file, _ in files.values()})
    networks = {}
    for name, (file, frames) in files.items():
        path = folder / f"{file}.onnx"
        options = Options(cast(Precision, precision), threads, cache, frames)
        try:
            networks[name] = module.load(path, options, partial(fixed, name))
        except InputError:  # of a file that `fixed` reads
            raise
        except Exception as error:  # the runtimes' own, of many kinds
            line = " ".join(str(error).split())[:200]
            raise InputError(str(path), "graph", f"one that {known.name} runs", line) from error
    return networks


def _file(name: str, manifest: Manifest) -> tuple[str, int]:
    """The graph's own name, and the frames of its windows."""
    match = WINDOW.fullmatch(name)
    if match is None or name in manifest.graphs:
        return name, 1
    return f"{match[1]}_windows", int(match[2])


def describe() -> list[RuntimeInfo]:
    """Every runtime that LiveAnchor knows, the fastest first."""
    infos: list[RuntimeInfo] = []
    for known in LADDER:
        version = _version(known.package)
        first = version is not None and not any(info.chosen for info in infos)
        why = known.why if version else f"not installed: pip install 'liveanchor[{known.extra}]'"
        if version and not first:
            why = f"{why}; {next(info.name for info in infos if info.chosen)} is faster"
        precision = "bf16" if known.name == "openvino" and cpu.has_bf16() else "f32"
        infos.append(RuntimeInfo(known.name, version, precision, cpu.features(), first, why))
    return infos


def resolved(runtime: str, precision: str) -> tuple[str, str]:
    """What `load` takes here for that runtime and precision, either of which may be "auto". InputError as from `load`."""
    name = _choose(runtime).name
    auto = next(info.precision for info in describe() if info.name == name)
    return name, auto if precision == "auto" else precision


def _choose(runtime: str) -> _Known:
    for known in LADDER:
        if known.name == runtime or (runtime == "auto" and _version(known.package)):
            return known
    if runtime == "auto":
        raise InputError("runtime", "auto", "openvino or onnxruntime", "neither", "pip install 'liveanchor[cpu]'")
    raise InputError("runtime", "name", " | ".join(["auto", *(known.name for known in LADDER)]), runtime)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
