//! Shared: the few numbers that backends, workers and the launcher see of each other.
//!
//! Between outbox and worker: a backend that committed messages finds here whom to wake. All of it
//! is hints and observations; nothing here is needed to be right after a crash.

pub mod caps;
pub mod runs;

use self::caps::Caps;
use self::runs::{RUNS, RunSlot};
use crate::pg::process::{self, Place};
use crate::pg::shmem::{self, AllAtomics, Block};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Databases that can have a worker at a time; more than any server runs on one set of processes.
const DATABASES: usize = 256;
/// Destinations whose requests under way are shown.
const LANES: usize = 1024;

#[repr(C)]
pub struct Shared {
    launcher: AtomicI32,
    /// The process that watches a recovery.
    standby: AtomicI32,
    /// Set when a database found no slot: the launcher then visits all of them.
    revisit: AtomicBool,
    slots: [Slot; DATABASES],
    lanes: [LaneSlot; LANES],
    runs: [RunSlot; RUNS],
    caps: Caps,
}

/// One database.
#[repr(C)]
pub struct Slot {
    database: AtomicU32,
    /// There may be something to read.
    wanted: AtomicBool,
    /// Definitions have changed. Not left to the server's invalidation messages: those are sent after
    /// the commit callback that wakes the worker, so it could look too early and then sleep.
    redefined: AtomicBool,
    /// The worker's place plus one; 0 when there is none.
    worker: AtomicI32,
    pid: AtomicI32,
    state: AtomicU32,
    activity: AtomicU32,
    started_at: AtomicI64,
    last_activity: AtomicI64,
    thousandths_per_second: AtomicU64,
    /// Until then no worker is to be connected: somebody wants the database alone.
    keep_out_until: AtomicI64,
    ended_well: AtomicBool,
    /// When a worker is wanted because of the clock; 0 when it is not.
    tick: AtomicI64,
    /// A run was asked for, or has ended: the worker is to look which are due. Apart from `redefined`, which has it try
    /// again what it has put off.
    ran: AtomicBool,
}

#[repr(C)]
struct LaneSlot {
    /// Database and destination in one number, so that both are claimed together; 0 when free.
    owner: AtomicU64,
    in_flight: AtomicU32,
}

// SAFETY: made of atomics and arrays of such, for which all-zero is valid.
unsafe impl AllAtomics for Shared {}

static BLOCK: Block<Shared> = Block::new();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Asleep,
    Idle,
    Working,
}

/// What a worker does, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    Idle,
    Reading,
    Settling,
    /// Requests are under way.
    Waiting,
    /// None is; the next may go later.
    Pausing,
    /// What was read is not yet with the synchronous standbys.
    Backing,
    Leaving,
}

impl Activity {
    const ALL: [(Activity, &'static str); 7] = [
        (Activity::Idle, "idle"),
        (Activity::Reading, "reading the outbox"),
        (Activity::Settling, "settling"),
        (Activity::Waiting, "waiting for Lago"),
        (Activity::Pausing, "waiting for the next attempt"),
        (Activity::Backing, "waiting for a synchronous standby"),
        (Activity::Leaving, "waiting for the last answers from Lago"),
    ];

    pub fn words(self) -> &'static str {
        Self::ALL.iter().find(|(activity, _)| *activity == self).map_or("", |(_, words)| words)
    }

    fn of(number: u32) -> Option<Activity> {
        Self::ALL.iter().map(|(activity, _)| *activity).find(|activity| *activity as u32 == number)
    }
}

/// Reserves the block. Only from _PG_init.
pub fn reserve() {
    shmem::reserve(|| shmem::request(size_of::<Shared>()), || BLOCK.attach(c"lago_push"));
}

/// How long a transaction that sent the worker out may take before it comes back all the same.
const KEEP_OUT_MICROSECONDS: i64 = 10_000_000;

/// This database's slot, claimed if it has none yet; none when all are taken.
pub fn own_slot() -> Option<&'static Slot> {
    let shared = BLOCK.get()?;
    let own = u32::from(process::own_database());
    if let Some(slot) = slot_of(own) {
        return Some(slot);
    }
    for slot in &shared.slots {
        match slot.database.compare_exchange(0, own, SeqCst, SeqCst) {
            Ok(_) => return Some(slot),
            // Somebody of the same database was faster.
            Err(taken) if taken == own => return Some(slot),
            Err(_) => {}
        }
    }
    shared.revisit.store(true, SeqCst);
    wake_launcher();
    None
}

/// The extension is not installed in this database (any more): its slot, if it has one, wants nothing.
pub fn nothing_to_do_here() {
    if let Some(slot) = slot_of(u32::from(process::own_database())) {
        slot.take_wanted();
        slot.take_news_of_runs();
        slot.set_tick(None);
        slot.ends_well();
    }
}

/// Tells this database's worker that there may be something to read, if lago_push has ever had anything to
/// do here. Cannot fail.
pub fn wake_if_known() {
    if let Some(slot) = slot_of(u32::from(process::own_database())) {
        slot.wake();
    }
}

/// The counters of what waits of syncs with a cap.
pub fn caps() -> Option<&'static Caps> {
    BLOCK.get().map(|shared| &shared.caps)
}

fn slot_of(database: u32) -> Option<&'static Slot> {
    BLOCK.get()?.slots.iter().find(|slot| slot.database.load(SeqCst) == database)
}

pub fn slots() -> impl Iterator<Item = &'static Slot> {
    BLOCK.get().into_iter().flat_map(|shared| &shared.slots).filter(|slot| slot.database.load(SeqCst) != 0)
}

pub fn register_launcher() {
    if let Some(shared) = BLOCK.get() {
        shared.launcher.store(process::own_place().0 + 1, SeqCst);
    }
}

pub fn register_standby() {
    if let Some(shared) = BLOCK.get() {
        shared.standby.store(process::own_place().0 + 1, SeqCst);
    }
}

/// Tells the process that watched the recovery that it is over. Once: its place is another's then.
pub fn end_recovery() {
    if let Some(shared) = BLOCK.get() {
        wake_place(&shared.standby);
        shared.standby.store(0, SeqCst);
    }
}

/// Says, once, whether a database found no slot since this was asked last.
pub fn take_revisit() -> bool {
    BLOCK.get().is_some_and(|shared| shared.revisit.swap(false, SeqCst))
}

fn wake_launcher() {
    if let Some(shared) = BLOCK.get() {
        wake_place(&shared.launcher);
    }
}

fn wake_place(place: &AtomicI32) -> bool {
    let place = place.load(SeqCst);
    if place > 0 {
        process::wake(Place(place - 1));
    }
    place > 0
}

impl Slot {
    pub fn database(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.database.load(SeqCst))
    }

    /// Tells the worker, or the launcher where there is none, that there is something to read. Of
    /// many commits in a burst only the first sets a latch. Cannot fail.
    pub fn wake(&self) {
        if !self.wanted.swap(true, SeqCst) && !wake_place(&self.worker) {
            wake_launcher();
        }
    }

    /// Has the worker read destinations and syncs anew. Cannot fail.
    pub fn redefine(&self) {
        self.redefined.store(true, SeqCst);
        self.wanted.store(true, SeqCst);
        // Not by `wake`: a worker that has no use for more messages leaves `wanted` set.
        if !wake_place(&self.worker) {
            wake_launcher();
        }
    }

    /// Has the worker look which queries are due. Cannot fail.
    pub fn note_run(&self) {
        self.ran.store(true, SeqCst);
        if !wake_place(&self.worker) {
            wake_launcher();
        }
    }

    pub fn has_news_of_runs(&self) -> bool {
        self.ran.load(SeqCst)
    }

    pub fn take_news_of_runs(&self) -> bool {
        self.ran.swap(false, SeqCst)
    }

    pub fn is_redefined(&self) -> bool {
        self.redefined.load(SeqCst)
    }

    pub fn take_redefined(&self) -> bool {
        self.redefined.swap(false, SeqCst)
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst)
    }

    /// The worker is about to read: a wake from now on counts anew.
    pub fn take_wanted(&self) -> bool {
        self.wanted.swap(false, SeqCst)
    }

    pub fn has_worker(&self) -> bool {
        self.worker.load(SeqCst) != 0
    }

    /// The calling process is this database's worker now.
    pub fn enter(&self) {
        self.started_at.store(process::now(), SeqCst);
        self.ended_well.store(false, SeqCst);
        self.set_tick(None);
        self.set_state(State::Idle);
        self.set_activity(Activity::Idle);
        self.pid.store(process::own_pid(), SeqCst);
        self.worker.store(process::own_place().0 + 1, SeqCst);
    }

    /// A worker is about to be started: unless it says otherwise, it failed.
    pub fn begins(&self) {
        self.ended_well.store(false, SeqCst);
    }

    /// The worker leaves before its work is done.
    pub fn want_again(&self) {
        self.wanted.store(true, SeqCst);
    }

    /// When to start a worker that nobody else will ask for, in microseconds since 2000.
    pub fn set_tick(&self, tick: Option<i64>) {
        self.tick.store(tick.unwrap_or(0), SeqCst);
    }

    /// Microseconds to that moment; none if there is none.
    pub fn microseconds_to_tick(&self) -> Option<u64> {
        let tick = Some(self.tick.load(SeqCst)).filter(|tick| *tick != 0)?;
        Some(u64::try_from(tick.saturating_sub(process::now())).unwrap_or(0))
    }

    /// The calling process stops being it. A commit in between sees no worker and wakes the
    /// launcher, or has set `wanted` before and is seen here: both sides write before they read.
    pub fn leave(&self) {
        self.set_state(State::Asleep);
        self.thousandths_per_second.store(0, SeqCst);
        self.worker.store(0, SeqCst);
        self.pid.store(0, SeqCst);
        if self.is_wanted() || self.has_news_of_runs() || self.microseconds_to_tick().is_some() {
            wake_launcher();
        }
    }

    /// The worker ends because it has nothing to do, not because something failed.
    pub fn ends_well(&self) {
        self.ended_well.store(true, SeqCst);
    }

    pub fn ended_well(&self) -> bool {
        self.ended_well.load(SeqCst)
    }

    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, SeqCst);
    }

    pub fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u32, SeqCst);
    }

    pub fn note_activity(&self) {
        self.last_activity.store(process::now(), SeqCst);
    }

    pub fn set_rate(&self, messages_per_second: f64) {
        self.thousandths_per_second.store((messages_per_second * 1000.0) as u64, SeqCst);
    }

    /// Microseconds for which no worker may be connected; 0 when one may.
    pub fn keep_out_microseconds(&self) -> i64 {
        (self.keep_out_until.load(SeqCst) - process::now()).max(0)
    }

    /// Frees the slot of a database that is gone.
    pub fn free(&self) {
        self.wanted.store(false, SeqCst);
        self.ran.store(false, SeqCst);
        self.keep_out_until.store(0, SeqCst);
        self.set_tick(None);
        for (_, place) in caps().into_iter().flat_map(|caps| caps.of(self.database.load(SeqCst))) {
            place.free();
        }
        self.database.store(0, SeqCst);
    }

    pub fn observe(&self) -> Observation {
        let moment = |at: &AtomicI64| Some(at.load(SeqCst)).filter(|at| *at != 0);
        let pid = Some(self.pid.load(SeqCst)).filter(|pid| *pid != 0);
        Observation {
            pid,
            state: match self.state.load(SeqCst) {
                _ if pid.is_none() => "asleep",
                state if state == State::Working as u32 => "working",
                _ => "idle",
            },
            started_at: moment(&self.started_at),
            last_activity: moment(&self.last_activity),
            messages_per_second: self.thousandths_per_second.load(SeqCst) as f64 / 1000.0,
            activity: pid.and_then(|_| Activity::of(self.activity.load(SeqCst))).map(Activity::words),
            wanted: self.is_wanted(),
        }
    }
}

/// What the view `workers` shows. Times are PostgreSQL's microseconds since 2000.
pub struct Observation {
    pub pid: Option<i32>,
    pub state: &'static str,
    pub started_at: Option<i64>,
    pub last_activity: Option<i64>,
    pub messages_per_second: f64,
    /// None when it is not connected.
    pub activity: Option<&'static str>,
    /// Somebody has asked for a worker, and none has come to it yet.
    pub wanted: bool,
}

/// Asks the worker of a database to leave it, and keeps it out for a while.
pub fn keep_out(database: pg_sys::Oid) -> Option<&'static Slot> {
    let slot = slot_of(u32::from(database))?;
    slot.keep_out_until.store(process::now() + KEEP_OUT_MICROSECONDS, SeqCst);
    wake_place(&slot.worker);
    Some(slot)
}

/// The database may have a worker again.
pub fn let_in(database: pg_sys::Oid) {
    if let Some(slot) = slot_of(u32::from(database)) {
        slot.keep_out_until.store(0, SeqCst);
        wake_launcher();
    }
}

/// Something of this database, by its number, in one number.
fn owner(of_database: i32) -> u64 {
    u64::from(u32::from(process::own_database())) << 32 | u64::from(of_database.unsigned_abs())
}

/// Publishes how many requests are under way to a destination.
pub fn publish_in_flight(destination: i32, in_flight: usize) {
    let Some(shared) = BLOCK.get() else { return };
    let owner = owner(destination);
    let lane = shared.lanes.iter().find(|lane| lane.owner.load(SeqCst) == owner).or_else(|| {
        if in_flight == 0 {
            return None;
        }
        shared.lanes.iter().find(|lane| lane.owner.compare_exchange(0, owner, SeqCst, SeqCst).is_ok())
    });
    if let Some(lane) = lane {
        lane.in_flight.store(u32::try_from(in_flight).unwrap_or(u32::MAX), SeqCst);
        if in_flight == 0 {
            lane.owner.store(0, SeqCst);
        }
    }
}

/// The requests under way in this database, by destination.
pub fn in_flight() -> Vec<(i32, i32)> {
    let own = u64::from(u32::from(process::own_database()));
    let lanes = BLOCK.get().into_iter().flat_map(|shared| &shared.lanes);
    lanes
        .filter_map(|lane| {
            let owner = lane.owner.load(SeqCst);
            (owner >> 32 == own && owner != 0)
                .then(|| (owner as u32 as i32, lane.in_flight.load(SeqCst) as i32))
        })
        .collect()
}

/// The worker of this database is gone: nothing is under way.
pub fn forget_in_flight() {
    let own = u64::from(u32::from(process::own_database()));
    for lane in BLOCK.get().into_iter().flat_map(|shared| &shared.lanes) {
        if lane.owner.load(SeqCst) >> 32 == own {
            lane.owner.store(0, SeqCst);
        }
    }
}
