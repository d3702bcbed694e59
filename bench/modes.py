"""The modes of denoising side by side, on held-out motion: what each waits for, what it costs, how it looks.

    liveanchor bench modes runs/studio/noah

Every setting paints the same poses through the same engine. It knows nothing of how a mode works: evaluations are counted at the
networks, delays are the engine's own, and seams are looked for where windows begin and end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality.metrics import psnr
from bench.quality.parts import Part
from engine.avatar import Avatar, Mode
from engine.live import BANK_GRAPH, LiveEngine, context_and_hop
from engine.predict import PAST
from engine.stages import DenoiseStage
from engine.training.dataset import PERSON
from export.live import open_live


@dataclass(frozen=True)
class Setting:
    """One row. Causal: `overlap` past frames beside `window - overlap` new ones; a bank: `window - 1` past frames."""

    mode: Mode
    window: int
    overlap: int
    steps: int

    def open(self, avatar: Avatar, runtime: str, precision: str, threads: int | None, seed: int) -> LiveEngine:
        """InputError where the avatar has no graphs for it."""
        context, hop = context_and_hop(self.mode, self.window, self.overlap)
        engine = open_live(
            avatar, runtime, precision, threads, steps=self.steps, context=context, hop=hop, seed=seed, mode=self.mode,
            window=self.window, overlap=self.overlap,
        )  # fmt: skip
        engine.warm_up()
        return engine

    @property
    def stride(self) -> int:
        """From one window's first new frame to the next one's."""
        return self.window - self.overlap


SETTINGS = (
    *(Setting("offline", 16, 4, steps) for steps in (1, 2, 4)),
    *(Setting("exact", w, o, steps) for steps in (1, 2, 4) for w, o in ((16, 4), (8, 2), (8, 4))),
    *(Setting("causal", w, o, steps) for steps in (1, 2, 4) for w, o in ((1, 0), (2, 1), (4, 3), (4, 2))),
    *(Setting("bank", 2, 1, steps) for steps in (1, 2, 4)),
)


@dataclass(frozen=True)
class Row:
    """What was measured of a setting."""

    mode: Mode
    window: int
    overlap: int
    steps: int
    delay_frames: int | None  # None: the whole clip
    delay_ms: float | None  # of waiting for later frames alone
    paint_ms: float  # of one frame, all stages, the mean over the clip
    evaluations: float  # frames that the diffusion networks saw for each that left
    attention_mflop: (
        float  # of the UNet's self-attention, queries with keys and weights with values, for each that left
    )
    psnr: float  # dB on the person's box, the mean over frames
    flicker: float  # mean absolute change, of 255, of pixels that stand still in the truth
    change_error: float  # |(painted change) - (true change)| on the person's box, of 255
    seam: (
        float | None
    )  # change at windows' borders to change elsewhere, divided by the same of the truth; None: no borders


class Counted:
    """A predictor that counts the frames it is asked about, and those that they see."""

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self.evaluated = self.pairs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def __call__(self, latents: Any, frames: range, step: int) -> Any:
        self.evaluated += len(frames)
        self.pairs += len(frames) ** 2
        return self._predictor(latents, frames, step)

    def attend(self, latents: Any, frame: int, step: int, bank: Any, filled: int) -> Any:
        self.evaluated += 1
        self.pairs += 1 + filled
        return self._predictor.attend(latents, frame, step, bank, filled)


def measure(
    avatar: Avatar,
    parts: Sequence[Part],
    settings: Sequence[Setting] = SETTINGS,
    *,
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    tell: Callable[[int], None] = lambda frames: None,
) -> Iterator[Row]:
    """Paint the runs of `parts` in every setting; `tell` hears of finished frames. InputError where a graph is missing."""
    avatar = replace(avatar, root=replace(avatar.root, policy="free"))  # the studio put the person where they are
    layers = attention_layers(avatar, runtime, precision, threads)
    for setting in settings:
        engine = setting.open(avatar, runtime, precision, threads, seed)
        stage = next(stage for stage in engine.stages if isinstance(stage, DenoiseStage))
        counted = Counted(stage.predictor)
        stage.mode.predict = counted  # type: ignore[attr-defined]
        figures, frames, spent = Figures(setting), 0, 0.0
        for part in parts:
            for run in part.runs():
                began = time.perf_counter()
                pictures = paint(engine, part, run)
                spent += time.perf_counter() - began
                figures.take(part, run, pictures)
                frames += len(run)
                tell(len(run))
        delay = engine.delay_frames
        flop = sum(4 * tokens**2 * channels * count for tokens, channels, count in layers) * counted.pairs / frames
        yield Row(
            **asdict(setting),
            delay_frames=delay,
            delay_ms=None if delay is None else 1000 * delay / avatar.fps,
            paint_ms=1000 * spent / frames,
            evaluations=counted.evaluated / frames,
            attention_mflop=flop / 1e6,
            **figures.means(),
        )


def paint(engine: LiveEngine, part: Part, run: np.ndarray) -> list[np.ndarray]:
    """The pictures of a run, from its first frame to its last."""
    engine.reset()
    frames = (part.motion.frame(int(part.indices[at])) for at in run)
    pictures = [picture.image for frame in frames for picture in engine.feed(frame)]
    return pictures + [picture.image for picture in engine.flush()]


def attention_layers(avatar: Avatar, runtime: str, precision: str, threads: int | None) -> list[tuple[int, int, int]]:
    """(tokens of a frame, channels, layers) of the UNet's self-attention, as the graph with a bank lists them."""
    from export.runtime import load

    inputs = load(avatar.folder, [BANK_GRAPH], runtime, precision, threads)[BANK_GRAPH].inputs
    shapes = [shape for name, shape in inputs.items() if name.startswith(PAST)]
    return [(shape[-2], shape[-1], shape[0]) for shape in shapes]


class Figures:
    """Quality of pictures in a row, summed over runs."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.psnr: list[float] = []
        self.still: list[float] = []
        self.error: list[float] = []
        self.border: list[bool] = []
        self.changes: list[tuple[float, float]] = []  # painted and true

    def take(self, part: Part, run: np.ndarray, pictures: Sequence[np.ndarray]) -> None:
        """The pictures of a run of the part."""
        clip, borders = part.clip, seams(self.setting, len(run))
        for i, at in enumerate(run):
            index = part.indices[at]
            truth, size = np.asarray(clip.frames[index]), len(pictures[i])
            x0, y0, x1, y1 = np.clip(clip.boxes[index, PERSON].round(), 0, size).astype(int)
            person = np.s_[y0:y1, x0:x1]
            self.psnr.append(psnr(pictures[i][person], truth[person]))
            if i == 0:
                continue
            change = pictures[i].astype(np.int16) - pictures[i - 1]
            true_change = truth.astype(np.int16) - clip.frames[part.indices[run[i - 1]]]
            self.error.append(float(np.abs(change - true_change)[person].mean()))
            still = ~true_change.any(axis=2)
            if still.any():
                self.still.append(float(np.abs(change[still]).mean()))
            self.changes.append((float(np.abs(change[person]).mean()), float(np.abs(true_change[person]).mean())))
            self.border.append(i in borders)

    def means(self) -> dict[str, Any]:
        """The row's figures."""
        return {
            "psnr": float(np.mean(self.psnr)), "flicker": float(np.mean(self.still)),
            "change_error": float(np.mean(self.error)), "seam": self.seam(),
        }  # fmt: skip

    def seam(self) -> float | None:
        """How much more changes at borders than elsewhere, where the truth changes as much; None without borders."""
        border, changes = np.array(self.border), np.array(self.changes)
        if not border.any() or border.all():
            return None
        painted, true = changes[border].mean(0) / changes[~border].mean(0)
        return float(painted / true)


def seams(setting: Setting, frames: int) -> set[int]:
    """Frames at which a window begins to count or no longer counts: what changes there may be the windows' doing."""
    if setting.mode in ("bank",) or setting.window == 1 or (setting.mode == "causal" and setting.stride == 1):
        return set()  # every frame is alike
    starts = range(setting.stride, frames, setting.stride)
    return {f for start in starts for f in ((start,) if setting.mode == "causal" else (start, start + setting.overlap))}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, for people who choose a setting."""
    head = (
        "mode", "window", "shared", "steps", "delay, frames", "delay, ms", "painting, ms a frame", "evaluations a frame",
        "attention, MFLOP a frame", "person, dB", "flicker, of 255", "change error, of 255", "seams",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = (
            row["mode"], row["window"], row["overlap"], row["steps"],
            "the clip" if row["delay_frames"] is None else row["delay_frames"],
            "the clip" if row["delay_ms"] is None else f"{row['delay_ms']:.0f}",
            f"{row['paint_ms']:.1f}", f"{row['evaluations']:.2f}", f"{row['attention_mflop']:.1f}", f"{row['psnr']:.2f}",
            f"{row['flicker']:.3f}", f"{row['change_error']:.3f}", "-" if row["seam"] is None else f"{row['seam']:.3f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def run(folder: Path, clips: Sequence[Path], names: Sequence[str], most: int | None, **how: Any) -> dict[str, Any]:
    """Measure the avatar in `folder` on the parts `names` of the clips; what modes.json holds."""
    from bench.quality.parts import held_out
    from bench.quality.run import finite, progress
    from bench.record import record

    parts = [part for part in held_out(clips, most) if part.moves and (not names or part.name in names)]
    avatar = Avatar.load(folder)
    with progress(len(SETTINGS) * sum(map(len, parts))) as tell:
        rows = [asdict(row) for row in measure(avatar, parts, tell=tell, **how)]
    frames = {part.name: len(part) for part in parts}
    result: dict[str, Any] = finite({**record(), "avatar": avatar.name, "frames": frames, "rows": rows})
    return result
