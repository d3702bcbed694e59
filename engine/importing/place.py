"""Where the person stands before the camera of the pictures that the networks learnt from, and in which body."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine import rotation
from engine.avatar import STANDIN, BodyFields
from engine.body import BodyModel
from engine.camera import Camera
from engine.clips import detect_format, read_clip
from engine.clips.convention import PELVIS, UPRIGHT_FROM_CAMERA
from engine.clips.show import read_show_camera
from engine.condition import authors_camera
from engine.errors import InputError
from engine.standin import standin_path

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Place:
    """Camera and body of an avatar."""

    camera: Camera
    body: BodyFields


def read_place(fit: Path | None, translation: Vector | None, body: Path | None, size: int) -> Place:
    """From a SHOW fit of the person, or from the camera's translation alone, as Make-Your-Anchor's render script has it.

    `translation`: metres, camera coordinates (X right, Y down, Z away); it comes before the fit's own. `body`: the user's
    SMPLX_*.npz, to whose shapes the fit's betas belong; without one the stand-in in its mean shape. `size` of the picture.
    """
    model = BodyModel.load(body or standin_path())
    named = BodyFields(str(body.resolve())) if body is not None else BodyFields(STANDIN)
    if fit is None:
        if translation is None:
            raise InputError("avatar import", "camera", "--camera X Y Z, or --fit with a SHOW .pkl", "neither")
        return Place(authors_camera(np.array(translation), size), named)
    clip = read_clip(fit)
    if translation is None:
        if detect_format(fit) != "show":
            raise InputError(str(fit), "camera", "a SHOW .pkl, which knows its camera, or --camera X Y Z", "neither")
        translation = read_show_camera(fit).translation
    camera = authors_camera(np.array(translation), size)
    betas = clip.betas if body is not None else None
    # The clip was turned upright about a mean pelvis, this body has its own; and live, the first frame's place is the
    # origin, where the networks saw the person at the clip's.
    off = model.shaped(betas).rest_joints[0] - PELVIS
    moved = rotation.rotate(UPRIGHT_FROM_CAMERA, off) - off + np.median(clip.transl, axis=0)
    view = camera.view.copy()
    view[:3, 3] += view[:3, :3] @ moved
    shape = () if betas is None else tuple(float(beta) for beta in betas)
    return Place(replace(camera, view=view), replace(named, betas=shape))
