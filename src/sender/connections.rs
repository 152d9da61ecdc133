//! Connections: those to one destination, made, kept and given up.
//!
//! Beneath the transport. They are kept alive and shared by the threads, but for a minute only, however
//! busy they are, and not beyond the first trouble: who moves a destination to another address, or
//! replaces its certificates, need not tell the worker.
#![forbid(unsafe_code)]

use super::gather::Gather;
use super::transport::{Route, USER_AGENT};
use super::trouble::Patience;
use crate::endpoint::Repeat;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, DefaultConnector, NextTimeout};

/// Below the idle time-outs usual among proxies and load balancers, so that a reused connection is
/// rarely one the other side has just closed.
const IDLE_AGE: Duration = Duration::from_secs(15);
/// No connection, address or certificate authority is used longer than this after it was looked up.
const MOST_AGE: Duration = Duration::from_secs(60);

/// How connections to a destination come about.
pub struct Connections {
    shared: Mutex<Option<Line>>,
    /// Makes a connection for each request: one that was kept may be closed by the other side at the
    /// very moment it is used again, and then nobody knows whether the request was carried out.
    single: Mutex<Option<Line>>,
    resolver: Arc<dyn Resolver>,
}

/// Connections that were made since some moment.
#[derive(Clone)]
pub struct Line {
    pub agent: ureq::Agent,
    since: Instant,
}

impl Connections {
    pub fn new() -> Connections {
        Connections::resolved_by(Arc::new(DefaultResolver::default()))
    }

    pub fn resolved_by(resolver: Arc<dyn Resolver>) -> Connections {
        Connections { shared: Mutex::new(None), single: Mutex::new(None), resolver }
    }

    /// A way to send a request at this moment.
    pub fn line(&self, route: &Route, repeat: Repeat, now: Instant) -> Result<Line, String> {
        let (place, kept) = match repeat {
            Repeat::Safe => (&self.shared, route.connections),
            Repeat::Never => (&self.single, 0),
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Some(line) if now.saturating_duration_since(line.since) < MOST_AGE => Ok(line.clone()),
            _ => {
                let agent = make_agent(route, kept, Arc::clone(&self.resolver))?;
                Ok(place.insert(Line { agent, since: now }).clone())
            }
        }
    }

    /// Uses none of these connections again.
    pub fn give_up(&self, line: &Line) {
        for place in [&self.shared, &self.single] {
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have given it up before, and there is a better one already.
            if place.as_ref().is_some_and(|kept| kept.since <= line.since) {
                *place = None;
            }
        }
    }
}

fn make_agent(
    route: &Route,
    kept_connections: usize,
    resolver: Arc<dyn Resolver>,
) -> Result<ureq::Agent, String> {
    let roots = match &route.ca_file {
        None => RootCerts::PlatformVerifier,
        Some(path) => RootCerts::Specific(Arc::new(certificates(path)?)),
    };
    let proxy = route.proxy.as_deref().map(proxy).transpose()?;
    let patience = Patience::of(route);
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // None is none: not what the server's environment may name.
        .proxy(proxy)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .user_agent(USER_AGENT)
        .accept("application/json")
        // A reply is judged as it comes; and Lago reads no compressed request, so that none is made.
        .accept_encoding("identity")
        .timeout_global(Some(patience.total))
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_per_read(patience.read)
        .max_idle_connections(kept_connections)
        .max_idle_connections_per_host(kept_connections)
        .max_idle_age(IDLE_AGE)
        .build();
    let addresses = Addresses { known: Mutex::default(), resolver };
    Ok(ureq::Agent::with_parts(config, DefaultConnector::default().chain(Gather), addresses))
}

/// Other kinds would have the library panic: it is built without them.
fn proxy(url: &str) -> Result<ureq::Proxy, String> {
    match ureq::Proxy::new(url) {
        Ok(proxy) if proxy.protocol() == ureq::ProxyProtocol::Http => Ok(proxy),
        _ => Err("the proxy is not an http URL".to_owned()),
    }
}

fn certificates(path: &str) -> Result<Vec<Certificate<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("ca_file cannot be read: {}", error.kind()))?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err("ca_file holds no certificate in PEM form".into()) } else { Ok(found) }
}

/// The addresses of a line's hosts. The library asks before every request, on a thread made for the
/// question, even when there is a connection to use.
#[derive(Debug)]
struct Addresses {
    /// Of the destination, or of its proxy.
    known: Mutex<Vec<(String, ResolvedSocketAddrs)>>,
    resolver: Arc<dyn Resolver>,
}

impl Resolver for Addresses {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |a| a.as_str())
        );
        let find = || {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().find(|(name, _)| *name == host).map(|(_, found)| self.copy(found))
        };
        if let Some(found) = find() {
            return Ok(found);
        }
        // Not under the lock: one thread's slow answer is not everybody's.
        let found = self.resolver.resolve(uri, config, timeout)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push((host, self.copy(&found)));
        Ok(found)
    }
}

impl Addresses {
    fn copy(&self, found: &ResolvedSocketAddrs) -> ResolvedSocketAddrs {
        let mut copy = self.resolver.empty();
        found.iter().for_each(|address| copy.push(*address));
        copy
    }
}
