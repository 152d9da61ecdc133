//! The rows of a query, some at a time, for queries whose result would not fit into memory.

use pgrx::pg_sys;
use std::ffi::CString;

/// Fetched together.
const ROWS: core::ffi::c_long = 1000;

/// Runs a query, in the database's encoding, and hands `visit` the first column of each row that is not
/// null there. A value lives as long as its visit, and so does what the visit allocates from PostgreSQL.
pub fn for_each(query: &[u8], mut visit: impl FnMut(pg_sys::Datum)) {
    with_cursor(query, |portal| visit_all(portal, &mut visit));
}

/// Opens a cursor for a query, in the database's encoding, for as long as `work` takes. None where the query
/// cannot be one.
pub fn with_cursor<R>(query: &[u8], work: impl FnOnce(pg_sys::Portal) -> R) -> Option<R> {
    let query = CString::new(query).ok()?;
    // SAFETY: connects for the one query below; an error disconnects with its transaction.
    unsafe { pg_sys::SPI_connect() };
    // SAFETY: connected above; no parameters. The server copies the text.
    let portal = unsafe {
        pg_sys::SPI_cursor_open_with_args(
            std::ptr::null(),
            query.as_ptr(),
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null(),
            false,
            0,
        )
    };
    let result = work(portal);
    // SAFETY: opened above.
    unsafe { pg_sys::SPI_cursor_close(portal) };
    // SAFETY: connected above.
    unsafe { pg_sys::SPI_finish() };
    Some(result)
}

fn visit_all(portal: pg_sys::Portal, visit: &mut impl FnMut(pg_sys::Datum)) {
    // SAFETY: a child of the current context, which SPI_finish deletes with all its children.
    let context = unsafe {
        pg_sys::AllocSetContextCreateExtended(
            pg_sys::CurrentMemoryContext,
            c"lago_push rows".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    };
    loop {
        // SAFETY: an open cursor of this connection.
        unsafe { pg_sys::SPI_cursor_fetch(portal, true, ROWS) };
        // SAFETY: variables SPI has just set. The visits may use SPI themselves and set them anew.
        let (table, count) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize) };
        if table.is_null() || count == 0 {
            break;
        }
        for index in 0..count {
            let mut null = false;
            // SAFETY: the table holds that many tuples, each with at least one column.
            let datum = unsafe {
                pg_sys::SPI_getbinval(*(*table).vals.add(index), (*table).tupdesc, 1, &raw mut null)
            };
            if null {
                continue;
            }
            // SAFETY: the context was made above; an error puts back what was current.
            let before = unsafe { pg_sys::MemoryContextSwitchTo(context) };
            visit(datum);
            // SAFETY: puts back what was current.
            unsafe { pg_sys::MemoryContextSwitchTo(before) };
            // SAFETY: nothing of a visit outlives it.
            unsafe { pg_sys::MemoryContextReset(context) };
        }
        // SAFETY: made by the fetch above, and not looked at any more.
        unsafe { pg_sys::SPI_freetuptable(table) };
    }
}
