//! The memory and the processor time of a process that will be gone when it is done.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::process;
use crate::failure::Outcome;

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a process has used until it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    pub processor_seconds: f64,
    /// The most it had for itself at any look.
    pub own_megabytes: f64,
    /// The most it ever had, with all pages of the server's shared memory that it has touched.
    pub megabytes: f64,
}

pub struct Watch {
    over: Arc<AtomicBool>,
    watching: JoinHandle<Used>,
}

impl Watch {
    /// Processor time counts from here on.
    pub fn begin(process: i32) -> Outcome<Self> {
        let before = process::used_by(&[process])?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let watching = thread::spawn(move || {
            let mut used = Used::default();
            while look(process, before, &mut used).is_some() && !told.load(Ordering::SeqCst) {
                thread::sleep(LOOK_EVERY);
            }
            used
        });
        Ok(Self { over, watching })
    }

    /// What was seen until now, or until the process ended.
    pub fn end(self) -> Used {
        self.over.store(true, Ordering::SeqCst);
        self.watching.join().unwrap_or_default()
    }
}

/// None when there is no such process any more.
fn look(process: i32, before: f64, used: &mut Used) -> Option<()> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let processor = process::used_by(&[process]).ok()?;
    used.processor_seconds = processor - before;
    used.own_megabytes = used.own_megabytes.max(megabytes(&status, "RssAnon")?);
    used.megabytes = used.megabytes.max(megabytes(&status, "VmHWM")?);
    Some(())
}

fn megabytes(status: &str, field: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u32 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(f64::from(kilobytes) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_a_status() {
        let status = "Name:\tpostgres\nVmHWM:\t  204800 kB\nRssAnon:\t    5120 kB\n";
        assert_eq!(megabytes(status, "VmHWM"), Some(200.0));
        assert_eq!(megabytes(status, "RssAnon"), Some(5.0));
        assert_eq!(megabytes("Name:\tpostgres\n", "VmHWM"), None);
    }

    #[test]
    fn a_process_is_watched_as_long_as_it_is_there() {
        let this = i32::try_from(std::process::id()).unwrap_or_default();
        let watch = Watch::begin(this).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(watch.end().own_megabytes > 0.0);
        // Linux gives out numbers up to 2^22.
        assert!(Watch::begin((1 << 22) + 1).is_err());
    }
}
