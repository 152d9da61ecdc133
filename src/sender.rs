//! Sender: carries requests to Lago and replies back, on threads of its own.
//!
//! Between worker and verdict. The threads never touch PostgreSQL: a job comes through a channel,
//! its reply goes back through another, and a byte on a socket wakes the worker out of its wait. It
//! promises exactly one reply per job, whatever happens to the request; and the messages of a job
//! come back with it, so that what is in flight lives in one place and vanishes with the process.
#![forbid(unsafe_code)]

use crate::call::Method;
use crate::endpoint::Repeat;
use crate::lookup::LookUp;
use crate::message::Message;
use crate::pg::process;
use crate::request::Shape;
use crate::verdict::{Outcome, Reply, Sent};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender as Channel, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{self, HeaderMap, HeaderName, HeaderValue};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// An API key. It has no way to be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    pub fn new(key: String) -> Self {
        ApiKey(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// Where a destination's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    None,
    Stored(ApiKey),
    File(String),
}

/// How to reach a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub url: String,
    pub key: KeySource,
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
    pub connections: usize,
    pub ca_file: Option<String>,
    pub proxy: Option<String>,
}

/// A route, made ready at its first request. What cannot be made ready (a file that is missing, say)
/// is an outcome like any other, and is tried anew with the next request: it heals by itself.
pub struct Transport {
    route: Route,
    /// Connections are kept alive in the agent and shared by the threads.
    agent: OnceLock<ureq::Agent>,
    /// Makes a connection for each request: one that was kept may be closed by the other side at the
    /// very moment it is used again, and then nobody knows whether the request was carried out.
    fresh_agent: OnceLock<ureq::Agent>,
    /// The key as its file had it last; forgotten when Lago does not know it.
    key_from_file: Mutex<Option<ApiKey>>,
}

/// What lago_push calls itself; Lago shows it with each event.
pub const USER_AGENT: &str = concat!("lago_push/", env!("CARGO_PKG_VERSION"));
/// The largest reply that is read; Lago echoes every event, so a full batch of large ones is large.
/// What is beyond it is cut off: the verdict needs the beginning only.
const MOST_REPLY_BYTES: u64 = 4 * 1024 * 1024;
/// A connection is established within this time, or the address is as good as dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the idle timeouts usual among proxies and load balancers, so that a reused connection is
/// rarely one the other side has just closed.
const IDLE_AGE: Duration = Duration::from_secs(15);

impl Transport {
    pub fn new(route: Route) -> Transport {
        Transport {
            route,
            agent: OnceLock::new(),
            fresh_agent: OnceLock::new(),
            key_from_file: Mutex::new(None),
        }
    }

    fn agent(&self, repeat: Repeat) -> Result<&ureq::Agent, String> {
        let (place, kept) = match repeat {
            Repeat::Safe => (&self.agent, self.route.connections),
            Repeat::Never => (&self.fresh_agent, 0),
        };
        if let Some(agent) = place.get() {
            return Ok(agent);
        }
        let agent = self.make_agent(kept)?;
        Ok(place.get_or_init(|| agent))
    }

    fn make_agent(&self, kept_connections: usize) -> Result<ureq::Agent, String> {
        let route = &self.route;
        let roots = match &route.ca_file {
            None => RootCerts::PlatformVerifier,
            Some(path) => RootCerts::Specific(Arc::new(certificates(path)?)),
        };
        let proxy = match &route.proxy {
            None => None,
            Some(proxy) => Some(ureq::Proxy::new(proxy).map_err(|_| "the proxy is not a URL".to_owned())?),
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .user_agent(USER_AGENT)
            .accept("application/json")
            .accept_encoding("identity")
            .timeout_global(Some(route.timeout))
            // Below the whole time-out, so that an address that does not answer is told from a reply
            // that does not come.
            .timeout_connect(Some(CONNECT_TIMEOUT.min(route.timeout.mul_f64(0.8))))
            .max_idle_connections(kept_connections)
            .max_idle_connections_per_host(kept_connections)
            .max_idle_age(IDLE_AGE)
            .build();
        Ok(agent.new_agent())
    }

    fn key(&self) -> Result<Option<ApiKey>, String> {
        let path = match &self.route.key {
            KeySource::None => return Ok(None),
            KeySource::Stored(key) => return Ok(Some(key.clone())),
            KeySource::File(path) => path,
        };
        let mut known = self.key_from_file.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("api_key_file cannot be read: {}", error.kind()))?;
            // Without the line break an editor adds.
            *known = Some(ApiKey::new(text.trim().to_owned()));
        }
        Ok(known.clone())
    }

    fn forget_key(&self) {
        *self.key_from_file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// One request; blocks until there is an outcome.
    fn carry(&self, shape: &Shape, messages: &[Message]) -> Outcome {
        let ready = self.agent(shape.call.repeat).and_then(|agent| Ok((agent, self.key()?)));
        let (agent, key) = match ready {
            Ok(ready) => ready,
            Err(why) => return Outcome::Unusable(why),
        };
        let (head, body) = match self.request(shape, messages, key) {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        let answer = match (&body, shape.call.method) {
            (Some(body), _) => agent.run(with_body(head, body.as_slice())),
            (None, Method::Delete) => agent.run(with_body(head, ())),
            // The other methods say how long their body is, even if that is nothing.
            (None, _) => agent.run(with_body(head, [].as_slice())),
        };
        let response = match answer {
            Ok(response) => response,
            Err(error) => return Outcome::Failed { why: describe(&error), sent: sent(&error) },
        };
        let status = response.status().as_u16();
        if status == 401 {
            self.forget_key();
        }
        let seconds = |name: &str| response.headers().get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
        let wait = seconds("retry-after")
            .or_else(|| seconds("x-ratelimit-reset"))
            .filter(|wait| wait.is_finite() && *wait >= 0.0);
        let wait = wait.map(|wait| Duration::from_secs_f64(wait.min(86_400.0)));
        let mut body = Vec::new();
        // A body cut short is judged by what there is of it: the status line alone decides most cases.
        let _ = response.into_body().into_reader().take(MOST_REPLY_BYTES).read_to_end(&mut body);
        Outcome::Reply(Reply { status, body, wait, allowance: None })
    }

    /// Head and body. What the destination's settings are to blame for is no message's fault.
    fn request(
        &self,
        shape: &Shape,
        messages: &[Message],
        key: Option<ApiKey>,
    ) -> Result<(Head, Option<Vec<u8>>), Outcome> {
        let request = |path: &str| {
            let method = shape.call.method.word();
            http::Request::builder().method(method).uri(format!("{}{path}", self.route.url)).body(())
        };
        let (mut head, ()) = request(shape.path(messages))
            .map_err(|_| match request("/") {
                Ok(_) => Outcome::Impossible("its path is not one a URL can have".into()),
                Err(_) => Outcome::Unusable("its URL is not one".into()),
            })?
            .into_parts();
        let body = shape.body(messages);
        let headers = &mut head.headers;
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        set_all(headers, &self.route.headers).map_err(Outcome::Unusable)?;
        set_all(headers, &shape.headers).map_err(Outcome::Impossible)?;
        if let Some(ApiKey(key)) = key {
            let value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| Outcome::Unusable("its API key holds what no header can carry".into()))?;
            headers.insert(AUTHORIZATION, value);
        }
        Ok((head, body))
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

/// What stands before the body, its headers checked.
type Head = http::request::Parts;

fn with_body<B>(head: Head, body: B) -> http::Request<B> {
    http::Request::from_parts(head, body)
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

/// A transport error in words that name no header and no body.
fn describe(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "connection refused".into(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "connection reset".into(),
            ErrorKind::UnexpectedEof => "connection closed before an answer".into(),
            // rustls speaks through this kind: an untrusted certificate, or no TLS at all.
            ErrorKind::InvalidData => format!("TLS: {error}"),
            // The resolver's errors have no kind of their own.
            _ if error.to_string().starts_with("failed to lookup address") => {
                "the host name is not known".into()
            }
            kind => kind.to_string(),
        },
        ureq::Error::Timeout(which) => format!("time-out ({which})"),
        ureq::Error::HostNotFound => "the host name is not known".into(),
        ureq::Error::ConnectionFailed => "connection failed".into(),
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        ureq::Error::Protocol(_) => "the answer is not HTTP".into(),
        other => other.to_string(),
    }
}

/// Whether a request that failed may have reached Lago. Only what can happen no later than while the
/// connection is made says that it has not.
fn sent(error: &ureq::Error) -> Sent {
    let before = match error {
        ureq::Error::Io(error) => {
            let text = error.to_string();
            error.kind() == ErrorKind::ConnectionRefused
                || text.starts_with("failed to lookup address")
                // Of rustls: a certificate that is not trusted, and a peer that does not speak TLS.
                || error.kind() == ErrorKind::InvalidData
                    && (text.starts_with("invalid peer certificate") || text.contains("InvalidContentType"))
        }
        ureq::Error::Timeout(which) => {
            matches!(which, ureq::Timeout::Resolve | ureq::Timeout::Connect)
        }
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_) => true,
        _ => false,
    };
    if before { Sent::No } else { Sent::Perhaps }
}

/// A request to make.
pub struct Job {
    pub lane: i32,
    pub transport: Arc<Transport>,
    pub shape: Arc<Shape>,
    pub messages: Vec<Message>,
    pub errand: Errand,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    Deliver,
    /// To ask about the one message there is.
    LookUp(LookUp),
}

/// A request made.
pub struct Done {
    pub lane: i32,
    pub shape: Arc<Shape>,
    pub messages: Vec<Message>,
    pub errand: Errand,
    pub outcome: Outcome,
}

/// The threads of one worker.
pub struct Senders {
    jobs: Channel<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
    done: Receiver<Done>,
    done_from_threads: Channel<Done>,
    bell: UnixStream,
    bell_for_threads: Arc<UnixStream>,
    threads: usize,
    busy: Arc<AtomicUsize>,
}

impl Senders {
    pub fn new() -> std::io::Result<Senders> {
        let (jobs, queue) = channel();
        let (done_from_threads, done) = channel();
        let (bell, bell_for_threads) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        bell_for_threads.set_nonblocking(true)?;
        let queue = Arc::new(Mutex::new(queue));
        let busy = Arc::new(AtomicUsize::new(0));
        Ok(Senders {
            jobs,
            queue,
            done,
            done_from_threads,
            bell,
            bell_for_threads: Arc::new(bell_for_threads),
            threads: 0,
            busy,
        })
    }

    /// What becomes readable when a request is done.
    pub fn descriptor(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Hands a request over. Threads are started as they are first needed.
    pub fn send(&mut self, job: Job) -> Result<(), Box<Job>> {
        if self.busy.fetch_add(1, Ordering::SeqCst) >= self.threads
            && self.start_thread().is_err()
            && self.threads == 0
        {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            return Err(Box::new(job));
        }
        // Sending fails only when the receiver is gone, and this struct holds it.
        self.jobs.send(job).map_err(|error| Box::new(error.0))
    }

    /// The next finished request.
    pub fn take_done(&mut self) -> Option<Done> {
        let mut rung = [0; 64];
        while matches!((&self.bell).read(&mut rung), Ok(read) if read > 0) {}
        self.done.try_recv().ok()
    }

    fn start_thread(&mut self) -> std::io::Result<()> {
        let (queue, done, bell) =
            (Arc::clone(&self.queue), self.done_from_threads.clone(), Arc::clone(&self.bell_for_threads));
        let busy = Arc::clone(&self.busy);
        let thread = std::thread::Builder::new().name("lago_push sender".into()).stack_size(512 * 1024);
        process::with_signals_blocked(|| thread.spawn(move || run(&queue, &done, &bell, &busy)))?;
        self.threads += 1;
        Ok(())
    }
}

fn run(queue: &Mutex<Receiver<Job>>, done: &Channel<Done>, bell: &UnixStream, busy: &AtomicUsize) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            job.transport.carry(&job.shape, &job.messages)
        }));
        let outcome = made.unwrap_or_else(|_| Outcome::Failed {
            why: "the request could not be made (a bug in lago_push)".into(),
            sent: Sent::Perhaps,
        });
        busy.fetch_sub(1, Ordering::SeqCst);
        let Job { lane, shape, messages, errand, .. } = job;
        if done.send(Done { lane, shape, messages, errand, outcome }).is_err() {
            return;
        }
        // A full socket buffer means the worker has plenty of rings to hear.
        let _ = (&*bell).write(&[1]);
    }
}
