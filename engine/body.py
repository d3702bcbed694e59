"""The SMPL-X body, live: linear blend skinning in numba from any SMPLX_*.npz, equal to the `smplx` package to 1e-5 m.

    T(b, e, p) = W( template + shape(b) + expression(e) + correctives(p), joints(b, e), p )      SMPL-X, eq. 1 and 2
    (Pavlakos et al. 2019; hands absolute, so the flat hand is zero; no hand mean is added)

What is known early is done early: a shape is folded into the template once, and weights, expression directions and pose
correctives keep only their non-zero entries. It knows neither cameras nor clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.body_file import ModelFile
from engine.errors import InputError
from engine.kernels import FAST, kernel
from engine.skeleton import EXPRESSION_DIMS, JOINTS, PARENTS, POSE_DIMS

LANDMARKS = 51  # iBUG 68 without the 17 of the contour
SHAPE_DIMS = 300
POSE_FEATURES = 9 * (JOINTS - 1)  # 486: every rotation matrix but the root's, minus the identity
# Directions shorter than this move no vertex by 1e-5 m, whatever the coefficients (metres a unit).
NEGLIGIBLE = 1e-8


@dataclass(frozen=True)
class BodyModel:
    """What a SMPL-X file holds, checked, with its sparse parts compacted. Shared by all shapes; never written to."""

    source: str
    template: np.ndarray  # (V, 3) float32, metres
    faces: np.ndarray  # (F, 3) int32, counter-clockwise seen from outside
    shape_dirs: np.ndarray  # (V, 3, S) float32, S = 300 (10 in files of the first release)
    joint_regressor: np.ndarray  # (55, V) float32
    joint_expression: np.ndarray  # (E, 55, 3) float64, how a unit of expression moves the joints at rest
    weights: np.ndarray  # (V, 55) float32
    left_hand_mean: np.ndarray  # (45,) float32: what `flat_hand_mean=False` clips are relative to
    right_hand_mean: np.ndarray  # (45,) float32
    landmark_faces: np.ndarray  # (51,) int32
    landmark_weights: np.ndarray  # (51, 3) float32, barycentric
    paint: np.ndarray  # (V,) uint8, our own label colours; zeros where the file has none
    expression_table: SparseDirections
    pose_table: SparseDirections  # nine components an entry: one block of rotation features a joint
    skin_table: SkinTable

    @classmethod
    def load(cls, path: Path | str) -> BodyModel:
        """Read any SMPLX_*.npz. Nothing in the file is ever unpickled. InputError names the key that is wrong."""
        with ModelFile(Path(path)) as file:
            template = file.floats("v_template", (None, 3))
            count = len(template)
            faces = file.indices("f", (None, 3), count)
            dirs = file.floats("shapedirs", (count, 3, None))
            shape_dirs, expression_dirs = _split_shape_dirs(file.name, dirs)
            pose_dirs = file.floats("posedirs", (count, 3, POSE_FEATURES))
            regressor = file.floats("J_regressor", (JOINTS, count))
            file.check_tree()
            weights = file.floats("weights", (count, JOINTS))
            joint_expression = np.einsum(
                "jv,vce->ejc",
                regressor.astype(np.float64),
                expression_dirs.astype(np.float64),
                optimize=True,
            )
            return cls(
                source=file.name, template=template, faces=faces, shape_dirs=shape_dirs, joint_regressor=regressor,
                joint_expression=np.ascontiguousarray(joint_expression), weights=weights,
                left_hand_mean=file.floats("hands_meanl", (45,)), right_hand_mean=file.floats("hands_meanr", (45,)),
                landmark_faces=file.indices("lmk_faces_idx", (LANDMARKS,), len(faces)),
                landmark_weights=file.floats("lmk_bary_coords", (LANDMARKS, 3)), paint=file.paint(count),
                expression_table=SparseDirections.from_dense(expression_dirs, 1),
                pose_table=SparseDirections.from_dense(pose_dirs, 9), skin_table=SkinTable.from_dense(weights),
            )  # fmt: skip

    def shaped(self, betas: np.ndarray | None = None) -> Body:
        """The body of one person. betas (n,), n <= 300; none: the mean shape. InputError on what does not fit."""
        b = np.zeros(0) if betas is None else np.asarray(betas, np.float64).reshape(-1)
        known = self.shape_dirs.shape[2]
        if len(b) > known and np.any(b[known:]):
            raise InputError(self.source, "betas", f"at most {known} coefficients", str(len(b)))
        if not np.isfinite(b).all():
            raise InputError(self.source, "betas", "finite numbers", "NaN or infinity")
        b = b[:known]
        return Body(self, self.template + self.shape_dirs[:, :, : len(b)].astype(np.float64) @ b)


class Body:
    """One person's body. Owns its scratch memory: one thread at a time."""

    def __init__(self, model: BodyModel, template: np.ndarray) -> None:
        """`template` (V, 3) float64: the model's, with the shape added."""
        self.model = model
        self.template = template.astype(np.float32)
        self.rest_joints = model.joint_regressor.astype(np.float64) @ template  # (55, 3)
        self._parents = np.array(PARENTS, np.int32)
        self._rotations = np.empty((JOINTS, 3, 3))
        self._world = np.empty((JOINTS, 3, 3))
        self._joints = np.empty((JOINTS, 3))
        self._posed = np.empty((JOINTS, 3))
        self._transforms = np.empty((JOINTS, 12), np.float32)
        self._shaped = np.empty_like(self.template)

    @property
    def faces(self) -> np.ndarray:
        """(F, 3) int32."""
        return self.model.faces

    @property
    def paint(self) -> np.ndarray:
        """(V,) uint8."""
        return self.model.paint

    def vertices(
        self,
        pose: np.ndarray,
        expression: np.ndarray,
        transl: np.ndarray,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Skin the body.

        pose (165,) axis-angle in radians, expression (n,) with n >= 0 (what the file does not have is left out), transl
        (3,) metres. Returns (V, 3) float32 metres; with `out` nothing is allocated. ValueError on wrong shapes.
        """
        self._pose_skeleton(pose, expression, transl)
        result = np.empty_like(self.template) if out is None else out
        if result.shape != self.template.shape or result.dtype != np.float32:
            raise ValueError(f"out must be float32 {self.template.shape}, not {result.dtype} {result.shape}")
        expressions, correctives, skin = (
            self.model.expression_table,
            self.model.pose_table,
            self.model.skin_table,
        )
        self._shaped[...] = self.template
        _add_expression(
            expression,
            expressions.starts,
            expressions.vertices,
            expressions.deltas,
            self._shaped,
        )
        if correctives.deltas.size:
            _add_correctives(
                self._rotations,
                correctives.starts,
                correctives.vertices,
                correctives.deltas,
                self._shaped,
            )
        _skin(
            self._shaped,
            skin.starts,
            skin.joints,
            skin.weights,
            self._transforms,
            result,
        )
        return result

    def joints(self, pose: np.ndarray, expression: np.ndarray, transl: np.ndarray) -> np.ndarray:
        """The 55 posed joints, (55, 3) float32 metres. Same arguments as `vertices`."""
        self._pose_skeleton(pose, expression, transl)
        return self._posed.astype(np.float32)

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """The 51 face landmarks (iBUG order, no contour) of posed vertices (V, 3): (51, 3) float32."""
        corners = vertices[self.faces[self.model.landmark_faces]]  # (51, 3, 3)
        return np.asarray(np.einsum("lkc,lk->lc", corners, self.model.landmark_weights), np.float32)

    def _pose_skeleton(self, pose: np.ndarray, expression: np.ndarray, transl: np.ndarray) -> None:
        if pose.shape != (POSE_DIMS,) or transl.shape != (3,) or expression.ndim != 1:
            raise ValueError(
                f"expected pose ({POSE_DIMS},), expression (n,), transl (3,); "
                f"got {pose.shape}, {expression.shape}, {transl.shape}"
            )
        _pose_chain(
            pose, expression, transl, self.rest_joints, self.model.joint_expression, self._parents,
            self._rotations, self._world, self._joints, self._posed, self._transforms,
        )  # fmt: skip


@dataclass(frozen=True)
class SparseDirections:
    """Blend directions by coefficient (or block of coefficients): only the vertices that it moves."""

    starts: np.ndarray  # (K + 1,) int64 into the entries below
    vertices: np.ndarray  # (N,) int32
    deltas: np.ndarray  # (N, 3, block) float32, metres a unit

    @classmethod
    def from_dense(cls, dirs: np.ndarray, block: int) -> SparseDirections:
        """dirs (V, 3, K * block); entries that are negligible in the whole block are dropped."""
        count, _, columns = dirs.shape
        blocks = dirs.reshape(count, 3, columns // block, block)
        moved = (np.abs(blocks) > NEGLIGIBLE).any(axis=(1, 3))  # (V, K)
        coefficient, vertex = np.nonzero(moved.T)
        deltas = np.ascontiguousarray(blocks[vertex, :, coefficient])
        starts = np.concatenate([[0], np.cumsum(moved.sum(axis=0))]).astype(np.int64)
        return cls(starts, vertex.astype(np.int32), deltas)


@dataclass(frozen=True)
class SkinTable:
    """Skinning weights by vertex: only the joints that move it."""

    starts: np.ndarray  # (V + 1,) int32
    joints: np.ndarray  # (N,) int32
    weights: np.ndarray  # (N,) float32

    @classmethod
    def from_dense(cls, weights: np.ndarray) -> SkinTable:
        """weights (V, 55)."""
        used = np.abs(weights) > NEGLIGIBLE
        vertex, joint = np.nonzero(used)
        starts = np.concatenate([[0], np.cumsum(used.sum(axis=1))]).astype(np.int32)
        return cls(starts, joint.astype(np.int32), np.ascontiguousarray(weights[vertex, joint]))


def _split_shape_dirs(where: str, dirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3, S) shape and (V, 3, E) expression directions, split where the `smplx` package splits them."""
    columns = dirs.shape[2]
    if columns >= SHAPE_DIMS + EXPRESSION_DIMS:
        return dirs[:, :, :SHAPE_DIMS], dirs[:, :, SHAPE_DIMS : SHAPE_DIMS + EXPRESSION_DIMS]
    if columns == 20:  # the first release: 10 and 10
        return dirs[:, :, :10], dirs[:, :, 10:]
    raise InputError(where, "shapedirs", "400 columns (or 20 in old files)", f"{columns} columns")


# --- kernels ---


@kernel()
def _rodrigues(x: float, y: float, z: float, out: np.ndarray) -> None:
    """Rotation matrix of an axis-angle vector, into out (3, 3)."""
    square = x * x + y * y + z * z
    angle = np.sqrt(square)
    if angle < 1e-4:  # the series, exact to double precision here
        a, b = 1.0 - square / 6.0, 0.5 - square / 24.0
    else:
        a, b = np.sin(angle) / angle, (1.0 - np.cos(angle)) / square
    out[0, 0] = 1.0 - b * (y * y + z * z)
    out[0, 1] = b * x * y - a * z
    out[0, 2] = b * x * z + a * y
    out[1, 0] = b * x * y + a * z
    out[1, 1] = 1.0 - b * (x * x + z * z)
    out[1, 2] = b * y * z - a * x
    out[2, 0] = b * x * z - a * y
    out[2, 1] = b * y * z + a * x
    out[2, 2] = 1.0 - b * (x * x + y * y)


@kernel()
def _pose_chain(
    pose: np.ndarray, expression: np.ndarray, transl: np.ndarray, rest_joints: np.ndarray, joint_expression: np.ndarray,
    parents: np.ndarray, rotations: np.ndarray, world: np.ndarray, joints: np.ndarray, posed: np.ndarray,
    transforms: np.ndarray,
) -> None:  # fmt: skip
    """Walk the chain: rotations and world rotations (55, 3, 3), posed joints (55, 3), skinning transforms (55, 12)."""
    joints[...] = rest_joints
    for k in range(min(len(expression), len(joint_expression))):
        if expression[k] != 0.0:
            joints += expression[k] * joint_expression[k]
    for j in range(len(parents)):
        _rodrigues(pose[3 * j], pose[3 * j + 1], pose[3 * j + 2], rotations[j])
        p = parents[j]
        if p < 0:
            world[j] = rotations[j]
            for r in range(3):
                posed[j, r] = joints[j, r] + transl[r]
        else:
            for r in range(3):
                posed[j, r] = posed[p, r]
                for c in range(3):
                    posed[j, r] += world[p, r, c] * (joints[j, c] - joints[p, c])
                    world[j, r, c] = 0.0
                    for k in range(3):
                        world[j, r, c] += world[p, r, k] * rotations[j, k, c]
        for r in range(3):
            shift = posed[j, r]
            for c in range(3):
                transforms[j, 4 * r + c] = world[j, r, c]
                shift -= world[j, r, c] * joints[j, c]
            transforms[j, 4 * r + 3] = shift


@kernel(FAST)
def _add_expression(
    expression: np.ndarray,
    starts: np.ndarray,
    vertices: np.ndarray,
    deltas: np.ndarray,
    shaped: np.ndarray,
) -> None:
    """shaped (V, 3) += expression (n,) @ directions."""
    for k in range(min(len(expression), len(starts) - 1)):
        amount = np.float32(expression[k])
        if amount == 0.0:
            continue
        for i in range(starts[k], starts[k + 1]):
            v = vertices[i]
            shaped[v, 0] += amount * deltas[i, 0, 0]
            shaped[v, 1] += amount * deltas[i, 1, 0]
            shaped[v, 2] += amount * deltas[i, 2, 0]


@kernel(FAST)
def _add_correctives(
    rotations: np.ndarray,
    starts: np.ndarray,
    vertices: np.ndarray,
    deltas: np.ndarray,
    shaped: np.ndarray,
) -> None:
    """shaped (V, 3) += (R - I) of every joint but the root @ its directions; joints at rest cost nothing."""
    feature = np.empty(9, np.float32)
    for j in range(len(starts) - 1):
        largest = 0.0
        for r in range(3):
            for c in range(3):
                value = rotations[j + 1, r, c] - (1.0 if r == c else 0.0)
                feature[3 * r + c] = value
                largest = max(largest, abs(value))
        if largest < 1e-9:
            continue
        for i in range(starts[j], starts[j + 1]):
            v = vertices[i]
            for axis in range(3):
                total = np.float32(0.0)
                for k in range(9):
                    total += feature[k] * deltas[i, axis, k]
                shaped[v, axis] += total


@kernel(FAST)
def _skin(
    shaped: np.ndarray,
    starts: np.ndarray,
    joints: np.ndarray,
    weights: np.ndarray,
    transforms: np.ndarray,
    out: np.ndarray,
) -> None:
    """out (V, 3) = sum over joints of weight * transform @ vertex."""
    for v in range(len(shaped)):
        x, y, z = shaped[v, 0], shaped[v, 1], shaped[v, 2]
        sx, sy, sz = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for i in range(starts[v], starts[v + 1]):
            w, t = weights[i], transforms[joints[i]]
            sx += w * (t[0] * x + t[1] * y + t[2] * z + t[3])
            sy += w * (t[4] * x + t[5] * y + t[6] * z + t[7])
            sz += w * (t[8] * x + t[9] * y + t[10] * z + t[11])
        out[v, 0], out[v, 1], out[v, 2] = sx, sy, sz
