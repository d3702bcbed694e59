"""What to show where motion is missing, and how to come back without a jump.

A missing pose is extrapolated for a moment with its speed running out, then held, then eased to idle. When motion
returns, the difference between what was shown and what is true fades out. Pure functions on poses and times; who sent
them, and when, is the jitter buffer's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.pose import PoseFrame
from engine.resample import interpolate
from engine.rotation import axis_angle_to_quaternion, inverse, multiply, quaternion_to_axis_angle, slerp
from engine.skeleton import EXPRESSION_DIMS, JOINTS, POSE_DIMS, ROOT, joint_slice
from streaming.clock import MS, NS

IDENTITY = np.array([0.0, 0.0, 0.0, 1.0], np.float32)


@dataclass(frozen=True)
class ConcealmentSettings:
    """Times after the last pose, ns, and the fastest motion that is believed."""

    extrapolate_ns: int = 100 * MS
    ease_from_ns: int = 400 * MS
    idle_ns: int = 1000 * MS  # idle from here on
    return_ns: int = 200 * MS  # over which a small difference fades out
    return_turn: float = 3.0  # radians a second: larger ones take longer
    turn: float = 15.0  # radians a second of a joint
    move: float = 3.0  # metres a second, and expression units in a tenth of a second


def standing(time_ns: int = 0) -> PoseFrame:
    """At ease: upright, arms hanging, face at rest."""
    pose = np.zeros(POSE_DIMS, np.float32)
    for side, sign in (("left", -1.0), ("right", 1.0)):
        pose[joint_slice(f"{side}_shoulder")] = (0.0, 0.0, sign * 1.15)
        pose[joint_slice(f"{side}_elbow")] = (0.0, sign * 0.25, 0.0)
    return PoseFrame(time_ns, pose, np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32))


def conceal(
    before: PoseFrame | None, last: PoseFrame, idle: PoseFrame, time_ns: int, settings: ConcealmentSettings
) -> tuple[PoseFrame, str]:
    """The pose at `time_ns` with nothing known after `last`, and what it is: extrapolated, held, easing or idle.

    `before` is the frame before `last` where it is near enough to tell a speed. Idle keeps the person's place: root
    orientation and translation stay.
    """
    missing = time_ns - last.time_ns
    if missing <= 0:
        return at(last, time_ns), "live"
    shown = last
    if before is not None:
        shown = _extrapolate(before, last, _run_out(missing, settings.extrapolate_ns), settings)
    if missing <= settings.extrapolate_ns:
        return at(shown, time_ns), "extrapolated"
    if missing <= settings.ease_from_ns:
        return at(shown, time_ns), "held"
    there = idle.pose.copy()
    there[ROOT] = shown.pose[ROOT]
    rest = PoseFrame(time_ns, there, idle.expression, shown.transl)
    if missing >= settings.idle_ns:
        return rest, "idle"
    share = (missing - settings.ease_from_ns) / (settings.idle_ns - settings.ease_from_ns)
    return blend(shown, rest, smoothstep(share), time_ns), "easing"


def blend(a: PoseFrame, b: PoseFrame, share: float, time_ns: int) -> PoseFrame:
    """From a (share 0) to b (share 1): joints turn the shorter way, the rest goes straight."""
    start = PoseFrame(0, a.pose, a.expression, a.transl)
    end = PoseFrame(NS, b.pose, b.expression, b.transl)
    return at(interpolate(start, end, round(share * NS)), time_ns)


def at(frame: PoseFrame, time_ns: int) -> PoseFrame:
    """The same pose at another time."""
    return PoseFrame(time_ns, frame.pose, frame.expression, frame.transl)


def smoothstep(x: float) -> float:
    """0 up to x = 0, 1 from x = 1 on, level at both ends."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns one pose into another."""

    turn: np.ndarray  # (55, 4) quaternions, applied after the joints' own
    expression: np.ndarray  # (100,)
    transl: np.ndarray  # (3,)

    @classmethod
    def between(cls, shown: PoseFrame, true: PoseFrame) -> Difference:
        """The difference that turns `true` into `shown`."""
        turn = multiply(_joints(shown.pose), inverse(_joints(true.pose)))
        return cls(turn, shown.expression - true.expression, shown.transl - true.transl)

    def fade_ns(self, settings: ConcealmentSettings) -> int:
        """How long it should take to fade out."""
        largest = 2.0 * float(np.arccos(np.clip(np.abs(self.turn[:, 3]).min(), 0.0, 1.0)))  # of the joints, radians
        return max(settings.return_ns, round(largest / settings.return_turn * NS))

    def apply(self, frame: PoseFrame, share: float) -> PoseFrame:
        """`frame` with this much of the difference, 0 to 1."""
        turned = multiply(slerp(np.broadcast_to(IDENTITY, self.turn.shape), self.turn, share), _joints(frame.pose))
        return PoseFrame(
            frame.time_ns,
            quaternion_to_axis_angle(turned).reshape(POSE_DIMS),
            frame.expression + np.float32(share) * self.expression,
            frame.transl + np.float32(share) * self.transl,
        )


def _joints(pose: np.ndarray) -> np.ndarray:
    return axis_angle_to_quaternion(pose.reshape(JOINTS, 3))  # (55, 4)


def _run_out(missing_ns: int, limit_ns: int) -> float:
    """Seconds of motion after `missing_ns`: full speed at first, none from `limit_ns` on."""
    t = min(missing_ns, limit_ns)
    return (t - t * t / (2 * limit_ns)) / NS


def _extrapolate(before: PoseFrame, last: PoseFrame, seconds: float, settings: ConcealmentSettings) -> PoseFrame:
    span = max(last.time_ns - before.time_ns, 1) / NS
    end = _joints(last.pose)
    speed = quaternion_to_axis_angle(multiply(end, inverse(_joints(before.pose)))) / span  # (55, 3) radians a second
    speed *= np.minimum(1.0, settings.turn / np.maximum(np.linalg.norm(speed, axis=-1, keepdims=True), 1e-9))
    pose = quaternion_to_axis_angle(multiply(axis_angle_to_quaternion(speed * seconds), end)).reshape(POSE_DIMS)
    flow = np.clip((last.expression - before.expression) / span, -10 * settings.move, 10 * settings.move)
    drift = np.clip((last.transl - before.transl) / span, -settings.move, settings.move)
    return PoseFrame(
        last.time_ns,
        pose,
        (last.expression + seconds * flow).astype(np.float32),
        (last.transl + seconds * drift).astype(np.float32),
    )
