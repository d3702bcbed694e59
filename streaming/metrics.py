"""What is measured from the pacer to the viewers, for Prometheus and for the page. Each meter has its own registry."""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from streaming import provenance
from streaming.clock import Clock, MonotonicClock
from streaming.governor import GovernorStatus
from streaming.pacer import Shown
from streaming.show import Show, ShowStatus

WINDOW_NS = 2_000_000_000  # frame rates are means over this
DELAYS = 250  # percentiles are of this many pictures: ten seconds at 25 a second

DELAY_BUCKETS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0)
STAGE_BUCKETS = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5)


class Meter:
    """Counts and times one server's frames. Not thread-safe: the event loop's own."""

    def __init__(self, version: str = "", clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._start_ns = self._clock.now_ns()
        self._version = version
        self._shown: deque[tuple[int, bool]] = deque()
        self._delays_ns: deque[int] = deque(maxlen=DELAYS)
        self._drops: Tally[str] = Tally()
        self._outcomes: Tally[str] = Tally()
        self.registry = CollectorRegistry(auto_describe=True)
        self._frames = Counter("liveanchor_frames", "Pictures put on screen", ["outcome"], registry=self.registry)
        self._dropped = Counter("liveanchor_drops", "Frames lost after the pacer", ["reason"], registry=self.registry)
        self._keyframes = Counter("liveanchor_keyframes", "Keyframes encoded", ["view"], registry=self.registry)
        self._gaps = Counter("liveanchor_sound_gap_seconds", "Sound skipped by a late loop", registry=self.registry)
        self._delay = Histogram(
            "liveanchor_pose_to_send_seconds",
            "From a pose's capture to its picture's packets being sent",
            buckets=DELAY_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "liveanchor_stage_seconds",
            "Time spent on a picture",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )

    def on_shown(self, shown: Shown, play_ns: int) -> None:
        """A picture went on screen at `play_ns`."""
        outcome = shown.repeat or "new"
        self._outcomes[outcome] += 1
        self._frames.labels(outcome).inc()
        self._shown.append((play_ns, not shown.repeat))
        while self._shown[0][0] <= play_ns - WINDOW_NS:
            self._shown.popleft()
        if not shown.repeat:
            for stage, spent_ns in shown.picture.stage_ns.items():
                self._stages.labels(stage).observe(spent_ns / 1e9)

    def on_sent(self, capture_ns: int, now_ns: int) -> None:
        """The picture of the pose captured at `capture_ns` has been handed to the viewers."""
        self._delays_ns.append(now_ns - capture_ns)
        self._delay.observe((now_ns - capture_ns) / 1e9)

    def on_drop(self, reason: str, count: int = 1) -> None:
        """`count` pictures were not sent."""
        self._drops[reason] += count
        self._dropped.labels(reason).inc(count)

    def on_keyframe(self, view: str) -> None:
        """A keyframe was encoded."""
        self._keyframes.labels(view).inc()

    def on_sound_gap(self, gap_ns: int) -> None:
        """That much sound was skipped."""
        self._drops["sound gap"] += 1
        self._gaps.inc(gap_ns / 1e9)

    def collect_from(self, show: Show, viewers: Callable[[], int]) -> None:
        """Have the registry ask the show and the sessions at each scrape."""
        self.registry.register(_Collector(show, viewers, self))

    def exposition(self) -> bytes:
        """The registry as Prometheus text."""
        return generate_latest(self.registry)

    def uptime_s(self) -> float:
        """Seconds since the meter began."""
        return (self._clock.now_ns() - self._start_ns) / 1e9

    def snapshot(self, show: Show, viewers: int) -> dict[str, Any]:
        """Everything for `/stats`: plain JSON, milliseconds and counts, null where nothing has been measured."""
        status = show.status()
        now_ns = self._clock.now_ns()
        recent = [new for play_ns, new in self._shown if play_ns > now_ns - WINDOW_NS]
        window_s = WINDOW_NS / 1e9
        span_s = window_s if self.uptime_s() > window_s else max(len(recent) / show.fps, 1e-3)  # while the window fills
        return {
            "state": self._state(status),
            "trouble": status.trouble,
            "avatar": status.avatar,
            "provenance": {"statement": provenance.statement(status.person), **provenance.facts(status.person)},
            "source": status.source,
            "sound": status.sound,
            "fps": {
                "target": show.fps,
                "shown": round(len(recent) / span_s, 1),
                "painted": round(sum(recent) / span_s, 1),
            },
            "delay_ms": self._delay_percentiles(),
            "pacer_delay_ms": round(status.delay_ns / 1e6, 1),
            "frames": {outcome: self._outcomes[outcome] for outcome in ("new", "starved", "waiting")},
            "drops": dict(Tally(status.drops) + self._drops),
            "skips": status.skips,
            "governor": governing(status.governor, now_ns),
            "swaps": status.swaps,
            "stages_ms": {stage: round(spent_ns / 1e6, 2) for stage, spent_ns in status.stage_ns.items()},
            "recording": asdict(status.recording) if status.recording is not None else None,
            "viewers": viewers,
            "uptime_s": round(self.uptime_s(), 1),
            "version": self._version,
        }

    def _state(self, status: ShowStatus) -> str:
        if status.trouble:
            return "failed"
        if not self._outcomes:
            return "starting"
        return "live" if status.live else "idle"

    def _delay_percentiles(self) -> dict[str, float] | None:
        if not self._delays_ns:
            return None
        p50, p95, p99 = np.percentile(np.array(self._delays_ns) / 1e6, [50, 95, 99])
        return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "p99": round(float(p99), 1)}


def governing(governor: GovernorStatus | None, now_ns: int) -> dict[str, Any] | None:
    """The governor as plain JSON, null where there is none."""
    if governor is None:
        return None
    last = governor.last
    return {
        "rung": governor.rung,
        "rungs": governor.rungs,
        "gear": str(governor.gear),
        "over_budget": governor.over,
        "decisions": dict(governor.decisions),
        "last": last
        and {
            "direction": last.direction,
            "from": last.from_rung,
            "to": last.to_rung,
            "reason": last.reason,
            "ago_s": round((now_ns - last.time_ns) / 1e9, 1),
        },
    }


class _Collector(Collector):
    """Figures that others hold, asked for at each scrape."""

    def __init__(self, show: Show, viewers: Callable[[], int], meter: Meter) -> None:
        self._show, self._viewers, self._meter = show, viewers, meter

    def collect(self) -> Iterator[Metric]:
        status = self._show.status()
        yield GaugeMetricFamily("liveanchor_viewers", "Sessions open", value=self._viewers())
        yield GaugeMetricFamily("liveanchor_live", "1 while poses come in", value=float(status.live))
        yield GaugeMetricFamily("liveanchor_pacer_delay_seconds", "From capture to screen", value=status.delay_ns / 1e9)
        yield GaugeMetricFamily("liveanchor_uptime_seconds", "Since the server began", value=self._meter.uptime_s())
        dropped = CounterMetricFamily(
            "liveanchor_engine_drops", "Frames that never became a picture", labels=["reason"]
        )
        for reason, count in status.drops.items():
            dropped.add_metric([reason], count)
        yield dropped
        skipped = CounterMetricFamily("liveanchor_skips", "Pictures that a stage left out by gear", labels=["stage"])
        for stage, count in status.skips.items():
            skipped.add_metric([stage], count)
        yield skipped
        if (governor := status.governor) is not None:
            yield GaugeMetricFamily(
                "liveanchor_governor_rung", "Of the ladder of gears, 0 the best", value=governor.rung
            )
            decided = CounterMetricFamily("liveanchor_governor_decisions", "Moves on the ladder", labels=["direction"])
            for direction, count in governor.decisions.items():
                decided.add_metric([direction], count)
            yield decided
        swaps = CounterMetricFamily("liveanchor_swaps", "Avatars replaced, or not", labels=["outcome"])
        for outcome, count in status.swaps.items():
            swaps.add_metric([outcome], count)
        yield swaps
        if status.recording is not None:
            events = CounterMetricFamily("liveanchor_pose_log_events", "Events of the pose log", labels=["outcome"])
            events.add_metric(["written"], status.recording.written)
            events.add_metric(["lost"], status.recording.lost)
            yield events
            goes_on = not (status.recording.trouble or status.recording.swapped)
            yield GaugeMetricFamily("liveanchor_pose_log_open", "1 until recording ends", value=float(goes_on))
        yield InfoMetricFamily("liveanchor_build", "This build", value={"version": self._meter._version})
