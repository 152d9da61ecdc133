//! What processes have cost so far, as the kernel counts it.

use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

use crate::failure::{Doing, Outcome};

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
