//! How far a value is beyond its goal or short of it, on one scale for all figures.

use crate::figures::report::{Goal, Unit};

/// Values further off than this many times are drawn at the edge.
pub const EDGE: f64 = 4.0;

/// -1 for four times worse than the goal, 0 for the goal, 1 for four times better, logarithmic between.
/// Without a goal, a ratio is placed by how it compares with 1, and other values have no place.
pub fn place(goal: Goal, unit: Unit, value: f64) -> Option<f64> {
    let times_better = match (goal, unit) {
        // What was to be small and is below zero is better than any.
        (Goal::AtMost(_), _) if value <= 0.0 => f64::INFINITY,
        (Goal::AtMost(most), _) => most / value,
        (Goal::AtLeast(least), _) => value.max(0.0) / least,
        (Goal::None, Unit::Times) => value.max(0.0),
        (Goal::None, _) => return None,
    };
    if times_better.is_nan() { None } else { Some(times_better.log(EDGE).clamp(-1.0, 1.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_is_to_the_right_whichever_way_the_goal_points() {
        let place = |goal, value| place(goal, Unit::Milliseconds, value);
        assert_eq!(place(Goal::AtMost(2.0), 2.0), Some(0.0));
        assert_eq!(place(Goal::AtMost(2.0), 1.0), Some(0.5));
        assert_eq!(place(Goal::AtLeast(2.0), 1.0), Some(-0.5));
        assert_eq!(place(Goal::AtMost(2.0), -0.1), Some(1.0));
        assert_eq!(place(Goal::AtLeast(2.0), -0.1), Some(-1.0));
        assert_eq!(place(Goal::AtLeast(2.0), 1000.0), Some(1.0));
    }

    #[test]
    fn without_a_goal_only_ratios_have_a_place() {
        assert_eq!(place(Goal::None, Unit::Times, 2.0), Some(0.5));
        assert_eq!(place(Goal::None, Unit::Milliseconds, 2.0), None);
        assert_eq!(place(Goal::AtMost(1.0), Unit::Times, f64::NAN), None);
    }
}
