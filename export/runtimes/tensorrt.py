"""TensorRT 10 or 11 on an NVIDIA GPU: engines for that GPU and that version, from the cache or built, which takes minutes."""

from __future__ import annotations

from collections.abc import Callable

from export.cache import Key
from export.seam import Fixed, Options, Source
from export.trt import engines, running
from export.trt.kit import Kit, bindings, first_gpu
from export.trt.memory import CUDA

PRECISIONS = ("f16", "bf16")
GRAPHS = {"f16": "f16", "bf16": "bf16"}  # networks are strongly typed: precision lies in the graph


def kit(precision: str) -> Kit:
    """For the first GPU. InputError where there is none, or no TensorRT."""
    gpu = first_gpu("tensorrt")
    return Kit("tensorrt", bindings("tensorrt", "tensorrt_bindings"), precision, f"{gpu.sm} {gpu.name}")


def build(source: Source, options: Options, tell: Callable[[float], None]) -> Key:
    """A graph's engine, made or found. InputError where it cannot be."""
    return engines.build_ahead(kit(options.precision), source, options.cache, tell)


def load(source: Source, options: Options, fixed: Fixed) -> running.TensorRTNetwork:
    """A graph's engine on the first GPU. InputError where it cannot be built or read."""
    return running.load(kit(options.precision), source, options, fixed, CUDA)
