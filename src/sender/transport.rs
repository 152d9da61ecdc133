//! Transport: one request to a destination, and its outcome.
//!
//! Beneath the sender's threads. It promises an outcome whatever happens: what cannot be made ready (a
//! file that is missing, say) is one like any other, and is tried anew with the next request, so that it
//! heals by itself.
#![forbid(unsafe_code)]

use super::Errand;
use super::connections::{Connections, Line};
use super::headers;
use super::key::{ApiKey, KeyAtHand, KeySource};
use super::trouble::{self, Patience, Peer};
use crate::call::Method;
use crate::endpoint::Repeat;
use crate::message::Message;
use crate::request::Shape;
use crate::verdict::{Outcome, Reply};
use std::borrow::Cow;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, Response};

/// How to reach a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub url: String,
    pub key: KeySource,
    pub headers: Vec<(String, String)>,
    /// For the whole of a request.
    pub timeout: Duration,
    /// Until there is a connection.
    pub connect_timeout: Duration,
    /// Until the answer begins, and between its pieces; none if only the whole is limited.
    pub read_timeout: Option<Duration>,
    pub connections: usize,
    pub ca_file: Option<String>,
    pub proxy: Option<String>,
}

/// What lago_push calls itself; Lago shows it with each event.
pub const USER_AGENT: &str = concat!("lago_push/", env!("CARGO_PKG_VERSION"));
/// The largest reply that is read; Lago echoes every event, so a full batch of large ones is large.
/// What is beyond it is cut off: the verdict needs the beginning only.
const MOST_REPLY_BYTES: u64 = 4 * 1024 * 1024;

/// A route in use.
pub struct Transport {
    route: Route,
    connections: Connections,
    key: KeyAtHand,
}

impl Transport {
    pub fn new(route: Route) -> Transport {
        Transport::over(route, Connections::new())
    }

    pub(super) fn over(route: Route, connections: Connections) -> Transport {
        Transport { route, connections, key: KeyAtHand::default() }
    }

    /// One request; blocks until there is an outcome.
    pub(super) fn carry(&self, shape: &Shape, messages: &[Message], errand: &Errand) -> Outcome {
        self.carry_at(shape, messages, errand, Instant::now())
    }

    pub(super) fn carry_at(
        &self,
        shape: &Shape,
        messages: &[Message],
        errand: &Errand,
        now: Instant,
    ) -> Outcome {
        let repeat = match errand {
            Errand::Deliver => shape.call.repeat,
            // Asking changes nothing.
            Errand::LookUp(_) | Errand::Ask(_) => Repeat::Safe,
        };
        let line = self.connections.line(&self.route, repeat, now);
        let (line, key) = match line.and_then(|line| Ok((line, self.key.get(&self.route.key)?))) {
            Ok(ready) => ready,
            Err(why) => return Outcome::Unusable(why),
        };
        let ask = |key: Option<&ApiKey>| {
            let answer = match self.request(shape, messages, errand, key) {
                Ok((head, body)) => send(&line, head, body),
                Err(outcome) => return outcome,
            };
            let answered = answer.and_then(|response| self.read(response, &line, key));
            answered.unwrap_or_else(|error| {
                self.connections.give_up(&line);
                let (patience, peer) = (Patience::of(&self.route), Peer::of(&self.route));
                let why = trouble::describe(&error, &patience, peer);
                Outcome::Failed { why, sent: trouble::sent(&error) }
            })
        };
        let outcome = ask(key.as_ref());
        match (&outcome, &self.route.key) {
            // The file may hold another key by now; Lago has done nothing with the one it does not know.
            (Outcome::Reply(Reply { status: 401, .. }), source @ KeySource::File(_)) => {
                match self.key.get(source) {
                    Ok(fresh @ Some(_)) if fresh != key => ask(fresh.as_ref()),
                    _ => outcome,
                }
            }
            _ => outcome,
        }
    }

    fn read(
        &self,
        response: Response<ureq::Body>,
        line: &Line,
        key: Option<&ApiKey>,
    ) -> Result<Outcome, ureq::Error> {
        let status = response.status().as_u16();
        if status == 401 {
            self.key.forget();
        }
        let allowance = headers::allowance(response.headers());
        let wait = headers::wait(status, response.headers(), SystemTime::now());
        // Most answers say how long they are, and are not copied from one place to the next as they grow.
        let length = response.body().content_length().unwrap_or(0).min(MOST_REPLY_BYTES);
        let mut body = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let whole = response.into_body().into_reader().take(MOST_REPLY_BYTES).read_to_end(&mut body);
        if let Err(broken_off) = whole {
            // A body cut short is judged by what there is of it: the status line alone decides most
            // cases, but of a success it does not say whose, and of a refusal not why.
            let tells_little = match status {
                200..=299 => body.iter().all(u8::is_ascii_whitespace),
                400 | 403..=405 | 422 => serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err(),
                _ => false,
            };
            if tells_little {
                return Err(broken_off.into());
            }
            self.connections.give_up(line);
        }
        let body = match key {
            Some(key) => key.redact(body),
            None => body,
        };
        Ok(Outcome::Reply(Reply { status, body, wait, allowance }))
    }

    /// Head and body. What the destination's settings are to blame for is no message's fault.
    fn request(
        &self,
        shape: &Shape,
        messages: &[Message],
        errand: &Errand,
        key: Option<&ApiKey>,
    ) -> Result<(Head, Payload), Outcome> {
        let (method, path, payload) = match errand {
            Errand::Deliver => {
                let payload = match (shape.body(messages), shape.call.method) {
                    (Some(body), _) => Payload::Json(body),
                    (None, Method::Delete) => Payload::None,
                    (None, _) => Payload::Empty,
                };
                (shape.call.method.word(), Cow::from(shape.path(messages)), payload)
            }
            Errand::LookUp(look) => {
                let message =
                    messages.first().ok_or_else(|| Outcome::Impossible("there is no message".into()))?;
                ("GET", Cow::from(look.path(&shape.call, message)), Payload::None)
            }
            Errand::Ask(path) => ("GET", Cow::from(path), Payload::None),
        };
        let request = |path: &str| {
            http::Request::builder().method(method).uri(format!("{}{path}", self.route.url)).body(())
        };
        let (mut head, ()) = request(&path)
            .map_err(|_| match request("/") {
                Ok(_) => Outcome::Impossible("its path is not one a URL can have".into()),
                Err(_) => Outcome::Unusable("its URL is not one".into()),
            })?
            .into_parts();
        let headers = &mut head.headers;
        if let Payload::Json(_) = payload {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        set_all(headers, &self.route.headers).map_err(Outcome::Unusable)?;
        set_all(headers, &shape.headers).map_err(Outcome::Impossible)?;
        if let Some(key) = key {
            let mut value = HeaderValue::try_from(key.bearer())
                .map_err(|_| Outcome::Unusable("its API key holds what no header can carry".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok((head, payload))
    }
}

/// What stands before the body, its headers checked.
type Head = http::request::Parts;

/// What stands after the head.
enum Payload {
    Json(Vec<u8>),
    /// Nothing, and its length is said: the methods that could have one do that.
    Empty,
    None,
}

fn send(line: &Line, head: Head, payload: Payload) -> Result<Response<ureq::Body>, ureq::Error> {
    match payload {
        Payload::Json(body) => line.agent.run(http::Request::from_parts(head, body.as_slice())),
        Payload::Empty => line.agent.run(http::Request::from_parts(head, [].as_slice())),
        Payload::None => line.agent.run(http::Request::from_parts(head, ())),
    }
}

fn set_all(headers: &mut HeaderMap, pairs: &[(String, String)]) -> Result<(), String> {
    for (name, value) in pairs {
        let pair = (HeaderName::try_from(name), HeaderValue::try_from(value));
        let (Ok(known), Ok(value)) = pair else {
            return Err(format!("header {name} is not one HTTP can carry"));
        };
        headers.insert(known, value);
    }
    Ok(())
}
