"""Which frames are seen together, and when: pure planning over frame numbers, no arrays.

plan = Plan(size=16, overlap=4, steps=4)
for _ in poses:
    for run in plan.arrive():    # evaluate run.window at run.step; run.moved then steps on
        ...
rest = plan.end()
"""

from __future__ import annotations

from dataclasses import dataclass, field


def windows(frames: int, size: int, overlap: int) -> list[range]:
    """The windows of Make-Your-Anchor's Algorithm 1: one from every multiple of `size - overlap` below `frames`.

    Each is `size` long, cut at the end, so that short ones, down to a single frame, trail.
    """
    check(size, overlap)
    return [range(start, min(start + size, frames)) for start in range(0, frames, size - overlap)]


def covering(frame: int, size: int, overlap: int) -> int:
    """How many of those windows see `frame`; how long the clip is does not matter."""
    stride = size - overlap
    return frame // stride - max(0, -((size - 1 - frame) // stride)) + 1


def check(size: int, overlap: int) -> None:
    """ValueError unless windows of `size` that share `overlap` frames move on."""
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must lie in 0 to {size - 1}, got {overlap}")


@dataclass(frozen=True)
class Run:
    """One evaluation: the frames of `window` all stand at `step`; `moved` have then been seen by all of their windows there."""

    window: range
    step: int
    moved: range  # these go on to step + 1, or leave where that was the last


@dataclass
class Plan:
    """Algorithm 1 on a stream: every window at every step, as early as its frames allow.

    A frame steps on when the last window that covers it has been evaluated, and the window after that may need it: so window k
    at step s waits for window k + `lag` at step s - 1, and when window k is complete, k, k - lag, k - 2 lag, ... run at steps 0, 1,
    2, ... Windows come in rising order at every step, as in the published algorithm, so sums of predictions are formed in its order.
    """

    size: int
    overlap: int
    steps: int
    _arrived: int = field(default=0, init=False)
    _begun: int = field(default=0, init=False)  # windows that have been evaluated at step 0

    def __post_init__(self) -> None:
        check(self.size, self.overlap)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    @property
    def stride(self) -> int:
        """From one window's first frame to the next one's."""
        return self.size - self.overlap

    @property
    def lag(self) -> int:
        """How many windows later the frames of a window have all stepped on."""
        return (self.size - 1) // self.stride

    @property
    def delay(self) -> int:
        """How many later frames a frame waits for, at most: (steps - 1) lag stride + size - 1."""
        return (self.steps - 1) * self.lag * self.stride + self.size - 1

    @property
    def reach(self) -> int:
        """How many of the newest frames are still needed, at most; older ones' memory is free."""
        return self.delay + self.stride

    @property
    def burst(self) -> int:
        """How many frames leave at once, at most, before the stream ends."""
        return self.stride

    def arrive(self) -> list[Run]:
        """One more frame is there: what can be evaluated now, in order."""
        self._arrived += 1
        if self._arrived < self._begun * self.stride + self.size:
            return []
        return self._next(self._begun + 1)

    def end(self) -> list[Run]:
        """No more frames come: all that is left, with the short windows that trail. Afterwards the plan is a new one."""
        total = -(-self._arrived // self.stride)  # windows of a clip of so many frames
        runs = [run for _ in range(self._begun, total + (self.steps - 1) * self.lag) for run in self._next(total)]
        self.reset()
        return runs

    def reset(self) -> None:
        """Forget the stream."""
        self._arrived = self._begun = 0

    def _next(self, total: int) -> list[Run]:
        """Window number `_begun` at step 0 and those behind it at later steps, as far as they are below `total`."""
        newest, self._begun = self._begun, self._begun + 1
        numbers = [(newest - step * self.lag, step) for step in range(self.steps)]
        return [self._run(number, step) for number, step in numbers if 0 <= number < total]

    def _run(self, number: int, step: int) -> Run:
        start = number * self.stride
        stop = min(start + self.size, self._arrived)
        return Run(range(start, stop), step, range(start, min(start + self.stride, stop)))
