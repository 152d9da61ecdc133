//! The rows of a cursor, a page at a time, for those who read along several of them at once.
//!
//! Opening, fetching and closing each happen with whatever rights are in force then; who reads along with a query of
//! somebody else's borrows that one's rights for each of them. All of it lies in one connection of SPI, which the
//! caller holds: see [`connected`]. The server leaves the connection's own memory current after each call, which is given
//! back only when the connection ends; here whatever was current stays so.

use pgrx::datum::DatumWithOid;
use pgrx::{PgMemoryContexts, pg_sys};
use std::ffi::CString;

/// Does `work` within a connection of SPI, and in the memory of before: what it makes may outlive the connection.
pub fn connected<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: an error disconnects with its transaction or subtransaction.
    in_same_memory(|| unsafe { pg_sys::SPI_connect() });
    let result = work();
    // SAFETY: connected above.
    unsafe { pg_sys::SPI_finish() };
    result
}

/// JSON text, in the database's encoding, as a parameter.
pub fn json(text: &[u8]) -> DatumWithOid<'static> {
    // A bytea and a json have the same form.
    let datum = pgrx::IntoDatum::into_datum(text).unwrap_or(pg_sys::Datum::from(0usize));
    // SAFETY: text that was json when it was stored.
    unsafe { DatumWithOid::new(datum, pg_sys::JSONOID) }
}

/// What `visit` makes of the first column of the first row of a query; none if there is no row, or null. The value is
/// a copy in the current memory context.
pub fn first<R>(
    query: &[u8],
    parameters: &[DatumWithOid<'_>],
    visit: impl FnOnce(pg_sys::Datum) -> R,
) -> Option<R> {
    let mut pages = Pages::open(query, parameters)?;
    let copy = pages.fetch(1).and_then(|page| page.composite(0));
    pages.close();
    copy.map(visit)
}

/// Does `work`, which is a call of SPI, and goes on in the memory of before: SPI would have left its own, which is gone
/// when the connection is.
fn in_same_memory<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: reads a variable of the backend.
    let memory = unsafe { pg_sys::CurrentMemoryContext };
    let result = work();
    // SAFETY: it was current.
    unsafe { pg_sys::MemoryContextSwitchTo(memory) };
    result
}

/// Does `work` in memory of its own, which is given back at once: nothing that it allocates from the server may outlive
/// it.
pub fn in_own_memory<R>(work: impl FnOnce() -> R) -> R {
    let mut memory = PgMemoryContexts::new("lago_push page");
    // SAFETY: see above.
    unsafe { memory.switch_to(|_| work()) }
}

/// Plans a query, in the database's encoding, and so locks all that it reads until the transaction ends. Within a
/// connection of SPI.
///
/// # Panics
/// Raises the server's errors: of the query's text, and of the rights to what it names.
pub fn lock(query: &[u8]) {
    let Ok(query) = CString::new(query) else { return };
    in_same_memory(|| {
        // SAFETY: inside a connection, which keeps the plan; no parameters. The server copies the text.
        let plan = unsafe { pg_sys::SPI_prepare(query.as_ptr(), 0, std::ptr::null_mut()) };
        // SAFETY: a plan of this connection, or a null pointer.
        let cached = if plan.is_null() {
            std::ptr::null_mut()
        } else {
            // SAFETY: as above.
            unsafe { pg_sys::SPI_plan_get_cached_plan(plan) }
        };
        if !cached.is_null() {
            // SAFETY: counted above, and by no resource owner, as the plan is not kept.
            unsafe { pg_sys::ReleaseCachedPlan(cached, std::ptr::null_mut()) };
        }
    });
}

/// An open cursor.
pub struct Pages {
    portal: pg_sys::Portal,
}

/// Some rows of a cursor.
pub struct Page {
    table: *mut pg_sys::SPITupleTable,
    rows: usize,
}

impl Pages {
    /// Opens a cursor for a query that may read only, in the database's encoding, and its parameters. None where it holds a zero byte.
    ///
    /// # Panics
    /// Raises the server's errors: of the query's text, and of the rights to what it names.
    pub fn open(query: &[u8], parameters: &[DatumWithOid<'_>]) -> Option<Pages> {
        let query = CString::new(query).ok()?;
        let mut types: Vec<pg_sys::Oid> = parameters.iter().map(DatumWithOid::oid).collect();
        let mut values: Vec<pg_sys::Datum> = parameters
            .iter()
            .map(|parameter| {
                parameter.datum().map_or(pg_sys::Datum::from(0usize), |datum| datum.sans_lifetime())
            })
            .collect();
        // SAFETY: inside a connection; as many types as values, none null. The server copies text and values.
        let portal = in_same_memory(|| unsafe {
            pg_sys::SPI_cursor_open_with_args(
                std::ptr::null(),
                query.as_ptr(),
                parameters.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                std::ptr::null(),
                true,
                0,
            )
        });
        Some(Pages { portal })
    }

    /// What its rows look like; lives as long as the cursor.
    pub fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: an open cursor.
        unsafe { (*self.portal).tupDesc }
    }

    /// Fetches the next rows, at most so many; none when there are no more.
    ///
    /// # Panics
    /// Raises the errors of the query.
    pub fn fetch(&mut self, rows: u16) -> Option<Page> {
        // SAFETY: an open cursor of this connection.
        in_same_memory(|| unsafe {
            pg_sys::SPI_cursor_fetch(self.portal, true, core::ffi::c_long::from(rows));
        });
        Page::given()
    }

    /// Ends the query.
    pub fn close(self) {
        // SAFETY: opened in `open`, closed once; an error before that closes it with its transaction.
        in_same_memory(|| unsafe { pg_sys::SPI_cursor_close(self.portal) });
    }
}

/// A query that is planned once for a connection, and asked again and again for one value.
pub struct Prepared {
    plan: pg_sys::SPIPlanPtr,
}

impl Prepared {
    /// Plans a query that may read only, in the database's encoding. None where it holds a zero byte.
    ///
    /// # Panics
    /// Raises the server's errors: of the query's text, and of the rights to what it names.
    pub fn new(query: &[u8], parameter: pg_sys::Oid) -> Option<Prepared> {
        let query = CString::new(query).ok()?;
        let mut types = [parameter];
        // SAFETY: inside a connection, which keeps the plan; one type. The server copies the text.
        let plan = in_same_memory(|| unsafe { pg_sys::SPI_prepare(query.as_ptr(), 1, types.as_mut_ptr()) });
        (!plan.is_null()).then_some(Prepared { plan })
    }

    /// The first column of the first row, as a copy in the current memory context; none if there is no row, or null.
    ///
    /// # Panics
    /// Raises the errors of the query.
    pub fn first(&self, parameter: &DatumWithOid<'_>) -> Option<pg_sys::Datum> {
        let mut values = [parameter.datum()?.sans_lifetime()];
        // SAFETY: a plan of this connection; a value of its parameter's type, not null.
        in_same_memory(|| unsafe {
            pg_sys::SPI_execute_plan(self.plan, values.as_mut_ptr(), std::ptr::null(), true, 1);
        });
        Page::given()?.composite(0)
    }
}

impl Page {
    /// What the last call of SPI gave; none where that is no row.
    fn given() -> Option<Page> {
        // SAFETY: variables SPI has just set.
        let (table, rows) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize) };
        let page = Page { table, rows };
        (!table.is_null() && rows > 0).then_some(page)
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    /// What its rows take, but for what is stored out of line.
    pub fn bytes(&self) -> usize {
        // SAFETY: each is a live tuple.
        (0..self.rows).map(|row| unsafe { (*self.tuple(row)).t_len } as usize).sum()
    }

    /// The row of that index, below [`Page::len`]; lives as long as the page.
    pub fn tuple(&self, index: usize) -> pg_sys::HeapTuple {
        assert!(index < self.rows, "a page has no such row");
        // SAFETY: the table holds that many tuples.
        unsafe { *(*self.table).vals.add(index) }
    }
}

impl Page {
    /// The first column of the row of that index, a composite value, as a copy in the current memory context; none if
    /// it is null.
    pub fn composite(&self, index: usize) -> Option<pg_sys::Datum> {
        let mut null = false;
        // SAFETY: a row of the table, which has that column.
        let datum =
            unsafe { pg_sys::SPI_getbinval(self.tuple(index), (*self.table).tupdesc, 1, &raw mut null) };
        // SAFETY: a composite value is a varlena.
        (!null).then(|| unsafe { pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr())) })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // An error ends the connection, and the table with it; it may have come out of another connection within.
        if !std::thread::panicking() {
            // SAFETY: the table of one fetch in the connection that is current, freed once.
            unsafe { pg_sys::SPI_freetuptable(self.table) };
        }
    }
}
