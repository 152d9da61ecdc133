//! `max_pending`: what waits of a sync is bounded, whoever commits it, delivers it or takes it back.
#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, error_text, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;
use postgres::Client;

const FULL: &str = "53400";

/// A billed table whose destination is held, so that whatever is captured waits.
fn held_scene(options: &str) -> Scene {
    held(Scene::new(), options)
}

fn held(scene: Scene, options: &str) -> Scene {
    scene.usage_table("usage");
    scene.draft("usage", options);
    scene.activate("usage");
    scene.sql("select lago_push.hold('lago')");
    scene
}

const CAPPED: &str = "max_pending => 10, when_full => 'dead_letter'";
const STRICT: &str = "max_pending => 10, when_full => 'raise'";

/// How many wait, and how many died.
fn counts(scene: &Scene) -> (i64, i64) {
    let status = scene.status("usage");
    (status.pending, status.dead)
}

/// The SQLSTATE of a statement that fails.
fn refused(db: &mut Client, sql: &str) -> String {
    match db.batch_execute(sql) {
        Ok(()) => panic!("no error from {sql}"),
        Err(error) => error.code().map(|code| code.code().to_owned()).unwrap_or_default(),
    }
}

fn let_all_go(scene: &Scene) {
    scene.sql("select lago_push.release('lago')");
    scene.wait_until_outbox_is_empty(PATIENCE);
}

#[test]
fn the_first_row_beyond_the_cap_meets_the_policy_in_a_transaction_of_its_own() {
    let scene = held_scene(CAPPED);
    let mut db = scene.db();
    for _ in 0..10 {
        db.batch_execute(&insert_rows("usage", 1)).unwrap();
    }
    assert_eq!(counts(&scene), (10, 0));
    let is_at_cap = || scene.value::<bool>("select at_cap from lago_push.status");
    assert!(is_at_cap(), "an operator sees it");
    db.batch_execute(&insert_rows("usage", 1)).unwrap();
    // And in another session, which has counted nothing.
    scene.sql(&insert_rows("usage", 1));
    assert_eq!(counts(&scene), (10, 2));
    let_all_go(&scene);
    wait_until("an operator sees that there is room", PATIENCE, || !is_at_cap());
    scene.sql("select lago_push.redrive('usage')");
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 12);
}

#[test]
fn of_one_statement_those_that_fit_are_let_in() {
    let scene = held_scene(CAPPED);
    scene.sql(&insert_rows("usage", 20));
    assert_eq!(counts(&scene), (10, 10));
    assert_eq!(
        scene.status("usage").last_error.as_deref(),
        Some(
            "the outbox held 10 messages of this sync, and max_pending is 10; lago_push.redrive() sends this row"
        )
    );
}

#[test]
fn a_refused_write_names_the_sync_and_what_to_do() {
    let scene = held_scene(STRICT);
    let mut db = scene.db();
    db.batch_execute(&insert_rows("usage", 10)).unwrap();
    let error = db.batch_execute(&insert_rows("usage", 1)).expect_err("the outbox is full");
    assert_eq!(error.code().map(|code| code.code()), Some(FULL));
    assert_eq!(
        error_text(&error),
        "sync \"usage\" takes no more rows: 10 of its messages wait\n\
         Its max_pending is 10, and when_full is raise.\n\
         See in lago_push.status and lago_push.destinations why they wait. To let such writes through: lago_push.alter_sync(…, when_full => 'warn')."
    );
    assert_eq!(scene.value::<i64>("select count(*) from usage"), 10);
}

#[test]
fn a_warning_reaches_every_transaction_once_and_the_log_once_a_minute() {
    let scene = held_scene("max_pending => 10");
    let mut psql = scene.cluster.program("psql");
    psql.args(["-X", "-q", "-d", &scene.database]);
    for _ in 0..3 {
        psql.args(["-c", &insert_rows("usage", 20)]);
    }
    let out = psql.output().expect("psql runs");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    let warning = "the outbox holds as many messages of sync \"usage\" as it may";
    assert_eq!(told.matches(warning).count(), 3, "{told}");
    let log = scene.cluster.log();
    let logged =
        |line: &&str| line.contains(warning) && line.contains(&format!("{}: WARNING", scene.database));
    assert_eq!(log.lines().filter(logged).count(), 1);
    assert_eq!(counts(&scene), (60, 0));
}

#[test]
fn rows_that_were_taken_back_leave_room() {
    let scene = held_scene(STRICT);
    let mut db = scene.db();
    for _ in 0..5 {
        db.batch_execute(&format!("begin; {}; rollback", insert_rows("usage", 10))).unwrap();
    }
    db.batch_execute(&format!(
        "begin; {one}; savepoint a; {eight}; savepoint b; {one}; rollback to savepoint a; {nine}; release savepoint a; commit",
        one = insert_rows("usage", 1),
        eight = insert_rows("usage", 8),
        nine = insert_rows("usage", 9)
    ))
    .unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    assert_eq!(counts(&scene), (10, 0));
}

#[test]
fn rows_written_early_by_a_large_transaction_count_once() {
    let scene = held_scene("max_pending => 12000, when_full => 'dead_letter'");
    let mut db = scene.db();
    // A megabyte holds fewer than these, so they are written as the transaction goes.
    db.batch_execute(&format!(
        "set lago_push.capture_memory = '1MB'; begin; {six}; savepoint a; {six}; rollback to savepoint a; {six}; commit",
        six = insert_rows("usage", 6000)
    ))
    .unwrap();
    assert_eq!(counts(&scene), (12000, 0));
    db.batch_execute(&insert_rows("usage", 1)).unwrap();
    assert_eq!(counts(&scene), (12000, 1));
}

#[test]
fn a_prepared_transaction_counts_until_it_is_rolled_back() {
    let scene = held_scene(STRICT);
    let mut db = scene.db();
    let prepare = |id: &str| format!("begin; {}; prepare transaction '{id}'", insert_rows("usage", 6));
    db.batch_execute(&prepare("caps_one")).unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 5)), FULL);
    db.batch_execute("rollback prepared 'caps_one'").unwrap();
    db.batch_execute(&insert_rows("usage", 4)).unwrap();
    db.batch_execute(&prepare("caps_two")).unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    db.batch_execute("commit prepared 'caps_two'").unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    assert_eq!(counts(&scene), (10, 0));
}

#[test]
fn deliveries_make_room_again_and_again() {
    let scene = held_scene(STRICT);
    let mut db = scene.db();
    for round in 1..=5 {
        db.batch_execute(&insert_rows("usage", 10)).unwrap();
        assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
        let_all_go(&scene);
        // What has left is taken off after the commit that removed it.
        wait_until("there is room for all", PATIENCE, || {
            let fits = db.batch_execute(&format!("begin; {}", insert_rows("usage", 10))).is_ok();
            db.batch_execute("rollback").unwrap();
            fits
        });
        scene.sql("select lago_push.hold('lago')");
        wait_until("the rows have arrived", PATIENCE, || scene.lago.stored_count() == 10 * round);
    }
}

#[test]
fn rejected_messages_and_redriven_letters_are_counted() {
    let scene = held_scene(STRICT);
    let mut db = scene.db();
    db.batch_execute(&insert_rows("usage", 10)).unwrap();
    // Lago refuses them all: their ids are empty by now.
    scene.sql("update lago_push.message set payload = '{}'");
    let_all_go(&scene);
    assert_eq!(counts(&scene), (0, 10));
    scene.sql("select lago_push.hold('lago')");
    wait_until("there is room for all", PATIENCE, || {
        let fits = db.batch_execute(&format!("begin; {}", insert_rows("usage", 10))).is_ok();
        db.batch_execute("rollback").unwrap();
        fits
    });
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage', 'id % 2 = 0')"), 5);
    let in_the_same = format!("begin; select lago_push.redrive('usage'); {}", insert_rows("usage", 1));
    assert_eq!(refused(&mut db, &in_the_same), FULL);
    db.batch_execute("rollback").unwrap();
    db.batch_execute(&insert_rows("usage", 5)).unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
}

#[test]
fn a_restart_or_a_crash_in_between_changes_nothing() {
    let scene = held(Scene::on(Cluster::start(&Options::durable()), Store::Postgres), STRICT);
    scene.sql(&insert_rows("usage", 7));
    for how in [Stop::Fast, Stop::Immediate] {
        scene.cluster.stop(how);
        scene.cluster.start_again();
        let mut db = scene.db();
        assert_eq!(refused(&mut db, &insert_rows("usage", 4)), FULL, "after {how:?}");
        db.batch_execute(&insert_rows("usage", 1)).unwrap();
    }
    assert_eq!(refused(&mut scene.db(), &insert_rows("usage", 2)), FULL);
    assert_eq!(counts(&scene), (9, 0));
}

#[test]
fn sessions_at_once_exceed_the_cap_by_what_each_has_open_at_most() {
    let scene = held_scene("max_pending => 200, when_full => 'dead_letter'");
    const SESSIONS: i64 = 4;
    const ROWS: i64 = 5;
    thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                let mut db = scene.db();
                for _ in 0..40 {
                    db.batch_execute(&insert_rows("usage", ROWS as usize)).unwrap();
                }
            });
        }
    });
    let (pending, dead) = counts(&scene);
    assert_eq!(pending + dead, SESSIONS * 40 * ROWS);
    assert!((200..200 + SESSIONS * ROWS).contains(&pending), "{pending} wait");
    // From here on it is exact.
    scene.sql(&insert_rows("usage", 1));
    assert_eq!(counts(&scene), (pending, dead + 1));
}

#[test]
fn a_cap_set_where_more_waits_lets_nothing_in_until_enough_has_gone() {
    let scene = held_scene("");
    scene.sql(&insert_rows("usage", 50));
    scene.sql("select lago_push.alter_sync('usage', max_pending => 10, when_full => 'raise')");
    let mut db = scene.db();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    scene.sql("select lago_push.alter_sync('usage', max_pending => 51)");
    db.batch_execute(&insert_rows("usage", 1)).unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    scene.sql("select lago_push.alter_sync('usage', max_pending => 5)");
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    scene.sql("select lago_push.alter_sync('usage', max_pending => 0)");
    db.batch_execute(&insert_rows("usage", 30)).unwrap();
    assert_eq!(counts(&scene), (81, 0));
}

#[test]
fn a_sync_made_anew_begins_with_an_empty_outbox() {
    let scene = held_scene(STRICT);
    scene.sql(&insert_rows("usage", 10));
    scene.sql("select lago_push.drop_sync('usage', discard => true)");
    scene.draft("usage", STRICT);
    scene.activate("usage");
    let mut db = scene.db();
    db.batch_execute(&insert_rows("usage", 10)).unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
}

#[test]
fn what_has_left_makes_room_while_the_rest_waits() {
    // One after the other, so that some have gone and others have not.
    let scene = held_scene("max_pending => 200, when_full => 'raise', order_by => '{{ op }}'");
    let mut db = scene.db();
    db.batch_execute(&insert_rows("usage", 200)).unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    scene.lago.set_latency(Duration::from_millis(20));
    scene.sql("select lago_push.release('lago')");
    wait_until("some have arrived", PATIENCE, || scene.lago.stored_count() >= 5);
    scene.sql("select lago_push.hold('lago')");
    let at_rest = "select state like 'held%' and in_flight = 0 from lago_push.destinations";
    wait_until("no request is under way", PATIENCE, || scene.value::<bool>(at_rest));
    let waiting = wait_until("what was answered is settled", PATIENCE, || {
        let waiting = scene.status("usage").pending;
        (waiting + scene.lago.stored_count() as i64 == 200).then_some(waiting)
    });
    assert!((1..200).contains(&waiting), "{waiting} wait");
    let room = usize::try_from(200 - waiting).unwrap();
    wait_until("what has left is taken off", PATIENCE, || {
        db.batch_execute(&insert_rows("usage", room)).is_ok()
    });
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    assert_eq!(counts(&scene), (200, 0));
}

#[test]
fn a_count_made_in_the_middle_leaves_out_what_the_transaction_wrote_itself() {
    let scene = held_scene(STRICT);
    let (mut db, mut other) = (scene.db(), scene.db());
    // Every function of lago_push has the rows before it written.
    db.batch_execute(&format!("begin; {}; select lago_push.pause('usage')", insert_rows("usage", 4)))
        .unwrap();
    // After this nobody knows how many wait.
    other.batch_execute("begin; create table spare (); prepare transaction 'caps_spare'").unwrap();
    other.batch_execute("rollback prepared 'caps_spare'").unwrap();
    db.batch_execute(&insert_rows("usage", 6)).unwrap();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
}

#[test]
fn a_count_of_far_too_many_stops_and_begins_again_when_they_have_gone() {
    let scene = held_scene("");
    scene.sql(&insert_rows("usage", 10_100));
    scene.sql("select lago_push.alter_sync('usage', max_pending => 10, when_full => 'raise')");
    let mut db = scene.db();
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    let known = "select waiting from lago_push._capped()";
    assert_eq!(scene.value::<i64>(known), 10_010, "no more were counted");
    // More have gone than were counted, and some still wait.
    scene.sql("delete from lago_push.message where id in (select id from lago_push.message order by id limit 10095)");
    scene.sql("select lago_push.alter_sync('usage', max_pending => 20000)");
    db.batch_execute(&insert_rows("usage", 1)).unwrap();
    assert_eq!(scene.value::<i64>(known), 6, "counted anew, and one more");
    let_all_go(&scene);
    wait_until("the worker has put it right", PATIENCE, || scene.value::<i64>(known) == 0);
}

#[test]
fn a_counter_that_is_wrong_is_put_right_when_nothing_waits() {
    let scene = held_scene(STRICT);
    let mut db = scene.db();
    db.batch_execute(&insert_rows("usage", 10)).unwrap();
    // Nobody tells the counter.
    scene.sql("delete from lago_push.message where id % 2 = 0");
    assert_eq!(refused(&mut db, &insert_rows("usage", 1)), FULL);
    let_all_go(&scene);
    let known = "select waiting from lago_push._capped()";
    wait_until("the worker has put it right", PATIENCE, || scene.value::<i64>(known) == 0);
    db.batch_execute(&insert_rows("usage", 10)).unwrap();
}
