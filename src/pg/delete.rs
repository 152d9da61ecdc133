//! Rows deleted from where they stood when they were read, without planner, executor or index.
//!
//! Settling deletes every message that was delivered, so what a deletion costs decides how fast an outbox
//! empties. The worker knows each message's place from reading it; to find it again by its number, through the
//! index, costs twice what deleting it does. It is deleted only if it is still the message that was read.

use super::heap::number_of;
use crate::message::Tid;
use pgrx::pg_sys;

/// The server's function without pgrx's guard.
mod raw {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn heap_delete(
            relation: pg_sys::Relation,
            tid: pg_sys::ItemPointer,
            command: pg_sys::CommandId,
            crosscheck: pg_sys::Snapshot,
            wait: bool,
            failure: *mut pg_sys::TM_FailureData,
            changing_partition: bool,
        ) -> pg_sys::TM_Result::Type;
    }
}

/// Deletes rows of a private table, each known by the `bigint` in its first column. Gives the numbers of those
/// that are not where they were: somebody has changed them, or has written the table anew. A row that another
/// transaction has deleted meanwhile counts as deleted.
pub fn delete(table: pg_sys::Oid, rows: &[(i64, Tid)]) -> Vec<i64> {
    if rows.is_empty() {
        return Vec::new();
    }
    // SAFETY: the lock is an ordinary writer's, kept until the transaction ends.
    let relation = unsafe { pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32) };
    // SAFETY: the relation is open; under this lock it may grow and not shrink.
    let blocks =
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM) };
    // SAFETY: inside a transaction, of which this is a command that writes.
    let command = unsafe { pg_sys::GetCurrentCommandId(true) };
    let mut missed = Vec::new();
    for rows in rows.chunk_by(|(_, one), (_, next)| one.block == next.block) {
        match rows.first() {
            Some((_, tid)) if tid.block < blocks => {
                delete_on_page(relation, command, tid.block, rows, &mut missed);
            }
            _ => missed.extend(rows.iter().map(|(id, _)| *id)),
        }
    }
    // SAFETY: opened above; the lock stays until the transaction ends.
    unsafe { pg_sys::table_close(relation, pg_sys::NoLock as i32) };
    missed
}

/// Deletes rows that stood on one page.
fn delete_on_page(
    relation: pg_sys::Relation,
    command: pg_sys::CommandId,
    block: u32,
    rows: &[(i64, Tid)],
    missed: &mut Vec<i64>,
) {
    // Pinned until the end: vacuum clears no place on a pinned page, so that nothing else can come to stand where a
    // row was recognized before it is deleted.
    // SAFETY: the table has that page.
    let buffer = unsafe { pg_sys::ReadBuffer(relation, block) };
    // SAFETY: pinned above.
    unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32) };
    // SAFETY: as above.
    let page = unsafe { pg_sys::BufferGetPage(buffer) };
    let is_there: Vec<bool> = rows
        .iter()
        // SAFETY: the page is pinned and locked.
        .map(|(id, tid)| unsafe { number_at(page, tid.offset) } == Some(*id))
        .collect();
    // SAFETY: locked above.
    unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32) };
    for ((id, tid), is_there) in rows.iter().zip(is_there) {
        let is_gone = is_there && {
            let result = delete_one(relation, command, *tid);
            result == pg_sys::TM_Result::TM_Ok || result == pg_sys::TM_Result::TM_Deleted
        };
        if !is_gone {
            missed.push(*id);
        }
    }
    // SAFETY: pinned above.
    unsafe { pg_sys::ReleaseBuffer(buffer) };
}

/// The `bigint` a row begins with, if a row stands there.
///
/// # Safety
/// The page is of a table whose first column is a `bigint` that is never null, and is pinned and locked.
unsafe fn number_at(page: pg_sys::Page, offset: u16) -> Option<i64> {
    // pgrx has none of the server's inline functions for this in all of its versions.
    const PLACES: usize = core::mem::offset_of!(pg_sys::PageHeaderData, pd_linp);
    let header = page.cast::<pg_sys::PageHeaderData>();
    // SAFETY: promised by the caller; a page begins with its header, and behind that come the places.
    let places =
        usize::from(unsafe { (*header).pd_lower }).saturating_sub(PLACES) / size_of::<pg_sys::ItemIdData>();
    let index = usize::from(offset).checked_sub(1).filter(|index| *index < places)?;
    // SAFETY: the page has that place.
    let place = unsafe { &*page.cast::<u8>().add(PLACES).cast::<pg_sys::ItemIdData>().add(index) };
    if place.lp_flags() != pg_sys::LP_NORMAL {
        return None;
    }
    // SAFETY: a place in use points to a row, which begins with its header.
    let row = unsafe { page.cast::<u8>().add(place.lp_off() as usize) }.cast::<pg_sys::HeapTupleHeaderData>();
    // What this very transaction has changed, in a trigger on replies for one, is left to SQL.
    // SAFETY: a row on a page has plain transaction ids.
    let (changed_by, hints) = unsafe { ((*row).t_choice.t_heap.t_xmax, u32::from((*row).t_infomask)) };
    // SAFETY: compares with the ids of this backend.
    let is_ours = || unsafe { pg_sys::TransactionIdIsCurrentTransactionId(changed_by) };
    if hints & pg_sys::HEAP_XMAX_INVALID == 0 && is_ours() {
        return None;
    }
    // SAFETY: promised by the caller.
    Some(unsafe { number_of(row) })
}

/// Waits for whoever is about to change or delete the row, as SQL does.
fn delete_one(
    relation: pg_sys::Relation,
    command: pg_sys::CommandId,
    Tid { block, offset }: Tid,
) -> pg_sys::TM_Result::Type {
    let mut place = pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData { bi_hi: (block >> 16) as u16, bi_lo: block as u16 },
        ip_posid: offset,
    };
    let mut failure = pg_sys::TM_FailureData::default();
    // SAFETY: a row stands there, on a page that is pinned and not locked; no snapshot is checked against.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            raw::heap_delete(
                relation,
                &raw mut place,
                command,
                std::ptr::null_mut(),
                true,
                &raw mut failure,
                false,
            )
        })
    }
}
