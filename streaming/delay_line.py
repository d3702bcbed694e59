"""Speech held back by the pictures' delay, so that lips and sound meet at the viewer.

A ring of samples, each with a capture time. The reader asks for what was captured at play time less delay; where it
is off, it plays up to half a percent faster or slower until it is there, and jumps only where nothing is heard. Where
the source has nothing, there is silence. Every start, stop and jump is crossfaded. Sans-IO; it knows neither the
pacer nor the encoder.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from streaming.clock import MS, NS
from streaming.messages import SAMPLE_RATE


@dataclass(frozen=True)
class DelayLineSettings:
    """How the line follows. Times in ns, levels in int16 units."""

    channels: int = 1
    capacity: int = 6 * SAMPLE_RATE  # samples held
    max_slew: float = 0.005  # 0.5 %: nine cents, not heard in speech
    dead_band_ns: int = 2 * MS  # an error below this starts no slewing
    settle_ns: int = NS // 2  # error is smoothed over and corrected within about this time
    gap_ns: int = 80 * MS  # capture times that differ more than this from the count of samples are a gap or a restart
    jump_ns: int = 30 * MS  # an error above this is jumped in the next pause
    hopeless_ns: int = 500 * MS  # an error above this is jumped at once
    quiet: int = 330  # peak below which speech pauses, -40 dBFS
    fade: int = 240  # samples of every crossfade, 5 ms


@dataclass
class DelayLineCounters:
    """What happened, in samples unless said otherwise."""

    played: int = 0
    silence: int = 0  # the source had nothing
    underruns: int = 0  # times that a running source ran out
    jumps: int = 0  # times, in pauses
    forced_jumps: int = 0  # times, out of pauses
    slewed: float = 0.0  # skipped or stretched, absolute
    late: int = 0  # overwritten before they were played


@dataclass(slots=True)
class _Segment:
    """A run of samples without a gap. Indices count all samples ever written."""

    start: int  # first index still held
    end: int  # one past the last
    origin: int  # the index whose capture time is time_ns
    time_ns: int

    def time_at(self, index: int) -> int:
        return self.time_ns + (index - self.origin) * NS // SAMPLE_RATE

    def index_at(self, time_ns: int) -> float:
        return self.origin + (time_ns - self.time_ns) * SAMPLE_RATE / NS


MAX_SEGMENTS = 32


class DelayLine:
    """Samples in with their capture time, the same samples out at their play time. Memory is fixed. Not thread-safe."""

    def __init__(self, settings: DelayLineSettings | None = None) -> None:
        self.settings = settings or DelayLineSettings()
        self.counters = DelayLineCounters()
        channels = self.settings.channels
        self._ring = np.zeros((self.settings.capacity, channels), np.int16)
        self._written = 0
        self._segments: deque[_Segment] = deque(maxlen=MAX_SEGMENTS)
        self._playing: _Segment | None = None
        self._at = 0.0  # where the reader is, an index; whole unless it slews over small pulls
        self._error = 0.0  # smoothed: samples that the reader is behind
        self._slewing = False
        self._faded = 0  # samples since the reader began here, up to settings.fade
        self._tail = np.zeros((0, channels), np.float32)  # what fades out under the reader
        self._settle = self.settings.settle_ns * SAMPLE_RATE / NS  # the settings' times in samples
        self._dead_band = self.settings.dead_band_ns * SAMPLE_RATE / NS
        self._jump = self.settings.jump_ns * SAMPLE_RATE / NS
        self._hopeless = self.settings.hopeless_ns * SAMPLE_RATE / NS

    def push(self, samples: np.ndarray, capture_ns: int) -> None:
        """Take `samples`, (n,) or (n, channels) int16, the first captured at `capture_ns` on the server's clock."""
        samples = samples.reshape(-1, self.settings.channels)
        held = self.settings.capacity
        if len(samples) > held:
            capture_ns += (len(samples) - held) * NS // SAMPLE_RATE
            samples = samples[-held:]
        if not len(samples):
            return
        segment = self._segment_for(capture_ns, len(samples))
        at = self._written % held
        first = min(len(samples), held - at)
        self._ring[at : at + first] = samples[:first]
        self._ring[: len(samples) - first] = samples[first:]
        self._written += len(samples)
        segment.end = self._written
        self._forget(self._written - held)

    def pull(self, count: int, play_ns: int, delay_ns: int) -> np.ndarray:
        """The next `count` samples, (count, channels) int16, the first of them to be heard at `play_ns`."""
        out = np.zeros((count, self.settings.channels), np.float32)
        done = 0
        while done < count:
            wanted_ns = play_ns + done * NS // SAMPLE_RATE - delay_ns
            if self._playing is None:
                now = self._wait(count - done, wanted_ns)
            else:
                now = self._play(self._playing, out[done:], wanted_ns)
            fading = min(now, len(self._tail))
            out[done : done + fading] += self._tail[:fading]
            self._tail = self._tail[fading:]
            done += now
        return np.clip(np.rint(out), -32768, 32767).astype(np.int16)

    def clear(self) -> None:
        """What is held is not heard any more; what plays fades out."""
        if self._playing is not None:
            self._leave()
        self._segments.clear()

    @property
    def silent(self) -> bool:
        """Whether nothing is heard now and in the next tenth of a second: the time for the delay to jump."""
        if self._playing is None:
            return True
        at = int(self._at)
        return self._quiet(self._playing, at - SAMPLE_RATE // 20, at + SAMPLE_RATE // 10)

    def _segment_for(self, capture_ns: int, count: int) -> _Segment:
        """The segment that new samples belong to. Small errors of capture times move its clock gently."""
        if self._segments:
            last = self._segments[-1]
            off = capture_ns - last.time_at(last.end)
            if abs(off) <= self.settings.gap_ns:
                if abs(off) * SAMPLE_RATE * 2 > NS:  # more than half a sample: not just rounding
                    last.time_ns += round(off * min(1.0, count / self._settle))
                return last
        segment = _Segment(self._written, self._written, self._written, capture_ns)
        self._segments.append(segment)
        return segment

    def _forget(self, first: int) -> None:
        """Samples before index `first` are overwritten."""
        while self._segments[0].end <= first:
            self._segments.popleft()
        self._segments[0].start = max(self._segments[0].start, first)
        if self._playing is not None:
            self._playing.start = max(self._playing.start, first)

    def _wait(self, count: int, wanted_ns: int) -> int:
        """Silence until something is there to be heard at its time: how many samples of it."""
        begin: tuple[int, int, _Segment] | None = None  # samples from now, index, segment
        for segment in self._segments:
            index = round(segment.index_at(wanted_ns))
            ahead = 2 * self.settings.fade if segment is self._segments[-1] else 1  # no start without some supply
            if max(index, segment.start) + ahead > segment.end:
                continue
            later = max(0, segment.start - index)
            if begin is None or later <= begin[0]:  # of those that could start now, the newest
                begin = (later, max(index, segment.start), segment)
        if begin is None or begin[0] >= count:
            self.counters.silence += count
            return count
        silence, index, segment = begin
        self._playing, self._at, self._error, self._slewing, self._faded = segment, float(index), 0.0, False, 0
        self.counters.silence += silence
        return silence

    def _play(self, segment: _Segment, out: np.ndarray, wanted_ns: int) -> int:
        """Fill the front of `out` (n, channels) from `segment`: how many samples. Zero: the reader left it."""
        count = len(out)
        if self._at < segment.start:
            self.counters.late += round(segment.start - self._at)
            self._at = float(segment.start)
            return self._leave()
        off = segment.index_at(wanted_ns) - self._at  # samples that the reader is behind, now
        if self._misplaced(segment, off):
            return self._leave()
        advance = self._advance(off, count)
        ready = min(count, int((segment.end - self._at) * count / advance))
        if ready <= 0:
            self.counters.underruns += segment is self._segments[-1]
            self._leave()
            segment.start = segment.end  # heard: it is not to be found again
            return 0
        out[:ready] = self._samples(segment, self._at + np.arange(ready) * (advance / count))
        if self._faded < self.settings.fade:
            gain = (self._faded + 1 + np.arange(ready, dtype=np.float32)) / self.settings.fade
            out[:ready] *= np.minimum(gain, 1.0)[:, None]
            self._faded += ready
        moved = advance * ready / count
        self._at += moved
        self._error -= moved - ready
        self.counters.played += ready
        self.counters.slewed += abs(moved - ready)
        return ready

    def _advance(self, off: float, count: int) -> float:
        """How far the reader goes in the next `count` samples: as many, a few more where behind, fewer where ahead."""
        share = min(1.0, count / self._settle)
        self._error += (off - self._error) * share
        size = abs(self._error)
        self._slewing = size > self._dead_band or (self._slewing and size > self._dead_band / 8)
        most = self.settings.max_slew * count
        move = min(most, max(1.0, size * share)) if self._slewing else 0.0
        advance = count + (move if self._error > 0 else -move)
        whole = round(self._at + advance) - self._at  # to whole samples wherever the limit allows
        return whole if abs(whole - count) <= most else advance

    def _misplaced(self, segment: _Segment, off: float) -> bool:
        """Whether the reader is so far off that it should jump, and may."""
        if abs(self._error) > self._hopeless:
            self.counters.forced_jumps += 1
            return True
        if abs(off) <= self._jump:
            return False
        ends = sorted((self._at, self._at + off))
        if not self._quiet(segment, int(ends[0]), int(ends[1]) + self.settings.fade):
            return False
        self.counters.jumps += 1
        return True

    def _leave(self) -> int:
        """Stop reading here; what would have come fades out."""
        assert self._playing is not None
        fade = self.settings.fade
        gain = min(1.0, self._faded / fade) * (1.0 - np.arange(1, fade + 1, dtype=np.float32) / fade)
        tail: np.ndarray = self._samples(self._playing, self._at + np.arange(fade)) * gain[:, None]
        tail[: len(self._tail)] += self._tail
        self._tail = tail
        self._playing = None
        return 0

    def _samples(self, segment: _Segment, places: np.ndarray) -> np.ndarray:
        """(n, channels) float32 at `places` (n,), whole or between samples (cubic, Catmull-Rom); the ends are held."""
        index = np.floor(places).astype(np.int64)
        t = (places - index).astype(np.float32)[:, None]

        def tap(offset: int) -> np.ndarray:
            held = np.clip(index + offset, segment.start, segment.end - 1)
            return np.asarray(self._ring[held % len(self._ring)], np.float32)

        b = tap(0)
        if not t.any():
            return b
        a, c, d = tap(-1), tap(1), tap(2)
        between: np.ndarray = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        return between

    def _quiet(self, segment: _Segment, first: int, end: int) -> bool:
        """Whether the samples from `first` to `end`, as far as they are held, are all below the level of a pause."""
        first, end = max(first, segment.start), min(end, segment.end)
        if end <= first:
            return True
        piece = self._ring[np.arange(first, end) % len(self._ring)]
        return bool(piece.max() <= self.settings.quiet and piece.min() >= -self.settings.quiet)
