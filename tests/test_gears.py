"""Gears: what a frame's painting costs may change from one frame to the next, and nothing is lost or hidden by it."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from fakes import FakeNetwork, pose_frame
from test_live import FACE, LATENT, an_avatar, bank_network, diffusion_network, face_networks, networks

from engine.avatar import Avatar, DenoiseFields, FaceFields, LatentFields, RootFields
from engine.body import Body
from engine.errors import InputError
from engine.gear import OWN, Gear, ladder
from engine.live import LiveEngine, load_body, needed
from engine.picture import Picture
from engine.steps import Schedule

FACES = FaceFields(True, FACE, latent=LatentFields(3, FACE // 16), denoise=DenoiseFields((999,), "sample"))


def geared_avatar(mode: str = "causal", **changes: object) -> Avatar:
    """One whose bodies stand where their poses say, so that a frame depends on no earlier one but by its gear."""
    fields = DenoiseFields((999, 499), "sample", noise="per-frame", context=2, mode=mode)  # type: ignore[arg-type]
    return an_avatar(denoise=fields, root=RootFields("free"), schedule=Schedule(spacing="trailing"), **changes)


def table() -> dict[str, FakeNetwork]:
    windows = {f"body_w{frames}": diffusion_network(frames, LATENT, 4) for frames in (2, 3, 5)}
    return networks() | windows | {"body_bank": bank_network()}


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body(an_avatar())


def paint(engine: LiveEngine, gears: list[Gear], first: int = 0) -> list[Picture]:
    pictures = [p for i, gear in enumerate(gears, first) for p in engine.feed(pose_frame(i * 40_000_000, i), gear)]
    return pictures + engine.flush()


@pytest.mark.parametrize(
    ("mode", "gears"),
    [
        ("causal", [Gear(steps=1), Gear(context=0), Gear(context=0, hop=2), Gear(hop=3), Gear(1, 1, 1)]),
        ("bank", [Gear(steps=1), Gear(context=1), Gear(context=0), Gear(context=0, hop=2)]),
    ],
)
def test_from_a_change_on_frames_are_painted_as_by_a_fresh_engine_of_that_gear(
    mode: str, gears: list[Gear], body: Body
) -> None:
    engine = LiveEngine(geared_avatar(mode), table(), body=body, gears=gears)
    assert engine.burst == max(gear.hop or 1 for gear in gears)
    engine.warm_up()
    log = [gear for gear in (OWN, *gears, OWN, *reversed(gears), OWN) for _ in range(4)]
    pictures = paint(engine, log)
    assert [picture.index for picture in pictures] == list(range(len(log)))  # none is lost, whatever waited
    assert [picture.gear for picture in pictures] == log
    expected: list[Picture] = []
    for gear, run in groupby(log):
        alone = mode if gear.context != 0 else "causal"
        own = gear.steps, gear.context, gear.hop or 1
        fresh = LiveEngine(geared_avatar(), table(), *own, body=body, mode=alone)
        expected += paint(fresh, [OWN] * len(list(run)), len(expected))
    for a, b in zip(pictures, expected, strict=True):
        assert np.array_equal(a.image, b.image), (a.index, str(a.gear))
    engine.reset()
    assert all(np.array_equal(a.image, b.image) for a, b in zip(pictures, paint(engine, log), strict=True))


def test_gears_differ_in_what_they_cost(body: Body) -> None:
    graphs = table()
    engine = LiveEngine(geared_avatar("bank"), graphs, body=body, gears=[Gear(steps=1), Gear(context=0, hop=2)])
    called = []
    for gear in (OWN, Gear(steps=1), Gear(context=0, hop=2)):
        before = [graphs[name].calls for name in ("body_bank", "body_w2")]
        paint(engine, [gear] * 6)
        called.append([graphs[name].calls - n for name, n in zip(("body_bank", "body_w2"), before, strict=True)])
    assert called == [[12, 0], [6, 0], [0, 6]]


def test_the_face_is_left_out_as_the_gear_says_and_the_picture_says_so(body: Body) -> None:
    avatar = geared_avatar(face=FACES)
    graphs = table() | face_networks()
    engine = LiveEngine(avatar, graphs, body=body)
    log = [*[OWN] * 2, *[Gear(face_every=2)] * 5, *[Gear(face_every=0)] * 3, *[Gear(face_every=3)] * 4]
    pictures = paint(engine, log)
    left = "..  .f.f.  fff  .ff.".replace(" ", "")
    assert [bool(picture.skipped) for picture in pictures] == [letter == "f" for letter in left]
    assert {name for picture in pictures for name in picture.skipped} == {"face"}
    assert graphs["face"].calls == left.count(".")
    with_face = paint(LiveEngine(avatar, table() | face_networks(), body=body), [OWN] * len(log))
    without = paint(LiveEngine(avatar, table(), body=body, again=()), [OWN] * len(log))
    for i, picture in enumerate(pictures):
        assert np.array_equal(picture.image, (without if picture.skipped else with_face)[i].image)
        assert not np.array_equal(with_face[i].image, without[i].image)
    engine.reset()
    assert [p.skipped for p in paint(engine, [Gear(face_every=3)] * 2)] == [(), ("face",)]  # a new stream's first


def test_a_gear_without_its_graph_is_refused_by_name(body: Body) -> None:
    for gear, mode, message in (
        (Gear(hop=2), "bank", "a bank of 2 frames and one new one, not of None and 2 (gear: hop 2)"),
        (Gear(context=3), "bank", "a bank of 2 frames and one new one, not of 3 and 1 (gear: past frames 3)"),
        (Gear(hop=7), "causal", "a graph named body_w9"),
    ):
        with pytest.raises(InputError) as caught:
            LiveEngine(geared_avatar(mode), table(), body=body, gears=[gear])
        assert message in str(caught.value) and "\n" not in str(caught.value)
    folded = {**table(), "body_bank": bank_network()}
    folded["body_bank"].fixed = {"timestep": np.array([999])}
    del folded["body_bank"].inputs["timestep"]  # type: ignore[attr-defined]
    once = replace(geared_avatar("bank"), denoise=DenoiseFields((999,), "sample", mode="bank", noise="per-frame"))
    with pytest.raises(InputError, match=r"body_bank was loaded for another timestep \(gear: steps 2\)"):
        LiveEngine(once, folded, body=body, gears=[Gear(steps=2)])
    engine = LiveEngine(geared_avatar(), table(), body=body, gears=[Gear(steps=1)])
    with pytest.raises(ValueError, match="not made for the gear hop 3, only for own, steps 1"):
        engine.feed(pose_frame(0), Gear(hop=3))
    with pytest.raises(ValueError, match="a gear's face_every must be at least 0, got -1"):
        Gear(face_every=-1)


def test_the_graphs_of_every_gear_are_loaded() -> None:
    avatar = geared_avatar("bank", networks=dict.fromkeys(("hint", "body", "body_w2", "body_bank", "decoder"), ""))
    assert needed(avatar, gears=[Gear(steps=1)]) == ("hint", "decoder", "body_bank")
    assert needed(avatar, gears=[Gear(context=0)]) == ("hint", "decoder", "body_bank", "body")
    assert needed(avatar, gears=[Gear(context=0, hop=2)]) == ("hint", "decoder", "body_bank", "body_w2")


def test_the_ladder_of_an_avatar_ends_with_the_body_alone() -> None:
    avatar = geared_avatar("bank", face=FACES, networks={"body": "", "body_bank": ""})
    avatar = replace(avatar, denoise=replace(avatar.denoise, timesteps=(999, 749, 499, 249, 0), sampler="lcm"))
    words = [str(gear) for gear in ladder(avatar)]
    assert words == [
        "own",
        "steps 2",
        "steps 1",
        "steps 1, past frames 0",
        "steps 1, past frames 0, face in one frame of 2",
        "steps 1, past frames 0, no face",
    ]
    assert ladder(an_avatar(denoise=DenoiseFields((999,)))) == (OWN,)
    many = an_avatar(denoise=DenoiseFields(tuple(range(951, 0, -50))))
    assert [gear.steps for gear in ladder(many)] == [None, 10, 5]  # not distilled: one or two would paint noise
