"""What a runtime is to the rest: a module of export.runtimes that loads one graph at a time, as it is told here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engine.network import Network
from export.cache import EngineCache, Key
from export.golden import Golden

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
    golden: Golden | None = None  # for weights that are exchanged: what they must give


@dataclass(frozen=True)
class Options:
    """How graphs are to be run: never "auto". `threads` None: all cores.

    `cache`: engines on disc. `provider`: which of the ways that a runtime has to run them, where it has several. `together`: what
    graphs share that run one after the other, by runtime: a stream, memory. Each keeps there what it likes.
    """

    precision: str
    threads: int | None
    cache: EngineCache
    provider: str = "auto"
    together: dict[str, Any] = field(default_factory=dict)


class Runtime(Protocol):
    """A module of export.runtimes."""

    PRECISIONS: tuple[str, ...]  # what it computes in; `auto` is the first one that this machine is good at
    GRAPHS: Mapping[str, str]  # by precision, the precision of the graph that it reads; float32 where it is not there

    def load(self, source: Source, options: Options, fixed: Fixed) -> Network:
        """One graph, ready to run, its inputs `fixed` once and for all. Any exception: it cannot."""
        ...


class Builder(Runtime, Protocol):
    """One that keeps engines on disc, in `Options.cache`, and can make them before they are needed."""

    def build(self, source: Source, options: Options, tell: Callable[[float], None]) -> Key | None:
        """Make a graph's engine anew; `tell` hears how far it is, 0 to 1. None: it keeps none of this graph, or in this precision.

        Any exception: it cannot, and nothing is kept.
        """
        ...
