//! What has been measured, kept in `bench/results`: a table in Markdown and a chart beside it.
//!
//! A run may take more than an hour, so each part is written when it is done.

use std::fs;
use std::path::Path;

use super::chart;
use super::report::{Section, figures_table, measurements_table};
use crate::failure::{Doing, Outcome};

const FOLDER: &str = "bench/results";

pub struct Results {
    /// When, where and how it was measured, as one line.
    circumstances: String,
    sections: Vec<Section>,
}

impl Results {
    pub fn new(circumstances: String) -> Self {
        Self { circumstances, sections: Vec::new() }
    }

    /// Writes what the part of this name has found.
    pub fn keep(&mut self, part: &str, section: Section) -> Outcome<()> {
        let alone = Self { circumstances: self.circumstances.clone(), sections: vec![section] };
        alone.write(part)?;
        self.sections.extend(alone.sections);
        Ok(())
    }

    pub fn markdown(&self) -> String {
        format!(
            "# Figures\n\n{}\n\n{}\nBehind them:\n\n{}",
            self.circumstances,
            figures_table(&self.sections),
            measurements_table(&self.sections)
        )
    }

    /// Says which files it has written, as they are called from the repository's root.
    pub fn write(&self, name: &str) -> Outcome<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let written = fs::write(folder.join(format!("{name}.md")), self.markdown()).and_then(|()| {
            fs::write(folder.join(format!("{name}.svg")), chart::draw(&self.circumstances, &self.sections))
        });
        written.doing(&format!("write {FOLDER}/{name}.md and .svg"))?;
        Ok(format!("{FOLDER}/{name}.md and {FOLDER}/{name}.svg"))
    }
}
