"""The step functions against diffusers' schedulers, with a deterministic fake network."""

from __future__ import annotations

import numpy as np
import pytest

from engine import steps
from engine.steps import END, Schedule, Times, consistency, ddim, few, lcm, listed, spaced, split, tcd

KINDS = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
SHAPE = (3, 4, 5, 5)


def fake_network(sample: np.ndarray, timestep: int) -> np.ndarray:
    """Depends on both arguments, bounded, so that chains stay near 1."""
    return np.sin(sample * 0.7 + timestep * 0.01).astype(np.float32)


def start() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)


def common(schedule: Schedule, kind: str) -> dict[str, object]:
    return {
        "num_train_timesteps": schedule.train_steps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.kind,
        "prediction_type": KINDS[kind],
        "clip_sample": False,
        "set_alpha_to_one": schedule.set_alpha_to_one,
        "steps_offset": schedule.steps_offset,
        "timestep_spacing": schedule.spacing,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "schedule",
    [Schedule(), Schedule(spacing="trailing", set_alpha_to_one=True), Schedule(kind="linear", beta_end=0.02)],
    ids=["sd15", "trailing", "linear"],
)
@pytest.mark.parametrize("count", range(1, 21))
def test_ddim_equals_diffusers(schedule: Schedule, kind: steps.Prediction, count: int) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDIMScheduler(**common(schedule, kind))
    reference.set_timesteps(count)
    times = spaced(schedule, count)
    assert list(times.now) == reference.timesteps.tolist()
    ours, theirs = start(), torch.from_numpy(start())
    for now, after in times.pairs():
        ours = ddim(schedule, ours, fake_network(ours, now), now, after, kind)
        prediction = torch.from_numpy(fake_network(theirs.numpy(), now))
        theirs = reference.step(prediction, now, theirs, eta=0.0).prev_sample
        assert ours.dtype == np.float32
    assert np.abs(ours - theirs.numpy()).max() <= 1e-5 * max(1.0, float(np.abs(ours).max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
@pytest.mark.parametrize("count", range(1, 21))
def test_lcm_and_tcd_equal_diffusers(
    name: str, kind: steps.Prediction, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    module = __import__(f"diffusers.schedulers.scheduling_{name[:3].lower()}", fromlist=["x"])
    noise = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(noise))
    schedule = Schedule(set_alpha_to_one=True)
    reference = getattr(diffusers, name)(**common(schedule, kind))
    reference.set_timesteps(count)
    times = few(schedule, count)
    assert list(times.now) == reference.timesteps.tolist()
    ours, theirs = start(), torch.from_numpy(start())
    for now, after in times.pairs():
        prediction = fake_network(ours, now)
        if name == "LCMScheduler":
            ours = lcm(schedule, ours, prediction, now, after, kind, noise)
            options = {}
        else:
            ours = tcd(schedule, ours, prediction, now, after, kind, noise, eta=0.3)
            options = {"eta": 0.3}
        theirs = reference.step(torch.from_numpy(fake_network(theirs.numpy(), now)), now, theirs, **options).prev_sample
    assert np.abs(ours - theirs.numpy()).max() <= 1e-5 * max(1.0, float(np.abs(ours).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_of_timesteps_steps_each_frame_on_its_own(kind: steps.Prediction) -> None:
    schedule, sample, noise = Schedule(), start(), start()[::-1].copy()
    prediction = fake_network(sample, 3)
    now, after = np.array([801, 401, 1]), np.array([401, 1, END])
    for function, extra in ((ddim, ()), (lcm, (noise,)), (tcd, (noise, 0.2))):
        together = function(schedule, sample, prediction, now, after, kind, *extra)
        for i in range(3):
            one = (extra[0][i : i + 1], *extra[1:]) if extra else ()
            alone = function(schedule, sample[i : i + 1], prediction[i : i + 1], int(now[i]), int(after[i]), kind, *one)
            np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)


def test_torch_and_numpy_agree_and_half_precision_is_lifted() -> None:
    torch = pytest.importorskip("torch")
    schedule, sample = Schedule(), start()
    prediction, now, after = fake_network(sample, 3), np.array([801, 401, 1]), np.array([401, 1, END])
    ours = ddim(schedule, sample, prediction, now, after, "v")
    theirs = ddim(schedule, torch.from_numpy(sample), torch.from_numpy(prediction), now, after, "v")
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-6)
    half = ddim(schedule, torch.from_numpy(sample).half(), torch.from_numpy(prediction).half(), now, after, "v")
    assert half.dtype == torch.float32
    assert ddim(schedule, sample.astype(np.float16), prediction, 801, 401).dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_split_undoes_add_noise(kind: steps.Prediction) -> None:
    schedule, clean, noise = Schedule(), start(), start()[::-1].copy()
    now = np.array([10, 500, 900])
    sample = steps.add_noise(schedule, clean, noise, now)
    alpha = schedule.alpha(now).reshape(-1, 1, 1, 1)
    truth = {"epsilon": noise, "sample": clean, "v": alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean}[kind]
    got_clean, got_noise = split(schedule, sample, truth, now, kind)
    np.testing.assert_allclose(got_clean, clean, atol=2e-5)
    np.testing.assert_allclose(got_noise, noise, atol=2e-5)


def test_listed_timesteps_must_fall() -> None:
    assert listed([999, 499]) == Times((999, 499), (499, END))
    for wrong in ([], [1, 1], [1, 2], [3, -1]):
        with pytest.raises(ValueError, match="falling"):
            listed(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_consistency_function_leaves_a_clean_sample_as_it_is(kind: steps.Prediction) -> None:
    schedule, sample = Schedule(), start()
    prediction = fake_network(sample, 3)
    assert np.array_equal(consistency(schedule, sample, prediction, 0, kind), sample)
    clean, _ = split(schedule, sample, prediction, 999, kind)
    np.testing.assert_allclose(consistency(schedule, sample, prediction, 999, kind), clean, atol=1e-6)


def test_few_timesteps_start_at_the_noisiest_and_were_seen_in_distillation() -> None:
    assert few(Schedule(), 1) == Times((999,), (END,))
    assert few(Schedule(), 2).now == (999, 499)
    assert few(Schedule(), 4, stride=50).now == (999, 749, 499, 249)
    with pytest.raises(ValueError, match="steps must lie in 1 to 20"):
        few(Schedule(), 21, stride=50)
