//! Rows written straight into a table and its indexes, without planner or executor.
//!
//! It is what the server does for its own catalogs. The tables are private and their rows come from
//! code that upholds every constraint, so nothing the executor would check is lost: there are no
//! defaults, triggers, row-level policies or foreign keys on them. What is gained is most of the cost
//! of a single-row transaction, and that capture works for a role that may do nothing but write the
//! source table.

use super::heap::number_of;
use crate::buffer::HEADER;
use pgrx::pg_sys;

/// Slots filled before one multi-insert: enough to fill a page with the smallest messages.
const ROWS_AT_A_TIME: usize = 128;

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
    let indexes = Indexes::open(relation);
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
            insert_one(relation, &indexes, form(row));
        }
    } else {
        insert_many(relation, &indexes, rows.map(form));
    }
    indexes.close();
    // SAFETY: opened above; the lock stays until the transaction ends.
    unsafe { pg_sys::table_close(relation, pg_sys::NoLock as i32) };
}

/// The indexes of a table, open for insertion.
enum Indexes {
    /// One alone, on the number in the first column: that needs none of what the server prepares for indexes of
    /// every kind, which costs a fifth of the insertion.
    Number(NumberIndex),
    Any(pg_sys::CatalogIndexState),
}

struct NumberIndex {
    relation: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
}

impl Indexes {
    fn open(table: pg_sys::Relation) -> Indexes {
        // SAFETY: the relation is open; a copy of its list, which is null or holds what it says.
        let list = unsafe { pg_sys::RelationGetIndexList(table) };
        // SAFETY: as above.
        let only = unsafe { (!list.is_null() && (*list).length == 1).then(|| (*(*list).elements).oid_value) };
        // SAFETY: made above.
        unsafe { pg_sys::list_free(list) };
        if let Some(index) = only.and_then(NumberIndex::open) {
            return Indexes::Number(index);
        }
        // SAFETY: the relation is open.
        Indexes::Any(unsafe { pg_sys::CatalogOpenIndexes(table) })
    }

    fn close(self) {
        match self {
            Indexes::Number(index) => {
                // SAFETY: opened by `NumberIndex::open`; the lock stays until the transaction ends.
                unsafe { pg_sys::index_close(index.relation, pg_sys::NoLock as i32) };
            }
            Indexes::Any(indexes) => {
                // SAFETY: opened by `Indexes::open`.
                unsafe { pg_sys::CatalogCloseIndexes(indexes) };
            }
        }
    }
}

impl NumberIndex {
    /// None if it is an index of another kind.
    fn open(index: pg_sys::Oid) -> Option<NumberIndex> {
        // SAFETY: an ordinary writer's lock, kept until the transaction ends.
        let relation = unsafe { pg_sys::index_open(index, pg_sys::RowExclusiveLock as i32) };
        // SAFETY: an open index; its info lives in the current memory context, which outlives its use.
        let info = unsafe { pg_sys::BuildIndexInfo(relation) };
        // SAFETY: made above.
        let is_on_number = unsafe {
            (*info).ii_NumIndexAttrs == 1
                && (*info).ii_IndexAttrNumbers[0] == 1
                && (*info).ii_Predicate.is_null()
                && (*info).ii_ReadyForInserts
                && (*info).ii_Unique
        };
        if !is_on_number {
            // SAFETY: opened above.
            unsafe { pg_sys::index_close(relation, pg_sys::NoLock as i32) };
        }
        is_on_number.then_some(NumberIndex { relation, info })
    }

    /// # Safety
    /// The row is one of `table`, which this is the index of, and stands at `place`.
    unsafe fn insert(&self, table: pg_sys::Relation, row: pg_sys::HeapTuple, place: pg_sys::ItemPointer) {
        // SAFETY: promised by the caller; such an index is on a `bigint`, and tables have none of theirs null.
        let number = unsafe { number_of((*row).t_data) };
        let (mut values, mut nulls) = ([pg_sys::Datum::from(number)], [false]);
        // SAFETY: promised by the caller; the index has one column.
        unsafe {
            pg_sys::index_insert(
                self.relation,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                place,
                table,
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                false,
                self.info,
            )
        };
    }
}

/// Inserts the rows the slots hold.
fn insert_numbered(
    relation: pg_sys::Relation,
    index: &NumberIndex,
    slots: &mut [*mut pg_sys::TupleTableSlot],
) {
    // SAFETY: the slots hold tuples of this relation. Its last argument says that no page is kept for later.
    unsafe {
        pg_sys::heap_multi_insert(
            relation,
            slots.as_mut_ptr(),
            slots.len() as i32,
            pg_sys::GetCurrentCommandId(true),
            0,
            std::ptr::null_mut(),
        )
    };
    for slot in slots {
        // SAFETY: such slots hold a tuple; the insertion has noted its place.
        unsafe {
            let row = (*(*slot).cast::<pg_sys::HeapTupleTableSlot>()).tuple;
            index.insert(relation, row, &raw mut (**slot).tts_tid)
        };
    }
}

/// Tuples above this go one by one. When a tuple is so large that parts of it move out of line, the
/// server writes a changed copy, and its multi-insert would index the original, which has no place.
const MOST_BYTES_TOGETHER: u32 = pg_sys::BLCKSZ / 4 - 64;

fn insert_one(relation: pg_sys::Relation, indexes: &Indexes, tuple: pg_sys::HeapTuple) {
    match indexes {
        Indexes::Number(index) => {
            // SAFETY: the tuple was formed for this relation.
            unsafe { pg_sys::simple_heap_insert(relation, tuple) };
            // SAFETY: the index is of this relation, and the tuple has just been given its place.
            unsafe { index.insert(relation, tuple, &raw mut (*tuple).t_self) };
        }
        Indexes::Any(indexes) => {
            // SAFETY: the tuple was formed for this relation, whose indexes are open.
            unsafe { pg_sys::CatalogTupleInsertWithInfo(relation, tuple, *indexes) };
        }
    }
    // SAFETY: the tuple was copied to its page.
    unsafe { pg_sys::heap_freetuple(tuple) };
}

fn insert_many(
    relation: pg_sys::Relation,
    indexes: &Indexes,
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
        match indexes {
            Indexes::Number(index) => insert_numbered(relation, index, &mut slots[..filled]),
            Indexes::Any(indexes) => {
                // SAFETY: the first `filled` slots hold tuples of this relation, whose indexes are open.
                unsafe {
                    pg_sys::CatalogTuplesMultiInsertWithInfo(
                        relation,
                        slots.as_mut_ptr(),
                        filled as i32,
                        *indexes,
                    )
                };
            }
        }
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
