//! Which processors everybody may use: all of them, as a rule, or Lago one half and everybody else the other.
//!
//! On a machine with few processors a client's speed is decided by what the stand-in leaves of them. With halves of their
//! own, the two are as far apart as if Lago ran elsewhere, and the question is who keeps whom waiting.

use std::fs;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::super::processors;
use crate::failure::{Doing, Outcome};

/// Who may use what, until it is dropped.
pub struct Apart {
    moved: Vec<i32>,
    all: CpuSet,
}

impl Apart {
    /// None where there is but one processor. What these processes start from now on stays with them.
    pub fn put(stand_in: i32, others: &[i32]) -> Outcome<Option<Self>> {
        // Before any is taken from this program.
        let number = processors();
        let half = number / 2;
        if half == 0 {
            return Ok(None);
        }
        let mut apart = Self { moved: Vec::new(), all: set(0..number)? };
        apart.moves(stand_in, &set(half..number)?)?;
        let rest = set(0..half)?;
        for process in others {
            apart.moves(*process, &rest)?;
        }
        Ok(Some(apart))
    }

    fn moves(&mut self, process: i32, to: &CpuSet) -> Outcome<()> {
        self.moved.push(process);
        for thread in threads(process) {
            sched_setaffinity(Pid::from_raw(thread), to).doing("give a process its processors")?;
        }
        Ok(())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        for thread in self.moved.iter().flat_map(|process| threads(*process)) {
            // One that has ended meanwhile needs none.
            let _ = sched_setaffinity(Pid::from_raw(thread), &self.all);
        }
    }
}

fn set(numbers: std::ops::Range<usize>) -> Outcome<CpuSet> {
    let mut set = CpuSet::new();
    for number in numbers {
        set.set(number).doing("name a processor")?;
    }
    Ok(set)
}

/// None of a process that has ended.
fn threads(process: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
