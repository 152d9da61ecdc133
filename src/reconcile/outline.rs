//! Outline: what a template tells of its events before the first row.
//!
//! Serves the reading of rows: the column a time stands in lets the table's index find those of a period,
//! and a code that stands in the template itself is listed even when no row has it.
#![forbid(unsafe_code)]

use crate::template::{Piece, Shape, Subject, Template};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The column that is the event's time, as it is.
    pub time_column: Option<String>,
    pub code: Option<String>,
    pub time: Time,
}

/// Where the events' times come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// The template names one, or each row shows whether it does.
    #[default]
    OfRow,
    /// It is that of the transaction that wrote the row, which no row tells later.
    OfCapture,
}

impl Outline {
    pub fn of(template: &Template) -> Outline {
        let is_program = matches!(template.pieces[..], [Piece::Program(_)]);
        let place = |name: &str| template.keys.iter().position(|key| key.name == name);
        let shape = |name: &str| place(name).and_then(|index| template.keys.get(index)).map(|key| &key.value);
        if is_program {
            return Outline::default();
        }
        let code = match shape("code") {
            // As it stands between the quotes.
            Some(Shape::Text(text)) => serde_json::from_str(&format!("\"{text}\"")).ok(),
            _ => None,
        };
        let time_column = match shape("timestamp") {
            Some(Shape::HoleText | Shape::HoleValue) => {
                template.pieces.iter().find_map(|piece| match piece {
                    Piece::Hole(hole) if hole.key == place("timestamp") => match &hole.subject {
                        Subject::Row(column) => Some(column.clone()),
                        Subject::Old(_) | Subject::Operation => None,
                    },
                    _ => None,
                })
            }
            _ => None,
        };
        let time = if shape("timestamp").is_some() { Time::OfRow } else { Time::OfCapture };
        Outline { time_column, code, time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template;

    fn outline(members: &str) -> Outline {
        let text = format!(r#"{{"transaction_id": "{{{{ row.id }}}}", {members}}}"#);
        Outline::of(&template::parse(&text).expect("a template"))
    }

    #[test]
    fn a_column_alone_is_the_time() {
        let column = |members: &str| outline(members).time_column;
        assert_eq!(column(r#""timestamp": {{ row.at }}, "code": "c""#).as_deref(), Some("at"));
        assert_eq!(column(r#""timestamp": "{{ row.at }}""#).as_deref(), Some("at"));
        for members in [
            r#""timestamp": {{ row.at | plus: 1 }}"#,
            r#""timestamp": "1{{ row.at }}""#,
            r#""timestamp": 1700000000"#,
            r#""code": "{{ row.at }}""#,
        ] {
            assert_eq!(column(members), None, "{members}");
        }
    }

    #[test]
    fn a_code_that_no_row_decides_is_known() {
        let code = |members: &str| outline(members).code;
        assert_eq!(code(r#""code": "api \u00e9 calls""#).as_deref(), Some("api é calls"));
        assert_eq!(code(r#""code": "{{ row.code }}""#), None);
        assert_eq!(code(r#""code": "x{{ row.code }}""#), None);
    }

    #[test]
    fn a_template_without_a_time_leaves_it_to_capture() {
        assert_eq!(outline(r#""code": "c""#).time, Time::OfCapture);
        assert_eq!(outline(r#""timestamp": 1"#).time, Time::OfRow);
        assert_eq!(outline(r#""code": "{% if row.a %}c{% endif %}""#), Outline::default());
    }
}
