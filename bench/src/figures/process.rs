//! What the kernel says of one process: the memory it has for itself, and the processor time it has used.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::failure::{Doing, Failure, Outcome};

/// The memory a process has for itself. Of shared libraries it is charged its share. The server's shared
/// memory is left out: the server has it once, however many processes look at it.
pub fn own_megabytes(pid: i32) -> Outcome<f64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).doing(&format!("read {file}"))?;
    let own = own_kilobytes(&text).ok_or_else(|| Failure::new(format!("{file} is not understood")))?;
    Ok(f64::from(own) / 1024.0)
}

fn own_kilobytes(rollup: &str) -> Option<u32> {
    let field = |name: &str| -> Option<u32> {
        let mut values = rollup.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.next()?.trim().strip_suffix(" kB")?.parse().ok()
    };
    field("Pss")?.checked_sub(field("Pss_Shmem")?)
}

/// The processor time that all threads of a process have used. Of a thread that has ended it is forgotten.
pub fn processor_time(pid: i32) -> Outcome<Duration> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(&folder).doing(&format!("read {folder}"))? {
        let file = thread.doing(&format!("read {folder}"))?.path().join("schedstat");
        sum += thread_time(&file)?;
    }
    Ok(sum)
}

fn thread_time(file: &Path) -> Outcome<Duration> {
    let text = fs::read_to_string(file).doing(&format!("read {}", file.display()))?;
    let used = used(&text);
    used.ok_or_else(|| Failure::new(format!("{} is not understood", file.display())))
}

fn used(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_not_a_process_s_own() {
        let rollup = "55d0-7fff ---p 00000000 00:00 0    [rollup]\nRss:    90000 kB\nPss:   70000 kB\n\
                      Pss_Dirty:   1 kB\nPss_Anon:   5000 kB\nPss_Shmem:   64000 kB\n";
        assert_eq!(own_kilobytes(rollup), Some(6000));
        assert_eq!(own_kilobytes("Pss:  70000 kB\n"), None);
    }

    #[test]
    fn the_first_figure_of_schedstat_is_the_time_used() {
        assert_eq!(used("1500000 20 3\n"), Some(Duration::from_micros(1500)));
        assert_eq!(used(""), None);
    }
}
