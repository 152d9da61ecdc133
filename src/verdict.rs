//! Verdict: what a reply means for each message of a request. One pure table.
//!
//! Between sender and settle. It promises a fate for every message sent, and a sentence an operator
//! can act on whenever something is wrong; sentences hold statuses and Lago's error codes, never
//! what a row holds. The facts are Lago's server behaviour. What a batch of events is answered is in
//! [`events`], what a call for one object is answered in [`single`], what means the same for every call
//! in [`any`]; [`answer`] and [`listed`] read bodies. docs/verdicts.md is the table as users see it.
//!
//! A call that must not be repeated (a top-up, say) goes again only after an answer that proves that
//! Lago did nothing; else Lago is asked about it, or it is rejected for somebody to look it up.
#![forbid(unsafe_code)]

pub mod answer;
pub mod any;
#[cfg(test)]
mod documented;
mod events;
mod listed;
#[cfg(test)]
mod properties;
mod single;

use crate::call::Call;
use crate::endpoint::{Batch, Repeat};
use crate::lookup::LookUp;
use crate::message::{Message, Tried};
use std::time::Duration;

/// What came back from one request.
#[derive(Clone, Debug)]
pub enum Outcome {
    Reply(Reply),
    /// No reply: refused, reset, timed out, TLS. The text is the transport's, without the URL's secrets.
    Failed {
        why: String,
        sent: Sent,
    },
    /// No request: the destination's settings cannot be used.
    Unusable(String),
    /// No request: the message's path or its sync's headers do not make one.
    Impossible(String),
}

/// Whether a request without a reply may have reached Lago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    No,
    Perhaps,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// How long the server asks to wait: `Retry-After`, or `X-RateLimit-Reset` of a 429; in seconds.
    pub wait: Option<Duration>,
    /// What the server says may still be asked of it, if it says so.
    pub allowance: Option<Allowance>,
}

/// `X-RateLimit-*`: how many requests the server takes before its window resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// In a whole window.
    pub limit: Option<u32>,
    pub remaining: u32,
    /// Until the window resets.
    pub reset: Duration,
}

/// What becomes of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivered,
    /// Lago has it already: an earlier attempt whose reply was lost.
    Duplicate,
    /// Lago will never take it.
    Rejected {
        reason: String,
    },
    /// Refused only because of others in its batch: send again at once.
    Resend,
    /// Like [`Fate::Resend`], in a request of its own.
    ResendAlone,
    /// The whole request failed for what may be one message's fault: it goes again in two halves.
    Split,
    /// It was too large a request: as [`Fate::Split`], and later ones are no larger than its halves.
    SplitAndRemember,
    /// Failed by its own fault: send again later; the attempt counts, and the last one makes it final.
    Retry {
        reason: String,
    },
    /// Failed by nobody's fault that is known: send again later; no attempt counts.
    Wait {
        reason: String,
    },
    /// The answer does not tell enough: ask Lago about it.
    LookUp(LookUp),
    /// Failed by the destination's trouble: send again when that is over; no attempt counts.
    Return,
}

/// What the reply says of the destination as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Well,
    /// An unexpected answer to this request; trouble if it goes on.
    Doubtful { why: String },
    /// Nothing else is worth sending now. `wait` is what the server asked for, capped.
    Trouble { why: String, wait: Option<Duration> },
    /// Nothing will be taken until somebody has put something right.
    Hold { why: String },
}

impl Condition {
    fn trouble(why: String, wait: Option<Duration>) -> Condition {
        Condition::Trouble { why, wait: wait.map(|wait| wait.min(LONGEST_WAIT)) }
    }

    /// What is wrong, if anything is.
    pub fn why(&self) -> Option<&str> {
        match self {
            Condition::Well => None,
            Condition::Doubtful { why } | Condition::Trouble { why, .. } | Condition::Hold { why } => {
                Some(why)
            }
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// One per message sent, in order.
    pub fates: Vec<Fate>,
    pub condition: Condition,
}

impl Verdict {
    pub fn all(messages: usize, fate: Fate, condition: Condition) -> Verdict {
        Verdict { fates: vec![fate; messages], condition }
    }

    fn returned(messages: usize, condition: Condition) -> Verdict {
        Verdict::all(messages, Fate::Return, condition)
    }
}

/// What a request without a reply says of the destination; none if it is the message's own fault.
pub fn silence(outcome: &Outcome) -> Option<Condition> {
    match outcome {
        Outcome::Failed { why, .. } => Some(Condition::trouble(format!("no reply from Lago: {why}"), None)),
        Outcome::Unusable(why) => {
            Some(Condition::trouble(format!("the destination cannot be used: {why}"), None))
        }
        Outcome::Impossible(_) | Outcome::Reply(_) => None,
    }
}

/// No server is believed that asks for a longer pause: Lago's windows are seconds long.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is known of a message's attempts after one more.
pub fn tried(outcome: &Outcome, before: Tried) -> Tried {
    match outcome {
        Outcome::Failed { sent: Sent::Perhaps, .. } => Tried::Unanswered,
        Outcome::Reply(reply) if matches!(reply.status, 408 | 500..) => Tried::Unanswered,
        // A success without Lago's own body: the body was lost, unless it is a web page.
        Outcome::Reply(reply) if matches!(reply.status, 200..=299) && !answer::is_web_page(&reply.body) => {
            Tried::Unanswered
        }
        Outcome::Reply(_) if before == Tried::Never => Tried::Perhaps,
        _ => before,
    }
}

/// A message's last attempt makes a failure by its own fault final.
pub fn give_up(fate: Fate, attempts: u32, most_attempts: u32) -> Fate {
    match fate {
        Fate::Retry { reason } if attempts + 1 >= most_attempts => {
            let attempts = attempts + 1;
            Fate::Rejected {
                reason: format!(
                    "{reason}; given up after {attempts} attempts: lago_push.redrive() sends it again"
                ),
            }
        }
        fate => fate,
    }
}

/// Judges the outcome of a `call` with the messages `sent`.
pub fn judge(outcome: &Outcome, call: &Call, sent: &[Message]) -> Verdict {
    let messages = sent.len();
    let verdict = match (outcome, silence(outcome)) {
        (_, Some(condition)) => Verdict::returned(messages, condition),
        (Outcome::Reply(reply), None) => {
            let special = match call.batch {
                Batch::UpTo { root, .. } => events::judge(reply, root, sent),
                Batch::One => single::judge(reply, call, sent),
            };
            special.unwrap_or_else(|| any::judge(reply, call, sent))
        }
        (Outcome::Impossible(why) | Outcome::Unusable(why) | Outcome::Failed { why, .. }, None) => {
            let reason = format!(
                "the request cannot be made: {why}; correct the path or the headers of the sync with lago_push.alter_sync()"
            );
            Verdict::all(messages, Fate::Rejected { reason }, Condition::Well)
        }
    };
    match call.repeat {
        Repeat::Never if !proves_that_nothing_happened(outcome) => never_again(verdict, call, sent),
        _ => verdict,
    }
}

/// Whether a request that is not settled by its answer can be repeated even if a second one would do
/// the same thing twice. When in doubt it cannot.
fn proves_that_nothing_happened(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { sent, .. } => *sent == Sent::No,
        Outcome::Unusable(_) | Outcome::Impossible(_) => true,
        Outcome::Reply(reply) => match reply.status {
            // Whoever answered with a web page, it was not Lago.
            200..=299 => answer::is_web_page(&reply.body),
            // Contention, before anything is written.
            422 => answer::code(&reply.body).as_deref() == Some(LOCKED),
            // Lago had begun: it was a provider further on that refused.
            429 => answer::code(&reply.body).as_deref() != Some(THROTTLED_BY_PROVIDER),
            300..=399 | 401 | 403 | 404 | 405 | 503 => true,
            _ => false,
        },
    }
}

/// Two calls wanted the same thing at the same time.
const LOCKED: &str = "lock_acquisition_failed";
/// A payment or tax provider asks Lago to slow down.
const THROTTLED_BY_PROVIDER: &str = "too_many_provider_requests";

/// What was to go again is looked up, or rejected, instead.
fn never_again(verdict: Verdict, call: &Call, sent: &[Message]) -> Verdict {
    let why = verdict.condition.why().map(str::to_owned);
    let instead = |(fate, message): (Fate, &Message)| {
        let why = match (fate, &why) {
            (fate @ (Fate::Delivered | Fate::Duplicate | Fate::Rejected { .. }), _) => return fate,
            (Fate::Retry { reason } | Fate::Wait { reason } | Fate::LookUp(LookUp { reason, .. }), _) => {
                reason
            }
            (_, Some(why)) => why.clone(),
            (_, None) => "no clear answer".into(),
        };
        match LookUp::top_up(call, message, why.clone()) {
            Some(look) => Fate::LookUp(look),
            None => Fate::Rejected { reason: unknown_outcome(&why) },
        }
    };
    Verdict {
        fates: verdict.fates.into_iter().zip(sent).map(instead).collect(),
        condition: verdict.condition,
    }
}

/// The reason of a dead letter of which nobody knows whether Lago did what it says.
pub fn unknown_outcome(why: &str) -> String {
    format!(
        "the outcome is unknown: {why}; a second call might do it twice, so look it up in Lago before sending it again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::{Cause, Question};

    fn sent(ids: &[&str]) -> Vec<Message> {
        (1..)
            .zip(ids)
            .map(|(id, text)| Message::sample(id, &format!(r#"{{"transaction_id":"{text}"}}"#)))
            .collect()
    }

    fn events() -> Call {
        Call::of("event", None, None, None).expect("in the catalogue")
    }

    fn answered(status: u16, body: &str, sent: &[Message]) -> Verdict {
        let reply = Reply { status, body: body.into(), wait: None, allowance: None };
        judge(&Outcome::Reply(reply), &events(), sent)
    }

    fn three(status: u16, body: &str) -> Verdict {
        answered(status, body, &sent(&["a", "b", "c"]))
    }

    fn alone(status: u16, body: &str) -> Verdict {
        answered(status, body, &sent(&["a"]))
    }

    fn error(status: u16, code: &str) -> String {
        format!(r#"{{"status":{status},"error":"Some Error","code":"{code}"}}"#)
    }

    fn refusal(details: &str) -> String {
        format!(
            r#"{{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{details}}}"#
        )
    }

    fn reason(fate: &Fate) -> &str {
        match fate {
            Fate::Rejected { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn question(fate: &Fate) -> Question {
        match fate {
            Fate::LookUp(look) => look.question,
            other => panic!("{other:?}"),
        }
    }

    const TAKEN: &str = r#"{"transaction_id":["value_already_exist"]}"#;

    #[test]
    fn a_200_that_lists_the_events_delivers_them() {
        let listed = r#"{"events":[{"transaction_id":"a"},{"transaction_id":"b"},{"transaction_id":"c"}]}"#;
        assert_eq!(three(200, listed), Verdict::all(3, Fate::Delivered, Condition::Well));
        let cut_off = three(200, "{ \"events\" : [{\"lago_id\":\"1a90");
        assert_eq!(cut_off, Verdict::all(3, Fate::Delivered, Condition::Well));
    }

    #[test]
    fn an_event_that_a_whole_200_does_not_list_is_looked_up() {
        let verdict = three(200, r#"{"events":[{"transaction_id":"a"},{"transaction_id":"c"}]}"#);
        assert_eq!((&verdict.fates[0], &verdict.fates[2]), (&Fate::Delivered, &Fate::Delivered));
        assert_eq!(question(&verdict.fates[1]), Question::SameEvent(Cause::Failure));
        assert!(verdict.condition.why().is_some_and(|why| why.contains("1 of 3")), "{verdict:?}");
        let nothing = answered(200, r#"{"events":[]}"#, &[Message::sample(1, "{}")]);
        assert!(matches!(&nothing.fates[..], [Fate::Retry { .. }]), "there is nothing to look it up by");
    }

    #[test]
    fn a_200_that_is_not_lagos_delivers_nothing() {
        for body in ["", "<html>sign in</html>", "{}", r#"{"event":{}}"#] {
            let verdict = three(200, body);
            assert_eq!(verdict.fates, vec![Fate::Return; 3], "{body}");
            assert!(matches!(verdict.condition, Condition::Trouble { .. }));
            assert!(verdict.condition.why().is_some_and(|why| why.contains("alter_destination()")));
        }
    }

    #[test]
    fn an_index_map_settles_the_flagged_and_resends_the_rest() {
        let verdict = three(
            422,
            &refusal(
                r#"{"0":"expression_evaluation_failed: Variable: foo not found","2":{"timestamp":["invalid_format"]}}"#,
            ),
        );
        assert_eq!(verdict.condition, Condition::Well);
        assert_eq!(verdict.fates[1], Fate::Resend);
        assert!(
            reason(&verdict.fates[0]).contains("422: expression_evaluation_failed: Variable: foo not found;")
        );
        assert!(reason(&verdict.fates[2]).contains("422: timestamp: invalid_format;"));
        for index in [0, 2] {
            assert!(reason(&verdict.fates[index]).contains("redrive()"), "it says what to do");
        }
    }

    #[test]
    fn an_id_lago_has_already_is_ours_if_an_attempt_went_unanswered_and_looked_up_if_not() {
        let mut messages = sent(&["a", "b", "c"]);
        messages[0].tried = Tried::Unanswered;
        messages[1].tried = Tried::Perhaps;
        let all = refusal(&format!(r#"{{"0":{TAKEN},"1":{TAKEN},"2":{TAKEN}}}"#));
        let fates = answered(422, &all, &messages).fates;
        assert_eq!(fates[0], Fate::Duplicate);
        assert_eq!(question(&fates[1]), Question::SameEvent(Cause::Duplicate(Tried::Perhaps)));
        assert_eq!(question(&fates[2]), Question::SameEvent(Cause::Duplicate(Tried::Never)));
    }

    #[test]
    fn an_id_that_cannot_be_read_cannot_be_looked_up() {
        let duplicate = refusal(&format!(r#"{{"0":{TAKEN}}}"#));
        let mut message = Message::sample(1, "{}");
        assert!(reason(&answered(422, &duplicate, &[message.clone()]).fates[0]).contains("not verified"));
        message.tried = Tried::Perhaps;
        assert_eq!(answered(422, &duplicate, &[message]).fates, [Fate::Duplicate]);
    }

    #[test]
    fn a_duplicate_that_has_another_fault_is_rejected() {
        let both = r#"{"0":{"transaction_id":["value_already_exist"],"code":["value_is_mandatory"]}}"#;
        let verdict = three(422, &refusal(both));
        assert!(
            reason(&verdict.fates[0])
                .contains("transaction_id: value_already_exist; code: value_is_mandatory")
        );
    }

    #[test]
    fn twins_in_one_request_are_asked_about_one_by_one() {
        let twins = [
            r#"{"transaction_id":"a","external_subscription_id":"1"}"#,
            r#"{"transaction_id":"a","external_subscription_id":"2"}"#,
        ];
        let sent: Vec<Message> = twins.iter().map(|payload| Message::sample(1, payload)).collect();
        let verdict = answered(422, &refusal(&format!(r#"{{"1":{TAKEN}}}"#)), &sent);
        assert_eq!(verdict.fates, [Fate::Resend, Fate::ResendAlone]);
    }

    #[test]
    fn a_422_that_names_no_event_never_sends_the_same_batch_again() {
        for body in [
            refusal(r#""text""#),
            refusal("null"),
            refusal("{}"),
            refusal(r#"{"7":{}}"#),
            refusal(r#"{"events":["no_events"]}"#),
        ] {
            assert_eq!(three(422, &body), Verdict::all(3, Fate::ResendAlone, Condition::Well), "{body}");
            assert!(reason(&alone(422, &body).fates[0]).contains("named no event"), "{body}");
        }
        for cut in ["", "not json", r#"{"status":422,"error_deta"#] {
            assert_eq!(three(422, cut), Verdict::all(3, Fate::ResendAlone, Condition::Well), "{cut}");
            let alone = alone(422, cut);
            assert!(matches!(&alone.fates[..], [Fate::Retry { .. }]), "another time it may say more: {cut}");
        }
    }

    #[test]
    fn a_request_that_is_too_large_is_halved_and_the_size_remembered() {
        let too_many = refusal(r#"{"events":["too_many_events"]}"#);
        for (status, body) in [(422, too_many.as_str()), (413, "<html></html>"), (413, "")] {
            assert_eq!(
                three(status, body),
                Verdict::all(3, Fate::SplitAndRemember, Condition::Well),
                "{status}"
            );
            assert!(matches!(&alone(status, body).fates[..], [Fate::Rejected { .. }]), "{status}");
        }
    }

    #[test]
    fn contention_and_a_throttled_provider_cost_no_attempt() {
        for (status, body) in [(422, error(422, LOCKED)), (429, error(429, THROTTLED_BY_PROVIDER))] {
            let verdict = three(status, &body);
            assert_eq!(verdict.condition, Condition::Well);
            for fate in verdict.fates {
                assert!(matches!(&fate, Fate::Wait { reason } if reason.contains("by itself")), "{fate:?}");
            }
        }
    }

    #[test]
    fn what_only_the_operator_can_put_right_holds_the_destination() {
        let cases = [
            (401, r#"{"status":401,"error":"Unauthorized"}"#.to_owned(), "set_api_key()"),
            (401, "<html></html>".into(), "set_api_key()"),
            (403, error(403, "write_action_not_allowed_for_event"), "write_action_not_allowed_for_event"),
            (403, r#"{"status":403,"error":"Forbidden"}"#.into(), "set_api_key()"),
            (404, error(404, "resource_not_found"), "alter_destination()"),
            (403, "<html></html>".into(), "alter_destination()"),
            (404, r#"{"message":"no route"}"#.into(), "alter_destination()"),
            (405, String::new(), "alter_destination()"),
        ];
        for (status, body, advice) in cases {
            let verdict = three(status, &body);
            assert_eq!(verdict.fates, vec![Fate::Return; 3], "{status} {body}");
            match verdict.condition {
                Condition::Hold { why } => {
                    assert!(why.contains(advice) && why.contains("release()"), "{why}");
                }
                other => panic!("{status} {body}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_destinations_trouble_costs_no_attempt() {
        for (status, advice) in [
            (301, "not followed"),
            (307, "alter_destination()"),
            (408, "by itself"),
            (429, "by itself"),
            (502, "by itself"),
            (503, "by itself"),
            (504, "by itself"),
        ] {
            let verdict = three(status, "<html></html>");
            assert_eq!(verdict.fates, vec![Fate::Return; 3], "{status}");
            assert!(
                matches!(&verdict.condition, Condition::Trouble { why, .. } if why.contains(advice)),
                "{verdict:?}"
            );
        }
        for outcome in [
            Outcome::Failed { why: "connection refused".into(), sent: Sent::No },
            Outcome::Failed { why: "time-out".into(), sent: Sent::Perhaps },
            Outcome::Unusable("no file".into()),
        ] {
            let verdict = judge(&outcome, &events(), &sent(&["a", "b"]));
            assert_eq!(verdict.fates, vec![Fate::Return; 2]);
            assert!(matches!(verdict.condition, Condition::Trouble { .. }));
        }
    }

    #[test]
    fn an_answer_nobody_can_explain_halves_the_request_down_to_one_message_which_is_looked_up() {
        for status in [0, 400, 406, 411, 415, 418, 431, 451, 500, 501, 520, 599, 700] {
            let verdict = three(status, "<html></html>");
            assert_eq!(verdict.fates, vec![Fate::Split; 3], "{status}");
            assert!(matches!(verdict.condition, Condition::Doubtful { .. }), "{status}");
            let verdict = alone(status, "<html></html>");
            assert_eq!(question(&verdict.fates[0]), Question::SameEvent(Cause::Failure), "{status}");
            assert!(matches!(verdict.condition, Condition::Doubtful { .. }), "{status}");
        }
        let crash = r#"{"status":500,"error":"Internal Server Error"}"#;
        assert_eq!(three(500, crash).fates, vec![Fate::Split; 3], "in Lago's own words too");
        let no_id = answered(500, crash, &[Message::sample(1, "{}")]);
        assert_eq!(question(&no_id.fates[0]), Question::Health);
    }

    #[test]
    fn a_request_lago_cannot_read_is_asked_again_event_by_event() {
        for (status, body) in [
            (400, r#"{"status":400,"error":"Bad Request"}"#.to_owned()),
            (406, r#"{"status":406,"error":"Not Acceptable"}"#.into()),
            (405, error(405, "some_rule")),
            (404, error(404, "thing_not_found")),
        ] {
            assert_eq!(three(status, &body), Verdict::all(3, Fate::ResendAlone, Condition::Well), "{status}");
            let fate = &alone(status, &body).fates[0];
            assert!(matches!(fate, Fate::Rejected { .. } | Fate::Retry { .. }), "{status} {fate:?}");
        }
    }

    #[test]
    fn a_server_may_ask_for_a_pause_but_not_for_ever() {
        let wait = |wait, reset| {
            let allowance = Some(Allowance { limit: None, remaining: 0, reset: Duration::from_secs(reset) });
            let reply = Reply { status: 429, body: vec![], wait, allowance };
            match judge(&Outcome::Reply(reply), &events(), &sent(&["a"])).condition {
                Condition::Trouble { wait, .. } => wait,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wait(Some(Duration::from_secs(7)), 9), Some(Duration::from_secs(7)));
        assert_eq!(wait(None, 9), Some(Duration::from_secs(9)));
        assert_eq!(wait(Some(Duration::from_secs(86_400)), 9), Some(LONGEST_WAIT));
    }

    #[test]
    fn an_attempt_whose_end_is_not_known_is_remembered() {
        let after = |status, body: &str, before| {
            let body = body.into();
            tried(&Outcome::Reply(Reply { status, body, wait: None, allowance: None }), before)
        };
        for status in [408, 500, 502, 503, 504, 520] {
            assert_eq!(after(status, "", Tried::Never), Tried::Unanswered, "{status}");
        }
        assert_eq!(after(200, "", Tried::Never), Tried::Unanswered, "its body was lost");
        assert_eq!(after(200, "<html>", Tried::Never), Tried::Perhaps, "it was not Lago's");
        assert_eq!(after(422, "", Tried::Never), Tried::Perhaps);
        assert_eq!(after(422, "", Tried::Unanswered), Tried::Unanswered);
        let failed = |sent| tried(&Outcome::Failed { why: String::new(), sent }, Tried::Never);
        assert_eq!((failed(Sent::No), failed(Sent::Perhaps)), (Tried::Never, Tried::Unanswered));
    }

    #[test]
    fn the_last_attempt_makes_a_retry_final_and_nothing_else() {
        let retry = Fate::Retry { reason: "why".into() };
        assert_eq!(give_up(retry.clone(), 1, 3), retry);
        let given_up = give_up(retry, 2, 3);
        assert!(
            reason(&given_up).contains("why; given up after 3 attempts")
                && reason(&given_up).contains("redrive()")
        );
        let wait = Fate::Wait { reason: "why".into() };
        assert_eq!(give_up(wait.clone(), 100, 3), wait);
    }
}
