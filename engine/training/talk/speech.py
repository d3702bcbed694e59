"""Text to speech with the free synthesizer `flite`: samples, and when each phoneme sounds.

It knows nothing of mouths or gestures. `flite` is a program of its own, called as one; nothing of it is linked or
bundled.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InputError

RATE = 48_000  # what Opus and WebRTC carry
VOICE = "rms"  # an adult man, the clearest of flite's statistical voices
STRETCH = 1.0  # of its own pace, which is a news reader's
LOUDNESS = 0.1  # RMS over the speaking parts: -20 dB of full scale
PEAK = 0.85
LEAD_IN, LEAD_OUT = 0.8, 1.0  # seconds of silence about the speech
PAUSE_SENTENCE, PAUSE_PARAGRAPH = 0.25, 0.75  # seconds added between them
SILENCE = "pau"


@dataclass(frozen=True, slots=True)
class Phoneme:
    """One sound of the timeline; `name` as in CMU's phone set, lower case, `pau` for silence; seconds from the
    start."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Sentence:
    """What was said from `start` to `end` seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """A spoken text: mono samples at 48 kHz within -1 to 1, its phonemes end to end, and its sentences."""

    samples: np.ndarray  # (N,) float32
    phonemes: tuple[Phoneme, ...]
    sentences: tuple[Sentence, ...]

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / RATE

    def envelope(self, fps: float, window: float = 0.03) -> np.ndarray:
        """Root mean square of the samples about every frame's time, (T,) float64, over Gaussian windows of sigma
        `window` s."""
        power = np.square(self.samples, dtype=np.float64)
        reach = int(3 * window * RATE)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (window * RATE)) ** 2)
        centres = np.round(np.arange(int(self.seconds * fps)) / fps * RATE).astype(int)
        padded = np.pad(power, reach)
        mean = np.array([padded[c : c + 2 * reach + 1] @ kernel for c in centres]) / kernel.sum()
        out: np.ndarray = np.sqrt(mean)
        return out


def speak(text: str, voice: str = VOICE) -> Speech:
    """Say `text`. Sentences are spoken one by one; an empty line makes a longer pause.

    Raises InputError where flite is not installed, fails, or the text holds no words.
    """
    program = shutil.which("flite")
    if program is None:
        raise InputError("flite", "program", "the speech synthesizer on the PATH", "none", "apt-get install flite")
    voices = subprocess.run([program, "-lv"], check=False, capture_output=True, text=True, timeout=30).stdout
    known = voices.partition(":")[2].split()
    if voice not in known:
        raise InputError("flite", "voice", f"one of {', '.join(known)}", repr(voice))
    paragraphs = [_sentences(p) for p in re.split(r"\n\s*\n", text)]
    paragraphs = [p for p in paragraphs if p]
    if not paragraphs:
        raise InputError("text", "words", "at least one sentence", "none")

    pieces, phonemes, sentences = ([np.zeros(round(LEAD_IN * RATE))], [Phoneme(SILENCE, 0.0, LEAD_IN)], [])
    now = LEAD_IN
    for paragraph in paragraphs:
        for index, sentence in enumerate(paragraph):
            samples, spoken = _say(program, voice, sentence)
            last = index == len(paragraph) - 1
            rest = np.zeros(round((PAUSE_PARAGRAPH if last else PAUSE_SENTENCE) * RATE))
            pieces += [samples, rest]
            sentences.append(Sentence(sentence, now, now + len(samples) / RATE))
            phonemes += [Phoneme(p.name, now + p.start, now + p.end) for p in spoken]
            now += (len(samples) + len(rest)) / RATE
            phonemes.append(Phoneme(SILENCE, phonemes[-1].end, now))
    pieces.append(np.zeros(round(LEAD_OUT * RATE)))
    phonemes.append(Phoneme(SILENCE, now, now + LEAD_OUT))
    return Speech(_levelled(np.concatenate(pieces)), tuple(_merged(phonemes)), tuple(sentences))


def _sentences(paragraph: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())) if re.search(r"\w", s)]


def _say(program: str, voice: str, sentence: str) -> tuple[np.ndarray, list[Phoneme]]:
    """One sentence: samples (N,) at 48 kHz and its phonemes from 0 to the end of the samples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        options = ["-voice", voice, "--setf", f"duration_stretch={STRETCH}", "-psdur", "-t", sentence, "-o", str(path)]
        done = subprocess.run([program, *options], check=False, capture_output=True, text=True, timeout=120)
        marks = re.findall(r"([a-z]+):([0-9.]+)", done.stdout)
        if done.returncode != 0 or not marks or not path.exists():
            complaint = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise InputError("flite", f"voice {voice!r}", "speech with phoneme times", complaint)
        with wave.open(str(path)) as file:
            rate, raw = file.getframerate(), file.readframes(file.getnframes())
    samples = np.frombuffer(raw, "<i2").astype(np.float64) / 32768.0
    samples = _resampled(samples, rate)
    phonemes, start = [], 0.0
    for name, end in marks:
        phonemes.append(Phoneme(name, start, float(end)))
        start = float(end)
    return samples, phonemes


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """From `rate` up to 48 kHz by padding the spectrum; the band limit stays where it was."""
    length = round(len(samples) * RATE / rate)
    spectrum = np.fft.rfft(samples)
    padded = np.zeros(length // 2 + 1, complex)
    padded[: len(spectrum)] = spectrum
    out: np.ndarray = np.fft.irfft(padded, length) * (length / len(samples))
    return out


def _levelled(samples: np.ndarray) -> np.ndarray:
    """Brought to LOUDNESS over the parts that sound; peaks are bent softly below PEAK rather than cut."""
    loud = samples[np.abs(samples) > 0.02 * np.abs(samples).max()]
    scaled = samples * (LOUDNESS / np.sqrt(np.mean(np.square(loud))))
    knee = 0.6 * PEAK
    over = np.maximum(np.abs(scaled) - knee, 0.0)
    bent = np.minimum(np.abs(scaled), knee) + (PEAK - knee) * np.tanh(over / (PEAK - knee))
    out: np.ndarray = (np.sign(scaled) * bent).astype(np.float32)
    return out


def _merged(phonemes: list[Phoneme]) -> list[Phoneme]:
    """Neighbouring silences as one; sounds without length left out."""
    out: list[Phoneme] = []
    for p in phonemes:
        if p.end <= p.start:
            continue
        if out and out[-1].name == p.name == SILENCE:
            out[-1] = Phoneme(SILENCE, out[-1].start, p.end)
        else:
            out.append(p)
    return out
