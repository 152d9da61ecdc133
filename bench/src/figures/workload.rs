//! What pgbench is told to do.

use std::fs;

use delivery::cluster::Cluster;

use super::ground::DATABASE;
use super::processors;
use crate::failure::{Doing, Outcome};
use crate::pgbench;
use crate::session::Session;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    Waited,
    Unwaited,
}

impl Commits {
    /// For sessions that begin from now on.
    pub fn apply(self, db: &mut Session) -> Outcome<()> {
        db.run(&match self {
            Self::Waited => format!("alter database {DATABASE} reset synchronous_commit"),
            Self::Unwaited => format!("alter database {DATABASE} set synchronous_commit = off"),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// The shortest time that pgbench knows.
    OneSecond,
    /// Of all writers together.
    Transactions(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub writers: usize,
    pub commits: Commits,
    pub length: Length,
}

impl Load {
    /// Each transaction is one of the scripts, drawn by lot.
    pub fn run(self, cluster: &Cluster, scripts: &[String]) -> Outcome<pgbench::Report> {
        let mut arguments = self.arguments(processors());
        for (number, script) in scripts.iter().enumerate() {
            let file = cluster.folder().join(format!("transaction-{number}.sql"));
            fs::write(&file, script).doing("write pgbench's script")?;
            arguments.extend(["-f".to_owned(), file.display().to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        pgbench::run(cluster, DATABASE, &arguments)
    }

    fn arguments(self, processors: usize) -> Vec<String> {
        let (flag, amount) = match self.length {
            Length::OneSecond => ("-T", 1),
            Length::Transactions(all) => ("-t", all.div_ceil(self.writers)),
        };
        let words = ["-n", "-M", "prepared", flag, &amount.to_string()].map(str::to_owned);
        let clients = ["-c", &self.writers.to_string()].map(str::to_owned);
        let threads = ["-j", &self.writers.min(processors).to_string()].map(str::to_owned);
        words.into_iter().chain(clients).chain(threads).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_shared_out_among_the_writers() {
        let load = Load { writers: 3, commits: Commits::Waited, length: Length::Transactions(10) };
        assert_eq!(load.arguments(2).join(" "), "-n -M prepared -t 4 -c 3 -j 2");
        let load = Load { writers: 1, length: Length::OneSecond, ..load };
        assert_eq!(load.arguments(2).join(" "), "-n -M prepared -T 1 -c 1 -j 1");
    }
}
