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

/// What a figure's median says of its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Reached,
    Missed,
    /// There is no goal.
    Open,
}

impl Goal {
    fn verdict(self, value: f64) -> Verdict {
        let reached = match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::None => return Verdict::Open,
        };
        if reached { Verdict::Reached } else { Verdict::Missed }
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
    fn number(self, value: f64) -> String {
        match self {
            Self::Times | Self::Milliseconds => format!("{value:.2}"),
            Self::Megabytes => format!("{value:.0}"),
            Self::EventsPerSecond | Self::Instructions => grouped(value.round()),
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Times => " ×",
            Self::Milliseconds => " ms",
            Self::EventsPerSecond => " /s",
            Self::Megabytes => " MB",
            Self::Instructions => "",
        }
    }

    fn show(self, value: f64) -> String {
        self.number(value) + self.sign()
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
    pub fn verdict(&self) -> Verdict {
        self.goal.verdict(self.measured.median)
    }

    pub fn median(&self) -> String {
        self.unit.show(self.measured.median)
    }

    pub fn spread(&self) -> String {
        range(self.measured, |value| self.unit.number(value))
    }

    /// Empty where there is none.
    pub fn goal(&self) -> String {
        match self.goal {
            Goal::AtMost(most) => format!("≤ {}", self.unit.show(most)),
            Goal::AtLeast(least) => format!("≥ {}", self.unit.show(least)),
            Goal::None => String::new(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let reached = match self.verdict() {
            Verdict::Reached => "yes",
            Verdict::Missed => "no",
            Verdict::Open => "",
        };
        let words = [self.what, self.against].map(str::to_owned);
        words.into_iter().chain([self.median(), self.spread(), self.goal(), reached.to_owned()]).collect()
    }
}

/// Empty where both extremes read the same.
fn range(spread: Spread, show: impl Fn(f64) -> String) -> String {
    let (min, max) = (show(spread.min), show(spread.max));
    if min == max { String::new() } else { format!("{min} – {max}") }
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

    pub fn median(&self) -> String {
        format!("{} {}", self.number(self.measured.median), self.unit)
    }

    fn cells(&self) -> Vec<String> {
        let spread = range(self.measured, |value| self.number(value));
        vec![self.what.clone(), self.median(), spread]
    }

    fn number(&self, value: f64) -> String {
        if self.measured.max >= 100.0 { grouped(value.round()) } else { format!("{value:.2}") }
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
}

/// The findings of a part under its heading.
pub struct Section {
    pub heading: &'static str,
    /// Units whose measurements are worth a look side by side.
    pub charted: &'static [&'static str],
    pub findings: Findings,
}

pub fn figures_table(sections: &[Section]) -> String {
    let rows = grouped_rows(sections, |findings| findings.figures.iter().map(Figure::cells).collect());
    table(&["figure", "against", "median", "min – max", "goal", "reached"], &rows)
}

pub fn measurements_table(sections: &[Section]) -> String {
    let rows =
        grouped_rows(sections, |findings| findings.measurements.iter().map(Measurement::cells).collect());
    table(&["measured", "median", "min – max"], &rows)
}

/// One table for all parts, so that its columns line up, with a row for each heading.
fn grouped_rows(sections: &[Section], rows: fn(&Findings) -> Vec<Vec<String>>) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for section in sections {
        let rows = rows(&section.findings);
        if !rows.is_empty() {
            all.push(vec![format!("**{}**", section.heading)]);
            all.extend(rows);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(median: f64, goal: Goal) -> Figure {
        let measured = Spread { median, min: 0.1, max: 2.0 };
        Figure { what: "rate", against: "peer", measured, unit: Unit::Times, goal }
    }

    #[test]
    fn a_goal_is_held_against_the_median() {
        let verdict = |median, goal| figure(median, goal).verdict();
        assert_eq!(verdict(0.25, Goal::AtMost(0.25)), Verdict::Reached);
        assert_eq!(verdict(0.26, Goal::AtMost(0.25)), Verdict::Missed);
        assert_eq!(verdict(0.85, Goal::AtLeast(0.85)), Verdict::Reached);
        assert_eq!(verdict(0.84, Goal::AtLeast(0.85)), Verdict::Missed);
        assert_eq!(verdict(f64::NAN, Goal::AtLeast(0.85)), Verdict::Missed);
        assert_eq!(verdict(0.5, Goal::None), Verdict::Open);
    }

    #[test]
    fn a_row_of_the_table_says_everything_about_a_figure() {
        let cells = figure(0.2, Goal::AtMost(0.25)).cells();
        assert_eq!(cells, ["rate", "peer", "0.20 ×", "0.10 – 2.00", "≤ 0.25 ×", "yes"]);
    }

    #[test]
    fn extremes_that_read_the_same_are_not_shown() {
        let bytes = Measurement::new("a row", [157.9, 158.1], "bytes");
        assert_eq!(bytes.cells(), ["a row", "158 bytes", ""]);
    }

    #[test]
    fn parts_that_found_nothing_have_no_heading() {
        let section = |heading, figures| {
            let findings = Findings { figures, measurements: Vec::new() };
            Section { heading, charted: &[], findings }
        };
        let sections = [section("one", vec![figure(0.2, Goal::None)]), section("two", Vec::new())];
        let table = figures_table(&sections);
        assert!(table.contains("**one**") && !table.contains("**two**"), "{table}");
    }
}
