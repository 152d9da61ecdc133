//! Pages of documentation, tried out: their SQL runs, and shows what the page shows.
//!
//! The SQL blocks of a page run in order, each in a psql of its own, in one database with a real worker and a
//! fake Lago. A `text` block is the end of what psql says to the SQL block before it. Compared is the text
//! without what differs from run to run; [`normal`] says what that is.
//!
//! A page of several servers says above each block on which of them it is: `On the primary:`.

use std::io::Write as _;
use std::process::Stdio;

use crate::scene::Scene;
use crate::wait::{PATIENCE, wait_until};

/// What pages write where a reader has something of their own.
const URL: &str = "https://api.getlago.com/api/v1";
const API_KEY: &str = "YOUR-API-KEY";
const DATABASE: &str = "app";

/// A page and what it is called.
pub struct Page {
    pub name: String,
    pub text: String,
}

/// A fenced block of a page.
pub struct Block {
    pub language: String,
    pub text: String,
    /// Where it is to be run, if the line of text above it says so: `the primary` of `On the primary:`.
    pub place: Option<String>,
    /// Where it begins on the page, from 1.
    pub line: usize,
}

/// How much of a page was tried out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    pub run: usize,
    pub compared: usize,
    pub failed_on_purpose: usize,
}

impl Page {
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        let mut above = "";
        for (number, line) in self.text.lines().enumerate() {
            match line.strip_prefix("```") {
                Some(_) if open => {
                    open = false;
                    above = "";
                }
                Some(language) => {
                    open = true;
                    let place = above.strip_prefix("On ").and_then(|rest| rest.strip_suffix(':'));
                    blocks.push(Block {
                        language: language.into(),
                        text: String::new(),
                        place: place.map(str::to_owned),
                        line: number + 1,
                    });
                }
                None if open => {
                    if let Some(block) = blocks.last_mut() {
                        block.text.push_str(line);
                        block.text.push('\n');
                    }
                }
                None if line.trim().is_empty() => {}
                None => above = line,
            }
        }
        assert!(!open, "a block of {} is not closed", self.name);
        blocks
    }

    /// The page without its blocks.
    pub fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// Runs every SQL block and compares what psql says with the output the page shows. An error that the
    /// page does not show fails, and so does a shown one that does not come.
    pub fn try_out(&self, stage: &Stage<'_>, after_block: impl FnMut(&Block)) -> Tried {
        self.try_out_on(|_| Some(stage), after_block)
    }

    /// The same on several stages; a block of which none knows is not run.
    pub fn try_out_on<'a, 's: 'a>(
        &self,
        stage_of: impl Fn(&Block) -> Option<&'a Stage<'s>>,
        mut after_block: impl FnMut(&Block),
    ) -> Tried {
        let blocks = self.blocks();
        let mut tried = Tried::default();
        let mut wrong = Vec::new();
        for (number, block) in blocks.iter().enumerate() {
            let Some(stage) = Some(block).filter(|block| block.language == "sql").and_then(&stage_of) else {
                continue;
            };
            let shown = blocks.get(number + 1).filter(|next| next.language == "text");
            let said = stage.psql(&block.text);
            let error = said.contains("ERROR:");
            let place = format!("{} line {}", self.name, block.line);
            if error != shown.is_some_and(|next| next.text.contains("ERROR:")) {
                wrong.push(format!("{place}: {said}"));
            } else if let Some(shown) = shown {
                let (expected, said_normally) = (normal(&shown.text), normal(&said));
                if expected.is_empty() {
                    wrong.push(format!("{place}: the output is empty"));
                } else if !said_normally.ends_with(&expected) {
                    wrong.push(format!(
                        "{place}: psql says\n\n{said}\nwhich, normalized, is\n\n{said_normally}\n\nand does not end with\n\n{expected}\n"
                    ));
                }
                tried.compared += 1;
            }
            tried.run += 1;
            tried.failed_on_purpose += usize::from(error);
            stage.wait_for_the_worker_to_rest();
            after_block(block);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        tried
    }

    /// Fails on a block of a kind nothing is known to be done with, and on output that follows no SQL.
    pub fn check_blocks(&self, kinds: &[&str]) {
        let blocks = self.blocks();
        for (number, block) in blocks.iter().enumerate() {
            let (name, line) = (&self.name, block.line);
            let known = kinds.contains(&block.language.as_str());
            assert!(known, "{name} line {line}: a block of the kind {}", block.language);
            let follows_sql = number > 0 && blocks[number - 1].language == "sql";
            assert!(block.language != "text" || follows_sql, "{name} line {line}: output of nothing");
        }
    }

    /// The targets of all links but those to the web.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let targets = targets.map(|(target, _)| target.to_owned());
        targets.filter(|target| !target.starts_with("https://")).collect()
    }

    /// What links to headings of the page are called.
    pub fn anchors(&self) -> Vec<String> {
        let slug = |heading: &str| -> String {
            let kept = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        self.prose().lines().filter(|line| line.starts_with('#')).map(slug).collect()
    }
}

/// Where a page is tried out: a scene, and what there stands for the names on the page.
pub struct Stage<'a> {
    pub scene: &'a Scene,
    /// What is replaced before a block runs and put back into what psql says to it.
    stand_ins: Vec<(&'static str, String)>,
}

impl<'a> Stage<'a> {
    /// The URL and the key of the page lead to the scene's fake Lago.
    pub fn new(scene: &'a Scene) -> Self {
        Self::towards(scene, scene)
    }

    /// They lead to another scene's.
    pub fn towards(scene: &'a Scene, other: &Scene) -> Self {
        Self { scene, stand_ins: vec![(URL, other.lago.url()), (API_KEY, other.api_key())] }
    }

    /// With one more name of the page and what stands for it.
    #[must_use]
    pub fn with(mut self, written: &'static str, real: String) -> Self {
        self.stand_ins.push((written, real));
        self
    }

    /// What psql says to a block.
    fn psql(&self, sql: &str) -> String {
        let scene = self.scene;
        let sql =
            self.stand_ins.iter().fold(sql.to_owned(), |sql, (written, real)| sql.replace(written, real));
        let mut psql = scene.cluster.program("psql");
        psql.args(["-X", "-q", "-v", "SHOW_CONTEXT=never", "-f", "-", "-d", &scene.database]);
        let psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut psql = psql.unwrap_or_else(|e| panic!("psql does not run: {e}"));
        psql.stdin.take().expect("its input is a pipe").write_all(sql.as_bytes()).expect("psql reads");
        let out = psql.wait_with_output().expect("psql ends");
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        let said = self.stand_ins.iter().fold(said, |said, (written, real)| said.replace(real, written));
        let said = said.replace(&scene.database, DATABASE);
        let without_place =
            |line: &str| match line.strip_prefix("psql:<stdin>:").and_then(|rest| rest.split_once(": ")) {
                Some((_, rest)) => format!("{rest}\n"),
                None => format!("{line}\n"),
            };
        said.lines().map(without_place).collect()
    }

    /// Between two blocks a person reads; nothing the worker has to do takes that long, nor does a run somebody asked for.
    fn wait_for_the_worker_to_rest(&self) {
        let scene = self.scene;
        if scene.value::<bool>("select to_regclass('lago_push.run_request') is not null") {
            wait_until("no run is asked for or under way", PATIENCE, || {
                scene.value::<bool>(
                    "select not exists (select from lago_push.run_request)
                        and not exists (select from lago_push.run where state = 'running')",
                )
            });
        }
        if scene.value::<bool>("select to_regclass('lago_push.workers') is not null") {
            wait_until("the worker is at rest", PATIENCE, || {
                scene.value::<bool>(
                    "select not exists (select from lago_push.workers where state = 'working')",
                )
            });
        }
    }
}

/// Text as it is compared: points in time, lengths of time and Lago's ids have become words, the numbers that
/// depend on speed (`pid`, `requests`, `messages_per_second`) too, and runs of blanks and of dashes, whose
/// length follows from what was replaced, are one blank and one dash.
pub fn normal(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut kept = String::new();
        let mut rest = line.trim_end();
        while let Some(next) = rest.chars().next() {
            if let Some(after) = after(rest, "dddd-dd-dd dd:dd:dd").map(|rest| after_fraction(rest, "+00")) {
                kept.push_str("<time>");
                rest = after;
            } else if let Some(after) = after(rest, "dd:dd:dd").filter(|_| !kept.ends_with('T')) {
                kept.push_str("<duration>");
                rest = after_fraction(after, "");
            } else if let Some(after) = after(rest, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
                kept.push_str("<id>");
                rest = after;
            } else {
                if !matches!(next, ' ' | '-') || !kept.ends_with(next) {
                    kept.push(next);
                }
                rest = &rest[next.len_utf8()..];
            }
        }
        for name in ["pid", "requests", "messages_per_second"] {
            if kept.strip_prefix(name).is_some_and(|rest| rest.starts_with(" | ")) {
                kept = format!("{name} | <number>");
            }
        }
        out.push_str(kept.trim_end());
        out.push('\n');
    }
    out.trim().into()
}

/// What follows in `text` after something of the shape `pattern`, in which `d` is a decimal digit and `x` a
/// hexadecimal one.
fn after<'a>(text: &'a str, pattern: &str) -> Option<&'a str> {
    let fits = |(is, shape): (u8, u8)| match shape {
        b'd' => is.is_ascii_digit(),
        b'x' => is.is_ascii_hexdigit(),
        _ => is == shape,
    };
    let whole = text.len() >= pattern.len() && text.bytes().zip(pattern.bytes()).all(fits);
    whole.then(|| &text[pattern.len()..])
}

fn after_fraction<'a>(text: &'a str, zone: &str) -> &'a str {
    let text =
        text.strip_prefix('.').map_or(text, |digits| digits.trim_start_matches(|c: char| c.is_ascii_digit()));
    text.strip_prefix(zone).unwrap_or(text)
}
