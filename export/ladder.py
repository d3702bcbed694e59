"""Which runtimes there are, which of them this machine can use, and which one `auto` takes, with the reason.

The order is that of speed: on CPUs as measured (bench/NOTES.md), on GPUs as expected, since none has been measured yet.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from engine.errors import InputError
from export import cpu
from export.gpu import GPU, gpus


@dataclass(frozen=True)
class RuntimeInfo:
    """A runtime on this machine. `chosen`: what `auto` takes; `reason` says why, or why not."""

    name: str
    version: str | None  # None: not installed
    precision: str  # what `auto` computes in
    features: tuple[str, ...]  # of the processor, where they matter
    usable: bool  # installed, and what it needs is there
    chosen: bool
    reason: str


@dataclass(frozen=True)
class Known:
    """A runtime that LiveAnchor can use. `packages`: the first that is installed brings it; `module` is imported."""

    name: str
    packages: tuple[str, ...]
    module: str
    extra: str
    why: str
    gpu: bool = False  # it runs on nothing else


TENSORRT = tuple(f"tensorrt{cuda}{part}" for cuda in ("", "-cu13", "-cu12") for part in ("", "-bindings"))
LADDER = (
    Known("tensorrt", TENSORRT, "tensorrt", "gpu", "compiles for one GPU", gpu=True),
    Known("tensorrt-rtx", ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
          "tensorrt_rtx_bindings", "rtx", "compiles for RTX cards, without one at hand", gpu=True),
    Known("openvino", ("openvino",), "openvino", "cpu", "the fastest on CPUs"),
    Known("onnxruntime", ("onnxruntime-gpu", "onnxruntime"), "onnxruntime", "onnxruntime", "runs wherever ONNX does"),
    Known("torch", ("torch",), "torch", "train", "the reference, with torch's own kernels"),
)  # fmt: skip
ON_GPU = ("tensorrt", "tensorrt-rtx", "torch", "onnxruntime", "openvino")  # the order where there is a GPU


def describe() -> list[RuntimeInfo]:
    """Every runtime that LiveAnchor knows, the fastest first."""
    found = gpus()
    order = sorted(LADDER, key=lambda known: ON_GPU.index(known.name)) if found else LADDER
    infos: list[RuntimeInfo] = []
    for known in order:
        version = _version(known)
        problem = _problem(known, version, found)
        first = not problem and not any(info.chosen for info in infos)
        reason = problem or known.why
        if not problem and not first:
            reason = f"{reason}; {next(info.name for info in infos if info.chosen)} comes before it"
        precision = automatic(known.name, bool(found))
        infos.append(RuntimeInfo(known.name, version, precision, cpu.features(), not problem, first, reason))
    return infos


def automatic(name: str, gpu: bool) -> str:
    """The precision that "auto" means to a runtime here."""
    if name.startswith("tensorrt"):
        return "f16"
    if name == "torch":
        return "bf16" if gpu else "f32"
    return "bf16" if name == "openvino" and cpu.has_bf16() else "f32"


def resolved(runtime: str, precision: str) -> tuple[str, str]:
    """What `load` takes here for that runtime and precision, either of which may be "auto". InputError as from `choose`.

    A provider stays with its runtime: "onnxruntime:cuda".
    """
    name, colon, provider = runtime.partition(":")
    name = choose(name).name
    auto = automatic(name, bool(gpus()))
    return name + colon + provider, auto if precision == "auto" else precision


def choose(runtime: str) -> Known:
    """The runtime of that name, or the first of `describe` that is usable. InputError where there is none."""
    if runtime == "auto":
        runtime = next((info.name for info in describe() if info.chosen), "")
        if not runtime:
            raise InputError("runtime", "auto", "openvino or onnxruntime", "neither", "pip install 'liveanchor[cpu]'")
    for known in LADDER:
        if known.name == runtime:
            return known
    raise InputError("runtime", "name", " | ".join(["auto", *(known.name for known in LADDER)]), runtime)


def runs(runtime: str) -> str:
    """Why that runtime, which may be "auto", cannot run here; empty where it can. InputError as from `choose`."""
    known = choose(runtime.partition(":")[0])
    return _problem(known, _version(known), gpus())


def installed(known: Known) -> str:
    """Its version. InputError where it is not installed."""
    version = _version(known)
    if version is None:
        raise InputError("runtime", known.name, "an installed package", "none", _install(known))
    return version


def _problem(known: Known, version: str | None, found: tuple[GPU, ...]) -> str:
    if version is None:
        return f"not installed: {_install(known)}"
    if known.gpu and not found:
        return "needs an NVIDIA GPU, and there is none: it can build engines here, not run them"
    return ""


def _install(known: Known) -> str:
    return f"pip install 'liveanchor[{known.extra}]'"


def _version(known: Known) -> str | None:
    for package in known.packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
