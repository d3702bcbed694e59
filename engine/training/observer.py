"""What the mesh says about a clip's pictures: the condition, where person, head and hands are, the face's crop and mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine import face, hand
from engine.body import Body, BodyModel
from engine.camera import Camera
from engine.condition import Condition, Style
from engine.errors import InputError
from engine.rasterizer import EMPTY
from engine.standin import standin_path
from engine.training.dataset import ClipFields, Observation, Observer, read_motion, standin_or

# Parts of a box's longer side by which it grows: landmarks end at the brows, joints within the fingers.
HEAD_GROWTH, HAND_GROWTH = 0.45, 0.35  # to every side
HAIR_GROWTH = 0.3  # upwards, further


def mesh_observer(folder: Path, fields: ClipFields, frames: int, style: Style = "normals") -> Observer:
    """The observer of the clip in `folder`, whose motion must have one sample for each of its `frames` pictures."""
    motion = read_motion(folder, fields)
    if len(motion) != frames:
        expected = f"{frames} samples, one for each picture"
        raise InputError(str(folder / fields.motion), "poses", expected, f"{len(motion)}", "is the video cut off?")
    model = BodyModel.load(standin_or(fields.body, folder) or standin_path())
    body, camera = model.shaped(np.asarray(fields.body.betas)), fields.camera.camera()
    condition, region = Condition(body, camera, style), hand.hand_region(body)

    def observe(i: int) -> Observation:
        pose, expression, transl = motion.poses[i], motion.expressions[i], motion.transl[i]
        vertices = body.vertices(pose, expression, transl)
        picture = condition.render(vertices)
        if not picture.any():
            raise InputError(str(folder), f"frame {i}", "a person in the picture", "nobody where motion and camera say")
        joints = body.joints(pose, expression, transl)
        triangle = condition.raster.triangle
        hand_mask = np.where(triangle == EMPTY, 0, region[triangle]).astype(np.uint8)
        boxes = _boxes(body, vertices, camera.project(joints)[:, :2], camera)
        transform = face.align(face.five_points(body, vertices, camera))
        return Observation(
            picture, boxes, transform, condition.face_mask() > 0, hand.crops(body, camera, joints), hand_mask
        )

    return observe


def _boxes(body: Body, vertices: np.ndarray, joints: np.ndarray, camera: Camera) -> np.ndarray:
    """(4, 4) float32: person, head, left hand, right hand, clipped to the picture; an empty box where a part is outside."""
    whole = camera.project(vertices)[:, :2]
    boxes = [
        _around(whole, 0.02),
        _around(camera.project(body.landmarks(vertices))[:, :2], HEAD_GROWTH, HAIR_GROWTH),
        *(_around(joints[hand.hand_joints(side)], HAND_GROWTH) for side in hand.SIDES),
    ]
    return np.clip(np.array(boxes, np.float32), 0, (camera.width, camera.height) * 2)


def _around(points: np.ndarray, growth: float, upwards: float = 0.0) -> tuple[float, float, float, float]:
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max())
    grow = growth * side
    return (low[0] - grow, low[1] - grow - upwards * side, high[0] + grow, high[1] + grow)
