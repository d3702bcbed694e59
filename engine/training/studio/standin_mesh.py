"""Makes the stand-in body out of MakeHuman's base mesh: exactly 10,475 vertices and 20,908 faces, packed small.

Skin, tongue and teeth are thinned parts of the base mesh (head and hands keep their density), the eyeballs are spheres with
rings for iris and pupil. The template is the mean of six people; betas 0 to 4 span them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls
from scipy.spatial import cKDTree

from engine.skeleton import JOINTS, joint_index
from engine.standin import EXPRESSION_NAMES, FACES, VERTICES
from engine.training.studio.decimate import collapse
from engine.training.studio.landmarks import contour, landmarks
from engine.training.studio.makehuman import Mesh, Rig, read_face_units, read_obj, read_rig, read_target
from engine.training.studio.rig import (
    TWIST_LEFT,
    TWIST_RIGHT,
    Skeleton,
    expression_moves,
    find_skeleton,
    merge_weights,
    unpose,
)

PEOPLE = tuple(f"{race}-{gender}" for race in ("caucasian", "african", "asian") for gender in ("male", "female"))
RINGS, SPOKES = 11, 20  # of an eyeball
PUPIL, IRIS = 0.24, 0.50  # radians from its front

# label colours of the condition: far apart where parts touch
SKIN, LIPS, INSIDE, TEETH, TONGUE, SCLERA, IRIS_PAINT, PUPIL_PAINT, LIDS = 128, 190, 20, 255, 60, 235, 70, 0, 100
FINGERS = {"thumb": 60, "index": 200, "middle": 90, "ring": 230, "pinky": 150}


@dataclass(frozen=True)
class Base:
    """MakeHuman's base mesh with its rig."""

    mesh: Mesh
    rig: Rig
    folder: Path

    @classmethod
    def read(cls, assets: Path) -> Base:
        return cls(read_obj(assets / "base" / "base.obj"), read_rig(assets / "rig"), assets)

    def person(self, name: str) -> np.ndarray:
        """Base vertices (V, 3) of one of PEOPLE, at rest."""
        race, gender = name.split("-")
        macro = self.folder / "targets" / "macro"
        count = len(self.mesh.vertices)
        return np.asarray(
            self.mesh.vertices
            + read_target(macro / f"{race}-{gender}-young.target", count)
            + read_target(macro / f"universal-{gender}-young-averagemuscle-averageweight.target", count)
        )


@dataclass(frozen=True)
class Shape:
    """One person in the T-pose: kept base vertices followed by the eyeballs."""

    vertices: np.ndarray  # (V, 3)
    skeleton: Skeleton


def make_standin(assets: Path, out: Path) -> None:
    """Builds the packed stand-in from the asset folder and writes it to `out` (.npz)."""
    base = Base.read(assets)
    weights = merge_weights(base.rig, len(base.mesh.vertices))
    first = base.person(PEOPLE[0])
    skin = _thin(base, weights, first)
    teeth = [_close(base.mesh.only(group).faces) for group in ("helper-upper-teeth", "helper-lower-teeth")]
    rest = np.concatenate([base.mesh.only("helper-tongue").faces, *teeth])
    kept = np.unique(np.concatenate([skin.ravel(), rest.ravel()]))
    renumber = np.full(len(weights), -1)
    renumber[kept] = np.arange(len(kept))
    eyes, eye_faces, eye_paint = _eyeballs(base, len(kept))
    faces = np.concatenate([renumber[skin], renumber[rest], eye_faces])
    spare = len(faces) - FACES
    hidden = _hidden(base, skin, weights, first, spare)
    faces = np.delete(faces, hidden, axis=0)
    shapes = [_shape(base, weights, kept, eyes, base.person(name)) for name in PEOPLE]
    bound = np.concatenate([weights[kept], _eye_weights(len(eyes[0]))])
    template, betas, identity = _span(np.stack([s.vertices for s in shapes]))
    moves = expression_moves(base.rig, first, read_face_units(assets / "rig"))[:, kept]
    moves = np.concatenate([moves, np.zeros((len(moves), len(eye_paint), 3))], axis=1)
    moved = np.nonzero(np.abs(moves).max((0, 2)) > 1e-5)[0]
    if template.shape != (VERTICES, 3) or faces.shape != (FACES, 3):
        raise AssertionError(f"stand-in came out as {template.shape}, {faces.shape}")
    paint = np.concatenate([_paint(base, kept, bound[: len(kept)], first), eye_paint])
    eyes_at = [np.mean([s.skeleton.tpose[joint_index(f"{side}_eye")] for s in shapes], 0) for side in ("left", "right")]
    landmark_faces, landmark_bary = landmarks(template, faces, (eyes_at[0], eyes_at[1]), bound)
    contour_faces, contour_bary = contour(template, faces, bound)
    rows, columns, values = _regress_joints(np.stack([s.vertices for s in shapes]), shapes, bound)
    joints, shares = _compact(bound)
    betas_scale, expressions_scale = np.abs(betas).max() / 32767, np.abs(moves).max() / 3.0 / 32767
    np.savez_compressed(
        out, v_template=template.astype(np.float32), faces=faces.astype(np.uint16),
        betas=np.round(betas / betas_scale).astype(np.int16), betas_scale=np.float32(betas_scale),
        expression_vertices=moved.astype(np.uint16),
        expressions=np.round(moves[:, moved].transpose(1, 2, 0) / 3.0 / expressions_scale).astype(np.int16),
        expressions_scale=np.float32(expressions_scale),
        weight_joints=joints, weight_values=shares, regressor_rows=rows.astype(np.uint8),
        regressor_columns=columns.astype(np.uint16), regressor_values=values.astype(np.float32),
        landmark_faces=landmark_faces.astype(np.uint16), landmark_bary=landmark_bary.astype(np.float32),
        contour_faces=contour_faces.astype(np.uint16), contour_bary=contour_bary.astype(np.float32),
        paint=paint.astype(np.uint8), identity_betas=identity.astype(np.float32), identity_names=np.array(PEOPLE),
    )  # fmt: skip


def _thin(base: Base, weights: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Faces of the skin with as many vertices left as the other parts leave room for."""
    body = base.mesh.only("body").faces
    others = sum(
        len(np.unique(base.mesh.only(g).faces)) for g in ("helper-tongue", "helper-upper-teeth", "helper-lower-teeth")
    )
    room = VERTICES - others - 2 * (2 + (RINGS - 1) * SPOKES)
    cost = np.full(len(weights), 1.0)
    joints = weights.argmax(1)
    legs = [joint_index(f"{s}_{j}") for s in ("left", "right") for j in ("hip", "knee", "ankle", "foot")]
    cost[np.isin(joints, [*legs, 0])] = 0.02
    cost[np.isin(joints, [joint_index(j) for j in ("spine1", "spine2")])] = 0.2
    face = np.isin(joints, [joint_index("head"), joint_index("jaw")]) & (person[:, 2] > 0.06)
    hands = (joints >= 25) | np.isin(joints, [joint_index("left_wrist"), joint_index("right_wrist")])
    cost[face | hands] = np.inf
    return collapse(person, body, cost, room)


def _close(faces: np.ndarray) -> np.ndarray:
    """A sheet with one boundary loop, closed by a strip across the loop."""
    edges = {(int(f[k]), int(f[(k + 1) % 3])) for f in faces for k in range(3)}
    follow = {b: a for a, b in edges if (b, a) not in edges}
    loop = [next(iter(follow))]
    while follow[loop[-1]] != loop[0]:
        loop.append(follow[loop[-1]])
    low, high, strip = 0, len(loop) - 1, []
    while high - low > 1:
        strip.append([loop[low], loop[low + 1], loop[high]])
        low += 1
        if high - low > 1:
            strip.append([loop[low], loop[high - 1], loop[high]])
            high -= 1
    return np.concatenate([faces, np.array(strip, faces.dtype)])


def _eyeballs(base: Base, start: int) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Directions (n, 3) of both eyeballs' vertices, their faces numbered from `start`, and paint."""
    crowded = np.array([0.0, 0.10, 0.18, PUPIL, PUPIL + 0.03, 0.36, IRIS, IRIS + 0.04, 0.75, 1.1, 1.7, np.pi])
    spokes = np.arange(SPOKES) * 2 * np.pi / SPOKES
    rings = [[np.array([0.0, 0.0, 1.0])]]
    rings += [
        [np.array([np.sin(r) * np.cos(a), np.sin(r) * np.sin(a), np.cos(r)]) for a in spokes] for r in crowded[1:RINGS]
    ]
    rings += [[np.array([0.0, 0.0, -1.0])]]
    points = np.array([p for ring in rings for p in ring])
    angle = np.concatenate([[0.0], np.repeat(crowded[1:RINGS], SPOKES), [np.pi]])
    paint = np.where(angle <= PUPIL, PUPIL_PAINT, np.where(angle <= IRIS, IRIS_PAINT, SCLERA))
    faces = []
    for k in range(SPOKES):
        after = (k + 1) % SPOKES
        faces.append([0, 1 + k, 1 + after])
        for ring in range(RINGS - 2):
            a, b = 1 + ring * SPOKES, 1 + (ring + 1) * SPOKES
            faces += [[a + k, b + k, b + after], [a + k, b + after, a + after]]
        last = 1 + (RINGS - 2) * SPOKES
        faces.append([last + k, len(points) - 1, last + after])
    both = np.concatenate([np.array(faces) + start, np.array(faces) + start + len(points)])
    return (points, points), both, np.concatenate([paint, paint])


def _eye_weights(count: int) -> np.ndarray:
    weights = np.zeros((2 * count, JOINTS + 2))
    weights[:count, joint_index("left_eye")] = 1.0
    weights[count:, joint_index("right_eye")] = 1.0
    return weights


def _shape(
    base: Base, weights: np.ndarray, kept: np.ndarray, eyes: tuple[np.ndarray, ...], person: np.ndarray
) -> Shape:
    skeleton = find_skeleton(base.rig, person)
    skin = unpose(person[kept], weights[kept], skeleton)
    balls = []
    for side, directions in zip(("l", "r"), eyes, strict=True):
        helper = person[np.unique(base.mesh.only(f"helper-{side}-eye").faces)]
        centre = 0.5 * (helper.min(0) + helper.max(0))
        radius = 0.25 * (np.ptp(helper[:, 0]) + np.ptp(helper[:, 1]))
        joint = joint_index("left_eye" if side == "l" else "right_eye")
        shift = skeleton.tpose[joint] - skeleton.rest[joint]
        balls.append(centre + shift + radius * directions)
    return Shape(np.concatenate([skin, *balls]), skeleton)


def _span(people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (V, 3), directions (V, 3, n-1) of unit variance, and each person's coordinates (n, n-1)."""
    mean = people.mean(0)
    u, s, v = np.linalg.svd((people - mean).reshape(len(people), -1), full_matrices=False)
    rank = len(people) - 1
    scale = np.sqrt(len(people))
    return mean, (v[:rank] * s[:rank, None] / scale).reshape(rank, *mean.shape).transpose(1, 2, 0), u[:, :rank] * scale


def _hidden(base: Base, skin: np.ndarray, weights: np.ndarray, person: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` faces deep in the throat, where the open mouth never lets one look."""
    if count < 0:
        raise AssertionError(f"{-count} faces too few")
    centre = person[skin].mean(1)
    throat = person[np.unique(base.mesh.only("helper-tongue").faces)]
    target = np.array([0.0, throat[:, 1].mean(), throat[:, 2].min() - 0.01])
    return np.argsort(np.linalg.norm(centre - target, axis=1))[:count]


def _paint(base: Base, kept: np.ndarray, weights: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Label colour of each kept base vertex."""
    paint = np.full(len(kept), SKIN)
    at = person[kept]
    joints = weights.argmax(1)
    for finger, value in FINGERS.items():
        for side in ("left", "right"):
            numbers = [joint_index(f"{side}_{finger}{k}") for k in (1, 2, 3)]
            paint[weights[:, numbers].sum(1) > 0.5] = value
    lips = _lips(base, person)
    paint[np.isin(kept, lips)] = LIPS
    # the mouth bag: head and jaw skin that lies behind the lips
    mouth = person[lips]
    inner = (
        np.isin(joints, [joint_index("head"), joint_index("jaw")])
        & (np.abs(at[:, 0]) < 0.035)
        & (at[:, 1] > mouth[:, 1].min() - 0.015)
        & (at[:, 1] < mouth[:, 1].max() + 0.02)
        & _inside_mouth(base, kept, person)
    )
    paint[inner] = INSIDE
    paint[np.isin(kept, base.mesh.only("helper-upper-teeth").faces)] = TEETH
    paint[np.isin(kept, base.mesh.only("helper-lower-teeth").faces)] = TEETH
    paint[np.isin(kept, base.mesh.only("helper-tongue").faces)] = TONGUE
    return paint


def _lips(base: Base, person: np.ndarray) -> np.ndarray:
    """Base vertices of the red of the lips: what the mouth's own muscles hold most."""
    lips: set[int] = set()
    for bone, (vertices, values) in base.rig.weights.items():
        if bone.split(".")[0] in ("oris01", "oris03", "oris05", "oris07"):
            lips |= set(vertices[values > 0.55].tolist())
    return np.array(sorted(lips), np.int64)


def _inside_mouth(base: Base, kept: np.ndarray, person: np.ndarray) -> np.ndarray:
    """(n,) bool: skin whose normal looks into the head, at the mouth."""
    faces = base.mesh.only("body").faces
    normals = np.zeros_like(person)
    cross = np.cross(person[faces[:, 1]] - person[faces[:, 0]], person[faces[:, 2]] - person[faces[:, 0]])
    for k in range(3):
        np.add.at(normals, faces[:, k], cross)
    tongue = person[np.unique(base.mesh.only("helper-tongue").faces)]
    centre = 0.5 * (tongue.min(0) + tongue.max(0))
    inward = np.einsum("va,va->v", normals, centre - person) > 0
    return np.asarray((inward & (np.linalg.norm(person - centre, axis=1) < 0.06))[kept])


def _regress_joints(
    people: np.ndarray, shapes: list[Shape], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse, non-negative rows that give every person's joints from that person's vertices."""
    rows, columns, values = [], [], []
    mean = people.mean(0)
    for joint in range(JOINTS):
        targets = np.stack([s.skeleton.tpose[joint] for s in shapes])
        _, near = cKDTree(mean).query(targets.mean(0), k=160)
        near = np.sort(near)
        if np.abs(mean[near] - targets.mean(0)).min() > 0.2:
            raise AssertionError(f"joint {joint} lies far from the skin")
        system = people[:, near].transpose(0, 2, 1).reshape(-1, len(near))
        weight = 50.0  # of the rows that make the coefficients sum to one
        solution, _ = nnls(np.vstack([system, np.full((1, len(near)), weight)]), np.append(targets.ravel(), weight))
        keep = solution > 1e-6
        rows.append(np.full(keep.sum(), joint))
        columns.append(near[keep])
        values.append(solution[keep] / solution[keep].sum())
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)


def _compact(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four largest joint weights of each vertex; the twist helpers' share goes to the elbows."""
    merged = weights[:, :JOINTS].copy()
    merged[:, joint_index("left_elbow")] += weights[:, TWIST_LEFT]
    merged[:, joint_index("right_elbow")] += weights[:, TWIST_RIGHT]
    order = np.argsort(-merged, axis=1)[:, :4]
    return order.astype(np.uint8), np.take_along_axis(merged, order, 1).astype(np.float32)


assert len(EXPRESSION_NAMES) <= 100
