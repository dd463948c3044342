"""Float MFCC, as scripts/audio_front_end.py defines them, of many utterances at once."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from audio_front_end import COEFFICIENTS, FFT, HOP, LEAST, MELS, WINDOW, hann, positions  # noqa: E402

_places = positions()
_bands = np.stack([np.maximum(0, np.minimum(_places - band, band + 2 - _places)) for band in range(MELS)], axis=1)
_bands[0] = 0
_cosines = np.cos(np.pi / MELS * np.outer(np.arange(MELS) + 0.5, np.arange(COEFFICIENTS))) * 2 / np.sqrt(2 * MELS)


def mfcc(pcm, dtype=torch.float32):
    """`[utterances, samples]` of 16 bits to `[utterances, frames, COEFFICIENTS]`."""
    window, bands, cosines = (torch.from_numpy(table).to(dtype) for table in (hann(), _bands, _cosines))
    frames = pcm.to(dtype).div(32768).unfold(1, WINDOW, HOP) * window
    return torch.fft.rfft(frames, FFT).abs().matmul(bands).clamp_min(LEAST).log().matmul(cosines)
