//! Einsum of one or two operands as transpositions, a sum and one matrix product.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use super::matmul::product;
use crate::graph::{Reduce, TensorId};

/// One operand: a label for each dimension.
#[derive(Clone)]
struct Term {
    id: TensorId,
    labels: Vec<char>,
}

/// An equation with every ellipsis spelled out.
#[derive(Debug, PartialEq)]
struct Equation {
    inputs: Vec<Vec<char>>,
    output: Vec<char>,
}

impl Equation {
    /// Parses `text` for operands of the given ranks; the dimensions of an ellipsis are called 0, 1, ..
    fn parse(text: &str, ranks: &[usize]) -> OpResult<Self> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return invalid(format!("`{text}` does not have {} operands", ranks.len()));
        }
        let widths = terms.iter().zip(ranks).map(|(term, &rank)| match term.contains("...") {
            true => rank.checked_sub(term.len() - 3).filter(|&width| width <= 10),
            false => Some(0),
        });
        let Some(widths) = widths.collect::<Option<Vec<_>>>() else {
            return invalid(format!("`{text}` does not fit its operands"));
        };
        let widest = widths.iter().copied().max().unwrap_or(0);
        let inputs = terms
            .iter()
            .zip(&widths)
            .map(|(term, &width)| labels(term, widest - width, width))
            .collect::<OpResult<Vec<_>>>()?;
        let output = match right {
            Some(right) => labels(right, 0, widest)?,
            None => implicit_output(&inputs, widest),
        };
        if inputs.iter().zip(ranks).any(|(labels, &rank)| labels.len() != rank) {
            return invalid(format!("`{text}` does not fit its operands"));
        }
        Ok(Self { inputs, output })
    }
}

/// Letters of a term; an ellipsis becomes `width` digits from `first` on.
fn labels(term: &str, first: usize, width: usize) -> OpResult<Vec<char>> {
    let digits: String = ('0'..='9').skip(first).take(width).collect();
    let text = term.replacen("...", &digits, 1);
    match text.chars().all(|c| c.is_ascii_alphanumeric()) {
        true => Ok(text.chars().collect()),
        false => invalid(format!("`{term}` is not a term")),
    }
}

/// The ellipsis, then every letter that appears once, in alphabetical order.
fn implicit_output(inputs: &[Vec<char>], widest: usize) -> Vec<char> {
    let all: Vec<char> = inputs.concat();
    let mut letters: Vec<char> = all
        .iter()
        .copied()
        .filter(|c| c.is_ascii_alphabetic() && all.iter().filter(|d| *d == c).count() == 1)
        .collect();
    letters.sort_unstable();
    ('0'..='9').take(widest).chain(letters).collect()
}

pub fn einsum(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let ids = (0..call.inputs.len()).map(|index| call.input(index)).collect::<OpResult<Vec<_>>>()?;
    let text = call.text_or("equation", "")?;
    let ranks: Vec<usize> = ids.iter().map(|&id| builder.rank(id)).collect();
    let equation = Equation::parse(&text, &ranks)?;
    let mut terms = Vec::new();
    for (id, labels) in ids.into_iter().zip(&equation.inputs) {
        let distinct = labels.iter().enumerate().all(|(d, label)| !labels[..d].contains(label));
        if !distinct {
            return unsupported(format!("a diagonal in `{text}`; use Gather"));
        }
        let all = equation.inputs.concat();
        let kept = |label: char| equation.output.contains(&label) || all.iter().filter(|&&l| l == label).count() > 1;
        terms.push(sum_out(builder, Term { id, labels: labels.clone() }, kept)?);
    }
    let result = match &terms[..] {
        [x] => x.clone(),
        [a, b] => contract(builder, a, b, &equation.output)?,
        _ => return unsupported("more than two operands; use one Einsum for each product"),
    };
    let places = equation.output.iter().map(|label| result.labels.iter().position(|l| l == label));
    let Some(perm) = places.collect::<Option<Vec<_>>>().filter(|perm| perm.len() == result.labels.len()) else {
        return invalid(format!("`{text}` has an output index that no operand has"));
    };
    one(builder.transpose(result.id, &perm)?)
}

/// Sums over the dimensions whose label nothing else has.
fn sum_out(builder: &mut Builder, term: Term, kept: impl Fn(char) -> bool) -> OpResult<Term> {
    let axes: Vec<usize> = (0..term.labels.len()).filter(|&d| !kept(term.labels[d])).collect();
    let labels = term.labels.iter().copied().filter(|&label| kept(label)).collect();
    Ok(Term { id: builder.reduce(Reduce::Sum, term.id, axes, false)?, labels })
}

/// The product of two operands: labels of both that the output keeps are batch, the others of both are summed.
fn contract(builder: &mut Builder, a: &Term, b: &Term, output: &[char]) -> OpResult<Term> {
    let shared = |label: &char| a.labels.contains(label) && b.labels.contains(label);
    let batch: Vec<char> = a.labels.iter().copied().filter(|l| shared(l) && output.contains(l)).collect();
    let summed: Vec<char> = a.labels.iter().copied().filter(|l| shared(l) && !output.contains(l)).collect();
    let rows: Vec<char> = a.labels.iter().copied().filter(|l| !shared(l)).collect();
    let columns: Vec<char> = b.labels.iter().copied().filter(|l| !shared(l)).collect();
    let size = |builder: &Builder, term: &Term, label: char| {
        term.labels.iter().position(|&l| l == label).map_or(1, |d| builder.graph.shape(term.id)[d])
    };
    for &label in batch.iter().chain(&summed) {
        if size(builder, a, label) != size(builder, b, label) {
            return unsupported("a dimension that is repeated; use Expand before");
        }
    }
    let sizes = |builder: &Builder, term: &Term, labels: &[char]| {
        labels.iter().map(|&l| size(builder, term, l)).collect::<Vec<_>>()
    };
    let (batch_shape, row_shape, column_shape) =
        (sizes(builder, a, &batch), sizes(builder, a, &rows), sizes(builder, b, &columns));
    let inner: usize = sizes(builder, a, &summed).iter().product();
    let left = arrange(builder, a, &[&batch, &rows, &summed])?;
    let right = arrange(builder, b, &[&batch, &summed, &columns])?;
    let with_batch = |middle: &[usize]| [&batch_shape[..], middle].concat();
    let left = builder.reshape(left, &with_batch(&[row_shape.iter().product(), inner]))?;
    let right = builder.reshape(right, &with_batch(&[inner, column_shape.iter().product()]))?;
    let y = product(builder, left, right)?;
    let id = builder.reshape(y, &[batch_shape, row_shape, column_shape].concat())?;
    Ok(Term { id, labels: [batch, rows, columns].concat() })
}

/// The operand with its dimensions in the order of `groups`.
fn arrange(builder: &mut Builder, term: &Term, groups: &[&[char]]) -> OpResult<TensorId> {
    let order: Vec<usize> =
        groups.concat().iter().filter_map(|label| term.labels.iter().position(|l| l == label)).collect();
    builder.transpose(term.id, &order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_spell_out_ellipses_and_outputs() {
        let equation = Equation::parse("bhid, bhjd -> bhij", &[4, 4]).unwrap();
        assert_eq!(equation.output, ['b', 'h', 'i', 'j']);
        let equation = Equation::parse("...ij,jk->...ik", &[4, 2]).unwrap();
        assert_eq!(equation.inputs[0], ['0', '1', 'i', 'j']);
        assert_eq!(equation.output, ['0', '1', 'i', 'k']);
        assert_eq!(Equation::parse("ij,jk", &[2, 2]).unwrap().output, ['i', 'k']);
        assert!(Equation::parse("ij,jk->ik", &[2, 3]).is_err());
        assert!(Equation::parse("i*->i", &[2]).is_err());
    }
}
