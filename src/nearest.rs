//! Nearest: what a mistaken name was probably meant to be. Serves every hint about names: of columns,
//! keys and filters.
#![forbid(unsafe_code)]

/// The name closest to `wanted`, if one is close enough to be what was meant.
pub fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let most = wanted.chars().count().div_ceil(3).min(3);
    names
        .iter()
        .map(|name| (edits(wanted, name), *name))
        .filter(|(edits, _)| *edits <= most)
        .min()
        .map(|(_, name)| name)
}

/// How many letters have to be changed, added or left out between two names, letter case aside.
fn edits(from: &str, to: &str) -> usize {
    let to = to.to_lowercase();
    let mut costs: Vec<usize> = (0..=to.chars().count()).collect();
    for (row, letter) in from.to_lowercase().chars().enumerate() {
        let mut left = row + 1;
        let mut next = vec![left];
        for ((other, above_left), above) in to.chars().zip(&costs).zip(costs.iter().skip(1)) {
            left = (above_left + usize::from(letter != other)).min(above + 1).min(left + 1);
            next.push(left);
        }
        costs = next;
    }
    costs.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognized_and_another_word_is_not() {
        let keys = ["transaction_id", "code", "timestamp"];
        assert_eq!(nearest("transacton_id", &keys), Some("transaction_id"));
        assert_eq!(nearest("time_stamp", &keys), Some("timestamp"));
        assert_eq!(nearest("cod", &keys), Some("code"));
        assert_eq!(nearest("amount", &keys), None);
        assert_eq!(nearest("", &keys), None);
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", ""), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("Same", "same"), 0);
    }
}
