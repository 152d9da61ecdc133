//! fake-lago in a process of its own, so that what it costs is not mixed up with what the client costs.
//!
//! The process is this same program, started with an argument: there is no second binary to build or to find.
//! It ends when its standard input does, which also happens when the benchmark is killed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use fake_lago::{Config, FakeLago};
use serde_json::Value;

use super::raw::{self, Connection};
use crate::failure::{Doing, Failure, Outcome};

/// Makes this program the stand-in.
pub const ARGUMENT: &str = "--stand-in-for-lago";
pub const API_KEY: &str = "bench-key";

/// What a benchmark needs: counters and uniqueness, no memory of every event.
pub fn config() -> Config {
    Config { keep_events: false, accept_any: true, api_key: API_KEY.to_owned(), ..Config::default() }
}

/// The program, once it is the stand-in: tells its address and serves until its input ends.
pub fn serve() -> Outcome<()> {
    let lago = FakeLago::start(config()).doing("start the stand-in for Lago")?;
    let mut out = io::stdout();
    writeln!(out, "{}", lago.addr()).and_then(|()| out.flush()).doing("tell the address")?;
    let mut nothing = Vec::new();
    io::stdin().read_to_end(&mut nothing).map(drop).doing("wait for the end")
}

pub struct StandIn {
    child: Child,
    address: SocketAddr,
    operator: Connection,
}

impl StandIn {
    pub fn start() -> Outcome<Self> {
        let program = env::current_exe().doing("find the benchmark's own program")?;
        let mut command = Command::new(program);
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().doing("start the stand-in for Lago")?;
        let address = child.stdout.take().ok_or_else(|| Failure::new("the stand-in has no output"));
        let started =
            address.and_then(read_address).and_then(|address| Ok((address, Connection::open(address)?)));
        match started {
            Ok((address, operator)) => Ok(Self { child, address, operator }),
            Err(failure) => {
                end(&mut child);
                Err(failure)
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, for asking the kernel what it costs.
    pub fn process(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Where it is, for clients that know the path of the API themselves.
    pub fn origin(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn url(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }

    /// How many events it has accepted since it last forgot everything.
    pub fn stored(&mut self) -> Outcome<u64> {
        let body = self.operator.exchange(&raw::request("GET", "/_fake/stats", API_KEY, ""))?;
        let stats: Value = serde_json::from_slice(body).doing("read the stand-in's counters")?;
        let stored = stats.get("stored").and_then(Value::as_u64);
        stored.ok_or_else(|| Failure::new("the stand-in does not say how many events it has"))
    }

    /// Adds this to every answer from now on.
    pub fn answer_after(&mut self, latency: Duration) -> Outcome<()> {
        let body = format!("{{\"ms\":{}}}", latency.as_millis());
        self.operator.exchange(&raw::request("POST", "/_fake/latency", API_KEY, &body)).map(drop)
    }

    /// Forgets all events, so that the same ones are new to it again.
    pub fn forget(&mut self) -> Outcome<()> {
        self.operator.exchange(&raw::request("POST", "/_fake/reset", API_KEY, "")).map(drop)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself, which is as good.
    let _ = child.kill();
    let _ = child.wait();
}

fn read_address(out: ChildStdout) -> Outcome<SocketAddr> {
    let mut lines = BufReader::new(out);
    let mut line = String::new();
    lines.read_line(&mut line).doing("read the stand-in's address")?;
    // Somebody must hold the pipe, or a second line of output would kill the process.
    thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
    line.trim().parse().doing(&format!("read the stand-in's address from {line:?}"))
}
