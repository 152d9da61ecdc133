//! Key: the API key, where it comes from, and where it must not get to.
//!
//! Beside the sender. It promises that a key cannot be printed, and that a reply which quotes it, as an
//! echo service or a proxy's error page does, is without it before anybody may look at it.
#![forbid(unsafe_code)]

use memchr::memmem;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// An API key. It has no way to be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// A shorter text is found inside words that are no secrets, and a reply without those is no reply.
/// Lago's keys are UUIDs.
const SHORTEST_SECRET: usize = 8;

impl ApiKey {
    pub fn new(key: String) -> Self {
        ApiKey(key)
    }

    /// The value of the header `Authorization`.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Takes the key out of a body that quotes it: as it is, or as a JSON string writes it.
    pub(super) fn redact(&self, body: Vec<u8>) -> Vec<u8> {
        if self.0.len() < SHORTEST_SECRET {
            return body;
        }
        let quoted = serde_json::Value::from(self.0.as_str()).to_string();
        let escaped = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
        // Some writers of JSON escape the slash too.
        let slashed = escaped.replace('/', "\\/");
        let mut spellings = vec![self.0.as_str(), escaped, slashed.as_str()];
        spellings.dedup();
        spellings.into_iter().fold(body, |body, spelling| without(body, spelling.as_bytes()))
    }
}

fn without(body: Vec<u8>, secret: &[u8]) -> Vec<u8> {
    let mut clean = Vec::new();
    let mut kept_until = 0;
    for at in memmem::find_iter(&body, secret) {
        clean.extend_from_slice(body.get(kept_until..at).unwrap_or_default());
        clean.extend_from_slice(b"***");
        kept_until = at + secret.len();
    }
    if kept_until == 0 {
        return body;
    }
    clean.extend_from_slice(body.get(kept_until..).unwrap_or_default());
    clean
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// Where a destination's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    None,
    Stored(ApiKey),
    File(String),
}

/// A key as it is used: that of a file is read when it is first needed, and again when Lago does not
/// know it any more.
#[derive(Default)]
pub(super) struct KeyAtHand {
    from_file: Mutex<Option<ApiKey>>,
}

impl KeyAtHand {
    pub(super) fn get(&self, source: &KeySource) -> Result<Option<ApiKey>, String> {
        let path = match source {
            KeySource::None => return Ok(None),
            KeySource::Stored(key) => return Ok(Some(key.clone())),
            KeySource::File(path) => path,
        };
        let mut known = self.from_file.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("api_key_file cannot be read: {}", error.kind()))?;
            // Without the line break an editor adds.
            match text.trim() {
                "" => return Err("api_key_file is empty".into()),
                key => *known = Some(ApiKey::new(key.to_owned())),
            }
        }
        Ok(known.clone())
    }

    pub(super) fn forget(&self) {
        *self.from_file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(key: &str, body: &str) -> String {
        String::from_utf8(ApiKey::new(key.into()).redact(body.into())).expect("UTF-8")
    }

    #[test]
    fn a_key_cannot_be_printed() {
        let source = KeySource::Stored(ApiKey::new("11aa22bb-hush".into()));
        assert_eq!(format!("{source:?}"), "Stored(ApiKey(***))");
    }

    #[test]
    fn a_reply_that_quotes_the_key_loses_it_and_nothing_else() {
        let key = "11aa22bb-hush";
        for (body, clean) in [
            ("", ""),
            ("11aa22bb", "11aa22bb"),
            ("11aa22bb-hush", "***"),
            (r#"{"a":"Bearer 11aa22bb-hush","b":1}"#, r#"{"a":"Bearer ***","b":1}"#),
            ("x11aa22bb-hush11aa22bb-hushy11aa22bb-hush", "x******y***"),
        ] {
            assert_eq!(redacted(key, body), clean);
        }
    }

    #[test]
    fn a_key_is_found_as_json_writes_it() {
        assert_eq!(
            redacted(r#"se"cr\et/key"#, r#"["se\"cr\\et/key", "se\"cr\\et\/key"]"#),
            r#"["***", "***"]"#
        );
    }

    #[test]
    fn a_word_that_is_too_short_for_a_secret_does_not_garble_replies() {
        assert_eq!(redacted("event", r#"{"events":[]}"#), r#"{"events":[]}"#);
    }
}
