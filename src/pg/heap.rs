//! Rows written straight into a table and its indexes, without planner or executor, and small tables
//! read the same way.
//!
//! It is what the server does for its own catalogs. The tables are private and their rows come from
//! code that upholds every constraint, so nothing the executor would check is lost: there are no
//! defaults, triggers, row-level policies or foreign keys on them. What is gained is most of the cost
//! of a single-row transaction, and that capture works for a role that may do nothing but write the
//! source table.

use crate::buffer::HEADER;
use pgrx::pg_sys;
use std::ffi::CStr;

/// Slots filled before one multi-insert: enough to fill a page with the smallest messages.
const ROWS_AT_A_TIME: usize = 128;

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

/// One value of a row to write.
#[derive(Clone, Copy)]
pub struct Value(Option<pg_sys::Datum>);

impl Value {
    pub const NULL: Value = Value(None);

    pub fn int4(value: i32) -> Value {
        Value(Some(pg_sys::Datum::from(value)))
    }

    pub fn int8(value: i64) -> Value {
        Value(Some(pg_sys::Datum::from(value)))
    }

    /// PostgreSQL's one-byte `"char"`.
    pub fn char(value: u8) -> Value {
        Value(Some(pg_sys::Datum::from(value as i8)))
    }

    /// A text-like value that stands in an arena behind room for its header.
    pub fn text_in_place(with_header: &mut [u8]) -> Value {
        set_varsize(with_header);
        Value(Some(pg_sys::Datum::from(with_header.as_mut_ptr())))
    }

    /// A text-like value copied into the current memory context.
    pub fn text(bytes: &[u8]) -> Value {
        // SAFETY: reads `bytes` only; the copy lives in the current memory context.
        let text = unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32) };
        Value(Some(pg_sys::Datum::from(text)))
    }
}

/// Writes the four-byte length header of an uncompressed varlena.
fn set_varsize(with_header: &mut [u8]) {
    let size = u32::try_from(with_header.len()).unwrap_or(u32::MAX);
    let header = if cfg!(target_endian = "big") { size & 0x3fff_ffff } else { size << 2 };
    with_header[..HEADER].copy_from_slice(&header.to_ne_bytes());
}

/// Inserts rows. The transaction (or subtransaction) under way owns them.
pub fn insert<const COLUMNS: usize>(
    table: pg_sys::Oid,
    rows: impl ExactSizeIterator<Item = [Value; COLUMNS]>,
) {
    if rows.len() == 0 {
        return;
    }
    // SAFETY: the lock is an ordinary writer's, kept until the transaction ends.
    let relation = unsafe { pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32) };
    // SAFETY: the relation is open.
    let indexes = unsafe { pg_sys::CatalogOpenIndexes(relation) };
    // SAFETY: an open relation has its descriptor.
    let descriptor = unsafe { (*relation).rd_att };
    let form = |row: [Value; COLUMNS]| {
        let mut values = row.map(|value| value.0.unwrap_or(pg_sys::Datum::from(0usize)));
        let mut nulls = row.map(|value| value.0.is_none());
        // SAFETY: COLUMNS is the number of columns in sql/tables.sql; both arrays have that length.
        unsafe { pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr()) }
    };
    if rows.len() == 1 {
        for row in rows {
            insert_one(relation, indexes, form(row));
        }
    } else {
        insert_many(relation, indexes, rows.map(form));
    }
    // SAFETY: opened above.
    unsafe { pg_sys::CatalogCloseIndexes(indexes) };
    // SAFETY: opened above; the lock stays until the transaction ends.
    unsafe { pg_sys::table_close(relation, pg_sys::NoLock as i32) };
}

/// Tuples above this go one by one. When a tuple is so large that parts of it move out of line, the
/// server writes a changed copy, and its multi-insert would index the original, which has no place.
const MOST_BYTES_TOGETHER: u32 = pg_sys::BLCKSZ / 4 - 64;

fn insert_one(relation: pg_sys::Relation, indexes: pg_sys::CatalogIndexState, tuple: pg_sys::HeapTuple) {
    // SAFETY: the tuple was formed for this relation, whose indexes are open.
    unsafe { pg_sys::CatalogTupleInsertWithInfo(relation, tuple, indexes) };
    // SAFETY: the tuple was copied to its page.
    unsafe { pg_sys::heap_freetuple(tuple) };
}

fn insert_many(
    relation: pg_sys::Relation,
    indexes: pg_sys::CatalogIndexState,
    mut tuples: impl Iterator<Item = pg_sys::HeapTuple>,
) {
    let mut slots: Vec<*mut pg_sys::TupleTableSlot> = Vec::with_capacity(ROWS_AT_A_TIME);
    loop {
        let (mut filled, mut seen) = (0, 0);
        for tuple in tuples.by_ref().take(ROWS_AT_A_TIME) {
            seen += 1;
            // SAFETY: a tuple just formed.
            if unsafe { (*tuple).t_len } > MOST_BYTES_TOGETHER {
                insert_one(relation, indexes, tuple);
                continue;
            }
            if filled == slots.len() {
                // SAFETY: the relation is open; slots are dropped below, or with their memory context on error.
                slots.push(unsafe {
                    pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &raw const pg_sys::TTSOpsHeapTuple)
                });
            }
            // SAFETY: the slot takes the tuple over and frees it.
            unsafe { pg_sys::ExecStoreHeapTuple(tuple, slots[filled], true) };
            filled += 1;
        }
        if seen == 0 {
            break;
        }
        if filled == 0 {
            continue;
        }
        // SAFETY: the first `filled` slots hold tuples of this relation, whose indexes are open.
        unsafe {
            pg_sys::CatalogTuplesMultiInsertWithInfo(relation, slots.as_mut_ptr(), filled as i32, indexes)
        };
        for slot in &slots[..filled] {
            // SAFETY: the table access method's own function for a slot made above.
            unsafe {
                if let Some(clear) = (*(**slot).tts_ops).clear {
                    clear(*slot);
                }
            }
        }
    }
    for slot in slots {
        // SAFETY: made above, not used after.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(slot) };
    }
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
