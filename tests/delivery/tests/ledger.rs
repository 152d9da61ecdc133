//! The ledger while a worker delivers: it adds up at every look, and what an operator does to dead letters or to
//! a destination, and has not committed yet, holds up nobody.
#![forbid(unsafe_code)]

use delivery::cluster::{Cluster, Options};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

/// captured delivered duplicate dead redriven discarded pending, of a ledger that balances.
fn ledger(scene: &Scene) -> [i64; 7] {
    let rows = scene.rows(
        "select array[captured, delivered, duplicate, dead, redriven, discarded, pending], balanced from lago_push.ledger",
    );
    let figures: Vec<i64> = rows[0].get(0);
    assert!(rows[0].get::<_, bool>(1), "out of balance: {figures:?}");
    figures.try_into().expect("seven figures")
}

/// Rows of one write, of which the first `refused` are refused by Lago.
fn refused(scene: &Scene, rows: usize, refused: usize) {
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", rows));
    scene.sql(&format!(
        r#"update lago_push.message set payload = replace(payload, '"code":"usage"', '"code":""')
            where id in (select id from lago_push.message order by id limit {refused})"#
    ));
    scene.sql("select lago_push.release('lago')");
    wait_until("all but the refused are delivered", PATIENCE, || ledger(scene)[6] == 0);
}

#[test]
fn the_ledger_balances_at_every_look() {
    let scene = Scene::new();
    scene.billed_table("usage");
    for _ in 0..20 {
        scene.sql(&insert_rows("usage", 250));
        ledger(&scene);
    }
    wait_until("all are delivered", PATIENCE, || {
        let [captured, delivered, .., pending] = ledger(&scene);
        assert_eq!(captured, 5000);
        assert_eq!(delivered + pending, 5000);
        pending == 0
    });
    assert_billed_exactly_once(&scene);
}

#[test]
fn an_operators_open_transaction_holds_up_no_delivery_and_no_dead_letter() {
    let scene = Scene::new();
    scene.billed_table("usage");
    refused(&scene, 5, 3);
    assert_eq!(ledger(&scene), [5, 2, 0, 3, 0, 0, 0]);
    let mut operator = scene.db();
    operator
        .batch_execute(
            r#"begin;
               select lago_push.correct(min(id), replace(min(payload), '"code":""', '"code":"usage"')) from lago_push.dead_letters;
               select lago_push.redrive('usage', filter => 'reason like ''%corrected by%''');
               select lago_push.discard('usage', filter => format('id = %s', (select min(id) from lago_push.dead_letters)))"#,
        )
        .unwrap();
    // The worker moves the account and makes dead letters meanwhile.
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    wait_until("a message is delivered", PATIENCE, || ledger(&scene)[1] == 3);
    assert_eq!(ledger(&scene), [6, 3, 0, 3, 0, 0, 0]);
    refused(&scene, 1, 1);
    assert_eq!(ledger(&scene), [7, 3, 0, 4, 0, 0, 0]);
    operator.batch_execute("commit").unwrap();
    wait_until("the corrected one is delivered", PATIENCE, || ledger(&scene) == [7, 4, 0, 2, 1, 1, 0]);
}

#[test]
fn an_operator_who_thinks_again_leaves_the_ledger_as_it_was() {
    let scene = Scene::new();
    scene.billed_table("usage");
    refused(&scene, 4, 2);
    let before = ledger(&scene);
    scene.sql(
        "begin; select lago_push.redrive('usage', 'id % 2 = 0'); select lago_push.discard('usage'); rollback",
    );
    assert_eq!(ledger(&scene), before);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.intervention"), 0);
}

#[test]
fn the_ledger_survives_a_crash() {
    let scene = Scene::on(Cluster::start(&Options::default()), Store::Postgres);
    scene.billed_table("usage");
    refused(&scene, 40, 5);
    scene.sql("select lago_push.redrive('usage', 'id % 2 = 0'), lago_push.discard('usage', 'id % 2 = 1')");
    scene.sql(&insert_rows("usage", 500));
    let (worker, mut witness) = (scene.wait_for_worker(), scene.db());
    scene.cluster.kill9(worker);
    wait_until("the server has noticed", PATIENCE, || witness.simple_query("select 1").is_err());
    scene.cluster.wait_until_ready();
    wait_until("what was pending is delivered, or dead again", PATIENCE, || {
        let [captured, .., pending] = ledger(&scene);
        assert_eq!(captured, 540);
        pending == 0
    });
}

#[test]
fn the_worker_notes_a_hold_while_somebody_changes_the_destination() {
    let scene = Scene::new();
    for change in ["alter_destination('lago', connections => 4)", "release('lago')", "hold('lago')"] {
        let mut operator = scene.db();
        operator.batch_execute(&format!("begin; select lago_push.{change}")).unwrap();
        // What the worker writes; the limit is what would show that it waits.
        scene.sql(
            "set lock_timeout = '1s';
             insert into lago_push.destination_hold (destination_id, why)
             select d.id, 'the test says so' from lago_push.destination d where d.name = 'lago'
             on conflict on constraint one_hold_per_destination do nothing;
             update lago_push.destination_health set requests = requests + 1",
        );
        operator.batch_execute("rollback").unwrap();
        scene.sql("select lago_push.release('lago')");
    }
}
