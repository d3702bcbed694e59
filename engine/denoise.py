"""From noise to latents over time: the published algorithm on a whole clip, and its live counterparts on a stream.

It knows windows and steps, not networks: those are a `Predict`, called with latents, their frames and the step. Arrays
may be NumPy or torch. Memory is fixed from the first frame on.

    live = Exact(sampler, predict, size=16, overlap=4)   # or Causal, or Bank
    for index in range(1000):
        for latents in live.push(noise.at(index)):       # (C, h, w)
            ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engine.arrays import Array, gather, zeros_like
from engine.sampler import Sampler
from engine.windows import Plan, Run, covering, windows

# Latents (n, C, h, w) of frames (a range of n) at a step, to predictions (B, n, C, h, w): B is 1, or 2 where the
# unconditional branch comes first. Frames before the stream's first stand for the first, those after its newest for the
# newest. The result may be overwritten by the next call.
Predict = Callable[[Array, range, int], Array]


class Attend(Protocol):
    """A `Predict` for one frame that sees past ones by their keys and values."""

    @property
    def bank(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes (layers, 2, B, slots, tokens, C) of the past, by name; all of as many slots."""
        ...

    def attend(
        self, latents: Array, frame: int, step: int, bank: Mapping[str, Array], filled: int
    ) -> tuple[Array, Mapping[str, Array]]:
        """Latents (1, C, h, w) of `frame` at `step` to predictions (B, 1, C, h, w) and its keys and values by name.

        Those are (layers, 2, B, tokens, C). Of the slots of `bank` the first `filled` are seen, in no order. Results may be
        overwritten by the next call.
        """
        ...


def offline(latents: Array, predict: Predict, sampler: Sampler, plan: Iterable[range]) -> Array:
    """Algorithm 1 of Make-Your-Anchor (arXiv 2403.16510): all frames, step by step. The oracle of the live modes.

    In each step every window of `plan` is evaluated, predictions are summed per frame and divided by how many windows covered
    it, guidance is applied once, and one step moves all frames. `latents` (T, C, h, w) noise in, clean latents out.
    """
    frames, plan = len(latents), list(plan)
    count = np.zeros((frames, 1, 1, 1), np.float32)
    for window in plan:
        count[window.start : window.stop] += 1
    if not count.all():
        raise ValueError("the windows leave frames uncovered")
    divisor = count if isinstance(latents, np.ndarray) else latents.new_tensor(count)
    for index in range(len(sampler.times)):
        total: Array = None
        for window in plan:
            span = slice(window.start, window.stop)
            prediction = sampler.agreed(predict(latents[span], window, index))
            if total is None:
                total = zeros_like(latents, (len(prediction), *latents.shape))
            total[:, span] += prediction
        latents = sampler.step(latents, sampler.guided(total / divisor), range(frames), index)
    return latents


class Denoiser(Protocol):
    """A live mode: noise of one new frame in, latents of the frames that are finished with it out, in order."""

    @property
    def delay(self) -> int | None:
        """How many later frames a frame waits for, at most; None: for all of them."""
        ...

    @property
    def burst(self) -> int | None:
        """How many frames leave at once, at most, before the stream ends; None: all of them when it does."""
        ...

    @property
    def reach(self) -> int | None:
        """How many of the newest frames `predict` may be asked about; None: all of them."""
        ...

    def push(self, noise: Array) -> list[Array]: ...

    def flush(self) -> list[Array]:
        """The stream ends here: what is still under way comes out."""
        ...

    def reset(self) -> None:
        """The next frame is the first of a new stream."""
        ...


@dataclass
class Exact:
    """`offline` on a stream that has no end, bit for bit: every window at every step, as early as its frames allow.

    A frame has one latent and one sum of predictions, those of the step at which it stands. Both lie in rings over the newest
    frames, so memory is fixed. Late, but the published algorithm: frames leave `stride` at a time, see engine.windows.Plan.
    """

    sampler: Sampler
    predict: Predict
    size: int
    overlap: int
    _plan: Plan = field(init=False, repr=False)
    _latents: Array = field(default=None, init=False, repr=False)  # (reach, C, h, w)
    _window: Array = field(default=None, init=False, repr=False)  # (size, C, h, w): what is evaluated
    _total: Array = field(default=None, init=False, repr=False)  # (B, reach, C, h, w)
    _mean: Array = field(default=None, init=False, repr=False)  # (B, stride, C, h, w): of what moves
    _counts: Array = field(default=None, init=False, repr=False)  # (stride, 1, 1, 1)
    _arrived: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._plan = Plan(self.size, self.overlap, len(self.sampler.times))

    @property
    def delay(self) -> int:
        return self._plan.delay

    @property
    def burst(self) -> int:
        return self._plan.burst

    @property
    def reach(self) -> int:
        return self._plan.reach

    def push(self, noise: Array) -> list[Array]:
        """Noise (C, h, w) of the next frame; the latents of those that their last window has seen at the last step."""
        if self._latents is None:
            self._latents = zeros_like(noise, (self.reach, *noise.shape))
            self._window = zeros_like(noise, (self.size, *noise.shape))
        self._latents[self._arrived % self.reach] = noise
        self._arrived += 1
        return self._run(self._plan.arrive())

    def flush(self) -> list[Array]:
        """The stream ends: the short windows that trail, and all that is under way. The next frame begins a new stream."""
        finished = self._run(self._plan.end())
        self.reset()
        return finished

    def reset(self) -> None:
        """Forget the stream; the memory stays."""
        self._plan.reset()
        self._arrived = 0
        if self._total is not None:
            self._total[...] = 0.0

    def _run(self, runs: list[Run]) -> list[Array]:
        return [latents for run in runs for latents in self._evaluate(run)]

    def _evaluate(self, run: Run) -> list[Array]:
        slots = [frame % self.reach for frame in run.window]
        latents = gather(self._latents, slots, self._window[: len(slots)])
        prediction = self.sampler.agreed(self.predict(latents, run.window, run.step))
        if self._total is None:
            self._total = zeros_like(prediction, (len(prediction), *self._latents.shape))
            self._mean = zeros_like(prediction, (len(prediction), self.burst, *self._latents.shape[1:]))
            self._counts = zeros_like(prediction, (self.burst, 1, 1, 1))
        for i, slot in enumerate(slots):
            total = self._total[:, slot]
            total += prediction[:, i]
        many = len(run.moved)
        mean, counts = self._mean[:, :many], self._counts[:many]
        for i, frame in enumerate(run.moved):
            total = self._total[:, slots[i]]
            mean[:, i], counts[i] = total, covering(frame, self.size, self.overlap)
            total[...] = 0.0
        mean /= counts
        stepped = self.sampler.step(latents[:many], self.sampler.guided(mean), run.moved, run.step)
        for i, slot in enumerate(slots[:many]):
            self._latents[slot] = stepped[i]
        return list(stepped) if run.step + 1 == len(self.sampler.times) else []


@dataclass
class Offline:
    """The whole stream at once when it ends: `offline` behind the interface of the live modes. Memory grows with the stream."""

    sampler: Sampler
    predict: Predict
    size: int
    overlap: int
    _noise: list[Array] = field(default_factory=list, init=False, repr=False)

    @property
    def delay(self) -> None:
        return None

    @property
    def burst(self) -> None:
        return None

    @property
    def reach(self) -> None:
        return None

    def push(self, noise: Array) -> list[Array]:
        self._noise.append(noise)
        return []

    def flush(self) -> list[Array]:
        if not self._noise:
            return []
        latents = zeros_like(self._noise[0], (len(self._noise), *self._noise[0].shape))
        for i, noise in enumerate(self._noise):
            latents[i] = noise
        self.reset()
        return list(offline(latents, self.predict, self.sampler, windows(len(latents), self.size, self.overlap)))

    def reset(self) -> None:
        self._noise.clear()


@dataclass
class Causal:
    """Windows of `context` finished frames and `hop` new ones; only the new frames move.

    At each step the context re-enters with the latents that it had there, so a frame is never changed after it left,
    and never depends on one that came later than its own hop. Before the stream's first frame stand copies of it: under
    all-frame attention and pooled normalisation a frame beside copies of itself equals the frame alone.
    """

    sampler: Sampler
    predict: Predict
    context: int = 0
    hop: int = 1
    _ring: Array = field(default=None, init=False, repr=False)  # (S, context + hop, C, h, w)
    _done: int = field(default=0, init=False)  # frames that have left
    _waiting: int = field(default=0, init=False)  # frames of the current hop

    def __post_init__(self) -> None:
        if self.context < 0 or self.hop < 1:
            raise ValueError(f"context must be at least 0 and hop at least 1, got {self.context} and {self.hop}")

    @property
    def delay(self) -> int:
        return self.hop - 1

    @property
    def burst(self) -> int:
        return self.hop

    @property
    def reach(self) -> int:
        return self.context + self.hop

    def push(self, noise: Array) -> list[Array]:
        """Noise (C, h, w) of the next frame; the latents of the hop's frames when it completes one, else nothing."""
        if self._ring is None:
            self._ring = zeros_like(noise, (len(self.sampler.times), self.reach, *noise.shape))
        self._ring[0, self.context + self._waiting] = noise
        self._waiting += 1
        return self._run(self.hop) if self._waiting == self.hop else []

    def flush(self) -> list[Array]:
        """Finish a hop that is not full: its last frame stands in for the missing ones, which are dropped."""
        if not self._waiting:
            return []
        last = self.context + self._waiting - 1
        for slot in range(last + 1, self.reach):
            self._ring[0, slot] = self._ring[0, last]
        return self._run(self._waiting)

    def reset(self) -> None:
        """Forget the stream; the memory stays."""
        self._done = self._waiting = 0

    def _run(self, new: int) -> list[Array]:
        context, ring = self.context, self._ring
        frames = range(self._done - context, self._done + self.hop)
        latents = ring[0, context:]
        for index in range(len(self.sampler.times)):
            ring[index, context:] = latents
            if self._done == 0 and context:
                ring[index, :context] = latents[:1]
            said = self.sampler.agreed(self.predict(ring[index], frames, index))
            prediction = self.sampler.guided(said[:, context:])
            latents = self.sampler.step(latents, prediction, frames[context:], index)
        for at_step in ring:  # the context moves on: the last `context` of what was there
            for slot in range(context):
                at_step[slot] = at_step[slot + new]
        self._done += new
        self._waiting = 0
        return [latents[i] for i in range(new)]


@dataclass
class Bank:
    """One new frame a time, which attends to the keys and values of the last frames, and to its own.

    Each step has a ring of its own, with a slot for each frame; attention needs no order, so the ring is used as it lies. It
    equals the whole clip at once under attention in which a frame sees itself and those before it that are in the ring, layer
    by layer. Norms see the new frame alone. `anchor`: the stream's first frame keeps its slot for ever.
    """

    sampler: Sampler
    predict: Attend
    anchor: bool = False
    size: int | None = None  # None: as many slots as there are
    _rings: list[dict[str, Array]] = field(default_factory=list, init=False, repr=False)  # one for each step
    _done: int = field(default=0, init=False)  # frames that have left

    def __post_init__(self) -> None:
        if self.slots <= self.anchor:
            raise ValueError(f"a bank of {self.slots} frames has no room{' beside its anchor' if self.anchor else ''}")

    @property
    def slots(self) -> int:
        """How many past frames are seen."""
        there = min((shape[-3] for shape in self.predict.bank.values()), default=0)
        return there if self.size is None else min(there, self.size)

    @property
    def delay(self) -> int:
        return 0

    @property
    def burst(self) -> int:
        return 1

    @property
    def reach(self) -> int:
        return 1

    def push(self, noise: Array) -> list[Array]:
        """Noise (C, h, w) of the next frame to its latents."""
        if not self._rings:
            shapes = self.predict.bank.items()
            self._rings = [{name: zeros_like(noise, shape) for name, shape in shapes} for _ in self.sampler.times.now]
        frame, slots, kept = self._done, self.slots, int(self.anchor)
        slot = frame if frame < kept else kept + (frame - kept) % (slots - kept)  # the oldest
        latents = noise[None]
        for index, ring in enumerate(self._rings):
            prediction, new = self.predict.attend(latents, frame, index, ring, min(frame, slots))
            for name, array in new.items():
                ring[name][:, :, :, slot] = array
            latents = self.sampler.step(latents, self.sampler.guided(prediction), range(frame, frame + 1), index)
        self._done += 1
        return [latents[0]]

    def flush(self) -> list[Array]:
        return []

    def reset(self) -> None:
        """Forget the stream; the memory stays."""
        self._done = 0
