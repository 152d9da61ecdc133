//! HTTP written by hand: the least a client can do, as the measure for those that do more.
//!
//! Requests are ready-made bytes, connections stay open, and of the answer only status and length are read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing, Failure, Outcome};

/// Nothing on this machine takes so long to answer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const READ_AT_ONCE: usize = 64 * 1024;

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Outcome<Self> {
        let what = format!("connect to {address}");
        let stream = TcpStream::connect(address).doing(&what)?;
        stream.set_nodelay(true).doing(&what)?;
        stream.set_read_timeout(Some(GIVE_UP_AFTER)).doing(&what)?;
        Ok(Self { stream, buffer: Vec::with_capacity(READ_AT_ONCE) })
    }

    /// Sends a request and returns the body of the answer, which must have status 200.
    pub fn exchange(&mut self, request: &[u8]) -> Outcome<&[u8]> {
        self.stream.write_all(request).doing("send a request")?;
        self.buffer.clear();
        let (head, length) = loop {
            self.fill()?;
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                let length = content_length(&head)?;
                if !head.starts_with("HTTP/1.1 200 ") {
                    let line = head.lines().next().unwrap_or_default();
                    return Err(Failure::new(format!("a ready-made request was answered {line}")));
                }
                break (end + 4, length);
            }
        };
        while self.buffer.len() < head + length {
            self.fill()?;
        }
        Ok(&self.buffer[head..head + length])
    }

    fn fill(&mut self) -> Outcome<()> {
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_AT_ONCE, 0);
        let read = self.stream.read(&mut self.buffer[filled..]).doing("read an answer")?;
        self.buffer.truncate(filled + read);
        if read == 0 { Err(Failure::new("a connection was closed before the answer")) } else { Ok(()) }
    }
}

fn content_length(head: &str) -> Outcome<usize> {
    let values = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = values.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().and_then(|(_, value)| value.trim().parse().ok());
    length.ok_or_else(|| Failure::new("an answer does not say how long it is"))
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, api_key: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: lago\r\nAuthorization: Bearer {api_key}\r\n\
         Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Requests that post `events` in batches of this size.
pub fn batches(events: &[String], size: usize, api_key: &str) -> Vec<Vec<u8>> {
    let body = |batch: &[String]| format!("{{\"events\":[{}]}}", batch.join(","));
    events.chunks(size).map(|batch| request("POST", "/api/v1/events/batch", api_key, &body(batch))).collect()
}

/// Sends all requests over so many connections, each answered before the next one on it. The time runs from
/// when all are connected to when the last answer has been read.
pub fn send_all(address: SocketAddr, requests: &[Vec<u8>], connections: usize) -> Outcome<Duration> {
    let next = AtomicUsize::new(0);
    let ready = Barrier::new(connections + 1);
    let work = || -> Outcome<()> {
        let opened = Connection::open(address);
        // Also after a failure: the others wait here for everybody.
        ready.wait();
        let mut connection = opened?;
        while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
            connection.exchange(request)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        ready.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| Failure::new("a sending thread ended in panic"))??;
        }
        Ok(start.elapsed())
    })
}
