"""Batches drawn ahead: the next one is made by a thread of its own while the present one is learnt from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

CPU = torch.device("cpu")


class Batches:
    """`draw(step, part)` for one part of a step after the other, from step `first` on, with the tensors on `device`.

    with Batches(draw, first=0, parts=2, device=torch.device("cuda")) as batches:
        next(batches)  # draw(0, 0); draw(0, 1) has begun
    """

    def __init__(self, draw: Callable[[int, int], Any], first: int, parts: int, device: torch.device) -> None:
        self._draw, self._device = draw, device
        self._turns = ((step, part) for step in count(first) for part in range(parts))
        self._pool = ThreadPoolExecutor(1, "batches")

    def __enter__(self) -> Batches:
        self._next = self._begin()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __next__(self) -> Any:
        batch = self._next.result()
        self._next = self._begin()
        return moved(batch, self._device)

    def _begin(self) -> Future[Any]:
        return self._pool.submit(self._draw, *next(self._turns))


def moved(value: Any, device: torch.device) -> Any:
    """A batch with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value
