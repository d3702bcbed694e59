"""The same avatar by the published algorithm: whole windows that overlap, averaged, in torch (`engine.denoise.offline`)."""

from __future__ import annotations

import time

import numpy as np
import torch

from bench.quality.paint import Painter, Step, works
from bench.quality.parts import Part
from engine.appearance import appearance
from engine.avatar import Avatar
from engine.denoise import Predict, Sampler, offline
from engine.network import Network
from engine.networks import folder as stored
from engine.networks.diffusion import StructureGuided
from engine.noise import Noise
from engine.stages import LATENTS, DenoiseStage
from engine.steps import listed
from engine.windows import windows
from engine.work import Work, advance

HINT = "hint16"  # what of the hint graph the diffusion network takes


class Windowed:
    """Paints runs of pictures in windows; every other stage is the live engine's."""

    def __init__(self, painter: Painter) -> None:
        avatar = painter.engine.avatar
        self.painter, self.fields = painter, avatar.denoise
        self.body: StructureGuided = stored.load(painter.folder).body
        self.body.control_scale = avatar.denoise.control_scale
        self.denoise = next(stage for stage in painter.engine.stages if isinstance(stage, DenoiseStage))
        self.sampler, self.noise = sampler(avatar, painter.seed)
        self.tokens = torch.from_numpy(tokens(avatar, painter))

    def paint(self, part: Part, size: int, overlap: int, step: Step) -> np.ndarray:
        """Pictures (N, S, S, 3) of a part in windows of `size`, `overlap` of which two share."""
        first = self.painter.before("denoise")
        decoder = next(stage for stage in self.painter.engine.stages if stage.name == "decode")
        finished: list[Work] = []
        for run in part.runs():
            self.painter.engine.reset()
            conditioned = advance(first, works(part, run, self.painter.engine.epoch), time.perf_counter_ns)
            hints = np.concatenate([self._hint(work) for work in conditioned])  # (T, Ch, h, w)
            start = np.stack([self.noise.at(i) for i in range(len(run))])
            latents = offline(
                start, self._predict(torch.from_numpy(hints)), self.sampler, windows(len(run), size, overlap)
            )
            for work, latent in zip(conditioned, latents, strict=True):
                work.arrays[LATENTS] = latent[None]
                finished += advance([decoder], [work], time.perf_counter_ns)
                step()
        return self.painter.finish(finished)

    def _hint(self, work: Work) -> np.ndarray:
        """What the networks see of a work's condition: (1, Ch, h, w); the decoder's share stays with the work."""
        assert work.condition is not None
        graph: Network | None = self.denoise.hint
        if graph is None:  # the ControlNet sees the condition itself
            work.arrays = {}
            return work.condition.transpose(2, 0, 1)[None].astype(np.float32) / 255
        said = graph(**{next(iter(graph.inputs)): work.condition[None]})
        work.arrays = {name: said[name].copy() for name in self.denoise.kept}
        return np.ascontiguousarray(said[HINT].transpose(0, 3, 1, 2))

    def _predict(self, hints: torch.Tensor) -> Predict:
        @torch.no_grad()  # type: ignore[untyped-decorator,unused-ignore]
        def predict(latents: np.ndarray, frames: range, index: int) -> np.ndarray:
            self.body.set_window(len(frames), self.fields.normalisation)
            sample, hint = torch.from_numpy(latents), hints[frames.start : frames.stop]
            timestep = torch.full((len(frames),), self.sampler.times.now[index])
            branches = [self.body(sample, timestep, hint, told[None]) for told in self.tokens]
            return np.asarray(torch.stack(branches).float().numpy())

        return predict


def sampler(avatar: Avatar, seed: int) -> tuple[Sampler, Noise]:
    """The avatar's own sampler and noise."""
    d, latent = avatar.denoise, avatar.latent
    noise = Noise((latent.channels, latent.size, latent.size), seed, d.noise)
    return Sampler(avatar.schedule, listed(d.timesteps), d.prediction, d.sampler, d.guidance, noise), noise


def tokens(avatar: Avatar, painter: Painter) -> np.ndarray:
    """Who the person is, by branch of guidance: (B, n, D)."""
    from export.runtime import load

    encoder = load(painter.folder, ["appearance"]).get("appearance") if "appearance" in avatar.networks else None
    return appearance(avatar, encoder, "body", guided=avatar.denoise.guidance != 1.0)
