"""TensorRT-RTX: engines for an architecture of GPUs, built in seconds on any machine; running them needs such a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.errors import InputError
from export.cache import Key
from export.gpu import gpus
from export.seam import Fixed, Options, Source
from export.trt import engines, running
from export.trt.kit import Kit, bindings, first_gpu
from export.trt.memory import CUDA

PRECISIONS = ("f16", "bf16")
GRAPHS = {"f16": "f16", "bf16": "bf16"}  # networks are strongly typed: precision lies in the graph
TARGET = "sm89"  # of engines that are built where there is no GPU
FUSED = "_gemm_mha"  # how its kernels for attention are called


def kit(precision: str, sm: str | None = None) -> Kit:
    """For architecture `sm`; None: the first GPU's, or TARGET without one. InputError where TensorRT-RTX does not know it."""
    rtx = bindings("tensorrt_rtx_bindings", "tensorrt_rtx")
    sm = sm or next((gpu.sm for gpu in gpus()), TARGET)
    known = sorted(name for name in vars(rtx.ComputeCapability) if name.startswith("SM"))
    if sm.upper() not in known:
        raise InputError("tensorrt-rtx", "GPU", " | ".join(known).lower(), sm, "tensorrt serves others")

    def aim(config: Any) -> None:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(rtx.ComputeCapability, sm.upper()), 0):
            raise InputError("tensorrt-rtx", "GPU", f"one that {rtx.__version__} builds for", sm)

    # It compiles kernels when an engine is loaded, so it measures nothing before; and building is as quick as a refit.
    return Kit("tensorrt-rtx", rtx, precision, sm, aim, refits=False, times=False, attention=FUSED)


def build(source: Source, options: Options, tell: Callable[[float], None]) -> Key:
    """A graph's engine, made or found; it needs no GPU. `options.provider` names another architecture: "sm120".

    InputError where it cannot be built.
    """
    sm = None if options.provider == "auto" else options.provider
    return engines.build_ahead(kit(options.precision, sm), source, options.cache, tell)


def load(source: Source, options: Options, fixed: Fixed) -> running.TensorRTNetwork:
    """A graph's engine on the first GPU. InputError where it cannot be built or read."""
    return running.load(kit(options.precision, first_gpu("tensorrt-rtx").sm), source, options, fixed, CUDA)
