//! Replication: what this server follows, and who follows it.

use pgrx::pg_sys;

/// Whether the server replays somebody else's log, or its own after a crash.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// How long a receiver that is connected has certainly compared its system with the primary's, which it
/// does before anything else, and ends if they differ.
const INTRODUCTION_MICROSECONDS: i64 = 1_000_000;

/// The timeline on which this server has streamed from a primary since it was started; none if it has not.
pub fn followed_timeline() -> Option<i32> {
    // SAFETY: a variable set when shared memory is made.
    let receiver = unsafe { pg_sys::WalRcv };
    if receiver.is_null() {
        return None;
    }
    // Only a message of a primary of the same system sets it. The server reads these under a lock, which
    // hints can do without.
    // SAFETY: an aligned number in shared memory, which is zero or not.
    let heard_up_to = unsafe { (&raw const (*receiver).latestWalEnd).read_volatile() };
    // A primary at rest may say nothing for half a minute.
    // SAFETY: as above.
    let state = unsafe { (&raw const (*receiver).walRcvState).read_volatile() };
    // SAFETY: as above.
    let is_connected = unsafe { (&raw const (*receiver).ready_to_display).read_volatile() };
    // SAFETY: as above; it begins as the time at which the receiver began.
    let quiet_since = unsafe { (&raw const (*receiver).lastMsgReceiptTime).read_volatile() };
    let listens = state == pg_sys::WalRcvState::WALRCV_STREAMING
        && is_connected
        && super::process::now().saturating_sub(quiet_since) >= INTRODUCTION_MICROSECONDS;
    // SAFETY: as above.
    let timeline = unsafe { (&raw const (*receiver).receivedTLI).read_volatile() };
    (heard_up_to != 0 || listens).then_some(timeline.cast_signed())
}

/// Up to where the log is safe on as many standbys as `synchronous_standby_names` asks for; none if it
/// asks for none.
pub fn confirmed_by_standbys() -> Option<u64> {
    // SAFETY: a variable of the server.
    let most_followers = unsafe { pg_sys::max_wal_senders };
    // SAFETY: a setting of the server; changes only while this process re-reads its configuration.
    let names = unsafe { pg_sys::SyncRepStandbyNames };
    // SAFETY: a C string, if it is one.
    if most_followers == 0 || names.is_null() || unsafe { *names } == 0 {
        return None;
    }
    // SAFETY: a variable set when shared memory is made.
    let control = unsafe { pg_sys::WalSndCtl };
    if control.is_null() {
        return None;
    }
    // The server reads it under a lock; a number that only ever grows may be read a moment late.
    // SAFETY: an aligned number in shared memory.
    Some(unsafe { (&raw const (*control).lsn[pg_sys::SYNC_REP_WAIT_FLUSH as usize]).read_volatile() })
}
