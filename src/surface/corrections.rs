//! Corrections: what replacing a dead letter's payload needs Rust for.

use super::refuse;
use crate::outbox;
use crate::payload::{Body, Payloads, Refusal, correction};
use crate::pg::encoding;
use crate::sync::{self, Wanted};
use pgrx::prelude::*;

/// Checks a payload given in place of a letter's, in the database's encoding, and gives what is to be
/// stored: the payload, if not as given, and the path.
#[pg_extern(name = "_check_correction", volatile)]
fn check_correction(
    letter: i64,
    sync_id: i32,
    kept_path: Option<&str>,
    makes_payloads: bool,
    payload: &[u8],
) -> TableIterator<'static, (name!(payload, Option<Vec<u8>>), name!(path, Option<String>))> {
    let payloads = if makes_payloads { Payloads::Made } else { Payloads::None };
    let call = outbox::tables()
        .and_then(|tables| sync::stored(&tables, &Wanted::Numbered(sync_id)))
        .ok_or_else(|| "the sync is gone".to_owned())
        .and_then(|stored| stored.call());
    let checked = call.map_err(Refusal::NotBillable).and_then(|call| {
        let corrected = correction(&call, kept_path, payloads, &encoding::to_utf8(payload))?;
        let body = match corrected.body {
            Body::AsGiven => None,
            Body::Empty => Some(Vec::new()),
            Body::Rest(rest) => {
                let mut stored = Vec::new();
                encoding::push_json(&mut stored, rest.as_bytes());
                Some(stored)
            }
        };
        Ok((body, corrected.path))
    });
    TableIterator::once(checked.unwrap_or_else(|refusal| {
        let (code, why, hint) = match refusal {
            Refusal::NotJson(why) => (
                PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                format!("It is no JSON: {why}."),
                "Begin with what lago_push.dead_letters or lago_push.preview() shows.",
            ),
            Refusal::NotBillable(why) => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                encoding::storable(&why),
                "lago_push.preview() shows what payloads of the sync look like.",
            ),
        };
        refuse(code, format!("dead letter {letter} cannot be given this payload"), Some(why), hint);
        (None, None)
    }))
}
