"""What a run tells of itself: a progress bar, RUNS/<stage>/log.jsonl, validation.png, and all of it in TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from engine.errors import InputError
from engine.training.checkpoint import State

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG, PICTURE, TENSORBOARD = "log.jsonl", "validation.png", "tensorboard"


class Journal:
    """The journal of one run in `folder`. InputError where its disc is full.

    with Journal(Path("runs/face"), "face") as journal:
        journal.learnt(state, 0.5, {"pixels": 0.2})
    """

    def __init__(self, folder: Path, name: str, show: bool = True, step: int = 0) -> None:
        self.folder, self.name, self.begins = folder, name, step
        self.bar = Progress(
            TextColumn(name), BarColumn(), TextColumn("step {task.fields[step]} loss {task.fields[loss]:.4f}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=Console(stderr=True), disable=not show,
        )  # fmt: skip
        self.task = self.bar.add_task(name, total=1.0, step=0, loss=float("nan"))

    @cached_property
    def board(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # a second to import: only where something is trained

        # What a killed run said of steps that come again does not count.
        return SummaryWriter(str(self.folder / TENSORBOARD), purge_step=self.begins + 1, flush_secs=30)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Journal:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()
        if "board" in vars(self):
            with suppress(OSError):  # a full disc has been told
                self.board.close()  # type: ignore[no-untyped-call]

    def moved(self, state: State, progress: float) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=progress, step=state.step, loss=_mean(state.history))

    def learnt(self, state: State, progress: float, figures: Mapping[str, float]) -> None:
        """Log the losses of a step."""
        loss = _mean(state.history)
        self._log(state, {"progress": round(progress, 4), "loss": round(loss, 5), **_rounded(figures)})
        for key, value in {"loss": loss, **figures}.items():
            self.board.add_scalar(f"train/{key}", value, state.step)  # type: ignore[no-untyped-call]

    def judged(self, state: State, figures: Mapping[str, float], picture: np.ndarray) -> None:
        """Log figures on held-out frames, and keep the picture (H, W, 3) uint8."""
        from PIL import Image

        self._log(state, _rounded(figures))
        half = self.folder / f".{PICTURE}.part"
        try:
            Image.fromarray(picture).save(half, format="PNG")
            os.replace(half, self.folder / PICTURE)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise _full(half, error) from None
        for key, value in figures.items():
            self.board.add_scalar(f"held_out/{key}", value, state.step)  # type: ignore[no-untyped-call]
        self.board.add_image("held_out", picture, state.step, dataformats="HWC")  # type: ignore[no-untyped-call]

    def _log(self, state: State, figures: Mapping[str, float]) -> None:
        row: dict[str, Any] = {"stage": self.name, "step": state.step, "seconds": round(state.seconds, 1), **figures}
        path = self.folder / LOG
        with path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                file.write(f"{json.dumps(row)}\n".encode())
            except OSError as error:
                with suppress(OSError):
                    file.truncate(end)  # no half a line
                raise _full(path, error) from None


def _full(path: Path, error: OSError) -> InputError:
    return InputError(str(path), "log", "room on the disc", error.strerror or str(error))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {key: round(float(value), 5) for key, value in figures.items()}
