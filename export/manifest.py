"""graphs.json beside an avatar's graphs: what was exported, and the files that it refers to, so that only whole and matching ones run.

Graphs of another precision than float32 have a list of their own, graphs.f16.json, and files of their own, body.f16.onnx.
Standard library only: serving reads it. A graph refers to its weights by offset, so other weights of the same name are not
its weights until it is exported again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError
from export.golden import Golden

FILE = "graphs.json"
AGAIN = "run the export again"


def list_of(precision: str) -> str:
    """The name of the list of graphs of a precision."""
    return FILE if precision == "f32" else f"graphs.{precision}.json"


def file_of(graph: str, precision: str) -> str:
    """The name of a graph's file."""
    return f"{graph}.onnx" if precision == "f32" else f"{graph}.{precision}.onnx"


@dataclass(frozen=True)
class Stamp:
    """A file's size and SHA-256."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> Stamp:
        with file.open("rb") as stream:  # full-size weights are larger than what should be held
            return cls(file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


@dataclass(frozen=True)
class Entry:
    """One exported graph: its own stamp, the weights that it refers to, and what it is run for, where that is open."""

    graph: Stamp
    weights: tuple[str, ...]
    batch: int | None = None  # what its open dimension is live: crops; None: it has none, or any (windows)
    golden: Golden | None = None

    @classmethod
    def read(cls, table: dict[str, Any]) -> Entry:
        """Of plain values. KeyError, TypeError, ValueError where they are others."""
        golden = Golden.read(table["golden"]) if table.get("golden") else None
        return cls(Stamp(**table["graph"]), tuple(table["weights"]), table.get("batch"), golden)


@dataclass(frozen=True)
class Exported:
    """What is to be listed of a graph beside its file."""

    weights: tuple[str, ...]
    batch: int | None
    golden: Golden


@dataclass(frozen=True)
class Manifest:
    """All graphs of an avatar by name, and the stamps of their weights by file."""

    graphs: dict[str, Entry]
    weights: dict[str, Stamp]
    precision: str = "f32"

    @classmethod
    def of(cls, folder: Path, exported: dict[str, Exported], precision: str = "f32") -> Manifest:
        """The files as they are, by graph."""
        graphs = {
            name: Entry(Stamp.of(folder / file_of(name, precision)), said.weights, said.batch, said.golden)
            for name, said in exported.items()
        }
        files = sorted({file for entry in graphs.values() for file in entry.weights})
        return cls(graphs, {file: Stamp.of(folder / file) for file in files}, precision)

    @classmethod
    def load(cls, folder: Path, precision: str = "f32") -> Manifest:
        """InputError where it is missing or no manifest."""
        path = folder / list_of(precision)
        again = AGAIN if precision == "f32" else f"{AGAIN} with --precision {precision}"
        try:
            table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            graphs = {name: Entry.read(entry) for name, entry in table["graphs"].items()}
            return cls(graphs, {name: Stamp(**stamp) for name, stamp in table["weights"].items()}, precision)
        except FileNotFoundError:
            raise InputError(str(path), "file", "the list of exported graphs", "no such file", again) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(str(path), "file", "the list of exported graphs", repr(error)[:120], again) from None

    def write(self, folder: Path) -> None:
        """At once or not at all."""
        name = list_of(self.precision)
        half = folder / f".{name}.part"
        half.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(half, folder / name)

    def file(self, folder: Path, graph: str) -> Path:
        """Where a graph lies."""
        return folder / file_of(graph, self.precision)

    def digests(self, graph: str) -> tuple[str, str]:
        """SHA-256 of a graph with all its weights, and of the graph alone."""
        entry = self.graphs[graph]
        both = [entry.graph.sha256, *(self.weights[file].sha256 for file in entry.weights)]
        return hashlib.sha256("".join(both).encode()).hexdigest(), entry.graph.sha256

    def check(self, folder: Path, names: Iterable[str]) -> None:
        """InputError unless the graphs `names` and every file that they refer to are those that were exported."""
        for name in names:
            if name not in self.graphs:
                raise InputError(
                    str(folder / list_of(self.precision)),
                    name,
                    f"one of {', '.join(self.graphs)}",
                    "no such graph",
                    AGAIN,
                )
            _same(self.file(folder, name), self.graphs[name].graph)
        for file in sorted({file for name in names for file in self.graphs[name].weights}):
            _same(folder / file, self.weights[file])


def _same(file: Path, stamp: Stamp) -> None:
    try:
        found = Stamp.of(file)
    except OSError as error:
        raise InputError(str(file), "file", "a file of the exported graphs", error.strerror or str(error)) from None
    if found.bytes != stamp.bytes:
        raise InputError(str(file), "size", f"{stamp.bytes} bytes, as exported", f"{found.bytes} bytes", AGAIN)
    if found.sha256 != stamp.sha256:
        raise InputError(str(file), "content", "what was exported", "another file of the same size", AGAIN)
