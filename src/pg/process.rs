//! Background processes: starting them, waiting, being stopped, being seen.

use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::time::Duration;

/// Registers the process that starts all others, restarted whenever it ends.
pub fn register_launcher(name: &str, function: &str) {
    BackgroundWorkerBuilder::new(name)
        .set_type(name)
        .set_library("lago_push")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// Registers the process that watches a recovery: from the server's start, and until it ends well.
pub fn register_watch(name: &str, function: &str) {
    // Without access to databases it may start at once, and run where a hot standby is not wanted.
    BackgroundWorkerBuilder::new(name)
        .set_type(name)
        .set_library("lago_push")
        .set_function(function)
        .enable_shmem_access(None)
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// A process started by [`start`], while this process lives.
pub struct Child(DynamicBackgroundWorker);

impl Child {
    pub fn has_ended(&self) -> bool {
        matches!(self.0.pid(), Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied))
    }
}

/// Starts a process for a database; none when the server has no place left for one (max_worker_processes).
pub fn start(name: &str, process_type: &str, function: &str, database: pg_sys::Oid) -> Option<Child> {
    start_with(name, process_type, function, pg_sys::Datum::from(database))
}

/// Starts a process for a sync of a database.
pub fn start_for_sync(name: &str, function: &str, database: pg_sys::Oid, sync: i32) -> Option<Child> {
    let both = u64::from(u32::from(database)) << 32 | u64::from(sync.cast_unsigned());
    start_with(name, name, function, pg_sys::Datum::from(both as usize))
}

/// The database and the sync that [`start_for_sync`] has packed into one argument.
pub fn unpacked(argument: pg_sys::Datum) -> (pg_sys::Oid, i32) {
    let both = argument.value() as u64;
    (pg_sys::Oid::from((both >> 32) as u32), (both as u32).cast_signed())
}

fn start_with(name: &str, process_type: &str, function: &str, argument: pg_sys::Datum) -> Option<Child> {
    // SAFETY: a variable of the backend.
    let own_pid = unsafe { pg_sys::MyProcPid };
    BackgroundWorkerBuilder::new(name)
        .set_type(process_type)
        .set_library("lago_push")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        .set_notify_pid(own_pid)
        .set_argument(Some(argument))
        .load_dynamic()
        .ok()
        .map(Child)
}

/// First act of a background process: take signals, and connect to `database`, or to the shared
/// catalogs only.
pub fn begin(database: Option<pg_sys::Oid>) {
    begin_unconnected();
    let database = database.unwrap_or(pg_sys::InvalidOid);
    // SAFETY: done once, before any transaction; the bootstrap superuser, whatever its name.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
}

/// First act of a background process that is ended in the middle of what it does, as a session is, when somebody asks
/// it to.
pub fn begin_interruptible(database: pg_sys::Oid) {
    super::compat::on_signal(libc::SIGHUP, note_reload);
    super::compat::on_signal(libc::SIGTERM, end_session);
    // SAFETY: a background worker's first act, after its handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
    // SAFETY: done once, before any transaction; the bootstrap superuser, whatever its name.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
}

/// The server's own handler of a session.
unsafe extern "C-unwind" fn end_session(signal: core::ffi::c_int) {
    // SAFETY: made to be called here.
    unsafe { pg_sys::die(signal) };
}

/// Asks another process of this server to end.
pub fn end(pid: i32) {
    // SAFETY: a signal every process of the server handles.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// First act of a background process that reads no catalog: take signals.
pub fn begin_unconnected() {
    super::compat::on_signal(libc::SIGHUP, note_reload);
    super::compat::on_signal(libc::SIGTERM, note_shutdown);
    // SAFETY: a background worker's first act, after its handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

/// Both do what the server's own handlers for background processes do: set a flag, set the latch, and
/// leave `errno` as it was.
unsafe extern "C-unwind" fn note_reload(_signal: core::ffi::c_int) {
    // SAFETY: a flag made to be set here.
    keep_errno(|| unsafe { pg_sys::ConfigReloadPending = 1 });
}

unsafe extern "C-unwind" fn note_shutdown(_signal: core::ffi::c_int) {
    // SAFETY: a flag made to be set here.
    keep_errno(|| unsafe { pg_sys::ShutdownRequestPending = 1 });
}

fn keep_errno(note: impl FnOnce()) {
    // SAFETY: each thread has its errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    note();
    // SAFETY: setting a latch is allowed in a signal handler.
    unsafe { pg_sys::SetLatch(pg_sys::MyLatch) };
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Sets what a worker must not inherit from the database's or role's own settings.
pub fn set_for_worker(name: &str, value: &str) {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else { return };
    // SAFETY: both are C strings the server copies; an unknown name would be our own mistake, and raises.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        )
    };
}

/// What a process waits for, as pg_stat_activity.wait_event names it where the server can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The launcher, for somebody to need a worker.
    Launcher,
    /// A worker, for something to do.
    Idle,
    /// A worker, for answers.
    Reply,
    /// A worker, for the moment when the next request may go.
    Pause,
    /// A worker, for the synchronous standbys to have what it read.
    Standby,
    /// On a standby, for its promotion.
    Promotion,
    /// A session, for the answer to its own request.
    Test,
    /// A session, for the worker to leave its database.
    Leave,
    /// A session, for room behind what waits to be delivered.
    Backfill,
}

impl Wait {
    const ALL: [(Wait, &'static CStr); 9] = [
        (Wait::Launcher, c"LagoPushLauncher"),
        (Wait::Idle, c"LagoPushIdle"),
        (Wait::Reply, c"LagoPushReply"),
        (Wait::Pause, c"LagoPushPause"),
        (Wait::Standby, c"LagoPushStandby"),
        (Wait::Promotion, c"LagoPushPromotion"),
        (Wait::Test, c"LagoPushTest"),
        (Wait::Leave, c"LagoPushLeave"),
        (Wait::Backfill, c"LagoPushBackfill"),
    ];

    /// The server's number of it, asked for once in each process.
    fn event(self) -> u32 {
        thread_local! {
            static KNOWN: Cell<[u32; Wait::ALL.len()]> = const { Cell::new([0; Wait::ALL.len()]) };
        }
        let mut known = KNOWN.get();
        for ((wait, name), number) in Self::ALL.iter().zip(&mut known) {
            if *wait == self {
                if *number == 0 {
                    *number = super::compat::wait_event(name);
                    let event = *number;
                    KNOWN.set(known);
                    return event;
                }
                return *number;
            }
        }
        pg_sys::PG_WAIT_EXTENSION
    }
}

/// Waits until the latch is set, `descriptor` is readable or the time is up; then handles what the
/// server may have asked of this process meanwhile. Says whether it may go on.
pub fn wait(what: Wait, timeout: Option<Duration>, descriptor: Option<RawFd>) -> Continue {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    if descriptor.is_some() {
        events |= pg_sys::WL_SOCKET_READABLE;
    }
    if timeout.is_some() {
        events |= pg_sys::WL_TIMEOUT;
    }
    // A fraction of a millisecond rounds up: rounding down would spin.
    let milliseconds =
        timeout.map_or(-1, |timeout| timeout.as_micros().div_ceil(1000).min(3_600_000) as core::ffi::c_long);
    // SAFETY: the latch is this process's own; the descriptor, if any, is open.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            descriptor.unwrap_or(-1),
            milliseconds,
            what.event(),
        )
    };
    // SAFETY: as above.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
    pgrx::check_for_interrupts!();
    // SAFETY: a flag PostgreSQL's own handler sets.
    if unsafe { pg_sys::ConfigReloadPending } != 0 {
        // SAFETY: as above.
        unsafe { pg_sys::ConfigReloadPending = 0 };
        // SAFETY: outside any transaction, where a background process re-reads its configuration.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
    // SAFETY: a flag PostgreSQL's own handler sets.
    if unsafe { pg_sys::ShutdownRequestPending } != 0 { Continue::No } else { Continue::Yes }
}

/// Waits, in a session, until a descriptor is readable. Cancelling the query or ending the session
/// leaves by unwinding.
pub fn wait_for_bell(descriptor: RawFd) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_SOCKET_READABLE | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: the latch is this process's own; the caller's descriptor is open.
    unsafe { pg_sys::WaitLatchOrSocket(pg_sys::MyLatch, events as i32, descriptor, -1, Wait::Test.event()) };
    // SAFETY: as above.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
    pgrx::check_for_interrupts!();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continue {
    Yes,
    No,
}

/// A process's place in the server's table of processes: plain numbers, valid in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub i32);

/// This process's place.
pub fn own_place() -> Place {
    // SAFETY: both point into the shared table of processes, set at process start.
    Place(unsafe { pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs) } as i32)
}

pub fn own_pid() -> i32 {
    // SAFETY: a variable of the backend.
    unsafe { pg_sys::MyProcPid }
}

pub fn own_database() -> pg_sys::Oid {
    // SAFETY: a variable of the backend.
    unsafe { pg_sys::MyDatabaseId }
}

/// Wakes the process at that place. If another process has taken the place meanwhile, it wakes for
/// nothing, which every process must bear. Cannot fail, so it is fit for a commit callback.
pub fn wake(place: Place) {
    // SAFETY: the table of processes is fixed at server start, and places come from own_place().
    unsafe {
        let process = (*pg_sys::ProcGlobal).allProcs.offset(place.0 as isize);
        pg_sys::SetLatch(&raw mut (*process).procLatch);
    }
}

/// Shows in pg_stat_activity what this process does.
pub fn show(activity: &str) {
    if let Ok(text) = CString::new(activity) {
        // SAFETY: the server copies the text.
        unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
    }
}

/// Hands this process's table statistics over, at most once a second, as every session does between two
/// statements: one that is never at rest would else leave autovacuum without a word of what it deletes.
pub fn report_statistics() {
    // SAFETY: outside any transaction.
    unsafe { pg_sys::pgstat_report_stat(false) };
}

/// Shows this process as idle, and hands its table statistics over, so that autovacuum sees its work.
pub fn show_idle() {
    // SAFETY: outside any transaction.
    unsafe { pg_sys::pgstat_report_stat(true) };
    // SAFETY: as above.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()) };
}

/// The databases a worker could visit: not templates, and open to connections.
pub fn databases() -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    super::xact::in_transaction(|| {
        super::heap::scan::<()>(pg_sys::DatabaseRelationId, |column| {
            let oid: Option<pg_sys::Oid> = super::cell::read(column(pg_sys::Anum_pg_database_oid as i16));
            let is_template =
                super::cell::read(column(pg_sys::Anum_pg_database_datistemplate as i16)).unwrap_or(true);
            let is_open =
                super::cell::read(column(pg_sys::Anum_pg_database_datallowconn as i16)).unwrap_or(false);
            found.extend(oid.filter(|_| is_open && !is_template));
            None
        });
    });
    found
}

/// The name of a database; none if there is none of that number.
pub fn database_name(database: pg_sys::Oid) -> Option<String> {
    // SAFETY: a catalog lookup inside a transaction.
    let name = unsafe { pg_sys::get_database_name(database) };
    if name.is_null() {
        return None;
    }
    // SAFETY: a C string in the current memory context.
    Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// Microseconds since 2000-01-01, PostgreSQL's clock.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Runs `spawn` with all signals blocked, so that the threads it starts never take one: signals
/// belong to the thread that runs PostgreSQL's code.
pub fn with_signals_blocked<R>(spawn: impl FnOnce() -> R) -> R {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set was filled; the old mask is written to `before`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let result = spawn();
    // SAFETY: `before` was written above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}

/// Has `farewell` called when this process ends, whatever ends it short of a crash.
pub fn at_exit(farewell: unsafe extern "C-unwind" fn(core::ffi::c_int, pg_sys::Datum)) {
    // SAFETY: the function is static and takes no argument of ours.
    unsafe { pg_sys::before_shmem_exit(Some(farewell), pg_sys::Datum::from(0usize)) };
}

/// Whether the server is upgrading itself (pg_upgrade) and must be left alone.
pub fn in_binary_upgrade() -> bool {
    // SAFETY: a variable of the server.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether the library is being loaded at server start.
pub fn preloading() -> bool {
    // SAFETY: a variable of the server.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Has `listener` called whenever a relation's definition changes, in every process.
pub fn listen_for_relation_changes(listener: unsafe extern "C-unwind" fn(pg_sys::Datum, pg_sys::Oid)) {
    // SAFETY: called in _PG_init; the function is static and takes no argument of ours.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(listener), pg_sys::Datum::from(0usize)) };
}

/// Waits, interruptibly, for so long, between two transactions of a backfill.
pub fn pause(time: Duration) {
    let deadline = std::time::Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            break;
        }
        let milliseconds = left.as_micros().div_ceil(1000).min(3_600_000) as core::ffi::c_long;
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        // SAFETY: the latch is this process's own.
        unsafe { pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, Wait::Backfill.event()) };
        // SAFETY: as above.
        unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
        pgrx::check_for_interrupts!();
    }
}

/// Waits, interruptibly, until `condition` holds or the time is up.
pub fn wait_until(most: Duration, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + most;
    while !condition() && std::time::Instant::now() < deadline {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        // SAFETY: the latch is this process's own.
        unsafe { pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, 10, Wait::Leave.event()) };
        // SAFETY: as above.
        unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
        pgrx::check_for_interrupts!();
    }
}
