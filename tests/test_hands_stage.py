"""The stage of training for the hands, on a clip of squares: what is cut, and what is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_avatar import MINI, random_networks, write_clip

from engine.crop import warp, warp_mask
from engine.errors import InputError
from engine.training.dataset import Clip
from engine.training.people import People
from engine.training.stages.hands import HandsStage


def test_hands_are_cut_where_they_are_seen_and_what_is_judged_is_what_the_engine_blends(tmp_path: Path) -> None:
    """The small clip shows one hand a frame: left in even ones, right in odd ones."""
    networks = random_networks()
    parts = {"vae": networks.vae, "body": networks.body, "image_encoder": networks.image_encoder}
    before = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    before |= {f"decoder.{key}": value for key, value in networks.vae.decoder.state_dict().items()}
    opened = Clip.open(write_clip(tmp_path / "square"))
    frames = People.train([opened])
    stage = HandsStage(MINI, frames, frames, before, batch=3)
    cuts = stage.seen(frames)
    assert [cut.frame for cut in cuts] == list(range(len(frames)))
    for i, cut in enumerate(cuts):
        hand = np.asarray(opened.hand_mask[i]) == 1 + i % 2
        assert cut.mask[warp_mask(hand.astype(np.uint8), 1, cut.transform, stage.size) > 127].min() > 127
        np.testing.assert_array_equal(stage.crops.truth[i], warp(np.asarray(opened.frames[i]), cut.transform, 64))
        np.testing.assert_array_equal(stage.crops.mask[i], cut.mask)
    batch = stage.batch(np.random.default_rng(0), 0.0)
    assert batch.sample.shape == (3, 17, 4, 4)
    assert batch.truth.shape == batch.condition.shape == (3, 3, 64, 64)
    figures, sheet = stage.validate(stage.modules.eval())
    assert 0 < figures["psnr_before"] < 60
    assert 0 < figures["psnr_after"] < 60
    assert sheet.shape == (len(frames) * 64, 4 * 64, 3)
    painted, redrawn = np.split(sheet, 4, axis=1)[2:]
    mask = stage.crops.mask.reshape(-1, 64)
    np.testing.assert_array_equal(painted[mask == 0], redrawn[mask == 0])
    nobody = replace(opened, hand_mask=np.zeros_like(opened.hand_mask))
    with pytest.raises(InputError, match="hands: expected frames in which the mesh shows it, got none"):
        HandsStage(MINI, People.train([nobody]), frames, before)
