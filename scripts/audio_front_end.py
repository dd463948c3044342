"""Tables of the audio front end (runtime/src/audio/tables.rs) and the float features that it is tested against.

    python3 scripts/audio_front_end.py

Needs numpy. Parameters are those of the Keyword Transformer on Speech Commands (Berg, O'Connor and Cruz, Interspeech 2021):
16 kHz, windows of 30 ms every 10 ms, periodic Hann, magnitudes of a 512-point FFT, 80 mel bands (HTK) from 20 to 7600 Hz,
natural logarithm of at least 1e-12, DCT-II with the factor 1 / sqrt(2 * 80), 40 coefficients.
"""

from pathlib import Path

import numpy as np

RATE, WINDOW, HOP, FFT, MELS, COEFFICIENTS = 16_000, 480, 160, 512, 80, 40
LOWEST_HZ, HIGHEST_HZ, LEAST = 20.0, 7600.0, 1e-12
ROOT = Path(__file__).resolve().parent.parent / "runtime/src/audio"


def mel(hertz):
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def positions():
    """Place of every bin among the edges of the bands, which lie one apart; bin 0 belongs to none."""
    low, high = mel(LOWEST_HZ), mel(HIGHEST_HZ)
    places = (mel(np.arange(FFT // 2 + 1) * RATE / FFT) - low) / (high - low) * (MELS + 1)
    return places


def hann():
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


def features(pcm):
    """Float MFCC of 16-bit samples, [frames, COEFFICIENTS]."""
    places = positions()
    weights = np.zeros((FFT // 2 + 1, MELS))
    for band in range(MELS):
        weights[:, band] = np.maximum(0, np.minimum(places - band, band + 2 - places))
    weights[0] = 0
    cosines = np.cos(np.pi / MELS * np.outer(np.arange(MELS) + 0.5, np.arange(COEFFICIENTS)))
    frames = [pcm[at : at + WINDOW] / 32768 * hann() for at in range(0, len(pcm) - WINDOW + 1, HOP)]
    bands = np.log(np.maximum(np.abs(np.fft.rfft(frames, FFT)) @ weights, LEAST))
    return bands @ cosines * 2 / np.sqrt(2 * MELS)


def sounds():
    """Samples of all kinds, one behind the other: vowels, a chirp, noise, one that clips, one of a few steps, silence."""
    random = np.random.default_rng(15)
    time = np.arange(4000) / RATE
    voice = sum(np.sin(2 * np.pi * 130 * n * time) / (1 + ((130 * n - 700) / 300) ** 2) for n in range(1, 40))
    chirp = np.sin(2 * np.pi * (100 * time + 12_000 * time**2))
    parts = [
        9000 * voice / np.abs(voice).max() * np.sin(np.pi * time / time[-1]),
        12_000 * chirp,
        random.normal(0, 800, 4000),
        60_000 * np.sin(2 * np.pi * 440 * time),
        random.normal(0, 2, 4000),
        np.zeros(1600),
    ]
    return np.clip(np.round(np.concatenate(parts)), -32768, 32767).astype(np.int16)


def table(doc, name, kind, values, line=12):
    text = f"/// {doc}\npub const {name}: [{kind}; {len(values)}] = [\n"
    for at in range(0, len(values), line):
        text += "    " + ", ".join(str(int(v)) for v in values[at : at + line]) + ",\n"
    return text + "];\n"


def main():
    places = positions()
    last = int(np.floor(np.searchsorted(places, MELS + 1)))
    quarter = np.sin(np.pi / 2 * np.arange(FFT // 4 + 1) / (FFT // 4))
    out = "//! Made by scripts/audio_front_end.py.\n\n"
    out += table("Left half of the periodic Hann window and its middle, 2^24 is one.", "HANN", "u32",
                 np.round(hann()[: WINDOW // 2 + 1] * 2**24))
    out += "\n" + table("A quarter of a sine, 2^30 is one.", "SINE", "i32", np.round(quarter * 2**30), 9)
    out += "\n" + table("Place of every bin from 1 on among the edges of the mel bands, 2^16 from one edge to the next.",
                        "PLACES", "u32", np.round(places[1:last] * 2**16), 12)
    out += "\n" + table("`log2(1 + i / 64)`, 2^24 is one.", "LOG2", "u32", np.round(np.log2(1 + np.arange(65) / 64) * 2**24), 10)
    cosine = np.cos(2 * np.pi * np.arange(4 * MELS) / (4 * MELS))
    out += "\n" + table("A period of a cosine times the factor of the DCT, 2^17 is one.", "DCT", "i16",
                        np.round(cosine * 2 / np.sqrt(2 * MELS) * 2**17), 14)
    (ROOT / "tables.rs").write_text(out)
    pcm = sounds()
    (ROOT / "test_samples.bin").write_bytes(pcm.astype("<i2").tobytes())
    (ROOT / "test_mfcc.bin").write_bytes(features(pcm).astype("<f4").tobytes())


if __name__ == "__main__":
    main()
