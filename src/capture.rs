//! Capture, first step of a row's journey: the trigger, and the transaction's buffer of messages.
//!
//! It promises the outbox that a message is written if and only if the transaction that changed the
//! row commits, whatever savepoints, prepared transactions or deferred triggers are involved; and the
//! application that its write neither waits for anything nor fails, unless the sync asks for that.

use crate::buffer::{Buffer, Operation, StillBorn, Subtransaction};
use crate::cap::{self, Room, WhenFull};
use crate::defaults::Origin;
use crate::pg::cell;
use crate::pg::report::{self, Audience, Words};
use crate::pg::trigger::{Fired, Tuple, Unfit};
use crate::pg::xact::{self, Moment, SubMoment};
use crate::recipe::Made;
use crate::sync::{self, Compiled, OnError, Ready};
use crate::{outbox, settings, shared};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::new(Buffer::default());
    /// Where a row is rendered, kept for its capacity. Apart from the buffer, because a type's
    /// function may run a statement that captures rows of its own.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static TRANSACTION: Cell<Transaction> = const { Cell::new(Transaction::QUIET) };
}

/// What the transaction under way has to do with us.
#[derive(Clone, Copy)]
struct Transaction {
    captured: bool,
    /// It has changed destinations or syncs.
    redefines: bool,
    /// It has asked for a run.
    asks_for_run: bool,
    /// Its last chance to write has passed: what is captured from now on is written at once.
    ending: bool,
    /// It has been told that an outbox is full.
    warned: bool,
}

impl Transaction {
    const QUIET: Transaction =
        Transaction { captured: false, redefines: false, asks_for_run: false, ending: false, warned: false };
}

fn note(change: impl FnOnce(&mut Transaction)) {
    let mut transaction = TRANSACTION.get();
    change(&mut transaction);
    TRANSACTION.set(transaction);
}

/// Whether the transaction under way has captured anything.
pub fn has_captured() -> bool {
    TRANSACTION.get().captured
}

/// Writes what the current (sub)transaction has captured so far.
pub fn write_captured() {
    if TRANSACTION.get().captured {
        BUFFER.with_borrow_mut(|buffer| outbox::write(buffer, xact::current_subtransaction()));
    }
}

/// Whether rows of a sync wait in the buffer.
pub fn has_unwritten(sync: i32) -> bool {
    BUFFER.with_borrow(|buffer| buffer.holds(sync))
}

/// Has the worker look which queries are due when the transaction under way commits.
pub fn ask_for_run_at_commit() {
    note(|transaction| transaction.asks_for_run = true);
}

/// How many messages of a sync wait in the buffer.
pub fn buffered(sync: i32) -> i64 {
    BUFFER.with_borrow(|buffer| buffer.payloads(sync))
}

/// Has the worker read destinations and syncs anew when the transaction under way commits.
pub fn redefine_at_commit() {
    note(|transaction| transaction.redefines = true);
}

/// A function has written messages of a sync, past the buffer.
pub fn count_written(sync: i32, messages: i64) {
    cap::wrote(xact::current_subtransaction(), sync, messages);
    wake_at_commit();
}

/// Has the worker look at the outbox when the transaction under way commits: a function has written to it.
pub fn wake_at_commit() {
    note(|transaction| transaction.captured = true);
}

/// Captures the row a trigger fired for.
pub fn capture(fired: &Fired) {
    let compiled = sync::of(fired);
    let operation = fired.operation();
    match &*compiled {
        Compiled::Draft => {}
        Compiled::Ready(ready) if !ready.covers(operation) => {}
        Compiled::Ready(ready) => {
            let mut payload = SCRATCH.take();
            payload.clear();
            match ready.recipe.make(operation, fired.row(), fired.old(), &mut payload) {
                Ok(Made::Message { path, key }) => {
                    if admits(fired, ready, key) {
                        with_buffer(|buffer, current| {
                            buffer.push_payload(current, ready.sync, operation, path, key, &payload)
                        });
                    }
                }
                Ok(Made::Skipped) => {}
                Err(reason) => {
                    let key = ready.recipe.place_in_line(Origin::Change, operation, fired.row(), fired.old());
                    unrendered(fired, ready.sync, &ready.name, key, reason, ready.on_error, &ready.excluded)
                }
            }
            // One huge row should not stay allocated for the life of the backend.
            payload.shrink_to(64 * 1024);
            SCRATCH.set(payload);
        }
        Compiled::Broken { sync, reason, on_error, excluded, .. } => {
            unrendered(fired, *sync, &fired.argument(), None, reason.clone(), *on_error, excluded)
        }
    }
}

/// Whether a row's message may wait with the others. If not, it has been kept otherwise, or refused.
fn admits(fired: &Fired, ready: &Ready, key: Option<i64>) -> bool {
    let Some(cap) = &ready.cap else { return true };
    let Room::None(waiting) = cap.room(buffered(ready.sync), outbox::count_committed) else { return true };
    let when_full = match cap.when_full {
        // As in `unrendered`: an error would stop the replication of everything.
        WhenFull::Raise if xact::applies_replication() => WhenFull::DeadLetter,
        stored => stored,
    };
    match when_full {
        WhenFull::Warn => warn_once(&cap.warning(&ready.name)),
        WhenFull::DeadLetter => {
            bury(fired, ready.sync, &ready.name, key, cap.reason(waiting), &ready.excluded)
        }
        WhenFull::Raise => {
            let Words { message, detail, hint } = cap.refusal(&ready.name, waiting);
            ErrorReport::new(PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message, "capture")
                .set_detail(detail)
                .set_hint(hint)
                .report(PgLogLevel::ERROR);
        }
    }
    when_full == WhenFull::Warn
}

/// Tells the writer, once in a transaction; and the log, now and then.
fn warn_once(words: &Words) {
    if TRANSACTION.get().warned {
        return;
    }
    note(|transaction| transaction.warned = true);
    let audience = if cap::may_log() { Audience::WriterAndLog } else { Audience::Writer };
    report::warn(words, audience);
}

fn unrendered(
    fired: &Fired,
    sync: i32,
    name: &str,
    key: Option<i64>,
    reason: String,
    on_error: OnError,
    excluded: &[String],
) {
    // Nobody is there to see the error of a process that replicates: it would try the same row for ever,
    // everything behind it would wait, and the publisher would keep its log for it.
    if on_error == OnError::Raise && !xact::applies_replication() {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("sync \"{name}\" cannot bill this row: {reason}"),
            "capture",
        )
        .set_hint(
            "Correct the row, or let such writes through: lago_push.alter_sync(…, on_error => 'dead_letter').",
        )
        .report(PgLogLevel::ERROR);
    }
    bury(fired, sync, name, key, reason, excluded);
}

/// Keeps a row as a dead letter.
fn bury(fired: &Fired, sync: i32, name: &str, key: Option<i64>, reason: String, excluded: &[String]) {
    let operation = fired.operation();
    let dead = still_born(name, reason, operation, fired.row(), fired.old(), excluded);
    add_dead(sync, operation, key, dead);
}

/// A dead letter of a row, with all of it but what is excluded.
pub fn still_born(
    name: &str,
    reason: String,
    operation: Operation,
    row: Tuple,
    old: Option<Tuple>,
    excluded: &[String],
) -> StillBorn {
    // A deleted row is its own older version.
    let old = old.filter(|_| operation == Operation::Update);
    StillBorn {
        sync_name: name.to_owned(),
        reason,
        source_row: cell::row_to_json(row, excluded),
        old_row: old.and_then(|old| cell::row_to_json(old, excluded)),
    }
}

/// Adds the message of a row no trigger has fired for.
pub fn add_message(
    sync: i32,
    operation: Operation,
    path: Option<Box<str>>,
    key: Option<i64>,
    payload: &[u8],
) {
    with_buffer(|buffer, current| buffer.push_payload(current, sync, operation, path, key, payload));
}

/// Adds the dead letter of such a row.
pub fn add_dead(sync: i32, operation: Operation, key: Option<i64>, dead: StillBorn) {
    with_buffer(|buffer, current| buffer.push_dead(current, sync, operation, key, dead));
}

fn with_buffer(push: impl FnOnce(&mut Buffer, Subtransaction)) {
    let current = xact::current_subtransaction();
    BUFFER.with_borrow_mut(|buffer| {
        push(buffer, current);
        if TRANSACTION.get().ending || buffer.size() > settings::capture_memory_bytes() {
            outbox::write(buffer, current);
        }
    });
    note(|transaction| transaction.captured = true);
}

const TOP_LEVEL: Subtransaction = 1;

/// A transaction reaches a moment of its life.
pub fn on_transaction(moment: Moment) {
    match moment {
        Moment::BeforeEnd => {
            note(|transaction| transaction.ending = true);
            if TRANSACTION.get().captured {
                BUFFER.with_borrow_mut(|buffer| {
                    if !buffer.is_empty() {
                        outbox::write(buffer, TOP_LEVEL);
                    }
                });
                // Claimed here, where there may still be errors; after commit there may be none.
                shared::own_slot();
            }
        }
        Moment::Committed => {
            let transaction = TRANSACTION.replace(Transaction::QUIET);
            if transaction.captured {
                clear_buffer();
                // Before the worker is woken, which then knows of it.
                cap::publish();
                wake_worker();
            } else if xact::applies_replication() && xact::has_no_id() {
                // A COMMIT PREPARED that a subscription replicates is no command, so on_command does not see
                // it. It runs inside a transaction that writes nothing itself, and there are few such.
                shared::wake_if_known();
            }
            if (transaction.redefines || transaction.asks_for_run)
                && let Some(slot) = shared::own_slot()
            {
                match transaction.redefines {
                    true => slot.redefine(),
                    false => slot.note_run(),
                }
            }
        }
        // A prepared transaction's messages become visible in another session: see on_command.
        Moment::Prepared | Moment::Aborted => {
            if TRANSACTION.replace(Transaction::QUIET).captured {
                clear_buffer();
                match moment {
                    Moment::Prepared => cap::publish(),
                    _ => cap::give_up(),
                }
            }
        }
    }
}

/// A subtransaction reaches a moment of its life.
pub fn on_subtransaction(moment: SubMoment) {
    if !TRANSACTION.get().captured {
        return;
    }
    match moment {
        SubMoment::BeforeCommit(_) => {}
        SubMoment::Committed { child, parent } => cap::merge(child, parent),
        SubMoment::Aborted(child) => cap::forget(child),
    }
    BUFFER.with_borrow_mut(|buffer| match moment {
        // Once the transaction holds too much, each subtransaction writes its own before it merges:
        // its parent's rows cannot be written under it, and a loop of a million must not pile up.
        SubMoment::BeforeCommit(child) if buffer.size() > settings::capture_memory_bytes() => {
            outbox::write(buffer, child)
        }
        SubMoment::BeforeCommit(_) => {}
        SubMoment::Committed { child, parent } => buffer.merge(child, parent),
        SubMoment::Aborted(child) => buffer.forget(child),
    });
}

fn clear_buffer() {
    // Never in use here, but this runs where an error would take the server down.
    BUFFER.with(|buffer| {
        if let Ok(mut buffer) = buffer.try_borrow_mut() {
            buffer.clear();
        }
    });
}

/// Tells this database's worker that there is something to read.
pub fn wake_worker() {
    if let Some(slot) = shared::own_slot() {
        slot.wake();
    }
}

/// Entry point of the trigger function `lago_push.capture()`.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn lago_push_capture(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the function manager passes its call record.
    match unsafe { Fired::new(fcinfo) } {
        Ok(fired) => capture(&fired),
        Err(unfit) => refuse(unfit),
    }
    // The result of an AFTER trigger is ignored, but must be a null pointer, not SQL NULL.
    pg_sys::Datum::from(0usize)
}

/// Tells the function manager how `lago_push_capture` wants to be called.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_lago_push_capture() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

fn refuse(unfit: Unfit) {
    let detail = match unfit {
        Unfit::NotATrigger => "It was called as an ordinary function.",
        Unfit::NotAfterEachRow => {
            "It was fired before or instead of the row's change, or once for a whole statement."
        }
        Unfit::Truncate => "TRUNCATE removes rows without visiting them, so there is nothing to bill.",
        Unfit::OneArgument => "It takes one argument: the name of the sync.",
    };
    ErrorReport::new(PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "lago_push.capture() is not declared as it must be", "capture")
        .set_detail(detail)
        .set_hint("create trigger … after insert or update or delete on … for each row execute function lago_push.capture('sync')")
        .report(PgLogLevel::ERROR);
}
