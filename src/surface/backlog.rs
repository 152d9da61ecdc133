//! Backlog: what the views say of messages and dead letters without counting millions of them.
//!
//! A look reads along the index from the first id on. Where it comes to the end soon, everything was seen. Where it
//! does not, short stretches stand for the rest: see [`crate::backlog`].

use crate::backlog::{Backlog, Seen, stretches};
use crate::cursor::Range;
use crate::outbox::{self, Letters, Messages};
use crate::pg::index::{self, Direction, Row, Walk};
use crate::pg::process;
use pgrx::prelude::*;
use std::ops::ControlFlow;

/// How many entries of the index are read before anything is estimated.
const FIRST_ENTRIES: usize = 10_000;
/// What was captured in so many microseconds before now is recent.
const RECENT_MICROSECONDS: i64 = 60_000_000;

/// Whether everything was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Whole,
    InPart,
}

/// What waits, by sync, and in a row without a sync whether it is estimated: only if more than
/// `exact_up_to` messages wait. Below the id `first` there are none.
#[pg_extern(name = "_backlog", volatile)]
#[allow(clippy::type_complexity, reason = "the table of a view")]
fn backlog(
    first: i64,
    exact_up_to: i64,
) -> TableIterator<
    'static,
    (
        name!(sync_id, Option<i32>),
        name!(pending, i64),
        name!(entered, i64),
        name!(oldest, Option<TimestampWithTimeZone>),
        name!(bytes, i64),
        name!(recent, i64),
        name!(recent_bytes, i64),
        name!(estimated, bool),
    ),
> {
    let recent_since = process::now() - RECENT_MICROSECONDS;
    let (backlog, found) = match outbox::messages() {
        Some(Messages(path)) => index::along(path, Messages::COLUMNS, |walk| {
            look(walk, first, exact_up_to, recent_since, Messages::seen)
        }),
        None => (Backlog::new(recent_since), Found::Whole),
    };
    let estimated = found == Found::InPart;
    let mut rows: Vec<_> = backlog
        .by_sync
        .iter()
        .map(|(sync, tally)| {
            let oldest = tally.oldest.and_then(|oldest| TimestampWithTimeZone::try_from(oldest).ok());
            (
                Some(*sync),
                whole(tally.messages),
                whole(tally.entered),
                oldest,
                whole(tally.bytes),
                whole(tally.recent),
                whole(tally.recent_bytes),
                estimated,
            )
        })
        .collect();
    rows.push((None, whole(backlog.messages()), 0, None, 0, 0, 0, estimated));
    TableIterator::new(rows)
}

/// The dead letters of a sync, and how many captured rows are counted with them.
#[pg_extern(name = "_letters", volatile)]
fn letters(
    sync_id: i32,
    exact_up_to: i64,
) -> TableIterator<'static, (name!(letters, i64), name!(entered, i64), name!(estimated, bool))> {
    let (backlog, found) = match outbox::letters(sync_id) {
        Some(Letters(path)) => {
            index::along(path, Letters::COLUMNS, |walk| look(walk, 0, exact_up_to, i64::MAX, Letters::seen))
        }
        None => (Backlog::new(i64::MAX), Found::Whole),
    };
    let tally = backlog.by_sync.get(&sync_id).copied().unwrap_or_default();
    TableIterator::once((whole(tally.messages), whole(tally.entered), found == Found::InPart))
}

/// No backlog is so large that the nearest whole number does not fit.
fn whole(number: f64) -> i64 {
    number.round() as i64
}

fn look(
    walk: &mut Walk,
    first: i64,
    exact_up_to: i64,
    recent_since: i64,
    seen: fn(&Row<'_>) -> Seen,
) -> (Backlog, Found) {
    let mut backlog = Backlog::new(recent_since);
    let all = Range { from: first, to: i64::MAX };
    let Some(rest) = count(walk, all, FIRST_ENTRIES, &mut backlog, seen) else {
        return (backlog, Found::Whole);
    };
    let Some(last) = last_entry(walk, rest) else { return (backlog, Found::Whole) };
    let rest = Range { to: last, ..rest };
    let mut estimate = backlog.clone();
    for stretch in stretches(rest) {
        // No id is there twice, but that of a message deleted and written anew by hand.
        let mut entries = 2 * (stretch.ids.to - stretch.ids.from + 1);
        let _ = walk.visit(stretch.ids, Direction::Up, |_, row| {
            if let Some(row) = row {
                estimate.add(seen(&row), stretch.stands_for);
            }
            entries -= 1;
            if entries > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
    if estimate.messages() > exact_up_to as f64 || exact_up_to <= FIRST_ENTRIES as i64 {
        return (estimate, Found::InPart);
    }
    let entries = FIRST_ENTRIES + 2 * estimate.messages() as usize;
    match count(walk, rest, entries, &mut backlog, seen) {
        None => (backlog, Found::Whole),
        Some(_) => (estimate, Found::InPart),
    }
}

/// Counts what is in `range`. Gives what is left of it after so many entries.
fn count(
    walk: &mut Walk,
    range: Range,
    entries: usize,
    backlog: &mut Backlog,
    seen: fn(&Row<'_>) -> Seen,
) -> Option<Range> {
    let (mut left, mut last) = (entries, range.from);
    let end = walk.visit(range, Direction::Up, |id, row| {
        if let Some(row) = row {
            backlog.add(seen(&row), 1.0);
        }
        left -= 1;
        last = id;
        if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    (end.is_break() && last < range.to).then(|| Range { from: last + 1, to: range.to })
}

/// The highest id in `range`, whether or not there still is a message of that id.
fn last_entry(walk: &mut Walk, range: Range) -> Option<i64> {
    let mut last = None;
    let _ = walk.visit(range, Direction::Down, |id, _| {
        last = Some(id);
        ControlFlow::Break(())
    });
    last
}
