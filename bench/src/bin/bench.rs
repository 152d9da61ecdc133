//! `make bench`; with arguments, only the parts of it that they name.
#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use lago_push_bench::{failure, figures};

fn main() -> ExitCode {
    failure::print_panics_as_sentences();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = if arguments == [figures::stand_in::ARGUMENT] {
        figures::stand_in::serve()
    } else {
        figures::run(&arguments)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nThe benchmark failed: {failure}");
            ExitCode::FAILURE
        }
    }
}
