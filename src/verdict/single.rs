//! What Lago answers a call for one object.
//!
//! A success is always 200 with JSON, deletion included. A 404 with the code `resource_not_found` is an
//! unknown route; with the code of anything else it is that thing which does not exist. A 405 in JSON
//! is a rule of Lago's business, not about the verb. Some 422 say that another moment may do.
#![forbid(unsafe_code)]

use super::{Condition, Fate, Reply, Verdict, begins_with_key, by_field, code, exists_already};
use crate::call::{Call, Method};
use crate::endpoint::CATALOGUE;
use serde_json::Value;

/// The longest sentence made of what Lago says; its whole answer is kept beside it.
const LONGEST_DETAIL: usize = 400;

/// Judges the answer; none if it means what it means to every call.
pub fn judge(reply: &Reply, call: &Call, messages: usize) -> Option<Verdict> {
    let is_json = serde_json::from_slice::<Value>(&reply.body).is_ok_and(|body| body.is_object());
    let code = code(&reply.body);
    let code = code.as_deref();
    let fate = match (reply.status, code) {
        (200..=299, _) if is_success(&reply.body, call, is_json) => Fate::Delivered,
        (400, _) => rejected("400: it cannot read the request".into()),
        (403, Some("feature_unavailable")) => rejected(
            "403 feature_unavailable: the organization's plan with Lago does not include this".into(),
        ),
        (404, Some(code)) if call.method == Method::Delete && is_about_an_object(code) => Fate::Delivered,
        (404, Some(code)) if is_about_an_object(code) => rejected(format!(
            "404 {code}: what the payload or the path names does not exist there; create it, then lago_push.redrive()"
        )),
        (404, _) if is_json && has_own_path(call) => {
            rejected("404: it knows no such path; check the path of the sync".into())
        }
        (405, Some(code)) => rejected(format!("405 {code}")),
        (405, None) if is_json => rejected("405".into()),
        (413, _) => rejected("413: the request is too large".into()),
        (422, _) => judge_refusal(&reply.body, call, code),
        _ => return None,
    };
    Some(Verdict::all(messages, fate, Condition::Well))
}

fn rejected(answer: String) -> Fate {
    Fate::Rejected { reason: format!("Lago answered {answer}") }
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

fn judge_refusal(body: &[u8], call: &Call, code: Option<&str>) -> Fate {
    let sentence = |detail: String| {
        let short: String = detail.chars().take(LONGEST_DETAIL).collect();
        match code {
            Some("validation_errors") | None if short.is_empty() => "422".to_owned(),
            Some("validation_errors") | None => format!("422: {short}"),
            Some(code) if short.is_empty() => format!("422 {code}"),
            Some(code) => format!("422 {code}: {short}"),
        }
    };
    let details = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|mut body| body.get_mut("error_details").map(Value::take));
    if let Some("lock_acquisition_failed" | "third_party_error" | "provider_error") = code {
        // What a provider says may quote the request.
        return Fate::Retry { reason: format!("Lago answered {}", sentence(String::new())) };
    }
    let fields = match details {
        Some(Value::Object(fields)) => fields,
        Some(Value::String(text)) => return rejected(sentence(text)),
        _ => return rejected(sentence(String::new())),
    };
    if exists_already(&fields, "transaction_id") {
        return Fate::Duplicate;
    }
    let told = sentence(by_field(&fields));
    // Two first calls for one customer at the same time: the second finds it when it comes again.
    if exists_already(&fields, "external_id")
        && (call.method, call.path.as_str()) == (Method::Post, "/customers")
    {
        return Fate::Retry { reason: format!("Lago answered {told}") };
    }
    if exists_already(&fields, "code")
        && let Some(update) = update_of(call)
    {
        return rejected(format!("{told}; change what exists with {update}"));
    }
    rejected(told)
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
    use crate::message::Message;

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
        assert!(is_trouble(&verdict(&delete, 404, r#"{"status":404,"code":"resource_not_found"}"#)));
        assert!(is_trouble(&verdict(&delete, 404, "<html></html>")));
    }

    #[test]
    fn a_thing_that_does_not_exist_is_told_from_a_route_that_does_not() {
        let (plan, route) =
            (r#"{"status":404,"code":"plan_not_found"}"#, r#"{"status":404,"code":"resource_not_found"}"#);
        let subscription = catalogued("POST", "/subscriptions", "subscription");
        assert!(reason(&subscription, 404, plan).contains("404 plan_not_found"));
        assert!(is_trouble(&verdict(&subscription, 404, route)));
        assert!(is_trouble(&verdict(&subscription, 404, "")));
        let manual = call("POST", "/subscritpions", None);
        assert!(reason(&manual, 404, plan).contains("plan_not_found"));
        assert!(reason(&manual, 404, route).contains("path"));
        assert!(is_trouble(&verdict(&manual, 404, "<html></html>")));
    }

    #[test]
    fn a_refusal_is_told_field_by_field() {
        let plan = catalogued("POST", "/plans", "plan");
        let cases = [
            (r#"{"name":["value_is_mandatory"]}"#, "Lago answered 422: name: value_is_mandatory"),
            (r#"{"a":["x","y"],"b":["z"]}"#, "Lago answered 422: a: x, y; b: z"),
            (
                r#"{"charges":{"0":{"properties":["invalid_amount"]}}}"#,
                "Lago answered 422: charges: 0: properties: invalid_amount",
            ),
            (r#""expression_evaluation_failed""#, "Lago answered 422: expression_evaluation_failed"),
            ("null", "Lago answered 422"),
        ];
        for (details, sentence) in cases {
            assert_eq!(reason(&plan, 422, &refusal(details)), sentence);
            assert_eq!(verdict(&plan, 422, &refusal(details)).condition, Condition::Well);
        }
        assert_eq!(reason(&plan, 422, "not json"), "Lago answered 422");
        assert!(reason(&plan, 422, &refusal(&format!("\"{}\"", "x".repeat(10_000)))).len() < 500);
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
        for code in ["lock_acquisition_failed", "third_party_error", "provider_error"] {
            let body = format!(r#"{{"status":422,"code":"{code}","error_details":{{"x":"secret"}}}}"#);
            match fate(&subscription, 422, &body) {
                Fate::Retry { reason } => assert!(reason.contains(code) && !reason.contains("secret")),
                other => panic!("{code}: {other:?}"),
            }
        }
        assert!(matches!(fate(&subscription, 500, ""), Fate::Retry { .. }));
    }

    #[test]
    fn a_single_event_lago_has_already_is_a_duplicate() {
        let event = call("POST", "/events", Some("event"));
        assert_eq!(
            fate(&event, 422, &refusal(r#"{"transaction_id":["value_already_exist"]}"#)),
            Fate::Duplicate
        );
    }

    #[test]
    fn a_rule_of_lagos_business_rejects_the_message_and_a_foreign_answer_holds_the_destination() {
        let fee = catalogued("PUT", "/fees/{id}", "fee");
        assert_eq!(
            reason(&fee, 405, r#"{"status":405,"code":"invoiced_fee"}"#),
            "Lago answered 405 invoiced_fee"
        );
        assert!(is_trouble(&verdict(&fee, 405, "<html></html>")));
        assert!(reason(&fee, 403, r#"{"code":"feature_unavailable"}"#).contains("feature_unavailable"));
        let denied = verdict(&fee, 403, r#"{"code":"write_action_not_allowed_for_fee"}"#);
        assert!(is_trouble(&denied));
        assert!(reason(&fee, 400, "").contains("400"));
        for status in [301, 401, 429, 502, 503, 504, 408] {
            assert!(is_trouble(&verdict(&fee, status, "")), "{status}");
        }
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
            Fate::Return | Fate::Retry { .. } => true,
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
        assert_eq!(fate(&top_up, 200, r#"{"wallet_transactions":["#), Fate::Delivered);
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
