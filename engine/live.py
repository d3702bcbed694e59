"""The live engine: poses in, pictures out, in order, one call at a time. Same seed and poses, same pictures.

It puts an avatar's stages together and runs them one after the other; others may run the same stages in threads.

    engine = LiveEngine(avatar, networks)
    for frame in frames:
        for picture in engine.feed(frame):
            show(picture.image)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from engine.avatar import Avatar, DenoiseFields, FaceFields, HandFields, LatentFields, Mode
from engine.body import Body, BodyModel
from engine.condition import Condition
from engine.denoise import Bank, Causal, Denoiser, Sampler
from engine.errors import InputError
from engine.given import Given
from engine.network import Network
from engine.noise import Noise
from engine.picture import Picture
from engine.pose import PoseFrame
from engine.pose_log import ENGINE_FIELDS, FIELDS_FILE, LogFields, PoseLog
from engine.predict import Predictor
from engine.repaint import RepaintStage
from engine.replay import replay
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.stages import BodyStage, ConditionStage, DecodeStage, DenoiseStage
from engine.staging import Staging
from engine.standin import standin_path
from engine.steps import Schedule, listed
from engine.work import Stage, Work, advance, flush

BANK_GRAPH = "body_bank"
AGAIN = ("hands", "face")  # what may be painted a second time, in this order


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
        again: Container[str] = AGAIN,
        mode: Mode | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """`networks` by the names in `avatar.networks`. None: as the avatar says. `clock` in nanoseconds.

        `mode` says how past frames are seen: "causal" in windows of `context` and `hop`; "bank" by their keys and values, of as
        many frames as the graph was exported for.

        `again`: what of "hands" and "face" is painted a second time, where the avatar has networks for it.

        InputError where a graph is missing, or was not exported for these windows.
        """
        self.avatar = avatar.with_steps(steps).with_mode(mode)
        self.fps = avatar.fps
        self.person = avatar.person
        self.burst = hop
        self.epoch = 0
        self._seed = seed
        self._context = self.avatar.denoise.context if context is None else context
        self._clock = clock
        self._index = 0
        where = str(avatar.folder)
        try:
            self.stages: tuple[Stage, ...] = tuple(
                _stages(self.avatar, networks, context, hop, seed, body or load_body(avatar), again)
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

    def described(self, groups: Sequence[Sequence[str]]) -> LogFields:
        """What a pose log says of this engine, whose stages share threads in `groups`, by their names."""
        fields = self.avatar.denoise
        return LogFields(
            avatar=self.avatar.name,
            fingerprint=self.avatar.fingerprint(),
            seed=self._seed,
            steps=len(fields.timesteps),
            mode=fields.mode,
            context=self._context,
            hop=self.burst,
            fps=self.fps,
            groups=tuple(tuple(group) for group in groups),
        )

    def replay(self, log: PoseLog, force: bool = False) -> Iterator[Picture]:
        """The pictures that left while `log` was recorded, in order; on the same runtime the very same bytes.

        InputError at once where another avatar, seed, number of steps or mode was recorded, unless `force`, and where
        the stages are others; later, once it is reached, where the log has a hole or is damaged. The engine is reset
        before, and is to be reset before it is used for anything else. It does not know the runtime, nor from which file
        its `body` came: those are to be compared by whoever opened them, see `log.fields`.
        """
        where, groups = str(log.folder / FIELDS_FILE), log.fields.groups
        by_name = {stage.name: stage for stage in self.stages}
        if list(chain(*groups)) != list(by_name) or not all(groups):
            raise InputError(where, "groups", f"the stages {', '.join(by_name)}", repr(groups))
        own = self.described(groups)
        for name in () if force else ENGINE_FIELDS:
            if (mine := getattr(own, name)) != (recorded := getattr(log.fields, name)):
                raise InputError(where, name, f"{mine}, as this engine has it", str(recorded))
        self.reset()
        stages = [[by_name[name] for name in group] for group in groups]
        return replay(log.events(), stages, self.burst, self._clock, log.where)

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


def needed(
    avatar: Avatar,
    context: int | None = None,
    hop: int = 1,
    again: Container[str] = AGAIN,
    mode: Mode | None = None,
) -> tuple[str, ...]:
    """Those of the avatar's graphs that a LiveEngine with this `context`, `hop`, `again` and `mode` calls."""
    context = avatar.denoise.context if context is None else context
    body = window_graph(context + hop, avatar.networks)
    if avatar.with_mode(mode).denoise.mode == "bank":
        body = BANK_GRAPH

    def called(name: str) -> bool:
        if name.startswith("body"):
            return name == body
        if name.startswith(("encoder", "face")):
            return avatar.face.enabled and "face" in again
        return not name.startswith("hand") or (avatar.hands.enabled and "hands" in again)

    return tuple(name for name in avatar.networks if called(name))


def load_body(avatar: Avatar) -> Body:
    """The person's body, from the SMPL-X file that the avatar names."""
    return BodyModel.load(avatar.body_file() or standin_path()).shaped(np.array(avatar.body.betas))


def _stages(
    avatar: Avatar,
    networks: Mapping[str, Network],
    context: int | None,
    hop: int,
    seed: int,
    body: Body,
    again: Container[str],
) -> list[Stage]:
    decoder, given = networks["decoder"], Given(avatar, networks, seed)
    hands, face = avatar.hands.enabled and "hands" in again, avatar.face.enabled and "face" in again
    condition = Condition(body, avatar.camera.camera(), avatar.condition.style)
    stages: list[Stage] = [
        BodyStage(body, Staging(avatar.root)),
        ConditionStage(condition, avatar.face.size if face else None, avatar.hands.size if hands else None),
        _denoise_stage(avatar, networks, context, hop, given),
        DecodeStage(decoder, avatar.latent.scale),
    ]
    if hands:
        stages.append(_repaint_stage("hands", avatar, avatar.hands, networks, given))
    if face:
        stages.append(_repaint_stage("face", avatar, avatar.face, networks, given))
    return stages


def _repaint_stage(
    name: str, avatar: Avatar, fields: FaceFields | HandFields, networks: Mapping[str, Network], given: Given
) -> RepaintStage:
    noise = _noise(fields.latent, fields.denoise, given.seed)
    sampler = _sampler(avatar.schedule, fields.denoise, noise)
    scale = fields.latent.scale
    if name == "hands":
        constants = given.to("hand", networks["hand"])
        graphs = networks["hand_encoder"], networks["hand"], networks["hand_decoder"]
        return RepaintStage(name, networks.get("hand_hint"), *graphs, sampler, noise, constants, scale, "mask")
    constants = given.to("face", networks["face"])
    encoder = networks["face_encoder"] if "face_encoder" in networks else networks["encoder"]
    graphs = encoder, networks["face"], networks["face_decoder"]
    return RepaintStage(name, networks.get("face_hint"), *graphs, sampler, noise, constants, scale)


def _denoise_stage(
    avatar: Avatar, networks: Mapping[str, Network], context: int | None, hop: int, given: Given
) -> DenoiseStage:
    fields = avatar.denoise
    noise = _noise(avatar.latent, fields, given.seed)
    sampler = _sampler(avatar.schedule, fields, noise)

    def predictor(graph: str, reach: int) -> Predictor:
        return Predictor(networks[graph], sampler.times.now, given.to(graph, networks[graph]), reach)

    mode: Denoiser
    if fields.mode == "bank":
        predict = predictor(BANK_GRAPH, 1)
        mode = bank = Bank(sampler, predict, fields.anchor)
        if hop != 1 or context not in (None, bank.slots):
            raise ValueError(f"a bank of {bank.slots} frames and one new one, not of {context} and {hop}")
    else:
        context = fields.context if context is None else context
        predict = predictor(window_graph(context + hop, networks), context + hop)
        mode = Causal(sampler, predict, context, hop)
    hint = networks.get("hint")
    kept = tuple(name for name in networks["decoder"].inputs if hint is not None and name in hint.outputs)
    return DenoiseStage(hint, predict, mode, noise, kept)


def _noise(latent: LatentFields, denoise: DenoiseFields, seed: int) -> Noise:
    return Noise((latent.channels, latent.size, latent.size), seed, denoise.noise)


def _sampler(schedule: Schedule, denoise: DenoiseFields, noise: Noise) -> Sampler:
    times = listed(denoise.timesteps)
    return Sampler(schedule, times, denoise.prediction, denoise.sampler, denoise.guidance, noise)
