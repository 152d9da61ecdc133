//! The chart: what reaches its goal and what does not, at one look, and contestants side by side.

mod scale;
mod svg;

use super::report::{Figure, Goal, Measurement, Section, Verdict};
use scale::{EDGE, Place, place};
use svg::{Anchor, Drawing};

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 20.0;
/// Names are to the left of this, bars and then values to the right.
const BARS_FROM: f64 = 410.0;
const BARS_TO: f64 = 730.0;
const VALUES_FROM: f64 = 750.0;
const FIGURE_HEIGHT: f64 = 36.0;
const MEASUREMENT_HEIGHT: f64 = 20.0;
const HEADING_HEIGHT: f64 = 32.0;

/// What the colours mean, and how much room it takes to say so.
const LEGEND: [(&str, &str, f64); 4] = [
    ("reached", "goal reached", 105.0),
    ("missed", "not reached", 100.0),
    ("open", "no goal: beside 1 ×", 140.0),
    ("allowed", "where the goal wants it", 165.0),
];

pub fn draw(circumstances: &str, sections: &[Section]) -> String {
    let mut chart = Chart { drawing: Drawing::default(), y: MARGIN };
    chart.title(circumstances);
    if sections.iter().any(|section| !section.findings.figures.is_empty()) {
        chart.figures(sections);
    }
    for section in sections {
        for unit in section.charted {
            let of_unit = section.findings.measurements.iter().filter(|measured| measured.unit == *unit);
            chart.side_by_side(section.heading, &of_unit.collect::<Vec<_>>());
        }
    }
    chart.drawing.finish(WIDTH, chart.y + MARGIN)
}

struct Chart {
    drawing: Drawing,
    /// What has been drawn so far ends here.
    y: f64,
}

impl Chart {
    fn title(&mut self, circumstances: &str) {
        self.drawing.text(
            (MARGIN, self.y + 16.0),
            Anchor::Start,
            "title",
            "lago_push: figures and their goals",
        );
        self.y += 40.0;
        self.drawing.text((MARGIN, self.y), Anchor::Start, "small", circumstances);
        self.y += 12.0;
        let mut x = MARGIN;
        for (class, meaning, room) in LEGEND {
            self.drawing.bar((x, x + 12.0), self.y, 12.0, class);
            self.drawing.text((x + 17.0, self.y + 10.0), Anchor::Start, "small", meaning);
            x += room;
        }
        let rest = "Bars are medians, lines go from the least to the greatest value.";
        self.drawing.text((x, self.y + 10.0), Anchor::Start, "small", rest);
        self.y += 20.0;
    }

    fn figures(&mut self, sections: &[Section]) {
        self.y += 16.0;
        let marks = [
            (-1.0, format!("1/{EDGE}")),
            (0.0, "the goal, or 1 ×".to_owned()),
            (1.0, format!("{EDGE} times")),
        ];
        for (position, name) in marks {
            self.drawing.text((at(position), self.y), Anchor::Middle, "small", &name);
        }
        self.y += 4.0;
        for section in sections.iter().filter(|section| !section.findings.figures.is_empty()) {
            self.heading(section.heading);
            for figure in &section.findings.figures {
                self.figure(figure);
            }
        }
    }

    fn heading(&mut self, text: &str) {
        self.y += HEADING_HEIGHT;
        self.drawing.text((MARGIN, self.y - 9.0), Anchor::Start, "heading", text);
    }

    fn figure(&mut self, figure: &Figure) {
        let (first, second) = (self.y + 15.0, self.y + 29.0);
        self.drawing.text((MARGIN, first), Anchor::Start, "name", figure.what.trim());
        let against = format!("against {}", figure.against);
        self.drawing.text((MARGIN, second), Anchor::Start, "small", &against);
        self.around_its_goal(figure);
        self.drawing.text((VALUES_FROM, first), Anchor::Start, "value", &figure.median());
        let goal = figure.goal();
        let goal = if goal.is_empty() { goal } else { format!("goal {goal}") };
        let rest: Vec<String> = [figure.spread(), goal].into_iter().filter(|word| !word.is_empty()).collect();
        self.drawing.text((VALUES_FROM, second), Anchor::Start, "small", &rest.join(" · "));
        self.y += FIGURE_HEIGHT;
    }

    fn around_its_goal(&mut self, figure: &Figure) {
        let place = |value| place(figure.goal, figure.unit, value);
        let Some(median) = place(figure.measured.median) else { return };
        let (top, bottom) = (self.y, self.y + FIGURE_HEIGHT);
        let middle = f64::midpoint(top, bottom);
        match figure.goal {
            Goal::AtMost(_) => self.drawing.bar((at(-1.0), at(0.0)), top, FIGURE_HEIGHT, "allowed"),
            Goal::AtLeast(_) => self.drawing.bar((at(0.0), at(1.0)), top, FIGURE_HEIGHT, "allowed"),
            Goal::None => {}
        }
        for position in [-1.0, -0.5, 0.5, 1.0] {
            self.drawing.line((at(position), top), (at(position), bottom), "grid");
        }
        let class = match figure.verdict() {
            Verdict::Reached => "reached",
            Verdict::Missed => "missed",
            Verdict::Open => "open",
        };
        self.drawing.bar((at(0.0), at(median.position())), top + 9.0, FIGURE_HEIGHT - 18.0, class);
        if let (Some(min), Some(max)) = (place(figure.measured.min), place(figure.measured.max)) {
            self.drawing.line((at(min.position()), middle), (at(max.position()), middle), "whisker");
        }
        let beyond = match median {
            Place::At(_) => None,
            Place::BeyondLeft => Some((at(-1.0) - 8.0, "‹")),
            Place::BeyondRight => Some((at(1.0) + 8.0, "›")),
        };
        if let Some((x, arrow)) = beyond {
            self.drawing.text((x, middle + 4.0), Anchor::Middle, "value", arrow);
        }
        self.drawing.line((at(0.0), top), (at(0.0), bottom), "goal");
    }

    /// Bars from zero, the longest as long as there is room.
    fn side_by_side(&mut self, heading: &str, measurements: &[&Measurement]) {
        let most = measurements.iter().map(|one| one.measured.max).fold(0.0, f64::max);
        if most <= 0.0 {
            return;
        }
        let along = |value: f64| BARS_FROM + (BARS_TO - BARS_FROM) * (value / most).clamp(0.0, 1.0);
        self.y += 8.0;
        self.heading(&format!("{heading}, side by side"));
        for one in measurements {
            let (baseline, middle) = (self.y + 14.0, self.y + MEASUREMENT_HEIGHT / 2.0);
            let class = if one.what.contains("lago_push") { "ours" } else { "others" };
            let (median, height) = (along(one.measured.median), MEASUREMENT_HEIGHT - 6.0);
            self.drawing.text((MARGIN, baseline), Anchor::Start, "name", one.what.trim());
            self.drawing.bar((BARS_FROM, median), self.y + 3.0, height, class);
            let (min, max) = (along(one.measured.min), along(one.measured.max));
            self.drawing.line((min, middle), (max, middle), "whisker");
            self.drawing.text((VALUES_FROM, baseline), Anchor::Start, "value", &one.median());
            self.y += MEASUREMENT_HEIGHT;
        }
    }
}

/// Where a position from -1 to 1 is.
fn at(position: f64) -> f64 {
    f64::midpoint(BARS_FROM, BARS_TO) + position * (BARS_TO - BARS_FROM) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::report::{Findings, Goal, Unit};
    use crate::spread::Spread;

    fn chart(figures: Vec<Figure>, measurements: Vec<Measurement>) -> String {
        let findings = Findings { figures, measurements };
        draw("today", &[Section { heading: "bulk", charted: &["µs"], findings }])
    }

    #[test]
    fn a_bar_goes_from_the_goal_to_the_median_in_the_colour_of_its_verdict() {
        let measured = Spread { median: 0.5, min: 0.25, max: 1.0 };
        let goal = Goal::AtMost(0.25);
        let figure = Figure { what: "rate", against: "peer", measured, unit: Unit::Times, goal };
        let chart = chart(vec![figure], Vec::new());
        // From the goal halfway to four times the goal.
        assert!(chart.contains("<rect x=\"570.0\" y=\"153.0\""), "{chart}");
        assert!(chart.contains("width=\"80.0\" height=\"18.0\" class=\"missed\""), "{chart}");
        assert!(chart.contains("0.25 – 1.00 · goal ≤ 0.25 ×"), "{chart}");
    }

    #[test]
    fn measurements_are_drawn_where_their_unit_is_charted() {
        let chart = chart(
            Vec::new(),
            vec![Measurement::new("lago_push adds", [2.0], "µs"), Measurement::new("wal", [3.0], "bytes")],
        );
        assert!(chart.contains("width=\"320.0\" height=\"14.0\" class=\"ours\""), "{chart}");
        assert!(!chart.contains("wal"), "{chart}");
    }
}
