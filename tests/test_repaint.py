"""Crops painted again: against the same done step by step, with hands at the border, and hands that nobody sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeNetwork, pose_frame

from engine import hand
from engine.avatar import Avatar, CameraFields, ConditionFields, DenoiseFields, HandFields, LatentFields
from engine.camera import look_at
from engine.condition import LEFT_HAND, RIGHT_HAND, Condition
from engine.crop import blend, feather, soften, warp, warp_mask
from engine.live import LiveEngine, load_body, needed
from engine.noise import Noise
from engine.pose import PoseFrame
from engine.repaint import RepaintStage
from engine.sampler import Sampler
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS, joint_slice
from engine.stages import BodyStage, ConditionStage, DecodeStage
from engine.staging import Staging
from engine.steps import Schedule, listed
from engine.work import Crops, Work

SIZE, PICTURE, CELL = 64, 256, 16
CELLS = SIZE // CELL


def pooled(pictures: np.ndarray) -> np.ndarray:
    """(n, s, s, 3) uint8 to (n, 3, s/16, s/16) in [-1, 1]."""
    n = len(pictures)
    cells = pictures.reshape(n, CELLS, CELL, CELLS, CELL, 3).mean((2, 4)) / 127.5 - 1
    return cells.transpose(0, 3, 1, 2).astype(np.float32)


def encode(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    return {"latents": pooled(given["image"])}


def hints(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    return {"hint16": 0.5 * pooled(given["condition"])}


def diffuse(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    noise, mask, kept = np.split(given["sample"], (3, 4), axis=1)
    return {"prediction": 0.01 * noise + mask * kept + (1 - mask) * given["hint16"]}


def decode(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    large = given["latents"].repeat(CELL, 2).repeat(CELL, 3).transpose(0, 2, 3, 1)
    return {"image": np.clip(large * 127.5 + 128, 0, 255).astype(np.uint8)}


def networks(n: int = 2) -> dict[str, FakeNetwork]:
    pictures, latents = (n, SIZE, SIZE, 3), (n, 3, CELLS, CELLS)
    wide = {"sample": (n, 7, CELLS, CELLS), "timestep": (n,), "hint16": latents}
    return {
        "hand_hint": FakeNetwork({"condition": pictures}, {"hint16": latents}, hints),
        "hand_encoder": FakeNetwork({"image": pictures}, {"latents": latents}, encode),
        "hand": FakeNetwork(wide, {"prediction": latents}, diffuse),
        "hand_decoder": FakeNetwork({"latents": latents}, {"image": pictures}, decode),
    }


def a_stage(table: Mapping[str, FakeNetwork], noise: Noise, scale: float = 1.0) -> RepaintStage:
    sampler = Sampler(Schedule(), listed((999,)), "sample", noise=noise)
    graphs = (table[f"hand{part}"] for part in ("_hint", "_encoder", "", "_decoder"))
    return RepaintStage("hands", *graphs, sampler, noise, {}, scale, "mask")


def a_work(seed: int = 0) -> Work:
    """A picture of noise, and crops of a mirrored hand and one at the picture's corner."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (PICTURE // 8, PICTURE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    marks = np.zeros((PICTURE, PICTURE), np.uint8)
    marks[60:110, 40:90], marks[230:, 220:] = 1, 2
    transforms = np.array([[[-0.6, 0, 71], [0, 0.6, -20]], [[0.7, 0, -140], [0, 0.7, -145]]], np.float32)
    masks = np.stack([soften(warp_mask(marks, i + 1, transforms[i], SIZE)) for i in range(2)])
    conditions = np.stack([warp(image[::-1], transform, SIZE) for transform in transforms])
    work = Work(0, 0, pose_frame(0), image=image, condition=image)
    work.crops["hands"] = Crops(transforms, conditions, masks)
    return work


def test_it_paints_what_the_steps_one_by_one_do() -> None:
    noise, scale = Noise((3, CELLS, CELLS), seed=3), 2.0
    work = a_work()
    assert work.image is not None
    before, crops = work.image.copy(), work.crops["hands"]
    stage = a_stage(networks(), noise, scale)
    (done,) = stage(work)

    expected = before.copy()
    for transform, condition, mask in zip(crops.transforms, crops.conditions, crops.masks, strict=True):
        kept = warp(before, transform, SIZE)
        kept[mask > 127] = 128
        share = 1 - (mask > 127).reshape(CELLS, CELL, CELLS, CELL).mean((1, 3))
        latents = 0.01 * noise.at(0) + share * scale * pooled(kept[None])[0]
        latents = latents + (1 - share) * 0.5 * pooled(condition[None])[0]
        stepped = stage.mode.sampler.step(noise.at(0)[None], latents[None].astype(np.float32), range(1), 0)
        painted = decode({"latents": stepped / np.float32(scale)})["image"][0]
        blend(expected, painted, transform, feather(SIZE) * mask / np.float32(255), out=expected)
    assert done.image is not None
    assert (expected != before).any(axis=2).sum() > 1000
    assert np.abs(done.image.astype(int) - expected).max() <= 1
    assert stage.unseen == 0


def test_only_the_hand_and_its_border_change() -> None:
    work = a_work()
    assert work.image is not None
    before = work.image.copy()
    a_stage(networks(), Noise((3, CELLS, CELLS)))(work)
    changed = (before != work.image).any(axis=2)
    assert changed[64:106, 44:86].mean() > 0.9
    assert changed[236:250, 226:250].mean() > 0.9
    near = np.zeros_like(changed)
    near[48:122, 28:102] = near[218:, 208:] = True  # 12 pixels, 4 of the crop's wide
    assert not changed[~near].any()


def test_a_hand_that_is_not_seen_stays_and_is_counted() -> None:
    table, noise = networks(), Noise((3, CELLS, CELLS))
    stage, whole = a_stage(table, noise), a_work()
    a_stage(networks(), noise)(whole)
    work = a_work()
    work.crops["hands"].masks[1] = 0
    assert work.image is not None and whole.image is not None
    before = work.image.copy()
    stage(work)
    assert stage.unseen == 1
    np.testing.assert_array_equal(work.image[150:], before[150:])
    np.testing.assert_array_equal(work.image[:150], whole.image[:150])  # the other one as if both were there
    nobody = a_work()
    nobody.crops["hands"].masks[:] = 0
    stage(nobody)
    np.testing.assert_array_equal(nobody.image, before)
    assert (stage.unseen, table["hand"].calls, table["hand_encoder"].calls) == (3, 1, 1)
    without = a_work()
    without.crops.clear()
    stage(without)
    np.testing.assert_array_equal(without.image, before)


def test_a_stage_whose_network_raised_begins_anew() -> None:
    table, noise = networks(), Noise((3, CELLS, CELLS))
    (whole,) = a_stage(table, noise)(a_work())
    stage = a_stage(table, noise)

    def fall(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        raise RuntimeError("out of memory")

    table["hand"].formula = fall
    with pytest.raises(RuntimeError, match="out of memory"):
        stage(a_work())
    table["hand"].formula = diffuse
    stage.reset()
    (again,) = stage(a_work())
    assert np.array_equal(again.image, whole.image)


def test_graphs_for_different_numbers_of_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="exported for 1 frames at once, not for 2"):
        a_stage(networks() | {"hand": networks(1)["hand"]}, Noise((3, CELLS, CELLS)))


def an_avatar(graphs: Mapping[str, object]) -> Avatar:
    camera = look_at((0.0, 0.1, 2.6), (0.0, 0.1, 0.0), PICTURE, 0.5)
    alone = DenoiseFields((999,), "sample")
    return Avatar(
        "test", PICTURE, 25.0, dict.fromkeys(graphs, ""), LatentFields(4, 16), alone, CameraFields.of(camera),
        condition=ConditionFields(size=PICTURE), hands=HandFields(True, SIZE, LatentFields(3, CELLS), alone),
    )  # fmt: skip


def raised_hands() -> PoseFrame:
    """Forearms turned up and in: both hands before the chest."""
    pose = np.zeros(POSE_DIMS, np.float32)
    for side, sign in (("left", -1.0), ("right", 1.0)):
        pose[joint_slice(f"{side}_shoulder")] = (0.0, 0.0, sign * 1.1)
        pose[joint_slice(f"{side}_elbow")] = (0.0, sign * 2.2, 0.0)
    return PoseFrame(0, pose, np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32))


def test_the_live_engine_paints_both_hands_again_where_they_are() -> None:
    latents = (1, 4, 16, 16)
    body = {"sample": latents, "timestep": (1,), "condition": (1, PICTURE, PICTURE, 3)}
    graphs = networks() | {
        "body": FakeNetwork(body, {"prediction": latents}, lambda given: {"prediction": given["sample"]}),
        "decoder": FakeNetwork(
            {"latents": latents}, {"image": (1, PICTURE, PICTURE, 3)},
            lambda given: {"image": np.full((1, PICTURE, PICTURE, 3), 200, np.uint8)},
        ),
    }  # fmt: skip
    avatar = an_avatar(graphs)
    person = load_body(avatar)
    engine = LiveEngine(avatar, graphs, body=person)
    (picture,) = engine.feed(raised_hands())
    assert list(picture.stage_ns)[-1] == "hands"
    condition = Condition(person, avatar.camera.camera())
    frame = Staging(avatar.root)(raised_hands())
    condition.render(person.vertices(frame.pose, frame.expression, frame.transl))
    mask = condition.hand_mask()
    changed = (picture.image != 200).any(axis=2)
    for mark in (LEFT_HAND, RIGHT_HAND):
        assert (mask == mark).sum() > 100
        assert changed[mask == mark].mean() > 0.95
    assert changed.sum() < 4 * (mask > 0).sum()
    (plain,) = LiveEngine(avatar, graphs, body=person, again=("face",)).feed(raised_hands())
    assert (plain.image == 200).all()
    assert "hands" not in plain.stage_ns
    assert set(needed(avatar)) == set(graphs)
    assert set(needed(avatar, again=())) == {"body", "decoder"}
    assert set(needed(replace(avatar, hands=HandFields()))) == {"body", "decoder"}


def test_the_condition_stage_cuts_what_the_slow_way_cuts() -> None:
    avatar = an_avatar({})
    person, camera = load_body(avatar), avatar.camera.camera()
    stages = BodyStage(person, Staging(avatar.root)), ConditionStage(Condition(person, camera), hand_size=SIZE)
    work = Work(0, 0, raised_hands())
    for stage in stages:
        (work,) = stage(work)
    assert work.condition is not None and work.joints is None and set(work.crops) == {"hands"}
    crops, frame = work.crops["hands"], Staging(avatar.root)(raised_hands())
    slow = Condition(person, camera)
    picture = slow.render(person.vertices(frame.pose, frame.expression, frame.transl))
    marks = slow.hand_mask()
    transforms = hand.crops(person, camera, person.joints(frame.pose, frame.expression, frame.transl), SIZE)
    np.testing.assert_array_equal(crops.transforms, transforms)
    for i in range(2):
        white = np.repeat((marks == i + 1)[..., None] * np.uint8(255), 3, axis=2)
        np.testing.assert_array_equal(crops.conditions[i], warp(picture, transforms[i], SIZE))
        soft = soften(warp(white, transforms[i], SIZE)[..., 0].copy())
        assert np.abs(crops.masks[i].astype(int) - soft).max() <= 4


def test_decoding_has_no_part_in_it() -> None:
    """The decode stage leaves crops alone."""
    work = a_work()
    work.arrays = {"latents": np.zeros((1, 3, CELLS, CELLS), np.float32)}
    table = networks(1)
    DecodeStage(table["hand_decoder"])(work)
    assert set(work.crops) == {"hands"}
