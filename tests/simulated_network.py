"""A sender with a clock and a motion of its own, and a network that delays, loses, repeats: for tests of streaming."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS, joint_slice
from streaming.clock import MS, NS
from streaming.messages import PoseMessage

FPS = 30
BASE = 15 * MS  # smallest delay of the simulated path
HEAD = joint_slice("head")


def motion(seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A known motion: pose (165,), expression (100,), transl (3,) at a moment. The head nods at up to 1.5 rad/s."""
    pose = np.zeros(POSE_DIMS, np.float32)
    pose[HEAD] = (0.5 * np.sin(3.0 * seconds), 0.2 * np.cos(2.0 * seconds), 0.0)
    expression = np.zeros(EXPRESSION_DIMS, np.float32)
    expression[0] = 1.5 + 1.5 * np.sin(7.0 * seconds)
    return pose, expression, np.array([0.1 * np.sin(seconds), 0.0, 0.0], np.float32)


def message(seconds: float, sequence: int, capture_ns: int, session: int = 1) -> PoseMessage:
    return PoseMessage(session, sequence % (1 << 32), capture_ns, *motion(seconds))


@dataclass(frozen=True)
class Path:
    """A simulated sender and network. True time is the server's."""

    seconds: float
    seed: int = 0
    skew: float = 0.0  # the sender's clock runs 1 + skew times as fast
    offset_ns: int = -7_000 * NS
    jitter_ns: int = 10 * MS  # mean of an exponential
    loss: float = 0.0
    twice: float = 0.0
    session: int = 1
    begin_ns: int = 0
    sequence: int = 0

    def sender_time(self, true_ns: int) -> int:
        return self.offset_ns + round(true_ns * (1.0 + self.skew))

    def arrivals(self) -> Iterator[tuple[int, PoseMessage]]:
        random = np.random.default_rng(self.seed)
        for i in range(round(self.seconds * FPS)):
            true_ns = self.begin_ns + i * NS // FPS
            one = message(true_ns / NS, self.sequence + i, self.sender_time(true_ns), self.session)
            for _ in range(1 + (random.random() < self.twice)):
                if random.random() >= self.loss:
                    yield true_ns + BASE + round(random.exponential(self.jitter_ns)), one
