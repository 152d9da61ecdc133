//! The transport against sockets of the test's own: what really goes over the wire, and over how many.

use super::connections::Connections;
use super::transport::{Route, Transport};
use super::{ApiKey, Errand, KeySource};
use crate::call::{Call, MANUAL};
use crate::lookup::{Cause, LookUp};
use crate::message::Message;
use crate::request::Shape;
use crate::verdict::{Outcome, Reply, Sent};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

const KEY: &str = "5f0c2a77-hush-hush";
const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"events\":[]}";

/// One who answers at a socket.
struct Other {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Other {
    /// Answers each request it has read; `answer` gets the connection and the request's first line.
    fn at(listener: TcpListener, answer: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Other {
        let address = listener.local_addr().expect("an address");
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let other = Other { address, connections: Arc::clone(&connections), requests: Arc::clone(&requests) };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                thread::spawn(move || {
                    while let Some(request) = read_request(&mut stream) {
                        requests.lock().expect("a lock").push(request.clone());
                        answer(&mut stream, request.lines().next().unwrap_or_default());
                    }
                });
            }
        });
        other
    }

    fn answering(answer: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Other {
        Other::at(TcpListener::bind("127.0.0.1:0").expect("a port"), answer)
    }

    /// One that takes everything.
    fn new() -> Other {
        Other::answering(|stream, _| say(stream, TAKEN))
    }

    fn route(&self) -> Route {
        route(&format!("http://{}/api/v1", self.address))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("a lock").clone()
    }
}

/// The other side may have gone, as some tests want it to.
fn say(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

/// Head and body of the next request; none at the end of the connection.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).expect("UTF-8");
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8(body).expect("UTF-8"))
}

fn route(url: &str) -> Route {
    Route {
        url: url.into(),
        key: KeySource::Stored(ApiKey::new(KEY.into())),
        headers: vec![("X-Tenant".into(), "acme".into())],
        timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(10),
        read_timeout: None,
        connections: 4,
        ca_file: None,
        proxy: None,
    }
}

fn events() -> Shape {
    Shape { call: Call::of("event", None, None, None).expect("a call"), headers: vec![] }
}

fn deliver_at(transport: &Transport, now: Instant) -> Outcome {
    transport.carry_at(&events(), &[Message::sample(1, r#"{"code":"calls"}"#)], &Errand::Deliver, now)
}

fn deliver(transport: &Transport) -> Outcome {
    deliver_at(transport, Instant::now())
}

#[track_caller]
fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Reply(reply) => reply,
        other => panic!("no reply: {other:?}"),
    }
}

#[track_caller]
fn assert_taken(outcome: Outcome) {
    assert_eq!(reply(outcome).status, 200);
}

#[track_caller]
fn failure(outcome: Outcome) -> (String, Sent) {
    match outcome {
        Outcome::Failed { why, sent } => (why, sent),
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn a_delivery_says_who_it_is_and_that_nothing_is_compressed() {
    let lago = Other::new();
    assert_taken(deliver(&Transport::new(lago.route())));
    let request = lago.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let mut lines: Vec<String> = head.lines().map(str::to_lowercase).collect();
    lines.sort();
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        "accept-encoding: identity".to_owned(),
        "accept: application/json".into(),
        format!("authorization: bearer {KEY}"),
        "content-length: 29".into(),
        "content-type: application/json".into(),
        format!("host: {}", lago.address),
        "post /api/v1/events/batch http/1.1".into(),
        format!("user-agent: lago_push/{version}"),
        "x-tenant: acme".into(),
    ];
    assert_eq!((lines.as_slice(), body), (expected.as_slice(), r#"{"events":[{"code":"calls"}]}"#));
}

/// The pieces in which requests come over one connection, each answered.
fn pieces(listener: &TcpListener, number: usize) -> Vec<String> {
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut piece = vec![0; 256 * 1024];
    let mut read = || {
        let length = stream.read(&mut piece).expect("a piece");
        say(&mut stream, TAKEN);
        String::from_utf8(piece[..length].to_vec()).expect("UTF-8")
    };
    (0..number).map(|_| read()).collect()
}

#[test]
fn a_request_is_sent_in_one_piece() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let route = route(&format!("http://{}", listener.local_addr().expect("an address")));
    let came = thread::spawn(move || pieces(&listener, 3));
    let transport = Transport::new(route);
    assert_taken(deliver(&transport));
    let asked = transport.carry(&events(), &[], &Errand::Ask("/events".into()));
    assert_eq!(reply(asked).status, 200);
    assert_taken(deliver(&transport));
    let came = came.join().expect("three requests");
    for piece in [&came[0], &came[2]] {
        assert!(piece.starts_with("POST ") && piece.ends_with(r#"{"events":[{"code":"calls"}]}"#), "{piece}");
    }
    assert!(came[1].starts_with("GET ") && came[1].ends_with("\r\n\r\n"), "{}", came[1]);
}

#[test]
fn a_body_of_many_buffers_arrives_behind_its_head() {
    let lago = Other::new();
    let long = format!(r#"{{"code":"{}"}}"#, "x".repeat(900_000));
    let sent = Message::sample(1, &long);
    assert_taken(Transport::new(lago.route()).carry(&events(), &[sent], &Errand::Deliver));
    assert!(lago.requests()[0].ends_with(&format!("\r\n\r\n{{\"events\":[{long}]}}")));
}

#[test]
fn a_look_up_asks_with_the_same_head_and_no_body() {
    let lago = Other::answering(|stream, _| {
        say(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX-RateLimit-Remaining: 3\r\nX-RateLimit-Reset: 1\r\n\r\n{}",
        );
    });
    let transport = Transport::new(lago.route());
    let messages = [Message::sample(1, r#"{"transaction_id":"a"}"#)];
    let look = LookUp::same_event(Cause::Failure, &messages[0], "500".into()).expect("it has an id");
    let path = look.path(&events().call, &messages[0]);
    let reply = reply(transport.carry(&events(), &messages, &Errand::LookUp(look)));
    assert_eq!((reply.status, reply.body.as_slice()), (404, b"{}".as_slice()));
    assert_eq!(reply.allowance.map(|allowance| allowance.remaining), Some(3), "asking counts, too");
    let request = lago.requests().remove(0).to_lowercase();
    assert!(request.starts_with(&format!("get /api/v1{path} http/1.1\r\n").to_lowercase()), "{request}");
    for header in [&format!("authorization: bearer {KEY}"), "x-tenant: acme", "user-agent: lago_push/"] {
        assert!(request.contains(header), "{header}: {request}");
    }
    assert!(request.ends_with("\r\n\r\n") && !request.contains("content-"), "{request}");
}

#[test]
fn connections_are_kept_but_for_a_call_that_must_not_be_repeated() {
    let lago = Other::new();
    let transport = Transport::new(lago.route());
    (0..3).for_each(|_| assert_taken(deliver(&transport)));
    assert_eq!(lago.connections(), 1);
    let once = Call::of(MANUAL, Some("POST"), Some("/wallet_transactions"), None).expect("a call");
    let once = Shape { call: Call { repeat: crate::endpoint::Repeat::Never, ..once }, headers: vec![] };
    for _ in 0..2 {
        assert_taken(transport.carry(&once, &[Message::sample(1, "{}")], &Errand::Deliver));
    }
    assert_eq!(lago.connections(), 3);
}

#[test]
fn a_connection_that_is_always_busy_is_given_up_after_a_minute() {
    let lago = Other::new();
    let transport = Transport::new(lago.route());
    let start = Instant::now();
    for seconds in [0, 20, 40, 59] {
        assert_taken(deliver_at(&transport, start + Duration::from_secs(seconds)));
    }
    assert_eq!(lago.connections(), 1);
    for seconds in [61, 80] {
        assert_taken(deliver_at(&transport, start + Duration::from_secs(seconds)));
    }
    assert_eq!(lago.connections(), 2);
}

#[test]
fn after_trouble_no_connection_from_before_is_used() {
    let (silence, silent) = channel::<()>();
    let silent = Mutex::new(silent);
    let (asked, question) = channel();
    let lago = Other::answering(move |stream, line| {
        if line.contains("/slow") {
            asked.send(()).expect("somebody waits");
            let _ = silent.lock().expect("a lock").recv();
            let _ = stream.shutdown(std::net::Shutdown::Both);
        } else {
            say(stream, TAKEN);
        }
    });
    let transport = Arc::new(Transport::new(lago.route()));
    let slow = thread::spawn({
        let transport = Arc::clone(&transport);
        move || {
            let call = Call::of(MANUAL, Some("PUT"), Some("/slow"), None).expect("a call");
            let shape = Shape { call, headers: vec![] };
            transport.carry(&shape, &[Message::sample(1, "{}")], &Errand::Deliver)
        }
    });
    question.recv().expect("the slow request has arrived");
    (0..2).for_each(|_| assert_taken(deliver(&transport)));
    assert_eq!(lago.connections(), 2, "the second one is kept");
    drop(silence);
    assert_eq!(failure(slow.join().expect("an outcome")).1, Sent::Perhaps);
    assert_taken(deliver(&transport));
    assert_eq!(lago.connections(), 3);
}

/// A host name whose address the test decides.
#[derive(Debug)]
struct Names {
    address: Mutex<SocketAddr>,
    asked: AtomicUsize,
}

impl Resolver for Names {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut found = DefaultResolver::default().empty();
        found.push(*self.address.lock().expect("a lock"));
        Ok(found)
    }
}

fn named(address: SocketAddr) -> (Arc<Names>, Transport) {
    let names = Arc::new(Names { address: Mutex::new(address), asked: AtomicUsize::new(0) });
    let connections = Connections::resolved_by(Arc::clone(&names) as Arc<dyn Resolver>);
    (names, Transport::over(route("http://lago.example:3000/api/v1"), connections))
}

#[test]
fn a_destination_that_moves_is_followed_within_a_minute() {
    let (old, new) = (Other::new(), Other::new());
    let (names, transport) = named(old.address);
    let start = Instant::now();
    assert_taken(deliver_at(&transport, start));
    *names.address.lock().expect("a lock") = new.address;
    assert_taken(deliver_at(&transport, start + Duration::from_secs(30)));
    assert_eq!((old.requests().len(), new.requests().len()), (2, 0));
    assert_eq!(names.asked.load(Ordering::SeqCst), 1, "not before every request");
    assert_taken(deliver_at(&transport, start + Duration::from_secs(61)));
    assert_eq!((old.requests().len(), new.requests().len()), (2, 1));
}

#[test]
fn a_destination_that_goes_away_is_looked_for_at_once() {
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let new = Other::new();
    let (names, transport) = named(gone);
    assert_eq!(failure(deliver(&transport)), ("connection refused".into(), Sent::No));
    *names.address.lock().expect("a lock") = new.address;
    assert_taken(deliver(&transport));
}

#[test]
fn a_host_may_be_an_ipv6_address() {
    // A machine without IPv6 has nothing to test.
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let lago = Other::at(listener, |stream, _| say(stream, TAKEN));
    assert_taken(deliver(&Transport::new(lago.route())));
    assert!(lago.requests()[0].to_lowercase().contains(&format!("host: {}\r\n", lago.address)));
}

#[test]
fn a_redirect_is_not_followed_and_the_key_stays_where_it_is() {
    let elsewhere = Other::new();
    let url = format!("http://{}/api/v1/events/batch", elsewhere.address);
    let lago = Other::answering(move |stream, _| {
        say(
            stream,
            &format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"),
        );
    });
    assert_eq!(reply(deliver(&Transport::new(lago.route()))).status, 307);
    assert_eq!((lago.requests().len(), elsewhere.connections()), (1, 0));
}

#[test]
fn a_reply_that_echoes_the_request_is_kept_without_the_key() {
    let lago = Other::answering(|stream, _| {
        let body = format!(r#"{{"error":"bad header Authorization: Bearer {KEY}"}}"#);
        say(stream, &format!("HTTP/1.1 422 No\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    });
    let reply = reply(deliver(&Transport::new(lago.route())));
    assert_eq!(String::from_utf8_lossy(&reply.body), r#"{"error":"bad header Authorization: Bearer ***"}"#);
}

#[test]
fn a_key_that_no_header_can_carry_is_not_shown() {
    let key = KeySource::Stored(ApiKey::new(format!("{KEY}\n")));
    let outcome = deliver(&Transport::new(Route { key, ..route("http://127.0.0.1:1/api/v1") }));
    assert!(matches!(outcome, Outcome::Unusable(_)), "{outcome:?}");
    assert!(!format!("{outcome:?}").contains("5f0c2a77"), "{outcome:?}");
}

#[test]
fn a_body_without_end_is_cut_off() {
    let lago = Other::answering(|stream, _| {
        say(stream, "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while stream.write_all(chunk.as_bytes()).is_ok() {}
    });
    let reply = reply(deliver(&Transport::new(lago.route())));
    assert_eq!((reply.status, reply.body.len()), (500, 4 * 1024 * 1024));
}

/// Says something again and again, slowly, until nobody listens.
fn drip(stream: &mut TcpStream, drop: &str) {
    // Nobody ever sends: it is the pause that is wanted of it.
    let (_sender, pause): (Sender<()>, _) = channel();
    while stream.write_all(drop.as_bytes()).is_ok() {
        let _ = pause.recv_timeout(Duration::from_millis(20));
    }
}

#[test]
fn an_answer_that_drips_ends_with_the_time_for_the_whole() {
    for (start, drop) in [
        ("HTTP/1.1 200 OK\r\n", "X-Patience: more\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"),
    ] {
        let lago = Other::answering(move |stream, _| {
            say(stream, start);
            drip(stream, drop);
        });
        let short = Route { timeout: Duration::from_millis(400), ..lago.route() };
        // Each piece is in time.
        let transport = Transport::new(Route { read_timeout: Some(Duration::from_millis(300)), ..short });
        let (why, sent) = failure(deliver(&transport));
        assert_eq!((why.as_str(), sent), ("time-out: no whole answer within 0.4 s (timeout)", Sent::Perhaps));
    }
}

#[test]
fn an_answer_that_does_not_begin_or_stalls_ends_with_the_time_for_reading() {
    for start in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n"] {
        let lago = Other::answering(move |stream, _| say(stream, start));
        let route = Route { read_timeout: Some(Duration::from_millis(100)), ..lago.route() };
        let (why, sent) = failure(deliver(&Transport::new(route)));
        assert_eq!(
            (why.as_str(), sent),
            ("time-out: nothing was heard within 0.1 s (read_timeout)", Sent::Perhaps),
            "{start}"
        );
    }
}

#[test]
fn an_answer_that_breaks_off_is_judged_by_what_has_come() {
    let breaks_off = |answer: &'static str| {
        let lago = Other::answering(move |stream, _| {
            say(stream, answer);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        deliver(&Transport::new(lago.route()))
    };
    let busy = reply(breaks_off("HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\n<html>"));
    assert_eq!((busy.status, busy.body.as_slice()), (503, b"<html>".as_slice()));
    let whole = reply(breaks_off("HTTP/1.1 422 No\r\nContent-Length: 100\r\n\r\n{\"status\":422}"));
    assert_eq!(whole.status, 422);
    let (_, sent) = failure(breaks_off("HTTP/1.1 422 No\r\nContent-Length: 100\r\n\r\n{\"status\":422"));
    assert_eq!(sent, Sent::Perhaps, "why it is refused is not known");
}

#[test]
fn a_connection_that_does_not_come_about_ends_with_the_time_for_connecting() {
    // It accepts, and then does not speak TLS or anything else.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}/api/v1", listener.local_addr().expect("an address"));
    let route = Route { connect_timeout: Duration::from_millis(150), ..route(&url) };
    let (why, sent) = failure(deliver(&Transport::new(route)));
    assert_eq!((why.as_str(), sent), ("time-out: no connection within 0.15 s (connect_timeout)", Sent::No));
}

/// A proxy that makes the connections it is asked for.
fn proxy() -> Other {
    Other::answering(|stream, line| {
        let target = line.split(' ').nth(1).unwrap_or_default();
        let Ok(mut there) = TcpStream::connect(target) else { return };
        say(stream, "HTTP/1.1 200 Connected\r\n\r\n");
        let (mut from, mut to) =
            (there.try_clone().expect("a socket"), stream.try_clone().expect("a socket"));
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(stream, &mut there);
    })
}

#[test]
fn a_proxy_gets_its_password_and_never_the_key() {
    let (lago, proxy) = (Other::new(), proxy());
    let url = format!("http://anna:s%2Fesame@{}", proxy.address);
    assert_taken(deliver(&Transport::new(Route { proxy: Some(url), ..lago.route() })));
    let asked = proxy.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].starts_with(&format!("CONNECT {} HTTP/1.1\r\n", lago.address)), "{asked:?}");
    assert!(asked[0].contains("Proxy-Authorization: Basic YW5uYTpzL2VzYW1l\r\n"), "{asked:?}");
    assert!(!asked[0].contains(KEY) && !asked[0].to_lowercase().contains("\nauthorization"), "{asked:?}");
    let arrived = lago.requests().remove(0).to_lowercase();
    assert!(arrived.contains(KEY) && !arrived.contains("proxy-authorization"), "{arrived}");
}

#[test]
fn a_proxy_that_refuses_is_told_from_lago_and_its_password_is_not_told() {
    let via = |proxy: String| {
        let proxy = Some(proxy);
        match deliver(&Transport::new(Route { proxy, ..route("http://lago.example/api/v1") })) {
            Outcome::Failed { why, .. } | Outcome::Unusable(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let refusing = |status: &'static str| {
        let proxy = Other::answering(move |stream, _| say(stream, &format!("HTTP/1.1 {status}\r\n\r\n")));
        via(format!("http://anna:sesame@{}", proxy.address))
    };
    assert_eq!(refusing("407 Who are you"), "the proxy does not accept its user and password (407)");
    assert_eq!(refusing("403 No"), "the proxy makes no connection: proxy server responded 403/403");
    assert_eq!(via("http://anna:sesame@127.0.0.1:1".into()), "the proxy: connection refused");
    assert_eq!(via("socks5://anna:sesame@127.0.0.1:1".into()), "the proxy is not an http URL");
    assert_eq!(via("http://anna:ses ame@127.0.0.1:1".into()), "the proxy is not an http URL");
}
