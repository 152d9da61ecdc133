//! Sync: a definition as stored, compiled once per backend and trigger, forgotten when it changes.
//!
//! Serves capture. The cache is kept right by PostgreSQL's own invalidation: a change of the table's
//! columns or of any definition reaches every backend before its next statement, so no row is looked
//! up and no definition is read on the hot path.

use crate::buffer::Operation;
use crate::call::Call;
use crate::cap::{Cap, WhenFull};
use crate::outbox::Tables;
use crate::pg::{cell, heap, trigger::Fired};
use crate::recipe::{Definition, Recipe, Sources, Texts, Unchanged};
use crate::render::Column;
use crate::run::query::{self, CursorKind};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// What a trigger's argument turned out to mean.
pub enum Compiled {
    /// No such sync, or what is stored cannot be applied: rows become dead letters.
    Broken {
        sync: i32,
        reason: String,
        on_error: OnError,
        excluded: Vec<String>,
        until: Until,
    },
    /// A draft: captures nothing.
    Draft,
    Ready(Box<Ready>),
}

pub struct Ready {
    pub sync: i32,
    pub name: String,
    pub recipe: Recipe,
    pub on_error: OnError,
    pub cap: Option<Cap>,
    /// Columns that are not kept with a dead letter either.
    pub excluded: Vec<String>,
    operations: Vec<Operation>,
}

impl Ready {
    pub fn covers(&self, operation: Operation) -> bool {
        self.operations.contains(&operation)
    }
}

/// How long what is broken is taken to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// A change of the source or of any definition announces that it may have been mended.
    Announced,
    /// Nothing announces that a mapper has been made again.
    NextRow,
}

/// What to do with a row that cannot be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    DeadLetter,
    Raise,
}

struct Cached {
    trigger: pg_sys::Oid,
    relation: pg_sys::Oid,
    compiled: Rc<Compiled>,
}

thread_local! {
    static CACHE: RefCell<Vec<Cached>> = const { RefCell::new(Vec::new()) };
    /// Set when an invalidation comes while the cache is in use.
    static ALL_STALE: Cell<bool> = const { Cell::new(false) };
}

/// The compiled sync of the trigger that fired.
pub fn of(fired: &Fired) -> Rc<Compiled> {
    let trigger = fired.trigger_oid();
    if ALL_STALE.take() {
        CACHE.with_borrow_mut(Vec::clear);
    }
    if let Some(compiled) = CACHE.with_borrow(|cache| {
        cache.iter().find(|cached| cached.trigger == trigger).map(|cached| Rc::clone(&cached.compiled))
    }) {
        return compiled;
    }
    let compiled = Rc::new(compile(fired));
    let lasts = !matches!(&*compiled, Compiled::Broken { until: Until::NextRow, .. });
    // An invalidation while compiling would be lost on an entry that is not there yet.
    if lasts && !ALL_STALE.get() {
        let cached = Cached { trigger, relation: fired.relation_oid(), compiled: Rc::clone(&compiled) };
        CACHE.with_borrow_mut(|cache| cache.push(cached));
    }
    compiled
}

/// Entry point: called on every invalidation of a relation, in every process.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn on_relation_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    forget(relation);
}

/// A relation has changed: forget what was compiled from it. `InvalidOid` stands for all of them.
/// Runs inside PostgreSQL's invalidation, where nothing may be looked up.
fn forget(relation: pg_sys::Oid) {
    let all = relation == pg_sys::InvalidOid || crate::outbox::is_own_table(relation);
    CACHE.with(|cache| match cache.try_borrow_mut() {
        Ok(mut cache) if all => cache.clear(),
        Ok(mut cache) => cache.retain(|cached| cached.relation != relation),
        Err(_) => ALL_STALE.set(true),
    });
    if all {
        crate::outbox::doubt_tables();
    }
}

/// The definition of a sync, as its row in `lago_push.sync` has it.
pub struct Stored {
    pub id: i32,
    pub name: String,
    /// The table; no number where a query takes its place.
    pub source: pg_sys::Oid,
    pub query: Option<Query>,
    pub destination: i32,
    endpoint: String,
    template: Option<String>,
    mapper: Option<String>,
    operations: Vec<String>,
    columns: Vec<String>,
    pub filter: Option<String>,
    exclude: Vec<String>,
    unchanged: Unchanged,
    method: Option<String>,
    path: Option<String>,
    root: Option<String>,
    /// A JSON object of names and text.
    pub headers: String,
    on_error: OnError,
    state: String,
    order_by: Option<String>,
    /// How many messages may wait, and what becomes of rows beyond.
    max_pending: Option<i64>,
    when_full: WhenFull,
}

/// What gives the rows of a sync that has no table.
pub struct Query {
    pub text: String,
    /// The columns that tell its rows apart.
    pub key: Vec<String>,
    pub cursor: Option<String>,
    pub overlap: Option<String>,
    /// The share of the rows that one run may take for removed.
    pub max_removed: f64,
    pub first_run: FirstRun,
    pub time_limit: Option<Duration>,
    pub run_as: pg_sys::Oid,
    pub search_path: String,
    /// Its columns when it was checked.
    pub columns: Vec<QueryColumn>,
}

/// A column of a query, by name and by its type's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryColumn {
    pub name: String,
    pub type_name: String,
}

/// What becomes of the rows that are there at the first run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstRun {
    Send,
    Remember,
}

impl QueryColumn {
    /// An array of objects of name and type.
    fn read(json: &str) -> Option<Vec<QueryColumn>> {
        let columns: Vec<serde_json::Value> = serde_json::from_str(json).ok()?;
        let text = |column: &serde_json::Value, key| Some(column.get(key)?.as_str()?.to_owned());
        let column =
            |column| Some(QueryColumn { name: text(column, "name")?, type_name: text(column, "type")? });
        columns.iter().map(column).collect()
    }
}

impl Query {
    /// Of a row of `lago_push.sync`, which had none of these columns in 0.1.0.
    fn read(column: &dyn Fn(i16) -> Option<pg_sys::Datum>) -> Option<Query> {
        let text = |number| column(number).map(cell::text_as_utf8);
        Some(Query {
            text: text(QUERY)?,
            key: column(26).map(cell::names)?,
            cursor: column(27).map(cell::name),
            overlap: text(28),
            max_removed: cell::read(column(29))?,
            first_run: if text(30)? == "remember" { FirstRun::Remember } else { FirstRun::Send },
            time_limit: column(31).and_then(cell::duration),
            run_as: cell::read(column(32))?,
            search_path: text(33)?,
            columns: QueryColumn::read(&column(34).map(cell::jsonb_as_utf8)?)?,
        })
    }

    pub fn cursor_kind(&self) -> Option<CursorKind> {
        let cursor = self.cursor.as_ref()?;
        let column = self.columns.iter().find(|column| column.name == *cursor)?;
        CursorKind::of(&column.type_name)
    }

    /// A query that makes a row of the JSON object that is its parameter of that number.
    pub fn row_of_json(&self, parameter: usize) -> String {
        let column =
            |column: &QueryColumn| format!("{} {}", query::identifier(&column.name), column.type_name);
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        format!("select r from pg_catalog.json_to_record(${parameter}) as r({})", columns.join(", "))
    }
}

/// Which sync is looked for.
pub enum Wanted<'a> {
    Named(&'a str),
    Numbered(i32),
}

/// Whether any sync has a query.
pub fn any_query() -> bool {
    let tables = crate::outbox::tables();
    tables.and_then(|tables| heap::scan(tables.sync, |column| column(QUERY).map(|_| ()))).is_some()
}

/// The column of `lago_push.sync` that holds the query, by number.
const QUERY: i16 = 25;

/// Reads a definition without a query. Columns in the order of sql/tables.sql.
pub fn stored(tables: &Tables, wanted: &Wanted<'_>) -> Option<Stored> {
    heap::scan(tables.sync, |column| {
        let text = |number| column(number).map(cell::text_as_utf8);
        let names = |number| column(number).map(cell::names).unwrap_or_default();
        let (id, name) = (cell::read(column(1))?, text(2)?);
        let found = match wanted {
            Wanted::Named(wanted) => name == *wanted,
            Wanted::Numbered(wanted) => id == *wanted,
        };
        if !found {
            return None;
        }
        Some(Stored {
            id,
            name,
            source: cell::read(column(3)).unwrap_or(pg_sys::InvalidOid),
            query: Query::read(column),
            destination: cell::read(column(4))?,
            endpoint: text(5)?,
            template: text(6),
            mapper: text(7),
            operations: cell::read(column(8))?,
            columns: names(9),
            filter: text(10),
            exclude: names(11),
            unchanged: if text(12)? == "skip" { Unchanged::Skip } else { Unchanged::Send },
            method: text(13),
            path: text(14),
            root: text(15),
            headers: column(16).map(cell::jsonb_as_utf8)?,
            on_error: if text(20)? == "raise" { OnError::Raise } else { OnError::DeadLetter },
            state: text(21)?,
            order_by: text(22),
            // The table of 0.1.0 has neither of these.
            max_pending: column(23).map(|datum| datum.value() as i64),
            when_full: match text(24).as_deref() {
                Some("dead_letter") => WhenFull::DeadLetter,
                Some("raise") => WhenFull::Raise,
                _ => WhenFull::Warn,
            },
        })
    })
}

impl Stored {
    pub fn has_mapper(&self) -> bool {
        self.mapper.is_some()
    }

    /// Columns that are not kept with a dead letter either.
    pub fn excluded(&self) -> &[String] {
        &self.exclude
    }

    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// Those it captures, in the order in which they happen to a row.
    pub fn operations(&self) -> impl Iterator<Item = Operation> {
        [Operation::Insert, Operation::Update, Operation::Delete]
            .into_iter()
            .filter(|operation| self.operations.iter().any(|word| word == operation.word()))
    }

    /// Binds the definition to an open relation: the source, or a partition of it.
    pub fn bind(&self, relation: pg_sys::Relation) -> Result<Recipe, String> {
        let definition = self.definition()?;
        Recipe::bind(definition, Some(relation), &Sources::of(relation, self.exclude.clone()))
    }

    /// Binds the definition to a query's rows of these columns.
    pub fn bind_query(&self, columns: Vec<Column>) -> Result<Recipe, String> {
        let key = self.query.as_ref().map(|query| query.key.as_slice()).unwrap_or_default();
        let sources = Sources::of_query(columns, self.exclude.clone(), key);
        Recipe::bind(self.definition()?, None, &sources)
    }

    fn definition(&self) -> Result<Definition<'_>, String> {
        Ok(Definition {
            sync: &self.name,
            call: self.call()?,
            texts: Texts {
                template: self.template.as_deref(),
                path: self.path.as_deref(),
                order_by: self.order_by.as_deref(),
            },
            mapper: self.mapper.as_deref(),
            unchanged: self.unchanged,
            counting: &self.columns,
        })
    }

    /// The columns whose change counts; all, if none is named.
    pub fn counting(&self) -> &[String] {
        &self.columns
    }

    /// How many of its messages may wait.
    pub fn cap(&self) -> Option<Cap> {
        self.max_pending.map(|most| Cap::new(self.id, most, self.when_full))
    }

    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    pub fn call(&self) -> Result<Call, String> {
        Call::of(&self.endpoint, self.method.as_deref(), self.path.as_deref(), self.root.as_deref())
            .ok_or_else(|| format!("endpoint \"{}\" is not known to this version", self.endpoint))
    }
}

fn compile(fired: &Fired) -> Compiled {
    let name = fired.argument();
    let tables = match crate::outbox::tables() {
        Some(tables) => tables,
        None => return broken("the extension's tables are missing".into()),
    };
    let Some(stored) = stored(&tables, &Wanted::Named(&name)) else {
        return broken(format!(
            "no sync is named \"{name}\": the trigger's argument is wrong, or the sync was dropped"
        ));
    };
    if stored.state == "draft" {
        return Compiled::Draft;
    }
    match stored.bind(fired.relation()) {
        Ok(recipe) => Compiled::Ready(Box::new(Ready {
            sync: stored.id,
            operations: stored.operations().collect(),
            cap: stored.cap(),
            name,
            recipe,
            on_error: stored.on_error,
            excluded: stored.exclude,
        })),
        Err(reason) => Compiled::Broken {
            sync: stored.id,
            reason,
            on_error: stored.on_error,
            until: if stored.mapper.is_some() { Until::NextRow } else { Until::Announced },
            excluded: stored.exclude,
        },
    }
}

/// What is wrong before there is a definition to go by.
fn broken(reason: String) -> Compiled {
    Compiled::Broken {
        sync: 0,
        reason,
        on_error: OnError::DeadLetter,
        excluded: Vec::new(),
        until: Until::Announced,
    }
}
