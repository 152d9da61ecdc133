//! Many sites on one server.

use std::thread;
use std::time::{Duration, Instant};

use delivery::cluster::Cluster;

use crate::failure::{Failure, Outcome};
use crate::figures::counted_as_float;
use crate::figures::process;
use crate::figures::site::{self, Site};
use crate::figures::stand_in::StandIn;
use crate::session::Session;

const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub struct Crowd {
    pub sites: Vec<Site>,
    operator: Session,
}

impl Crowd {
    /// A server with so many databases, each delivering what it gets.
    pub fn prepare(databases: usize, url: &str) -> Outcome<Self> {
        let cluster = Cluster::start(&site::server());
        let sites = (1..=databases).map(|number| Site::prepare(&cluster, &format!("{PREFIX}{number}"), url));
        let mut sites = sites.collect::<Outcome<Vec<_>>>()?;
        sites.iter_mut().try_for_each(Site::release)?;
        Ok(Self { sites, operator: Session::open(&cluster, "postgres")? })
    }

    /// Lets workers leave at once when they have nothing to do, and waits until all have.
    pub fn fall_asleep(&mut self) -> Outcome<()> {
        self.operator.run("alter system set lago_push.idle_timeout = 0")?;
        self.operator.run("select pg_reload_conf()")?;
        let awake = format!(
            "select count(*) from pg_stat_activity where datname like '{PREFIX}%' and backend_type = 'lago_push worker'"
        );
        let give_up_at = Instant::now() + WITHIN;
        while self.operator.value::<i64>(&awake)? > 0 {
            if Instant::now() >= give_up_at {
                return Err(Failure::new("workers without work do not leave"));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Lets workers stay again.
    pub fn stay_awake(&mut self) -> Outcome<()> {
        self.operator.run("alter system reset lago_push.idle_timeout")?;
        self.operator.run("select pg_reload_conf()")
    }

    pub fn rest(&mut self) -> Outcome<()> {
        self.sites.iter_mut().try_for_each(Site::rest)
    }

    pub fn deliver_to(&mut self, url: &str) -> Outcome<()> {
        self.sites.iter_mut().try_for_each(|site| site.deliver_to(url))
    }

    /// Delivers a backlog that is spread over the first so many databases; events a second.
    pub fn drain(&mut self, databases: usize, backlog: usize, lago: &mut StandIn) -> Outcome<f64> {
        let sites = &mut self.sites[..databases];
        lago.forget()?;
        for site in &mut *sites {
            site.hold()?;
            site.insert(backlog / databases)?;
        }
        sites.iter_mut().try_for_each(Site::rest)?;
        let start = Instant::now();
        sites.iter_mut().try_for_each(Site::release)?;
        while lago.stored()? < backlog as u64 {
            if start.elapsed() >= WITHIN {
                return Err(Failure::new("a backlog was not delivered in time"));
            }
            thread::sleep(LOOK_EVERY);
        }
        let took = start.elapsed();
        sites.iter_mut().try_for_each(Site::rest)?;
        let stored = lago.stored()?;
        if stored != backlog as u64 {
            return Err(Failure::new(format!("{backlog} events were captured and {stored} accepted")));
        }
        Ok(counted_as_float(backlog) / took.as_secs_f64())
    }

    /// The memory that all workers have for themselves.
    pub fn megabytes(&self) -> Outcome<f64> {
        self.workers()?.into_iter().map(process::own_megabytes).sum()
    }

    /// Seconds of processor time that all workers have used so far.
    pub fn processor_time(&self) -> Outcome<f64> {
        process::used_by(&self.workers()?)
    }

    fn workers(&self) -> Outcome<Vec<i32>> {
        let worker = |site: &Site| {
            site.worker().ok_or_else(|| Failure::new(format!("database {} has no worker", site.name)))
        };
        self.sites.iter().map(worker).collect()
    }
}

/// What the databases' names begin with.
const PREFIX: &str = "many_";
