//! Sender: carries requests to Lago and replies back, on threads of its own.
//!
//! Between worker and verdict. The threads never touch PostgreSQL: a job comes through a channel,
//! its reply goes back through another, and a byte on a socket wakes the worker out of its wait. It
//! promises exactly one reply per job, whatever happens to the request; and the messages of a job
//! come back with it, so that what is in flight lives in one place and vanishes with the process.
#![forbid(unsafe_code)]

use crate::lane::Message;
use crate::pg::process;
use crate::verdict::{Outcome, Reply};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender as Channel, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
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
    /// The key as its file had it last; forgotten when Lago does not know it.
    key_from_file: Mutex<Option<ApiKey>>,
}

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
        Transport { route, agent: OnceLock::new(), key_from_file: Mutex::new(None) }
    }

    fn agent(&self) -> Result<&ureq::Agent, String> {
        if let Some(agent) = self.agent.get() {
            return Ok(agent);
        }
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
            .user_agent(concat!("lago_push/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .accept_encoding("identity")
            .timeout_global(Some(route.timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(route.timeout)))
            .max_idle_connections(route.connections)
            .max_idle_connections_per_host(route.connections)
            .max_idle_age(IDLE_AGE)
            .build()
            .new_agent();
        Ok(self.agent.get_or_init(|| agent))
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
    fn post(&self, path: &str, body: &[u8]) -> Outcome {
        let (agent, key) = match self.agent().and_then(|agent| Ok((agent, self.key()?))) {
            Ok(ready) => ready,
            Err(why) => return Outcome::Unusable(why),
        };
        let mut request =
            agent.post(format!("{}{path}", self.route.url)).header("content-type", "application/json");
        for (name, value) in &self.route.headers {
            request = request.header(name, value);
        }
        if let Some(ApiKey(key)) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return Outcome::Failed(describe(&error)),
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
        Outcome::Reply(Reply { status, body, wait })
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

/// A request to make.
pub struct Job {
    pub lane: i32,
    pub transport: Arc<Transport>,
    pub path: &'static str,
    /// The key that wraps the messages' array.
    pub root: &'static str,
    pub messages: Vec<Message>,
}

/// A request made.
pub struct Done {
    pub lane: i32,
    pub messages: Vec<Message>,
    pub outcome: Outcome,
}

impl Job {
    fn body(&self) -> Vec<u8> {
        let length: usize = self.messages.iter().map(|message| message.payload.len() + 1).sum();
        let mut body = Vec::with_capacity(length + self.root.len() + 8);
        body.extend_from_slice(b"{\"");
        body.extend_from_slice(self.root.as_bytes());
        body.extend_from_slice(b"\":[");
        for (index, message) in self.messages.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(message.payload.as_bytes());
        }
        body.extend_from_slice(b"]}");
        body
    }
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
            job.transport.post(job.path, &job.body())
        }));
        let outcome = made
            .unwrap_or_else(|_| Outcome::Failed("the request could not be made (a bug in lago_push)".into()));
        busy.fetch_sub(1, Ordering::SeqCst);
        if done.send(Done { lane: job.lane, messages: job.messages, outcome }).is_err() {
            return;
        }
        // A full socket buffer means the worker has plenty of rings to hear.
        let _ = (&*bell).write(&[1]);
    }
}
