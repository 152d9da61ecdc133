//! Replies: what of Lago's answer is kept with each message.
//!
//! Beside settling. Pure. It promises JSON that any database can store: without zero characters, and
//! in ASCII whatever the database's encoding.
#![forbid(unsafe_code)]

use crate::endpoint::Batch;
use crate::verdict::Reply;
use serde_json::{Map, Value};

/// An answer that is not JSON is kept up to this: enough to see whose it is.
const MOST_TEXT_CHARACTERS: usize = 4096;

/// An answer, taken apart.
pub struct Parts {
    whole: Value,
    batch: Batch,
}

impl Parts {
    pub fn of(reply: &Reply, batch: Batch) -> Parts {
        let whole = serde_json::from_slice(&reply.body).unwrap_or_else(|_| {
            Value::String(String::from_utf8_lossy(&reply.body).chars().take(MOST_TEXT_CHARACTERS).collect())
        });
        Parts { whole, batch }
    }

    /// What concerns the message at `index` of the request, as JSON.
    pub fn of_message(&self, index: usize) -> String {
        let root = match self.batch {
            Batch::One => return stored(&self.whole),
            Batch::UpTo { root, .. } => root,
        };
        if let Some(own) = self.whole.get(root).and_then(|objects| objects.get(index)) {
            return stored(own);
        }
        let details = self.whole.get("error_details").and_then(|details| details.get(index.to_string()));
        match (&self.whole, details) {
            // As if it had been refused alone.
            (Value::Object(fields), Some(own)) => {
                let mut fields: Map<String, Value> = fields.clone();
                fields.insert("error_details".into(), own.clone());
                stored(&Value::Object(fields))
            }
            _ => stored(&self.whole),
        }
    }
}

fn stored(value: &Value) -> String {
    let text = without_zeros(value).to_string();
    if text.is_ascii() {
        return text;
    }
    let mut ascii = String::with_capacity(text.len() + text.len() / 2);
    let mut units = [0; 2];
    for character in text.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

/// jsonb cannot hold U+0000.
fn without_zeros(value: &Value) -> Value {
    let text = |text: &str| text.replace('\0', "");
    match value {
        Value::String(string) => Value::String(text(string)),
        Value::Array(values) => values.iter().map(without_zeros).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (text(name), without_zeros(value))).collect()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: Batch = Batch::UpTo { most: 100, path: "/events/batch", root: "events" };

    fn part(batch: Batch, body: &str, index: usize) -> String {
        Parts::of(&Reply { status: 200, body: body.into(), wait: None, allowance: None }, batch)
            .of_message(index)
    }

    #[test]
    fn each_event_of_a_batch_keeps_its_own_part() {
        let body = r#"{"events":[{"id":1.10},{"id":2}]}"#;
        assert_eq!(part(EVENTS, body, 0), r#"{"id":1.10}"#);
        assert_eq!(part(EVENTS, body, 1), r#"{"id":2}"#);
        let refusal = r#"{"status":422,"error_details":{"1":{"code":["value_is_mandatory"]},"3":"x"}}"#;
        assert_eq!(
            part(EVENTS, refusal, 1),
            r#"{"status":422,"error_details":{"code":["value_is_mandatory"]}}"#
        );
        assert_eq!(part(EVENTS, refusal, 0), refusal, "what names no event concerns them all");
    }

    #[test]
    fn a_single_call_keeps_the_whole_and_what_is_not_json_as_text() {
        let body = r#"{"customer":{"events":[1]}}"#;
        assert_eq!(part(Batch::One, body, 0), body);
        assert_eq!(part(Batch::One, "<html>", 0), r#""<html>""#);
        assert_eq!(part(EVENTS, "", 5), r#""""#);
    }

    #[test]
    fn any_database_can_store_it() {
        assert_eq!(
            part(Batch::One, r#"{"a\u0000b":["é\u0000😀","\\u0000"]}"#, 0),
            r#"{"ab":["\u00e9\ud83d\ude00","\\u0000"]}"#
        );
    }
}
