//! A subscriber that bills for a primary without lago_push: what replication applies is captured as if it were
//! written here, each row once, whatever crashes, and nothing stops replication.
//!
//! Two servers in every test. The truth is the table of the primary.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::markdown::{Block, Page, Stage};
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::publisher::{NAME, primary, publish, subscribe, subscriber, wait_until_applied};
use delivery::random::Random;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use delivery::writers::Writers;
use fake_lago::{Metric, Store, Subscription};

const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";
const TRIGGER: &str = "alter table usage enable always trigger lago_push_usage";

/// Nothing of the past is copied.
const FROM_NOW_ON: &str = "copy_data = false";

/// A primary that publishes the table `usage`, and a scene with the same table that bills what is applied to it.
/// Not subscribed yet.
fn servers(store: Store) -> (Scene, Scene) {
    let primary = primary();
    primary.usage_table("usage");
    publish(&primary, "usage");
    let billing = Scene::on(subscriber(), store);
    billing.billed_table("usage");
    billing.sql(TRIGGER);
    (primary, billing)
}

/// Everything the primary has committed is on the bill, once.
fn assert_primary_is_billed(primary: &Scene, billing: &Scene) {
    wait_until_applied(billing, primary);
    let truth = "select count(*)::text || ' rows of ' || coalesce(sum(amount), 0)::text from usage";
    assert_eq!(billing.value::<String>(truth), primary.value::<String>(truth), "replication has them all");
    assert_billed_exactly_once(billing);
}

/// The process that applies what the subscription receives.
fn applier(billing: &Scene) -> i32 {
    wait_until("the subscription is at work", PATIENCE, || {
        let found = billing.rows(&format!(
            "select pid from pg_stat_subscription where subname = '{NAME}' and pid is not null and relid is null"
        ));
        found.first().map(|row| row.get(0))
    })
}

// ---- what is captured ---------------------------------------------------------------------------

#[test]
fn a_row_that_replication_applies_is_billed_without_anything_else_happening() {
    let (primary, billing) = servers(Store::Postgres);
    subscribe(&billing, &primary, FROM_NOW_ON);
    primary.sql(ONE_ROW);
    // Only Lago is looked at, so that nothing but the commit of the apply worker can have woken ours.
    wait_until("the row has arrived", PATIENCE, || billing.lago.stored_count() == 1);
    assert_primary_is_billed(&primary, &billing);
}

#[test]
fn a_trigger_for_replicated_rows_bills_those_alone_and_one_for_all_bills_both() {
    let (primary, billing) = servers(Store::Postgres);
    billing.sql("alter table usage enable replica trigger lago_push_usage");
    subscribe(&billing, &primary, FROM_NOW_ON);
    primary.sql(ONE_ROW);
    billing.wait_for_event("usage-1");
    let local =
        |id: i32| format!("insert into usage overriding system value values ({id}, 'sub_2', 1, now())");
    billing.sql(&local(1001));
    billing.sql(TRIGGER);
    billing.sql(&local(1002));
    billing.wait_for_exactly(&["usage-1", "usage-1002"]);
}

#[test]
fn an_ordinary_trigger_hears_nothing_of_replication_and_activate_and_preview_say_so() {
    let (primary, billing) = servers(Store::Postgres);
    billing.sql("alter table usage enable trigger lago_push_usage");
    subscribe(&billing, &primary, FROM_NOW_ON);
    primary.sql(ONE_ROW);
    wait_until_applied(&billing, &primary);
    billing.sql("insert into usage overriding system value values (1001, 'sub_2', 1, now())");
    billing.wait_for_exactly(&["usage-1001"]);
    let warning = "subscription \"billing\" fills the table, and rows that replication applies do not fire the \
                   sync's trigger: alter table public.usage enable always trigger lago_push_usage";
    let warnings = "select warnings from lago_push.preview('usage', rows => 1)";
    assert_eq!(billing.value::<Vec<String>>(warnings), [warning]);
    billing.sql("select lago_push.drop_sync('usage')");
    billing.draft("usage", "");
    let said = billing
        .cluster
        .program("psql")
        .args(["-X", "-d", &billing.database])
        .args(["-c", "select lago_push.activate('usage')"])
        .output();
    let said = String::from_utf8_lossy(&said.expect("psql runs").stderr).into_owned();
    assert_eq!(said.trim(), format!("WARNING:  {warning}"));
    // The command in the warning is the remedy.
    billing.sql(warning.split(": ").nth(1).expect("a command"));
    assert_eq!(billing.value::<Vec<String>>(warnings), [] as [&str; 0]);
    primary.sql(ONE_ROW);
    billing.wait_for_exactly(&["usage-1001", "usage-2"]);
}

#[test]
fn an_altered_sync_goes_on_hearing_replication() {
    let (primary, billing) = servers(Store::Postgres);
    subscribe(&billing, &primary, FROM_NOW_ON);
    billing.sql("select lago_push.alter_sync('usage', filter => 'new.amount > 0')");
    billing.sql("select lago_push.pause('usage')");
    billing.sql("select lago_push.resume('usage')");
    primary.sql("insert into usage (subscription, amount) values ('sub_1', 0)");
    primary.sql(ONE_ROW);
    billing.wait_for_exactly(&["usage-2"]);
}

#[test]
fn updates_have_the_whole_old_row_and_an_id_for_each_though_the_primary_sends_only_keys() {
    let (primary, billing) = servers(Store::Postgres);
    billing.sql("select lago_push.drop_sync('usage')");
    let template = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage",
        "timestamp": {{ row.created_at }},
        "properties": {"amount": "{{ row.amount | minus: old.amount }}"}}"#;
    billing.draft_with("usage", template, "operations => '{update}'");
    billing.activate("usage");
    billing.sql(TRIGGER);
    subscribe(&billing, &primary, FROM_NOW_ON);
    assert_eq!(
        primary.value::<String>("select relreplident::text from pg_class where relname = 'usage'"),
        "d"
    );
    primary.sql(ONE_ROW);
    primary.sql("begin; update usage set amount = 4; update usage set amount = 4.25; commit");
    primary.sql("update usage set amount = 10.25");
    wait_until_applied(&billing, &primary);
    assert_billed(&billing, "values ('sub_1', 1.5), ('sub_1', 0.25), ('sub_1', 6.00)");
    let mut ids = billing.arrived();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn a_deletion_has_the_whole_row_and_truncating_bills_nothing_and_stops_nothing() {
    let (primary, billing) = servers(Store::Postgres);
    billing.sql("select lago_push.drop_sync('usage')");
    billing.draft_with("usage", &delivery::scene::usage_template("usage"), "operations => '{delete}'");
    billing.activate("usage");
    billing.sql(TRIGGER);
    subscribe(&billing, &primary, FROM_NOW_ON);
    primary.sql(&insert_rows("usage", 3));
    primary.sql("delete from usage where id = 2");
    primary.sql("truncate usage");
    primary.sql(&insert_rows("usage", 1));
    primary.sql("delete from usage");
    billing.wait_for_exactly(&["usage-2", "usage-4"]);
    wait_until_applied(&billing, &primary);
    assert_billed(&billing, "values ('sub_2', 0.02), ('sub_1', 0.01)");
}

#[test]
fn a_row_that_cannot_be_rendered_is_a_dead_letter_even_where_the_sync_raises_and_the_next_one_is_billed() {
    let (primary, billing) = servers(Store::Postgres);
    billing.sql("select lago_push.alter_sync('usage', on_error => 'raise')");
    assert!(
        billing.sql_error("insert into usage (subscription, amount) values ('', 1)").contains("cannot bill")
    );
    subscribe(&billing, &primary, FROM_NOW_ON);
    primary.sql("insert into usage (subscription, amount) values ('', 1)");
    primary.sql(ONE_ROW);
    billing.wait_for_exactly(&["usage-2"]);
    assert_eq!(billing.status("usage").dead, 1);
    assert_eq!(billing.value::<String>("select source_row ->> 'id' from lago_push.dead_letters"), "1");
}

// ---- the beginning ------------------------------------------------------------------------------

#[test]
fn the_copy_of_a_subscriptions_beginning_is_billed_as_far_as_the_filter_lets_it() {
    let (primary, billing) = servers(Store::Postgres);
    billing.sql("select lago_push.alter_sync('usage', filter => 'new.created_at >= ''2026-02-01''')");
    primary.sql("insert into usage (subscription, amount, created_at) values ('sub_1', 1, '2026-01-31')");
    primary.sql("insert into usage (subscription, amount, created_at) values ('sub_1', 2, '2026-02-01')");
    subscribe(&billing, &primary, "copy_data = true");
    billing.wait_for_event("usage-2");
    primary.sql(ONE_ROW);
    billing.wait_for_exactly(&["usage-2", "usage-3"]);
    wait_until_applied(&billing, &primary);
    assert_eq!(
        billing.value::<i64>("select count(*) from usage"),
        3,
        "the first one is there and not billed"
    );
}

#[test]
fn a_table_that_is_copied_again_is_not_billed_again() {
    let (primary, billing) = servers(Store::Postgres);
    subscribe(&billing, &primary, FROM_NOW_ON);
    primary.sql(&insert_rows("usage", 250));
    assert_primary_is_billed(&primary, &billing);
    billing.sql(&format!("drop subscription {NAME}"));
    billing.sql("truncate usage");
    subscribe(&billing, &primary, "copy_data = true");
    wait_until_applied(&billing, &primary);
    billing.wait_until_outbox_is_empty(LONG_PATIENCE);
    assert_billed(&billing, "select subscription, amount from usage");
    let ledger = "select (delivered, duplicate, dead)::text from lago_push.ledger where sync = 'usage'";
    assert_eq!(billing.value::<String>(ledger), "(500,250,0)");
}

// ---- kinds of transactions ----------------------------------------------------------------------

#[test]
fn large_transactions_are_billed_when_they_commit_though_they_are_streamed_before() {
    let (primary, billing) = servers(Store::Postgres);
    let streaming = if primary.cluster.version() >= 16 { "parallel" } else { "on" };
    subscribe(&billing, &primary, &format!("{FROM_NOW_ON}, streaming = {streaming}"));
    primary.sql(&format!(
        "begin; {rows}; savepoint a; {rows}; rollback to savepoint a; savepoint b; {rows}; release savepoint b; commit",
        rows = insert_rows("usage", 2000)
    ));
    primary.sql(&format!("begin; {}; rollback", insert_rows("usage", 2000)));
    assert_primary_is_billed(&primary, &billing);
    assert_eq!(billing.lago.stored_count(), 4000);
    let streamed =
        format!("select stream_txns > 0 from pg_stat_replication_slots where slot_name = '{NAME}'");
    wait_until("the server has counted what it streamed", PATIENCE, || primary.value::<bool>(&streamed));
}

#[test]
fn a_prepared_transaction_is_billed_when_its_commit_is_replicated() {
    let (primary, billing) = servers(Store::Postgres);
    if primary.cluster.version() < 15 {
        // Such subscriptions apply it when it commits, like any other.
        return;
    }
    subscribe(&billing, &primary, &format!("{FROM_NOW_ON}, two_phase = true"));
    wait_until("transactions are prepared here too", PATIENCE, || {
        billing.value::<bool>("select subtwophasestate = 'e' from pg_subscription")
    });
    let prepared = |scene: &Scene| {
        scene.value::<i64>("select count(*) from pg_prepared_xacts where database = current_database()")
    };
    primary.sql(&format!("begin; {ONE_ROW}; prepare transaction 'kept'"));
    primary.sql(&format!("begin; {ONE_ROW}; prepare transaction 'given up'"));
    wait_until("both are prepared on the subscriber", PATIENCE, || prepared(&billing) == 2);
    // Nothing else commits that could wake the worker.
    primary.sql("commit prepared 'kept'");
    wait_until("the row has arrived", PATIENCE, || billing.lago.stored_count() == 1);
    primary.sql("rollback prepared 'given up'");
    assert_primary_is_billed(&primary, &billing);
}

#[test]
fn several_tables_may_feed_one_sync_by_triggers_of_ones_own() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft_with("usage", NO_ID, "");
    for shard in [102_008, 102_009] {
        scene.sql(&format!(
            "create table usage_{shard} (like usage including all);
             create trigger lago_push_usage_{shard} after insert on usage_{shard}
                 for each row execute function lago_push.capture('usage')"
        ));
    }
    scene.activate("usage");
    scene.sql("insert into usage_102008 overriding system value values (1, 'sub_1', 1.5, now())");
    scene.sql("insert into usage_102009 overriding system value values (2, 'sub_1', 2.5, now())");
    scene.wait_for_exactly(&["usage:insert:1", "usage:insert:2"]);
}

const NO_ID: &str = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage",
    "timestamp": {{ row.created_at }}, "properties": {"amount": "{{ row.amount }}"}}"#;

// ---- crashes ------------------------------------------------------------------------------------

/// Writers on the primary, while something happens to a server again and again.
fn interrupted(store: Store, seed: u64, interrupt: impl Fn(usize, &Scene, &Scene)) {
    let (primary, billing) = servers(store);
    subscribe(&billing, &primary, FROM_NOW_ON);
    let writers = Writers::start(&primary, "usage", 4, &mut Random::seeded(seed));
    for round in 0..4 {
        let (commits, stored) = (writers.commits() + 100, billing.lago.stored_count() + 100);
        wait_until("the writers are writing", PATIENCE, || writers.commits() >= commits);
        wait_until("what they write is billed", PATIENCE, || billing.lago.stored_count() >= stored);
        interrupt(round, &primary, &billing);
    }
    let commits = writers.commits() + 100;
    wait_until("the writers have recovered", PATIENCE, || writers.commits() >= commits);
    writers.stop();
    assert_primary_is_billed(&primary, &billing);
}

/// Three ways for a subscriber to die, one after the other.
fn crash_subscriber(round: usize, _primary: &Scene, billing: &Scene) {
    match round % 4 {
        0 => billing.cluster.kill9_and_recover(applier(billing)),
        1 => {
            billing.cluster.stop(Stop::Immediate);
            billing.cluster.start_again();
        }
        2 => billing.run("select pg_terminate_backend($1)", &[&applier(billing)]),
        _ => billing.cluster.kill9_and_recover(billing.wait_for_worker()),
    }
}

#[test]
fn a_subscriber_that_crashes_mid_stream_bills_everything_once_with_the_postgres_store() {
    interrupted(Store::Postgres, 71, crash_subscriber);
}

#[test]
fn a_subscriber_that_crashes_mid_stream_bills_everything_once_with_the_clickhouse_store() {
    interrupted(Store::ClickHouse, 72, crash_subscriber);
}

#[test]
fn a_primary_that_crashes_mid_stream_is_billed_once() {
    interrupted(Store::Postgres, 73, |_, primary, _| {
        primary.cluster.stop(Stop::Immediate);
        primary.cluster.start_again();
    });
}

// ---- the page -----------------------------------------------------------------------------------

#[test]
fn every_sql_block_of_the_page_runs_where_it_says_and_shows_what_the_page_shows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scaling.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let page = Page { name: "docs/scaling.md".into(), text };
    page.check_blocks(&["sql", "text"]);

    let primary = primary();
    let bare = |cluster| Scene::without_extension(cluster, Store::Postgres, "");
    let billing = bare(subscriber());
    let (eu, us) = (bare(Cluster::start(&Options::default())), bare(Cluster::start(&Options::default())));
    for scene in [&billing, &eu] {
        scene.lago.define_metric(Metric::sum("api_calls", "bytes"));
        scene.lago.define_subscription(Subscription::always("sub_acme", "acme"));
    }
    let servers = [
        ("the primary", Stage::new(&primary)),
        (
            "the subscriber",
            Stage::new(&billing)
                .with("host=shop.internal", format!("host={}", primary.cluster.folder().display()))
                .with("dbname=shop", format!("dbname={}", primary.database)),
        ),
        ("shard eu", Stage::new(&eu)),
        ("shard us", Stage::towards(&us, &eu)),
    ];
    let server = |place: &str| servers.iter().find(|(name, _)| *name == place);
    let tried = page.try_out_on(
        |block| server(block.place.as_deref()?).map(|(_, stage)| stage),
        |block| {
            if block.place.as_deref() == Some("the primary") && subscribed(&billing) {
                wait_until_applied(&billing, &primary);
            }
        },
    );
    for scene in [&billing, &eu, &us] {
        scene.wait_until_outbox_is_empty(PATIENCE);
    }
    let billed = |scene: &Scene| {
        let bill = scene.lago.bill();
        assert!(bill.never_billed.is_empty() && bill.billed_twice.is_empty(), "{bill:?}");
        bill.line("sub_acme", "api_calls").map(|line| (line.events, line.sum.clone()))
    };
    assert_eq!(billed(&billing), Some((2, Some("2320".into()))));
    assert_eq!(billed(&eu), Some((2, Some("3000".into()))), "both shards, though key and all else are equal");

    let blocks = page.blocks();
    let sql = || blocks.iter().filter(|block| block.language == "sql");
    let unrun: Vec<&Block> =
        sql().filter(|block| block.place.as_deref().and_then(server).is_none()).collect();
    assert_eq!(tried.run + unrun.len(), sql().count());
    let citus = page.text.lines().position(|line| line == "## Citus").expect("the last section");
    for block in unrun {
        let place = block.place.as_deref().unwrap_or_default();
        let of_citus =
            block.line > citus && (place.starts_with("the coordinator (") || place.starts_with("every node"));
        assert!(of_citus, "line {}: no server is called \"{place}\"", block.line);
    }
    assert!(tried.run >= 6 && tried.compared >= 3, "{tried:?}");
}

fn subscribed(billing: &Scene) -> bool {
    billing.value("select exists (select from pg_subscription_rel)")
}
