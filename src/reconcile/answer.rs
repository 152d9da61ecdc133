//! Answer: what Lago's answer to a question about its events means.
//!
//! Between the sender and the listing. It promises a sentence an operator can act on, which holds
//! statuses and Lago's error codes and never what an event holds.
#![forbid(unsafe_code)]

use super::event::Shown;
use super::listing::{Page, Turned};
use crate::verdict::answer::{begins_with_key, code, in_short, object};
use crate::verdict::{Outcome, Reply};
use serde::de::IgnoredAny;
use serde_json::Value;
use std::time::Duration;

/// A reply that fills what is read of one is cut off.
const CUT_OFF_BYTES: usize = 4 * 1024 * 1024;

/// What to do next.
#[derive(Debug)]
pub enum Next<'a> {
    Read(&'a Reply),
    /// Asked too much: wait as long as the server says, if it does.
    SlowDown(Option<Duration>),
    /// It may pass.
    AskAgain {
        why: String,
        wait: Option<Duration>,
    },
    GiveUp(Stop),
}

/// Why it cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub blame: Blame,
    pub why: String,
    pub hint: String,
}

/// Whose fault it is, as far as that decides the SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Key,
    Permission,
    Settings,
    Lago,
}

/// Reads one outcome.
pub fn next(outcome: &Outcome) -> Next<'_> {
    let stop = |blame, why: String, hint: &str| Next::GiveUp(Stop { blame, why, hint: hint.into() });
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::Failed { why, .. } => {
            return Next::AskAgain { why: format!("There is no answer: {why}."), wait: None };
        }
        Outcome::Unusable(why) => {
            return stop(
                Blame::Settings,
                format!("It cannot be used: {why}."),
                "Correct it with lago_push.alter_destination().",
            );
        }
        Outcome::Impossible(why) => {
            return stop(
                Blame::Settings,
                format!("The question cannot be put: {why}."),
                "Correct the sync's headers with lago_push.alter_sync().",
            );
        }
    };
    let answer = in_short(reply.status, &reply.body);
    match (reply.status, code(&reply.body).as_deref()) {
        (200..=299, _) if breaks_off(&reply.body) => {
            Next::AskAgain { why: "Lago's answers break off.".into(), wait: None }
        }
        (200..=299, _) | (404, Some("event_not_found")) => Next::Read(reply),
        (429, _) => Next::SlowDown(reply.wait.or(reply.allowance.map(|allowance| allowance.reset))),
        (408 | 500..=599, _) => Next::AskAgain { why: format!("Lago answers {answer}."), wait: reply.wait },
        (401, _) => stop(
            Blame::Key,
            "Lago does not know the API key (401).".into(),
            "Set the right one with lago_push.set_api_key().",
        ),
        (403, _) => stop(
            Blame::Permission,
            format!("The API key may not read events ({answer})."),
            "Give it the permission to read events in Lago, or set another key with lago_push.set_api_key().",
        ),
        (404, _) => stop(
            Blame::Settings,
            format!("There are no events at that URL ({answer})."),
            "Correct the URL with lago_push.alter_destination().",
        ),
        _ => stop(
            Blame::Lago,
            format!("Lago answers {answer}."),
            "See what stands between here and Lago; lago_push.send_test() shows whole answers.",
        ),
    }
}

/// Whether it begins as an answer of Lago's does, and does not end as one.
fn breaks_off(body: &[u8]) -> bool {
    body.len() < CUT_OFF_BYTES
        && begins_with_key(body, &["events", "event"])
        && serde_json::from_slice::<IgnoredAny>(body).is_err()
}

/// Not Lago's, whatever its status says.
pub fn foreign() -> Stop {
    Stop {
        blame: Blame::Settings,
        why: "The answer is a success, but not one of Lago's.".into(),
        hint: "Check the URL with lago_push.destinations, and what stands before Lago.".into(),
    }
}

/// Reads one page of a listing.
pub fn page(body: &[u8]) -> Result<Turned, Stop> {
    let Some(mut page) = object(body) else {
        return if body.len() >= CUT_OFF_BYTES { Ok(Turned::TooLarge) } else { Err(foreign()) };
    };
    let total = page.get("meta").and_then(|meta| meta.get("total_count")).and_then(Value::as_u64);
    match (page.remove("events"), total) {
        (Some(Value::Array(events)), Some(total)) => {
            Ok(Turned::Page(Page { events: events.iter().filter_map(Shown::read).collect(), total }))
        }
        _ => Err(foreign()),
    }
}

/// Reads the answer to a question about one event: it, or that there is none.
pub fn event(reply: &Reply) -> Result<Option<Shown>, Stop> {
    if reply.status == 404 {
        return Ok(None);
    }
    let body = object(&reply.body).ok_or_else(foreign)?;
    body.get("event").and_then(Shown::read).map(Some).ok_or_else(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Allowance, Sent};

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, body: body.into(), wait: None, allowance: None }
    }

    fn stop(outcome: Outcome) -> Option<(Blame, String)> {
        match next(&outcome) {
            Next::GiveUp(stop) => Some((stop.blame, stop.why)),
            _ => None,
        }
    }

    #[test]
    fn what_only_somebody_can_mend_ends_it() {
        let lagos = |status, error: &str, code: &str| {
            Outcome::Reply(reply(
                status,
                &format!(r#"{{"status":{status},"error":"{error}","code":"{code}"}}"#),
            ))
        };
        for (outcome, blame, named) in [
            (Outcome::Reply(reply(401, r#"{"status":401,"error":"Unauthorized"}"#)), Blame::Key, "401"),
            (
                lagos(403, "Forbidden", "read_action_not_allowed_for_event"),
                Blame::Permission,
                "read_action_not_allowed_for_event",
            ),
            (lagos(404, "Not Found", "resource_not_found"), Blame::Settings, "resource_not_found"),
            (lagos(422, "Unprocessable Entity", "validation_errors"), Blame::Lago, "422 validation_errors"),
            (Outcome::Reply(reply(302, "")), Blame::Lago, "302"),
            (Outcome::Unusable("its URL is not one".into()), Blame::Settings, "its URL is not one"),
            (Outcome::Impossible("x".into()), Blame::Settings, "x"),
        ] {
            let (blamed, why) = stop(outcome).expect("the end");
            assert_eq!(blamed, blame, "{why}");
            assert!(why.contains(named), "{why}");
        }
    }

    #[test]
    fn what_may_pass_is_asked_again() {
        for status in [408, 500, 502, 503, 504] {
            let outcome = Outcome::Reply(reply(status, "<html>"));
            assert!(matches!(next(&outcome), Next::AskAgain { .. }), "{status}");
        }
        let broken = Outcome::Reply(reply(200, r#"{"events":[{"transaction"#));
        assert!(matches!(next(&broken), Next::AskAgain { .. }));
        let failed = Outcome::Failed { why: "connection refused".into(), sent: Sent::No };
        assert!(matches!(next(&failed), Next::AskAgain { why, .. } if why.contains("connection refused")));
    }

    #[test]
    fn a_refusal_for_asking_too_much_says_how_long_to_wait() {
        let second = Duration::from_secs(1);
        let allowance = Allowance { limit: Some(50), remaining: 0, reset: second };
        let by_window = Outcome::Reply(Reply { allowance: Some(allowance), ..reply(429, "") });
        assert!(matches!(next(&by_window), Next::SlowDown(Some(wait)) if wait == second));
        let asked =
            Outcome::Reply(Reply { wait: Some(second * 2), allowance: Some(allowance), ..reply(429, "") });
        assert!(matches!(next(&asked), Next::SlowDown(Some(wait)) if wait == second * 2));
    }

    #[test]
    fn a_page_is_read_and_what_is_none_is_told() {
        let body = r#"{"events":[{"transaction_id":"a"},{"no":"event"}],"meta":{"total_count":7}}"#;
        let Ok(Turned::Page(read)) = page(body.as_bytes()) else { panic!("no page") };
        assert_eq!((read.events.len(), read.total), (1, 7));
        for body in ["", "<html>", "[]", r#"{"events":[]}"#, r#"{"meta":{"total_count":1}}"#] {
            assert_eq!(page(body.as_bytes()).err(), Some(foreign()), "{body}");
        }
        assert!(matches!(page(&vec![b'{'; CUT_OFF_BYTES]), Ok(Turned::TooLarge)));
    }

    #[test]
    fn an_event_is_read_or_known_not_to_be_there() {
        let not_found = reply(404, r#"{"status":404,"error":"Not Found","code":"event_not_found"}"#);
        assert!(matches!(next(&Outcome::Reply(not_found.clone())), Next::Read(_)));
        assert_eq!(event(&not_found), Ok(None));
        let found = reply(200, r#"{"event":{"transaction_id":"a"}}"#);
        assert_eq!(event(&found).map(|found| found.map(|event| event.transaction_id)), Ok(Some("a".into())));
        assert_eq!(event(&reply(200, "{}")), Err(foreign()));
    }
}
