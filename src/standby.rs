//! Standby: the process that remembers, while the server is in recovery, that it follows a primary.
//!
//! It sees to it that a standby that takes over is not taken for a copy: once a primary's log has come
//! in by streaming, it says so in a file of the data directory, for the worker to find after a promotion,
//! be that after any number of restarts. It is connected to no database and ends with the recovery.

use crate::pg::process::{self, Continue, Wait};
use crate::pg::{place, replication};
use crate::shared;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::io;
use std::time::Duration;

pub const PROCESS_TYPE: &str = "lago_push standby";

/// Between two looks, until there is something to write down. The end of recovery needs none: the launcher
/// announces it, after a look of its own.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// Entry point of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn lago_push_standby(_argument: pg_sys::Datum) {
    process::begin_unconnected();
    shared::register_standby();
    let mut memory = Memory::default();
    while replication::in_recovery() {
        memory.refresh();
        let timeout = (memory.written == Written::No).then_some(LOOK_PAUSE);
        if process::wait(Wait::Promotion, timeout, None) == Continue::No {
            return;
        }
    }
}

/// What has been written down since this process began.
#[derive(Default)]
pub struct Memory {
    written: Written,
    trouble: Option<io::ErrorKind>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Written {
    #[default]
    No,
    /// Which timeline it was hardly matters: any that is older than the one a promotion begins.
    Yes,
}

impl Memory {
    /// Writes it down, if a primary streams or did; says what is in the way once.
    pub fn refresh(&mut self) {
        let Some(timeline) = replication::followed_timeline().filter(|_| self.written == Written::No) else {
            return;
        };
        match place::testify(timeline) {
            Ok(()) => self.written = Written::Yes,
            Err(error) => {
                if self.trouble.replace(error.kind()) != Some(error.kind()) {
                    pgrx::warning!("lago_push cannot note that this server is a standby: {error}");
                }
            }
        }
    }
}
