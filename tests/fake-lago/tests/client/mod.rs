//! A tiny HTTP client for the tests, and the events they send.
//!
//! It reads exactly one answer per request and reports how a connection ended instead of failing.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod program;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fake_lago::{Config, FakeLago, Metric, Store, Subscription};
use serde_json::{Value, json};

pub const KEY: &str = "fake-lago-key";
pub const EVENTS: &str = "/api/v1/events";
pub const BATCH: &str = "/api/v1/events/batch";

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The object of a successful answer.
    pub fn object(&self, root: &str) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()[root].clone()
    }

    /// Status and code of a refusal.
    pub fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }

    pub fn details(&self) -> Value {
        assert_eq!(self.status, 422, "{}", self.body);
        self.json()["error_details"].clone()
    }
}

pub struct Client {
    stream: TcpStream,
}

impl Client {
    pub fn new(server: &FakeLago) -> Client {
        Client::at(server.addr())
    }

    pub fn at(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        Client { stream }
    }

    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).expect("a timeout can be set");
    }

    /// Sends bytes and reads one answer.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(bytes)?;
        self.read_answer()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn read_to_end(&mut self, text: &mut String) -> io::Result<usize> {
        self.stream.read_to_string(text)
    }

    pub fn read_answer(&mut self) -> io::Result<Answer> {
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if self.stream.read(&mut byte)? == 0 {
                return Err(ended());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a text head");
        let mut lines = head.lines();
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Answer { status: status.expect("a status"), headers, body: String::new() };
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        answer.body = String::from_utf8(body).expect("a text body");
        Ok(answer)
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[&str], body: &str) -> io::Result<Answer> {
        self.raw(&request(method, path, headers, body))
    }

    pub fn post(&mut self, path: &str, body: &str) -> Answer {
        self.try_post(path, body).expect("an answer")
    }

    pub fn try_post(&mut self, path: &str, body: &str) -> io::Result<Answer> {
        self.request("POST", path, &usual(), body)
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &usual(), "").expect("an answer")
    }

    /// Administers; answers with what the server says.
    pub fn admin(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.request(method, &format!("/_fake/{path}"), &[], &body).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    pub fn put(&mut self, path: &str, body: &Value) -> Answer {
        self.request("PUT", path, &usual(), &body.to_string()).expect("an answer")
    }

    pub fn delete(&mut self, path: &str) -> Answer {
        self.request("DELETE", path, &usual(), "").expect("an answer")
    }

    /// Posts an object below its root key to a path below `/api/v1/`.
    pub fn create(&mut self, path: &str, root: &str, object: &Value) -> Answer {
        self.post(&format!("/api/v1/{path}"), &json!({ root: object }).to_string())
    }

    /// Posts one event.
    pub fn event(&mut self, event: &Value) -> Answer {
        self.post(EVENTS, &json!({"event": event}).to_string())
    }

    pub fn batch(&mut self, events: &[Value]) -> Answer {
        self.post(BATCH, &json!({"events": events}).to_string())
    }
}

pub fn usual() -> [&'static str; 3] {
    ["Authorization: Bearer fake-lago-key", "Content-Type: application/json", "Accept: application/json"]
}

pub fn request(method: &str, path: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: lago\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// A server with metric `calls` (count), metric `tokens` (sum of `n`) and subscription `sub_1`.
pub fn server_with(config: Config) -> FakeLago {
    let server = FakeLago::start(config).expect("a free port");
    server.define_metric(Metric::count("calls"));
    server.define_metric(Metric::sum("tokens", "n"));
    server.define_subscription(Subscription::always("sub_1", "customer_1"));
    server
}

pub fn postgres() -> (FakeLago, Client) {
    let server = server_with(Config::default());
    let client = Client::new(&server);
    (server, client)
}

pub fn clickhouse() -> (FakeLago, Client) {
    let server = server_with(Config { store: Store::ClickHouse, ..Config::default() });
    let client = Client::new(&server);
    (server, client)
}

/// A complete event.
pub fn event(id: &str) -> Value {
    json!({
        "transaction_id": id,
        "external_subscription_id": "sub_1",
        "code": "calls",
        "timestamp": "1710421740.123",
        "properties": {},
    })
}

/// A complete event with one field changed.
pub fn event_with(id: &str, field: &str, value: Value) -> Value {
    let mut event = event(id);
    event[field] = value;
    event
}

pub fn ids(server: &FakeLago) -> Vec<String> {
    server.stored().into_iter().map(|event| event.transaction_id).collect()
}
