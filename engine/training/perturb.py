"""Conditions of poses that are a little wrong, as fits to real video are: the paper's augmentation by perturbed SMPL-X parameters.

Conditions are cached with a clip; perturbed ones are rendered when they are drawn, by threads (the renderer holds no GIL).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
from torch import Tensor

from engine.body import BodyModel
from engine.condition import Condition, Style
from engine.pose import PoseClip
from engine.standin import standin_path
from engine.training.dataset import Clip, standin_or
from engine.training.frames import Frames, to_condition


class Mesh:
    """Renders a clip's body in poses near its own, in as many threads at once as it has conditions."""

    def __init__(self, clip: Clip, threads: int, style: Style = "normals") -> None:
        self.motion: PoseClip = clip.motion()
        model = BodyModel.load(standin_or(clip.fields.body, clip.folder) or standin_path())
        camera, betas = clip.fields.camera.camera(), np.asarray(clip.fields.body.betas)
        self._free: SimpleQueue[Condition] = SimpleQueue()
        for _ in range(threads):  # each owns its buffers
            self._free.put(Condition(model.shaped(betas), camera, style))

    def render(self, index: int, pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """The condition (S, S, 3) uint8 of a frame whose pose (165,) and expression (100,) are moved by that much."""
        condition, motion = self._free.get(), self.motion
        try:
            moved = motion.poses[index] + pose, motion.expressions[index] + expression
            return condition.render(condition.body.vertices(*moved, motion.transl[index]))
        finally:
            self._free.put(condition)


class Perturbed:
    """Perturbed conditions of `frames`: all joints' axis-angles move by `sigma` radians, the expression by `sigma` of its units.

    perturbed = Perturbed(frames, 0.02)
    perturbed(np.array([3, 4]), rng)  # (2, 3, S, S) in [0, 1], a function of the frames and of rng
    """

    def __init__(self, frames: Frames, sigma: float, threads: int | None = None, style: Style = "normals") -> None:
        threads = threads or min(8, os.cpu_count() or 1)
        self.frames, self.sigma = frames, sigma
        self._meshes = [Mesh(clip, threads, style) for clip in frames.clips]
        self._pool = ThreadPoolExecutor(threads, "conditions")

    def __call__(self, at: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Conditions (N, 3, S, S) in [0, 1] of the frames at the positions `at` (N,)."""
        poses = rng.normal(0, self.sigma, (len(at), 165)).astype(np.float32)
        expressions = rng.normal(0, self.sigma, (len(at), 100)).astype(np.float32)
        clips, indices = self.frames.index[at].T
        return to_condition(np.stack(list(self._pool.map(self._render, clips, indices, poses, expressions))))

    def _render(self, clip: int, index: int, pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        return self._meshes[clip].render(index, pose, expression)
