//! The oracle must be right about right bills, and notice each way in which a bill can be wrong. These need
//! no extension: the events are posted by the test itself.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};

use delivery::cluster::{Cluster, Options};
use delivery::oracle::differences;
use delivery::random::Random;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use delivery::writers::Writers;
use fake_lago::Store;

const ROWS: &str = "select subscription, amount from usage";

/// Ten rows in a table, and nothing in Lago yet.
fn scene(store: Store) -> Scene {
    static BARE: OnceLock<Arc<Cluster>> = OnceLock::new();
    let bare = BARE.get_or_init(|| Cluster::start(&Options { preload: false, ..Options::default() }));
    let scene = Scene::without_extension(Arc::clone(bare), store, "");
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 10));
    scene
}

/// The events of the table's rows, as a template would render them.
fn events(scene: &Scene) -> Vec<String> {
    let event = r#"select format(
            '{"transaction_id": "usage-%s", "external_subscription_id": "%s", "code": "usage",
              "timestamp": 1710421740, "properties": {"amount": "%s"}}', id, subscription, amount)
        from usage order by id"#;
    scene.rows(event).iter().map(|row| row.get(0)).collect()
}

fn post(scene: &Scene, events: &[String]) {
    let body = format!("{{\"events\": [{}]}}", events.join(","));
    let mut stream = TcpStream::connect(scene.lago.addr()).unwrap();
    write!(
        stream,
        "POST /api/v1/events/batch HTTP/1.1\r\nHost: lago\r\nAuthorization: Bearer {}\r\n\
         Accept: application/json\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        scene.api_key(),
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
}

#[track_caller]
fn assert_noticed(scene: &Scene, what: &str) {
    let wrong = differences(scene, ROWS);
    assert!(wrong.contains(what), "expected {what:?} in {wrong:?}");
}

#[test]
fn it_is_content_when_every_row_is_billed_once() {
    for store in [Store::Postgres, Store::ClickHouse] {
        let scene = scene(store);
        let events = events(&scene);
        post(&scene, &events);
        // The same bytes again change nothing in either store.
        post(&scene, &events[3..5]);
        assert_eq!(differences(&scene, ROWS), "");
    }
}

#[test]
fn it_notices_a_row_that_is_not_billed() {
    let scene = scene(Store::Postgres);
    post(&scene, &events(&scene)[1..]);
    assert_noticed(&scene, "sub_1: committed");
}

#[test]
fn it_notices_a_row_that_was_never_committed() {
    let scene = scene(Store::Postgres);
    post(&scene, &events(&scene));
    scene.sql("delete from usage where id = 3");
    assert_noticed(&scene, "sub_3: committed None");
}

#[test]
fn it_notices_an_amount_that_is_off_by_the_last_digit() {
    let scene = scene(Store::Postgres);
    post(&scene, &events(&scene));
    scene.sql("update usage set amount = amount + 0.00000000000000000001 where id = 3");
    assert_noticed(&scene, "sub_3: committed");
}

#[test]
fn it_notices_an_event_billed_twice() {
    let scene = scene(Store::ClickHouse);
    let events = events(&scene);
    post(&scene, &events);
    post(&scene, &[events[0].replace("1710421740", "1710421741")]);
    assert_noticed(&scene, "would be billed twice");
    assert_noticed(&scene, "were sent with different bodies");
}

#[test]
fn it_notices_an_event_lago_takes_and_never_bills() {
    let scene = scene(Store::Postgres);
    post(&scene, &events(&scene));
    post(&scene, &[events(&scene)[0].replace("sub_1", "stranger")]);
    assert_noticed(&scene, "would never be billed");
}

#[test]
fn writers_write_and_stop() {
    let scene = scene(Store::Postgres);
    let writers = Writers::start(&scene, "usage", 4, &mut Random::seeded(1));
    wait_until("the writers have committed", PATIENCE, || writers.commits() > 100);
    let commits = writers.stop();
    let rows: i64 = scene.value("select count(*) from usage");
    assert!(rows > i64::try_from(commits).unwrap(), "{rows} rows of {commits} commits");
}

#[test]
fn writers_survive_a_crash_of_the_server() {
    let cluster = Cluster::start(&Options { preload: false, ..Options::durable() });
    let scene = Scene::without_extension(Arc::clone(&cluster), Store::Postgres, "");
    scene.usage_table("usage");
    let writers = Writers::start(&scene, "usage", 4, &mut Random::seeded(2));
    for round in 1..=2 {
        let before = writers.commits();
        wait_until("the writers have committed", PATIENCE, || writers.commits() > before + 50 * round);
        cluster.stop(delivery::cluster::Stop::Immediate);
        cluster.start_again();
    }
    let before = writers.commits();
    wait_until("the writers have committed again", PATIENCE, || writers.commits() > before + 50);
    writers.stop();
    assert!(scene.value::<i64>("select count(*) from usage") >= 150);
}
