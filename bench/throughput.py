"""What each network of an avatar costs in each runtime and precision, on inputs of real calls; and what a frame costs by that.

    liveanchor bench throughput

All columns are measured in turn, a frame's networks in one, then in the next, so that a machine that slows down slows all alike.
It times calls: warps, masks and blending, which a picture takes too, are not in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import record
from engine.avatar import Avatar
from engine.errors import InputError
from engine.given import READERS
from engine.live import needed
from export import ladder, runtime
from export.cache import EngineCache
from export.live import Graphs, open_graphs
from export.samples import Inputs, motion, recorded, spread

CALLS, WARM_UP, STREAMS = 50, 5, 16
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timed:
    """One network in one runtime and precision."""

    name: str
    runtime: str
    precision: str
    ms: float  # median
    p95: float  # of milliseconds
    calls_per_frame: float


@dataclass(frozen=True)
class Total:
    """A runtime and precision: all networks of a frame, as often as they are called."""

    runtime: str
    precision: str
    ms: float
    load_s: float  # all graphs, the engine's way: what never changes is computed meanwhile


@dataclass(frozen=True)
class Column:
    """An avatar's graphs, loaded."""

    runtime: str
    precision: str
    graphs: Graphs
    load_s: float


def calls_per_frame(avatar: Avatar) -> dict[str, float]:
    """How often the live engine calls each graph for a frame, in the avatar's own mode, in the order of the calls.

    Graphs that read the reference pictures run when they are loaded, and are left out.
    """
    body, face, hands = avatar.denoise, avatar.face.denoise, avatar.hands.denoise
    shared = body.window - body.overlap if body.mode in ("exact", "offline") else 1
    counts: dict[str, float] = {"face": len(face.timesteps), "hand": len(hands.timesteps)}
    names = [name for name in needed(avatar) if name not in READERS]
    ours = [name for name in names if name.startswith("body")]
    counts |= {name: len(body.timesteps) / shared for name in ours}
    order = ["hint", *ours, "decoder", *sorted((n for n in names if n.startswith("hand")), key=_way)]
    order += sorted((n for n in names if n not in order), key=_way)
    return {name: float(counts.get(name, 1)) for name in order if name in names}


def _way(name: str) -> int:
    """A part's graphs, as one follows the other."""
    return next(i for i, end in enumerate(("encoder", "hint", "face", "hand", "decoder")) if name.endswith(end))


def ways(runtime_name: str | None = None, precision: str | None = None) -> Iterator[tuple[str, str]]:
    """(runtime, precision) of all that this machine can use, or of those named. InputError where there are no such."""
    infos = [info for info in ladder.describe() if info.usable]
    for name in [info.name for info in infos] if runtime_name is None else [ladder.resolved(runtime_name, "auto")[0]]:
        try:
            module, options = runtime.opened(name, precision or "auto")
        except ImportError:  # installed, but not whole
            continue
        for each in module.PRECISIONS if precision is None else [options.precision]:
            yield name, each


def opened(
    avatar: Avatar, ways: Sequence[tuple[str, str]], threads: int | None, seed: int, clock: Clock
) -> tuple[list[Column], list[str]]:
    """The columns that can be loaded, and why others cannot."""
    columns, problems = [], []
    names = (*(n for n in needed(avatar) if n in READERS), *calls_per_frame(avatar))
    for name, precision in ways:
        began = clock()
        try:
            graphs = open_graphs(avatar, names, name, precision, threads, EngineCache.of_user(), seed)
        except InputError as error:
            problems.append(f"{name} {precision}: {error}")
        else:
            columns.append(Column(name, precision, graphs, clock() - began))
    return columns, problems


def measure(
    columns: Sequence[Column],
    samples: Mapping[str, Sequence[Inputs]],
    counts: Mapping[str, float],
    calls: int = CALLS,
    clock: Clock = time.perf_counter,
    tell: Callable[[int], None] = lambda rounds: None,
) -> tuple[list[Timed], list[Total]]:
    """Call every graph of `counts` in every column `calls` times, column by column in turn, and each time with other inputs.

    `tell` hears of finished rounds.
    """
    spent: dict[tuple[str, int], list[float]] = {(name, i): [] for name in counts for i in range(len(columns))}
    for call in range(-WARM_UP, calls):
        for i, column in enumerate(columns):
            for name in counts:
                network, inputs = column.graphs[name], samples[name][call % len(samples[name])]
                given = {key: network.home.put(inputs[key]) for key in network.inputs}
                began = clock()
                said = network(**given)
                network.home.host(next(iter(said.values())))  # a GPU has only begun
                if call >= 0:
                    spent[name, i].append(1000 * (clock() - began))
        tell(1)
    timed = [
        Timed(name, c.runtime, c.precision, float(np.median(spent[name, i])), float(np.quantile(spent[name, i], 0.95)), counts[name])
        for i, c in enumerate(columns) for name in counts
    ]  # fmt: skip
    return timed, [Total(c.runtime, c.precision, _total(timed, c), c.load_s) for c in columns]


def _total(timed: Sequence[Timed], column: Column) -> float:
    own = (row for row in timed if (row.runtime, row.precision) == (column.runtime, column.precision))
    return sum(row.ms * row.calls_per_frame for row in own)


def run(
    folder: Path,
    runtime_name: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    calls: int = CALLS,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Measure the avatar in `folder`; what the JSON file holds.

    InputError where nothing can run its graphs, or not what is asked for.
    """
    avatar = Avatar.load(folder)
    asked = list(ways(runtime_name, precision))
    columns, problems = opened(avatar, asked, threads, seed, clock)
    if not columns:
        raise InputError("bench throughput", "runtime", "one that runs the graphs", "; ".join(problems) or "none")
    clip, counts = motion(avatar, seed), calls_per_frame(avatar)
    first = columns[0]
    samples = recorded(avatar, spread(clip, STREAMS), counts, seed, first.runtime, first.precision, threads)
    timed, totals = measure(columns, samples, counts, calls, clock)
    return {
        **record(), "avatar": avatar.name, "motion": Path(clip.source).name, "seed": seed, "threads": threads, "calls": calls,
        "networks": [asdict(row) for row in timed], "totals": [asdict(row) for row in totals], "left_out": problems,
    }  # fmt: skip


def markdown(result: Mapping[str, Any]) -> str:
    """The table: rows networks, columns runtimes and precisions, in milliseconds."""
    columns = [(total["runtime"], total["precision"]) for total in result["totals"]]
    rows: dict[str, list[str]] = {}
    for row in result["networks"]:
        rows.setdefault(f"{row['name']} | {row['calls_per_frame']:g}", []).append(f"{row['ms']:.2f}")
    rows["**a frame** | "] = [f"**{total['ms']:.1f}**" for total in result["totals"]]
    rows["loading, s | "] = [f"{total['load_s']:.1f}" for total in result["totals"]]
    head = ["network, median ms", "calls a frame", *(f"{name} {precision}" for name, precision in columns)]
    lines = [f"| {' | '.join(head)} |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    lines += [f"| {' | '.join([row, *cells])} |" for row, cells in rows.items()]
    return "\n".join([*lines, *(f"\nleft out: {problem}" for problem in result["left_out"])]) + "\n"
