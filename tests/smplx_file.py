"""Random but valid SMPL-X model files, for tests that must not depend on one particular body."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from engine.skeleton import JOINTS, PARENTS

VERTICES = 9930  # the least that the `smplx` package accepts: it picks fixed vertex ids up to 9929
SMALL = 100  # enough for everything but the package


def random_arrays(vertices: int = VERTICES) -> dict[str, np.ndarray]:
    """Every key that the `smplx` package needs; all 300 betas, 100 expressions and 486 correctives move something."""
    return dict(_random_arrays(vertices))


@functools.cache
def _random_arrays(vertices: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    parents = np.array([2**32 - 1, *PARENTS[1:]], np.int64)
    weights = np.zeros((vertices, JOINTS), np.float32)
    for _ in range(4):
        weights[np.arange(vertices), rng.integers(0, JOINTS, vertices)] += rng.random(vertices, np.float32) + 0.01
    weights /= weights.sum(1, keepdims=True)
    regressor = np.zeros((JOINTS, vertices), np.float32)
    for joint in range(JOINTS):
        regressor[joint, rng.choice(vertices, 12, replace=False)] = rng.dirichlet(np.ones(12))
    posedirs = rng.standard_normal((vertices, 3, 9 * (JOINTS - 1)), np.float32) * np.float32(2e-3)
    posedirs[rng.random(vertices) < 0.5] = 0
    return {
        "v_template": rng.uniform(-0.9, 0.9, (vertices, 3)).astype(np.float32),
        "f": rng.integers(0, vertices, (2 * vertices, 3)).astype(np.uint32),
        "shapedirs": rng.standard_normal((vertices, 3, 400), np.float32) * np.float32(2e-3),
        "posedirs": posedirs,
        "J_regressor": regressor,
        "kintree_table": np.stack([parents, np.arange(JOINTS)]),
        "weights": weights,
        "hands_componentsl": np.eye(45, dtype=np.float32),
        "hands_componentsr": np.eye(45, dtype=np.float32),
        "hands_meanl": rng.normal(0, 0.2, 45).astype(np.float32),
        "hands_meanr": rng.normal(0, 0.2, 45).astype(np.float32),
        "lmk_faces_idx": rng.integers(0, 2 * vertices, 51),
        "lmk_bary_coords": rng.dirichlet(np.ones(3), 51),
        "dynamic_lmk_faces_idx": rng.integers(0, 2 * vertices, (79, 17)),
        "dynamic_lmk_bary_coords": rng.dirichlet(np.ones(3), (79, 17)),
        # Real files carry pickled leftovers beside the data: a reader must leave them alone.
        "unused": np.array([{"not": "numbers"}, None], dtype=object),
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write `arrays` as a model file."""
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path
