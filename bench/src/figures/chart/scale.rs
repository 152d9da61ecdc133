//! How far a value is from its goal, on one scale for all figures.

use crate::figures::report::{Goal, Unit};

/// Values that are more than so many times the goal, or less than that part of it, are drawn at the edge.
pub const EDGE: f64 = 4.0;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// Between -1 for a quarter of the goal and 1 for four times the goal; 0 is the goal. Logarithmic.
    At(f64),
    BeyondLeft,
    BeyondRight,
}

impl Place {
    /// The edge stands for what is beyond it.
    pub fn position(self) -> f64 {
        match self {
            Self::At(position) => position,
            Self::BeyondLeft => -1.0,
            Self::BeyondRight => 1.0,
        }
    }
}

/// Without a goal, a ratio is held against 1, and other values have no place.
pub fn place(goal: Goal, unit: Unit, value: f64) -> Option<Place> {
    let times = match (goal, unit) {
        (Goal::AtMost(goal) | Goal::AtLeast(goal), _) => value / goal,
        (Goal::None, Unit::Times) => value,
        (Goal::None, _) => return None,
    };
    match times {
        _ if times.is_nan() => None,
        _ if times < 1.0 / EDGE => Some(Place::BeyondLeft),
        _ if times > EDGE => Some(Place::BeyondRight),
        _ => Some(Place::At(times.log(EDGE))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_placed_by_how_many_times_its_goal_it_is() {
        let place = |value| place(Goal::AtMost(2.0), Unit::Milliseconds, value);
        assert_eq!(place(2.0), Some(Place::At(0.0)));
        assert_eq!(place(1.0), Some(Place::At(-0.5)));
        assert_eq!(place(8.0), Some(Place::At(1.0)));
        assert_eq!(place(8.1), Some(Place::BeyondRight));
        assert_eq!(place(-0.1), Some(Place::BeyondLeft));
        assert_eq!(place(f64::NAN), None);
    }

    #[test]
    fn without_a_goal_only_ratios_have_a_place() {
        assert_eq!(place(Goal::None, Unit::Times, 2.0), Some(Place::At(0.5)));
        assert_eq!(place(Goal::None, Unit::Milliseconds, 2.0), None);
    }
}
