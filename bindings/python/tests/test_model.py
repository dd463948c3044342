"""What is done with a model."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import shiftformer
from shiftformer import Evaluation


def test_importing_needs_numpy_only():
    code = (
        "import sys, shiftformer; "
        "print([m for m in ('onnx', 'torch', 'tqdm', 'google.protobuf', 'dask') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_training_says_what_it_needs():
    code = "import sys; sys.modules['torch'] = None; import shiftformer.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: shiftformer.torch needs PyTorch 2.6 or later: pip install shiftformer[torch]" in done.stderr


def test_a_saved_model_is_the_same(digits, tmp_path):
    digits.save(tmp_path / "m.sfm")
    read = shiftformer.Model(tmp_path / "m.sfm")
    assert read == digits == shiftformer.Model.from_bytes(digits.to_bytes()) == pickle.loads(pickle.dumps(digits))
    assert read.conversion is None and "image uint8 [1, 1, 8, 8]" in repr(read)


def test_runs_are_those_of_the_command(digits, images, models, command, tmp_path):
    digits.save(tmp_path / "m.sfm")
    done = command("run", tmp_path / "m.sfm", "--data", models / "digits/eval.npz", "--index", 7, "--json")
    expected = np.array(json.loads(done.stdout)["outputs"][0]["values"], np.float32)
    whole = digits.run(image=images["image"])["logits"]
    assert whole.shape == (360, 10) and whole.dtype == np.float32
    np.testing.assert_array_equal(whole[7], expected)
    one = digits.run({"image": images["image"][7, 0, 0]})["logits"]
    assert one.shape == (10,)
    np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(digits.run(image=images["image"], backend="portable", threads=1)["logits"], whole)
    np.testing.assert_array_equal(digits.run(image=np.asfortranarray(images["image"][:, 0]))["logits"], whole)
    assert digits.run(image=images["image"][:0])["logits"].shape == (0, 10)


def test_raw_integers(digits, images):
    real = digits.run(image=images["image"])["logits"]
    (output,) = digits.outputs
    for integers in (digits.run(image=images["image"], raw=True), digits.run(image=images["image"], raw_outputs=True)):
        assert integers["logits"].dtype == np.dtype(output.dtype)
        as_real = ((integers["logits"].astype(np.float64) - output.zero) * output.scale).astype(np.float32)
        np.testing.assert_array_equal(as_real, real)
    wide = images["image"].astype(np.int64)
    np.testing.assert_array_equal(digits.run(image=wide, raw=True)["logits"], integers["logits"])


def test_an_evaluation_is_that_of_the_command(digits, images, models, command, tmp_path):
    digits.save(tmp_path / "m.sfm")
    path = models / "digits/eval.npz"
    expected = json.loads(command("eval", tmp_path / "m.sfm", "--data", path, "--json").stdout)
    arrays = {"image": images["image"]}
    results = [
        digits.evaluate(path),
        digits.evaluate(arrays, images["label"], images["out_logits"]),
        digits.evaluate(images),
        digits.evaluate(images["image"], list(images["label"]), {"logits": images["out_logits"]}, threads=1),
    ]
    for result in results:
        for name in ("samples", "accuracy", "float_accuracy", "agreement", "sqnr_db", "cosine"):
            assert getattr(result, name) == expected[name], name
    onnx = digits.evaluate(arrays, images["label"], models / "digits/digits-vit.onnx", limit=100)
    assert onnx.samples == 100 and onnx.sqnr_db > 35
    parts = [digits.evaluate({k: v[a:b] for k, v in images.items()}) for a, b in ((200, 360), (0, 90), (90, 200))]
    assert Evaluation.merge(*parts) == results[0]


def test_what_is_not_compared_is_a_warning(digits, images):
    with pytest.warns(shiftformer.ShiftformerWarning, match="nothing is compared"):
        assert digits.evaluate({"image": images["image"]}, images["label"]).sqnr_db is None


def test_inspection_and_tables(digits, command, models, tmp_path):
    digits.save(tmp_path / "m.sfm")
    summary = digits.inspect()
    printed = json.loads(command("inspect", tmp_path / "m.sfm", "--json").stdout)
    assert dataclasses.asdict(summary)["arena_bytes"] == printed["arena_bytes"]
    assert [op.acc_bits for op in summary.ops] == [op["acc_bits"] for op in printed["ops"]]
    assert [op.inputs[0].name for op in summary.ops] == [op["in"][0]["name"] for op in printed["ops"]]
    fits = json.loads(command("fit", tmp_path / "m.sfm", "--json").stdout)
    assert [(b.key, b.fits, b.latency_ms) for b in digits.fit().boards] == [
        (b["key"], b["fits"], b["latency_ms"]) for b in fits["boards"]
    ]
    assert digits.fit("microbit").boards[0].fits
    errors = digits.per_op()
    assert len(errors) > 20 and all(error.remedy for error in errors)
    read = shiftformer.Model(tmp_path / "m.sfm")
    onnx, data = models / "digits/digits-vit.onnx", models / "digits/calib.npz"
    assert read.per_op(data, onnx) == read.per_op({"image": np.load(data)["in_image"]}, onnx.read_bytes()) == errors


def test_reports_and_sources(digits, command, models, tmp_path):
    folder = models / "digits"
    command("convert", folder / "digits-vit.onnx", "-o", tmp_path / "m.sfm", "--calib", folder / "calib.npz",
            "--mean", 0.3057, "--std", 0.376, "--report", tmp_path / "m.html")  # fmt: skip
    report = digits.report(tmp_path / "n.html")
    assert report == (tmp_path / "m.html").read_text() == (tmp_path / "n.html").read_text()
    assert report._repr_html_().startswith("<iframe srcdoc=")
    read = shiftformer.Model(tmp_path / "m.sfm")
    assert "Operators and overflow certificate" in read.report()
    for name in ("m.rs", "m.h"):
        command("codegen", tmp_path / "m.sfm", "-o", tmp_path / f"command-{name}")
        assert read.codegen(tmp_path / name) == (tmp_path / f"command-{name}").read_text() == (tmp_path / name).read_text()


def test_generation_is_that_of_the_command(arithmetic, command):
    settings = ["--tokens", 5, "--temperature", 0.9, "--top-k", 4, "--seed", 3]
    done = json.loads(command("generate", arithmetic.path, "--prompt", "$128+367=", *settings, "--json").stdout)
    heard = []
    made = arithmetic.generate("$128+367=", tokens=5, temperature=0.9, top_k=4, seed=3, stream=heard.append)
    assert (made.text, made.tokens, made.prompt) == (done["text"], done["tokens"], done["prompt"])
    assert "".join(heard) == made.text
    again = arithmetic.generate(np.array(made.prompt), tokens=5, temperature=0.9, top_k=4, seed=3, backend="portable")
    assert again.tokens == made.tokens


def test_a_decoder_is_evaluated_on_sequences(arithmetic, models, command):
    path = models / "arithmetic/calib.npz"
    done = json.loads(command("eval", arithmetic.path, "--data", path, "--limit", 8, "--json").stdout)
    for data in (path, dict(np.load(path))):
        result = arithmetic.evaluate(data, limit=8)
        assert isinstance(result, shiftformer.SequenceEvaluation) and result.samples == done["sequences"] == 8
        for name in ("tokens", "left_out", "sqnr_db", "agreement", "bits_per_token", "float_bits_per_token", "bits_per_byte"):
            assert getattr(result, name) == done[name], name


def test_the_interpreter_goes_on_while_a_batch_runs(digits, images):
    many = np.repeat(images["image"], 4, axis=0)
    ticks, done = 0, threading.Event()

    def work():
        digits.run(image=many, backend="portable", threads=1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks > 20


def test_ctrl_c_ends_a_run(digits, images):
    many = np.repeat(images["image"], 4000, axis=0)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    # A shell that starts the tests in the background has Python ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            digits.run(image=many, backend="portable", threads=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 20
    assert digits.run(image=images["image"][:1])["logits"].shape == (1, 10)


class Killing(ProcessPoolExecutor):
    """Kills one of its workers as soon as it has work."""

    def submit(self, *args, **kwargs):
        future = super().submit(*args, **kwargs)
        if not getattr(self, "killed", False):
            self.killed = True
            threading.Timer(0.05, lambda: [os.kill(pid, signal.SIGKILL) for pid in list(self._processes)[:1]]).start()
        return future


def test_any_executor_gives_the_same_figures(digits, images):
    whole = digits.evaluate(images)

    class Immediate:
        """The interface and nothing more; the first piece of work meets a worker that is gone."""

        lost = False

        def submit(self, work, *args):
            future = Future()
            if not self.lost:
                self.lost = True
                future.set_exception(ConnectionError("the worker is gone"))
            else:
                future.set_result(work(*args))
            return future

    for executor in (Immediate(), ThreadPoolExecutor(2), lambda: ThreadPoolExecutor(1)):
        counts = []
        result = digits.evaluate(images, executor=executor, shards=7, progress=lambda _, done, all: counts.append(done))
        assert result == whole and counts[-1] == 360


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_samples_of_a_killed_worker_are_done_again(digits, images):
    many = {name: np.concatenate([array] * 8) for name, array in images.items()}
    whole = digits.evaluate(many)
    # This process has run threads already, which a forked child does not have.
    for make in (lambda: ProcessPoolExecutor(2), lambda: Killing(2)):
        with make() as pool:
            assert digits.evaluate(many, executor=pool, shards=12) == whole
    calls = []

    def makes():
        calls.append(1)
        return Killing(1) if len(calls) == 1 else ProcessPoolExecutor(1)

    assert digits.evaluate(many, executor=makes, shards=12) == whole and len(calls) == 2


def test_shards_of_the_command_merge_to_the_same_figures(digits, images, models, command, tmp_path):
    digits.save(tmp_path / "m.sfm")
    parts = []
    for shard in (1, 2, 3):
        done = command("eval", tmp_path / "m.sfm", "--data", models / "digits/eval.npz", "--shard", f"{shard}/3", "--json")
        (tmp_path / f"{shard}.json").write_text(done.stdout)
        parts.append(Evaluation.of_sums(json.dumps(json.loads(done.stdout)["sums"])))
    assert Evaluation.merge(*parts) == digits.evaluate(images)
    merged = json.loads(command("merge", *(tmp_path / f"{i}.json" for i in (3, 1, 2)), "--json").stdout)
    assert merged["sqnr_db"] == digits.evaluate(images).sqnr_db
