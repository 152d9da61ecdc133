//! The whole way of a row, from the statement that wrote it to the bill, and what an operator does on the
//! way: drafts, pausing, changing the destination, waiting, tearing down.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use delivery::cluster::Cluster;
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";

fn billed_scene() -> Scene {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene
}

/// A table every kind of change of which is billed by what changed.
fn metered_scene(operations: &str, template: &str) -> Scene {
    let scene = Scene::new();
    scene.sql("create table usage (id int primary key, subscription text, amount numeric, note text)");
    scene.draft_with("usage", template, &format!("operations => '{operations}'"));
    scene
}

const PER_CHANGE: &str = r#"{
    "transaction_id": "{{ op }}-{{ row.id }}-{{ row.amount }}",
    "external_subscription_id": "{{ row.subscription }}",
    "code": "usage",
    "timestamp": 1710421740,
    "properties": {"amount": "{{ row.amount }}"}}"#;

#[test]
fn a_lone_commit_arrives() {
    let scene = billed_scene();
    scene.sql(ONE_ROW);
    wait_until("the event has arrived", PATIENCE, || scene.lago.stored_count() == 1);
    assert_billed_exactly_once(&scene);
}

#[test]
fn every_lone_commit_wakes_the_worker() {
    let scene = billed_scene();
    let mut db = scene.db();
    for n in 1..=50 {
        db.batch_execute(ONE_ROW).unwrap();
        wait_until("the event has arrived", PATIENCE, || scene.lago.stored_count() == n);
    }
    assert_billed_exactly_once(&scene);
}

#[test]
fn inserts_updates_and_deletes_are_billed_as_the_sync_says() {
    let scene = metered_scene("{insert,update,delete}", PER_CHANGE);
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'sub_1', 10), (2, 'sub_2', 20)");
    scene.sql("update usage set amount = amount + 5 where id = 1");
    scene.sql("delete from usage where id = 2");
    scene.wait_for_exactly(&["delete-2-20", "insert-1-10", "insert-2-20", "update-1-15"]);
    assert_billed(&scene, "values ('sub_1', 10), ('sub_2', 20), ('sub_1', 15), ('sub_2', 20)");
}

#[test]
fn operations_the_sync_does_not_name_are_not_billed() {
    let scene = metered_scene("{delete}", PER_CHANGE);
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'sub_1', 10), (2, 'sub_2', 20)");
    scene.sql("update usage set amount = amount + 5");
    scene.sql("delete from usage where id = 2");
    scene.wait_for_exactly(&["delete-2-25"]);
}

#[test]
fn an_update_knows_the_row_as_it_was() {
    let scene = metered_scene(
        "{update}",
        r#"{"transaction_id": "{{ row.id }}-from-{{ old.amount }}-to-{{ row.amount }}",
            "external_subscription_id": "{{ old.subscription }}",
            "code": "usage",
            "timestamp": 1710421740,
            "properties": {"amount": "{{ old.amount }}"}}"#,
    );
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'sub_1', 10)");
    scene.sql("update usage set amount = 12.50, subscription = 'sub_2'");
    scene.wait_for_exactly(&["1-from-10-to-12.50"]);
    assert_billed(&scene, "values ('sub_1', 10)");
}

#[test]
fn a_hand_written_trigger_decides_which_rows_count() {
    let scene = metered_scene("{update}", PER_CHANGE);
    scene.sql(
        "create trigger bill_increases after update of amount on usage
             for each row when (new.amount > old.amount) execute function lago_push.capture('usage')",
    );
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'sub_1', 10)");
    scene.sql("update usage set note = 'not billed: another column'");
    scene.sql("update usage set amount = 9");
    scene.sql("update usage set amount = 11");
    scene.sql("update usage set amount = 11");
    scene.sql("update usage set amount = 12, note = 'billed'");
    scene.wait_for_exactly(&["update-1-11", "update-1-12"]);
    assert_billed(&scene, "values ('sub_1', 11), ('sub_1', 12)");
}

#[test]
fn a_filter_and_a_list_of_columns_decide_which_rows_count() {
    let scene = Scene::new();
    scene.sql("create table usage (id int primary key, subscription text, amount numeric, note text)");
    let more = "operations => '{update}', columns => '{amount}', filter => 'new.amount > old.amount'";
    scene.draft_with("usage", PER_CHANGE, more);
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'sub_1', 10)");
    scene.sql("update usage set note = 'not billed: another column'");
    scene.sql("update usage set amount = 9");
    scene.sql("update usage set amount = 11, note = 'billed'");
    scene.wait_for_exactly(&["update-1-11"]);
}

#[test]
fn a_hand_written_trigger_of_a_draft_captures_nothing() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft("usage", "");
    scene.sql(
        "create trigger early after insert on usage for each row execute function lago_push.capture('usage')",
    );
    scene.sql(ONE_ROW);
    assert_eq!(scene.waiting(), 0);
    scene.activate("usage");
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-2"]);
}

#[test]
fn a_draft_captures_nothing() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft("usage", "");
    scene.sql(ONE_ROW);
    assert_eq!(scene.status("usage").state, "draft");
    assert_eq!(scene.waiting(), 0);
    scene.activate("usage");
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-2"]);
}

#[test]
fn a_paused_sync_goes_on_capturing_and_delivers_when_resumed() {
    let scene = billed_scene();
    scene.billed_table("control");
    scene.sql("select lago_push.pause('usage')");
    scene.sql(&insert_rows("usage", 250));
    // The other sync shares the worker and the destination: once its row is through, so would these be.
    scene.sql("insert into control (subscription, amount) values ('sub_1', 1)");
    scene.wait_for_event("control-1");
    assert_eq!(scene.arrived(), ["control-1"]);
    let status = scene.status("usage");
    assert_eq!((status.state.as_str(), status.pending), ("paused", 250));
    scene.sql("select lago_push.resume('usage')");
    assert_billed(
        &scene,
        "select subscription, amount from usage union all select subscription, amount from control",
    );
    assert_eq!(scene.status("usage").state, "active");
}

#[test]
fn what_is_written_after_a_pause_stays_although_the_worker_was_just_reading_definitions() {
    let scene = billed_scene();
    scene.billed_table("control");
    let mut holder = scene.db();
    holder.batch_execute("begin; lock table lago_push.destination_hold in access exclusive mode").unwrap();
    scene.sql("select lago_push.alter_sync('usage', batch_size => 50)");
    wait_until("the worker reads definitions, with a snapshot from before the pause", PATIENCE, || {
        scene.value::<bool>(
            "select exists (select from pg_stat_activity
              where datname = current_database() and backend_type = 'lago_push worker' and wait_event_type = 'Lock')",
        )
    });
    scene.sql("select lago_push.pause('usage')");
    scene.sql(&insert_rows("usage", 3));
    scene.sql("insert into control (subscription, amount) values ('sub_1', 1)");
    holder.batch_execute("commit").unwrap();
    scene.wait_for_event("control-1");
    assert_eq!(scene.arrived(), ["control-1"]);
    scene.sql("select lago_push.resume('usage')");
    scene.wait_for_exactly(&["control-1", "usage-1", "usage-2", "usage-3"]);
}

#[test]
fn a_held_destination_delivers_nothing_until_it_is_released() {
    let scene = billed_scene();
    scene.sql("select lago_push.hold('lago')");
    scene.sql(ONE_ROW);
    assert!(!scene.value::<bool>("select lago_push.flush(timeout => '300 ms')"), "flushed through a hold");
    assert_eq!(scene.lago.request_count(), 0);
    let state: String = scene.value("select state from lago_push.destinations where name = 'lago'");
    assert!(state.starts_with("held"), "{state}");
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>("select state from lago_push.destinations where name = 'lago'"), "open");
}

#[test]
fn a_sync_with_waiting_messages_is_dropped_only_on_purpose() {
    let scene = billed_scene();
    scene.sql("select lago_push.pause('usage')");
    scene.sql(&insert_rows("usage", 3));
    let error = scene.sql_error("select lago_push.drop_sync('usage')");
    assert!(error.contains("usage") && error.contains('3'), "{error}");
    scene.sql("select lago_push.drop_sync('usage', discard => true)");
    assert_eq!(scene.waiting(), 0);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.status"), 0);
    scene.sql(ONE_ROW);
    assert_eq!(scene.waiting(), 0);
    assert_eq!(scene.lago.stored_count(), 0);
}

#[test]
fn a_sync_with_dead_letters_is_dropped_only_on_purpose() {
    let scene = billed_scene();
    scene.sql("insert into usage (subscription, amount, created_at) values ('sub_1', 1, 'infinity')");
    wait_until("the row is a dead letter", PATIENCE, || scene.status("usage").dead == 1);
    let error = scene.sql_error("select lago_push.drop_sync('usage')");
    assert!(error.contains("usage"), "{error}");
    scene.sql("select lago_push.drop_sync('usage', discard => true)");
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.dead_letters"), 0);
}

#[test]
fn an_idle_sync_is_dropped_and_its_name_is_free_again() {
    let scene = billed_scene();
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1"]);
    scene.sql("select lago_push.drop_sync('usage')");
    scene.sql(ONE_ROW);
    scene.draft("usage", "");
    scene.activate("usage");
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1", "usage-3"]);
}

#[test]
fn a_destination_in_use_is_not_dropped() {
    let scene = billed_scene();
    let error = scene.sql_error("select lago_push.drop_destination('lago')");
    assert!(error.contains("usage"), "the error names the sync: {error}");
    scene.sql("select lago_push.drop_sync('usage')");
    scene.sql("select lago_push.drop_destination('lago')");
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.destinations"), 0);
}

#[test]
fn a_wrong_key_loses_nothing_and_the_right_one_needs_no_restart() {
    let scene = Scene::without_destination(Cluster::shared(), Store::Postgres);
    let sql = "select lago_push.create_destination('lago', url => $1, api_key => 'outdated')";
    scene.run(sql, &[&scene.lago.url()]);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 250));
    wait_until("Lago has refused the key", PATIENCE, || scene.lago.request_count() > 0);
    assert_eq!(scene.lago.stored_count(), 0);
    assert_eq!(scene.waiting(), 250);
    let worker = scene.wait_for_worker();
    scene.run("select lago_push.set_api_key('lago', $1)", &[&scene.api_key()]);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.wait_for_worker(), worker, "the worker was restarted");
}

#[test]
fn a_key_replaced_in_lago_is_replaced_here_while_messages_wait() {
    let scene = billed_scene();
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1"]);
    scene.lago.set_api_key("rotated");
    scene.sql(&insert_rows("usage", 20));
    wait_until("the key has been refused", PATIENCE, || scene.destination_error().is_some());
    scene.sql("select lago_push.set_api_key('lago', 'rotated')");
    assert_billed_exactly_once(&scene);
}

#[test]
fn the_key_can_live_in_a_file() {
    let scene = Scene::without_destination(Cluster::shared(), Store::Postgres);
    let file = scene.cluster.folder().join(format!("key-{}", scene.database));
    fs::write(&file, format!("{}\n", scene.api_key())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let sql = "select lago_push.create_destination('lago', url => $1, api_key_file => $2)";
    scene.run(sql, &[&scene.lago.url(), &file.to_str().unwrap()]);
    scene.billed_table("usage");
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_key_replaced_in_its_file_is_read_again_when_lago_does_not_know_the_old_one() {
    let scene = Scene::without_destination(Cluster::shared(), Store::Postgres);
    let file = scene.cluster.folder().join(format!("key-{}", scene.database));
    let write = |key: &str| {
        fs::write(&file, key).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    };
    write(&scene.api_key());
    let sql = "select lago_push.create_destination('lago', url => $1, api_key_file => $2)";
    scene.run(sql, &[&scene.lago.url(), &file.to_str().unwrap()]);
    scene.billed_table("usage");
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    write("a-new-key");
    scene.lago.set_api_key("a-new-key");
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.destination_error(), None, "nobody had to do anything");
    scene.lago.set_api_key("the-newest-key");
    scene.sql(ONE_ROW);
    wait_until("Lago has refused the old key", PATIENCE, || scene.destination_error().is_some());
    write("the-newest-key");
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_destination_that_cannot_be_used_says_so_and_heals_by_itself() {
    let scene = billed_scene();
    let file = scene.cluster.folder().join(format!("key-{}", scene.database));
    scene.run("select lago_push.alter_destination('lago', api_key_file => $1)", &[&file.to_str().unwrap()]);
    scene.sql(ONE_ROW);
    wait_until("the destination says what is wrong", PATIENCE, || {
        scene.destination_error().is_some_and(|error| {
            error.starts_with("the destination cannot be used: api_key_file cannot be read")
        })
    });
    fs::write(&file, scene.api_key()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_destination_that_moves_is_followed_without_a_restart() {
    let scene = Scene::without_destination(Cluster::shared(), Store::Postgres);
    // The old address still answers, but not for this organization.
    let old = Scene::without_destination(Cluster::shared(), Store::Postgres);
    old.lago.stop();
    let sql = "select lago_push.create_destination('lago', url => $1, api_key => $2)";
    scene.run(sql, &[&old.lago.url(), &scene.api_key()]);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 250));
    wait_until("the old address has failed", PATIENCE, || scene.destination_error().is_some());
    assert_eq!(scene.waiting(), 250);
    scene.run("select lago_push.alter_destination('lago', url => $1)", &[&scene.lago.url()]);
    assert_billed_exactly_once(&scene);
    assert_eq!(old.lago.stored_count(), 0);
}

#[test]
fn flush_waits_for_what_was_pending_and_says_whether_it_went() {
    let scene = billed_scene();
    assert!(scene.value::<bool>("select lago_push.flush()"), "nothing to wait for");
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 250));
    assert!(!scene.value::<bool>("select lago_push.flush('usage', timeout => '300 ms')"), "Lago was stopped");
    assert_eq!(scene.waiting(), 250);
    scene.lago.resume().unwrap();
    assert!(scene.value::<bool>("select lago_push.flush('usage', timeout => '60 s')"));
    assert_eq!(scene.waiting(), 0);
    assert_billed_exactly_once(&scene);
}

#[test]
fn flush_waits_for_one_sync_and_not_for_another() {
    let scene = billed_scene();
    scene.billed_table("stuck");
    scene.sql("select lago_push.pause('stuck')");
    scene.sql("insert into stuck (subscription, amount) values ('sub_1', 1)");
    scene.sql(ONE_ROW);
    assert!(scene.value::<bool>("select lago_push.flush('usage', timeout => '60 s')"));
    assert!(!scene.value::<bool>("select lago_push.flush('stuck', timeout => '300 ms')"));
    assert_eq!(scene.arrived(), ["usage-1"]);
    let error = scene.sql_error("select lago_push.flush('nobody')");
    assert!(error.contains("nobody"), "{error}");
}

#[test]
fn databases_of_one_cluster_deliver_side_by_side() {
    let (here, there) = (billed_scene(), billed_scene());
    for _ in 0..5 {
        here.sql(&insert_rows("usage", 300));
        there.sql(&insert_rows("usage", 200));
    }
    assert_billed_exactly_once(&here);
    assert_billed_exactly_once(&there);
    assert_ne!(here.wait_for_worker(), there.wait_for_worker());
    let workers: Vec<String> =
        here.rows("select database::text from lago_push.workers").iter().map(|row| row.get(0)).collect();
    assert!(workers.contains(&here.database), "{workers:?}");
}

#[test]
fn rolled_back_rows_are_never_sent() {
    let scene = billed_scene();
    let mut db = scene.db();
    for n in 1..=20 {
        db.batch_execute(&format!("begin; {}; rollback", insert_rows("usage", n))).unwrap();
        db.batch_execute(ONE_ROW).unwrap();
    }
    // A connection that goes away in the middle of a transaction rolls back too.
    let mut lost = scene.db();
    lost.batch_execute(&format!("begin; {}", insert_rows("usage", 10))).unwrap();
    drop(lost);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 20);
}

#[test]
fn a_backlog_goes_out_in_full_batches_side_by_side() {
    let scene = billed_scene();
    scene.sql("select lago_push.pause('usage')");
    scene.sql(&insert_rows("usage", 2000));
    scene.lago.set_latency(Duration::from_millis(100));
    scene.sql("select lago_push.resume('usage')");
    assert_billed_exactly_once(&scene);
    let sizes = scene.batch_sizes();
    assert_eq!(sizes.iter().max(), Some(&100), "{sizes:?}");
    assert!(sizes.len() <= 30, "2000 events took {} requests: {sizes:?}", sizes.len());
    assert!(scene.most_at_once(Duration::from_millis(100)) > 1, "one request at a time");
}

#[test]
fn an_outbox_written_anew_while_requests_are_under_way_is_emptied() {
    let scene = billed_scene();
    scene.lago.set_latency(Duration::from_millis(500));
    scene.sql(&insert_rows("usage", 3000));
    wait_until("requests are under way", PATIENCE, || {
        scene.value::<bool>("select coalesce(sum(in_flight), 0) > 0 from lago_push.destinations")
    });
    // Now all messages stand elsewhere, some of them where others stood.
    scene.sql("vacuum full lago_push.message");
    scene.sql("update lago_push.message set entered = entered where id % 2 = 0");
    scene.lago.set_latency(Duration::ZERO);
    scene.sql(&insert_rows("usage", 300));
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.lago.stored_count(), 3300);
    let ledger =
        "select concat_ws(' ', captured, delivered, duplicate, dead, balanced) from lago_push.ledger";
    assert_eq!(scene.value::<String>(ledger), "3300 3300 0 0 t");
}

#[test]
fn a_sync_may_ask_for_smaller_batches() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft("usage", "batch_size => 7");
    scene.activate("usage");
    scene.sql(&insert_rows("usage", 100));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.batch_sizes().iter().max(), Some(&7));
}

#[test]
fn a_destination_limits_its_connections() {
    let scene = billed_scene();
    scene.sql("select lago_push.alter_destination('lago', connections => 2)");
    scene.lago.set_latency(Duration::from_millis(50));
    scene.sql(&insert_rows("usage", 1500));
    assert_billed_exactly_once(&scene);
    let most = scene.most_at_once(Duration::from_millis(50));
    assert!(most <= 2, "{most} requests at once");
}

#[test]
fn status_counts_what_happened() {
    let scene = billed_scene();
    scene.sql(&insert_rows("usage", 120));
    assert_billed_exactly_once(&scene);
    let rows = scene.rows(
        "select source::text, destination::text, oldest_pending is null,
                last_delivered_at > now() - interval '10 min'
         from lago_push.status",
    );
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, String>(0), "usage");
    assert_eq!(rows[0].get::<_, String>(1), "lago");
    assert!(rows[0].get::<_, bool>(2) && rows[0].get::<_, bool>(3));
    let status = scene.status("usage");
    assert_eq!((status.pending, status.retrying, status.delivered, status.dead), (0, 0, 120, 0));
    assert_eq!(status.last_error, None);
}

#[test]
fn a_commit_while_a_reply_is_on_its_way_is_not_left_behind() {
    let scene = billed_scene();
    let mut db = scene.db();
    for round in 1..=300 {
        // The second commit comes while the worker, busy with the first, is not looking.
        db.batch_execute(&insert_rows("usage", 1)).unwrap();
        db.batch_execute(&insert_rows("usage", 1)).unwrap();
        wait_until("both have arrived", PATIENCE, || scene.lago.stored_count() == round * 2);
    }
}
