//! What a fake server is told before and while it runs.
//!
//! `Config` is the starting point; `Settings` is the same plus what tests change later (metrics,
//! latency), shared copy-on-write so that a request sees one consistent version.

use std::path::PathBuf;
use std::time::Duration;

use crate::catalog::Catalog;

/// Lago keeps an organization's events in one of two stores, and they treat duplicates differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A unique index refuses a second event with the same subscription and transaction id (422).
    Postgres,
    /// Everything is answered 200; copies are resolved when usage is read, the last one wins.
    ClickHouse,
}

/// A fixed window limit, as Lago Cloud puts in front of its API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub requests: u64,
    pub window_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// One permission an API key lacks, such as writing events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub access: Access,
    pub resource: String,
}

impl Denied {
    pub fn read(resource: &str) -> Denied {
        Denied { access: Access::Read, resource: resource.to_owned() }
    }

    pub fn write(resource: &str) -> Denied {
        Denied { access: Access::Write, resource: resource.to_owned() }
    }
}

/// Credit notes, manual payments and plan overrides are premium features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum License {
    Free,
    Premium,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub store: Store,
    /// The only key the server accepts, compared byte for byte.
    pub api_key: String,
    /// Permissions the key lacks: 403.
    pub denied: Vec<Denied>,
    /// The most events a batch may hold; Lago's default is 100.
    pub batch_limit: usize,
    /// Servers v1.32.4 to v1.38.0 with the Postgres store: a batch with a duplicate answers 422 and yet
    /// keeps the other events.
    pub legacy_partial_batch: bool,
    /// For the ingestion of events; for all requests together unless there is a limit of others.
    pub rate_limit: Option<RateLimit>,
    /// For everything but the ingestion of events.
    pub rate_limit_of_others: Option<RateLimit>,
    pub license: License,
    /// `false` is for benchmarks: only counters and uniqueness keys are kept, no events and no bodies.
    pub keep_events: bool,
    /// Treat unknown metric codes (as counts) and unknown subscriptions as existing.
    pub accept_any: bool,
    /// Added to every reply.
    pub latency: Duration,
    /// A file that takes each effect before it is answered, and is read back at the start. Settings and faults
    /// are not in it.
    pub data: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            store: Store::Postgres,
            api_key: "fake-lago-key".to_owned(),
            denied: Vec::new(),
            batch_limit: 100,
            legacy_partial_batch: false,
            rate_limit: None,
            rate_limit_of_others: None,
            license: License::Free,
            keep_events: true,
            accept_any: false,
            latency: Duration::ZERO,
            data: None,
        }
    }
}

/// The current configuration and catalog.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    /// The metrics, those made by requests included.
    pub catalog: Catalog,
    /// The metrics a test has defined: what a reset leaves.
    pub defined: Catalog,
}
