//! The private tables by number: found, counted and read without planner or executor, so that capture works for a
//! role that may do nothing but write the source table.

use pgrx::pg_sys;
use std::ffi::CStr;

unsafe extern "C-unwind" {
    #[link_name = "nextval_internal"]
    fn nextval_internal_raw(sequence: pg_sys::Oid, check_permissions: bool) -> i64;
}

/// The next value of a sequence, whether or not the current role may use it.
pub fn next_value(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: a function the server exports for identity columns; the guard turns its errors into panics.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| nextval_internal_raw(sequence, false)) }
}

/// The table, index or sequence of that name in that schema.
pub fn find(name: &CStr, schema: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog lookup inside a transaction.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The extension's schema, found through the extension and not by its own name, which may belong to
/// somebody else; none where the extension is not installed.
pub fn extension_schema() -> Option<pg_sys::Oid> {
    // SAFETY: a catalog lookup inside a transaction.
    let extension = unsafe { pg_sys::get_extension_oid(c"lago_push".as_ptr(), true) };
    if extension == pg_sys::InvalidOid {
        return None;
    }
    // SAFETY: as above.
    let schema = unsafe { pg_sys::get_namespace_oid(c"lago_push".as_ptr(), true) };
    let mut owned = schema != pg_sys::InvalidOid;
    if owned {
        // SAFETY: as above.
        let owner = unsafe { pg_sys::getExtensionOfObject(pg_sys::NamespaceRelationId, schema) };
        // The schema belongs to the extension, or was there before and holds the extension's tables.
        owned = owner == extension || owner == pg_sys::InvalidOid && holds_our_tables(extension, schema);
    }
    owned.then_some(schema)
}

fn holds_our_tables(extension: pg_sys::Oid, schema: pg_sys::Oid) -> bool {
    find(c"message", schema).is_some_and(|table| {
        // SAFETY: a catalog lookup inside a transaction.
        unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table) == extension }
    })
}

/// The number in the first column of a row of a private table.
///
/// # Safety
/// The header is a row's, and the table's first column is a `bigint` that is never null.
pub unsafe fn number_of(row: pg_sys::HeapTupleHeader) -> i64 {
    // SAFETY: promised by the caller; the header says where the first column begins.
    unsafe { row.cast::<u8>().add(usize::from((*row).t_hoff)).cast::<i64>().read_unaligned() }
}

/// Calls `visit` with every row of a small private table, its columns in order, until `visit` is
/// satisfied. Reads what is committed now plus the current transaction's own changes.
pub fn scan<R>(
    table: pg_sys::Oid,
    mut visit: impl FnMut(&dyn Fn(i16) -> Option<pg_sys::Datum>) -> Option<R>,
) -> Option<R> {
    // SAFETY: an ordinary reader's lock.
    let relation = unsafe { pg_sys::table_open(table, pg_sys::AccessShareLock as i32) };
    // SAFETY: the relation is open; a null snapshot means the latest; no index is named.
    let scan = unsafe {
        pg_sys::systable_beginscan(
            relation,
            pg_sys::InvalidOid,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        )
    };
    let mut result = None;
    while result.is_none() {
        // SAFETY: the scan is open.
        let tuple = unsafe { pg_sys::systable_getnext(scan) };
        if tuple.is_null() {
            break;
        }
        let column = |number: i16| {
            // SAFETY: an open relation has its descriptor.
            if i32::from(number) > unsafe { (*(*relation).rd_att).natts } {
                // The library may be newer than the table: see ALTER EXTENSION … UPDATE.
                return None;
            }
            let mut null = false;
            // SAFETY: the tuple is valid until the next step; the table has that column.
            let datum =
                unsafe { pg_sys::heap_getattr(tuple, i32::from(number), (*relation).rd_att, &mut null) };
            (!null).then_some(datum)
        };
        result = visit(&column);
    }
    // SAFETY: opened above.
    unsafe { pg_sys::systable_endscan(scan) };
    // SAFETY: opened above; nothing that was read is used after.
    unsafe { pg_sys::table_close(relation, pg_sys::AccessShareLock as i32) };
    result
}

/// Counts the committed rows of a table in which an integer column has a value, up to `most`. Rows the
/// transaction under way has written itself are left out. Whoever calls needs no right to the table.
pub fn count_of_others(table: pg_sys::Oid, column: i16, value: i32, most: i64) -> i64 {
    // SAFETY: an ordinary reader's lock.
    let relation = unsafe { pg_sys::table_open(table, pg_sys::AccessShareLock as i32) };
    // SAFETY: the relation is open; a null snapshot means the latest; no index is named.
    let scan = unsafe {
        pg_sys::systable_beginscan(
            relation,
            pg_sys::InvalidOid,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        )
    };
    let mut count = 0;
    while count < most {
        // SAFETY: the scan is open.
        let tuple = unsafe { pg_sys::systable_getnext(scan) };
        if tuple.is_null() {
            break;
        }
        let mut null = false;
        // SAFETY: the tuple is valid until the next step; the caller names a column of the table.
        let found = unsafe { pg_sys::heap_getattr(tuple, i32::from(column), (*relation).rd_att, &mut null) };
        if null || found.value() as i32 != value {
            continue;
        }
        // SAFETY: as above; a tuple on a page has a plain transaction id for its writer.
        let writer = unsafe { (*(*tuple).t_data).t_choice.t_heap.t_xmin };
        // SAFETY: compares with the ids of this backend.
        if !unsafe { pg_sys::TransactionIdIsCurrentTransactionId(writer) } {
            count += 1;
        }
    }
    // SAFETY: opened above.
    unsafe { pg_sys::systable_endscan(scan) };
    // SAFETY: opened above; nothing that was read is used after.
    unsafe { pg_sys::table_close(relation, pg_sys::AccessShareLock as i32) };
    count
}

/// Has every backend, and the worker, forget what it has cached from that table, once the current
/// transaction commits.
pub fn announce_change(table: pg_sys::Oid) {
    // SAFETY: queues an invalidation message of the current transaction.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) };
}
