//! `make bench`.
#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use lago_push_bench::{failure, figures};

fn main() -> ExitCode {
    failure::print_panics_as_sentences();
    let outcome = match env::args().nth(1).as_deref() {
        Some(figures::stand_in::ARGUMENT) => figures::stand_in::serve(),
        _ => figures::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nThe benchmark failed: {failure}");
            ExitCode::FAILURE
        }
    }
}
