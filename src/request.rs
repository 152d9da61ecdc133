//! Request: what messages become on the wire: method, path, headers and body.
//!
//! Between lane and sender. Pure. It promises Lago the payloads exactly as they were frozen: it only
//! puts the endpoint's brackets around them.
#![forbid(unsafe_code)]

use crate::call::{Call, Method};
use crate::endpoint::Batch;
use crate::message::Message;

/// What all messages of one request have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    pub call: Call,
    /// Of the sync; they go after the destination's and win over them.
    pub headers: Vec<(String, String)>,
}

impl Shape {
    /// The most messages a request of this shape holds, whatever its syncs allow.
    pub fn most(&self) -> usize {
        match self.call.batch {
            Batch::One => 1,
            Batch::UpTo { most, .. } => most,
        }
    }

    /// The path below the destination's URL.
    pub fn path<'a>(&'a self, messages: &'a [Message]) -> &'a str {
        match (messages.first().and_then(|message| message.path.as_deref()), self.call.batch) {
            (Some(path), _) => path,
            (None, Batch::UpTo { path, .. }) => path,
            (None, Batch::One) => &self.call.path,
        }
    }

    /// The body; none for a call that has none.
    pub fn body(&self, messages: &[Message]) -> Option<Vec<u8>> {
        let first = messages.first()?;
        match (self.call.batch, &first.path) {
            (Batch::UpTo { root, .. }, None) => {
                let payloads = messages.iter().map(|message| message.payload.as_str());
                return Some(array(root, payloads));
            }
            _ if self.call.method == Method::Delete || first.payload.is_empty() => return None,
            _ => {}
        }
        let payload = first.payload.as_bytes();
        let Some(root) = &self.call.root else { return Some(payload.to_vec()) };
        let mut body = Vec::with_capacity(payload.len() + root.len() + 8);
        body.push(b'{');
        body.extend_from_slice(serde_json::Value::from(root.as_str()).to_string().as_bytes());
        body.push(b':');
        body.extend_from_slice(payload);
        body.push(b'}');
        Some(body)
    }
}

fn array<'a>(root: &str, payloads: impl Iterator<Item = &'a str> + Clone) -> Vec<u8> {
    let length: usize = payloads.clone().map(|payload| payload.len() + 1).sum();
    let mut body = Vec::with_capacity(length + root.len() + 8);
    body.extend_from_slice(b"{\"");
    body.extend_from_slice(root.as_bytes());
    body.extend_from_slice(b"\":[");
    for (index, payload) in payloads.enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(payload.as_bytes());
    }
    body.extend_from_slice(b"]}");
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::MANUAL;

    fn message(payload: &str, path: Option<&str>) -> Message {
        Message { path: path.map(str::to_owned), ..Message::sample(1, payload) }
    }

    fn shape(call: Option<Call>) -> Shape {
        Shape { call: call.expect("a call"), headers: vec![] }
    }

    fn wire(shape: &Shape, messages: &[Message]) -> (String, Option<String>) {
        let body = shape.body(messages).map(|body| String::from_utf8(body).expect("UTF-8"));
        (shape.path(messages).to_owned(), body)
    }

    #[test]
    fn events_go_as_one_array_even_when_there_is_one() {
        let shape = shape(Call::of("event", None, None, None));
        let messages = [message(r#"{"a":1}"#, None), message(r#"{"b":2}"#, None)];
        assert_eq!(
            wire(&shape, &messages),
            ("/events/batch".into(), Some(r#"{"events":[{"a":1},{"b":2}]}"#.into()))
        );
        assert_eq!(wire(&shape, &messages[..1]).1.as_deref(), Some(r#"{"events":[{"a":1}]}"#));
        assert_eq!(shape.most(), 100);
    }

    #[test]
    fn a_single_payload_is_wrapped_in_its_root_or_goes_bare() {
        let put = |root| shape(Call::of(MANUAL, Some("PUT"), Some("/things/1"), root));
        let messages = [message(r#"{"name":"x"}"#, None)];
        assert_eq!(
            wire(&put(Some("thing")), &messages),
            ("/things/1".into(), Some(r#"{"thing":{"name":"x"}}"#.into()))
        );
        assert_eq!(wire(&put(None), &messages).1.as_deref(), Some(r#"{"name":"x"}"#));
        assert_eq!(put(None).most(), 1);
    }

    #[test]
    fn a_delete_and_an_empty_payload_have_no_body() {
        let delete = shape(Call::of(MANUAL, Some("DELETE"), Some("/things/{{ row.id }}"), Some("thing")));
        assert_eq!(
            wire(&delete, &[message(r#"{"a":1}"#, Some("/things/a%2Eb"))]),
            ("/things/a%2Eb".into(), None)
        );
        let post = shape(Call::of(MANUAL, None, Some("/things/1/finalize"), None));
        assert_eq!(wire(&post, &[message("", None)]), ("/things/1/finalize".into(), None));
    }
}
