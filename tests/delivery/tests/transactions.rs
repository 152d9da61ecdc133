//! Promise 1: a message exists if and only if the transaction that wrote the row committed, whatever kind
//! of transaction it was. In every test the table is the truth: what it holds at the end is what Lago bills.
#![forbid(unsafe_code)]

use std::io::Write;
use std::time::Duration;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::random::Random;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, try_until, wait_until};
use fake_lago::Store;

/// Inserts `rows` rows one statement each, so that each has a command of its own.
fn one_by_one(rows: usize) -> String {
    "insert into usage (subscription, amount) values ('sub_1', 1.5);\n".repeat(rows)
}

fn billed_scene() -> Scene {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene
}

#[test]
fn rows_of_a_rolled_back_savepoint_are_not_sent() {
    let scene = billed_scene();
    scene.sql(&format!(
        "begin; {one} savepoint a; {two} rollback to savepoint a; {three} commit;",
        one = one_by_one(1),
        two = one_by_one(2),
        three = one_by_one(3)
    ));
    scene.wait_for_exactly(&["usage-1", "usage-4", "usage-5", "usage-6"]);
    assert_billed_exactly_once(&scene);
}

#[test]
fn rows_of_a_released_savepoint_share_the_fate_of_its_parent() {
    let scene = billed_scene();
    scene.sql(&format!(
        "begin; savepoint a; {one} savepoint b; {one} release savepoint b; rollback to savepoint a;
         {one} commit;
         begin; savepoint a; {one} savepoint b; {one} release savepoint b; release savepoint a; commit;",
        one = one_by_one(1)
    ));
    scene.wait_for_exactly(&["usage-3", "usage-4", "usage-5"]);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_savepoint_can_be_rolled_back_to_again_and_again() {
    let scene = billed_scene();
    let again = format!("{} rollback to savepoint a;", one_by_one(1)).repeat(20);
    scene.sql(&format!("begin; savepoint a; {again} {} release savepoint a; commit;", one_by_one(2)));
    assert_billed_exactly_once(&scene);
}

#[test]
fn an_inner_commit_does_not_save_rows_of_an_aborted_transaction() {
    let scene = billed_scene();
    scene.sql(&format!(
        "begin; savepoint a; {one} release savepoint a; {one} rollback; {one}",
        one = one_by_one(1)
    ));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.arrived(), ["usage-3"]);
}

#[test]
fn any_tree_of_savepoints_leaves_the_rows_the_table_has() {
    let scene = billed_scene();
    let mut random = Random::seeded(20_240_314);
    let mut db = scene.db();
    for _ in 0..25 {
        let mut script = String::from("begin;\n");
        let mut open: Vec<String> = Vec::new();
        for step in 0..60 {
            match random.below(8) {
                0..=3 => script.push_str(&one_by_one(1)),
                4..=5 => {
                    open.push(format!("s{step}"));
                    script.push_str(&format!("savepoint s{step};\n"));
                }
                end => {
                    if !open.is_empty() {
                        // Ending an outer savepoint ends those inside it with it.
                        let which = usize::try_from(random.below(open.len() as u64)).unwrap();
                        if end == 6 {
                            script.push_str(&format!("release savepoint {};\n", open[which]));
                            open.truncate(which);
                        } else {
                            script.push_str(&format!("rollback to savepoint {};\n", open[which]));
                            open.truncate(which + 1);
                        }
                    }
                }
            }
        }
        script.push_str(if random.chance(80) { "commit;" } else { "rollback;" });
        db.batch_execute(&script).unwrap_or_else(|e| panic!("{e:?} in {script}"));
    }
    assert_billed_exactly_once(&scene);
}

#[test]
fn exception_blocks_keep_what_they_did_not_undo() {
    let scene = billed_scene();
    scene.sql(
        "do $$
         begin
             for n in 1..3000 loop
                 begin
                     insert into usage (subscription, amount) values ('sub_' || n % 8, n);
                     if n % 3 = 0 then
                         raise exception 'third';
                     end if;
                 exception when raise_exception then
                     if n % 2 = 0 then
                         insert into usage (subscription, amount) values ('sub_0', 0.5);
                     end if;
                 end;
             end loop;
         end $$",
    );
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 2500);
}

#[test]
fn a_statement_that_fails_halfway_sends_none_of_its_rows() {
    let scene = billed_scene();
    scene.sql_error(
        "insert into usage (subscription, amount) select 'sub_1', 1 / (500 - n)
         from generate_series(1, 1000) n",
    );
    scene.sql(&one_by_one(1));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 1);
}

#[test]
fn a_procedure_that_commits_as_it_goes_sends_what_it_committed() {
    let scene = billed_scene();
    scene.sql(
        "create procedure work() language plpgsql as $$
         begin
             for n in 1..40 loop
                 insert into usage (subscription, amount) select 'sub_2', n from generate_series(1, n);
                 if n % 4 = 0 then
                     rollback;
                 else
                     commit;
                 end if;
             end loop;
         end $$",
    );
    scene.sql("call work()");
    assert_billed_exactly_once(&scene);
}

#[test]
fn every_way_to_write_an_insert_is_captured() {
    let scene = billed_scene();
    scene.sql(
        "insert into usage (subscription, amount) values ('sub_1', 1), ('sub_2', 2), ('sub_3', 3);
         insert into usage (subscription, amount) select subscription, amount * 2 from usage;
         with used as (insert into usage (subscription, amount) values ('sub_4', 0.25) returning *)
             insert into usage (subscription, amount) select subscription, amount from used;
         create function use_it(who text) returns bigint language sql
             as $$ insert into usage (subscription, amount) values (who, 7) returning id $$;
         select use_it('sub_' || n) from generate_series(0, 7) n;
         do $$ begin
             execute 'insert into usage (subscription, amount) values ($1, $2)' using 'sub_5', 12.125;
         end $$;
         prepare put (text, numeric) as insert into usage (subscription, amount) values ($1, $2);
         execute put('sub_6', 1);
         execute put('sub_6', 2);",
    );
    let mut db = scene.db();
    db.execute("insert into usage (subscription, amount) values ($1, 9)", &[&"sub_7"]).unwrap();
    assert_billed_exactly_once(&scene);
}

#[test]
fn copied_rows_are_billed() {
    let scene = billed_scene();
    let mut db = scene.db();
    let mut writer = db.copy_in("copy usage (subscription, amount) from stdin").unwrap();
    for n in 0..5000 {
        writeln!(writer, "sub_{}\t{}.{:03}", n % 8, n, n % 1000).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), 5000);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_copy_that_breaks_off_sends_nothing() {
    let scene = billed_scene();
    let mut db = scene.db();
    let mut writer = db.copy_in("copy usage (subscription, amount) from stdin").unwrap();
    writeln!(writer, "sub_1\t1\nsub_2\t2\nsub_3\tnot a number").unwrap();
    assert!(writer.finish().is_err());
    db.batch_execute(&one_by_one(1)).unwrap();
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 1);
}

/// A table whose rows count their own versions, so that every version is an event of its own.
fn versioned_scene(operations: &str) -> Scene {
    let scene = Scene::new();
    scene.sql(
        "create table usage (
             id bigint primary key,
             subscription text not null,
             amount numeric not null,
             version int not null default 1)",
    );
    scene.draft_with(
        "usage",
        r#"{"transaction_id": "{{ op }}-{{ row.id }}-{{ row.version }}",
            "external_subscription_id": "{{ row.subscription }}",
            "code": "usage",
            "timestamp": 1710421740,
            "properties": {"amount": "{{ row.amount }}"}}"#,
        &format!("operations => '{operations}'"),
    );
    scene.activate("usage");
    scene
}

#[test]
fn an_upsert_sends_the_insert_or_the_update_it_became() {
    let scene = versioned_scene("{insert,update}");
    let upsert = "insert into usage select n, 'sub_1', n from generate_series(1, 4) n
                  on conflict (id) do update
                      set amount = usage.amount + excluded.amount, version = usage.version + 1";
    scene.sql("insert into usage values (2, 'sub_1', 10), (4, 'sub_1', 20)");
    scene.sql(upsert);
    scene.sql("insert into usage values (1, 'sub_1', 99), (5, 'sub_1', 5) on conflict do nothing");
    scene.wait_for_exactly(&[
        "insert-1-1",
        "insert-2-1",
        "insert-3-1",
        "insert-4-1",
        "insert-5-1",
        "update-2-2",
        "update-4-2",
    ]);
    assert_billed(&scene, "select 'sub_1', unnest('{1, 10, 3, 20, 5, 12, 24}'::numeric[])");
}

#[test]
fn a_merge_sends_each_action_it_took() {
    if Cluster::shared().version() < 15 {
        return;
    }
    let scene = versioned_scene("{insert,update,delete}");
    scene.sql("insert into usage values (1, 'sub_1', 1), (2, 'sub_1', 2), (3, 'sub_1', 3)");
    scene.sql(
        "merge into usage u using (values (1, 10), (2, 0), (4, 40)) n (id, amount) on u.id = n.id
         when matched and n.amount = 0 then delete
         when matched then update set amount = n.amount, version = version + 1
         when not matched then insert values (n.id, 'sub_1', n.amount)",
    );
    scene.wait_for_exactly(&[
        "delete-2-1",
        "insert-1-1",
        "insert-2-1",
        "insert-3-1",
        "insert-4-1",
        "update-1-2",
    ]);
}

#[test]
fn cascades_are_captured_where_they_land() {
    let scene = Scene::new();
    scene.sql(
        "create table customer (subscription text primary key);
         create table usage (
             id bigint primary key,
             subscription text references customer on delete cascade on update cascade,
             amount numeric not null)",
    );
    scene.draft_with(
        "usage",
        r#"{"transaction_id": "{{ op }}-{{ row.id }}-{{ old.subscription }}-{{ row.subscription }}",
            "external_subscription_id": "{{ row.subscription }}",
            "code": "usage",
            "timestamp": 1710421740,
            "properties": {"amount": "{{ row.amount }}"}}"#,
        "operations => '{update,delete}'",
    );
    scene.activate("usage");
    scene.sql(
        "insert into customer values ('sub_1'), ('sub_2'), ('sub_3');
         insert into usage values (1, 'sub_1', 1), (2, 'sub_1', 2), (3, 'sub_2', 3), (4, 'sub_3', 4)",
    );
    scene.sql("update customer set subscription = 'sub_4' where subscription = 'sub_2'");
    scene.sql("delete from customer where subscription in ('sub_1', 'sub_3')");
    scene.wait_for_exactly(&[
        "delete-1-sub_1-sub_1",
        "delete-2-sub_1-sub_1",
        "delete-4-sub_3-sub_3",
        "update-3-sub_2-sub_4",
    ]);
}

#[test]
fn every_partition_is_captured_those_attached_later_too() {
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
         create table usage_north partition of usage for values in ('north');
         create table usage_south partition of usage for values in ('south') partition by range (amount);
         create table usage_south_small partition of usage_south for values from (0) to (100)",
    );
    scene.draft("usage", "");
    scene.activate("usage");
    let into = |table: &str, region: &str, amount: u32| {
        let columns = "subscription, amount, region";
        scene.sql(&format!("insert into {table} ({columns}) values ('sub_3', {amount}, '{region}')"));
    };
    into("usage", "north", 1);
    into("usage", "south", 2);
    into("usage_south_small", "south", 3);
    // A table with a past: its columns stand in another order, and one of them is gone.
    scene.sql(
        "create table usage_south_large partition of usage_south for values from (100) to (maxvalue);
         create table usage_west (
             region text not null,
             forgotten int,
             created_at timestamptz not null default now(),
             amount numeric not null,
             subscription text not null,
             id bigint not null default nextval('usage_id'));
         alter table usage_west drop column forgotten;
         alter table usage attach partition usage_west for values in ('west')",
    );
    into("usage", "south", 200);
    into("usage", "west", 5);
    into("usage_west", "west", 6);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 6);
}

#[test]
fn a_row_inserted_by_a_deferred_trigger_is_billed() {
    let scene = billed_scene();
    scene.sql(
        "create table orders (id int primary key);
         create function use_for_order() returns trigger language plpgsql as $$
         begin
             insert into usage (subscription, amount) values ('sub_5', new.id);
             return null;
         end $$;
         create constraint trigger at_the_end after insert on orders deferrable initially deferred
             for each row execute function use_for_order()",
    );
    let order = |id: u32| format!("insert into orders values ({id});");
    let usage = "insert into usage (subscription, amount) values ('sub_5', 100);";
    scene.sql(&format!("begin; {} {} {usage} commit", order(1), order(2)));
    scene.sql(&format!("begin; {} set constraints all immediate; {} commit", order(3), order(4)));
    scene.sql(&format!("begin; {} rollback", order(5)));
    scene.sql(&format!("begin; savepoint s; {} rollback to savepoint s; {} commit", order(6), order(7)));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 6);
}

#[test]
fn capture_itself_can_be_deferred() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft("usage", "");
    scene.sql(
        "create constraint trigger bill_at_the_end after insert on usage deferrable initially deferred
             for each row execute function lago_push.capture('usage')",
    );
    scene.activate("usage");
    scene.sql(&format!(
        "begin; {} savepoint s; {} rollback to savepoint s; commit",
        one_by_one(3),
        one_by_one(2)
    ));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 3);
}

#[test]
fn a_prepared_transaction_is_billed_when_it_commits_and_not_before() {
    let scene = billed_scene();
    let mut db = scene.db();
    db.batch_execute(&format!(
        "begin; {one} savepoint s; {one} rollback to savepoint s; {one} prepare transaction 'bill_me'",
        one = one_by_one(1)
    ))
    .unwrap();
    // Something later arrives first, so the worker has looked past the prepared rows.
    db.batch_execute(&one_by_one(1)).unwrap();
    scene.wait_for_exactly(&["usage-4"]);
    scene.sql("commit prepared 'bill_me'");
    scene.wait_for_exactly(&["usage-1", "usage-3", "usage-4"]);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_prepared_transaction_rolled_back_sends_nothing() {
    let scene = billed_scene();
    scene.sql(&format!("begin; {} prepare transaction 'forget_me'", one_by_one(3)));
    scene.sql("rollback prepared 'forget_me'");
    scene.sql(&one_by_one(1));
    scene.wait_for_exactly(&["usage-4"]);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_transaction_prepared_before_a_restart_is_billed_when_it_commits_after_it() {
    for how in [Stop::Fast, Stop::Immediate] {
        let scene = Scene::on(Cluster::start(&Options::durable()), Store::Postgres);
        scene.billed_table("usage");
        scene.sql(&format!("begin; {} prepare transaction 'over_night'", one_by_one(2)));
        scene.cluster.stop(how);
        scene.cluster.start_again();
        scene.sql(&one_by_one(1));
        // A crash skips values of the identity's sequence, so the new row's id is asked for.
        let newest = scene.db().query_one("select 'usage-' || max(id) from usage", &[]).unwrap();
        scene.wait_for_exactly(&[newest.get::<_, &str>(0)]);
        scene.sql("commit prepared 'over_night'");
        assert_billed_exactly_once(&scene);
        assert_eq!(scene.lago.stored_count(), 3);
    }
}

#[test]
fn a_transaction_prepared_long_ago_is_billed_though_the_worker_went_idle() {
    let options = Options::default().with("lago_push.idle_timeout", "1s");
    let scene = Scene::on(Cluster::start(&options), Store::Postgres);
    scene.billed_table("usage");
    scene.sql(&one_by_one(1));
    scene.wait_for_exactly(&["usage-1"]);
    scene.sql(&format!("begin; {} prepare transaction 'long_ago'", one_by_one(2)));
    // A worker that knows of the prepared rows may stay on purpose. Whether it left or stays beyond its
    // time, the rows must arrive.
    let _ = try_until(Duration::from_secs(4), || scene.cluster.worker_pid(&scene.database).is_none());
    scene.sql("commit prepared 'long_ago'");
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 3);
}

#[test]
fn a_transaction_larger_than_the_capture_memory_is_billed_exactly() {
    let scene = billed_scene();
    let mut db = scene.db();
    db.batch_execute("set lago_push.capture_memory = '1MB'; begin").unwrap();
    for round in 0..10 {
        // Nested, so that rows are written out early under an inner transaction, an outer one, and both.
        db.batch_execute(&format!(
            "{}; savepoint a; {};",
            insert_rows("usage", 1000),
            insert_rows("usage", 4000)
        ))
        .unwrap();
        db.batch_execute(&format!("savepoint b; {};", insert_rows("usage", 1000))).unwrap();
        db.batch_execute(match round % 4 {
            0 => "rollback to savepoint b; release savepoint a",
            1 => "release savepoint b; rollback to savepoint a",
            2 => "release savepoint b; release savepoint a",
            _ => "rollback to savepoint a; rollback to savepoint a; release savepoint a",
        })
        .unwrap();
    }
    db.batch_execute("commit").unwrap();
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_large_transaction_rolled_back_leaves_nothing() {
    let scene = billed_scene();
    let mut db = scene.db();
    db.batch_execute("set lago_push.capture_memory = '1MB'").unwrap();
    db.batch_execute(&format!("begin; {}; rollback", insert_rows("usage", 20_000))).unwrap();
    db.batch_execute(&one_by_one(1)).unwrap();
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 1);
}

#[test]
fn a_commit_that_comes_after_higher_ids_were_delivered_is_not_skipped() {
    let scene = billed_scene();
    let (mut early, mut late) = (scene.db(), scene.db());
    // More than the buffer holds: these rows have their place in the queue before the others exist.
    early.batch_execute("set lago_push.capture_memory = '1MB'").unwrap();
    early.batch_execute(&format!("begin; {}", insert_rows("usage", 10_000))).unwrap();
    for round in 1..=3 {
        late.batch_execute(&insert_rows("usage", 250)).unwrap();
        wait_until("the later rows have arrived", PATIENCE, || scene.lago.stored_count() == 250 * round);
    }
    early.batch_execute(&format!("{}; commit", one_by_one(1))).unwrap();
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 10_751);
}

#[test]
fn several_late_commits_in_any_order_are_all_found() {
    let scene = billed_scene();
    let mut late = scene.db();
    for name in ["a", "b", "c", "d"] {
        late.batch_execute(&format!("begin; {} prepare transaction '{name}'", one_by_one(3))).unwrap();
        late.batch_execute(&one_by_one(2)).unwrap();
    }
    wait_until("the undisturbed rows have arrived", PATIENCE, || scene.lago.stored_count() == 8);
    let mut expected = 8;
    for (name, end) in [("c", "commit"), ("a", "rollback"), ("d", "commit"), ("b", "commit")] {
        late.batch_execute(&format!("{end} prepared '{name}'")).unwrap();
        late.batch_execute(&one_by_one(1)).unwrap();
        expected += if end == "commit" { 4 } else { 1 };
        wait_until("what was decided has arrived", PATIENCE, || scene.lago.stored_count() == expected);
    }
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_gap_that_is_never_filled_does_not_hold_up_the_rest() {
    let scene = billed_scene();
    let mut abandoned = scene.db();
    abandoned.batch_execute("set lago_push.capture_memory = '1MB'").unwrap();
    abandoned.batch_execute(&format!("begin; {}", insert_rows("usage", 10_000))).unwrap();
    scene.sql(&one_by_one(5));
    wait_until("the later rows have arrived", PATIENCE, || scene.lago.stored_count() == 5);
    abandoned.batch_execute("rollback").unwrap();
    scene.sql(&one_by_one(5));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 10);
}

#[test]
fn a_sync_is_not_dropped_under_a_prepared_transaction_that_has_rows_for_it() {
    let scene = billed_scene();
    scene.sql(&format!("begin; {} prepare transaction 'undecided'", one_by_one(2)));
    let refused = scene.sql_error("select lago_push.drop_sync('usage', discard => true)");
    assert!(refused.contains("could not detach"), "{refused}");
    scene.sql("commit prepared 'undecided'");
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_message_without_a_sync_becomes_a_dead_letter_and_not_a_ghost() {
    let scene = billed_scene();
    scene.sql(
        "insert into lago_push.message (id, enqueued_at, sync_id, operation, payload)
         values (nextval('lago_push.message_id'), now(), 999, 'i', '{}')",
    );
    scene.sql(&one_by_one(1));
    assert_billed_exactly_once(&scene);
    assert_eq!(
        scene
            .value::<String>("select reason from lago_push.dead_letters")
            .split(' ')
            .take(4)
            .collect::<Vec<_>>(),
        ["the", "sync", "was", "dropped"]
    );
}

#[test]
fn a_young_transaction_with_a_lower_id_is_not_skipped_by_an_older_one_that_commits_first() {
    let scene = billed_scene();
    let mut older = scene.db();
    // The older transaction id, but the later message id: a snapshot taken after its commit does not
    // list the younger transaction, though that one holds a lower message id and is undecided.
    older.batch_execute("begin; select pg_current_xact_id()").unwrap();
    scene.sql(&format!("begin; {} prepare transaction 'younger'", one_by_one(1)));
    older.batch_execute(&format!("{} commit", one_by_one(1))).unwrap();
    scene.wait_for_exactly(&["usage-2"]);
    scene.sql("commit prepared 'younger'");
    scene.wait_for_exactly(&["usage-1", "usage-2"]);
    assert_billed_exactly_once(&scene);
}
