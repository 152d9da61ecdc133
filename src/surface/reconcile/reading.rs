//! Reading: what of a sync should be in Lago, as far as the database tells.
//!
//! Rows of the source, rendered as capture would; replies that were kept, with what was really sent; and
//! what has not been settled. A million rows pass by one at a time.

use super::Refusal;
use crate::buffer;
use crate::call::Category;
use crate::defaults::Origin;
use crate::pg::trigger::{self, Apart};
use crate::pg::{caller, cell, encoding, rows, xact};
use crate::recipe::{Recipe, Whole};
use crate::reconcile::Period;
use crate::reconcile::event::Sent;
use crate::reconcile::expected::Witness;
use crate::reconcile::outline::{Outline, Time};
use crate::sync::Stored;
use crate::template;
use chrono::{DateTime, SecondsFormat};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::time::Duration;

pub use buffer::Operation;

pub struct Reading<'a> {
    stored: &'a Stored,
    relation: pgrx::PgRelation,
    recipe: Recipe,
    outline: Outline,
    period: Period,
    subscription: Option<String>,
}

/// An event that should be in Lago.
pub struct Found<'a> {
    pub witness: Witness,
    pub sent: Sent,
    pub operation: Operation,
    /// In the database's encoding.
    pub payload: &'a [u8],
    /// What it is put in order by, if that is known.
    pub key: Option<i64>,
}

impl<'a> Reading<'a> {
    pub fn new(
        stored: &'a Stored,
        period: Period,
        subscription: Option<String>,
    ) -> Result<Reading<'a>, Refusal> {
        let broken = |reason| Refusal {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: format!("sync \"{}\" cannot be applied to its source", stored.name),
            detail: Some(reason),
            hint: "Mend it with lago_push.alter_sync().".into(),
        };
        let call = stored.call().map_err(broken)?;
        // A manual call to the same path has a payload of its own kind.
        if call.endpoint.is_none() || call.category() != Category::Events {
            return Err(Refusal {
                code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                message: format!("sync \"{}\" cannot be reconciled", stored.name),
                detail: Some(
                    "It does not send events, and Lago lists nothing else by the time it is about.".into(),
                ),
                hint: "With keep_replies, lago_push.replies shows what Lago answered to each call.".into(),
            });
        }
        // SAFETY: an ordinary reader's lock on a table the caller owns, kept until the transaction ends.
        let relation = unsafe {
            pgrx::PgRelation::with_lock(stored.source, pg_sys::AccessShareLock as pg_sys::LOCKMODE)
        };
        let recipe = stored.bind(relation.as_ptr()).map_err(broken)?;
        let outline = match stored.template().map(template::parse) {
            Some(Ok(template)) => Outline::of(&template),
            _ => Outline::default(),
        };
        Ok(Reading { stored, relation, recipe, outline, period, subscription })
    }

    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    pub fn captures_inserts(&self) -> bool {
        self.stored.operations().any(|operation| operation == Operation::Insert)
    }

    pub fn inserts_only(&self) -> bool {
        self.stored.operations().all(|operation| operation == Operation::Insert)
    }

    /// Hands over every event of the period of which a row or a kept reply says that it should be in Lago.
    /// Gives the number of rows of which nobody can say that: they cannot be rendered, or what they would
    /// be rendered to depends on when.
    pub fn events(&self, visit: &mut dyn FnMut(Found<'_>)) -> u64 {
        let mut left_aside = 0;
        // A mapper or a filter may write, and what it writes may be captured: looking must send nothing.
        xact::undone(|| {
            if self.captures_inserts() && self.outline.time == Time::OfRow {
                self.rows(visit, &mut left_aside);
            }
            self.replies(visit);
        });
        left_aside
    }

    fn wanted(&self, sent: &Sent) -> bool {
        sent.unix_micros.is_some_and(|micros| self.period.holds_micros(micros))
            && self.subscription.as_ref().is_none_or(|wanted| *wanted == sent.subscription)
    }

    fn rows(&self, visit: &mut dyn FnMut(Found<'_>), left_aside: &mut u64) {
        let query = encoding::to_server(&self.query());
        let mut payload = Vec::new();
        // The filter, the policies and the mapper are the code of whoever owns the table.
        let owner = trigger::owner(self.relation.as_ptr());
        caller::for_each_as(owner, &query, |row| {
            payload.clear();
            let row = Apart::new(row, self.relation.as_ptr());
            match self.render(&row, &mut payload) {
                Rendered::Event { sent, key } if self.wanted(&sent) => visit(Found {
                    witness: Witness::Row,
                    sent,
                    operation: Operation::Insert,
                    payload: &payload,
                    key,
                }),
                Rendered::Event { .. } | Rendered::Nothing => {}
                Rendered::Failed => *left_aside += 1,
            }
        });
    }

    /// The rows a sync would capture. NEW is what its filter calls the row.
    fn query(&self) -> String {
        let table = trigger::qualified_name(self.stored.source);
        let mut conditions: Vec<String> = Vec::new();
        conditions.extend(self.stored.filter.as_ref().map(|filter| format!("({filter}\n)")));
        conditions.extend(self.time_condition());
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!(" where {}", conditions.join(" and "))
        };
        format!("select new from {table} as new{condition}")
    }

    /// The period as a condition on the column the time stands in: an index may serve it. What is rendered
    /// decides all the same.
    fn time_condition(&self) -> Option<String> {
        let column = self.outline.time_column.as_ref()?;
        let type_oid = trigger::columns(self.relation.as_ptr())
            .into_iter()
            .find(|(name, ..)| name == column)
            .map(|(.., type_oid)| type_oid)?;
        // Times without a zone are taken as UTC.
        let (type_name, suffix) = match type_oid {
            pg_sys::TIMESTAMPTZOID => ("timestamptz", "Z"),
            pg_sys::TIMESTAMPOID => ("timestamp", ""),
            pg_sys::DATEOID => ("date", ""),
            _ => return None,
        };
        let literal = |ms| {
            let moment = DateTime::from_timestamp_millis(ms)?.to_rfc3339_opts(SecondsFormat::Millis, true);
            Some(format!("'{}{suffix}'::pg_catalog.{type_name}", moment.trim_end_matches('Z')))
        };
        let column = format!("new.\"{}\"", column.replace('"', "\"\""));
        let (from, to) = (literal(self.period.from_ms)?, literal(self.period.to_ms)?);
        Some(format!("{column} >= {from} and {column} <= {to}"))
    }

    fn render(&self, row: &Apart, payload: &mut Vec<u8>) -> Rendered {
        let view = self.recipe.view(Origin::Existing, Operation::Insert, row.tuple(), None);
        let read = match self.recipe.payload(&view, payload) {
            Ok(Whole::Payload(read)) => read,
            Ok(Whole::Skipped) => return Rendered::Nothing,
            Err(_) => return Rendered::Failed,
        };
        let value = match &read {
            Some(value) => value.clone(),
            None => match encoding::json_from_server(payload) {
                Ok(value) => value,
                Err(_) => return Rendered::Failed,
            },
        };
        let Some(sent) = Sent::read(&value) else { return Rendered::Failed };
        // What is refused at capture is a dead letter.
        if self.recipe.address(&view, read, payload).is_err() {
            return Rendered::Failed;
        }
        let key = self.recipe.order_key(&view).unwrap_or_default();
        Rendered::Event { sent, key }
    }

    /// Replies say what was really sent: those of a success, and those that say that Lago had it already.
    fn replies(&self, visit: &mut dyn FnMut(Found<'_>)) {
        let id = self.stored.id;
        let query = format!(
            "select pg_catalog.left(r.operation, 1) || r.payload::text
               from lago_push.reply r join lago_push.sync s on s.name = r.sync
              where s.id = {id} and r.payload is not null
                and (r.status between 200 and 299 or r.status = 422 and r.reply::text like '%value_already_exist%')
              order by r.id"
        );
        rows::for_each(query.as_bytes(), |datum| {
            let Some(text) = cell::read::<Vec<u8>>(Some(datum)) else { return };
            let Some((letter, payload)) = text.split_first() else { return };
            let operation = match letter {
                b'i' => Operation::Insert,
                b'u' => Operation::Update,
                _ => Operation::Delete,
            };
            let Some(sent) = read(payload).filter(|sent| self.wanted(sent)) else { return };
            visit(Found { witness: Witness::Reply, sent, operation, payload, key: None });
        });
    }

    /// Hands over the events of the period that wait or are dead letters.
    pub fn unsettled(&self, visit: &mut dyn FnMut(Sent)) {
        let id = self.stored.id;
        let query = format!(
            "select m.payload from lago_push.message m where m.sync_id = {id}
             union all
             select l.payload from lago_push.dead_letter l where l.sync_id = {id}"
        );
        rows::for_each(query.as_bytes(), |datum| {
            let Some(payload) = cell::read::<Vec<u8>>(Some(datum)) else { return };
            if let Some(sent) = read(&payload).filter(|sent| self.wanted(sent)) {
                visit(sent);
            }
        });
        self.unrendered_letters(visit);
    }

    /// The rows of letters that could not be rendered, as far as they can be by now.
    fn unrendered_letters(&self, visit: &mut dyn FnMut(Sent)) {
        let id = self.stored.id;
        let query = format!(
            "select l.source_row::text from lago_push.dead_letter l
              where l.sync_id = {id} and l.payload is null and l.source_row is not null and l.operation = 'i'"
        );
        let table = trigger::qualified_name(self.stored.source);
        let populate =
            encoding::to_server(&format!("select pg_catalog.json_populate_record(null::{table}, $1)"));
        let mut payload = Vec::new();
        rows::for_each(query.as_bytes(), |datum| {
            let Some(kept) = cell::read::<Vec<u8>>(Some(datum)) else { return };
            payload.clear();
            // A row that no longer fits the table renders no more today than it did then.
            let rendered = xact::protected(|| {
                caller::query(&populate, &[&kept], |rows| {
                    let row = Apart::new(rows.into_iter().flatten().next()?, self.relation.as_ptr());
                    Some(self.render(&row, &mut payload))
                })
            });
            if let Ok(Some(Some(Rendered::Event { sent, .. }))) = rendered
                && self.wanted(&sent)
            {
                visit(sent);
            }
        });
    }

    /// How long ago an event of the sync was last delivered.
    pub fn since_last_delivery(&self) -> Option<Duration> {
        let query = format!(
            "select extract(epoch from pg_catalog.clock_timestamp() - a.last_delivered_at)::float8
               from lago_push.account a where a.sync_id = {}",
            self.stored.id
        );
        let seconds = Spi::get_one::<f64>(&query).ok().flatten()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// What became of a row.
enum Rendered {
    Event { sent: Sent, key: Option<i64> },
    Nothing,
    Failed,
}

fn read(payload: &[u8]) -> Option<Sent> {
    Sent::read(&encoding::json_from_server(payload).ok()?)
}
