//! Sockets and threads: listening, one thread per connection, stopping and listening again.
//!
//! A stop is abrupt on purpose: connections are reset and requests under way are dropped. What had been
//! stored stays.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::app::{App, Delivery, lock};
use crate::http::{self, BodySent, Connection, Incoming, Persistence, Request};
use crate::reply::{HTML, Reply};
use crate::traffic::Category;

const STACK: usize = 512 * 1024;
/// How long to wait before accepting again when the machine is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// One period of listening, from a start or resume to a stop.
pub struct Listening {
    thread: JoinHandle<()>,
    session: Arc<Session>,
    addr: SocketAddr,
}

struct Session {
    app: Arc<App>,
    generation: u64,
    stopped: Mutex<bool>,
    stopping: Condvar,
    connections: Mutex<HashMap<u64, TcpStream>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Elapsed,
    Stopped,
}

impl Session {
    /// Waits, unless the server is stopped meanwhile.
    fn pause(&self, length: Duration) -> Pause {
        if length.is_zero() {
            return Pause::Elapsed;
        }
        let deadline = Instant::now() + length;
        let mut stopped = lock(&self.stopped);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match (*stopped, left.is_zero()) {
                (true, _) => return Pause::Stopped,
                (false, true) => return Pause::Elapsed,
                (false, false) => {
                    let waited = self.stopping.wait_timeout(stopped, left);
                    stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

impl Listening {
    pub fn start(app: &Arc<App>, addr: SocketAddr) -> io::Result<Listening> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let session = Arc::new(Session {
            app: Arc::clone(app),
            generation: lock(&app.state).generation,
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&session);
        let thread = thread::Builder::new()
            .name("fake-lago accept".to_owned())
            .spawn(move || accept_all(&listener, &accepting))?;
        Ok(Listening { thread, session, addr })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends this period: afterwards nothing more is stored and new connections are refused.
    pub fn stop(self) {
        lock(&self.session.app.state).generation += 1;
        *lock(&self.session.stopped) = true;
        self.session.stopping.notify_all();
        // The accepting thread looks at the flag when the next connection arrives: this one.
        let mut waker = self.addr;
        if waker.ip().is_unspecified() {
            match waker {
                SocketAddr::V4(_) => waker.set_ip(Ipv4Addr::LOCALHOST.into()),
                SocketAddr::V6(_) => waker.set_ip(Ipv6Addr::LOCALHOST.into()),
            }
        }
        let woken = TcpStream::connect(waker);
        if woken.is_ok() {
            // A panic there has been printed already.
            let _ = self.thread.join();
        }
        for (_, stream) in lock(&self.session.connections).drain() {
            reset_on_close(&stream);
            // The peer may have closed it just now.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Makes closing send a reset instead of an orderly end.
fn reset_on_close(stream: &TcpStream) {
    // Fails only if the connection is gone, which is what is wanted.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn accept_all(listener: &TcpListener, session: &Arc<Session>) {
    for number in 0.. {
        let accepted = listener.accept();
        if *lock(&session.stopped) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            session.pause(ACCEPT_PAUSE);
            continue;
        };
        let Ok(handle) = stream.try_clone() else { continue };
        lock(&session.connections).insert(number, handle);
        let serving = Arc::clone(session);
        let spawned = thread::Builder::new().name("fake-lago connection".to_owned()).stack_size(STACK).spawn(
            move || {
                // An i/o error means that the client is gone; there is nobody to tell.
                let _ = serve(&serving, &stream);
                lock(&serving.connections).remove(&number);
            },
        );
        if spawned.is_err() {
            lock(&session.connections).remove(&number);
        }
    }
}

fn serve(session: &Session, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    loop {
        let request = match connection.read_request()? {
            Incoming::Request(request) => request,
            Incoming::Closed => return Ok(()),
            Incoming::Refused(status) => {
                let reply = Reply::new(status, HTML, "");
                return connection.stream().write_all(&http::response(
                    &reply,
                    Persistence::Close,
                    BodySent::Yes,
                ));
            }
        };
        let administered = request.path.starts_with("/_fake/");
        let category = Category::of(&request.method, &request.path);
        // Until it has been answered.
        let _under_way = (!administered).then(|| session.app.gauges.enter(category));
        let Ok(delivery) = session.app.answer(&request, session.generation) else {
            reset_on_close(stream);
            return Ok(());
        };
        let latency = session.app.settings().config.latency;
        if !administered && session.pause(latency) == Pause::Stopped {
            reset_on_close(stream);
            return Ok(());
        }
        match deliver(session, stream, &request, delivery)? {
            Persistence::KeepAlive => {}
            Persistence::Close => return Ok(()),
        }
    }
}

fn deliver(
    session: &Session,
    mut stream: &TcpStream,
    request: &Request,
    delivery: Delivery,
) -> io::Result<Persistence> {
    let body = if request.method == "HEAD" { BodySent::No } else { BodySent::Yes };
    match delivery {
        Delivery::Send(reply) => {
            stream.write_all(&http::response(&reply, request.persistence, body))?;
            Ok(request.persistence)
        }
        Delivery::SendThenClose(reply) => {
            stream.write_all(&http::response(&reply, Persistence::KeepAlive, body))?;
            Ok(Persistence::Close)
        }
        Delivery::Truncated(reply) => {
            let bytes = http::response(&reply, Persistence::KeepAlive, body);
            let missing = reply.body.len().div_ceil(2);
            stream.write_all(&bytes[..bytes.len() - missing])?;
            Ok(Persistence::Close)
        }
        Delivery::Drip { reply, bytes, pause } => {
            for part in http::response(&reply, request.persistence, body).chunks(bytes.max(1)) {
                stream.write_all(part)?;
                if session.pause(pause) == Pause::Stopped {
                    return Ok(Persistence::Close);
                }
            }
            Ok(request.persistence)
        }
        Delivery::Hang => {
            // Until the client closes its side, or the server is stopped.
            let mut ignored = [0; 4096];
            while stream.read(&mut ignored)? > 0 {}
            Ok(Persistence::Close)
        }
        Delivery::Reset => {
            reset_on_close(stream);
            Ok(Persistence::Close)
        }
    }
}
