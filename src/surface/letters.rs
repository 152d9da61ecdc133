//! Letters: what giving dead letters another try needs Rust for.

use crate::defaults::Origin;
use crate::pg::trigger::{self, Apart};
use crate::pg::{caller, encoding, pages, xact};
use crate::recipe::{Made, Recipe};
use crate::sync::{self, Query, Stored, Wanted};
use crate::{buffer::Operation, outbox};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Renders the row of a dead letter again, by the sync as it is now. Gives the payload, in the
/// database's encoding, the path, and what it is put in order by; or that there is nothing to send any more; or the reason why it
/// still cannot be rendered. The rows are JSON text, in the database's encoding too. What the template
/// leaves out is made of the letter's number and the time of its capture.
#[pg_extern(name = "_render_letter", volatile)]
#[allow(clippy::type_complexity, reason = "one row of five columns")]
fn render_letter(
    sync_id: i32,
    operation: &str,
    source_row: &[u8],
    old_row: Option<&[u8]>,
    letter: i64,
    captured_unix_micros: i64,
) -> TableIterator<
    'static,
    (
        name!(payload, Option<Vec<u8>>),
        name!(path, Option<String>),
        name!(skipped, bool),
        name!(reason, Option<Vec<u8>>),
        name!(key, Option<i64>),
    ),
> {
    let origin = Origin::Letter { id: letter, unix_micros: captured_unix_micros };
    TableIterator::once(match render(sync_id, origin, operation, source_row, old_row) {
        Ok((payload, Made::Message { path, key })) => {
            (Some(payload), path.map(String::from), false, None, key)
        }
        Ok((_, Made::Skipped)) => (None, None, true, None, None),
        Err(reason) => (None, None, false, Some(encoding::storable(&reason).into_bytes()), None),
    })
}

fn render(
    sync_id: i32,
    origin: Origin,
    operation: &str,
    source_row: &[u8],
    old_row: Option<&[u8]>,
) -> Result<(Vec<u8>, Made), String> {
    let gone = || "the sync is gone".to_owned();
    let tables = outbox::tables().ok_or_else(gone)?;
    let stored = sync::stored(&tables, &Wanted::Numbered(sync_id)).ok_or_else(gone)?;
    let operation = match operation {
        "i" => Operation::Insert,
        "u" => Operation::Update,
        _ => Operation::Delete,
    };
    if let Some(query) = &stored.query {
        return render_of_query(&stored, query, origin, operation, source_row, old_row);
    }
    // SAFETY: an ordinary reader's lock, kept until the transaction ends.
    let relation =
        unsafe { pgrx::PgRelation::with_lock(stored.source, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    let relation = relation.as_ptr();
    let recipe = stored.bind(relation)?;
    check_kept(&recipe, source_row)?;
    let table = trigger::qualified_name(stored.source);
    let rows = [Some(source_row), old_row];
    let parameters: Vec<&[u8]> = rows.into_iter().flatten().collect();
    let selects: Vec<String> = (1..=parameters.len())
        .map(|number| format!("select pg_catalog.json_populate_record(null::{table}, ${number})"))
        .collect();
    let query = encoding::to_server(&selects.join(" union all "));
    let mut payload = Vec::new();
    let made = xact::protected(|| {
        // A type's check is the code of whoever owns the table, who need not be the caller.
        let owner = trigger::owner(relation);
        caller::query_as(owner, &query, &parameters, |rows| {
            let rows: Vec<Apart> = rows.into_iter().flatten().map(|row| Apart::new(row, relation)).collect();
            let (row, old) = (rows.first()?.tuple(), rows.get(1).map(Apart::tuple));
            // A deleted row is its own older version.
            let old = if operation == Operation::Delete { Some(row) } else { old };
            Some(recipe.make_from(origin, operation, row, old, &mut payload))
        })
    });
    match made {
        Ok(made) => Ok((payload, made.flatten().ok_or_else(|| "the kept row is empty".to_owned())??)),
        Err(caught) => Err(format!("the kept row no longer fits the table: SQLSTATE {}", caught.sqlstate)),
    }
}

/// A column that was renamed or added since would be null, and be billed as if it had been.
fn check_kept(recipe: &Recipe, source_row: &[u8]) -> Result<(), String> {
    let kept: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&encoding::to_utf8(source_row)).map_err(|_| "the kept row is no object")?;
    match recipe.named().find(|column| !kept.contains_key(*column)) {
        Some(column) => Err(format!("the kept row has no column \"{column}\"")),
        None => Ok(()),
    }
}

/// The same for a row of a query, whose columns are those the sync was checked with.
fn render_of_query(
    stored: &Stored,
    query: &Query,
    origin: Origin,
    operation: Operation,
    source_row: &[u8],
    old_row: Option<&[u8]>,
) -> Result<(Vec<u8>, Made), String> {
    let select = encoding::to_server(&query.row_of_json(1));
    let mut payload = Vec::new();
    let made = xact::protected(|| {
        let taken_apart = |row: &[u8]| {
            let json = pages::json(row);
            caller::reading_as(query.run_as, &query.search_path, || {
                pages::connected(|| pages::first(&select, &[json], Apart::by_itself))
            })
        };
        let empty = || "the kept row is empty".to_owned();
        let row = taken_apart(source_row).ok_or_else(empty)?;
        let old = old_row.map(|old| taken_apart(old).ok_or_else(empty)).transpose()?;
        let recipe = stored.bind_query(row.typed_columns())?;
        check_kept(&recipe, source_row)?;
        // A deleted row is its own older version.
        let old = match operation {
            Operation::Delete => Some(row.tuple()),
            Operation::Insert | Operation::Update => old.as_ref().map(Apart::tuple),
        };
        recipe.make_from(origin, operation, row.tuple(), old, &mut payload)
    });
    match made {
        Ok(made) => Ok((payload, made?)),
        Err(caught) => Err(format!("the kept row no longer fits the query: SQLSTATE {}", caught.sqlstate)),
    }
}

/// Which of some dead letters a filter picks. `letters` is a JSON array of rows of
/// `lago_push.dead_letters`; both are in the database's encoding. The filter is the caller's SQL, and
/// runs with the caller's rights, which need not include those to read other syncs' letters.
#[pg_extern(name = "_filter_letters", volatile)]
fn filter_letters(filter: &[u8], letters: &[u8]) -> Vec<i64> {
    const BEFORE: &[u8] = b"select dead_letters.id from pg_catalog.json_to_recordset($1) as dead_letters (
        id bigint, sync text, operation text, payload text, path text, source_row jsonb, reason text,
        reply_status integer, reply text, attempts integer, died_at timestamptz) where (";
    let query = [BEFORE, filter, b"\n)"].concat();
    let ids = caller::query(&query, &[letters], |rows| {
        rows.into_iter().flatten().map(|id| id.value() as i64).collect::<Vec<_>>()
    });
    ids.unwrap_or_default()
}
