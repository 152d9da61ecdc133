//! The figures, each beside its goal, and the numbers behind them.

use crate::spread::Spread;
use crate::text::{grouped, table};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Measured to be seen beside others.
    None,
}

impl Goal {
    fn is_reached_by(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::None => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One thing divided by another.
    Times,
    Milliseconds,
    EventsPerSecond,
    Instructions,
    Megabytes,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.2} ×"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::EventsPerSecond => format!("{} /s", grouped(value.round())),
            Self::Instructions => grouped(value.round()),
            Self::Megabytes => format!("{value:.0} MB"),
        }
    }
}

pub struct Figure {
    pub what: &'static str,
    pub against: &'static str,
    pub measured: Spread,
    pub unit: Unit,
    pub goal: Goal,
}

impl Figure {
    fn cells(&self) -> Vec<String> {
        let Spread { median, min, max } = self.measured;
        let goal = match self.goal {
            Goal::AtMost(most) => format!("≤ {}", self.unit.show(most)),
            Goal::AtLeast(least) => format!("≥ {}", self.unit.show(least)),
            Goal::None => String::new(),
        };
        let reached = match self.goal.is_reached_by(median) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let spread = match self.unit {
            _ if min == max => String::new(),
            Unit::EventsPerSecond | Unit::Instructions => {
                format!("{} – {}", grouped(min.round()), grouped(max.round()))
            }
            Unit::EventsPerSecond => format!("{} – {}", grouped(min.round()), grouped(max.round())),
            Unit::Megabytes => format!("{min:.0} – {max:.0}"),
            Unit::Times | Unit::Milliseconds => format!("{min:.2} – {max:.2}"),
        };
        let words = [self.what, self.against].map(str::to_owned);
        words.into_iter().chain([self.unit.show(median), spread, goal, reached.to_owned()]).collect()
    }
}

/// A number as it was measured, in its own unit: good for comparing within one run, and for nothing else.
pub struct Measurement {
    pub what: String,
    pub measured: Spread,
    pub unit: &'static str,
}

impl Measurement {
    pub fn new(what: impl Into<String>, values: impl IntoIterator<Item = f64>, unit: &'static str) -> Self {
        Self { what: what.into(), measured: Spread::of(values), unit }
    }

    fn cells(&self) -> Vec<String> {
        let Spread { median, min, max } = self.measured;
        let show = |value: f64| if max >= 100.0 { grouped(value.round()) } else { format!("{value:.2}") };
        let spread = if min == max { String::new() } else { format!("{} – {}", show(min), show(max)) };
        vec![self.what.clone(), format!("{} {}", show(median), self.unit), spread]
    }
}

/// What one part of the benchmark has found.
#[derive(Default)]
pub struct Findings {
    pub figures: Vec<Figure>,
    pub measurements: Vec<Measurement>,
}

impl Findings {
    pub fn extend(&mut self, other: Self) {
        self.figures.extend(other.figures);
        self.measurements.extend(other.measurements);
    }

    pub fn figures_table(&self) -> String {
        let rows: Vec<_> = self.figures.iter().map(Figure::cells).collect();
        table(&["figure", "against", "median", "min – max", "goal", "reached"], &rows)
    }

    pub fn measurements_table(&self) -> String {
        let rows: Vec<_> = self.measurements.iter().map(Measurement::cells).collect();
        table(&["measured", "median", "min – max"], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_held_against_the_median() {
        let figure = |median, goal| Figure {
            what: "rate",
            against: "peer",
            measured: Spread { median, min: 0.1, max: 2.0 },
            unit: Unit::Times,
            goal,
        };
        let reached = |median, goal| figure(median, goal).cells().pop();
        assert_eq!(reached(0.25, Goal::AtMost(0.25)).as_deref(), Some("yes"));
        assert_eq!(reached(0.26, Goal::AtMost(0.25)).as_deref(), Some("no"));
        assert_eq!(reached(0.85, Goal::AtLeast(0.85)).as_deref(), Some("yes"));
        assert_eq!(reached(0.84, Goal::AtLeast(0.85)).as_deref(), Some("no"));
        assert_eq!(reached(f64::NAN, Goal::AtLeast(0.85)).as_deref(), Some("no"));
        assert_eq!(reached(0.5, Goal::None).as_deref(), Some(""));
    }
}
