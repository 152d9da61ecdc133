//! docs/verdicts.md against the code: every answer of Lago's catalogue of errors, and of what may stand in
//! front of it, has a verdict, and every sentence about it stands in the table with what to do.

use super::*;
use crate::lookup::{Cause, LookUp};

const TABLE: &str = include_str!("../../docs/verdicts.md");

/// Whether a sentence stands in the table, where `…` stands for anything.
fn is_documented(sentence: &str) -> bool {
    let sentences = TABLE.split('`').skip(1).step_by(2).filter(|text| text.len() > 20 && text.contains(' '));
    sentences.into_iter().any(|pattern| matches(pattern, sentence))
}

fn matches(pattern: &str, sentence: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| sentence.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// Everything a verdict says.
fn sentences(verdict: &Verdict) -> Vec<String> {
    let of_fates = verdict.fates.iter().filter_map(|fate| match fate {
        Fate::Rejected { reason } | Fate::Retry { reason } | Fate::Wait { reason } => Some(reason.clone()),
        Fate::LookUp(look) => Some(look.reason.clone()),
        _ => None,
    });
    of_fates.chain(verdict.condition.why().map(str::to_owned)).collect()
}

fn error(status: u16, code: &str) -> (u16, String) {
    (status, format!(r#"{{"status":{status},"error":"Some Error","code":"{code}"}}"#))
}

fn refusal(details: &str) -> (u16, String) {
    (
        422,
        format!(
            r#"{{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{details}}}"#
        ),
    )
}

/// Lago's catalogue of errors, and what proxies, gateways and firewalls add to it.
fn answers() -> Vec<(u16, String)> {
    let mut all = vec![
        (400, r#"{"status":400,"error":"BadRequest: param is missing or the value is empty or invalid: event"}"#.into()),
        (400, r#"{"status":400,"error":"Bad Request"}"#.into()),
        (401, r#"{"status":401,"error":"Unauthorized"}"#.into()),
        error(403, "write_action_not_allowed_for_event"),
        error(403, "feature_unavailable"),
        error(404, "event_not_found"),
        error(404, "plan_not_found"),
        error(404, "resource_not_found"),
        error(405, "no_active_subscription"),
        error(405, "plan_overlapping"),
        error(405, "invoiced_fee"),
        error(405, "invalid_type_or_status"),
        error(422, "lock_acquisition_failed"),
        error(422, "third_party_error"),
        error(422, "provider_error"),
        error(429, "too_many_provider_requests"),
        (500, r#"{"status":500,"error":"Internal Server Error"}"#.into()),
        refusal(r#"{"transaction_id":["value_already_exist"]}"#),
        refusal(r#"{"timestamp":["invalid_format"]}"#),
        refusal(r#"{"external_id":["value_already_exist"]}"#),
        refusal(r#"{"code":["value_already_exist"]}"#),
        refusal(r#""expression_evaluation_failed: Variable: b not found""#),
        refusal(r#"{"events":["no_events"]}"#),
        refusal(r#"{"events":["too_many_events"]}"#),
        refusal(r#"{"0":{"transaction_id":["value_already_exist"]}}"#),
        refusal(r#"{"0":"expression_evaluation_failed: Variable: foo not found","1":{"timestamp":["invalid_format"]}}"#),
        refusal("null"),
        (200, r#"{"events":[]}"#.into()),
    ];
    let statuses = [
        200, 204, 301, 307, 308, 400, 401, 403, 404, 405, 406, 408, 411, 413, 415, 418, 422, 429, 431, 451,
        500, 501, 502, 503, 504, 520, 700,
    ];
    for status in statuses {
        all.push((status, "<html>anna@example.com</html>".into()));
        all.push((status, r#"{"message":"anna@example.com"}"#.into()));
        all.push((status, String::new()));
    }
    all
}

fn calls() -> Vec<Call> {
    let of = |name, method, path| Call::of(name, method, path, None).expect("a call");
    vec![
        of("event", None, None),
        of("event", None, Some("/events")),
        of("customer", None, None),
        of("customer_delete", None, None),
        of("plan", None, None),
        of("payment", None, None),
        of("wallet_transaction", None, None),
        of(crate::call::MANUAL, Some("PUT"), Some("/things")),
        of(crate::call::MANUAL, Some("POST"), Some("/things")),
    ]
}

const PAYLOAD: &str = r#"{"transaction_id":"anna-1","external_subscription_id":"anna-2","code":"anna-3","timestamp":1,"wallet_id":"anna-4","metadata":[{"key":"lago_push","value":"anna-5"}]}"#;

fn assert_documented(verdict: &Verdict, what: &str) {
    for sentence in sentences(verdict) {
        assert!(is_documented(&sentence), "{what}: docs/verdicts.md has no row with: {sentence}");
        assert!(!sentence.contains("anna"), "{what}: a value in: {sentence}");
    }
    let is_silent = |fate: &Fate| matches!(fate, Fate::Rejected { reason } | Fate::Retry { reason } | Fate::Wait { reason } if reason.is_empty());
    assert!(!verdict.fates.iter().any(is_silent), "{what}");
}

#[test]
fn every_sentence_about_an_answer_stands_in_the_table_and_holds_no_value() {
    for call in calls() {
        for count in [1, 3] {
            if count > 1 && call.batch == Batch::One {
                continue;
            }
            let sent: Vec<Message> = (0..count)
                .map(|id| Message::sample(id, &PAYLOAD.replace("anna-1", &format!("anna-1{id}"))))
                .collect();
            for (status, body) in answers() {
                let what = format!("{} of {count}: {status} {body}", call.name());
                let reply = Reply { status, body: body.into(), wait: None, allowance: None };
                let verdict = judge(&Outcome::Reply(reply), &call, &sent);
                if !matches!(status, 200 | 204 | 422) && verdict.fates != [Fate::Delivered] {
                    let is_told = !sentences(&verdict).is_empty()
                        || verdict
                            .fates
                            .iter()
                            .all(|fate| matches!(fate, Fate::ResendAlone | Fate::SplitAndRemember));
                    assert!(is_told, "{what}: {verdict:?}");
                }
                assert_documented(&verdict, &what);
            }
            for outcome in [
                Outcome::Failed { why: "time-out (global)".into(), sent: Sent::Perhaps },
                Outcome::Unusable("its URL is not one".into()),
                Outcome::Impossible("its path is not one a URL can have".into()),
            ] {
                assert_documented(&judge(&outcome, &call, &sent), call.name());
            }
        }
    }
}

#[test]
fn every_sentence_about_a_question_stands_in_the_table_and_holds_no_value() {
    let message = Message::sample(1, PAYLOAD);
    let reason = || "Lago answered 422 transaction_id: value_already_exist".to_owned();
    let event = |cause| LookUp::same_event(cause, &message, reason()).expect("an id");
    let top_up = Call::of("wallet_transaction", None, None, None).expect("in the catalogue");
    let mut open = vec![
        event(Cause::Duplicate(Tried::Never)),
        event(Cause::Duplicate(Tried::Perhaps)),
        event(Cause::Failure),
        LookUp::health(reason()),
        LookUp::top_up(&top_up, &message, reason()).expect("a mark"),
    ];
    let found = |key: &str, value: &str| {
        let id = if key == "transaction_id" { value } else { "anna-1" };
        let event = format!(
            r#"{{"transaction_id":"{id}","external_subscription_id":"anna-2","code":"anna-3","{key}":"{value}"}}"#
        );
        [(200, format!(r#"{{"event":{event}}}"#)), (200, format!(r#"{{"events":[{event}]}}"#))]
    };
    let mut all = answers();
    all.extend(found("code", "other"));
    all.extend(found("timestamp", "2024-03-14T13:09:00.125Z"));
    all.extend(found("external_subscription_id", "other"));
    all.extend(found("transaction_id", "other"));
    all.push((200, r#"{"wallet_transactions":[]}"#.into()));
    for _ in 0..4 {
        let mut next = Vec::new();
        for look in &open {
            for (status, body) in &all {
                let reply = Reply { status: *status, body: body.clone().into(), wait: None, allowance: None };
                let verdict = look.judge(&Outcome::Reply(reply), &message);
                assert_documented(&verdict, &format!("{look:?}: {status} {body}"));
                for fate in verdict.fates {
                    match fate {
                        Fate::LookUp(look) if !next.contains(&look) => next.push(look),
                        _ => {}
                    }
                }
            }
        }
        open = next;
    }
}

#[test]
fn a_sentence_that_is_not_in_the_table_is_noticed() {
    assert!(is_documented("Lago is not available (503): it is tried again by itself"));
    assert!(!is_documented("Lago is not available (503): it is tried again"));
    assert!(!is_documented("Lago has gone for a walk, and nobody knows when it comes back"));
}
