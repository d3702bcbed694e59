"""A sender's clock brought to the server's, from one-way messages.

Each message gives a capture time on the sender's clock and an arrival time on the server's. Their difference is
offset + skew * time + delay, and delay is never negative, so the line under all the points is offset and skew at the
smallest delay of the path (Zhang, Liu and Xia, "Clock synchronization algorithms for network measurements", INFOCOM
2002: lower convex hull). The smallest delay itself cannot be known from one direction: it stays inside the offset, so
a capture time on the server's clock means "when this would have arrived at best".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from streaming.clock import MS, NS

Point = tuple[int, int]  # (capture time, arrival - capture), ns; capture times relative to the first


@dataclass(frozen=True)
class SyncSettings:
    """How the estimate is made."""

    bucket_ns: int = NS  # the least delayed message of each bucket is kept
    buckets: int = 60
    skew_span_ns: int = 20 * NS  # below this span of time, skew is taken as zero
    max_skew: float = 500e-6  # crystals are within 100 ppm, bad ones within 200
    slew: float = 0.05  # the offset in use moves at most this fast, so that no two frames change places
    shift_ns: int = 60 * MS  # a whole `shift_window_ns` of messages later than this: the path or the clock changed
    shift_window_ns: int = 1500 * MS


@dataclass
class ClockSync:
    """Offset and skew of one sender session. Memory is fixed by `SyncSettings.buckets`."""

    settings: SyncSettings = field(default_factory=SyncSettings)
    _first: Point | None = None
    _points: deque[Point] = field(init=False)
    _bucket: int = -1
    _line: tuple[float, float] = (0.0, 0.0)  # offset at capture 0 and skew, both relative to the first message
    _offset: float = 0.0  # in use: follows the line at a limited rate
    _last: int = 0  # newest capture time seen, relative
    _late_since: Point | None = None  # (arrival, least lateness) of the run of late messages that we are in

    def __post_init__(self) -> None:
        self._points = deque(maxlen=self.settings.buckets)

    @property
    def skew(self) -> float:
        """Server seconds per sender second, minus one."""
        return self._line[1]

    def push(self, capture_ns: int, arrival_ns: int) -> int:
        """Take a message into account; how late it came: arrival less capture time on the server's clock, ns."""
        if self._first is None:
            self._first = (capture_ns, arrival_ns - capture_ns)
        capture, delay = capture_ns - self._first[0], arrival_ns - capture_ns - self._first[1]
        self._keep((capture, delay), arrival_ns)
        self._advance(capture)
        late = arrival_ns - self.to_server(capture_ns)
        self._watch_shift((capture, delay), arrival_ns, late)
        return late

    def to_server(self, capture_ns: int) -> int:
        """A capture time of this sender on the server's clock, ns. ValueError before the first message."""
        if self._first is None:
            raise ValueError("no message yet")
        return capture_ns + self._first[1] + round(self._offset)

    def _keep(self, point: Point, arrival_ns: int) -> None:
        bucket = arrival_ns // self.settings.bucket_ns
        if bucket != self._bucket or not self._points:
            self._bucket = bucket
            self._points.append(point)
        elif point[1] < self._points[-1][1]:
            self._points[-1] = point
        else:
            return
        self._line = lower_line(list(self._points), self.settings.skew_span_ns, self.settings.max_skew)

    def _advance(self, capture: int) -> None:
        """Move the offset in use towards the line, by no more than the slew allows for the time that passed."""
        wanted = self._line[0] + self._line[1] * capture
        step = self.settings.slew * max(0, capture - self._last)
        self._offset += min(max(wanted - self._offset, -step), step)
        self._last = max(self._last, capture)

    def _watch_shift(self, point: Point, arrival_ns: int, late: int) -> None:
        """Forget the past where every message of a while came late: the window would take a minute to forget it."""
        if late < self.settings.shift_ns:
            self._late_since = None
            return
        since, least = self._late_since or (arrival_ns, late)
        least = min(least, late)
        self._late_since = (since, least)
        if arrival_ns - since >= self.settings.shift_window_ns:
            self._points.clear()
            self._points.append(point)
            self._offset += least  # forward, so that captures keep their order
            self._line = (self._offset, 0.0)
            self._late_since = None


def lower_line(points: list[Point], skew_span_ns: int, max_skew: float) -> tuple[float, float]:
    """(offset, skew) of the line under all `points`, ordered by time, that is nearest to them in the mean.

    That line is the edge of their lower convex hull over their mean time. Where they span less than `skew_span_ns` it
    is flat.
    """
    flat = (float(min(delay for _, delay in points)), 0.0)
    points = sorted(points)
    if points[-1][0] - points[0][0] < skew_span_ns:
        return flat
    hull: list[Point] = []
    for point in points:
        while len(hull) >= 2 and _turns_right(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    mean = sum(x for x, _ in points) / len(points)
    right = min(max(bisect_left([x for x, _ in hull], mean), 1), len(hull) - 1)
    (x0, y0), (x1, y1) = hull[right - 1], hull[right]
    skew = (y1 - y0) / max(x1 - x0, 1)
    skew = min(max(skew, -max_skew), max_skew)
    return min(y - skew * x for x, y in points), skew  # again under all of them, should the skew have been cut


def _turns_right(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies on or above the line from a to c, so that it is no corner of the lower hull."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) <= 0
