//! A Lago in this process, where one sees each event that arrived and the moment it did.
//!
//! For checks and for latencies only. Where a rate is measured, the stand-in is a process of its own.

use fake_lago::{Config, FakeLago};

use super::ground::Ground;
use super::stand_in;
use crate::failure::{Doing, Outcome};

/// What it keeps of the events it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Counters,
    Events,
}

/// Lets our worker deliver to a witness while `look` runs, and puts everything back after it: the destination is
/// held before and after, and while `look` runs if it does not release it.
pub fn with_witness<T>(
    ground: &mut Ground,
    memory: Memory,
    look: impl FnOnce(&mut Ground, &FakeLago) -> Outcome<T>,
) -> Outcome<T> {
    let config = Config { keep_events: memory == Memory::Events, ..stand_in::config() };
    let lago = FakeLago::start(config).doing("start a witness in the place of Lago")?;
    deliver_to(ground, &lago.url())?;
    let seen = look(ground, &lago)?;
    ground.hold()?;
    let url = ground.lago.url();
    deliver_to(ground, &url)?;
    ground.clear()?;
    Ok(seen)
}

fn deliver_to(ground: &mut Ground, url: &str) -> Outcome<()> {
    ground.db.run(&format!("select lago_push.alter_destination('lago', url => '{url}')"))
}
