"""What this machine has, what each thing means for the frame rate, and what to install. It looks; it changes nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from engine.avatar import Avatar, bundled_avatar
from engine.errors import InputError
from export import cpu
from export.gpu import gpus
from export.ladder import describe
from streaming import provenance

State = Literal["ok", "note", "missing"]

# what a CPU can do in hardware, fastest first, and what it does for the networks
# with pictures a second of the bundled avatar on two cores, as bench/NOTES.md has them
CPU_FEATURES = {
    "amx_bf16": "bf16 networks on matrix units: 25 pictures a second fit on two cores (31 ms each)",
    "avx512_bf16": "bf16 networks: 25 pictures a second fit on two cores (33 ms each)",
    "avx512f": "f32 networks: about 18 pictures a second on two cores (55 ms each), the rest are repeats",
    "avx2": "f32 networks: fewer than 18 pictures a second on two cores; not measured on such a CPU",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `todo` is a command or an act, empty where nothing is to be done."""

    topic: str
    name: str
    state: State
    found: str
    means: str
    todo: str = ""


def examine() -> list[Finding]:
    """Everything there is to say about this machine, by topic."""
    return [*_avatar(), *_machine(), *_runtimes(), *_gpu(), *_encoders(), *_network(), *_programs()]


def _avatar() -> Iterator[Finding]:
    try:
        avatar = Avatar.load(bundled_avatar())
    except InputError as error:
        yield Finding("avatar", "bundled", "note", str(error), "bring your own", "name it with --avatar")
    else:
        marks = "said on the page, in rendered files and in H.264 streams"
        yield Finding("avatar", avatar.name, "ok", provenance.statement(avatar.person), marks)


def _machine() -> Iterator[Finding]:
    yield Finding("machine", "python", "ok", platform.python_version(), platform.platform())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    enough = cores >= 2
    yield Finding(
        "machine", "cores", "ok" if enough else "note", str(cores),
        "networks, encoder and streaming share them" if enough else "one core is too few for 25 frames a second",
    )  # fmt: skip
    features = cpu.features()
    best = next((name for name in CPU_FEATURES if name in features), None)
    yield Finding(
        "machine", "cpu", "ok" if cpu.has_bf16() else "note", f"{_cpu_model()}; {best or 'no known vectors'}",
        CPU_FEATURES[best] if best else "the networks may be slow: `liveanchor render` shows how many pictures a second",
    )  # fmt: skip


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _runtimes() -> Iterator[Finding]:
    """The ladder, the fastest first."""
    infos = describe()
    none = not any(info.chosen for info in infos)
    for rung, info in enumerate(infos, 1):
        name = info.name
        if info.usable:
            means = f"rung {rung}: computes in {info.precision}; {info.reason}" + (
                "; taken by auto" if info.chosen else ""
            )
            yield Finding("runtime", name, "ok", info.version or "", means)
            continue
        means, _, todo = info.reason.partition(": ")
        if info.version is None:
            means = "nothing can run the networks" if none else "not needed: another one is there"
            todo = todo if none or not info.name.startswith("tensorrt") else ""
        else:
            means, todo = info.reason, ""
        wanted = none and info.name in ("openvino", "onnxruntime")
        state: State = "missing" if wanted else "note"
        yield Finding("runtime", name, state, info.version or "not installed", f"rung {rung}: {means}", todo)


def _gpu() -> Iterator[Finding]:
    found = gpus()
    if not found:
        yield Finding(
            "gpu", "nvidia", "note", "none", "everything runs on the CPU; the bundled avatar is made for that"
        )
    for gpu in found:
        told = f"{gpu.name}, {gpu.sm}, {gpu.memory / 2**30:.0f} GiB"
        means = "tensorrt, torch or ONNX Runtime's CUDA provider can use it: liveanchor export --runtime tensorrt"
        yield Finding("gpu", "nvidia", "ok", told, means)


def _encoders() -> Iterator[Finding]:
    import av

    yield Finding("encoder", "PyAV", "ok", av.__version__, "brings FFmpeg's encoders with it")
    for codec, means in (
        ("libx264", "H.264 for viewers and files"),
        ("libvpx", "VP8 for viewers without H.264"),
        ("libopus", "speech for viewers"),
        ("h264_nvenc", "H.264 on an NVIDIA GPU; not used yet"),
    ):
        try:
            av.codec.Codec(codec, "w")
            yield Finding("encoder", codec, "ok", "available", means)
        except av.codec.codec.UnknownCodecError:
            optional = codec == "h264_nvenc"
            todo = "" if optional else "pip install --force-reinstall av"
            yield Finding("encoder", codec, "note" if optional else "missing", "not there", means, todo)
    yield Finding("encoder", "aiortc", "ok", metadata.version("aiortc"), "WebRTC to viewers")


def _network() -> Iterator[Finding]:
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        ):
            here.bind(("127.0.0.1", 0))
            here.settimeout(1)
            there.sendto(b"?", here.getsockname())
            here.recv(1)
        yield Finding(
            "network", "udp", "ok", "datagrams arrive on 127.0.0.1", "WebRTC and live poses can flow on this machine"
        )
    except OSError as error:
        yield Finding(
            "network", "udp", "missing", error.strerror or str(error), "neither WebRTC nor live poses by UDP can work",
            "allow UDP on the loopback in the firewall",
        )  # fmt: skip
    outward = _outward_address()
    yield Finding(
        "network", "address", "ok" if outward else "note", outward or "loopback only",
        "other machines reach viewers' UDP ports here" if outward else "viewers on other machines cannot be reached",
    )  # fmt: skip
    yield Finding("network", "udp ports", "ok", _port_range(), "each viewer takes one or two UDP ports of this range")


def _outward_address() -> str:
    """The address that packets to the world would carry; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1: never routed (RFC 5737)
        return str(probe.getsockname()[0])
    return ""


def _port_range() -> str:
    with contextlib.suppress(OSError):
        return "-".join(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return "the system's ephemeral range"


def _programs() -> Iterator[Finding]:
    found = shutil.which("flite")
    yield Finding(
        "program", "flite", "ok" if found else "note", found or "not installed",
        "only needed to make a new talking clip", "" if found else "apt install flite",
    )  # fmt: skip
