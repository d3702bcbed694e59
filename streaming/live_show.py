"""The real show: motion and speech in, the engine in its threads, pictures paced and speech delayed by the same number.

It puts together what others know, and carries frames from one to the next. `streaming.opening` makes one from settings.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import structlog

from engine.avatar import Person
from engine.errors import InputError
from engine.picture import Picture
from streaming.clock import NS, Clock, MonotonicClock
from streaming.delay_line import DelayLine
from streaming.jitter import JitterBuffer
from streaming.motion import Motion
from streaming.pacer import Pacer, Shown
from streaming.pipeline import Engine, Pipeline
from streaming.recorder import Recorder
from streaming.show import ShowStatus
from streaming.sources.file import Player
from streaming.sources.intake import Intake
from streaming.sources.udp import UdpSource, listen
from streaming.sources.websocket import PoseSockets

STOP_S = 1.5
STEP_NS = 500_000  # how much the sampling of poses may shift from one frame to the next

T = TypeVar("T")

log = structlog.get_logger(__name__)


class LiveShow:
    """A `streaming.show.Show`. The event loop owns everything but the engine, which has threads of its own.

    `prepare` loads the engine and warms it up, in a thread, after the server has begun to answer.
    """

    def __init__(
        self,
        prepare: Callable[[], Engine],
        fps: float,
        *,
        player: Player | None = None,
        avatar: str = "",
        person: Person = "unknown",
        source: str = "",
        sound: str = "",
        udp: tuple[str, int] | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`player`: what is shown while no live motion comes in; it starts when the engine is ready.

        `recorder`: writes a pose log of what is painted; `prepare` starts it.
        """
        self.fps = fps
        self.trouble = ""  # why it cannot go on, in a line
        self._prepare = prepare
        self._player = player
        self._names = (avatar, source, sound)
        self._person: Person = person
        self._udp = udp
        self._recorder = recorder
        self._clock = clock or MonotonicClock()
        self._jitter = JitterBuffer()
        self.intake = Intake(self._jitter, self._clock, self._hear)
        self.on_pose = PoseSockets(self.intake.feed)  # whoever connects to the WebSocket `/pose`
        self._motion = Motion(self._jitter, player)
        self._pacer = Pacer()
        self._line = DelayLine()
        self._pipeline: Pipeline | None = None
        self._udp_source: UdpSource | None = None
        self._task: asyncio.Task[None] | None = None
        self._newest: Picture | None = None
        self._play_ns: int | None = None  # the last tick that was asked for

    async def start(self) -> None:
        """Open the sources and begin to load the engine. InputError where a port is taken."""
        if self._udp is not None:
            self._udp_source = await listen(*self._udp, self.intake.feed)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the threads."""
        if self._udp_source is not None:
            self._udp_source.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._pipeline is not None and not await in_thread(lambda: self._stop_pipeline(STOP_S)):
            log.warning("the engine did not end in time")
        recorder = self._recorder
        if recorder is not None and not await in_thread(recorder.stop):
            log.warning("the pose log did not end in time")

    def take(self, play_ns: int) -> Shown | None:
        """The picture for `play_ns`; the delay jumps only while nobody speaks."""
        self._play_ns = play_ns
        return self._pacer.take(play_ns, self._line.silent)

    def sound(self, count: int, play_ns: int) -> np.ndarray:
        """Speech (count,) int16, as late as the pictures. Silence before the first picture."""
        if self._newest is None:
            return np.zeros(count, np.int16)
        return self._line.pull(count, play_ns, self._pacer.delay_ns)[:, 0]

    def status(self) -> ShowStatus:
        """What is going on."""
        avatar, source, sound = self._names
        if self._motion.from_live:
            source, sound = "live motion capture", "live voice" if self.intake.counters.speech else ""
        return ShowStatus(
            avatar=avatar,
            source=source,
            sound=sound,
            live=not self.trouble and self._motion.moving(self._clock.now_ns()),
            delay_ns=self._pacer.delay_ns,
            drops=self._drops(),
            stage_ns=dict(self._newest.stage_ns) if self._newest is not None else {},
            person=self._person,
            recording=self._recorder.state() if self._recorder is not None else None,
            trouble=self.trouble,
        )

    async def _run(self) -> None:
        """Load the engine, then feed it a pose at each tick, for ever."""
        try:
            engine = await in_thread(self._prepare)
        except InputError as error:
            self._fail(str(error))
            return
        except Exception as error:  # whatever a runtime raises, the server stays and says so
            log.exception("the engine could not start")
            self._fail(f"the engine could not start: {type(error).__name__}: {error}")
            return
        loop = asyncio.get_running_loop()
        pipeline = self._pipeline = Pipeline(
            engine, lambda picture: self._leave(loop, picture), observer=self._recorder
        )
        pipeline.start()
        start_ns = self._clock.now_ns()
        log.info("on air", avatar=self._names[0], person=self._person, source=self._names[1])
        if self._player is not None:
            self._player.start_ns = start_ns
        period_ns, due_ns = round(NS / self.fps), start_ns
        while True:
            now_ns = self._clock.now_ns()
            if due_ns > now_ns:
                await asyncio.sleep((due_ns - now_ns) / NS)
                continue
            due_ns += (now_ns - due_ns) // period_ns * period_ns  # ticks that were missed are left out
            self._tick(pipeline, due_ns)
            due_ns += period_ns
            if self._play_ns is not None:
                due_ns += towards(due_ns + self._pacer.delay_ns, self._play_ns, period_ns)

    def _tick(self, pipeline: Pipeline, now_ns: int) -> None:
        frame = self._motion.frame(now_ns)
        if frame is not None:
            pipeline.submit(frame)
        if self._player is not None:
            for samples, capture_ns in self._player.speech(now_ns):
                if not self._motion.from_live:
                    self._line.push(samples, capture_ns)

    def _hear(self, samples: np.ndarray, capture_ns: int) -> None:
        """Live speech, from the intake."""
        if self._motion.from_live:
            self._line.push(samples, capture_ns)

    def _leave(self, loop: asyncio.AbstractEventLoop, picture: Picture) -> None:
        """A picture is finished: called in the pipeline's last thread."""
        loop.call_soon_threadsafe(self._arrive, picture, self._clock.now_ns())

    def _arrive(self, picture: Picture, now_ns: int) -> None:
        self._newest = picture
        self._pacer.push(picture, now_ns)

    def _fail(self, line: str) -> None:
        self.trouble = line
        log.error("no show", reason=line)

    def _stop_pipeline(self, timeout: float) -> bool:
        return self._pipeline is None or self._pipeline.stop(timeout)

    def _drops(self) -> dict[str, int]:
        """Frames that never became a picture on screen, by reason."""
        pacer = self._pacer.counters
        drops: Counter[str] = Counter(self._pipeline.drops() if self._pipeline is not None else {})
        drops["pacer: skipped"] = pacer.skipped
        drops["pacer: disordered"] = pacer.disordered
        drops["pacer: stale"] = pacer.stale
        drops["pacer: overflow"] = pacer.overflow
        drops.update({f"pose: {reason}": count for reason, count in self._jitter.counters.refused.items()})
        drops.update({f"message: {part}": count for part, count in self.intake.counters.malformed.items()})
        return dict(+drops)


def towards(shown_ns: int, play_ns: int, period_ns: int) -> int:
    """A step, at most `STEP_NS`, that brings the time at which a picture is to be shown closer to a tick.

    Poses are sampled at the rate of the ticks that show their pictures, so one phase suits all: with it no picture waits
    for its tick, and lips keep to the voice within a step instead of within a tick.
    """
    off = (play_ns - shown_ns + period_ns // 2) % period_ns - period_ns // 2
    return max(-STEP_NS, min(STEP_NS, off))


async def in_thread(work: Callable[[], T]) -> T:
    """`work()` in a daemon thread: unlike an executor's, it cannot hold up the end of the program."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(method: str, value: object) -> None:
        if not future.done():
            getattr(future, method)(value)

    def run() -> None:
        outcome: tuple[str, object]
        try:
            outcome = "set_result", work()
        except Exception as error:  # handed to whoever waits
            outcome = "set_exception", error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="show-work", daemon=True).start()
    return await future
