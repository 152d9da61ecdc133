//! Memory: what a query gave when it ran last, and what its runs came to. The only Rust that names these tables.
//!
//! Beside comparing. It promises the run a view of what was remembered when it began, in the order of the keys, and the
//! next run all that this one has noted, if and only if its messages are in the outbox. What is held at once is a page
//! of it.

use super::compare::Counts;
use super::digest::Digest;
use super::due::{self, Past};
use super::portion::Portion;
use crate::pg::pages::{Page, Pages};
use crate::pg::trigger::{Rows, Tuple};
use crate::pg::{array, cell, heap};
use crate::schedule::{Schedule, UnixMicros};
use crate::sync;
use pgrx::prelude::*;

pub type Result<T> = std::result::Result<T, pgrx::spi::Error>;

/// What is noted is written when there is so much of it.
const ROWS_AT_A_TIME: usize = 1000;
const BYTES_AT_A_TIME: usize = 1 << 20;

/// Whether the tables are there: the SQL of 0.1.0 has none.
pub fn is_there() -> bool {
    heap::extension_schema().is_some_and(|schema| heap::find(c"remembered", schema).is_some())
}

// ---- the worker's side -------------------------------------------------------------------------

/// A query that is to run.
#[derive(Debug)]
pub struct Planned {
    pub past: Past,
    /// When it is due; none if nobody has asked for it and it has no schedule.
    pub due: Option<UnixMicros>,
}

/// The queries of all syncs that were activated, by sync. Those whose destination is held because this is a copy of
/// another server's database rest.
pub fn planned() -> Result<Vec<(i32, Planned)>> {
    // Without a statement: a worker that is woken has better things to do than to plan one that finds nothing.
    if !is_there() || !sync::any_query() {
        return Ok(Vec::new());
    }
    Spi::connect(|client| {
        let micros = |of: &str| format!("(extract(epoch from {of}) * 1000000)::bigint");
        let sql = format!(
            "select s.id, s.schedule, {}, {}, broken.runs, {}, {}
               from lago_push.sync s
               join lago_push.memory m on m.sync_id = s.id
               left join lateral (select r.id, r.started_at from lago_push.run r
                                   where r.sync_id = s.id and r.state in ('succeeded', 'failed')
                                   order by r.id desc limit 1) ended on true
               left join lateral (select count(*)::integer as runs, max(r.started_at) as last from lago_push.run r
                                   where r.sync_id = s.id and r.id > coalesce(ended.id, 0)) broken on true
              where s.query is not null and s.state <> 'draft'
                and not exists (select from lago_push.destination_hold h
                                 where h.destination_id = s.destination_id and h.why like '%; {}%')",
            micros("m.activated_at"),
            micros("ended.started_at"),
            micros("broken.last"),
            micros("(select min(q.asked_at) from lago_push.run_request q where q.sync_id = s.id)"),
            crate::guard::ADVICE,
        );
        let mut planned = Vec::new();
        for row in client.select(sql.as_str(), None, &[])? {
            let Some(id) = row.get::<i32>(1)? else { continue };
            let schedule = row.get::<String>(2)?.and_then(|text| Schedule::parse(&text).ok());
            let past = Past {
                activated: row.get(3)?.unwrap_or_default(),
                ended: row.get(4)?,
                broken: row.get::<i32>(5)?.unwrap_or_default().unsigned_abs(),
                broken_at: row.get(6)?,
                asked: row.get(7)?,
            };
            planned.push((id, Planned { past, due: due::next(schedule.as_ref(), &past) }));
        }
        Ok(planned)
    })
}

// ---- the run's side ----------------------------------------------------------------------------

/// Whether a run may take any number of rows for removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removals {
    Limited,
    Accepted,
}

/// A run that is written down.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    pub run: i64,
    pub removals: Removals,
}

/// Writes down that a run begins, and that those before it which have not ended never will. None if the sync does not
/// run any more.
pub fn begin(sync: i32) -> Result<Option<Begun>> {
    Spi::connect_mut(|client| {
        client.update(
            "update lago_push.run r
                set state = 'interrupted', finished_at = clock_timestamp(), error = $2
              where r.sync_id = $1 and r.state = 'running'",
            None,
            &[sync.into(), INTERRUPTED.into()],
        )?;
        let rows = client.update(
            "with running as (
                 select s.id from lago_push.sync s
                  where s.id = $1 and s.query is not null and s.state <> 'draft'
                    for key share
             )
             insert into lago_push.run (sync_id) select r.id from running r
             returning id, (select count(*) > 0 from lago_push.run_request q
                             where q.sync_id = $1 and q.removals = 'accepted')",
            None,
            &[sync.into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let removals = match row.get(2)? {
            Some(true) => Removals::Accepted,
            _ => Removals::Limited,
        };
        Ok(row.get(1)?.map(|run| Begun { run, removals }))
    })
}

const INTERRUPTED: &str = "the run's process, or the server, ended before the run did; it is begun again";

/// What the runs of a sync have come to.
#[derive(Debug, Default)]
pub struct State {
    /// How many have ended well.
    pub runs: i64,
    pub row_count: i64,
    /// What they compared.
    pub compared: Option<String>,
    /// Whether they kept whole rows.
    pub whole_rows: bool,
    pub high_water: Option<String>,
}

pub fn state(sync: i32) -> Result<State> {
    Spi::connect(|client| {
        let rows = client.select(
            "select m.runs, m.row_count, m.compared, m.whole_rows, m.high_water
               from lago_push.memory m where m.sync_id = $1",
            None,
            &[sync.into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Ok(State::default()) };
        Ok(State {
            runs: row.get(1)?.unwrap_or_default(),
            row_count: row.get(2)?.unwrap_or_default(),
            compared: row.get(3)?,
            whole_rows: row.get(4)?.unwrap_or_default(),
            high_water: row.get(5)?,
        })
    })
}

/// A row as it is remembered. Key and row are in the database's encoding.
#[derive(Debug)]
pub struct Remembered {
    pub key: Vec<u8>,
    pub digest: Digest,
    /// JSON text, where whole rows are kept.
    pub row: Option<Vec<u8>>,
}

/// What is remembered, in the order of the keys.
pub struct Reader {
    pages: Pages,
    page: Option<Page>,
    portion: Portion,
    /// Of the page.
    next: usize,
    slot: Rows,
    /// The one that comes next.
    ahead: Option<Remembered>,
}

impl Reader {
    /// All that is remembered of a sync. Within a connection of SPI.
    pub fn all(sync: i32) -> Option<Reader> {
        let query = format!(
            "select r.key, r.digest, r.row from lago_push.remembered r where r.sync_id = {sync} order by r.key"
        );
        Reader::open(Pages::open(query.as_bytes(), &[])?)
    }

    /// What is remembered of some keys.
    pub fn of<'a>(sync: i32, keys: impl Iterator<Item = &'a [u8]>) -> Option<Reader> {
        let query = format!(
            "select r.key, r.digest, r.row from lago_push.remembered r
              where r.sync_id = {sync} and r.key = any ($1) order by r.key"
        );
        let keys = array::of_texts(keys.map(Some));
        Reader::open(Pages::open(query.as_bytes(), &[keys])?)
    }

    fn open(pages: Pages) -> Option<Reader> {
        let slot = Rows::new(pages.descriptor());
        let mut reader = Reader { pages, page: None, portion: Portion::first(), next: 0, slot, ahead: None };
        reader.step();
        Some(reader)
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.ahead.as_ref().map(|ahead| ahead.key.as_slice())
    }

    /// Takes the one that comes next.
    pub fn take(&mut self) -> Option<Remembered> {
        let taken = self.ahead.take();
        self.step();
        taken
    }

    fn step(&mut self) {
        if self.page.as_ref().is_none_or(|page| self.next >= page.len()) {
            self.page = self.pages.fetch(self.portion.rows());
            self.next = 0;
            if let Some(page) = &self.page {
                self.portion = Portion::after(page.len(), page.bytes());
            }
        }
        self.ahead = self.page.as_ref().map(|page| remembered(self.slot.show(page.tuple(self.next))));
        self.next += 1;
    }

    pub fn close(self) {
        drop(self.slot);
        drop(self.page);
        self.pages.close();
    }
}

fn remembered(row: Tuple) -> Remembered {
    let bytes = |number| row.get(number).and_then(|datum| cell::read::<Vec<u8>>(Some(datum)));
    let digest = row.get(2).and_then(|datum| cell::read::<pgrx::Uuid>(Some(datum)));
    Remembered {
        key: bytes(1).unwrap_or_default(),
        digest: digest.map(|digest| *digest.as_bytes()).unwrap_or_default(),
        row: bytes(3),
    }
}

/// What a run has found out and is to be remembered.
pub struct Writer {
    sync: i32,
    added: Vec<Remembered>,
    changed: Vec<Remembered>,
    removed: Vec<Vec<u8>>,
    bytes: usize,
}

impl Writer {
    pub fn new(sync: i32) -> Writer {
        Writer { sync, added: Vec::new(), changed: Vec::new(), removed: Vec::new(), bytes: 0 }
    }

    pub fn add(&mut self, row: Remembered) -> Result<()> {
        self.bytes += row.row.as_ref().map_or(0, Vec::len);
        self.added.push(row);
        self.write_if_much()
    }

    pub fn change(&mut self, row: Remembered) -> Result<()> {
        self.bytes += row.row.as_ref().map_or(0, Vec::len);
        self.changed.push(row);
        self.write_if_much()
    }

    pub fn remove(&mut self, key: Vec<u8>) -> Result<()> {
        self.removed.push(key);
        self.write_if_much()
    }

    fn write_if_much(&mut self) -> Result<()> {
        let most = self.added.len().max(self.changed.len()).max(self.removed.len());
        if most < ROWS_AT_A_TIME && self.bytes < BYTES_AT_A_TIME {
            return Ok(());
        }
        self.write()
    }

    /// Writes what is left.
    pub fn write(&mut self) -> Result<()> {
        self.bytes = 0;
        let (added, changed, removed) = (
            std::mem::take(&mut self.added),
            std::mem::take(&mut self.changed),
            std::mem::take(&mut self.removed),
        );
        Spi::connect_mut(|client| {
            if !removed.is_empty() {
                let keys = array::of_texts(removed.iter().map(|key| Some(key.as_slice())));
                client.update(
                    "delete from lago_push.remembered r where r.sync_id = $1 and r.key = any ($2)",
                    None,
                    &[self.sync.into(), keys],
                )?;
            }
            if !changed.is_empty() {
                let (keys, digests, rows) = columns(&changed);
                client.update(
                    "update lago_push.remembered r set digest = n.digest, row = n.row
                       from unnest($2, $3, $4) n(key, digest, row)
                      where r.sync_id = $1 and r.key = n.key",
                    None,
                    &[self.sync.into(), keys, digests, rows],
                )?;
            }
            if !added.is_empty() {
                let (keys, digests, rows) = columns(&added);
                client.update(
                    "insert into lago_push.remembered (sync_id, key, digest, row)
                     select $1, n.key, n.digest, n.row from unnest($2, $3, $4) n(key, digest, row)",
                    None,
                    &[self.sync.into(), keys, digests, rows],
                )?;
            }
            Ok(())
        })
    }
}

type Parameter = pgrx::datum::DatumWithOid<'static>;

fn columns(rows: &[Remembered]) -> (Parameter, Parameter, Parameter) {
    let digests: Vec<pgrx::Uuid> = rows.iter().map(|row| pgrx::Uuid::from_bytes(row.digest)).collect();
    (
        array::of_texts(rows.iter().map(|row| Some(row.key.as_slice()))),
        digests.into(),
        array::of_jsons(rows.iter().map(|row| row.row.as_deref())),
    )
}

/// What a run that ends well leaves to the next one.
pub struct End<'a> {
    pub counts: Counts,
    pub row_count: u64,
    pub compared: &'a str,
    pub whole_rows: bool,
    pub high_water: Option<String>,
    pub remark: Option<&'a str>,
}

/// Ends a run, in its own transaction.
///
/// # Panics
/// Raises a serialization failure if the sync was changed since the run began.
pub fn end(sync: i32, run: i64, end: End<'_>) -> Result<()> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Spi::connect_mut(|client| {
        client.update("select from lago_push.sync s where s.id = $1 for share", None, &[sync.into()])?;
        client.update(
            "update lago_push.memory m
                set runs = m.runs + 1, row_count = $2, compared = $3, whole_rows = $4, high_water = coalesce($5, m.high_water)
              where m.sync_id = $1",
            None,
            &[
                sync.into(),
                number(end.row_count).into(),
                end.compared.into(),
                end.whole_rows.into(),
                end.high_water.into(),
            ],
        )?;
        client.update(
            "update lago_push.run r
                set state = 'succeeded', finished_at = clock_timestamp(), rows_read = $2, added = $3, changed = $4,
                    removed = $5, unchanged = $6, remark = $7
              where r.id = $1",
            None,
            &[
                run.into(),
                number(end.counts.rows_read).into(),
                number(end.counts.added).into(),
                number(end.counts.changed).into(),
                number(end.counts.removed).into(),
                number(end.counts.unchanged).into(),
                end.remark.into(),
            ],
        )?;
        forget(client, sync, run)
    })
}

/// Whether what was asked for has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Rest,
    /// It is to run once more, at once.
    Again,
}

/// Writes down that a run has failed, after all it did was undone.
pub fn fail(sync: i32, run: i64, why: &str, rows_read: u64, then: Then) -> Result<()> {
    Spi::connect_mut(|client| {
        client.update(
            "update lago_push.run r set state = 'failed', finished_at = clock_timestamp(), error = $2, rows_read = $3
              where r.id = $1",
            None,
            &[run.into(), why.into(), i64::try_from(rows_read).unwrap_or(i64::MAX).into()],
        )?;
        client.update(
            "update lago_push.memory m set failures = m.failures + 1 where m.sync_id = $1",
            None,
            &[sync.into()],
        )?;
        match then {
            Then::Rest => forget(client, sync, run),
            Then::Again => {
                client.update(
                    "insert into lago_push.run_request (sync_id, removals) select r.sync_id, 'limited'
                       from lago_push.run r where r.id = $1",
                    None,
                    &[run.into()],
                )?;
                Ok(())
            }
        }
    })
}

/// Forgets what was asked for before a run began, and runs whose time is over.
fn forget(client: &mut pgrx::spi::SpiClient<'_>, sync: i32, run: i64) -> Result<()> {
    client.update(
        "delete from lago_push.run_request q using lago_push.run r
          where r.id = $2 and q.sync_id = $1 and q.asked_at <= r.started_at",
        None,
        &[sync.into(), run.into()],
    )?;
    client.update(
        "delete from lago_push.run r
          where r.sync_id = $1 and r.id < $2 and r.started_at < clock_timestamp() - $3 * interval '1 s'",
        None,
        &[sync.into(), run.into(), crate::settings::keep_runs_seconds().into()],
    )?;
    Ok(())
}
