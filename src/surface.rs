//! Surface: the functions of the SQL surface that have to be Rust. What people type is SQL, in
//! `sql/functions.sql`; these are its internals, and the sources of the views.

use crate::endpoint::{Batch, CATALOGUE, Repeat};
use crate::pg::{caller, heap, process, trigger};
use crate::render::Column;
use crate::sync::Fault;
use crate::template::{Mistake, MistakeKind};
use crate::{capture, outbox, shared, sync};
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

/// Refuses a destination URL that cannot be Lago's API.
#[pg_extern(name = "_check_url", volatile)]
fn check_url(url: Option<&str>, allow_http: bool) {
    let invalid = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
    let example = "It looks like https://api.getlago.com/api/v1.";
    let parsed = url.map(url::Url::parse);
    let Some(Ok(parsed)) = parsed else {
        return refuse(invalid, "the destination's URL is not a URL", None, example);
    };
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
        return refuse(invalid, "the destination's URL is not http or https", None, example);
    }
    if !parsed.username().is_empty()
        || parsed.password().is_some()
        || parsed.query().is_some()
        || parsed.fragment().is_some()
    {
        return refuse(
            invalid,
            "the destination's URL holds more than host and path",
            None,
            "Give the key as api_key; leave out user, query and fragment.",
        );
    }
    let version =
        parsed.path().trim_end_matches('/').rsplit('/').next().and_then(|last| last.strip_prefix('v'));
    if !version.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
        || !parsed.path().contains("/api/v")
    {
        let base = parsed.origin().ascii_serialization();
        return refuse(
            invalid,
            "the destination's URL lacks the path of Lago's API",
            Some("Without it Lago answers every call with 404.".into()),
            format!("Try {base}/api/v1."),
        );
    }
    let is_loopback = match parsed.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if parsed.scheme() == "http" && !is_loopback && !allow_http {
        refuse(
            invalid,
            "the destination's URL is plain http",
            Some("The API key would cross the network unencrypted.".into()),
            "Use https, or allow_http => true for a Lago inside your own network.",
        );
    }
}

/// Refuses a proxy that cannot be used.
#[pg_extern(name = "_check_proxy", volatile)]
fn check_proxy(proxy: &str) {
    let good = url::Url::parse(proxy).is_ok_and(|url| url.scheme() == "http" && url.host().is_some());
    if !good {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "the proxy is not an http URL",
            None,
            "It looks like http://proxy.internal:3128.",
        );
    }
}

/// Refuses a template that cannot be applied to its source, or that Lago would not bill.
#[pg_extern(name = "_check_template", volatile)]
fn check_template(template: &[u8], source: pg_sys::Oid, endpoint: Option<&str>, operations: Vec<String>) {
    // In UTF-8, whatever the database's encoding: pgrx takes text for UTF-8 without looking.
    let template = &*String::from_utf8_lossy(template);
    // SAFETY: an ordinary reader's lock on a table the caller owns, kept until the transaction ends.
    let relation =
        unsafe { pgrx::PgRelation::with_lock(source, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    let columns: Vec<Column> = sync::columns_of(relation.as_ptr());
    match sync::plan(endpoint.unwrap_or_default(), template, &columns) {
        Ok(_) => {}
        Err(Fault::NoEndpoint) => {
            let known: Vec<_> = CATALOGUE.iter().map(|endpoint| endpoint.name).collect();
            return refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("endpoint \"{}\" is not known", endpoint.unwrap_or_default()),
                None,
                format!("Endpoints: {}. See lago_push.endpoints.", known.join(", ")),
            );
        }
        Err(Fault::Mistake(Mistake { kind, what, at, hint })) => {
            let code = match kind {
                MistakeKind::Malformed => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                MistakeKind::Unsupported => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            };
            return refuse(code, format!("template, {at}: {what}"), None, hint);
        }
        Err(Fault::Missing(missing)) if trigger::is_virtual(relation.as_ptr(), &missing.column) => {
            return refuse(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "template, {}: column \"{}\" is a virtual generated column",
                    missing.at, missing.column
                ),
                Some("It is computed by queries only; the row holds no value of it.".into()),
                "Declare it STORED.",
            );
        }
        Err(Fault::Missing(missing)) => {
            let hint = match missing.nearest {
                Some(nearest) => format!("Perhaps you meant \"{nearest}\"."),
                None => format!(
                    "Columns: {}.",
                    columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
                ),
            };
            let table = trigger::qualified_name(source);
            return refuse(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("template, {}: table {table} has no column \"{}\"", missing.at, missing.column),
                None,
                hint,
            );
        }
    }
    if sync::uses_old(template) && operations.iter().all(|operation| operation == "insert") {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "the template names old, but the sync captures inserts only",
            Some("An inserted row has no older version.".into()),
            "Add update or delete to operations, or use row.",
        );
    }
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

/// Refuses a filter that is not one expression.
#[pg_extern(name = "_check_filter", volatile)]
fn check_filter(filter: &[u8]) {
    caller::parse_expression(filter);
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

/// Source of the view `workers`.
#[pg_extern(name = "_workers", volatile)]
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
