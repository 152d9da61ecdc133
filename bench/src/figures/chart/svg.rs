//! Shapes and text of an SVG drawing, in colours that a dark screen changes.

use std::fmt::Write as _;

/// Colours have been chosen so that verdicts differ in brightness too.
const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 18px; font-weight: 600 }
.heading, .value { font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.paper { fill: #ffffff }
.allowed { fill: #2da44e; opacity: 0.12 }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.goal { stroke: #1f2328; stroke-width: 2 }
.whisker { stroke: #1f2328; stroke-width: 1.5; opacity: 0.6 }
.reached, .ours { fill: #2da44e }
.missed { fill: #cf222e }
.open, .others { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  .paper { fill: #0d1117 }
  .grid { stroke: #3d444d }
  .goal, .whisker { stroke: #f0f6fc }
  .reached, .ours { fill: #3fb950 }
  .missed { fill: #f85149 }
  .open, .others { fill: #656c76 }
}
";

#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
}

#[derive(Default)]
pub struct Drawing {
    shapes: String,
}

impl Drawing {
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
        };
        let text = escaped(text);
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    /// Between two places, whichever of them is to the left.
    pub fn bar(&mut self, (from, to): (f64, f64), top: f64, height: f64, class: &str) {
        let (x, width) = (from.min(to), (to - from).abs());
        self.add(&format!(
            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"/>"
        ));
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.add(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    pub fn finish(self, width: f64, height: f64) -> String {
        let shapes = self.shapes;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\">\n<style>{STYLE}</style>\n<rect width=\"{width}\" height=\"{height}\" \
             class=\"paper\"/>\n{shapes}</svg>\n"
        )
    }

    fn add(&mut self, shape: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.shapes, "{shape}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out_of_its_element() {
        let mut drawing = Drawing::default();
        drawing.text((1.0, 2.0), Anchor::Start, "small", "a < b & c");
        assert!(drawing.finish(10.0, 10.0).contains(">a &lt; b &amp; c</text>"));
    }

    #[test]
    fn a_bar_may_be_drawn_from_right_to_left() {
        let mut drawing = Drawing::default();
        drawing.bar((5.0, 2.0), 0.0, 1.0, "missed");
        assert!(drawing.finish(10.0, 10.0).contains("x=\"2.0\" y=\"0.0\" width=\"3.0\""));
    }
}
