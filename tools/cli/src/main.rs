//! The `shiftformer` command.

fn main() -> std::process::ExitCode {
    shiftformer_cli::main()
}
