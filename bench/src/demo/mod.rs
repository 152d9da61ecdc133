//! The demo: pgbench's standard workload on a throwaway server, every transaction of it billed.
//!
//! In the order in which a person watches it: what is about to happen, the SQL, the workload, the account, the
//! bill, the time from commit to arrival. It fails if one event or one unit of `delta` is missing or too many.

mod bill;
mod lone;
mod place;
mod setup;
mod status;
mod workload;

use std::time::Instant;

use delivery::cluster::{Cluster, Options};

use crate::failure::{Doing, Failure, Outcome};
use crate::pgbench;
use crate::session::Session;
use crate::text::indented;
use place::Place;

/// pgbench's scale: this many branches, and for each of them 100,000 accounts.
const BRANCHES: u32 = 10;
const SECONDS: u32 = 6;
const CLIENTS: u32 = 4;

const DATABASE: &str = "demo";
/// The code of the billable metric, and the property it sums.
const METRIC: &str = "delta";
/// The margin of everything that is not a heading.
const MARGIN: usize = 4;

/// Starts everything, shows it, and leaves nothing behind. What the server logged last is shown after a
/// failure.
pub fn run() -> Outcome<()> {
    println!("lago_push: PostgreSQL's own benchmark, billed while it runs\n");
    let place = Place::from_environment()?;
    // A Lago that cannot be asked stops the demo before anything is started.
    let before = place.count_before()?;
    let cluster = Cluster::start(&Options::durable().with("shared_buffers", "256MB"));
    announce(&cluster, &place)?;
    show(&cluster, &place, before).map_err(|failure| with_log(&failure, &cluster))?;
    heading("All is well");
    say("Everything that was started for this is being removed.");
    say("Next: `make test` proves it under faults, and `make install` puts it into your PostgreSQL.");
    say("README.md has the ten lines from a table of yours to a bill.");
    Ok(())
}

fn announce(cluster: &Cluster, place: &Place) -> Outcome<()> {
    let version: String = Session::open(cluster, "postgres")?.value("show server_version")?;
    let number = version.split(' ').next().unwrap_or_default();
    say(&format!("server    PostgreSQL {number}, a throwaway cluster on a Unix socket, writes are durable"));
    say(&format!("Lago      {}", place.description()));
    say(&format!(
        "workload  pgbench's standard transactions: {CLIENTS} clients, {SECONDS} seconds, {BRANCHES} branches"
    ));
    say("bill      one event for each transaction, one subscription for each branch, the sum of delta");
    if let Some(needs) = place.needs() {
        println!("\n{}", indented(&needs, MARGIN).trim_end());
    }
    Ok(())
}

fn show(cluster: &Cluster, place: &Place, before: u64) -> Outcome<()> {
    heading("The workload's tables");
    cluster.create_database(DATABASE);
    let start = Instant::now();
    let scale = BRANCHES.to_string();
    say(&format!("$ pgbench -i -s {scale} {DATABASE}"));
    pgbench::initialize(cluster, DATABASE, &["-i", "-q", "-s", &scale])?;
    say(&format!("{BRANCHES} branches, done in {:.1} s", start.elapsed().as_secs_f64()));

    heading("The SQL that makes them billable");
    let mut db = Session::open(cluster, DATABASE)?;
    setup::run(&mut db, place)?;

    heading("The workload");
    let drained = workload::run(cluster, &mut db)?;

    heading("select * from lago_push.status");
    print!("{}", indented(&status::expanded(cluster)?, MARGIN));

    heading("The account");
    bill::check(&mut db, place, before, bill::Show::Table)?;

    heading("From commit to arrival");
    say(&format!("After pgbench's last commit {drained}."));
    lone::measure(cluster, &mut db, place)?;
    // Those commits are billed too.
    bill::check(&mut db, place, before, bill::Show::OnlyDifferences)
}

fn with_log(failure: &Failure, cluster: &Cluster) -> Failure {
    let log = indented(&cluster.log_tail(None), MARGIN);
    Failure::new(format!("{failure}\n\nThe server's log ends:\n{log}"))
}

fn heading(text: &str) {
    println!("\n── {text}");
}

fn say(text: &str) {
    print!("{}", indented(text, MARGIN));
}

/// A number of the database that counts something.
fn unsigned(number: i64) -> Outcome<u64> {
    u64::try_from(number).doing("read a count")
}
