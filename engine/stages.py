"""The stages of a frame: body, condition, denoise, decode, face. Each is a plain object that one caller uses at a time.

They know networks by the names of their inputs and outputs, not what executes them; nor who calls the stages, or when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from engine import face
from engine.body import Body
from engine.condition import Condition
from engine.denoise import Causal, Denoiser, Sampler
from engine.network import Network
from engine.noise import Noise
from engine.pixels import from_network, to_network
from engine.predict import Predictor
from engine.staging import Staging
from engine.work import Face, Work

CONDITION, LATENTS = "condition", "latents"  # inputs of hint graphs and decoders


@dataclass
class BodyStage:
    """Pose to vertices, the root staged."""

    body: Body
    staging: Staging
    name: str = "body"

    def __call__(self, work: Work) -> list[Work]:
        frame = self.staging(work.frame)
        work.vertices = self.body.vertices(frame.pose, frame.expression, frame.transl)
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        self.staging.reset()
        return 0


@dataclass
class ConditionStage:
    """Vertices to the picture that the networks see and, with `face_size`, the same of the aligned face."""

    condition: Condition
    face_size: int | None = None
    name: str = "condition"
    _region: np.ndarray = field(init=False, repr=False)  # (H, W, 3) uint8

    def __post_init__(self) -> None:
        camera = self.condition.camera
        self._region = np.zeros((camera.height, camera.width, 3), np.uint8)

    def __call__(self, work: Work) -> list[Work]:
        assert work.vertices is not None
        work.condition = self.condition.render(work.vertices)
        if self.face_size is not None:
            points = face.five_points(self.condition.body, work.vertices, self.condition.camera)
            transform = face.align(points, self.face_size)
            self._region[...] = self.condition.face_mask()[..., None] * np.uint8(255)
            mask = face.warp(self._region, transform, self.face_size)[..., 0].copy()
            work.face = Face(transform, face.warp(work.condition, transform, self.face_size), mask)
        work.vertices = None  # nobody needs it any more
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        return 0


class DenoiseStage:
    """Condition to clean latents: the hint graph once a frame, the diffusion graph as the mode says."""

    name = "denoise"

    def __init__(
        self, hint: Network | None, predictor: Predictor, mode: Denoiser, noise: Noise, kept: tuple[str, ...] = ()
    ) -> None:
        """Without a `hint` graph the diffusion graph sees the condition. `kept`: hints that the decoder needs."""
        self.hint, self.predictor, self.mode, self.noise, self.kept = hint, predictor, mode, noise, kept
        self._held: deque[Work] = deque()
        self._position = 0  # frames since the stream's first

    def __call__(self, work: Work) -> list[Work]:
        assert work.condition is not None
        hints = _hints(self.hint, work.condition, self.predictor.network)
        self.predictor.remember(self._position, hints)
        # A network's outputs are overwritten by its next call, and the decoder may come later than that.
        work.arrays = {name: hints[name].copy() for name in self.kept}
        noise = self.noise.at(self._position)
        self._position += 1
        self._held.append(work)
        return self._release(self.mode.push(noise))

    def flush(self) -> list[Work]:
        return self._release(self.mode.flush())

    def reset(self) -> int:
        held_back = len(self._held)
        self._held.clear()
        self.mode.reset()
        self._position = 0
        return held_back

    def _release(self, finished: list[np.ndarray]) -> list[Work]:
        works = [self._held.popleft() for _ in finished]
        for work, latents in zip(works, finished, strict=True):
            work.arrays[LATENTS] = latents[None]
        return works


@dataclass
class DecodeStage:
    """Latents, with hints where the decoder has skips, to the picture."""

    decoder: Network
    scale: float = 1.0
    name: str = "decode"

    def __call__(self, work: Work) -> list[Work]:
        work.image = decode(self.decoder, work.arrays, self.scale)
        work.arrays = {}
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        return 0


class FaceStage:
    """The face painted again at a larger scale: crop, encode what is kept, inpaint in a few steps, decode, blend.

    Mask 1 = keep, 0 = face to redraw; the diffusion graph's channels are noisy latents, mask, latents of what is kept.
    """

    name = "face"
    MASK, KEPT = "mask", "masked_latents"

    def __init__(
        self,
        hint: Network | None,
        encoder: Network,
        diffusion: Network,
        decoder: Network,
        sampler: Sampler,
        noise: Noise,
        constants: Mapping[str, np.ndarray],
        scale: float = 1.0,
    ) -> None:
        self.hint, self.encoder, self.decoder, self.scale = hint, encoder, decoder, scale
        separate = self.MASK in diffusion.inputs
        beside = () if separate else (self.MASK, self.KEPT)
        self.predictor = Predictor(diffusion, sampler.times.now, constants, beside=beside)
        self.mode = Causal(sampler, self.predictor)
        self.noise = noise
        self._picture = next(iter(encoder.inputs.items()))
        self._alpha: np.ndarray | None = None

    def __call__(self, work: Work) -> list[Work]:
        if work.face is None or work.image is None:
            return [work]
        crop = face.warp(work.image, work.face.transform, len(work.face.mask))
        redrawn = work.face.mask > 127
        kept = crop.copy()
        kept[redrawn] = 128  # mid grey is the network's zero
        name, shape = self._picture
        encoded = next(iter(self.encoder(**{name: to_network(kept, shape, -1.0)}).values()))
        hints = _hints(self.hint, work.face.condition, self.predictor.network)
        mask = _cells(redrawn, encoded.shape[-1])
        self.predictor.remember(0, {**hints, self.MASK: mask, self.KEPT: encoded * self.scale})
        latents = self.mode.push(self.noise.at(0))[0]
        self.mode.reset()  # faces are on their own: no context
        painted = decode(self.decoder, {**hints, LATENTS: latents[None]}, self.scale)
        if self._alpha is None:
            self._alpha = face.feather(len(painted))
        face.blend(work.image, painted, work.face.transform, self._alpha, out=work.image)
        return [work]

    def flush(self) -> list[Work]:
        return []

    def reset(self) -> int:
        return 0


def decode(decoder: Network, arrays: Mapping[str, np.ndarray], scale: float) -> np.ndarray:
    """`arrays` by the names of the decoder's inputs, latents still scaled, to (H, W, 3) uint8."""
    inputs = {name: arrays[name] for name in decoder.inputs}
    if scale != 1.0:
        inputs[LATENTS] = inputs[LATENTS] / np.float32(scale)
    return from_network(next(iter(decoder(**inputs).values())))


def _hints(hint: Network | None, condition: np.ndarray, diffusion: Network) -> Mapping[str, np.ndarray]:
    """What the diffusion graph, and perhaps the decoder, are told of the mesh, by name; valid until the next call."""
    if hint is None:
        shape = (1, *diffusion.inputs[CONDITION][1:])
        return {CONDITION: to_network(condition, shape, 0.0)}
    name, shape = next(iter(hint.inputs.items()))
    return hint(**{name: to_network(condition, shape, 0.0)})


def _cells(redrawn: np.ndarray, size: int) -> np.ndarray:
    """How much of each latent cell is kept: (H, W) bool to (1, 1, size, size) float32."""
    cell = len(redrawn) // size
    parts = redrawn.reshape(size, cell, size, cell).mean((1, 3), dtype=np.float32)
    return np.asarray(1.0 - parts)[None, None]
