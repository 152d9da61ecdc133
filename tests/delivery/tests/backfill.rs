//! Existing rows: all of them are billed, each once, whatever is written, cancelled, killed or altered while
//! they are sent; and what would bill them a second time is refused.
#![forbid(unsafe_code)]

use std::thread::{self, JoinHandle};

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::assert_billed;
use delivery::random::Random;
use delivery::scene::{Scene, error_text, insert_rows};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use delivery::writers::Writers;
use fake_lago::Store;

const BILL: &str = "select subscription, amount from usage";

/// A usage table whose rows were there before its sync was activated.
fn with_existing(scene: &Scene, rows: usize) {
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", rows));
    scene.draft("usage", "");
    scene.activate("usage");
}

fn scene_with(rows: usize) -> Scene {
    let scene = Scene::new();
    with_existing(&scene, rows);
    scene
}

fn backfill(scene: &Scene, arguments: &str) {
    scene.sql(&format!("call lago_push.backfill({arguments})"));
}

fn refusal(scene: &Scene, arguments: &str) -> String {
    scene.sql_error(&format!("call lago_push.backfill({arguments})"))
}

/// The same in a thread: its process, and what it says in the end.
fn in_background(scene: &Scene, arguments: &str) -> (i32, JoinHandle<Result<(), String>>) {
    let mut db = scene.db();
    let pid = db.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    let call = format!("call lago_push.backfill({arguments})");
    (pid, thread::spawn(move || db.batch_execute(&call).map_err(|error| error_text(&error))))
}

/// Waits until a backfill in the background has captured some rows.
fn wait_until_some_are_captured(scene: &Scene, session: &JoinHandle<Result<(), String>>) {
    wait_until("some are captured", PATIENCE, || {
        assert!(!session.is_finished(), "it has ended: {:?}", progress(scene));
        progress(scene).1 > 0
    });
}

/// State, rows done and rows estimated of the last backfill.
fn progress(scene: &Scene) -> (String, i64, i64) {
    let rows = scene.rows(
        "select state, rows_done, rows_estimated from lago_push.backfills order by started_at desc limit 1",
    );
    rows.first().map_or((String::new(), 0, 0), |row| (row.get(0), row.get(1), row.get(2)))
}

fn state(scene: &Scene) -> String {
    progress(scene).0
}

fn wait_for_state(scene: &Scene, wanted: &str) {
    wait_until(&format!("the backfill is {wanted}"), PATIENCE, || state(scene) == wanted);
}

/// All rows of the table are billed, nothing died, and the ledger adds up.
fn assert_all_billed(scene: &Scene, query: &str) {
    assert_billed(scene, query);
    assert!(scene.value::<bool>("select bool_and(balanced) and sum(dead) = 0 from lago_push.ledger"));
}

#[test]
fn existing_rows_are_billed_with_the_payload_they_would_have_had() {
    let scene = scene_with(2500);
    backfill(&scene, "'usage', chunk => 700");
    assert_all_billed(&scene, BILL);
    assert_eq!(scene.status("usage").delivered, 2500);
    assert_eq!(progress(&scene), ("done".into(), 2500, 2500));
    assert!(scene.value::<bool>(
        "select rate > 0 and eta is null and finished_at >= started_at from lago_push.backfills"
    ));
}

#[test]
fn an_empty_table_is_done_at_once() {
    let scene = scene_with(0);
    backfill(&scene, "'usage'");
    assert_eq!(progress(&scene), ("done".into(), 0, 0));
}

fn with_live_writers(store: Store, seed: u64) {
    let scene = Scene::with_store(store);
    with_existing(&scene, 20_000);
    let writers = Writers::start(&scene, "usage", 3, &mut Random::seeded(seed));
    wait_until("the writers are writing", PATIENCE, || writers.commits() >= 20);
    backfill(&scene, "'usage', chunk => 2000");
    let before = writers.commits();
    wait_until("the writers are still writing", PATIENCE, || writers.commits() >= before + 20);
    writers.stop();
    assert_all_billed(&scene, BILL);
    let (_, done, _) = progress(&scene);
    assert!(done > 20_000, "only {done} rows: none was captured live as well, so the test proves nothing");
}

#[test]
fn rows_captured_live_as_well_are_billed_once_by_the_postgres_store() {
    with_live_writers(Store::Postgres, 11);
}

#[test]
fn rows_captured_live_as_well_are_billed_once_by_the_clickhouse_store() {
    with_live_writers(Store::ClickHouse, 12);
}

#[test]
fn a_backfill_that_is_done_begins_anew_and_bills_nothing_again() {
    let scene = scene_with(300);
    backfill(&scene, "'usage'");
    scene.wait_until_outbox_is_empty(PATIENCE);
    backfill(&scene, "'usage'");
    assert_all_billed(&scene, BILL);
    let duplicates: i64 = scene.value("select duplicate from lago_push.ledger");
    assert_eq!(duplicates, 300);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.backfills where state = 'done'"), 2);
}

/// Interrupts a backfill that is certainly in the middle, because Lago is down, and goes on.
fn interrupted(interrupt: impl FnOnce(&Scene, i32)) {
    let scene = Scene::on(Cluster::start(&Options::durable()), Store::ClickHouse);
    with_existing(&scene, 1000);
    scene.lago.stop();
    let (pid, session) = in_background(&scene, "'usage', chunk => 150");
    wait_until_some_are_captured(&scene, &session);
    interrupt(&scene, pid);
    assert!(session.join().unwrap().is_err(), "it was interrupted");
    wait_for_state(&scene, "interrupted");
    let (_, done, _) = progress(&scene);
    assert!((1..1000).contains(&done), "{done} rows: not in the middle");
    assert_eq!(scene.waiting(), done, "what is captured and how far it is are one");
    scene.lago.resume().unwrap();
    backfill(&scene, "'usage', chunk => 150");
    assert_eq!(progress(&scene), ("done".into(), 1000, 1000));
    assert_all_billed(&scene, BILL);
    assert_eq!(scene.status("usage").delivered, 1000, "none was captured twice");
}

#[test]
fn a_killed_backfill_goes_on_where_it_was() {
    interrupted(|scene, pid| {
        let mut witness = scene.cluster.connect("postgres");
        scene.cluster.kill9(pid);
        wait_until("the server has noticed", PATIENCE, || witness.simple_query("select 1").is_err());
        scene.cluster.wait_until_ready();
    });
}

#[test]
fn a_backfill_goes_on_after_a_crash_of_the_server() {
    interrupted(|scene, _| {
        scene.cluster.stop(Stop::Immediate);
        scene.cluster.start_again();
    });
}

#[test]
fn a_cancelled_backfill_goes_on_where_it_was() {
    interrupted(|scene, pid| {
        assert!(scene.value::<bool>(&format!("select pg_cancel_backend({pid})")));
    });
}

#[test]
fn an_error_lets_the_same_session_call_it_again() {
    let scene = scene_with(10);
    let mut db = scene.db();
    let failed =
        db.batch_execute("call lago_push.backfill('usage', filter => '1 / (new.id - 5) is not null')");
    assert!(error_text(&failed.unwrap_err()).contains("division by zero"));
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.backfills"), 0, "nothing half made");
    db.batch_execute("call lago_push.backfill('usage')").unwrap();
    assert_all_billed(&scene, BILL);
}

#[test]
fn a_second_one_is_refused_and_told_who_is_at_it() {
    let scene = scene_with(500);
    scene.lago.stop();
    let (pid, session) = in_background(&scene, "'usage', chunk => 100");
    wait_until_some_are_captured(&scene, &session);
    let said = refusal(&scene, "'usage'");
    assert!(said.starts_with("the sync is being backfilled already"), "{said}");
    assert!(said.contains(&format!("It is done by process {pid}.")), "{said}");
    scene.lago.resume().unwrap();
    session.join().unwrap().unwrap();
    assert_all_billed(&scene, BILL);
}

#[test]
fn rows_that_come_while_it_runs_are_left_to_live_capture() {
    let scene = scene_with(500);
    scene.lago.stop();
    let (_, session) = in_background(&scene, "'usage', chunk => 100");
    wait_until_some_are_captured(&scene, &session);
    scene.sql(&insert_rows("usage", 70));
    scene.lago.resume().unwrap();
    session.join().unwrap().unwrap();
    assert_eq!(progress(&scene), ("done".into(), 500, 500));
    assert_all_billed(&scene, BILL);
    assert_eq!(scene.status("usage").delivered, 570, "none twice");
}

#[test]
fn it_says_why_it_waits() {
    let scene = scene_with(50);
    scene.sql("select lago_push.pause('usage')");
    let (_, session) = in_background(&scene, "'usage', chunk => 10");
    wait_for_state(&scene, "waiting: the sync is paused");
    scene.sql("select lago_push.hold('lago')");
    scene.sql("select lago_push.resume('usage')");
    wait_for_state(&scene, "waiting: the destination is held: by postgres");
    assert_eq!(progress(&scene).1, 0, "nothing is captured meanwhile");
    let held: bool = scene.value(
        "select exists (select from pg_stat_activity
                         where query like 'call lago_push.backfill%' and (backend_xid is not null or backend_xmin is not null))",
    );
    // Between two looks it holds no snapshot; one look in many may be met.
    wait_until("it holds no snapshot while it waits", PATIENCE, || {
        !held
            || scene.value::<bool>(
                "select not exists (select from pg_stat_activity
                                 where query like 'call lago_push.backfill%' and backend_xmin is not null)",
            )
    });
    scene.sql("select lago_push.release('lago')");
    session.join().unwrap().unwrap();
    assert_all_billed(&scene, BILL);
}

#[test]
fn a_live_row_never_waits_behind_more_than_a_chunk_and_a_half() {
    let scene = scene_with(4000);
    scene.sql("select lago_push.alter_destination('lago', rate_limit => 40, connections => 1)");
    let (_, session) = in_background(&scene, "'usage', chunk => 400");
    let mut most = 0;
    wait_until("the backfill is done", LONG_PATIENCE, || {
        most = most.max(scene.waiting());
        state(&scene) == "done" || session.is_finished()
    });
    session.join().unwrap().unwrap();
    assert!((100..=600).contains(&most), "{most} messages waited");
    assert_all_billed(&scene, BILL);
}

#[test]
fn what_waits_for_another_destination_holds_up_nobody() {
    let scene = scene_with(300);
    scene.create_destination("other");
    scene.sql("select lago_push.hold('other')");
    scene.usage_table("elsewhere");
    scene.draft("elsewhere", "destination => 'other'");
    scene.activate("elsewhere");
    scene.sql(&insert_rows("elsewhere", 2000));
    backfill(&scene, "'usage', chunk => 100");
    wait_until("all are billed", PATIENCE, || scene.status("usage").delivered == 300);
    assert_eq!(scene.status("elsewhere").pending, 2000);
}

#[test]
fn rows_of_a_sync_with_a_schedule_wait_for_its_tick_and_not_for_each_other() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 1000));
    scene.draft("usage", "schedule => '0 3 1 1 *'");
    scene.activate("usage");
    backfill(&scene, "'usage', chunk => 100");
    assert_eq!((scene.status("usage").pending, progress(&scene).0), (1000, "done".into()));
}

#[test]
fn a_cap_on_what_may_wait_is_kept() {
    let scene = scene_with(600);
    scene.sql("update lago_push.sync set max_pending = 100");
    scene.sql("select lago_push.alter_destination('lago', rate_limit => 20, connections => 1)");
    let (_, session) = in_background(&scene, "'usage'");
    let mut most = 0;
    wait_until("the backfill is done", LONG_PATIENCE, || {
        most = most.max(scene.waiting());
        state(&scene) == "done" || session.is_finished()
    });
    session.join().unwrap().unwrap();
    assert!(most <= 50, "{most} messages waited, and half of 100 is for live rows");
    assert_all_billed(&scene, BILL);
}

/// A table whose rows have keys of these types, and its sync.
fn keyed(scene: &Scene, columns: &str, values: &str) {
    scene.sql(&format!(
        "create table usage (subscription text not null, amount numeric not null,
                             created_at timestamptz not null default now(), {columns});
         insert into usage select 'sub_' || n % 8, n, now(), {values} from generate_series(1, 1000) n;"
    ));
    let template = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage",
        "timestamp": {{ row.created_at }}, "properties": {"amount": "{{ row.amount }}"}}"#;
    scene.draft_with("usage", template, "");
    scene.activate("usage");
}

#[test]
fn keys_of_every_kind_are_walked_and_each_row_once() {
    for (columns, values) in [
        ("k text primary key", "chr(33 + n % 90) || n || ''''"),
        ("k uuid primary key", "gen_random_uuid()"),
        ("k timestamptz primary key", "now() + n * interval '1 microsecond'"),
        ("k numeric primary key", "n / 7.0"),
        ("k float8 primary key", "n / 3.0"),
        ("k bytea primary key", "decode(md5(n::text), 'hex')"),
        ("k interval primary key", "n * interval '-1 day 01:00:00.001'"),
        ("k date, l integer, primary key (k, l)", "date '2024-01-01' - n % 7, n"),
        ("k bigint not null, l text not null, primary key (l, k)", "n, 'x' || n % 5"),
        ("k text collate \"C\" primary key", "md5(n::text)"),
        ("\"Key \"\"1\"\"\" bigint primary key", "-n"),
    ] {
        let scene = Scene::new();
        keyed(&scene, columns, values);
        scene.db().batch_execute("set timezone = 'Asia/Tokyo'").unwrap();
        let mut db = scene.db();
        for setting in [
            "set timezone = 'Asia/Tokyo'",
            "set datestyle = 'German, DMY'",
            "set intervalstyle = 'sql_standard'",
            "set extra_float_digits = -5",
            "set bytea_output = 'escape'",
        ] {
            db.batch_execute(setting).unwrap();
        }
        db.batch_execute("call lago_push.backfill('usage', chunk => 130)").unwrap();
        assert_all_billed(&scene, BILL);
        assert_eq!(scene.status("usage").delivered, 1000, "{columns}");
    }
}

#[test]
fn a_key_with_operators_of_several_schemas_is_walked_too() {
    let scene = Scene::new();
    let available: bool =
        scene.value("select exists (select from pg_available_extensions where name = 'citext')");
    if !available {
        return;
    }
    scene.sql("create schema extensions; create extension citext schema extensions");
    keyed(
        &scene,
        "k extensions.citext, l integer, m bigint, primary key (k, l, m)",
        "case n % 2 when 0 then 'A' else 'b' end, n % 10, n",
    );
    backfill(&scene, "'usage', chunk => 130");
    assert_all_billed(&scene, BILL);
    assert_eq!(scene.status("usage").delivered, 1000);
}

#[test]
fn partitions_are_walked_as_one_table() {
    let scene = Scene::new();
    scene.sql(
        "create table usage (id bigint, subscription text not null, amount numeric not null,
                             created_at timestamptz not null default now(), primary key (created_at, id))
             partition by range (created_at);
         create table usage_1 partition of usage for values from ('2024-01-01') to ('2024-02-01');
         create table usage_2 (subscription text not null, dropped text, id bigint not null, amount numeric not null,
                               created_at timestamptz not null default now());
         alter table usage_2 drop column dropped;
         alter table usage attach partition usage_2 for values from ('2024-02-01') to ('2024-03-01');
         insert into usage select n, 'sub_' || n % 8, n, timestamptz '2024-01-01 12:00Z' + n % 59 * interval '1 day'
           from generate_series(1, 1000) n;",
    );
    scene.draft("usage", "");
    scene.activate("usage");
    backfill(&scene, "'usage', chunk => 150");
    assert_all_billed(&scene, BILL);
    assert_eq!(progress(&scene), ("done".into(), 1000, 1000));
}

#[test]
fn rows_of_a_table_that_inherits_are_left_alone_as_capture_does() {
    let scene = scene_with(20);
    scene.sql("create table heir () inherits (usage); insert into heir select * from usage");
    backfill(&scene, "'usage'");
    assert_all_billed(&scene, "select subscription, amount from only usage");
    assert_eq!(progress(&scene).1, 20);
}

#[test]
fn the_syncs_filter_and_the_callers_both_count() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 1000));
    scene.draft("usage", "filter => 'new.amount > 2 -- some'");
    scene.activate("usage");
    backfill(&scene, "'usage', filter => 'id % 2 = 0 or amount is null -- even', chunk => 37");
    assert_all_billed(&scene, "select subscription, amount from usage where amount > 2 and id % 2 = 0");
    let met: i64 = scene.value("select count(*) from usage where amount > 2 and id % 2 = 0");
    assert_eq!(progress(&scene), ("done".into(), met, met));
}

#[test]
fn an_unfinished_one_goes_on_with_its_own_filter_or_is_given_up() {
    let scene = scene_with(400);
    scene.lago.stop();
    let (pid, session) = in_background(&scene, "'usage', filter => 'id > 0', chunk => 100");
    wait_until_some_are_captured(&scene, &session);
    scene.value::<bool>(&format!("select pg_cancel_backend({pid})"));
    session.join().unwrap().unwrap_err();
    scene.lago.resume().unwrap();
    let said = refusal(&scene, "'usage'");
    assert!(said.starts_with("sync \"usage\" has an unfinished backfill with another filter"), "{said}");
    assert!(said.contains("restart => true"), "{said}");
    backfill(&scene, "'usage', restart => true");
    assert_eq!(progress(&scene), ("done".into(), 400, 400));
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.backfills"), 1);
    assert_all_billed(&scene, BILL);
}

#[test]
fn a_key_that_goes_away_meanwhile_stops_it_and_leaves_nothing_half_made() {
    let scene = scene_with(400);
    scene.lago.stop();
    let (_, session) = in_background(&scene, "'usage', chunk => 100");
    wait_until_some_are_captured(&scene, &session);
    let done = progress(&scene).1;
    scene.sql("alter table usage drop constraint usage_pkey, add primary key (created_at, id)");
    scene.lago.resume().unwrap();
    let said = session.join().unwrap().unwrap_err();
    assert!(said.starts_with("the backfill of sync \"usage\" cannot go on"), "{said}");
    assert!(said.contains("by the key (id), which is no more"), "{said}");
    assert_eq!(progress(&scene), ("interrupted".into(), done, progress(&scene).2));
    backfill(&scene, "'usage', restart => true");
    assert_all_billed(&scene, BILL);
}

#[test]
fn a_table_that_goes_away_meanwhile_stops_it() {
    let scene = scene_with(400);
    scene.lago.stop();
    let (_, session) = in_background(&scene, "'usage', chunk => 100");
    wait_until_some_are_captured(&scene, &session);
    scene.sql("drop table usage");
    scene.lago.resume().unwrap();
    let said = session.join().unwrap().unwrap_err();
    assert!(said.contains("the source table does not exist"), "{said}");
}

#[test]
fn dropping_the_sync_meanwhile_stops_it_and_takes_its_progress_along() {
    let scene = scene_with(400);
    scene.lago.stop();
    let (_, session) = in_background(&scene, "'usage', chunk => 100");
    wait_until_some_are_captured(&scene, &session);
    scene.sql("select lago_push.drop_sync('usage', discard => true)");
    let said = session.join().unwrap().unwrap_err();
    assert!(said.starts_with("the backfill cannot go on"), "{said}");
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.backfills"), 0);
}

#[test]
fn rows_that_cannot_be_rendered_become_dead_letters_or_stop_it() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 100));
    scene.sql("update usage set created_at = 'infinity' where id = 60");
    scene.draft("usage", "on_error => 'raise'");
    scene.activate("usage");
    let said = refusal(&scene, "'usage', chunk => 10");
    assert!(said.starts_with("sync \"usage\" cannot bill an existing row: column \"created_at\""), "{said}");
    assert_eq!(progress(&scene).1, 50, "the chunks before it are kept");
    scene.sql("select lago_push.alter_sync('usage', on_error => 'dead_letter')");
    backfill(&scene, "'usage', chunk => 10");
    assert_billed(&scene, "select subscription, amount from usage where id <> 60");
    assert_eq!((scene.status("usage").delivered, scene.status("usage").dead), (99, 1));
    assert!(scene.value::<bool>("select bool_and(balanced) from lago_push.ledger"));
    scene.sql("update usage set created_at = now() where id = 60");
}

#[test]
fn it_cannot_be_called_where_it_cannot_commit() {
    let scene = scene_with(10);
    for statements in [
        "begin; call lago_push.backfill('usage')",
        "select 1; call lago_push.backfill('usage')",
        "create function f() returns void language plpgsql as $$ begin call lago_push.backfill('usage'); end $$; select f()",
    ] {
        let said = scene.sql_error(statements);
        assert!(said.starts_with("lago_push.backfill() commits as it goes, and cannot do so here"), "{said}");
        assert!(said.contains("outside begin … commit"), "{said}");
    }
    let mut db = scene.db();
    let said = db.batch_execute(
        "do $$ begin call lago_push.backfill('usage'); exception when division_by_zero then null; end $$",
    );
    let said = error_text(&said.unwrap_err());
    assert!(said.contains("a block that catches errors"), "{said}");
    db.batch_execute("do $$ begin call lago_push.backfill('usage'); end $$").unwrap();
    assert_all_billed(&scene, BILL);
}

#[test]
fn what_cannot_be_backfilled_is_told() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 3));
    scene.draft("usage", "");
    let says = |arguments: &str, message: &str| {
        let said = refusal(&scene, arguments);
        assert!(said.contains(message), "{said}");
    };
    says("'usage'", "sync \"usage\" is a draft\nRows that are written meanwhile would be missed.");
    says("'nothing'", "sync \"nothing\" does not exist");
    says("null", "does not exist");
    scene.activate("usage");
    says("'usage', chunk => 0", "chunk must be between 1 and 100000");
    says("'usage', chunk => null", "chunk must be between 1 and 100000");
    says("'usage', filter => 'true) union select 1 --'", "syntax error");
    says("'usage', filter => 'nonsense'", "column \"nonsense\" does not exist");
    scene.sql("select lago_push.alter_sync('usage', operations => '{delete}')");
    says("'usage'", "sync \"usage\" does not capture inserts");
    scene.sql("select lago_push.alter_sync('usage', operations => '{insert}')");
    scene.sql("alter table usage drop constraint usage_pkey");
    says("'usage'", "table public.usage has no key to walk it by");
    scene.sql("create unique index on usage (id) where id > 0");
    says("'usage'", "table public.usage has no key to walk it by");
    scene.sql(
        "alter table usage alter id drop identity, alter id drop not null; create unique index on usage (id)",
    );
    says("'usage'", "table public.usage has no key to walk it by");
    assert_eq!((scene.lago.request_count(), scene.waiting()), (0, 0));
    scene.sql("alter table usage alter id set not null");
    backfill(&scene, "'usage'");
    assert_all_billed(&scene, BILL);
}

/// What a sync with that template, or the other options, is refused for.
fn refused_for(template: &str, options: &str) -> String {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 3));
    scene.draft_with("usage", template, options);
    scene.activate("usage");
    let said = refusal(&scene, "'usage'");
    assert_eq!((scene.lago.request_count(), scene.waiting()), (0, 0), "nothing was sent");
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.backfills"), 0, "nothing half made");
    said
}

#[test]
fn what_would_be_billed_a_second_time_is_refused() {
    let event = |members: &str| {
        format!(
            r#"{{"external_subscription_id": "{{{{ row.subscription }}}}", "code": "usage", "properties": {{}}{members}}}"#
        )
    };
    let said = refused_for(&event(""), "");
    assert!(said.starts_with("sync \"usage\" cannot be backfilled: the payload has no \"timestamp\": the clock decides what is sent, not the row"), "{said}");
    assert!(said.contains("such as \"timestamp\": {{ row.created_at }}"), "{said}");
    let said = refused_for(&event(r#", "timestamp": {{ "now" | date: "%s" }}"#), "");
    assert!(said.contains("the clock decides what is sent, not the row"), "{said}");
    let said = refused_for(
        &event(r#", "timestamp": {% if row.id > 0 %}{{ "Today" | date: "%s" }}{% else %}0{% endif %}"#),
        "",
    );
    assert!(said.contains("the clock decides what is sent, not the row"), "{said}");
    let stamped = event(r#", "timestamp": {{ row.created_at }}"#);
    let said = refused_for(&stamped, "operations => '{insert,update}'");
    assert!(said.contains("an update of a row is another event than its insert"), "{said}");
    let said = refused_for(
        r#"{"wallet_id": "w", "paid_credits": "{{ row.amount }}"}"#,
        "endpoint => 'wallet_transaction'",
    );
    assert!(
        said.contains("a call of endpoint wallet_transaction that is made twice does its work twice"),
        "{said}"
    );
}

#[test]
fn an_update_that_is_the_same_event_as_its_insert_is_none_to_refuse() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 3));
    scene.draft("usage", "operations => '{insert,update}', filter => 'new.amount > 0'");
    scene.activate("usage");
    scene.sql("update usage set subscription = subscription where id = 1");
    backfill(&scene, "'usage'");
    assert_all_billed(&scene, BILL);
    assert_eq!(scene.lago.stored_count(), 3);
}

#[test]
fn a_mapper_that_asks_the_clock_is_found_out() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 3));
    let mapper = |timestamp: &str| {
        format!(
            "create or replace function to_event(usage) returns jsonb language sql as $$
                 select jsonb_build_object('transaction_id', 'usage-' || $1.id, 'code', 'usage',
                     'external_subscription_id', $1.subscription, {timestamp}
                     'properties', jsonb_build_object('amount', $1.amount::text)) $$"
        )
    };
    scene.sql(&mapper("'timestamp', extract(epoch from date_trunc('second', now()))::bigint,"));
    scene.sql("select lago_push.create_sync('usage', 'usage', mapper => 'to_event(usage)')");
    scene.activate("usage");
    let said = refusal(&scene, "'usage'");
    assert!(
        said.contains("the mapper gives the same row another transaction_id or timestamp a second later"),
        "{said}"
    );
    scene.sql(&mapper("'timestamp', case when $1.id < 3 then extract(epoch from $1.created_at) end,"));
    scene.sql(&mapper(""));
    let said = refusal(&scene, "'usage'");
    assert!(said.contains("the payload has no \"timestamp\""), "{said}");
    scene.sql(&mapper("'timestamp', extract(epoch from $1.created_at),"));
    backfill(&scene, "'usage'");
    assert_all_billed(&scene, BILL);
}

#[test]
fn a_row_whose_update_is_under_way_is_sent_as_it_will_be() {
    let scene = Scene::new();
    scene.sql(
        "create table customer (id text primary key, name text);
         insert into customer values ('a', 'old'), ('b', 'old')",
    );
    scene.draft_with(
        "customer",
        r#"{"external_id": "{{ row.id }}", "name": "{{ row.name }}"}"#,
        "endpoint => 'customer', operations => '{insert,update}', order_by => 'id'",
    );
    scene.activate("customer");
    scene.sql("select lago_push.hold('lago')");
    scene.sql("select lago_push.release('lago')");
    let mut writer = scene.db();
    writer.batch_execute("begin; update customer set name = 'new' where id = 'a'").unwrap();
    let (pid, session) = in_background(&scene, "'customer'");
    wait_until("it waits for the writer", PATIENCE, || {
        scene.value::<bool>(&format!(
            "select coalesce((select wait_event_type = 'Lock' from pg_stat_activity where pid = {pid}), false)"
        ))
    });
    writer.batch_execute("commit").unwrap();
    session.join().unwrap().unwrap();
    scene.wait_until_outbox_is_empty(PATIENCE);
    let bodies: Vec<String> = scene.lago.requests().iter().map(|request| format!("{request:?}")).collect();
    assert_eq!(bodies.len(), 3, "the update, and both rows: {bodies:?}");
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.outbox where payload like '%old%'"), 0);
}

#[test]
fn only_the_owner_of_the_table_may_and_needs_the_right_to() {
    let scene = scene_with(5);
    let name = scene.database.clone();
    let (owner, other) = (format!("{name}_o"), format!("{name}_x"));
    scene.sql(&format!(
        "create role \"{owner}\" login; create role \"{other}\" login;
         grant usage on schema lago_push to \"{owner}\", \"{other}\";
         alter table usage owner to \"{owner}\""
    ));
    let call = |role: &str| {
        let mut db = scene.cluster.try_connect_as(role, &scene.database).unwrap();
        db.batch_execute("call lago_push.backfill('usage')").map_err(|error| error_text(&error))
    };
    assert!(call(&owner).unwrap_err().contains("permission denied for procedure backfill"));
    scene.sql(&format!("grant execute on procedure lago_push.backfill to \"{owner}\", \"{other}\""));
    assert!(call(&other).unwrap_err().contains("must be owner of table public.usage"));
    call(&owner).unwrap();
    assert_all_billed(&scene, BILL);
    scene.sql(&format!("alter table usage owner to postgres; drop owned by \"{owner}\", \"{other}\"; drop role \"{owner}\", \"{other}\""));
}

#[test]
fn a_filter_runs_with_the_callers_rights_and_names_found_by_nobodys_search_path() {
    let scene = scene_with(5);
    let name = scene.database.clone();
    let owner = format!("{name}_o");
    scene.sql(&format!(
        "create role \"{owner}\" login; grant usage on schema lago_push to \"{owner}\";
         grant execute on procedure lago_push.backfill to \"{owner}\";
         alter table usage owner to \"{owner}\";
         create table secret (id bigint);
         create schema hostile; grant usage, create on schema hostile to \"{owner}\";"
    ));
    let mut db = scene.cluster.try_connect_as(&owner, &scene.database).unwrap();
    db.batch_execute(
        "create table hostile.seen (what text);
         create function hostile.boom() returns boolean language plpgsql as $$
             begin insert into hostile.seen values (current_user); return true; end $$;
         create function hostile.gt(bigint, bigint) returns boolean language sql as 'select hostile.boom()';
         create operator hostile.> (leftarg = bigint, rightarg = bigint, function = hostile.gt);
         create operator hostile.= (leftarg = bigint, rightarg = bigint, function = hostile.gt);
         create function hostile.format(text, text) returns text language sql as 'select hostile.boom()::text';
         create function hostile.convert_from(bytea, name) returns text language sql as 'select hostile.boom()::text';
         create function hostile.getdatabaseencoding() returns name language sql as 'select hostile.boom()::text::name';
         create temporary table pg_locks (pid integer);
         create temporary table pg_class (oid oid);",
    )
    .unwrap();
    db.batch_execute("set search_path = hostile, pg_temp, pg_catalog").unwrap();
    let denied = db.batch_execute(
        "call lago_push.backfill('usage', filter => 'not exists (select from public.secret)')",
    );
    assert!(error_text(&denied.unwrap_err()).contains("permission denied for table secret"));
    db.batch_execute("call lago_push.backfill('usage', chunk => 2)").unwrap();
    assert_eq!(scene.value::<i64>("select count(*) from hostile.seen"), 0, "nothing of theirs was run");
    assert_all_billed(&scene, BILL);
    drop(db);
    scene.sql(&format!(
        "alter table usage owner to postgres; drop owned by \"{owner}\"; drop role \"{owner}\""
    ));
}

#[test]
fn a_superuser_who_calls_it_lends_nobody_rights() {
    let scene = Scene::new();
    let owner = format!("{}_o", scene.database);
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 5));
    scene.sql(&format!(
        "create role \"{owner}\"; alter table usage owner to \"{owner}\"; grant all on schema public to \"{owner}\";
         select lago_push.grant_access('\"{owner}\"', 'maker'); grant \"{owner}\" to current_user;
         set role \"{owner}\";
         create table ran_as (who text);
         create function note() returns boolean language plpgsql as $$
             begin insert into public.ran_as values (current_user); return true; end $$;"
    ));
    scene.draft("usage", "filter => 'public.note()'");
    scene.activate("usage");
    backfill(&scene, "'usage', filter => 'public.note()'");
    assert_all_billed(&scene, BILL);
    let ran: i64 = scene.value("select count(*) from ran_as");
    let as_owner: i64 = scene.value("select count(*) from ran_as where who like '%_o'");
    assert!(ran >= 10 && as_owner == ran, "{as_owner} of {ran} as the owner");
    scene.sql(&format!("alter table usage owner to postgres; reassign owned by \"{owner}\" to postgres; drop owned by \"{owner}\"; drop role \"{owner}\""));
}

#[test]
fn rows_that_row_level_security_hides_are_not_sent_and_it_says_so() {
    let scene = scene_with(40);
    let owner = format!("{}_o", scene.database);
    scene.sql(&format!(
        "create role \"{owner}\" login; grant usage on schema lago_push to \"{owner}\";
         grant execute on procedure lago_push.backfill to \"{owner}\";
         alter table usage owner to \"{owner}\";
         create policy visible on usage using (id <= 10);
         alter table usage enable row level security, force row level security;"
    ));
    let mut psql = scene.cluster.program("psql");
    let psql =
        psql.args(["-X", "-U", &owner, "-d", &scene.database, "-c", "call lago_push.backfill('usage')"]);
    let out = psql.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("WARNING:  row-level security applies to public.usage"), "{said}");
    assert_all_billed(&scene, "select subscription, amount from usage where id <= 10");
    scene.sql(&format!("drop policy visible on usage; alter table usage owner to postgres; drop owned by \"{owner}\"; drop role \"{owner}\""));
}

#[test]
fn a_monitor_sees_how_far_it_is() {
    let scene = scene_with(30);
    backfill(&scene, "'usage'");
    let row: i64 = scene
        .db()
        .query_one("select rows_done from lago_push.backfills", &[])
        .and_then(|_| {
            let mut db = scene.db();
            db.batch_execute("set role pg_monitor")?;
            db.query_one("select rows_done from lago_push.backfills", &[])
        })
        .unwrap()
        .get(0);
    assert_eq!(row, 30);
}
