//! Runs under way: how far each is, for the view `runs`; which there are, for the worker and for whoever wants the
//! database alone.

use super::{BLOCK, owner};
use crate::pg::process;
use crate::run::compare::Counts;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

/// Runs that can be under way at a time, in all databases.
pub const RUNS: usize = 64;

#[repr(C)]
pub struct RunSlot {
    /// Database and sync in one number, so that both are claimed together; 0 when free.
    owner: AtomicU64,
    pid: AtomicI32,
    rows_read: AtomicU64,
    added: AtomicU64,
    changed: AtomicU64,
    removed: AtomicU64,
    unchanged: AtomicU64,
}

/// Where a run shows how far it is; nowhere if all places are taken.
#[derive(Clone, Copy)]
pub struct Progress(Option<&'static RunSlot>);

fn slots() -> impl Iterator<Item = &'static RunSlot> {
    BLOCK.get().into_iter().flat_map(|shared| &shared.runs)
}

fn of(database: pg_sys::Oid) -> impl Iterator<Item = &'static RunSlot> {
    let own = u64::from(u32::from(database));
    slots().filter(move |slot| slot.owner.load(SeqCst) >> 32 == own && slot.owner.load(SeqCst) != 0)
}

/// The calling process is the run of that sync now.
pub fn enter(sync: i32) -> Progress {
    let own = owner(sync);
    let slot = slots().find(|slot| slot.owner.compare_exchange(0, own, SeqCst, SeqCst).is_ok());
    if let Some(slot) = slot {
        slot.pid.store(process::own_pid(), SeqCst);
    }
    let progress = Progress(slot);
    progress.show(&Counts::default());
    progress
}

impl Progress {
    pub fn show(&self, counts: &Counts) {
        let Some(slot) = self.0 else { return };
        slot.rows_read.store(counts.rows_read, SeqCst);
        slot.added.store(counts.added, SeqCst);
        slot.changed.store(counts.changed, SeqCst);
        slot.removed.store(counts.removed, SeqCst);
        slot.unchanged.store(counts.unchanged, SeqCst);
    }

    /// How many rows it has read.
    pub fn rows_read(&self) -> u64 {
        self.0.map_or(0, |slot| slot.rows_read.load(SeqCst))
    }

    /// The run is over. Cannot fail.
    pub fn leave(&self) {
        if let Some(slot) = self.0 {
            slot.pid.store(0, SeqCst);
            slot.owner.store(0, SeqCst);
        }
    }
}

/// A run under way in this database.
pub struct UnderWay {
    pub sync: i32,
    pub pid: i32,
    pub counts: Counts,
}

pub fn under_way() -> Vec<UnderWay> {
    of(process::own_database())
        .map(|slot| UnderWay {
            sync: (slot.owner.load(SeqCst) as u32).cast_signed(),
            pid: slot.pid.load(SeqCst),
            counts: Counts {
                rows_read: slot.rows_read.load(SeqCst),
                added: slot.added.load(SeqCst),
                changed: slot.changed.load(SeqCst),
                removed: slot.removed.load(SeqCst),
                unchanged: slot.unchanged.load(SeqCst),
            },
        })
        .collect()
}

/// Whether any is under way in a database.
pub fn any(database: pg_sys::Oid) -> bool {
    of(database).next().is_some()
}

/// Ends the run of a sync of this database. It says whether there is one.
pub fn end(sync: i32) -> bool {
    let own = owner(sync);
    let slot = slots().find(|slot| slot.owner.load(SeqCst) == own);
    if let Some(pid) = slot.map(|slot| slot.pid.load(SeqCst)).filter(|pid| *pid > 0) {
        process::end(pid);
    }
    slot.is_some()
}

/// Ends those of a database: somebody wants it alone. They are begun again afterwards.
pub fn end_all(database: pg_sys::Oid) {
    for slot in of(database) {
        let pid = slot.pid.load(SeqCst);
        if pid > 0 {
            process::end(pid);
        }
    }
}
