//! The binary as a process of its own, which ends with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

pub struct Program {
    child: Child,
    pub output: BufReader<ChildStdout>,
    pub addr: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Program {
    /// Starts it and waits until it says where it listens.
    pub fn start(arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fake-lago"));
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("fake-lago listening on http://");
        let address = address.and_then(|rest| rest.strip_suffix("/api/v1")).expect(&line);
        let addr = address.parse().expect("an address");
        Program { child, output, addr }
    }

    /// Ends it as the kernel would: with no chance to do anything.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
