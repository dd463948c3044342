//! From floats to integers: ranges of activations, scales of weights, dyadic multipliers.

pub mod multiplier;
pub mod range;
pub mod weights;
