//! The binary, started as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(arguments: &[&str]) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fake-lago"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    Program(command.spawn().expect("the program starts"))
}

#[test]
fn the_program_says_where_it_listens_and_each_request_if_asked() {
    let mut program = start(&["-v", "--accept-any"]);
    let mut output = BufReader::new(program.0.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("fake-lago listening on http://");
    let address = address.and_then(|rest| rest.strip_suffix("/api/v1")).expect(&line).to_owned();

    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    line.clear();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "GET /health 200 events=0\n");
}

#[test]
fn the_program_explains_itself_and_refuses_what_it_does_not_know() {
    let help = Command::new(env!("CARGO_BIN_EXE_fake-lago")).arg("--help").output().expect("it runs");
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("--discard-bodies"));
    let wrong = Command::new(env!("CARGO_BIN_EXE_fake-lago")).arg("--wrong").output().expect("it runs");
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--wrong"));
}
