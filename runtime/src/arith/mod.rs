//! Pure integer arithmetic: what a number becomes, with its rounding in the name.

pub mod activation;
pub mod digest;
pub mod exp;
pub mod ivit;
pub mod lmul;
pub mod norm;
pub mod requant;
