"""What is judged: the held-out frames of studio clips by part, and where the mesh's landmarks lie in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.body import BodyModel
from engine.clips import read_clip
from engine.condition import keypoints
from engine.errors import InputError
from engine.pose import PoseClip
from engine.skeleton import joint_index
from engine.standin import standin_path
from engine.training.dataset import MOTION, Clip, standin_or

# The joints of the upper body, which is what the picture shows.
BODY = (
    "spine3", "neck", "head", "left_collar", "right_collar", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip

Marks = dict[str, np.ndarray]  # face (N, 51, 2), body (N, 11, 2), left_hand and right_hand (N, 16, 2): float32 pixels


@dataclass(frozen=True)
class Part:
    """Frames of one clip that are judged together."""

    name: str
    clip: Clip
    motion: PoseClip
    indices: np.ndarray  # (N,) int, frames of the clip
    follows: np.ndarray  # (N,) bool: where a picture directly follows the one before it in time
    marks: Marks  # where the mesh says that things are

    def __len__(self) -> int:
        return len(self.indices)

    def runs(self) -> Iterator[np.ndarray]:
        """Positions of pictures in a row, run by run."""
        yield from np.split(np.arange(len(self)), np.nonzero(~self.follows)[0][1:])

    @property
    def moves(self) -> bool:
        """Whether most of its pictures stand in a row."""
        return bool(self.follows.mean() > 0.5)


def held_out(folders: Sequence[Path], most: int | None = None) -> list[Part]:
    """Every held-out part of the clips, of at most `most` frames each. InputError where there is none."""
    parts = []
    for folder in folders:
        clip, motion = Clip.open(folder), read_clip(Path(folder) / MOTION)
        for name in clip.fields.splits.held_out:
            indices = clip.held_out(name)[:most]
            if len(indices):
                label = name if len(folders) == 1 else f"{clip.folder.name}/{name}"
                ticks = clip.ticks[indices]
                follows = np.concatenate([[False], np.diff(ticks) == 1])
                parts.append(Part(label, clip, motion, indices, follows, marks(clip, motion, indices)))
    if not parts:
        where = ", ".join(str(folder) for folder in folders)
        raise InputError(where, "splits.held_out", "frames that no training saw", "none")
    return parts


def marks(clip: Clip, motion: PoseClip, indices: np.ndarray) -> Marks:
    """Landmarks and joints of the mesh, projected into the pictures `indices`."""
    model = BodyModel.load(standin_or(clip.fields.body, clip.folder) or standin_path())
    body, camera = model.shaped(np.asarray(clip.fields.body.betas)), clip.fields.camera.camera()
    chosen = [joint_index(name) for name in BODY]
    rows: dict[str, list[np.ndarray]] = {"face": [], "body": [], "left_hand": [], "right_hand": []}
    for i in indices:
        pose = motion.poses[i], motion.expressions[i], motion.transl[i]
        vertices, joints = body.vertices(*pose), body.joints(*pose)
        seen = keypoints(body, camera, vertices, joints)
        rows["face"].append(seen.face)
        rows["body"].append(camera.project(joints[chosen])[:, :2])
        rows["left_hand"].append(seen.left_hand)
        rows["right_hand"].append(seen.right_hand)
    return {name: np.asarray(points, np.float32).reshape(len(indices), -1, 2) for name, points in rows.items()}
