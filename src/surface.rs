//! Surface: the functions of the SQL surface that have to be Rust. What people type is SQL, in
//! `sql/`; these are its internals, and the sources of the views.

pub mod backfill;
pub mod backlog;
pub mod check;
pub mod corrections;
pub mod instance;
pub mod letters;
pub mod queries;
pub mod reconcile;
pub mod trying;

use crate::endpoint::{Batch, CATALOGUE, Repeat};
use crate::pg::{caller, heap, process};
use crate::sync::Stored;
use crate::{cap, capture, outbox, shared};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

fn refuse(code: PgSqlErrorCode, message: impl Into<String>, detail: Option<String>, hint: impl Into<String>) {
    let mut report = ErrorReport::new(code, message.into(), "lago_push").set_hint(hint);
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    report.report(PgLogLevel::ERROR);
}

/// Refuses a sync that cannot be bound to what its rows come from.
fn refuse_unbound(stored: &Stored, reason: String) {
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("sync \"{}\" cannot be applied to its source", stored.name),
        Some(reason),
        "Mend it with lago_push.alter_sync().",
    );
}

/// Makes what the calling transaction changed known to all backends and the worker, at its commit.
#[pg_extern(name = "_wake", volatile)]
fn wake() {
    if let Some(tables) = outbox::tables() {
        heap::announce_change(tables.sync);
    }
    shared::own_slot();
    capture::redefine_at_commit();
}

/// Wakes the worker for messages written by a function, when the calling transaction commits.
#[pg_extern(name = "_wake_for_messages", volatile)]
fn wake_for_messages() {
    shared::own_slot();
    capture::wake_at_commit();
}

/// Counts messages of a sync that a function has written, and wakes the worker for them, when the calling
/// transaction commits.
#[pg_extern(name = "_count_written", volatile)]
fn count_written(sync_id: i32, messages: i64) {
    shared::own_slot();
    capture::count_written(sync_id, messages);
}

/// What waits of syncs that have a cap, as far as it is known.
#[pg_extern(name = "_capped", volatile)]
fn capped() -> TableIterator<'static, (name!(sync_id, i32), name!(waiting, i64))> {
    TableIterator::new(cap::waiting())
}

/// Whether the calling transaction has captured rows.
#[pg_extern(name = "_has_captured", volatile)]
fn has_captured() -> bool {
    capture::has_captured()
}

/// Whether rows of a sync were captured that cannot be written yet, because a savepoint was set after.
#[pg_extern(name = "_has_unwritten", volatile)]
fn has_unwritten(sync_id: i32) -> bool {
    capture::has_unwritten(sync_id)
}

/// The role that called the entry point under way.
#[pg_extern(
    name = "_caller",
    sql = "create function lago_push._caller() returns regrole language c stable strict as 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn role() -> pg_sys::Oid {
    caller::role()
}

/// Runs a command with the caller's rights and no others.
#[pg_extern(name = "_execute_as_caller", volatile)]
fn execute_as_caller(command: &[u8]) {
    caller::execute(command);
}

/// Replaces the running statement in pg_stat_activity.
#[pg_extern(name = "_hide_statement", volatile)]
fn hide_statement(function: &str) {
    caller::show_activity(&format!("{function}(…)"));
}

/// The source of the view `workers` in version 0.1.0.
#[pg_extern(name = "_workers", sql = false, volatile)]
#[allow(clippy::type_complexity, reason = "the table of a view")]
fn workers() -> TableIterator<
    'static,
    (
        name!(database, String),
        name!(pid, Option<i32>),
        name!(state, &'static str),
        name!(started_at, Option<TimestampWithTimeZone>),
        name!(last_activity, Option<TimestampWithTimeZone>),
        name!(messages_per_second, f64),
    ),
> {
    let moment = |micros: i64| TimestampWithTimeZone::try_from(micros).ok();
    let rows: Vec<_> = shared::slots()
        .filter_map(|slot| {
            let seen = slot.observe();
            Some((
                process::database_name(slot.database())?,
                seen.pid,
                seen.state,
                seen.started_at.and_then(moment),
                seen.last_activity.and_then(moment),
                seen.messages_per_second,
            ))
        })
        .collect();
    TableIterator::new(rows)
}

/// Source of the view `workers`.
#[pg_extern(name = "_workers", volatile)]
#[allow(clippy::type_complexity, reason = "the table of a view")]
fn workers_and_activities() -> TableIterator<
    'static,
    (
        name!(database_id, pg_sys::Oid),
        name!(database, String),
        name!(pid, Option<i32>),
        name!(state, &'static str),
        name!(started_at, Option<TimestampWithTimeZone>),
        name!(last_activity, Option<TimestampWithTimeZone>),
        name!(messages_per_second, f64),
        name!(activity, Option<&'static str>),
        name!(wanted, bool),
    ),
> {
    let moment = |micros: i64| TimestampWithTimeZone::try_from(micros).ok();
    let rows: Vec<_> = shared::slots()
        .filter_map(|slot| {
            let seen = slot.observe();
            Some((
                slot.database(),
                process::database_name(slot.database())?,
                seen.pid,
                seen.state,
                seen.started_at.and_then(moment),
                seen.last_activity.and_then(moment),
                seen.messages_per_second,
                seen.activity,
                seen.wanted,
            ))
        })
        .collect();
    TableIterator::new(rows)
}

/// Requests under way, by destination of this database.
#[pg_extern(name = "_in_flight", volatile)]
fn in_flight() -> TableIterator<'static, (name!(destination_id, i32), name!(in_flight, i32))> {
    TableIterator::new(shared::in_flight())
}

/// Source of the view `endpoints`.
#[pg_extern(name = "_endpoints", immutable)]
#[allow(clippy::type_complexity, reason = "the table of a view")]
fn endpoints() -> TableIterator<
    'static,
    (
        name!(name, &'static str),
        name!(method, &'static str),
        name!(path, &'static str),
        name!(root, Option<&'static str>),
        name!(required, Vec<&'static str>),
        name!(batch, i32),
        name!(idempotent, bool),
        name!(example, &'static str),
    ),
> {
    TableIterator::new(CATALOGUE.iter().map(|endpoint| {
        let most = match endpoint.batch {
            Batch::One => 1,
            Batch::UpTo { most, .. } => most,
        };
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        (
            endpoint.name,
            endpoint.method,
            endpoint.path,
            endpoint.root,
            endpoint.required.to_vec(),
            most,
            endpoint.repeat == Repeat::Safe,
            endpoint.example,
        )
    }))
}

/// Whether the transaction is one that may be refused its SQLSTATE in words; kept apart so that the
/// conversion is tested in the server.
#[cfg(any(test, feature = "pg_test"))]
pub fn sqlstate_of_a_division_by_zero() -> Option<String> {
    crate::pg::xact::protected(|| Spi::run("select 1/0")).err().map(|caught| caught.sqlstate)
}
