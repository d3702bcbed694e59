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
from engine.training.studio.textures import dyed, muted, read_texture

SHIRT = 0.25  # linear light from which cloth is linen, and no dye takes
STRANDS = 1.3  # contrast of a hair texture's light and dark


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
    hair_color: tuple[float, float, float] = (0.03, 0.02, 0.014)  # linear light
    skin_color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # multiplies the skin's texture
    suit_color: tuple[float, float, float] | None = None  # linear light; None: as the texture is
    suit_contrast: float = 1.0  # below 1 softens the cloth's pattern


ANCHORS = {
    "noah": Identity("noah", "caucasian-male", "young_lightskinned_male_diffuse", "male_elegantsuit01", "short01", "blue", "009",
                     hair_color=(0.036, 0.023, 0.015)),
    "ada": Identity("ada", "caucasian-female", "young_lightskinned_female_diffuse", "female_elegantsuit01", "long01", "green", "001",
                    hair_color=(0.035, 0.020, 0.012), suit_color=(0.060, 0.012, 0.020), suit_contrast=0.12),
    "amara": Identity("amara", "african-female", "young_darkskinned_female_diffuse", "female_elegantsuit01", "ponytail01", "brown",
                      "006", hair_color=(0.014, 0.010, 0.008), suit_color=(0.010, 0.052, 0.055), suit_contrast=0.12),
    "kofi": Identity("kofi", "african-male", "young_darkskinned_male_diffuse", "male_elegantsuit01", "short04", "brown", "006",
                     hair_color=(0.012, 0.009, 0.008), suit_color=(0.012, 0.017, 0.036)),
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
    return Material(texture, identity.skin_color, roughness=0.54, specular=0.035, skin=1.0)


def _wardrobe(assets: Path, identity: Identity, suit: Garment) -> list[tuple[str, Garment, Material]]:
    """What is worn, and what sits in the face, with materials; see-through parts last."""
    folder = assets / "clothes" / identity.suit

    def texture(path: Path) -> np.ndarray | None:
        return read_texture(path) if path.exists() else None

    worn = read_texture(folder / f"{identity.suit}_diffuse.png")
    if identity.suit_color:
        worn = dyed(worn, identity.suit_color, identity.suit_contrast, SHIRT)
    cloth = Material(
        worn, alpha_mode="cutout", cut=0.5, roughness=0.85, specular=0.03,
        sheen=0.12, normal_map=texture(folder / f"{identity.suit}_normal.png"), ao_map=texture(folder / f"{identity.suit}_ao.png"),
        double_sided=True,
    )  # fmt: skip
    hair, brow = assets / "hair" / identity.hair, assets / "eyebrows" / identity.brows / f"eyebrow{identity.brows}"
    strands = dyed(read_texture(hair / f"{identity.hair}_diffuse.png"), identity.hair_color, STRANDS)
    eyes = muted(read_texture(assets / "eyes" / f"{identity.eyes}_eye.png"), 0.4)  # painted irises are too vivid
    return [
        ("suit", suit, cloth),
        ("teeth", read_garment(assets / "teeth" / "teeth_base.mhclo"),
         Material(read_texture(assets / "teeth" / "teeth.png"), (1.5, 1.33, 1.10), roughness=0.4, specular=0.03)),
        ("tongue", read_garment(assets / "tongue" / "tongue01.mhclo"),
         Material(read_texture(assets / "tongue" / "tongue01_diffuse.png"), (0.6, 0.5, 0.5), roughness=0.4)),
        ("eyes", read_garment(assets / "eyes" / "high-poly.mhclo"),
         Material(eyes, (0.8, 0.78, 0.76), alpha_mode="blend", roughness=0.08, specular=0.05, wet=True)),
        ("hair", read_garment(hair / f"{identity.hair}.mhclo"),
         Material(strands, alpha_mode="cutout", cut=0.7, roughness=0.5, specular=0.04, hair=1.0, double_sided=True)),
        ("brows", read_garment(brow.with_suffix(".mhclo")),
         Material(dyed(read_texture(brow.with_suffix(".png")), identity.hair_color, 0.5), (0.65, 0.65, 0.65),
                  alpha_mode="blend", roughness=0.7, specular=0.01, double_sided=True, bias=0.004)),
        ("lashes", read_garment(assets / "eyelashes" / identity.lashes / f"eyelashes{identity.lashes}.mhclo"),
         Material(read_texture(assets / "eyelashes" / identity.lashes / f"eyelashes{identity.lashes}.png"), alpha_mode="blend",
                  roughness=0.7, specular=0.01, double_sided=True, bias=0.001)),
    ]  # fmt: skip
