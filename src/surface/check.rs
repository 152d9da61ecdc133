//! Checks: what a definition is refused for before any of it is stored.

use super::refuse;
use crate::call::Call;
use crate::endpoint::CATALOGUE;
use crate::pg::{caller, encoding, trigger};
use crate::recipe::{self, Fault, Sources, Texts};
use crate::template::{Mistake, MistakeKind};
use pgrx::pg_sys;
use pgrx::prelude::*;

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

/// Refuses a template, path or order that cannot be applied to its source, or that Lago would not bill.
/// All are in UTF-8, whatever the database's encoding: pgrx takes text for UTF-8 without looking.
#[pg_extern(name = "_check_recipe", volatile)]
#[allow(clippy::too_many_arguments, reason = "a row of lago_push.sync")]
fn check_recipe(
    template: Option<&[u8]>,
    source: pg_sys::Oid,
    endpoint: &[u8],
    method: Option<&str>,
    path: Option<&[u8]>,
    root: Option<&str>,
    operations: Vec<String>,
    exclude: Option<&[u8]>,
    has_mapper: bool,
    order_by: Option<&[u8]>,
) {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let (template, path, order_by) = (text(template), text(path), text(order_by));
    let endpoint = &*String::from_utf8_lossy(endpoint);
    let Some(call) = Call::of(endpoint, method, path.as_deref(), root) else {
        return refuse_endpoint(endpoint);
    };
    // SAFETY: an ordinary reader's lock on a table the caller owns, kept until the transaction ends.
    let relation =
        unsafe { pgrx::PgRelation::with_lock(source, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    let sources = Sources::of(relation.as_ptr(), names(exclude));
    let texts = Texts { template: template.as_deref(), path: path.as_deref(), order_by: order_by.as_deref() };
    let checked = recipe::check(&call, texts, has_mapper, &sources);
    match checked {
        Ok(needs) if needs.old_row && operations.iter().all(|operation| operation == "insert") => {
            refuse_old()
        }
        Ok(_) => {}
        Err(fault) => {
            let table = format!("table {}", trigger::qualified_name(source));
            let is_virtual = |column: &str| trigger::is_virtual(relation.as_ptr(), column);
            refuse_fault(fault, &table, is_virtual, &sources);
        }
    }
}

/// Refuses a template that names what no inserted row has.
pub(super) fn refuse_old() {
    refuse(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "the template names old, but the sync captures inserts only",
        Some("An inserted row has no older version.".into()),
        "Add update or delete to operations, or use row.",
    );
}

/// Refuses an endpoint that is not in the catalogue.
pub(super) fn refuse_endpoint(endpoint: &str) {
    let known: Vec<_> = CATALOGUE.iter().map(|endpoint| endpoint.name).collect();
    refuse(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("endpoint \"{}\" is not known", encoding::storable(endpoint)),
        None,
        format!(
            "Endpoints: {}; see lago_push.endpoints. Any other call of Lago: give path, and method and root if need be.",
            known.join(", ")
        ),
    );
}

/// A JSON array of names.
pub(super) fn names(json: Option<&[u8]>) -> Vec<String> {
    json.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

/// Refuses a definition for what is wrong with it. `source` is what has not got the column it names.
pub(super) fn refuse_fault(fault: Fault, source: &str, is_virtual: impl Fn(&str) -> bool, sources: &Sources) {
    match fault {
        Fault::Mistake { place, mistake: Mistake { kind, what, at, hint } } => {
            let code = match kind {
                MistakeKind::Malformed => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                MistakeKind::Unsupported => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            };
            refuse(code, format!("{place}, {at}: {what}"), None, hint);
        }
        Fault::Missing { place, missing } if is_virtual(&missing.column) => refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{place}, {}: column \"{}\" is a virtual generated column", missing.at, missing.column),
            Some("It is computed by queries only; the row holds no value of it.".into()),
            "Declare it STORED.",
        ),
        Fault::Missing { place, missing } if sources.excludes(&missing.column) => refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{place}, {}: column \"{}\" is excluded", missing.at, missing.column),
            Some("The parameter exclude names it, so the sync may not see it.".into()),
            "Take it out of one of the two.",
        ),
        Fault::Missing { place, missing } => {
            let hint = match missing.nearest {
                Some(nearest) => format!("Perhaps you meant \"{nearest}\"."),
                None => format!("Columns: {}.", sources.names().join(", ")),
            };
            refuse(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("{place}, {}: {source} has no column \"{}\"", missing.at, missing.column),
                None,
                hint,
            );
        }
    }
}

/// Refuses a schedule that is neither an interval nor five cron fields.
#[pg_extern(name = "_check_schedule", immutable)]
fn check_schedule(schedule: &str) {
    if let Err(why) = crate::schedule::Schedule::parse(schedule) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "schedule is neither an interval nor five cron fields",
            Some(why),
            "For example '15 minutes', or '0 3 * * *' for 3:00 UTC each day.",
        );
    }
}

/// Refuses a filter that is not one expression.
#[pg_extern(name = "_check_filter", volatile)]
fn check_filter(filter: &[u8]) {
    caller::parse_expression(filter);
}
