//! How delivery, memory and views stand a large backlog.

use super::Effort;
use super::ground::Ground;
use super::report::Findings;
use crate::failure::Outcome;

pub fn measure(_ground: &mut Ground, _effort: Effort) -> Outcome<Findings> {
    Ok(Findings::default())
}
