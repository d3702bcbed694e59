"""RUNS/<stage>/checkpoint.pt: everything that a run needs to go on as if it had never stopped. Written at once or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import InputError

FILE = "checkpoint.pt"


@dataclass
class State:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0  # of training, in all the pieces of the run
    history: list[float] = field(default_factory=list)  # recent losses


@dataclass(frozen=True)
class Learnt:
    """What a checkpoint keeps: weights, their slow average, and what the optimiser and the loss scaler remember."""

    modules: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    config: str  # the networks' sizes, by name


def save(path: Path, learnt: Learnt, state: State) -> None:
    """Write a checkpoint. InputError where the disc is full; the one before is whole then."""
    half = path.with_name(f".{path.name}.part")
    whole = {name: getattr(learnt, name).state_dict() for name in ("modules", "average", "optimiser", "scaler")}
    try:
        with half.open("wb") as file:
            torch.save({**whole, "config": learnt.config, **vars(state)}, file)
        os.replace(half, path)
    except (OSError, RuntimeError) as error:  # torch's archive writer wraps what the disc says
        with suppress(OSError):
            half.unlink(missing_ok=True)
        said = (error.strerror if isinstance(error, OSError) else None) or str(error).split("\n")[0]
        kept = "the checkpoint before it is whole" if path.exists() else ""
        raise InputError(str(path), f"checkpoint of step {state.step}", "room on the disc", said, kept) from None


def resume(path: Path, learnt: Learnt) -> State:
    """Take everything up from a checkpoint. InputError where it is truncated or of other networks."""
    whole = read(path, learnt.config)
    try:
        for name in ("modules", "average", "optimiser", "scaler"):
            if name in whole:
                getattr(learnt, name).load_state_dict(whole[name])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(str(path), "weights", "those of this stage's networks", _first(error)) from None
    return State(whole["step"], whole["seconds"], whole.get("history", []))


def read(path: Path, config: str | None = None) -> dict[str, Any]:
    """A checkpoint's contents; InputError where there is none, half of one, or one of another configuration."""
    try:
        whole: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(str(path), "file", "a checkpoint of this stage", "no such file") from None
    except Exception as error:  # torch raises many kinds for a broken archive
        raise InputError(str(path), "file", "a whole checkpoint", _first(error)) from None
    if config is not None and whole.get("config", config) != config:
        raise InputError(str(path), "config", config, str(whole["config"]))
    return whole


def _first(error: Exception) -> str:
    """What an error says first about its matter; load_state_dict's first line only names the class."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0] if lines else ""
