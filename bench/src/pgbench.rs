//! PostgreSQL's own load generator: started, and its report read.

use std::process::{Child, Command, Stdio};

use delivery::cluster::Cluster;

use crate::failure::{Doing, Failure, Outcome};

/// What pgbench says about a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    pub transactions: u64,
    pub per_second: f64,
    pub latency_ms: f64,
}

/// A run under way. Dropping it ends it.
pub struct Running {
    child: Option<Child>,
}

impl Running {
    pub fn start(cluster: &Cluster, database: &str, arguments: &[&str]) -> Outcome<Self> {
        let mut command = command(cluster, database, arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().doing("start pgbench")?;
        Ok(Self { child: Some(child) })
    }

    pub fn is_running(&mut self) -> bool {
        // An error means that it cannot be waited for, so it is not running.
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for its end. What it prints is short enough for a pipe that nobody reads until then.
    pub fn finish(mut self) -> Outcome<Report> {
        let child = self.child.take().ok_or_else(|| Failure::new("pgbench has ended before"))?;
        let output = child.wait_with_output().doing("wait for pgbench")?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(Failure::new(format!("pgbench ended with {}: {}", output.status, err.trim())));
        }
        report(&out).ok_or_else(|| Failure::new(format!("pgbench's report is not understood:\n{out}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A whole run, from start to end.
pub fn run(cluster: &Cluster, database: &str, arguments: &[&str]) -> Outcome<Report> {
    Running::start(cluster, database, arguments)?.finish()
}

/// Makes and fills pgbench's tables.
pub fn initialize(cluster: &Cluster, database: &str, arguments: &[&str]) -> Outcome<()> {
    let output = command(cluster, database, arguments).output().doing("start pgbench")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("pgbench -i failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn command(cluster: &Cluster, database: &str, arguments: &[&str]) -> Command {
    let mut command = cluster.program("pgbench");
    command.args(arguments).arg(database).env("LC_ALL", "C");
    command
}

fn report(text: &str) -> Option<Report> {
    let after = |label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label))?;
        line.split([' ', '/']).find(|word| !word.is_empty())
    };
    Some(Report {
        transactions: after("number of transactions actually processed:")?.parse().ok()?,
        per_second: after("tps =")?.parse().ok()?,
        latency_ms: after("latency average =")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "pgbench (15.14)\nscaling factor: 10\nnumber of transactions actually processed: 2345\n\
                    number of failed transactions: 0 (0.000%)\nlatency average = 1.705 ms\n\
                    initial connection time = 8.2 ms\ntps = 586.410163 (without initial connection time)\n";
        let expected = Report { transactions: 2345, per_second: 586.410_163, latency_ms: 1.705 };
        assert_eq!(report(text), Some(expected));
        assert_eq!(report("tps = many"), None);
    }
}
