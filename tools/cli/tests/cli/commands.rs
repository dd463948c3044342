//! The stable interface: commands, keys, exit codes.

#[cfg(target_os = "linux")]
use crate::harness::shiftformer_without_gpu;
use crate::harness::{Folder, bundled, digits_arg, shiftformer};
use serde_json::Value;

fn has_keys(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object.get(key).is_some(), "`{key}` is missing in {object}");
    }
}

#[test]
fn inspect_states_sizes_operators_and_bounds() {
    let shown = shiftformer(&["inspect", &digits_arg(), "--json"]).json();
    has_keys(
        &shown,
        &["format_version", "params", "weight_bytes", "file_bytes", "arena_bytes", "arena_lower_bound_bytes"],
    );
    has_keys(&shown, &["macs", "inputs", "outputs", "ops"]);
    let ops = shown["ops"].as_array().unwrap();
    ops.iter().for_each(|op| has_keys(op, &["name", "kind", "macs", "in", "out", "acc_bits"]));
    let macs: u64 = ops.iter().map(|op| op["macs"].as_u64().unwrap()).sum();
    assert_eq!(Some(macs), shown["macs"].as_u64());
    assert_eq!(shown["params"], 35242);
    assert_eq!(shown["file_bytes"].as_u64(), Some(std::fs::metadata(digits_arg()).unwrap().len()));
    let (arena, bound) = (shown["arena_bytes"].as_f64().unwrap(), shown["arena_lower_bound_bytes"].as_f64().unwrap());
    assert!(bound <= arena && arena <= 1.05 * bound, "{arena} bytes, bound {bound}");
    assert!(ops.iter().all(|op| op["acc_bits"].as_u64().unwrap() <= 32));
}

#[test]
fn a_packed_model_comes_back() {
    let folder = Folder::new();
    let (packed, change, model) = (folder.path("a.sft"), folder.path("b.sft"), folder.path("back.sfm"));
    let bytes = std::fs::read(digits_arg()).unwrap();
    let shown = shiftformer(&["pack", &digits_arg(), "-o", &packed, "--json"]).json();
    has_keys(&shown, &["file", "bytes", "packed_bytes", "ratio", "base"]);
    assert_eq!(shown["bytes"].as_u64(), Some(bytes.len() as u64));
    assert!(shown["ratio"].as_f64().unwrap() < 0.85, "{shown}");
    assert_eq!(shiftformer(&["unpack", &packed, "-o", &model]).code, Some(0));
    assert_eq!(std::fs::read(&model).unwrap(), bytes);
    let shown = shiftformer(&["pack", &digits_arg(), "-o", &change, "--base", &digits_arg(), "--json"]).json();
    assert!(shown["ratio"].as_f64().unwrap() < 0.02, "{shown}");
    let alone = shiftformer(&["unpack", &change, "-o", &model]);
    assert!(alone.code == Some(2) && alone.stderr.contains("--base"), "{}", alone.stderr);
    let other = shiftformer(&["unpack", &change, "-o", &model, "--base", &packed]);
    assert!(other.code == Some(2) && other.stderr.contains("not the one given"), "{}", other.stderr);
    let none = shiftformer(&["unpack", &digits_arg(), "-o", &model]);
    assert!(none.code == Some(2) && none.stderr.contains("shiftformer pack"), "{}", none.stderr);
    assert_eq!(shiftformer(&["unpack", &change, "-o", &model, "--base", &digits_arg()]).code, Some(0));
}

#[test]
fn a_model_is_split_into_segments() {
    let folder = Folder::new();
    let image = folder.path("digits.sfi");
    let shown = shiftformer(&["split", &digits_arg(), "--buffer", "8K", "-o", &image, "--json"]).json();
    let keys =
        ["file", "bytes", "segments", "segment_bytes", "buffer_bytes", "arena_bytes", "ram_bytes", "model_bytes"];
    has_keys(&shown, &keys);
    let number = |key: &str| shown[key].as_u64().unwrap();
    assert_eq!(std::fs::metadata(&image).unwrap().len(), number("bytes"));
    assert!(number("segments") >= 6 && number("segment_bytes") <= 8192, "{shown}");
    assert_eq!(number("ram_bytes"), 2 * number("buffer_bytes") + number("arena_bytes"));
    assert_eq!(number("references"), 2);
    let small = shiftformer(&["split", &digits_arg(), "--buffer", "1K", "-o", &image]);
    assert!(small.code == Some(2) && small.stderr.contains("make the buffer larger"), "{}", small.stderr);
    let none = shiftformer(&["split", &digits_arg(), "--buffer", "8Q", "-o", &image]);
    assert!(none.code == Some(2) && none.stderr.contains("64K"), "{}", none.stderr);
    let decoder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/arithmetic/arithmetic.sfm");
    let decoder = shiftformer(&["split", decoder, "--buffer", "64K", "-o", &image]);
    assert!(decoder.code == Some(2) && decoder.stderr.contains("decoder"), "{}", decoder.stderr);
}

#[test]
fn a_device_that_is_not_there_is_an_error_of_one_line() {
    assert_eq!(shiftformer(&["device", "list"]).code, Some(0));
    let nowhere = Folder::new().path("socket");
    for command in [
        vec!["device", "info", &nowhere],
        vec!["device", "upload", &nowhere, &digits_arg()],
        vec!["device", "bench", &nowhere, &digits_arg()],
        vec!["device", "monitor", &nowhere],
        vec!["device", "run", &nowhere, &digits_arg(), "--data", &bundled("eval.npz")],
        vec!["run", &digits_arg(), "--data", &bundled("eval.npz"), "--backend", &format!("serial:{nowhere}")],
    ] {
        let asked = shiftformer(&command);
        let one_line = asked.stderr.trim_end().lines().count() == 1;
        assert!(asked.code == Some(2) && one_line && asked.stderr.contains("socket"), "{command:?}: {}", asked.stderr);
    }
    let run = ["device", "run", &nowhere, &digits_arg(), "--data", &bundled("eval.npz"), "--backend", "native"];
    let twice = shiftformer(&run);
    assert!(twice.code == Some(2) && twice.stderr.contains("leave --backend out"), "{}", twice.stderr);
    let bench = shiftformer(&["bench", &digits_arg(), "--backend", "serial:tcp:localhost:1"]);
    assert!(bench.code == Some(2) && bench.stderr.contains("shiftformer device bench"), "{}", bench.stderr);
}

#[test]
fn eval_reaches_the_float_accuracy() {
    let shown = shiftformer(&["eval", &digits_arg(), "--data", &bundled("eval.npz"), "--json"]).json();
    has_keys(&shown, &["samples", "accuracy", "float_accuracy", "agreement", "sqnr_db", "cosine"]);
    assert_eq!(shown["samples"], 360);
    assert!(shown["accuracy"].as_f64() >= shown["float_accuracy"].as_f64());
    assert!(shown["sqnr_db"].as_f64().unwrap() > 34.0, "{shown}");
}

/// A model that brings its scales needs no data to be converted: what its pixels are is first seen here.
#[test]
fn eval_says_so_where_raw_pixels_are_clipped() {
    let (folder, onnx, data) = (Folder::new(), bundled("digits-vit-qdq.onnx"), bundled("digits-vit-qdq.npz"));
    let evaluated = |options: &[&str]| {
        let model = folder.path("qdq.sfm");
        let converted = shiftformer(&[&["convert", &onnx, "-o", &model], options].concat());
        assert_eq!(converted.code, Some(0), "{}", converted.stderr);
        shiftformer(&["eval", &model, "--data", &data, "--json"])
    };
    let raw = evaluated(&[]);
    assert!(raw.stderr.contains("`image`") && raw.stderr.contains("--mean"), "{}", raw.stderr);
    let normalized = evaluated(&["--mean", "0.3057", "--std", "0.376"]);
    assert!(!normalized.stderr.contains("--mean"), "{}", normalized.stderr);
    assert!(normalized.json()["sqnr_db"].as_f64().unwrap() > 30.0);
}

#[test]
fn the_onnx_model_and_the_stored_outputs_are_the_same_reference() {
    let (model, data, onnx) = (digits_arg(), bundled("eval.npz"), bundled("digits-vit.onnx"));
    let stored = shiftformer(&["eval", &model, "--data", &data, "--limit", "40", "--json"]).json();
    let run =
        shiftformer(&["eval", &model, "--data", &data, "--limit", "40", "--float", &onnx, "--per-op", "--json"]).json();
    let difference = stored["sqnr_db"].as_f64().unwrap() - run["sqnr_db"].as_f64().unwrap();
    // The two float implementations differ by 1e-6 of the signal, the integer model by 1e-2.
    assert!(difference.abs() < 0.01, "{difference} dB");
    let worst = run["worst"].as_array().unwrap();
    assert_eq!(worst.len(), 5);
    worst.iter().for_each(|w| has_keys(w, &["op", "name", "sqnr_db", "cause", "remedy"]));
}

#[test]
fn merged_shards_equal_the_whole() {
    let (model, data, folder) = (digits_arg(), bundled("eval.npz"), Folder::new());
    let whole = shiftformer(&["eval", &model, "--data", &data, "--json"]).json();
    let shard = |part: &str| {
        let ended = shiftformer(&["eval", &model, "--data", &data, "--shard", part, "--json"]);
        folder.write(&format!("{}.json", part.replace('/', "of")), ended.stdout.as_bytes())
    };
    let parts: Vec<String> = ["3/3", "1/3", "2/3"].map(shard).to_vec();
    let merged = shiftformer(&["merge", &parts[0], &parts[1], &parts[2], "--json"]).json();
    for key in ["samples", "accuracy", "float_accuracy", "agreement", "sqnr_db", "cosine"] {
        assert_eq!(merged[key], whole[key], "{key}");
    }
    shiftformer(&["merge", &parts[0], &parts[0]]).is_refused(&["repeats a shard"]);
}

#[test]
fn run_shows_the_class() {
    let shown =
        shiftformer(&["run", &digits_arg(), "--data", &bundled("eval.npz"), "--index", "3", "--top", "2", "--json"])
            .json();
    assert_eq!(shown["top"][0]["class"], shown["label"]);
    assert_eq!(shown["top"].as_array().unwrap().len(), 2);
    assert_eq!(shown["outputs"][0]["values"].as_array().unwrap().len(), 10);
}

#[test]
fn bench_times_every_operator() {
    let shown = shiftformer(&["bench", &digits_arg(), "--backend", "portable", "--json"]).json();
    has_keys(&shown, &["backend", "median_ms", "samples_per_s", "ops"]);
    assert!(shown["median_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(shown["one_sample"]["threads"], 1);
    let ops = shown["ops"].as_array().unwrap();
    ops.iter().for_each(|op| has_keys(op, &["name", "kind", "macs", "median_us"]));
}

#[test]
fn bench_times_one_sample_on_several_threads() {
    let shown = shiftformer(&["bench", &digits_arg(), "--threads", "2", "--json"]).json();
    let one = &shown["one_sample"];
    assert_eq!((&shown["threads"], &one["threads"], &one["clock"]), (&2.into(), &2.into(), &"wall time".into()));
    assert!(shown["samples_per_s"].as_f64().unwrap() > 0.0 && one["median_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn results_do_not_depend_on_threads() {
    let (model, data) = (digits_arg(), bundled("eval.npz"));
    let with = |command: &[&str], threads: &str| {
        let args = [command, &[&model, "--data", &data, "--threads", threads, "--json"]].concat();
        shiftformer(&args).json()
    };
    for command in [&["run", "--backend", "native", "--index", "7"][..], &["eval", "--limit", "5"]] {
        let one = with(command, "1");
        assert_eq!(with(command, "3"), one);
        assert_eq!(with(command, "8"), one);
    }
    let parity = with(&["parity", "--backends", "portable,native", "--limit", "3"], "4");
    assert_eq!(parity["equal"], true);
}

/// Whether the tests that need a GPU are left out.
fn without_gpu() -> bool {
    let left_out = std::env::var("SHIFTFORMER_NO_GPU").is_ok_and(|v| v == "1");
    if left_out {
        eprintln!("SKIPPED: SHIFTFORMER_NO_GPU=1");
    }
    left_out
}

#[test]
fn accuracy_on_a_gpu_is_that_of_the_cpu() {
    if without_gpu() {
        return;
    }
    let eval = |backend: &str| {
        let mut shown =
            shiftformer(&["eval", &digits_arg(), "--data", &bundled("eval.npz"), "--backend", backend, "--json"])
                .json();
        assert_eq!(shown.as_object_mut().unwrap().remove("backend"), Some(Value::from(backend)));
        shown
    };
    assert_eq!(eval("gpu"), eval("portable"));
}

#[test]
fn bench_on_a_gpu_states_throughput_and_adapter() {
    if without_gpu() {
        return;
    }
    let shown = shiftformer(&["bench", &digits_arg(), "--backend", "gpu", "--batch", "8", "--json"]).json();
    has_keys(&shown, &["adapter", "batch", "runs", "median_ms", "macs"]);
    assert_eq!(shown["batch"], 8);
    assert!(!shown["adapter"].as_str().unwrap().is_empty());
    for key in ["samples_per_s", "streamed_samples_per_s", "integer_tops"] {
        assert!(shown[key].as_f64().unwrap() > 0.0, "{shown}");
    }
}

/// No command runs something else where the machine has no adapter. Elsewhere drivers cannot be hidden.
#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_adapters_is_told_so() {
    let refused = |args: &[&str]| {
        let ended = shiftformer_without_gpu(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("adapter found"), "{}", ended.stderr);
    };
    let (digits, data) = (digits_arg(), bundled("eval.npz"));
    refused(&["adapters"]);
    refused(&["bench", &digits, "--backend", "gpu"]);
    refused(&["eval", &digits, "--data", &data, "--backend", "gpu"]);
    refused(&["parity", &digits, "--data", &data, "--backends", "portable,gpu"]);
}

#[test]
fn fit_says_what_is_missing() {
    let shown = shiftformer(&["fit", &digits_arg(), "--json"]).json();
    let boards = shown["boards"].as_array().unwrap();
    assert!(boards.len() >= 12);
    boards.iter().for_each(|b| {
        has_keys(b, &["key", "name", "core", "clock_mhz", "flash_kib", "ram_kib", "source", "fits", "latency_ms"])
    });
    assert_eq!(shiftformer(&["fit", &digits_arg(), "--board", "microbit"]).code, Some(0));
}

#[test]
fn the_report_stands_alone() {
    let folder = Folder::new();
    let (model, calib) = (bundled("digits-vit.onnx"), bundled("calib.npz"));
    let (out, report) = (folder.path("m.sfm"), folder.path("m.html"));
    let args = [
        "convert", &model, "-o", &out, "--calib", &calib, "--mean", "0.3057", "--std", "0.376", "--report", &report,
        "--json",
    ];
    let shown = shiftformer(&args).json();
    has_keys(&shown, &["file", "sqnr_db", "arena_bytes", "file_bytes", "notes"]);
    let page = std::fs::read_to_string(&report).unwrap();
    for part in
        ["Accuracy along the depth", "Memory over time", "Boards", "overflow certificate", "Activations", "Weights"]
    {
        assert!(page.contains(part), "{part}");
    }
    for reference in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert_eq!(folder.files(), ["m.html", "m.sfm"]);
}

#[test]
fn a_stripped_model_computes_the_same() {
    let folder = Folder::new();
    let (model, calib) = (bundled("digits-vit.onnx"), bundled("calib.npz"));
    let convert = |name: &str, more: &[&str]| {
        let out = folder.path(name);
        let base = [
            "convert",
            &model,
            "-o",
            &out,
            "--calib",
            &calib,
            "--mean",
            "0.3057",
            "--std",
            "0.376",
            "--range",
            "mse",
            "--equalize",
            "off",
        ];
        assert_eq!(shiftformer(&[&base[..], more].concat()).code, Some(0));
        out
    };
    let (whole, stripped) = (convert("whole.sfm", &[]), convert("stripped.sfm", &["--strip"]));
    let shown = |path: &str| shiftformer(&["inspect", path, "--json"]).json();
    let (bytes, promised) = (shown(&stripped)["file_bytes"].as_u64(), shown(&whole)["flash_bytes"].as_u64());
    // An entry of the section table and its padding go too.
    assert!(bytes <= promised && bytes >= promised.map(|p| p - 32), "{bytes:?} bytes, {promised:?} promised");
    assert_eq!(shown(&stripped)["macs"], shown(&whole)["macs"]);
}

#[test]
fn demo_passes_in_time() {
    let started = std::time::Instant::now();
    let ended = shiftformer(&["demo"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(started.elapsed().as_secs() < 20 || cfg!(debug_assertions), "{:?}", started.elapsed());
    for part in ["accuracy", "all bytes equal", "BBC micro:bit v1", "-> "] {
        assert!(ended.stdout.contains(part), "{part}");
    }
}

#[test]
fn help_is_no_error() {
    for args in [&["--help"][..], &["--version"], &["convert", "--help"]] {
        let ended = shiftformer(args);
        assert!(ended.code == Some(0) && ended.stderr.is_empty() && !ended.stdout.is_empty());
    }
}

/// What the importer made of the file is compared with tract's reading of it.
#[cfg(feature = "tract")]
#[test]
fn convert_compares_the_float_model_with_tract() {
    let (folder, calib) = (Folder::new(), bundled("calib.npz"));
    let out = folder.path("digits.sfm");
    let convert = |onnx: &str| {
        let args = ["convert", onnx, "-o", &out, "--calib", &calib, "--mean", "0.3057", "--std", "0.376", "--json"];
        shiftformer(&args).json()
    };
    let shown = convert(&bundled("digits-vit.onnx"));
    assert!(shown["tract"]["tensors"].as_u64() > Some(50), "{}", shown["tract"]);
    assert_eq!((&shown["tract"]["difference"], &shown["tract"]["skipped"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["warnings"], serde_json::json!([]));
}
