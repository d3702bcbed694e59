"""TensorRT 10 or 11 on an NVIDIA GPU: engines for that GPU and that version, from the cache or built, which takes minutes."""

from __future__ import annotations

from pathlib import Path

from export.seam import Fixed, Options, Source
from export.trt import engines, running
from export.trt.building import Tell
from export.trt.kit import Kit, bindings, first_gpu
from export.trt.memory import CUDA

PRECISIONS = ("f16", "bf16")
GRAPHS = {"f16": "f16", "bf16": "bf16"}  # networks are strongly typed: precision lies in the graph


def kit(precision: str) -> Kit:
    """For the first GPU. InputError where there is none, or no TensorRT."""
    gpu = first_gpu("tensorrt")
    return Kit("tensorrt", bindings("tensorrt", "tensorrt_bindings"), precision, f"{gpu.sm} {gpu.name}")


def prepare(source: Source, options: Options, tell: Tell | None = None) -> Path:
    """The folder of a graph's engine in the cache of `options`, built where it is not there yet, on the GPU that runs it.

    InputError where it cannot be built. ValueError without a cache.
    """
    if options.cache is None:
        raise ValueError("an engine is prepared in a cache")
    return engines.prepare(kit(options.precision), source, options.cache, tell)


def load(source: Source, options: Options, fixed: Fixed) -> running.TensorRTNetwork:
    """A graph's engine on the first GPU. InputError where it cannot be built or read."""
    return running.load(kit(options.precision), source, options, fixed, CUDA)
