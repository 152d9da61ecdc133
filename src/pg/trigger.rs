//! What a trigger function is told: which trigger, which operation, which rows.

use crate::buffer::Operation;
use crate::render::Column;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A call of a trigger function.
pub struct Fired {
    data: *mut pg_sys::TriggerData,
}

/// How a trigger must be declared for capture to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    NotATrigger,
    NotAfterEachRow,
    Truncate,
    OneArgument,
}

impl Fired {
    /// # Safety
    /// `fcinfo` is what the function manager passed to the function now running.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Result<Fired, Unfit> {
        // SAFETY: the caller promises a live call record.
        let context = unsafe { (*fcinfo).context };
        // SAFETY: a node always begins with its tag.
        if context.is_null() || unsafe { (*context).type_ } != pg_sys::NodeTag::T_TriggerData {
            return Err(Unfit::NotATrigger);
        }
        let fired = Fired { data: context.cast() };
        let event = fired.data().tg_event;
        if event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_TRUNCATE {
            return Err(Unfit::Truncate);
        }
        // AFTER is the absence of the two timing bits.
        if event & pg_sys::TRIGGER_EVENT_ROW == 0 || event & pg_sys::TRIGGER_EVENT_TIMINGMASK != 0 {
            return Err(Unfit::NotAfterEachRow);
        }
        if fired.trigger().tgnargs != 1 {
            return Err(Unfit::OneArgument);
        }
        Ok(fired)
    }

    fn data(&self) -> &pg_sys::TriggerData {
        // SAFETY: lives as long as the call, and so as long as `self`, which does not leave it.
        unsafe { &*self.data }
    }

    fn trigger(&self) -> &pg_sys::Trigger {
        // SAFETY: as for `data`.
        unsafe { &*self.data().tg_trigger }
    }

    /// Identifies the trigger; each partition's clone has its own.
    pub fn trigger_oid(&self) -> pg_sys::Oid {
        self.trigger().tgoid
    }

    pub fn relation(&self) -> pg_sys::Relation {
        self.data().tg_relation
    }

    pub fn relation_oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open for the length of the call.
        unsafe { (*self.relation()).rd_id }
    }

    /// The trigger's argument.
    pub fn argument(&self) -> String {
        // SAFETY: `new` made sure there is one; arguments are C strings.
        let argument = unsafe { CStr::from_ptr(*self.trigger().tgargs) };
        super::encoding::to_utf8(argument.to_bytes())
    }

    pub fn operation(&self) -> Operation {
        match self.data().tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Operation::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Operation::Update,
            _ => Operation::Delete,
        }
    }

    /// The row as it is now; the deleted row for a delete.
    pub fn row(&self) -> Tuple {
        let data = self.data();
        match self.operation() {
            Operation::Update => Tuple { slot: data.tg_newslot },
            Operation::Insert | Operation::Delete => Tuple { slot: data.tg_trigslot },
        }
    }

    /// The row before an update or delete.
    pub fn old(&self) -> Option<Tuple> {
        (self.operation() != Operation::Insert).then(|| Tuple { slot: self.data().tg_trigslot })
    }
}

/// A row of the call.
#[derive(Clone, Copy)]
pub struct Tuple {
    slot: *mut pg_sys::TupleTableSlot,
}

impl Tuple {
    /// The value of the column numbered `number` (from 1); none for NULL.
    pub fn get(self, number: i16) -> Option<pg_sys::Datum> {
        // SAFETY: slots of a trigger call live as long as it.
        let slot = unsafe { &mut *self.slot };
        if slot.tts_nvalid < number {
            // SAFETY: the number comes from the relation's own descriptor, so it is within the row.
            unsafe { pg_sys::slot_getsomeattrs_int(slot, i32::from(number)) };
        }
        let index = usize::try_from(number - 1).unwrap_or(0);
        // SAFETY: both arrays hold at least tts_nvalid entries.
        let (value, null) = unsafe { (*slot.tts_values.add(index), *slot.tts_isnull.add(index)) };
        (!null).then_some(value)
    }

    /// Whether a column has the same value in both rows, bit for bit once fetched and decompressed.
    pub fn same(self, other: Tuple, column: Stored) -> bool {
        match (self.get(column.number), other.get(column.number)) {
            (None, None) => true,
            // SAFETY: both are values of the column's type, whose length and way of passing these are.
            (Some(a), Some(b)) => unsafe { datum_image_eq(a, b, column.by_value, column.length.into()) },
            _ => false,
        }
    }

    /// The number of the command that wrote this version of the row, in the transaction under way; none
    /// where a table's storage does not tell. The row is one this transaction has written.
    pub fn command(self) -> Option<u32> {
        // SAFETY: slots of a trigger call live as long as it.
        let kind = unsafe { (*self.slot).tts_ops };
        if !std::ptr::eq(kind, &raw const pg_sys::TTSOpsBufferHeapTuple) {
            return None;
        }
        // SAFETY: a heap tuple's slot holds it with its header. Asked for by this function, a command is
        // the one that wrote, even when a later one has overwritten its place there.
        let command = unsafe {
            let tuple = pg_sys::ExecFetchSlotHeapTuple(self.slot, false, std::ptr::null_mut());
            pg_sys::HeapTupleHeaderGetCmin((*tuple).t_data)
        };
        Some(command)
    }

    /// The whole row as one composite value.
    pub fn composite(self) -> pg_sys::Datum {
        // SAFETY: the slot is filled; the copy is made in the current memory context.
        unsafe { pg_sys::ExecFetchSlotHeapTupleDatum(self.slot) }
    }
}

/// How a column's values are stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub number: i16,
    by_value: bool,
    length: i16,
}

unsafe extern "C-unwind" {
    /// From utils/datum.h, which pgrx does not bind.
    fn datum_image_eq(a: pg_sys::Datum, b: pg_sys::Datum, by_value: bool, length: core::ffi::c_int) -> bool;
}

/// A row that is not of a trigger's call: a composite value, taken apart.
pub struct Apart {
    slot: *mut pg_sys::TupleTableSlot,
}

impl Apart {
    /// Takes apart a value of the row type of an open relation. The value must outlive the result.
    pub fn new(composite: pg_sys::Datum, relation: pg_sys::Relation) -> Apart {
        // SAFETY: the relation is open, so its descriptor is there to copy.
        let descriptor = unsafe { pg_sys::CreateTupleDescCopy((*relation).rd_att) };
        // SAFETY: a slot of its own with that descriptor, in the current memory context.
        let slot = unsafe { pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual) };
        // SAFETY: the value is of the type the descriptor describes.
        unsafe { pg_sys::ExecStoreHeapTupleDatum(composite, slot) };
        Apart { slot }
    }

    /// Takes apart a composite value of whatever type it says it is of. The value must outlive the result.
    pub fn by_itself(composite: pg_sys::Datum) -> Apart {
        // SAFETY: a composite value begins with a header that names its type, which is registered; its descriptor
        // is copied.
        let descriptor = unsafe {
            let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(composite.cast_mut_ptr()).cast();
            pg_sys::lookup_rowtype_tupdesc_copy(
                (*header).t_choice.t_datum.datum_typeid,
                (*header).t_choice.t_datum.datum_typmod,
            )
        };
        // SAFETY: a slot of its own with that descriptor, in the current memory context.
        let slot = unsafe { pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual) };
        // SAFETY: the value is of the type the descriptor describes.
        unsafe { pg_sys::ExecStoreHeapTupleDatum(composite, slot) };
        Apart { slot }
    }

    /// The columns of its type.
    pub fn typed_columns(&self) -> Vec<Column> {
        // SAFETY: a slot has its descriptor.
        let columns = typed_columns(unsafe { (*self.slot).tts_tupleDescriptor });
        columns.into_iter().map(|(column, _)| column).collect()
    }

    pub fn tuple(&self) -> Tuple {
        Tuple { slot: self.slot }
    }
}

/// A place for one row after another of a query.
pub struct Rows {
    slot: *mut pg_sys::TupleTableSlot,
}

impl Rows {
    /// For rows of a descriptor that outlives it.
    pub fn new(descriptor: pg_sys::TupleDesc) -> Rows {
        // SAFETY: a slot of its own in the current memory context, which outlives it.
        let slot =
            unsafe { pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple) };
        Rows { slot }
    }

    /// For the first columns of such rows: what follows them is not seen, and as a whole a row is these.
    pub fn of_first(columns: usize, descriptor: pg_sys::TupleDesc) -> Rows {
        // SAFETY: a live descriptor.
        let count = unsafe { (*descriptor).natts }.min(i32::try_from(columns).unwrap_or(i32::MAX));
        // SAFETY: the new descriptor has that many columns, and so has the other; with fewer than that it describes the
        // beginning of the same tuples. The server keeps what it registers.
        let registered = unsafe {
            let first = pg_sys::CreateTemplateTupleDesc(count);
            for number in 1..=count {
                pg_sys::TupleDescCopyEntry(first, number as i16, descriptor, number as i16);
            }
            pg_sys::BlessTupleDesc(first)
        };
        Rows::new(registered)
    }

    /// The row of a tuple that fits the descriptor; until the next one, and no longer than the tuple.
    pub fn show(&mut self, tuple: pg_sys::HeapTuple) -> Tuple {
        // SAFETY: the slot is one of heap tuples; it frees none.
        unsafe { pg_sys::ExecStoreHeapTuple(tuple, self.slot, false) };
        Tuple { slot: self.slot }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // SAFETY: made in `new`, dropped once.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // SAFETY: made in `new`, dropped once.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
    }
}

/// Who owns an open relation.
pub fn owner(relation: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: an open relation has its row of pg_class.
    unsafe { (*(*relation).rd_rel).relowner }
}

/// How the values of a relation's column are stored.
pub fn stored(relation: pg_sys::Relation, number: i16) -> Option<Stored> {
    // SAFETY: as for `columns`.
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att) };
    descriptor.iter().find(|attribute| attribute.attnum == number).map(|attribute| Stored {
        number,
        by_value: attribute.attbyval,
        length: attribute.attlen,
    })
}

/// The names of a descriptor's columns in order; none in the place of each that is dropped.
pub fn attributes(descriptor: pg_sys::TupleDesc) -> Vec<Option<String>> {
    // SAFETY: the caller's descriptor is live; a copy is looked at.
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_copy(descriptor) };
    descriptor.iter().map(|attribute| (!attribute.attisdropped).then(|| name_of(attribute))).collect()
}

/// The columns of an open relation that are not dropped: name, number, type.
pub fn columns(relation: pg_sys::Relation) -> Vec<(String, i16, pg_sys::Oid)> {
    // SAFETY: the caller holds the relation open; the descriptor is counted while we use it.
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att) };
    descriptor
        .iter()
        // A virtual generated column (since 18) is computed by queries only; a row has nothing in its place.
        .filter(|attribute| !attribute.attisdropped && attribute.attgenerated as u8 != b'v')
        .map(|attribute| (name_of(attribute), attribute.attnum, attribute.atttypid))
        .collect()
}

/// The columns of a query's live descriptor, each with its type's name as SQL would have it anywhere.
pub fn typed_columns(descriptor: pg_sys::TupleDesc) -> Vec<(Column, String)> {
    // SAFETY: the caller's descriptor is live; a copy is looked at.
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_copy(descriptor) };
    let column = |attribute: &pg_sys::FormData_pg_attribute| {
        let column =
            Column { name: name_of(attribute), number: attribute.attnum, type_oid: attribute.atttypid };
        (column, type_name(attribute.atttypid, attribute.atttypmod))
    };
    descriptor.iter().map(column).collect()
}

/// A type's name, with its schema where it is not of SQL's own.
fn type_name(type_oid: pg_sys::Oid, modifier: i32) -> String {
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: a catalog lookup inside a transaction; gives a C string in the current memory context.
    let name = unsafe { CStr::from_ptr(pg_sys::format_type_extended(type_oid, modifier, flags as u16)) };
    super::encoding::to_utf8(name.to_bytes())
}

/// The columns of an open relation's primary key in the key's own order, which partitions share; none
/// if it has no such key.
pub fn primary_key(relation: pg_sys::Relation) -> Option<Vec<String>> {
    let columns = columns(relation);
    // SAFETY: the relation is open; what comes back is a list of OIDs in the current memory context, and a
    // null pointer if there is none.
    let indexes: Vec<pg_sys::Oid> = unsafe {
        pg_sys::RelationGetIndexList(relation).as_ref().map_or_else(Vec::new, |list| {
            let cells = std::slice::from_raw_parts(list.elements, usize::try_from(list.length).unwrap_or(0));
            cells.iter().map(|cell| cell.oid_value).collect()
        })
    };
    let numbers = indexes.into_iter().find_map(|index| {
        // SAFETY: a catalog lookup inside a transaction.
        let row = unsafe {
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::INDEXRELID as i32, pg_sys::Datum::from(index))
        };
        if row.is_null() {
            return None;
        }
        // SAFETY: a row of pg_index, of which indkey holds indnatts numbers, the key's own first.
        let numbers = unsafe {
            let index: *const pg_sys::FormData_pg_index = pg_sys::GETSTRUCT(row).cast();
            let key_columns = usize::try_from((*index).indnkeyatts).unwrap_or(0);
            let numbers =
                std::slice::from_raw_parts((&raw const (*index).indkey.values).cast::<i16>(), key_columns);
            (*index).indisprimary.then(|| numbers.to_vec())
        };
        // SAFETY: gives back what was looked up.
        unsafe { pg_sys::ReleaseSysCache(row) };
        numbers
    })?;
    let name =
        |number: &i16| columns.iter().find(|(_, column, _)| column == number).map(|(name, ..)| name.clone());
    numbers.iter().map(name).collect()
}

/// Whether an open relation has a virtual generated column of that name.
pub fn is_virtual(relation: pg_sys::Relation, column: &str) -> bool {
    // SAFETY: as for `columns`.
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att) };
    descriptor.iter().any(|attribute| attribute.attgenerated as u8 == b'v' && name_of(attribute) == column)
}

/// A column's name in UTF-8, whatever the database's encoding.
fn name_of(attribute: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: names are zero-terminated.
    let name = unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) };
    super::encoding::to_utf8(name.to_bytes())
}

/// A relation's name with its schema, quoted where need be.
pub fn qualified_name(relation: pg_sys::Oid) -> String {
    // SAFETY: catalog lookups inside a transaction; a name that is gone gives a null pointer.
    let (name, schema) = unsafe {
        (pg_sys::get_rel_name(relation), pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation)))
    };
    if name.is_null() || schema.is_null() {
        return u32::from(relation).to_string();
    }
    // SAFETY: both are C strings in the current memory context, and so is the result.
    let quoted = unsafe { CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name)) };
    super::encoding::to_utf8(quoted.to_bytes())
}
