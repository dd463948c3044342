//! What the operations read.

use crate::graph::Data;

/// An operand: shape and values.
pub type Operand<'a> = (&'a [usize], &'a Data);

/// The same where the values are floats.
pub type Image<'a> = (&'a [usize], &'a [f32]);
