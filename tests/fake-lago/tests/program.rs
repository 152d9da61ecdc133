//! The binary, started as a process.

mod client;

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use client::program::Program;

#[test]
fn the_program_says_where_it_listens_and_each_request_if_asked() {
    let mut program = Program::start(&["-v", "--accept-any"]);
    let mut stream = TcpStream::connect(program.addr).expect("it listens");
    stream.write_all(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let mut line = String::new();
    program.output.read_line(&mut line).expect("a line");
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
