//! Version: whether the SQL of a database is that of this library.
//!
//! Serves the worker. A new library is loaded by a restart, the SQL of each database follows when somebody says
//! so; in between the library works by what is there. What needs new columns asks for them, not for a version.

use crate::outbox::Result;
use pgrx::prelude::*;

/// The version of this library.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// The version of the SQL in this database; none where the extension is not installed.
pub fn installed() -> Result<Option<String>> {
    Spi::connect(|client| {
        let sql = "select e.extversion from pg_catalog.pg_extension e where e.extname = 'lago_push'";
        client.select(sql, None, &[])?.map(|row| row.get(1)).next().transpose().map(Option::flatten)
    })
}

/// What somebody should do about SQL of another version than the library's; none if they are alike.
pub fn remark(database: &str, installed: &str) -> Option<String> {
    let advice = match number(installed).cmp(&number(LIBRARY)) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less => {
            "all of that version goes on working; for what is new, run there: alter extension lago_push update"
        }
        std::cmp::Ordering::Greater => "restart the server, so that it loads the library of that version",
    };
    Some(format!("lago_push in database \"{database}\" is {installed}, the library {LIBRARY}: {advice}"))
}

/// Orders versions by their numbers: 0.10.0 comes after 0.9.0.
fn number(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::{LIBRARY, number, remark};

    #[test]
    fn older_sql_is_to_be_updated_and_newer_sql_needs_a_restart() {
        assert_eq!(remark("shop", LIBRARY), None);
        let older = remark("shop", "0.0.9").unwrap_or_default();
        assert!(older.contains("\"shop\" is 0.0.9") && older.contains("lago_push update"), "{older}");
        let newer = remark("shop", "999.0.0").unwrap_or_default();
        assert!(newer.contains("restart the server"), "{newer}");
    }

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(number("0.10.0") > number("0.9.3"));
        assert!(number("1.0.0") > number("0.99.99"));
    }
}
