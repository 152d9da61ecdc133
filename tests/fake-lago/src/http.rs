//! The wire: HTTP/1.0 and 1.1 requests in, responses out, over one blocking stream.
//!
//! Bodies come with a length or in chunks; a client that asks for `100 Continue` gets it; pipelined
//! requests wait in the buffer. Nothing here knows about Lago.

use std::io::{self, Read, Write};

use crate::reply::Reply;

const BUFFER: usize = 64 * 1024;
const LARGEST_HEAD: usize = 64 * 1024;
/// Lago itself has no limit; this one only protects the test machine.
const LARGEST_BODY: usize = 512 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    KeepAlive,
    Close,
}

#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub accept: Option<String>,
    pub user_agent: Option<String>,
    /// What a client adds of its own: neither the key, nor what is above, nor what belongs to the connection.
    pub headers: Vec<(String, String)>,
    pub persistence: Persistence,
    pub body: Vec<u8>,
}

pub enum Incoming {
    Request(Box<Request>),
    /// The client closed the connection.
    Closed,
    /// Not HTTP, or too large: answer this status and close.
    Refused(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

struct Head {
    request: Box<Request>,
    framing: Framing,
    wants_continue: bool,
    length: usize,
}

enum Parsed {
    Head(Head),
    Partial,
    Refused(u16),
}

pub struct Connection<S> {
    stream: S,
    buffer: Vec<u8>,
    start: usize,
}

impl<S: Read + Write> Connection<S> {
    pub fn new(stream: S) -> Connection<S> {
        Connection { stream, buffer: Vec::with_capacity(BUFFER), start: 0 }
    }

    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads once; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + BUFFER, 0);
        let read = self.stream.read(&mut self.buffer[filled..]);
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }

    pub fn read_request(&mut self) -> io::Result<Incoming> {
        let head = loop {
            match parse_head(self.unread()) {
                Parsed::Head(head) => break head,
                Parsed::Refused(status) => return Ok(Incoming::Refused(status)),
                Parsed::Partial if self.unread().len() > LARGEST_HEAD => return Ok(Incoming::Refused(431)),
                Parsed::Partial => {
                    if !self.fill()? {
                        return Ok(Incoming::Closed);
                    }
                }
            }
        };
        let Head { mut request, framing, wants_continue, length } = head;
        self.start += length;
        if wants_continue && self.unread().is_empty() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = match framing {
            Framing::Length(length) if length > LARGEST_BODY => return Ok(Incoming::Refused(413)),
            Framing::Length(length) => self.read_exactly(length)?,
            Framing::Chunked => self.read_chunks()?,
        };
        match body {
            Some(body) => request.body = body,
            None => return Ok(Incoming::Closed),
        }
        Ok(Incoming::Request(request))
    }

    /// `None` if the client went away before the end.
    fn read_exactly(&mut self, length: usize) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::with_capacity(length.min(BUFFER * 16));
        let buffered = self.unread().len().min(length);
        body.extend_from_slice(&self.unread()[..buffered]);
        self.start += buffered;
        let missing = length - buffered;
        if missing > 0 {
            let limit = u64::try_from(missing).unwrap_or(u64::MAX);
            let read = Read::by_ref(&mut self.stream).take(limit).read_to_end(&mut body)?;
            if read < missing {
                return Ok(None);
            }
        }
        Ok(Some(body))
    }

    fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread()[searched..].iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.unread()[..searched + at]).trim_end().to_owned();
                self.start += searched + at + 1;
                return Ok(Some(line));
            }
            searched = self.unread().len();
            if searched > LARGEST_HEAD || !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn read_chunks(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.read_line()? else { return Ok(None) };
            let size = line.split(';').next().unwrap_or("").trim();
            let Ok(size) = usize::from_str_radix(size, 16) else { return Ok(None) };
            if size == 0 {
                break;
            }
            if size > LARGEST_BODY - body.len() {
                return Ok(None);
            }
            let Some(chunk) = self.read_exactly(size)? else { return Ok(None) };
            body.extend_from_slice(&chunk);
            if self.read_line()?.is_none() {
                return Ok(None);
            }
        }
        // Trailers, up to the empty line.
        loop {
            match self.read_line()? {
                None => return Ok(None),
                Some(line) if line.is_empty() => return Ok(Some(body)),
                Some(_) => {}
            }
        }
    }
}

fn parse_head(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(431),
        Err(_) => return Parsed::Refused(400),
    };
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Box::new(Request {
        method: parsed.method.unwrap_or("").to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        authorization: None,
        content_type: None,
        accept: None,
        user_agent: None,
        headers: Vec::new(),
        persistence: if parsed.version == Some(1) { Persistence::KeepAlive } else { Persistence::Close },
        body: Vec::new(),
    });
    let mut framing = Framing::Length(0);
    let mut wants_continue = false;
    for header in parsed.headers.iter() {
        let text = || String::from_utf8_lossy(header.value).trim().to_owned();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("authorization") {
            request.authorization = Some(text());
        } else if is("content-type") {
            request.content_type = Some(text());
        } else if is("accept") {
            request.accept = Some(text());
        } else if is("user-agent") {
            request.user_agent = Some(text());
        } else if is("connection") {
            let value = text().to_ascii_lowercase();
            let says = |word: &str| value.split(',').any(|part| part.trim() == word);
            if says("close") {
                request.persistence = Persistence::Close;
            } else if says("keep-alive") {
                request.persistence = Persistence::KeepAlive;
            }
        } else if is("expect") {
            wants_continue = text().eq_ignore_ascii_case("100-continue");
        } else if is("transfer-encoding") {
            if !text().eq_ignore_ascii_case("chunked") {
                return Parsed::Refused(501);
            }
            framing = Framing::Chunked;
        } else if is("content-length") && framing != Framing::Chunked {
            match text().parse() {
                Ok(length) => framing = Framing::Length(length),
                Err(_) => return Parsed::Refused(400),
            }
        } else if !["host", "accept-encoding", "content-length"].into_iter().any(is) {
            request.headers.push((header.name.to_owned(), text()));
        }
    }
    Parsed::Head(Head { request, framing, wants_continue, length })
}

/// What the status line and headers say about the body that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodySent {
    Yes,
    /// The answer to HEAD.
    No,
}

/// Head and body as one buffer, so that one write sends them.
pub fn response(reply: &Reply, persistence: Persistence, body: BodySent) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + reply.body.len());
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        reply.status,
        reason(reply.status),
        reply.content_type,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    if persistence == Persistence::Close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if body == BodySent::Yes {
        out.extend_from_slice(&reply.body);
    }
    out
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// Undoes percent-encoding; what is not valid UTF-8 afterwards is replaced.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The last value of each query parameter, in order of first appearance.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let decode = |text: &str| percent_decode(&text.replace('+', " "));
        let (name, value) = (decode(name), decode(value));
        match pairs.iter_mut().find(|(known, _)| *known == name) {
            Some(pair) => pair.1 = value,
            None => pairs.push((name, value)),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that hands out its input a few bytes at a time.
    struct Trickle {
        input: Vec<u8>,
        at: usize,
        step: usize,
        output: Vec<u8>,
    }

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.step.min(buffer.len()).min(self.input.len() - self.at);
            buffer[..length].copy_from_slice(&self.input[self.at..self.at + length]);
            self.at += length;
            Ok(length)
        }
    }

    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn connection(input: &str, step: usize) -> Connection<Trickle> {
        Connection::new(Trickle { input: input.as_bytes().to_vec(), at: 0, step, output: Vec::new() })
    }

    fn next(connection: &mut Connection<Trickle>) -> Option<Box<Request>> {
        match connection.read_request().expect("no i/o error") {
            Incoming::Request(request) => Some(request),
            Incoming::Closed => None,
            Incoming::Refused(status) => panic!("refused with {status}"),
        }
    }

    #[test]
    fn requests_are_read_however_the_bytes_arrive() {
        let input = "POST /a?b=c HTTP/1.1\r\nContent-Length: 5\r\nAuthorization: Bearer k\r\n\r\nhello\
                     GET /b HTTP/1.0\r\n\r\n";
        for step in [1, 3, 7, 1000] {
            let mut connection = connection(input, step);
            let first = next(&mut connection).expect("a first request");
            assert_eq!((first.path.as_str(), first.query.as_str()), ("/a", "b=c"));
            assert_eq!(first.body, b"hello");
            assert_eq!(first.authorization.as_deref(), Some("Bearer k"));
            assert_eq!(first.persistence, Persistence::KeepAlive);
            let second = next(&mut connection).expect("a second request");
            assert_eq!((second.path.as_str(), second.persistence), ("/b", Persistence::Close));
            assert!(next(&mut connection).is_none());
        }
    }

    #[test]
    fn chunks_are_joined_and_trailers_skipped() {
        let input = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /next HTTP/1.1\r\n\r\n";
        for step in [1, 4, 1000] {
            let mut connection = connection(input, step);
            assert_eq!(next(&mut connection).expect("a request").body, b"abc0123456789");
            assert_eq!(next(&mut connection).expect("a request").path, "/next");
        }
    }

    #[test]
    fn a_client_that_waits_for_100_gets_it_before_its_body_is_read() {
        let input = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok";
        let mut connection = connection(input, 1);
        assert_eq!(next(&mut connection).expect("a request").body, b"ok");
        assert_eq!(connection.stream().output, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[test]
    fn a_body_cut_short_is_no_request() {
        assert!(next(&mut connection("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhello", 1000)).is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        for input in ["hello\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
            assert!(matches!(connection(input, 1000).read_request(), Ok(Incoming::Refused(400))));
        }
    }

    #[test]
    fn percent_encoding_and_queries_are_decoded() {
        assert_eq!(percent_decode("a%2Fb%zz%4"), "a/b%zz%4");
        let pairs = query_pairs("a=1&b=x+y%2B&a=2&c");
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, [("a", "2"), ("b", "x y+"), ("c", "")]);
    }

    #[test]
    fn a_response_is_one_buffer() {
        let reply = Reply::new(200, "text/plain", "hi");
        let text = String::from_utf8(response(&reply, Persistence::Close, BodySent::Yes)).expect("text");
        let expected =
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        assert_eq!(text, expected);
        let head = response(&reply, Persistence::KeepAlive, BodySent::No);
        assert!(head.ends_with(b"Content-Length: 2\r\n\r\n"));
    }
}
