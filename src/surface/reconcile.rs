//! Reconcile, as far as it is called from SQL: rows, replies and what waits are read first, then Lago is
//! asked, then what something is wrong with is read once more, for its texts and against what changed
//! meanwhile.

mod asking;
mod reading;

use super::refuse;
use crate::capture;
use crate::outbox;
use crate::pg::encoding;
use crate::reconcile::Period;
use crate::reconcile::answer::{Blame, Stop};
use crate::reconcile::event::{Differences, Sent, Shown, Store};
use crate::reconcile::expected::{Expected, Fate, Met, Witness};
use crate::reconcile::listing::{self, Cut, Subject};
use crate::reconcile::outline::Time;
use crate::sync::{self, Wanted};
use asking::Asker;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use reading::{Found, Operation, Reading};
use std::collections::BTreeMap;
use std::time::Duration;

/// Missing events that are asked for one by one, and sent again, in one call.
const MOST_QUESTIONS: usize = 10_000;
/// How long after a delivery an event may not be listed yet: Lago's ClickHouse store collects what it
/// takes, for 7.5 seconds by its own default.
const STORED_WITHIN: Duration = Duration::from_secs(10);

/// What is wrong with an event.
struct Finding {
    subscription: String,
    transaction_id: String,
    what: What,
    unix_micros: Option<i64>,
}

enum What {
    Missing { sent: Sent, asked: Asked, again: Option<Again> },
    Unexpected,
    Differing(Differences),
    Twice(Differences),
}

/// Whether Lago was asked for the event itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
}

/// What is sent again.
struct Again {
    operation: Operation,
    key: Option<i64>,
    payload: Vec<u8>,
}

/// What the events of a sync can be told to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Whole,
    /// Updates and deletes leave no trace of what was sent, so only the events of inserts can be missed,
    /// and what Lago has is no measure.
    InsertsMissing,
}

type Row = (Option<String>, String, &'static str, String, Option<TimestampWithTimeZone>, bool);

/// Does `lago_push.reconcile()`. The period is in Unix microseconds; texts are in the database's encoding.
#[pg_extern(name = "_reconciled", volatile)]
#[allow(clippy::type_complexity, reason = "rows of six columns")]
fn reconciled(
    sync_id: i32,
    since_unix_micros: i64,
    until_unix_micros: i64,
    subscription: Option<&[u8]>,
    replies_cover: bool,
    resend: bool,
) -> TableIterator<
    'static,
    (
        name!(external_subscription_id, Option<String>),
        name!(transaction_id, String),
        name!(finding, &'static str),
        name!(detail, String),
        name!(event_time, Option<TimestampWithTimeZone>),
        name!(resent, bool),
    ),
> {
    let wanted = Request {
        sync_id,
        period: Period::of_micros(since_unix_micros, until_unix_micros),
        subscription: subscription.map(encoding::to_utf8),
        replies: if replies_cover { Replies::Cover } else { Replies::None },
        missing: if resend { Missing::SentAgain } else { Missing::Shown },
    };
    TableIterator::new(match reconcile(&wanted) {
        Ok(findings) => findings,
        Err(refusal) => {
            refuse(refusal.code, refusal.message, refusal.detail, refusal.hint);
            Vec::new()
        }
    })
}

struct Refusal {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: String,
}

/// What was asked for.
struct Request {
    sync_id: i32,
    period: Period,
    /// None for those of all subscriptions.
    subscription: Option<String>,
    replies: Replies,
    missing: Missing,
}

/// Whether the replies to all events of the period were kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replies {
    Cover,
    None,
}

/// What becomes of missing events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Shown,
    SentAgain,
}

fn reconcile(wanted: &Request) -> Result<Vec<Row>, Refusal> {
    let tables = outbox::tables();
    let Some(stored) = tables.and_then(|tables| sync::stored(&tables, &Wanted::Numbered(wanted.sync_id)))
    else {
        return Ok(Vec::new());
    };
    let reading = Reading::new(&stored, wanted.period, wanted.subscription.clone())?;
    let name = &stored.name;
    let scope = scope(name, &reading, wanted.replies)?;
    let mut expected = expect(name, &reading);
    let mut asker = Asker::new(&stored)?;
    let stopped = |stop: Stop| refused(name, stop);
    let (mut strangers, store) = list(&mut asker, wanted, scope, &mut expected).map_err(stopped)?;
    let mut findings = Vec::new();
    if !expected.is_flawless() || !strangers.is_empty() {
        findings = look_again(&reading, wanted.missing, &mut expected, &mut strangers);
    }
    if scope == Scope::InsertsMissing {
        findings.retain(Finding::is_missing);
    }
    if store == Store::Other && findings.iter().any(Finding::is_missing) {
        let since_delivery = reading.since_last_delivery().unwrap_or(STORED_WITHIN);
        asking::pause(STORED_WITHIN.saturating_sub(since_delivery));
    }
    for finding in findings.iter_mut().filter(|finding| finding.is_missing()).take(MOST_QUESTIONS) {
        finding.ask(&mut asker).map_err(stopped)?;
    }
    findings.retain(|finding| !finding.what.is_nothing());
    if scope == Scope::InsertsMissing {
        findings.retain(Finding::is_missing);
    }
    let left = findings.iter().filter(|finding| finding.was_not_asked_for()).count();
    if left > 0 {
        notice(
            format!(
                "{left} of the missing events of sync \"{name}\" were not asked for one by one, nor sent again"
            ),
            &format!("One call does that for {MOST_QUESTIONS}."),
            "Send these again, and call once more; or send whole periods with lago_push.backfill().",
        );
    }
    findings.extend(strangers.into_values().map(Finding::unexpected));
    findings.sort_by(|one, other| one.place().cmp(&other.place()));
    Ok(findings.into_iter().map(|finding| finding.row(wanted.sync_id)).collect())
}

/// What can be told of a sync, as far as its definition and the replies that were kept go.
fn scope(name: &str, reading: &Reading<'_>, replies: Replies) -> Result<Scope, Refusal> {
    if replies == Replies::Cover {
        return Ok(Scope::Whole);
    }
    if reading.outline().time == Time::OfCapture {
        let why = "Its template gives no timestamp, and when its rows were captured is kept nowhere.";
        return Err(untold(name, why));
    }
    if reading.inserts_only() {
        return Ok(Scope::Whole);
    }
    if !reading.captures_inserts() {
        let why = "It captures updates or deletes only, and what they sent is kept nowhere.";
        return Err(untold(name, why));
    }
    notice(
        format!("of sync \"{name}\" only missing events of inserts are shown"),
        "What its updates and deletes sent is kept nowhere, so what else Lago has may be theirs.",
        "With lago_push.alter_sync(…, keep_replies => …) it is kept, from then on.",
    );
    Ok(Scope::InsertsMissing)
}

/// Reads what should be in Lago.
fn expect(name: &str, reading: &Reading<'_>) -> Expected {
    let mut expected = Expected::default();
    if let Some(code) = &reading.outline().code {
        expected.know_code(code);
    }
    let left_aside = reading.events(&mut |found| expected.push(found.witness, &found.sent));
    let mut unsettled = 0u64;
    reading.unsettled(&mut |sent| {
        unsettled += 1;
        expected.push(Witness::Unsettled, &sent);
    });
    expected.seal();
    if left_aside > 0 {
        notice(
            format!("{left_aside} rows of sync \"{name}\" were left aside"),
            "They cannot be rendered, or only as they were at the time of their capture.",
            "lago_push.preview() shows what cannot be rendered.",
        );
    }
    if unsettled > 0 {
        notice(
            format!(
                "{unsettled} events of sync \"{name}\" wait or are dead letters: they are not called missing"
            ),
            "They are in lago_push.outbox and lago_push.dead_letters.",
            "Call again when they are settled.",
        );
    }
    expected
}

/// Events of Lago's that nobody expects, by subscription, id and time.
type Strangers = BTreeMap<(String, String, Option<i64>), Shown>;

/// Holds what Lago has against what is expected. Says which store it is seen to keep its events in.
fn list(
    asker: &mut Asker,
    wanted: &Request,
    scope: Scope,
    expected: &mut Expected,
) -> Result<(Strangers, Store), Stop> {
    let (mut strangers, mut store) = (Strangers::new(), Store::Other);
    for code in expected.codes().to_vec() {
        let subject = Subject { code, subscription: wanted.subscription.clone() };
        listing::walk(asker, &subject, wanted.period, Cut::default(), &mut |shown| {
            if shown.store == Store::Postgres {
                store = Store::Postgres;
            }
            let inside = shown.unix_ms.is_none_or(|ms| wanted.period.holds_ms(ms));
            if expected.meet(&shown) == Met::Stranger && inside && scope == Scope::Whole {
                let name = (shown.subscription.clone(), shown.transaction_id.clone(), shown.unix_ms);
                strangers.entry(name).or_insert(shown);
            }
        })?;
    }
    Ok((strangers, store))
}

/// Reads once more, for the texts of what something is wrong with; and what was captured after the first
/// reading is no stranger.
fn look_again(
    reading: &Reading<'_>,
    missing: Missing,
    expected: &mut Expected,
    strangers: &mut Strangers,
) -> Vec<Finding> {
    let (mut findings, mut since, mut missed) = (Vec::new(), Vec::new(), 0);
    reading.events(&mut |found| match expected.tell(found.sent.key(), found.witness) {
        Fate::Fine => {}
        Fate::Unknown => since.push(found.sent.key()),
        Fate::Missing => {
            missed += 1;
            // What is not asked for is not sent again, so its bytes need not be kept.
            let missing = if missed > MOST_QUESTIONS { Missing::Shown } else { missing };
            findings.push(Finding::missing(found, missing));
        }
        Fate::Differing(differences) => findings.push(Finding::of(found.sent, What::Differing(differences))),
        Fate::Twice(differences) => findings.push(Finding::of(found.sent, What::Twice(differences))),
    });
    reading.unsettled(&mut |sent| since.push(sent.key()));
    since.sort_unstable();
    strangers.retain(|_, shown| since.binary_search(&shown.key()).is_err());
    findings
}

impl Finding {
    fn of(sent: Sent, what: What) -> Finding {
        Finding {
            unix_micros: sent.unix_micros,
            subscription: sent.subscription,
            transaction_id: sent.transaction_id,
            what,
        }
    }

    fn missing(found: Found<'_>, missing: Missing) -> Finding {
        let again = (missing == Missing::SentAgain).then(|| Again {
            operation: found.operation,
            key: found.key,
            payload: found.payload.to_vec(),
        });
        let what = What::Missing { sent: found.sent.clone(), asked: Asked::No, again };
        Finding::of(found.sent, what)
    }

    fn unexpected(shown: Shown) -> Finding {
        Finding {
            unix_micros: shown.unix_ms.map(|ms| ms.saturating_mul(1000)),
            subscription: shown.subscription,
            transaction_id: shown.transaction_id,
            what: What::Unexpected,
        }
    }

    /// What findings are put in order by.
    fn place(&self) -> (&str, Option<i64>, &str) {
        (&self.subscription, self.unix_micros, &self.transaction_id)
    }

    fn is_missing(&self) -> bool {
        matches!(self.what, What::Missing { .. })
    }

    fn was_not_asked_for(&self) -> bool {
        matches!(self.what, What::Missing { asked: Asked::No, .. })
    }

    /// Asks for a missing event itself: it may be there at another time or under another code, or be there
    /// by now.
    fn ask(&mut self, asker: &mut Asker) -> Result<(), Stop> {
        let What::Missing { sent, asked, .. } = &mut self.what else { return Ok(()) };
        let found = asker.event(&sent.transaction_id)?;
        match found.filter(|found| found.key() == sent.key()) {
            Some(found) => {
                self.what = What::Differing(found.differences(&sent.code, sent.unix_micros, sent.content));
            }
            None => *asked = Asked::Yes,
        }
        Ok(())
    }

    fn row(self, sync_id: i32) -> Row {
        let (finding, detail, resent) = match self.what {
            What::Missing { asked: Asked::Yes, again: Some(again), .. } => {
                capture::add_message(sync_id, again.operation, None, again.key, &again.payload);
                (
                    "missing",
                    "Lago does not have it; it is sent again when this transaction commits".into(),
                    true,
                )
            }
            What::Missing { asked: Asked::Yes, again: None, .. } => {
                ("missing", "Lago does not have it".into(), false)
            }
            What::Missing { asked: Asked::No, .. } => ("missing", "Lago does not list it".into(), false),
            What::Unexpected => {
                ("unexpected", "Lago has it, and nothing here says that this sync sent it".into(), false)
            }
            What::Differing(differences) => {
                ("differing", format!("Lago has it, with another {}", listed(differences)), false)
            }
            What::Twice(differences) => (
                "differing",
                format!("Lago has it, and once more with another {}", listed(differences)),
                false,
            ),
        };
        const EPOCH_SHIFT_MICROS: i64 = 946_684_800_000_000;
        let moment = self.unix_micros.and_then(|micros| micros.checked_sub(EPOCH_SHIFT_MICROS));
        (
            Some(encoding::storable(&self.subscription)).filter(|subscription| !subscription.is_empty()),
            encoding::storable(&self.transaction_id),
            finding,
            detail,
            moment.and_then(|micros| TimestampWithTimeZone::try_from(micros).ok()),
            resent,
        )
    }
}

impl What {
    /// It turned out to be there as it should be.
    fn is_nothing(&self) -> bool {
        matches!(self, What::Differing(differences) if differences.none())
    }
}

fn listed(differences: Differences) -> String {
    differences.names().join(" and ")
}

fn untold(name: &str, why: &str) -> Refusal {
    Refusal {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: format!("sync \"{name}\" cannot be reconciled for this period"),
        detail: Some(why.into()),
        hint: "Keep replies with lago_push.alter_sync(…, keep_replies => …): what is sent from then on can be reconciled.".into(),
    }
}

fn refused(name: &str, stop: Stop) -> Refusal {
    let code = match stop.blame {
        Blame::Key => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        Blame::Permission => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        Blame::Settings => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        Blame::Lago => PgSqlErrorCode::ERRCODE_CONNECTION_EXCEPTION,
    };
    Refusal {
        code,
        message: format!("Lago's events cannot be listed for sync \"{name}\""),
        detail: Some(encoding::storable(&stop.why)),
        hint: stop.hint,
    }
}

fn notice(message: String, detail: &str, hint: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, "reconcile")
        .set_detail(detail)
        .set_hint(hint)
        .report(PgLogLevel::NOTICE);
}
