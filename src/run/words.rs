//! Words: what a run that failed leaves for its operator to read.
//!
//! The server's messages about values quote them, and who may read of a failure need not be allowed to read the
//! source. So of such a message everything in quotes is left out, but for names.
#![forbid(unsafe_code)]

/// A failed run.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// By our own judgement.
    Refused(String),
    /// By an error of the server, or of what the query calls.
    Raised { sqlstate: String, message: String },
}

/// Words after which a quoted word is a name.
const KINDS_OF_NAMES: [&str; 15] = [
    "column",
    "relation",
    "table",
    "view",
    "function",
    "schema",
    "type",
    "role",
    "server",
    "database",
    "constraint",
    "file",
    "sequence",
    "option",
    "operator",
];

impl Failure {
    /// One sentence for the view `runs`. `limit` is what the sync says of its time.
    pub fn sentence(&self, limit: Option<&str>) -> String {
        match self {
            Failure::Refused(why) => why.clone(),
            Failure::Raised { sqlstate, .. } if sqlstate == "57014" => match limit {
                Some(limit) => {
                    format!(
                        "the run was cancelled, by hand or because it took longer than its time_limit of {limit}"
                    )
                }
                None => "the run was cancelled by hand".into(),
            },
            Failure::Raised { sqlstate, .. } if sqlstate == "40001" => CHANGED.into(),
            // What somebody's function says may hold anything.
            Failure::Raised { sqlstate, .. } if sqlstate.starts_with("P0") => {
                format!("a function of the query raised an error: SQLSTATE {sqlstate}")
            }
            Failure::Raised { sqlstate, message } => {
                format!("the query failed: {}: SQLSTATE {sqlstate}", without_values(message))
            }
        }
    }

    /// Whether the run is to be begun again at once.
    pub fn is_passing(&self) -> bool {
        matches!(self, Failure::Raised { sqlstate, .. } if sqlstate == "40001")
    }
}

const CHANGED: &str = "the sync, or what the query reads, was changed during the run; it is begun again";

/// A message of the server without what it quotes, but for names. What is quoted may hold quotes itself: from the
/// first value to the last quote nothing is kept.
fn without_values(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let mut from = 0;
    while let Some((start, end)) = quoted(line, from) {
        let before =
            line[..start].trim_end().rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if !KINDS_OF_NAMES.contains(&before) {
            let last = line.rfind('"').unwrap_or(start);
            let rest = if last > start { &line[last + 1..] } else { "" };
            return format!("{}\"…\"{rest}", &line[..start]);
        }
        from = end + 1;
    }
    line.to_owned()
}

/// Where the next quoted part begins and ends: the places of its quotes.
fn quoted(line: &str, from: usize) -> Option<(usize, usize)> {
    let start = from + line.get(from..)?.find('"')?;
    let end = line.get(start + 1..)?.find('"').map_or(line.len(), |length| start + 1 + length);
    Some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raised(sqlstate: &str, message: &str) -> String {
        Failure::Raised { sqlstate: sqlstate.into(), message: message.into() }.sentence(None)
    }

    #[test]
    fn names_are_told_and_values_are_not() {
        assert_eq!(
            raised("42501", "permission denied for table secrets"),
            "the query failed: permission denied for table secrets: SQLSTATE 42501"
        );
        assert_eq!(
            raised("42703", "column \"amount\" does not exist"),
            "the query failed: column \"amount\" does not exist: SQLSTATE 42703"
        );
        assert_eq!(
            raised("22P02", "invalid input syntax for type numeric: \"12 Main Street\""),
            "the query failed: invalid input syntax for type numeric: \"…\": SQLSTATE 22P02"
        );
        assert_eq!(
            raised("22003", "value \"99999999999\" is out of range for type integer"),
            "the query failed: value \"…\" is out of range for type integer: SQLSTATE 22003"
        );
        assert_eq!(
            raised("22P04", "missing data for column \"amount\""),
            "the query failed: missing data for column \"amount\": SQLSTATE 22P04"
        );
        assert!(!raised("P0001", "customer Ada owes 12").contains("Ada"));
    }

    #[test]
    fn a_cancelled_run_names_its_limit() {
        let cancelled = Failure::Raised { sqlstate: "57014".into(), message: "canceling statement".into() };
        assert!(cancelled.sentence(Some("00:05:00")).contains("00:05:00"));
        assert!(!cancelled.sentence(None).contains("time_limit"));
    }

    proptest! {
        #[test]
        fn no_value_is_told_whatever_it_holds(value in "[a-z\" ]{0,20}") {
            let told = without_values(&format!("invalid input syntax for type x: \"{value}\" here"));
            prop_assert_eq!(told, "invalid input syntax for type x: \"…\" here");
        }
    }
}
