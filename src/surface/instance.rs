//! Instance, as far as it is called from SQL.

use super::refuse;
use crate::guard;
use crate::pg::{place, process};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// What a mark made here and now holds.
#[pg_extern(name = "_this_instance", volatile)]
#[allow(clippy::type_complexity, reason = "the columns of a table")]
fn this_instance() -> TableIterator<
    'static,
    (
        name!(system_identifier, i64),
        name!(database, pg_sys::Oid),
        name!(major_version, i32),
        name!(timeline, i32),
        name!(place, String),
    ),
> {
    let row = place::here().map(|here| {
        (here.system, process::own_database(), here.major_version, here.timeline, here.place.to_string())
    });
    if let Err(error) = &row {
        refuse(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            "it cannot be told on which data directory this server runs",
            Some(format!("Reading PG_VERSION there failed: {error}.")),
            "The server's user must be able to read its data directory.",
        );
    }
    TableIterator::new(row.ok())
}

/// Holds all destinations if this is a copy that nobody has noticed yet.
#[pg_extern(name = "_look", volatile)]
fn look() {
    if let Err(error) = guard::look() {
        refuse(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            "it cannot be told whether this database is a copy",
            Some(format!("{error}.")),
            "The server's user must be able to read its data directory.",
        );
    }
}
