//! `make demo`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use lago_push_bench::{demo, failure};

fn main() -> ExitCode {
    failure::print_panics_as_sentences();
    match demo::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nThe demo failed: {failure}");
            ExitCode::FAILURE
        }
    }
}
