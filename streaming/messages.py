"""What a sender tells the server: a pose sample or a piece of speech, with its capture time on the sender's clock.

Sources make these from bytes (`streaming.sources.wire`, OSC, ARKit, ...); the jitter buffer takes them. They know no
transport.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.pose import PoseFrame

SAMPLE_RATE = 48_000  # of all sound in streaming, mono or stereo int16
MAX_BETAS = 300


@dataclass(frozen=True, slots=True)
class PoseMessage:
    """One pose sample of one sender. A part that the sender leaves out is None; at least one part is there."""

    session: int  # u32, drawn at random by the sender each time it starts
    sequence: int  # u32, one up with each pose message, wraps
    capture_ns: int  # on the sender's clock
    pose: np.ndarray | None = None  # (165,) float32, axis-angle, radians
    expression: np.ndarray | None = None  # (100,) float32
    transl: np.ndarray | None = None  # (3,) float32, metres
    betas: np.ndarray | None = None  # (n,) float32, n <= 300

    @classmethod
    def of(cls, frame: PoseFrame, session: int, sequence: int, betas: np.ndarray | None = None) -> PoseMessage:
        """The message for a whole frame; its time is taken as the sender's."""
        return cls(session, sequence, frame.time_ns, frame.pose, frame.expression, frame.transl, betas)


@dataclass(frozen=True, slots=True)
class SpeechMessage:
    """A piece of speech of one sender."""

    session: int  # the same as in the sender's pose messages
    sequence: int  # u32, counts speech messages
    capture_ns: int  # of the first sample, on the sender's clock
    samples: np.ndarray  # (n,) int16, mono, 48 kHz
