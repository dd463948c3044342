//! Segments from a flash give the outputs of the whole model, and nothing that is damaged gives any.

use embassy_futures::{block_on, yield_now};
use embedded_storage_async::nor_flash::{ErrorType, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use shiftformer::arith::digest::digest;
use shiftformer::kernels::{Native, Portable};
use shiftformer::ops::OpTable;
use shiftformer::{AlignedBytes, Model, Session};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_convert::model_file::segments::{SegmentError, segments};
use shiftformer_stream::{ImageError, Memory, Reference, StreamError, Streamed, image};
use std::fs;
use std::path::Path;

/// Where the image starts in the flash.
const START: usize = 4096;

/// A flash in memory, which takes its time.
struct Flash(Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beyond;

impl NorFlashError for Beyond {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::OutOfBounds
    }
}

impl ErrorType for Flash {
    type Error = Beyond;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Beyond> {
        let first = offset as usize;
        for (chunk, part) in bytes.chunks_mut(256).enumerate() {
            yield_now().await;
            let from = first.checked_add(256 * chunk).ok_or(Beyond)?;
            part.copy_from_slice(self.0.get(from..from.checked_add(part.len()).ok_or(Beyond)?).ok_or(Beyond)?);
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }
}

/// Models of the repository.
fn models() -> Vec<(String, ModelFile)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths = vec![root.join("models/kws/kws.sfm")];
    for entry in fs::read_dir(root.join("fuzz/corpus/reader")).expect("the corpus is there") {
        paths.push(entry.expect("an entry").path());
    }
    paths.sort();
    // The corpus has files that are no models, too.
    paths
        .iter()
        .filter_map(|path| Some((path.file_name()?.to_string_lossy().into_owned(), ModelFile::read(path).ok()?)))
        .collect()
}

/// Inputs of one run, each with its bytes, and the outputs of the whole model.
fn reference(model: &Model<'_, Portable>, seed: u32) -> Option<Reference> {
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut session = Session::new(model, &mut arena).expect("as large as the model asks");
    let mut inputs = Vec::new();
    let mut state = seed;
    for input in 0..model.n_inputs() {
        let memory = session.input_mut(input).expect("an input");
        for byte in memory.iter_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        inputs.extend_from_slice(memory);
    }
    // Token ids at random are out of range.
    session.run().ok()?;
    let outputs = (0..model.n_outputs()).map(|output| session.output(output).expect("an output").to_vec());
    Some(Reference { inputs, outputs: outputs.collect() })
}

fn in_flash(image: &[u8]) -> Flash {
    let mut bytes = vec![0xff; START];
    bytes.extend_from_slice(image);
    Flash(bytes)
}

/// The outputs that segments in a flash give.
fn run(flash: Flash, reference: &Reference) -> Result<Vec<Vec<u8>>, StreamError<Beyond>> {
    block_on(async {
        let mut model = Streamed::open(flash, START as u32).await?;
        let header = *model.header();
        // A damaged header has passed its checksum: sizes are what the writer meant.
        let mut buffers = [(); 2].map(|()| AlignedBytes::zeroed(header.segment_bytes as usize));
        let mut arena = AlignedBytes::zeroed(header.arena_bytes as usize);
        arena.fill(0xa5);
        let mut outputs = [Vec::new(), Vec::new()];
        // The second run finds every segment proven.
        for outputs in &mut outputs {
            let [first, second] = &mut buffers;
            let memory = Memory { buffers: [first, second], arena: &mut arena };
            let mut rest = reference.inputs.as_slice();
            let write = |_: usize, bytes: &mut [u8]| {
                let (input, after) = rest.split_at(bytes.len());
                bytes.copy_from_slice(input);
                rest = after;
            };
            model.run::<Native>(memory, OpTable::ALL, write, |_, bytes: &[u8]| outputs.push(bytes.to_vec())).await?;
        }
        let [once, again] = outputs;
        assert_eq!(once, again);
        Ok(once)
    })
}

#[test]
fn segments_give_the_outputs_of_the_whole_model() {
    let mut most = 0;
    for (name, file) in models() {
        let model = file.open::<Portable>().expect("a model");
        if model.state_bytes() > 0 {
            assert!(matches!(segments(&file, usize::MAX), Err(SegmentError::State)), "{name}");
            continue;
        }
        let Some(expected) = reference(&model, 1) else { continue };
        let whole = segments(&file, usize::MAX).expect("one segment");
        assert_eq!(whole.len(), 1, "{name}");
        let smallest = (1..).map(|i| 512 * i).find(|&buffer| segments(&file, buffer).is_ok()).expect("it can be cut");
        for buffer in [smallest, smallest * 2, usize::MAX] {
            let parts = segments(&file, buffer).expect("it can be cut");
            assert!(parts.iter().all(|part| part.len() <= buffer), "{name}");
            most = most.max(parts.len());
            let image = image(&parts, model.arena_bytes(), std::slice::from_ref(&expected)).expect("an image");
            assert_eq!(
                run(in_flash(&image), &expected).as_ref(),
                Ok(&expected.outputs),
                "{name}, {} segments",
                parts.len()
            );
        }
    }
    assert!(most > 8, "no model was cut into many segments");
}

#[test]
fn the_reference_run_is_in_the_image() {
    let (_, file) = models().into_iter().find(|(name, _)| name == "kws.sfm").expect("it is committed");
    let model = file.open::<Portable>().expect("a model");
    let runs = [1, 2].map(|seed| reference(&model, seed).expect("it runs"));
    let image = image(&segments(&file, 1 << 16).expect("it can be cut"), model.arena_bytes(), &runs).expect("an image");
    block_on(async {
        let mut streamed = Streamed::open(in_flash(&image), START as u32).await.expect("an image");
        let mut inputs = vec![0; streamed.header().input_bytes as usize];
        let mut digests = vec![0; streamed.header().outputs as usize];
        for (index, run) in (0..).zip(&runs) {
            streamed.reference(index, &mut inputs, &mut digests).await.expect("it is there");
            assert_eq!(inputs, run.inputs);
            assert_eq!(digests, run.outputs.iter().map(|output| digest(output)).collect::<Vec<_>>());
        }
        assert_eq!(streamed.reference(2, &mut inputs, &mut digests).await, Err(StreamError::NoReference));
        assert_eq!(streamed.reference(0, &mut inputs[1..], &mut digests).await, Err(StreamError::NoReference));
    });
}

#[test]
fn damage_is_an_error() {
    let (_, file) = models().into_iter().find(|(name, _)| name == "attention.sfm").expect("it is committed");
    let model = file.open::<Portable>().expect("a model");
    let expected = reference(&model, 3).expect("it runs");
    let parts =
        segments(&file, file.bytes().len() / 2).or_else(|_| segments(&file, usize::MAX)).expect("it can be cut");
    let image = image(&parts, model.arena_bytes(), &[]).expect("an image");
    let mut gaps = 0;
    for at in 0..image.len() {
        let mut damaged = image.clone();
        damaged[at] ^= 0x10;
        match run(in_flash(&damaged), &expected) {
            Err(_) => {}
            // Bytes between segments mean nothing.
            Ok(outputs) => {
                assert_eq!(outputs, expected.outputs, "byte {at}");
                gaps += 1;
            }
        }
    }
    assert!(gaps < 16 * parts.len() + 4, "{gaps} bytes are not covered");
    for end in 0..image.len() {
        assert!(run(in_flash(&image[..end]), &expected).is_err(), "cut at {end}");
    }
}

#[test]
fn a_segment_that_changes_after_it_was_proven_is_refused() {
    let (_, file) = models().into_iter().find(|(name, _)| name == "kws.sfm").expect("it is committed");
    let model = file.open::<Portable>().expect("a model");
    let image = image(&segments(&file, usize::MAX).expect("whole"), model.arena_bytes(), &[]).expect("an image");
    let mut buffers = [(); 2].map(|()| AlignedBytes::zeroed(file_bytes(&image) as usize));
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    block_on(async {
        let mut streamed = Streamed::open(in_flash(&image), START as u32).await.expect("an image");
        let mut run = async |streamed: &mut Streamed<Flash>| {
            let [first, second] = &mut buffers;
            let memory = Memory { buffers: [first, second], arena: &mut arena };
            streamed.run::<Portable>(memory, OpTable::ALL, |_, input: &mut [u8]| input.fill(1), |_, _| {}).await
        };
        assert_eq!(run(&mut streamed).await, Ok(()));
        streamed.flash_mut().0[START + image.len() / 2] ^= 1;
        assert_eq!(run(&mut streamed).await, Err(StreamError::Segment { segment: 0 }));
    });
}

#[test]
fn parts_of_two_images_are_refused() {
    let (_, file) = models().into_iter().find(|(name, _)| name == "kws.sfm").expect("it is committed");
    let model = file.open::<Portable>().expect("a model");
    let expected = reference(&model, 4).expect("it runs");
    let smallest = (1..).map(|i| 1024 * i).find(|&buffer| segments(&file, buffer).is_ok()).expect("it can be cut");
    let parts = segments(&file, smallest).expect("it can be cut");
    assert!(parts.len() > 2);
    let right = image(&parts, model.arena_bytes(), &[]).expect("an image");
    // A segment that was left out is seen where the next one takes what is not there.
    let torn: Vec<_> =
        parts.iter().enumerate().filter(|(index, _)| *index != 1).map(|(_, part)| part.clone()).collect();
    let torn = image(&torn, model.arena_bytes(), &[]).expect("an image");
    assert_eq!(run(in_flash(&torn), &expected), Err(StreamError::Seam { segment: 1 }));
    // The header of one image before the table of another.
    let mut mixed = right.clone();
    mixed[..48].copy_from_slice(&torn[..48]);
    assert_eq!(run(in_flash(&mixed), &expected), Err(StreamError::Damaged));
    assert_eq!(
        run(in_flash(b"no image here, and nothing else, and more of it .."), &expected),
        Err(StreamError::NoImage)
    );
}

#[test]
fn memory_that_is_too_small_is_named() {
    let (_, file) = models().into_iter().find(|(name, _)| name == "attention.sfm").expect("it is committed");
    let model = file.open::<Portable>().expect("a model");
    let image = image(&segments(&file, usize::MAX).expect("whole"), model.arena_bytes(), &[]).expect("an image");
    let mut buffers = [(); 2].map(|()| AlignedBytes::zeroed(16));
    let [first, second] = &mut buffers;
    let mut arena = AlignedBytes::zeroed(0);
    let error = block_on(async {
        let mut streamed = Streamed::open(in_flash(&image), START as u32).await.expect("an image");
        let memory = Memory { buffers: [first, second], arena: &mut arena };
        streamed.run::<Portable>(memory, OpTable::ALL, |_, _| {}, |_, _| {}).await
    });
    assert_eq!(error, Err(StreamError::Buffer { needed: file_bytes(&image), given: 16 }));
}

/// The largest segment, by the header of an image.
fn file_bytes(image: &[u8]) -> u32 {
    u32::from_le_bytes(*image[12..].first_chunk().expect("a header"))
}

#[test]
fn what_is_no_model_makes_no_image() {
    assert_eq!(image(&[], 0, &[]), Err(ImageError::Size));
    assert_eq!(image(&[vec![0; 10]], 0, &[]), Err(ImageError::Segment(0)));
    let run = |bytes: usize| Reference { inputs: vec![0; bytes], outputs: Vec::new() };
    assert_eq!(image(&[vec![0; 64]], 0, &[run(1), run(2)]), Err(ImageError::References));
}

#[test]
fn models_of_one_size_have_different_headers() {
    let segment = |byte: u8| [b"SFM\x1a".as_slice(), &[byte; 100]].concat();
    let [one, other] = [1, 2].map(|byte| image(&[segment(byte), segment(byte)], 64, &[]).expect("an image"));
    assert_ne!(one[..48], other[..48]);
}
