"""The live engine: poses in, pictures out, in order, one call at a time. Same seed and poses, same pictures.

It puts an avatar's stages together and runs them one after the other; others may run the same stages in threads.

    engine = LiveEngine(avatar, networks)
    for frame in frames:
        for picture in engine.feed(frame):
            show(picture.image)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping

import numpy as np

from engine.appearance import appearance
from engine.avatar import Avatar, DenoiseFields, LatentFields
from engine.body import Body, BodyModel
from engine.condition import Condition
from engine.denoise import Causal, Sampler
from engine.errors import InputError
from engine.network import Network
from engine.noise import Noise
from engine.picture import Picture
from engine.pose import PoseFrame
from engine.predict import Predictor
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.stages import BodyStage, ConditionStage, DecodeStage, DenoiseStage, FaceStage
from engine.staging import Staging
from engine.standin import standin_path
from engine.steps import Schedule, listed
from engine.work import Stage, Work, advance, flush


class LiveEngine:
    """An avatar, alive. Not thread-safe; `stages` may be run by others instead, each by one caller at a time."""

    def __init__(
        self,
        avatar: Avatar,
        networks: Mapping[str, Network],
        steps: int | None = None,
        context: int | None = None,
        hop: int = 1,
        seed: int = 0,
        body: Body | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """`networks` by the names in `avatar.networks`. None: as the avatar says. `clock` in nanoseconds.

        InputError where a graph is missing, or was not exported for these windows.
        """
        self.avatar = avatar.with_steps(steps)
        self.fps = avatar.fps
        self.burst = hop
        self.epoch = 0
        self._clock = clock
        self._index = 0
        context = avatar.denoise.context if context is None else context
        where = str(avatar.folder)
        try:
            self.stages: tuple[Stage, ...] = tuple(
                _stages(self.avatar, networks, context, hop, seed, body or load_body(avatar))
            )
        except KeyError as error:
            raise InputError(where, "networks", f"a graph named {error.args[0]}", ", ".join(networks)) from None
        except ValueError as error:
            raise InputError(where, "networks", "graphs that fit the avatar", str(error)) from None

    @property
    def delay_frames(self) -> int:
        """How many later frames a frame waits for, at most."""
        return self.burst - 1

    def feed(self, frame: PoseFrame) -> list[Picture]:
        """Take the next pose; the pictures that are finished with it, in order of capture."""
        work = Work(self._index, self.epoch, frame)
        self._index += 1
        return [done.picture() for done in advance(self.stages, [work], self._clock)]

    def flush(self) -> list[Picture]:
        """The stream ends: the pictures that were still under way."""
        return [done.picture() for done in flush(self.stages, self._clock)]

    def reset(self) -> None:
        """Begin a new epoch: the next frame is the first of a new stream."""
        self.epoch += 1
        self._index = 0
        for stage in self.stages:
            stage.reset()

    def warm_up(self) -> None:
        """Paint one frame for nobody, before the stream, so that the first real one finds everything compiled."""
        rest = PoseFrame(
            0, np.zeros(POSE_DIMS, np.float32), np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32)
        )
        advance(self.stages, [Work(0, self.epoch, rest)], self._clock)
        flush(self.stages, self._clock)
        for stage in self.stages:
            stage.reset()


def window_graph(frames: int, networks: Container[str]) -> str:
    """The diffusion graph for windows of `frames`: `body_w2` for two where there is such a one, else `body`."""
    name = f"body_w{frames}"
    return name if name in networks else "body"


def needed(avatar: Avatar, context: int | None = None, hop: int = 1) -> tuple[str, ...]:
    """Those of the avatar's graphs that a LiveEngine with this `context` and `hop` calls."""
    context = avatar.denoise.context if context is None else context
    body = window_graph(context + hop, avatar.networks)
    face = ("encoder", "face")
    return tuple(
        name
        for name in avatar.networks
        if name == body or not (name.startswith("body") or (name.startswith(face) and not avatar.face.enabled))
    )


def load_body(avatar: Avatar) -> Body:
    """The person's body, from the SMPL-X file that the avatar names."""
    return BodyModel.load(avatar.body_file() or standin_path()).shaped(np.array(avatar.body.betas))


def _stages(
    avatar: Avatar, networks: Mapping[str, Network], context: int, hop: int, seed: int, body: Body
) -> list[Stage]:
    decoder = networks["decoder"]
    face_on = avatar.face.enabled
    condition = Condition(body, avatar.camera.camera(), avatar.condition.style)
    stages: list[Stage] = [
        BodyStage(body, Staging(avatar.root)),
        ConditionStage(condition, avatar.face.size if face_on else None),
        _denoise_stage(avatar, networks, context, hop, seed),
        DecodeStage(decoder, avatar.latent.scale),
    ]
    if face_on:
        fields = avatar.face
        noise = _noise(fields.latent, fields.denoise, seed)
        sampler = _sampler(avatar.schedule, fields.denoise, noise)
        told = "face_appearance" if "face_appearance" in networks else "appearance"  # for a crop's size
        constants = _constants(avatar, networks, "face", "head", told, fields.denoise)
        encoder = networks["face_encoder"] if "face_encoder" in networks else networks["encoder"]
        stages.append(
            FaceStage(
                networks.get("face_hint"), encoder, networks["face"], networks["face_decoder"],
                sampler, noise, constants, fields.latent.scale,
            )
        )  # fmt: skip
    return stages


def _denoise_stage(avatar: Avatar, networks: Mapping[str, Network], context: int, hop: int, seed: int) -> DenoiseStage:
    noise = _noise(avatar.latent, avatar.denoise, seed)
    sampler = _sampler(avatar.schedule, avatar.denoise, noise)
    graph = window_graph(context + hop, networks)
    constants = _constants(avatar, networks, graph, "body", "appearance", avatar.denoise)
    predictor = Predictor(networks[graph], sampler.times.now, constants, context + hop)
    hint = networks.get("hint")
    kept = tuple(name for name in networks["decoder"].inputs if hint is not None and name in hint.outputs)
    return DenoiseStage(hint, predictor, Causal(sampler, predictor, context, hop), noise, kept)


def _noise(latent: LatentFields, denoise: DenoiseFields, seed: int) -> Noise:
    return Noise((latent.channels, latent.size, latent.size), seed, denoise.noise)


def _sampler(schedule: Schedule, denoise: DenoiseFields, noise: Noise) -> Sampler:
    times = listed(denoise.timesteps)
    return Sampler(schedule, times, denoise.prediction, denoise.sampler, denoise.guidance, noise)


def _constants(
    avatar: Avatar, networks: Mapping[str, Network], graph: str, part: str, encoder: str, denoise: DenoiseFields
) -> dict[str, np.ndarray]:
    """What the diffusion graph is told about the person, by input name."""
    if "appearance" not in networks[graph].inputs:
        return {}
    return {"appearance": appearance(avatar, networks.get(encoder), part, guided=denoise.guidance != 1.0)}
