//! What holds for any answer to any call: each message has one fate, nothing counts as delivered without
//! Lago's word, and nothing that must not be repeated is.

use super::*;
use crate::endpoint::CATALOGUE;
use crate::lookup::LookUp;
use proptest::prelude::*;

/// Bodies of every kind: noise, JSON, and JSON in Lago's form with the words Lago uses.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "",
        "events",
        "event",
        "customer",
        "wallet_transactions",
        "code",
        "status",
        "error",
        "error_details",
        "transaction_id",
        "value_already_exist",
        "external_id",
        "too_many_events",
        "validation_errors",
        "lock_acquisition_failed",
        "provider_error",
        "too_many_provider_requests",
        "feature_unavailable",
        "resource_not_found",
        "plan_not_found",
        "write_action_not_allowed_for_event",
        "0",
        "1",
        "7",
        "a",
        "b",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (0..600_i64).prop_map(Into::into),
        word.clone().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    let json = leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|members| {
                let members = members.into_iter().map(|(key, value)| (key.to_owned(), value));
                serde_json::Value::Object(members.collect())
            }),
        ]
    });
    let text = json.prop_map(|json| json.to_string().into_bytes());
    let cut = (text.clone(), any::<prop::sample::Index>()).prop_map(|(mut text, at)| {
        text.truncate(at.index(text.len() + 1));
        text
    });
    prop_oneof![
        2 => text,
        1 => cut,
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just(b"<html></html>".to_vec()),
        1 => Just(Vec::new()),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let status = prop_oneof![
        any::<u16>(),
        prop::sample::select(vec![
            200, 201, 204, 301, 400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 502, 503, 504
        ]),
    ];
    let reply = (status, bodies()).prop_map(|(status, body)| {
        Outcome::Reply(Reply { status, body, wait: Some(Duration::from_secs(1)), allowance: None })
    });
    let sent = prop::sample::select(vec![Sent::No, Sent::Perhaps]);
    prop_oneof![8 => reply, 1 => sent.prop_map(|sent| Outcome::Failed { why: "reset".into(), sent })]
}

fn calls() -> impl Strategy<Value = Call> {
    let manual = ["POST", "PUT", "PATCH", "DELETE"]
        .map(|method| Call::of(crate::call::MANUAL, Some(method), Some("/things"), None).expect("a call"));
    prop::sample::select(CATALOGUE.iter().map(Call::from).chain(manual).collect::<Vec<_>>())
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let payload = prop::sample::select(vec![
        r#"{"transaction_id":"a","external_subscription_id":"s","code":"c","timestamp":1}"#,
        r#"{"transaction_id":"b"}"#,
        r#"{"wallet_id":"w","metadata":[{"key":"lago_push","value":"1"}]}"#,
        r#"{"transaction_id":7}"#,
        "{}",
        "[",
        "",
    ]);
    let tried = prop::sample::select(vec![Tried::Never, Tried::Perhaps, Tried::Unanswered]);
    let message =
        (payload, tried).prop_map(|(payload, tried)| Message { tried, ..Message::sample(1, payload) });
    prop::collection::vec(message, 1..5)
}

/// A call for one object is never made with two.
fn sent_by(call: &Call, mut messages: Vec<Message>) -> Vec<Message> {
    if call.batch == Batch::One {
        messages.truncate(1);
    }
    messages
}

fn is_success(reply: &Reply) -> bool {
    reply.status / 100 == 2 && reply.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Whether Lago may have done what a reply does not tell.
fn may_have_happened(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { sent, .. } => *sent == Sent::Perhaps,
        Outcome::Reply(reply) => match reply.status {
            200..=299 => !reply.body.trim_ascii_start().starts_with(b"<"),
            status => matches!(status, 408 | 500 | 502 | 504..),
        },
        Outcome::Unusable(_) | Outcome::Impossible(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_answer_gives_each_message_one_fate_and_delivers_only_on_lagos_word(
        outcome in outcomes(), call in calls(), messages in messages(),
    ) {
        let sent = sent_by(&call, messages);
        let verdict = judge(&outcome, &call, &sent);
        prop_assert_eq!(verdict.fates.len(), sent.len());
        for (fate, message) in verdict.fates.iter().zip(&sent) {
            match (fate, &outcome) {
                (Fate::Delivered, Outcome::Reply(reply)) => {
                    let nothing_to_delete = call.method == crate::call::Method::Delete && reply.status == 404;
                    prop_assert!(is_success(reply) || nothing_to_delete, "{:?}", reply);
                }
                (Fate::Delivered | Fate::Duplicate, Outcome::Failed { .. }) => {
                    prop_assert!(false, "no reply delivers nothing");
                }
                (Fate::Duplicate, _) => prop_assert_ne!(message.tried, Tried::Never),
                (Fate::Split | Fate::SplitAndRemember, _) => prop_assert!(sent.len() > 1, "nothing to halve"),
                (Fate::Rejected { reason }, _) => prop_assert!(!reason.is_empty()),
                _ => {}
            }
        }
    }

    #[test]
    fn a_call_that_must_not_be_repeated_is_not_after_an_outcome_that_is_not_known(
        outcome in outcomes(), call in calls(), messages in messages(),
    ) {
        let never = Call { repeat: Repeat::Never, batch: Batch::One, ..call };
        let sent = sent_by(&never, messages);
        let fates = judge(&outcome, &never, &sent).fates;
        let goes_again = |fate: &Fate| !matches!(
            fate,
            Fate::Delivered | Fate::Duplicate | Fate::Rejected { .. } | Fate::LookUp(_)
        );
        if may_have_happened(&outcome) {
            prop_assert!(!fates.iter().any(goes_again), "{:?}", fates);
        }
        for fate in &fates {
            if let Fate::LookUp(look) = fate {
                prop_assert_eq!(look.question, crate::lookup::Question::TopUp);
            }
        }
    }

    #[test]
    fn any_answer_to_a_question_settles_it_or_keeps_it(
        outcome in outcomes(), raised in outcomes(), call in calls(), messages in messages(),
    ) {
        let sent = sent_by(&call, messages);
        let fates = judge(&raised, &call, &sent).fates;
        for (fate, message) in fates.into_iter().zip(&sent) {
            let Fate::LookUp(look) = fate else { continue };
            prop_assert!(look.path(&call, message).starts_with('/'));
            let verdict = look.judge(&outcome, message);
            prop_assert_eq!(verdict.fates.len(), 1);
            let is_top_up = look.question == crate::lookup::Question::TopUp;
            for fate in &verdict.fates {
                match fate {
                    Fate::Delivered => prop_assert!(is_top_up && matches!(&outcome, Outcome::Reply(reply) if is_success(reply))),
                    Fate::Retry { .. } | Fate::Return => prop_assert!(!is_top_up, "a top-up goes once"),
                    Fate::Duplicate | Fate::Rejected { .. } | Fate::LookUp(LookUp { .. }) => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
