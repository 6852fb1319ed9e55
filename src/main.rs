//! The program `reeve`: everything is in the library, see `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    reeve::cli::main()
}
