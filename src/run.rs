//! Run: a query's rows, compared with those it gave before; what differs is captured.
//!
//! In the place of the trigger, for what has none: views, foreign tables, files. Four steps: [`query`] reads, in the
//! order of the key; [`compare`] goes along what [`memory`] holds in the same order, row by row, by [`digest`]; template
//! and outbox do the rest. All of it is one transaction on one snapshot, so that messages and memory move together: a run
//! that does not end has done nothing, and the next one finds everything as it was. However many rows there are, a page
//! of them is held.
//!
//! A process of its own does this, so that no delivery waits for it; [`due`] tells the worker when to start one. The
//! query runs with the rights of the role that made the sync, may not write, and looks for names where that role did.

mod capture;
pub mod compare;
mod digest;
pub mod due;
pub mod memory;
mod portion;
mod process;
pub mod query;
mod words;

pub use process::PROCESS_TYPE;

use self::capture::Capture;
use self::compare::{Counts, KeyFault, Limit, Side};
use self::digest::{Compared, Digest};
use self::memory::{Begun, End, Reader, Remembered, Removals, Writer};
use self::portion::Portion;
use self::query::CursorKind;
use crate::buffer::Operation;
use crate::outbox;
use crate::pg::pages::{self, Pages};
use crate::pg::trigger::{self, Rows, Tuple};
use crate::pg::{caller, cell, encoding};
use crate::render::Column;
use crate::shared::runs::Progress;
use crate::sync::{self, FirstRun, Query, Stored, Wanted};

/// Rows at the end of the memory that are billed as gone before what they took is given back.
const GONE_AT_A_TIME: usize = 100;

/// Locks what a sync's query reads, until the transaction ends. Before the run's snapshot: whoever truncates a table and
/// fills it again, or puts another in its place, has done so before that, or waits until the run has read all. Older
/// snapshots would find it empty.
pub fn lock(sync: i32) -> Result<(), String> {
    let stored = definition(sync)?;
    let query = query_of(&stored)?;
    let command = encoding::to_server(&query::command(&query.text, &query.key, None));
    pages::connected(|| caller::reading_as(query.run_as, &query.search_path, || pages::lock(&command)));
    Ok(())
}

fn definition(sync: i32) -> Result<Stored, String> {
    let stored = outbox::tables().and_then(|tables| sync::stored(&tables, &Wanted::Numbered(sync)));
    stored.ok_or_else(|| "the sync was dropped".into())
}

fn query_of(stored: &Stored) -> Result<&Query, String> {
    let query = stored.query.as_ref().ok_or("the sync has no query")?;
    if !caller::is_role(query.run_as) {
        return Err("the role with whose rights the query ran does not exist any more".into());
    }
    Ok(query)
}

/// Does a run whose beginning is written down, in the current subtransaction; or says what is wrong.
pub fn run(sync: i32, begun: Begun, progress: &Progress) -> Result<(), String> {
    let stored = &definition(sync)?;
    let query = query_of(stored)?;
    let state = memory::state(stored.id).map_err(words_of)?;
    let from = match &query.cursor {
        None => None,
        Some(column) => Some(query::From {
            column,
            kind: query.cursor_kind().ok_or_else(|| no_cursor(column))?,
            overlap: query.overlap.as_deref().unwrap_or_default(),
            high_water: state.high_water.as_deref(),
        }),
    };
    let command = encoding::to_server(&query::command(&query.text, &query.key, from));
    pages::connected(|| {
        let rows = caller::reading_as(query.run_as, &query.search_path, || Pages::open(&command, &[]));
        let rows = rows.ok_or("the query holds a zero byte")?;
        let columns = described(&rows);
        check_columns(query, &columns)?;
        let counting = stored.counting();
        let counts = |name: &str| {
            !stored.excluded().iter().any(|excluded| excluded == name)
                && (counting.is_empty() || counting.iter().any(|counting| counting == name))
        };
        let compared = Compared::new(&columns, counts);
        // Where it stands now: columns may have changed places.
        let cursor = from.and_then(|from| {
            let place = columns.iter().position(|(column, _)| column.name == from.column)?;
            let type_name = columns.get(place)?.1.clone();
            Some(Cursor { kind: from.kind, place, type_name })
        });
        let number = state.runs + 1;
        let capture = Capture::new(stored, columns.into_iter().map(|(column, _)| column).collect(), number)?;
        let mut run = Run {
            query,
            cursor,
            first: if state.runs == 0 && query.first_run == FirstRun::Remember {
                First::Remembered
            } else {
                First::Sent
            },
            sameness: match &state.compared {
                Some(before) if *before != encoding::storable(&compared.description) => Sameness::ByKey,
                _ => Sameness::ByDigest,
            },
            whole_rows: capture.needs_whole_rows(),
            fills_in: capture.needs_whole_rows() && !state.whole_rows && state.runs > 0,
            limit: Limit {
                remembered: state.row_count.unsigned_abs(),
                share: (begun.removals == Removals::Limited).then_some(query.max_removed),
            },
            compared,
            capture,
            writer: Writer::new(stored.id),
            counts: Counts::default(),
            high_water: None,
            last_key: None,
            progress,
        };
        run.compare(stored.id, rows)?;
        run.finish(stored.id, begun.run, &state)
    })
}

fn words_of(error: pgrx::spi::Error) -> String {
    format!("lago_push cannot read its own tables: {error}")
}

fn no_cursor(column: &str) -> String {
    format!("column \"{column}\" is of a type that no cursor can have; mend it with lago_push.alter_sync()")
}

/// The query's own columns, with the names of their types: what stands behind them is ours.
fn described(rows: &Pages) -> Vec<(Column, String)> {
    let described = trigger::typed_columns(rows.descriptor());
    let own = described.len().saturating_sub(query::ADDED_COLUMNS);
    described.into_iter().take(own).collect()
}

/// The columns must be those the sync was checked with: others would be compared, and sent, as what they are not.
fn check_columns(query: &Query, columns: &[(Column, String)]) -> Result<(), String> {
    for (column, type_name) in columns {
        match query.columns.iter().find(|known| known.name == column.name) {
            Some(known) if known.type_name == *type_name => {}
            Some(known) => {
                // What the server's own types are called does not need their schema.
                let [is, was] =
                    [type_name, &known.type_name].map(|name| name.trim_start_matches("pg_catalog."));
                return Err(format!(
                    "column \"{}\" of the query is of type {is} and was of type {was} when the sync was checked; if that is meant, give the query again: lago_push.alter_sync(…, query => …)",
                    column.name
                ));
            }
            None => {
                return Err(format!(
                    "the query has a column \"{}\" that it had not when the sync was checked; if that is meant, give the query again: lago_push.alter_sync(…, query => …)",
                    column.name
                ));
            }
        }
    }
    match query.columns.iter().find(|known| columns.iter().all(|(column, _)| column.name != known.name)) {
        None => Ok(()),
        Some(missing) => Err(format!(
            "the query has no column \"{}\" any more; if that is meant, give the query again: lago_push.alter_sync(…, query => …)",
            missing.name
        )),
    }
}

/// What becomes of rows nobody remembers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Sent,
    Remembered,
}

/// When a row is what it was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sameness {
    ByDigest,
    /// Other columns are compared than before, so there is nothing to tell a change by.
    ByKey,
}

const OTHER_COLUMNS: &str =
    "other columns are compared than before: rows that were there are taken for unchanged";

/// The column a run reads by.
struct Cursor {
    kind: CursorKind,
    /// Among the query's columns.
    place: usize,
    type_name: String,
}

struct Run<'a> {
    query: &'a Query,
    cursor: Option<Cursor>,
    first: First,
    sameness: Sameness,
    whole_rows: bool,
    /// Whole rows are kept from now on, and those remembered lack them.
    fills_in: bool,
    limit: Limit,
    compared: Compared,
    capture: Capture<'a>,
    writer: Writer,
    counts: Counts,
    /// The highest value of the cursor, in its order and as text.
    high_water: Option<(i64, Vec<u8>)>,
    last_key: Option<Vec<u8>>,
    progress: &'a Progress,
}

/// A row of the query, and what tells it from others.
struct Read {
    key: Vec<u8>,
    tuple: pgrx::pg_sys::HeapTuple,
}

impl Run<'_> {
    fn compare(&mut self, sync: i32, mut rows: Pages) -> Result<(), String> {
        let own = self.query.columns.len();
        let (mut whole, mut slot) = (Rows::new(rows.descriptor()), Rows::of_first(own, rows.descriptor()));
        // Of a query that reads only what is new, nothing that is not read can be gone.
        let mut memory = match self.cursor {
            None => Reader::all(sync),
            Some(_) => None,
        };
        let mut portion = Portion::first();
        loop {
            let fetch = || rows.fetch(portion.rows());
            let Some(page) = caller::reading_as(self.query.run_as, &self.query.search_path, fetch) else {
                break;
            };
            portion = Portion::after(page.len(), page.bytes());
            let mut read = Vec::with_capacity(page.len());
            for index in 0..page.len() {
                let tuple = page.tuple(index);
                let row = whole.show(tuple);
                read.push(Read { key: self.key(row, own)?, tuple });
                self.note_high_water(row, own)?;
            }
            let mut of_page = match self.cursor {
                Some(_) => Reader::of(sync, read.iter().map(|read| read.key.as_slice())),
                None => None,
            };
            let memory = of_page.as_mut().or(memory.as_mut());
            let compared = pages::in_own_memory(|| self.compare_page(read, &mut slot, memory));
            if let Some(of_page) = of_page {
                of_page.close();
            }
            compared?;
            self.progress.show(&self.counts);
            pgrx::check_for_interrupts!();
        }
        drop((whole, slot));
        caller::reading_as(self.query.run_as, &self.query.search_path, || rows.close());
        if let Some(mut memory) = memory {
            let left = self.limit.remembered.saturating_sub(self.met());
            self.check_removed(self.counts.removed.saturating_add(left))?;
            while memory.key().is_some() {
                pages::in_own_memory(|| {
                    for _ in 0..GONE_AT_A_TIME {
                        match memory.take() {
                            Some(gone) => self.is_gone(gone)?,
                            None => break,
                        }
                    }
                    Ok::<_, String>(())
                })?;
                self.progress.show(&self.counts);
                pgrx::check_for_interrupts!();
            }
            memory.close();
        }
        Ok(())
    }

    /// How many of those remembered have been met.
    fn met(&self) -> u64 {
        self.counts.changed + self.counts.unchanged + self.counts.removed
    }

    fn compare_page(
        &mut self,
        read: Vec<Read>,
        slot: &mut Rows,
        mut memory: Option<&mut Reader>,
    ) -> Result<(), String> {
        for Read { key, tuple } in read {
            loop {
                let remembered = memory.as_deref().and_then(Reader::key);
                match compare::next(Some(&key), remembered) {
                    Some(Side::Remembered) => {
                        if let Some(gone) = memory.as_deref_mut().and_then(Reader::take) {
                            self.is_gone(gone)?;
                        }
                    }
                    Some(Side::Both) => {
                        let before = memory.as_deref_mut().and_then(Reader::take);
                        if let Some(before) = before {
                            self.is_there_still(before, slot.show(tuple))?;
                        }
                        break;
                    }
                    Some(Side::Row) | None => {
                        self.is_new(key, slot.show(tuple))?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// The key of a row: the first column behind the query's own.
    fn key(&mut self, row: Tuple, own: usize) -> Result<Vec<u8>, String> {
        let key: Option<Vec<u8>> = cell::read(row.get(nth(own)));
        let names = || self.query.key.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        match compare::check_key(self.last_key.as_deref(), key.as_deref()) {
            Ok(_) => {}
            Err(KeyFault::Null) => {
                return Err(format!(
                    "a row of the query has no value in its key ({}): leave such rows out, or choose another key",
                    names()
                ));
            }
            Err(KeyFault::Repeated) => {
                return Err(format!(
                    "two rows of the query have the same key ({}): only one of them could be billed",
                    names()
                ));
            }
            Err(KeyFault::Unsorted) => {
                return Err("the rows of the query came in another order than asked for".into());
            }
        }
        self.counts.rows_read += 1;
        self.last_key.clone_from(&key);
        Ok(key.unwrap_or_default())
    }

    fn note_high_water(&mut self, row: Tuple, own: usize) -> Result<(), String> {
        let (Some(cursor), Some(column)) = (&self.cursor, &self.query.cursor) else { return Ok(()) };
        let (Some(value), Some(text)) =
            (row.get(nth(cursor.place)), cell::read::<Vec<u8>>(row.get(nth(own + 1))))
        else {
            return Err(format!(
                "a row of the query has no value in its cursor \"{column}\", and would never be read: leave such rows out, or give them one"
            ));
        };
        let value = cell::ordered(value, &cursor.type_name);
        // What lies ahead of the clock is no mark: everything until then would be passed over.
        if cursor.kind == CursorKind::Time("timestamptz") && value > crate::pg::process::now() {
            return Ok(());
        }
        if self.high_water.as_ref().is_none_or(|(highest, _)| value > *highest) {
            self.high_water = Some((value, text));
        }
        Ok(())
    }

    fn is_new(&mut self, key: Vec<u8>, row: Tuple) -> Result<(), String> {
        self.counts.added += 1;
        let digest = self.compared.digest(row)?;
        let kept = self.remembered(key, digest, row);
        if self.first == First::Sent {
            self.capture.row(Operation::Insert, row, None)?;
        }
        self.writer.add(kept).map_err(words_of)
    }

    fn is_there_still(&mut self, before: Remembered, row: Tuple) -> Result<(), String> {
        let digest = self.compared.digest(row)?;
        let is_same = self.sameness == Sameness::ByKey || digest == before.digest;
        if is_same {
            self.counts.unchanged += 1;
            if digest == before.digest && !self.fills_in {
                return Ok(());
            }
        } else {
            self.counts.changed += 1;
            self.capture.changed(row, before.row.as_deref())?;
        }
        let kept = self.remembered(before.key, digest, row);
        self.writer.change(kept).map_err(words_of)
    }

    fn is_gone(&mut self, gone: Remembered) -> Result<(), String> {
        self.counts.removed += 1;
        self.check_removed(self.counts.removed)?;
        self.capture.removed(gone.row.as_deref())?;
        self.writer.remove(gone.key).map_err(words_of)
    }

    fn check_removed(&self, removed: u64) -> Result<(), String> {
        if self.limit.allows(removed) {
            return Ok(());
        }
        Err(format!(
            "at least {removed} of {} rows would be gone, more than the share of {} that max_removed allows; if that is right: lago_push.run_now(…, removals => 'accept')",
            self.limit.remembered, self.query.max_removed
        ))
    }

    fn remembered(&self, key: Vec<u8>, digest: Digest, row: Tuple) -> Remembered {
        let row = if self.whole_rows { self.capture.whole(row) } else { None };
        Remembered { key, digest, row }
    }

    fn finish(mut self, sync: i32, run: i64, state: &memory::State) -> Result<(), String> {
        self.writer.write().map_err(words_of)?;
        let high_water = self.high_water.map(|(_, text)| encoding::to_utf8(&text));
        let compared = encoding::storable(&self.compared.description);
        let end = End {
            counts: self.counts,
            row_count: self.counts.remain(state.row_count.unsigned_abs()),
            compared: &compared,
            whole_rows: self.whole_rows,
            high_water,
            remark: (self.sameness == Sameness::ByKey).then_some(OTHER_COLUMNS),
        };
        memory::end(sync, run, end).map_err(words_of)
    }
}

/// The number of a column, from 1, by its place.
fn nth(place: usize) -> i16 {
    i16::try_from(place + 1).unwrap_or(i16::MAX)
}
