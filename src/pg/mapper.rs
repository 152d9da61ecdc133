//! A user's mapper function: from a row to jsonb, called for each captured row.

use super::caller::with_rights_of;
use super::trigger::Tuple;
use super::{cell, xact};
use crate::buffer::Operation;
use pgrx::pg_sys;
use std::ffi::CString;

/// A mapper, planned once per backend. The plan is PostgreSQL's own: it follows a function that is
/// replaced, and inlines one that is a plain SQL expression.
pub struct Mapper {
    plan: pg_sys::SPIPlanPtr,
    /// The table's row type, which the function takes; a partition's own is another.
    row: RowShape,
    owner: pg_sys::Oid,
    /// Where the function's body looks for names; never where its caller does.
    search_path: CString,
}

/// A row type, and for each of its columns where a tuple of the capturing relation has it.
struct RowShape {
    descriptor: pg_sys::TupleDesc,
    from: Vec<Option<i16>>,
}

/// What a mapper made of a row.
pub enum Mapped {
    /// JSON text in the database's encoding.
    Payload(Vec<u8>),
    /// It returned null: this row is none to bill.
    Skip,
}

impl Mapper {
    /// Finds the function with this signature. `columns` says which columns of the relation that fires
    /// the function may see, by name and number. None if there is no such function (any more).
    ///
    /// # Panics
    /// Raises PostgreSQL's errors.
    pub fn bind(signature: &str, columns: &[(String, i16)]) -> Option<Mapper> {
        // Whoever writes the row needs no right to the function, nor to its schema; and where the writer's
        // session looks for types first is none of its business.
        let function = with_rights_of(SUPERUSER, || cell::pinned(|| find(signature)))?;
        // SAFETY: catalog lookups inside a transaction.
        let (schema, row_type, count) = unsafe {
            let schema = pg_sys::get_namespace_name(pg_sys::get_func_namespace(function));
            let mut types = std::ptr::null_mut();
            let mut count = 0;
            pg_sys::get_func_signature(function, &raw mut types, &raw mut count);
            if schema.is_null() || count < 1 {
                return None;
            }
            (std::ffi::CStr::from_ptr(schema), *types, count as usize)
        };
        // SAFETY: a catalog lookup; the type is a table's row type, checked when the sync was defined.
        let table = unsafe { pg_sys::get_typ_typrelid(row_type) };
        let owner = owner_of(table)?;
        // SAFETY: quotes a C string into the current memory context.
        let quoted = unsafe { std::ffi::CStr::from_ptr(pg_sys::quote_identifier(schema.as_ptr())) };
        let search_path = [b"pg_catalog, ", quoted.to_bytes(), b", pg_temp"].concat();
        let call = qualified_call(function, count)?;
        Some(Mapper {
            plan: with_rights_of(owner, || prepare(&call, row_type, count)),
            row: RowShape::new(row_type, columns),
            owner,
            search_path: CString::new(search_path).ok()?,
        })
    }

    /// Calls the function. Its errors are caught; they say their SQLSTATE.
    pub fn map(&self, operation: Operation, row: Tuple, old: Option<Tuple>) -> Result<Mapped, xact::Caught> {
        xact::protected(|| self.call(operation, row, old))
    }

    fn call(&self, operation: Operation, row: Tuple, old: Option<Tuple>) -> Mapped {
        let word = pgrx::IntoDatum::into_datum(operation.word());
        let mut values = [Some(self.row.composite(row)), old.map(|old| self.row.composite(old)), word];
        let mut nulls = values.map(|value| if value.is_some() { b' ' } else { b'n' } as core::ffi::c_char);
        let mut values = values.each_mut().map(|value| value.unwrap_or(pg_sys::Datum::from(0usize)));
        let mapped = with_rights_of(self.owner, || {
            cell::pinned_with(&self.search_path, || {
                // SAFETY: connects for the one statement below.
                unsafe { pg_sys::SPI_connect() };
                // SAFETY: a kept plan with one to three parameters, of which both arrays hold three.
                unsafe {
                    pg_sys::SPI_execute_plan(self.plan, values.as_mut_ptr(), nulls.as_mut_ptr(), false, 1)
                };
                let mapped = first_value();
                // SAFETY: connected above.
                unsafe { pg_sys::SPI_finish() };
                mapped
            })
        });
        match mapped {
            Some(payload) => Mapped::Payload(payload),
            None => Mapped::Skip,
        }
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        // SAFETY: a plan kept by SPI_keepplan, freed once.
        unsafe { pg_sys::SPI_freeplan(self.plan) };
        // SAFETY: copied in `RowShape::new`, freed once.
        unsafe { pg_sys::FreeTupleDesc(self.row.descriptor) };
    }
}

/// Who may look up anything: names are looked up so, and nothing is run.
const SUPERUSER: pg_sys::Oid = pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID);

/// The first column of the first row of the statement just run, as text.
fn first_value() -> Option<Vec<u8>> {
    // SAFETY: variables SPI sets with each statement.
    let (table, rows) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed) };
    if table.is_null() || rows == 0 {
        return None;
    }
    let mut is_null = false;
    // SAFETY: there is at least one tuple, and the statement has one column.
    let datum = unsafe { pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &raw mut is_null) };
    (!is_null).then(|| cell::jsonb_text(datum))
}

impl RowShape {
    fn new(row_type: pg_sys::Oid, columns: &[(String, i16)]) -> RowShape {
        // SAFETY: in the cache context, so that the copy outlives the query that first needed it.
        let descriptor = unsafe {
            let previous = pg_sys::MemoryContextSwitchTo(pg_sys::CacheMemoryContext);
            let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(row_type, -1);
            pg_sys::MemoryContextSwitchTo(previous);
            descriptor
        };
        let from = super::trigger::attributes(descriptor)
            .into_iter()
            .map(|attribute| {
                let name = attribute?;
                columns.iter().find(|(column, _)| *column == name).map(|(_, number)| *number)
            })
            .collect();
        RowShape { descriptor, from }
    }

    /// A tuple as a value of the row type; null in the place of each column the mapper may not see.
    fn composite(&self, tuple: Tuple) -> pg_sys::Datum {
        let mut values = Vec::with_capacity(self.from.len());
        let mut nulls = Vec::with_capacity(self.from.len());
        for number in &self.from {
            let value = number.and_then(|number| tuple.get(number));
            nulls.push(value.is_none());
            values.push(value.unwrap_or(pg_sys::Datum::from(0usize)));
        }
        // SAFETY: both arrays have as many entries as the descriptor; the copy is a value of its own.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::heap_copy_tuple_as_datum(tuple, self.descriptor)
        }
    }
}

/// The function with this signature, in UTF-8 and fully qualified.
fn find(signature: &str) -> Option<pg_sys::Oid> {
    let text = pgrx::IntoDatum::into_datum(super::encoding::to_server(signature).as_slice())?;
    // SAFETY: to_regprocedure takes text, whose form a bytea shares, and gives null where there is none.
    let found = unsafe { pgrx::direct_function_call_as_datum(pg_sys::to_regprocedure, &[Some(text)]) };
    found.map(|oid| pg_sys::Oid::from(oid.value() as u32))
}

fn owner_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog lookup inside a transaction.
    let tuple = unsafe {
        pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(relation))
    };
    if tuple.is_null() {
        return None;
    }
    // SAFETY: a tuple of pg_class.
    let class: &pg_sys::FormData_pg_class = unsafe { &*pg_sys::GETSTRUCT(tuple).cast() };
    let owner = class.relowner;
    // SAFETY: looked up above; nothing of it is used after.
    unsafe { pg_sys::ReleaseSysCache(tuple) };
    Some(owner)
}

/// `select schema.function($1, …)`.
fn qualified_call(function: pg_sys::Oid, arguments: usize) -> Option<CString> {
    // SAFETY: catalog lookups and string functions in the current memory context.
    let name = unsafe {
        let name = pg_sys::get_func_name(function);
        let schema = pg_sys::get_namespace_name(pg_sys::get_func_namespace(function));
        if name.is_null() || schema.is_null() {
            return None;
        }
        std::ffi::CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name))
    };
    let parameters: Vec<String> = (1..=arguments).map(|number| format!("${number}")).collect();
    CString::new([b"select ", name.to_bytes(), b"(", parameters.join(", ").as_bytes(), b")"].concat()).ok()
}

fn prepare(call: &CString, row_type: pg_sys::Oid, arguments: usize) -> pg_sys::SPIPlanPtr {
    let mut types = [row_type, row_type, pg_sys::TEXTOID];
    // SAFETY: connects for the statement below.
    unsafe { pg_sys::SPI_connect() };
    // SAFETY: as many types as parameters; the statement is ours.
    let plan = unsafe { pg_sys::SPI_prepare(call.as_ptr(), arguments as i32, types.as_mut_ptr()) };
    // SAFETY: prepared above; from now on it is freed by `Mapper`.
    unsafe { pg_sys::SPI_keepplan(plan) };
    // SAFETY: connected above.
    unsafe { pg_sys::SPI_finish() };
    plan
}
