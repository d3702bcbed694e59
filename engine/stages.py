"""The stages of a frame: body, condition, denoise, decode. Each is a plain object that one caller uses at a time.

They know networks by the names of their inputs and outputs, not what executes them; nor who calls the stages, or when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine import face, hand
from engine.arrays import Array, copy
from engine.body import Body
from engine.condition import FACE, LEFT_HAND, RIGHT_HAND, Condition
from engine.crop import soften, warp, warp_mask
from engine.denoise import Denoiser
from engine.gear import OWN, Gear
from engine.network import Network
from engine.noise import Noise
from engine.pixels import from_network, to_network
from engine.predict import Conditioned
from engine.staging import Staging
from engine.work import Crops, Work

CONDITION, LATENTS = "condition", "latents"  # inputs of hint graphs and decoders


@dataclass
class BodyStage:
    """Pose to vertices and joints, the root staged."""

    body: Body
    staging: Staging
    name: str = "body"

    def __call__(self, work: Work) -> list[Work]:
        frame = self.staging(work.frame)
        pose = frame.pose, frame.expression, frame.transl
        work.vertices, work.joints = self.body.vertices(*pose), self.body.joints(*pose)
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        self.staging.reset()
        return 0


@dataclass
class ConditionStage:
    """The body to the picture that the networks see and, with `face_size` and `hand_size`, to crops of it."""

    condition: Condition
    face_size: int | None = None
    hand_size: int | None = None
    name: str = "condition"
    _marks: np.ndarray = field(init=False, repr=False)  # (H, W) uint8

    def __post_init__(self) -> None:
        camera = self.condition.camera
        self._marks = np.zeros((camera.height, camera.width), np.uint8)

    def __call__(self, work: Work) -> list[Work]:
        assert work.vertices is not None and work.joints is not None
        body, camera = self.condition.body, self.condition.camera
        picture = work.condition = self.condition.render(work.vertices)
        if self.face_size is not None or self.hand_size is not None:
            self.condition.marks(self._marks)
        if self.hand_size is not None:
            transforms = hand.crops(body, camera, work.joints, self.hand_size)
            crops = crops_of(picture, self._marks, transforms, (LEFT_HAND, RIGHT_HAND), self.hand_size)
            for mask in crops.masks:
                soften(mask, mask)  # what the body paints of a hand reaches beyond the hand
            work.crops["hands"] = crops
        if self.face_size is not None:
            transform = face.align(face.five_points(body, work.vertices, camera), self.face_size)
            work.crops["face"] = crops_of(picture, self._marks, transform[None], (FACE,), self.face_size)
        work.vertices = work.joints = None  # nobody needs them any more
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        return 0


def crops_of(picture: np.ndarray, marks: np.ndarray, transforms: np.ndarray, wanted: Sequence[int], size: int) -> Crops:
    """Crops of a condition (H, W, 3) by transforms (n, 2, 3), and in each where marks (H, W) is the one wanted there."""
    n = len(transforms)
    crops = Crops(transforms, np.empty((n, size, size, 3), np.uint8), np.empty((n, size, size), np.uint8))
    for i, mark in enumerate(wanted):
        warp(picture, transforms[i], size, crops.conditions[i])
        warp_mask(marks, mark, transforms[i], size, crops.masks[i])
    return crops


class DenoiseStage:
    """Condition to clean latents: the hint graph once a frame, the diffusion graph as the mode says.

    Where a frame's gear differs from the last one's, what waits is finished as it was begun, and a new stream begins.
    """

    name = "denoise"

    def __init__(
        self,
        hint: Network | None,
        predictor: Conditioned,
        mode: Denoiser,
        noise: Noise,
        kept: tuple[str, ...] = (),
        others: Mapping[Gear, tuple[Conditioned, Denoiser]] | None = None,
    ) -> None:
        """Without a `hint` graph the diffusion graph sees the condition. `kept`: hints that the decoder needs.

        `others`: what paints in gears (`Gear.body`) other than `OWN`.
        """
        self.hint, self.predictor, self.mode, self.noise, self.kept = hint, predictor, mode, noise, kept
        self._prepared = {**(others or {}), OWN: (predictor, mode)}
        self._gear = OWN
        self._held: deque[Work] = deque()
        self._position = 0  # frames since the stream's first

    def __call__(self, work: Work) -> list[Work]:
        assert work.condition is not None
        before = self._shift(work.gear.body)
        hints = hints_of(self.hint, work.condition[None], self.predictor.network)
        self.predictor.remember(self._position, hints)
        if self.mode.delay is not None:  # a whole clip's would be gigabytes: its decoder asks again
            # A network's outputs are overwritten by its next call, and the decoder may come later than that.
            work.arrays = {name: copy(hints[name]) for name in self.kept}
        noise = self.noise.at(self._position)
        self._position += 1
        self._held.append(work)
        return before + self._release(self.mode.push(noise))

    def flush(self) -> list[Work]:
        return self._release(self.mode.flush())

    def reset(self) -> int:
        held_back = len(self._held)
        self._held.clear()
        self.mode.reset()
        self._position = 0
        return held_back

    def mode_of(self, gear: Gear) -> Denoiser:
        """What paints in this gear, one of those that are prepared."""
        return self._prepared[gear.body][1]

    def _shift(self, gear: Gear) -> list[Work]:
        """From here on in `gear`: the frames that still waited in another one. ValueError where it is not prepared."""
        if gear == self._gear:
            return []
        if gear not in self._prepared:
            raise ValueError(
                f"the engine was not made for the gear {gear}, only for {', '.join(map(str, self._prepared))}"
            )
        waiting = self.flush()
        self._gear, (self.predictor, self.mode) = gear, self._prepared[gear]
        self.mode.reset()
        self._position = 0
        return waiting

    def _release(self, finished: list[Array]) -> list[Work]:
        works = [self._held.popleft() for _ in finished]
        for work, latents in zip(works, finished, strict=True):
            work.arrays[LATENTS] = latents[None]
        return works


@dataclass
class DecodeStage:
    """Latents, with hints where the decoder has skips, to the picture. `hint` tells those that nobody kept."""

    decoder: Network
    scale: float = 1.0
    hint: Network | None = None
    name: str = "decode"

    def __call__(self, work: Work) -> list[Work]:
        if self.hint is not None and not self.decoder.inputs.keys() <= work.arrays.keys():
            assert work.condition is not None
            work.arrays = {**hints_of(self.hint, work.condition[None], self.hint), **work.arrays}
        work.image = decode(self.decoder, work.arrays, self.scale)[0]
        work.arrays = {}
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        return 0


def decode(decoder: Network, arrays: Mapping[str, Array], scale: float) -> np.ndarray:
    """`arrays` by the names of the decoder's inputs, latents still scaled, to (n, H, W, 3) uint8."""
    inputs = {name: arrays[name] for name in decoder.inputs}
    if scale != 1.0:
        inputs[LATENTS] = inputs[LATENTS] / np.float32(scale)
    return from_network(next(iter(decoder(**inputs).values())), decoder.home)


def hints_of(hint: Network | None, conditions: np.ndarray, diffusion: Network) -> Mapping[str, Array]:
    """What the diffusion graph, and perhaps the decoder, are told of the mesh (n, H, W, 3); valid until the next call."""
    if hint is None:
        shape = (len(conditions), *diffusion.inputs[CONDITION][1:])
        return {CONDITION: to_network(conditions, shape, 0.0)}
    name, shape = next(iter(hint.inputs.items()))
    return hint(**{name: to_network(conditions, shape, 0.0)})
