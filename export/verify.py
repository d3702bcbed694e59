"""Engines against torch: every graph, on random and on real inputs, for as many frames or crops as live and for more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.avatar import Avatar
from engine.network import Network, hosted
from engine.networks import folder as stored
from export import ladder, runtime
from export.cache import EngineCache
from export.graphs import Graph, arrays, graphs
from export.samples import Inputs, motion, recorded, spread

# Relative to the norm of what torch says; one level of a picture of bytes is 0.002 of it.
# In int8 twice what the worst output of the bundled avatar differs by, hints of hands (bench/NOTES.md).
TOLERANCE = {"f32": 1e-4, "bf16": 2e-2, "f16": 2e-2, "int8": 1e-1}
PICTURE = "image"  # an output of bytes
OTHER = 3  # frames or crops at once, beside the number that is live

STREAMS = 2  # places of the avatar's clip that real inputs are taken from


@dataclass(frozen=True)
class Comparison:
    """One output of one graph."""

    graph: str
    output: str
    runtime: str
    precision: str
    inputs: str  # "random" or "real"
    batch: int  # frames or crops
    largest: float  # difference
    mean: float
    relative: float  # norm of the difference to norm of torch's

    @property
    def good(self) -> bool:
        """Within the tolerance of its precision, or bytes of which hardly one in a thousand is rounded the other way."""
        allowed = TOLERANCE[self.precision]
        return self.relative <= allowed or (self.output == PICTURE and self.largest <= 1 and self.mean <= 10 * allowed)

    def __str__(self) -> str:
        said = f"largest {self.largest:.2g}, mean {self.mean:.2g}, relative {self.relative:.2g}"
        verdict = "" if self.good else f"  MORE THAN {TOLERANCE[self.precision]:g}"
        how = f"{self.runtime:12} {self.precision:4} {self.inputs:6} x{self.batch}"
        return f"{self.graph:16} {self.output:12} {how} {said}{verdict}"


def verify(
    folder: Path,
    names: Iterable[str] | None = None,
    ways: Iterable[tuple[str, str]] | None = None,
    threads: int | None = None,
    seed: int = 1,
    real: Mapping[str, list[Inputs]] | None = None,
    cache: EngineCache | None = None,
) -> Iterator[Comparison]:
    """Compare the graphs `names` (all) of the exported avatar in `folder`, in the `ways` (runtime, precision) given.

    Without `ways`: whatever can run here, in float32, and in what `auto` computes in. `real`: inputs of each graph as
    export.samples records them; without them inputs are random alone, and nothing is compared in int8.
    """
    avatar = Avatar.load(folder)
    wanted = set(avatar.networks) if names is None else set(names)
    ways = tuple(usable() if ways is None else ways)
    for graph in graphs(avatar, stored.load(folder), seed):
        if graph.name not in wanted:
            continue
        for batch in batches(graph):
            networks = {(name, p): loaded(folder, graph, batch, name, p, threads, cache) for name, p in ways}
            for kind, inputs in trials(graph, batch, real or {}):
                truth = graph.computed(inputs)
                for (name, precision), network in networks.items():
                    if precision == "int8" and kind == "random":  # it was calibrated on what comes
                        continue
                    for output, got in hosted(network, **inputs).items():
                        yield compared(truth[output], got, (graph.name, output, name, precision, kind, batch))


def real_inputs(avatar: Avatar, threads: int | None = None) -> dict[str, list[Inputs]]:
    """What each graph of an exported avatar is told while a few frames of its clip are painted."""
    windows = "body_windows"
    names = {name: f"body_w{OTHER}" if name == windows else name for name in avatar.networks}
    told = recorded(avatar, spread(motion(avatar), STREAMS, OTHER), names.values(), threads=threads)
    return {name: told[called] for name, called in names.items()}


def loaded(
    folder: Path, graph: Graph, batch: int, name: str, precision: str, threads: int | None, cache: EngineCache | None
) -> Network:
    """The engine of a graph for `batch` frames or crops, in the runtime `name`."""
    called = f"{graph.name.removesuffix('_windows')}_w{batch}" if graph.open else graph.name
    return runtime.load(folder, [called], name, precision, threads, cache)[called]


def batches(graph: Graph) -> tuple[int, ...]:
    """How many frames or crops a graph is compared for: the number that is live, and another where it is open."""
    live = graph.batch or (2 if graph.open else graph.frames)
    return (live, OTHER) if graph.open else (live,)


def trials(graph: Graph, batch: int, real: Mapping[str, list[Inputs]]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Random inputs, and real ones where there are some."""
    yield "random", arrays(graph.of(batch))
    if calls := real.get(graph.name, []):
        yield "real", joined(graph, batch, calls)


def joined(graph: Graph, batch: int, calls: list[Inputs]) -> dict[str, np.ndarray]:
    """Inputs of `batch` frames or crops, from several calls of one graph, which may each be of fewer."""
    newest = calls[-1]
    if not graph.open:
        return {name: newest[name] for name in graph.inputs}
    inputs = {}
    for name in graph.inputs:
        if name not in graph.open:
            inputs[name] = newest[name]
            continue
        each = len(graph.inputs[name]) // graph.frames  # of one frame or crop: as many as there are branches
        frames = [call[name].reshape(each, -1, *call[name].shape[1:]) for call in calls]
        several = np.concatenate(frames, axis=1)
        at = [i % several.shape[1] for i in range(batch)]
        inputs[name] = several[:, at].reshape(each * batch, *several.shape[2:])
    return inputs


def compared(want: np.ndarray, got: np.ndarray, about: tuple[str, str, str, str, str, int]) -> Comparison:
    """One output against the truth; `about`: the fields of a Comparison that come before its figures."""
    truth = want.astype(np.float64)
    difference = got.astype(np.float64) - truth
    relative = float(np.linalg.norm(difference) / max(float(np.linalg.norm(truth)), 1e-12))
    return Comparison(*about, float(np.abs(difference).max()), float(np.abs(difference).mean()), relative)


def reading(stored: str) -> Iterator[tuple[str, str]]:
    """(runtime, precision) of all that can run here and read graphs that are stored in that precision."""
    for name, precision in usable() if stored == "f32" else [(name, stored) for name, _ in usable()]:
        module, _ = runtime.opened(name)
        if module.GRAPHS.get(precision, "f32") == stored and precision in module.PRECISIONS:
            yield name, precision


def usable() -> Iterator[tuple[str, str]]:
    """(runtime, precision) of all that can run here, but for torch itself."""
    for info in ladder.describe():
        if info.usable and info.name != "torch":
            yield info.name, "f32"
            if info.precision != "f32":
                yield info.name, info.precision
