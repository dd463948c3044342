"""Whatever comes in: an exception that says what to do."""

from __future__ import annotations

import numpy as np
import pytest
import shiftformer
from conftest import PIXELS
from shiftformer import (
    AccuracyError,
    BackendError,
    DataError,
    DeviceError,
    DtypeError,
    FileError,
    ModelChangedError,
    ModelError,
    NotFoundError,
    OnnxError,
    ShapeError,
    ShiftformerError,
    UsageError,
)


class OnDevice:
    """A torch tensor in the memory of a GPU, as far as it is looked at."""

    class device:
        type = "cuda"

        def __str__(self):
            return "cuda:0"

    device = device()
    shape = (2, 1, 8, 8)
    dtype = "torch.float32"

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


X = np.zeros((2, 1, 8, 8), np.float32)
RUNS = {
    "missing": ({}, DataError, r"the input `image` is missing; the model takes `image` \[1, 1, 8, 8\]"),
    "unknown": ({"image": X, "mask": X}, DataError, "the model has no input `mask`; it takes `image`"),
    "size": ({"image": np.zeros((2, 1, 8, 9))}, ShapeError, r"takes samples of shape \[1, 8, 8\].*\[2, 1, 8, 9\]"),
    "axes": ({"image": np.zeros((2, 16, 4))}, ShapeError, "transpose"),
    "scalar": ({"image": 3.0}, ShapeError, r"shape \[\]"),
    "complex": ({"image": X.astype(np.complex64)}, DtypeError, "element type complex64; use u8"),
    "text": ({"image": "seven"}, DtypeError, "element type"),
    "objects": ({"image": np.array([X, None], object)}, DtypeError, "element type object"),
    "ragged": ({"image": [[1, 2], [3]]}, DtypeError, "no array of numbers"),
    "dates": ({"image": X.astype("datetime64[s]")}, DtypeError, "element type datetime64"),
    "nothing": ({"image": None}, DtypeError, "element type object"),
    "device": ({"image": OnDevice()}, DeviceError, r"tensor on cuda:0; move it first: tensor.cpu\(\)"),
    "nan": ({"image": np.full((1, 1, 8, 8), np.nan)}, DataError, "holds NaN"),
    "infinity": ({"image": np.full((1, 1, 8, 8), 1e300)}, DataError, "holds inf"),
    "backend": ({"image": X, "backend": "tpu"}, BackendError, "unknown backend `tpu`; known: portable, native"),
    "threads": ({"image": X, "threads": 0}, UsageError, "not a number from 1 to 1024"),
    "raw floats": ({"image": X, "raw": True}, DtypeError, "takes uint8, the array given has float32; quantize it"),
    "raw range": ({"image": np.full((1, 1, 8, 8), 256), "raw": True}, DtypeError, "holds 256 to 256; clip it"),
    "masked": ({"image": np.ma.masked_equal(np.zeros((1, 1, 8, 8)), 0)}, DataError, "fill them first"),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs(digits, case):
    arguments, error, text = RUNS[case]
    with pytest.raises(error, match=text):
        digits.run(**arguments)


CALIBRATIONS = {
    "empty iterator": (iter(()), DataError, "calib holds no samples: the iterator is empty or was used up"),
    "empty array": (np.zeros((0, 1, 8, 8)), DataError, "holds no samples; give at least one"),
    "no samples at all": (None, UsageError, r"pass --calib DATA.npz with the arrays in_image"),
    "other names": ({"pixels": X}, DataError, "no array for the input `image`; it has `pixels`"),
    "number": (7, DataError, "type int cannot be used; give a dict of arrays"),
    "bytes": (b"PK", DataError, "type bytes cannot be used"),
    "shape": ([np.zeros((3, 8, 8))], None, ""),
    "wrong shape": ([np.zeros((3, 8, 9))], ShapeError, r"takes samples of shape \[1, 8, 8\]"),
    "device": ([(OnDevice(), 1)], DeviceError, "tensor.cpu"),
    "nan": (np.full((4, 1, 8, 8), np.nan, np.float32), DataError, "sample 0: input `image` holds NaN; clean the data"),
    "no file": ("nowhere.npz", NotFoundError, "cannot read nowhere.npz: .*; check the path"),
    "mixed": ([X.astype(np.uint8), X], DtypeError, "give all the same type"),
}


@pytest.mark.parametrize("case", CALIBRATIONS)
def test_calibrations(models, case):
    calib, error, text = CALIBRATIONS[case]
    convert = lambda: shiftformer.convert(models / "digits/digits-vit.onnx", calib, accept_sqnr=-300)  # noqa: E731
    if error is None:
        assert convert().conversion.calibration_samples == 3
        return
    with pytest.raises(error, match=text):
        convert()


OPTIONS = {
    "range": ({"range": "best"}, UsageError, "invalid value 'best' for '--range <RANGE>'.*minmax"),
    "weights": ({"weights": 7}, UsageError, "invalid value '7' for '--weights <WEIGHTS>'"),
    "budget": ({"weights": "mixed"}, UsageError, "--flash-budget"),
    "mean alone": ({"mean": 0.5}, UsageError, "--std"),
    "deviation": ({"mean": 0.5, "std": 0}, UsageError, "--mean and --std must be finite, --std above 0"),
    "unknown": ({"speed": "high"}, UsageError, "unexpected argument '--speed'"),
    "samples": ({"calib_samples": 0}, UsageError, "--calib-samples 0 leaves nothing to calibrate on"),
    "dim": ({"dim": {"batch": 1}}, OnnxError, "the model has no dimension `batch`"),
    "accuracy": ({"accept_sqnr": 200, "calib_samples": 8}, AccuracyError, "200 dB are required"),
    "output": ({"output": "no/such/folder/m.sfm"}, FileError, "cannot write no/such/folder/m.sfm: .*choose another path"),
    "labels": ({"labels": ["a", "b"]}, UsageError, "labels"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(models, case):
    options, error, text = OPTIONS[case]
    with pytest.raises(error, match=text):
        shiftformer.convert(models / "digits/digits-vit.onnx", models / "digits/calib.npz", **options)


def test_texts_are_those_of_the_command(models, command, tmp_path):
    onnx, calib = models / "digits/digits-vit.onnx", models / "digits/calib.npz"
    for extra, options in ((["--range", "best"], {"range": "best"}), (["--dim", "n=2"], {"dim": {"n": 2}})):
        done = command("convert", onnx, "-o", tmp_path / "m.sfm", "--calib", calib, *extra)
        with pytest.raises(ShiftformerError) as caught:
            shiftformer.convert(onnx, calib, **options)
        assert done.stderr.strip().split("error: ")[-1] == str(caught.value)


def test_models(models, tmp_path):
    for model, error in ((b"", OnnxError), (b"not onnx", OnnxError), ("nowhere.onnx", NotFoundError), (3, UsageError)):
        with pytest.raises(error) as caught:
            shiftformer.convert(model, X)
        assert "/tmp" not in str(caught.value)
    with pytest.raises(NotFoundError, match="check the path"):
        shiftformer.Model(tmp_path / "none.sfm")
    with pytest.raises(FileError):
        shiftformer.Model(tmp_path)
    good = (models / "arithmetic/arithmetic.sfm").read_bytes()
    for bad in (b"", b"SFM", good[:-1], good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]):
        with pytest.raises(ModelError):
            shiftformer.Model.from_bytes(bad)
    with pytest.raises(UsageError, match="Model.from_bytes"):
        shiftformer.Model(good)


def test_a_model_that_changes_on_disk(digits, images, tmp_path):
    path = tmp_path / "m.sfm"
    digits.save(path)
    model = shiftformer.Model(path)
    expected = model.run(image=images["image"][:2])["logits"]
    path.write_bytes(b"something else")
    np.testing.assert_array_equal(model.run(image=images["image"][:2])["logits"], expected)
    with pytest.raises(ModelChangedError, match="was changed since it was read; open it again"):
        model.codegen(lang="rust")
    path.unlink()
    with pytest.raises(ModelChangedError, match="save the model again"):
        model.codegen(lang="rust")
    model.save(path)
    assert "include_bytes!" in model.codegen(lang="rust")


def test_a_model_that_was_read_has_no_samples(arithmetic):
    with pytest.raises(UsageError, match="pass reference="):
        arithmetic.per_op()


@pytest.mark.parametrize(
    "prompt, options, error, text",
    [
        ("", {}, UsageError, "the prompt has no tokens"),
        ([], {}, DataError, "no tokens"),
        ([1.5], {}, DtypeError, "no sequence of tokens"),
        ([10_000], {}, UsageError, "the vocabulary of the model has"),
        ([1] * 100, {}, UsageError, "shorten it"),
        ("1", {"tokens": 0}, UsageError, "generates nothing"),
        ("1", {"temperature": -1}, UsageError, "temperature"),
        ("1", {"backend": "abacus"}, BackendError, "abacus"),
    ],
)
def test_prompts(arithmetic, prompt, options, error, text):
    with pytest.raises(error, match=text):
        arithmetic.generate(prompt, **options)


def test_no_decoder(digits):
    with pytest.raises(UsageError, match="the model is no decoder"):
        digits.generate("7")


EVALUATIONS = {
    "labels": ({"labels": [10, 1]}, DataError, "not among the 10 classes"),
    "fractions": ({"labels": [0.5, 1]}, DataError, "not a class"),
    "many labels": ({"labels": [1, 2, 3]}, ShapeError, "`label` has 3 samples, `in_image` has 2; all arrays need"),
    "few labels": ({"labels": [1]}, ShapeError, "`label` has 1 samples, `in_image` has 2"),
    "reference": ({"reference": np.zeros((2, 9))}, DataError, "9 values per sample, the model gives 10"),
    "other output": ({"reference": {"probs": np.zeros((2, 10))}}, DataError, "no output `probs`; it has `logits`"),
    "limit": ({"limit": 0}, UsageError, "leaves no samples"),
    "executor": ({"executor": 3}, UsageError, "no submit"),
    "onnx": ({"reference": b"nothing"}, OnnxError, "not an ONNX model"),
}


@pytest.mark.parametrize("case", EVALUATIONS)
def test_evaluations(digits, case):
    arguments, error, text = EVALUATIONS[case]
    with pytest.raises(error, match=text):
        digits.evaluate({"image": X}, **arguments)


def test_boards(digits):
    with pytest.raises(UsageError, match="unknown board `abacus`; known: "):
        digits.fit("abacus")
