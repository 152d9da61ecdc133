//! What goes wrong on purpose: rules that pick requests, and what happens to those.
//!
//! Rules are tried in the order they were queued; the first that fires decides. The picking is pure
//! apart from each rule's own counter.

use std::time::Duration;

use serde_json::Value;

use crate::reply::{HTML, Reply};

/// Whether the request still has its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// As if the failure came before the server saw the request.
    Skipped,
    /// The request is processed and only its answer is lost or replaced.
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// No answer; the connection stays open until the client gives up.
    Hang(Storing),
    /// The connection is reset without an answer.
    Reset(Storing),
    /// This answer instead of the real one.
    Answer(Reply, Storing),
    /// The real answer, cut in half: `Content-Length` promises more than is sent.
    Truncated,
    /// This answer, cut in half.
    TruncatedAnswer(Reply, Storing),
    /// The real answer, a few bytes at a time.
    Drip { bytes: usize, pause: Duration },
    /// The real answer, after which the connection is closed without having been announced.
    CloseAfterReply,
}

impl Effect {
    /// A status with the body the server or a proxy typically sends: JSON for 401, 403 and 500, HTML else.
    pub fn status(status: u16) -> Effect {
        let reply = match status {
            401 => crate::reply::unauthorized(),
            403 => crate::reply::forbidden(&crate::config::Denied::write("event")),
            500 => crate::reply::internal_error(),
            status => html(status),
        };
        Effect::Answer(reply, Storing::Skipped)
    }

    /// 429 whose window resets in so many seconds.
    pub fn rate_limited(reset_seconds: u64) -> Effect {
        let mut reply = crate::reply::too_many_requests();
        reply.headers = vec![
            ("X-RateLimit-Limit".to_owned(), "500".to_owned()),
            ("X-RateLimit-Remaining".to_owned(), "0".to_owned()),
            ("X-RateLimit-Reset".to_owned(), reset_seconds.to_string()),
        ];
        Effect::Answer(reply, Storing::Skipped)
    }

    /// Any status with any JSON body.
    pub fn json(status: u16, body: &str) -> Effect {
        Effect::Answer(Reply::json(status, body), Storing::Skipped)
    }

    /// Any status with any web page.
    pub fn page(status: u16, body: &str) -> Effect {
        Effect::Answer(Reply::new(status, HTML, body), Storing::Skipped)
    }

    /// 422 with these details, which need not be any that Lago is known to send.
    pub fn invalid(details: Value) -> Effect {
        Effect::Answer(crate::reply::invalid(details), Storing::Skipped)
    }

    /// 429 because a payment or tax provider throttled Lago.
    pub fn too_many_provider_requests(provider: &str) -> Effect {
        let body = serde_json::json!({
            "status": 429,
            "error": "Too Many Provider Requests",
            "code": "too_many_provider_requests",
            "error_details": {"provider_name": provider, "message": "the provider throttles"},
        });
        Effect::json(429, &body.to_string())
    }

    /// What answers a request with a reply of its own, asking to come back after so many seconds, as proxies do.
    pub fn retry_after(mut self, seconds: u64) -> Effect {
        if let Effect::Answer(reply, _) | Effect::TruncatedAnswer(reply, _) = &mut self {
            reply.headers.push(("Retry-After".to_owned(), seconds.to_string()));
        }
        self
    }

    /// The same answer, of which only the first half arrives.
    pub fn cut(self) -> Effect {
        match self {
            Effect::Answer(reply, storing) => Effect::TruncatedAnswer(reply, storing),
            other => other,
        }
    }

    /// 422 for contention: no details, and a retry may succeed.
    pub fn lock_acquisition_failed() -> Effect {
        Effect::json(422, r#"{"status":422,"error":"Unprocessable Entity","code":"lock_acquisition_failed"}"#)
    }

    /// 422 because a payment or tax provider refused.
    pub fn provider_error(provider: &str) -> Effect {
        let body = serde_json::json!({
            "status": 422,
            "error": "Unprocessable Entity",
            "code": "provider_error",
            "provider": {"code": provider},
            "error_details": {"message": "the provider refused"},
        });
        Effect::json(422, &body.to_string())
    }

    /// 200 with nothing in it.
    pub fn empty_ok(storing: Storing) -> Effect {
        Effect::Answer(Reply::json(200, ""), storing)
    }

    /// 200 with a web page, as a login page or a wrong host sends it.
    pub fn html_ok(storing: Storing) -> Effect {
        Effect::Answer(html(200), storing)
    }

    /// The same failure, but the request is processed first: a gateway that gave up on a slow answer.
    pub fn after_storing(self) -> Effect {
        match self {
            Effect::Hang(_) => Effect::Hang(Storing::Done),
            Effect::Reset(_) => Effect::Reset(Storing::Done),
            Effect::Answer(reply, _) => Effect::Answer(reply, Storing::Done),
            Effect::TruncatedAnswer(reply, _) => Effect::TruncatedAnswer(reply, Storing::Done),
            other => other,
        }
    }

    pub fn storing(&self) -> Storing {
        match self {
            Effect::Hang(storing)
            | Effect::Reset(storing)
            | Effect::Answer(_, storing)
            | Effect::TruncatedAnswer(_, storing) => *storing,
            Effect::Truncated | Effect::Drip { .. } | Effect::CloseAfterReply => Storing::Done,
        }
    }
}

fn html(status: u16) -> Reply {
    let body = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\r\n");
    Reply::new(status, HTML, body)
}

/// How often a rule fires among the requests it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The next so many; then the rule is gone.
    Next(u64),
    /// Each k-th, starting with the k-th.
    Every(u64),
    Always,
    /// So many of a thousand, by a chance that the seed decides.
    PerMille(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub times: Times,
    /// Only requests whose path ends with this.
    pub path: Option<String>,
    /// Only requests whose body contains this.
    pub body_contains: Option<String>,
    /// Only requests that hold an event with this transaction id.
    pub transaction_id: Option<String>,
    /// Only requests whose body has more bytes than this.
    pub body_over: Option<usize>,
    pub effect: Effect,
}

impl Fault {
    pub fn next(count: u64, effect: Effect) -> Fault {
        Fault::new(Times::Next(count), effect)
    }

    pub fn every(nth: u64, effect: Effect) -> Fault {
        Fault::new(Times::Every(nth), effect)
    }

    pub fn always(effect: Effect) -> Fault {
        Fault::new(Times::Always, effect)
    }

    /// For a share of the requests, in thousandths.
    pub fn per_mille(share: u64, effect: Effect) -> Fault {
        Fault::new(Times::PerMille(share), effect)
    }

    fn new(times: Times, effect: Effect) -> Fault {
        Fault { times, path: None, body_contains: None, transaction_id: None, body_over: None, effect }
    }

    pub fn on_path(mut self, ending: &str) -> Fault {
        self.path = Some(ending.to_owned());
        self
    }

    pub fn on_body(mut self, part: &str) -> Fault {
        self.body_contains = Some(part.to_owned());
        self
    }

    pub fn on_transaction_id(mut self, transaction_id: &str) -> Fault {
        self.transaction_id = Some(transaction_id.to_owned());
        self
    }

    pub fn on_body_over(mut self, bytes: usize) -> Fault {
        self.body_over = Some(bytes);
        self
    }

    fn matches(&self, met: &Met<'_>) -> bool {
        self.path.as_deref().is_none_or(|ending| met.path.ends_with(ending))
            && self.body_over.is_none_or(|bytes| met.body.len() > bytes)
            && self.body_contains.as_deref().is_none_or(|part| contains(met.body, part))
            && self.transaction_id.as_deref().is_none_or(|id| (met.holds)(id))
    }

    /// Reads the JSON form, such as `{"next": 2, "path": "/events", "do": "reset", "storing": "done"}`.
    pub fn from_json(value: &Value) -> Result<Fault, String> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let storing = match text("storing") {
            None | Some("skipped") => Storing::Skipped,
            Some("done") => Storing::Done,
            Some(other) => return Err(format!("storing is \"skipped\" or \"done\", not {other:?}")),
        };
        let effect = match text("do") {
            Some("hang") => Effect::Hang(storing),
            Some("reset") => Effect::Reset(storing),
            Some("rate_limited") => Effect::rate_limited(number("reset").unwrap_or(1)),
            Some("truncated") => Effect::Truncated,
            Some("invalid") => Effect::invalid(value.get("details").cloned().unwrap_or_default()),
            Some("provider_throttled") => {
                Effect::too_many_provider_requests(text("provider").unwrap_or("stripe"))
            }
            Some("contention") => Effect::lock_acquisition_failed(),
            Some("provider_error") => Effect::provider_error(text("provider").unwrap_or("stripe")),
            Some("drip") => Effect::Drip {
                bytes: number("bytes").and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(1),
                pause: Duration::from_millis(number("pause_ms").unwrap_or(10)),
            },
            Some("close") => Effect::CloseAfterReply,
            Some("empty") => Effect::empty_ok(storing),
            Some("html") => Effect::html_ok(storing),
            Some("status") => {
                let status = number("status").and_then(|status| u16::try_from(status).ok());
                let status = status.filter(|status| (200..600).contains(status));
                let status = status.ok_or("\"do\": \"status\" needs a \"status\" from 200 to 599")?;
                match (text("body"), text("page")) {
                    (Some(body), _) => Effect::json(status, body),
                    (None, Some(page)) => Effect::page(status, page),
                    (None, None) => Effect::status(status),
                }
            }
            other => return Err(format!("unknown \"do\": {other:?}")),
        };
        let effect = if storing == Storing::Done { effect.after_storing() } else { effect };
        let effect = match number("retry_after") {
            Some(seconds) => effect.retry_after(seconds),
            None => effect,
        };
        let cut = value.get("cut").and_then(Value::as_bool) == Some(true);
        let effect = if cut { effect.cut() } else { effect };
        let times = match (number("next"), number("every"), number("per_mille")) {
            (Some(count), _, _) => Times::Next(count),
            (None, Some(nth), _) => Times::Every(nth),
            (None, None, Some(share)) => Times::PerMille(share),
            (None, None, None) if value.get("always").and_then(Value::as_bool) == Some(true) => Times::Always,
            (None, None, None) => Times::Next(1),
        };
        let owned = |name: &str| text(name).map(str::to_owned);
        Ok(Fault {
            times,
            path: owned("path"),
            body_contains: owned("body_contains"),
            transaction_id: owned("transaction_id"),
            body_over: number("body_over").and_then(|bytes| usize::try_from(bytes).ok()),
            effect,
        })
    }
}

fn contains(body: &[u8], part: &str) -> bool {
    match std::str::from_utf8(body) {
        Ok(text) => text.contains(part),
        Err(_) => String::from_utf8_lossy(body).contains(part),
    }
}

/// The request a rule looks at.
#[derive(Clone, Copy)]
pub struct Met<'a> {
    pub path: &'a str,
    pub body: &'a [u8],
    /// Whether it holds an event with this transaction id.
    pub holds: &'a dyn Fn(&str) -> bool,
}

/// The queued rules, each with the number of requests it has matched.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<(Fault, u64)>,
    /// Where chance has got to.
    chance: u64,
}

impl Faults {
    pub fn push(&mut self, fault: Fault) {
        self.rules.push((fault, 0));
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Begins chance anew.
    pub fn seed(&mut self, seed: u64) {
        self.chance = seed;
    }

    /// What happens to this request, if anything.
    pub fn pick(&mut self, met: &Met<'_>) -> Option<Effect> {
        self.rules.retain(|(fault, seen)| !matches!(fault.times, Times::Next(count) if *seen >= count));
        for (fault, seen) in &mut self.rules {
            if !fault.matches(met) {
                continue;
            }
            *seen += 1;
            let fires = match fault.times {
                Times::Next(_) | Times::Always => true,
                Times::Every(nth) => seen.is_multiple_of(nth.max(1)),
                Times::PerMille(share) => next(&mut self.chance) % 1000 < share,
            };
            if fires {
                return Some(fault.effect.clone());
            }
        }
        None
    }
}

/// The next of a sequence that its beginning decides: `SplitMix64`.
fn next(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*chance ^ (*chance >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pick(faults: &mut Faults, path: &str, body: &str) -> Option<Effect> {
        faults.pick(&Met { path, body: body.as_bytes(), holds: &|id| body == id })
    }

    #[test]
    fn the_seed_decides_which_requests_meet_a_fault_of_chance() {
        let picked = |seed| {
            let mut faults = Faults::default();
            faults.push(Fault::per_mille(300, Effect::Truncated));
            faults.seed(seed);
            (0..1000).map(|_| pick(&mut faults, "/", "").is_some()).collect::<Vec<bool>>()
        };
        assert_eq!(picked(1), picked(1));
        assert_ne!(picked(1), picked(2));
        let met = picked(1).into_iter().filter(|met| *met).count();
        assert!((200..400).contains(&met), "{met} of 1000");
    }

    #[test]
    fn a_rule_may_look_for_one_event_and_for_large_bodies() {
        let mut faults = Faults::default();
        faults.push(Fault::always(Effect::status(500)).on_transaction_id("poison-1"));
        faults.push(Fault::always(Effect::status(413)).on_body_over(10));
        assert_eq!(pick(&mut faults, "/", "poison-1"), Some(Effect::status(500)));
        assert_eq!(pick(&mut faults, "/", "poison-10"), None);
        assert_eq!(pick(&mut faults, "/", "0123456789a"), Some(Effect::status(413)));
        assert_eq!(pick(&mut faults, "/", "0123456789"), None);
    }

    #[test]
    fn the_next_requests_fail_and_then_no_more() {
        let mut faults = Faults::default();
        faults.push(Fault::next(2, Effect::Truncated));
        let picked: Vec<bool> = (0..4).map(|_| pick(&mut faults, "/", "").is_some()).collect();
        assert_eq!(picked, [true, true, false, false]);
    }

    #[test]
    fn every_third_request_fails() {
        let mut faults = Faults::default();
        faults.push(Fault::every(3, Effect::CloseAfterReply));
        let picked: Vec<bool> = (0..7).map(|_| pick(&mut faults, "/", "").is_some()).collect();
        assert_eq!(picked, [false, false, true, false, false, true, false]);
    }

    #[test]
    fn a_rule_counts_only_the_requests_it_matches() {
        let mut faults = Faults::default();
        faults.push(Fault::next(1, Effect::Truncated).on_path("/events").on_body("poison"));
        assert_eq!(pick(&mut faults, "/api/v1/events/batch", "poison"), None);
        assert_eq!(pick(&mut faults, "/api/v1/events", "fine"), None);
        assert_eq!(pick(&mut faults, "/api/v1/events", "a poison b"), Some(Effect::Truncated));
        assert_eq!(pick(&mut faults, "/api/v1/events", "a poison b"), None);
    }

    #[test]
    fn the_json_form_says_the_same() {
        let read = |value: Value| Fault::from_json(&value);
        assert_eq!(
            read(json!({"next": 2, "do": "reset", "storing": "done", "path": "/batch"})),
            Ok(Fault::next(2, Effect::Reset(Storing::Done)).on_path("/batch"))
        );
        assert_eq!(
            read(json!({"every": 5, "do": "status", "status": 503})),
            Ok(Fault::every(5, Effect::status(503)))
        );
        assert_eq!(
            read(json!({"always": true, "do": "rate_limited", "reset": 7})),
            Ok(Fault::always(Effect::rate_limited(7)))
        );
        assert_eq!(
            read(json!({"per_mille": 5, "do": "status", "status": 503, "retry_after": 2, "cut": true})),
            Ok(Fault::per_mille(5, Effect::status(503).retry_after(2).cut()))
        );
        assert_eq!(
            read(json!({"always": true, "do": "invalid", "details": "soon", "transaction_id": "t"})),
            Ok(Fault::always(Effect::invalid(json!("soon"))).on_transaction_id("t"))
        );
        assert!(read(json!({"do": "explode"})).is_err());
        assert!(read(json!({"do": "status"})).is_err());
        assert!(read(json!({"do": "hang", "storing": "perhaps"})).is_err());
    }
}
