//! A stand-in for Lago's HTTP API that is as strict as the server.
//!
//! Tests, the demo and the benchmark deliver to it over a real socket. It accepts, refuses and silently
//! ignores what Lago accepts, refuses and silently ignores, fails on demand, and says what Lago would bill.

#![forbid(unsafe_code)]

mod admin;
mod app;
mod arrivals;
mod bill;
mod body;
mod catalog;
mod config;
mod decimal;
mod event;
mod fault;
mod http;
mod ingest;
mod journal;
mod limit;
mod objects;
pub mod program;
mod reads;
mod reply;
mod router;
mod sent;
mod server;
mod setup;
mod store;
mod tampering;
mod time;
mod traffic;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use bill::{Bill, BillLine, BilledTwice, NeverBilled, Reason};
pub use catalog::{Aggregation, Metric, Subscription};
pub use config::{Access, Config, Denied, License, RateLimit, Store};
pub use fault::{Effect, Fault, Storing, Times};
pub use objects::{Kind, Reusable};
pub use reply::Reply;
pub use sent::{SentBody, SentTwice};
pub use store::{Counters, RequestLog, StoredEvent};
pub use traffic::{Category, Traffic};

use app::{App, lock};
use serde_json::Value;
use server::Listening;

/// A running server. Dropping it stops it.
pub struct FakeLago {
    app: Arc<App>,
    addr: SocketAddr,
    listening: Mutex<Option<Listening>>,
}

impl FakeLago {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(config: Config) -> io::Result<FakeLago> {
        FakeLago::start_at(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    pub fn start_at(config: Config, addr: SocketAddr) -> io::Result<FakeLago> {
        let settings = config::Settings {
            config,
            catalog: catalog::Catalog::default(),
            defined: catalog::Catalog::default(),
        };
        let data = settings.config.data.clone();
        let app = Arc::new(App::new(settings));
        if let Some(path) = data {
            app.keep_in(&path)?;
        }
        let listening = Listening::start(&app, addr)?;
        Ok(FakeLago { app, addr: listening.addr(), listening: Mutex::new(Some(listening)) })
    }

    /// The base URL clients are configured with.
    pub fn url(&self) -> String {
        format!("http://{}/api/v1", self.addr)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the listener and resets all connections. Requests under way are not answered, and nothing
    /// is stored any more; what is stored stays.
    pub fn stop(&self) {
        if let Some(listening) = lock(&self.listening).take() {
            listening.stop();
        }
    }

    /// Listens again on the same port. Does nothing if the server is running.
    pub fn resume(&self) -> io::Result<()> {
        let mut listening = lock(&self.listening);
        if listening.is_none() {
            *listening = Some(Listening::start(&self.app, self.addr)?);
        }
        Ok(())
    }

    /// Begins the chance of faults that fire sometimes anew.
    pub fn set_seed(&self, seed: u64) {
        lock(&self.app.faults).seed(seed);
    }

    /// Queues a rule; of several that would fire, the one queued first decides.
    pub fn fault(&self, fault: Fault) {
        lock(&self.app.faults).push(fault);
    }

    pub fn clear_faults(&self) {
        lock(&self.app.faults).clear();
    }

    /// Added to every reply.
    pub fn set_latency(&self, latency: Duration) {
        self.app.change_settings(|settings| settings.config.latency = latency);
    }

    pub fn set_api_key(&self, api_key: &str) {
        self.app.change_settings(|settings| settings.config.api_key = api_key.to_owned());
    }

    /// The permissions the key lacks.
    pub fn set_denied(&self, denied: Vec<Denied>) {
        self.app.change_settings(|settings| settings.config.denied = denied);
    }

    /// Whether premium features are available.
    pub fn set_license(&self, license: License) {
        self.app.change_settings(|settings| settings.config.license = license);
    }

    /// For events from now on; keys of the other store are forgotten by `reset` only.
    pub fn set_store(&self, store: Store) {
        self.app.change_settings(|settings| settings.config.store = store);
    }

    pub fn set_batch_limit(&self, batch_limit: usize) {
        self.app.change_settings(|settings| settings.config.batch_limit = batch_limit);
    }

    /// Sets or lifts the limit and starts a new window.
    pub fn set_rate_limit(&self, rate_limit: Option<RateLimit>) {
        self.app.change_settings(|settings| settings.config.rate_limit = rate_limit);
        self.app.restart_windows();
    }

    /// Sets or lifts the limit of everything but the ingestion of events. While it is lifted, `set_rate_limit` is
    /// for all requests together.
    pub fn set_rate_limit_of_others(&self, rate_limit: Option<RateLimit>) {
        self.app.change_settings(|settings| settings.config.rate_limit_of_others = rate_limit);
        self.app.restart_windows();
    }

    /// Deletes the accepted events with this transaction id, which stays taken; returns how many that were.
    pub fn delete_events(&self, transaction_id: &str) -> usize {
        lock(&self.app.state).delete_events(transaction_id)
    }

    /// Loses the accepted events with this transaction id, as if they had never come; returns how many that
    /// were.
    pub fn lose_events(&self, transaction_id: &str) -> usize {
        tampering::lose(&self.app, transaction_id)
    }

    /// Loses that many accepted events by chance, with all copies; returns their transaction ids.
    pub fn lose_some(&self, count: usize, seed: u64) -> Vec<String> {
        tampering::lose_some(&self.app, count, seed)
    }

    /// Changes some fields of the first accepted event with this transaction id, by the rules for events that
    /// are sent; the error says why not.
    pub fn alter_event(&self, transaction_id: &str, fields: &Value) -> Result<(), String> {
        tampering::alter(&self.app, transaction_id, fields)
    }

    /// Puts an event there that nobody sent; the error says why it is none.
    pub fn add_event(&self, fields: &Value) -> Result<(), String> {
        tampering::add(&self.app, fields)
    }

    /// How much was asked for at once; of the busiest window the last 100,000 requests are looked at.
    pub fn traffic(&self, category: Category, window: Duration) -> Traffic {
        admin::traffic_of(&self.app, category, window)
    }

    /// Whether unknown metric codes (as counts) and unknown subscriptions are treated as existing.
    pub fn accept_any(&self, accept: bool) {
        self.app.change_settings(|settings| settings.config.accept_any = accept);
    }

    /// Adds a metric or replaces the one with the same code.
    pub fn define_metric(&self, metric: Metric) {
        self.app.define_metric(metric);
    }

    /// Adds a subscription, or replaces the one with the same id and start (to end it, for example).
    pub fn define_subscription(&self, subscription: Subscription) {
        self.app.define(|books| objects::define::subscription(books, &subscription));
    }

    /// Forgets what came in and the queued faults; settings stay, and what was defined is as it was defined.
    pub fn reset(&self) {
        self.app.reset();
    }

    /// Everything accepted, in the order of acceptance. Empty if events are not kept.
    pub fn stored(&self) -> Vec<StoredEvent> {
        let events = lock(&self.app.state).events();
        events.into_iter().map(Arc::unwrap_or_clone).collect()
    }

    /// Remembers when the events of this subscription arrive, also if events are not kept.
    pub fn watch_arrivals(&self, subscription: &str) {
        lock(&self.app.state).arrivals.watch(subscription);
    }

    /// Transaction ids of the watched subscription, each with when it arrived, in the order of acceptance.
    pub fn arrivals(&self) -> Vec<(String, SystemTime)> {
        lock(&self.app.state).arrivals.seen().to_vec()
    }

    /// How many events were accepted, copies included.
    pub fn stored_count(&self) -> u64 {
        self.counters().stored
    }

    pub fn counters(&self) -> Counters {
        lock(&self.app.state).counters
    }

    /// What Lago would bill now. If events are not kept: counts per subscription and code.
    pub fn bill(&self) -> Bill {
        admin::bill_of(&self.app)
    }

    /// The last 100,000 requests, in the order they were dealt with.
    pub fn requests(&self) -> Vec<RequestLog> {
        self.requests_after(0)
    }

    /// The remembered requests with a number above this one.
    pub fn requests_after(&self, number: u64) -> Vec<RequestLog> {
        lock(&self.app.state).requests_after(number)
    }

    /// How many requests were dealt with, refused and failed ones included.
    pub fn request_count(&self) -> u64 {
        self.counters().requests
    }

    /// For every transaction id ever received, in whatever request and with whatever outcome, the distinct
    /// JSON texts it was sent with. Empty if events are not kept.
    pub fn copies(&self) -> BTreeMap<String, Vec<SentBody>> {
        lock(&self.app.state).sent.copies()
    }

    /// The same for one transaction id.
    pub fn copies_of(&self, transaction_id: &str) -> Vec<SentBody> {
        lock(&self.app.state).sent.copies_of(transaction_id)
    }

    /// The transaction ids that were sent with more than one text: none, for a client that freezes what it
    /// sends.
    pub fn sent_differently(&self) -> Vec<String> {
        lock(&self.app.state).sent.differently()
    }

    /// What was received with two different texts, whatever became of it: events by subscription and
    /// transaction id, other objects by what names them and their metadata.
    pub fn sent_twice(&self) -> Vec<SentTwice> {
        lock(&self.app.state).sent.twice()
    }

    /// Waits until `cond` holds; looks again whenever a request has been dealt with. After the deadline the
    /// error says what was waited for and how far things got.
    pub fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        cond: impl Fn(&FakeLago) -> bool,
    ) -> Result<(), String> {
        let end = Instant::now() + deadline;
        loop {
            let seen = lock(&self.app.state).version();
            if cond(self) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            let unchanged = |state: &mut store::State| state.version() == seen;
            let waited = self.app.changed.wait_timeout_while(lock(&self.app.state), left, unchanged);
            let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                let counters = state.counters;
                drop(state);
                if cond(self) {
                    return Ok(());
                }
                return Err(format!("waited {deadline:?} in vain for {what}: {counters:?}"));
            }
        }
    }
}

impl Drop for FakeLago {
    fn drop(&mut self) {
        self.stop();
    }
}
