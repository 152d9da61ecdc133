//! The fake Lago as a process of its own, that keeps what it answered in a file: it can be killed in the middle of
//! a request, and asked about everything afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::wait::{PATIENCE, wait_until};

/// How long an answer of the administration may take; it reckons bills of some ten thousand events.
const ANSWER: Duration = Duration::from_secs(30);

pub struct Lago {
    program: PathBuf,
    data: PathBuf,
    store: &'static str,
    addr: SocketAddr,
    key: Mutex<String>,
    process: Mutex<Option<Child>>,
}

impl Lago {
    /// Starts on a free port, which it keeps.
    pub fn start(program: &Path, data: PathBuf, store: &'static str, key: &str) -> Self {
        let mut lago = Self {
            program: program.to_owned(),
            data,
            store,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            key: Mutex::new(key.to_owned()),
            process: Mutex::new(None),
        };
        lago.addr = lago.start_again();
        lago
    }

    /// Starts with what the last process had answered, and with the key clients use now.
    pub fn start_again(&self) -> SocketAddr {
        // The old process is gone, but its port may be free a moment later only.
        wait_until("the fake Lago listens", PATIENCE, || self.try_start())
    }

    fn try_start(&self) -> Option<SocketAddr> {
        let mut command = Command::new(&self.program);
        command.args(["lago", "--listen", &self.addr.to_string(), "--store", self.store]);
        command.args(["--api-key", &self.key()]).arg("--data").arg(&self.data);
        // Its input ends when we do, and then so does it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("the fake Lago does not run: {e}"));
        let mut line = String::new();
        let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let addr = line.trim().strip_prefix("fake-lago listening on http://");
        let addr = addr.and_then(|rest| rest.strip_suffix("/api/v1")).and_then(|addr| addr.parse().ok());
        if read.is_none() || addr.is_none() {
            let _ = child.wait();
            return None;
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        addr
    }

    pub fn kill(&self) {
        if let Some(mut child) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/api/v1", self.addr)
    }

    pub fn key(&self) -> String {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is the key, for this process and the next ones.
    pub fn change_key(&self, key: &str) {
        key.clone_into(&mut self.key.lock().unwrap_or_else(PoisonError::into_inner));
        self.tell("settings", &serde_json::json!({"api_key": key}));
    }

    /// Changes something by administration.
    #[track_caller]
    pub fn tell(&self, path: &str, body: &Value) {
        self.administer("POST", path, &body.to_string()).unwrap_or_else(|e| panic!("POST {path}: {e}"));
    }

    #[track_caller]
    pub fn ask(&self, path: &str) -> Value {
        self.administer("GET", path, "").unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    /// The same, of an array.
    #[track_caller]
    pub fn ask_all(&self, path: &str) -> Vec<Value> {
        match self.ask(path) {
            Value::Array(values) => values,
            other => panic!("GET {path}: {other}"),
        }
    }

    pub fn clear_faults(&self) {
        self.administer("DELETE", "fault", "").unwrap_or_else(|e| panic!("DELETE fault: {e}"));
    }

    fn administer(&self, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(self.addr).map_err(text)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(text)?;
        let request = format!(
            "{method} /_fake/{path} HTTP/1.1\r\nHost: lago\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).map_err(text)?;
        let (head, body) = reply.split_once("\r\n\r\n").ok_or("no answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(reply);
        }
        serde_json::from_str(body).map_err(|error| error.to_string())
    }
}

impl Drop for Lago {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(&self.data);
    }
}
