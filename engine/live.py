"""The live engine: poses in, pictures out, in order, one call at a time. Same seed and poses, same pictures.

It puts an avatar's stages together and runs them one after the other; others may run the same stages in threads.

    engine = LiveEngine(avatar, networks)
    for frame in frames:
        for picture in engine.feed(frame):
            show(picture.image)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from engine.avatar import Avatar, DenoiseFields, FaceFields, HandFields, LatentFields, Mode
from engine.body import Body, BodyModel
from engine.condition import Condition
from engine.denoise import Bank, Causal, Denoiser, Exact, Offline
from engine.errors import InputError
from engine.gear import OWN, Gear
from engine.given import Given
from engine.network import Network
from engine.noise import Noise
from engine.picture import Picture
from engine.pose import PoseFrame
from engine.pose_log import ENGINE_FIELDS, FIELDS_FILE, LogFields, PoseLog
from engine.predict import Conditioned, Memory, Predictor, WindowPredictor
from engine.repaint import RepaintStage
from engine.replay import replay
from engine.sampler import Sampler
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.stages import BodyStage, ConditionStage, DecodeStage, DenoiseStage
from engine.staging import Staging
from engine.standin import standin_path
from engine.steps import Schedule, listed
from engine.windows import Plan
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
        window: int | None = None,
        overlap: int | None = None,
        gears: Iterable[Gear] = (),
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """`networks` by the names in `avatar.networks`, `body_wN` for windows of N. None: as the avatar says. `clock` in ns.

        `mode` says how frames see each other: "causal" in windows of `context` past ones and `hop` new ones; "bank" by past
        ones' keys and values, of as many as the graph was exported for, or fewer; "exact" and "offline" by the published
        algorithm in windows of `window` that share `overlap`, on a stream or on all frames when it ends. At their end both also
        ask `networks` for the graphs of shorter windows.

        `again`: what of "hands" and "face" is painted a second time, where the avatar has networks for it.

        `gears`: others than `OWN`, that frames may be painted in. Where the gear of the body changes between two
        frames, the second is painted as the first of a stream. A bank's gear without past frames is the graph without a bank.

        InputError where a graph is missing, or was not exported for these windows.
        """
        self.avatar = avatar.with_steps(steps).with_mode(mode).with_window(window, overlap)
        self.fps = avatar.fps
        self.person = avatar.person
        self.gears = tuple(dict.fromkeys((OWN, *gears)))
        self.epoch = 0
        self._seed = seed
        self._context = self.avatar.denoise.context if context is None else context
        self._clock = clock
        self._index = 0
        where = str(avatar.folder)
        try:
            self.stages: tuple[Stage, ...] = tuple(
                _stages(self.avatar, networks, context, hop, seed, body or load_body(avatar), again, self.gears)
            )
        except KeyError as error:
            raise InputError(where, "networks", f"a graph named {error.args[0]}", ", ".join(networks)) from None
        except ValueError as error:
            raise InputError(where, "networks", "graphs that fit the avatar", str(error)) from None
        self._denoise = next(stage for stage in self.stages if isinstance(stage, DenoiseStage))

    @property
    def delay_frames(self) -> int | None:
        """How many later frames a frame waits for, at most; None: for all of them. In the engine's own gear."""
        return self._denoise.mode_of(OWN).delay

    @property
    def burst(self) -> int:
        """How many frames may leave at once, in any gear."""
        return max(self._denoise.mode_of(gear).burst or 1 for gear in self.gears)

    def feed(self, frame: PoseFrame, gear: Gear = OWN) -> list[Picture]:
        """Take the next pose; the pictures that are finished with it, in order of capture.

        ValueError for a gear whose `body` is none of the `gears`'.
        """
        work = Work(self._index, self.epoch, frame, gear)
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
        """What a pose log says of this engine, whose stages share threads in `groups`, by their names.

        InputError in mode "offline", which is never live.
        """
        fields, own = self.avatar.denoise, self._denoise.mode_of(OWN)
        if own.delay is None or own.burst is None:
            raise InputError("pose log", "mode", "exact, causal or bank: live", fields.mode)
        exact = fields.mode == "exact"
        return LogFields(
            avatar=self.avatar.name,
            fingerprint=self.avatar.fingerprint(),
            seed=self._seed,
            steps=len(fields.timesteps),
            mode=fields.mode,
            window=fields.window if exact else self._context + own.burst,
            overlap=fields.overlap if exact else self._context,
            context=self._context,
            hop=own.burst,
            delay=own.delay,
            fps=self.fps,
            groups=tuple(tuple(group) for group in groups),
            gears=tuple(gear.given() for gear in self.gears),
        )

    def replay(self, log: PoseLog, force: bool = False) -> Iterator[Picture]:
        """The pictures that left while `log` was recorded, in order; on the same runtime the very same bytes.

        InputError at once where another avatar, seed, number of steps, mode or window was recorded, unless `force`, and where
        the stages or the delay are others or a gear is missing; later, once it is reached, where the log has a hole or is
        damaged. A log that another avatar took over from ends there, with all that this one had begun. The engine is reset
        before, and is to be reset before it is used for anything else. It does not know the runtime, nor from which file
        its `body` came: those are to be compared by whoever opened them, see `log.fields`.
        """
        where, groups = str(log.folder / FIELDS_FILE), log.fields.groups
        by_name = {stage.name: stage for stage in self.stages}
        if list(chain(*groups)) != list(by_name) or not all(groups):
            raise InputError(where, "groups", f"the stages {', '.join(by_name)}", repr(groups))
        own = self.described(groups)
        for name in ("delay",) if force else (*ENGINE_FIELDS, "delay"):
            if (mine := getattr(own, name)) != (recorded := getattr(log.fields, name)):
                raise InputError(where, name, f"{mine}, as this engine has it", str(recorded))
        gears = log.fields.prepared(where)
        for gear in gears:
            if gear.body not in {gear.body for gear in self.gears}:
                raise InputError(where, "gears", f"those of this engine: {', '.join(map(str, self.gears))}", str(gear))
        self.reset()
        stages = [[by_name[name] for name in group] for group in groups]
        return replay(log.events(), stages, gears, self.burst, self._clock, log.where)

    def warm_up(self) -> None:
        """Paint a frame in every gear for nobody, before the stream, so that the first real ones find everything compiled."""
        rest = PoseFrame(
            0, np.zeros(POSE_DIMS, np.float32), np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32)
        )
        for gear in self.gears:
            advance(self.stages, [Work(0, self.epoch, rest, gear)], self._clock)
            flush(self.stages, self._clock)
        for stage in self.stages:
            stage.reset()


def window_graph(frames: int) -> str:
    """The name of the diffusion graph for windows of `frames`."""
    return "body" if frames == 1 else f"body_w{frames}"


def context_and_hop(mode: Mode, window: int | None, overlap: int | None) -> tuple[int | None, int]:
    """What windows of `window` frames that share `overlap` are to the live modes: past frames and new ones.

    Causal: `overlap` past frames beside the new ones (a quarter of the window where it is not said; one new frame where only
    `overlap` is). A bank: one new frame beside all others. None and 1, an engine's defaults, for other modes and where
    nothing is said. InputError where a bank's two numbers contradict each other.
    """
    if mode == "causal" and window is not None:
        past = window // 4 if overlap is None else overlap
        return past, window - past
    if mode == "bank" and window is not None:
        if overlap not in (None, window - 1):
            raise InputError("windows", "overlap", f"{window - 1}: a bank takes one new frame a time", str(overlap))
        return window - 1, 1
    if mode in ("causal", "bank") and overlap is not None:
        return overlap, 1
    return None, 1


def needed(
    avatar: Avatar,
    context: int | None = None,
    hop: int = 1,
    again: Container[str] = AGAIN,
    mode: Mode | None = None,
    window: int | None = None,
    overlap: int | None = None,
    gears: Iterable[Gear] = (),
) -> tuple[str, ...]:
    """The graphs that a LiveEngine with these arguments calls, but for the shorter windows at a stream's end."""
    avatar = avatar.with_mode(mode).with_window(window, overlap)

    def body(gear: Gear) -> str:
        fields, own, new = _geared(avatar, context, hop, gear)
        denoise = fields.denoise
        if denoise.mode == "bank":
            return BANK_GRAPH
        if denoise.mode == "causal":
            return window_graph((denoise.context if own is None else own) + new)
        return window_graph(denoise.window)

    def called(name: str) -> bool:
        if name.startswith("body"):
            return False
        if name.startswith(("encoder", "face")):
            return avatar.face.enabled and "face" in again
        return not name.startswith("hand") or (avatar.hands.enabled and "hands" in again)

    return (*(name for name in avatar.networks if called(name)), *dict.fromkeys(body(gear) for gear in (OWN, *gears)))


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
    gears: Iterable[Gear],
) -> list[Stage]:
    decoder, given = networks["decoder"], Given(avatar, networks, seed)
    hands, face = avatar.hands.enabled and "hands" in again, avatar.face.enabled and "face" in again
    condition = Condition(body, avatar.camera.camera(), avatar.condition.style)
    stages: list[Stage] = [
        BodyStage(body, Staging(avatar.root)),
        ConditionStage(condition, avatar.face.size if face else None, avatar.hands.size if hands else None),
        _denoise_stage(avatar, networks, context, hop, given, gears),
        DecodeStage(decoder, avatar.latent.scale, networks.get("hint")),
    ]
    if hands:
        stages.append(_repaint_stage("hands", avatar, avatar.hands, networks, given))
    if face:
        stages.append(_repaint_stage("face", avatar, avatar.face, networks, given))
    return stages


def _repaint_stage(
    name: str, avatar: Avatar, fields: FaceFields | HandFields, networks: Mapping[str, Network], given: Given
) -> RepaintStage:
    noise = _noise(fields.latent, fields.denoise, given.seed, networks["decoder"])
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


def _geared(avatar: Avatar, context: int | None, hop: int, gear: Gear) -> tuple[Avatar, int | None, int]:
    """The avatar, its context and its hop in `gear`."""
    alone = gear.context == 0 and avatar.denoise.mode == "bank"
    avatar = avatar.with_steps(gear.steps).with_mode("causal" if alone else None)
    return avatar, context if gear.context is None else gear.context, gear.hop or hop


def _denoise_stage(
    avatar: Avatar,
    networks: Mapping[str, Network],
    context: int | None,
    hop: int,
    given: Given,
    gears: Iterable[Gear],
) -> DenoiseStage:
    hint, decoder = networks.get("hint"), networks["decoder"]
    noise = _noise(avatar.latent, avatar.denoise, given.seed, decoder)
    prepared: dict[Gear, tuple[Conditioned, Denoiser]] = {}
    for gear in dict.fromkeys(gear.body for gear in gears):
        try:
            prepared[gear] = _denoiser(*_geared(avatar, context, hop, gear), networks, noise, given)
        except ValueError as error:
            raise error if gear == OWN else ValueError(f"{error} (gear: {gear})") from None
    kept = tuple(name for name in decoder.inputs if hint is not None and name in hint.outputs)
    return DenoiseStage(hint, *prepared[OWN], noise, kept, prepared)


def _denoiser(
    avatar: Avatar, context: int | None, hop: int, networks: Mapping[str, Network], noise: Noise, given: Given
) -> tuple[Conditioned, Denoiser]:
    fields, given = avatar.denoise, replace(given, avatar=avatar)
    sampler = _sampler(avatar.schedule, fields, noise)

    def predictor(frames: int, memory: Memory | None = None, graph: str | None = None) -> Predictor:
        name = graph or window_graph(frames)
        network = networks[name]
        return Predictor(network, sampler.times.now, given.to(name, network), frames, memory=memory)

    mode: Denoiser
    predict: Conditioned
    if fields.mode == "bank":
        predict = attend = predictor(1, graph=BANK_GRAPH)
        mode = bank = Bank(sampler, attend, fields.anchor, context)
        if hop != 1 or context not in (None, bank.slots):
            raise ValueError(f"a bank of {bank.slots} frames and one new one, not of {context} and {hop}")
    elif fields.mode == "causal":
        context = fields.context if context is None else context
        predict = predictor(context + hop)
        mode = Causal(sampler, predict, context, hop)
    else:
        reach = Plan(fields.window, fields.overlap, len(sampler.times)).reach if fields.mode == "exact" else None
        predict = WindowPredictor(predictor, fields.window, reach, noise.home)
        mode = (Exact if fields.mode == "exact" else Offline)(sampler, predict, fields.window, fields.overlap)
    return predict, mode


def _noise(latent: LatentFields, denoise: DenoiseFields, seed: int, network: Network) -> Noise:
    """It lies where `network` and all others of the avatar compute."""
    return Noise((latent.channels, latent.size, latent.size), seed, denoise.noise, network.home)


def _sampler(schedule: Schedule, denoise: DenoiseFields, noise: Noise) -> Sampler:
    times = listed(denoise.timesteps)
    return Sampler(schedule, times, denoise.prediction, denoise.sampler, denoise.guidance, noise, denoise.smoothing)
