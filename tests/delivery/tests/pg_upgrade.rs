//! `pg_upgrade`: a server of the next major version takes over what waits, what died, what is held and the keys,
//! and delivers it under the same ids.
//!
//! These need two PostgreSQLs with the extension in both, so they run by `scripts/test-pg-upgrade OLD NEW` alone:
//! `LAGO_PUSH_PG_CONFIG` is the old one, `LAGO_PUSH_NEW_PG_CONFIG` the new one.
#![forbid(unsafe_code)]

use std::env;

use delivery::cluster::{Cluster, Options, Stop, programs_of};
use delivery::oracle::assert_billed;
use delivery::runs;
use delivery::scene::{Scene, insert_rows, usage_template};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

/// No number of seconds says this, so no timestamp can be made of it.
const BAD_ROW: &str = "insert into usage (subscription, amount, created_at) values ('sub_1', 42, 'infinity')";

/// Everything lago_push keeps, as one text.
const KEPT: &str = "select jsonb_build_object(
    'destinations', (select jsonb_agg(d order by d.id) from lago_push.destination d),
    'keys', (select jsonb_agg(k) from lago_push.api_key k),
    'syncs', (select jsonb_agg(s order by s.id) from lago_push.sync s),
    'messages', (select jsonb_agg(m order by m.id) from lago_push.message m),
    'letters', (select jsonb_agg(d order by d.id) from lago_push.dead_letter d),
    'replies', (select jsonb_agg(r order by r.id) from lago_push.reply r),
    'last', (select last_value from lago_push.message_id))::text";

/// A server of the old version, in the middle of its work and stopped, becomes one of the new version.
fn upgraded(create_extension: &str) -> Scene {
    let pg_config =
        env::var("LAGO_PUSH_NEW_PG_CONFIG").expect("LAGO_PUSH_NEW_PG_CONFIG is set by the script");
    let old = Cluster::start(&Options::default());
    let new = Cluster::prepare(&Options { programs: Some(programs_of(&pg_config)), ..Options::default() });
    assert!(new.version() > old.version(), "from {} to {}", old.version(), new.version());

    let mut scene = Scene::without_extension(old, Store::Postgres, "");
    scene.sql(create_extension);
    scene.create_destination("lago");
    scene.usage_table("usage");
    scene.draft(
        "usage",
        "keep_replies => '1 day', filter => 'new.amount >= 0', order_by => '{{ row.subscription }}'",
    );
    scene.activate("usage");
    scene.sql(&insert_rows("usage", 30));
    scene.sql(BAD_ROW);
    assert!(scene.value::<bool>("select lago_push.flush()"));
    let has_queries = scene.value::<bool>("select to_regclass('lago_push.remembered') is not null");
    if has_queries {
        scene.run(
            "select lago_push.create_sync('queried', query => 'select * from usage', key => '{id}', first_run => 'remember', template => $1)",
            &[&usage_template("usage")],
        );
        scene.activate("queried");
        assert_eq!(runs::run(&scene, "queried"), "succeeded 31 31 0 0 0");
    }
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 250));
    wait_until("the outage is noticed", PATIENCE, || scene.destination_error().is_some());
    let before: String = scene.value(KEPT);
    scene.disconnect();
    scene.cluster.stop(Stop::Fast);

    new.take_over(&scene.cluster);
    new.start_again();
    scene.move_to(new);
    assert_eq!(scene.value::<String>(KEPT), before);
    assert_eq!(scene.status("usage").pending, 250);
    scene.lago.resume().unwrap();
    assert_delivered(&scene);
    if has_queries {
        scene.sql("select lago_push.alter_sync('queried', query => 'select * from usage where id <= 31')");
        assert_eq!(runs::run(&scene, "queried"), "succeeded 31 0 0 0 31");
    }
    scene
}

#[track_caller]
fn assert_delivered(scene: &Scene) {
    assert_billed(scene, "select subscription, amount from usage where created_at <> 'infinity'");
    assert_eq!(scene.status("usage").dead, 1);
    assert!(scene.value::<bool>("select bool_and(balanced) from lago_push.ledger"));
}

#[test]
#[ignore = "needs two PostgreSQLs: scripts/test-pg-upgrade"]
fn what_waits_is_delivered_by_the_next_major_version_under_the_same_ids() {
    let scene = upgraded("create extension lago_push");
    scene.sql(&insert_rows("usage", 20));
    assert_delivered(&scene);
    assert_eq!(scene.lago.stored_count(), 300);
}

#[test]
#[ignore = "needs two PostgreSQLs: scripts/test-pg-upgrade"]
fn the_old_sql_goes_through_too_and_is_updated_after() {
    let scene = upgraded("create extension lago_push version '0.1.0'");
    scene.sql(&insert_rows("usage", 20));
    assert_delivered(&scene);
    scene.sql("alter extension lago_push update");
    scene.sql(&insert_rows("usage", 20));
    assert_delivered(&scene);
}
