"""A live stream on disk: which pose each group of stages took, in order, and where a group began anew.

A folder with `log.toml`, what painted, and `poses.bin`, append-only records; docs/pose_log.md says it byte by byte. It
turns events into bytes and back. It knows neither threads nor what stages do.

    log = PoseLog.open(Path("recorded"))
    for event in log.events():
        ...
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine import toml
from engine.errors import InputError
from engine.gear import OWN, Gear
from engine.pose import PoseFrame
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS

FIELDS_FILE, EVENTS_FILE = "log.toml", "poses.bin"
VERSION = 1
MAGIC = b"LVALOG\x01\x00"  # at the front of poses.bin; the number is the version

_HEAD = struct.Struct("<BBHIQ")  # kind, group, gear, epoch, index
_CRC = struct.Struct("<I")
_TIME = struct.Struct("<q")
_FLOAT = np.dtype("<f4")
_FLOATS = POSE_DIMS + EXPRESSION_DIMS + 3
HEAD_BYTES = _HEAD.size + _CRC.size  # 20: a record without a pose
BODY_BYTES = _TIME.size + _FLOATS * _FLOAT.itemsize + _CRC.size  # 1,084: what follows where there is a pose


class Kind(IntEnum):
    """What happened."""

    POSE = 1  # the first group took a frame, whose pose follows
    TAKEN = 2  # a later group took a frame; the group after the last one is the exit: the picture left
    CRASHED = 3  # the group lost the frame that it had taken, and whatever it held back, and was reset
    HOLE = 4  # `index` records could not be written
    SWAPPED = (
        5  # another avatar takes over: the group takes no more, and what it held back goes on; at the exit the log ends
    )


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One record. A frame is named by its epoch and its index in it."""

    kind: Kind
    group: int = 0  # 0 to 255
    epoch: int = 0
    index: int = 0
    gear: int = 0  # of a POSE: in which of the log's gears it is painted; 0: the engine's own
    frame: PoseFrame | None = None  # of a POSE


@dataclass(frozen=True)
class LogFields:
    """What `log.toml` holds: everything beside the poses that a picture depends on."""

    avatar: str  # its name
    fingerprint: str  # engine.avatar.Avatar.fingerprint
    seed: int
    steps: int
    mode: str
    window: int  # frames that are seen together
    overlap: int  # how many of them the window before has seen
    context: int
    hop: int
    delay: int  # later frames that a frame waited for, at most
    fps: float
    groups: tuple[tuple[str, ...], ...]  # names of the stages that shared a thread, in order
    gears: tuple[dict[str, int], ...] = ({},)  # that frames could be painted in, by what is not the engine's own
    folder: str = ""  # where the avatar was; empty: the bundled one
    body: str = ""  # SHA-256 of an SMPL-X file in place of the avatar's own
    runtime: str = ""
    precision: str = ""
    threads: int = 0  # of the runtime; 0: all cores
    program: str = ""  # version of LiveAnchor
    version: int = VERSION  # of the format

    def prepared(self, where: str) -> tuple[Gear, ...]:
        """The gears that frames could be painted in, the engine's own first. InputError, of the file `where`, for one that is none."""
        try:
            gears = tuple(Gear(**given) for given in self.gears)
        except (TypeError, ValueError) as error:
            raise InputError(where, "gears", "gears", str(error)) from None
        if gears[:1] != (OWN,):
            raise InputError(where, "gears", "a list whose first is {}", str(list(self.gears)))
        return gears

    def write(self, folder: Path) -> None:
        """Write `log.toml` into `folder` at once or not at all."""
        half = folder / f".{FIELDS_FILE}.part"
        half.write_text(toml.dumps(self), encoding="utf-8")
        half.replace(folder / FIELDS_FILE)


ENGINE_FIELDS = (
    "avatar",
    "fingerprint",
    "seed",
    "steps",
    "mode",
    "window",
    "overlap",
    "context",
    "hop",
)  # what an engine knows of itself
DECIDING = (*ENGINE_FIELDS, "body", "runtime", "precision", "threads")  # with another one, pictures may differ


@dataclass(frozen=True)
class PoseLog:
    """A recorded stream, opened for reading."""

    folder: Path
    fields: LogFields

    @classmethod
    def open(cls, folder: Path) -> PoseLog:
        """InputError where `folder` holds no log, or one of another version."""
        file = Path(folder) / FIELDS_FILE
        fields = toml.read(file, LogFields)
        if fields.version != VERSION:
            raise InputError(str(file), "version", str(VERSION), str(fields.version))
        return cls(Path(folder), fields)

    @property
    def where(self) -> str:
        """The file of the events, as errors name it."""
        return str(self.folder / EVENTS_FILE)

    def events(self) -> Iterator[Event]:
        """All events in order, up to the last whole record. InputError where the file is damaged, once that is reached."""
        try:
            with Path(self.where).open("rb") as file:
                yield from read_events(file, self.where)
        except OSError as error:
            raise InputError(self.where, "file", "a readable file", error.strerror or str(error)) from None


def is_log(folder: Path) -> bool:
    """Whether `folder` holds a pose log."""
    return (folder / FIELDS_FILE).is_file()


def encode(event: Event) -> bytes:
    """The record of `event`. ValueError for a POSE without its frame."""
    head = _HEAD.pack(event.kind, event.group, event.gear, event.epoch, event.index)
    head += _CRC.pack(zlib.crc32(head))
    if event.kind is not Kind.POSE:
        return head
    if event.frame is None:
        raise ValueError("a POSE needs its frame")
    arrays = (event.frame.pose, event.frame.expression, event.frame.transl)
    body = _TIME.pack(event.frame.time_ns) + b"".join(array.astype(_FLOAT).tobytes() for array in arrays)
    return head + body + _CRC.pack(zlib.crc32(body))


def read_events(file: BinaryIO, where: str) -> Iterator[Event]:
    """The events in `file`, from its beginning to its last whole record. InputError at the first damaged one."""
    magic = file.read(len(MAGIC))
    if not MAGIC.startswith(magic):
        raise InputError(where, "magic", MAGIC.hex(" "), magic.hex(" "))
    at = len(magic)
    while len(head := file.read(HEAD_BYTES)) == HEAD_BYTES:
        kind, group, gear, epoch, index = _HEAD.unpack(_checked(head, where, at))
        if kind not in list(Kind):
            raise InputError(where, f"kind at byte {at}", f"1 to {max(Kind)}", str(kind))
        frame = None
        if kind == Kind.POSE:
            body = file.read(BODY_BYTES)
            if len(body) < BODY_BYTES:
                return
            frame = _frame(_checked(body, where, at + HEAD_BYTES))
        yield Event(Kind(kind), group, epoch, index, gear, frame)
        at += HEAD_BYTES + (BODY_BYTES if frame is not None else 0)


def _checked(data: bytes, where: str, at: int) -> bytes:
    """`data` without the checksum at its end."""
    content, crc = data[: -_CRC.size], _CRC.unpack(data[-_CRC.size :])[0]
    if zlib.crc32(content) != crc:
        raise InputError(
            where, f"record at byte {at}", f"checksum {crc:08x}", f"{zlib.crc32(content):08x}: it is damaged"
        )
    return content


def _frame(body: bytes) -> PoseFrame:
    floats = np.frombuffer(body, _FLOAT, _FLOATS, _TIME.size).astype(np.float32)
    pose, expression, transl = np.split(floats, [POSE_DIMS, POSE_DIMS + EXPRESSION_DIMS])
    return PoseFrame(_TIME.unpack_from(body)[0], pose, expression, transl)
