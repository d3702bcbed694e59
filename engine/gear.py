"""What a frame's painting costs: how many steps, how many frames at once and seen, what is painted a second time.

cheaper = Gear(context=0, face_every=2)
engine = LiveEngine(avatar, networks, gears=[cheaper])
engine.feed(frame, cheaper)
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from engine.avatar import Avatar


@dataclass(frozen=True, slots=True)
class Gear:
    """None: as the engine was made. `face_every`, `hands_every`: 1 every frame, 2 every second one, 0 none."""

    steps: int | None = None
    hop: int | None = None  # new frames painted at once
    context: int | None = None  # past frames that are seen: of a window, or of a bank
    face_every: int = 1
    hands_every: int = 1

    def __post_init__(self) -> None:
        """ValueError where a number is too small."""
        for name, least in (("steps", 1), ("hop", 1), ("context", 0), ("face_every", 0), ("hands_every", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"a gear's {name} must be at least {least}, got {value}")

    @property
    def body(self) -> Gear:
        """The gear as far as the body's denoiser goes."""
        return Gear(self.steps, self.hop, self.context)

    def every(self, part: str) -> int:
        """Which frames' "face" or "hands" are painted a second time."""
        return {"face": self.face_every, "hands": self.hands_every}[part]

    def given(self) -> dict[str, int]:
        """What is not the engine's own, by name: `Gear(**gear.given()) == gear`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(OWN, name)}

    def __str__(self) -> str:
        """The gear in words."""
        given = (("steps", self.steps), ("hop", self.hop), ("past frames", self.context))
        words = [f"{name} {value}" for name, value in given if value is not None]
        for part, every in (("face", self.face_every), ("hands", self.hands_every)):
            if every != 1:
                words.append(f"{part} in one frame of {every}" if every else f"no {part}")
        return ", ".join(words) or "own"


OWN = Gear()  # the engine's own


LEAST_DDIM = 4  # fewer, spread over the schedule, begin too far below pure noise


def ladder(avatar: Avatar) -> tuple[Gear, ...]:
    """From the avatar's own gear to the cheapest that its graphs allow, each cheaper than the one before.

    What shows least goes first: steps are halved, down to one or `LEAST_DDIM`, past frames are left out, hands and face are painted again every
    second frame, then not at all. `hop` is no rung of it: it costs delay, and on a CPU two at once take about as long as two.
    """
    gears = [OWN]

    def then(**change: int) -> None:
        gears.append(replace(gears[-1], **change))

    steps = len(avatar.denoise.timesteps)
    least = LEAST_DDIM if avatar.denoise.sampler == "ddim" else 1
    while steps // 2 >= least:
        steps //= 2
        then(steps=steps)
    if avatar.denoise.context and avatar.denoise.mode in ("causal", "bank"):
        then(context=0)
    parts = [name for name, fields in (("hands", avatar.hands), ("face", avatar.face)) if fields.enabled]
    for every in (2, 0):
        for part in parts:
            then(**{f"{part}_every": every})
    return tuple(gears)
