"""All of it in one go: train the regressor, paint, judge, compare, draw; quality.json, quality.md, quality.jpg, quality.mp4."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality import report
from bench.quality.judge import Scores, Truth, flicker, judge, mean
from bench.quality.paint import Painter
from bench.quality.parts import Part, held_out
from bench.quality.regressor import RECIPE, Regressor, trained
from bench.quality.sheet import sheet, write_jpeg
from bench.quality.tables import BASE, Effect, Kept, effects, read_rows, read_why
from bench.quality.video import side_by_side, write_mp4
from bench.record import record, write_text
from engine.avatar import Mode, bundled_avatar
from engine.errors import InputError
from engine.training.loop import Recipe

WITHOUT = {"without face enhancement": "face", "without hands": "hands"}  # row: the pass that is left out
FRAME_BY_FRAME = "without temporal denoising"
# Rows of the live modes: mode and context, and the graph without which there is none.
LIVE: dict[str, tuple[Mode, int | None, str]] = {
    "live, one frame of context": ("causal", 1, "body_windows"),
    "live, bank": ("bank", None, "body_bank"),
}
WINDOWS = {"windows 8/2": (8, 2), "windows 16/4": (16, 4), "windows 32/8": (32, 8)}
VARIANTS = (*WITHOUT, FRAME_BY_FRAME, *LIVE, *WINDOWS)
STILL = 50  # pictures of a pose that is held
SHEET = 6  # frames on the contact sheet


@dataclass(frozen=True)
class Order:
    """What is to be judged, and how."""

    clips: tuple[Path, ...]
    avatar: Path = field(default_factory=bundled_avatar)
    rows: Mapping[str, Path] = field(default_factory=dict)  # avatars trained otherwise, by row
    variants: tuple[str, ...] = VARIANTS  # rows of the avatar itself
    out: Path = Path("bench/results")
    runs: Path = Path("runs/quality")
    frames: int | None = None  # of a part, at most
    seed: int = 0
    recipe: Recipe = RECIPE  # of the regressor
    runtime: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    keep: Path | None = None  # an earlier quality.json: rows that are not judged now stay as they are there

    def check(self) -> None:
        """InputError where a row or a variant is none."""
        known = read_rows()
        for name in (*self.rows, *self.variants):
            if name not in known or (name in self.rows and name in (BASE, *VARIANTS)):
                raise InputError(
                    "bench quality", "row", " | ".join(r for r in known if r not in (BASE, *VARIANTS)), name
                )

    def painter(
        self, folder: Path, context: int | None = None, mode: Mode | None = None, window: int | None = None,
        overlap: int | None = None,
    ) -> Painter:  # fmt: skip
        return Painter.load(
            folder, context, mode, window, overlap, seed=self.seed, runtime=self.runtime, precision=self.precision,
            threads=self.threads,
        )  # fmt: skip


Tell = Callable[[int], None]  # so many more pictures are painted or judged


@dataclass
class Measured:
    """Everything that was measured."""

    parts: dict[str, dict[str, Scores]] = field(default_factory=dict)  # row: part: figures by frame
    floors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # part: region: the regressor's own error
    blind: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # the same of who does not look
    painted: dict[str, np.ndarray] = field(default_factory=dict)  # part: the full row's pictures
    still: float = math.nan  # of a held pose, of 255

    def scores(self) -> dict[str, Scores]:
        """Of all parts together, by row."""
        return {row: Scores.joined(list(by_part.values())) for row, by_part in self.parts.items()}


def run(order: Order) -> dict[str, Any]:
    """Judge and write; returns what quality.json holds. InputError on bad input, before anything is written."""
    order.check()
    parts = held_out(order.clips, order.frames)
    why = read_why(order.out / "quality_why.toml", read_rows())
    kept = None if order.keep is None else Kept.read(order.keep, {BASE, *order.variants, *order.rows})
    order.out.mkdir(parents=True, exist_ok=True)
    regressor = trained(list({p.clip.folder: p.clip for p in parts}.values()), order.runs, order.seed, order.recipe)
    with progress(total(order, parts)) as tell:
        measured = measure(order, parts, regressor, tell)
    scores = measured.scores()
    found = effects(scores, read_rows())
    result = told(order, parts, measured, scores, found)
    if kept is not None:
        result["rows"] |= kept.figures
        result["effects"] |= {row: entries(by) for row, by in kept.effects.items()}
        found = {row: {**found, **kept.effects}[row] for row in read_rows() if row in found or row in kept.effects}
    chosen = [(part, i, measured.painted[part.name][i]) for part, i in picked(parts)]
    sizes = {"quality.jpg": write_jpeg(sheet(chosen), order.out / "quality.jpg")}
    if film := side_by_side([(part, measured.painted[part.name]) for part in parts]):
        sizes["quality.mp4"] = write_mp4(film, parts[0].clip.fields.fps, order.out / "quality.mp4")
    result["bytes"] = sizes
    write_text(order.out / "quality.json", json.dumps(finite(result), indent=1) + "\n")
    write_text(order.out / "quality.md", report.markdown(result, scores, found, read_rows(), why))
    return result


def measure(order: Order, parts: list[Part], regressor: Regressor, tell: Tell) -> Measured:
    """Paint and judge every row."""
    measured = Measured()
    truths = {}
    for part in parts:
        truths[part.name] = Truth.of(part, regressor)
        measured.floors[part.name] = truths[part.name].floor()
        measured.blind[part.name] = truths[part.name].blind()
        tell(len(part))

    def take(row: str, part: Part, pictures: np.ndarray) -> None:
        measured.parts.setdefault(row, {})[part.name] = judge(pictures, truths[part.name], regressor)
        tell(len(part))

    def whole(row: str, painter: Painter, of: list[Part]) -> None:
        for part in of:
            take(row, part, painter.paint(part, {BASE: frozenset()}, lambda: tell(1))[BASE])

    painter, moving = order.painter(order.avatar), [part for part in parts if part.moves]
    looks = {BASE: frozenset[str]()} | {
        row: frozenset([late]) for row, late in WITHOUT.items() if row in order.variants and late in painter.again
    }
    for part in parts:
        painted = painter.paint(part, looks, lambda: tell(1))
        for row, pictures in painted.items():
            take(row, part, pictures)
        measured.painted[part.name] = painted[BASE]
    middle = parts[0].motion.frame(int(parts[0].indices[len(parts[0]) // 2]))
    measured.still = flicker(painter.still(middle, STILL))
    if FRAME_BY_FRAME in order.variants and painter.alone:  # that is what it does anyway
        measured.parts[FRAME_BY_FRAME] = measured.parts[BASE]
    elif FRAME_BY_FRAME in order.variants:
        whole(FRAME_BY_FRAME, order.painter(order.avatar, 0, "causal"), parts)
    for row, (mode, context, graph) in LIVE.items():
        if row in order.variants and graph in painter.engine.avatar.networks:
            whole(row, order.painter(order.avatar, context, mode), moving)
    for row in (row for row in WINDOWS if row in order.variants):
        whole(row, order.painter(order.avatar, None, "offline", *WINDOWS[row]), moving)
    for row, folder in order.rows.items():
        whole(row, order.painter(folder), parts)
    return measured


def total(order: Order, parts: list[Part]) -> int:
    """How many pictures will be painted or judged: a bound, for the time that is left."""
    every, moving = sum(map(len, parts)), sum(len(p) for p in parts if p.moves)
    late = sum(row in order.variants for row in WITHOUT)
    whole = 1 + (FRAME_BY_FRAME in order.variants) + len(order.rows)
    return every * (1 + 2 * whole + late) + 2 * moving * sum(row in order.variants for row in (*WINDOWS, *LIVE))


def told(
    order: Order,
    parts: list[Part],
    measured: Measured,
    scores: Mapping[str, Scores],
    found: Mapping[str, Mapping[str, Effect]],
) -> dict[str, Any]:
    """What quality.json holds, but for the sizes of the pictures."""
    full = measured.parts[BASE]

    def figures(s: Scores) -> dict[str, float]:
        return {name: s.value(name) for name in s.names()}

    def by_part(errors: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, float]]:
        regions = next(iter(errors.values()))
        every = {region: np.concatenate([e[region] for e in errors.values()]) for region in regions}
        return {name: {r: mean(f) for r, f in e.items()} for name, e in {"all": every, **errors}.items()}

    return {
        **record(),
        "seed": order.seed,
        "clips": [folder.name for folder in order.clips],
        "avatar": order.avatar.name,
        "rows_from": {row: folder.name for row, folder in order.rows.items()},
        "frames": {part.name: len(part) for part in parts},
        "in_a_row": [part.name for part in parts if part.moves],
        "still_pose_change": measured.still,
        "floor_px": by_part(measured.floors),
        "blind_px": by_part(measured.blind),
        "parts": {"all": figures(scores[BASE]), **{name: figures(s) for name, s in full.items()}},
        "rows": {row: {"frames": len(s.frames), **figures(s)} for row, s in scores.items()},
        "effects": {row: entries(by) for row, by in found.items()},
    }  # fmt: skip


def entries(effects: Mapping[str, Effect]) -> dict[str, dict[str, Any]]:
    """Effects by figure, as quality.json holds them."""
    return {name: asdict(e) | {"verdict": e.verdict} for name, e in effects.items()}


def picked(parts: list[Part]) -> Iterator[tuple[Part, int]]:
    """SHEET frames, spread evenly over the parts and within each."""
    shares = np.array_split(np.arange(SHEET), len(parts)) if len(parts) <= SHEET else [np.arange(1)] * SHEET
    for part, share in zip(parts, shares, strict=False):
        for i in (np.arange(len(share)) + 0.5) / len(share) * len(part):
            yield part, int(i)


@contextmanager
def progress(total: int) -> Iterator[Tell]:
    """A bar with the time that is left, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("painting and judging"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def finite(value: Any) -> Any:
    """The same with None for what JSON cannot hold, and five significant digits."""
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
