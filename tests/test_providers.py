"""ONNX Runtime's providers: which is taken, with which options, and the device memory that its CUDA provider is bound to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from engine.errors import InputError
from export import runtime
from export.runtimes.onnxruntime import PROVIDERS, DeviceMemory, ONNXRuntimeNetwork, chosen, settings_of

EVERY = list(PROVIDERS.values())


def test_auto_takes_the_gpu_where_the_build_has_it_but_never_builds_unasked() -> None:
    assert chosen("auto", EVERY) == "cuda"
    assert chosen("auto", [PROVIDERS["tensorrt"], PROVIDERS["cpu"]]) == "cpu"
    assert chosen("tensorrt", EVERY) == "tensorrt"
    with pytest.raises(InputError, match=r"expected tensorrt \| cuda \| cpu, got abacus"):
        chosen("abacus", EVERY)
    with pytest.raises(InputError, match=r"a build with CUDAExecutionProvider.*never both"):
        chosen("cuda", [PROVIDERS["cpu"]])


@pytest.mark.skipif(PROVIDERS["cuda"] in onnxruntime.get_available_providers(), reason="this build has CUDA")
def test_a_provider_that_is_not_there_is_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="a build with CUDAExecutionProvider"):
        runtime.load(exported, ["hint"], "onnxruntime:cuda")
    assert runtime.load(exported, ["hint"], "onnxruntime:cpu")["hint"]


def test_a_provider_that_does_not_start_is_not_replaced(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: EVERY)
    with pytest.raises(InputError, match="the provider cuda to start, got CPUExecutionProvider instead"):
        runtime.load(exported, ["hint"], "onnxruntime:cuda")


def test_float32_on_a_gpu_is_float32() -> None:
    assert settings_of("cuda", "f32")["use_tf32"] == "0" and settings_of("cuda", "f16")["use_tf32"] == "1"
    assert settings_of("cuda", "f16")["enable_cuda_graph"] == "1"
    assert settings_of("tensorrt", "f16")["trt_engine_cache_enable"] == "0"  # its files would be read unchecked


def test_device_memory_gives_what_host_memory_gives(exported: Path) -> None:
    """The way of the CUDA provider, on the CPU: written by copies, read by copies, the addresses bound once."""
    plain = runtime.load(exported, ["decoder"], "onnxruntime:cpu", "f32", 1)["decoder"]
    module, _ = runtime.opened("onnxruntime:cpu", "f32", 1)
    source = runtime.sources(exported, ["decoder"], module, "f32")["decoder"]
    session = onnxruntime.InferenceSession(str(source.file), _settled(source.batch), providers=["CPUExecutionProvider"])
    memory = DeviceMemory("cpu")
    network = ONNXRuntimeNetwork(session, lambda shapes: {}, memory)
    addresses = {name: value.data_ptr() for name, value in memory.values.items()}
    rng = np.random.default_rng(0)
    for _ in range(3):
        inputs = {name: rng.standard_normal(shape, np.float32) for name, shape in network.inputs.items()}
        assert np.array_equal(network(**inputs)["image"], plain(**inputs)["image"])
    assert addresses == {name: value.data_ptr() for name, value in memory.values.items()}
    with pytest.raises(ValueError, match=r"latents is \(1, 8, 8, 8\), not \(1, 8, 8, 7\)"):
        network(**{**inputs, "latents": inputs["latents"][..., :7]})
    with pytest.raises(TypeError, match="latents is float32, not complex64"):
        network(**{**inputs, "latents": inputs["latents"].astype(np.complex64)})


def _settled(batch: int) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.add_free_dimension_override_by_name("frames", batch)
    return settings
