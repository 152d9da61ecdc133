//! Places: a lexer that follows the JSON of a template with tags.
//!
//! It cannot know which branch a row will take, so it keeps what holds in all of them: whether a
//! string is open, and which braces and brackets are. It also notes the outermost keys on its way.
#![forbid(unsafe_code)]

use super::markup::{malformed, position};
use crate::json::{self, Escape};
use crate::template::{self, Key, Mistake, Place, Position, Presence, Shape};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    Brace,
    Square,
}

/// What is known at one point of the template.
#[derive(Clone, Debug)]
pub struct State {
    open: Vec<Bracket>,
    string: Option<Open>,
    /// The outermost key whose value this is.
    key: Option<usize>,
    /// An outermost string that has just been closed: a key if a colon follows, else a value.
    closed: Option<Closed>,
    before: Before,
}

impl State {
    /// Whether the JSON goes on alike from both.
    pub fn is_like(&self, other: &State) -> bool {
        self.open == other.open && self.string.is_some() == other.string.is_some()
    }

    /// A state that stands for several alike.
    pub fn joined(mut self, others: &[State]) -> State {
        if others.iter().any(|other| other.key != self.key) {
            self.key = None;
        }
        self.before = Before::Unknown;
        self.closed = None;
        if let Some(string) = &mut self.string {
            string.content = Content::Decided;
        }
        self
    }
}

#[derive(Clone, Debug)]
struct Open {
    start: usize,
    content: Content,
}

/// What a string is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Text(String),
    Hole,
    Mixed,
    /// Tags decide.
    Decided,
}

#[derive(Clone, Debug)]
struct Closed {
    start: usize,
    content: Content,
}

/// What stands directly before, as far as that is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Value,
    Punctuation,
    Unknown,
}

/// Literal text, whitespace outside strings folded.
pub struct Literal {
    pub text: String,
    pub start: Start,
}

/// How a literal begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In a string, or with punctuation or whitespace.
    Apart,
    /// With a number or word, which must not follow another.
    Bare,
}

pub struct Places<'a> {
    source: &'a str,
    state: State,
    keys: Vec<Key>,
    /// The shapes of the keys' values, as far as seen.
    shapes: Vec<Option<Shape>>,
    /// How many branches and loops are open.
    branches: usize,
}

/// Nesting a person would never reach; JSON parsers refuse it.
const DEEPEST: usize = 100;

impl<'a> Places<'a> {
    pub fn new(source: &'a str) -> Places<'a> {
        let state =
            State { open: Vec::new(), string: None, key: None, closed: None, before: Before::Punctuation };
        Places { source, state, keys: Vec::new(), shapes: Vec::new(), branches: 0 }
    }

    pub fn state(&self) -> State {
        self.state.clone()
    }

    pub fn set_state(&mut self, state: State) {
        self.state = state;
    }

    pub fn enter_branch(&mut self) {
        self.branches += 1;
    }

    pub fn leave_branch(&mut self) {
        self.branches = self.branches.saturating_sub(1);
    }

    /// The keys found; to be asked at the end, which must not be inside anything.
    pub fn finish(mut self) -> Result<Vec<Key>, Mistake> {
        self.settle();
        let end = position(self.source, self.source.len());
        if self.state.string.is_some() {
            return Err(malformed(end, "a string is not closed", "add the closing double quote"));
        }
        match self.state.open.last() {
            Some(Bracket::Brace) => return Err(malformed(end, "an object is not closed", "add }")),
            Some(Bracket::Square) => return Err(malformed(end, "an array is not closed", "add ]")),
            None => {}
        }
        for (key, shape) in self.keys.iter_mut().zip(self.shapes) {
            key.value = shape.unwrap_or(Shape::Unknown);
        }
        Ok(self.keys)
    }

    fn at(&self, offset: usize) -> Position {
        position(self.source, offset)
    }

    fn is_outermost(&self) -> bool {
        self.state.open == [Bracket::Brace]
    }

    /// Notes a value of the shape under the current outermost key; a second one makes it unknown.
    fn note(&mut self, shape: Shape) {
        if !self.is_outermost() {
            return;
        }
        if let Some(seen) = self.state.key.and_then(|key| self.shapes.get_mut(key)) {
            *seen = Some(if seen.is_none() { shape } else { Shape::Unknown });
        }
    }

    /// A closed string that no colon follows was a value.
    fn settle(&mut self) {
        if let Some(closed) = self.state.closed.take() {
            self.note(match closed.content {
                Content::Text(text) => Shape::Text(text),
                Content::Hole => Shape::HoleText,
                Content::Mixed => Shape::MixedText,
                Content::Decided => Shape::Unknown,
            });
        }
    }

    /// A tag stands here that decides what follows.
    pub fn tag(&mut self) {
        self.settle();
        self.state.before = Before::Unknown;
        let is_outermost = self.is_outermost();
        if let Some(string) = &mut self.state.string {
            string.content = Content::Decided;
        } else if is_outermost
            && let Some(seen @ None) = self.state.key.and_then(|key| self.shapes.get_mut(key))
        {
            *seen = Some(Shape::Unknown);
        }
    }

    /// A hole stands here: its place, and the outermost key it belongs to.
    pub fn hole(&mut self, at: Position) -> Result<(Place, Option<usize>), Mistake> {
        self.settle();
        if let Some(string) = &mut self.state.string {
            string.content = match &string.content {
                Content::Text(text) if text.is_empty() => Content::Hole,
                Content::Decided => Content::Decided,
                _ => Content::Mixed,
            };
            return Ok((Place::InString, self.state.key));
        }
        self.value_begins(at)?;
        self.note(Shape::HoleValue);
        Ok((Place::Value, self.state.key))
    }

    fn value_begins(&mut self, at: Position) -> Result<(), Mistake> {
        if self.state.before == Before::Value {
            return Err(malformed(
                at,
                "a comma is missing between two values",
                "add it, or check the quotes",
            ));
        }
        self.state.before = Before::Value;
        Ok(())
    }

    /// Follows literal text that begins at a byte offset of the source.
    pub fn literal(&mut self, text: &str, offset: usize) -> Result<Literal, Mistake> {
        let mut folded = String::with_capacity(text.len());
        let mut start = Start::Apart;
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let length = if self.state.string.is_some() {
                self.in_string(rest, offset + at)?
            } else {
                let length = self.outside(rest, offset + at)?;
                if at == 0 && rest.starts_with(is_bare) {
                    start = Start::Bare;
                }
                length
            };
            let passed = rest.get(..length).unwrap_or_default();
            if passed.starts_with([' ', '\t', '\n', '\r']) && self.state.string.is_none() {
                folded.push(' ');
            } else {
                folded.push_str(passed);
            }
            at += length;
        }
        Ok(Literal { text: folded, start })
    }

    fn in_string(&mut self, rest: &str, offset: usize) -> Result<usize, Mistake> {
        let (length, ends) = match rest.chars().next() {
            Some('"') => (1, true),
            Some('\\') => (self.escape(rest, offset)?, false),
            Some(c) if (c as u32) < 0x20 => {
                return Err(malformed(
                    self.at(offset),
                    "a control character stands raw in a string",
                    "write a line break as \\n, a tab as \\t, or {%- -%} to drop what is beside a tag",
                ));
            }
            Some(c) => (c.len_utf8(), false),
            None => (0, false),
        };
        if ends {
            let string = self.state.string.take();
            self.state.before = Before::Value;
            if self.is_outermost() {
                self.state.closed = string.map(|open| Closed { start: open.start, content: open.content });
            }
        } else if let Some(string) = &mut self.state.string {
            match &mut string.content {
                Content::Text(text) => text.push_str(rest.get(..length).unwrap_or_default()),
                Content::Hole => string.content = Content::Mixed,
                Content::Mixed | Content::Decided => {}
            }
        }
        Ok(length)
    }

    fn escape(&self, rest: &str, offset: usize) -> Result<usize, Mistake> {
        let refuse = |what: &str, hint: &str| Err(malformed(self.at(offset), what, hint));
        match json::escape(rest) {
            Escape::Character(length) => Ok(length),
            Escape::Zero => refuse("\\u0000 cannot be stored by Lago", "remove it"),
            Escape::Half => refuse(template::HALF_A_CHARACTER, template::HALF_A_CHARACTER_HINT),
            Escape::Unknown if rest.len() == 1 => {
                refuse("a backslash stands directly before a hole or tag", "write \\\\ for a backslash")
            }
            Escape::Unknown => refuse("this is not an escape JSON knows", "write \\\\ for a backslash"),
        }
    }

    /// Passes whitespace, a punctuation mark, or a number or word.
    fn outside(&mut self, rest: &str, offset: usize) -> Result<usize, Mistake> {
        let at = || position(self.source, offset);
        let Some(c) = rest.chars().next() else { return Ok(0) };
        match c {
            ' ' | '\t' | '\n' | '\r' => {
                Ok(rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len())
            }
            '"' => {
                self.settle();
                let at = at();
                self.value_begins(at)?;
                self.state.string = Some(Open { start: offset, content: Content::Text(String::new()) });
                Ok(1)
            }
            '{' | '[' => {
                self.settle();
                let at = at();
                self.value_begins(at)?;
                if self.state.open.len() == DEEPEST {
                    return Err(malformed(at, "the template is nested too deeply", "flatten it"));
                }
                let (bracket, shape) =
                    if c == '{' { (Bracket::Brace, Shape::Object) } else { (Bracket::Square, Shape::Array) };
                self.note(shape);
                self.state.open.push(bracket);
                self.state.before = Before::Punctuation;
                Ok(1)
            }
            '}' | ']' => {
                self.settle();
                let bracket = if c == '}' { Bracket::Brace } else { Bracket::Square };
                if self.state.open.pop() != Some(bracket) {
                    return Err(malformed(
                        at(),
                        format!("this {c} closes nothing"),
                        "check the braces before it",
                    ));
                }
                if self.state.open.is_empty() {
                    self.state.key = None;
                }
                self.state.before = Before::Value;
                Ok(1)
            }
            ',' => {
                self.settle();
                if self.is_outermost() {
                    self.state.key = None;
                }
                self.state.before = Before::Punctuation;
                Ok(1)
            }
            ':' => {
                self.colon()?;
                self.state.before = Before::Punctuation;
                Ok(1)
            }
            c if is_bare(c) => self.bare(rest, offset),
            '\'' => Err(malformed(at(), "JSON strings stand in double quotes", "write \" instead of '")),
            _ => Err(malformed(
                at(),
                format!("\"{c}\" is no JSON outside a string"),
                "put text in double quotes, a column as {{ row.column }}",
            )),
        }
    }

    fn colon(&mut self) -> Result<(), Mistake> {
        let Some(closed) = self.state.closed.take().filter(|_| self.is_outermost()) else {
            return Ok(());
        };
        let at = self.at(closed.start);
        let Content::Text(name) = closed.content else {
            return Err(malformed(
                at,
                "an outermost key holds a {{ }}",
                "outermost keys are the fields Lago knows: write them out",
            ));
        };
        let presence = if self.branches == 0 { Presence::Always } else { Presence::Sometimes };
        let stands_twice = |key: &Key| {
            key.name == name && (key.presence == Presence::Always || presence == Presence::Always)
        };
        if self.keys.iter().any(stands_twice) {
            return Err(malformed(at, format!("the key \"{name}\" stands twice"), "keep one of them"));
        }
        self.state.key = Some(self.keys.len());
        self.keys.push(Key { name, at, value: Shape::Unknown, presence });
        self.shapes.push(None);
        Ok(())
    }

    fn bare(&mut self, rest: &str, offset: usize) -> Result<usize, Mistake> {
        self.settle();
        let at = position(self.source, offset);
        self.value_begins(at)?;
        let length = rest.find(|c: char| !is_bare(c)).unwrap_or(rest.len());
        let word = rest.get(..length).unwrap_or_default();
        if !matches!(word, "null" | "true" | "false")
            && serde_json::from_str::<serde_json::Number>(word).is_err()
        {
            return Err(if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
                malformed(
                    at,
                    "this is not a number JSON knows",
                    "write digits, without leading zeros or plus signs",
                )
            } else {
                malformed(
                    at,
                    "this word is not JSON",
                    "put text in double quotes, a column as {{ row.column }}",
                )
            });
        }
        self.note(if word == "null" { Shape::Null } else { Shape::Bare(word.to_owned()) });
        Ok(length)
    }
}

fn is_bare(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-' | '+' | '_')
}
