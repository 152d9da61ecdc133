//! A primary that cannot load extensions, and the subscriber that bills for it: logical replication between two
//! servers.
//!
//! It promises a test that what the primary has committed when it asks has been applied when the answer comes.
//! The one knows nothing of lago_push, and the other is an ordinary [`Scene`].

use std::sync::Arc;

use fake_lago::Store;

use crate::cluster::{Cluster, Options};
use crate::scene::Scene;
use crate::wait::{LONG_PATIENCE, PATIENCE, wait_until};

/// What publication and subscription are called.
pub const NAME: &str = "billing";

/// A database of a server of its own that has no lago_push. Its Lago gets nothing.
pub fn primary() -> Scene {
    let options = Options { preload: false, ..Options::durable() }
        .with("wal_level", "logical")
        // The least there is, so that transactions of a few hundred rows are streamed before they commit.
        .with("logical_decoding_work_mem", "64kB");
    Scene::without_extension(Cluster::start(&options), Store::Postgres, "")
}

/// A server of its own that subscribes: what stops applying is started again at once.
pub fn subscriber() -> Arc<Cluster> {
    let options = Options::durable().with("wal_retrieve_retry_interval", "100ms");
    Cluster::start(&options.with("max_logical_replication_workers", "8"))
}

/// Has the primary publish a table.
pub fn publish(primary: &Scene, table: &str) {
    primary.sql(&format!("create publication {NAME} for table {table}"));
}

/// Has `subscriber` apply from now on what the primary publishes. `options` are those of CREATE SUBSCRIPTION.
pub fn subscribe(subscriber: &Scene, primary: &Scene, options: &str) {
    let from = connection(primary);
    subscriber
        .sql(&format!("create subscription {NAME} connection '{from}' publication {NAME} with ({options})"));
}

/// How a subscriber finds the primary.
pub fn connection(primary: &Scene) -> String {
    format!("host={} dbname={} user=postgres", primary.cluster.folder().display(), primary.database)
}

/// Waits until the tables have been copied, and everything the primary has committed by now is applied.
#[track_caller]
pub fn wait_until_applied(subscriber: &Scene, primary: &Scene) {
    wait_until("the tables have been copied", PATIENCE, || {
        subscriber
            .value::<bool>("select coalesce(bool_and(srsubstate = 'r'), false) from pg_subscription_rel")
    });
    let written: String = primary.value("select pg_current_wal_insert_lsn()::text");
    let applied = format!(
        "select exists (select from pg_stat_replication where state = 'streaming' and replay_lsn >= '{written}')"
    );
    wait_until("replication has caught up", LONG_PATIENCE, || primary.value::<bool>(&applied));
}
