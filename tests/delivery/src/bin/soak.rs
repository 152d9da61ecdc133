//! Random trouble, one seed after the other, one line each.
//!
//!   soak 1..50        seeds 1 to 50
//!   soak 3,17,42 20   these, with 20 seconds of trouble each
//!   soak lago …       becomes the fake Lago of a run, until its input ends
#![forbid(unsafe_code)]

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io, process, thread};

use delivery::soak;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "lago") {
        thread::spawn(|| {
            // Whoever started it is gone.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            process::exit(0);
        });
        return fake_lago::program::main(arguments.split_off(1));
    }
    let seeds = arguments.first().and_then(|text| seeds(text));
    let length =
        arguments.get(1).map_or(Some(soak::USUAL), |text| text.parse().ok().map(Duration::from_secs));
    let (Some(seeds), Some(length), Ok(program)) = (seeds, length, env::current_exe()) else {
        eprintln!("usage: soak FIRST..LAST|SEED,SEED,… [SECONDS]");
        return ExitCode::FAILURE;
    };
    let mut failed = Vec::new();
    for seed in seeds {
        let outcome =
            catch_unwind(AssertUnwindSafe(|| soak::run(seed, length, soak::End::AllSettled, &program)));
        match outcome.unwrap_or_else(|_| Err("the run itself failed, as is said above".to_owned())) {
            Ok(line) => println!("seed {seed}: {line}"),
            Err(wrong) => {
                println!("seed {seed}: FAILED\n{wrong}");
                failed.push(seed.to_string());
            }
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: make soak SEEDS={} SECONDS={}", failed.join(","), length.as_secs());
    ExitCode::FAILURE
}

/// `1..50`, both included, or `1,2,3`.
fn seeds(text: &str) -> Option<Vec<u64>> {
    match text.split_once("..") {
        Some((first, last)) => Some((first.parse().ok()?..=last.parse().ok()?).collect()),
        None => text.split(',').map(|seed| seed.parse().ok()).collect(),
    }
}
