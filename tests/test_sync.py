"""Lips and sound together: sender, jitter buffer, a slow model, pacer and delay line, all on simulated clocks."""

from __future__ import annotations

import numpy as np
import pytest

from engine.picture import Picture
from streaming.clock import MS, NS
from streaming.delay_line import DelayLine
from streaming.jitter import JitterBuffer
from streaming.messages import SAMPLE_RATE, PoseMessage, SpeechMessage
from streaming.pacer import Pacer
from tests.simulated_network import Path

TICK = 40 * MS
PULL = SAMPLE_RATE * TICK // NS
BLANK = np.zeros((1, 1, 3), np.uint8)


def simulate(path: Path, pipeline_ms: tuple[float, float, float]) -> tuple[list[float], JitterBuffer, Pacer, DelayLine]:
    """Sound's capture time less that of the picture on show, in ms, at each tick at which both run.

    `pipeline_ms`: the model's mean time before and after half-way, and its spread. Speech pauses 0.4 s in every 5 s.
    """
    random = np.random.default_rng(path.seed)
    buffer, pacer, line = JitterBuffer(), Pacer(), DelayLine()
    inbox: list[tuple[int, PoseMessage | SpeechMessage]] = list(path.arrivals())
    tone = np.full(480, 5000, np.int16)
    for i in range(round(path.seconds * 100)):
        true_ns = i * 10 * MS
        piece = SpeechMessage(1, i, path.sender_time(true_ns), tone * (true_ns % (5 * NS) < 4600 * MS))
        inbox.append((true_ns + 25 * MS + round(random.exponential(path.jitter_ns)), piece))
    inbox.sort(key=lambda a: a[0])
    finished: list[tuple[int, Picture]] = []
    apart: list[float] = []
    done = 0
    for tick in range(round(path.seconds * NS / TICK)):
        now = tick * TICK
        while done < len(inbox) and inbox[done][0] <= now:
            at, one = inbox[done]
            done += 1
            if isinstance(one, SpeechMessage):
                capture_ns = buffer.align(one, at)
                if capture_ns is not None:
                    line.push(one.samples, capture_ns)
            else:
                buffer.push(one, at)
        frame = buffer.sample(now)
        if frame is not None:
            mean = pipeline_ms[0] if now < path.seconds * NS / 2 else pipeline_ms[1]
            took = mean + pipeline_ms[2] * random.random()
            finished.append((now + round(took * MS), Picture(tick, 0, frame.time_ns, BLANK, BLANK)))
        while finished and finished[0][0] <= now:
            pacer.push(finished[0][1], finished.pop(0)[0])
        shown = pacer.take(now, line.silent)
        line.pull(PULL, now, pacer.delay_ns)
        if shown is not None and line._playing is not None:
            heard_ns = line._playing.time_at(int(line._at)) - TICK  # what the pull began with
            apart.append((heard_ns - shown.picture.capture_ns) / MS)
    return apart, buffer, pacer, line


@pytest.mark.parametrize(("skew", "seed"), [(-200e-6, 0), (200e-6, 1)])
def test_lips_and_sound_stay_together(skew: float, seed: int) -> None:
    """A skewed clock, jitter, 5 % loss, and a model that becomes 80 ms slower half-way."""
    path = Path(60, seed, skew, jitter_ns=8 * MS, loss=0.05)
    apart, buffer, pacer, line = simulate(path, (60.0, 140.0, 20.0))
    half = len(apart) // 2
    settled = np.array(apart[200 : half - 5] + apart[half + 200 :])
    # ITU-R BT.1359: detectable from 45 ms early or 125 ms late on
    assert settled.min() > -40 and settled.max() < 40
    assert abs(np.median(settled)) < 20
    assert line.counters.jumps >= 1  # the slower model's delay, taken up in a pause
    assert pacer.counters.skipped + pacer.counters.starved + pacer.counters.waiting < 80
    assert line.counters.forced_jumps == 0 and buffer.counters.restarts == 0
    assert line.counters.silence < SAMPLE_RATE * 3
