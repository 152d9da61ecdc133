//! Sync: a definition as stored, compiled once per backend and trigger, forgotten when it changes.
//!
//! Serves capture. The cache is kept right by PostgreSQL's own invalidation: a change of the table's
//! columns or of any definition reaches every backend before its next statement, so no row is looked
//! up and no definition is read on the hot path.

use crate::buffer::Operation;
use crate::call::Call;
use crate::endpoint;
use crate::outbox::Tables;
use crate::pg::{cell, heap, trigger::Fired};
use crate::render::{Column, Missing, Plan};
use crate::template::{self, Mistake, Subject};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What a trigger's argument turned out to mean.
pub enum Compiled {
    /// No such sync, or what is stored cannot be applied: rows become dead letters.
    Broken {
        sync: i32,
        reason: String,
        on_error: OnError,
    },
    /// A draft: captures nothing.
    Draft,
    Ready(Ready),
}

pub struct Ready {
    pub sync: i32,
    pub name: String,
    pub plan: Plan,
    pub on_error: OnError,
    operations: Vec<Operation>,
}

impl Ready {
    pub fn covers(&self, operation: Operation) -> bool {
        self.operations.contains(&operation)
    }
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
    // An invalidation while compiling would be lost on an entry that is not there yet.
    if !ALL_STALE.get() {
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
struct Definition {
    id: i32,
    endpoint: String,
    template: String,
    operations: Vec<String>,
    on_error: String,
    state: String,
}

fn definition(tables: &Tables, name: &str) -> Option<Definition> {
    // Columns in the order of sql/tables.sql.
    heap::scan(tables.sync, |column| {
        let text = |number| column(number).map(cell::text_as_utf8);
        (text(2).as_deref() == Some(name)).then(|| {
            Some(Definition {
                id: cell::read(column(1))?,
                endpoint: text(5)?,
                template: text(6)?,
                operations: cell::read(column(8))?,
                on_error: text(20)?,
                state: text(21)?,
            })
        })?
    })
}

fn compile(fired: &Fired) -> Compiled {
    let name = fired.argument();
    let tables = match crate::outbox::tables() {
        Some(tables) => tables,
        None => return broken(0, "the extension's tables are missing".into(), OnError::DeadLetter),
    };
    let Some(definition) = definition(&tables, &name) else {
        return broken(
            0,
            format!("no sync is named \"{name}\": the trigger's argument is wrong, or the sync was dropped"),
            OnError::DeadLetter,
        );
    };
    if definition.state == "draft" {
        return Compiled::Draft;
    }
    let on_error = if definition.on_error == "raise" { OnError::Raise } else { OnError::DeadLetter };
    let operations = definition.operations.iter().filter_map(|word| operation(word)).collect();
    match plan(&definition.endpoint, &definition.template, &columns_of(fired.relation())) {
        Ok(plan) => Compiled::Ready(Ready { sync: definition.id, name, plan, on_error, operations }),
        Err(Fault::Missing(missing)) => broken(
            definition.id,
            format!("column \"{}\" does not exist (any more)", missing.column),
            on_error,
        ),
        Err(Fault::Mistake(mistake)) => broken(
            definition.id,
            format!("the template cannot be used: {} at {}", mistake.what, mistake.at),
            on_error,
        ),
        Err(Fault::NoEndpoint) => broken(
            definition.id,
            format!("endpoint \"{}\" is not known to this version", definition.endpoint),
            on_error,
        ),
    }
}

fn broken(sync: i32, reason: String, on_error: OnError) -> Compiled {
    Compiled::Broken { sync, reason, on_error }
}

pub fn operation(word: &str) -> Option<Operation> {
    [Operation::Insert, Operation::Update, Operation::Delete]
        .into_iter()
        .find(|operation| operation.word() == word)
}

/// Why a template cannot be applied to a table.
#[derive(Debug)]
pub enum Fault {
    NoEndpoint,
    Mistake(Mistake),
    Missing(Missing),
}

/// Parses, checks and binds a template.
pub fn plan(endpoint: &str, text: &str, columns: &[Column]) -> Result<Plan, Fault> {
    let endpoint = endpoint::find(endpoint).ok_or(Fault::NoEndpoint)?;
    let template = template::parse(text).map_err(Fault::Mistake)?;
    endpoint::check(&Call::from(endpoint), &template).map_err(Fault::Mistake)?;
    Plan::new(endpoint, &template, columns).map_err(Fault::Missing)
}

/// Whether a template asks for the row as it was before.
pub fn uses_old(text: &str) -> bool {
    template::parse(text).is_ok_and(|template| {
        template.pieces.iter().any(
            |piece| matches!(piece, template::Piece::Hole(hole) if matches!(hole.subject, Subject::Old(_))),
        )
    })
}

/// The columns of an open relation.
pub fn columns_of(relation: pg_sys::Relation) -> Vec<Column> {
    crate::pg::trigger::columns(relation)
        .into_iter()
        .map(|(name, number, type_oid)| Column { name, number, type_oid })
        .collect()
}
