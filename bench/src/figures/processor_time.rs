//! The processor time a PostgreSQL server has used so far, all its processes together.
//!
//! Linux tells it of every process there is and, of each parent, the sum over the children that have ended. So
//! nothing of a session is lost when it ends. Load generator and stand-in are no children of the server.

use std::fs;
use std::time::Duration;

use crate::failure::{Doing, Failure, Outcome};
use crate::session::Session;

/// Of what /proc counts in, whatever the kernel's own clock is.
const TICKS_PER_SECOND: u32 = 100;

pub struct Server {
    /// The process that all others of the server are children of.
    postmaster: u32,
}

impl Server {
    /// The one this session is connected to.
    pub fn behind(db: &mut Session) -> Outcome<Self> {
        let backend: i32 = db.value("select pg_backend_pid()")?;
        let process =
            fs::read_to_string(format!("/proc/{backend}/stat")).doing("look at a session's process")?;
        let process =
            Process::read(&process).ok_or_else(|| Failure::new("a process's times are not understood"))?;
        Ok(Self { postmaster: process.parent })
    }

    pub fn used(&self) -> Outcome<Duration> {
        let mut ticks = 0;
        for entry in fs::read_dir("/proc").doing("list the processes")? {
            let name = entry.doing("list the processes")?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // One that has ended since is in its parent's sum.
            let Ok(text) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
            if let Some(process) = Process::read(&text)
                && (id == self.postmaster || process.parent == self.postmaster)
            {
                ticks += process.own_ticks + process.ended_children_ticks;
            }
        }
        Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    own_ticks: u64,
    ended_children_ticks: u64,
}

impl Process {
    /// From a line of /proc/…/stat.
    fn read(stat: &str) -> Option<Self> {
        // The program's name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own_ticks: ticks(11)? + ticks(12)?,
            ended_children_ticks: ticks(13)? + ticks(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "17 (odd) name 9) S 4 17 17 0 -1 4194560 100 0 1 0 250 50 7000 400 20 0 1 0 123456 22000";
        let expected = Process { parent: 4, own_ticks: 300, ended_children_ticks: 7400 };
        assert_eq!(Process::read(stat), Some(expected));
        assert_eq!(Process::read("17 (cut"), None);
    }
}
