"""Every graph in every runtime against torch, on the same random inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.avatar import Avatar
from engine.networks import folder as stored
from export import ladder, runtime
from export.graphs import graphs

# Relative to the norm of what torch says; one level of a picture of bytes is 0.002 of it.
TOLERANCE = {"f32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class Comparison:
    """One output of one graph."""

    graph: str
    output: str
    runtime: str
    precision: str
    largest: float  # difference
    mean: float
    relative: float  # norm of the difference to norm of torch's

    @property
    def good(self) -> bool:
        """Within the tolerance of its precision."""
        return self.relative <= TOLERANCE[self.precision]

    def __str__(self) -> str:
        said = f"largest {self.largest:.2g}, mean {self.mean:.2g}, relative {self.relative:.2g}"
        verdict = "" if self.good else f"  MORE THAN {TOLERANCE[self.precision]:g}"
        return f"{self.graph:16} {self.output:10} {self.runtime:11} {self.precision:4} {said}{verdict}"


def verify(
    folder: Path,
    names: Iterable[str] | None = None,
    ways: Iterable[tuple[str, str]] | None = None,
    threads: int | None = None,
    seed: int = 1,
) -> Iterator[Comparison]:
    """Compare the graphs `names` (all) of the exported avatar in `folder`, in the `ways` (runtime, precision) given.

    Without `ways`: whatever is installed, in float32, and in what `auto` computes in.
    """
    avatar = Avatar.load(folder)
    wanted = set(avatar.networks) if names is None else set(names)
    ways = tuple(installed() if ways is None else ways)
    for graph in graphs(avatar, stored.load(folder), seed):
        if graph.name not in wanted:
            continue
        with torch.no_grad():
            said = graph.module.eval()(*graph.inputs.values())
        truth = dict(zip(graph.outputs, said if isinstance(said, tuple) else (said,), strict=True))
        inputs = {name: tensor.numpy() for name, tensor in graph.inputs.items()}
        for name, precision in ways:
            loaded = f"body_w{graph.frames}" if graph.open else graph.name
            network = runtime.load(folder, [loaded], name, precision, threads)[loaded]
            for output, got in network(**inputs).items():
                want = truth[output].numpy().astype(np.float64)
                difference = got.astype(np.float64) - want
                relative = float(np.linalg.norm(difference) / max(float(np.linalg.norm(want)), 1e-12))
                largest, mean = float(np.abs(difference).max()), float(np.abs(difference).mean())
                yield Comparison(graph.name, output, name, precision, largest, mean, relative)


def installed() -> Iterator[tuple[str, str]]:
    """(runtime, precision) of all that can run here."""
    for info in ladder.describe():
        if info.usable and info.name != "torch":
            yield info.name, "f32"
            if info.precision != "f32":
                yield info.name, info.precision
