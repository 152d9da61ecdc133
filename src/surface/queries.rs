//! Queries: what a sync without a table needs Rust for, before its first run and beside it.

use super::check::{names, refuse_fault};
use super::refuse;
use crate::call::Call;
use crate::pg::pages::{self, Pages};
use crate::pg::{caller, encoding, process, trigger, xact};
use crate::recipe::{self, Sources, Texts};
use crate::render::Column;
use crate::shared::runs::{UnderWay, under_way};
use crate::{capture, shared};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::time::Duration;

/// Where the caller looks for names, as text in UTF-8.
#[pg_extern(name = "_search_path", volatile)]
fn search_path() -> Vec<u8> {
    caller::search_path().into_bytes()
}

/// Runs a query for a moment, and gives its columns: a JSON array of objects of name and type. Query, path and
/// columns are in UTF-8.
#[pg_extern(name = "_query_columns", volatile)]
fn query_columns(query: &[u8], search_path: &[u8], run_as: pg_sys::Oid) -> Vec<u8> {
    let query = String::from_utf8_lossy(query);
    let path = String::from_utf8_lossy(search_path);
    if !caller::is_one_select(&encoding::to_server(&query)) {
        refuse(
            PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            "the query is not one SELECT",
            Some("It is run on a schedule, and may read only.".into()),
            "Give one statement, without a semicolon: query => $$select id, amount from public.invoices$$.",
        );
    }
    let look = encoding::to_server(&format!("select q.* from (\n{query}\n) q"));
    // What it calls may have been meant to write; nothing of it stays.
    let columns = xact::undone(|| {
        pages::connected(|| {
            caller::reading_as(run_as, &path, || {
                let mut pages = Pages::open(&look, &[])?;
                let columns = trigger::typed_columns(pages.descriptor());
                drop(pages.fetch(1));
                pages.close();
                Some(columns)
            })
        })
    });
    let columns = columns.unwrap_or_default();
    if let Some((twice, _)) = columns.iter().enumerate().find_map(|(index, (column, _))| {
        columns.iter().take(index).find(|(earlier, _)| earlier.name == column.name)
    }) {
        refuse(
            PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
            format!("the query has two columns \"{}\"", encoding::storable(&twice.name)),
            Some("A template could not tell them apart.".into()),
            "Give one of them another name: select …, b.id as other_id.",
        );
    }
    let columns: Vec<serde_json::Value> = columns
        .into_iter()
        .map(|(column, type_name)| serde_json::json!({ "name": column.name, "type": type_name }))
        .collect();
    serde_json::Value::Array(columns).to_string().into_bytes()
}

/// Refuses a template, path or order that cannot be applied to a query's columns, or that Lago would not bill. `columns`
/// and `key` are JSON arrays of names; all is in UTF-8.
#[pg_extern(name = "_check_query_recipe", volatile)]
#[allow(clippy::too_many_arguments, reason = "a row of lago_push.sync")]
fn check_query_recipe(
    template: Option<&[u8]>,
    columns: &[u8],
    types: Vec<pg_sys::Oid>,
    key: &[u8],
    endpoint: &[u8],
    method: Option<&str>,
    path: Option<&[u8]>,
    root: Option<&str>,
    operations: Vec<String>,
    exclude: Option<&[u8]>,
    order_by: Option<&[u8]>,
) {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let (template, path, order_by) = (text(template), text(path), text(order_by));
    let endpoint = &*String::from_utf8_lossy(endpoint);
    let Some(call) = Call::of(endpoint, method, path.as_deref(), root) else {
        return super::check::refuse_endpoint(endpoint);
    };
    let columns = names(Some(columns)).into_iter().zip(types).zip(1..);
    let columns = columns.map(|((name, type_oid), number)| Column { name, number, type_oid }).collect();
    let sources = Sources::of_query(columns, names(exclude), &names(Some(key)));
    let texts = Texts { template: template.as_deref(), path: path.as_deref(), order_by: order_by.as_deref() };
    match recipe::check(&call, texts, false, &sources) {
        Ok(needs) if needs.old_row && operations.iter().all(|operation| operation == "insert") => {
            super::check::refuse_old();
        }
        Ok(_) => {}
        Err(fault) => refuse_fault(fault, "the query", |_| false, &sources),
    }
}

/// Has the worker look which queries are due, when the calling transaction commits.
#[pg_extern(name = "_wake_for_run", volatile)]
fn wake_for_run() {
    shared::own_slot();
    capture::ask_for_run_at_commit();
}

/// Ends the run of a sync that is under way, and waits until it has: what it has written would be in the way of who
/// drops the sync.
#[pg_extern(name = "_end_run", volatile)]
fn end_run(sync_id: i32) {
    process::wait_until(LONGEST_END, || !shared::runs::end(sync_id));
}

/// A process that is asked to end does so at its next look, unless something outside of the server keeps it.
const LONGEST_END: Duration = Duration::from_secs(5);

/// How far the runs of this database are.
#[pg_extern(name = "_runs_under_way", volatile)]
#[allow(clippy::type_complexity, reason = "the table of a view")]
fn runs_under_way() -> TableIterator<
    'static,
    (
        name!(sync_id, i32),
        name!(pid, i32),
        name!(rows_read, i64),
        name!(added, i64),
        name!(changed, i64),
        name!(removed, i64),
        name!(unchanged, i64),
    ),
> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    TableIterator::new(under_way().into_iter().map(move |UnderWay { sync, pid, counts }| {
        (
            sync,
            pid,
            number(counts.rows_read),
            number(counts.added),
            number(counts.changed),
            number(counts.removed),
            number(counts.unchanged),
        )
    }))
}
