"""The real show: motion and speech in, the engine in its threads, pictures paced and speech delayed by the same number.

It puts together what others know, and carries frames from one to the next. `streaming.opening` makes one from settings.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog

from engine.avatar import Person
from engine.errors import InputError
from engine.gear import OWN, Gear
from engine.picture import Picture
from streaming.cast import Cast, Credits
from streaming.clock import NS, Clock, MonotonicClock
from streaming.delay_line import DelayLine
from streaming.governor import Governor
from streaming.jitter import JitterBuffer
from streaming.motion import Motion
from streaming.pacer import Pacer, Shown
from streaming.pipeline import Engine
from streaming.recorder import Recorder
from streaming.relay import Relay
from streaming.show import ShowStatus
from streaming.sources.file import Player
from streaming.sources.intake import Intake
from streaming.sources.udp import UdpSource, listen
from streaming.sources.websocket import PoseSockets

STOP_S = 1.5
SWAP_S = 5.0  # an engine that has not finished its last frames by then is cut off
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
        governor: Governor | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        another: Callable[[Path], Cast] | None = None,
    ) -> None:
        """`player`: what is shown while no live motion comes in; it starts when the engine is ready.

        `governor`: chooses the gear of each frame; its ladder is the engine's. Without one frames are in the engine's own.
        `another` opens the avatar in a folder, for `swap`; its engine has the same gears.
        `recorder`: writes a pose log of what is painted, until another avatar takes over; `prepare` starts it.
        """
        self.fps = fps
        self.trouble = ""  # why it cannot go on, in a line
        self._player = player
        self._names = (source, sound)
        self._credits = Credits(Cast(prepare, fps, avatar, person))
        self._another = another
        self._swapping = False
        self._swaps: Counter[str] = Counter()
        self._udp = udp
        self._recorder = recorder
        self._clock = clock or MonotonicClock()
        self._jitter = JitterBuffer()
        self.intake = Intake(self._jitter, self._clock, self._hear)
        self.on_pose = PoseSockets(self.intake.feed)  # whoever connects to the WebSocket `/pose`
        self._motion = Motion(self._jitter, player)
        self._pacer = Pacer()
        self._line = DelayLine()
        self._relay: Relay | None = None
        self._stopped = False
        self._udp_source: UdpSource | None = None
        self._task: asyncio.Task[None] | None = None
        self._newest: Picture | None = None
        self._governor = governor
        self._delays_ns: list[int] = []  # of pictures that arrived since the governor looked
        self._skips: Counter[str] = Counter()
        self._play_ns: int | None = None  # the last tick that was asked for

    async def start(self) -> None:
        """Open the sources and begin to load the engine. InputError where a port is taken."""
        if self._udp is not None:
            self._udp_source = await listen(*self._udp, self.intake.feed)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the threads."""
        self._stopped = True
        if self._udp_source is not None:
            self._udp_source.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._relay is not None and not await in_thread(lambda: self._stop_relay(STOP_S)):
            log.warning("the engine did not end in time")
        recorder = self._recorder
        if recorder is not None and not await in_thread(recorder.stop):
            log.warning("the pose log did not end in time")

    def take(self, play_ns: int) -> Shown | None:
        """The picture for `play_ns`; the delay jumps only while nobody speaks."""
        self._play_ns = play_ns
        shown = self._pacer.take(play_ns, self._line.silent)
        if shown is not None:
            self._credits.show(shown.picture)
        return shown

    def sound(self, count: int, play_ns: int) -> np.ndarray:
        """Speech (count,) int16, as late as the pictures. Silence before the first picture."""
        if self._newest is None:
            return np.zeros(count, np.int16)
        return self._line.pull(count, play_ns, self._pacer.delay_ns)[:, 0]

    def status(self) -> ShowStatus:
        """What is going on."""
        source, sound = self._names
        if self._motion.from_live:
            source, sound = "live motion capture", "live voice" if self.intake.counters.speech else ""
        return ShowStatus(
            avatar=self._credits.shown.avatar,
            source=source,
            sound=sound,
            live=not self.trouble and self._motion.moving(self._clock.now_ns()),
            delay_ns=self._pacer.delay_ns,
            drops=self._drops(),
            stage_ns=dict(self._newest.stage_ns) if self._newest is not None else {},
            skips=dict(self._skips),
            governor=self._governor.status() if self._governor is not None else None,
            person=self._credits.shown.person,
            swaps=dict(self._swaps),
            recording=self._recorder.state() if self._recorder is not None else None,
            trouble=self.trouble,
        )

    def seek(self, seconds: float) -> None:
        """Go to that place of the clip, its speech too, and begin a new epoch.

        What was painted or said before is not shown or heard any more: the last picture stays, in silence, until the first
        of the new place is due. Where live motion is shown, only the clip behind it moves. InputError where there is no such
        place, or the engine is not ready.
        """
        relay = self._on_air("seek")
        if self._player is None:
            raise InputError("show", "seek", "a clip that plays", "none")
        self._player.seek(seconds, self._clock.now_ns())
        if not self._motion.from_live:
            self._line.clear()
            self._pacer.reset(relay.reset())

    async def swap(self, folder: Path) -> None:
        """Put the avatar in `folder` on air. The old one paints every frame until the new one is loaded and warm.

        Returns when the last frame of the old one has left and its networks are let go. Motion, speech and epoch go on;
        `status` tells of the new one from its first picture on. Pictures may be of another size, encoders scale them.

        InputError where the avatar cannot be loaded or has another frame rate, or a swap is going on: the second is
        refused. Whatever else a runtime raises comes through. In all these cases the old one stays on air.
        """
        outcome = "refused"
        try:
            relay = self._on_air("swap")
            if self._swapping or relay.swapping:
                raise InputError("show", "swap", "one at a time", "another while one is going on")
            if self._another is None:
                raise InputError("show", "swap", "a show that knows how to open avatars", "one that does not")
            self._swapping, outcome = True, "failed"
            try:
                cast = await in_thread(partial(self._another, folder))
                if cast.fps != self.fps:
                    outcome = "refused"
                    raise InputError(str(folder), "fps", f"{self.fps:g}, as the show's", f"{cast.fps:g}")
                engine = await in_thread(cast.prepare)
                first = self._on_air("swap").swap(engine)
                del engine  # the show keeps no engine alive: it lives as long as its pipeline
                self._credits.enter(cast, first)
                outcome = "done"
                if not await in_thread(partial(relay.wait, SWAP_S)):
                    outcome = "cut off"
            finally:
                self._swapping = False
        finally:
            self._swaps[outcome] += 1
            log.info("avatar swap", outcome=outcome, folder=str(folder))

    def _on_air(self, what: str) -> Relay:
        if self._relay is None or self._stopped:
            raise InputError(
                "show", what, "one that is on air", "one that has stopped" if self._stopped else "none yet"
            )
        return self._relay

    async def _run(self) -> None:
        """Load the engine, then feed it a pose at each tick, for ever."""
        loop, cast = asyncio.get_running_loop(), self._credits.shown
        try:
            engine = await in_thread(cast.prepare)
            relay = Relay(engine, lambda picture: self._leave(loop, picture), self._recorder)
            del engine  # it lives as long as its pipeline
        except InputError as error:
            self._fail(str(error))
            return
        except Exception as error:  # whatever a runtime raises, the server stays and says so
            log.exception("the engine could not start")
            self._fail(f"the engine could not start: {type(error).__name__}: {error}")
            return
        self._relay = relay
        relay.start()
        start_ns = self._clock.now_ns()
        log.info("on air", avatar=cast.avatar, person=cast.person, source=self._names[0])
        if self._governor is not None:
            log.info(
                "governor on", ladder=[str(gear) for gear in self._governor.ladder], budget=str(self._governor.budget)
            )
        if self._player is not None:
            self._player.start_ns = start_ns
        period_ns, due_ns = round(NS / self.fps), start_ns
        while True:
            now_ns = self._clock.now_ns()
            if due_ns > now_ns:
                await asyncio.sleep((due_ns - now_ns) / NS)
                continue
            due_ns += (now_ns - due_ns) // period_ns * period_ns  # ticks that were missed are left out
            self._tick(relay, due_ns)
            due_ns += period_ns
            if self._play_ns is not None:
                due_ns += towards(due_ns + self._pacer.delay_ns, self._play_ns, period_ns)

    def _tick(self, relay: Relay, now_ns: int) -> None:
        frame = self._motion.frame(now_ns)
        gear = self._govern(now_ns, submitted=int(frame is not None))
        if frame is not None:
            relay.submit(frame, gear)
        if self._player is not None:
            for samples, capture_ns in self._player.speech(now_ns):
                if not self._motion.from_live:
                    self._line.push(samples, capture_ns)

    def _govern(self, now_ns: int, submitted: int) -> Gear:
        """The gear of the frame of this tick. What the governor decides goes into the log."""
        if self._governor is None:
            return OWN
        delays_ns, self._delays_ns = self._delays_ns, []
        decision = self._governor.observe(now_ns, submitted, delays_ns)
        if decision is not None:
            log.info(
                f"governor goes {decision.direction}",
                rung=decision.to_rung,
                from_rung=decision.from_rung,
                gear=str(decision.gear),
                reason=decision.reason,
            )
        return self._governor.gear

    def _hear(self, samples: np.ndarray, capture_ns: int) -> None:
        """Live speech, from the intake."""
        if self._motion.from_live:
            self._line.push(samples, capture_ns)

    def _leave(self, loop: asyncio.AbstractEventLoop, picture: Picture) -> None:
        """A picture is finished: called in the pipeline's last thread."""
        loop.call_soon_threadsafe(self._arrive, picture, self._clock.now_ns())

    def _arrive(self, picture: Picture, now_ns: int) -> None:
        self._newest = picture
        self._skips.update(picture.skipped)
        if self._governor is not None:
            self._delays_ns.append(now_ns - picture.capture_ns)
        self._pacer.push(picture, now_ns)

    def _fail(self, line: str) -> None:
        self.trouble = line
        log.error("no show", reason=line)

    def _stop_relay(self, timeout: float) -> bool:
        return self._relay is None or self._relay.stop(timeout)

    def _drops(self) -> dict[str, int]:
        """Frames that never became a picture on screen, by reason."""
        pacer = self._pacer.counters
        drops: Counter[str] = Counter(self._relay.drops() if self._relay is not None else {})
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
