//! What Lago answers a call for one object.
//!
//! A success is always 200 with JSON, deletion included. A 404 with the code `resource_not_found` is an
//! unknown route; with the code of anything else it is that thing which does not exist. A 405 in JSON
//! is a rule of Lago's business, not about the verb. Some 422 say that another moment may do.
#![forbid(unsafe_code)]

use super::answer::{
    begins_with_key, by_field, code, details, exists_already, is_lagos_error, object, shortened,
};
use super::any::{missing, refused, rejected};
use super::events::{PUT_RIGHT, duplicate, locked};
use super::{Condition, Fate, LOCKED, Reply, Verdict};
use crate::call::{Call, Method};
use crate::endpoint::{CATALOGUE, Repeat};
use crate::message::Message;
use serde_json::Value;

/// Judges the answer; none if it means what it means to every call.
pub fn judge(reply: &Reply, call: &Call, sent: &[Message]) -> Option<Verdict> {
    let [message] = sent else { return None };
    let is_json = object(&reply.body).is_some();
    let is_lagos = is_lagos_error(reply.status, &reply.body);
    let code = code(&reply.body);
    let fate = match (reply.status, code.as_deref()) {
        (200..=299, _) if is_success(&reply.body, call, is_json) => Fate::Delivered,
        (403, Some("feature_unavailable")) => rejected(
            "Lago answered 403 feature_unavailable: the organization's plan with Lago does not include this; change the plan and lago_push.redrive() it, or lago_push.discard() it".into(),
        ),
        (403, Some(code)) if has_own_path(call) && !code.contains("_action_not_allowed_") => {
            rejected(refused(&format!("403 {code}")))
        }
        (404, Some(code)) if call.method == Method::Delete && is_about_an_object(code) => Fate::Delivered,
        // What another sync may still be about to create.
        (404, Some(code)) if is_about_an_object(code) => {
            Fate::Retry { reason: missing(&format!("404 {code}")) }
        }
        (404, _) if is_lagos && has_own_path(call) => rejected(
            "Lago answered 404: it knows no such path; correct the path with lago_push.alter_sync(), send the row anew and lago_push.discard() this one".into(),
        ),
        (405, Some(code)) => rejected(refused(&format!("405 {code}"))),
        (422, code) => judge_refusal(&reply.body, call, code, message),
        _ => return None,
    };
    Some(Verdict::all(1, fate, Condition::Well))
}

/// A catalogued call is answered with its object in the key it was sent in; a top-up with an array in
/// the plural of it.
fn is_success(body: &[u8], call: &Call, is_json: bool) -> bool {
    match &call.root {
        Some(root) if call.method != Method::Delete && !has_own_path(call) => {
            begins_with_key(body, &[root, &format!("{root}s")])
        }
        _ => is_json,
    }
}

/// Whether the path is the user's own, so that it is what may be wrong about an unknown route.
fn has_own_path(call: &Call) -> bool {
    call.endpoint.is_none_or(|endpoint| endpoint.path != call.path)
}

fn is_about_an_object(code: &str) -> bool {
    code.ends_with("_not_found") && code != "resource_not_found"
}

fn judge_refusal(body: &[u8], call: &Call, code: Option<&str>, message: &Message) -> Fate {
    let sentence = |detail: &str| {
        let short = shortened(detail);
        match code {
            Some("validation_errors") | None if short.is_empty() => "Lago answered 422".to_owned(),
            Some("validation_errors") | None => format!("Lago answered 422: {short}"),
            Some(code) if short.is_empty() => format!("Lago answered 422 {code}"),
            Some(code) => format!("Lago answered 422 {code}: {short}"),
        }
    };
    let refused = |said: String| rejected(format!("{said}; {PUT_RIGHT}"));
    match code {
        Some(LOCKED) => return Fate::Wait { reason: locked("422 lock_acquisition_failed") },
        Some(code @ ("third_party_error" | "provider_error")) => {
            // What a provider says may quote the request.
            return Fate::Retry {
                reason: format!(
                    "Lago answered 422 {code}: a payment or tax provider refused it; see in Lago what it says"
                ),
            };
        }
        _ => {}
    }
    let fields = match details(body) {
        Some(Value::Object(fields)) => fields,
        Some(Value::String(text)) => return refused(sentence(&text)),
        // An answer that lost its end on the way may be a better one the next time.
        _ if call.repeat == Repeat::Safe && object(body).is_none() => {
            return Fate::Retry { reason: format!("{}; {PUT_RIGHT}", sentence("")) };
        }
        _ => return refused(sentence("")),
    };
    if exists_already(&fields, "transaction_id") {
        return duplicate(message);
    }
    let told = sentence(&by_field(&fields));
    // Two first calls for one customer at the same time: the second finds it when it comes again.
    if exists_already(&fields, "external_id")
        && (call.method, call.path.as_str()) == (Method::Post, "/customers")
    {
        return Fate::Retry { reason: format!("{told}; {PUT_RIGHT}") };
    }
    if exists_already(&fields, "code")
        && let Some(update) = update_of(call)
    {
        return rejected(format!(
            "{told}; change what exists with {update}, and lago_push.discard() this one"
        ));
    }
    refused(told)
}

/// The collections whose objects have codes of the user's own, so that a second call finds the first.
const CODED: [&str; 5] = ["/billable_metrics", "/plans", "/add_ons", "/coupons", "/taxes"];

/// How to change what this call creates.
fn update_of(call: &Call) -> Option<String> {
    if call.method != Method::Post || !CODED.contains(&call.path.as_str()) {
        return None;
    }
    let changes = |path: &str| path.strip_prefix(&call.path).is_some_and(|rest| rest.starts_with("/{"));
    let known =
        CATALOGUE.iter().find(|endpoint| endpoint.method == Method::Put.word() && changes(endpoint.path));
    Some(known.map_or_else(
        || format!("PUT {}/…", call.path),
        |endpoint| format!("endpoint => '{}'", endpoint.name),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, Sent, judge as judge_outcome};
    use super::*;
    use crate::endpoint::Repeat;
    use crate::lookup::{Cause, Question};
    use crate::message::Message;
    use crate::message::Tried;

    fn call(method: &str, path: &str, root: Option<&str>) -> Call {
        Call::of(crate::call::MANUAL, Some(method), Some(path), root).expect("a call")
    }

    /// A call of the catalogue, whatever the catalogue holds: its path is not the user's own.
    fn catalogued(method: &str, path: &'static str, root: &'static str) -> Call {
        let event = Call::of("event", None, None, None).expect("in the catalogue").endpoint.expect("known");
        let endpoint = crate::endpoint::Endpoint {
            name: "test",
            method: event.method,
            path,
            root: Some(root),
            required: &[],
            optional: &[],
            example: "",
            ..*event
        };
        let endpoint = Some(&*Box::leak(Box::new(endpoint)));
        Call { endpoint, repeat: Repeat::Safe, ..call(method, path, Some(root)) }
    }

    fn outcome(status: u16, body: &str) -> Outcome {
        Outcome::Reply(Reply { status, body: body.into(), wait: None, allowance: None })
    }

    fn verdict(call: &Call, status: u16, body: &str) -> Verdict {
        judge_outcome(&outcome(status, body), call, &[Message::sample(1, "{}")])
    }

    fn fate(call: &Call, status: u16, body: &str) -> Fate {
        verdict(call, status, body).fates.remove(0)
    }

    fn reason(call: &Call, status: u16, body: &str) -> String {
        match fate(call, status, body) {
            Fate::Rejected { reason } => reason,
            other => panic!("{status} {body}: {other:?}"),
        }
    }

    fn is_trouble(verdict: &Verdict) -> bool {
        verdict.fates == [Fate::Return] && matches!(verdict.condition, Condition::Trouble { .. })
    }

    fn is_hold(verdict: &Verdict) -> bool {
        verdict.fates == [Fate::Return]
            && matches!(&verdict.condition, Condition::Hold { why } if why.contains("release()"))
    }

    fn question(fate: Fate) -> Question {
        match fate {
            Fate::LookUp(look) => look.question,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(details: &str) -> String {
        format!(r#"{{"status":422,"code":"validation_errors","error_details":{details}}}"#)
    }

    #[test]
    fn a_success_has_its_object_in_it() {
        let customer = catalogued("POST", "/customers", "customer");
        for body in [r#"{"customer":{"lago_id":"1"}}"#, "{ \"customer\": {\"lago"] {
            assert_eq!(fate(&customer, 200, body), Fate::Delivered, "{body}");
        }
        for body in ["", "<html></html>", r#"{"plan":{}}"#, "[]"] {
            assert!(is_trouble(&verdict(&customer, 200, body)), "{body}");
        }
        let top_up = catalogued("POST", "/wallet_transactions", "wallet_transaction");
        assert_eq!(fate(&top_up, 200, r#"{"wallet_transactions":[{}]}"#), Fate::Delivered);
    }

    #[test]
    fn a_path_of_ones_own_may_be_answered_with_any_object() {
        let estimate = call("POST", "/events/estimate_fees", Some("event"));
        assert_eq!(fate(&estimate, 200, r#"{"fees":[]}"#), Fate::Delivered);
        let web_page = verdict(&call("PUT", "/things/1", None), 200, "<html>sign in</html>");
        assert!(is_trouble(&web_page));
    }

    #[test]
    fn a_deletion_is_done_when_lago_says_so_or_has_nothing_to_delete() {
        let delete = catalogued("DELETE", "/customers/{external_id}", "customer");
        assert_eq!(fate(&delete, 200, r#"{"customer":{}}"#), Fate::Delivered);
        assert_eq!(fate(&delete, 200, r#"{"anything":{}}"#), Fate::Delivered);
        assert!(is_trouble(&verdict(&delete, 200, "<html></html>")));
        assert_eq!(fate(&delete, 404, r#"{"status":404,"code":"customer_not_found"}"#), Fate::Delivered);
        assert!(is_hold(&verdict(&delete, 404, r#"{"status":404,"code":"resource_not_found"}"#)));
        assert!(is_hold(&verdict(&delete, 404, "<html></html>")));
    }

    #[test]
    fn a_thing_that_does_not_exist_yet_is_told_from_a_route_that_does_not() {
        let (plan, route) =
            (r#"{"status":404,"code":"plan_not_found"}"#, r#"{"status":404,"code":"resource_not_found"}"#);
        let subscription = catalogued("POST", "/subscriptions", "subscription");
        let manual = call("POST", "/subscritpions", None);
        for call in [&subscription, &manual] {
            match fate(call, 404, plan) {
                Fate::Retry { reason } => {
                    assert!(
                        reason.contains("404 plan_not_found") && reason.contains("create it"),
                        "{reason}"
                    );
                }
                other => panic!("{other:?}"),
            }
            assert!(is_hold(&verdict(call, 404, "<html></html>")));
            assert!(is_hold(&verdict(call, 404, r#"{"message":"no route"}"#)), "a gateway's JSON");
        }
        assert!(is_hold(&verdict(&subscription, 404, route)));
        assert!(is_hold(&verdict(&subscription, 404, "")));
        assert!(reason(&manual, 404, route).contains("alter_sync()"));
    }

    #[test]
    fn a_refusal_is_told_field_by_field() {
        let plan = catalogued("POST", "/plans", "plan");
        let cases = [
            (r#"{"name":["value_is_mandatory"]}"#, "Lago answered 422: name: value_is_mandatory; "),
            (r#"{"a":["x","y"],"b":["z"]}"#, "Lago answered 422: a: x, y; b: z; "),
            (
                r#"{"charges":{"0":{"properties":["invalid_amount"]}}}"#,
                "Lago answered 422: charges: 0: properties: invalid_amount; ",
            ),
            (r#""expression_evaluation_failed""#, "Lago answered 422: expression_evaluation_failed; "),
            ("null", "Lago answered 422; "),
        ];
        for (details, sentence) in cases {
            let told = reason(&plan, 422, &refusal(details));
            assert!(told.starts_with(sentence) && told.contains("redrive()"), "{told}");
            assert_eq!(verdict(&plan, 422, &refusal(details)).condition, Condition::Well);
        }
        for cut in ["", "not json", r#"{"status":422,"error_details":{"name":["value_is"#] {
            match fate(&plan, 422, cut) {
                Fate::Retry { reason } => assert!(reason.starts_with("Lago answered 422; "), "{reason}"),
                other => panic!("{cut}: {other:?}"),
            }
        }
        assert!(reason(&plan, 422, &refusal(&format!("\"{}\"", "x".repeat(10_000)))).len() < 700);
    }

    #[test]
    fn what_has_its_code_already_is_to_be_changed_instead() {
        let exists = refusal(r#"{"code":["value_already_exist"]}"#);
        for path in CODED {
            let told = reason(&call("POST", path, None), 422, &exists);
            assert!(told.contains("value_already_exist") && told.contains("change what exists"), "{told}");
        }
        assert!(!reason(&call("PUT", "/plans/a", None), 422, &exists).contains("change what"));
    }

    #[test]
    fn what_another_moment_may_change_is_retried_and_counts() {
        let customer = catalogued("POST", "/customers", "customer");
        let race = refusal(r#"{"external_id":["value_already_exist"]}"#);
        assert!(matches!(fate(&customer, 422, &race), Fate::Retry { .. }));
        let subscription = catalogued("POST", "/subscriptions", "subscription");
        assert!(reason(&subscription, 422, &race).contains("external_id: value_already_exist"));
        for code in ["third_party_error", "provider_error"] {
            let body = format!(r#"{{"status":422,"code":"{code}","error_details":{{"x":"secret"}}}}"#);
            match fate(&subscription, 422, &body) {
                Fate::Retry { reason } => assert!(reason.contains(code) && !reason.contains("secret")),
                other => panic!("{code}: {other:?}"),
            }
        }
        match fate(&subscription, 422, r#"{"status":422,"code":"lock_acquisition_failed"}"#) {
            Fate::Wait { reason } => assert!(reason.contains("lock_acquisition_failed"), "{reason}"),
            other => panic!("contention is nobody's fault: {other:?}"),
        }
    }

    #[test]
    fn a_failure_at_one_message_asks_whether_lago_is_well() {
        let subscription = catalogued("POST", "/subscriptions", "subscription");
        for status in [400, 418, 500] {
            assert_eq!(question(fate(&subscription, status, "")), Question::Health, "{status}");
        }
    }

    #[test]
    fn a_single_event_lago_has_already_is_ours_or_looked_up() {
        let event = call("POST", "/events", Some("event"));
        let outcome = outcome(422, &refusal(r#"{"transaction_id":["value_already_exist"]}"#));
        let mut message = Message::sample(1, r#"{"transaction_id":"a"}"#);
        let mut judged = |tried| {
            message.tried = tried;
            judge_outcome(&outcome, &event, std::slice::from_ref(&message)).fates.remove(0)
        };
        assert_eq!(judged(Tried::Unanswered), Fate::Duplicate);
        assert_eq!(question(judged(Tried::Never)), Question::SameEvent(Cause::Duplicate(Tried::Never)));
    }

    #[test]
    fn a_failure_at_one_event_asks_whether_it_is_there() {
        let event = call("POST", "/events", Some("event"));
        let message = Message::sample(1, r#"{"transaction_id":"a"}"#);
        let fate = judge_outcome(&outcome(500, ""), &event, &[message]).fates.remove(0);
        let Fate::LookUp(look) = fate else { panic!("{fate:?}") };
        assert_eq!(look.question, Question::SameEvent(Cause::Failure));
    }

    #[test]
    fn a_rule_of_lagos_business_rejects_the_message_and_a_foreign_answer_holds_the_destination() {
        let fee = catalogued("PUT", "/fees/{id}", "fee");
        for code in ["invoiced_fee", "no_active_subscription", "plan_overlapping"] {
            let told = reason(&fee, 405, &format!(r#"{{"status":405,"code":"{code}"}}"#));
            assert!(told.contains(code) && told.contains("redrive()"), "{told}");
        }
        assert!(is_hold(&verdict(&fee, 405, "<html></html>")));
        let premium = reason(&fee, 403, r#"{"code":"feature_unavailable"}"#);
        assert!(premium.contains("feature_unavailable") && premium.contains("plan"), "{premium}");
        for denied in ["write_action_not_allowed_for_fee", "something_else"] {
            assert!(is_hold(&verdict(&fee, 403, &format!(r#"{{"code":"{denied}"}}"#))), "{denied}");
        }
        let cannot_read =
            r#"{"status":400,"error":"BadRequest: param is missing or the value is empty: anna"}"#;
        let told = reason(&fee, 400, cannot_read);
        assert!(told.contains("400") && told.contains("preview()") && !told.contains("anna"), "{told}");
        assert!(reason(&fee, 413, "<html></html>").contains("too large"));
        for status in [301, 429, 502, 503, 504, 408] {
            assert!(is_trouble(&verdict(&fee, status, "")), "{status}");
        }
        assert!(is_hold(&verdict(&fee, 401, "")));
    }

    #[test]
    fn a_path_of_ones_own_is_what_may_be_wrong() {
        let manual = call("POST", "/things", None);
        assert!(reason(&manual, 403, r#"{"code":"some_rule"}"#).contains("403 some_rule"));
        assert!(is_hold(&verdict(&manual, 403, r#"{"code":"write_action_not_allowed_for_thing"}"#)));
        assert!(reason(&manual, 404, r#"{"status":404,"error":"Not Found"}"#).contains("path"));
        assert!(reason(&manual, 405, r#"{"status":405,"error":"Method Not Allowed"}"#).contains("405"));
    }

    #[test]
    fn a_call_that_must_not_be_repeated_goes_again_only_when_nothing_happened() {
        let top_up = Call {
            repeat: Repeat::Never,
            ..catalogued("POST", "/wallet_transactions", "wallet_transaction")
        };
        let again = |outcome: &Outcome| match judge_outcome(outcome, &top_up, &[Message::sample(1, "{}")])
            .fates
            .remove(0)
        {
            Fate::Rejected { reason } if reason.contains("the outcome is unknown") => false,
            Fate::Return | Fate::Retry { .. } | Fate::Wait { .. } => true,
            other => panic!("{outcome:?}: {other:?}"),
        };
        for status in [301, 401, 403, 404, 429, 503] {
            assert!(again(&outcome(status, "")), "{status}");
        }
        for status in [200, 408, 500, 502, 504, 418] {
            assert!(!again(&outcome(status, "")), "{status}");
        }
        assert!(again(&outcome(200, " <html>")), "it was not Lago that answered");
        assert!(again(&outcome(422, r#"{"code":"lock_acquisition_failed"}"#)));
        assert!(!again(&outcome(422, r#"{"code":"provider_error"}"#)));
        assert!(!again(&outcome(429, r#"{"code":"too_many_provider_requests"}"#)), "Lago had begun");
        assert!(again(&Outcome::Failed { why: "connection refused".into(), sent: Sent::No }));
        assert!(!again(&Outcome::Failed { why: "time-out".into(), sent: Sent::Perhaps }));
        assert!(again(&Outcome::Unusable("no file".into())));
        let lost = judge_outcome(
            &Outcome::Failed { why: "reset".into(), sent: Sent::Perhaps },
            &top_up,
            &[Message::sample(1, "{}")],
        );
        assert!(
            matches!(lost.condition, Condition::Trouble { .. }),
            "the destination is in trouble all the same"
        );
        assert!(matches!(fate(&top_up, 422, &refusal("{}")), Fate::Rejected { .. }));
        assert!(reason(&top_up, 504, "").contains("look it up in Lago"));
        assert_eq!(fate(&top_up, 200, r#"{"wallet_transactions":["#), Fate::Delivered);
    }

    #[test]
    fn a_top_up_with_a_mark_is_looked_up_when_its_outcome_is_unknown() {
        let top_up = Call::of("wallet_transaction", None, None, None).expect("in the catalogue");
        let marked = |credits: &str| {
            let payload =
                r#"{"wallet_id":"w","metadata":[{"key":"lago_push","value":"1-2"}],"paid_credits":"#;
            Message::sample(1, &format!("{payload}\"{credits}\"}}"))
        };
        let judged = |outcome: &Outcome| judge_outcome(outcome, &top_up, &[marked("10")]);
        for status in [200, 408, 500, 502, 504, 418] {
            let fate = judged(&outcome(status, "")).fates.remove(0);
            assert_eq!(question(fate), Question::TopUp, "{status}");
        }
        let lost = judged(&Outcome::Failed { why: "reset".into(), sent: Sent::Perhaps });
        assert!(matches!(lost.condition, Condition::Trouble { .. }));
        let Fate::LookUp(look) = &lost.fates[0] else { panic!("{lost:?}") };
        assert_eq!((look.question, look.reason.as_str()), (Question::TopUp, "no reply from Lago: reset"));
        assert_eq!(judged(&outcome(503, "")).fates, [Fate::Return], "Lago did nothing");
        assert!(matches!(judged(&outcome(422, &refusal("{}"))).fates[..], [Fate::Rejected { .. }]));
    }

    #[test]
    fn a_request_that_cannot_be_made_is_the_messages_fault() {
        let verdict = judge_outcome(
            &Outcome::Impossible("its path".into()),
            &call("PUT", "/a", None),
            &[Message::sample(1, "{}")],
        );
        assert!(matches!(verdict.fates[..], [Fate::Rejected { .. }]));
        assert_eq!(verdict.condition, Condition::Well);
    }
}
