"""Reads MakeHuman's CC0 assets: meshes, targets, the rig with its weights, face pose units, and garments bound to the base.

Everything leaves here in metres, Y up, facing +Z. It knows nothing of SMPL-X, of cameras or of how a picture is painted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InputError

DECIMETRE = 0.1


@dataclass(frozen=True)
class Mesh:
    """A triangulated OBJ: quads are split, texture coordinates keep their own indices."""

    vertices: np.ndarray  # (V, 3) float64, metres
    faces: np.ndarray  # (F, 3) int32
    uv: np.ndarray  # (N, 2) float32, origin at the bottom left
    uv_faces: np.ndarray  # (F, 3) int32
    groups: np.ndarray  # (F,) str, the OBJ group that a face came from

    def only(self, *groups: str) -> Mesh:
        """The same vertices with only the faces of `groups`."""
        keep = np.isin(self.groups, groups)
        return Mesh(self.vertices, self.faces[keep], self.uv, self.uv_faces[keep], self.groups[keep])


def read_obj(path: Path) -> Mesh:
    """Reads vertices, texture coordinates, groups and polygonal faces; InputError where the file is broken."""
    vertices, uv, faces, uv_faces, groups = [], [], [], [], []
    group = ""
    for number, line in enumerate(_lines(path), 1):
        tag, _, rest = line.partition(" ")
        try:
            if tag == "v":
                vertices.append([float(x) for x in rest.split()[:3]])
            elif tag == "vt":
                uv.append([float(x) for x in rest.split()[:2]])
            elif tag == "g":
                group = rest.strip()
            elif tag == "f":
                corners = [[*c.split("/"), "", ""][:2] for c in rest.split()]
                points = [int(c[0]) - 1 for c in corners]
                texels = [int(c[1]) - 1 if c[1] else 0 for c in corners]
                for k in range(1, len(points) - 1):
                    faces.append([points[0], points[k], points[k + 1]])
                    uv_faces.append([texels[0], texels[k], texels[k + 1]])
                    groups.append(group)
        except ValueError as error:
            raise InputError(str(path), f"line {number}", "numbers", line[:40]) from error
    if not faces:
        raise InputError(str(path), "faces", "at least one", "none")
    return Mesh(
        np.array(vertices) * DECIMETRE, np.array(faces, np.int32), np.array(uv or [[0, 0]], np.float32),
        np.array(uv_faces, np.int32), np.array(groups),
    )  # fmt: skip


def read_target(path: Path, count: int) -> np.ndarray:
    """A sparse morph target as displacements (count, 3) in metres."""
    moves = np.zeros((count, 3))
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if len(words) != 4:
            raise InputError(str(path), f"line {number}", "vertex dx dy dz", line[:40])
        moves[int(words[0])] = [float(x) * DECIMETRE for x in words[1:]]
    return moves


@dataclass(frozen=True)
class Rig:
    """MakeHuman's default rig: bones with their parents, and joints as means of base vertices."""

    parents: dict[str, str | None]
    heads: dict[str, list[int]]  # bone -> base vertices whose mean is its head
    tails: dict[str, list[int]]
    weights: dict[str, tuple[np.ndarray, np.ndarray]]  # bone -> (vertices, weights)

    def head(self, bone: str, vertices: np.ndarray) -> np.ndarray:
        """Where `bone` begins on a shaped base mesh (V, 3)."""
        return np.asarray(vertices[self.heads[bone]].mean(0))

    def tail(self, bone: str, vertices: np.ndarray) -> np.ndarray:
        """Where `bone` ends on a shaped base mesh (V, 3)."""
        return np.asarray(vertices[self.tails[bone]].mean(0))

    def ordered(self) -> list[str]:
        """Bones, parents before children."""
        done: list[str] = []
        waiting = list(self.parents)
        while waiting:
            ready = [b for b in waiting if self.parents[b] is None or self.parents[b] in done]
            done += ready
            waiting = [b for b in waiting if b not in ready]
        return done


def read_rig(folder: Path) -> Rig:
    """`default.mhskel` and `default_weights.mhw` of the folder `rig`."""
    skeleton = json.loads((folder / "default.mhskel").read_text())
    bones, joints = skeleton["bones"], skeleton["joints"]
    weights = json.loads((folder / "default_weights.mhw").read_text())["weights"]
    return Rig(
        parents={name: bone["parent"] for name, bone in bones.items()},
        heads={name: joints[bone["head"]] for name, bone in bones.items()},
        tails={name: joints[bone["tail"]] for name, bone in bones.items()},
        weights={
            bone: (np.array([v for v, _ in rows], np.int64), np.array([w for _, w in rows]))
            for bone, rows in weights.items()
        },
    )


def read_face_units(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Face pose units: name -> bone -> world-aligned local rotation (3, 3), bones that rest left out.

    The animation file counts Z up and -Y forward, with channels in the order X, Y, Z: rotations are carried over to Y up.
    """
    names = json.loads((folder / "face-poseunits.json").read_text())["framemapping"]
    bones: list[str] = []
    lines = iter((folder / "face-poseunits.bvh").read_text().splitlines())
    for line in lines:
        words = line.split()
        if words[:1] in (["ROOT"], ["JOINT"]):
            bones.append(words[1])
        if words[:1] == ["Frame"]:
            break
    to_y_up = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    units: dict[str, dict[str, np.ndarray]] = {}
    for name, line in zip(names, lines, strict=False):
        angles = np.radians(np.array([float(x) for x in line.split()]))[3:].reshape(-1, 3)
        units[name] = {
            bone: to_y_up @ _euler_xyz(a) @ to_y_up.T
            for bone, a in zip(bones, angles, strict=True)
            if np.abs(a).max() > 1e-4
        }
    return units


@dataclass(frozen=True)
class Garment:
    """A mesh bound to the base by rows of three vertices, three weights and an offset (`.mhclo`)."""

    mesh: Mesh
    corners: np.ndarray  # (V, 3) base vertices
    weights: np.ndarray  # (V, 3)
    offsets: np.ndarray  # (V, 3), in units of the scale
    scales: tuple[tuple[int, int, float], ...]  # for x, y, z: two base vertices and their rest distance in decimetres
    hides: np.ndarray  # base vertices under it

    def fit(self, base: np.ndarray) -> np.ndarray:
        """The garment on a shaped base mesh (V, 3), metres."""
        scale = [abs(base[a, axis] - base[b, axis]) / rest for axis, (a, b, rest) in enumerate(self.scales)]
        return (base[self.corners] * self.weights[..., None]).sum(1) + self.offsets * np.array(scale)

    def carry(self, attribute: np.ndarray) -> np.ndarray:
        """A per-vertex attribute of the base (V, ...) carried over to the garment."""
        weights = self.weights.reshape(*self.weights.shape, *[1] * (attribute.ndim - 1))
        return np.asarray((attribute[self.corners] * weights).sum(1))


def read_garment(path: Path) -> Garment:
    """A `.mhclo` file and the OBJ that it names."""
    rows: list[list[float]] = []
    hides: list[int] = []
    scales = {"x_scale": (0, 0, 1.0), "y_scale": (0, 0, 1.0), "z_scale": (0, 0, 1.0)}
    obj, section = "", ""
    for line in _lines(path):
        words = line.split()
        if words[0] in ("verts", "delete_verts"):
            section = words[0]
        elif words[0] == "obj_file":
            obj = words[1]
        elif words[0] in scales:
            scales[words[0]] = (int(words[1]), int(words[2]), float(words[3]))
        elif section == "verts" and _is_number(words[0]):
            values = [float(w) for w in words]
            rows.append(values if len(values) >= 9 else [values[0]] * 3 + [1.0, 0, 0, 0, 0, 0])
        elif section == "delete_verts" and _is_number(words[0]):
            hides += _ranges(words)
    if not obj or not rows:
        raise InputError(str(path), "obj_file, verts", "a garment bound to the base mesh", "none")
    mesh = read_obj(path.parent / obj)
    if len(rows) != len(mesh.vertices):
        raise InputError(str(path), "verts", f"{len(mesh.vertices)} rows", str(len(rows)))
    table = np.array([r[:9] for r in rows])
    return Garment(
        mesh, table[:, :3].astype(np.int64), table[:, 3:6], table[:, 6:9],
        (scales["x_scale"], scales["y_scale"], scales["z_scale"]), np.array(sorted(set(hides)), np.int64),
    )  # fmt: skip


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(str(path), "file", "a MakeHuman asset", "no such file")
    text = path.read_text(encoding="utf-8", errors="replace")
    return [s for line in text.splitlines() if (s := line.strip()) and not s.startswith("#")]


def _is_number(word: str) -> bool:
    return word.lstrip("-").replace(".", "", 1).isdigit()


def _ranges(words: list[str]) -> list[int]:
    """`3 5 - 8 10` -> 3 5 6 7 8 10."""
    out: list[int] = []
    k = 0
    while k < len(words):
        if k + 2 < len(words) and words[k + 1] == "-":
            out += range(int(words[k]), int(words[k + 2]) + 1)
            k += 3
        else:
            out.append(int(words[k]))
            k += 1
    return out


def _euler_xyz(angles: np.ndarray) -> np.ndarray:
    """Rotation of BVH channels X, Y, Z (applied in that order to a column vector from the right)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)
