//! `shiftformer pack` and `shiftformer unpack`.

use super::failure::{Failure, Verdict};
use super::output;
use serde::Serialize;
use shiftformer_lab::text;
use shiftformer_transport::{Decoder, Header, TransportError};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct PackArgs {
    /// The model, or any file.
    file: PathBuf,
    /// The model in its transport form.
    #[arg(short, long)]
    output: PathBuf,
    /// The model that the device has: only what changes is packed.
    #[arg(long, value_name = "OLD.sfm")]
    base: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct UnpackArgs {
    /// What `pack` has written.
    file: PathBuf,
    /// The model.
    #[arg(short, long)]
    output: PathBuf,
    /// The model that it is a change to.
    #[arg(long, value_name = "OLD.sfm")]
    base: Option<PathBuf>,
}

#[derive(Serialize)]
struct Packed {
    file: String,
    bytes: usize,
    packed_bytes: usize,
    ratio: f64,
    base: Option<String>,
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::Read { path: path.to_owned(), source })
}

fn read_base(path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, Failure> {
    path.map(|path| read(path)).transpose()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|source| Failure::Write { path: path.to_owned(), source })
}

/// Packs a model, and writes it where it comes back as it was.
pub fn pack(args: &PackArgs) -> Result<Verdict, Failure> {
    let fail = |source| Failure::Transport { path: args.file.clone(), source };
    let (model, base) = (read(&args.file)?, read_base(args.base.as_ref())?);
    let packed = shiftformer_transport::pack(&model, base.as_deref()).map_err(fail)?;
    if decoded(&packed, base.as_deref()).map_err(fail)? != model {
        return Err(fail(TransportError::Damaged));
    }
    write(&args.output, &packed)?;
    let result = Packed {
        file: args.output.display().to_string(),
        bytes: model.len(),
        packed_bytes: packed.len(),
        ratio: packed.len() as f64 / model.len().max(1) as f64,
        base: args.base.as_ref().map(|base| base.display().to_string()),
    };
    if args.json {
        output::json(&result)?;
    } else {
        output::print(&format!(
            "{}: {} of {}, {:.1} %\n",
            result.file,
            text::bytes(result.packed_bytes as f64),
            text::bytes(result.bytes as f64),
            100.0 * result.ratio
        ));
    }
    Ok(Verdict::Passed)
}

/// Unpacks a model.
pub fn unpack(args: &UnpackArgs) -> Result<Verdict, Failure> {
    let fail = |source| Failure::Transport { path: args.file.clone(), source };
    let (packed, base) = (read(&args.file)?, read_base(args.base.as_ref())?);
    let header = Header::decode(&packed).map_err(fail)?;
    if base.is_none() && header.base_bytes > 0 {
        return Err(Failure::Usage(format!(
            "{} is a change to a model of {} bytes with the checksum {:08x}; give that model with --base",
            args.file.display(),
            header.base_bytes,
            header.base_crc
        )));
    }
    let model = decoded(&packed, base.as_deref()).map_err(fail)?;
    write(&args.output, &model)?;
    Ok(Verdict::Passed)
}

fn decoded(packed: &[u8], base: Option<&[u8]>) -> Result<Vec<u8>, TransportError> {
    let (mut decoder, mut rest) = (Decoder::new(base.unwrap_or(&[])), packed);
    let (mut model, mut out) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let moved = decoder.push(rest, &mut out)?;
        model.extend_from_slice(&out[..moved.written]);
        rest = &rest[moved.read..];
        if rest.is_empty() && moved.written < out.len() {
            break;
        }
    }
    decoder.finish().map(|()| model)
}
