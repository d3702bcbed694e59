"""What one film shows: motion to learn from, thinned out, and motion to be judged by that no training sees.

Every picture has its tick, its time in frames: trainings of windows need to know which pictures are true neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.avatar import RootFields
from engine.errors import InputError
from engine.pose import PoseClip
from engine.resample import resample
from engine.staging import Staging
from engine.training.dataset import Ranges, SplitFields
from engine.training.talk.gestures import explore

FPS = 25.0
APART = 5  # frames of exploring motion between two pictures: neighbours teach little
SLOTS = 7  # of them, in which one picture has its true neighbour beside it: a quarter of eight pictures stand in pairs
EXPLORED, TALK = "explored", "talk"  # names of held-out parts
JUDGED_EXPLORED = 100  # pictures of another seed's exploring motion
OTHER_SEED = 966
CUT = 1000  # ticks between two pieces, so that nothing takes one's end and the next one's start for neighbours


@dataclass(frozen=True)
class Script:
    """What a film shows, a sample for every picture."""

    motion: PoseClip
    ticks: np.ndarray  # (N,) int64, rising: when each sample was, in frames at the motion's rate
    splits: SplitFields


def lessons(
    explored: int = 1500,
    talk: PoseClip | None = None,
    judged: Mapping[str, PoseClip] | None = None,
    *,
    judged_frames: int = 150,
    seed: int = 11,
) -> Script:
    """`explored` pictures of exploring motion, a quarter of them in pairs, and two of every four of the talk's first nine tenths.

    Held out by name: `explored`, another seed's, thinned; `talk`, its last tenth, in a row; and the first `judged_frames` in
    a row of every clip of `judged`, staged as a live engine would. InputError where two parts have the same name.
    """
    at = _paired(explored)
    taught = [_Piece(explore(int(at[-1]) + 1, FPS, seed), at)]
    held: dict[str, _Piece] = {}
    if talk is not None:
        talk = resample(talk, FPS)
        learnt = len(talk) * 9 // 10
        taught.append(_Piece(talk, np.array([i for i in range(learnt) if i % 4 < 2])))
        held[TALK] = _Piece(talk, np.arange(learnt, len(talk)))
    other = explore(JUDGED_EXPLORED * APART, FPS, seed + OTHER_SEED)
    held[EXPLORED] = _Piece(other, np.arange(0, len(other), APART))
    for name, clip in (judged or {}).items():
        if name in held:
            raise InputError(clip.source, "name", f"other than {', '.join(held)}", name)
        staged = stage(resample(clip, FPS).first(judged_frames / FPS))
        held[name] = _Piece(staged, np.arange(len(staged)))
    return _joined(taught, held)


def stage(motion: PoseClip, root: RootFields | None = None) -> PoseClip:
    """`motion` with its root staged as a live engine does by default."""
    staging = Staging(root or RootFields())
    frames = [staging(frame) for frame in motion.frames()]
    return PoseClip(
        motion.fps, np.stack([f.pose for f in frames]).astype(np.float32), motion.expressions,
        np.stack([f.transl for f in frames]).astype(np.float32), source=motion.source,
    )  # fmt: skip


@dataclass(frozen=True)
class _Piece:
    motion: PoseClip
    at: np.ndarray  # (n,) int: the samples that are filmed


def _paired(count: int) -> np.ndarray:
    """(count,) frames: one in APART, and of every eight one that directly follows another."""
    pattern = np.array([0, 1, *range(APART, SLOTS * APART, APART)])
    rounds = -(-count // len(pattern))
    return np.concatenate([pattern + SLOTS * APART * i for i in range(rounds)])[:count]


def _joined(taught: Sequence[_Piece], held: Mapping[str, _Piece]) -> Script:
    pieces = [*taught, *held.values()]
    ends = [int(end) for end in np.cumsum([len(piece.at) for piece in pieces])]
    first = len(taught)
    parts: dict[str, Ranges] = {name: ((ends[i - 1], ends[i]),) for i, name in enumerate(held, first)}
    ticks, now = [], 0
    for piece in pieces:
        ticks.append(now + piece.at.astype(np.int64))
        now = int(ticks[-1][-1]) + CUT
    motion = PoseClip(
        FPS,
        np.concatenate([piece.motion.poses[piece.at] for piece in pieces]),
        np.concatenate([piece.motion.expressions[piece.at] for piece in pieces]),
        np.concatenate([piece.motion.transl[piece.at] for piece in pieces]),
        source="studio",
    )
    return Script(motion, np.concatenate(ticks), SplitFields(((0, ends[first - 1]),), parts))
