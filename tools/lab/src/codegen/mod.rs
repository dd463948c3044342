//! Source code that goes with a model: constants, accessors and the table of the operators it uses.

mod c;
mod endpoints;
mod names;
mod rust;
mod state;

pub use c::c_header;
pub use rust::rust_module;
