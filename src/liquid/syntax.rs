//! Syntax: what stands between the delimiters, read into a tree.
//!
//! Paths, literals, filters, conditions. Every name is settled here: a column is noted as a
//! reference, a variable becomes a slot, an unknown name is a mistake with its place.
#![forbid(unsafe_code)]

use super::filter::{self, Filter};
use super::markup::{malformed, position, unsupported};
use super::number::Number;
use super::run::Rendering;
use super::value::Times;
use super::{Reason, Side};
use crate::template::{Mistake, Place, Position};

/// A hole that asks for more than a column as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    pub place: Place,
    /// The outermost key this hole belongs to, as an index into the template's keys.
    pub key: Option<usize>,
    pub at: Position,
    /// How a moment that reaches the hole unchanged is written.
    pub times: Times,
    pub chain: Chain,
}

impl Expression {
    /// Appends what belongs in the hole: escaped text inside a string, one JSON value elsewhere.
    pub fn render(&self, rendering: &Rendering<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
        super::run::write_hole(self, rendering, out)
    }

    /// The value as text, not escaped for anything.
    pub fn text(&self, rendering: &Rendering<'_>) -> Result<String, Reason> {
        super::run::hole_text(self, rendering)
    }
}

/// What a template asks of the row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    pub columns: Vec<Reference>,
    /// Where a side is used as a whole: then every visible column counts.
    pub whole: Vec<(Side, Position)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub side: Side,
    pub column: String,
    pub at: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub start: Operand,
    pub filters: Vec<Call>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub filter: Filter,
    pub arguments: Vec<Operand>,
    pub at: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    Nil,
    Bool(bool),
    Number(Number),
    Text(String),
    Empty,
    Blank,
    Range(Box<(Operand, Operand)>),
    Path(Root, Vec<Step>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    Side(Side),
    Column(Side, String),
    Operation,
    /// An assigned, captured or loop variable.
    Variable(usize),
    Loop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Name(String),
    Index(i64),
    Computed(Operand),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    True(Operand),
    Compare(Operand, Comparison, Operand),
    And(Box<(Condition, Condition)>),
    Or(Box<(Condition, Condition)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Unequal,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
    Contains,
}

/// The variables a piece of markup can see.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Assigned and captured names: one slot each, for the whole template.
    assigned: Vec<(String, usize)>,
    /// Variables of the loops around, innermost last.
    loops: Vec<(String, usize)>,
    slots: usize,
}

/// Names that always mean the same.
pub const RESERVED: &[&str] = &["row", "old", "op", "forloop"];

impl Scope {
    pub fn assign(&mut self, name: &str) -> usize {
        if let Some((_, slot)) = self.assigned.iter().find(|(known, _)| known == name) {
            return *slot;
        }
        let slot = self.new_slot();
        self.assigned.push((name.to_owned(), slot));
        slot
    }

    fn new_slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    pub fn enter_loop(&mut self, name: &str) -> usize {
        let slot = self.new_slot();
        self.loops.push((name.to_owned(), slot));
        slot
    }

    pub fn leave_loop(&mut self) {
        self.loops.pop();
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    pub fn is_in_loop(&self) -> bool {
        !self.loops.is_empty()
    }

    fn find(&self, name: &str) -> Option<usize> {
        let in_loop = self.loops.iter().rev().find(|(known, _)| known == name).map(|(_, slot)| *slot);
        in_loop.or_else(|| self.assigned.iter().find(|(known, _)| known == name).map(|(_, slot)| *slot))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    Number(Number),
    Text(&'a str),
    Symbol(&'static str),
}

const SYMBOLS: &[&str] =
    &["==", "!=", "<>", "<=", ">=", "..", "<", ">", "=", "|", ":", ",", ".", "[", "]", "(", ")"];

/// Nesting of brackets a person would never reach, but a stack could.
const DEEPEST: usize = 32;

/// Reads the inside of one hole or tag.
pub struct Reader<'a> {
    source: &'a str,
    /// Where the markup begins; mistakes are reported there.
    pub start: Position,
    tokens: Vec<(Token<'a>, usize)>,
    next: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// `inner` stands at the byte offset `inner_start` of `source`.
    pub fn new(
        source: &'a str,
        inner: &'a str,
        inner_start: usize,
        start: Position,
    ) -> Result<Reader<'a>, Mistake> {
        let tokens = tokens(inner, inner_start, start)?;
        Ok(Reader { source, start, tokens, next: 0, depth: 0 })
    }

    fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }

    fn advance(&mut self) -> Option<Token<'a>> {
        let token = self.peek().cloned();
        self.next += 1;
        token
    }

    fn here(&self) -> Position {
        match self.tokens.get(self.next).or(self.tokens.last()) {
            Some((_, offset)) => position(self.source, *offset),
            None => self.start,
        }
    }

    pub fn take_symbol(&mut self, symbol: &str) -> bool {
        let here = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        self.next += usize::from(here);
        here
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let here = matches!(self.peek(), Some(Token::Name(found)) if *found == word);
        self.next += usize::from(here);
        here
    }

    /// A name to assign to or loop with.
    pub fn new_name(&mut self, tag: &str) -> Result<&'a str, Mistake> {
        match self.advance() {
            Some(Token::Name(name)) if RESERVED.contains(&name) => Err(malformed(
                self.start,
                format!("\"{name}\" cannot be a variable: it has a meaning of its own"),
                "choose another name",
            )),
            Some(Token::Name(name)) => Ok(name),
            _ => Err(malformed(
                self.start,
                format!("{{% {tag} %}} needs a variable's name"),
                format!("write {{% {tag} {} %}}", if tag == "for" { "item in row.items" } else { "name" }),
            )),
        }
    }

    pub fn at_end(&self) -> bool {
        self.next >= self.tokens.len()
    }

    /// Makes sure that nothing is left of a tag.
    pub fn end(&self, tag: &str) -> Result<(), Mistake> {
        if self.at_end() {
            return Ok(());
        }
        Err(malformed(
            self.start,
            format!("{{% {tag} %}} holds more than belongs there"),
            "remove what follows",
        ))
    }

    /// An expression that is all there is.
    pub fn whole_chain(&mut self, scope: &Scope, references: &mut References) -> Result<Chain, Mistake> {
        if self.at_end() {
            return Err(malformed(self.start, "{{ }} is empty", "write {{ row.column }}"));
        }
        let chain = self.chain(scope, references)?;
        if let Chain { start: Operand::Path(Root::Side(_), steps), filters } = &chain
            && steps.is_empty()
            && filters.is_empty()
        {
            return Err(no_column(self.start));
        }
        match self.peek() {
            None => Ok(chain),
            Some(Token::Symbol("|")) => {
                Err(malformed(self.start, "a filter is missing after |", "remove the |"))
            }
            Some(Token::Symbol("==" | "!=" | "<>" | "<" | ">" | "<=" | ">=")) => Err(malformed(
                self.start,
                "{{ }} compares, which only a tag can",
                "write {% if row.a == row.b %}true{% else %}false{% endif %}",
            )),
            Some(Token::Symbol(symbol)) => Err(malformed(
                self.start,
                format!("{{{{ }}}} holds \"{symbol}\" where nothing is expected"),
                "remove it, or compute with filters: {{ row.a | times: row.b }}",
            )),
            Some(_) => Err(malformed(self.start, "{{ }} holds more than one name", "write {{ row.column }}")),
        }
    }

    pub fn chain(&mut self, scope: &Scope, references: &mut References) -> Result<Chain, Mistake> {
        let start = self.operand(scope, references)?;
        let mut filters = Vec::new();
        while self.take_symbol("|") {
            let at = self.here();
            let Some(Token::Name(name)) = self.advance() else {
                return Err(malformed(
                    self.start,
                    "a filter's name is missing after |",
                    "write | upcase, or remove the |",
                ));
            };
            let filter = filter::find(name).ok_or_else(|| {
                malformed(
                    self.start,
                    format!("there is no filter \"{name}\""),
                    filter::nearest(name).map_or_else(
                        || "the filters are those of Shopify's Liquid".to_owned(),
                        |nearest| format!("did you mean {nearest}?"),
                    ),
                )
            })?;
            let arguments = self.arguments(name, filter, scope, references)?;
            filters.push(Call { filter, arguments, at });
        }
        Ok(Chain { start, filters })
    }

    fn arguments(
        &mut self,
        name: &str,
        filter: Filter,
        scope: &Scope,
        references: &mut References,
    ) -> Result<Vec<Operand>, Mistake> {
        let mut arguments = Vec::new();
        if self.take_symbol(":") {
            loop {
                // `default: "x", allow_false: true` is the only named argument there is.
                if self.take_word("allow_false") {
                    let allowed = name == "default" && arguments.len() == 1 && self.take_symbol(":");
                    if !allowed {
                        return Err(malformed(
                            self.start,
                            format!("filter {name} has no argument \"allow_false\""),
                            "write default: \"x\", allow_false: true",
                        ));
                    }
                }
                arguments.push(self.operand(scope, references)?);
                if !self.take_symbol(",") {
                    break;
                }
            }
        }
        let (least, most) = filter::arity(filter);
        if (least..=most).contains(&arguments.len()) {
            return Ok(arguments);
        }
        let takes = match (least, most) {
            (0, 0) => "no argument".to_owned(),
            (1, 1) => "one argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        Err(malformed(
            self.start,
            format!("filter {name} takes {takes}, not {}", arguments.len()),
            if most == 0 {
                format!("write | {name}")
            } else {
                format!("write | {name}: {}", vec!["\u{2026}"; least.max(1)].join(", "))
            },
        ))
    }

    /// A literal, a range or a path.
    pub fn operand(&mut self, scope: &Scope, references: &mut References) -> Result<Operand, Mistake> {
        if self.depth == DEEPEST {
            return Err(malformed(self.start, "brackets are nested too deeply", "assign parts to variables"));
        }
        self.depth += 1;
        let operand = self.operand_inside(scope, references);
        self.depth -= 1;
        operand
    }

    fn operand_inside(&mut self, scope: &Scope, references: &mut References) -> Result<Operand, Mistake> {
        let at = self.here();
        match self.advance() {
            Some(Token::Number(number)) => Ok(Operand::Number(number)),
            Some(Token::Text(text)) => Ok(Operand::Text(text.to_owned())),
            Some(Token::Symbol("(")) => {
                let from = self.operand(scope, references)?;
                if !self.take_symbol("..") {
                    return Err(malformed(
                        self.start,
                        "parentheses hold a range and nothing else",
                        "write (1..5); conditions take no parentheses: nest {% if %} instead",
                    ));
                }
                let to = self.operand(scope, references)?;
                if !self.take_symbol(")") {
                    return Err(malformed(self.start, "a range is not closed", "write (1..5)"));
                }
                Ok(Operand::Range(Box::new((from, to))))
            }
            Some(Token::Name(name)) => {
                let followed = matches!(self.peek(), Some(Token::Symbol("." | "[")));
                match name {
                    "true" if !followed => Ok(Operand::Bool(true)),
                    "false" if !followed => Ok(Operand::Bool(false)),
                    "nil" | "null" if !followed => Ok(Operand::Nil),
                    "empty" if !followed => Ok(Operand::Empty),
                    "blank" if !followed => Ok(Operand::Blank),
                    _ => self.path(name, at, scope, references),
                }
            }
            _ => Err(malformed(
                self.start,
                "a value is missing",
                "write a column as row.column, text in quotes, or a number",
            )),
        }
    }

    fn path(
        &mut self,
        name: &str,
        at: Position,
        scope: &Scope,
        references: &mut References,
    ) -> Result<Operand, Mistake> {
        let root = match (name, scope.find(name)) {
            ("row", _) => Root::Side(Side::Row),
            ("old", _) => Root::Side(Side::Old),
            ("op", _) => Root::Operation,
            ("forloop", _) if scope.is_in_loop() => Root::Loop,
            ("forloop", _) => {
                return Err(malformed(
                    self.start,
                    "forloop stands outside a loop",
                    "use it inside {% for %}",
                ));
            }
            (_, Some(slot)) => Root::Variable(slot),
            (name, None) => {
                let hint = match name {
                    "or" | "and" => "a value is missing before it".to_owned(),
                    _ => format!("write row.{name} for the column, or \"{name}\" for the text"),
                };
                return Err(malformed(self.start, format!("\"{name}\" names neither row, old nor op"), hint));
            }
        };
        let mut steps = Vec::new();
        loop {
            if self.take_symbol(".") {
                match self.advance() {
                    Some(Token::Name(name)) => steps.push(Step::Name(name.to_owned())),
                    _ if matches!(root, Root::Side(_)) && steps.is_empty() => {
                        return Err(no_column(self.start));
                    }
                    _ => {
                        return Err(malformed(
                            self.start,
                            "a name is missing after a point",
                            "write row.column.key",
                        ));
                    }
                }
            } else if self.take_symbol("[") {
                let step = match self.operand(scope, references)? {
                    Operand::Text(name) => Step::Name(name),
                    Operand::Number(Number::Integer(index)) => Step::Index(index),
                    other => Step::Computed(other),
                };
                steps.push(step);
                if !self.take_symbol("]") {
                    return Err(malformed(self.start, "a [ is not closed", "add ]"));
                }
            } else {
                break;
            }
        }
        let Root::Side(side) = root else {
            return Ok(Operand::Path(root, steps));
        };
        if matches!(steps.first(), Some(Step::Name(_))) {
            let Step::Name(column) = steps.remove(0) else {
                return Err(no_column(self.start));
            };
            references.columns.push(Reference { side, column: column.clone(), at });
            return Ok(Operand::Path(Root::Column(side, column), steps));
        }
        references.whole.push((side, at));
        Ok(Operand::Path(root, steps))
    }

    /// A condition: comparisons joined by `and` and `or`, read from the right as Liquid does.
    pub fn condition(&mut self, scope: &Scope, references: &mut References) -> Result<Condition, Mistake> {
        let mut parts = vec![self.comparison(scope, references)?];
        let mut joints = Vec::new();
        loop {
            if self.take_word("and") {
                joints.push(Joint::And);
            } else if self.take_word("or") {
                joints.push(Joint::Or);
            } else {
                break;
            }
            parts.push(self.comparison(scope, references)?);
            if parts.len() > DEEPEST {
                return Err(malformed(
                    self.start,
                    "a condition has too many parts",
                    "nest {% if %}, or use {% case %}",
                ));
            }
        }
        if matches!(self.peek(), Some(Token::Symbol("|"))) {
            return Err(unsupported(
                self.start,
                "a condition takes no filters",
                "assign first: {% assign x = row.column | filter %}{% if x %}",
            ));
        }
        if matches!(self.peek(), Some(Token::Symbol("="))) {
            return Err(malformed(self.start, "a condition compares with ==", "write == instead of ="));
        }
        let mut condition =
            parts.pop().ok_or_else(|| malformed(self.start, "a condition is missing", "add one"))?;
        while let (Some(part), Some(joint)) = (parts.pop(), joints.pop()) {
            let both = Box::new((part, condition));
            condition = match joint {
                Joint::And => Condition::And(both),
                Joint::Or => Condition::Or(both),
            };
        }
        Ok(condition)
    }

    fn comparison(&mut self, scope: &Scope, references: &mut References) -> Result<Condition, Mistake> {
        let left = self.operand(scope, references)?;
        let comparison = match self.peek() {
            Some(Token::Symbol("==")) => Comparison::Equal,
            Some(Token::Symbol("!=" | "<>")) => Comparison::Unequal,
            Some(Token::Symbol("<")) => Comparison::Less,
            Some(Token::Symbol(">")) => Comparison::Greater,
            Some(Token::Symbol("<=")) => Comparison::LessOrEqual,
            Some(Token::Symbol(">=")) => Comparison::GreaterOrEqual,
            Some(Token::Name("contains")) => Comparison::Contains,
            _ => return Ok(Condition::True(left)),
        };
        self.next += 1;
        Ok(Condition::Compare(left, comparison, self.operand(scope, references)?))
    }
}

enum Joint {
    And,
    Or,
}

fn no_column(at: Position) -> Mistake {
    malformed(
        at,
        "{{ }} names no column",
        "write {{ row.column }}, or {{ row[\"Column Name\"] }} for a name with other characters",
    )
}

fn tokens<'a>(
    inner: &'a str,
    inner_start: usize,
    start: Position,
) -> Result<Vec<(Token<'a>, usize)>, Mistake> {
    let mut tokens: Vec<(Token<'a>, usize)> = Vec::new();
    let mut at = 0;
    while let Some(rest) = inner.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(c) = rest.chars().next() else { break };
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let after_point = matches!(tokens.last(), Some((Token::Symbol("."), _)));
        let (token, length) = if c == '"' || c == '\'' {
            let content = rest.get(1..).unwrap_or_default();
            let Some(length) = content.find(c) else {
                return Err(malformed(start, "a quote is not closed", format!("add {c}")));
            };
            (Token::Text(content.get(..length).unwrap_or_default()), length + 2)
        } else if c.is_alphabetic() || c == '_' || (after_point && c.is_alphanumeric()) {
            let length =
                rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(rest.len());
            (Token::Name(rest.get(..length).unwrap_or_default()), length)
        } else if c.is_ascii_digit()
            || (matches!(c, '-' | '+') && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit))
        {
            let length = number_length(rest);
            match Number::parse(rest.get(..length).unwrap_or_default()) {
                Some(Ok(number)) => (Token::Number(number), length),
                _ => return Err(malformed(start, "a number is too large", "write a shorter one")),
            }
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (Token::Symbol(symbol), symbol.len())
        } else if c == '\\' {
            return Err(malformed(
                start,
                "a backslash stands in {{ }} or {% %}, where nothing is escaped",
                "write 'text' or \"text\" without backslashes, even inside a JSON string",
            ));
        } else {
            return Err(malformed(
                start,
                format!("\"{c}\" has no meaning in {{{{ }}}} or {{% %}}"),
                "remove it; a column with such a name is row[\"Column Name\"]",
            ));
        };
        tokens.push((token, inner_start + at));
        at += length;
    }
    Ok(tokens)
}

/// Digits with at most one point; two points are a range.
fn number_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let digits = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let whole = 1 + digits(1);
    match bytes.get(whole) {
        Some(b'.') if digits(whole + 1) > 0 => whole + 1 + digits(whole + 1),
        _ => whole,
    }
}
