//! Stored tensors: every element type, typed or raw fields, and external data.

use super::error::ImportError;
use crate::graph::{Data, DataType};
use crate::import::onnx::TensorProto;
use crate::import::onnx::tensor_proto::DataLocation;
pub use crate::import::onnx::tensor_proto::DataType as Elem;
use half::{bf16, f16};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

/// Most elements a stored tensor may have.
const MAX_STORED: usize = 1 << 30;

/// The type of the float graph that holds `elem`.
pub fn data_type(elem: Elem) -> Option<DataType> {
    match elem {
        Elem::Float | Elem::Double | Elem::Float16 | Elem::Bfloat16 => Some(DataType::Float),
        Elem::Bool => Some(DataType::Bool),
        Elem::Uint8
        | Elem::Int8
        | Elem::Uint16
        | Elem::Int16
        | Elem::Int32
        | Elem::Int64
        | Elem::Uint32
        | Elem::Uint64 => Some(DataType::Int),
        Elem::Int4 | Elem::Uint4 | Elem::Int2 | Elem::Uint2 => Some(DataType::Int),
        _ => None,
    }
}

/// The element type with ONNX number `number`.
pub fn elem_of(number: i32) -> Option<Elem> {
    Elem::try_from(number).ok().filter(|&elem| data_type(elem).is_some())
}

/// Minimum and maximum value of an integer type of at most 32 bits.
pub fn integer_range(elem: Elem) -> Option<(i32, i32)> {
    Some(match elem {
        Elem::Int4 => (-8, 7),
        Elem::Uint4 => (0, 15),
        Elem::Int2 => (-2, 1),
        Elem::Uint2 => (0, 3),
        Elem::Int8 => (-128, 127),
        Elem::Uint8 => (0, 255),
        Elem::Int16 => (-32768, 32767),
        Elem::Uint16 => (0, 65535),
        Elem::Int32 => (i32::MIN, i32::MAX),
        _ => return None,
    })
}

/// A stored tensor in the float graph's types.
pub struct Stored {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Element type in the file.
    pub elem: Elem,
    /// Values.
    pub data: Data,
}

/// Decodes a stored tensor; external data lies in `folder`.
pub fn decode(proto: &TensorProto, folder: Option<&Path>) -> Result<Stored, ImportError> {
    let fail = |reason: String| ImportError::Tensor { name: proto.name.clone(), reason };
    let elem = elem_of(proto.data_type).ok_or_else(|| {
        let name = Elem::try_from(proto.data_type).map_or("unknown", |e| e.as_str_name());
        fail(format!("elements of type {name} are not supported; store floats, integers or booleans"))
    })?;
    if proto.segment.is_some() {
        return Err(fail("segmented tensors are not supported; store it whole".into()));
    }
    let shape = dims(&proto.dims).map_err(&fail)?;
    let count: usize = shape.iter().product();
    let external = proto.data_location == DataLocation::External as i32;
    let loaded =
        if external { Some(external_bytes(proto, folder, byte_length(elem, count)).map_err(&fail)?) } else { None };
    let raw = loaded.as_deref().unwrap_or(&proto.raw_data);
    let data = if external || !raw.is_empty() { from_raw(elem, raw, count) } else { from_fields(elem, proto, count) };
    let data = data.map_err(&fail)?;
    if data.len() != count {
        return Err(fail(format!("{} elements are stored, its shape {shape:?} has {count}", data.len())));
    }
    Ok(Stored { shape, elem, data })
}

/// Dimensions as sizes whose product fits.
pub fn dims(dims: &[i64]) -> Result<Vec<usize>, String> {
    let mut product = 1usize;
    let mut shape = Vec::with_capacity(dims.len());
    for &dim in dims {
        let size = usize::try_from(dim).map_err(|_| format!("dimension {dim} is negative"))?;
        product = product
            .checked_mul(size)
            .filter(|&p| p <= MAX_STORED)
            .ok_or_else(|| format!("its shape {dims:?} is too large"))?;
        shape.push(size);
    }
    Ok(shape)
}

fn byte_length(elem: Elem, count: usize) -> usize {
    match elem {
        Elem::Int4 | Elem::Uint4 => count.div_ceil(2),
        Elem::Int2 | Elem::Uint2 => count.div_ceil(4),
        Elem::Bool | Elem::Int8 | Elem::Uint8 => count,
        Elem::Float16 | Elem::Bfloat16 | Elem::Int16 | Elem::Uint16 => 2 * count,
        Elem::Float | Elem::Int32 | Elem::Uint32 => 4 * count,
        _ => 8 * count,
    }
}

fn from_raw(elem: Elem, raw: &[u8], count: usize) -> Result<Data, String> {
    let expected = byte_length(elem, count);
    if raw.len() != expected {
        return Err(format!("{} bytes are stored, its shape needs {expected}", raw.len()));
    }
    macro_rules! values {
        ($kind:ident, $bytes:literal, $convert:expr) => {
            Data::$kind(raw.as_chunks::<$bytes>().0.iter().map(|&b| $convert(b)).collect())
        };
    }
    Ok(match elem {
        Elem::Float => values!(Float, 4, f32::from_le_bytes),
        Elem::Double => values!(Float, 8, |b| f64::from_le_bytes(b) as f32),
        Elem::Float16 => values!(Float, 2, |b| f16::from_le_bytes(b).to_f32()),
        Elem::Bfloat16 => values!(Float, 2, |b| bf16::from_le_bytes(b).to_f32()),
        Elem::Bool => values!(Bool, 1, |b: [u8; 1]| b[0] != 0),
        Elem::Int8 => values!(Int, 1, |b| i64::from(i8::from_le_bytes(b))),
        Elem::Uint8 => values!(Int, 1, |b: [u8; 1]| i64::from(b[0])),
        Elem::Int16 => values!(Int, 2, |b| i64::from(i16::from_le_bytes(b))),
        Elem::Uint16 => values!(Int, 2, |b| i64::from(u16::from_le_bytes(b))),
        Elem::Int32 => values!(Int, 4, |b| i64::from(i32::from_le_bytes(b))),
        Elem::Uint32 => values!(Int, 4, |b| i64::from(u32::from_le_bytes(b))),
        Elem::Int64 => values!(Int, 8, i64::from_le_bytes),
        Elem::Uint64 => values!(Int, 8, |b| i64::try_from(u64::from_le_bytes(b)).unwrap_or(i64::MAX)),
        Elem::Int4 => parts::<4>(raw.iter().copied(), true, count),
        Elem::Uint4 => parts::<4>(raw.iter().copied(), false, count),
        Elem::Int2 => parts::<2>(raw.iter().copied(), true, count),
        Elem::Uint2 => parts::<2>(raw.iter().copied(), false, count),
        _ => return Err("unknown element type".into()),
    })
}

/// Elements of `BITS` bits, several per byte, the lowest first.
fn parts<const BITS: usize>(bytes: impl Iterator<Item = u8>, signed: bool, count: usize) -> Data {
    let element = |byte: u8, at: usize| {
        let top = byte << (8 - BITS - at);
        i64::from(if signed { i32::from(top as i8) } else { i32::from(top) } >> (8 - BITS))
    };
    Data::Int(bytes.flat_map(|byte| (0..8).step_by(BITS).map(move |at| element(byte, at))).take(count).collect())
}

fn from_fields(elem: Elem, proto: &TensorProto, count: usize) -> Result<Data, String> {
    let ints = |convert: fn(i32) -> i64| Data::Int(proto.int32_data.iter().map(|&v| convert(v)).collect());
    let bytes = || proto.int32_data.iter().map(|&v| v as u8);
    Ok(match elem {
        Elem::Float => Data::Float(proto.float_data.clone()),
        Elem::Double => Data::Float(proto.double_data.iter().map(|&v| v as f32).collect()),
        Elem::Float16 => Data::Float(proto.int32_data.iter().map(|&v| f16::from_bits(v as u16).to_f32()).collect()),
        Elem::Bfloat16 => Data::Float(proto.int32_data.iter().map(|&v| bf16::from_bits(v as u16).to_f32()).collect()),
        Elem::Bool => Data::Bool(proto.int32_data.iter().map(|&v| v != 0).collect()),
        Elem::Int8 => ints(|v| i64::from(v as i8)),
        Elem::Uint8 => ints(|v| i64::from(v as u8)),
        Elem::Int16 => ints(|v| i64::from(v as i16)),
        Elem::Uint16 => ints(|v| i64::from(v as u16)),
        Elem::Int32 => ints(i64::from),
        Elem::Int4 => parts::<4>(bytes(), true, count),
        Elem::Uint4 => parts::<4>(bytes(), false, count),
        Elem::Int2 => parts::<2>(bytes(), true, count),
        Elem::Uint2 => parts::<2>(bytes(), false, count),
        Elem::Int64 => Data::Int(proto.int64_data.clone()),
        Elem::Uint32 | Elem::Uint64 => {
            Data::Int(proto.uint64_data.iter().map(|&v| i64::try_from(v).unwrap_or(i64::MAX)).collect())
        }
        _ => return Err("unknown element type".into()),
    })
}

/// The bytes of a tensor that lies in a file beside the model.
fn external_bytes(proto: &TensorProto, folder: Option<&Path>, expected: usize) -> Result<Vec<u8>, String> {
    let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str| {
        entry(key).map(|v| v.parse::<u64>().map_err(|_| format!("external data: bad {key} `{v}`"))).transpose()
    };
    let location = entry("location").ok_or("external data without a location")?;
    let folder = folder.ok_or("external data needs the folder of the model")?;
    let relative = Path::new(location);
    if location.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("external data `{location}` is outside the folder of the model; put it beside the model"));
    }
    let cannot = |error: std::io::Error| format!("external data `{location}`: {error}");
    let root = folder.canonicalize().map_err(cannot)?;
    let path = root.join(relative).canonicalize().map_err(cannot)?;
    // A link may lead elsewhere.
    if !path.starts_with(&root) {
        return Err(format!("external data `{location}` is outside the folder of the model; put it beside the model"));
    }
    let mut file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(expected as u64);
    if !metadata.is_file()
        || length != expected as u64
        || offset.checked_add(length).is_none_or(|end| end > metadata.len())
    {
        return Err(format!(
            "external data `{location}`: {length} bytes at {offset} do not fit; {expected} are needed, the file has {}",
            metadata.len()
        ));
    }
    let mut bytes = vec![0; expected];
    file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes)).map_err(cannot)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::onnx::StringStringEntryProto;

    fn proto(elem: Elem, dims: &[i64]) -> TensorProto {
        TensorProto { name: "w".into(), data_type: elem as i32, dims: dims.to_vec(), ..TensorProto::default() }
    }

    fn external(location: &str) -> TensorProto {
        let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
        TensorProto {
            data_location: DataLocation::External as i32,
            external_data: vec![entry("location", location), entry("offset", "4"), entry("length", "8")],
            ..proto(Elem::Float, &[2])
        }
    }

    #[test]
    fn raw_and_typed_fields_agree() {
        let raw = TensorProto { raw_data: vec![0, 0x3c, 0, 0xc0], ..proto(Elem::Float16, &[2]) };
        let typed = TensorProto { int32_data: vec![0x3c00, 0xc000], ..proto(Elem::Float16, &[2]) };
        for tensor in [raw, typed] {
            assert_eq!(decode(&tensor, None).unwrap().data, Data::Float(vec![1.0, -2.0]));
        }
        let packed = TensorProto { raw_data: vec![0xf1, 0x08], ..proto(Elem::Int4, &[3]) };
        assert_eq!(decode(&packed, None).unwrap().data, Data::Int(vec![1, -1, -8]));
        let bytes = TensorProto { int32_data: vec![255, 1], ..proto(Elem::Int8, &[2]) };
        assert_eq!(decode(&bytes, None).unwrap().data, Data::Int(vec![-1, 1]));
    }

    #[test]
    fn wrong_lengths_and_shapes_are_errors() {
        assert!(decode(&TensorProto { raw_data: vec![0; 7], ..proto(Elem::Float, &[2]) }, None).is_err());
        assert!(decode(&TensorProto { float_data: vec![0.0; 3], ..proto(Elem::Float, &[2]) }, None).is_err());
        assert!(decode(&proto(Elem::Float, &[1 << 40, 1 << 40]), None).is_err());
        assert!(decode(&proto(Elem::Float, &[-1]), None).is_err());
        assert!(decode(&proto(Elem::String, &[1]), None).is_err());
    }

    #[test]
    fn external_data_stays_in_its_folder() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        let floats: Vec<u8> = [9.0f32, 1.5, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(folder.join("w.bin"), &floats).unwrap();
        std::fs::write(outside.path().join("secret.bin"), &floats).unwrap();
        assert_eq!(decode(&external("w.bin"), Some(&folder)).unwrap().data, Data::Float(vec![1.5, -2.0]));
        let absolute = outside.path().join("secret.bin");
        for location in ["../secret.bin", "", "missing.bin", absolute.to_str().unwrap()] {
            assert!(decode(&external(location), Some(&folder)).is_err(), "{location}");
        }
        assert!(decode(&external("w.bin"), None).is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&absolute, folder.join("link.bin")).unwrap();
            assert!(decode(&external("link.bin"), Some(&folder)).is_err());
        }
    }
}
