"""TensorRT and TensorRT-RTX on a GPU, whichever is installed: what they compute against ONNX Runtime in single precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from export import runtime
from export.cache import EngineCache

pytestmark = pytest.mark.gpu
MODULES = {"tensorrt": ("tensorrt", "tensorrt_bindings"), "tensorrt-rtx": ("tensorrt_rtx_bindings",)}
INSTALLED = [name for name, modules in MODULES.items() if any(map(importlib.util.find_spec, modules))]
NAMES = ("hint", "body", "body_w3", "body_bank", "decoder", "face", "hand")


@pytest.mark.parametrize("name", INSTALLED)
def test_networks_say_nearly_what_onnxruntime_says(halved: Path, tmp_path: Path, name: str) -> None:
    """Twice from what was built and once from the cache, the second time replayed, all in one scratch memory."""
    truths = runtime.load(halved, NAMES, "onnxruntime", "f32", 1)
    rng = np.random.default_rng(0)
    for _ in range(2):
        networks = runtime.load(halved, NAMES, name, "f16", cache=EngineCache(tmp_path))
        for graph, network in networks.items():
            assert dict(network.inputs) == dict(truths[graph].inputs)
            for _ in range(3):
                inputs = {
                    n: np.full(shape, 1) if n in ("timestep", "filled")
                    else rng.integers(0, 256, shape, dtype=np.uint8) if n == "condition"
                    else rng.standard_normal(shape, np.float32)
                    for n, shape in network.inputs.items()
                }  # fmt: skip
                for output, said in network(**inputs).items():
                    truth = truths[graph](**inputs)[output].astype(np.float64)
                    assert np.linalg.norm(network.home.host(said) - truth) < 0.02 * np.linalg.norm(truth), (
                        graph,
                        output,
                    )
