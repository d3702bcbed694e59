"""Engines on disc, each in a folder of its own, named by all that it depends on: written whole or not at all, and read only
where they are what was written.

    cache = EngineCache.of_user()
    folder = cache.find(key) or cache.build(key, lambda folder: (folder / "engine.plan").write_bytes(plan))

It knows files, not what an engine is. Several processes may use one cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.home import cache_home
from export.manifest import Stamp

RECORD = "engine.json"
HALF = ".half-"  # how a folder is called while it is written
AGAIN = "delete that folder and run the export again"
ABANDONED_S = 24 * 3600.0  # no engine takes as long to build


@dataclass(frozen=True)
class Key:
    """What an engine depends on. Where one of these differs it is another engine."""

    graph: str  # its name, "body_bank"
    digest: str  # of the graph, and of the weights where they are part of the engine
    runtime: str
    version: str  # of the runtime
    precision: str
    device: str  # what it was built for: "cpu avx512_bf16", "sm89"
    profile: str  # shapes of the inputs, and whatever else was settled when it was built
    structure: str = ""  # of the graph without its weights, where an engine of the same one can be given others

    @property
    def id(self) -> str:
        """The folder's name: readable, and different for different keys."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.graph}-{self.runtime}-{self.precision}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


@dataclass(frozen=True)
class EngineCache:
    """The folder of all engines. Another user who could write there could run code here: such a folder is refused."""

    root: Path

    @classmethod
    def of_user(cls) -> EngineCache:
        return cls(cache_home() / "engines")

    def find(self, key: Key) -> Path | None:
        """The folder of an engine, its files checked; None where there is none.

        InputError where it is not what was written, or not this user's.
        """
        folder = self.root / key.id
        if not folder.is_dir():
            return None
        self._refuse_strangers()
        said, files = _record(folder)
        if said != asdict(key):
            raise InputError(str(folder / RECORD), "key", "the engine that the folder is named after", "another", AGAIN)
        if set(_files(folder)) != set(files):
            raise InputError(str(folder), "files", ", ".join(sorted(files)), ", ".join(_files(folder)) or "none", AGAIN)
        for name, stamp in files.items():
            if _stamp(folder / name) != stamp:
                raise InputError(str(folder / name), "content", "what was written", "something else", AGAIN)
        return folder

    def build(self, key: Key, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a new folder, and keep it: in place of a damaged one, and not where another process was faster.

        Whatever it raises, nothing of it stays.
        """
        self._open()
        self._sweep()
        folder, half = self.root / key.id, self.root / f"{HALF}{uuid.uuid4().hex}"
        half.mkdir()
        try:
            write(half)
            files = {name: asdict(Stamp.of(half / name)) for name in _files(half)}
            record = half / RECORD
            record.write_text(json.dumps({"key": asdict(key), "files": files}, indent=1) + "\n", encoding="utf-8")
            for name in (*files, RECORD):
                _to_disc(half / name)
            if not self._whole(key):  # which somebody may be reading
                self._replace(folder, half)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        return folder

    def drop(self, key: Key) -> None:
        """Forget an engine, if it is there."""
        folder = self.root / key.id
        if folder.is_dir():
            away = self.root / f"{HALF}{uuid.uuid4().hex}"  # first out of sight, whole
            folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def keys(self) -> Iterator[Key]:
        """Of all engines whose record can be read."""
        for record in sorted(self.root.glob(f"[!.]*/{RECORD}")):  # not those that are being written
            try:
                yield Key(**_record(record.parent)[0])
            except (InputError, TypeError):  # found by who asks for it
                continue

    def size(self, key: Key) -> int:
        """Bytes of an engine's files; 0 where there is none."""
        folder = self.root / key.id
        return sum((folder / name).stat().st_size for name in _files(folder)) if folder.is_dir() else 0

    def note(self, name: str) -> bytes:
        """What a runtime keeps beside its engines under a name of its own; nothing where there is no such note."""
        file = self.root / name
        if not file.is_file():
            return b""
        self._refuse_strangers()
        return file.read_bytes()

    def keep(self, name: str, note: bytes) -> None:
        """Write such a note, at once or not at all."""
        self._open()
        half = self.root / f"{HALF}{uuid.uuid4().hex}"
        try:
            half.write_bytes(note)
            half.replace(self.root / name)
        finally:
            half.unlink(missing_ok=True)

    def _open(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._refuse_strangers()

    def _whole(self, key: Key) -> bool:
        try:
            return self.find(key) is not None
        except InputError:
            return False

    def _sweep(self) -> None:
        """Remove what builds left that were killed."""
        for half in self.root.glob(f"{HALF}*"):
            with contextlib.suppress(OSError):  # another process may have ended it just now
                if time.time() - half.stat().st_mtime > ABANDONED_S:
                    shutil.rmtree(half) if half.is_dir() else half.unlink()

    def _replace(self, folder: Path, half: Path) -> None:
        while True:
            try:
                half.rename(folder)  # an empty folder would be replaced, a full one is not
                return
            except OSError:
                if not folder.exists():
                    raise
            away = self.root / f"{HALF}{uuid.uuid4().hex}"
            try:
                folder.rename(away)
            except FileNotFoundError:  # another process was faster
                continue
            shutil.rmtree(away, ignore_errors=True)

    def _refuse_strangers(self) -> None:
        if not hasattr(os, "getuid"):
            return
        info = self.root.stat()
        if info.st_uid != os.getuid():
            raise InputError(str(self.root), "owner", "this user", f"user {info.st_uid}", "set LIVEANCHOR_CACHE")
        if info.st_mode & stat.S_IWOTH:
            raise InputError(str(self.root), "mode", "a folder that others cannot write to", oct(info.st_mode & 0o777))


def _record(folder: Path) -> tuple[dict[str, Any], dict[str, Stamp]]:
    path = folder / RECORD
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return dict(table["key"]), {str(name): Stamp(**stamp) for name, stamp in table["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(str(path), "file", "an engine's record", repr(error)[:120], AGAIN) from None


def _files(folder: Path) -> Iterator[str]:
    return (path.name for path in sorted(folder.iterdir()) if path.name != RECORD)


def _stamp(file: Path) -> Stamp | None:
    try:
        return Stamp.of(file)
    except OSError:
        return None


def _to_disc(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
