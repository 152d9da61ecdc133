//! Recipe: everything that turns one row into one message, bound to one relation.
//!
//! Between capture and outbox. A recipe is a template or a mapper, a path if the row decides it, what
//! the messages are put in order by, and the call whose demands the payload has to meet. Promises the outbox a payload that is valid JSON
//! (or empty, for a call without a body), and the operator a reason that names columns and keys,
//! never what they hold.

use crate::buffer::Operation;
use crate::call::{Call, Method};
use crate::defaults::{Defaults, Origin, PrimaryKey};
use crate::endpoint::{self, Nature, Supplied};
use crate::liquid::{self, Side};
use crate::order::{self, OrderBy};
use crate::payload;
use crate::pg::mapper::{Mapped, Mapper};
use crate::pg::trigger::{Stored, Tuple};
use crate::pg::{encoding, trigger};
use crate::render::{Bound, Column, Missing, Plan, RowView};
use crate::template::{self, Mistake, MistakeKind, PathPiece, PathTemplate, Piece, Position, Template};
use pgrx::pg_sys;

/// The columns of a relation, and which of them a sync may see.
pub struct Sources {
    columns: Vec<Column>,
    excluded: Vec<String>,
    key: PrimaryKey,
}

impl Sources {
    /// Those of an open relation.
    pub fn of(relation: pg_sys::Relation, excluded: Vec<String>) -> Sources {
        let columns = trigger::columns(relation)
            .into_iter()
            .filter(|(name, ..)| !excluded.contains(name))
            .map(|(name, number, type_oid)| Column { name, number, type_oid })
            .collect();
        let key = match trigger::primary_key(relation) {
            None => PrimaryKey::None,
            Some(names) => match names.iter().find(|name| excluded.contains(name)) {
                Some(name) => PrimaryKey::Excludes(name.clone()),
                None => PrimaryKey::Of(names),
            },
        };
        Sources { columns, excluded, key }
    }

    /// Those of a query, and which of its columns tell its rows apart.
    pub fn of_query(columns: Vec<Column>, excluded: Vec<String>, key: &[String]) -> Sources {
        let columns: Vec<Column> =
            columns.into_iter().filter(|column| !excluded.contains(&column.name)).collect();
        let key = match key.iter().find(|name| excluded.contains(name)) {
            Some(name) => PrimaryKey::Excludes(name.clone()),
            None => PrimaryKey::OfQuery(key.to_vec()),
        };
        Sources { columns, excluded, key }
    }

    pub fn excludes(&self, column: &str) -> bool {
        self.excluded.iter().any(|excluded| excluded == column)
    }

    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }
}

/// Why a definition cannot be applied to a relation. `place` is `template`, `path` or `order_by`.
#[derive(Debug)]
pub enum Fault {
    Mistake { place: &'static str, mistake: Mistake },
    Missing { place: &'static str, missing: Missing },
}

/// What a definition asks of the rows it is given.
pub struct Needs {
    pub old_row: bool,
}

/// The parts of a definition that are text, read.
struct Parsed {
    template: Option<Template>,
    path: Option<PathTemplate>,
    order_by: Option<OrderBy>,
}

/// The parts of a definition that are text.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    pub template: Option<&'a str>,
    pub path: Option<&'a str>,
    pub order_by: Option<&'a str>,
}

fn parse(call: &Call, texts: Texts<'_>, has_mapper: bool) -> Result<Parsed, Fault> {
    let Texts { template, path, order_by } = texts;
    let fault = |place| move |mistake| Fault::Mistake { place, mistake };
    // A path without holes is the call's own for every row.
    let path = path.filter(|path| path.contains("{{"));
    let path = path.map(template::path).transpose().map_err(fault("path"))?;
    let template = template.map(template::parse).transpose().map_err(fault("template"))?;
    let order_by = order_by.map(order::parse).transpose().map_err(fault("order_by"))?;
    let mut template = template;
    if let (Some(template), Some(endpoint)) = (&mut template, call.endpoint) {
        let seconds = |key: &&str| endpoint::nature(endpoint, key) == Nature::UnixSeconds;
        for key in endpoint.keys().filter(seconds) {
            template.write_times_as_seconds(key);
        }
    }
    match &template {
        Some(template) => endpoint::check(call, template).map_err(fault("template"))?,
        None if has_mapper => {}
        None => check_bare(call).map_err(fault("template"))?,
    }
    Ok(Parsed { template, path, order_by })
}

/// Checks a call that is made without a payload.
fn check_bare(call: &Call) -> Result<(), Mistake> {
    match call.required().first() {
        None => Ok(()),
        Some(key) => Err(Mistake {
            kind: MistakeKind::Malformed,
            what: format!("there is none, and {} needs \"{key}\"", call.name()),
            at: Position { line: 1, column: 1 },
            hint: format!(
                "write {{\"{key}\": \"{{{{ row.column }}}}\"}}, or a path with {{{{ row.column }}}} in it"
            ),
        }),
    }
}

impl Parsed {
    fn references(&self) -> impl Iterator<Item = (&'static str, &liquid::Reference)> {
        let template = self.template.iter().flat_map(|template| &template.references().columns);
        let path = self.path.iter().flat_map(|path| &path.references().columns);
        template.map(|reference| ("template", reference)).chain(path.map(|reference| ("path", reference)))
    }

    /// Those of what messages are put in order by.
    fn order_references(&self) -> impl Iterator<Item = (&'static str, &liquid::Reference)> {
        let columns = self.order_by.iter().flat_map(OrderBy::references);
        columns.map(|reference| ("order_by", reference))
    }

    /// Makes sure that every column that is named is there.
    fn find_columns(&self, sources: &Sources) -> Result<(), Fault> {
        let is_there = |name: &str| sources.columns.iter().any(|column| column.name == name);
        let mut references = self.references().chain(self.order_references());
        match references.find(|(_, reference)| !is_there(&reference.column)) {
            None => Ok(()),
            Some((place, reference)) => {
                let missing = Missing::new(&reference.column, reference.at, &sources.columns);
                Err(Fault::Missing { place, missing })
            }
        }
    }

    /// Why not every event would have an id: the template's, or one made of the primary key. Whether a
    /// branch or a mapper gives one, its payloads show.
    fn lacks_identity(&self, call: &Call, sources: &Sources) -> Option<String> {
        let key = Supplied::Identity.key();
        self.template.as_ref().filter(|template| !template.has(key))?;
        let lack = sources.key.lack().filter(|_| self.supplied(call).contains(&Supplied::Identity))?;
        Some(format!("the template has no \"{key}\", and {lack}"))
    }

    /// What may have to be made for a payload.
    fn supplied(&self, call: &Call) -> Vec<Supplied> {
        let certain = |supplied: &Supplied| {
            !self.is_program() && self.template.as_ref().is_some_and(|template| template.has(supplied.key()))
        };
        let all = call.endpoint.map_or(&[][..], |endpoint| endpoint.supplied);
        all.iter().copied().filter(|supplied| !certain(supplied)).collect()
    }

    fn names_old(&self) -> bool {
        self.references().any(|(_, reference)| reference.side == Side::Old) || self.whole(Side::Old)
    }

    fn whole(&self, side: Side) -> bool {
        let template = self.template.iter().map(Template::references);
        let line = |text: &PathTemplate| text.references().clone();
        let order_by = match &self.order_by {
            Some(OrderBy::Text(text)) => Some(line(text)),
            _ => None,
        };
        let path = self.path.as_ref().map(line);
        template
            .cloned()
            .chain(path)
            .chain(order_by)
            .any(|references| references.whole.iter().any(|(used, _)| *used == side))
    }

    /// Whether any of it is Liquid beyond plain holes.
    fn computes(&self) -> bool {
        let computed = |piece: &Piece| matches!(piece, Piece::Expression(_) | Piece::Program(_));
        self.path.is_some()
            || matches!(self.order_by, Some(OrderBy::Text(_)))
            || self.template.iter().any(|template| template.pieces.iter().any(computed))
    }

    fn is_program(&self) -> bool {
        self.template.as_ref().is_some_and(|template| matches!(template.pieces[..], [Piece::Program(_)]))
    }
}

/// Checks a definition against a relation without binding it.
pub fn check(call: &Call, texts: Texts<'_>, has_mapper: bool, sources: &Sources) -> Result<Needs, Fault> {
    let parsed = parse(call, texts, has_mapper)?;
    parsed.find_columns(sources)?;
    if let Some(what) = parsed.lacks_identity(call, sources) {
        let key = Supplied::Identity.key();
        let hint = format!(
            "give the table a primary key the sync may see, or name what tells its rows apart: \"{key}\": \"call-{{{{ row.id }}}}\""
        );
        let at = Position { line: 1, column: 1 };
        let mistake = Mistake { kind: MistakeKind::Malformed, what, at, hint };
        return Err(Fault::Mistake { place: "template", mistake });
    }
    Ok(Needs { old_row: parsed.names_old() })
}

/// What makes the payload.
enum Maker {
    Template(Plan),
    Mapper(Mapper),
    /// The path alone says it all.
    Nothing,
}

/// What is done with each payload before it is a message's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// Nothing: the definition proves that it meets the endpoint's demands, or there is none.
    Given,
    /// It is looked at: a mapper or a template's branches made it.
    EachPayload,
    /// The same, and parts of it belong into the path.
    EachPayloadAndTakenApart,
}

/// What to do with an update that changes no value the sync uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchanged {
    Send,
    Skip,
}

/// A definition as stored.
pub struct Definition<'a> {
    pub sync: &'a str,
    pub call: Call,
    pub texts: Texts<'a>,
    pub mapper: Option<&'a str>,
    pub unchanged: Unchanged,
    /// The columns whose update counts; all that the definition uses, if none.
    pub counting: &'a [String],
}

pub struct Recipe {
    call: Call,
    maker: Maker,
    path: Option<PathTemplate>,
    order: Order,
    defaults: Defaults,
    bound: Vec<Bound>,
    proof: Proof,
    needs_old: bool,
    /// Values that all stay the same in an update that is skipped; empty if none is.
    counting: Vec<Stored>,
    named: Vec<String>,
}

/// What messages are put in order by.
enum Order {
    /// Nothing: they go as they can.
    Any,
    Columns(Vec<Bound>),
    Text(PathTemplate),
}

/// What template or mapper made of a row, and what it left out.
#[derive(Debug)]
pub enum Whole {
    /// With the payload read, if it has to be looked at.
    Payload(Option<serde_json::Value>),
    /// Nothing to send.
    Skipped,
}

/// What became of a row.
#[derive(Debug, PartialEq, Eq)]
pub enum Made {
    /// A message; its payload has been written.
    Message {
        /// The request's, if the row decides it.
        path: Option<Box<str>>,
        /// Messages of a sync that have the same one go one after the other.
        key: Option<i64>,
    },
    /// Nothing to send.
    Skipped,
}

impl Recipe {
    /// Binds a definition to an open relation, or to a query's rows, which have none; the error says what is not as it
    /// was when it was defined.
    pub fn bind(
        definition: Definition<'_>,
        relation: Option<pg_sys::Relation>,
        sources: &Sources,
    ) -> Result<Recipe, String> {
        let Definition { sync, call, texts, mapper, unchanged, counting } = definition;
        let parsed = parse(&call, texts, mapper.is_some()).map_err(|fault| fault.to_string())?;
        parsed.find_columns(sources).map_err(|fault| fault.to_string())?;
        if let Some(lack) = parsed.lacks_identity(&call, sources) {
            return Err(lack);
        }
        let name = |(_, reference): (_, &liquid::Reference)| reference.column.clone();
        let rendered: Vec<String> = parsed.references().map(name).collect();
        let named: Vec<String> =
            rendered.iter().cloned().chain(parsed.order_references().map(name)).collect();
        // What Liquid never asks for is not made ready for it: plain holes have their own way.
        let every = parsed.whole(Side::Row) || parsed.whole(Side::Old);
        let asked = |column: &&Column| parsed.computes() && (every || named.contains(&column.name));
        let bound: Vec<Bound> = sources.columns.iter().filter(asked).map(Bound::new).collect();
        let maker = match (&parsed.template, mapper) {
            (Some(template), _) => {
                let plan = Plan::new(call.endpoint, template, &sources.columns);
                Maker::Template(plan.map_err(|missing| missing.to_string())?)
            }
            (None, Some(signature)) => Maker::Mapper(bind_mapper(signature, sources)?),
            (None, None) => Maker::Nothing,
        };
        let whole = every || matches!(maker, Maker::Mapper(_));
        let counts = |column: &&Column| match (unchanged, counting) {
            (Unchanged::Send, _) => false,
            (Unchanged::Skip, []) => whole || rendered.contains(&column.name),
            (Unchanged::Skip, counting) => counting.contains(&column.name),
        };
        let counting = sources
            .columns
            .iter()
            .filter(counts)
            .filter_map(|column| trigger::stored(relation?, column.number))
            .collect();
        let needs_old = parsed.names_old();
        let is_program = parsed.is_program();
        let defaults = Defaults::new(parsed.supplied(&call), sync, &sources.key, &sources.columns);
        let order = match parsed.order_by {
            None => Order::Any,
            Some(OrderBy::Text(text)) => Order::Text(text),
            Some(OrderBy::Columns(wanted)) => {
                let column = |wanted: &liquid::Reference| {
                    sources.columns.iter().find(|column| column.name == wanted.column).map(Bound::new)
                };
                Order::Columns(wanted.iter().filter_map(column).collect())
            }
        };
        let proof = match maker {
            Maker::Nothing => Proof::Given,
            _ if call.takes_from_payload() => Proof::EachPayloadAndTakenApart,
            Maker::Template(_) if !is_program => Proof::Given,
            _ => Proof::EachPayload,
        };
        Ok(Recipe {
            call,
            maker,
            path: parsed.path,
            order,
            defaults,
            bound,
            proof,
            needs_old,
            counting,
            named,
        })
    }

    /// Whether its texts name what a row was before.
    pub fn needs_old(&self) -> bool {
        self.needs_old
    }

    pub fn call(&self) -> &Call {
        &self.call
    }

    /// The columns that template, path and order_by name, and those an id is made of.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(String::as_str).chain(self.defaults.columns())
    }

    /// Makes the message of a row that has just been changed: appends its payload to `out`, or says why
    /// there is none.
    pub fn make(
        &self,
        operation: Operation,
        row: Tuple,
        old: Option<Tuple>,
        out: &mut Vec<u8>,
    ) -> Result<Made, String> {
        self.make_from(Origin::Change, operation, row, old, out)
    }

    /// The same for a row that comes from elsewhere.
    pub fn make_from(
        &self,
        origin: Origin,
        operation: Operation,
        row: Tuple,
        old: Option<Tuple>,
        out: &mut Vec<u8>,
    ) -> Result<Made, String> {
        if let (Operation::Update, Some(old), [_, ..]) = (operation, old, self.counting.as_slice())
            && self.counting.iter().all(|column| row.same(old, *column))
        {
            return Ok(Made::Skipped);
        }
        let view = self.view(origin, operation, row, old);
        match self.payload(&view, out)? {
            Whole::Skipped => Ok(Made::Skipped),
            Whole::Payload(read) => {
                let key = self.order_key(&view)?;
                Ok(Made::Message { path: self.address(&view, read, out)?, key })
            }
        }
    }

    /// A row as this recipe sees it.
    pub fn view<'a>(
        &'a self,
        origin: Origin,
        operation: Operation,
        row: Tuple,
        old: Option<Tuple>,
    ) -> RowView<'a> {
        RowView::new(operation, row, old, origin, &self.bound)
    }

    /// What a row that cannot be rendered is put in order by: it is in line all the same, unless that is what cannot be
    /// told.
    pub fn place_in_line(
        &self,
        origin: Origin,
        operation: Operation,
        row: Tuple,
        old: Option<Tuple>,
    ) -> Option<i64> {
        self.order_key(&self.view(origin, operation, row, old)).unwrap_or_default()
    }

    /// What a row's message is put in order by, as a number. Rows without a value there are in order too.
    pub fn order_key(&self, view: &RowView<'_>) -> Result<Option<i64>, String> {
        let mut number;
        match &self.order {
            Order::Any => return Ok(None),
            Order::Columns(columns) => {
                number = order::Number::default();
                let mut value = Vec::new();
                for column in columns {
                    value.clear();
                    match column.write_in_string(view.row, &mut value) {
                        Some(written) => {
                            written?;
                            number.value(&value);
                        }
                        None => number.null(),
                    }
                }
            }
            Order::Text(text) => {
                let rendering = liquid::Rendering::new(view);
                let mut value = String::new();
                for piece in &text.pieces {
                    match piece {
                        PathPiece::Literal(text) => value.push_str(text),
                        PathPiece::Hole(hole) => value.push_str(&hole.text(&rendering)?),
                    }
                }
                number = order::Number::default();
                number.value(value.as_bytes());
            }
        }
        Ok(Some(number.finish()))
    }

    /// First half of [`Recipe::make`]: the payload whole, as template or mapper make it, with what they
    /// left out.
    pub fn payload(&self, view: &RowView<'_>, out: &mut Vec<u8>) -> Result<Whole, String> {
        match &self.maker {
            Maker::Template(plan) => plan.render(view, out)?,
            Maker::Mapper(mapper) => match mapper.map(view.operation, view.row, view.old) {
                Ok(Mapped::Payload(payload)) => out.extend_from_slice(&payload),
                Ok(Mapped::Skip) => return Ok(Whole::Skipped),
                Err(caught) => return Err(format!("the mapper failed with SQLSTATE {}", caught.sqlstate)),
            },
            Maker::Nothing => {}
        }
        if self.proof == Proof::Given {
            self.defaults.add(view, out)?;
            return Ok(Whole::Payload(None));
        }
        let mut value: serde_json::Value =
            encoding::json_from_server(out).map_err(|_| "the payload is nested too deeply".to_owned())?;
        self.defaults.complete(&mut value, view, out)?;
        Ok(Whole::Payload(Some(value)))
    }

    /// Second half: what belongs into the path is taken out of the payload. Gives the path, if the row
    /// decides it.
    pub fn address(
        &self,
        view: &RowView<'_>,
        read: Option<serde_json::Value>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Box<str>>, String> {
        let mut path = match &self.path {
            Some(path) => Some(self.fill(path, view)?),
            None => None,
        };
        if let Some(value) = read {
            path = self.prove(value, out, path)?;
        }
        if self.call.method == Method::Delete {
            out.clear();
        }
        Ok(path.map(String::into_boxed_str))
    }

    /// Looks at a payload, and takes out of it what belongs into the path, whose holes are filled by now.
    /// Gives the path, if the row decides it.
    fn prove(
        &self,
        value: serde_json::Value,
        out: &mut Vec<u8>,
        path: Option<String>,
    ) -> Result<Option<String>, String> {
        if let Some(refusal) = payload::refusal(&self.call, &value) {
            return Err(refusal);
        }
        if self.proof != Proof::EachPayloadAndTakenApart {
            return Ok(path);
        }
        let filled = path.clone().map(|path| Call { path, ..self.call.clone() });
        let (whole, body) = payload::request(filled.as_ref().unwrap_or(&self.call), value)?;
        out.clear();
        if let Some(body) = body {
            encoding::push_json(out, body.to_string().as_bytes());
        }
        Ok(whole.or(path))
    }

    fn fill(&self, path: &PathTemplate, view: &RowView<'_>) -> Result<String, String> {
        let rendering = liquid::Rendering::new(view);
        let mut filled = String::new();
        for piece in &path.pieces {
            match piece {
                PathPiece::Literal(text) => filled.push_str(text),
                PathPiece::Hole(hole) => {
                    let segment = payload::percent_encode_segment(&hole.text(&rendering)?)
                        .map_err(|why| format!("what the path holds at {} {why}", hole.at))?;
                    filled.push_str(&segment);
                }
            }
        }
        Ok(filled)
    }
}

fn bind_mapper(signature: &str, sources: &Sources) -> Result<Mapper, String> {
    let columns: Vec<(String, i16)> =
        sources.columns.iter().map(|column| (column.name.clone(), column.number)).collect();
    match crate::pg::xact::protected(|| Mapper::bind(signature, &columns)) {
        Ok(Some(mapper)) => Ok(mapper),
        Ok(None) => Err(format!("mapper {signature} does not exist (any more)")),
        // Some versions of PostgreSQL raise an error when the type of an argument is gone.
        Err(caught) if caught.sqlstate == "42704" => {
            Err(format!("mapper {signature} does not exist (any more)"))
        }
        Err(caught) => Err(format!("mapper {signature} cannot be called: SQLSTATE {}", caught.sqlstate)),
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Mistake { place, mistake } => {
                write!(f, "the {place} cannot be used: {} at {}", mistake.what, mistake.at)
            }
            Fault::Missing { missing, .. } => missing.fmt(f),
        }
    }
}
