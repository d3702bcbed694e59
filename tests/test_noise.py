"""Noise is a function of seed, index and step."""

from __future__ import annotations

import numpy as np
import pytest

from engine.noise import Noise, draw


def test_noise_is_a_function_of_seed_index_and_step() -> None:
    noise = Noise((4, 8, 8), seed=3, kind="per-frame")
    assert np.array_equal(noise.at(5), Noise((4, 8, 8), seed=3, kind="per-frame").at(5))
    others = [noise.at(6), noise.at(5, 1), Noise((4, 8, 8), 4, "per-frame").at(5)]
    assert all(not np.array_equal(noise.at(5), other) for other in others)


def test_shared_noise_is_one_draw_that_nobody_can_write() -> None:
    noise = Noise((4, 8, 8), seed=3)
    assert noise.at(0) is noise.at(100_000)
    assert not np.array_equal(noise.at(0), noise.at(0, 1))
    with pytest.raises(ValueError, match="read-only"):
        noise.at(0)[0, 0, 0] = 1.0


def test_noise_is_standard_normal() -> None:
    sample = draw((16, 64, 64), seed=-1, index=10**12)
    assert sample.dtype == np.float32
    assert abs(sample.mean()) < 0.02
    assert abs(sample.std() - 1.0) < 0.02
