//! Promise 4: the application never pays. A row that cannot be rendered does not stop its statement, and
//! whoever may write the table may write it, with or without any right to lago_push.
#![forbid(unsafe_code)]

use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::scene::{Scene, error_text, insert_rows};
use delivery::wait::{PATIENCE, wait_until};

/// No number of seconds says this, so no timestamp can be made of it.
const BAD_ROW: &str = "insert into usage (subscription, amount, created_at) values ('sub_1', 42, 'infinity')";
const GOOD_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";

fn billed_scene() -> Scene {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene
}

#[track_caller]
fn wait_for_dead(scene: &Scene, dead: i64) {
    wait_until("the rows are dead letters", PATIENCE, || scene.status("usage").dead == dead);
}

#[test]
fn a_row_that_cannot_be_rendered_becomes_a_dead_letter_and_the_write_goes_through() {
    let scene = billed_scene();
    scene.sql(BAD_ROW);
    wait_for_dead(&scene, 1);
    assert_eq!(scene.value::<i64>("select count(*) from usage"), 1);
    let letters = scene.rows(
        "select sync::text, operation::text, source_row::text, reason::text, reply_status is null
         from lago_push.dead_letters",
    );
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].get::<_, &str>(0), "usage");
    assert_eq!(letters[0].get::<_, &str>(1), "insert");
    let source: serde_json::Value = serde_json::from_str(letters[0].get(2)).unwrap();
    assert_eq!((&source["subscription"], source["amount"].to_string().as_str()), (&"sub_1".into(), "42"));
    assert!(letters[0].get::<_, &str>(3).contains("created_at"), "{:?}", letters[0].get::<_, &str>(3));
    assert!(letters[0].get::<_, bool>(4), "nothing was sent");
    assert_eq!((scene.waiting(), scene.lago.request_count()), (0, 0));
}

#[test]
fn one_bad_row_does_not_keep_its_neighbours_from_being_billed() {
    let scene = billed_scene();
    scene.sql(
        "insert into usage (subscription, amount, created_at)
         select 'sub_2', n, case when n % 10 = 0 then '-infinity' else now() end
         from generate_series(1, 300) n",
    );
    assert_billed(&scene, "select subscription, amount from usage where created_at <> '-infinity'");
    let status = scene.status("usage");
    assert_eq!((status.delivered, status.dead), (270, 30));
}

#[test]
fn a_bad_row_that_is_rolled_back_leaves_no_dead_letter() {
    let scene = billed_scene();
    scene.sql(&format!("begin; {BAD_ROW}; rollback"));
    scene.sql(&format!(
        "begin; {GOOD_ROW}; savepoint s; {BAD_ROW}; rollback to savepoint s; {GOOD_ROW}; commit"
    ));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.dead_letters"), 0);
}

#[test]
fn a_bad_row_of_a_prepared_transaction_dies_when_it_commits() {
    let scene = billed_scene();
    scene.sql(&format!("begin; {BAD_ROW}; {GOOD_ROW}; prepare transaction 'bad'"));
    assert_eq!(scene.status("usage").dead, 0);
    scene.sql("commit prepared 'bad'");
    wait_for_dead(&scene, 1);
    scene.wait_for_exactly(&["usage-2"]);
}

#[test]
fn a_sync_that_raises_refuses_the_write() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft("usage", "on_error => 'raise'");
    scene.activate("usage");
    let error = scene.sql_error(BAD_ROW);
    assert!(
        error.contains("usage") && error.contains("created_at"),
        "the error names sync and column: {error}"
    );
    assert!(!error.contains("42"), "the error holds what the row holds: {error}");
    scene.sql(&format!("begin; {GOOD_ROW}; savepoint s"));
    scene.sql(GOOD_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.dead_letters"), 0);
}

#[test]
fn a_refused_write_can_be_caught_and_the_rest_committed() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft("usage", "on_error => 'raise'");
    scene.activate("usage");
    scene.sql(&format!(
        "do $$ begin {GOOD_ROW}; begin {BAD_ROW}; exception when others then {GOOD_ROW}; end; end $$"
    ));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 2);
}

fn a_column_goes_away(alteration: &str) {
    let scene = billed_scene();
    // A session that has captured before, and one that has not.
    let mut old_hand = scene.db();
    old_hand.batch_execute(GOOD_ROW).unwrap();
    scene.wait_for_exactly(&["usage-1"]);
    scene.sql(alteration);
    old_hand.batch_execute("insert into usage (subscription) values ('sub_1')").unwrap();
    scene.sql("insert into usage (subscription) values ('sub_2'), ('sub_3')");
    wait_for_dead(&scene, 3);
    assert_eq!(scene.value::<i64>("select count(*) from usage"), 4);
    for letter in scene.rows("select reason::text, source_row::text from lago_push.dead_letters") {
        assert!(letter.get::<_, &str>(0).contains("amount"), "{:?}", letter.get::<_, &str>(0));
        assert!(letter.get::<_, &str>(1).contains("sub_"), "{:?}", letter.get::<_, &str>(1));
    }
    assert_eq!(scene.arrived(), ["usage-1"]);
}

#[test]
fn a_dropped_column_does_not_break_the_write() {
    a_column_goes_away("alter table usage drop column amount");
}

#[test]
fn a_renamed_column_does_not_break_the_write() {
    a_column_goes_away(
        "alter table usage rename column amount to quantity; alter table usage alter quantity drop not null",
    );
}

#[test]
fn a_column_that_changes_its_type_or_place_is_followed() {
    let scene = billed_scene();
    let mut old_hand = scene.db();
    old_hand.batch_execute(GOOD_ROW).unwrap();
    for alteration in [
        "alter table usage add column note text default 'x'",
        "alter table usage alter column amount type text",
        "alter table usage alter column amount type numeric(20, 4) using amount::numeric",
        "alter table usage drop column note",
    ] {
        scene.sql(alteration);
        old_hand.batch_execute(GOOD_ROW).unwrap();
        scene.sql(GOOD_ROW);
    }
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 9);
}

/// A role of this scene's own, that may insert into `usage` and nothing else.
struct Writer<'a> {
    scene: &'a Scene,
    name: String,
}

impl<'a> Writer<'a> {
    fn new(scene: &'a Scene) -> Self {
        let name = format!("writer_{}", scene.value::<i64>("select txid_current()"));
        scene.sql(&format!("create role {name} login; grant insert on usage to {name}"));
        Self { scene, name }
    }

    fn db(&self) -> postgres::Client {
        self.scene.cluster.try_connect_as(&self.name, &self.scene.database).unwrap()
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // A role belongs to the whole cluster; its rights have to go first.
        if let Ok(mut db) = self.scene.cluster.try_connect(&self.scene.database) {
            let _ = db.batch_execute(&format!("drop owned by {0}; drop role {0}", self.name));
        }
    }
}

#[test]
fn a_role_that_may_only_insert_is_billed() {
    let scene = billed_scene();
    let writer = Writer::new(&scene);
    let mut db = writer.db();
    db.batch_execute(&insert_rows("usage", 250)).unwrap();
    db.batch_execute(&format!("begin; {GOOD_ROW}; savepoint s; {GOOD_ROW}; rollback to savepoint s; commit"))
        .unwrap();
    db.batch_execute(&insert_rows("usage", 50_000)).unwrap();
    db.batch_execute(BAD_ROW).unwrap();
    wait_for_dead(&scene, 1);
    assert_billed(&scene, "select subscription, amount from usage where created_at <> 'infinity'");
}

#[test]
fn a_role_that_may_only_insert_sees_nothing_of_lago_push() {
    let scene = billed_scene();
    let writer = Writer::new(&scene);
    let mut db = writer.db();
    db.batch_execute(GOOD_ROW).unwrap();
    for forbidden in [
        "select * from lago_push.outbox",
        "select * from lago_push.status",
        "select * from lago_push.destinations",
        "select * from lago_push.dead_letters",
        "select lago_push.pause('usage')",
        "select lago_push.hold('lago')",
        "select lago_push.set_api_key('lago', 'mine')",
        "select lago_push.create_destination('mine', url => 'http://127.0.0.1:1/api/v1', api_key => 'mine')",
        "select lago_push.create_sync('mine', source => 'usage', template => '{}')",
        "select lago_push.drop_sync('usage', discard => true)",
    ] {
        let error = db.batch_execute(forbidden).expect_err(forbidden);
        assert!(error_text(&error).contains("permission denied"), "{forbidden}: {}", error_text(&error));
    }
    assert_billed_exactly_once(&scene);
}

#[test]
fn nobody_attaches_capture_to_a_table_without_the_right_to_lago_push() {
    let scene = billed_scene();
    let writer = Writer::new(&scene);
    scene.sql(&format!("create schema authorization {}", writer.name));
    let mut db = writer.db();
    db.batch_execute(
        "create table usage (id int, subscription text, amount numeric, created_at timestamptz)",
    )
    .unwrap();
    let attach =
        "create trigger mine after insert on usage for each row execute function lago_push.capture('usage')";
    let error = error_text(&db.batch_execute(attach).expect_err(attach));
    assert!(error.contains("permission denied"), "{error}");
}

#[test]
fn row_level_security_hides_no_row_from_capture() {
    let scene = billed_scene();
    let writer = Writer::new(&scene);
    scene.sql(&format!(
        "alter table usage enable row level security;
         alter table usage force row level security;
         create policy write_only on usage for insert to {} with check (true)",
        writer.name
    ));
    writer.db().batch_execute(&insert_rows("usage", 20)).unwrap();
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 20);
}

#[test]
fn a_writer_cannot_slip_functions_of_its_own_into_capture() {
    let scene = billed_scene();
    let writer = Writer::new(&scene);
    scene.sql(&format!("create schema authorization {}", writer.name));
    let mut db = writer.db();
    db.batch_execute(&format!(
        "create function {0}.to_json(anyelement) returns json language sql as $$ select '\"stolen\"'::json $$;
         create function {0}.now() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
         create table {0}.outbox (id int);
         set search_path = {0}, pg_catalog, public",
        writer.name
    ))
    .unwrap();
    db.batch_execute("insert into public.usage (subscription, amount) values ('sub_1', 1)").unwrap();
    db.batch_execute(
        "insert into public.usage (subscription, amount, created_at) values ('sub_1', 1, 'infinity')",
    )
    .unwrap();
    wait_for_dead(&scene, 1);
    assert_billed(&scene, "select subscription, amount from usage where created_at <> 'infinity'");
}

#[test]
fn a_sync_of_a_dropped_table_does_not_disturb_the_others() {
    let scene = billed_scene();
    scene.billed_table("gone");
    scene.sql("insert into gone (subscription, amount) values ('sub_1', 1)");
    scene.wait_for_event("gone-1");
    scene.sql("drop table gone");
    scene.sql(GOOD_ROW);
    scene.wait_for_exactly(&["gone-1", "usage-1"]);
    assert_eq!(scene.status("usage").delivered, 1);
    scene.sql("select lago_push.drop_sync('gone')");
}
