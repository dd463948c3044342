//! The judge: equal bytes are reported as equal, and a single wrong bit is found, named and saved.

use crate::harness::{Folder, bundled, digits_arg, shiftformer};

#[test]
fn portable_and_native_kernels_agree() {
    let data = bundled("eval.npz");
    let shown = shiftformer(&[
        "parity",
        &digits_arg(),
        "--data",
        &data,
        "--backends",
        "portable,native",
        "--limit",
        "16",
        "--json",
    ])
    .json();
    assert_eq!((shown["equal"].as_bool(), shown["samples"].as_u64()), (Some(true), Some(16)));
}

#[test]
fn one_flipped_weight_bit_is_found_and_named() {
    let folder = Folder::new();
    let (model, data, stem) = (digits_arg(), bundled("eval.npz"), folder.path("found"));
    let (mut found, mut sums) = (0, 0);
    for offset in ["400", "9000", "20000", "33000"] {
        let backends = format!("portable,portable@corrupt-weight:{offset}");
        let args =
            ["parity", &model, "--data", &data, "--backends", &backends, "--limit", "8", "--save", &stem, "--json"];
        let ended = shiftformer(&args);
        let shown: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        if shown["equal"] == true {
            // A bit of padding, or of a bias too small to matter.
            assert_eq!(ended.code, Some(0));
            continue;
        }
        found += 1;
        assert_eq!(ended.code, Some(1));
        let difference = &shown["differences"][0];
        assert_ne!(difference["reference_value"], difference["value"]);
        assert!(difference["name"].as_str().unwrap().starts_with('/'), "{difference}");
        // A bit of a multiplier leaves the sum as it is.
        let read = difference["accumulator"].is_i64();
        sums += u32::from(read && difference["reference_accumulator"] != difference["accumulator"]);
        // The reproducer is a model of its own that shows the same difference, by the command that is printed with it.
        let (small, samples) = (folder.path("found.sfm"), folder.path("found.npz"));
        let command = shown["reproducer"]["command"].as_str().unwrap();
        let mut again: Vec<&str> = command.split(' ').skip(1).collect();
        let elsewhere = folder.path("again");
        again.extend(["--save", &elsewhere, "--json"]);
        let again = shiftformer(&again);
        assert_eq!(again.code, Some(1), "{}", again.stderr);
        let again: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
        for key in ["element", "reference_value", "value", "reference_accumulator", "accumulator"] {
            assert_eq!(again["differences"][0][key], difference[key], "{key} at {offset}");
        }
        let clean = shiftformer(&["parity", &small, "--data", &samples, "--backends", "portable,native"]);
        assert_eq!(clean.code, Some(0), "{}", clean.stderr);
    }
    assert!(found >= 2 && sums >= 1, "only {found} of the flipped bits had an effect, {sums} of them on a sum");
}

#[test]
fn repeated_samples_are_counted_compared_and_timed() {
    let data = bundled("eval.npz");
    let digits = digits_arg();
    // More samples than are held at a time.
    let args = ["parity", &digits, "--data", &data, "--backends", "native,native", "--limit", "5", "--repeat", "8195"];
    let shown = shiftformer(&args);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("x 8195 samples on native, native"), "{}", shown.stdout);
    assert!(shown.stdout.contains("native bounds the comparison"), "{}", shown.stdout);

    let backends = "native,portable@corrupt-weight:9000";
    let folder = Folder::new();
    let stem = folder.path("found");
    let args = ["parity", &digits, "--data", &data, "--backends", backends, "--limit", "2", "--save", &stem, "--json"];
    let once = shiftformer(&args);
    let once: serde_json::Value = serde_json::from_str(&once.stdout).unwrap();
    let repeated: Vec<&str> = args.iter().copied().chain(["--repeat", "10"]).collect();
    let repeated = shiftformer(&repeated);
    assert_eq!(repeated.code, Some(1), "{}", repeated.stderr);
    let repeated: serde_json::Value = serde_json::from_str(&repeated.stdout).unwrap();
    let [once, five_times] = [&once, &repeated].map(|shown| &shown["differences"][0]);
    assert_eq!((&once["op"], &once["sample"]), (&five_times["op"], &five_times["sample"]));
    assert_eq!(once["samples_that_differ"].as_u64().map(|n| 5 * n), five_times["samples_that_differ"].as_u64());
}
