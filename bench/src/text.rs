//! Numbers and tables as people read them.

use std::fmt::Display;
use std::iter;

/// Digits in groups of three: `1,234,567`.
pub fn grouped(number: impl Display) -> String {
    let plain = number.to_string();
    let (sign, digits) = plain.strip_prefix('-').map_or(("", plain.as_str()), |digits| ("-", digits));
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// "1 event", "2 events".
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// Every line moved to the right.
pub fn indented(text: &str, by: usize) -> String {
    let margin = " ".repeat(by);
    text.lines().map(|line| format!("{margin}{line}").trim_end().to_owned() + "\n").collect()
}

/// A table in Markdown whose columns are also aligned for the eye. Rows may lack their last cells.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heads[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.into_iter().chain(iter::repeat(""));
        let padded: Vec<String> =
            widths.iter().zip(cells).map(|(width, cell)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut out = line(heads.to_vec());
    out += &line(rules.iter().map(String::as_str).collect());
    for row in rows {
        out += &line(row.iter().map(String::as_str).collect());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_groups_of_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn columns_of_a_table_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "12 µs".to_owned()]];
        assert_eq!(table(&["name", "is"], &rows), "| name | is    |\n| ---- | ----- |\n| a    | 12 µs |\n");
    }

    #[test]
    fn cells_that_a_row_lacks_are_empty() {
        assert_eq!(table(&["a", "b"], &[vec!["c".to_owned()]]), "| a | b |\n| - | - |\n| c |   |\n");
    }
}
