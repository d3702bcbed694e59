"""The stand-in body: our own mesh in the SMPL-X file format, for everyone who has not (yet) brought the licensed model.

It is stored small beside this package and expanded once, on first use, into an ordinary `SMPLX_NEUTRAL.npz` that the unmodified
`smplx` package loads. Its expression space is its own: named units instead of FLAME's components, 3.0 being full activation.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

from engine.clips.hands import HandSpace
from engine.home import cache_home
from engine.skeleton import EXPRESSION_DIMS, JOINTS, PARENTS

VERTICES, FACES, BETAS = 10475, 20908, 300

EXPRESSION_NAMES: tuple[str, ...] = (
    "mouth_open", "smile", "lips_part", "lips_wide", "lips_kiss", "lips_press", "lip_bite", "frown", "brow_up", "brow_down",
    "brow_inner_up", "blink_left", "blink_right", "squint", "eyes_wide", "cheeks_up", "nose_wrinkle", "nasolabial",
    "cheeks_puff", "cheeks_suck", "chin_forward", "chin_left", "mouth_left", "mouth_right", "smile_left", "smile_right",
    "brow_up_left", "brow_up_right", "brow_down_left", "brow_down_right", "upper_lip_up", "lower_lip_down", "lips_forward",
    "tongue_up", "tongue_out",
)  # fmt: skip
FULL_ACTIVATION = 3.0


def expression_index(name: str) -> int:
    """Which coefficient moves `name`; ValueError where there is none."""
    return EXPRESSION_NAMES.index(name)


def standin_path() -> Path:
    """The expanded `SMPLX_NEUTRAL.npz`, written to the user's cache on first use (about 110 MB, a second or two)."""
    packed = resources.files("engine") / "data" / "standin.npz"
    content = packed.read_bytes()
    target = cache_home() / f"standin-{hashlib.sha256(content).hexdigest()[:12]}" / "SMPLX_NEUTRAL.npz"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with resources.as_file(packed) as path:
            arrays = expand(path)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".npz")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for one of them
            os.replace(name, target)
        finally:
            Path(name).unlink(missing_ok=True)
    return target


def expand(path: Path) -> dict[str, np.ndarray]:
    """The packed file as every array that an SMPL-X model file holds, plus `paint` (V,) uint8, label colours."""
    with np.load(path, allow_pickle=False) as packed:
        small = {key: packed[key] for key in packed.files}
    shapedirs = np.zeros((VERTICES, 3, BETAS + EXPRESSION_DIMS), np.float32)
    betas = small["betas"].astype(np.float32) * small["betas_scale"]  # (V, 3, n)
    shapedirs[:, :, : betas.shape[2]] = betas
    moved = small["expression_vertices"]
    moves = small["expressions"].astype(np.float32) * small["expressions_scale"]  # (M, 3, n)
    shapedirs[moved, :, BETAS : BETAS + moves.shape[2]] = moves
    weights = np.zeros((VERTICES, JOINTS), np.float32)
    np.put_along_axis(weights, small["weight_joints"].astype(np.int64), small["weight_values"].astype(np.float32), 1)
    weights /= weights.sum(1, keepdims=True)
    regressor = np.zeros((JOINTS, VERTICES), np.float32)
    regressor[small["regressor_rows"], small["regressor_columns"]] = small["regressor_values"]
    hands = HandSpace.relaxed()
    components = np.eye(45, dtype=np.float32)  # coefficients are joint angles
    parents = np.array([p if p >= 0 else 2**32 - 1 for p in PARENTS], np.int64)
    return {
        "v_template": small["v_template"].astype(np.float32),
        "f": small["faces"].astype(np.int64),
        "shapedirs": shapedirs,
        "posedirs": np.zeros((VERTICES, 3, 9 * (JOINTS - 1)), np.float32),
        "J_regressor": regressor,
        "kintree_table": np.stack([parents, np.arange(JOINTS)]),
        "weights": weights,
        "hands_componentsl": components,
        "hands_componentsr": components,
        "hands_meanl": hands.mean_left,
        "hands_meanr": hands.mean_right,
        "lmk_faces_idx": small["landmark_faces"].astype(np.int64),
        "lmk_bary_coords": small["landmark_bary"].astype(np.float32),
        "dynamic_lmk_faces_idx": small["contour_faces"].astype(np.int64),
        "dynamic_lmk_bary_coords": small["contour_bary"].astype(np.float32),
        "paint": small["paint"],
        "identity_betas": small["identity_betas"],
        "identity_names": small["identity_names"],
    }
