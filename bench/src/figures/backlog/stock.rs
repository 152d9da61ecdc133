//! A backlog that is kept at its size: how much waits is known without counting.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use delivery::cluster::Cluster;

use crate::failure::{Failure, Outcome};
use crate::figures::looks::Looks;
use crate::figures::process;
use crate::figures::site::Site;
use crate::figures::stand_in::StandIn;
use crate::session::Session;

/// Rows of one transaction.
const AT_ONCE: u64 = 500_000;
const DELIVERED_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub struct Stock {
    site: Site,
    captured: u64,
    /// What stays when a turn is over.
    kept: u64,
}

impl Stock {
    pub fn prepare(cluster: &Arc<Cluster>, name: &str, url: &str) -> Outcome<Self> {
        Ok(Self { site: Site::prepare(cluster, name, url)?, captured: 0, kept: 0 })
    }

    pub fn session(&mut self) -> &mut Session {
        &mut self.site.db
    }

    pub fn remove(self) -> Outcome<()> {
        self.site.remove()
    }

    /// From now on so many stay when a turn is over. Fills it up to that, counts, and clears away what went
    /// before, so that nobody's turn has to.
    pub fn keep(&mut self, kept: u64) -> Outcome<()> {
        self.kept = kept;
        self.fill(kept)?;
        let waiting = self.site.count_waiting()?;
        if waiting != kept {
            return Err(Failure::new(format!("{kept} messages should wait, and {waiting} do")));
        }
        self.site.db.run("vacuum lago_push.message")?;
        self.site.db.run("checkpoint")
    }

    /// Captures rows until so many messages wait.
    pub fn fill(&mut self, wanted: u64) -> Outcome<()> {
        let waiting = self.captured - self.site.delivered()?;
        let mut missing = wanted.saturating_sub(waiting);
        while missing > 0 {
            let rows = missing.min(AT_ONCE);
            // Exact: AT_ONCE is small.
            self.site.insert(rows as usize)?;
            self.captured += rows;
            missing -= rows;
        }
        Ok(())
    }

    /// Delivers so many from the front while the rest waits, and gives the events a second.
    pub fn deliver(&mut self, lago: &mut StandIn, events: u64) -> Outcome<f64> {
        self.fill(self.kept + events)?;
        self.site.rest()?;
        lago.forget()?;
        let before = self.site.delivered()?;
        let start = Instant::now();
        self.site.release()?;
        let (stored, took) = loop {
            let stored = lago.stored()?;
            let took = start.elapsed();
            if stored >= events {
                break (stored, took);
            }
            if took >= DELIVERED_WITHIN {
                return Err(Failure::new(format!("only {stored} of {events} events have arrived")));
            }
            thread::sleep(LOOK_EVERY);
        };
        self.site.hold()?;
        self.site.rest()?;
        let (accepted, counted) = (lago.stored()?, self.site.delivered()? - before);
        if accepted != counted {
            return Err(Failure::new(format!("{accepted} events were accepted and {counted} delivered")));
        }
        Ok(stored as f64 / took.as_secs_f64())
    }

    /// Looks at the views while it delivers, and at the worker's memory, in megabytes. Before each look it is
    /// filled up again, with `reserve` on top, so that it is as large and does not run out during the look.
    pub fn look_while_delivering(&mut self, times: usize, reserve: u64) -> Outcome<(Looks, Vec<f64>)> {
        let (mut looks, mut megabytes) = (Looks::default(), Vec::new());
        self.site.release()?;
        for _ in 0..times {
            if self.captured - self.site.delivered()? < self.kept + reserve / 2 {
                self.fill(self.kept + reserve)?;
            }
            looks.take(&mut self.site.db)?;
            let worker = self.site.worker().ok_or_else(|| Failure::new("the backlog has no worker"))?;
            megabytes.push(process::own_megabytes(worker)?);
        }
        self.site.hold()?;
        self.site.rest()?;
        Ok((looks, megabytes))
    }
}
