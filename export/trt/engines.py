"""Engines by graph: from the cache, or another avatar's given these weights, or built; read only from the cache.

`trt` is tensorrt's bindings, passed as a value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import InputError
from export.cache import EngineCache, Key
from export.seam import Source
from export.trt.building import Tell, build
from export.trt.kit import Kit, logger

PLAN = "engine.plan"
REFITTED = (
    "refitted"  # lies beside a plan that was given other weights, and is to be asked for goldens when it is loaded
)


@dataclass(frozen=True)
class Engine:
    """An engine in memory, with what must outlive it."""

    engine: Any
    runtime: Any
    log: Any


def prepare(kit: Kit, source: Source, cache: EngineCache, tell: Tell | None = None) -> Path:
    """The folder in `cache` with the engine of a graph, made where it is not there yet.

    InputError where it is damaged, or cannot be built, or an engine of the same structure does not take all weights.
    """
    key = key_of(kit, source)

    def write(folder: Path) -> None:
        for donor in _same_structure(key, cache):
            (folder / PLAN).write_bytes(refitted(kit, donor.read_bytes(), source.file))
            (folder / REFITTED).touch()
            return
        note = f"timing-{kit.name}-{kit.version}-{kit.device.replace(' ', '_').replace('/', '_')}"
        built = build(kit, source.file, source.batch, kit.refits, cache.note(note) if kit.times else b"", tell)
        (folder / PLAN).write_bytes(built.plan)
        if kit.times:
            cache.keep(note, built.timing)

    return cache.find(key) or cache.build(key, write)


def build_ahead(kit: Kit, source: Source, cache: EngineCache, tell: Callable[[float], None]) -> Key:
    """The key of a graph's engine, made where it is not there yet; `tell` hears how far each phase of that is, 0 to 1.

    InputError as from `prepare`.
    """
    prepare(kit, source, cache, lambda phase, step, steps: tell(step / max(1, steps)))
    return key_of(kit, source)


def key_of(kit: Kit, source: Source) -> Key:
    """What the engine depends on: all shapes follow from the graph and how many frames or crops there are."""
    structure = source.structure if kit.refits else ""
    return Key(
        source.graph,
        source.digest,
        kit.name,
        kit.version,
        kit.computes,
        kit.device,
        f"frames={source.batch}",
        structure,
    )


def opened(kit: Kit, plan: Any, where: str) -> Engine:
    """The engine in the buffer `plan`. InputError where it is not one of this version and GPU."""
    trt = kit.trt
    log = logger(trt)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        wanted = f"one of {kit.name} {kit.version} for {kit.device}"
        raise InputError(where, "engine", wanted, "another version's or GPU's", "run the export again")
    return Engine(engine, runtime, log)


def refitted(kit: Kit, plan: Any, file: Path) -> Any:
    """The engine in `plan` with the weights of the graph in `file`, of the same structure: a buffer.

    InputError where some are missing.
    """
    trt, old = kit.trt, opened(kit, plan, str(file))
    refitter = trt.Refitter(old.engine, old.log)
    taken = trt.OnnxParserRefitter(refitter, old.log).refit_from_file(str(file))
    wanted = "all those of an engine of the same structure"
    if missing := refitter.get_missing_weights():
        raise InputError(str(file), "weights", wanted, f"none for {', '.join(missing)[:200]}")
    if not taken or not refitter.refit_cuda_engine():
        raise InputError(str(file), "weights", wanted, old.log.line()[:300])
    config = old.engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)  # others can be made of it in turn
    return old.engine.serialize_with_config(config)


def _same_structure(key: Key, cache: EngineCache) -> Iterator[Path]:
    """Whole engines that differ from `key` in their weights alone."""
    for other in tuple(cache.keys()):
        if key.structure and other.digest != key.digest and replace(other, digest=key.digest) == key:
            with contextlib.suppress(InputError):  # damaged: said to who asks for it
                if folder := cache.find(other):
                    yield folder / PLAN
