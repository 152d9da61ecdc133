//! A few seeds of the soak: everything that can go wrong, all at once. `make soak SEEDS=1..50` runs as many as
//! there is time for.
#![forbid(unsafe_code)]

use std::path::Path;

use delivery::soak;

fn survives(seed: u64) {
    let program = Path::new(env!("CARGO_BIN_EXE_soak"));
    match soak::run(seed, soak::USUAL, soak::End::AllButQuestions, program) {
        Ok(line) => eprintln!("seed {seed}: {line}"),
        Err(wrong) => panic!("seed {seed}, that is make soak SEEDS={seed}:\n{wrong}"),
    }
}

#[test]
fn every_promise_survives_the_troubles_of_seed_1() {
    survives(1);
}

#[test]
fn every_promise_survives_the_troubles_of_seed_2() {
    survives(2);
}

#[test]
fn every_promise_survives_the_troubles_of_seed_3() {
    survives(3);
}
