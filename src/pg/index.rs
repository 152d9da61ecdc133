//! A walk along an index by number, entry by entry, dead ones included.
//!
//! SQL can say how many rows a query may give, but not how many it may look at: behind a snapshot that somebody
//! holds open, an index keeps the entries of every row that was deleted since, and a query passes all of them for
//! nothing. This walk tells of each entry it passes, so that whoever walks can stop. It sees what the query that it
//! is part of sees: the active snapshot.

use super::cell;
use crate::cursor::Range;
use crate::message::Tid;
use pgrx::{pg_sys, varlena};
use std::ops::ControlFlow;

/// What is walked: a table by one of its indexes, whose last key is a number, unique and never null.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub table: pg_sys::Oid,
    pub index: pg_sys::Oid,
    pub keys: Keys,
}

/// The keys of the index.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    Number,
    /// An `integer` of this value, then the number.
    Under(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// A row, for as long as the walk stands on it.
pub struct Row<'a>(&'a pg_sys::TupleTableSlot);

impl Row<'_> {
    /// Where it stands in its table.
    pub fn tid(&self) -> Tid {
        let pg_sys::ItemPointerData { ip_blkid, ip_posid } = self.0.tts_tid;
        Tid { block: u32::from(ip_blkid.bi_hi) << 16 | u32::from(ip_blkid.bi_lo), offset: ip_posid }
    }

    /// The value of a column, by its place in sql/tables.sql, from 1. It is not null.
    fn datum(&self, column: usize) -> pg_sys::Datum {
        // SAFETY: the first `tts_nvalid` values are read out of the row, which `visit` made sure of.
        unsafe { *self.0.tts_values.add(column - 1) }
    }

    fn is_null(&self, column: usize) -> bool {
        // SAFETY: as above.
        unsafe { *self.0.tts_isnull.add(column - 1) }
    }

    /// A text in UTF-8, if there is one. What it takes to fetch it from where it stands on disk is left in
    /// the current memory context.
    pub fn text(&self, column: usize) -> Option<String> {
        (!self.is_null(column)).then(|| cell::text_as_utf8(self.datum(column)))
    }

    pub fn int8_if_any(&self, column: usize) -> Option<i64> {
        (!self.is_null(column)).then(|| self.int8(column))
    }

    /// PostgreSQL's one-byte `"char"`.
    pub fn char(&self, column: usize) -> u8 {
        self.datum(column).value() as u8
    }

    pub fn int4(&self, column: usize) -> i32 {
        self.datum(column).value() as i32
    }

    pub fn int8(&self, column: usize) -> i64 {
        self.datum(column).value() as i64
    }

    /// The bytes of a text, whose place on disk is not looked at.
    pub fn text_bytes(&self, column: usize) -> usize {
        let datum = self.datum(column);
        let at = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a value of type text, which is not null.
        if unsafe { cell::is_at_hand(at) } {
            // SAFETY: it is here, and as it was written.
            return unsafe { varlena::varsize_any_exhdr(at) };
        }
        // SAFETY: as above.
        let with_header = unsafe { pg_sys::toast_raw_datum_size(datum) };
        with_header.saturating_sub(crate::buffer::HEADER)
    }
}

/// What a step of a walk came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    End,
    /// An entry without a row to be seen.
    Nothing,
    Row,
}

/// The server's functions without pgrx's guard around each.
mod raw {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn index_getnext_tid(
            scan: pg_sys::IndexScanDesc,
            direction: pg_sys::ScanDirection::Type,
        ) -> pg_sys::ItemPointer;
        pub fn index_fetch_heap(scan: pg_sys::IndexScanDesc, slot: *mut pg_sys::TupleTableSlot) -> bool;
        pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, columns: core::ffi::c_int);
    }
}

/// An open walk.
pub struct Walk {
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    keys: Keys,
    /// How many columns of a row can be asked for.
    columns: usize,
}

/// Opens a walk for `work`; of each row its first `columns` can be asked for.
pub fn along<R>(path: Path, columns: usize, work: impl FnOnce(&mut Walk) -> R) -> R {
    // SAFETY: an ordinary reader's lock.
    let relation = unsafe { pg_sys::table_open(path.table, pg_sys::AccessShareLock as i32) };
    // SAFETY: as above.
    let index = unsafe { pg_sys::index_open(path.index, pg_sys::AccessShareLock as i32) };
    // SAFETY: the relation is open.
    let slot = unsafe { pg_sys::table_slot_create(relation, std::ptr::null_mut()) };
    let scan = super::compat::begin_index_scan(relation, index, path.keys.count());
    // Before the first positioning: then the index keeps its own entries at hand.
    // SAFETY: the scan is open.
    unsafe { (*scan).xs_want_itup = true };
    let mut walk = Walk { relation, index, scan, slot, keys: path.keys, columns };
    let result = work(&mut walk);
    walk.close();
    result
}

impl Keys {
    /// How many conditions a range takes.
    fn count(self) -> i32 {
        match self {
            Keys::Number => 2,
            Keys::Under(_) => 3,
        }
    }

    /// Where the number stands in an entry: behind the entry's header, and what precedes it, aligned.
    fn offset(self) -> usize {
        const HEADER: usize = size_of::<pg_sys::IndexTupleData>();
        match self {
            Keys::Number => HEADER.next_multiple_of(8),
            Keys::Under(_) => (HEADER + size_of::<i32>()).next_multiple_of(8),
        }
    }
}

impl Walk {
    /// Calls `visit` with each entry in `range`: its number, and the row, if there is one to be seen.
    /// Says whether it came to the end.
    pub fn visit(
        &mut self,
        range: Range,
        direction: Direction,
        mut visit: impl FnMut(i64, Option<Row<'_>>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.place(range);
        let direction = match direction {
            Direction::Up => pg_sys::ScanDirection::ForwardScanDirection,
            Direction::Down => pg_sys::ScanDirection::BackwardScanDirection,
        };
        loop {
            let (scan, slot, columns) = (self.scan, self.slot, self.columns as i32);
            // SAFETY: the scan is open and placed; the slot was made for its table, which has so many columns. One
            // guard for the three, because each costs as much as what it guards; none of them leaves anything to drop.
            let step = unsafe {
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    if raw::index_getnext_tid(scan, direction).is_null() {
                        return Step::End;
                    }
                    if !raw::index_fetch_heap(scan, slot) {
                        return Step::Nothing;
                    }
                    raw::slot_getsomeattrs_int(slot, columns);
                    Step::Row
                })
            };
            if step == Step::End {
                return ControlFlow::Continue(());
            }
            // SAFETY: the scan stands on an entry and was asked to keep it; its number is not null.
            let id = unsafe {
                (*self.scan).xs_itup.cast::<u8>().add(self.keys.offset()).cast::<i64>().read_unaligned()
            };
            // SAFETY: the slot holds a row, and nothing touches it while it is lent out.
            let row = (step == Step::Row).then(|| Row(unsafe { &*self.slot }));
            visit(id, row)?;
            pgrx::check_for_interrupts!();
        }
    }

    /// Goes before the first entry in `range`.
    fn place(&mut self, range: Range) {
        let (from, to) = (pg_sys::Datum::from(range.from), pg_sys::Datum::from(range.to));
        let number = match self.keys {
            Keys::Number => 1,
            Keys::Under(_) => 2,
        };
        let mut conditions = vec![
            (number, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, from),
            (number, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE, to),
        ];
        if let Keys::Under(value) = self.keys {
            let equal = pg_sys::BTEqualStrategyNumber;
            conditions.insert(0, (1, equal, pg_sys::F_INT4EQ, pg_sys::Datum::from(value)));
        }
        let mut keys = vec![pg_sys::ScanKeyData::default(); conditions.len()];
        for (key, (column, strategy, function, value)) in keys.iter_mut().zip(conditions) {
            // SAFETY: fills the key; the functions are those of the types of the index's columns.
            unsafe { pg_sys::ScanKeyInit(key, column, strategy as u16, function.into(), value) };
        }
        // SAFETY: the scan was opened for so many keys, which it copies.
        unsafe {
            pg_sys::index_rescan(self.scan, keys.as_mut_ptr(), keys.len() as i32, std::ptr::null_mut(), 0)
        };
    }

    fn close(self) {
        // SAFETY: opened in `along`, each once. On an error the transaction's end closes them.
        unsafe { pg_sys::index_endscan(self.scan) };
        // SAFETY: as above.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
        // SAFETY: as above.
        unsafe { pg_sys::index_close(self.index, pg_sys::AccessShareLock as i32) };
        // SAFETY: as above.
        unsafe { pg_sys::table_close(self.relation, pg_sys::AccessShareLock as i32) };
    }
}
