"""Changes to the form of a model leave what it computes as it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

openvino = pytest.importorskip("openvino", reason="needs the extra [cpu]")
from openvino import opset13 as ops  # noqa: E402

from export.runtimes import openvino_form as form  # noqa: E402

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def says(model: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    compiled = openvino.Core().compile_model(model, "CPU", SETTINGS)
    said = compiled(inputs)
    return [said[port].copy() for port in compiled.outputs]


def parameter(shape: tuple[int, ...], name: str) -> Any:
    made = ops.parameter(shape, np.float32)
    made.set_friendly_name(name)
    made.output(0).set_names({name})
    return made


def kinds(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    flat=st.booleans(),
    seed=st.integers(0, 99),
)
def test_groups_are_normalised_as_rows(shape: tuple[int, int, int, int, int], flat: bool, seed: int) -> None:
    """Against the definition, of images and of sequences, with a scale and a bias for each channel."""
    n, groups, each, *size = shape
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (n, groups * each, *(size[:1] if flat else size))).astype(np.float32)
    scale, bias = rng.normal(0, 1, (2, groups * each)).astype(np.float32)
    told = parameter(x.shape, "x")
    normal = ops.group_normalization(told, ops.constant(scale), ops.constant(bias), groups, 1e-3)
    normal.output(0).set_names({"normal"})
    model = openvino.Model([ops.negative(normal)], [told])
    form.rows(model)
    assert "GroupNormalization" not in kinds(model) and "MVN" in kinds(model)
    rows = x.reshape(n, groups, -1).astype(np.float64)
    rows = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + 1e-3)
    ones = (1, -1, *(1 for _ in x.shape[2:]))
    expected = rows.reshape(x.shape) * scale.reshape(ones) + bias.reshape(ones)
    (said,) = says(model, x=x)
    assert np.abs(said + expected).max() < 1e-4 * (1 + np.abs(expected).max())


def test_channels_that_leave_last_are_left_alone() -> None:
    """A sum that is fused into the last convolution, as hint graphs have it: the same numbers in the same order."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, (2, 8, 8, 3, 3)).astype(np.float32)

    def model() -> Any:
        x = parameter((1, 8, 6, 5), "x")
        first = ops.relu(ops.convolution(x, ops.constant(weights[0]), [1, 1], [1, 1], [1, 1], [1, 1]))
        second = ops.add(ops.convolution(first, ops.constant(weights[1]), [1, 1], [1, 1], [1, 1], [1, 1]), first)
        last = ops.transpose(second, ops.constant(np.array([0, 2, 3, 1])))
        return openvino.Model([last, ops.relu(second)], [x])

    changed = model()
    form.direct(changed)
    assert kinds(changed)["Maximum"] == 1
    x = rng.normal(0, 1, (1, 8, 6, 5)).astype(np.float32)
    before, after = says(model(), x=x), says(changed, x=x)
    assert len(before) == len(after) == 2
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other) and one.any()


def test_what_follows_fixed_inputs_is_computed_once() -> None:
    """With nodes that depend on nothing in between, and results that other nodes share."""
    a, b = parameter((2, 2), "a"), parameter((2, 2), "b")
    known = ops.multiply(ops.add(a, ops.constant(np.float32(1))), ops.constant(np.full((2, 2), 3, np.float32)))
    model = openvino.Model([ops.add(ops.multiply(known, b), known)], [a, b])
    given_ = np.arange(4, dtype=np.float32).reshape(2, 2)
    form.fix(openvino.Core(), model, {"a": given_}, SETTINGS)
    assert [port.get_any_name() for port in model.inputs] == ["b"] and kinds(model)["Multiply"] == 1
    for value in (0, 1, 2):
        (said,) = says(model, b=np.full((2, 2), value, np.float32))
        assert np.array_equal(said, 3 * (given_ + 1) * (value + 1))
