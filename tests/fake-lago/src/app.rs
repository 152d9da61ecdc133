//! One request in, one decision out: the order in which Lago looks at things.
//!
//! The state shared by all connections lives here. Work that needs no lock (parsing, validation, rendering)
//! is done before one is taken.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::body::{self, Element, Malformed, Root};
use crate::catalog::Metric;
use crate::config::{Access, Denied, Settings};
use crate::fault::{Effect, Faults, Met, Storing};
use crate::http::Request;
use crate::journal::{self, Journal};
use crate::limit::{Standing, Verdict, Windows};
use crate::objects::{self, Books, Kind, Origin};
use crate::reply::{self, Accepts, Reply};
use crate::router::{self, Route};
use crate::sent::{self, Name};
use crate::store::{Arrival, Keys, RequestLog, State};
use crate::traffic::{Category, Gauges};
use crate::{admin, event, ingest, reads, time};

/// Longer bodies are not kept in the log.
const LARGEST_LOGGED_BODY: usize = 64 * 1024;

/// The lock's content even if a thread panicked while holding it: every update is complete in itself.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server was stopped while the request was under way, or cannot keep what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// How the answer travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Send(Reply),
    SendThenClose(Reply),
    Truncated(Reply),
    Drip { reply: Reply, bytes: usize, pause: Duration },
    Hang,
    Reset,
}

impl Delivery {
    fn new(effect: Option<Effect>, reply: Reply) -> Delivery {
        match effect {
            None => Delivery::Send(reply),
            Some(Effect::Answer(answer, _)) => Delivery::Send(answer),
            Some(Effect::Hang(_)) => Delivery::Hang,
            Some(Effect::Reset(_)) => Delivery::Reset,
            Some(Effect::Truncated) => Delivery::Truncated(reply),
            Some(Effect::TruncatedAnswer(answer, _)) => Delivery::Truncated(answer),
            Some(Effect::Drip { bytes, pause }) => Delivery::Drip { reply, bytes, pause },
            Some(Effect::CloseAfterReply) => Delivery::SendThenClose(reply),
        }
    }

    fn reply_mut(&mut self) -> Option<&mut Reply> {
        match self {
            Delivery::Send(reply)
            | Delivery::SendThenClose(reply)
            | Delivery::Truncated(reply)
            | Delivery::Drip { reply, .. } => Some(reply),
            Delivery::Hang | Delivery::Reset => None,
        }
    }
}

/// The body of a request, as far as its endpoint reads one.
enum Parsed<'a> {
    NoBody,
    Malformed,
    One(Root<'a>),
    Many(Vec<Element<'a>>),
    /// The body of an object that is no event.
    Object(Root<'a>),
}

impl<'a> Parsed<'a> {
    fn of(route: &Route, request: &'a Request) -> Parsed<'a> {
        let parsed = match route {
            Route::CreateEvent => body::object(request, "event").map(Parsed::One),
            Route::CreateEvents => body::objects(request, "events").map(Parsed::Many),
            // A body nothing is read from must be well-formed all the same.
            Route::Object(operation) => {
                body::object(request, operation.root().unwrap_or_default()).map(Parsed::Object)
            }
            _ => Ok(Parsed::NoBody),
        };
        parsed.unwrap_or_else(|Malformed| Parsed::Malformed)
    }

    fn elements(&self) -> &[Element<'a>] {
        match self {
            Parsed::One(Root::Object(element)) => std::slice::from_ref(element),
            Parsed::Many(elements) => elements,
            Parsed::One(Root::Missing | Root::NotAnObject)
            | Parsed::Object(_)
            | Parsed::NoBody
            | Parsed::Malformed => &[],
        }
    }

    /// Everything in it that has a name, with the text it was sent as.
    fn named(&self, request: &Request) -> Vec<(Name, &str)> {
        match self {
            Parsed::Object(Root::Object(element)) => {
                let name = Name::of_object(&request.method, &request.path, &element.fields);
                vec![(name, element.raw)]
            }
            _ => sent::named(self.elements()),
        }
    }

    fn holds(&self, transaction_id: &str) -> bool {
        let mut ids = self.elements().iter().filter_map(|element| event::transaction_id_of(&element.fields));
        ids.any(|id| id == transaction_id)
    }
}

pub struct App {
    settings: Mutex<Arc<Settings>>,
    pub state: Mutex<State>,
    /// Notified whenever a request has been dealt with.
    pub changed: Condvar,
    pub faults: Mutex<Faults>,
    windows: Mutex<Windows>,
    pub gauges: Gauges,
    requests: AtomicU64,
    ids: AtomicU64,
    pub keys: Keys,
}

impl App {
    pub fn new(settings: Settings) -> App {
        let windows = Windows::new(&settings.config, Instant::now());
        App {
            settings: Mutex::new(Arc::new(settings)),
            state: Mutex::default(),
            changed: Condvar::new(),
            faults: Mutex::default(),
            windows: Mutex::new(windows),
            gauges: Gauges::default(),
            requests: AtomicU64::new(0),
            ids: AtomicU64::new(0),
            keys: Keys::default(),
        }
    }

    /// Reads the file back, and keeps in it what happens from now on.
    pub fn keep_in(&self, path: &Path) -> io::Result<()> {
        let (journal, effects) = Journal::open(path)?;
        let store = self.settings().config.store;
        let mut state = lock(&self.state);
        for effect in effects {
            let (id, request) = numbers(&effect);
            self.ids.fetch_max(id, Ordering::Relaxed);
            self.requests.fetch_max(request, Ordering::Relaxed);
            self.change_settings(|settings| redo_metrics(settings, &effect));
            state.redo(effect, &self.keys, store);
        }
        state.journal = journal;
        Ok(())
    }

    /// Puts what has happened into the file, if there is one.
    pub fn write_down(&self) -> io::Result<()> {
        lock(&self.state).write_down()
    }

    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&lock(&self.settings))
    }

    /// Changes the settings for requests that begin from now on.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(Arc::make_mut(&mut lock(&self.settings)));
    }

    /// Starts a new window after the limit was changed.
    pub fn restart_windows(&self) {
        *lock(&self.windows) = Windows::new(&self.settings().config, Instant::now());
    }

    /// A number no other row has.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A UUID no other object has.
    pub fn next_uuid(&self) -> String {
        uuid(self.next_id())
    }

    /// Puts objects there without a request.
    pub fn define<T>(&self, define: impl FnOnce(&mut Books<'_>) -> T) -> T {
        let license = self.settings().config.license;
        let now = time::micros_of(SystemTime::now());
        let mut state = lock(&self.state);
        let objects = &mut state.objects;
        define(&mut Books { origin: Origin::Definition, objects, app: self, license, now })
    }

    /// Adds an object, or changes the customer or code that exists; returns its `lago_id`.
    pub fn define_object(&self, kind: Kind, fields: Map<String, Value>) -> String {
        let (lago_id, object) = self.define(|books| {
            let at = objects::define::object(books, kind, fields);
            (books.text(at, "lago_id"), books.value(at))
        });
        if let (Kind::BillableMetric, Value::Object(fields)) = (kind, object) {
            self.publish(objects::metric_of(&fields));
        }
        lago_id
    }

    /// Adds a metric or replaces the one with the same code.
    pub fn define_metric(&self, metric: Metric) {
        self.define(|books| objects::define::metric(books, &metric));
        self.publish(metric);
    }

    /// Tells the catalog of a metric that was defined.
    fn publish(&self, metric: Metric) {
        lock(&self.state).tell_metric(&metric);
        self.change_settings(|settings| {
            settings.defined.define_metric(metric.clone());
            settings.catalog.define_metric(metric);
        });
    }

    /// Forgets everything that came in, and the queued faults.
    pub fn reset(&self) {
        self.change_settings(|settings| settings.catalog = settings.defined.clone());
        lock(&self.faults).clear();
        lock(&self.state).reset();
        self.gauges.reset();
        self.changed.notify_all();
    }

    pub fn answer(&self, request: &Request, generation: u64) -> Result<Delivery, Stopped> {
        let route = router::route(&request.method, &request.path);
        if let Route::Admin { path } = &route {
            let reply = admin::answer(self, path, request);
            self.write_down().map_err(|_| Stopped)?;
            return Ok(Delivery::Send(reply));
        }
        let settings = self.settings();
        let parsed = Parsed::of(&route, request);
        let events = parsed.elements().len();
        let arrival =
            Arrival { at: SystemTime::now(), request: self.requests.fetch_add(1, Ordering::Relaxed) + 1 };
        if settings.config.keep_events {
            self.remember_copies(parsed.named(request));
        }

        let in_api = request.path.starts_with("/api/");
        let met = Met { path: &request.path, body: &request.body, holds: &|id| parsed.holds(id) };
        let effect = if in_api { lock(&self.faults).pick(&met) } else { None };
        let category = Category::of(&request.method, &request.path);
        let standing = if in_api { lock(&self.windows).take(category, Instant::now()) } else { None };
        let faulted = effect.is_some();
        let call = Call { app: self, settings: &settings, request, arrival, generation };
        let mut delivery = match &effect {
            Some(effect) if effect.storing() == Storing::Skipped => {
                Delivery::new(Some(effect.clone()), reply::internal_error())
            }
            _ => {
                let reply = call.process(&route, parsed, standing.as_ref())?;
                Delivery::new(effect, reply)
            }
        };
        let mut status = None;
        if let Some(reply) = delivery.reply_mut() {
            status = Some(reply.status);
            for (name, value) in standing.iter().flat_map(Standing::headers) {
                if !reply.headers.iter().any(|(known, _)| *known == name) {
                    reply.headers.push((name, value));
                }
            }
        }

        let of_events = matches!(route, Route::CreateEvent | Route::CreateEvents);
        let logged = !of_events && request.body.len() <= LARGEST_LOGGED_BODY;
        let text = || String::from_utf8_lossy(&request.body).into_owned();
        let separator = if request.query.is_empty() { "" } else { "?" };
        let log = RequestLog {
            number: arrival.request,
            method: request.method.clone(),
            path: format!("{}{separator}{}", request.path, request.query),
            query: request.query.clone(),
            content_type: request.content_type.clone(),
            accept: request.accept.clone(),
            headers: request.headers.clone(),
            body: logged.then(text),
            status,
            events,
            body_bytes: request.body.len(),
            user_agent: request.user_agent.clone(),
            faulted,
            at: arrival.at,
        };
        let mut state = lock(&self.state);
        if state.generation != generation {
            return Err(Stopped);
        }
        state.saw_request(log);
        let written = state.write_down();
        drop(state);
        if written.is_err() {
            return Err(Stopped);
        }
        self.changed.notify_all();
        Ok(delivery)
    }

    fn remember_copies(&self, named: Vec<(Name, &str)>) {
        if named.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        for (name, raw) in named {
            state.saw_copy(name, raw.as_bytes());
        }
    }
}

/// The numbers an effect has used: of a row and of a request.
fn numbers(effect: &journal::Effect) -> (u64, u64) {
    match effect {
        journal::Effect::Event { lago_id, arrival, .. } => (number_of(lago_id), arrival.request),
        journal::Effect::Object { fields: Some(fields), .. } => {
            (fields.get("lago_id").and_then(Value::as_str).map_or(0, number_of), 0)
        }
        journal::Effect::Request(request) => (0, request.number),
        _ => (0, 0),
    }
}

/// What an effect means for the catalog.
fn redo_metrics(settings: &mut Settings, effect: &journal::Effect) {
    match effect {
        journal::Effect::Object { kind: Kind::BillableMetric, fields: Some(fields), .. } => {
            settings.catalog.define_metric(objects::metric_of(fields));
        }
        journal::Effect::Metric(metric) => {
            settings.defined.define_metric(metric.clone());
            settings.catalog.define_metric(metric.clone());
        }
        journal::Effect::Reset => settings.catalog = settings.defined.clone(),
        _ => {}
    }
}

/// The UUID with this number.
pub fn uuid(number: u64) -> String {
    format!("{:08x}-1a90-4a90-8a90-{number:012x}", number >> 48)
}

/// The number in the id of a row, of either store; 0 if it is no such id.
fn number_of(lago_id: &str) -> u64 {
    let digits = lago_id.strip_prefix("ch").map(str::parse);
    let last = || lago_id.rsplit('-').next().unwrap_or_default();
    digits.and_then(Result::ok).or_else(|| u64::from_str_radix(last(), 16).ok()).unwrap_or(0)
}

/// One request on its way through the checks.
pub struct Call<'a> {
    pub app: &'a App,
    pub settings: &'a Settings,
    pub request: &'a Request,
    pub arrival: Arrival,
    pub generation: u64,
}

impl Call<'_> {
    /// Rate limit, route, well-formedness, key, permission, content: in this order.
    fn process(
        &self,
        route: &Route,
        parsed: Parsed<'_>,
        standing: Option<&Standing>,
    ) -> Result<Reply, Stopped> {
        if standing.is_some_and(|standing| standing.verdict == Verdict::Exceeded) {
            return Ok(reply::too_many_requests());
        }
        match route {
            Route::Unknown | Route::Admin { .. } => return Ok(reply::not_found("resource")),
            Route::Health => return Ok(health()),
            Route::Ready => return Ok(Reply::value(200, &json!({"message": "Success"}))),
            Route::CreateEvent
            | Route::CreateEvents
            | Route::ListEvents
            | Route::ShowEvent { .. }
            | Route::Object(_) => {}
        }
        if matches!(parsed, Parsed::Malformed) {
            return Ok(reply::malformed(Accepts::from_header(self.request.accept.as_deref())));
        }
        if !authorized(self.request.authorization.as_deref(), &self.settings.config.api_key) {
            return Ok(reply::unauthorized());
        }
        let (access, resource) = match route {
            Route::CreateEvent | Route::CreateEvents => (Access::Write, "event"),
            Route::Object(operation) => operation.permission(),
            _ => (Access::Read, "event"),
        };
        let needed = Denied { access, resource: resource.to_owned() };
        if self.settings.config.denied.contains(&needed) {
            return Ok(reply::forbidden(&needed));
        }
        match (route, parsed) {
            (_, Parsed::One(root)) => ingest::create_event(self, root),
            (_, Parsed::Many(elements)) => ingest::create_events(self, elements),
            (Route::Object(operation), Parsed::Object(root)) => objects::answer(self, operation, root),
            (Route::ShowEvent { transaction_id }, _) => Ok(reads::show_event(self, transaction_id)),
            (_, _) => Ok(reads::list_events(self)),
        }
    }
}

fn health() -> Reply {
    let body = json!({
        "version": "v1.51.0",
        "github_url": "https://github.com/getlago/lago-api/tree/v1.51.0",
        "message": "Success",
    });
    Reply::value(200, &body)
}

/// The key is the second word of the header, whatever the first one is.
fn authorized(header: Option<&str>, key: &str) -> bool {
    header.and_then(|header| header.split_whitespace().nth(1)) == Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::config::Config;
    use crate::http::Persistence;

    #[test]
    fn a_request_that_a_stop_overtakes_makes_nothing() {
        let catalog = Catalog::default;
        let settings = Settings { config: Config::default(), catalog: catalog(), defined: catalog() };
        let app = App::new(settings);
        let request = Request {
            method: "POST".to_owned(),
            path: "/api/v1/customers".to_owned(),
            query: String::new(),
            authorization: Some("Bearer fake-lago-key".to_owned()),
            content_type: Some("application/json".to_owned()),
            accept: None,
            user_agent: None,
            headers: Vec::new(),
            persistence: Persistence::KeepAlive,
            body: br#"{"customer":{"external_id":"c"}}"#.to_vec(),
        };
        let made = || lock(&app.state).objects.all(Kind::Customer).count();
        lock(&app.state).generation = 1;
        assert_eq!(app.answer(&request, 0), Err(Stopped));
        assert_eq!(made(), 0);
        assert!(app.answer(&request, 1).is_ok());
        assert_eq!(made(), 1);
    }

    #[test]
    fn ids_tell_their_number() {
        assert_eq!(number_of(&uuid(77_000)), 77_000);
        assert_eq!(number_of("ch12"), 12);
        assert_eq!(number_of("anything"), 0);
    }

    #[test]
    fn the_scheme_does_not_matter_and_the_key_does() {
        assert!(authorized(Some("Bearer k"), "k"));
        assert!(authorized(Some("Whatever  k extra"), "k"));
        for header in [None, Some(""), Some("k"), Some("Bearer"), Some("Bearer K")] {
            assert!(!authorized(header, "k"), "{header:?}");
        }
    }
}
