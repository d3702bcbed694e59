"""Which frames are seen together: pure planning over frame numbers, no arrays."""

from __future__ import annotations


def windows(frames: int, size: int, overlap: int) -> list[range]:
    """The windows of Make-Your-Anchor's Algorithm 1: one from every multiple of `size - overlap` below `frames`.

    Each is `size` long, cut at the end, so that short ones, down to a single frame, trail.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must lie in 0 to {size - 1}, got {overlap}")
    return [range(start, min(start + size, frames)) for start in range(0, frames, size - overlap)]
