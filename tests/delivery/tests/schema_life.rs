//! The life of a schema: tables and columns renamed, retyped, moved, rewritten and dropped, partitions attached and
//! detached, lago_push's own tables rebuilt and the extension itself dropped and made again. The write never fails,
//! what cannot be rendered says what to do and is delivered once it is mended, and nothing is billed twice.
#![forbid(unsafe_code)]

use std::thread;

use delivery::cluster::{Cluster, Options};
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::random::Random;
use delivery::scene::{Scene, insert_rows, usage_template};
use delivery::wait::{PATIENCE, wait_until};
use delivery::writers::Writers;
use fake_lago::Store;
use postgres::Client;
use postgres::error::SqlState;

const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";

fn billed_scene() -> Scene {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene
}

#[track_caller]
fn assert_balanced(scene: &Scene) {
    let ledger = scene.rows("select sync::text, balanced, l::text from lago_push.ledger l");
    for row in ledger {
        assert!(row.get::<_, bool>(1), "out of balance: {}", row.get::<_, String>(2));
    }
}

/// The one reason why rows died, once as many are dead.
#[track_caller]
fn reason_of(scene: &Scene, dead: i64) -> String {
    wait_until("the rows are dead letters", PATIENCE, || scene.status("usage").dead == dead);
    scene.value("select string_agg(distinct reason, ' | ') from lago_push.dead_letters")
}

/// Repairs the sync, and expects everything that died to be delivered.
#[track_caller]
fn mend(scene: &Scene, alteration: &str, dead: i64) {
    scene.sql(&format!("select lago_push.alter_sync('usage', {alteration})"));
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage')"), dead);
    assert_billed_exactly_once(scene);
    assert_balanced(scene);
}

/// Runs a command that must wait for a lock, and gives the thread that waits with it once it does.
fn start_waiting(scene: &Scene, command: &str) -> thread::JoinHandle<()> {
    let (mut db, command) = (scene.db(), command.to_owned());
    let pid: i32 = db.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    let waiter = thread::spawn(move || db.batch_execute(&command).unwrap());
    wait_until("it waits for a lock", PATIENCE, || {
        let sql = format!("select exists (select from pg_locks where pid = {pid} and not granted)");
        scene.value::<bool>(&sql)
    });
    waiter
}

/// Runs a command that needs a table to itself while others write: it waits for no lock for long, as the writers
/// would wait behind it, and tries again.
fn among_writers(scene: &Scene, command: &str) {
    let mut db = scene.db();
    db.batch_execute("set lock_timeout = '50ms'").unwrap();
    wait_until(command, PATIENCE, || match db.batch_execute(command) {
        Ok(()) => true,
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => false,
        Err(error) => panic!("{error:?}\nin: {command}"),
    });
}

// ---- columns -----------------------------------------------------------------------------------

#[test]
fn a_renamed_column_kills_letters_that_say_so_until_the_sync_is_altered() {
    let scene = billed_scene();
    let mut old_hand = scene.db();
    old_hand.batch_execute(ONE_ROW).unwrap();
    scene.sql("alter table usage rename column subscription to subscriber");
    let renamed = "insert into usage (subscriber, amount) values ('sub_2', 3)";
    old_hand.batch_execute(renamed).unwrap();
    scene.sql(renamed);
    let reason = reason_of(&scene, 2);
    assert_eq!(reason, "column \"subscription\" does not exist (any more)");
    let template = usage_template("usage").replace("row.subscription", "row.subscriber");
    scene
        .sql("create view old_names as select id, subscriber as subscription, amount, created_at from usage");
    scene.run("select lago_push.alter_sync('usage', template => $1)", &[&template]);
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage')"), 2);
    assert_billed(&scene, "select subscription, amount from old_names");
    assert_balanced(&scene);
}

#[test]
fn a_column_is_retyped_between_the_statements_of_sessions_that_know_it_otherwise() {
    let scene = billed_scene();
    let mut sessions: Vec<Client> = (0..3).map(|_| scene.db()).collect();
    let prepared: Vec<_> = sessions
        .iter_mut()
        .map(|db| {
            db.batch_execute("insert into usage (subscription, amount) values ('sub_1', 2)").unwrap();
            db.prepare("insert into usage (subscription, amount) values ('sub_3', 4)").unwrap()
        })
        .collect();
    for to in
        ["integer using amount::integer", "text", "double precision using amount::float8", "numeric(20, 3)"]
    {
        // One session is in the middle of a transaction that has captured.
        sessions[0].batch_execute("begin").unwrap();
        sessions[0].execute(&prepared[0], &[]).unwrap();
        let alteration = start_waiting(&scene, &format!("alter table usage alter column amount type {to}"));
        sessions[0].execute(&prepared[0], &[]).unwrap();
        sessions[0].batch_execute("commit").unwrap();
        alteration.join().unwrap();
        for (session, insert) in sessions.iter_mut().zip(&prepared) {
            session.batch_execute("begin").unwrap();
            session.batch_execute("insert into usage (subscription, amount) values ('sub_1', '7')").unwrap();
            session.batch_execute("savepoint s").unwrap();
            // The plan of a prepared statement is made anew where the type asks for it.
            let _ = session.execute(insert, &[]);
            session.batch_execute("rollback to savepoint s; commit").unwrap();
        }
    }
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.status("usage").dead, 0);
}

#[test]
fn generated_columns_are_billed_as_they_were_computed_and_as_they_become() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql("alter table usage add column twice numeric generated always as (amount * 2) stored");
    let template = usage_template("usage").replace("row.amount", "row.twice");
    scene.draft_with("usage", &template, "operations => '{insert}'");
    scene.activate("usage");
    let mut old_hand = scene.db();
    old_hand.batch_execute(ONE_ROW).unwrap();
    // An ordinary column from here on.
    scene.sql("alter table usage alter column twice drop expression");
    old_hand
        .batch_execute("insert into usage (subscription, amount, twice) values ('sub_1', 1, 100)")
        .unwrap();
    assert_billed(&scene, "select subscription, twice from usage");
    assert_eq!(scene.status("usage").dead, 0);
}

#[test]
fn a_column_of_the_order_goes_away_and_the_sync_is_given_another_order() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql("alter table usage add column tenant text default 'a'");
    scene.draft("usage", "order_by => '{{ row.tenant }}'");
    scene.activate("usage");
    let mut old_hand = scene.db();
    old_hand.batch_execute(ONE_ROW).unwrap();
    scene.sql("alter table usage drop column tenant");
    old_hand.batch_execute(ONE_ROW).unwrap();
    scene.sql(ONE_ROW);
    let reason = reason_of(&scene, 2);
    assert_eq!(reason, "column \"tenant\" does not exist (any more)");
    mend(&scene, "order_by => '{{ row.subscription }}'", 2);
}

#[test]
fn the_primary_key_behind_default_ids_is_renamed_retyped_and_dropped() {
    let scene = Scene::new();
    scene.usage_table("usage");
    let template = usage_template("usage").replace("\"transaction_id\": \"usage-{{ row.id }}\",", "");
    scene.draft_with("usage", &template, "");
    scene.activate("usage");
    let mut old_hand = scene.db();
    old_hand.batch_execute(ONE_ROW).unwrap();
    for alteration in [
        "alter table usage rename column id to number",
        "alter table usage alter column number drop identity",
        "alter table usage alter column number type text",
        "alter table usage alter column number set default gen_random_uuid()::text",
    ] {
        scene.sql(alteration);
    }
    old_hand.batch_execute(ONE_ROW).unwrap();
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    // Without a key there is nothing an id could be made of.
    scene.sql("alter table usage drop constraint usage_pkey");
    old_hand.batch_execute(ONE_ROW).unwrap();
    scene.sql(ONE_ROW);
    let reason = reason_of(&scene, 2);
    assert!(reason.contains("primary key"), "{reason}");
    scene.sql("alter table usage add primary key (number)");
    old_hand.batch_execute(ONE_ROW).unwrap();
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage')"), 2);
    assert_billed_exactly_once(&scene);
    assert_balanced(&scene);
}

#[test]
fn a_column_of_the_filter_is_kept_by_postgresql_and_follows_a_new_name() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql("alter table usage add column billable boolean default true");
    scene.draft("usage", "filter => 'new.billable'");
    scene.activate("usage");
    scene.sql(ONE_ROW);
    let refusal = scene.sql_error("alter table usage drop column billable");
    assert!(refusal.contains("trigger") && refusal.contains("depends on column billable"), "{refusal}");
    scene.sql("alter table usage rename column billable to charged");
    scene.sql(
        "insert into usage (subscription, amount, charged) values ('sub_1', 5, false), ('sub_2', 6, true)",
    );
    assert_billed(&scene, "select subscription, amount from usage where charged");
    // The sync's own text still has the old name, which shows when it has to make the trigger anew.
    let refusal = scene.sql_error("select lago_push.alter_sync('usage', operations => '{insert,update}')");
    assert!(refusal.contains("billable"), "{refusal}");
    scene.sql("select lago_push.alter_sync('usage', filter => 'new.charged')");
    scene.sql(ONE_ROW);
    assert_billed(&scene, "select subscription, amount from usage where charged");
}

#[test]
fn a_trigger_that_went_with_a_column_is_made_again_by_activate() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql("alter table usage add column billable boolean default true");
    scene.draft("usage", "filter => 'new.billable'");
    scene.activate("usage");
    scene.sql(ONE_ROW);
    scene.sql("alter table usage drop column billable cascade");
    scene.sql(ONE_ROW);
    let refusal = scene.sql_error("select lago_push.activate('usage')");
    assert!(refusal.contains("billable"), "{refusal}");
    scene.sql("select lago_push.alter_sync('usage', filter => ''), lago_push.activate('usage')");
    scene.sql(ONE_ROW);
    // The second row is an existing row now.
    scene.wait_for_exactly(&["usage-1", "usage-3"]);
    assert_balanced(&scene);
    scene.sql("select lago_push.activate('usage')");
    assert_eq!(scene.value::<i64>("select count(*) from lago_push._triggers('usage')"), 1);
}

// ---- tables ------------------------------------------------------------------------------------

#[test]
fn a_table_that_is_renamed_moved_and_given_away_goes_on() {
    let scene = billed_scene();
    let mut old_hand = scene.db();
    let insert = old_hand.prepare(ONE_ROW).unwrap();
    old_hand.execute(&insert, &[]).unwrap();
    let role = format!("owner_{}", scene.value::<i64>("select txid_current()"));
    scene.sql(&format!(
        "create role {role}; create schema {role} authorization {role};
         alter table usage rename to consumption; alter table consumption set schema {role};
         alter table {role}.consumption owner to {role}"
    ));
    old_hand.execute(&insert, &[]).unwrap_err();
    let moved = ONE_ROW.replace("usage", &format!("{role}.consumption"));
    old_hand.batch_execute(&moved).unwrap();
    scene.sql(&moved);
    assert_billed(&scene, &format!("select subscription, amount from {role}.consumption"));
    let source: String = scene.value("select source::text from lago_push.status");
    assert_eq!(source, format!("{role}.consumption"));
    assert_eq!(scene.status("usage").dead, 0);
    scene.sql(&format!("select lago_push.drop_sync('usage'); drop schema {role} cascade; drop role {role}"));
}

#[test]
fn a_table_that_is_rewritten_rebuilt_and_relogged_under_writers_goes_on() {
    let scene = billed_scene();
    let writers = Writers::start(&scene, "usage", 3, &mut Random::from_seed(11));
    for command in [
        "vacuum full usage",
        "cluster usage using usage_pkey",
        "alter table usage set unlogged",
        "alter table usage set logged",
        "alter table usage add column noted timestamptz default clock_timestamp()",
        "alter table usage alter column amount type numeric(30, 6)",
        "alter table usage drop column noted",
        "alter table usage alter column subscription type varchar(40)",
        "alter table usage set (fillfactor = 50)",
        "reindex table usage",
        "alter table usage alter column amount type numeric",
    ] {
        let commits = writers.commits();
        among_writers(&scene, command);
        wait_until("the writers go on", PATIENCE, || writers.commits() > commits + 10);
    }
    writers.stop();
    assert_billed_exactly_once(&scene);
    assert_balanced(&scene);
}

#[test]
fn what_waits_of_a_truncated_or_dropped_table_is_delivered_and_its_sync_can_be_dropped() {
    let scene = billed_scene();
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 250));
    scene.sql("create table kept as select * from usage; truncate usage restart identity");
    assert_eq!(scene.status("usage").pending, 250);
    // An identity that begins anew would repeat ids that wait; this table's do not.
    scene.sql("alter sequence usage_id_seq restart 1000");
    scene.sql(ONE_ROW);
    scene.sql("insert into kept select * from usage; drop table usage");
    let source: String = scene.value("select source::text from lago_push.status");
    assert!(source.parse::<u32>().is_ok(), "{source}");
    let refusal = scene.sql_error("select lago_push.drop_sync('usage')");
    assert!(refusal.contains("251 pending"), "{refusal}");
    scene.lago.resume().unwrap();
    assert_billed(&scene, "select subscription, amount from kept");
    assert_eq!(scene.status("usage").delivered, 251);
    assert_balanced(&scene);
    scene.sql("select lago_push.drop_sync('usage')");
}

#[test]
fn a_row_of_a_dropped_table_is_delivered_though_it_died() {
    let scene = billed_scene();
    scene.sql("insert into usage (subscription, amount, created_at) values ('sub_1', 42, 'infinity')");
    reason_of(&scene, 1);
    scene.sql("drop table usage");
    // There is nothing its row could be read as any more: it stays, and says so.
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage')"), 0);
    assert_eq!(reason_of(&scene, 1), "the sync's source does not exist (any more)");
    let letter: i64 = scene.value("select id from lago_push.dead_letters");
    let payload = r#"{"transaction_id": "mended", "external_subscription_id": "sub_1", "code": "usage",
        "timestamp": 1748779200, "properties": {"amount": "42"}}"#;
    scene.run("select lago_push.correct($1, $2)", &[&letter, &payload]);
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage')"), 1);
    scene.wait_for_exactly(&["mended"]);
    assert_balanced(&scene);
    scene.sql("select lago_push.drop_sync('usage')");
}

#[test]
fn rows_written_while_the_trigger_is_off_are_not_captured_and_the_ledger_knows_of_none() {
    let scene = billed_scene();
    scene.sql(ONE_ROW);
    let trigger: String = scene
        .value("select tgname::text from pg_trigger where tgrelid = 'usage'::regclass and not tgisinternal");
    scene.sql(&format!(
        "alter table usage disable trigger {trigger}; {ONE_ROW}; alter table usage enable trigger {trigger}"
    ));
    scene.sql(&format!("set session_replication_role = replica; {ONE_ROW}"));
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1", "usage-4"]);
    assert_balanced(&scene);
}

// ---- partitions --------------------------------------------------------------------------------

/// A partitioned table `usage` whose inserts are billed, with one partition, `usage_north`.
fn partitioned() -> Scene {
    let scene = Scene::new();
    scene.sql(
        "create sequence usage_id;
         create table usage (
             id bigint not null default nextval('usage_id'),
             subscription text not null,
             amount numeric not null,
             created_at timestamptz not null default now(),
             region text not null)
             partition by list (region);
         create table usage_north partition of usage for values in ('north')",
    );
    scene.draft("usage", "");
    scene.activate("usage");
    scene
}

fn into(table: &str, region: &str, amount: u32) -> String {
    format!("insert into {table} (subscription, amount, region) values ('sub_3', {amount}, '{region}')")
}

#[test]
fn rows_that_come_with_an_attached_partition_are_existing_rows() {
    let scene = partitioned();
    let mut old_hand = scene.db();
    old_hand.batch_execute(&into("usage", "north", 1)).unwrap();
    // Its columns stand in another order, and one of them is gone.
    scene.sql(&format!(
        "create table usage_south (region text not null, forgotten int, created_at timestamptz not null default now(),
             amount numeric not null, subscription text not null, id bigint not null default nextval('usage_id'));
         alter table usage_south drop column forgotten;
         {};
         alter table usage attach partition usage_south for values in ('south')",
        into("usage_south", "south", 2)
    ));
    old_hand.batch_execute(&into("usage", "south", 3)).unwrap();
    old_hand.batch_execute(&into("usage_south", "south", 4)).unwrap();
    assert_billed(&scene, "select subscription, amount from usage where id <> 2");
    assert_eq!(scene.status("usage").dead, 0);
}

#[test]
fn a_detached_partition_is_an_ordinary_table_until_it_is_attached_again() {
    let scene = partitioned();
    let mut old_hand = scene.db();
    old_hand.batch_execute(&into("usage_north", "north", 1)).unwrap();
    scene.sql("create table usage_other partition of usage default");
    old_hand.batch_execute(&into("usage", "east", 2)).unwrap();
    scene.sql("alter table usage detach partition usage_north");
    old_hand.batch_execute(&into("usage_north", "north", 3)).unwrap();
    old_hand.batch_execute(&into("usage", "north", 4)).unwrap();
    scene.sql(
        "delete from usage_other where region = 'north'; alter table usage attach partition usage_north for values in ('north')",
    );
    old_hand.batch_execute(&into("usage_north", "north", 5)).unwrap();
    scene.wait_for_exactly(&["usage-1", "usage-2", "usage-4", "usage-5"]);
    assert_eq!(scene.status("usage").dead, 0);
    // A partition that goes takes nothing along that waits.
    scene.lago.stop();
    old_hand.batch_execute(&into("usage_north", "north", 6)).unwrap();
    scene.sql("drop table usage_north");
    scene.lago.resume().unwrap();
    scene.wait_for_exactly(&["usage-1", "usage-2", "usage-4", "usage-5", "usage-6"]);
    assert_balanced(&scene);
}

// ---- lago_push itself --------------------------------------------------------------------------

#[test]
fn its_own_tables_are_rebuilt_while_it_captures_and_delivers() {
    let scene = billed_scene();
    let writers = Writers::start(&scene, "usage", 3, &mut Random::from_seed(13));
    wait_until("deliveries are under way", PATIENCE, || scene.lago.stored_count() > 20);
    for command in [
        "vacuum full lago_push.message",
        "reindex table lago_push.message",
        "reindex table concurrently lago_push.message",
        "cluster lago_push.message using message_is_numbered",
        "vacuum full lago_push.account, lago_push.destination_health, lago_push.sync, lago_push.retry",
        "reindex schema lago_push",
        "vacuum full lago_push.dead_letter",
        "analyze lago_push.message, lago_push.sync",
    ] {
        let commits = writers.commits();
        among_writers(&scene, command);
        wait_until("the writers go on", PATIENCE, || writers.commits() > commits + 10);
    }
    writers.stop();
    assert_billed_exactly_once(&scene);
    assert_balanced(&scene);
}

#[test]
fn a_drop_of_the_extension_is_refused_while_a_sync_is_attached() {
    let scene = billed_scene();
    scene.sql(ONE_ROW);
    let refusal = scene.sql_error("drop extension lago_push");
    assert!(refusal.contains("other objects depend on it"), "{refusal}");
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    scene.sql("select lago_push.drop_sync('usage'); drop extension lago_push");
    scene.sql(ONE_ROW);
}

#[test]
fn sessions_go_on_when_the_extension_is_dropped_and_made_again_beneath_them() {
    let scene = Scene::on(Cluster::start(&Options::default()), Store::Postgres);
    scene.billed_table("usage");
    let (mut one, mut other) = (scene.db(), scene.db());
    let insert = other.prepare(ONE_ROW).unwrap();
    for (session, n) in [(&mut one, 1), (&mut other, 2)] {
        session.batch_execute(ONE_ROW).unwrap();
        scene.wait_for_event(&format!("usage-{n}"));
    }
    for round in 0..3 {
        // In one session all of it, in one transaction and in several; the other has everything cached.
        let [begin, commit] = if round == 1 { ["begin", "commit"] } else { ["", ""] };
        one.batch_execute(begin).unwrap();
        one.batch_execute("drop extension lago_push cascade").unwrap();
        one.batch_execute(ONE_ROW).unwrap();
        one.batch_execute("create extension lago_push").unwrap();
        let create = "select lago_push.create_destination('lago', url => $1, api_key => $2)";
        one.query(create, &[&scene.lago.url(), &scene.api_key()]).unwrap();
        let create = "select lago_push.create_sync('usage', source => 'usage', template => $1::text)";
        one.query(create, &[&usage_template("usage")]).unwrap();
        one.batch_execute("select lago_push.activate('usage')").unwrap();
        one.batch_execute(ONE_ROW).unwrap();
        one.batch_execute(commit).unwrap();
        other.execute(&insert, &[]).unwrap();
        let newest: i64 = scene.value("select max(id) from usage");
        scene.wait_for_event(&format!("usage-{newest}"));
        scene.wait_for_event(&format!("usage-{}", newest - 1));
        wait_until("both are settled", PATIENCE, || scene.status("usage").delivered == 2);
    }
    assert_balanced(&scene);
    assert!(!scene.cluster.log().contains("terminated by signal"), "{}", scene.cluster.log_tail(None));
}
