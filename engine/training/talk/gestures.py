"""Whole-body motion: of an anchor who speaks, and of anything that live motion capture may ask of one.

`perform` moves a figure to speech; `explore` is training material: a part of it speaks nonsense, the rest wanders
through all that a person before a camera can do. Both are functions of their seed. Nothing here has heard a sound or
seen a recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.pose import PoseClip
from engine.training.talk import idle
from engine.training.talk.figure import Figure, face
from engine.training.talk.speech import SILENCE, Phoneme, Speech
from engine.training.talk.strokes import Accent, Phrase, arms
from engine.training.talk.tracks import ease, pulses, slow_noise, smoothed
from engine.training.talk.visemes import CHANNELS, VISEMES, VOWELS, mouth
from engine.training.talk.wander import wander

PAUSE = 0.12  # seconds of silence that part two phrases


@dataclass(frozen=True)
class Score:
    """All that motion needs to know of speech."""

    seconds: float
    phonemes: tuple[Phoneme, ...]
    phrases: tuple[Phrase, ...]
    loudness: np.ndarray | None = None  # (T,) about 1 at the clip's rate
    calm: float = 0.35  # share of the phrases that pass without a gesture


def score(speech: Speech, fps: float) -> Score:
    """Phrases, accents and loudness of a spoken text; T = the whole frames within it."""
    envelope = speech.envelope(fps)
    vowels = [p for p in speech.phonemes if p.name in VOWELS]
    level = float(np.median([_mean(envelope, p, fps) for p in vowels])) if vowels else 1.0
    accents = []
    for p in vowels:
        weight = _mean(envelope, p, fps) / level * np.sqrt((p.end - p.start) / 0.1)
        accents.append(Accent(p.start + 0.35 * (p.end - p.start), float(np.clip(weight, 0.0, 2.0))))
    phrases, first = [], True
    for sentence in speech.sentences:
        first = True
        inside = [p for p in speech.phonemes if sentence.start - 0.01 <= 0.5 * (p.start + p.end) <= sentence.end + 0.01]
        for start, end in _runs(inside):
            here = [a for a in accents if start <= a.time <= end]
            bar = np.median([a.strength for a in here]) if here else 0.0
            phrases.append(Phrase(start, end, sentence.text, first, tuple(a for a in here if a.strength >= bar)))
            first = False
    loudness = np.clip(np.sqrt(smoothed(envelope, 0.06 * fps) / level), 0.6, 1.0) * 0.5 + 0.6
    return Score(speech.seconds, speech.phonemes, tuple(phrases), loudness)


def perform(what: Score, fps: float, seed: int) -> Figure:
    """The figure of an anchor who says `what`, at `fps` frames a second."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(what.seconds * fps)) / fps
    accents = [a for phrase in what.phrases for a in phrase.accents if a.strength > 0.9]
    at, strength = [a.time for a in accents], [a.strength for a in accents]
    ends = [phrase.end for phrase in what.phrases]

    left, right = arms(what.phrases, times, rng, what.calm)
    breathing = idle.breath(times, rng)
    left[:, 1] += 0.004 * breathing
    right[:, 1] += 0.004 * breathing
    nod = pulses(times, at, [0.07 * s * rng.uniform(0.4, 1.2) for s in strength], 0.16, 0.02, 0.32)
    turn = rng.normal(0.0, 0.05, len(ends))
    tilt = rng.normal(0.0, 0.035, len(ends))
    head = slow_noise(times, rng, 3.5, 1.0, 3) * [0.022, 0.040, 0.018]
    head += np.stack([nod - 0.02, _steps(times, what.phrases, turn), _steps(times, what.phrases, tilt)], 1)
    torso = slow_noise(times, rng, 6.0, 1.0, 3) * [0.012, 0.030, 0.012]
    torso[:, 0] += 0.02 + 0.25 * smoothed(nod, 0.15 * fps) - 0.006 * breathing
    torso[:, 1] += 0.3 * smoothed(_steps(times, what.phrases, turn), 0.2 * fps)

    lips = mouth(what.phonemes, times, what.loudness)
    channels = {name: lips[:, i] for i, name in enumerate(CHANNELS)}
    jaw = np.zeros((len(times), 3))
    jaw[:, 0] = channels.pop("jaw")
    brows = pulses(times, at, [1.1 * s * rng.uniform(0.0, 1.2) for s in strength], 0.18, 0.12, 0.4)
    smile = 0.8 + slow_noise(times, rng, 5.0, 0.25)[:, 0] + 0.7 * _greeting(times, what.phrases)
    smile = np.clip(smile, 0.1, 2.0) * (1.0 - 0.25 * np.clip(channels["lips_kiss"], 0.0, 2.4))
    blink = 3.0 * idle.blinks(times, rng, ends)
    expression = face(
        len(times), **channels, smile=smile, cheeks_up=0.5 * smile, squint=0.25 * smile, blink_left=blink,
        blink_right=blink, brow_up=brows, brow_inner_up=np.clip(slow_noise(times, rng, 4.0, 0.35)[:, 0], 0.0, None),
        brow_down=np.clip(slow_noise(times, rng, 5.0, 0.3)[:, 0] - 0.2, 0.0, None),
    )  # fmt: skip
    still = (np.zeros((len(times), dims)) for dims in (3, 8, 90))  # root, carriage, fingers
    return Figure(torso, head, idle.sway(times, rng), left, right, jaw, idle.gaze(times, rng), expression, *still)


def talk(speech: Speech, fps: float, seed: int) -> PoseClip:
    """The motion of an anchor who says `speech`."""
    return perform(score(speech, fps), fps, seed).clip(fps, "talk")


def explore(frames: int, fps: float, seed: int) -> PoseClip:
    """Diverse training motion, (frames,) at `fps`: alternately talking, 45 % of it, and wandering, no cuts."""
    rng = np.random.default_rng(seed)
    times = np.arange(frames) / fps
    speaking = perform(_babble(frames / fps + 1.0 / fps, rng), fps, seed + 1)
    speaking = _cut(speaking, frames)
    side = float(rng.random() < 0.55)
    share, now = np.full(frames, side), 0.0
    while now < frames / fps:  # (T,) 1 where it wanders
        now += rng.uniform(4.0, 8.0) * (0.55 / 0.45 if side else 1.0)
        share += (1.0 - 2.0 * side) * ease((times - now) / 1.0)
        side = 1.0 - side
    return speaking.mixed(wander(times, fps, rng), share).clip(fps, "explore")


def _babble(seconds: float, rng: np.random.Generator) -> Score:
    """Speech without sense: phrases of random syllables with accents, pauses between them."""
    names = sorted(VISEMES.keys() - {SILENCE})
    vowels = [n for n in names if n in VOWELS]
    consonants = [n for n in names if n not in VOWELS]
    phonemes, phrases, now = [Phoneme(SILENCE, 0.0, 0.4)], [], 0.4
    while now < seconds:
        start, accents = now, []
        for _ in range(int(rng.integers(3, 16))):
            for name in (str(rng.choice(consonants)), str(rng.choice(vowels))):
                length = float(rng.gamma(9.0, (0.125 if name in VOWELS else 0.075) / 9.0))
                if name in VOWELS and rng.random() < 0.3:
                    accents.append(Accent(now + 0.35 * length, float(rng.uniform(0.8, 1.6))))
                phonemes.append(Phoneme(name, now, now + length))
                now += length
        phrases.append(Phrase(start, now, "", True, tuple(accents)))
        pause = float(rng.uniform(0.2, 0.9))
        phonemes.append(Phoneme(SILENCE, now, now + pause))
        now += pause
    return Score(seconds, tuple(phonemes), tuple(phrases), calm=0.1)


def _cut(figure: Figure, frames: int) -> Figure:
    return Figure(*(getattr(figure, name)[:frames] for name in Figure.__dataclass_fields__))


def _steps(times: np.ndarray, phrases: Sequence[Phrase], levels: np.ndarray) -> np.ndarray:
    """(T,) a level for every phrase, gone over to in half a second."""
    out, before = np.zeros(len(times)), 0.0
    for phrase, level in zip(phrases, levels, strict=True):
        out += (level - before) * ease((times - phrase.start + 0.25) / 0.55)
        before = level
    return out


def _greeting(times: np.ndarray, phrases: Sequence[Phrase]) -> np.ndarray:
    """(T,) 1 where words of welcome, thanks or goodbye are said, fading to both sides."""
    warm = [p for p in phrases if any(w in p.text.lower() for w in ("welcome", "thank", "good evening"))]
    spans = [ease((times - p.start + 0.4) / 0.8) * ease((p.end + 1.0 - times) / 1.0) for p in warm]
    return np.max(spans, axis=0) if spans else np.zeros(len(times))


def _runs(phonemes: Sequence[Phoneme]) -> list[tuple[float, float]]:
    """Stretches of sound between pauses."""
    runs: list[tuple[float, float]] = []
    for p in phonemes:
        if p.name == SILENCE:
            continue
        if runs and p.start - runs[-1][1] < PAUSE:
            runs[-1] = (runs[-1][0], p.end)
        else:
            runs.append((p.start, p.end))
    return runs


def _mean(envelope: np.ndarray, p: Phoneme, fps: float) -> float:
    low = min(int(p.start * fps), len(envelope) - 1)
    return float(envelope[low : max(low + 1, round(p.end * fps))].mean())
