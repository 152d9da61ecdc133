//! The program somebody would write by hand (bench/poller): Python with Lago's official client.
//!
//! It is started once and told what to do, so that no round pays for the start of Python.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::super::ground::{CONNECTIONS, DATABASE, Ground};
use super::super::stand_in::API_KEY;
use crate::failure::{Doing, Failure, Outcome};

/// Where the client's HTTP library looks for certificates. It does so again for every request, also to `http://`
/// addresses that need none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// In the bundle it was installed with, all of which it reads each time: what one gets.
    Bundle,
    /// In a folder, of which it reads what it needs: for those who have found that out.
    Folder,
}

pub struct Poller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Poller {
    /// None, after a word about it, where Python or its packages cannot be had.
    pub fn start(ground: &Ground, certificates: Certificates) -> Outcome<Option<Self>> {
        // The script says on stderr what it lacks.
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/bench-poller");
        let mut command = ground.cluster.program(script);
        command.args([DATABASE, API_KEY, &CONNECTIONS.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("SSL_CERT_FILE");
        match certificates {
            Certificates::Bundle => command.env_remove("SSL_CERT_DIR"),
            Certificates::Folder => command.env("SSL_CERT_DIR", "/etc/ssl/certs"),
        };
        let mut child = command.spawn().doing("start the Python poller")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| Failure::new("the Python poller has no pipes"))?;
        let mut poller = Self { child, input, output: BufReader::new(output) };
        if poller.says("ready").is_ok() {
            return Ok(Some(poller));
        }
        eprintln!("The Python poller cannot be had and is left out.");
        Ok(None)
    }

    pub fn process(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sets it to work on the table `peer_outbox`, all connections at once.
    pub fn begin(&mut self, url: &str) -> Outcome<()> {
        writeln!(self.input, "{url} {CONNECTIONS}").doing("tell the Python poller to begin")
    }

    /// Waits until it has found the table empty.
    pub fn finish(&mut self) -> Outcome<()> {
        self.says("drained")
    }

    fn says(&mut self, expected: &str) -> Outcome<()> {
        let mut line = String::new();
        self.output.read_line(&mut line).doing("read what the Python poller says")?;
        if line.trim() == expected {
            return Ok(());
        }
        Err(Failure::new(format!("the Python poller did not get to say {expected:?}")))
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
