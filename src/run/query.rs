//! Query: the statement a run reads by.
//!
//! First step of a run. Pure. The sync's query stands in it as it was given, in a line of its own, so that a comment at
//! its end is no matter; around it is what makes a key of its columns and puts the rows in the order of the memory.
#![forbid(unsafe_code)]

/// A cursor of a sync, and from where it reads.
#[derive(Clone, Copy, Debug)]
pub struct From<'a> {
    pub column: &'a str,
    pub kind: CursorKind,
    pub overlap: &'a str,
    /// The highest value that was read before; none before the first run.
    pub high_water: Option<&'a str>,
}

/// What a cursor is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorKind {
    Number,
    /// Its type's name.
    Time(&'static str),
}

impl CursorKind {
    /// Of a type by its name, with or without the server's schema and a modifier.
    pub fn of(type_name: &str) -> Option<CursorKind> {
        let name = type_name.strip_prefix("pg_catalog.").unwrap_or(type_name);
        let modifier = name.split_once('(').and_then(|(name, rest)| Some((name, rest.split_once(')')?.1)));
        let name = modifier.map_or_else(|| name.into(), |(name, rest)| format!("{name}{rest}"));
        Some(match name.as_str() {
            "smallint" | "integer" | "bigint" => CursorKind::Number,
            "date" => CursorKind::Time("date"),
            "timestamp without time zone" => CursorKind::Time("timestamp"),
            "timestamp with time zone" => CursorKind::Time("timestamptz"),
            _ => return None,
        })
    }
}

/// How many columns stand behind the query's own.
pub const ADDED_COLUMNS: usize = 2;

/// The statement of a run. Its rows are those of the query, and behind their columns two more: the key as text, and the
/// cursor as text (null where there is none). They come in the order of the key's bytes.
pub fn command(query: &str, key: &[String], from: Option<From<'_>>) -> String {
    let cursor =
        from.map_or_else(|| "null".into(), |from| format!("q.{}::pg_catalog.text", identifier(from.column)));
    let condition =
        from.and_then(condition).map(|condition| format!("\nwhere {condition}")).unwrap_or_default();
    format!(
        "select q.*, ({key}) collate pg_catalog.\"C\", {cursor} from (\n{query}\n) q{condition}\norder by ({key}) collate pg_catalog.\"C\"",
        key = key_text(key),
    )
}

/// The query alone, for a look at its first rows.
pub fn look(query: &str, rows: i32) -> String {
    format!("select q from (\n{query}\n) q limit {rows}")
}

/// The parts of the key with colons between; a colon within a part is written `%3A`, as it is in an id. Null where any
/// part is.
fn key_text(key: &[String]) -> String {
    let text = |column: &String| format!("q.{}::pg_catalog.text", identifier(column));
    match key {
        [column] => text(column),
        columns => {
            let part = |column: &String| {
                format!("pg_catalog.replace(pg_catalog.replace({}, '%', '%25'), ':', '%3A')", text(column))
            };
            columns
                .iter()
                .map(part)
                .collect::<Vec<_>>()
                .join(" operator(pg_catalog.||) ':' operator(pg_catalog.||) ")
        }
    }
}

/// What a cursor reads: from the highest value before, less the overlap; and rows without a value, which are a mistake
/// nobody would see otherwise.
fn condition(from: From<'_>) -> Option<String> {
    let column = identifier(from.column);
    let (mark, overlap) = (literal(from.high_water?), literal(from.overlap));
    let lowest = match from.kind {
        CursorKind::Number => {
            format!("{mark}::pg_catalog.numeric operator(pg_catalog.-) {overlap}::pg_catalog.numeric")
        }
        // Less an interval, a time with a zone depends on a setting, and is no constant that a foreign server could be
        // asked for.
        CursorKind::Time(type_name @ "timestamptz") => format!(
            "pg_catalog.timezone('UTC', pg_catalog.timezone('UTC', {mark}::pg_catalog.{type_name}) operator(pg_catalog.-) {overlap}::pg_catalog.interval)"
        ),
        CursorKind::Time(type_name) => {
            format!(
                "({mark}::pg_catalog.{type_name} operator(pg_catalog.-) {overlap}::pg_catalog.interval)::pg_catalog.{type_name}"
            )
        }
    };
    let lowest = match from.kind {
        // An index on the column is of use only to a value of its type.
        CursorKind::Number => {
            format!("greatest({lowest}, -9223372036854775808)::pg_catalog.int8")
        }
        CursorKind::Time(_) => lowest,
    };
    Some(format!("(q.{column} operator(pg_catalog.>=) ({lowest}) or q.{column} is null)"))
}

/// A name between quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text between quotes, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_one_column_is_its_text_and_of_several_cannot_be_mistaken() {
        let one = command("select 1 as id -- one", &["id".into()], None);
        assert_eq!(
            one,
            "select q.*, (q.\"id\"::pg_catalog.text) collate pg_catalog.\"C\", null from (\nselect 1 as id -- one\n) q\norder by (q.\"id\"::pg_catalog.text) collate pg_catalog.\"C\""
        );
        let two = command("table t", &["a".into(), "b\"c".into()], None);
        assert!(two.contains("'%3A') operator(pg_catalog.||) ':' operator(pg_catalog.||) "), "{two}");
        assert!(two.contains("q.\"b\"\"c\"::pg_catalog.text"), "{two}");
    }

    #[test]
    fn a_cursor_reads_from_where_it_was_less_the_overlap() {
        let from = |kind, high_water| From { column: "at", kind, overlap: "1 hour", high_water };
        let first = command("table t", &["id".into()], Some(from(CursorKind::Time("timestamptz"), None)));
        assert!(!first.contains("where") && first.contains("q.\"at\"::pg_catalog.text"), "{first}");
        let next =
            command("table t", &["id".into()], Some(from(CursorKind::Time("date"), Some("2026-01-02"))));
        assert!(
            next.contains("where (q.\"at\" operator(pg_catalog.>=) ((E'2026-01-02'::pg_catalog.date operator(pg_catalog.-) E'1 hour'::pg_catalog.interval)::pg_catalog.date) or q.\"at\" is null)"),
            "{next}"
        );
        let zoned = command(
            "table t",
            &["id".into()],
            Some(from(CursorKind::Time("timestamptz"), Some("2026-01-02"))),
        );
        assert!(
            zoned.contains("where (q.\"at\" operator(pg_catalog.>=) (pg_catalog.timezone('UTC', pg_catalog.timezone('UTC', E'2026-01-02'::pg_catalog.timestamptz) operator(pg_catalog.-) E'1 hour'::pg_catalog.interval)) or"),
            "{zoned}"
        );
        let number = command(
            "table t",
            &["id".into()],
            Some(From { overlap: "5", ..from(CursorKind::Number, Some("17")) }),
        );
        assert!(
            number.contains("E'17'::pg_catalog.numeric operator(pg_catalog.-) E'5'::pg_catalog.numeric"),
            "{number}"
        );
    }

    #[test]
    fn the_types_a_cursor_may_have() {
        assert_eq!(CursorKind::of("bigint"), Some(CursorKind::Number));
        assert_eq!(CursorKind::of("timestamp with time zone"), Some(CursorKind::Time("timestamptz")));
        assert_eq!(CursorKind::of("timestamp(3) with time zone"), Some(CursorKind::Time("timestamptz")));
        assert_eq!(CursorKind::of("pg_catalog.date"), Some(CursorKind::Time("date")));
        assert_eq!(CursorKind::of("pg_catalog.text"), None);
    }

    #[test]
    fn what_is_quoted_cannot_leave_its_quotes() {
        assert_eq!(literal("a'b\\"), "E'a''b\\\\'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
