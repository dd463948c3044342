//! Images, sound and the names of classes.

use crate::harness::{Ended, Folder, bundled, changed_onnx, digits_arg, npz, shiftformer, shiftformer_with_input};
use hound::{SampleFormat, WavSpec, WavWriter};
use image::{GrayImage, ImageBuffer, Rgb};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::import::onnx::tensor_shape_proto::{Dimension, dimension};
use shiftformer_convert::import::onnx::type_proto::Value;
use shiftformer_convert::import::onnx::{AttributeProto, NodeProto};
use shiftformer_convert::model_file::Values;
use std::f64::consts::PI;
use std::path::Path;

/// Which of the bundled digits is drawn.
const INDEX: usize = 3;
const NORMALIZATION: [&str; 4] = ["--mean", "0.3057", "--std", "0.376"];

fn digit() -> GrayImage {
    let data = Dataset::open(Path::new(&bundled("eval.npz"))).unwrap();
    let name = data.names().find_map(|name| name.strip_prefix("in_").map(str::to_owned)).unwrap();
    let Values::U8(pixels) = data.input(&name).unwrap().sample(INDEX) else { panic!("pixels are bytes") };
    GrayImage::from_raw(8, 8, pixels).unwrap()
}

fn run_image(path: &str) -> Ended {
    shiftformer(&["run", &digits_arg(), "--image", path, "--json"])
}

#[test]
fn an_image_is_the_sample_with_its_pixels() {
    let folder = Folder::new();
    let path = folder.path("digit.png");
    digit().save(&path).unwrap();
    let shown = run_image(&path);
    assert_eq!(shown.stderr, "");
    let index = INDEX.to_string();
    let sample =
        shiftformer(&["run", &digits_arg(), "--data", &bundled("eval.npz"), "--index", &index, "--json"]).json();
    assert_eq!(shown.json()["outputs"], sample["outputs"]);
    assert_eq!(shown.json()["sample"], path.as_str());
}

#[test]
fn other_sizes_and_colours_become_what_the_model_takes() {
    let folder = Folder::new();
    // Five times as large, in colour, black on both sides.
    let digit = digit();
    let large = ImageBuffer::from_fn(60, 40, |x, y| {
        let grey = if (10..50).contains(&x) { digit.get_pixel((x - 10) / 5, y / 5).0[0] } else { 0 };
        Rgb([grey, grey, grey])
    });
    let same = run_image(&{
        let path = folder.path("digit.png");
        digit.save(&path).unwrap();
        path
    });
    for name in ["large.png", "large.jpg"] {
        let path = folder.path(name);
        large.save(&path).unwrap();
        let shown = run_image(&path);
        assert_eq!(shown.json()["top"][0]["class"], same.json()["top"][0]["class"], "{name}");
        assert!(shown.stderr.contains("note: scaled from 60 x 40 to 12 x 8, the middle 8 x 8"), "{}", shown.stderr);
        assert!(shown.stderr.contains("luminance"), "{}", shown.stderr);
    }
}

#[test]
fn files_that_are_no_image() {
    let folder = Folder::new();
    let path = folder.path("digit.png");
    digit().save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    run_image(&folder.write("text.png", b"no image")).is_refused(&["text.png", "PNG or JPEG"]);
    run_image(&folder.write("cut.png", &whole[..whole.len() * 2 / 3])).is_refused(&["cut.png", "PNG or JPEG"]);
    run_image(&folder.path("absent.png")).is_refused(&["absent.png", "cannot read"]);
    let of = |more: &[&str]| shiftformer(&[&["run", &digits_arg(), "--image", &path], more].concat());
    of(&["--mean", "0.5", "--std", "0.5"]).is_refused(&["leave out --mean and --std"]);
    of(&["--data", &bundled("eval.npz")]).is_refused(&["--image"]);
    of(&["--index", "1"]).is_refused(&["--index"]);
    shiftformer(&["run", &digits_arg(), "--audio", &path]).is_refused(&["sound", "`image` of shape"]);
}

/// Converts the digits model with labels.
fn convert_labels(folder: &Folder, labels: &str, more: &[&str]) -> Ended {
    let (model, calib) = (bundled("digits-vit.onnx"), bundled("calib.npz"));
    let (labels, out) = (folder.write("labels.txt", labels.as_bytes()), folder.path("out.sfm"));
    let args = ["convert", &model, "-o", &out, "--calib", &calib, "--labels", &labels];
    shiftformer(&[&args[..], &NORMALIZATION, more].concat())
}

#[test]
fn labels_are_in_the_file_and_printed() {
    let folder = Folder::new();
    let labels = "zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n";
    let image = folder.path("digit.png");
    digit().save(&image).unwrap();
    // Without names of tensors too.
    for more in [&[][..], &["--strip"]] {
        let ended = convert_labels(&folder, labels, more);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let run = |more: &[&str]| shiftformer(&[&["run", &folder.path("out.sfm"), "--image", &image], more].concat());
        let shown = run(&["--json"]).json();
        assert_eq!(shown["top"][0]["name"], "three");
        assert!(run(&[]).stdout.contains("three"));
    }
}

#[test]
fn labels_of_another_length_are_refused() {
    let folder = Folder::new();
    for (labels, parts) in [
        ("zero\none\n", &["labels.txt", "2 labels", "10 classes"][..]),
        ("zero\n\ntwo\n", &["labels.txt", "line 2"]),
        ("", &["0 labels"]),
    ] {
        convert_labels(&folder, labels, &[]).is_refused(parts);
        assert!(!folder.files().contains(&"out.sfm".to_owned()));
    }
}

/// Samples that the sound model takes: 98 frames.
const SAMPLES: usize = 97 * 160 + 480;

/// The mean of 98 frames of 40 coefficients, times weights: class 0 is a first coefficient above -100, class 1 one below.
fn sound_model(folder: &Folder) -> String {
    let onnx = changed_onnx(|model| {
        model.opset_import[0].version = 17;
        let graph = model.graph.as_mut().unwrap();
        let sized = |name: &str, dims: &[i64]| {
            let mut info = graph.input[0].clone();
            info.name = name.to_owned();
            let Some(Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
                panic!("the input is a tensor")
            };
            tensor.elem_type = 1;
            let dim =
                |&value: &i64| Dimension { value: Some(dimension::Value::DimValue(value)), ..Dimension::default() };
            tensor.shape.as_mut().unwrap().dim = dims.iter().map(dim).collect();
            info
        };
        let (input, output) = (sized("mfcc", &[1, 98, 40]), sized("logits", &[1, 2]));
        let mut weights = graph.initializer.iter().find(|t| t.data_type == 1).unwrap().clone();
        (weights.name, weights.dims) = ("w".to_owned(), vec![40, 2]);
        let weight = |at: usize| match at {
            0 => 0.05f32,
            1 => -0.05,
            _ => 0.0,
        };
        weights.raw_data = (0..80).flat_map(|at| weight(at).to_le_bytes()).collect();
        let mut bias = weights.clone();
        (bias.name, bias.dims) = ("b".to_owned(), vec![2]);
        bias.raw_data = [5f32, -5.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let node = |op: &str, input: &[&str], output: &str| NodeProto {
            name: op.to_owned(),
            op_type: op.to_owned(),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        let mut mean = node("ReduceMean", &["mfcc"], "mean");
        let attribute =
            |name: &str, kind: i32| AttributeProto { name: name.to_owned(), r#type: kind, ..Default::default() };
        mean.attribute.push(AttributeProto { ints: vec![1], ..attribute("axes", 7) });
        mean.attribute.push(AttributeProto { i: 0, ..attribute("keepdims", 2) });
        let (product, sum) = (node("MatMul", &["mean", "w"], "product"), node("Add", &["product", "b"], "logits"));
        (graph.node, graph.initializer) = (vec![mean, product, sum], vec![weights, bias]);
        (graph.value_info, graph.input, graph.output) = (vec![], vec![input], vec![output]);
    });
    let model = folder.write("sound.onnx", &onnx);
    let values = (0..8 * 98 * 40).map(|at| match at % 40 {
        0 => ((at / 3920) as f32 - 6.0) * 50.0,
        rest => (at * rest % 17) as f32 - 8.0,
    });
    let calib = folder.write("calib.npz", &npz("in_mfcc", &[8, 1, 98, 40], values));
    let labels = folder.write("labels.txt", b"sound\nsilence\n");
    let out = folder.path("sound.sfm");
    let ended = shiftformer(&["convert", &model, "-o", &out, "--calib", &calib, "--labels", &labels]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    out
}

/// A loud chord.
fn chord(rate: u32, count: usize) -> Vec<i16> {
    let tone = |at: usize, hertz: f64| (2.0 * PI * hertz * at as f64 / f64::from(rate)).sin();
    let chord = |at: usize| (1..20).map(|n| tone(at, 190.0 * f64::from(n))).sum::<f64>();
    (0..count).map(|at| (chord(at) * 1500.0) as i16).collect()
}

fn wav(folder: &Folder, name: &str, rate: u32, channels: u16, samples: &[i16]) -> String {
    let spec = WavSpec { channels, sample_rate: rate, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let path = folder.path(name);
    let mut writer = WavWriter::create(&path, spec).unwrap();
    samples.iter().flat_map(|&x| std::iter::repeat_n(x, channels.into())).for_each(|x| writer.write_sample(x).unwrap());
    writer.finalize().unwrap();
    path
}

#[test]
fn sound_of_any_rate_length_and_number_of_channels() {
    let folder = Folder::new();
    let model = sound_model(&folder);
    let run = |path: &str| shiftformer(&["run", &model, "--audio", path, "--json"]);
    let exact = run(&wav(&folder, "exact.wav", 16_000, 1, &chord(16_000, SAMPLES)));
    assert_eq!((exact.json()["top"][0]["name"].as_str(), exact.stderr.as_str()), (Some("sound"), ""));
    let silent = run(&wav(&folder, "silent.wav", 16_000, 1, &vec![0; SAMPLES]));
    assert_eq!(silent.json()["top"][0]["name"], "silence");
    for (name, rate, channels, count, note) in [
        ("long.wav", 16_000, 1, 2 * SAMPLES, "the first 1.00 of 2.00 s"),
        ("stereo.wav", 16_000, 2, SAMPLES, "the mean of 2 channels"),
        ("cd.wav", 44_100, 1, 44_100, "from 44100 to 16000 samples per second"),
        ("short.wav", 16_000, 1, SAMPLES * 9 / 10, "silence follows"),
    ] {
        let shown = run(&wav(&folder, name, rate, channels, &chord(rate, count)));
        assert_eq!(shown.json()["top"][0]["name"], "sound", "{name}");
        assert!(shown.stderr.contains(note), "{name}: {}", shown.stderr);
    }
    let whole = std::fs::read(folder.path("exact.wav")).unwrap();
    run(&folder.write("cut.wav", &whole[..1000])).is_refused(&["cut.wav", "whole WAV"]);
    run(&folder.write("text.wav", b"no sound")).is_refused(&["text.wav", "whole WAV"]);
    run(&wav(&folder, "empty.wav", 16_000, 1, &[])).is_refused(&["empty.wav", "no sound"]);
    run(&wav(&folder, "slow.wav", 1_000, 1, &chord(1_000, 1_000))).is_refused(&["slow.wav", "1000 samples per second"]);
    shiftformer(&["run", &model, "--image", &folder.path("exact.wav")]).is_refused(&["real numbers", "--mean"]);
}

#[test]
fn a_stream_is_heard_as_it_comes_and_may_end_anywhere() {
    let folder = Folder::new();
    let model = sound_model(&folder);
    let mut samples = vec![0; 20_000];
    samples.extend(chord(16_000, 40_000));
    let mut bytes: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    let listen = |bytes: &[u8], more: &[&str]| shiftformer_with_input(&[&["listen", &model], more].concat(), bytes);
    let heard = listen(&bytes, &["--threshold", "0.5"]);
    assert_eq!(heard.code, Some(0), "{}", heard.stderr);
    let names: Vec<&str> = heard.stdout.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(names, ["silence", "sound"], "{}", heard.stdout);
    let all = listen(&bytes, &["--all", "--json", "--every", "0.5"]);
    let lines: Vec<serde_json::Value> = all.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The first after 98 frames, then every 50 of the 373 there are.
    assert_eq!(lines.len(), 1 + (373 - 98) / 50, "{}", all.stdout);
    assert_eq!((&lines[0]["seconds"], &lines[0]["name"]), (&1.0.into(), &"silence".into()));
    bytes.push(1);
    let odd = listen(&bytes, &[]);
    assert!(odd.code == Some(0) && odd.stderr.contains("in the middle of a sample"), "{}", odd.stderr);
    listen(&bytes[..SAMPLES], &[]).is_refused(&["ended after 0.50 s", "needs 1.00 s"]);
    listen(&[], &[]).is_refused(&["ended after 0.00 s"]);
    listen(b"RIFF....", &[]).is_refused(&["WAV file", "--audio"]);
    listen(&bytes, &["--every", "0"]).is_refused(&["--every"]);
    listen(&bytes, &["--threshold", "2"]).is_refused(&["--threshold"]);
    shiftformer_with_input(&["listen", &digits_arg()], &bytes).is_refused(&["the model takes `image`"]);
}

#[test]
fn the_bundled_keyword_spotter_hears_voices_that_it_does_not_know() {
    let bundled = |name: &str| format!("{}/../../models/kws/{name}", env!("CARGO_MANIFEST_DIR"));
    let wav = std::fs::read(bundled("eval.wav")).unwrap();
    let labels = std::fs::read_to_string(bundled("eval.txt")).unwrap();
    // Behind the header; frames of a second share none with the next one.
    let args = ["listen", &bundled("kws.sfm"), "--all", "--json", "--every", "1"];
    let heard = shiftformer_with_input(&args, &wav[44..]);
    let names: Vec<String> = heard
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|answer| answer["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), labels.lines().count());
    let right = names.iter().zip(labels.lines()).filter(|(name, label)| name == label).count();
    assert!(right + 2 >= names.len(), "{right} of {}: {names:?}", names.len());
}
