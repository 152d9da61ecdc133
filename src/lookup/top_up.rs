//! Top-up: how a top-up whose reply was lost is found again.
//!
//! Serves the look-ups. A top-up has no key that Lago would refuse a second time, but it may carry
//! metadata, and a wallet's transactions can be searched for that. Capture puts the mark there.
#![forbid(unsafe_code)]

use super::event::text;
use crate::call::{Call, Method};
use crate::message::Message;
use crate::payload::percent_encode_segment;
use serde_json::Value;
use url::form_urlencoded::Serializer;

/// The key of the mark among the metadata of a top-up.
pub const MARK: &str = "lago_push";

/// Where Lago lists the transactions of the wallet that carry the mark; none for any other call, and for
/// a payload without one.
pub fn path(call: &Call, message: &Message) -> Option<String> {
    let endpoint = call.endpoint.filter(|endpoint| endpoint.name == "wallet_transaction")?;
    if call.method != Method::Post || call.path != endpoint.path {
        return None;
    }
    let payload: Value = serde_json::from_str(&message.payload).ok()?;
    let wallet = percent_encode_segment(&text(&payload, "wallet_id")?).ok()?;
    let query = Serializer::new(String::new())
        .append_pair(&format!("metadata[{MARK}]"), &mark(&payload)?)
        .append_pair("per_page", "100")
        .finish();
    Some(format!("/wallets/{wallet}/wallet_transactions?{query}"))
}

/// Whether the message's top-up is among Lago's transactions. A server that does not know the search
/// lists them all.
pub fn is_among(message: &Message, transactions: &[Value]) -> bool {
    let ours = serde_json::from_str::<Value>(&message.payload).ok().and_then(|payload| mark(&payload));
    ours.is_some() && transactions.iter().any(|transaction| mark(transaction) == ours)
}

fn mark(object: &Value) -> Option<String> {
    let pairs = object.get("metadata")?.as_array()?;
    pairs
        .iter()
        .find(|pair| pair.get("key").and_then(Value::as_str) == Some(MARK))
        .and_then(|pair| text(pair, "value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = r#"{"wallet_id":"w/1","paid_credits":"10","metadata":[{"key":"source","value":"x"},{"key":"lago_push","value":"a-1&"}]}"#;

    fn path_of(call: Option<Call>, payload: &str) -> Option<String> {
        path(&call.expect("a call"), &Message::sample(1, payload))
    }

    fn top_up() -> Option<Call> {
        Call::of("wallet_transaction", None, None, None)
    }

    #[test]
    fn a_marked_top_up_is_searched_for_by_its_mark() {
        assert_eq!(
            path_of(top_up(), SENT).as_deref(),
            Some("/wallets/w%2F1/wallet_transactions?metadata%5Blago_push%5D=a-1%26&per_page=100")
        );
    }

    #[test]
    fn no_other_call_and_no_unmarked_top_up_is_searched_for() {
        for payload in [
            "{",
            r#"{"wallet_id":"w"}"#,
            r#"{"wallet_id":"w","metadata":[{"key":"other","value":"x"}]}"#,
            r#"{"wallet_id":"w","metadata":[{"key":"lago_push"}]}"#,
            r#"{"wallet_id":"w","metadata":{"lago_push":"x"}}"#,
            r#"{"wallet_id":"","metadata":[{"key":"lago_push","value":"x"}]}"#,
        ] {
            assert_eq!(path_of(top_up(), payload), None, "{payload}");
        }
        assert_eq!(path_of(Call::of("wallet_transaction", None, Some("/x"), None), SENT), None);
        assert_eq!(path_of(Call::of("wallet", None, None, None), SENT), None);
        assert_eq!(path_of(Call::of("manual", None, Some("/wallet_transactions"), None), SENT), None);
    }

    #[test]
    fn a_top_up_is_told_by_its_mark_alone() {
        let among = |transactions: &str| {
            let found: Vec<Value> = serde_json::from_str(transactions).expect("JSON");
            is_among(&Message::sample(1, SENT), &found)
        };
        assert!(among(r#"[{"metadata":[]},{"metadata":[{"key":"lago_push","value":"a-1&"}]}]"#));
        for other in [
            "[]",
            r#"[{"amount":"10"}]"#,
            r#"[{"metadata":[{"key":"lago_push","value":"a-2"}]}]"#,
            r#"[{"metadata":[{"key":"x","value":"a-1&"}]}]"#,
        ] {
            assert!(!among(other), "{other}");
        }
        assert!(!is_among(&Message::sample(1, "{}"), &[serde_json::json!({})]), "no mark is no match");
    }
}
