//! What the kernel says of one process: the memory it has for itself, and the processor time it has used.

use std::fs;
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

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

/// Seconds of processor time that these processes have used since they began, ended threads included.
pub fn used_by(processes: &[i32]) -> Outcome<f64> {
    let used = |process: &i32| {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(*process));
        let time =
            clock.and_then(ClockId::now).doing(&format!("read the processor time of process {process}"))?;
        Ok(Duration::from(time).as_secs_f64())
    };
    processes.iter().map(used).sum()
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn shared_memory_is_not_a_process_s_own() {
        let rollup = "55d0-7fff ---p 00000000 00:00 0    [rollup]\nRss:    90000 kB\nPss:   70000 kB\n\
                      Pss_Dirty:   1 kB\nPss_Anon:   5000 kB\nPss_Shmem:   64000 kB\n";
        assert_eq!(own_kilobytes(rollup), Some(6000));
        assert_eq!(own_kilobytes("Pss:  70000 kB\n"), None);
    }

    #[test]
    fn processor_time_grows_with_what_is_done() {
        let this = i32::try_from(process::id()).expect("a process id is small");
        let before = used_by(&[this]).expect("this process is there");
        let until = before + 0.002;
        let mut looks = 0;
        while used_by(&[this]).expect("this process is there") < until {
            looks += 1;
        }
        assert!(looks > 0);
        assert_eq!(used_by(&[]).expect("nothing can be asked"), 0.0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        // Linux gives out numbers up to 2^22.
        assert!(used_by(&[(1 << 22) + 1]).is_err());
    }
}
