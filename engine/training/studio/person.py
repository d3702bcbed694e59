"""A dressed MakeHuman person who moves with SMPL-X poses: the parts that a renderer paints, and where they are in a frame.

Skin, suit, hair, eyes, teeth all hang on one skeleton, the stand-in's, with the same weights as the stand-in, so that mesh and
picture coincide. It knows nothing of cameras and lights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.rotation import axis_angle_to_matrix, axis_angle_to_quaternion, quaternion_to_matrix, slerp, swing_twist
from engine.skeleton import JOINTS, PARENTS, joint_index, joint_slice
from engine.standin import EXPRESSION_NAMES, FULL_ACTIVATION
from engine.training.studio.makehuman import Garment, Mesh, read_face_units, read_garment
from engine.training.studio.materials import Material
from engine.training.studio.renderer import Part
from engine.training.studio.rig import HELPED, Skin, expression_moves, find_skeleton, merge_weights, unpose
from engine.training.studio.standin_mesh import Base
from engine.training.studio.textures import read_texture


@dataclass(frozen=True)
class Identity:
    """Who it is: names of files in the asset folder."""

    name: str
    people: str  # one of standin_mesh.PEOPLE
    skin: str
    suit: str
    hair: str
    eyes: str = "brown"
    brows: str = "001"
    lashes: str = "01"
    hair_color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    skin_color: tuple[float, float, float] = (1.0, 1.0, 1.0)


ANCHORS = {
    "noah": Identity("noah", "caucasian-male", "young_lightskinned_male_diffuse", "male_elegantsuit01", "short01", "blue", "009",
                     hair_color=(0.62, 0.52, 0.46)),
    "ada": Identity("ada", "caucasian-female", "young_lightskinned_female_diffuse", "female_elegantsuit01", "bob01", "green", "009"),
    "amara": Identity("amara", "african-female", "young_darkskinned_female_diffuse", "female_casualsuit02", "bob02", "brown", "003"),
    "kofi": Identity("kofi", "african-male", "young_darkskinned_male_diffuse", "male_casualsuit04", "short04", "brown", "006"),
}  # fmt: skip


class Person:
    """Parts of one identity, and their vertices for a pose."""

    def __init__(self, assets: Path, identity: Identity) -> None:
        self.identity = identity
        base = Base.read(assets)
        rest = base.person(identity.people)
        count = len(rest)
        self._skeleton = find_skeleton(base.rig, rest)
        weights = merge_weights(base.rig, count)
        moves = expression_moves(base.rig, rest, read_face_units(assets / "rig"))
        suit = read_garment(assets / "clothes" / identity.suit / f"{identity.suit}.mhclo")
        body = _without(base.mesh.only("body"), suit.hides)
        skin = Skin(unpose(rest, weights, self._skeleton), weights, moves)
        self.parts = [Part("skin", body.faces, body.uv, body.uv_faces, _skin_material(assets, identity))]
        self._skins = [skin]
        for name, garment, material in _wardrobe(assets, identity, suit):
            mesh = garment.mesh
            self.parts.append(Part(name, mesh.faces, mesh.uv, mesh.uv_faces, material))
            carried = garment.carry(weights)
            carried = np.clip(carried, 0, None)
            carried /= carried.sum(1, keepdims=True)
            fitted = garment.fit(rest)
            self._skins.append(
                Skin(
                    unpose(fitted, carried, self._skeleton), carried,
                    np.stack([garment.carry(m) for m in moves]),
                )
            )  # fmt: skip

    def vertices(self, pose: np.ndarray, expression: np.ndarray, transl: np.ndarray) -> list[np.ndarray]:
        """Per part (V, 3) float32, metres, for a pose (165,), an expression (100,) and a translation (3,)."""
        transforms = _transforms(self._skeleton.tpose, np.asarray(pose, np.float64))
        amount = np.asarray(expression, np.float64)[: len(EXPRESSION_NAMES)] / FULL_ACTIVATION
        active = np.nonzero(np.abs(amount) > 1e-4)[0]
        out = []
        for skin in self._skins:
            shaped = skin.template + np.tensordot(amount[active], skin.expressions[active], 1)
            blend = np.tensordot(skin.weights, transforms, 1)  # (V, 3, 4)
            moved = np.einsum("vab,vb->va", blend[:, :, :3], shaped) + blend[:, :, 3] + transl
            out.append(moved.astype(np.float32))
        return out


def _transforms(joints: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """(57, 3, 4): T-pose to world for the joints (55, 3) and the twist helpers."""
    local = axis_angle_to_matrix(pose.reshape(JOINTS, 3))
    turn, place = np.empty((JOINTS, 3, 3)), np.empty((JOINTS, 3))
    turn[0], place[0] = local[0], joints[0]
    for joint in range(1, JOINTS):
        parent = PARENTS[joint]
        turn[joint] = turn[parent] @ local[joint]
        place[joint] = place[parent] + turn[parent] @ (joints[joint] - joints[parent])
    turns = [*turn]
    places = [*(place - np.einsum("jab,jb->ja", turn, joints))]
    for elbow, wrist in HELPED.values():
        at = joint_index(elbow)
        _, twist = swing_twist(axis_angle_to_quaternion(pose[joint_slice(wrist)]), np.array([1.0, 0.0, 0.0]))
        half = turn[at] @ quaternion_to_matrix(slerp(np.array([0.0, 0.0, 0.0, 1.0]), twist, 0.5))
        turns.append(half)
        places.append(place[at] - half @ joints[at])
    return np.concatenate([np.stack(turns), np.stack(places)[..., None]], axis=2)


def _without(mesh: Mesh, hidden: np.ndarray) -> Mesh:
    """The mesh without the faces whose corners are all hidden."""
    keep = ~np.isin(mesh.faces, hidden).all(1)
    return Mesh(mesh.vertices, mesh.faces[keep], mesh.uv, mesh.uv_faces[keep], mesh.groups[keep])


def _skin_material(assets: Path, identity: Identity) -> Material:
    texture = read_texture(assets / "skins" / f"{identity.skin}.png")
    return Material(texture, identity.skin_color, roughness=0.5, specular=0.035, skin=1.0)


def _wardrobe(assets: Path, identity: Identity, suit: Garment) -> list[tuple[str, Garment, Material]]:
    """What is worn, and what sits in the face, with materials; see-through parts last."""
    folder = assets / "clothes" / identity.suit

    def texture(path: Path) -> np.ndarray | None:
        return read_texture(path) if path.exists() else None

    cloth = Material(
        read_texture(folder / f"{identity.suit}_diffuse.png"), alpha_mode="cutout", cut=0.5, roughness=0.85, specular=0.03,
        sheen=0.12, normal_map=texture(folder / f"{identity.suit}_normal.png"), ao_map=texture(folder / f"{identity.suit}_ao.png"),
        double_sided=True,
    )  # fmt: skip
    brow = identity.brows
    hair = assets / "hair" / identity.hair
    return [
        ("suit", suit, cloth),
        ("teeth", read_garment(assets / "teeth" / "teeth_base.mhclo"),
         Material(read_texture(assets / "teeth" / "teeth.png"), (2.0, 1.85, 1.65), roughness=0.25, specular=0.05)),
        ("tongue", read_garment(assets / "tongue" / "tongue01.mhclo"),
         Material(read_texture(assets / "tongue" / "tongue01_diffuse.png"), (0.6, 0.5, 0.5), roughness=0.4)),
        ("eyes", read_garment(assets / "eyes" / "high-poly.mhclo"),
         Material(read_texture(assets / "eyes" / f"{identity.eyes}_eye.png"), (0.85, 0.85, 0.85), alpha_mode="blend",
                  roughness=0.08, specular=0.05, wet=True)),
        ("hair", read_garment(hair / f"{identity.hair}.mhclo"),
         Material(read_texture(hair / f"{identity.hair}_diffuse.png"), identity.hair_color, alpha_mode="cutout", cut=0.7,
                  roughness=0.5, specular=0.04, hair=1.0, double_sided=True)),
        ("brows", read_garment(assets / "eyebrows" / brow / f"eyebrow{brow}.mhclo"),
         Material(read_texture(assets / "eyebrows" / brow / f"eyebrow{brow}.png"), identity.hair_color, alpha_mode="blend",
                  roughness=0.7, specular=0.01, double_sided=True, bias=0.004)),
        ("lashes", read_garment(assets / "eyelashes" / identity.lashes / f"eyelashes{identity.lashes}.mhclo"),
         Material(read_texture(assets / "eyelashes" / identity.lashes / f"eyelashes{identity.lashes}.png"), alpha_mode="blend",
                  roughness=0.7, specular=0.01, double_sided=True, bias=0.001)),
    ]  # fmt: skip
