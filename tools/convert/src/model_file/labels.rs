//! Names of the classes in a model file.

use super::ModelFile;
use crate::pack::{Frame, PackError, assemble};
use shiftformer::ModelError;
use shiftformer::format::{SectionKind, VERSION_MINOR, field};
use shiftformer::kernels::Portable;

/// Why names cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// Not a text file.
    #[error("the labels are not UTF-8 text; write one name per line")]
    Text,
    /// A line without a name.
    #[error("line {0} of the labels is empty; every class needs a name, on a line of its own")]
    Empty(usize),
    /// No output has as many classes.
    #[error("there are {given} labels; {outputs}: give one name per class")]
    Count {
        /// Names given.
        given: usize,
        /// The outputs with their classes, for people.
        outputs: String,
    },
    /// The model does not open.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file would be too large.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// The names in a text file, one per line.
///
/// # Errors
/// [`LabelsError::Text`], [`LabelsError::Empty`].
pub fn parse(bytes: &[u8]) -> Result<Vec<String>, LabelsError> {
    let text = std::str::from_utf8(bytes).map_err(|_| LabelsError::Text)?;
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end().lines();
    lines
        .enumerate()
        .map(|(at, line)| match line.trim() {
            "" => Err(LabelsError::Empty(at + 1)),
            name => Ok(name.to_owned()),
        })
        .collect()
}

/// The output that has `labels` classes, `preferred` if it does; outputs are given by name and shape.
///
/// # Errors
/// [`LabelsError::Count`] when there is none.
pub fn output<'a>(
    labels: usize,
    preferred: usize,
    outputs: impl Iterator<Item = (&'a str, &'a [usize])> + Clone,
) -> Result<usize, LabelsError> {
    let has = |shape: &[usize]| shape.last().copied().unwrap_or(1) == labels;
    if outputs.clone().nth(preferred).is_some_and(|(_, shape)| has(shape)) {
        return Ok(preferred);
    }
    let described = outputs
        .clone()
        .map(|(name, shape)| format!("output `{name}` has {} classes", shape.last().copied().unwrap_or(1)));
    let fail = || LabelsError::Count { given: labels, outputs: described.collect::<Vec<_>>().join(", ") };
    outputs.clone().position(|(_, shape)| has(shape)).ok_or_else(fail)
}

/// The bytes of `file` with the names of the classes of an output added, in place of those it had: of output `preferred`
/// if it has as many classes, else of the first that has.
///
/// # Errors
/// [`LabelsError::Count`] when no output has as many classes.
pub fn with_labels(file: &ModelFile, preferred: usize, labels: &[String]) -> Result<Vec<u8>, LabelsError> {
    let outputs = file.outputs().iter().map(|output| (output.name.as_str(), &output.shape[..]));
    let output = output(labels.len(), preferred, outputs)?;
    let model = file.open::<Portable>()?;
    let sections = model.sections();
    let mut kept: Vec<(SectionKind, Vec<u8>)> = SectionKind::ALL
        .into_iter()
        .filter(|&kind| kind != SectionKind::Labels)
        .map(|kind| (kind, sections.get(kind).to_vec()))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    let mut section = (output as u32).to_le_bytes().to_vec();
    section.extend_from_slice(labels.join("\n").as_bytes());
    kept.push((SectionKind::Labels, section));
    let minor = file.bytes().get(field::MINOR..).and_then(|bytes| bytes.first_chunk());
    let frame = Frame {
        arena_bytes: sections.arena_bytes,
        n_ops: sections.n_ops,
        n_tensors: sections.n_tensors,
        profile: sections.profile as u8,
        minor: minor.map_or(VERSION_MINOR, |&bytes| u16::from_le_bytes(bytes)),
    };
    Ok(assemble(&frame, &kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_per_line_however_lines_end() {
        assert_eq!(parse(b"\xef\xbb\xbfyes\r\n no \nup\n\n").unwrap(), ["yes", "no", "up"]);
        assert!(matches!(parse(b"yes\n\nno\n"), Err(LabelsError::Empty(2))));
        assert!(matches!(parse(b"\xff\xfe"), Err(LabelsError::Text)));
        assert!(parse(b"").unwrap().is_empty());
    }

    #[test]
    fn labels_are_those_of_an_output_with_as_many_classes() {
        let outputs = [("features", &[1, 64][..]), ("logits", &[1, 10][..])];
        let of = |labels, preferred| output(labels, preferred, outputs.iter().copied());
        assert_eq!(of(10, 1).unwrap(), 1);
        assert_eq!(of(64, 1).unwrap(), 0);
        let error = of(12, 1).unwrap_err().to_string();
        assert_eq!(
            error,
            "there are 12 labels; output `features` has 64 classes, output `logits` has 10 classes: give one name per class"
        );
    }
}
