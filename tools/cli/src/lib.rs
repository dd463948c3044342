//! The command `shiftformer`, and what of it other programs have in common with it: the Python package takes the same
//! options and gives the same files and texts.

mod commands;

pub use commands::codegen::relative;
pub use commands::convert::{
    Args as ConvertArgs, Calibration, Conversion, ConvertOutput, Loaded, Prepared, calibration, convert_prepared, load,
    prepare,
};
pub use commands::data::stand_in;
pub use commands::eval::clipped_bytes;
pub use commands::failure::Failure;
pub use commands::fit::{cores, unknown_board};
pub use commands::generate::{Args as GenerateArgs, GenerateOutput, continued};
pub use commands::source::{float_graph, import_options};
pub use commands::{main, one_line, option_names, parse};
