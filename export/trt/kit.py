"""What sets TensorRT and TensorRT-RTX apart, as a value; and what both say while they work.

The bindings are passed around as `trt`: they may be those of tensorrt 10 or 11, or tensorrt_rtx's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError
from export.gpu import GPU, gpus


@dataclass(frozen=True)
class Kit:
    """One of the two runtimes, for one GPU and one precision."""

    name: str  # as in export.ladder
    trt: Any
    computes: str  # in "f16", as the graphs say
    device: str  # what engines are built for: "sm89 NVIDIA L4", "sm89"
    aim: Callable[[Any], None] = lambda config: None  # tells a builder of that, where it is not this GPU
    refits: bool = True  # engines are built so that they can be given other weights
    times: bool = True  # it measures kernels while it builds, and remembers what it measured
    attention: str | None = None  # how its fused attention kernels are called, where that is known

    @property
    def version(self) -> str:
        return str(self.trt.__version__)


def bindings(*modules: str) -> Any:
    """The first of `modules` that is there. InputError where none is, or what it links to is not."""
    for name in modules:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise InputError("runtime", name, "a whole installation", str(error)) from None
        except ImportError as error:  # of a library
            raise InputError("runtime", name, "its libraries", " ".join(str(error).split())[:160]) from None
    raise InputError("runtime", "package", " or ".join(modules), "neither" if len(modules) > 1 else "none")


def first_gpu(runtime: str) -> GPU:
    """The GPU that engines run on. InputError where there is none."""
    for gpu in gpus():
        return gpu
    raise InputError("runtime", runtime, "an NVIDIA GPU", "none")


def logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the errors, `errors`, and what an engine was built of, `layers`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif message.startswith("Layers:"):
                self.layers = message

        def line(self) -> str:
            """All errors as one line."""
            return "; ".join(dict.fromkeys(" ".join(error.split()) for error in self.errors)) or "no reason said"

    return Log()
