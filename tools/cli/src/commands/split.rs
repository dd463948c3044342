//! `shiftformer split`.

use super::failure::{Failure, Verdict};
use super::output;
use serde::Serialize;
use shiftformer::kernels::Portable;
use shiftformer::{AlignedBytes, Model, Session};
use shiftformer_convert::model_file::segments::segments;
use shiftformer_convert::model_file::{ModelFile, ModelFileError};
use shiftformer_lab::text;
use shiftformer_stream::{Reference, image};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// What goes into the flash.
    #[arg(short, long, value_name = "OUT.sfi")]
    output: PathBuf,
    /// RAM that one of the two buffers may take: bytes, or `64K`.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    buffer: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Split {
    file: String,
    bytes: usize,
    segments: usize,
    segment_bytes: usize,
    buffer_bytes: usize,
    arena_bytes: usize,
    ram_bytes: usize,
    model_bytes: usize,
    references: usize,
}

/// Bytes from `4096`, `64K` or `1M`.
fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|count| count.checked_mul(unit));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| format!("`{text}` is no size; write bytes, or `64K`, or `1M`"))
}

/// Cuts a model into segments, checks that they give the outputs of the whole, and writes the image.
pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let fail = |problem: String| Failure::Usage(format!("{}: {problem}", args.file.display()));
    let file = ModelFile::read(&args.file).map_err(unreadable)?;
    let model = opened(&file)?;
    let segments = segments(&file, args.buffer).map_err(|e| fail(e.to_string()))?;
    let references = references(&file)?;
    for reference in &references {
        if chained(&segments, model.arena_bytes(), reference)? != reference.outputs {
            return Err(fail("the segments do not give the outputs of the model; please report this".to_owned()));
        }
    }
    let image = image(&segments, model.arena_bytes(), &references).map_err(|e| fail(e.to_string()))?;
    std::fs::write(&args.output, &image).map_err(|source| Failure::Write { path: args.output.clone(), source })?;
    let segment_bytes = segments.iter().map(Vec::len).max().unwrap_or(0);
    // A buffer starts at a multiple of 16.
    let buffer_bytes = segment_bytes.next_multiple_of(16);
    let split = Split {
        file: args.output.display().to_string(),
        bytes: image.len(),
        segments: segments.len(),
        segment_bytes,
        buffer_bytes,
        arena_bytes: model.arena_bytes(),
        ram_bytes: 2 * buffer_bytes + model.arena_bytes(),
        model_bytes: model.file_bytes(),
        references: references.len(),
    };
    if args.json {
        output::json(&split)?;
    } else {
        output::print(&shown(&split, &args.file));
    }
    Ok(Verdict::Passed)
}

fn unreadable(error: ModelFileError) -> Failure {
    Failure::Usage(error.to_string())
}

fn opened(file: &ModelFile) -> Result<Model<'_, Portable>, Failure> {
    file.open().map_err(|error| unreadable(error.into()))
}

fn shown(split: &Split, model: &Path) -> String {
    let bytes = |count: usize| text::bytes(count as f64);
    format!(
        "{}: {} in the flash, {} segments of up to {}\nRAM: two buffers of {} and an arena of {}, {} in all; {} itself has {}\n",
        split.file,
        bytes(split.bytes),
        split.segments,
        bytes(split.segment_bytes),
        bytes(split.buffer_bytes),
        bytes(split.arena_bytes),
        bytes(split.ram_bytes),
        model.display(),
        bytes(split.model_bytes),
    )
}

/// The reference runs in the file, with the outputs that the whole model gives.
fn references(file: &ModelFile) -> Result<Vec<Reference>, Failure> {
    let model = opened(file)?;
    let sizes = || (0..model.n_inputs()).filter_map(|input| Some(model.input(input)?.bytes()));
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut references = Vec::new();
    for index in 0..model.receipts().len() {
        let Some(receipt) = model.receipts().get(index) else { break };
        let mut session = Session::new(&model, &mut arena).map_err(|e| Failure::Usage(e.to_string()))?;
        let mut inputs = Vec::new();
        for (input, bytes) in receipt.inputs(sizes()).enumerate() {
            inputs.extend_from_slice(bytes);
            if let Some(memory) = session.input_mut(input) {
                memory.copy_from_slice(bytes);
            }
        }
        session.run().map_err(|e| Failure::Usage(e.to_string()))?;
        let outputs = (0..model.n_outputs()).filter_map(|output| session.output(output).map(<[u8]>::to_vec));
        references.push(Reference { inputs, outputs: outputs.collect() });
    }
    Ok(references)
}

/// The outputs of the segments, one after the other over one arena.
fn chained(segments: &[Vec<u8>], arena_bytes: usize, reference: &Reference) -> Result<Vec<Vec<u8>>, Failure> {
    let mut arena = AlignedBytes::zeroed(arena_bytes);
    let mut outputs = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let file = ModelFile::from_bytes(segment).map_err(unreadable)?;
        let model = opened(&file)?;
        let mut session = Session::new(&model, &mut arena).map_err(|e| Failure::Usage(e.to_string()))?;
        let mut rest = reference.inputs.as_slice();
        for input in (0..model.n_inputs()).take_while(|_| index == 0) {
            let Some(memory) = session.input_mut(input) else { continue };
            let Some((bytes, after)) = rest.split_at_checked(memory.len()) else { continue };
            memory.copy_from_slice(bytes);
            rest = after;
        }
        session.run().map_err(|e| Failure::Usage(e.to_string()))?;
        outputs = (0..model.n_outputs()).filter_map(|i| session.output(i).map(<[u8]>::to_vec)).collect();
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64K"), Ok(65_536));
        assert_eq!(size("1m"), Ok(1 << 20));
        for wrong in ["", "K", "0", "-1", "99999999999999999999", "1G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
