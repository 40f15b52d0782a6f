//! The program: parse, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    malachor::cli::main()
}
