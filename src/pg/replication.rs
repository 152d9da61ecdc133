//! Replication: what this server follows, and who follows it.

use pgrx::pg_sys;

/// Whether the server replays somebody else's log, or its own after a crash.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The timeline on which a primary's log has come in since this server was started; none if none has.
pub fn followed_timeline() -> Option<i32> {
    // SAFETY: a variable set when shared memory is made.
    let receiver = unsafe { pg_sys::WalRcv };
    if receiver.is_null() {
        return None;
    }
    // Only a message of a primary of the same system sets it: the receiver has compared their identifiers.
    // SAFETY: an aligned number in shared memory, which is zero or not.
    let heard_up_to = unsafe { (&raw const (*receiver).latestWalEnd).read_volatile() };
    // SAFETY: as above.
    let timeline = unsafe { (&raw const (*receiver).receivedTLI).read_volatile() };
    (heard_up_to != 0).then_some(timeline.cast_signed())
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
