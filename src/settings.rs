//! Settings: every configuration parameter of lago_push.

use crate::{instance, shared};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::time::Duration;

/// How long an idle worker stays connected to its database. Unit: seconds. A minute keeps latency
/// at its best for steady traffic, and leaves quiet databases without a connection. Takes effect at
/// the next idle moment after a reload.
static IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60);

/// How much a transaction may hold of captured rows before it writes them to the outbox early.
/// Unit: kB. Large enough that a bulk load writes in efficient portions, small enough that a hundred
/// of them at once do no harm. Takes effect at the next row.
static CAPTURE_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(4096);

/// How much of the outbox a worker may hold. Unit: kB. Enough for a hundred full requests of
/// ordinary events; more does not deliver faster. Takes effect at the next read after a reload.
static WORKER_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(16384);

/// After how many attempts that failed by its own fault a message becomes a dead letter. The waits
/// between them double up to a minute, so twelve are a few minutes: enough for what another sync is
/// about to create. Takes effect at the next failure after a reload.
static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(12);

/// How long a worker that is told to stop waits for requests under way. Unit: milliseconds. What is
/// not answered by then goes again after the restart. Takes effect at the next stop after a reload.
static SHUTDOWN_PATIENCE: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// How many runs of queries may be under way in one database. Each is a process. Takes effect at the next run after a
/// reload.
static MAX_RUNS: GucSetting<i32> = GucSetting::<i32>::new(2);

/// How long the view `runs` keeps a run. Unit: seconds. Takes effect at the end of the sync's next run.
static KEEP_RUNS: GucSetting<i32> = GucSetting::<i32>::new(30 * 86_400);

/// What a promoted server does with its destinations. `auto` delivers where the server was seen
/// streaming from a primary, which a failover standby does and a restored backup does not. Takes effect
/// at the next promotion.
static ON_PROMOTION: GucSetting<OnPromotion> = GucSetting::<OnPromotion>::new(OnPromotion::Auto);

#[derive(Clone, Copy, Debug, PostgresGucEnum)]
enum OnPromotion {
    #[name = c"auto"]
    Auto,
    #[name = c"deliver"]
    Deliver,
    #[name = c"hold"]
    Hold,
}

pub fn define() {
    GucRegistry::define_int_guc(
        c"lago_push.idle_timeout",
        c"How long an idle worker stays connected to its database.",
        c"A commit wakes it again at once; 0 disconnects as soon as there is nothing to do.",
        &IDLE_TIMEOUT,
        0,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"lago_push.capture_memory",
        c"How much a transaction holds of captured rows before it writes them to the outbox.",
        c"What is below this is written just before commit.",
        &CAPTURE_MEMORY,
        64,
        1_048_576,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"lago_push.worker_memory",
        c"How much of the outbox a worker holds.",
        c"Messages beyond it wait in the outbox.",
        &WORKER_MEMORY,
        1024,
        1_048_576,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"lago_push.max_attempts",
        c"After how many attempts that failed by its own fault a message becomes a dead letter.",
        c"What fails because Lago is down or refuses the key costs no attempt.",
        &MAX_ATTEMPTS,
        1,
        1000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"lago_push.shutdown_patience",
        c"How long a worker that is told to stop waits for the requests under way.",
        c"What is not answered by then goes again when the server is back.",
        &SHUTDOWN_PATIENCE,
        0,
        600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"lago_push.max_runs",
        c"How many runs of queries may be under way in one database.",
        c"Each is a process, which counts against max_worker_processes; further ones wait.",
        &MAX_RUNS,
        1,
        shared::runs::RUNS as i32,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"lago_push.keep_runs",
        c"How long the view runs keeps what became of a run.",
        c"The last run of each sync is always kept.",
        &KEEP_RUNS,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_enum_guc(
        c"lago_push.on_promotion",
        c"What a promoted server does with its destinations: auto, deliver or hold.",
        c"auto delivers where the server was seen streaming from a primary, and else holds.",
        &ON_PROMOTION,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

pub fn on_promotion() -> instance::OnPromotion {
    match ON_PROMOTION.get() {
        OnPromotion::Auto => instance::OnPromotion::Auto,
        OnPromotion::Deliver => instance::OnPromotion::Deliver,
        OnPromotion::Hold => instance::OnPromotion::Hold,
    }
}

pub fn max_attempts() -> u32 {
    MAX_ATTEMPTS.get().unsigned_abs()
}

pub fn max_runs() -> usize {
    MAX_RUNS.get().unsigned_abs() as usize
}

pub fn keep_runs_seconds() -> i64 {
    KEEP_RUNS.get().into()
}

pub fn shutdown_patience() -> Duration {
    Duration::from_millis(SHUTDOWN_PATIENCE.get().unsigned_abs().into())
}

pub fn idle_timeout() -> Duration {
    Duration::from_secs(IDLE_TIMEOUT.get().unsigned_abs().into())
}

pub fn capture_memory_bytes() -> usize {
    CAPTURE_MEMORY.get().unsigned_abs() as usize * 1024
}

pub fn worker_memory_bytes() -> usize {
    WORKER_MEMORY.get().unsigned_abs() as usize * 1024
}
