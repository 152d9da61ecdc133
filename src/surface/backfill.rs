//! Backfill: existing rows of a source, captured as if they had just been inserted.
//!
//! Between table and outbox, in place of the trigger. Promises that a row's message and the note how
//! far the backfill has come are of one transaction, that no transaction is longer than its rows take to
//! render, and that what Lago would bill a second time is refused before it is sent.

use super::{refuse, refuse_unbound};
use crate::backfill::{self, Pace, Patience, Unfit};
use crate::buffer::Operation;
use crate::capture;
use crate::defaults::Origin;
use crate::liquid::CLOCK;
use crate::outbox;
use crate::pg::claim::{self, Claim};
use crate::pg::trigger::{self, Apart};
use crate::pg::xact::{self, Bound, Step};
use crate::pg::{caller, cell, encoding, walk};
use crate::recipe::{Made, Recipe, Whole};
use crate::sync::{self, OnError, Stored, Wanted};
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::Value;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Entry point of the procedure `lago_push.backfill()`.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn lago_push_backfill(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the function manager passes its call record.
    match unsafe { xact::bound(call) } {
        Some(bound) => refuse_bound(bound),
        // SAFETY: as above; the arguments are those of sql/entry_points.sql.
        None => run(unsafe { Asked::of(call) }),
    }
    pg_sys::Datum::from(0usize)
}

/// Tells the function manager how `lago_push_backfill` wants to be called.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_lago_push_backfill() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

fn refuse_bound(bound: Bound) {
    let why = match bound {
        Bound::ToABlock => {
            "This is a transaction block, one of several statements sent as one, or a block that catches errors."
        }
        Bound::ToACaller => "It is called by a function.",
    };
    refuse(
        PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION,
        "lago_push.backfill() commits as it goes, and cannot do so here",
        Some(why.into()),
        "Call it as a statement of its own, outside begin … commit: call lago_push.backfill('sync').",
    );
}

/// What was asked for. Texts are in the database's encoding.
struct Asked {
    procedure: pg_sys::Oid,
    sync: Option<Vec<u8>>,
    filter: Option<Vec<u8>>,
    chunk: Option<i32>,
    restart: Option<bool>,
}

impl Asked {
    /// # Safety
    /// `call` is a call of the procedure as sql/entry_points.sql declares it.
    unsafe fn of(call: pg_sys::FunctionCallInfo) -> Asked {
        let argument = |number: usize| {
            // SAFETY: promised by the caller.
            let argument = unsafe { *(*call).args.as_ptr().add(number) };
            (!argument.isnull).then_some(argument.value)
        };
        Asked {
            // SAFETY: promised by the caller.
            procedure: unsafe { (*(*call).flinfo).fn_oid },
            // A text and a bytea have the same form.
            sync: cell::read(argument(0)),
            filter: cell::read(argument(1)),
            chunk: cell::read(argument(2)),
            restart: cell::read(argument(3)),
        }
    }
}

/// What a backfill is at.
enum Stage {
    /// Nothing is known yet.
    Asked,
    /// A mapper made this of the first row, and is asked once more, later.
    Looked { opened: Opened, billed: Value },
    /// It is written down, and rows are captured.
    Walking { id: i32, progress: Progress },
    /// Its last rows are committed.
    Finished,
}

/// The backfill of a sync, before it is written down.
struct Opened {
    sync: i32,
    /// The query for the first rows, in the database's encoding.
    command: Vec<u8>,
}

/// How a walk goes along.
struct Progress {
    pace: Pace,
    patience: Patience,
    /// The lowest message that was waiting when last looked: nothing before it is looked at again.
    lowest: i64,
    /// Since when what was written last leaves; none while something else is in the way.
    draining: Option<Instant>,
}

/// A mapper that reads the clock shows it by another answer after this.
const CLOCK_MOVES: Duration = Duration::from_millis(1100);

fn run(asked: Asked) {
    let mut stage = Stage::Asked;
    xact::in_steps(|| {
        caller::as_owner_of(asked.procedure, || {
            let (next, step) = match std::mem::replace(&mut stage, Stage::Asked) {
                Stage::Asked => open(&asked),
                Stage::Looked { opened, billed } => {
                    look_again(&opened, &billed);
                    begin(&asked, opened.sync)
                }
                Stage::Walking { id, progress } => go_on(id, progress),
                Stage::Finished => (Stage::Finished, Step::Done),
            };
            stage = next;
            step
        })
    });
    claim::release_backfill();
}

/// Checks what was asked for, and claims it.
fn open(asked: &Asked) -> (Stage, Step) {
    let opened = one_row(
        "select o.sync_id, o.command from lago_push._backfill_open($1, $2, $3) o",
        &[asked.sync.clone().into(), asked.filter.clone().into(), asked.chunk.into()],
        |row| Ok(Opened { sync: row.get(1)?.unwrap_or_default(), command: row.get(2)?.unwrap_or_default() }),
    );
    if claim::claim_backfill(opened.sync) == Claim::AnotherSessions {
        refuse_second(opened.sync);
    }
    let bound = Source::open(opened.sync);
    if let Some(Unfit { what, why, advice }) = backfill::unfit(bound.recipe.call()) {
        bound.refuse(&what, why, advice);
    }
    if !backfill::is_billed(bound.recipe.call()) {
        return begin(asked, opened.sync);
    }
    match bound.look(&opened.command) {
        Some(billed) if bound.stored.has_mapper() => {
            (Stage::Looked { opened, billed }, Step::Commit { pause: CLOCK_MOVES })
        }
        _ => begin(asked, opened.sync),
    }
}

fn refuse_second(sync: i32) {
    let pid: Option<i32> = one_row("select lago_push._backfill_runner($1)", &[sync.into()], |row| row.get(1));
    let who = pid.map_or_else(|| "another session".into(), |pid| format!("process {pid}"));
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        "the sync is being backfilled already",
        Some(format!("It is done by {who}.")),
        "select * from lago_push.backfills shows how far it is; select pg_cancel_backend(…) ends it, and calling it again goes on from there.",
    );
}

/// A mapper's answer must be the same as before.
fn look_again(opened: &Opened, billed: &Value) {
    let bound = Source::open(opened.sync);
    match bound.look(&opened.command) {
        Some(again) if again != *billed => bound.refuse(
            "the mapper gives the same row another transaction_id or timestamp a second later",
            WHY_NO_OTHER,
            "Have it make both of the row alone: of its key, and of a column that does not change.",
        ),
        _ => {}
    }
}

const WHY_NO_OTHER: &str = "A row that was captured when it was written would be billed a second time.";

/// Writes the backfill down, or finds the one to go on with; the first rows are of the same transaction.
fn begin(asked: &Asked, sync: i32) -> (Stage, Step) {
    let (id, chunk) = one_row(
        "select b.id, b.most from lago_push._backfill_begin($1, $2, $3, $4) b",
        &[sync.into(), asked.filter.clone().into(), asked.chunk.into(), asked.restart.into()],
        |row| Ok((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default())),
    );
    let progress = Progress { pace: Pace::new(chunk), patience: Patience::new(), lowest: 0, draining: None };
    go_on(id, progress)
}

/// Captures the next rows, if there is room for them.
fn go_on(id: i32, mut progress: Progress) -> (Stage, Step) {
    let (state, lowest): (String, i64) = one_row(
        "select s.state, s.lowest from lago_push._backfill_step($1, $2, $3) s",
        &[id.into(), progress.pace.rows().into(), progress.lowest.into()],
        |row| Ok((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default())),
    );
    progress.lowest = lowest;
    let pause = match state.as_str() {
        "done" => {
            return (Stage::Finished, Step::Commit { pause: Duration::ZERO });
        }
        "captured" => {
            if let Some(since) = progress.draining.replace(Instant::now()) {
                progress.pace.adapt(since.elapsed());
            }
            progress.patience = Patience::new();
            Duration::ZERO
        }
        // What is in the way says nothing about how fast messages leave.
        "obstructed" => {
            progress.draining = None;
            progress.patience.pause()
        }
        _ => progress.patience.pause(),
    };
    (Stage::Walking { id, progress }, Step::Commit { pause })
}

/// The row of a query of ours, which always gives one.
fn one_row<R>(
    query: &str,
    arguments: &[pgrx::datum::DatumWithOid<'_>],
    read: impl FnOnce(pgrx::spi::SpiTupleTable<'_>) -> Result<R, pgrx::spi::Error>,
) -> R {
    let row = Spi::connect_mut(|client| read(client.update(query, Some(1), arguments)?.first()));
    match row {
        Ok(row) => row,
        Err(error) => error!("lago_push cannot read its own tables: {error}"),
    }
}

/// A sync with its source open and its recipe bound to it.
struct Source {
    stored: Stored,
    relation: pgrx::PgRelation,
    recipe: Recipe,
}

impl Source {
    /// # Panics
    /// Raises an error if the sync is gone or cannot be applied.
    fn open(sync: i32) -> Source {
        let found = outbox::tables().and_then(|tables| sync::stored(&tables, &Wanted::Numbered(sync)));
        let Some(stored) = found else {
            error!("the sync is gone");
        };
        let relation = opened(stored.source);
        let bound = stored.bind(relation.as_ptr());
        match bound {
            Ok(recipe) => Source { stored, relation, recipe },
            Err(reason) => {
                refuse_unbound(&stored, reason.clone());
                error!("{reason}")
            }
        }
    }

    fn refuse(&self, what: &str, why: &str, advice: &str) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("sync \"{}\" cannot be backfilled: {what}", self.stored.name),
            Some(why.into()),
            advice,
        );
    }

    fn refuse_clock(&self, reason: &str) {
        self.refuse(
            reason,
            WHY_NO_OTHER,
            "Name a column that does not change, such as \"timestamp\": {{ row.created_at }}.",
        );
    }

    /// Where its rows come from, as far as what is made of them depends on that.
    fn origin(&self) -> Origin {
        if backfill::is_billed(self.recipe.call()) { Origin::Existing } else { Origin::Change }
    }

    /// What Lago would tell the first row's event by; none if there is none. Sends nothing.
    fn look(&self, command: &[u8]) -> Option<Value> {
        let mut seen = None;
        // A mapper may write, and what it writes may be captured.
        xact::undone(|| {
            walk::walk(trigger::owner(self.relation.as_ptr()), command, |row| {
                let Some(row) = row else { return ControlFlow::Continue(()) };
                let row = Apart::new(row, self.relation.as_ptr());
                seen = self.billed(Operation::Insert, &row);
                if let Some(inserted) = &seen
                    && self.stored.operations().any(|operation| operation == Operation::Update)
                    && let Some(updated) = self.billed(Operation::Update, &row)
                    && updated != *inserted
                {
                    self.refuse(
                        "an update of a row is another event than its insert, by transaction_id or timestamp",
                        WHY_NO_OTHER,
                        "Give the template a transaction_id that all events of a row share: \"transaction_id\": \"call-{{ row.id }}\".",
                    );
                }
                ControlFlow::Break(())
            })
        });
        seen
    }

    /// What Lago would tell the row's event by; none where it cannot be rendered.
    fn billed(&self, operation: Operation, row: &Apart) -> Option<Value> {
        let old = (operation == Operation::Update).then(|| row.tuple());
        let view = self.recipe.view(self.origin(), operation, row.tuple(), old);
        let mut payload = Vec::new();
        match self.recipe.payload(&view, &mut payload) {
            Ok(Whole::Payload(read)) => {
                let read = read.or_else(|| encoding::json_from_server(&payload).ok())?;
                Some(backfill::billed_as(self.recipe.call(), &read))
            }
            Ok(Whole::Skipped) => None,
            Err(reason) => {
                if reason.contains(CLOCK) {
                    self.refuse_clock(&reason);
                }
                None
            }
        }
    }

    /// Captures a row as if it had just been inserted.
    fn capture(&self, row: &Apart, payload: &mut Vec<u8>) {
        let (row, sync) = (row.tuple(), self.stored.id);
        payload.clear();
        match self.recipe.make_from(self.origin(), Operation::Insert, row, None, payload) {
            Ok(Made::Message { path, key }) => {
                capture::add_message(sync, Operation::Insert, path, key, payload);
            }
            Ok(Made::Skipped) => {}
            Err(reason) if reason.contains(CLOCK) => self.refuse_clock(&reason),
            Err(reason) if self.stored.on_error() == OnError::Raise => refuse(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                format!("sync \"{}\" cannot bill an existing row: {reason}", self.stored.name),
                Some("The rows of earlier chunks are captured.".into()),
                "Correct the row and call lago_push.backfill() again, or let it go on without such rows: lago_push.alter_sync(…, on_error => 'dead_letter').",
            ),
            Err(reason) => {
                let (stored, inserted) = (&self.stored, Operation::Insert);
                let key = self.recipe.place_in_line(self.origin(), inserted, row, None);
                let dead = capture::still_born(&stored.name, reason, inserted, row, None, stored.excluded());
                capture::add_dead(sync, inserted, key, dead);
            }
        }
    }
}

/// Captures the rows a query gives, at most so many: its first column is the row, or null where it is
/// passed over; the others are the key. Gives how many rows were looked at, how many of them were captured,
/// and the key of the last one. The query is in the database's encoding, and so is the key.
#[pg_extern(name = "_capture_rows", volatile)]
#[allow(clippy::type_complexity, reason = "one row of three columns")]
pub(crate) fn capture_rows(
    sync_id: i32,
    command: &[u8],
    most: i32,
) -> TableIterator<'static, (name!(seen, i64), name!(captured, i64), name!(last, Vec<Vec<u8>>))> {
    let source = Source::open(sync_id);
    let (mut captured, mut payload) = (0, Vec::new());
    let owner = trigger::owner(source.relation.as_ptr());
    let walked = walk::walk(owner, command, |row| {
        let Some(row) = row else { return ControlFlow::Continue(()) };
        source.capture(&Apart::new(row, source.relation.as_ptr()), &mut payload);
        captured += 1;
        if captured < i64::from(most) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let walked = walked.unwrap_or_default();
    TableIterator::once((walked.rows, captured, walked.last))
}

/// The key of the only row a query of a table gives, as [`capture_rows`] gives it; empty if there is none.
#[pg_extern(name = "_key_of_row", volatile)]
pub(crate) fn key_of_row(source: pg_sys::Oid, command: &[u8]) -> Vec<Vec<u8>> {
    let table = opened(source);
    let owner = trigger::owner(table.as_ptr());
    walk::walk(owner, command, |_| ControlFlow::Continue(())).unwrap_or_default().last
}

/// How many rows the planner expects of a query of a table, in the database's encoding.
#[pg_extern(name = "_estimate_rows", volatile)]
pub(crate) fn estimate_rows(source: pg_sys::Oid, command: &[u8]) -> Option<i64> {
    let explain = [b"explain (format json) ", command].concat();
    let table = opened(source);
    // Planning runs code too: what is constant is computed by it.
    caller::query_as(trigger::owner(table.as_ptr()), &explain, &[], |rows| {
        let plan = rows.into_iter().flatten().next().map(cell::text_as_utf8)?;
        let plan: Value = serde_json::from_str(&plan).ok()?;
        plan.pointer("/0/Plan/Plan Rows")?.as_f64().map(|rows| rows as i64)
    })?
}

/// A table that is there, with an ordinary reader's lock that is kept until the transaction ends.
fn opened(table: pg_sys::Oid) -> pgrx::PgRelation {
    // SAFETY: raises an error if there is no such table.
    unsafe { pgrx::PgRelation::with_lock(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
}
