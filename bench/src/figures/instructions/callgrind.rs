//! A server under callgrind, which counts the instructions of each of its processes.
//!
//! The counts are written when a process ends, one file for each of its threads.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use delivery::cluster::{Cluster, Options, Stop};
use delivery::wait::{PATIENCE, try_until};

use crate::failure::{Doing, Failure, Outcome};

const PROGRAM: &str = "valgrind";
/// In the cluster's folder, where the server is started. The process's number is put in by callgrind.
const FILES: &str = "--callgrind-out-file=callgrind.%p";
const MAIN_THREAD: &str = "01";

/// Instructions in user mode of a process that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub main_thread: u64,
    pub other_threads: u64,
}

pub fn is_installed() -> bool {
    let mut command = Command::new(PROGRAM);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Settings without which something would come in between.
pub fn options() -> Options {
    Options::default().with("autovacuum", "off").with("checkpoint_timeout", "1h").with("jit", "off")
}

/// Has a running server counted from here on. Of what callgrind could tell, only totals are asked for.
pub fn start_again(cluster: &Cluster) {
    cluster.stop(Stop::Fast);
    let arguments =
        ["--tool=callgrind", "--separate-threads=yes", "--dump-line=no", "--vgdb=no", "--quiet", FILES];
    cluster.start_again_by(PROGRAM, &arguments);
}

/// What a process has counted, once it has ended.
pub fn count(cluster: &Cluster, process: i32) -> Outcome<Count> {
    let running = Path::new("/proc").join(process.to_string());
    let ended = try_until(PATIENCE, || !running.exists());
    ended.ok_or_else(|| Failure::new(format!("process {process} of the server does not end")))?;
    let mut count = Count::default();
    for entry in fs::read_dir(cluster.folder()).doing("list what callgrind has written")? {
        let path = entry.doing("list what callgrind has written")?.path();
        let Some(thread) = path.file_name().and_then(|name| thread(name.to_str()?, process)) else {
            continue;
        };
        let text = fs::read_to_string(&path).doing("read what callgrind has counted")?;
        let total = total(&text).ok_or_else(|| Failure::new("callgrind's counts are not understood"))?;
        match thread {
            MAIN_THREAD => count.main_thread += total,
            _ => count.other_threads += total,
        }
    }
    match count.main_thread {
        0 => Err(Failure::new(format!("callgrind has counted nothing for process {process}"))),
        _ => Ok(count),
    }
}

/// The thread whose counts a file of this name holds, if it is a file of this process.
fn thread(file: &str, process: i32) -> Option<&str> {
    file.strip_prefix("callgrind.")?.strip_prefix(&process.to_string())?.strip_prefix('-')
}

fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_their_process_and_thread() {
        assert_eq!(thread("callgrind.123-01", 123), Some("01"));
        assert_eq!(thread("callgrind.1234-01", 123), None);
        assert_eq!(thread("callgrind.123", 123), None);
        assert_eq!(thread("log", 123), None);
    }

    #[test]
    fn the_total_of_a_file_is_its_last_word() {
        assert_eq!(total("events: Ir\nsummary: 12\nfn=(1)\n0 8\ntotals: 4567\n"), Some(4567));
        assert_eq!(total("events: Ir\nsummary: 12\n"), None);
    }
}
