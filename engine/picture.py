"""What one frame has become when it leaves the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.gear import OWN, Gear


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished frame. `capture_ns` is its pose's capture time on this machine's monotonic clock."""

    index: int  # count of frames since the epoch began
    epoch: int  # grows with every reset
    capture_ns: int
    image: np.ndarray  # (H, W, 3) uint8 RGB
    condition: np.ndarray  # (h, w, 3) uint8 RGB, the mesh that the networks saw
    stage_ns: dict[str, int] = field(
        default_factory=dict
    )  # time spent by stage: body, condition, denoise, decode, hands, face
    gear: Gear = OWN  # that it was painted in
    skipped: tuple[str, ...] = ()  # stages that left it out, as the gear says
