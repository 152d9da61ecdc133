//! Programs: a template that has tags, put together.
//!
//! The text is read once from front to back. [`Places`] follows the JSON along, so that every hole
//! knows whether it stands in a string, and a branch or loop that would leave the JSON differently
//! from how others do is a mistake before the first row.
#![forbid(unsafe_code)]

use super::markup::{self, Kind, Markup, Whitespace, malformed, position, unsupported};
use super::places::{Places, Start, State};
use super::run::Rendering;
use super::syntax::{Chain, Condition, Operand, Reader, References, Scope};
use super::value::Times;
use super::{Reason, run};
use crate::template::{Key, Mistake, Place, Position};

pub const NO_JSON: &str = "the template's branches made no valid JSON for this row";

/// A compiled template that has tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    nodes: Vec<Node>,
    slots: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Literal(String),
    /// A literal that begins within a number or word.
    Glued(String),
    Hole {
        chain: Chain,
        target: Target,
        /// The outermost key it belongs to.
        key: Option<usize>,
        times: Times,
        at: Position,
    },
    If {
        branches: Vec<(Condition, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    Unless {
        condition: Condition,
        body: Vec<Node>,
        branches: Vec<(Condition, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    Case {
        subject: Operand,
        branches: Vec<(Vec<Operand>, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    For(Box<For>),
    Assign {
        slot: usize,
        chain: Chain,
    },
    Capture {
        slot: usize,
        body: Vec<Node>,
    },
    Break,
    Continue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct For {
    pub slot: usize,
    pub items: Operand,
    pub limit: Option<Operand>,
    pub offset: Option<Operand>,
    pub order: Order,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
    pub at: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forward,
    Reversed,
}

/// Where a hole's value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Json(Place),
    /// Into a variable, as raw text; it is escaped when it is written.
    Capture,
}

impl Program {
    /// Appends the payload.
    pub fn render(&self, rendering: &Rendering<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
        // A buffer of its own: sizes and what stands before a value are the program's alone.
        let mut made = Vec::new();
        run::run(&self.nodes, self.slots, rendering, &mut made)?;
        if serde_json::from_slice::<serde::de::IgnoredAny>(&made).is_err() {
            return Err(NO_JSON.into());
        }
        push_compact(&made, out);
        Ok(())
    }

    /// Has moments under an outermost key written as Unix seconds.
    pub(crate) fn write_times_as_seconds(&mut self, is_meant: &dyn Fn(usize) -> bool) {
        for_each_hole(&mut self.nodes, &mut |key, times| {
            if key.is_some_and(is_meant) {
                *times = Times::UnixSeconds;
            }
        });
    }
}

fn for_each_hole(nodes: &mut [Node], visit: &mut dyn FnMut(Option<usize>, &mut Times)) {
    for node in nodes {
        match node {
            Node::Hole { key, times, .. } => visit(*key, times),
            Node::If { branches, otherwise } => {
                branches.iter_mut().for_each(|(_, body)| for_each_hole(body, visit));
                for_each_hole(otherwise, visit);
            }
            Node::Unless { body, branches, otherwise, .. } => {
                for_each_hole(body, visit);
                branches.iter_mut().for_each(|(_, body)| for_each_hole(body, visit));
                for_each_hole(otherwise, visit);
            }
            Node::Case { branches, otherwise, .. } => {
                branches.iter_mut().for_each(|(_, body)| for_each_hole(body, visit));
                for_each_hole(otherwise, visit);
            }
            Node::For(each) => {
                for_each_hole(&mut each.body, visit);
                for_each_hole(&mut each.otherwise, visit);
            }
            // What is captured is text before it meets a key.
            Node::Capture { .. } | Node::Literal(_) | Node::Glued(_) | Node::Assign { .. } => {}
            Node::Break | Node::Continue => {}
        }
    }
}

/// Appends valid JSON without the whitespace between its tokens.
fn push_compact(json: &[u8], out: &mut Vec<u8>) {
    let (mut in_string, mut escaped) = (false, false);
    out.extend(json.iter().filter(|&&byte| {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            return true;
        }
        in_string = byte == b'"';
        !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
    }));
}

/// Compiles a template that has tags.
pub fn compile(text: &str) -> Result<(Program, Vec<Key>, References), Mistake> {
    let mut builder = Builder {
        text,
        at: 0,
        left: Whitespace::Keep,
        places: Places::new(text),
        scope: assigned(text),
        references: References::default(),
        loops: Vec::new(),
        capturing: false,
        depth: 0,
    };
    let (nodes, _) = builder.block(&Enclosing::TEMPLATE)?;
    let keys = builder.places.finish()?;
    Ok((Program { nodes, slots: builder.scope.slots() }, keys, builder.references))
}

/// Whether the template has a tag outside its holes.
pub fn has_tags(text: &str) -> bool {
    let mut at = 0;
    while let Some((start, kind)) = markup::next(text, at) {
        match (kind, markup::read(text, start, "}}")) {
            (Kind::Tag, _) => return true,
            (Kind::Hole, Ok(hole)) => at = hole.end,
            (Kind::Hole, Err(_)) => return false,
        }
    }
    false
}

/// All names that are assigned anywhere: a loop may use in its second round what its first assigned.
fn assigned(text: &str) -> Scope {
    let mut scope = Scope::default();
    for inner in text.split("{%").skip(1) {
        let inner = inner.strip_prefix('-').unwrap_or(inner);
        let mut words = inner.split(|c: char| c.is_whitespace() || c == '=').filter(|word| !word.is_empty());
        if let (Some("assign" | "capture"), Some(name)) = (words.next(), words.next()) {
            scope.assign(name.trim_end_matches("%}"));
        }
    }
    scope
}

/// Nesting of tags a person would never reach, but a stack could.
const DEEPEST: usize = 32;

struct Builder<'a> {
    text: &'a str,
    at: usize,
    /// What the markup just passed does to the whitespace behind it.
    left: Whitespace,
    places: Places<'a>,
    scope: Scope,
    references: References,
    /// The states in which the bodies of the loops around began.
    loops: Vec<State>,
    capturing: bool,
    depth: usize,
}

/// The tag a block belongs to, and the tags that end it.
struct Enclosing {
    opener: &'static str,
    at: Position,
    stops: &'static [&'static str],
}

impl Enclosing {
    const TEMPLATE: Enclosing = Enclosing { opener: "", at: Position { line: 1, column: 1 }, stops: &[] };
}

struct Tag<'a> {
    name: &'a str,
    rest: &'a str,
    rest_start: usize,
    markup: Markup<'a>,
    at: Position,
}

/// The branches after `elsif`, and the one after `else`.
type Branches = (Vec<(Condition, Vec<Node>)>, Vec<Node>);

impl<'a> Builder<'a> {
    /// Reads up to a tag that ends the block, or to the end of the template.
    fn block(&mut self, enclosing: &Enclosing) -> Result<(Vec<Node>, Option<Tag<'a>>), Mistake> {
        if self.depth == DEEPEST {
            return Err(malformed(enclosing.at, "tags are nested too deeply", "flatten them"));
        }
        self.depth += 1;
        let result = self.block_inside(enclosing);
        self.depth -= 1;
        result
    }

    fn block_inside(&mut self, enclosing: &Enclosing) -> Result<(Vec<Node>, Option<Tag<'a>>), Mistake> {
        let mut nodes = Vec::new();
        while let Some((start, kind)) = markup::next(self.text, self.at) {
            if kind == Kind::Hole {
                let hole = markup::read(self.text, start, "}}")?;
                self.literal(start, hole.before, &mut nodes)?;
                self.pass(&hole);
                nodes.push(self.hole(&hole)?);
                continue;
            }
            let tag = self.read_tag(start)?;
            self.literal(start, tag.markup.before, &mut nodes)?;
            self.pass(&tag.markup);
            if enclosing.stops.contains(&tag.name) {
                return Ok((nodes, Some(tag)));
            }
            self.tag(&tag, enclosing, &mut nodes)?;
        }
        if !enclosing.opener.is_empty() {
            return Err(malformed(
                enclosing.at,
                format!("{{% {} %}} is not closed", enclosing.opener),
                format!("add {{% end{} %}}", enclosing.opener),
            ));
        }
        self.literal(self.text.len(), Whitespace::Keep, &mut nodes)?;
        Ok((nodes, None))
    }

    fn pass(&mut self, markup: &Markup<'a>) {
        self.at = markup.end;
        self.left = markup.after;
    }

    fn read_tag(&self, start: usize) -> Result<Tag<'a>, Mistake> {
        let at = position(self.text, start);
        let mut markup = markup::read(self.text, start, "%}")?;
        if markup.inner.trim_start().starts_with('#') {
            // A comment may hold an apostrophe, which is no quote.
            let rest = self.text.get(markup.inner_start..).unwrap_or_default();
            let length = rest.find("%}").unwrap_or(rest.len());
            markup.after = if rest.get(..length).is_some_and(|inner| inner.ends_with('-')) {
                Whitespace::Eat
            } else {
                Whitespace::Keep
            };
            markup.inner = "#";
            markup.end = (markup.inner_start + length + 2).min(self.text.len());
            return Ok(Tag { name: "#", rest: "", rest_start: start, markup, at });
        }
        let inner = markup.inner.trim_start();
        let name_start = markup.inner_start + (markup.inner.len() - inner.len());
        let length = inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len());
        let (name, rest) = inner.split_at_checked(length).unwrap_or((inner, ""));
        Ok(Tag { name, rest, rest_start: name_start + length, markup, at })
    }

    /// Takes the literal text from here to `to`.
    fn literal(&mut self, to: usize, right: Whitespace, nodes: &mut Vec<Node>) -> Result<(), Mistake> {
        let mut text = self.text.get(self.at..to).unwrap_or_default();
        let mut from = self.at;
        if self.left == Whitespace::Eat {
            let trimmed = text.trim_start();
            from += text.len() - trimmed.len();
            text = trimmed;
        }
        if right == Whitespace::Eat {
            text = text.trim_end();
        }
        self.left = Whitespace::Keep;
        if text.is_empty() {
            return Ok(());
        }
        if self.capturing {
            nodes.push(Node::Literal(text.to_owned()));
            return Ok(());
        }
        let literal = self.places.literal(text, from)?;
        nodes.push(match literal.start {
            Start::Apart => Node::Literal(literal.text),
            Start::Bare => Node::Glued(literal.text),
        });
        Ok(())
    }

    fn reader(&self, tag: &Tag<'a>) -> Result<Reader<'a>, Mistake> {
        Reader::new(self.text, tag.rest, tag.rest_start, tag.at)
    }

    fn hole(&mut self, hole: &Markup<'a>) -> Result<Node, Mistake> {
        let at = position(self.text, hole.start);
        let mut reader = Reader::new(self.text, hole.inner, hole.inner_start, at)?;
        let chain = reader.whole_chain(&self.scope, &mut self.references)?;
        let (target, key) = if self.capturing {
            (Target::Capture, None)
        } else {
            let (place, key) = self.places.hole(at)?;
            (Target::Json(place), key)
        };
        Ok(Node::Hole { chain, target, key, times: Times::Iso, at })
    }

    fn tag(&mut self, tag: &Tag<'a>, enclosing: &Enclosing, nodes: &mut Vec<Node>) -> Result<(), Mistake> {
        match tag.name {
            "if" => nodes.push(self.if_tag(tag)?),
            "unless" => nodes.push(self.unless_tag(tag)?),
            "case" => nodes.push(self.case_tag(tag)?),
            "for" => nodes.push(self.for_tag(tag)?),
            "assign" => nodes.push(self.assign_tag(tag)?),
            "capture" => nodes.push(self.capture_tag(tag)?),
            "break" | "continue" => nodes.push(self.interrupt_tag(tag)?),
            "raw" => self.raw_tag(tag, nodes)?,
            "comment" => self.comment_tag(tag)?,
            "#" => {}
            "" => return Err(malformed(tag.at, "{% %} is empty", "write {% if row.column %}, or remove it")),
            name => return Err(self.refused(tag, name, enclosing)),
        }
        Ok(())
    }

    fn refused(&self, tag: &Tag<'a>, name: &str, enclosing: &Enclosing) -> Mistake {
        let is_part = matches!(name, "elsif" | "else" | "when") || name.starts_with("end");
        if is_part && enclosing.opener.is_empty() {
            return malformed(
                tag.at,
                format!("{{% {name} %}} belongs to no tag before it"),
                "remove it, or add what it ends",
            );
        }
        if is_part {
            return malformed(
                tag.at,
                format!("{{% {name} %}} does not belong to {{% {} %}} at {}", enclosing.opener, enclosing.at),
                format!("close that one first with {{% end{} %}}", enclosing.opener),
            );
        }
        match name {
            "elseif" | "elif" => {
                malformed(tag.at, format!("there is no tag {{% {name} %}}"), "write {% elsif %}")
            }
            _ => unsupported(
                tag.at,
                format!("the tag {{% {name} %}} is not supported"),
                "there are if, unless, case, for, break, continue, assign, capture, comment and raw",
            ),
        }
    }

    /// Reads one branch from a state, and gives its nodes, the state it ends in, and the tag after it.
    fn branch(
        &mut self,
        from: &State,
        enclosing: &Enclosing,
    ) -> Result<(Vec<Node>, State, Tag<'a>), Mistake> {
        self.places.set_state(from.clone());
        self.places.enter_branch();
        let (nodes, stop) = self.block(enclosing)?;
        self.places.leave_branch();
        let tag = stop.ok_or_else(|| malformed(enclosing.at, "a tag is not closed", "close it"))?;
        self.places.tag();
        Ok((nodes, self.places.state(), tag))
    }

    /// Goes on after branches that end in these states.
    fn join(&mut self, ends: Vec<State>, tag: &Tag<'a>) -> Result<(), Mistake> {
        let Some((first, others)) = ends.split_first() else { return Ok(()) };
        if !others.iter().all(|other| other.is_like(first)) {
            return Err(malformed(
                tag.at,
                format!("the branches of {{% {} %}} leave the JSON in different places", tag.name),
                "open and close quotes, braces and brackets within the same branch; without else the branch may also be skipped",
            ));
        }
        self.places.set_state(first.clone().joined(others));
        Ok(())
    }

    fn begin(&mut self) -> State {
        self.places.tag();
        self.places.state()
    }

    fn condition(&mut self, tag: &Tag<'a>) -> Result<Condition, Mistake> {
        let mut reader = self.reader(tag)?;
        if reader.at_end() {
            return Err(malformed(
                tag.at,
                format!("{{% {} %}} has no condition", tag.name),
                format!("write {{% {} row.column %}}", tag.name),
            ));
        }
        let condition = reader.condition(&self.scope, &mut self.references)?;
        reader.end(tag.name)?;
        Ok(condition)
    }

    /// Reads the branches after a first one, up to the closing tag.
    fn more_branches(
        &mut self,
        from: &State,
        mut next: Tag<'a>,
        ends: &mut Vec<State>,
        rest: &Enclosing,
        closing: &'static [&'static str],
    ) -> Result<Branches, Mistake> {
        let mut branches = Vec::new();
        while next.name == "elsif" {
            let condition = self.condition(&next)?;
            let (body, end, after) = self.branch(from, rest)?;
            branches.push((condition, body));
            ends.push(end);
            next = after;
        }
        let otherwise = self.otherwise(from, next, ends, rest, closing)?;
        Ok((branches, otherwise))
    }

    /// Reads the branch after `else`, if that is what comes; the state without it is an end too.
    fn otherwise(
        &mut self,
        from: &State,
        next: Tag<'a>,
        ends: &mut Vec<State>,
        enclosing: &Enclosing,
        closing: &'static [&'static str],
    ) -> Result<Vec<Node>, Mistake> {
        self.reader(&next)?.end(next.name)?;
        if next.name != "else" {
            ends.push(from.clone());
            return Ok(Vec::new());
        }
        let last = Enclosing { opener: enclosing.opener, at: enclosing.at, stops: closing };
        let (body, end, closer) = self.branch(from, &last)?;
        self.reader(&closer)?.end(closer.name)?;
        ends.push(end);
        Ok(body)
    }

    fn if_tag(&mut self, tag: &Tag<'a>) -> Result<Node, Mistake> {
        let enclosing = Enclosing { opener: "if", at: tag.at, stops: &["elsif", "else", "endif"] };
        let condition = self.condition(tag)?;
        let from = self.begin();
        let (body, end, next) = self.branch(&from, &enclosing)?;
        let mut ends = vec![end];
        let (more, otherwise) = self.more_branches(&from, next, &mut ends, &enclosing, &["endif"])?;
        self.join(ends, tag)?;
        let mut branches = vec![(condition, body)];
        branches.extend(more);
        Ok(Node::If { branches, otherwise })
    }

    fn unless_tag(&mut self, tag: &Tag<'a>) -> Result<Node, Mistake> {
        let enclosing = Enclosing { opener: "unless", at: tag.at, stops: &["elsif", "else", "endunless"] };
        let condition = self.condition(tag)?;
        let from = self.begin();
        let (body, end, next) = self.branch(&from, &enclosing)?;
        let mut ends = vec![end];
        let (branches, otherwise) = self.more_branches(&from, next, &mut ends, &enclosing, &["endunless"])?;
        self.join(ends, tag)?;
        Ok(Node::Unless { condition, body, branches, otherwise })
    }

    fn case_tag(&mut self, tag: &Tag<'a>) -> Result<Node, Mistake> {
        let enclosing = Enclosing { opener: "case", at: tag.at, stops: &["when", "else", "endcase"] };
        let mut reader = self.reader(tag)?;
        let subject = reader.operand(&self.scope, &mut self.references)?;
        reader.end("case")?;
        let from = self.begin();
        let (before, _, mut next) = self.branch(&from, &enclosing)?;
        let is_nothing = |node: &Node| matches!(node, Node::Literal(text) if text.trim().is_empty());
        if !before.iter().all(is_nothing) {
            return Err(malformed(
                tag.at,
                "something stands between {% case %} and the first {% when %}",
                "move it before {% case %}",
            ));
        }
        let (mut branches, mut ends) = (Vec::new(), Vec::new());
        while next.name == "when" {
            let candidates = self.candidates(&next)?;
            let (body, end, after) = self.branch(&from, &enclosing)?;
            branches.push((candidates, body));
            ends.push(end);
            next = after;
        }
        let otherwise = self.otherwise(&from, next, &mut ends, &enclosing, &["endcase"])?;
        self.join(ends, tag)?;
        Ok(Node::Case { subject, branches, otherwise })
    }

    fn candidates(&mut self, tag: &Tag<'a>) -> Result<Vec<Operand>, Mistake> {
        let mut reader = self.reader(tag)?;
        let mut candidates = vec![reader.operand(&self.scope, &mut self.references)?];
        while reader.take_symbol(",") || reader.take_word("or") {
            candidates.push(reader.operand(&self.scope, &mut self.references)?);
        }
        reader.end("when")?;
        Ok(candidates)
    }

    fn for_tag(&mut self, tag: &Tag<'a>) -> Result<Node, Mistake> {
        let mut reader = self.reader(tag)?;
        let name = reader.new_name("for")?;
        if !reader.take_word("in") {
            return Err(malformed(tag.at, "{% for %} has no in", "write {% for item in row.items %}"));
        }
        let items = reader.operand(&self.scope, &mut self.references)?;
        let (mut limit, mut offset, mut order) = (None, None, Order::Forward);
        while !reader.at_end() {
            if reader.take_word("reversed") {
                order = Order::Reversed;
            } else if reader.take_word("limit") && reader.take_symbol(":") {
                limit = Some(reader.operand(&self.scope, &mut self.references)?);
            } else if reader.take_word("offset") && reader.take_symbol(":") {
                if reader.take_word("continue") {
                    return Err(unsupported(tag.at, "offset: continue is not supported", "write a number"));
                }
                offset = Some(reader.operand(&self.scope, &mut self.references)?);
            } else if !reader.take_symbol(",") {
                return Err(malformed(
                    tag.at,
                    "{% for %} holds more than belongs there",
                    "write {% for item in row.items reversed limit: 5 offset: 1 %}",
                ));
            }
        }
        let enclosing = Enclosing { opener: "for", at: tag.at, stops: &["else", "endfor"] };
        let from = self.begin();
        let slot = self.scope.enter_loop(name);
        self.loops.push(from.clone());
        let (body, end, next) = self.branch(&from, &enclosing)?;
        self.loops.pop();
        self.scope.leave_loop();
        if !end.is_like(&from) {
            return Err(malformed(
                tag.at,
                "the body of {% for %} ends elsewhere in the JSON than it begins",
                "open and close quotes, braces and brackets within the body",
            ));
        }
        let mut ends = vec![end];
        let otherwise = self.otherwise(&from, next, &mut ends, &enclosing, &["endfor"])?;
        self.join(ends, tag)?;
        Ok(Node::For(Box::new(For { slot, items, limit, offset, order, body, otherwise, at: tag.at })))
    }

    fn interrupt_tag(&mut self, tag: &Tag<'a>) -> Result<Node, Mistake> {
        self.reader(tag)?.end(tag.name)?;
        let Some(begun) = self.loops.last() else {
            return Err(malformed(
                tag.at,
                format!("{{% {} %}} stands outside a loop", tag.name),
                "use it inside {% for %}",
            ));
        };
        if !self.places.state().is_like(begun) {
            return Err(malformed(
                tag.at,
                format!("{{% {} %}} stands elsewhere in the JSON than its loop begins", tag.name),
                "close quotes, braces and brackets before it",
            ));
        }
        Ok(if tag.name == "break" { Node::Break } else { Node::Continue })
    }

    fn assign_tag(&mut self, tag: &Tag<'a>) -> Result<Node, Mistake> {
        let mut reader = self.reader(tag)?;
        let name = reader.new_name("assign")?;
        if !reader.take_symbol("=") {
            return Err(malformed(tag.at, "{% assign %} has no =", "write {% assign name = row.column %}"));
        }
        let chain = reader.chain(&self.scope, &mut self.references)?;
        reader.end("assign")?;
        Ok(Node::Assign { slot: self.scope.assign(name), chain })
    }

    fn capture_tag(&mut self, tag: &Tag<'a>) -> Result<Node, Mistake> {
        let mut reader = self.reader(tag)?;
        let slot = self.scope.assign(reader.new_name("capture")?);
        reader.end("capture")?;
        let enclosing = Enclosing { opener: "capture", at: tag.at, stops: &["endcapture"] };
        let around = std::mem::replace(&mut self.capturing, true);
        // What is captured is no JSON yet: the state around stays as it is.
        let state = self.places.state();
        let (body, _) = self.block(&enclosing)?;
        self.places.set_state(state);
        self.capturing = around;
        Ok(Node::Capture { slot, body })
    }

    fn raw_tag(&mut self, tag: &Tag<'a>, nodes: &mut Vec<Node>) -> Result<(), Mistake> {
        let mut from = self.at;
        while let Some(end) = self.plain_tag(from) {
            if end.inner.trim() == "endraw" {
                self.literal(end.start, end.before, nodes)?;
                self.pass(&end);
                return Ok(());
            }
            from = end.start + 2;
        }
        Err(malformed(tag.at, "{% raw %} is not closed", "add {% endraw %}"))
    }

    fn comment_tag(&mut self, tag: &Tag<'a>) -> Result<(), Mistake> {
        let (mut from, mut open) = (self.at, 1);
        while let Some(found) = self.plain_tag(from) {
            match found.inner.trim() {
                "comment" => open += 1,
                "endcomment" => open -= 1,
                _ => {}
            }
            if open == 0 {
                self.pass(&found);
                return Ok(());
            }
            from = found.start + 2;
        }
        Err(malformed(tag.at, "{% comment %} is not closed", "add {% endcomment %}"))
    }

    /// The next `{% %}` in text that is not to be understood.
    fn plain_tag(&self, from: usize) -> Option<Markup<'a>> {
        let start = from + self.text.get(from..)?.find("{%")?;
        let rest = self.text.get(start + 2..)?;
        let length = rest.find("%}")?;
        let inner = rest.get(..length)?;
        let before = if inner.starts_with('-') { Whitespace::Eat } else { Whitespace::Keep };
        let after = if inner.ends_with('-') { Whitespace::Eat } else { Whitespace::Keep };
        let end = start + 2 + length + 2;
        Some(Markup { start, inner: inner.trim_matches('-'), inner_start: start + 2, end, before, after })
    }
}
