//! Process: where a run runs.
//!
//! Started by the worker when a run is due, for one sync, and gone when it is over. It writes down that the run begins,
//! so that one which never ends is known of; then does it, and how it went is written with what it did, or, if it
//! failed, with nothing else.

use super::memory::{self, Begun, Then};
use super::words::Failure;
use crate::outbox;
use crate::pg::claim::{self, Claim};
use crate::pg::xact::{self, Undone};
use crate::pg::{compat, encoding, process};
use crate::run;
use crate::shared::{self, runs::Progress};
use crate::sync::{self, Wanted};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;

pub const PROCESS_TYPE: &str = "lago_push run";

thread_local! {
    /// Where this process shows how far it is, to be left when it ends.
    static PROGRESS: Cell<Option<Progress>> = const { Cell::new(None) };
}

/// Entry point of the process. The argument is a database's number and a sync's.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn lago_push_run(argument: pg_sys::Datum) {
    let (database, sync) = process::unpacked(argument);
    process::begin_interruptible(database);
    // What a database or role sets for its users must not decide what is billed.
    let settings = [
        ("search_path", "pg_catalog, pg_temp"),
        ("default_transaction_read_only", "off"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_deferrable", "off"),
        ("statement_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("application_name", "lago_push run"),
    ];
    for (name, value) in settings.iter().chain(compat::EXTRA_WORKER_SETTINGS) {
        process::set_for_worker(name, value);
    }
    if xact::in_transaction(|| outbox::tables().is_none() || !memory::is_there()) {
        return;
    }
    // Another one may still be at it: of a worker before this one's.
    if claim::claim_run(sync) == Claim::AnotherSessions {
        return;
    }
    PROGRESS.set(Some(shared::runs::enter(sync)));
    process::at_exit(farewell);
    process::show(&format!("a run of sync {sync}"));
    let Some(progress) = PROGRESS.get() else { return };
    let Some(begun) = xact::in_transaction(|| known(memory::begin(sync))) else { return };
    // One snapshot for all that a run reads.
    process::set_for_worker("default_transaction_isolation", "repeatable read");
    let done = xact::in_transaction_with(
        || tried(sync, || run::lock(sync)),
        || tried(sync, || run::run(sync, begun, &progress)),
    );
    process::set_for_worker("default_transaction_isolation", "read committed");
    // Of a sync that was dropped meanwhile nothing is left to write it down for.
    if let Some(failed) = done.err().filter(|failed| !failed.name.is_empty()) {
        // Apart from what was tried, which is undone: it sees what has changed meanwhile.
        xact::in_transaction(|| fail(&failed, sync, begun, &progress));
    }
}

/// Whoever waits for the run to be over is told by the worker, which reads what is due anew.
#[pg_guard]
unsafe extern "C-unwind" fn farewell(_code: core::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some(progress) = PROGRESS.take() {
        progress.leave();
    }
    if let Some(slot) = shared::own_slot() {
        slot.note_run();
    }
}

/// A run that failed.
struct Failed {
    name: String,
    why: String,
    then: Then,
}

/// Does a part of the run, or undoes it.
fn tried(sync: i32, work: impl FnOnce() -> Result<(), String>) -> Result<(), Failed> {
    let stored = outbox::tables().and_then(|tables| sync::stored(&tables, &Wanted::Numbered(sync)));
    let limit = stored.as_ref().and_then(|stored| stored.query.as_ref()?.time_limit);
    xact::undone_if_failed(limit, work).map_err(|undone| {
        let failure = match undone {
            Undone::Refused(why) => Failure::Refused(why),
            Undone::Raised { sqlstate, message } => Failure::Raised { sqlstate, message },
        };
        let limit = limit.map(|limit| format!("{} s", limit.as_secs_f64()));
        Failed {
            name: stored.map(|stored| stored.name).unwrap_or_default(),
            why: encoding::storable(&failure.sentence(limit.as_deref())),
            then: if failure.is_passing() { Then::Again } else { Then::Rest },
        }
    })
}

fn fail(failed: &Failed, sync: i32, begun: Begun, progress: &Progress) {
    let Failed { name, why, then } = failed;
    pgrx::warning!("lago_push: a run of sync \"{name}\" failed: {why}");
    known(memory::fail(sync, begun.run, why, progress.rows_read(), *then));
}

fn known<T>(result: memory::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => error!("lago_push cannot read its own tables: {error}"),
    }
}
