"""What a hand pose is relative to: the mean hand, and the components that some files store instead of joint angles.

A user's SMPL-X file has both (`HandSpace.load`). Without one there is a relaxed hand of our own and no components.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.clips.convention import MOST_COEFFICIENT, numbers
from engine.clips.files import read_npz
from engine.errors import InputError
from engine.pose import check_array

HAND_DIMS = 45  # 15 joints: index, middle, pinky, ring, thumb, each from the knuckle outwards

# Degrees of flexion at knuckle, middle and end joint of a hand that hangs at rest, seen on one's own: little and ring
# finger curl more than the index. Joint frames are the body's, so fingers of the left hand (towards +X, palm down) curl
# about -Z; its thumb drops below the palm about +X, closes towards the fingers about +Y and bends a little.
_CURL = {"index": (15, 22, 15), "middle": (20, 28, 18), "pinky": (26, 28, 20), "ring": (24, 30, 18)}
_THUMB = ((20, 8, 0), (5, 10, 0), (0, 12, 0))


@dataclass(frozen=True)
class HandSpace:
    """Mean hands, and the directions of hand coefficients: `absolute = mean + coefficients @ components[:n]`."""

    mean_left: np.ndarray  # (45,) float32, axis-angle, radians
    mean_right: np.ndarray  # (45,)
    components_left: np.ndarray  # (45, 45) float32, a row a component; all zero where unknown
    components_right: np.ndarray  # (45, 45)

    def __post_init__(self) -> None:
        for side in ("left", "right"):
            check_array("hand space", f"mean_{side}", getattr(self, f"mean_{side}"), (HAND_DIMS,))
            check_array("hand space", f"components_{side}", getattr(self, f"components_{side}"), (HAND_DIMS, HAND_DIMS))

    @classmethod
    def relaxed(cls) -> HandSpace:
        """Relaxed hands and no components: coefficients leave the hands at rest."""
        left = np.radians([[(0, 0, -angle) for angle in angles] for angles in _CURL.values()] + [list(_THUMB)])
        right = left * (1.0, -1.0, -1.0)  # mirrored in the plane between left and right
        none = np.zeros((HAND_DIMS, HAND_DIMS), np.float32)
        return cls(left.reshape(-1).astype(np.float32), right.reshape(-1).astype(np.float32), none, none)

    @classmethod
    def load(cls, path: Path) -> HandSpace:
        """The hand space of a SMPL-X model file (`SMPLX_*.npz`). InputError where it has none."""
        keys = ("hands_meanl", "hands_meanr", "hands_componentsl", "hands_componentsr")
        arrays = read_npz(path, keys)
        for key in keys:
            if key not in arrays:
                raise InputError(str(path), key, "an array of a SMPL-X model file", "nothing (it is missing)")
        return cls(*(arrays[key].astype(np.float32) for key in keys))

    def absolute(self, where: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(T, 90) absolute axis-angle hands from relative joint angles (T, 45) or coefficients (T, n < 45) of each."""
        hands = []
        for name, values, mean, components in (
            ("left_hand_pose", left, self.mean_left, self.components_left),
            ("right_hand_pose", right, self.mean_right, self.components_right),
        ):
            count = values.shape[-1]
            if values.ndim != 2 or not 1 <= count <= HAND_DIMS:
                raise InputError(where, name, f"shape (T, 1 to {HAND_DIMS})", f"shape {values.shape}")
            values = numbers(where, name, values, MOST_COEFFICIENT, "angles or coefficients within 1000")
            hands.append(mean + (values if count == HAND_DIMS else values @ components[:count]))
        if len(hands[0]) != len(hands[1]):
            raise InputError(where, "right_hand_pose", f"{len(hands[0])} frames", f"{len(hands[1])} frames")
        return np.concatenate(hands, -1)
