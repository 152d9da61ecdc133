//! Trying: what a sync would send, and sending one, before it counts.

use super::check::names;
use super::{refuse, refuse_unbound};
use crate::buffer::Operation;
use crate::call::{Call, Method};
use crate::defaults::Origin;
use crate::destination;
use crate::endpoint::Batch;
use crate::message::{self, Message};
use crate::outbox;
use crate::payload;
use crate::pg::pages::{self, Pages};
use crate::pg::trigger::{self, Apart};
use crate::pg::{caller, encoding, process, xact};
use crate::recipe::{Recipe, Whole};
use crate::request::Shape;
use crate::run;
use crate::sender::{Done, Errand, Job, Senders, Transport, USER_AGENT};
use crate::suggest::{self, ColumnKind};
use crate::sync::{self, Query, Stored, Wanted};
use crate::verdict::{Fate, Outcome, Verdict};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// What lago_push calls itself.
#[pg_extern(name = "_user_agent", immutable)]
fn user_agent() -> &'static str {
    USER_AGENT
}

/// Renders rows of a sync's source as they would be captured. The payload is in the database's
/// encoding, empty for a call without a body, null where the row cannot be rendered.
#[pg_extern(name = "_rendered", volatile)]
#[allow(clippy::type_complexity, reason = "rows of five columns")]
fn rendered(
    sync_id: i32,
    rows: i32,
) -> TableIterator<
    'static,
    (
        name!(operation, &'static str),
        name!(method, &'static str),
        name!(path, Option<String>),
        name!(payload, Option<Vec<u8>>),
        name!(warnings, Vec<String>),
    ),
> {
    let Some(stored) = outbox::tables().and_then(|tables| sync::stored(&tables, &Wanted::Numbered(sync_id)))
    else {
        return TableIterator::new(Vec::new());
    };
    if let Some(query) = &stored.query {
        return TableIterator::new(rendered_of_query(&stored, query, rows));
    }
    // SAFETY: an ordinary reader's lock on a table the caller owns, kept until the transaction ends.
    let relation =
        unsafe { pgrx::PgRelation::with_lock(stored.source, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    let recipe = match stored.bind(relation.as_ptr()) {
        Ok(recipe) => recipe,
        Err(reason) => {
            refuse_unbound(&stored, reason);
            return TableIterator::new(Vec::new());
        }
    };
    let mut ids = HashSet::new();
    let mut shown = |operation| {
        let query = encoding::to_server(&query(&stored, operation, rows));
        // The filter and the mapper are the code of whoever owns the table, of whom the caller is a member.
        let owner = trigger::owner(relation.as_ptr());
        let shown = caller::query_as(owner, &query, &[], |rows| {
            let rows = rows.into_iter().flatten().map(|row| Apart::new(row, relation.as_ptr()));
            let rows = rows.map(|row| show(&recipe, Origin::Look, operation, &row, &mut ids));
            rows.collect::<Vec<_>>()
        });
        let mut shown = shown.unwrap_or_default();
        if leaves_filter_aside(&stored, operation) {
            let why = "the filter compares old and new, so it is left aside here: not every update of this row is sent";
            shown.iter_mut().for_each(|(.., warnings)| warnings.push(why.into()));
        }
        shown
    };
    // A mapper or a filter may write, and what it writes may be captured: looking must send nothing.
    let shown: Vec<_> = xact::undone(|| stored.operations().flat_map(&mut shown).collect());
    TableIterator::new(shown)
}

/// The same of the first rows of a query, as its next run would capture them.
fn rendered_of_query(stored: &Stored, query: &Query, rows: i32) -> Vec<Shown> {
    let number = run::memory::state(stored.id).map_or(0, |state| state.runs) + 1;
    let look = encoding::to_server(&run::query::look(&query.text, rows));
    let mut ids = HashSet::new();
    let mut shown = Vec::new();
    xact::undone(|| {
        pages::connected(|| {
            let mut taken = Vec::new();
            caller::reading_as(query.run_as, &query.search_path, || {
                let Some(mut pages) = Pages::open(&look, &[]) else { return };
                if let Some(page) = u16::try_from(rows).ok().and_then(|rows| pages.fetch(rows)) {
                    taken.extend((0..page.len()).filter_map(|row| page.composite(row)).map(Apart::by_itself));
                }
                pages.close();
            });
            let Some(first) = taken.first() else { return };
            let recipe = match stored.bind_query(first.typed_columns()) {
                Ok(recipe) => recipe,
                Err(reason) => return refuse_unbound(stored, reason),
            };
            for operation in stored.operations() {
                let origin = Origin::Run { number };
                shown.extend(taken.iter().map(|row| show(&recipe, origin, operation, row, &mut ids)));
            }
        });
    });
    shown
}

/// The rows a sync would capture, as far as its filter can be told from the rows alone. NEW and OLD
/// are what the filter calls the row.
fn query(stored: &Stored, operation: Operation, rows: i32) -> String {
    let table = trigger::qualified_name(stored.source);
    let name = if operation == Operation::Delete { "old" } else { "new" };
    let filter = stored.filter.as_deref().filter(|_| !leaves_filter_aside(stored, operation));
    let condition = filter.map(|filter| format!(" where ({filter}\n)")).unwrap_or_default();
    format!("select {name} from {table} as {name}{condition} limit {rows}")
}

/// The path of a call whose path no row decides.
fn shown_path(call: &Call) -> &str {
    match call.batch {
        Batch::UpTo { path, .. } => path,
        Batch::One => &call.path,
    }
}

/// An update is shown as if it had changed nothing, and whether it did is what a filter that names the
/// old row asks.
fn leaves_filter_aside(stored: &Stored, operation: Operation) -> bool {
    operation == Operation::Update && stored.filter.as_deref().is_some_and(names_old)
}

/// Whether a condition names the old row: as a word of its own, not as the end of `threshold`.
fn names_old(filter: &str) -> bool {
    filter.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word.eq_ignore_ascii_case("old"))
}

type Shown = (&'static str, &'static str, Option<String>, Option<Vec<u8>>, Vec<String>);

fn show(
    recipe: &Recipe,
    origin: Origin,
    operation: Operation,
    row: &Apart,
    ids: &mut HashSet<String>,
) -> Shown {
    let old = (operation != Operation::Insert).then(|| row.tuple());
    let view = recipe.view(origin, operation, row.tuple(), old);
    let (call, mut payload, mut warnings) = (recipe.call(), Vec::new(), Vec::new());
    let own = shown_path(call);
    let dead = |reason: &str| format!("this row becomes a dead letter: {reason}");
    let (mut shown, read) = match recipe.payload(&view, &mut payload) {
        Err(reason) => {
            return (
                operation.word(),
                call.method.word(),
                Some(own.into()),
                None,
                vec![encoding::storable(&dead(&reason))],
            );
        }
        Ok(Whole::Skipped) => {
            let why = "the mapper returns null for this row: nothing is sent";
            return (operation.word(), call.method.word(), Some(own.into()), None, vec![why.into()]);
        }
        Ok(Whole::Payload(read)) => (payload.clone(), read),
    };
    if let Ok(value) = encoding::json_from_server(&payload) {
        warnings.extend(payload::warnings(call, &value, unix_seconds()));
        if let Some(id) = value.get("transaction_id")
            && !ids.insert(id.to_string())
        {
            warnings.push(
                "another row shown here has the same transaction_id: Lago bills one of them only".into(),
            );
        }
    }
    let path = match recipe.address(&view, read, &mut payload) {
        Ok(path) => {
            shown = payload;
            path.map_or_else(|| own.to_owned(), String::from)
        }
        Err(reason) => {
            warnings.insert(0, dead(&reason));
            own.to_owned()
        }
    };
    let warnings = warnings.iter().map(|warning| encoding::storable(warning)).collect();
    (operation.word(), call.method.word(), Some(path), Some(shown), warnings)
}

/// Drafts a template, in UTF-8. Names are JSON in UTF-8, kinds are words of `sql/trying.sql`.
#[pg_extern(name = "_suggest", immutable)]
fn suggest(
    endpoint: &[u8],
    table: &[u8],
    columns: Option<&[u8]>,
    kinds: Vec<String>,
    primary_key: Option<&[u8]>,
) -> Vec<u8> {
    let Some(call) = Call::of(&String::from_utf8_lossy(endpoint), None, None, None) else {
        super::check::refuse_endpoint(&String::from_utf8_lossy(endpoint));
        return Vec::new();
    };
    let columns: Vec<suggest::Column> = names(columns)
        .into_iter()
        .zip(kinds)
        .map(|(name, kind)| suggest::Column { name, kind: kind_of(&kind) })
        .collect();
    let table = String::from_utf8_lossy(table);
    suggest::template(&call, &table, &columns, &names(primary_key)).into_bytes()
}

fn kind_of(word: &str) -> ColumnKind {
    match word {
        "text" => ColumnKind::Text,
        "integer" => ColumnKind::Integer,
        "decimal" => ColumnKind::Decimal,
        "float" => ColumnKind::Float,
        "boolean" => ColumnKind::Boolean,
        "moment" => ColumnKind::Moment,
        "json" => ColumnKind::Json,
        _ => ColumnKind::Other,
    }
}

/// Makes one call of a sync from this very session, and says what came back. `given` says that the
/// payload is the caller's own, whole: what belongs into the path is still in it.
#[pg_extern(name = "_send", volatile)]
#[allow(clippy::type_complexity, reason = "one row of five columns")]
fn send(
    sync_id: i32,
    path: Option<String>,
    payload: &[u8],
    given: bool,
) -> TableIterator<
    'static,
    (
        name!(status, Option<i32>),
        name!(reply, Option<String>),
        name!(verdict, &'static str),
        name!(message, String),
        name!(seconds, f64),
    ),
> {
    TableIterator::once(match try_once(sync_id, path, payload, given) {
        Ok(tried) => tried,
        Err(why) => {
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "the body cannot be sent",
                Some(why),
                "lago_push.preview() shows what bodies look like.",
            );
            (None, None, "rejected", String::new(), 0.0)
        }
    })
}

type Tried = (Option<i32>, Option<String>, &'static str, String, f64);

fn try_once(sync_id: i32, path: Option<String>, payload: &[u8], given: bool) -> Result<Tried, String> {
    let gone = || "the sync is gone".to_owned();
    let tables = outbox::tables().ok_or_else(gone)?;
    let stored = sync::stored(&tables, &Wanted::Numbered(sync_id)).ok_or_else(gone)?;
    let call = stored.call()?;
    let (mut payload, mut path) = (String::from_utf8_lossy(payload).into_owned(), path);
    if given {
        let value = serde_json::from_str(&payload).map_err(|_| "it is nested too deeply".to_owned())?;
        let (own_path, body) = payload::request(&call, value)?;
        // What the row has filled is not filled again.
        path = if call.path.contains("{{") { path } else { own_path.or(path) };
        payload = body.map(|body| body.to_string()).unwrap_or_default();
    }
    if call.method == Method::Delete {
        payload.clear();
    }
    // The call's own path is what it is without one.
    let path = path.filter(|path| *path != call.path && *path != shown_path(&call));
    let directory = destination::read().map_err(|error| error.to_string())?;
    let destination = directory.destinations.get(&stored.destination).ok_or_else(gone)?;
    let shape = Arc::new(Shape { call, headers: destination::headers(Some(stored.headers)) });
    let message = Message {
        id: 0,
        sync: sync_id,
        operation: b'i',
        payload,
        path,
        key: None,
        entered: 0,
        attempts: 0,
        waits: 0,
        tried: message::Tried::Perhaps,
        tid: message::Tid::default(),
    };
    let mut senders = Senders::new().map_err(|error| error.kind().to_string())?;
    let began = Instant::now();
    let transport = Arc::new(Transport::new(destination.route.clone()));
    let mut make = |messages, errand| {
        let (transport, shape) = (Arc::clone(&transport), Arc::clone(&shape));
        make_request(&mut senders, Job { lane: stored.destination, transport, shape, messages, errand })
    };
    let done = make(vec![message], Errand::Deliver)?;
    let seconds = began.elapsed().as_secs_f64();
    let mut judged = done.verdict;
    let mut asked = done.messages;
    // What the worker would ask at once is asked here too.
    for _ in 0..MOST_QUESTIONS {
        let look = match judged.fates.first() {
            Some(Fate::LookUp(look)) if look.wait.is_zero() => look.clone(),
            _ => break,
        };
        let answer = make(asked, Errand::LookUp(look))?;
        judged = answer.verdict;
        asked = answer.messages;
    }
    let (word, message) = in_words(judged, &shape.call);
    let (status, reply) = match done.outcome {
        Outcome::Reply(reply) => {
            let body = encoding::storable(&String::from_utf8_lossy(&reply.body));
            (Some(i32::from(reply.status)), Some(body))
        }
        _ => (None, None),
    };
    Ok((status, reply, word, encoding::storable(&message), seconds))
}

/// Questions about one message that are asked while somebody waits.
const MOST_QUESTIONS: usize = 5;

/// Makes one request and waits for its end.
fn make_request(senders: &mut Senders, job: Job) -> Result<Done, String> {
    senders.send(job).map_err(|_| "no thread could be started".to_owned())?;
    // Cancelling leaves by unwinding; the thread ends with its request, and nobody asks for its reply.
    loop {
        match senders.take_done() {
            Some(done) => return Ok(done),
            None => process::wait_for_bell(senders.descriptor()),
        }
    }
}

/// A verdict on one message, in the words of the design: delivered, rejected, retry, hold.
fn in_words(judged: Verdict, call: &Call) -> (&'static str, String) {
    let why = judged.condition.why().map(str::to_owned);
    match judged.fates.into_iter().next() {
        Some(Fate::Delivered) if matches!(call.batch, Batch::UpTo { .. }) => {
            ("delivered", "Lago has taken it; whether it bills it, current usage in Lago shows".into())
        }
        Some(Fate::Delivered) => ("delivered", "Lago has done it".into()),
        Some(Fate::Duplicate) => ("delivered", "Lago has it already: it was sent before".into()),
        Some(Fate::Rejected { reason }) => ("rejected", reason),
        Some(Fate::Retry { reason } | Fate::Wait { reason }) => ("retry", reason),
        Some(Fate::LookUp(look)) => {
            ("retry", format!("{}; Lago would be asked what became of it", look.reason))
        }
        Some(Fate::Resend | Fate::ResendAlone | Fate::Split | Fate::SplitAndRemember) => {
            ("retry", "it would be sent again at once".into())
        }
        Some(Fate::Return) | None => {
            ("hold", why.unwrap_or_else(|| "the destination takes nothing at present".into()))
        }
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::names_old;

    #[test]
    fn a_filter_names_the_old_row_by_a_word_of_its_own() {
        for filter in ["old.n < new.n", "new is distinct from OLD", "(Old).n > 1"] {
            assert!(names_old(filter), "{filter}");
        }
        for filter in ["new.threshold > 1", "new.sold", "new.old_price > 1", "new.n > 0"] {
            assert!(!names_old(filter), "{filter}");
        }
    }
}
