//! The binary; what it does is in the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    fake_lago::program::main(std::env::args().skip(1))
}
