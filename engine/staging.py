"""How root motion is staged for an anchor, who stays in the picture and faces the camera however the performer walks.

`anchored`: the pelvis moves a few centimetres about a place that slowly follows the performer, and turns a little about
a front that does the same; the first frame defines both. Leaning is kept, within limits. `free`: as captured. Only the
root changes.

    stage = Staging(avatar.root)
    frame = stage(frame)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from engine import rotation
from engine.avatar import RootFields
from engine.pose import PoseFrame
from engine.skeleton import ROOT

UP = np.array([0.0, 1.0, 0.0])
PLACE_SECONDS = 1.5  # how slowly the place follows
FRONT_SECONDS = 4.0  # how slowly the front follows
LONGEST_STEP_S = 0.25  # a longer gap counts as this much


@dataclass(frozen=True)
class _Stage:
    time_ns: int
    place: np.ndarray  # (3,) metres, in the performer's world
    heading: float  # radians about the vertical, counted on past a half turn
    front: float  # radians, what counts as facing the camera


@dataclass
class Staging:
    """Stages one stream. Small state: a place, a heading and a front."""

    fields: RootFields = field(default_factory=RootFields)
    _state: _Stage | None = field(default=None, init=False, repr=False)

    def __call__(self, frame: PoseFrame) -> PoseFrame:
        """The frame with its root staged; the frame itself where the policy is `free`."""
        if self.fields.policy == "free":
            return frame
        swing, yaw = _split(frame.pose[ROOT])
        self._state = _advance(self._state, frame, yaw, self.fields)
        place, front = self._state.place, self._state.front
        home = rotation.about(UP, -front)
        turn = _soft(self._state.heading - front, self.fields.turn)
        lean = _shortened(rotation.rotate(home, swing), self.fields.lean)
        root = rotation.multiply(rotation.axis_angle_to_quaternion(lean), rotation.about(UP, turn))
        pose = frame.pose.copy()
        pose[ROOT] = rotation.quaternion_to_axis_angle(root)
        transl = _shortened(rotation.rotate(home, frame.transl - place), self.fields.reach)
        return replace(frame, pose=pose, transl=transl.astype(np.float32))

    def reset(self) -> None:
        """The next frame defines place and front anew."""
        self._state = None


def _split(root: np.ndarray) -> tuple[np.ndarray, float]:
    """A root rotation (3,) as a lean, an axis-angle (3,) about a level axis, after a turn about the vertical."""
    swing, twist = rotation.swing_twist(rotation.axis_angle_to_quaternion(root), UP)
    return rotation.quaternion_to_axis_angle(swing), 2.0 * float(np.arctan2(twist[1], twist[3]))


def _advance(state: _Stage | None, frame: PoseFrame, yaw: float, fields: RootFields) -> _Stage:
    if state is None:
        return _Stage(frame.time_ns, frame.transl.astype(np.float64), yaw, yaw)
    seconds = min(max((frame.time_ns - state.time_ns) / 1e9, 0.0), LONGEST_STEP_S)
    heading = state.heading + float(np.angle(np.exp(1j * (yaw - state.heading))))
    # Beyond three times the limit the soft clamp is flat, so place and front are dragged along unseen.
    ahead = (heading - state.front) * np.exp(-seconds / FRONT_SECONDS)
    ahead = float(np.clip(ahead, -3.0 * fields.turn, 3.0 * fields.turn))
    away = (frame.transl - state.place) * np.exp(-seconds / PLACE_SECONDS)
    away = away * min(1.0, 3.0 * fields.reach / max(float(np.linalg.norm(away)), 1e-9))
    return _Stage(frame.time_ns, frame.transl - away, heading, heading - ahead)


def _soft(value: float, limit: float) -> float:
    """`value` where it is small, never beyond `limit`."""
    return limit * float(np.tanh(value / limit)) if limit > 0 else 0.0


def _shortened(vector: np.ndarray, limit: float) -> np.ndarray:
    """The same direction, its length softly kept within `limit`."""
    length = float(np.linalg.norm(vector))
    return vector * (_soft(length, limit) / length) if length > 1e-9 else vector
