"""BVH files, strictly: a hierarchy of joints with offsets and channels, and a table of numbers, a row a frame.

It knows the format, not bodies: names, units and rest pose mean nothing here. Every complaint names the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.errors import InputError
from engine.rotation import about, multiply, rotate

AXES = {"X": (1.0, 0.0, 0.0), "Y": (0.0, 1.0, 0.0), "Z": (0.0, 0.0, 1.0)}
CHANNELS = frozenset(f"{axis}{kind}" for axis in AXES for kind in ("position", "rotation"))
MOST_JOINTS = 1000


@dataclass(frozen=True)
class BvhJoint:
    """One joint: `parent` is its index, -1 for the root; `offset` its place in the parent's frame at rest."""

    name: str
    parent: int
    offset: tuple[float, float, float]
    channels: tuple[str, ...]
    column: int  # of its first channel


@dataclass(frozen=True)
class Bvh:
    """A parsed file. Parents come before children. `motion` (T, C) is as written: degrees, and the file's own unit."""

    source: str
    joints: tuple[BvhJoint, ...]
    frame_time: float  # seconds
    motion: np.ndarray  # (T, C) float64

    def names(self) -> list[str]:
        """Joint names in order."""
        return [joint.name for joint in self.joints]

    def rest(self) -> np.ndarray:
        """(J, 3) positions of the joints with every rotation zero and the root at the origin."""
        places = np.zeros((len(self.joints), 3))
        for i, joint in enumerate(self.joints[1:], 1):
            places[i] = places[joint.parent] + joint.offset
        return places

    def pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Global rotations (T, J, 4) as quaternions and global positions (T, J, 3) of all frames.

        Position channels stand in the place of the offset, as the format's users have it.
        """
        frames = len(self.motion)
        turns = np.zeros((frames, len(self.joints), 4), np.float32)
        places = np.zeros((frames, len(self.joints), 3), np.float32)
        for i, joint in enumerate(self.joints):
            turn = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0], np.float32), (frames, 4))
            place = np.tile(np.array(joint.offset), (frames, 1))
            for column, channel in enumerate(joint.channels, joint.column):
                if channel.endswith("position"):
                    place[:, "XYZ".index(channel[0])] = self.motion[:, column]
                else:
                    turn = multiply(turn, about(AXES[channel[0]], np.radians(self.motion[:, column])))
            if joint.parent >= 0:
                place = places[:, joint.parent] + rotate(turns[:, joint.parent], place)
                turn = multiply(turns[:, joint.parent], turn)
            turns[:, i], places[:, i] = turn, place
        return turns, places


def parse_bvh(source: str, text: str) -> Bvh:
    """The file's content. InputError names the line that is not as it should be."""
    lines = _Lines(source, text)
    joints = _parse_hierarchy(lines)
    number, words = lines.next("Frames: and their number")
    if (
        len(words) != 2
        or words[0] != "Frames:"
        or not words[1].isascii()
        or not words[1].isdigit()
        or len(words[1]) > 9
    ):
        raise lines.wrong(number, "Frames: and their number", words)
    frames = int(words[1])
    if frames == 0:
        raise InputError(source, f"line {number}", "at least one frame", "0")
    number, words = lines.next("Frame Time: and seconds")
    if len(words) != 3 or words[:2] != ["Frame", "Time:"]:
        raise lines.wrong(number, "Frame Time: and seconds", words)
    (frame_time,) = lines.numbers(number, words[2:], 1)
    if not 0.001 <= frame_time <= 1.0:
        raise InputError(source, f"line {number}: frame time", "0.001 to 1 second", f"{frame_time:g}")
    width = sum(len(joint.channels) for joint in joints)
    if width == 0:
        raise InputError(source, "CHANNELS", "at least one channel", "none")
    return Bvh(source, joints, frame_time, _parse_motion(lines, frames, width))


def _parse_hierarchy(lines: _Lines) -> tuple[BvhJoint, ...]:
    number, words = lines.next("HIERARCHY")
    if words != ["HIERARCHY"]:
        raise lines.wrong(number, "HIERARCHY", words)
    number, words = lines.next("ROOT and a name")
    if words[0] != "ROOT" or len(words) < 2:
        raise lines.wrong(number, "ROOT and a name", words)
    joints: list[BvhJoint] = []
    joints.append(_parse_joint(lines, words, -1, 0))
    open_joints = [0]
    while open_joints:
        number, words = lines.next("JOINT, End Site or }")
        if words == ["}"]:
            open_joints.pop()
        elif words[0] == "JOINT" and len(words) > 1:
            if len(joints) == MOST_JOINTS:
                raise lines.wrong(number, f"at most {MOST_JOINTS} joints", words)
            last = joints[-1]
            joints.append(_parse_joint(lines, words, open_joints[-1], last.column + len(last.channels)))
            open_joints.append(len(joints) - 1)
        elif words[:2] == ["End", "Site"]:
            lines.expect("{")
            lines.numbers(*lines.keyword("OFFSET"), 3)
            lines.expect("}")
        else:
            raise lines.wrong(number, "JOINT, End Site or }", words)
    lines.expect("MOTION")
    return tuple(joints)


def _parse_joint(lines: _Lines, words: list[str], parent: int, column: int) -> BvhJoint:
    lines.expect("{")
    x, y, z = lines.numbers(*lines.keyword("OFFSET"), 3)
    number, rest = lines.keyword("CHANNELS")
    channels = tuple(rest[1:])
    if not rest or rest[0] != str(len(channels)) or not CHANNELS.issuperset(channels):
        raise lines.wrong(number, "CHANNELS, their number and names like Xrotation", ["CHANNELS", *rest])
    if len(set(channels)) != len(channels):
        raise lines.wrong(number, "every channel once", ["CHANNELS", *rest])
    return BvhJoint(" ".join(words[1:]), parent, (x, y, z), channels, column)


def _parse_motion(lines: _Lines, frames: int, width: int) -> np.ndarray:
    rows = list(lines.rest())
    if len(rows) != frames:
        raise InputError(lines.source, "MOTION", f"{frames} frames", f"{len(rows)} rows", "is the file cut short?")
    try:  # all at once: per row is ten times slower
        motion = np.array([word for _, words in rows for word in words], np.float64).reshape(frames, width)
        if np.isfinite(motion).all() and all(len(words) == width for _, words in rows):
            return motion
    except ValueError:
        pass
    for number, words in rows:  # something is wrong: find where
        lines.numbers(number, words, width)
    raise InputError(lines.source, "MOTION", f"{frames} rows of {width} numbers", "something else")


class _Lines:
    """The lines that are not blank, as words, with their numbers; a brace counts as a line of its own."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._lines = self._split(text)

    @staticmethod
    def _split(text: str) -> Iterator[tuple[int, list[str]]]:
        for number, line in enumerate(text.splitlines(), 1):
            for part in line.replace("{", "\n{\n").replace("}", "\n}\n").split("\n"):
                if words := part.split():
                    yield number, words

    def next(self, expected: str) -> tuple[int, list[str]]:
        for line in self._lines:
            return line
        raise InputError(self.source, "end of file", expected, "nothing", "is the file cut short?")

    def rest(self) -> Iterator[tuple[int, list[str]]]:
        return self._lines

    def wrong(self, number: int, expected: str, words: list[str]) -> InputError:
        return InputError(self.source, f"line {number}", expected, repr(" ".join(words)[:60]))

    def expect(self, word: str) -> None:
        number, words = self.next(word)
        if words != [word]:
            raise self.wrong(number, word, words)

    def keyword(self, word: str) -> tuple[int, list[str]]:
        """The words after `word`, which must begin the line."""
        number, words = self.next(word)
        if words[0] != word:
            raise self.wrong(number, word, words)
        return number, words[1:]

    def numbers(self, number: int, words: list[str], count: int) -> list[float]:
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise self.wrong(number, f"{count} numbers", words) from None
        if len(values) != count:
            raise InputError(self.source, f"line {number}", f"{count} numbers", str(len(values)))
        if not all(map(math.isfinite, values)):
            raise InputError(self.source, f"line {number}", "finite numbers", "NaN or infinity")
        return values
