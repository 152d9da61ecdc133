//! lago_push bills what a PostgreSQL database records. One row's journey is the architecture; follow
//! it and you have met every module once:
//!
//! ```text
//! INSERT/UPDATE/DELETE ─▶ capture ─▶ template ─▶ outbox ═commit═▶ wake ─▶ worker: read ─▶ send ─▶ verdict ─▶ settle ─▶ views
//!                                       │ cannot render                                     │ rejected
//!                                       └────────────▶ dead letters ◀───────────────────────┘
//! ```
//!
//! | step | module |
//! |---|---|
//! | capture | [`capture`]: the trigger and the transaction; [`buffer`]: what it has captured; [`sync`]: which template applies |
//! | template | [`template`]: text to pieces; [`liquid`]: those that compute; [`call`], [`endpoint`]: what Lago demands; [`recipe`]: all that makes a message of a row; [`render`]: pieces and a row to bytes; [`json`]; [`defaults`], [`identity`]: what a template leaves out; [`order`]: what goes in line; [`payload`]: what no template vouches for; [`suggest`] |
//! | outbox | [`outbox`]: the tables, from both sides; [`cursor`]: how far they are read |
//! | wake | [`shared`]: whom to wake; [`launcher`]: who starts workers |
//! | worker, before it begins | [`guard`]: a copy delivers nothing; [`instance`]: whether this is one; [`standby`]: what shows that it is none |
//! | worker | [`worker`]: read, send, settle; [`version`]: by which version's tables; [`destination`]: where to; [`schedule`], [`lane`]: what goes when; [`backoff`] |
//! | sender | [`request`]: what goes over the wire; [`sender`]: threads and HTTP |
//! | verdict | [`verdict`]: what a reply means |
//! | a query in the place of a table | [`run`]: in the place of capture; [`surface::queries`]: what it is refused for |
//! | views | [`surface`], and the files in `sql/`; [`surface::trying`]: a look ahead, [`surface::letters`], [`surface::corrections`]: another try; [`surface::backfill`], [`backfill`]: rows that were there before |
//!
//! [`pg`] holds the unsafe shims, [`settings`] the configuration parameters. DESIGN.md says why.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;

mod backfill;
mod backlog;
mod backoff;
mod buffer;
mod call;
mod cap;
mod capture;
mod cursor;
mod defaults;
mod destination;
mod endpoint;
mod guard;
mod identity;
mod instance;
mod json;
mod lane;
mod launcher;
mod liquid;
mod lookup;
mod message;
mod nearest;
mod order;
mod outbox;
mod payload;
mod pg;
mod recipe;
mod reconcile;
mod render;
mod request;
mod run;
mod schedule;
mod sender;
mod settings;
mod shared;
mod standby;
mod suggest;
mod surface;
mod sync;
mod template;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod verdict;
mod version;
mod worker;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/tables.sql", name = "tables", bootstrap);
extension_sql!(
    "create function lago_push.capture() returns trigger
     language c as 'MODULE_PATHNAME', 'lago_push_capture';
     comment on function lago_push.capture() is
     'Trigger function: captures rows for the sync named by its argument. AFTER, FOR EACH ROW; WHEN and UPDATE OF as you like.';",
    name = "capture",
    requires = ["tables"]
);
extension_sql_file!(
    "../sql/destinations.sql",
    name = "destinations",
    requires = [
        "tables",
        "instance",
        surface::wake,
        surface::hide_statement,
        surface::check::check_url,
        surface::check::check_proxy
    ]
);
extension_sql_file!(
    "../sql/syncs.sql",
    name = "syncs",
    requires = [
        "destinations",
        "capture",
        surface::check::check_recipe,
        surface::check::check_schedule,
        surface::check::check_filter,
        surface::role,
        surface::execute_as_caller,
        surface::has_unwritten
    ]
);
extension_sql_file!(
    "../sql/queries.sql",
    name = "queries",
    requires = [
        "syncs",
        surface::queries::search_path,
        surface::queries::query_columns,
        surface::queries::check_query_recipe,
        surface::queries::wake_for_run,
        surface::queries::end_run
    ]
);
extension_sql_file!(
    "../sql/trying.sql",
    name = "trying",
    requires = [
        "syncs",
        surface::trying::rendered,
        surface::trying::send,
        surface::trying::suggest,
        surface::trying::user_agent
    ]
);
extension_sql_file!(
    "../sql/letters.sql",
    name = "letters",
    requires =
        ["syncs", surface::letters::render_letter, surface::letters::filter_letters, surface::count_written]
);
extension_sql_file!(
    "../sql/corrections.sql",
    name = "corrections",
    requires = ["syncs", surface::corrections::check_correction]
);
extension_sql_file!(
    "../sql/reconcile.sql",
    name = "reconcile",
    requires = ["syncs", surface::reconcile::reconciled]
);
extension_sql_file!(
    "../sql/instance.sql",
    name = "instance",
    requires = ["tables", surface::instance::this_instance, surface::instance::look]
);
extension_sql_file!(
    "../sql/backfill.sql",
    name = "backfill",
    requires = [
        "syncs",
        surface::backfill::capture_rows,
        surface::backfill::key_of_row,
        surface::backfill::estimate_rows
    ]
);
extension_sql_file!(
    "../sql/backlog.sql",
    name = "backlog",
    requires =
        ["tables", surface::backlog::backlog, surface::backlog::letters, surface::capped, surface::endpoints]
);
extension_sql_file!("../sql/flush.sql", name = "flush", requires = ["syncs", surface::has_captured]);
extension_sql_file!(
    "../sql/entry_points.sql",
    name = "entry_points",
    requires = [
        "queries",
        "trying",
        "letters",
        "corrections",
        "flush",
        "backfill",
        "reconcile",
        surface::workers_and_activities,
        surface::in_flight,
        surface::capped,
        surface::endpoints,
        surface::queries::runs_under_way
    ]
);
extension_sql_file!(
    "../sql/views.sql",
    name = "views",
    requires = [
        "entry_points",
        "backlog",
        surface::workers_and_activities,
        surface::in_flight,
        surface::endpoints,
        surface::queries::runs_under_way
    ]
);
extension_sql_file!("../sql/ledger.sql", name = "ledger", requires = ["views"]);
extension_sql_file!("../sql/metrics.sql", name = "metrics", requires = ["ledger"]);
extension_sql_file!("../sql/roles.sql", name = "roles", requires = ["metrics"]);
extension_sql_file!("../sql/grants.sql", name = "grants", finalize);

/// Called by the server when it loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if pg::process::in_binary_upgrade() {
        return;
    }
    if !pg::process::preloading() {
        pgrx::pg_sys::panic::ErrorReport::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "lago_push must be loaded when the server starts",
            "_PG_init",
        )
        .set_detail("Its worker and its transaction hooks cannot be added to a running server.")
        .set_hint("Add lago_push to shared_preload_libraries in postgresql.conf and restart the server.")
        .report(PgLogLevel::ERROR);
    }
    settings::define();
    shared::reserve();
    pg::xact::listen(on_transaction, on_subtransaction);
    pg::hooks::install(on_command);
    pg::process::listen_for_relation_changes(sync::on_relation_change);
    pg::process::register_watch(standby::PROCESS_TYPE, "lago_push_standby");
    pg::process::register_launcher(launcher::PROCESS_TYPE, "lago_push_launcher");
}

thread_local! {
    /// The database whose worker the transaction under way has sent out.
    static KEPT_OUT: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// A transaction reaches a moment of its life.
fn on_transaction(moment: pg::xact::Moment) {
    capture::on_transaction(moment);
    if moment == pg::xact::Moment::Aborted {
        pg::claim::release_backfill();
    }
    if moment != pg::xact::Moment::BeforeEnd {
        pg::caller::forget_all();
        if let Some(database) = KEPT_OUT.take() {
            shared::let_in(database);
        }
    }
}

/// A subtransaction reaches a moment of its life.
fn on_subtransaction(moment: pg::xact::SubMoment) {
    capture::on_subtransaction(moment);
    if let pg::xact::SubMoment::Aborted(child) = moment {
        pg::caller::forget(child);
    }
}

/// A utility command concerns lago_push.
fn on_command(command: pg::hooks::Command, time: pg::hooks::Time) {
    use pg::hooks::{Command::*, Time::*};
    match (command, time) {
        (WantsDatabaseAlone(database), Before) => send_worker_out(database),
        (ChangesExtension, Before) => send_worker_out(pg::process::own_database()),
        // Until the transaction ends, with or without success: see on_transaction.
        (WantsDatabaseAlone(_) | ChangesExtension, After) => {}
        (CommitPrepared | RollbackPrepared, Before) => {}
        (CommitPrepared, After) => capture::wake_worker(),
        (RollbackPrepared, After) => cap::doubt_all(),
    }
}

/// Has the worker of a database leave it, and waits until it has.
fn send_worker_out(database: pg_sys::Oid) {
    KEPT_OUT.set(Some(database));
    if let Some(slot) = shared::keep_out(database) {
        pg::process::wait_until(std::time::Duration::from_secs(5), || {
            // One may have been about to begin.
            shared::runs::end_all(database);
            !slot.has_worker() && !shared::runs::any(database)
        });
    }
}

#[cfg(test)]
pub mod pg_test {
    //! How the server of the in-server tests is configured.

    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'lago_push'", "max_prepared_transactions = 10"]
    }
}
