//! A session over a caller's arena: what is too small, and running in pieces.

use shiftformer::{Aligned, ArenaError, Progress, Session};
use shiftformer_convert::convert::{ConvertOptions, convert};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::ModelFile;
use std::path::Path;

/// The bundled model that comes quantized: it needs no calibration.
fn digits() -> ModelFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits/digits-vit-qdq.onnx");
    let graph = fuse(import(&path, &ImportOptions::default()).unwrap());
    let converted = convert(&graph, &[], &ConvertOptions::default(), &mut |_| {}).unwrap();
    ModelFile::from_bytes(&converted.file).unwrap()
}

#[test]
fn an_arena_that_is_too_small_says_by_how_many_bytes() {
    let file = digits();
    let model = file.open::<shiftformer::kernels::Portable>().unwrap();
    let needed = model.arena_bytes();
    let mut arena = Aligned([0u8; 64 * 1024]);
    let error = Session::new(&model, &mut arena.0[..needed - 100]).err().unwrap();
    assert_eq!(error, ArenaError::TooSmall { needed, given: needed - 100 });
    assert!(error.to_string().contains("100 bytes too small"), "{error}");
    assert_eq!(Session::new(&model, &mut arena.0[1..]).err(), Some(ArenaError::Misaligned));
    assert!(Session::new(&model, &mut arena.0[..needed]).is_ok());
}

#[test]
fn steps_end_where_a_run_ends_and_a_cancelled_run_starts_anew() {
    let file = digits();
    let model = file.open::<shiftformer::kernels::Portable>().unwrap();
    let mut arena = Aligned([0u8; 64 * 1024]);
    let mut session = Session::new(&model, &mut arena.0).unwrap();
    let image: Vec<u8> = (0..64).map(|i| (i * 3) as u8).collect();
    session.input_mut(0).unwrap().copy_from_slice(&image);
    session.run().unwrap();
    let whole = session.output(0).unwrap().to_vec();
    session.input_mut(0).unwrap().copy_from_slice(&image);
    assert_eq!(session.output(0), None, "inputs were handed out: the memory of the outputs may be theirs");
    for _ in 0..7 {
        assert!(matches!(session.step().unwrap(), Progress::Running { .. }));
        assert_eq!((session.output(0), session.output_as::<i16>(0)), (None, None), "the run has not finished");
    }
    session.cancel();
    session.input_mut(0).unwrap().copy_from_slice(&image);
    let mut steps = 1;
    while session.step().unwrap() != Progress::Done {
        steps += 1;
    }
    assert!(steps > model.n_ops(), "{steps}");
    assert_eq!(session.output(0).unwrap(), whole);
}

#[test]
fn a_million_steps_with_cancels_at_random_end_in_the_outputs_of_whole_runs() {
    let file = digits();
    let model = file.open::<shiftformer::kernels::Native>().unwrap();
    let images: Vec<Vec<u8>> = (0..16).map(|image| (0..64).map(|i| (i * (image + 3)) as u8).collect()).collect();
    let (mut arena, mut other) = (Aligned([0u8; 64 * 1024]), Aligned([0u8; 64 * 1024]));
    let mut whole = Session::new(&model, &mut other.0).unwrap();
    let expected: Vec<Vec<u8>> = images
        .iter()
        .map(|image| {
            whole.input_mut(0).unwrap().copy_from_slice(image);
            whole.run().unwrap();
            whole.output(0).unwrap().to_vec()
        })
        .collect();
    let mut session = Session::new(&model, &mut arena.0).unwrap();
    let (mut numbers, mut image) = (1u32, 0);
    let (mut cancelled, mut finished) = (0, 0);
    session.input_mut(0).unwrap().copy_from_slice(&images[image]);
    for _ in 0..1_000_000 {
        numbers = numbers.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let done = session.step().unwrap() == Progress::Done;
        if done {
            assert_eq!(session.output(0).unwrap(), expected[image], "run {finished}");
            finished += 1;
        }
        let cancel = numbers >> 24 == 0;
        if cancel && !done {
            session.cancel();
            cancelled += 1;
        }
        if done || cancel {
            image = (numbers >> 12) as usize % images.len();
            session.input_mut(0).unwrap().copy_from_slice(&images[image]);
        }
    }
    assert!(cancelled > 1000 && finished > 1000, "{cancelled} cancelled, {finished} finished");
}
