//! Instructions of one captured row and of one delivered event, which do not depend on the machine's mood.

use super::Effort;
use super::ground::Ground;
use super::report::Findings;
use crate::failure::Outcome;

pub fn measure(_ground: &mut Ground, _effort: Effort) -> Outcome<Findings> {
    Ok(Findings::default())
}
