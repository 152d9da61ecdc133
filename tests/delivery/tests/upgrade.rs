//! From the released version to this one: the new library serves the old SQL until somebody updates it, and the
//! update keeps everything: messages, counters, grants.
//!
//! The library under test is always the new one. The old SQL is the released file, which scripts/with-extension
//! puts beside the new one's.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use delivery::catalog::{differences, facts};
use delivery::cluster::{Cluster, Options};
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::random::Random;
use delivery::scene::{Scene, error_text, insert_rows};
use delivery::wait::{PATIENCE, try_until, wait_until};
use delivery::writers::Writers;
use fake_lago::Store;

const RELEASED: &str = "0.1.0";
const UPDATE: &str = "alter extension lago_push update";
const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";
/// No number of seconds says this, so no timestamp can be made of it.
const BAD_ROW: &str = "insert into usage (subscription, amount, created_at) values ('sub_1', 42, 'infinity')";

/// A database with the old SQL, and a destination.
fn released() -> Scene {
    released_on(Cluster::shared())
}

fn released_on(cluster: Arc<Cluster>) -> Scene {
    let scene = Scene::without_extension(cluster, Store::Postgres, "");
    scene.sql(&format!("create extension lago_push version '{RELEASED}'"));
    scene.create_destination("lago");
    scene
}

fn version(scene: &Scene) -> String {
    scene.value("select extversion::text from pg_extension where extname = 'lago_push'")
}

fn balanced(scene: &Scene) -> bool {
    scene.value("select coalesce(bool_and(balanced), true) from lago_push.ledger")
}

#[test]
fn an_updated_database_is_like_a_new_one() {
    // Whatever default privileges a database has, what is new in it is closed.
    let defaults = "alter default privileges grant all on tables to pg_read_all_stats;
                    alter default privileges grant all on sequences to pg_read_all_stats;
                    alter default privileges grant all on functions to pg_read_all_stats, public";
    let updated = released();
    updated.sql(defaults);
    updated.sql(UPDATE);
    let made = Scene::without_extension(Cluster::shared(), Store::Postgres, "");
    made.sql(defaults);
    made.sql("create extension lago_push");
    assert_eq!(version(&updated), version(&made));
    let found = differences(&facts(&mut updated.db()), &facts(&mut made.db()));
    assert!(
        found.is_empty(),
        "the update of {RELEASED} leaves differences; scripts/upgrade-sql {RELEASED} writes most of what is lacking:\n{found}"
    );
}

#[test]
fn every_c_function_of_the_old_sql_is_called_and_works() {
    let options = Options::default().with("track_functions", "all");
    let scene = released_on(Cluster::start(&options));
    scene.billed_table("usage");
    scene.sql(
        r#"select lago_push.create_destination('other', url => 'http://127.0.0.1:9/api/v1', api_key => 'k', rate_limit => 5, proxy => 'http://127.0.0.1:9');
           select lago_push.set_api_key('other', 'another'), lago_push.hold('other'), lago_push.release('other');
           select lago_push.alter_destination('other', connections => 2);
           create table mapped (like usage including all);
           create function map_other(mapped) returns jsonb language sql as $$ select null::jsonb $$;
           select lago_push.create_sync('mapped', source => 'mapped', mapper => 'map_other(mapped)', destination => 'other', filter => 'new.amount > 0', schedule => '0 3 * * *');
           select lago_push.alter_sync('mapped', batch_size => 7, filter => 'new.amount > 1');
           select lago_push.activate('mapped');
           select lago_push.pause('mapped'), lago_push.resume('mapped');
           insert into mapped (id, subscription, amount) overriding system value values (1, 'sub_1', 5);
           select lago_push.drop_sync('mapped');
           select lago_push.drop_destination('other');"#,
    );
    scene.sql(&insert_rows("usage", 10));
    scene.sql(BAD_ROW);
    scene.sql(BAD_ROW);
    assert!(scene.value::<bool>("select lago_push.flush('usage')"));
    assert_eq!(scene.rows("select * from lago_push.preview('usage')").len(), 5);
    let test = r#"select status from lago_push.send_test('usage', body => '{"transaction_id": "a test", "code": "usage",
        "external_subscription_id": "sub_2", "timestamp": 1748779200, "properties": {"amount": "1"}}')"#;
    assert_eq!(scene.value::<i32>(test), 200);
    assert!(
        scene
            .value::<String>("select lago_push.suggest_template('usage')")
            .contains("external_subscription_id")
    );
    // Mended, rendered again and delivered; corrected by hand and delivered; given up.
    scene.sql("update usage set created_at = now() where created_at = 'infinity'");
    scene.sql(
        r#"select lago_push.alter_sync('usage', template => '{"transaction_id": "again-{{ row.id }}",
               "external_subscription_id": "{{ row.subscription }}", "code": "usage", "properties": {"amount": "{{ row.amount }}"}}');
           select lago_push.correct(min(id), '{"transaction_id": "by hand", "external_subscription_id": "sub_1",
               "code": "usage", "timestamp": 1748779200, "properties": {"amount": "1"}}') from lago_push.dead_letters"#,
    );
    let redriven = "select lago_push.redrive('usage', filter => 'reason like ''%corrected by%''')";
    assert_eq!(scene.value::<i64>(redriven), 1);
    scene.wait_for_event("by hand");
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage')"), 1);
    scene.wait_for_event("again-12");
    assert_eq!(scene.value::<i64>("select lago_push.discard('usage')"), 0);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert!(balanced(&scene));
    for view in scene.rows("select viewname::text from pg_views where schemaname = 'lago_push'") {
        let view: &str = view.get(0);
        scene.rows(&format!("select * from lago_push.{view}"));
    }
    // Sessions hand their statistics over when they end.
    let uncalled = "select coalesce(string_agg(p.oid::regprocedure::text, ', '), '')
        from pg_proc p join pg_language l on l.oid = p.prolang and l.lanname = 'c'
        where p.pronamespace = 'lago_push'::regnamespace
          and not exists (select from pg_stat_user_functions f where f.funcid = p.oid)";
    scene.disconnect();
    let uncalled = || -> String { scene.db().query_one(uncalled, &[]).unwrap().get(0) };
    let all = try_until(Duration::from_secs(10), || uncalled().is_empty());
    assert!(all.is_some(), "not called: {}", uncalled());
    scene.sql("select lago_push.drop_sync('usage')");
    assert_eq!(version(&scene), RELEASED);
}

#[test]
fn the_worker_says_once_that_the_sql_is_older() {
    let scene = released();
    scene.billed_table("usage");
    let remark = format!("lago_push in database \"{}\" is {RELEASED}, the library ", scene.database);
    for _ in 0..5 {
        scene.sql(ONE_ROW);
        assert_billed_exactly_once(&scene);
    }
    let log = scene.cluster.log();
    let starts = log.lines().filter(|line| line.contains(&remark)).count();
    assert!(starts >= 1, "{}", scene.cluster.log_tail(None));
    // One worker may have started, found nothing and left before the first row; none says it twice.
    let workers: Vec<&str> = log.lines().filter(|line| line.contains(&remark)).collect();
    let mut processes: Vec<&str> = workers.iter().filter_map(|line| line.split(['[', ']']).nth(1)).collect();
    processes.dedup();
    assert_eq!(processes.len(), starts, "{workers:?}");
    scene.sql(UPDATE);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    let after = scene.cluster.log().lines().filter(|line| line.contains(&remark)).count();
    assert_eq!(after, starts, "it is said of a database that is updated");
}

#[test]
fn an_update_under_writers_and_a_worker_loses_nothing_and_bills_nothing_twice() {
    let scene = released();
    scene.billed_table("usage");
    let writers = Writers::start(&scene, "usage", 3, &mut Random::from_seed(7));
    wait_until("deliveries are under way", PATIENCE, || scene.lago.stored_count() > 50);
    scene.sql(UPDATE);
    let (stored, commits) = (scene.lago.stored_count(), writers.commits());
    wait_until("the writers go on", PATIENCE, || writers.commits() > commits + 50);
    wait_until("the worker goes on", PATIENCE, || scene.lago.stored_count() > stored + 50);
    writers.stop();
    assert_billed_exactly_once(&scene);
    assert!(balanced(&scene));
    let log = scene.cluster.log();
    assert!(!log.contains(&format!("{}: ERROR", scene.database)), "{}", scene.cluster.log_tail(None));
    assert!(!log.contains("deadlock detected"), "{}", scene.cluster.log_tail(None));
}

#[test]
fn what_waits_what_died_and_what_is_held_is_kept_and_goes_on_after_the_update() {
    let scene = released();
    scene.billed_table("usage");
    scene.sql("select lago_push.set_api_key('lago', 'wrong')");
    scene.sql(&insert_rows("usage", 250));
    scene.sql(BAD_ROW);
    wait_until("the destination is held", PATIENCE, || {
        scene.value::<bool>("select state like 'held: %' and in_flight = 0 from lago_push.destinations")
    });
    let kept = "select jsonb_build_object(
        'messages', (select jsonb_agg(m order by m.id) from lago_push.message m),
        'letters', (select jsonb_agg(d order by d.id) from lago_push.dead_letter d),
        'holds', (select jsonb_agg(h) from lago_push.destination_hold h),
        'keys', (select jsonb_agg(k) from lago_push.api_key k),
        'accounts', (select jsonb_agg(a) from lago_push.account a),
        'last', (select last_value from lago_push.message_id))::text";
    let before: String = scene.value(kept);
    scene.sql(UPDATE);
    assert_eq!(scene.value::<String>(kept), before);
    assert!(scene.value::<String>("select state from lago_push.destinations").starts_with("held: "));

    scene.run("select lago_push.set_api_key('lago', $1)", &[&scene.api_key()]);
    assert_billed(&scene, "select subscription, amount from usage where created_at <> 'infinity'");
    assert_eq!((scene.status("usage").delivered, scene.status("usage").dead), (250, 1));
    assert!(balanced(&scene));
}

#[test]
fn a_session_goes_on_with_what_it_has_cached_and_prepared() {
    let scene = released();
    scene.billed_table("usage");
    let mut session = scene.db();
    let insert = session.prepare("insert into usage (subscription, amount) values ($1, 1)").unwrap();
    session.execute(&insert, &[&"sub_1"]).unwrap();
    session.batch_execute("begin").unwrap();
    session.execute(&insert, &[&"sub_2"]).unwrap();
    scene.sql(UPDATE);
    session.execute(&insert, &[&"sub_3"]).unwrap();
    session.batch_execute("commit").unwrap();
    session.execute(&insert, &[&"sub_4"]).unwrap();
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 4);
}

#[test]
fn a_prepared_transaction_with_messages_does_not_hold_up_the_update() {
    let scene = released();
    scene.billed_table("usage");
    scene.sql(&format!("begin; {ONE_ROW}; {ONE_ROW}; prepare transaction 'across'"));
    scene.sql(&format!("set lock_timeout = '20s'; {UPDATE}"));
    scene.sql("commit prepared 'across'");
    assert_billed_exactly_once(&scene);
}

#[test]
fn an_update_locks_no_table_of_the_users() {
    let scene = released();
    scene.billed_table("usage");
    // Not even one that somebody else has to himself.
    let mut other = scene.db();
    other.batch_execute("begin; lock table usage in access exclusive mode").unwrap();
    let mut db = scene.db();
    db.batch_execute(&format!("set lock_timeout = '20s'; begin; {UPDATE}")).unwrap();
    let locked = "select coalesce(string_agg(distinct l.relation::regclass::text, ', '), '') from pg_locks l
        join pg_class c on c.oid = l.relation
        join pg_namespace n on n.oid = c.relnamespace
        where l.pid = pg_backend_pid() and n.nspname not in ('lago_push', 'pg_catalog', 'pg_toast')";
    let locked: String = db.query_one(locked, &[]).unwrap().get(0);
    assert_eq!(locked, "");
    db.batch_execute("commit").unwrap();
}

#[test]
fn an_update_that_is_rolled_back_changes_nothing() {
    let scene = released();
    scene.billed_table("usage");
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    let before = facts(&mut scene.db());
    scene.sql(&format!("begin; {UPDATE}; {ONE_ROW}; rollback"));
    assert_eq!(differences(&facts(&mut scene.db()), &before), "");
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(version(&scene), RELEASED);
}

#[test]
fn grants_of_users_are_kept_by_the_update_and_carried_by_a_dump_of_what_it_made() {
    let scene = released();
    let role = format!("operator_{}", scene.value::<i64>("select txid_current()"));
    let functions =
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'lago_push'::regnamespace
        and p.proname in ('create_sync', 'alter_sync', 'activate', 'redrive') order by 1";
    scene.sql(&format!("create role {role}; grant usage on schema lago_push to {role}; grant select on lago_push.status, lago_push.outbox to {role}"));
    for function in scene.rows(functions) {
        let function: &str = function.get(0);
        scene.sql(&format!("grant execute on function {function} to {role} with grant option"));
    }
    scene.sql(UPDATE);
    let check = |database: &str| {
        let mut db = scene.cluster.connect(database);
        let granted = format!(
            "select string_agg(p.proname, ' ' order by p.proname) from pg_proc p where p.pronamespace = 'lago_push'::regnamespace
                and has_function_privilege('{role}', p.oid, 'execute with grant option')"
        );
        let granted: String = db.query_one(&granted, &[]).unwrap().get(0);
        assert_eq!(granted, "activate alter_sync create_sync redrive", "in {database}");
        let views = format!(
            "select has_table_privilege('{role}', 'lago_push.status', 'select') and has_table_privilege('{role}', 'lago_push.outbox', 'select')
                and has_schema_privilege('{role}', 'lago_push', 'usage') and not has_table_privilege('{role}', 'lago_push.message', 'select')"
        );
        assert!(db.query_one(&views, &[]).unwrap().get::<_, bool>(0), "in {database}");
    };
    check(&scene.database);
    // What is the extension's own is in no dump. A user's grant that had become so would be lost by it.
    let copy = format!("{}_copy", &scene.database[..scene.database.len().min(50)]);
    scene.cluster.create_database(&copy);
    let dump = scene.cluster.program("pg_dump").arg(&scene.database).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    scene.cluster.psql_script(&copy, &String::from_utf8_lossy(&dump.stdout));
    check(&copy);
    // And nobody is kept from being dropped.
    scene.cluster.connect("postgres").batch_execute(&format!("drop database \"{copy}\"")).unwrap();
    scene.sql(&format!(
        "revoke all on all functions in schema lago_push from {role}; revoke all on all tables in schema lago_push from {role};
         revoke all on schema lago_push from {role}; drop role {role}"
    ));
}

#[test]
fn there_is_no_way_back() {
    let scene = released();
    scene.sql(UPDATE);
    let error = scene.db().batch_execute(&format!("alter extension lago_push update to '{RELEASED}'"));
    let error = error.expect_err("an update to an older version");
    assert!(error_text(&error).contains("no update path"), "{}", error_text(&error));
}
