"""Windows and denoising against plain formulas, with a toy network that couples the frames of a window."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.denoise import Bank, Causal, Denoiser, Exact, Offline, Predict, offline
from engine.noise import Noise
from engine.sampler import Sampler
from engine.steps import Schedule, ddim, listed, spaced
from engine.windows import windows

SHAPE = (2, 3, 3)


def conditions(frames: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, *SHAPE)).astype(np.float32)


def toy(condition: np.ndarray, branches: int = 1) -> Predict:
    """Every frame sees its own latents and condition, and the mean over its window: attention in miniature."""

    def predict(latents: np.ndarray, frames: range, step: int) -> np.ndarray:
        assert len(latents) == len(frames)
        own = condition[np.clip(np.array(frames), 0, len(condition) - 1)]
        mixed = np.sin(latents + own + 0.5 * latents.mean(0) + 0.3 * own.mean(0) + step)
        return np.stack([mixed * (0.5 + b) for b in range(branches)]).astype(np.float32)

    return predict


def sampler(steps: int, guidance: float = 1.0, smoothing: float = 0.0) -> Sampler:
    return Sampler(Schedule(), spaced(Schedule(), steps), "epsilon", guidance=guidance, smoothing=smoothing)


@pytest.mark.parametrize(("size", "overlap"), [(16, 4), (8, 2), (8, 4), (4, 1)])
@pytest.mark.parametrize("branches", [1, 2])
def test_offline_is_algorithm_1(size: int, overlap: int, branches: int) -> None:
    frames, schedule = 21, Schedule()
    condition, latents = conditions(frames), conditions(frames, 8)
    result = offline(latents, toy(condition, branches), sampler(3, 2.5), windows(frames, size, overlap))
    # Frame by frame, as the formula reads.
    x = latents.astype(np.float64)
    for step, (now, after) in enumerate(spaced(schedule, 3).pairs()):
        said: list[list[np.ndarray]] = [[] for _ in range(frames)]
        for start in range(0, frames, size - overlap):
            window = range(start, min(start + size, frames))
            prediction = toy(condition, branches)(x[start : window.stop], window, step)
            for i, frame in enumerate(window):
                said[frame].append(prediction[:, i])
        mean = np.stack([np.mean(s, axis=0) for s in said], axis=1)
        guided = mean[0] if branches == 1 else mean[0] + 2.5 * (mean[1] - mean[0])
        x = ddim(schedule, x, guided, now, after).astype(np.float64)
    np.testing.assert_allclose(result, x, atol=2e-5)


def test_offline_refuses_uncovered_frames() -> None:
    with pytest.raises(ValueError, match="uncovered"):
        offline(conditions(5), toy(conditions(5)), sampler(1), [range(4)])


def stream(frames: int, condition: np.ndarray, context: int, hop: int, steps: int = 3) -> np.ndarray:
    live = Causal(sampler(steps, 2.0), toy(condition, 2), context, hop)
    noise = Noise(SHAPE, 5, "per-frame")
    out = [latents.copy() for i in range(frames) for latents in live.push(noise.at(i))]
    return np.stack(out + [latents.copy() for latents in live.flush()])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_causal_stream_without_context_is_offline_without_overlap(steps: int) -> None:
    condition, noise = conditions(12), Noise(SHAPE, 5, "per-frame")
    latents = np.stack([noise.at(i) for i in range(12)])
    for hop in (1, 4):
        whole = offline(latents, toy(condition, 2), sampler(steps, 2.0), windows(12, hop, 0))
        assert np.array_equal(stream(12, condition, 0, hop, steps), whole)


@pytest.mark.parametrize(("context", "hop"), [(3, 1), (4, 2), (1, 3)])
def test_the_context_re_enters_with_the_latents_it_had_at_each_step(context: int, hop: int) -> None:
    """Against the plain formula, which remembers every latent of every step for ever."""
    frames, steps = 12, 3
    condition, noise, how = conditions(frames), Noise(SHAPE, 5, "per-frame"), sampler(steps, 2.0)
    predict = toy(condition, 2)
    memory = np.zeros((steps + 1, frames, *SHAPE), np.float32)
    for start in range(0, frames, hop):
        new = np.arange(start, start + hop)
        memory[0, new] = [noise.at(int(i)) for i in new]
        for step in range(steps):
            seen = range(start - context, start + hop)
            at_step = memory[step, np.maximum(np.array(seen), 0)]
            prediction = how.guided(predict(at_step, seen, step))[context:]
            memory[step + 1, new] = how.step(memory[step, new], prediction, range(start, start + hop), step)
    np.testing.assert_allclose(stream(frames, condition, context, hop, steps), memory[steps], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 14), st.integers(1, 3), st.integers(0, 13))
def test_later_poses_never_change_earlier_frames(context: int, hop: int, frames: int, steps: int, cut: int) -> None:
    cut = min(cut, frames)
    before, after = conditions(frames), conditions(frames)
    after[cut:] = conditions(frames, 99)[cut:]
    first, second = stream(frames, before, context, hop, steps), stream(frames, after, context, hop, steps)
    assert len(first) == len(second) == frames
    whole_hops = cut // hop * hop
    assert np.array_equal(first[:whole_hops], second[:whole_hops])
    if cut < frames:
        assert not np.array_equal(first[cut:], second[cut:])


def test_a_reset_stream_is_a_new_stream() -> None:
    condition, noise = conditions(6), Noise(SHAPE, 5, "per-frame")
    live = Causal(sampler(2, 2.0), toy(condition, 2), context=2, hop=2)
    for i in range(5):
        live.push(noise.at(i))
    live.reset()
    out = [latents.copy() for i in range(6) for latents in live.push(noise.at(i))]
    assert np.array_equal(np.stack(out), stream(6, condition, 2, 2, 2))


def exactly(
    live: Exact | Offline, frames: int, noise: Noise, of: Callable[[np.ndarray], Any] = lambda noise: noise
) -> np.ndarray:
    """The latents of a stream of so many frames to its end."""
    out = [np.asarray(latents).copy() for i in range(frames) for latents in live.push(of(noise.at(i)))]
    return np.stack(out + [np.asarray(latents).copy() for latents in live.flush()])


def test_predictions_of_a_window_agree_with_their_neighbours() -> None:
    said = np.random.default_rng(2).standard_normal((2, 5, *SHAPE)).astype(np.float32)
    assert sampler(1).agreed(said) is said
    whole = sampler(1, smoothing=0.3).agreed(said)
    np.testing.assert_allclose(whole[:, 2], 0.7 * said[:, 2] + 0.15 * (said[:, 1] + said[:, 3]), atol=1e-6)
    assert np.array_equal(whole[:, [0, 4]], said[:, [0, 4]])  # nobody stands on their other side
    still = np.repeat(said[:, :1], 5, axis=1)
    np.testing.assert_allclose(sampler(1, smoothing=0.3).agreed(still), still, atol=1e-6)
    assert np.array_equal(sampler(1, smoothing=0.3).agreed(said[:, :2]), said[:, :2])


def test_the_newest_frame_is_drawn_to_nobody() -> None:
    frames, noise, condition = 6, Noise(SHAPE, 5, "per-frame"), conditions(6)
    plain, smooth = (Causal(sampler(2, smoothing=s), toy(condition), 2, 1) for s in (0.0, 0.4))
    for i in range(frames):
        assert np.array_equal(plain.push(noise.at(i))[0], smooth.push(noise.at(i))[0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 40), st.integers(1, 4), st.sampled_from([1, 2]), st.sampled_from([0.0, 0.2]),
    st.data(),
)  # fmt: skip
def test_exact_is_offline_bit_for_bit(
    size: int, frames: int, steps: int, branches: int, smoothing: float, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    condition, noise, how = conditions(frames), Noise(SHAPE, 5, "per-frame"), sampler(steps, 2.5, smoothing)
    start = np.stack([noise.at(i) for i in range(frames)])
    whole = offline(start, toy(condition, branches), how, windows(frames, size, overlap))
    live = Exact(how, toy(condition, branches), size, overlap)
    assert np.array_equal(exactly(live, frames, noise), whole)
    assert np.array_equal(exactly(live, frames, noise), whole)  # after a flush it is a new stream
    assert np.array_equal(exactly(Offline(how, toy(condition, branches), size, overlap), frames, noise), whole)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(("size", "overlap"), [(16, 4), (8, 2), (8, 4)])
def test_exact_is_offline_on_torch_tensors(size: int, overlap: int, steps: int) -> None:
    torch = pytest.importorskip("torch")
    condition, noise, how = conditions(41), Noise(SHAPE, 5, "per-frame"), sampler(steps, 2.5)
    plain = toy(condition, 2)

    def predict(latents: object, frames: range, step: int) -> object:
        return torch.from_numpy(plain(latents.numpy(), frames, step))  # type: ignore[attr-defined]

    start = torch.from_numpy(np.stack([noise.at(i) for i in range(41)]))
    whole = offline(start, predict, how, windows(41, size, overlap)).numpy()
    assert np.array_equal(exactly(Exact(how, predict, size, overlap), 41, noise, torch.tensor), whole)


def test_exact_waits_no_longer_than_it_says_and_a_reset_forgets() -> None:
    condition, noise, how = conditions(60), Noise(SHAPE, 5, "per-frame"), sampler(3)
    live, left = Exact(how, toy(condition), 8, 2), 0
    for i in range(60):
        out = live.push(noise.at(i))
        assert len(out) in (0, live.burst)
        left += len(out)
        assert i - left < live.delay  # frame `left` is still inside
    assert left > 0
    live.reset()
    start = np.stack([noise.at(i) for i in range(20)])
    whole = offline(start, toy(condition), how, windows(20, 8, 2))
    assert np.array_equal(exactly(live, 20, noise), whole)


def test_exact_depends_on_no_frame_that_had_not_arrived() -> None:
    """What has left stands, whatever comes afterwards."""
    frames, cut, noise, how = 40, 23, Noise(SHAPE, 5, "per-frame"), sampler(2)
    before, after = conditions(frames), conditions(frames)
    after[cut:] = conditions(frames, 99)[cut:]

    def until_cut(condition: np.ndarray) -> list[np.ndarray]:
        live = Exact(how, toy(condition), 8, 4)
        return [latents.copy() for i in range(cut) for latents in live.push(noise.at(i))]

    first, second = until_cut(before), until_cut(after)
    assert len(first) == len(second) > 0
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_lcm_renoises_each_frame_with_its_own_noise() -> None:
    noise, times = Noise(SHAPE, 1), listed([999, 499])
    how = Sampler(Schedule(), times, "sample", "lcm", noise=noise)
    condition = conditions(4)
    live = Causal(how, toy(condition))
    out = [live.push(noise.at(i))[0].copy() for i in range(4)]
    again = Causal(how, toy(condition))
    assert np.array_equal(out, [again.push(noise.at(i))[0].copy() for i in range(4)])
    with pytest.raises(ValueError, match="noise"):
        Causal(Sampler(Schedule(), times, "sample", "lcm"), toy(condition)).push(noise.at(0))


def test_torch_streams_equal_numpy_streams() -> None:
    torch = pytest.importorskip("torch")
    condition, noise = conditions(7), Noise(SHAPE, 5, "per-frame")
    plain = toy(condition, 2)

    def predict(latents: object, frames: range, step: int) -> object:
        return torch.from_numpy(plain(latents.numpy(), frames, step))  # type: ignore[attr-defined]

    live = Causal(sampler(3, 2.0), predict, context=2, hop=1)
    out = [live.push(torch.tensor(noise.at(i)))[0].numpy() for i in range(7)]
    np.testing.assert_allclose(np.stack(out), stream(7, condition, 2, 1), atol=1e-6)
    latents = np.stack([noise.at(i) for i in range(7)])
    whole = offline(torch.from_numpy(latents), predict, sampler(3, 2.0), windows(7, 4, 1))
    np.testing.assert_allclose(whole.numpy(), offline(latents, plain, sampler(3, 2.0), windows(7, 4, 1)), atol=1e-6)


class ToyBank:
    """Two layers: each sees the mean over its own keys of the frames in the bank, and the deeper one keys that came of that."""

    def __init__(self, condition: np.ndarray, slots: int, branches: int = 2) -> None:
        shape = 1, 2, branches, slots, *SHAPE[-2:]
        self.bank = {"past_0": shape, "past_1": shape}
        self.condition, self.branches = condition, branches
        self.memory = {f"past_{i}": np.zeros((*shape[:3], *shape[4:]), np.float32) for i in range(2)}

    def attend(
        self, latents: np.ndarray, frame: int, step: int, bank: Mapping[str, np.ndarray], filled: int
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        assert latents.shape == (1, *SHAPE)
        own = latents[0] + self.condition[min(frame, len(self.condition) - 1)] + step
        said = np.stack([np.sin(own + b) for b in range(self.branches)])  # (B, C, h, w)
        for i, (name, past) in enumerate(bank.items()):
            self.memory[name][0, :] = said[:, i]  # (B, h, w), key and value
            seen = [*past[0, 0, :, :filled].swapaxes(0, 1), said[:, i]]
            said = np.cos(said + np.mean(seen, axis=0)[:, None])
        return said[:, None].astype(np.float32), self.memory


def banked(frames: int, condition: np.ndarray, slots: int, steps: int = 3, anchor: bool = False) -> np.ndarray:
    live = Bank(sampler(steps, 2.0), ToyBank(condition, slots), anchor)
    noise = Noise(SHAPE, 5, "per-frame")
    return np.stack([latents.copy() for i in range(frames) for latents in live.push(noise.at(i))])


@pytest.mark.parametrize(("slots", "anchor"), [(1, False), (3, False), (2, True), (4, True)])
def test_a_bank_holds_the_last_frames_and_the_anchor(slots: int, anchor: bool) -> None:
    """Against the plain formula, which remembers the keys of every frame and step for ever."""
    frames, steps, how = 12, 3, sampler(3, 2.0)
    condition, noise, toy_bank = conditions(frames), Noise(SHAPE, 5, "per-frame"), ToyBank(conditions(frames), frames)
    memory: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    expected = []
    for i in range(frames):
        latents = noise.at(i)[None]
        past = [0] * (anchor and i > 0) + list(range(max(int(anchor), i - slots + anchor), i))
        for step in range(steps):
            bank = {
                name: np.stack([memory[j, step][name] for j in past] or [array], axis=3)
                for name, array in toy_bank.memory.items()
            }
            prediction, new = toy_bank.attend(latents, i, step, bank, len(past))
            memory[i, step] = {name: array.copy() for name, array in new.items()}
            latents = how.step(latents, how.guided(prediction), range(i, i + 1), step)
        expected.append(latents[0])
    np.testing.assert_allclose(banked(frames, condition, slots, steps, anchor), expected, atol=1e-5)


@pytest.mark.parametrize("anchor", [False, True])
def test_with_a_bank_later_poses_never_change_earlier_frames(anchor: bool) -> None:
    before, after = conditions(12), conditions(12)
    after[8:] = conditions(12, 99)[8:]
    first, second = banked(12, before, 3, anchor=anchor), banked(12, after, 3, anchor=anchor)
    assert np.array_equal(first[:8], second[:8])
    assert (first[8:] != second[8:]).any((1, 2, 3)).all()
    before[0] += 1
    moved = (banked(12, before, 3, anchor=anchor) != first).any((1, 2, 3))
    assert moved[:4].all()  # the past is seen


def test_a_reset_bank_is_a_new_bank() -> None:
    noise = Noise(SHAPE, 5, "per-frame")
    live = Bank(sampler(2, 2.0), ToyBank(conditions(6), 2))
    for i in range(5):
        assert len(live.push(noise.at(i))) == 1
    assert live.flush() == []
    live.reset()
    out = [latents.copy() for i in range(6) for latents in live.push(noise.at(i))]
    assert np.array_equal(np.stack(out), banked(6, conditions(6), 2, 2))


def test_a_bank_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="1 frames has no room beside its anchor"):
        Bank(sampler(1), ToyBank(conditions(1), 1), anchor=True)
    with pytest.raises(ValueError, match="0 frames has no room"):
        Bank(sampler(1), ToyBank(conditions(1), 0))


def test_a_bank_of_torch_tensors_equals_one_of_arrays() -> None:
    torch = pytest.importorskip("torch")

    class TorchBank(ToyBank):
        def attend(self, latents, frame, step, bank, filled):  # type: ignore[no-untyped-def]
            assert all(isinstance(x, torch.Tensor) for x in (latents, *bank.values()))
            plain = {name: x.numpy() for name, x in bank.items()}
            prediction, new = super().attend(latents.numpy(), frame, step, plain, filled)
            return torch.from_numpy(prediction), {name: torch.from_numpy(x) for name, x in new.items()}

    noise = Noise(SHAPE, 5, "per-frame")
    live = Bank(sampler(3, 2.0), TorchBank(conditions(7), 2), anchor=True)
    out = [live.push(torch.tensor(noise.at(i)))[0].numpy() for i in range(7)]
    np.testing.assert_allclose(np.stack(out), banked(7, conditions(7), 2, anchor=True), atol=1e-6)


class NoBank:
    """Costs nothing, so that a stream of it may be long."""

    def __init__(self) -> None:
        self.bank = {"past": (1, 2, 1, 3, 4, 4)}
        self.new = {"past": np.zeros((1, 2, 1, 4, 4), np.float32)}

    def attend(
        self, latents: np.ndarray, frame: int, step: int, bank: Mapping[str, np.ndarray], filled: int
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        return latents[None], self.new


@pytest.mark.parametrize("frames", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [
    Causal(sampler(2), lambda latents, frames, step: latents[None], context=4, hop=1),
    Bank(sampler(2), NoBank(), anchor=True),
    Exact(sampler(4), lambda latents, frames, step: latents[None], 16, 4),
])  # fmt: skip
def test_memory_is_fixed_however_long_the_stream(mode: Denoiser, frames: int) -> None:
    noise = Noise(SHAPE, 1)
    for i in range(200):
        mode.push(noise.at(i))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(frames):
        mode.push(noise.at(i))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4096
