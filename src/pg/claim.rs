//! Claims: advisory locks of a session that outlast its transactions, and end with its first error.

use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// The sync whose backfill this session is at.
    static BACKFILL: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Who has the right to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Ours,
    AnotherSessions,
}

/// What is claimed. The numbers are arbitrary but fixed, the first of them "LagoPush" in a telephone's letters.
#[derive(Clone, Copy)]
enum Class {
    Worker = 52_467_874,
    /// sql/backfill.sql looks for this number among pg_locks.
    Backfill = 52_467_875,
    Run = 52_467_876,
}

fn tag(class: Class, sync: i32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: u32::from(super::process::own_database()),
        locktag_field2: class as u32,
        locktag_field3: sync.cast_unsigned(),
        // SQL's advisory locks have 1 or 2 here, so no user's lock can be taken for this one.
        locktag_field4: 3,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Claims something, without waiting.
fn claim(class: Class, sync: i32) -> Claim {
    let tag = tag(class, sync);
    // SAFETY: an advisory lock of the session, asked for without waiting.
    let result = unsafe { pg_sys::LockAcquire(&raw const tag, pg_sys::ExclusiveLock as i32, true, true) };
    if result == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
        Claim::AnotherSessions
    } else {
        Claim::Ours
    }
}

/// Claims to be the one worker of this database, until the process ends.
pub fn claim_worker() -> Claim {
    claim(Class::Worker, 0)
}

/// Claims the run of a sync, until the process ends.
pub fn claim_run(sync: i32) -> Claim {
    claim(Class::Run, sync)
}

/// Claims the backfill of a sync.
pub fn claim_backfill(sync: i32) -> Claim {
    let claim = claim(Class::Backfill, sync);
    if claim == Claim::Ours {
        BACKFILL.set(Some(sync));
    }
    claim
}

/// Gives the claim of a backfill up, if there is one. Also called when a transaction is aborted, so it must not fail.
pub fn release_backfill() {
    if let Some(sync) = BACKFILL.take() {
        let tag = tag(Class::Backfill, sync);
        // SAFETY: a lock of this session.
        unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ExclusiveLock as i32, true) };
    }
}
