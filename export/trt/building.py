"""An ONNX file to a serialized TensorRT engine: strongly typed, every shape settled, every attention of a diffusion one kernel.

`trt` is the bindings of tensorrt 10 or 11, or of tensorrt_rtx.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.predict import TIMESTEP
from export.runtimes.inputs import settled
from export.trt.kit import Kit, logger

WORKSPACE = 4 << 30  # bytes that a kernel may use while it runs, at most
UNFUSED = "not supported by a dedicated kernel"  # how it says that an attention cannot be fused
FUSES = "there are kernels for half precision, heads of 16 to 256 channels, and more than one head or branch, and token"
LAYER = re.compile(r"^Name: (.*?), LayerType: ", re.MULTILINE)
Tell = Callable[[str, int, int], None]  # a phase of the build, the step of it that is done, and how many it has


@dataclass(frozen=True)
class Built:
    """A serialized engine, and what was learnt on the way."""

    plan: Any  # a buffer
    timing: bytes  # what the builder measured: the next build is told
    attentions: int  # of the graph
    fused: int | None  # of those, such as became one kernel; None where this runtime does not say


def build(
    kit: Kit, file: Path, frames: int = 1, refit: bool = False, timing: bytes = b"", tell: Tell | None = None
) -> Built:
    """Build the graph in `file` for windows of `frames`, or so many crops.

    `refit`: an engine that can be given other weights. `timing`: what earlier builds measured.
    InputError where TensorRT does not take the graph, or a diffusion's attention would not run in fused kernels.
    """
    trt = kit.trt
    log = logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, file)
    config = builder.create_builder_config()
    kit.aim(config)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # it tells of its layers
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    shapes = {value.name: sizes(value.shape) for value in map(network.get_input, range(network.num_inputs))}
    _settle(builder, config, settled(shapes, frames), file)
    diffusion = TIMESTEP in shapes
    attentions = 0
    for attention in _attentions(trt, network):
        # An autoencoder's one head of 512 is fused nowhere, and is computed once a frame. A diffusion's attention must be.
        attention.decomposable = not diffusion
        attentions += 1
    if kit.times:
        _remember(config, timing)
    monitor = _monitor(trt, tell)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        if UNFUSED in log.line():
            raise InputError(str(file), "attention", f"{attentions} fused kernels", "a shape that has none", FUSES)
        raise InputError(str(file), "graph", f"one that {kit.name} {kit.version} builds", log.line()[:400])
    fused = None if kit.attention is None else sum(kit.attention in name for name in LAYER.findall(log.layers))
    if diffusion and fused is not None and fused < attentions:  # without a mask it also falls apart unasked
        raise InputError(str(file), "attention", f"{attentions} fused kernels", str(fused), FUSES)
    return Built(plan, bytes(config.get_timing_cache().serialize()) if kit.times else b"", attentions, fused)


def sizes(shape: Any) -> tuple[int | None, ...]:
    """A shape, None where it is open."""
    return tuple(None if size < 0 else int(size) for size in shape)


def _parse(trt: Any, network: Any, log: Any, file: Path) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(file)):  # which finds the weights beside it
        return
    errors = (parser.get_error(i) for i in range(parser.num_errors))
    lines = dict.fromkeys(f"{e.node_name() or e.node_operator()}: {' '.join(e.desc().split())}" for e in errors)
    raise InputError(str(file), "graph", "one that TensorRT parses", "; ".join(lines)[:600] or log.line()[:600])


def _settle(builder: Any, config: Any, shapes: dict[str, list[int]], file: Path) -> None:
    """One profile that allows one shape."""
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise InputError(str(file), "inputs", "shapes that the graph takes", str(shapes))


def _attentions(trt: Any, network: Any) -> Iterator[Any]:
    """What the parser made of the graph's Attention nodes."""
    for layer in map(network.get_layer, range(network.num_layers)):
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings hand out the base class
            yield layer.attention


def _remember(config: Any, timing: bytes) -> None:
    """Give the builder what was measured before, or nothing where it is another version's, or damaged."""
    for known in (timing, b""):
        cache = config.create_timing_cache(known)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _monitor(trt: Any, tell: Tell | None) -> Any:
    """Passes on how far the build is, and stops it by an exception of `tell` or Ctrl-C, then `stopped`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stopped: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if tell is not None:
                    tell(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            except BaseException as error:  # must not travel through the builder
                self.stopped = error
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
