"""Accuracy of the keyword spotter on voices that training has not heard, from samples to answers, twice.

    python models/kws/evaluate.py --shiftformer target/release/shiftformer --cache /tmp/utterances.npz

Floats: features in 64 bits, the ONNX model by onnxruntime. Integers: `shiftformer listen` with the `.sfm` file, whose front end
and model are those of a device. With `--recording` some of the utterances are written to eval.wav, and their labels to
eval.txt.
"""

import argparse
import json
import subprocess
import wave
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

import features
import sounds

HERE = Path(__file__).resolve().parent


def floats(pcm):
    """Class of every utterance."""
    session = ort.InferenceSession(str(HERE / "kws.onnx"), providers=["CPUExecutionProvider"])
    mfcc = features.mfcc(torch.from_numpy(pcm), torch.float64).numpy().astype(np.float32)
    return np.array([session.run(["logits"], {"mfcc": one[None, None]})[0].argmax() for one in mfcc])


def integers(pcm, shiftformer, model):
    """Class of every utterance. The 98 frames of a second begin with it: they share none with the next."""
    command = [shiftformer, "listen", str(model), "--all", "--json", "--every", "1"]
    lines = subprocess.run(command, input=pcm.astype("<i2").tobytes(), check=True, stdout=subprocess.PIPE).stdout
    return np.array([json.loads(line)["class"] for line in lines.splitlines()])


def recording(pcm, labels):
    """Writes two utterances of every class, one behind the other."""
    chosen = [np.flatnonzero(labels == label)[turn] for turn in range(2) for label in range(len(sounds.LABELS))]
    with wave.open(str(HERE / "eval.wav"), "wb") as file:
        file.setparams((1, 2, sounds.RATE, 0, "NONE", "not compressed"))
        file.writeframes(pcm[chosen].astype("<i2").tobytes())
    (HERE / "eval.txt").write_text("".join(sounds.LABELS[labels[one]] + "\n" for one in chosen))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shiftformer", required=True, help="the command")
    parser.add_argument("--model", type=Path, default=HERE / "kws.sfm")
    parser.add_argument("--cache", type=Path, help="file that keeps the utterances, whose words take a minute to speak")
    parser.add_argument("--recording", action="store_true")
    args = parser.parse_args()
    if args.cache and args.cache.exists():
        kept = np.load(args.cache)
        pcm, labels = kept["pcm"], kept["label"]
    else:
        pcm, labels = sounds.evaluation()
        if args.cache:
            np.savez_compressed(args.cache, pcm=pcm, label=labels)
    if args.recording:
        recording(pcm, labels)
    real, whole = floats(pcm), integers(pcm, args.shiftformer, args.model)
    right = {"floats": real == labels, "integers": whole == labels}
    for name, hits in right.items():
        print(f"{name:9} {hits.sum()} of {len(hits)} right, {100 * hits.mean():.2f} %")
    print(f"the same answer for {(real == whole).sum()} of {len(labels)}")
    for label, name in enumerate(sounds.LABELS):
        of = labels == label
        print(f"  {name:8}" + "".join(f" {key} {hits[of].sum():3} of {of.sum()}" for key, hits in right.items()))


if __name__ == "__main__":
    main()
