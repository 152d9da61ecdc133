//! What becomes of messages Lago was asked about.

use super::*;
use crate::verdict::Sent;

const EVENT: &str = r#"{"transaction_id":"t.1","external_subscription_id":"secret","code":"hidden","timestamp":1710421740.5}"#;
const SAME: &str = r#"{"event":{"transaction_id":"t.1","external_subscription_id":"secret","code":"hidden","timestamp":"2024-03-14T13:09:00.500Z"}}"#;
const NOT_FOUND: &str = r#"{"status":404,"error":"Not Found","code":"event_not_found"}"#;
const DENIED: &str = r#"{"status":403,"error":"Forbidden","code":"read_action_not_allowed_for_event"}"#;
const TOP_UP: &str =
    r#"{"wallet_id":"w","paid_credits":"10","metadata":[{"key":"lago_push","value":"1-2-i"}]}"#;

fn event() -> Message {
    Message::sample(1, EVENT)
}

fn call(endpoint: &str) -> Call {
    Call::of(endpoint, None, None, None).expect("in the catalogue")
}

fn asked(cause: Cause) -> LookUp {
    LookUp::same_event(cause, &event(), "Lago answered 500".into()).expect("it has an id")
}

fn duplicate(tried: Tried) -> LookUp {
    asked(Cause::Duplicate(tried))
}

fn top_up() -> LookUp {
    after_loss(&call("wallet_transaction"), &Message::sample(1, TOP_UP)).expect("it is marked")
}

fn answer(status: u16, body: &str) -> Outcome {
    Outcome::Reply(Reply { status, body: body.into(), wait: None, allowance: None })
}

fn judged(look: &LookUp, status: u16, body: &str) -> Verdict {
    let payload = if look.question == Question::TopUp { TOP_UP } else { EVENT };
    look.judge(&answer(status, body), &Message::sample(1, payload))
}

fn fate(look: &LookUp, status: u16, body: &str) -> Fate {
    let mut verdict = judged(look, status, body);
    assert_eq!(verdict.condition, Condition::Well, "{status} {body}");
    verdict.fates.remove(0)
}

fn next(fate: Fate) -> LookUp {
    match fate {
        Fate::LookUp(look) => look,
        other => panic!("{other:?}"),
    }
}

fn rejection(fate: Fate) -> String {
    match fate {
        Fate::Rejected { reason } => {
            for value in ["secret", "hidden", "t.1"] {
                assert!(!reason.contains(value), "{reason}");
            }
            reason
        }
        other => panic!("{other:?}"),
    }
}

fn retry() -> Fate {
    Fate::Retry { reason: "Lago answered 500".into() }
}

fn other(field: &str, value: &str) -> String {
    let ours = match field {
        "external_subscription_id" => "secret",
        "code" => "hidden",
        _ => "2024-03-14T13:09:00.500Z",
    };
    SAME.replace(ours, value)
}

#[test]
fn the_same_event_is_a_duplicate_whatever_raised_the_question() {
    for cause in [Cause::Failure, Cause::Duplicate(Tried::Never), Cause::Duplicate(Tried::Perhaps)] {
        assert_eq!(fate(&asked(cause), 200, SAME), Fate::Duplicate, "{cause:?}");
    }
}

#[test]
fn an_event_is_asked_for_by_its_id() {
    assert_eq!(asked(Cause::Failure).path(&call("event"), &event()), "/events/t%2E1");
}

#[test]
fn another_event_under_the_id_is_a_collision_that_names_what_differs() {
    for (field, value) in [("code", "x"), ("timestamp", "2024-03-14T13:09:01.000Z")] {
        let reason = rejection(fate(&duplicate(Tried::Perhaps), 200, &other(field, value)));
        assert!(reason.starts_with("id collision: ") && reason.contains(field), "{reason}");
        assert!(reason.contains("discard()"), "it says what to do: {reason}");
        assert_eq!(fate(&asked(Cause::Failure), 200, &other(field, value)), retry());
    }
}

#[test]
fn another_subscriptions_event_leads_to_ones_own_subscription() {
    let elsewhere = other("external_subscription_id", "x");
    let look = next(fate(&duplicate(Tried::Never), 200, &elsewhere));
    assert_eq!(
        look.question,
        Question::SameEventOfSubscription { cause: Cause::Duplicate(Tried::Never), page: 1 }
    );
    assert!(
        look.path(&call("event"), &event())
            .starts_with("/events?external_subscription_id=secret&code=hidden&")
    );
    let list = |event: &str, next_page: &str| {
        let event = event.strip_prefix(r#"{"event":"#).and_then(|rest| rest.strip_suffix('}')).expect("one");
        format!(r#"{{"events":[{event}],"meta":{{"next_page":{next_page}}}}}"#)
    };
    let stranger = SAME.replace("t.1", "t.2");
    assert_eq!(fate(&look, 200, &list(SAME, "null")), Fate::Duplicate);
    assert!(rejection(fate(&look, 200, &list(&stranger, "null"))).contains("id collision"));
    let second = next(fate(&look, 200, &list(&stranger, "2")));
    assert_eq!(
        second.question,
        Question::SameEventOfSubscription { cause: Cause::Duplicate(Tried::Never), page: 2 }
    );
    let mut last = look;
    for _ in 1..MOST_PAGES {
        last = next(fate(&last, 200, &list(&stranger, "2")));
    }
    assert!(rejection(fate(&last, 200, &list(&stranger, "2"))).contains("not verified"));
}

#[test]
fn an_event_deleted_in_lago_is_rejected_and_one_that_never_came_there_is_sent_again() {
    assert!(rejection(fate(&duplicate(Tried::Perhaps), 404, NOT_FOUND)).contains("deleted"));
    assert_eq!(fate(&asked(Cause::Failure), 404, NOT_FOUND), retry());
}

#[test]
fn a_key_that_may_not_read_leaves_what_is_known_to_decide() {
    let reason = rejection(fate(&duplicate(Tried::Never), 403, DENIED));
    assert!(
        reason.contains("id collision, not verified") && reason.contains("read_action_not_allowed_for_event"),
        "{reason}"
    );
    assert_eq!(fate(&duplicate(Tried::Perhaps), 403, DENIED), Fate::Duplicate);
    assert_eq!(fate(&asked(Cause::Failure), 403, DENIED), retry(), "Lago is well");
}

#[test]
fn reads_that_are_not_let_through_do_not_stop_the_destination() {
    let mut look = duplicate(Tried::Never);
    for _ in 1..WAITS.len() {
        look = next(fate(&look, 403, "<html></html>"));
        assert!(look.wait > Duration::ZERO);
    }
    assert!(rejection(fate(&look, 403, "<html></html>")).contains("not verified"));
    let verdict = judged(&asked(Cause::Failure), 403, "<html></html>");
    assert!(matches!(verdict.condition, Condition::Hold { .. }), "what failed may have been no Lago at all");
}

#[test]
fn the_destinations_trouble_keeps_a_question_and_sends_what_failed_again() {
    let failed = Outcome::Failed { why: "reset".into(), sent: Sent::Perhaps };
    for outcome in
        [failed, answer(502, ""), answer(503, ""), answer(429, ""), answer(401, ""), answer(302, "")]
    {
        for look in [duplicate(Tried::Never), top_up()] {
            let verdict = look.judge(&outcome, &event());
            let kept = LookUp { wait: Duration::ZERO, ..look };
            assert_eq!(verdict.fates, [Fate::LookUp(kept)], "{outcome:?}");
            assert!(matches!(verdict.condition, Condition::Trouble { .. } | Condition::Hold { .. }));
        }
        for look in [asked(Cause::Failure), LookUp::health("why".into())] {
            assert_eq!(look.judge(&outcome, &event()).fates, [Fate::Return], "{outcome:?}");
        }
    }
    let sign_in = judged(&duplicate(Tried::Never), 200, "<html></html>");
    assert!(matches!(sign_in.fates[..], [Fate::LookUp(_)]));
}

#[test]
fn a_failure_counts_against_the_message_only_when_lago_is_well() {
    let health = LookUp::health("Lago answered 500".into());
    assert_eq!(health.path(&call("customer"), &Message::sample(1, "{}")), "/events/lago_push");
    for (status, body) in [(404, NOT_FOUND), (200, r#"{"event":{}}"#), (403, DENIED)] {
        assert_eq!(fate(&health, status, body), retry(), "{status}");
    }
    for (status, body) in
        [(500, ""), (500, r#"{"status":500,"error":"Internal Server Error"}"#), (418, ""), (200, "<html>")]
    {
        let verdict = judged(&health, status, body);
        assert_eq!(verdict.fates, [Fate::Return], "{status}");
        assert!(matches!(verdict.condition, Condition::Trouble { .. }), "{status}");
    }
}

#[test]
fn a_question_lago_fails_at_is_told_from_a_lago_that_fails() {
    let verdict = judged(&asked(Cause::Failure), 500, "");
    assert!(matches!(verdict.condition, Condition::Doubtful { .. }));
    assert!(matches!(&verdict.fates[..], [Fate::LookUp(look)] if look.question == Question::Health));

    let mut look = duplicate(Tried::Never);
    for _ in 1..WAITS.len() {
        let probe = next(judged(&look, 500, "").fates.remove(0));
        assert_eq!(probe.path(&call("event"), &event()), "/events/lago_push");
        let ill = judged(&probe, 500, "");
        assert!(matches!(ill.condition, Condition::Trouble { .. }));
        assert_eq!(next(ill.fates[0].clone()).asked, look.asked, "an outage does not count");
        look = next(fate(&probe, 404, NOT_FOUND));
        assert_eq!(look.path(&call("event"), &event()), "/events/t%2E1");
    }
    let probe = next(judged(&look, 500, "").fates.remove(0));
    assert!(rejection(fate(&probe, 404, NOT_FOUND)).contains("not verified"));
}

#[test]
fn a_top_up_that_lago_shows_was_made() {
    let look = top_up();
    assert_eq!(
        look.path(&call("wallet_transaction"), &Message::sample(1, TOP_UP)),
        "/wallets/w/wallet_transactions?metadata%5Blago_push%5D=1-2-i&per_page=100"
    );
    let shown = r#"{"wallet_transactions":[{"metadata":[{"key":"lago_push","value":"1-2-i"}]}]}"#;
    assert_eq!(fate(&look, 200, shown), Fate::Delivered);
}

#[test]
fn a_top_up_that_lago_does_not_show_is_asked_for_during_a_minute_and_then_left_to_somebody() {
    let nothing = r#"{"wallet_transactions":[],"meta":{}}"#;
    let mut look = top_up();
    let mut waited = look.wait;
    let reason = loop {
        match fate(&look, 200, nothing) {
            Fate::LookUp(again) => {
                waited += again.wait;
                look = again;
            }
            other => break rejection(other),
        }
    };
    assert_eq!(waited, Duration::from_secs(60));
    for part in ["the outcome is unknown", "Lago shows no such transaction", "redrive()"] {
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn a_top_up_that_may_not_be_looked_up_is_left_to_somebody_at_once() {
    let reason = rejection(fate(&top_up(), 403, DENIED));
    assert!(reason.contains("the outcome is unknown") && reason.contains("may not read"), "{reason}");
}

#[test]
fn only_a_marked_top_up_can_be_asked_for_after_its_worker_died() {
    assert!(after_loss(&call("wallet_transaction"), &Message::sample(1, r#"{"wallet_id":"w"}"#)).is_none());
    assert!(after_loss(&call("invoice"), &Message::sample(1, TOP_UP)).is_none());
}
