//! Capture: messages of the rows a run found new, changed or gone.
//!
//! Last step of a run, in the place of the trigger's. It promises what that promises: a message, a dead letter with its
//! reason, or an end of the whole run where the sync says so.

use crate::buffer::{Operation, StillBorn};
use crate::cap::{Cap, Room, WhenFull};
use crate::capture;
use crate::defaults::Origin;
use crate::outbox;
use crate::pg::pages::{self, Prepared};
use crate::pg::trigger::{Apart, Tuple};
use crate::pg::{cell, encoding};
use crate::recipe::{Made, Recipe};
use crate::render::Column;
use crate::sync::{OnError, Stored};

pub struct Capture<'a> {
    stored: &'a Stored,
    recipe: Recipe,
    cap: Option<Cap>,
    operations: Vec<Operation>,
    origin: Origin,
    payload: Vec<u8>,
    /// A full outbox was spoken of.
    warned: bool,
    needs_whole_rows: bool,
    /// Makes a row of its JSON. Planned when the first one is to be made.
    row_again: Option<Prepared>,
}

impl<'a> Capture<'a> {
    /// For rows of these columns, in the run of that number. It must not outlive the connection of SPI it is used in.
    pub fn new(stored: &'a Stored, columns: Vec<Column>, number: i64) -> Result<Capture<'a>, String> {
        let recipe = stored.bind_query(columns)?;
        let operations: Vec<Operation> = stored.operations().collect();
        let needs_whole_rows = operations.contains(&Operation::Delete)
            || operations.contains(&Operation::Update) && recipe.needs_old();
        Ok(Capture {
            stored,
            recipe,
            cap: stored.cap(),
            operations,
            origin: Origin::Run { number },
            payload: Vec::new(),
            warned: false,
            needs_whole_rows,
            row_again: None,
        })
    }

    /// Whether what is made of a row depends on what it was before.
    pub fn needs_whole_rows(&self) -> bool {
        self.needs_whole_rows
    }

    /// A row as JSON text, in the database's encoding, to be remembered.
    pub fn whole(&self, row: Tuple) -> Option<Vec<u8>> {
        cell::row_to_json(row, self.stored.excluded())
    }

    /// Captures a row.
    pub fn row(&mut self, operation: Operation, row: Tuple, old: Option<Tuple>) -> Result<(), String> {
        if !self.operations.contains(&operation) {
            return Ok(());
        }
        let sync = self.stored.id;
        self.payload.clear();
        match self.recipe.make_from(self.origin, operation, row, old, &mut self.payload) {
            Ok(Made::Message { path, key }) => {
                if self.admits(operation, row, old, key)? {
                    capture::add_message(sync, operation, path, key, &self.payload);
                }
                Ok(())
            }
            Ok(Made::Skipped) => Ok(()),
            Err(reason) if self.stored.on_error() == OnError::Raise => Err(format!(
                "a row cannot be billed: {reason}; correct it, or let the others through: lago_push.alter_sync(…, on_error => 'dead_letter')"
            )),
            Err(reason) => {
                let key = self.recipe.place_in_line(self.origin, operation, row, old);
                self.bury(operation, row, old, key, reason);
                Ok(())
            }
        }
    }

    /// Captures a row that is not what it was. What it was is JSON text in the database's encoding, if it is known.
    pub fn changed(&mut self, row: Tuple, before: Option<&[u8]>) -> Result<(), String> {
        if !self.operations.contains(&Operation::Update) {
            return Ok(());
        }
        match before.filter(|_| self.needs_whole_rows) {
            None if self.recipe.needs_old() => {
                let key = self.recipe.place_in_line(self.origin, Operation::Update, row, None);
                self.bury(Operation::Update, row, None, key, OLD_NOT_KEPT.into());
                Ok(())
            }
            None => self.row(Operation::Update, row, None),
            Some(before) => {
                self.with(before, |capture, old| capture.row(Operation::Update, row, Some(old)))?
            }
        }
    }

    /// Captures a row that is gone.
    pub fn removed(&mut self, before: Option<&[u8]>) -> Result<(), String> {
        if !self.operations.contains(&Operation::Delete) {
            return Ok(());
        }
        match before {
            Some(before) => {
                self.with(before, |capture, old| capture.row(Operation::Delete, old, Some(old)))?
            }
            None => {
                let dead = StillBorn {
                    sync_name: self.stored.name.clone(),
                    reason: NOT_KEPT.into(),
                    source_row: None,
                    old_row: None,
                };
                capture::add_dead(self.stored.id, Operation::Delete, None, dead);
                Ok(())
            }
        }
    }

    /// Makes a row of what was remembered of it.
    fn with<R>(&mut self, kept: &[u8], work: impl FnOnce(&mut Self, Tuple) -> R) -> Result<R, String> {
        let query = self.stored.query.as_ref().ok_or("the sync has no query")?;
        let json = pages::json(kept);
        // Types' functions are the code of whoever made them: with the rights of the sync's own role.
        let row = crate::pg::caller::reading_as(query.run_as, &query.search_path, || {
            if self.row_again.is_none() {
                self.row_again = Prepared::new(&encoding::to_server(&query.row_of_json(1)), json.oid());
            }
            self.row_again.as_ref().and_then(|again| again.first(&json)).map(Apart::by_itself)
        });
        row.map(|row| work(self, row.tuple())).ok_or_else(|| "a remembered row is empty".to_owned())
    }

    /// Whether the row's message may wait with the others. If not, it has been kept otherwise, or the run ends.
    fn admits(
        &mut self,
        operation: Operation,
        row: Tuple,
        old: Option<Tuple>,
        key: Option<i64>,
    ) -> Result<bool, String> {
        let Some(cap) = &self.cap else { return Ok(true) };
        let buffered = capture::buffered(self.stored.id);
        let Room::None(waiting) = cap.room(buffered, outbox::count_committed) else { return Ok(true) };
        match cap.when_full {
            WhenFull::Warn => {
                if !std::mem::replace(&mut self.warned, true) {
                    let warning = cap.warning(&self.stored.name);
                    pgrx::warning!("{}", warning.message);
                }
                Ok(true)
            }
            WhenFull::DeadLetter => {
                let reason = cap.reason(waiting);
                self.bury(operation, row, old, key, reason);
                Ok(false)
            }
            WhenFull::Raise => {
                let refusal = cap.refusal(&self.stored.name, waiting);
                Err(refusal.message)
            }
        }
    }

    fn bury(&self, operation: Operation, row: Tuple, old: Option<Tuple>, key: Option<i64>, reason: String) {
        let (stored, excluded) = (self.stored, self.stored.excluded());
        let dead = capture::still_born(&stored.name, reason, operation, row, old, excluded);
        capture::add_dead(stored.id, operation, key, dead);
    }
}

const OLD_NOT_KEPT: &str = "the template names old, and what the row held before was not remembered: it did not when the row was read last";
const NOT_KEPT: &str = "the row is gone, and what it held was not remembered: the sync did not capture deletes when it was read last";
