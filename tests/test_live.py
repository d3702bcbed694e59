"""The live engine with the real body and mesh, and networks that are formulas of the right shapes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from fakes import FakeNetwork, pose_frame

from engine.appearance import appearance
from engine.avatar import Avatar, CameraFields, ConditionFields, DenoiseFields, FaceFields, LatentFields
from engine.body import Body
from engine.camera import look_at
from engine.errors import InputError
from engine.live import LiveEngine, context_and_hop, load_body, needed
from engine.picture import Picture
from engine.pixels import from_network, to_network
from engine.predict import Predictor

SIZE, LATENT, FACE = 128, 8, 64


def an_avatar(**changes: object) -> Avatar:
    camera = look_at((0.0, 0.3, 2.0), (0.0, 0.25, 0.0), SIZE, 0.5)
    avatar = Avatar(
        name="test",
        size=SIZE,
        fps=25.0,
        networks={},
        latent=LatentFields(4, LATENT, scale=2.0),
        denoise=DenoiseFields((999, 499), "sample"),
        camera=CameraFields.of(camera),
        condition=ConditionFields(size=SIZE),
    )
    return replace(avatar, **changes)


def pooled(picture: np.ndarray, size: int) -> np.ndarray:
    """(1, 3, H, W) to (1, 3, size, size)."""
    cell = picture.shape[-1] // size
    return picture.reshape(1, 3, size, cell, size, cell).mean((3, 5)).astype(np.float32)


def hint_network(picture: int, size: int) -> FakeNetwork:
    def formula(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        assert 0.0 <= given["condition"].min() <= given["condition"].max() <= 1.0
        hint = pooled(given["condition"], size)
        return {"hint": hint, "skip": 2 * hint}

    shapes = {"hint": (1, 3, size, size), "skip": (1, 3, size, size)}
    return FakeNetwork({"condition": (1, 3, picture, picture)}, shapes, formula)


def diffusion_network(frames: int, size: int, channels: int, inputs: int | None = None) -> FakeNetwork:
    """Clean latents: a mix of the noise, the frame's own hint and the mean hint of the window, so windows matter."""

    def formula(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        assert set(given["timestep"]) <= {999, 499}
        hint = given["hint"].mean(1, keepdims=True)
        clean = 0.02 * given["sample"][:, :channels] + hint + 0.1 * hint.mean(0)
        return {"prediction": clean.astype(np.float32)}

    shapes = {
        "sample": (frames, inputs or channels, size, size),
        "timestep": (frames,),
        "hint": (frames, 3, size, size),
    }
    return FakeNetwork(shapes, {"prediction": (frames, channels, size, size)}, formula)


def bank_network(slots: int = 2) -> FakeNetwork:
    """The same with a bank: the mean hint is that of the frame itself and of those that it is told to see."""

    def formula(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        hint = given["hint"].mean(1, keepdims=True)
        past = given["past_hint"][0, 0, 0, : given["filled"][0]].reshape(-1, 1, LATENT, LATENT)
        mean = np.concatenate([hint, past]).mean(0)
        clean = (0.02 * given["sample"] + hint + 0.1 * mean).astype(np.float32)
        return {"prediction": clean, "new_hint": np.stack([hint, hint]).reshape(1, 2, 1, LATENT**2, 1)}

    plain = diffusion_network(1, LATENT, 4)
    inputs = {**plain.inputs, "filled": (1,), "past_hint": (1, 2, 1, slots, LATENT**2, 1)}
    return FakeNetwork(inputs, {**plain.outputs, "new_hint": (1, 2, 1, LATENT**2, 1)}, formula)


def decoder_network(picture: int, size: int, channels: int, skips: bool) -> FakeNetwork:
    def formula(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        grey = given["latents"].mean(1, keepdims=True).repeat(3, 1) + (given["skip"] if skips else 0)
        return {"image": grey.repeat(picture // size, 2).repeat(picture // size, 3).astype(np.float32) - 1.0}

    inputs = {"latents": (1, channels, size, size)} | ({"skip": (1, 3, size, size)} if skips else {})
    return FakeNetwork(inputs, {"image": (1, 3, picture, picture)}, formula)


def networks(frames: int = 1) -> dict[str, FakeNetwork]:
    return {
        "hint": hint_network(SIZE, LATENT),
        "body" if frames == 1 else f"body_w{frames}": diffusion_network(frames, LATENT, 4),
        "decoder": decoder_network(SIZE, LATENT, 4, skips=True),
    }


def face_networks() -> dict[str, FakeNetwork]:
    size = FACE // 16
    seen: dict[str, np.ndarray] = {}

    def encode(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        seen["kept"] = given["image"].copy()
        return {"latents": pooled(given["image"], size)}

    face = diffusion_network(1, size, 3, inputs=7)
    plain = face.formula

    def redraw(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        seen["mask"], seen["masked"] = given["sample"][:, 3:4].copy(), given["sample"][:, 4:].copy()
        return plain(given)

    face.formula = redraw
    table = {
        "encoder": FakeNetwork({"image": (1, 3, FACE, FACE)}, {"latents": (1, 3, size, size)}, encode),
        "face_hint": hint_network(FACE, size),
        "face": face,
        "face_decoder": decoder_network(FACE, size, 3, skips=False),
    }
    table["encoder"].seen = seen  # type: ignore[attr-defined]
    return table


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body(an_avatar())


def paint(engine: LiveEngine, count: int, seed: int = 0) -> list[Picture]:
    pictures = [p for i in range(count) for p in engine.feed(pose_frame(i * 40_000_000, seed + i))]
    return pictures + engine.flush()


def test_every_pose_becomes_a_picture_with_its_time_and_mesh(body: Body) -> None:
    pictures = paint(LiveEngine(an_avatar(), networks(), body=body), 4)
    assert [p.index for p in pictures] == [0, 1, 2, 3]
    assert [p.capture_ns for p in pictures] == [i * 40_000_000 for i in range(4)]
    for p in pictures:
        assert p.image.shape == p.condition.shape == (SIZE, SIZE, 3)
        assert p.image.dtype == p.condition.dtype == np.uint8
        assert list(p.stage_ns) == ["body", "condition", "denoise", "decode"]
        assert all(spent > 0 for spent in p.stage_ns.values())
        assert p.condition.any(axis=2).mean() > 0.05  # somebody is there
        bright = p.image.astype(int).sum(2)
        assert bright[p.condition.any(axis=2)].mean() > bright[~p.condition.any(axis=2)].mean() + 50
    assert not np.array_equal(pictures[0].image, pictures[1].image)


def test_the_same_seed_and_poses_give_the_same_bytes_and_another_seed_others(body: Body) -> None:
    avatar = an_avatar(denoise=DenoiseFields((999, 499), "sample", noise="per-frame"))
    first = paint(LiveEngine(avatar, networks(), seed=1, body=body), 3)
    again = paint(LiveEngine(avatar, networks(), seed=1, body=body), 3)
    other = paint(LiveEngine(avatar, networks(), seed=2, body=body), 3)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(first, other, strict=True))


def test_a_reset_begins_the_stream_and_the_epoch_anew(body: Body) -> None:
    engine = LiveEngine(an_avatar(), networks(3), context=2, body=body)
    first = paint(engine, 4)
    engine.reset()
    second = paint(engine, 4)
    assert [(p.epoch, p.index) for p in second] == [(1, i) for i in range(4)]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def test_warming_up_leaves_no_trace(body: Body) -> None:
    cold, warm = (LiveEngine(an_avatar(), networks(3), context=2, body=body) for _ in range(2))
    warm.warm_up()
    for a, b in zip(paint(cold, 3), paint(warm, 3), strict=True):
        assert (a.epoch, a.index) == (b.epoch, b.index)
        assert np.array_equal(a.image, b.image)


def test_context_reaches_the_networks_and_the_future_does_not(body: Body) -> None:
    alone = paint(LiveEngine(an_avatar(), networks(1), body=body), 5)
    engine = LiveEngine(an_avatar(), networks(4), context=3, body=body)
    beside = paint(engine, 5)
    assert np.array_equal(alone[0].image, beside[0].image)  # a frame beside copies of itself is the frame alone
    assert not np.array_equal(alone[4].image, beside[4].image)
    engine.reset()
    changed = [pose_frame(i * 40_000_000, i if i < 3 else 90 + i) for i in range(5)]
    others = [p for frame in changed for p in engine.feed(frame)]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(beside[:3], others[:3], strict=True))
    assert not np.array_equal(beside[3].image, others[3].image)


def test_a_bank_equals_the_window_that_it_stands_for(body: Body) -> None:
    avatar = an_avatar(denoise=DenoiseFields((999, 499), "sample", mode="bank", context=2))
    table = networks() | {"body_bank": bank_network()}
    engine = LiveEngine(avatar, table, body=body)
    assert (engine.burst, engine.delay_frames) == (1, 0)
    first = paint(engine, 5)
    engine.reset()
    again = paint(engine, 5)
    window = paint(LiveEngine(avatar, networks(3), context=2, mode="causal", body=body), 5)
    alone = paint(LiveEngine(avatar, networks(), context=0, mode="causal", body=body), 5)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image, b.image)
    assert np.array_equal(first[0].image, alone[0].image)  # before it there is nothing
    assert not np.array_equal(first[1].image, alone[1].image)
    for a, b in zip(first[2:], window[2:], strict=True):  # the toy has one layer, whose past is the hints
        assert np.abs(a.image.astype(int) - b.image).max() <= 1
    assert (table["body_bank"].calls, table["body"].calls) == (20, 0)


def test_a_bank_of_another_length_or_none_is_named(body: Body) -> None:
    table = networks() | {"body_bank": bank_network()}
    with pytest.raises(InputError, match="a bank of 2 frames and one new one, not of 3 and 1"):
        LiveEngine(an_avatar(), table, context=3, mode="bank", body=body)
    with pytest.raises(InputError, match="a graph named body_bank"):
        LiveEngine(an_avatar(), networks(), mode="bank", body=body)
    avatar = an_avatar(networks=dict.fromkeys(("hint", "body", "body_bank", "decoder"), ""))
    assert needed(avatar, mode="bank") == ("hint", "decoder", "body_bank")
    assert needed(avatar) == ("hint", "decoder", "body")


@pytest.mark.parametrize("count", [4, 5])
def test_a_hop_gives_its_frames_together_and_flush_the_rest(body: Body, count: int) -> None:
    engine = LiveEngine(an_avatar(), networks(3), context=1, hop=2, body=body)
    assert (engine.burst, engine.delay_frames) == (2, 1)
    given = [len(engine.feed(pose_frame(i, i))) for i in range(count)]
    assert given == [0, 2, 0, 2, 0][:count]
    assert len(engine.flush()) == count % 2
    whole = paint(LiveEngine(an_avatar(), networks(3), context=1, hop=2, body=body), 5)
    assert [p.index for p in whole] == list(range(5))


def test_one_hint_a_frame_and_one_evaluation_a_step(body: Body) -> None:
    table = networks()
    paint(LiveEngine(an_avatar(), table, body=body), 3)
    assert (table["hint"].calls, table["body"].calls, table["decoder"].calls) == (3, 6, 3)


def test_the_face_is_redrawn_where_the_face_is(body: Body) -> None:
    fields = FaceFields(True, FACE, latent=LatentFields(3, FACE // 16), denoise=DenoiseFields((999,), "sample"))
    table = networks() | face_networks()
    plain = paint(LiveEngine(an_avatar(), networks(), body=body), 1)[0]
    picture = paint(LiveEngine(an_avatar(face=fields), table, body=body), 1)[0]
    changed = np.argwhere((plain.image != picture.image).any(axis=2))
    assert list(picture.stage_ns)[-1] == "face"
    assert len(changed) > 50
    _, left = changed.min(0)
    bottom, right = changed.max(0)
    assert bottom < 0.6 * SIZE  # the head is in the upper half, in the middle
    assert 0.3 * SIZE < left < right < 0.7 * SIZE
    seen = table["encoder"].seen  # type: ignore[attr-defined]
    mask = seen["mask"][0, 0]
    assert mask.min() < 0.2  # the middle is to be redrawn
    assert mask[0].mean() > 0.8  # the hair above is kept
    grey = seen["kept"][0, :, FACE // 2, FACE // 2]
    np.testing.assert_allclose(grey, 0.0, atol=0.01)  # what is redrawn is not shown
    np.testing.assert_allclose(seen["masked"], pooled(seen["kept"], FACE // 16) * fields.latent.scale, atol=1e-6)


def test_a_table_without_a_graph_or_with_another_window_is_named(body: Body) -> None:
    table = networks()
    del table["decoder"]
    with pytest.raises(InputError, match="a graph named decoder"):
        LiveEngine(an_avatar(), table, body=body)
    with pytest.raises(InputError, match="a graph named body_w3"):
        LiveEngine(an_avatar(), networks(1), context=2, body=body)
    with pytest.raises(InputError, match="exported for 2 frames at once, not for 3"):
        LiveEngine(an_avatar(), {**networks(), "body_w3": diffusion_network(2, LATENT, 4)}, context=2, body=body)


@pytest.mark.parametrize(("steps", "frames"), [(1, 11), (2, 11), (2, 3), (2, 1)])
def test_exact_paints_what_offline_paints(body: Body, steps: int, frames: int) -> None:
    """Windows of four that share one, and shorter ones where the stream ends; hints that waited, and that were computed again."""
    table = {name: network for n in (1, 2, 3, 4) for name, network in networks(n).items()}
    how = {"body": body, "steps": steps, "window": 4, "overlap": 1}
    live = LiveEngine(an_avatar(), table, mode="exact", **how)  # type: ignore[arg-type]
    whole = LiveEngine(an_avatar(), table, mode="offline", **how)  # type: ignore[arg-type]
    assert (live.delay_frames, whole.delay_frames, live.burst) == (3 + 3 * (steps - 1), None, 3)
    for _ in range(2):  # a stream that follows another begins anew
        ours, theirs = paint(live, frames), paint(whole, frames)
        assert [p.index for p in ours] == [p.index for p in theirs] == list(range(frames))
        for a, b in zip(ours, theirs, strict=True):
            assert np.array_equal(a.image, b.image)
        live.reset()
        whole.reset()
    if frames > 4:
        alone = paint(LiveEngine(an_avatar(), networks(), context=0, body=body, steps=steps), frames)
        assert any(not np.array_equal(a.image, b.image) for a, b in zip(ours, alone, strict=True))
        early = [p for i in range(frames) for p in live.feed(pose_frame(i * 40_000_000, i))]
        assert len(early) >= frames - live.delay_frames - live.burst + 1  # type: ignore[operator]


def test_windows_of_the_live_modes_are_past_frames_and_new_ones() -> None:
    for mode, window, overlap, wanted in (
        ("causal", 8, 2, (2, 6)), ("causal", 8, None, (2, 6)), ("causal", None, 0, (0, 1)), ("causal", None, None, (None, 1)),
        ("bank", 3, None, (2, 1)), ("bank", 3, 2, (2, 1)), ("bank", None, 2, (2, 1)), ("exact", 16, 4, (None, 1)),
    ):  # fmt: skip
        assert context_and_hop(mode, window, overlap) == wanted  # type: ignore[arg-type]
    with pytest.raises(InputError, match="overlap: expected 4: a bank takes one new frame a time, got 2"):
        context_and_hop("bank", 5, 2)


def test_guidance_batches_both_branches() -> None:
    given: list[dict[str, np.ndarray]] = []

    def formula(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        given.append({name: array.copy() for name, array in inputs.items()})
        return {"prediction": inputs["sample"] + inputs["appearance"][:, :1, :1, None]}

    shapes = {"sample": (4, 1, 2, 2), "timestep": (4,), "hint": (4, 1, 2, 2), "appearance": (4, 3, 5)}
    network = FakeNetwork(shapes, {"prediction": (4, 1, 2, 2)}, formula)
    tokens = np.stack([np.zeros((3, 5), np.float32), np.ones((3, 5), np.float32)])  # nobody, the person
    predict = Predictor(network, [999], {"appearance": tokens}, frames=2)
    for position in range(2):
        predict.remember(position, {"hint": np.full((1, 1, 2, 2), position, np.float32)})
    latents = np.random.default_rng(0).standard_normal((2, 1, 2, 2)).astype(np.float32)
    prediction = predict(latents, range(2), 0)
    np.testing.assert_allclose(prediction, np.stack([latents, latents + 1]))
    assert given[0]["hint"][:, 0, 0, 0].tolist() == [0, 1, 0, 1]
    assert given[0]["appearance"][:, 0, 0].tolist() == [0, 0, 1, 1]


def test_pictures_go_in_and_out_of_networks_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    signed = to_network(pixels, (1, 3, 6, 8), -1.0)
    np.testing.assert_allclose(signed[0].transpose(1, 2, 0), pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(to_network(pixels, (1, 3, 6, 8), 0.0)[0].transpose(1, 2, 0), pixels / 255, atol=1e-6)
    assert np.array_equal(from_network(signed)[0], pixels)
    assert np.array_equal(from_network(to_network(pixels, (1, 6, 8, 3), 0.0))[0], pixels)
    assert from_network(np.full((1, 3, 2, 2), 7.0, np.float32)).min() == 255
    assert from_network(np.full((1, 3, 2, 2), -7.0, np.float32)).max() == 0
    with pytest.raises(ValueError, match="shape"):
        to_network(pixels, (1, 3, 8, 8), 0.0)
    with pytest.raises(ValueError, match="no picture"):
        from_network(np.zeros((1, 4, 2, 2), np.float32))


def test_appearance_comes_from_a_picture_or_ready_made(tmp_path: Path) -> None:
    reference = np.full((32, 32, 3), (250, 120, 10), np.uint8)
    with av.open(str(tmp_path / "body.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(reference, format="rgb24")))
        container.mux(stream.encode())
    np.save(tmp_path / "nobody.npy", np.zeros((1, 1, 3), np.float32))
    np.save(tmp_path / "broken.npy", np.zeros((1, 3), np.float32))

    def formula(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {"tokens": given["image"].mean((2, 3))[:, None]}

    encoder = FakeNetwork({"image": (1, 3, 32, 32)}, {"tokens": (1, 1, 3)}, formula)
    files = {"body": "body.png", "unconditional": "nobody.npy", "head": "broken.npy"}
    avatar = an_avatar(appearance=files, folder=tmp_path)
    tokens = appearance(avatar, encoder, "body", guided=True)
    np.testing.assert_allclose(tokens, [[[0, 0, 0]], [[250 / 255, 120 / 255, 10 / 255]]], atol=1e-5)
    assert len(appearance(avatar, encoder, "body", guided=False)) == 1
    with pytest.raises(InputError, match=r"broken\.npy: tokens"):
        appearance(avatar, encoder, "head", guided=False)
    with pytest.raises(InputError, match=r"a graph that reads body\.png"):
        appearance(avatar, None, "body", guided=False)
    with pytest.raises(InputError, match=r"appearance\.head"):
        appearance(an_avatar(), None, "head", guided=False)


def test_the_pipeline_paints_what_the_engine_paints(body: Body) -> None:
    from streaming.pipeline import Pipeline

    fed = paint(LiveEngine(an_avatar(), networks(2), context=1, body=body), 4)
    piped: list[Picture] = []
    came = threading.Semaphore(0)

    def on_picture(picture: Picture) -> None:
        piped.append(picture)
        came.release()

    pipeline = Pipeline(LiveEngine(an_avatar(), networks(2), context=1, body=body), on_picture)
    pipeline.start()
    for i in range(4):
        pipeline.submit(pose_frame(i * 40_000_000, i))
        assert came.acquire(timeout=30)
    assert pipeline.stop()
    for a, b in zip(fed, piped, strict=True):
        assert np.array_equal(a.image, b.image)
        assert (a.index, a.capture_ns, list(a.stage_ns)) == (b.index, b.capture_ns, list(b.stage_ns))
