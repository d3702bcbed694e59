"""What a runtime is to the rest: a module of export.runtimes that loads one graph at a time, as it is told here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from engine.network import Network
from export.cache import EngineCache

Precision = Literal["auto", "f32", "f16", "bf16", "int8"]
Shapes = Mapping[str, tuple[int, ...]]
Fixed = Callable[[Shapes], Mapping[str, np.ndarray]]  # of a graph's inputs, those that never change


@dataclass(frozen=True)
class Source:
    """One exported graph of an avatar, its files checked to be what was exported."""

    folder: Path  # the avatar's
    graph: str  # its own name, "body_windows"
    file: Path  # the ONNX file, of the precision that is asked for where the runtime has no other way to it
    digest: str  # of that file and of all weights that it refers to
    structure: str  # of that file alone: equal for finetuned avatars of one configuration
    batch: int = 1  # what its open dimension counts: frames of a window, crops


@dataclass(frozen=True)
class Options:
    """How graphs are to be run. `threads` None: all cores. `cache`: engines on disc, None for none.

    `together`: what graphs share that run one after the other, by runtime: a stream, memory. Each keeps there what it likes.
    """

    precision: Precision = "auto"
    threads: int | None = None
    cache: EngineCache | None = None
    together: dict[str, Any] = field(default_factory=dict)


class Runtime(Protocol):
    """A module of export.runtimes."""

    PRECISIONS: tuple[str, ...]  # what it computes in; `auto` is the first one that this machine is good at
    GRAPHS: Mapping[str, str]  # by precision, the precision of the graph that it reads; float32 where it is not there

    def load(self, source: Source, options: Options, fixed: Fixed) -> Network:
        """One graph, ready to run, its inputs `fixed` once and for all. Any exception: it cannot."""
        ...
