//! Digest: what is remembered of a row in the place of its values.
//!
//! Beside comparing. It promises that rows with the same values have the same digest, on every machine, in every
//! encoding and version, and that nobody finds two others with one. Values are compared as they would be sent:
//! whatever reads the same in a payload is the same.

use crate::pg::encoding;
use crate::pg::trigger::Tuple;
use crate::render::{Bound, Column};
use sha2::{Digest as _, Sha256};

pub type Digest = [u8; 16];

/// In front of each value, so that none can be taken for two, nor for null: escaped text holds no such bytes.
const NULL: u8 = 0;
const VALUE: u8 = 1;

/// The columns that are compared.
pub struct Compared {
    columns: Vec<Bound>,
    written: Vec<u8>,
    /// Names and types of them, as one text.
    pub description: String,
}

impl Compared {
    /// Of a query's columns, with the names of their types, those that `counts` picks. They are taken by name: which
    /// stands before which is no difference.
    pub fn new(columns: &[(Column, String)], counts: impl Fn(&str) -> bool) -> Compared {
        let mut picked: Vec<&(Column, String)> =
            columns.iter().filter(|(column, _)| counts(&column.name)).collect();
        picked.sort_unstable_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        let described: Vec<[&str; 2]> =
            picked.iter().map(|(column, type_name)| [column.name.as_str(), type_name.as_str()]).collect();
        Compared {
            columns: picked.iter().map(|(column, _)| Bound::new(column)).collect(),
            written: Vec::new(),
            description: serde_json::json!(described).to_string(),
        }
    }

    /// The digest of a row; or why it has none.
    pub fn digest(&mut self, row: Tuple) -> Result<Digest, String> {
        self.written.clear();
        for column in &self.columns {
            self.written.push(VALUE);
            match column.write_in_string(row, &mut self.written) {
                Some(written) => written?,
                None => {
                    self.written.pop();
                    self.written.push(NULL);
                }
            }
        }
        let hash = match encoding::is_utf8() {
            true => Sha256::digest(&self.written),
            false => Sha256::digest(encoding::to_utf8(&self.written)),
        };
        let mut digest = Digest::default();
        digest.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        Ok(digest)
    }
}
