//! Promise 6: an outage costs nothing but delay, and whoever limits us is obeyed: limits of our own, Lago's,
//! and the number of connections after trouble.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use fake_lago::{Effect, Fault, RateLimit, RequestLog, Storing};

fn billed() -> Scene {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene
}

fn arrivals(requests: &[RequestLog]) -> Vec<SystemTime> {
    let mut at: Vec<SystemTime> = requests.iter().map(|request| request.at).collect();
    at.sort_unstable();
    at
}

/// The most requests that arrived within any stretch of that length.
fn most_within(at: &[SystemTime], stretch: Duration) -> usize {
    let within =
        |first: &SystemTime| at.iter().filter(|other| *other >= first && **other < *first + stretch).count();
    at.iter().map(within).max().unwrap_or(0)
}

#[test]
fn a_backlog_drains_at_the_rate_the_destination_is_given_and_never_above() {
    let scene = billed();
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 6000));
    scene.sql("select lago_push.alter_destination('lago', rate_limit => 20)");
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
    let at = arrivals(&scene.lago.requests());
    assert_eq!(at.len(), 60);
    // Twenty a second, and the small burst a bucket allows.
    assert!(most_within(&at, Duration::from_secs(1)) <= 23, "{}", most_within(&at, Duration::from_secs(1)));
    let whole = at[59].duration_since(at[0]).expect("sorted");
    assert!(whole >= Duration::from_millis(2700), "60 requests in {whole:?}");
}

#[test]
fn a_limit_changed_under_way_holds_at_once_and_costs_no_request() {
    let scene = billed();
    scene.sql("select lago_push.alter_destination('lago', rate_limit => 5)");
    scene.sql(&insert_rows("usage", 20_000));
    wait_until("deliveries have begun", PATIENCE, || scene.lago.stored_count() > 0);
    scene.sql("select lago_push.alter_destination('lago', rate_limit => 1000, connections => 2)");
    scene.sql("select pg_reload_conf()");
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.request_count(), 200, "every request was answered and none was repeated");
}

#[test]
fn lagos_own_limit_is_kept_ahead_of_time() {
    let scene = billed();
    scene.lago.set_rate_limit(Some(RateLimit { requests: 10, window_seconds: 1 }));
    scene.sql(&insert_rows("usage", 4000));
    assert_billed_exactly_once(&scene);
    let refused = scene.lago.requests().iter().filter(|request| request.status == Some(429)).count();
    // The first answers teach it the limit; until then all connections may have been used.
    assert!(refused <= 6, "{refused} of {} requests were refused", scene.lago.request_count());
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    let scene = billed();
    scene.lago.fault(Fault::next(1, Effect::rate_limited(2)));
    scene.sql(&insert_rows("usage", 1));
    assert_billed_exactly_once(&scene);
    let at = arrivals(&scene.lago.requests());
    assert_eq!(at.len(), 2);
    assert!(at[1].duration_since(at[0]).expect("sorted") >= Duration::from_millis(1900));
}

#[test]
fn a_destination_that_comes_back_is_tried_by_one_request_before_all_connections_are_used() {
    let scene = billed();
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 10_000));
    let latency = Duration::from_millis(40);
    scene.lago.set_latency(latency);
    scene.lago.fault(Fault::next(18, Effect::status(503)));
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
    let requests = scene.lago.requests();
    let failed = requests.iter().filter(|request| request.faulted).count();
    let last_failure = requests.iter().rposition(|request| request.faulted).expect("some failed");
    let at = arrivals(&requests[last_failure + 1..]);
    // The first success is alone.
    assert!(at[1].duration_since(at[0]).expect("sorted") >= latency.mul_f64(0.9), "a flood after the outage");
    assert_eq!(failed, 18);
    let pending_at_once = most_within(&at, latency);
    assert!(pending_at_once > 4, "connections come back one by one, but come back: {pending_at_once}");
}

#[test]
fn an_outage_of_every_kind_burns_no_attempt_and_ends_by_itself() {
    let scene = billed();
    scene.sql("select lago_push.alter_destination('lago', timeout => '1 s', connect_timeout => '500 ms')");
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 300));
    wait_until("the outage is noticed", PATIENCE, || scene.destination_error().is_some());
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Done)));
    scene.lago.fault(Fault::next(1, Effect::status(502)));
    scene.lago.fault(Fault::next(1, Effect::Reset(Storing::Done)));
    scene.lago.resume().expect("the port is free");
    assert_eq!(scene.value::<i64>("select coalesce(sum(attempts), 0)::bigint from lago_push.outbox"), 0);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.retry"), 0);
}

// ---- shutdown ----------------------------------------------------------------------------------

#[test]
fn a_server_that_stops_takes_in_the_answers_under_way() {
    let scene = Scene::on(Cluster::start(&Options::durable()), fake_lago::Store::Postgres);
    scene.billed_table("usage");
    scene.lago.set_latency(Duration::from_millis(700));
    scene.sql(&insert_rows("usage", 300));
    wait_until("requests are under way", PATIENCE, || {
        scene.value::<i64>("select sum(in_flight)::bigint from lago_push.destinations") > 0
    });
    scene.cluster.stop(Stop::Fast);
    scene.lago.set_latency(Duration::ZERO);
    let sent = scene.lago.request_count();
    scene.cluster.start_again();
    assert_billed_exactly_once(&scene);
    let repeated = scene.lago.requests().iter().filter(|request| request.status == Some(422)).count();
    assert_eq!(repeated, 0, "what was answered after the signal was written down; {sent} requests before");
}

#[test]
fn a_server_that_stops_does_not_wait_for_a_silent_lago_beyond_its_patience() {
    let mut options = Options::durable();
    options.settings.push(("lago_push.shutdown_patience", "300ms".into()));
    let scene = Scene::on(Cluster::start(&options), fake_lago::Store::Postgres);
    scene.billed_table("usage");
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Done)));
    scene.sql(&insert_rows("usage", 50));
    wait_until("Lago is silent", PATIENCE, || scene.lago.request_count() > 0);
    // Its own deadline is far below the 30 seconds the request has.
    scene.cluster.stop(Stop::Fast);
    scene.cluster.start_again();
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_database_can_be_dropped_while_a_request_hangs() {
    let scene = billed();
    scene.lago.fault(Fault::always(Effect::Hang(Storing::Done)));
    scene.sql(&insert_rows("usage", 50));
    wait_until("Lago is silent", PATIENCE, || scene.lago.request_count() > 0);
    scene.disconnect();
    let mut db = scene.cluster.connect("postgres");
    let dropped = db.batch_execute(&format!("drop database \"{}\"", scene.database));
    assert!(dropped.is_ok(), "{dropped:?}");
    scene.cluster.create_database(&scene.database);
}

#[test]
fn more_connections_and_fewer_are_taken_over_while_requests_are_under_way() {
    let scene = billed();
    scene.lago.set_latency(Duration::from_millis(20));
    scene.sql("select lago_push.alter_destination('lago', connections => 1)");
    scene.sql(&insert_rows("usage", 3000));
    wait_until("deliveries have begun", PATIENCE, || scene.lago.stored_count() > 0);
    for connections in [8, 2, 16, 1, 4] {
        scene.sql(&format!("select lago_push.alter_destination('lago', connections => {connections})"));
    }
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.requests().iter().filter(|request| request.status != Some(200)).count(), 0);
}
