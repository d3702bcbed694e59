"""Which runtime is taken where: what is installed, whether there is a GPU, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import InputError
from export import ladder, runtime
from export.gpu import GPU, gpus
from export.ladder import LADDER, Known

CARD = GPU("a card", (8, 9), 24 << 30)


def machine(monkeypatch: pytest.MonkeyPatch, names: set[str], cards: tuple[GPU, ...] = ()) -> None:
    """A machine with these runtimes and GPUs."""
    monkeypatch.setattr(ladder, "_version", lambda known: "1.0" if known.name in names else None)
    monkeypatch.setattr(ladder, "gpus", lambda: cards)


def taken() -> str:
    chosen = [info for info in ladder.describe() if info.chosen]
    assert len(chosen) <= 1
    return chosen[0].name if chosen else ""


@pytest.mark.parametrize(
    ("names", "cards", "expected"),
    [
        ({"openvino", "onnxruntime", "torch"}, (), "openvino"),
        ({"onnxruntime", "torch"}, (), "onnxruntime"),
        ({"torch", "tensorrt"}, (), "torch"),
        ({"tensorrt", "tensorrt-rtx"}, (), ""),
        ({known.name for known in LADDER}, (CARD,), "tensorrt"),
        ({"tensorrt-rtx", "torch", "openvino"}, (CARD,), "tensorrt-rtx"),
        ({"torch", "openvino"}, (CARD,), "torch"),
        ({"openvino"}, (CARD,), "openvino"),
        (set(), (), ""),
    ],
)
def test_the_fastest_that_is_usable_is_taken(
    monkeypatch: pytest.MonkeyPatch, names: set[str], cards: tuple[GPU, ...], expected: str
) -> None:
    machine(monkeypatch, names, cards)
    assert taken() == expected
    if expected:
        assert ladder.choose("auto").name == expected
    else:
        with pytest.raises(InputError, match="pip install"):
            ladder.choose("auto")


def test_every_runtime_says_why_it_is_taken_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, {"openvino", "onnxruntime", "tensorrt"})
    said = {info.name: info for info in ladder.describe()}
    assert set(said) == {known.name for known in LADDER}
    assert said["openvino"].chosen and said["openvino"].reason == "the fastest on CPUs"
    assert said["onnxruntime"].reason.endswith("openvino comes before it") and said["onnxruntime"].usable
    assert "needs an NVIDIA GPU" in said["tensorrt"].reason and not said["tensorrt"].usable
    assert said["torch"].reason == "not installed: pip install 'liveanchor[train]'" and not said["torch"].usable


def test_auto_without_the_first_takes_the_next(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, {"onnxruntime"})
    network = runtime.load(exported, ["hint"])["hint"]
    assert type(network).__name__ == "ONNXRuntimeNetwork"


def test_a_provider_stays_with_its_runtime() -> None:
    assert ladder.resolved("onnxruntime:cuda", "f16") == ("onnxruntime:cuda", "f16")
    assert ladder.resolved("onnxruntime", "auto") == ("onnxruntime", "f32")


def test_a_package_of_another_name_brings_the_runtime_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    known = Known("x", ("no-such-package-there", "numpy"), "numpy", "cpu", "")
    assert ladder.installed(known) == importlib.metadata.version("numpy")
    with pytest.raises(InputError, match=r"an installed package, got none .*liveanchor\[cpu\]"):
        ladder.installed(Known("x", ("no-such-package-there",), "numpy", "cpu", ""))


def test_the_driver_is_asked_for_gpus() -> None:
    for gpu in gpus():  # whatever is here; none on most test machines
        assert gpu.name and gpu.memory > 1 << 30 and gpu.sm.startswith("sm")
    assert CARD.sm == "sm89"
