//! Outbox: the only Rust that names its tables.
//!
//! Two sides. Backends write messages in the transaction that caused them, straight into heap and
//! index. The one worker reads them in the order of their ids, and settles: deletes what has left,
//! counts it, keeps what died. What the worker is promised: whatever a read returns is committed and
//! on disk; what capture is promised: nothing here waits for anything but the disk.

use crate::backlog::Seen;
use crate::buffer::{Body, Buffer, Entry, HEADER, Subtransaction};
use crate::cap;
use crate::cursor::{Range, Running};
use crate::message::{Message, Tid, Tried};
use crate::pg::delete::delete;
use crate::pg::heap;
use crate::pg::index::{self, Direction, Keys, Path, Row};
use crate::pg::insert::{Value, insert};
use crate::pg::{encoding, process, xact};
use crate::shared::caps::Counted;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::OwnedPreparedStatement;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// The private tables capture touches, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    pub sync: pg_sys::Oid,
    message: pg_sys::Oid,
    message_by_id: pg_sys::Oid,
    message_id: pg_sys::Oid,
    dead_letter: pg_sys::Oid,
}

/// The column of `lago_push.message` that names its sync, by number.
const SYNC_OF_A_MESSAGE: i16 = 3;

thread_local! {
    static TABLES: Cell<Option<Tables>> = const { Cell::new(None) };
    /// Set when they may have been replaced: their numbers still tell which relations are ours.
    static DOUBTFUL: Cell<bool> = const { Cell::new(false) };
}

/// The extension's tables in this database; none where it is not installed.
pub fn tables() -> Option<Tables> {
    if let Some(tables) = TABLES.get().filter(|_| !DOUBTFUL.get()) {
        return Some(tables);
    }
    let schema = heap::extension_schema()?;
    let tables = Tables {
        sync: heap::find(c"sync", schema)?,
        message: heap::find(c"message", schema)?,
        message_by_id: heap::find(c"message_is_numbered", schema)?,
        message_id: heap::find(c"message_id", schema)?,
        dead_letter: heap::find(c"dead_letter", schema)?,
    };
    TABLES.set(Some(tables));
    DOUBTFUL.set(false);
    Some(tables)
}

fn schema() -> pg_sys::Oid {
    heap::extension_schema().unwrap_or(pg_sys::InvalidOid)
}

/// Whether a relation is one of the tables this backend has met.
pub fn is_own_table(relation: pg_sys::Oid) -> bool {
    TABLES.get().is_some_and(|tables| {
        [tables.sync, tables.message, tables.message_id, tables.dead_letter].contains(&relation)
    })
}

/// The tables may have been replaced (DROP EXTENSION, CREATE EXTENSION).
pub fn doubt_tables() {
    DOUBTFUL.set(true);
}

// ---- the writers' side -------------------------------------------------------------------------

/// Writes what `buffer` holds for the (sub)transaction `current`.
pub fn write(buffer: &mut Buffer, current: Subtransaction) {
    let Some(tables) = tables() else {
        // The extension was dropped by this very transaction: its messages go with it.
        return buffer.written(current);
    };
    // Before the first id is drawn: the worker's account of late commits rests on this order.
    xact::assign_xid();
    buffer.number(|| heap::next_value(tables.message_id));
    let enqueued_at = process::now();
    let (entries, arena) = buffer.writable(current);
    if entries.is_empty() {
        return;
    }
    let (dead, alive): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| matches!(entry.body, Body::Dead(_)));
    let written = by_sync(alive.iter().copied());
    let mut arena = Arena(arena);
    let mut entered = Entered::of(entries);
    let mut counted = |entry: &Entry| entered.take(entry.sync);
    insert(
        tables.message,
        alive.into_iter().map(|entry| message_row(entry, enqueued_at, counted(entry), &mut arena)),
    );
    insert(tables.dead_letter, dead.into_iter().map(|entry| dead_row(entry, enqueued_at, counted(entry))));
    for (sync, messages) in written {
        cap::wrote(current, sync, messages.into());
    }
    buffer.written(current);
}

/// How many entries there are of each sync.
fn by_sync<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<(i32, i32)> {
    let mut counts: Vec<(i32, i32)> = Vec::new();
    for entry in entries {
        match counts.iter_mut().find(|(sync, _)| *sync == entry.sync) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => counts.push((entry.sync, 1)),
        }
    }
    counts
}

/// Counts the committed messages of a sync, those of the transaction under way aside, up to `most`.
pub fn count_committed(sync: i32, most: i64) -> Counted {
    let Some(tables) = tables() else { return Counted::All(0) };
    let found = heap::count_of_others(tables.message, SYNC_OF_A_MESSAGE, sync, most);
    if found < most { Counted::All(found) } else { Counted::UpTo(found) }
}

/// How many rows one write adds, by sync. The first of a sync's bears the number and the others none,
/// so that what is counted and what is there can be told apart.
struct Entered(Vec<(i32, i32)>);

impl Entered {
    fn of(entries: &[Entry]) -> Entered {
        Entered(by_sync(entries.iter()))
    }

    fn take(&mut self, sync: i32) -> i32 {
        let found = self.0.iter_mut().find(|(counted, _)| *counted == sync);
        found.map_or(0, |(_, count)| std::mem::take(count))
    }
}

/// The arena, lent out piece by piece.
struct Arena<'a>(&'a mut [u8]);

/// Columns in the order of sql/tables.sql.
fn message_row(entry: &Entry, enqueued_at: i64, entered: i32, arena: &mut Arena<'_>) -> [Value; 8] {
    let payload = match entry.body {
        Body::Payload { from, length } => Value::text_in_place(&mut arena.0[from..from + HEADER + length]),
        Body::Dead(_) => Value::NULL,
    };
    [
        Value::int8(entry.id),
        Value::int8(enqueued_at),
        Value::int4(entry.sync),
        Value::int4(entered),
        Value::char(entry.operation.letter()),
        payload,
        entry.path.as_deref().map_or(Value::NULL, |path| Value::text(path.as_bytes())),
        entry.key.map_or(Value::NULL, Value::int8),
    ]
}

/// Columns in the order of sql/tables.sql.
fn dead_row(entry: &Entry, now: i64, entered: i32) -> [Value; 16] {
    let Body::Dead(dead) = &entry.body else { return [Value::NULL; 16] };
    [
        Value::int8(entry.id),
        Value::int8(now),
        Value::int8(now),
        if entry.sync == 0 { Value::NULL } else { Value::int4(entry.sync) },
        Value::int4(0),
        Value::NULL,
        Value::char(entry.operation.letter()),
        Value::text(encoding::storable(&dead.sync_name).as_bytes()),
        Value::text(encoding::storable(&dead.reason).as_bytes()),
        Value::NULL,
        dead.source_row.as_deref().map_or(Value::NULL, Value::text),
        Value::NULL,
        Value::NULL,
        dead.old_row.as_deref().map_or(Value::NULL, Value::text),
        Value::int4(entered),
        entry.key.map_or(Value::NULL, Value::int8),
    ]
}

// ---- the views' side ---------------------------------------------------------------------------

/// The messages, by id.
pub struct Messages(pub Path);

impl Messages {
    /// Columns in the order of sql/tables.sql, up to the last that is looked at.
    pub const COLUMNS: usize = 6;
    /// All of them.
    const WHOLE: usize = 8;

    pub fn seen(row: &Row<'_>) -> Seen {
        Seen { enqueued_at: row.int8(2), sync: row.int4(3), entered: row.int4(4), bytes: row.text_bytes(6) }
    }

    fn found(id: i64, row: &Row<'_>) -> Found {
        let message = Message {
            id,
            sync: row.int4(3),
            operation: row.char(5),
            payload: row.text(6).unwrap_or_default(),
            path: row.text(7),
            key: row.int8_if_any(8),
            entered: row.int4(4),
            attempts: 0,
            waits: 0,
            tried: Tried::Perhaps,
            tid: row.tid(),
        };
        Found { message, earlier: Earlier::Nothing, enqueued_at: row.int8(2) }
    }
}

/// The dead letters of a sync, by id.
pub struct Letters(pub Path);

impl Letters {
    /// Columns in the order of sql/tables.sql, up to the last that is looked at.
    pub const COLUMNS: usize = 15;

    pub fn seen(row: &Row<'_>) -> Seen {
        Seen { enqueued_at: row.int8(2), sync: row.int4(4), entered: row.int4(15), bytes: 0 }
    }
}

pub fn messages() -> Option<Messages> {
    let tables = tables()?;
    Some(Messages(Path { table: tables.message, index: tables.message_by_id, keys: Keys::Number }))
}

pub fn letters(sync: i32) -> Option<Letters> {
    let (schema, tables) = (heap::extension_schema()?, tables()?);
    let index = heap::find(c"dead_letter_by_sync", schema)?;
    Some(Letters(Path { table: tables.dead_letter, index, keys: Keys::Under(sync) }))
}

// ---- the worker's side -------------------------------------------------------------------------

/// The worker's statements, planned once.
pub struct Statements {
    retries: OwnedPreparedStatement,
    retries_between: OwnedPreparedStatement,
    begin: OwnedPreparedStatement,
    take_back: OwnedPreparedStatement,
    delete: OwnedPreparedStatement,
    forget_retries: OwnedPreparedStatement,
    retry: OwnedPreparedStatement,
    bury: OwnedPreparedStatement,
    bury_all: OwnedPreparedStatement,
    count: OwnedPreparedStatement,
    health: OwnedPreparedStatement,
    hold: OwnedPreparedStatement,
    end_holds: OwnedPreparedStatement,
    end_pauses: OwnedPreparedStatement,
    keep_replies: OwnedPreparedStatement,
    expire_replies: OwnedPreparedStatement,
    /// Those that need what version 0.1.0 of the tables does not have.
    newer: Option<Newer>,
}

/// What came with version 0.2.0 of the tables.
struct Newer {
    move_start: OwnedPreparedStatement,
    start: OwnedPreparedStatement,
}

pub type Result<T> = std::result::Result<T, spi::Error>;

impl Statements {
    pub fn prepare() -> Result<Statements> {
        use pgrx::pg_sys::BuiltinOid::*;
        Spi::connect(|client| {
            let plan = |sql: &str, types: &[pg_sys::BuiltinOid]| -> Result<OwnedPreparedStatement> {
                let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
                Ok(client.prepare(sql, &types)?.keep())
            };
            let retries = |of: &str| {
                format!(
                    "select r.message_id, r.attempts,
                            extract(epoch from r.next_attempt_at - clock_timestamp())::float8,
                            r.last_error = $1
                       from lago_push.retry r where r.message_id {of}"
                )
            };
            let is_newer = heap::find(c"outbox_start", schema()).is_some();
            let pace = if is_newer {
                ", messages_per_second = coalesce($7, h.messages_per_second),
                   paced_at = case when $7 is null then h.paced_at else clock_timestamp() end"
            } else {
                ""
            };
            Ok(Statements {
                retries: plan(&retries("= any ($2)"), &[TEXTOID, INT8ARRAYOID])?,
                retries_between: plan(&retries("between $2 and $3"), &[TEXTOID, INT8OID, INT8OID])?,
                begin: plan(
                    "insert into lago_push.retry (message_id, attempts, next_attempt_at, last_error)
                     select m.id, 0, clock_timestamp(), $2 from lago_push.message m where m.id = any ($1)
                     on conflict on constraint one_retry_per_message do update set last_error = excluded.last_error",
                    &[INT8ARRAYOID, TEXTOID],
                )?,
                take_back: plan(
                    "delete from lago_push.retry r where r.message_id = any ($1) and r.last_error = $2",
                    &[INT8ARRAYOID, TEXTOID],
                )?,
                delete: plan("delete from lago_push.message m where m.id = any ($1)", &[INT8ARRAYOID])?,
                forget_retries: plan("delete from lago_push.retry r where r.message_id = any ($1)", &[INT8ARRAYOID])?,
                retry: plan(
                    "insert into lago_push.retry (message_id, attempts, next_attempt_at, last_error)
                     select $1, $2, clock_timestamp() + $3 * interval '1 s', $4
                      where exists (select from lago_push.message m where m.id = $1)
                     on conflict on constraint one_retry_per_message do update
                        set attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at,
                            last_error = excluded.last_error",
                    &[INT8OID, INT4OID, FLOAT8OID, TEXTOID],
                )?,
                bury: plan(
                    "insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, reply_status,
                                                        operation, sync_name, reason, payload, reply, path, key)
                     select m.id, m.enqueued_at, clock_timestamp(), m.sync_id, $2, $3, m.operation, s.name, $4, m.payload, $5, m.path, m.key
                       from lago_push.message m join lago_push.sync s on s.id = m.sync_id
                      where m.id = $1",
                    &[INT8OID, INT4OID, INT4OID, TEXTOID, TEXTOID],
                )?,
                bury_all: plan(
                    "with orphan as (delete from lago_push.message m where m.sync_id = $1 returning m.*)
                     insert into lago_push.dead_letter (id, enqueued_at, died_at, attempts, operation, sync_name, reason, payload, path, entered, key)
                     select o.id, o.enqueued_at, clock_timestamp(), 0, o.operation, 'sync ' || $1 || ' (dropped)',
                            'the sync was dropped before the transaction that wrote this message committed', o.payload, o.path, o.entered, o.key
                       from orphan o",
                    &[INT4OID],
                )?,
                count: plan(
                    "update lago_push.account a
                        set delivered = a.delivered + $2, duplicate = a.duplicate + $3, captured = a.captured + $4,
                            last_delivered_at = case when $2 > 0 then clock_timestamp() else a.last_delivered_at end,
                            last_error = coalesce($5, a.last_error),
                            last_error_at = case when $5 is null then a.last_error_at else clock_timestamp() end
                      where a.sync_id = $1",
                    &[INT4OID, INT8OID, INT8OID, INT8OID, TEXTOID],
                )?,
                health: plan(
                    &format!(
                        "update lago_push.destination_health h
                            set requests = h.requests + $2, failures = h.failures + $3,
                                next_attempt_at = clock_timestamp() + $4 * interval '1 s',
                                last_status = coalesce($5, h.last_status),
                                last_error = coalesce($6, h.last_error),
                                last_error_at = case when $6 is null then h.last_error_at else clock_timestamp() end
                                {pace}
                          where h.destination_id = $1"
                    ),
                    &[INT4OID, INT8OID, INT8OID, FLOAT8OID, INT4OID, TEXTOID, FLOAT8OID],
                )?,
                hold: plan(
                    "insert into lago_push.destination_hold (destination_id, why)
                     select d.id, $2 from lago_push.destination d where d.id = $1
                     on conflict on constraint one_hold_per_destination do nothing",
                    &[INT4OID, TEXTOID],
                )?,
                end_holds: plan(
                    "delete from lago_push.destination_hold h where h.destination_id = any ($1)",
                    &[INT4ARRAYOID],
                )?,
                end_pauses: plan(
                    "update lago_push.destination_health h set next_attempt_at = null where h.next_attempt_at is not null",
                    &[],
                )?,
                keep_replies: plan(
                    "insert into lago_push.reply as r (id, sync, operation, payload, status, reply, keep_until)
                     select m.id, s.name, case m.operation when 'i' then 'insert' when 'u' then 'update' else 'delete' end,
                            nullif(m.payload, '')::jsonb, k.status, k.reply::jsonb, clock_timestamp() + s.keep_replies
                       from unnest($1, $2, $3) k(id, status, reply)
                       join lago_push.message m on m.id = k.id
                       join lago_push.sync s on s.id = m.sync_id
                      where s.keep_replies is not null
                      order by m.id
                     on conflict on constraint reply_is_numbered do update
                        set sync = excluded.sync, operation = excluded.operation, payload = excluded.payload,
                            status = excluded.status, reply = excluded.reply, replied_at = excluded.replied_at,
                            keep_until = excluded.keep_until",
                    &[INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID],
                )?,
                expire_replies: plan(
                    "delete from lago_push.reply r where r.keep_until < clock_timestamp()",
                    &[],
                )?,
                newer: if is_newer {
                    Some(Newer {
                        move_start: plan(
                            "with moved as (update lago_push.outbox_start o set id = $1 returning o.id)
                             insert into lago_push.outbox_start (id)
                             select $1 where not exists (select from moved)",
                            &[INT8OID],
                        )?,
                        start: plan("select o.id from lago_push.outbox_start o", &[])?,
                    })
                } else {
                    None
                },
            })
        })
    }
}

/// A message as read.
pub struct Found {
    pub message: Message,
    pub earlier: Earlier,
    /// Microseconds since 2000: not long before the commit, and never after it.
    pub enqueued_at: i64,
}

/// What became of an earlier attempt, as far as it was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    Nothing,
    /// It failed, and earned the message a wait.
    Failed(Option<Duration>),
    /// A call that must not be repeated was begun.
    Begun,
}

/// Stands in the place of an error while a call that must not be repeated is under way.
const BEGUN: &str = "a call is under way";

/// Notes that these messages' calls begin, in the current transaction. What ends this process before it
/// has settled them leaves the note.
pub fn begin_calls(statements: &Statements, messages: &[i64]) -> Result<()> {
    Spi::connect_mut(|client| {
        client.update(&statements.begin, None, &[messages.to_vec().into(), BEGUN.into()]).map(drop)
    })
}

/// Takes such notes back: the calls were not begun after all.
pub fn take_back_calls(statements: &Statements, messages: &[i64]) -> Result<()> {
    Spi::connect_mut(|client| {
        client.update(&statements.take_back, None, &[messages.to_vec().into(), BEGUN.into()]).map(drop)
    })
}

/// What one read saw.
pub struct Page {
    pub found: Vec<Found>,
    /// The transactions that had not ended in the snapshot of this read.
    pub running: Running,
}

/// Which messages a read asks for.
pub enum Span<'a> {
    After(i64),
    Between(Range),
    /// Of these syncs only.
    Of(Range, &'a [i32]),
}

/// So many ids for each message on a page are close together.
const DENSE: usize = 4;

/// Reads at most `most` messages, in the order of their ids.
pub fn read(statements: &Statements, span: &Span<'_>, most: usize) -> Result<Page> {
    let running = xact::running_in_snapshot();
    let (range, syncs) = match span {
        Span::After(id) => (Range { from: id.saturating_add(1), to: i64::MAX }, None),
        Span::Between(range) => (*range, None),
        Span::Of(range, syncs) => (*range, Some(*syncs)),
    };
    let mut found = Vec::new();
    if let Some(Messages(path)) = messages() {
        let _stopped_early = index::along(path, Messages::WHOLE, |walk| {
            walk.visit(range, Direction::Up, |id, row| {
                if let Some(row) = row.filter(|row| syncs.is_none_or(|syncs| syncs.contains(&row.int4(3)))) {
                    found.push(Messages::found(id, &row));
                }
                if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        });
    }
    if !found.is_empty() {
        add_retries(statements, &mut found)?;
    }
    Ok(Page { found, running })
}

fn add_retries(statements: &Statements, found: &mut [Found]) -> Result<()> {
    let (Some(first), Some(last)) = (found.first(), found.last()) else { return Ok(()) };
    let (first, last) = (first.message.id, last.message.id);
    let retries: BTreeMap<i64, (i32, f64, bool)> = Spi::connect(|client| {
        let rows = if usize::try_from(last - first).is_ok_and(|ids| ids < found.len() * DENSE) {
            // One look at the index, and not one for each.
            client.select(&statements.retries_between, None, &[BEGUN.into(), first.into(), last.into()])?
        } else {
            let ids: Vec<i64> = found.iter().map(|found| found.message.id).collect();
            client.select(&statements.retries, None, &[BEGUN.into(), ids.into()])?
        };
        rows.map(|row| {
            let fields = (
                row.get(2)?.unwrap_or_default(),
                row.get(3)?.unwrap_or_default(),
                row.get(4)?.unwrap_or_default(),
            );
            Ok((row.get(1)?.unwrap_or_default(), fields))
        })
        .collect::<Result<_>>()
    })?;
    for found in found {
        if let Some((attempts, seconds, begun)) = retries.get(&found.message.id) {
            found.message.attempts = attempts.unsigned_abs();
            found.message.waits = u32::from(*attempts == 0 && !begun);
            found.earlier = match begun {
                true => Earlier::Begun,
                false => Earlier::Failed(Duration::try_from_secs_f64(*seconds).ok()),
            };
        }
    }
    Ok(())
}

/// Ends the worker's own holds of these destinations, in the current transaction.
pub fn end_holds(statements: &Statements, destinations: Vec<i32>) -> Result<()> {
    Spi::connect_mut(|client| client.update(&statements.end_holds, None, &[destinations.into()]).map(drop))
}

/// Notes that every destination is tried again now, in the current transaction.
pub fn end_pauses(statements: &Statements) -> Result<()> {
    Spi::connect_mut(|client| client.update(&statements.end_pauses, None, &[]).map(drop))
}

/// Below which id there is no message any more, as far as it was noted.
pub fn start(statements: &Statements) -> Result<i64> {
    let Some(newer) = &statements.newer else { return Ok(0) };
    Spi::connect(|client| {
        let noted = client.select(&newer.start, Some(1), &[])?.next();
        noted.map_or(Ok(0), |row| Ok(row.get(1)?.unwrap_or(0)))
    })
}

/// Makes dead letters of all messages of a sync that is gone, in the current transaction.
pub fn bury_all(statements: &Statements, sync: i32) -> Result<()> {
    Spi::connect_mut(|client| client.update(&statements.bury_all, None, &[sync.into()]).map(drop))
}

/// Everything one settling transaction does.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Messages that have left the outbox for good, delivered or dead, and where they stood.
    pub gone: Vec<(i64, Tid)>,
    /// Messages whose entry among the retries, if they have one, is to go.
    pub forgotten_retries: Vec<i64>,
    pub dead: Vec<Dead>,
    pub retries: Vec<Again>,
    pub accounts: BTreeMap<i32, Account>,
    pub health: BTreeMap<i32, Health>,
    /// Destinations that are held from now on, and why.
    pub holds: BTreeMap<i32, String>,
    /// What Lago answered to messages among `gone` whose syncs keep replies.
    pub replies: Vec<Kept>,
    /// Below this id there is no message any more.
    pub start: Option<i64>,
}

#[derive(Debug)]
pub struct Kept {
    pub id: i64,
    pub sync: i32,
    pub status: u16,
    /// JSON, in ASCII.
    pub reply: String,
}

#[derive(Debug)]
pub struct Dead {
    pub id: i64,
    pub attempts: u32,
    pub reason: String,
    pub reply_status: Option<u16>,
    pub reply: Option<String>,
}

#[derive(Debug)]
pub struct Again {
    pub id: i64,
    pub attempts: u32,
    pub wait: Duration,
    pub why: String,
}

/// What a sync's account moves by.
#[derive(Debug, Default)]
pub struct Account {
    pub delivered: i64,
    pub duplicate: i64,
    /// What left the outbox entered as so many.
    pub captured: i64,
    /// So many messages left the outbox.
    pub left: i64,
    pub last_error: Option<String>,
}

/// What a destination's health moves by.
#[derive(Debug, Default)]
pub struct Health {
    pub requests: i64,
    pub failures: i64,
    pub pause: Option<Duration>,
    pub last_status: Option<u16>,
    pub last_error: Option<String>,
    /// Messages a second it takes, if it is known and there is enough to do.
    pub pace: Option<f64>,
}

impl Settlement {
    /// How many messages of each sync leave the outbox.
    pub fn left_by_sync(&self) -> Vec<(i32, i64)> {
        let accounts = self.accounts.iter().filter(|(_, account)| account.left > 0);
        accounts.map(|(sync, account)| (*sync, account.left)).collect()
    }

    /// Whether all it says is that messages were delivered.
    pub fn is_plain(&self) -> bool {
        self.dead.is_empty()
            && self.retries.is_empty()
            && self.forgotten_retries.is_empty()
            && self.holds.is_empty()
            && self.replies.is_empty()
            && self.health.values().all(|health| health.failures == 0)
    }

    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.retries.is_empty() && self.accounts.is_empty() && self.health.is_empty()
    }
}

/// How long keeping replies may take, users' triggers included: meanwhile nothing is delivered.
const KEEPING_LIMIT: Duration = Duration::from_secs(10);

/// How keeping replies went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// In time; not necessarily without errors.
    InTime,
    TooLong,
}

/// Keeps replies, in the current transaction. What goes wrong with one, in a user's trigger most
/// likely, costs that reply and nothing else. Gives what could not be kept, by sync.
fn keep_replies(statements: &Statements, replies: &[Kept]) -> BTreeMap<i32, String> {
    let mut unkept = BTreeMap::new();
    if replies.is_empty() {
        return unkept;
    }
    let deadline = Instant::now() + KEEPING_LIMIT;
    let keep = |replies: &[Kept]| {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(xact::CANCELED.to_owned());
        }
        xact::protected_for(left, || change_replies(statements, replies)).map_err(|caught| caught.sqlstate)
    };
    let Err(sqlstate) = keep(replies) else { return unkept };
    for reply in replies {
        // One by one: the others shall not pay for it. A second attempt at one alone tells nothing new.
        let kept = if replies.len() == 1 { Err(sqlstate.clone()) } else { keep(std::slice::from_ref(reply)) };
        if let Err(sqlstate) = kept {
            unkept.insert(reply.sync, sqlstate);
        }
    }
    unkept
}

/// Adds replies; or, given none, removes those that have expired.
fn change_replies(statements: &Statements, replies: &[Kept]) {
    let changed = Spi::connect_mut(|client| {
        // A deferred trigger of a user would fail at commit, where it would take the delivery with it.
        client.update("set constraints all immediate", None, &[])?;
        if replies.is_empty() {
            return client.update(&statements.expire_replies, None, &[]).map(drop);
        }
        let ids: Vec<i64> = replies.iter().map(|reply| reply.id).collect();
        let statuses: Vec<i32> = replies.iter().map(|reply| reply.status.into()).collect();
        let texts: Vec<&str> = replies.iter().map(|reply| reply.reply.as_str()).collect();
        client.update(&statements.keep_replies, None, &[ids.into(), statuses.into(), texts.into()]).map(drop)
    });
    if let Err(error) = changed {
        pgrx::error!("lago_push cannot write replies: {error}");
    }
}

/// Removes the replies whose time is over, in the current transaction.
pub fn expire_replies(statements: &Statements) {
    if let Err(caught) = xact::protected_for(KEEPING_LIMIT, || change_replies(statements, &[])) {
        pgrx::warning!("lago_push cannot remove old replies: {}", unkept_reason(&caught.sqlstate));
    }
}

fn unkept_reason(sqlstate: &str) -> String {
    match sqlstate {
        xact::CANCELED => format!(
            "a trigger on lago_push.reply failed: it took longer than {} s (SQLSTATE {sqlstate})",
            KEEPING_LIMIT.as_secs()
        ),
        // What jsonb cannot hold.
        "22P02" | "22P05" => format!("a reply cannot be stored: SQLSTATE {sqlstate}"),
        _ => format!("a trigger on lago_push.reply failed: SQLSTATE {sqlstate}"),
    }
}

/// Writes a settlement down, in the current transaction.
pub fn settle(statements: &Statements, mut settlement: Settlement) -> Result<Keeping> {
    // First, while the messages are there.
    let unkept = keep_replies(statements, &settlement.replies);
    let took_too_long = unkept.values().any(|sqlstate| sqlstate == xact::CANCELED);
    for (sync, sqlstate) in unkept {
        let reason = unkept_reason(&sqlstate);
        pgrx::warning!("lago_push could not keep a reply of sync {sync}: {reason}");
        settlement.accounts.entry(sync).or_default().last_error = Some(reason);
    }
    let int4 = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    Spi::connect_mut(|client| {
        for dead in settlement.dead {
            let status = dead.reply_status.map(i32::from);
            client.update(
                &statements.bury,
                None,
                &[
                    dead.id.into(),
                    int4(dead.attempts).into(),
                    status.into(),
                    encoding::storable(&dead.reason).into(),
                    dead.reply.map(|reply| encoding::storable(&reply)).into(),
                ],
            )?;
        }
        if !settlement.forgotten_retries.is_empty() {
            client.update(&statements.forget_retries, None, &[settlement.forgotten_retries.into()])?;
        }
        let missed = tables().map_or_else(Vec::new, |tables| delete(tables.message, &settlement.gone));
        if !missed.is_empty() {
            client.update(&statements.delete, None, &[missed.into()])?;
        }
        for again in settlement.retries {
            client.update(
                &statements.retry,
                None,
                &[
                    again.id.into(),
                    int4(again.attempts).into(),
                    again.wait.as_secs_f64().into(),
                    encoding::storable(&again.why).into(),
                ],
            )?;
        }
        for (sync, account) in settlement.accounts {
            client.update(
                &statements.count,
                None,
                &[
                    sync.into(),
                    account.delivered.into(),
                    account.duplicate.into(),
                    account.captured.into(),
                    account.last_error.map(|error| encoding::storable(&error)).into(),
                ],
            )?;
        }
        for (destination, health) in settlement.health {
            let pause = health.pause.map(|pause| pause.as_secs_f64());
            client.update(
                &statements.health,
                None,
                &[
                    destination.into(),
                    health.requests.into(),
                    health.failures.into(),
                    pause.into(),
                    health.last_status.map(i32::from).into(),
                    health.last_error.map(|error| encoding::storable(&error)).into(),
                    health.pace.into(),
                ],
            )?;
        }
        if let (Some(newer), Some(start)) = (&statements.newer, settlement.start) {
            client.update(&newer.move_start, None, &[start.into()])?;
        }
        for (destination, why) in settlement.holds {
            client.update(&statements.hold, None, &[destination.into(), encoding::storable(&why).into()])?;
        }
        Ok(if took_too_long { Keeping::TooLong } else { Keeping::InTime })
    })
}
