//! Default attributes of local functions: a field of `FunctionProto` that the parsed form leaves out.

use super::error::ImportError;
use crate::import::onnx::AttributeProto;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::collections::HashMap;

/// Field numbers of the ONNX protobuf.
const MODEL_FUNCTIONS: u32 = 25;
const FUNCTION_NAME: u32 = 1;
const FUNCTION_DOMAIN: u32 = 10;
const FUNCTION_DEFAULTS: u32 = 11;

/// Domain and name of a function.
pub type FunctionKey = (String, String);

/// The default attributes of each function of an encoded model.
pub fn function_defaults(model: &[u8]) -> Result<HashMap<FunctionKey, Vec<AttributeProto>>, ImportError> {
    let mut defaults = HashMap::new();
    for (field, function) in fields(model)? {
        if field == MODEL_FUNCTIONS {
            let (key, attributes) = function_default(function)?;
            defaults.insert(key, attributes);
        }
    }
    Ok(defaults)
}

fn function_default(function: &[u8]) -> Result<(FunctionKey, Vec<AttributeProto>), ImportError> {
    let (mut name, mut domain, mut attributes) = (String::new(), String::new(), Vec::new());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (field, bytes) in fields(function)? {
        match field {
            FUNCTION_NAME => name = text(bytes),
            FUNCTION_DOMAIN => domain = text(bytes),
            FUNCTION_DEFAULTS => attributes.push(AttributeProto::decode(bytes).map_err(broken)?),
            _ => {}
        }
    }
    Ok(((domain, name), attributes))
}

fn broken(error: prost::DecodeError) -> ImportError {
    ImportError::Parse(error.to_string())
}

/// The length-delimited fields of a message.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u32, &[u8])>, ImportError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (field, wire) = decode_key(&mut bytes).map_err(broken)?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, field, &mut bytes, DecodeContext::default()).map_err(broken)?;
            continue;
        }
        let length = decode_varint(&mut bytes).map_err(broken)?;
        let split = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
        let Some((content, rest)) = split else {
            return Err(ImportError::Parse("a field is longer than the file".into()));
        };
        found.push((field, content));
        bytes = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::encoding::{encode_key, encode_varint};

    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_key(number, WireType::LengthDelimited, &mut bytes);
        encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        bytes
    }

    #[test]
    fn defaults_are_found_by_domain_and_name() {
        let attribute = AttributeProto { name: "alpha".into(), f: 0.25, ..AttributeProto::default() };
        let function = [field(1, b"Leaky"), field(10, b"local"), field(11, &attribute.encode_to_vec())].concat();
        let model = [field(2, b"producer"), field(25, &function)].concat();
        let defaults = function_defaults(&model).unwrap();
        assert_eq!(defaults[&("local".to_owned(), "Leaky".to_owned())], [attribute]);
        assert!(function_defaults(&model[..model.len() - 1]).is_err());
    }
}
