//! Walk: the rows of a query, some at a time, until somebody has enough.

use super::caller::with_rights_of;
use super::{cell, rows};
use pgrx::{PgMemoryContexts, pg_sys};
use std::ffi::CStr;
use std::ops::ControlFlow;

/// Rows held in memory at once.
const ROWS_AT_A_TIME: core::ffi::c_long = 500;

/// Where a walk ended.
#[derive(Debug, Default)]
pub struct Walked {
    /// How many rows were visited.
    pub rows: i64,
    /// All columns but the first of the last row visited, as text in the database's encoding.
    pub last: Vec<Vec<u8>>,
}

/// Runs a query, in the database's encoding, with a role's rights and the settings pinned that values may
/// depend on. Hands `visit` the first column of each row, until it breaks. What is allocated in a
/// visit, and the value itself, lives until the visits to the rows around it are over.
pub fn walk(
    role: pg_sys::Oid,
    command: &[u8],
    mut visit: impl FnMut(Option<pg_sys::Datum>) -> ControlFlow<()>,
) -> Option<Walked> {
    with_rights_of(role, || {
        cell::pinned(|| {
            rows::with_cursor(command, |portal| {
                let mut walked = Walked::default();
                while visit_some(portal, &mut visit, &mut walked).is_continue() {}
                walked
            })
        })
    })
}

/// Fetches some rows and visits them.
fn visit_some(
    portal: pg_sys::Portal,
    visit: &mut impl FnMut(Option<pg_sys::Datum>) -> ControlFlow<()>,
    walked: &mut Walked,
) -> ControlFlow<()> {
    // SAFETY: an open cursor of this connection.
    unsafe { pg_sys::SPI_cursor_fetch(portal, true, ROWS_AT_A_TIME) };
    // SAFETY: variables SPI has just set.
    let (table, count) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize) };
    if table.is_null() || count == 0 {
        return ControlFlow::Break(());
    }
    let mut visited = 0;
    let mut memory = PgMemoryContexts::new("lago_push rows");
    // SAFETY: what is allocated in it is used within it.
    let flow = unsafe {
        memory.switch_to(|_| {
            let mut flow = ControlFlow::Continue(());
            while visited < count && flow.is_continue() {
                pgrx::check_for_interrupts!();
                let mut null = false;
                let datum =
                    pg_sys::SPI_getbinval(*(*table).vals.add(visited), (*table).tupdesc, 1, &raw mut null);
                flow = visit((!null).then_some(datum));
                visited += 1;
            }
            flow
        })
    };
    walked.rows += visited as i64;
    walked.last = texts(table, visited - 1);
    // SAFETY: the table of this fetch, of which nothing is used after.
    unsafe { pg_sys::SPI_freetuptable(table) };
    flow
}

/// The columns of a row but the first, as text; an empty one in the place of null.
fn texts(table: *mut pg_sys::SPITupleTable, row: usize) -> Vec<Vec<u8>> {
    // SAFETY: a live table of that many rows at least.
    let (tuple, descriptor) = unsafe { (*(*table).vals.add(row), (*table).tupdesc) };
    // SAFETY: a live descriptor.
    let columns = unsafe { (*descriptor).natts };
    (2..=columns)
        .map(|number| {
            // SAFETY: the tuple has that column; what comes back is a C string in SPI's memory, or null.
            unsafe {
                let text = pg_sys::SPI_getvalue(tuple, descriptor, number);
                if text.is_null() { Vec::new() } else { CStr::from_ptr(text).to_bytes().to_vec() }
            }
        })
        .collect()
}
