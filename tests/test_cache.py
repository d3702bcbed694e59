"""The cache of engines: whole or not there, whatever happens while one is written, and refused where it is not what was written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from export.cache import ABANDONED_S, HALF, RECORD, EngineCache, Key

ROOT = Path(__file__).resolve().parents[1]
KEY = Key("body", "d1", "tensorrt", "10.16.1.11", "f16", "sm89", "frames=1", "s1")
PLAN = "engine.plan"


def writes(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / PLAN).write_bytes(content) and None


def names(cache: EngineCache) -> list[str]:
    return sorted(path.name for path in cache.root.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_an_engine_is_found_where_it_was_built(cache: EngineCache) -> None:
    assert cache.find(KEY) is None and not cache.root.exists() and list(cache.keys()) == []
    folder = cache.build(KEY, writes(b"plan"))
    assert cache.find(KEY) == folder == cache.root / KEY.id
    assert (folder / PLAN).read_bytes() == b"plan"
    assert list(cache.keys()) == [KEY] and names(cache) == [KEY.id]
    assert cache.size(KEY) == 4 and cache.size(replace(KEY, digest="d2")) == 0
    assert cache.root.stat().st_mode & 0o077 == 0
    cache.drop(KEY)
    assert cache.find(KEY) is None and names(cache) == [] and cache.size(KEY) == 0
    cache.drop(KEY)  # nothing is there


@given(st.sampled_from(list(Key.__dataclass_fields__)), st.text(min_size=1), st.text(min_size=1))
def test_every_field_makes_another_engine(field: str, one: str, other: str) -> None:
    if field not in ("graph", "runtime", "precision"):  # these are told in the folder's name, and are ours
        a, b = (replace(KEY, **{field: text}) for text in (one, other))
        assert (a.id == b.id) == (one == other)
        assert "/" not in a.id and a.id.startswith("body-tensorrt-f16-")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SystemExit()])
def test_whatever_stops_a_build_the_cache_stays_whole(cache: EngineCache, error: BaseException) -> None:
    other = replace(KEY, digest="d2")
    cache.build(other, writes(b"other"))

    def stopped(folder: Path) -> None:
        (folder / PLAN).write_bytes(b"half of a pl")
        raise error

    with pytest.raises(type(error)):
        cache.build(KEY, stopped)
    assert cache.find(KEY) is None
    assert names(cache) == [other.id] and cache.find(other) is not None  # nothing half-written
    assert cache.build(KEY, writes(b"plan")) == cache.find(KEY)


@pytest.mark.parametrize("at", ["record", "disc", "rename"])
def test_a_full_disc_behind_the_build_leaves_nothing(
    cache: EngineCache, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.build(replace(KEY, digest="d2"), writes(b"other"))
    before = names(cache)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if at == "disc":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(Path, "write_text" if at == "record" else "rename", full)
        with pytest.raises(OSError, match="No space left"):
            cache.build(KEY, writes(b"plan"))
    assert names(cache) == before and cache.find(KEY) is None


def test_damaged_renamed_and_foreign_files_are_refused(cache: EngineCache) -> None:
    folder = cache.build(KEY, writes(b"plan"))

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match) as refusal:
            cache.find(KEY)
        assert str(folder) in str(refusal.value) and "run the export again" in str(refusal.value)
        shutil.rmtree(folder)
        cache.build(KEY, writes(b"plan"))
        assert cache.find(KEY) == folder

    (folder / PLAN).write_bytes(b"plam")
    refused("content: expected what was written")
    (folder / PLAN).write_bytes(b"pla")
    refused("content: expected what was written")
    (folder / PLAN).unlink()
    refused(r"files: expected engine\.plan, got none")
    (folder / PLAN).unlink()
    (folder / PLAN).mkdir()
    refused("content: expected what was written")
    (folder / "more.plan").write_bytes(b"plan")
    refused(r"files: expected engine\.plan, got engine\.plan, more\.plan")
    (folder / PLAN).rename(folder / "other.plan")
    refused(r"files: expected engine\.plan, got other\.plan")
    (folder / RECORD).unlink()
    refused("file: expected an engine's record")
    for text in ("", "[]", '{"key": 3, "files": {}}', '{"key": {}, "files": {"engine.plan": {"size": 4}}}'):
        (folder / RECORD).write_text(text)
        refused("file: expected an engine's record")
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"key": record["key"] | {"version": "11.4"}}))
    refused("key: expected the engine that the folder is named after, got another")
    other = cache.build(replace(KEY, digest="d2"), writes(b"other"))
    shutil.rmtree(folder)
    other.rename(folder)  # an engine of another avatar under this one's name
    refused("key: expected the engine that the folder is named after, got another")


def test_a_damaged_engine_is_replaced_and_a_whole_one_is_kept(cache: EngineCache) -> None:
    folder = cache.build(KEY, writes(b"plan"))
    (folder / PLAN).write_bytes(b"plam")
    cache.build(KEY, writes(b"plan again"))
    assert cache.find(KEY) and (folder / PLAN).read_bytes() == b"plan again"
    before = (folder / PLAN).stat().st_ino
    cache.build(KEY, writes(b"plan of a slower process"))
    assert (folder / PLAN).stat().st_ino == before and (folder / PLAN).read_bytes() == b"plan again"
    assert names(cache) == [KEY.id]


def test_what_a_killed_build_left_is_swept_and_what_is_being_built_is_not(cache: EngineCache) -> None:
    cache.build(KEY, writes(b"plan"))
    left, running, note = (cache.root / f"{HALF}{name}" for name in ("left", "running", "note"))
    for half in (left, running):
        half.mkdir()
        (half / RECORD).write_text((cache.root / KEY.id / RECORD).read_text())
    note.write_bytes(b"half")
    long_ago = time.time() - ABANDONED_S - 1
    for half in (left, note):
        os.utime(half, (long_ago, long_ago))
    assert list(cache.keys()) == [KEY]  # halves are no engines
    cache.build(replace(KEY, digest="d2"), writes(b"other"))
    assert running.is_dir() and not left.exists() and not note.exists()


def test_a_killed_process_leaves_a_half_that_nobody_reads(cache: EngineCache) -> None:
    code = f"""
import os
from pathlib import Path
from export.cache import EngineCache, Key
def killed(folder):
    (folder / {PLAN!r}).write_bytes(b"pla")
    os.kill(os.getpid(), 9)
EngineCache(Path({str(cache.root)!r})).build({KEY!r}, killed)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == -9
    assert [name.startswith(HALF) for name in names(cache)] == [True]
    assert cache.find(KEY) is None
    assert cache.build(KEY, writes(b"plan")) == cache.find(KEY)


def test_two_processes_at_once_find_whole_engines(cache: EngineCache) -> None:
    """Each builds and reads the same engines while the other does."""
    code = f"""
import sys, random
from dataclasses import replace
from pathlib import Path
from export.cache import EngineCache, Key
cache, base, seen = EngineCache(Path({str(cache.root)!r})), {KEY!r}, 0
random.seed(sys.argv[1])
for i in range(300):
    key = replace(base, digest=str(random.randrange(3)))
    cache.build(key, lambda folder: [(folder / f"{{n}}.plan").write_bytes(key.digest.encode() * 5000) for n in range(3)])
    folder = cache.find(key)
    if folder is None or {{(folder / f"{{n}}.plan").read_bytes() for n in range(3)}} != {{key.digest.encode() * 5000}}:
        sys.exit(f"{{i}}: {{folder}}")
    cache.keep("note", sys.argv[1].encode() * 5000)
    if len(set(cache.note("note"))) != 1 or len(cache.note("note")) != 5000:
        sys.exit("half a note")
    seen += 1
print(seen)
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code, who], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for who in "ab"
    ]
    said = [process.communicate() for process in both]
    assert [out.strip() for out, _ in said] == [b"300", b"300"], said
    assert len(list(cache.keys())) == 3
    assert not [name for name in names(cache) if name.startswith(HALF)]


def test_notes_are_written_whole(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.note("timing") == b""
    cache.keep("timing", b"one")
    cache.keep("timing", b"two")
    assert cache.note("timing") == b"two"

    def full(path: Path, note: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        cache.keep("timing", b"three")
    assert cache.note("timing") == b"two" and names(cache) == ["timing"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners of files are POSIX's")
def test_a_folder_that_others_can_write_to_is_refused(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.build(KEY, writes(b"plan"))
    cache.keep("timing", b"one")
    cache.root.chmod(0o777)
    for use in (lambda: cache.find(KEY), lambda: cache.build(KEY, writes(b"")), lambda: cache.note("timing")):
        with pytest.raises(InputError, match="mode: expected a folder that others cannot write to, got 0o777"):
            use()
    cache.root.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: cache.root.stat().st_uid + 1)
    with pytest.raises(InputError, match=r"owner: expected this user.*LIVEANCHOR_CACHE"):
        cache.find(KEY)


def test_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIVEANCHOR_CACHE", str(tmp_path))
    assert EngineCache.of_user().root == tmp_path / "engines"
