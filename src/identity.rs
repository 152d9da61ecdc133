//! Identity: the text that tells one change of a row from every other.
//!
//! Between row and payload, for templates that give no id of their own. Promises Lago an id that an
//! insert of a row always has, live or in a backfill, that no other change has, and that is short
//! enough for every key it goes into.
//!
//! It is the sync's name, the operation, the primary key, and for an update the version, with colons
//! between: `api_calls:insert:42`. A colon within a part is written `%3A`, so parts cannot be mistaken
//! for others; what comes out too long ends in a hash behind a tilde, which no part can begin with.
#![forbid(unsafe_code)]

use crate::buffer::Operation;
use crate::json;
use sha2::{Digest, Sha256};

/// Lago takes no longer text as a value of a top-up's metadata (its `MetadataValidator`), and answers
/// 500 for ever to a `transaction_id` of more than about 2.6 KB.
pub const LONGEST_BYTES: usize = 100;

/// A longer name is left out where the id is a hash anyway.
const LONGEST_NAME_BESIDE_HASH: usize = 50;

/// Of the hash: enough that nobody finds two rows with the same.
const HASH_BYTES: usize = 16;

/// The part of an id that all rows of a sync share.
#[derive(Debug)]
pub struct Identity {
    name: Vec<u8>,
}

impl Identity {
    /// `sync` is its name in the database's encoding.
    pub fn new(sync: &[u8]) -> Identity {
        let mut name = Vec::with_capacity(sync.len());
        json::push_escaped(&mut name, sync);
        mark(&mut name, 0);
        Identity { name }
    }

    /// Appends the id as it stands between the quotes of a JSON string. `parts` appends the rest of it,
    /// each part by [`push_part`].
    pub fn push<E>(
        &self,
        operation: Operation,
        out: &mut Vec<u8>,
        parts: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let from = out.len();
        out.extend_from_slice(&self.name);
        out.push(b':');
        out.extend_from_slice(operation.word().as_bytes());
        let parts_from = out.len();
        parts(out)?;
        if out.len() - from > LONGEST_BYTES {
            let whole = out.get(from..).unwrap_or_default();
            let hash = Sha256::digest(whole);
            if self.name.len() > LONGEST_NAME_BESIDE_HASH {
                out.truncate(from);
            } else {
                out.truncate(parts_from);
                out.push(b':');
            }
            out.push(b'~');
            hash.iter().take(HASH_BYTES).for_each(|byte| json::push_hex_byte(out, *byte));
        }
        Ok(())
    }
}

/// Appends one part of an id: `write` appends it as escaped text, which is then told from what stands
/// around it.
pub fn push_part<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    out.push(b':');
    let from = out.len();
    write(out)?;
    mark(out, from);
    Ok(())
}

fn is_mark(byte: u8) -> bool {
    matches!(byte, b':' | b'%' | b'~')
}

/// Rewrites what follows `from` so that it holds no colon and no tilde. In every encoding of a database
/// these bytes stand for themselves alone.
fn mark(out: &mut Vec<u8>, from: usize) {
    let written = out.get(from..).unwrap_or_default();
    if !written.iter().copied().any(is_mark) {
        return;
    }
    let plain = written.to_vec();
    out.truncate(from);
    for byte in plain {
        match byte {
            b':' => out.extend_from_slice(b"%3A"),
            b'%' => out.extend_from_slice(b"%25"),
            b'~' => out.extend_from_slice(b"%7E"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(sync: &str, operation: Operation, parts: &[String]) -> String {
        let mut out = b"before".to_vec();
        let written = Identity::new(sync.as_bytes()).push(operation, &mut out, |out| {
            parts.iter().try_for_each(|part| {
                push_part::<()>(out, |out| {
                    json::push_escaped(out, part.as_bytes());
                    Ok(())
                })
            })
        });
        assert_eq!(written, Ok(()));
        String::from_utf8(out).expect("UTF-8").strip_prefix("before").expect("kept").to_owned()
    }

    fn of(sync: &str, operation: Operation, parts: &[&str]) -> String {
        id(sync, operation, &parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_id_reads_as_sync_operation_and_key() {
        assert_eq!(of("api_calls", Operation::Insert, &["42"]), "api_calls:insert:42");
        assert_eq!(of("a:b", Operation::Delete, &["x:~y", "100%"]), "a%3Ab:delete:x%3A%7Ey:100%25");
        assert_eq!(of("a\"b", Operation::Update, &["\n", "1-2-3"]), "a\\\"b:update:\\n:1-2-3");
    }

    #[test]
    fn a_part_that_holds_the_separator_is_no_two_parts() {
        assert_ne!(of("s", Operation::Insert, &["a:b"]), of("s", Operation::Insert, &["a", "b"]));
        assert_ne!(of("s", Operation::Insert, &["a%3Ab"]), of("s", Operation::Insert, &["a:b"]));
        assert_ne!(of("s:insert", Operation::Insert, &["x"]), of("s", Operation::Insert, &["insert", "x"]));
    }

    #[test]
    fn a_long_key_is_hashed_and_no_key_can_look_like_the_hash() {
        let long = of("s", Operation::Insert, &[&"x".repeat(5000)]);
        assert_eq!(
            long, "s:insert:~daa534f5ffc09d7aa687801e25056cfc",
            "the same on every machine and in every version"
        );
        assert_ne!(of("s", Operation::Insert, &[long.trim_start_matches("s:insert:")]), long);
        let nameless = of(&"n".repeat(200), Operation::Insert, &["1"]);
        assert!(nameless.starts_with('~') && nameless.len() == 33, "{nameless}");
        assert_ne!(of(&nameless, Operation::Insert, &[]), nameless);
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof!["[ab:%~3A7E\\\\]{0,4}", "[a-z]{95,110}", any::<String>()]
    }

    fn change() -> impl Strategy<Value = (String, Operation, Vec<String>)> {
        let operation = prop::sample::select(vec![Operation::Insert, Operation::Update, Operation::Delete]);
        let sync = word().prop_filter("a sync has a name", |name| !name.is_empty());
        (sync, operation, prop::collection::vec(word(), 0..4))
    }

    proptest! {
        #[test]
        fn different_changes_have_different_ids(a in change(), b in change()) {
            let (of_a, of_b) = (id(&a.0, a.1, &a.2), id(&b.0, b.1, &b.2));
            prop_assert_eq!(of_a == of_b, a == b);
            prop_assert!(of_a.len() <= LONGEST_BYTES, "{}", of_a);
        }

        #[test]
        fn moving_a_boundary_between_parts_changes_the_id(
            parts in prop::collection::vec("[ab:%~]{0,3}", 2..4), colon in any::<prop::sample::Index>()
        ) {
            let joined = parts.join(":");
            let colons: Vec<usize> = joined.match_indices(':').map(|(at, _)| at).collect();
            let (left, right) = joined.split_at(*colon.get(&colons));
            let moved = vec![left.to_owned(), right.strip_prefix(':').expect("a colon").to_owned()];
            prop_assert_eq!(
                id("s", Operation::Insert, &moved) == id("s", Operation::Insert, &parts),
                moved == parts
            );
        }
    }
}
