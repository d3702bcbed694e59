"""Export an avatar: every network of its folder as an ONNX graph in that folder, and the list of them.

export_avatar(Path("engine/avatars/anchor"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine import toml
from engine.avatar import FILE, Avatar
from engine.networks import folder as stored
from export.golden import Golden
from export.graphs import Graph, arrays, graphs
from export.manifest import Exported, Manifest, list_of
from export.tracing import Traced, trace, write


def export_avatar(
    folder: Path, progress: Callable[[Traced, Path], None] | None = None, precision: str = "f32"
) -> Avatar:
    """Write every graph, the list of them, and the graphs' names into avatar.toml; returns the avatar.

    Half an export is never taken for a whole one: the list is written last, and an older one is gone before the first. Graphs of
    another precision than float32 lie beside those, and avatar.toml stays as it is.
    InputError where the folder is no avatar's, or its networks are not whole.
    """
    folder = Path(folder)
    avatar = replace(toml.read(folder / FILE, Avatar), folder=folder)  # its graphs need not be there yet
    networks = stored.load(folder)
    where = stored.places(networks)
    (folder / list_of(precision)).unlink(missing_ok=True)
    exported = {}
    for graph in graphs(avatar, networks):
        traced = trace(graph, where, folder, precision)
        file = write(traced, folder, precision)
        exported[graph.name] = Exported(traced.weights, graph.batch, golden(graph))
        if progress is not None:
            progress(traced, file)
    if precision == "f32":
        avatar = replace(avatar, networks={name: f"{name}.onnx" for name in exported})
        avatar.write(folder)
    Manifest.of(folder, exported, precision).write(folder)
    return Avatar.load(folder) if precision == "f32" else avatar


def golden(graph: Graph) -> Golden:
    """What torch gives for a graph, at the size that it runs in live."""
    return Golden.of(arrays(graph.of(graph.batch or graph.frames)), graph.computed)
