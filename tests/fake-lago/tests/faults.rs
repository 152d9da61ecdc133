//! Everything that goes wrong on purpose, and the administration over HTTP, over a real socket.

mod client;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use client::*;
use fake_lago::{Category, Effect, FakeLago, Fault, Storing};
use serde_json::json;

const A: &str = r#"{"event":{"transaction_id":"a","external_subscription_id":"sub_1","code":"calls"}}"#;

fn failing(effect: Effect) -> (FakeLago, Client) {
    let (server, client) = postgres();
    server.fault(Fault::next(1, effect));
    (server, client)
}

fn was_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
}

#[test]
fn a_reset_before_storing_stores_nothing() {
    let (server, mut client) = failing(Effect::Reset(Storing::Skipped));
    let error = client.try_post(EVENTS, A).expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.stored_count(), 0);
    assert_eq!(server.copies_of("a").len(), 1);
    assert_eq!(server.requests()[0].status, None);
    assert_eq!(Client::new(&server).post(EVENTS, A).status, 200);
}

#[test]
fn a_reset_after_storing_loses_only_the_answer() {
    let (server, mut client) = failing(Effect::Reset(Storing::Done));
    assert_eq!(client.try_post(EVENTS, A).expect_err("no answer").kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.stored_count(), 1);
    assert_eq!(Client::new(&server).post(EVENTS, A).status, 422);
}

#[test]
fn a_hanging_request_is_never_answered() {
    for (storing, stored) in [(Storing::Skipped, 0), (Storing::Done, 1)] {
        let (server, mut client) = failing(Effect::Hang(storing));
        client.set_timeout(Duration::from_millis(50));
        let error = client.try_post(EVENTS, A).expect_err("no answer");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        assert_eq!(server.stored_count(), stored);
    }
}

#[test]
fn a_stop_ends_hanging_requests() {
    let (server, mut client) = failing(Effect::Hang(Storing::Skipped));
    client.send(&request("POST", EVENTS, &usual(), A)).expect("sent");
    server
        .wait_for("the request", Duration::from_secs(20), |server| server.request_count() == 1)
        .expect("seen");
    server.stop();
    assert!(was_reset(client.read_answer().expect_err("no answer").kind()));
}

#[test]
fn statuses_come_with_the_body_their_sender_would_send() {
    let (server, mut client) = postgres();
    for (status, kind) in [
        (401, "application/json"),
        (403, "application/json"),
        (413, "text/html"),
        (500, "application/json"),
        (502, "text/html"),
        (503, "text/html"),
        (504, "text/html"),
    ] {
        server.fault(Fault::next(1, Effect::status(status)));
        let answer = client.post(EVENTS, A);
        assert_eq!(answer.status, status);
        assert!(answer.header("content-type").is_some_and(|found| found.starts_with(kind)), "{status}");
    }
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn a_gateway_may_give_up_after_the_event_was_stored() {
    let (server, mut client) = failing(Effect::status(504).after_storing());
    assert_eq!(client.post(EVENTS, A).status, 504);
    assert_eq!(server.stored_count(), 1);
}

#[test]
fn a_rate_limit_says_when_to_come_back() {
    let (_server, mut client) = failing(Effect::rate_limited(7));
    let answer = client.post(EVENTS, A);
    assert_eq!((answer.status, answer.header("X-RateLimit-Reset")), (429, Some("7")));
    assert_eq!(client.post(EVENTS, A).status, 200);
}

#[test]
fn a_truncated_answer_ends_before_its_length() {
    let (server, mut client) = failing(Effect::Truncated);
    assert_eq!(client.try_post(EVENTS, A).expect_err("half an answer").kind(), ErrorKind::UnexpectedEof);
    assert_eq!(server.stored_count(), 1);
}

#[test]
fn a_dripping_answer_arrives_in_the_end() {
    let (_server, mut client) = failing(Effect::Drip { bytes: 50, pause: Duration::from_millis(1) });
    let answer = client.post(EVENTS, A);
    assert_eq!((answer.status, &answer.json()["event"]["code"]), (200, &json!("calls")));
}

#[test]
fn a_connection_may_be_closed_after_an_answer_that_did_not_say_so() {
    let (server, mut client) = failing(Effect::CloseAfterReply);
    let answer = client.post(EVENTS, A);
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    assert!(was_reset(client.try_post(EVENTS, A).expect_err("closed").kind()));
    assert_eq!(server.stored_count(), 1);
}

#[test]
fn a_200_need_not_be_lagos() {
    let (server, mut client) = failing(Effect::empty_ok(Storing::Skipped));
    server.fault(Fault::next(1, Effect::html_ok(Storing::Skipped)));
    let empty = client.post(EVENTS, A);
    assert_eq!((empty.status, empty.body.as_str()), (200, ""));
    assert!(client.post(EVENTS, A).body.starts_with("<html>"));
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn faults_can_follow_a_poisonous_event() {
    let (server, mut client) = postgres();
    server.fault(Fault::always(Effect::status(500)).on_body("poison"));
    assert_eq!(client.batch(&[event("a"), event("poison")]).status, 500);
    assert_eq!(client.event(&event("a")).status, 200);
    assert_eq!(client.event(&event("poison")).status, 500);
    server.clear_faults();
    assert_eq!(client.event(&event("poison")).status, 200);
}

#[test]
fn latency_delays_every_answer() {
    let (server, mut client) = postgres();
    server.set_latency(Duration::from_millis(30));
    let start = Instant::now();
    assert_eq!(client.post(EVENTS, A).status, 200);
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_stopped_server_refuses_connections_and_keeps_what_it_has() {
    let (server, mut client) = postgres();
    assert_eq!(client.post(EVENTS, A).status, 200);
    server.stop();
    assert!(was_reset(client.try_post(EVENTS, A).expect_err("no answer").kind()));
    let refused = std::net::TcpStream::connect(server.addr()).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let url = server.url();
    server.resume().expect("the port is free");
    assert_eq!(server.url(), url);
    assert_eq!(Client::new(&server).post(EVENTS, A).status, 422);
    assert_eq!(server.stored_count(), 1);
}

#[test]
fn nothing_is_stored_after_a_stop() {
    let (server, _client) = postgres();
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let mut client = Client::new(server);
                let body = |at: u32| json!({"event": event(&format!("{sender}:{at}"))}).to_string();
                (0..).take_while(|at| client.try_post(EVENTS, &body(*at)).is_ok()).count()
            });
        }
        let busy = server.wait_for("traffic", Duration::from_secs(20), |server| server.stored_count() > 100);
        assert_eq!(busy, Ok(()));
        server.stop();
        let stored = server.stored_count();
        assert_eq!(server.stored().len() as u64, stored);
        assert!(
            server
                .wait_for("more", Duration::from_millis(20), |server| server.stored_count() > stored)
                .is_err()
        );
    });
}

#[test]
fn http_1_0_and_head_are_understood() {
    let (_server, mut client) = postgres();
    client.send(b"HEAD /health HTTP/1.1\r\n\r\nGET /health HTTP/1.0\r\n\r\n").expect("sent");
    let mut text = String::new();
    client.read_to_end(&mut text).expect("a closed connection");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert_eq!(text.matches("Success").count(), 1, "{text}");
}

#[test]
fn chunked_bodies_and_100_continue_are_understood() {
    let (server, mut client) = postgres();
    let mut head = String::from("POST /api/v1/events HTTP/1.1\r\nHost: lago\r\n");
    for header in usual() {
        head.push_str(header);
        head.push_str("\r\n");
    }
    let expecting = format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", A.len());
    assert_eq!(client.raw(expecting.as_bytes()).expect("an interim answer").status, 100);
    assert_eq!(client.raw(A.as_bytes()).expect("an answer").status, 200);
    let (first, second) = A.split_at(20);
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    assert_eq!(client.raw(chunked.as_bytes()).expect("an answer").status, 422);
    assert_eq!(server.request_count(), 2);
}

#[test]
fn a_client_may_ask_to_close() {
    let (_server, mut client) = postgres();
    let headers = [usual()[0], usual()[1], "Connection: close"];
    let answer = client.request("POST", EVENTS, &headers, A).expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(was_reset(client.try_post(EVENTS, A).expect_err("closed").kind()));
}

#[test]
fn everything_can_be_administered_over_http() {
    let server = FakeLago::start(fake_lago::Config::default()).expect("a free port");
    let mut client = Client::new(&server);
    let mut admin = |method: &str, path: &str, body: &str| {
        client.request(method, &format!("/_fake/{path}"), &[], body).expect("an answer")
    };
    let metric =
        r#"[{"code": "calls"}, {"code": "tokens", "aggregation_type": "sum_agg", "field_name": "n"}]"#;
    assert_eq!(admin("POST", "metrics", metric).status, 200);
    let subscription =
        r#"{"external_id": "sub_1", "external_customer_id": "c", "started_at": "2020-01-01T00:00:00Z"}"#;
    assert_eq!(admin("POST", "subscriptions", subscription).status, 200);
    assert_eq!(admin("POST", "fault", r#"{"next": 1, "do": "status", "status": 503}"#).status, 200);
    assert_eq!(admin("POST", "fault", r#"{"do": "explode"}"#).status, 400);
    assert_eq!(admin("POST", "latency", r#"{"ms": 0}"#).status, 200);
    assert_eq!(admin("GET", "nothing", "").status, 404);

    let mut other = Client::new(&server);
    assert_eq!(other.post(EVENTS, A).status, 503);
    assert_eq!(other.post(EVENTS, A).status, 200);
    let bill = admin("GET", "bill", "").json();
    assert_eq!(bill["lines"][0]["events"], 1);
    assert_eq!(bill["never_billed"], json!([]));
    let stats = admin("GET", "stats", "").json();
    assert_eq!((&stats["requests"], &stats["stored"]), (&json!(2), &json!(1)));
    let stored = admin("GET", "stored?limit=5", "").json();
    assert_eq!(stored["events"][0]["transaction_id"], "a");
    assert_eq!(admin("GET", "sent_differently", "").json(), json!([]));
    assert_eq!(admin("POST", "accept_any", "true").status, 200);
    assert_eq!(admin("DELETE", "fault", "").status, 200);
    assert_eq!(admin("POST", "reset", "").status, 200);
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn one_event_can_be_poison_alone_and_among_others() {
    let (server, mut client) = postgres();
    server.fault(Fault::always(Effect::status(500)).on_transaction_id("poison-1"));
    assert_eq!(client.batch(&[event("a"), event("poison-1")]).status, 500);
    assert_eq!(client.event(&event("poison-1")).status, 500);
    assert_eq!(client.batch(&[event("a"), event("poison-10")]).status, 200);
    server.clear_faults();
    server.fault(Fault::next(2, Effect::status(500)).on_transaction_id("poison-1"));
    for status in [500, 500, 200] {
        assert_eq!(client.event(&event("poison-1")).status, status);
    }
}

#[test]
fn a_proxy_may_refuse_large_bodies_with_a_page() {
    let (server, mut client) = postgres();
    server.fault(Fault::always(Effect::status(413)).on_body_over(300));
    let answer = client.batch(&[event("a"), event("b"), event("c")]);
    assert_eq!(answer.status, 413);
    assert!(answer.body.starts_with("<html>"), "{}", answer.body);
    assert_eq!(client.batch(&[event("a")]).status, 200);
}

#[test]
fn a_reply_may_say_in_its_own_words_when_to_come_back() {
    let (server, mut client) = postgres();
    for status in [429, 503] {
        server.fault(Fault::next(1, Effect::status(status).retry_after(3)));
        let answer = client.post(EVENTS, A);
        assert_eq!((answer.status, answer.header("Retry-After")), (status, Some("3")));
    }
    server.fault(Fault::next(1, Effect::too_many_provider_requests("stripe")));
    let answer = client.post(EVENTS, A);
    assert_eq!(answer.refusal(), (429, "too_many_provider_requests".to_owned()));
    assert_eq!(answer.json()["error_details"]["provider_name"], "stripe");
    assert_eq!(answer.header("X-RateLimit-Reset"), None);
}

#[test]
fn a_refusal_may_be_one_that_nobody_can_read() {
    let (server, mut client) = postgres();
    for details in
        [json!("soon"), json!({"0": "expression_evaluation_failed: x"}), json!({"first": 1}), json!(7)]
    {
        server.fault(Fault::next(1, Effect::invalid(details.clone())));
        assert_eq!(client.batch(&[event("a")]).details(), details);
    }
    server.fault(Fault::next(1, Effect::page(422, "<p>no</p>")));
    assert_eq!(client.batch(&[event("a")]).body, "<p>no</p>");
    server.fault(Fault::next(1, Effect::invalid(json!({"0": {"code": ["value_is_mandatory"]}})).cut()));
    let body = json!({"events": [event("a")]}).to_string();
    assert_eq!(client.try_post(BATCH, &body).expect_err("half").kind(), ErrorKind::UnexpectedEof);
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn chance_can_be_scripted_and_begun_anew() {
    let (server, mut client) = postgres();
    let mut admin = Client::new(&server);
    let chaos =
        json!([{"per_mille": 300, "do": "status", "status": 503}, {"per_mille": 300, "do": "contention"}]);
    let mut statuses = |seed: u64| {
        server.clear_faults();
        admin.admin("POST", "fault", &chaos);
        admin.admin("POST", "settings", &json!({"seed": seed}));
        (0..60).map(|_| client.get("/api/v1/events").status).collect::<Vec<u16>>()
    };
    let once = statuses(7);
    assert_eq!(statuses(7), once);
    assert_ne!(statuses(8), once);
    assert!([200, 422, 503].iter().all(|status| once.contains(status)), "{once:?}");
}

#[test]
fn settings_change_at_run_time() {
    let (server, mut client) = postgres();
    let mut admin = Client::new(&server);
    admin.admin("POST", "settings", &json!({"api_key": "another", "batch_limit": 2}));
    assert_eq!(client.event(&event("a")).status, 401);
    let with_key = |key: &str| format!("Authorization: Bearer {key}");
    let mut batch = |key: &str, ids: &[&str]| {
        let events: Vec<_> = ids.iter().map(|id| event(id)).collect();
        let body = json!({"events": events}).to_string();
        client.request("POST", BATCH, &[&with_key(key), usual()[1], usual()[2]], &body).expect("an answer")
    };
    assert_eq!(batch("another", &["a", "b", "c"]).details(), json!({"events": ["too_many_events"]}));
    assert_eq!(batch("another", &["a", "b"]).status, 200);
    admin.admin("POST", "settings", &json!({"denied": ["write event", "read wallet_transaction"]}));
    let refused = batch("another", &["c"]).refusal();
    assert_eq!(refused, (403, "write_action_not_allowed_for_event".to_owned()));
    let answer = client.request("GET", "/api/v1/wallets/w/wallet_transactions", &[&with_key("another")], "");
    assert_eq!(
        answer.expect("an answer").refusal(),
        (403, "read_action_not_allowed_for_wallet_transaction".to_owned())
    );
}

#[test]
fn events_and_everything_else_are_limited_apart() {
    let (server, mut client) = postgres();
    let mut admin = Client::new(&server);
    let limits = json!({"rate_limit": {"requests": 2, "seconds": 3600},
                        "rate_limit_of_others": {"requests": 1, "seconds": 3600}});
    admin.admin("POST", "settings", &limits);
    let answer = client.event(&event("a"));
    assert_eq!((answer.status, answer.header("X-RateLimit-Limit")), (200, Some("2")));
    let answer = client.get("/api/v1/events");
    assert_eq!((answer.status, answer.header("X-RateLimit-Limit")), (200, Some("1")));
    assert_eq!(client.get("/api/v1/events").status, 429);
    assert_eq!(client.batch(&[event("b")]).status, 200);
    assert_eq!(client.event(&event("c")).status, 429);
    let unlimited = json!({"rate_limit": null, "rate_limit_of_others": null});
    admin.admin("POST", "settings", &unlimited);
    assert_eq!(client.event(&event("c")).header("X-RateLimit-Limit"), None);
}

#[test]
fn the_most_requests_at_once_are_counted_per_category() {
    let (server, mut client) = postgres();
    server.fault(Fault::next(3, Effect::Hang(Storing::Skipped)).on_path("/events"));
    let mut hanging: Vec<Client> = (0..3).map(|_| Client::new(&server)).collect();
    for client in &mut hanging {
        client.send(&request("POST", EVENTS, &usual(), A)).expect("sent");
    }
    server
        .wait_for("three requests", Duration::from_secs(20), |server| server.request_count() == 3)
        .expect("seen");
    client.get("/api/v1/nothing");
    let traffic = |category| server.traffic(category, Duration::from_secs(3600));
    let events = traffic(Category::Events);
    assert_eq!((events.requests, events.most_under_way, events.busiest_window), (3, 3, 3));
    assert_eq!(events.under_way, 3);
    assert_eq!(traffic(Category::EverythingElse).most_under_way, 1);
    let told = client.admin("GET", "traffic?window_ms=3600000", &serde_json::Value::Null);
    assert_eq!(told["events"]["most_under_way"], 3);
    assert_eq!(told["everything_else"]["requests"], 1);
    assert_eq!(client.admin("GET", "sent_twice", &serde_json::Value::Null), json!([]));
}

#[test]
fn what_was_sent_with_two_texts_is_told_whatever_became_of_it() {
    let (server, mut client) = postgres();
    server.fault(Fault::next(1, Effect::Reset(Storing::Skipped)));
    client.try_post(BATCH, r#"{"events":[{"transaction_id":"a", "external_subscription_id":"s"}]}"#).err();
    let mut client = Client::new(&server);
    client.post(EVENTS, r#"{"event":{"transaction_id":"a","external_subscription_id":"s"}}"#);
    client.post(EVENTS, r#"{"event":{"transaction_id":"a","external_subscription_id":"t"}}"#);
    for name in ["x", "y"] {
        client
            .post("/api/v1/customers", &json!({"customer": {"external_id": "c", "city": name}}).to_string());
    }
    let twice = server.sent_twice();
    assert_eq!(twice.iter().map(|sent| sent.name.as_str()).collect::<Vec<_>>(), ["s a", "external_id=c"]);
    assert_eq!(twice[0].bodies[0], r#"{"transaction_id":"a", "external_subscription_id":"s"}"#);
}
