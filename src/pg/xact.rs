//! Transactions: callbacks at their ends, and the small questions capture asks about them.

use crate::buffer::Subtransaction;
use crate::cursor::Running;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::time::Duration;

/// What happens to a transaction, as far as capture cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Its last chance to write, before commit or prepare.
    BeforeEnd,
    Committed,
    Prepared,
    Aborted,
}

/// What happens to a subtransaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubMoment {
    BeforeCommit(Subtransaction),
    Committed { child: Subtransaction, parent: Subtransaction },
    Aborted(Subtransaction),
}

static ON_MOMENT: OnceLock<fn(Moment)> = OnceLock::new();
static ON_SUBMOMENT: OnceLock<fn(SubMoment)> = OnceLock::new();

/// Has the two functions called in every backend from now on. `on_moment` must not fail on
/// [`Moment::Committed`]: an error there takes the server down.
pub fn listen(on_moment: fn(Moment), on_submoment: fn(SubMoment)) {
    ON_MOMENT.get_or_init(|| on_moment);
    ON_SUBMOMENT.get_or_init(|| on_submoment);
    // SAFETY: called in _PG_init; both callbacks are static and take no argument of ours.
    unsafe { pg_sys::RegisterXactCallback(Some(xact_callback), std::ptr::null_mut()) };
    // SAFETY: as above.
    unsafe { pg_sys::RegisterSubXactCallback(Some(subxact_callback), std::ptr::null_mut()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn xact_callback(event: pg_sys::XactEvent::Type, _argument: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::*;
    let moment = match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => Moment::BeforeEnd,
        XACT_EVENT_COMMIT => Moment::Committed,
        XACT_EVENT_PREPARE => Moment::Prepared,
        XACT_EVENT_ABORT => Moment::Aborted,
        // Parallel workers cannot write, so they capture nothing.
        _ => return,
    };
    if let Some(on_moment) = ON_MOMENT.get() {
        on_moment(moment);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subxact_callback(
    event: pg_sys::SubXactEvent::Type,
    child: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut core::ffi::c_void,
) {
    use pg_sys::SubXactEvent::*;
    let moment = match event {
        SUBXACT_EVENT_PRE_COMMIT_SUB => SubMoment::BeforeCommit(child),
        SUBXACT_EVENT_COMMIT_SUB => SubMoment::Committed { child, parent },
        SUBXACT_EVENT_ABORT_SUB => SubMoment::Aborted(child),
        _ => return,
    };
    if let Some(on_submoment) = ON_SUBMOMENT.get() {
        on_submoment(moment);
    }
}

/// The subtransaction under way; 1 at the top level.
pub fn current_subtransaction() -> Subtransaction {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// Makes sure that the current (sub)transaction, and so the top-level one, has its id.
pub fn assign_xid() {
    // SAFETY: inside a transaction; assigns an id if there is none.
    unsafe { pg_sys::GetCurrentTransactionId() };
}

/// The id of the top-level transaction with its epoch, so that it never comes again.
pub fn top_id() -> u64 {
    // SAFETY: inside a transaction; assigns an id if there is none.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}

/// Whether this process applies what a subscription of logical replication receives.
pub fn applies_replication() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::IsLogicalWorker() }
}

/// Whether the transaction under way, or just committed, has written nothing at all.
pub fn has_no_id() -> bool {
    // SAFETY: reads a variable of the backend, which keeps its value until after the commit callbacks.
    let id = unsafe { pg_sys::GetTopTransactionIdIfAny() };
    id == pg_sys::InvalidTransactionId
}

/// When the transaction began, as `now()` has it, in microseconds since the Unix epoch.
pub fn began_unix_micros() -> i64 {
    const DAY_MICROSECONDS: i64 = 86_400_000_000;
    let shift = i64::from(pg_sys::POSTGRES_EPOCH_JDATE) - i64::from(pg_sys::UNIX_EPOCH_JDATE);
    // SAFETY: reads a variable of the backend, inside a transaction.
    let began = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    began.saturating_add(shift * DAY_MICROSECONDS)
}

/// What hinders a procedure from ending transactions and beginning others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A transaction block, several statements sent as one, or a block of PL/pgSQL that catches errors.
    ToABlock,
    /// A function that calls it.
    ToACaller,
}

/// Whether the procedure of this call may commit.
///
/// # Safety
/// `call` is what the function manager passed to the procedure now running.
pub unsafe fn bound(call: pg_sys::FunctionCallInfo) -> Option<Bound> {
    // SAFETY: promised by the caller.
    let context = unsafe { (*call).context };
    // SAFETY: a node always begins with its tag.
    let is_call = !context.is_null() && unsafe { (*context).type_ } == pg_sys::NodeTag::T_CallContext;
    // SAFETY: the tag says what it is.
    let atomic = !is_call || unsafe { (*context.cast::<pg_sys::CallContext>()).atomic };
    // SAFETY: both read a variable of the backend.
    let in_block = unsafe { pg_sys::IsTransactionBlock() || pg_sys::IsSubTransaction() };
    match (in_block, atomic) {
        (true, _) => Some(Bound::ToABlock),
        (false, true) => Some(Bound::ToACaller),
        (false, false) => None,
    }
}

/// Does the work of a procedure that commits as it goes: `work` is called again and again, each time in
/// a transaction and with a snapshot of its own, until it says it is done. The last transaction is left
/// to the server. What `work` wants done between two transactions is done while nothing holds a snapshot.
pub fn in_steps(mut work: impl FnMut() -> Step) {
    // SAFETY: connects until the end of the procedure; an error ends the connection with everything else.
    unsafe { pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32) };
    loop {
        // SAFETY: inside a transaction.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        let step = work();
        // SAFETY: pops the snapshot pushed above.
        unsafe { pg_sys::PopActiveSnapshot() };
        match step {
            Step::Done => break,
            Step::Commit { pause } => {
                // SAFETY: nothing of this transaction is held any more; see `bound`.
                unsafe { pg_sys::SPI_commit() };
                if !pause.is_zero() {
                    super::process::pause(pause);
                    // SAFETY: as above. The next step's transaction begins now, as its `now()` will say.
                    unsafe { pg_sys::SPI_commit() };
                }
            }
        }
    }
    // SAFETY: connected above.
    unsafe { pg_sys::SPI_finish() };
}

/// How a step of a procedure ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// With a commit, and a pause before the next one.
    Commit { pause: Duration },
    /// It was the last one.
    Done,
}

/// What an error caught in [`protected`] may say: its SQLSTATE, never its text, which may quote a row.
#[derive(Debug, PartialEq, Eq)]
pub struct Caught {
    pub sqlstate: String,
}

/// Runs `work` in an internal subtransaction, so that an error PostgreSQL or a user's function raises
/// in it undoes only its own doing. Cancellation and shutdown are passed on: they are not `work`'s fault.
pub fn protected<R>(work: impl FnOnce() -> R) -> Result<R, Caught> {
    attempt(work, || {}, |_| Doings::Kept).map_err(|(caught, error)| {
        if caught.sqlstate.starts_with("57") {
            error.rethrow();
        }
        caught
    })
}

// pgrx has no bindings for these two of utils/timeout.h.
unsafe extern "C-unwind" {
    fn enable_timeout_after(id: core::ffi::c_int, milliseconds: core::ffi::c_int);
    fn disable_timeout(id: core::ffi::c_int, keep_indicator: bool);
}

/// Its place in the enumeration TimeoutId, the same from version 14 to 18.
const STATEMENT_TIMEOUT: core::ffi::c_int = 3;

/// The SQLSTATE of what took too long, or was cancelled.
pub const CANCELED: &str = "57014";

/// Like [`protected`], and `work` is cancelled after `limit`; to be cancelled is its fault here. For a
/// background worker: it has no statement time-out of its own that this could be mistaken for.
pub fn protected_for<R>(limit: Duration, work: impl FnOnce() -> R) -> Result<R, Caught> {
    attempt(work, cancel_after(Some(limit)), |_| Doings::Kept).map_err(|(caught, error)| {
        if caught.sqlstate.starts_with("57") && caught.sqlstate != CANCELED {
            error.rethrow();
        }
        caught
    })
}

/// Does `work`, in which nothing can be written, as in a read-only transaction; and which cannot change that if it is
/// done in a subtransaction. Not by the setting: from version 16 on it cannot be set for a part of a transaction.
pub fn read_only<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: a variable of the backend.
    let before = unsafe { pg_sys::XactReadOnly };
    // SAFETY: as above. An error puts back what it was when its subtransaction began, or ends the transaction whose
    // variable it is.
    unsafe { pg_sys::XactReadOnly = true };
    let result = work();
    // SAFETY: as above.
    unsafe { pg_sys::XactReadOnly = before };
    result
}

/// Why work was undone.
#[derive(Debug)]
pub enum Undone {
    /// It said so itself.
    Refused(String),
    /// An error was raised; its text may quote rows.
    Raised { sqlstate: String, message: String },
}

/// Runs `work`, cancelled after `limit`, and undoes what it did if it says that it failed, or an error was raised. For a
/// background process, which has no statement time-out of its own; a request that it end is passed on.
pub fn undone_if_failed<R>(
    limit: Option<Duration>,
    work: impl FnOnce() -> Result<R, String>,
) -> Result<R, Undone> {
    let keep = |done: &Result<R, String>| if done.is_ok() { Doings::Kept } else { Doings::Undone };
    match attempt(work, cancel_after(limit), keep) {
        Ok(done) => done.map_err(Undone::Refused),
        Err((caught, error)) => {
            let message = report_of(&error).message().to_owned();
            Err(Undone::Raised { sqlstate: caught.sqlstate, message })
        }
    }
}

/// Has what follows cancelled after a while, if there is a limit; gives what ends that.
fn cancel_after(limit: Option<Duration>) -> impl FnOnce() {
    if let Some(limit) = limit {
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: the server registers this time-out in every process that is connected to a database.
        unsafe { enable_timeout_after(STATEMENT_TIMEOUT, milliseconds) };
    }
    move || {
        if limit.is_some() {
            // SAFETY: as above.
            unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
        }
        // It may have struck after the last look; nothing else here is to be cancelled.
        // SAFETY: a flag of this process.
        unsafe { pg_sys::QueryCancelPending = 0 };
    }
}

fn report_of(error: &pg_sys::panic::CaughtError) -> &pg_sys::panic::ErrorReportWithLevel {
    use pg_sys::panic::CaughtError::*;
    match error {
        PostgresError(report) | ErrorReport(report) | RustPanic { ereport: report, .. } => report,
    }
}

/// Runs `work`, and undoes what it did to the database. Its errors are raised as they are.
pub fn undone<R>(work: impl FnOnce() -> R) -> R {
    match attempt(work, || {}, |_| Doings::Undone) {
        Ok(value) => value,
        Err((_, error)) => error.rethrow(),
    }
}

/// What becomes of the doings of work that did not fail.
#[derive(Clone, Copy)]
enum Doings {
    Kept,
    Undone,
}

/// Runs `work` in an internal subtransaction, then `ending`, whether it failed or not. What it gave says what becomes
/// of its doings.
fn attempt<R>(
    work: impl FnOnce() -> R,
    ending: impl FnOnce(),
    doings: impl FnOnce(&R) -> Doings,
) -> Result<R, (Caught, Box<pg_sys::panic::CaughtError>)> {
    // SAFETY: reads two variables of the backend, to put them back below.
    let (context, owner) = unsafe { (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) };
    // SAFETY: inside a transaction.
    unsafe { pg_sys::BeginInternalSubTransaction(std::ptr::null()) };
    // SAFETY: the caller's context outlives the subtransaction.
    unsafe { pg_sys::MemoryContextSwitchTo(context) };
    let result = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
        .catch_others(|error| Err((report_of(&error).sql_error_code() as i32, Box::new(error))))
        .execute();
    ending();
    let restore = || {
        // SAFETY: both were current when the subtransaction began and belong to its parent.
        unsafe {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        }
    };
    match result {
        Ok(value) => {
            match doings(&value) {
                // SAFETY: ends the subtransaction begun above.
                Doings::Kept => unsafe { pg_sys::ReleaseCurrentSubTransaction() },
                // SAFETY: as above.
                Doings::Undone => unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() },
            }
            restore();
            Ok(value)
        }
        Err((code, error)) => {
            // SAFETY: ends the subtransaction begun above.
            unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
            restore();
            Err((Caught { sqlstate: sqlstate_text(code) }, error))
        }
    }
}

/// PostgreSQL packs the five characters of a SQLSTATE six bits each.
fn sqlstate_text(code: i32) -> String {
    (0..5).map(|place| char::from(((code >> (6 * place)) & 0x3f) as u8 + b'0')).collect()
}

/// Runs `work` in a transaction of a background worker, with a snapshot for its queries, and commits.
/// An error leaves it by unwinding, which ends the worker and so rolls back.
pub fn in_transaction<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: called by a background worker outside any transaction.
    unsafe { pg_sys::SetCurrentStatementStartTimestamp() };
    // SAFETY: as above.
    unsafe { pg_sys::StartTransactionCommand() };
    // SAFETY: in the transaction just begun.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = work();
    // SAFETY: pops the snapshot pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    // SAFETY: ends the transaction begun above.
    unsafe { pg_sys::CommitTransactionCommand() };
    result
}

/// The same for work that sees one snapshot, of which `before` does what must come before it: it is given one of the
/// catalogs alone. What fails is undone, by itself and with its transaction: a commit may have to do with what an error
/// has broken, such as a connection to another server, and fail too.
pub fn in_transaction_with<E>(
    before: impl FnOnce() -> Result<(), E>,
    work: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    // SAFETY: called by a background worker outside any transaction.
    unsafe { pg_sys::SetCurrentStatementStartTimestamp() };
    // SAFETY: as above.
    unsafe { pg_sys::StartTransactionCommand() };
    // SAFETY: in the transaction just begun; the server copies the snapshot.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetCatalogSnapshot(pg_sys::InvalidOid)) };
    let mut result = before();
    // SAFETY: pops the snapshot pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    if result.is_ok() {
        // SAFETY: in the transaction begun above.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        result = work();
        // SAFETY: pops the snapshot pushed above.
        unsafe { pg_sys::PopActiveSnapshot() };
    }
    match result {
        // SAFETY: ends the transaction begun above.
        Ok(()) => unsafe { pg_sys::CommitTransactionCommand() },
        // SAFETY: as above.
        Err(_) => unsafe { pg_sys::AbortCurrentTransaction() },
    }
    result
}

/// The transactions, of all databases and prepared ones included, that have not ended in the active
/// snapshot.
pub fn running_in_snapshot() -> Running {
    // SAFETY: called between PushActiveSnapshot and PopActiveSnapshot of in_transaction.
    let snapshot = unsafe { &*pg_sys::GetActiveSnapshot() };
    // SAFETY: reads a counter, after the snapshot was taken.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    let listed = if snapshot.xcnt == 0 {
        &[]
    } else {
        // SAFETY: xip holds xcnt ids for as long as the snapshot is active.
        unsafe { std::slice::from_raw_parts(snapshot.xip, snapshot.xcnt as usize) }
    };
    Running {
        listed: listed.iter().map(|xid| with_epoch(xid.into_inner(), next)).collect(),
        unlisted: with_epoch(snapshot.xmax.into_inner(), next),
        next,
    }
}

/// A transaction id with its epoch: of two billion on either side, snapshots hold only those not after
/// `next`.
fn with_epoch(xid: u32, next: u64) -> u64 {
    let epoch = next & !u64::from(u32::MAX);
    let full = epoch | u64::from(xid);
    if full > next { full.saturating_sub(1 << 32) } else { full }
}

/// Waits until everything any transaction has written so far is on disk. A commit becomes visible to
/// others before its record is flushed if `synchronous_commit` is off; what is sent to Lago must not
/// be lost here by a crash. Gives where that ends.
pub fn flush_log() -> u64 {
    // SAFETY: asks for a position; allowed in any transaction.
    let next = unsafe { pg_sys::GetXLogInsertRecPtr() };
    // SAFETY: a variable of the server, fixed at its start.
    let segment_bytes = unsafe { pg_sys::wal_segment_size } as u64;
    let end = end_of_log(next, segment_bytes);
    // SAFETY: waits for a position up to which the log has been generated.
    unsafe { pg_sys::XLogFlush(end) };
    end
}

/// Where the log ends, given where its next record will begin. The two differ at the start of a page,
/// by the page's header, which is not there before the record is; and waiting for what is not there
/// is an error.
fn end_of_log(next: u64, segment_bytes: u64) -> u64 {
    const SHORT_HEADER: u64 = size_of::<pg_sys::XLogPageHeaderData>().next_multiple_of(8) as u64;
    const LONG_HEADER: u64 = size_of::<pg_sys::XLogLongPageHeaderData>().next_multiple_of(8) as u64;
    match (next % segment_bytes, next % u64::from(pg_sys::XLOG_BLCKSZ)) {
        (LONG_HEADER, _) => next - LONG_HEADER,
        (_, SHORT_HEADER) => next - SHORT_HEADER,
        _ => next,
    }
}

#[cfg(test)]
mod tests {
    use super::{end_of_log, with_epoch};

    #[test]
    fn a_transaction_id_from_before_the_wrap_is_of_the_epoch_before() {
        let next = (3 << 32) | 100;
        assert_eq!(with_epoch(99, next), (3 << 32) | 99);
        assert_eq!(with_epoch(100, next), (3 << 32) | 100);
        assert_eq!(with_epoch(u32::MAX, next), (2 << 32) | u64::from(u32::MAX));
    }

    #[test]
    fn the_log_ends_before_the_header_of_a_page_not_yet_begun() {
        let segment = 16 * 1024 * 1024;
        assert_eq!(end_of_log(0xCE2_2018, segment), 0xCE2_2000);
        assert_eq!(end_of_log(0xC00_0028, segment), 0xC00_0000);
        assert_eq!(end_of_log(0xCE2_2028, segment), 0xCE2_2028, "a record's middle");
        assert_eq!(end_of_log(0xCE2_2100, segment), 0xCE2_2100);
    }
}
