//! From floats to integers: ranges of activations, scales of weights, dyadic multipliers.

pub mod activation;
pub mod balance;
pub mod compensate;
pub mod equalize;
pub mod floats;
pub mod gptq;
pub mod multiplier;
pub mod qdq;
pub mod range;
pub mod sequential;
pub mod tables;
pub mod weights;
