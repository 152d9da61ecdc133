//! How fast a backlog leaves, from the outbox to Lago, with Lago next door, in the region, and far away.
//!
//! One peer does nothing but send the very same bodies, prepared beforehand, over as many connections: the most the
//! stand-in takes on this machine. The other is what one writes by hand, a poller in Python with Lago's official
//! client, over an outbox of the same content. Beside the time of each the processor time of everybody involved is
//! taken: where all share a few processors, it says who was waiting for whom.

mod findings;
mod placement;
mod poller;
mod rehearsal;

use std::fs;
use std::process;
use std::time::{Duration, Instant};

use delivery::scene::insert_rows;

use super::ground::{BATCH, CONNECTIONS, Contestant, DATABASE, Ground, rotated};
use super::process::used_by;
use super::report::Findings;
use super::stand_in::API_KEY;
use super::{Effort, counted_as_float, raw};
use crate::failure::{Doing, Failure, Outcome};
use placement::Apart;
use poller::{Certificates, Poller};

const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// How far away Lago is: what is added to every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distance {
    NextDoor,
    /// Next door, and half of the processors is Lago's alone, as if it were another machine.
    Apart,
    /// 20 ms.
    Region,
    /// 100 ms, another continent. Sixteen connections with batches of 100 then carry 16,000 events a second at most.
    FarAway,
}

const DISTANCES: [Distance; 4] = [Distance::NextDoor, Distance::Apart, Distance::Region, Distance::FarAway];

impl Distance {
    fn delay(self) -> Duration {
        Duration::from_millis(match self {
            Self::NextDoor | Self::Apart => 0,
            Self::Region => 20,
            Self::FarAway => 100,
        })
    }

    /// Enough events for about a second.
    fn backlog(self, effort: Effort) -> usize {
        match self {
            Self::NextDoor | Self::Apart => effort.choose(100_000, 300_000),
            Self::Region => effort.choose(32_000, 80_000),
            Self::FarAway => effort.choose(12_800, 32_000),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Raw,
    Ours,
    Poller(Certificates),
}

impl Runner {
    /// One poller is shown once only, where its peculiarity shows: it has nothing to do with the distance. And where it
    /// runs says nothing of a client that does one thing after the other.
    fn takes_part(self, distance: Distance) -> bool {
        match self {
            Self::Raw | Self::Ours => true,
            Self::Poller(Certificates::Folder) => distance != Distance::Apart,
            Self::Poller(Certificates::Bundle) => distance == Distance::NextDoor,
        }
    }
}

const RUNNERS: [Runner; 4] =
    [Runner::Raw, Runner::Ours, Runner::Poller(Certificates::Folder), Runner::Poller(Certificates::Bundle)];

/// What one contestant did with its backlog, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    events: f64,
    /// Until the stand-in had answered for everything.
    answered: f64,
    /// Until the contestant had put everything away.
    finished: f64,
    /// Processor time until then.
    by_stand_in: f64,
    by_client: f64,
    /// Of PostgreSQL's processes that worked for the client.
    by_server: f64,
}

struct Turn {
    distance: Distance,
    runner: Runner,
    run: Run,
}

/// A round of all contestants at all distances.
struct Round(Vec<Turn>);

impl Round {
    /// None if this contestant did not take part.
    fn of(&self, distance: Distance, runner: Runner) -> Option<&Run> {
        let turn = self.0.iter().find(|turn| turn.distance == distance && turn.runner == runner);
        turn.map(|turn| &turn.run)
    }
}

/// Those of the contestants that have to be started.
struct Pollers {
    folder: Option<Poller>,
    bundle: Option<Poller>,
}

impl Pollers {
    fn start(ground: &Ground) -> Outcome<Self> {
        let folder = Poller::start(ground, Certificates::Folder)?;
        let bundle = match folder {
            Some(_) => Poller::start(ground, Certificates::Bundle)?,
            None => None,
        };
        Ok(Self { folder, bundle })
    }

    fn of(&mut self, certificates: Certificates) -> Option<&mut Poller> {
        match certificates {
            Certificates::Folder => self.folder.as_mut(),
            Certificates::Bundle => self.bundle.as_mut(),
        }
    }
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let mut pollers = Pollers::start(ground)?;
    rehearsal::check(ground, &mut pollers)?;
    let mut rounds = Vec::new();
    for number in 0..effort.choose(3, 9) {
        let mut round = Round(Vec::new());
        for distance in rotated(&DISTANCES, number) {
            take_turns(ground, &mut pollers, distance, effort, number, &mut round)?;
        }
        rounds.push(round);
    }
    ground.clear()?;
    Ok(findings::of(&rounds))
}

fn take_turns(
    ground: &mut Ground,
    pollers: &mut Pollers,
    distance: Distance,
    effort: Effort,
    number: usize,
    round: &mut Round,
) -> Outcome<()> {
    let payloads = fill(ground, distance.backlog(effort))?;
    let requests = raw::batches(&payloads, BATCH, API_KEY);
    ground.lago.answer_after(distance.delay())?;
    let _apart = match distance {
        Distance::Apart => Apart::put(ground.lago.process(), &everybody_else(ground)?)?,
        Distance::NextDoor | Distance::Region | Distance::FarAway => None,
    };
    for runner in rotated(&RUNNERS, number).into_iter().filter(|runner| runner.takes_part(distance)) {
        ground.lago.forget()?;
        let run = match runner {
            Runner::Raw => send(ground, &requests, payloads.len())?,
            Runner::Ours => drain(ground, payloads.len(), distance)?,
            Runner::Poller(certificates) => {
                let Some(poller) = pollers.of(certificates) else { continue };
                poll(ground, poller, &payloads[..poller_backlog(certificates, effort)], distance)?
            }
        };
        let stored = counted_as_float(usize::try_from(ground.lago.stored()?).unwrap_or(usize::MAX));
        if stored != run.events {
            let sent = run.events;
            return Err(Failure::new(format!("{runner:?} sent {sent} events and {stored} were accepted")));
        }
        round.0.push(Turn { distance, runner, run });
    }
    ground.lago.answer_after(Duration::ZERO)
}

/// A backlog for our worker, and its payloads for everybody else.
fn fill(ground: &mut Ground, backlog: usize) -> Outcome<Vec<String>> {
    ground.clear()?;
    ground.db.run("checkpoint")?;
    ground.db.run(&insert_rows(Contestant::Ours.table(), backlog))?;
    ground.rest()?;
    let rows = ground.db.rows("select payload from lago_push.outbox order by id", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn send(ground: &mut Ground, requests: &[Vec<u8>], events: usize) -> Outcome<Run> {
    let meter = Meter::start(ground, process::id().cast_signed(), Vec::new())?;
    let took = raw::send_all(ground.lago.address(), requests, CONNECTIONS)?.as_secs_f64();
    meter.stop(Run { events: counted_as_float(events), answered: took, finished: took, ..Run::default() })
}

/// From the release of the destination.
fn drain(ground: &mut Ground, events: usize, distance: Distance) -> Outcome<Run> {
    let worker = ground.cluster.worker_pid(DATABASE).ok_or_else(|| Failure::new("there is no worker"))?;
    let background = background_processes(ground)?;
    let meter = Meter::start(ground, worker, background)?;
    let start = Instant::now();
    ground.release()?;
    ground.wait_until_stored(events as u64, DRAINED_WITHIN)?;
    let answered = answer_to_what_is_stored(start, distance);
    if !ground.db.value::<bool>("select lago_push.flush(timeout => '60 s')")? {
        return Err(Failure::new("everything has arrived, but the outbox is not emptied"));
    }
    let finished = start.elapsed().as_secs_f64();
    let run = meter.stop(Run { events: counted_as_float(events), answered, finished, ..Run::default() })?;
    ground.hold()?;
    Ok(run)
}

fn poll(ground: &mut Ground, poller: &mut Poller, payloads: &[String], distance: Distance) -> Outcome<Run> {
    fill_for_poller(ground, payloads)?;
    let mut server = background_processes(ground)?;
    server.extend(processes(ground, "application_name = 'poller'")?);
    let meter = Meter::start(ground, poller.process(), server)?;
    let start = Instant::now();
    poller.begin(&ground.lago.origin())?;
    ground.wait_until_stored(payloads.len() as u64, DRAINED_WITHIN)?;
    let answered = answer_to_what_is_stored(start, distance);
    poller.finish()?;
    let finished = start.elapsed().as_secs_f64();
    meter.stop(Run { events: counted_as_float(payloads.len()), answered, finished, ..Run::default() })
}

/// Fewer, because the pollers are slower: rates are compared. All threads have several batches to take.
fn poller_backlog(certificates: Certificates, effort: Effort) -> usize {
    match certificates {
        Certificates::Folder => effort.choose(6_400, 32_000),
        Certificates::Bundle => effort.choose(3_200, 8_000),
    }
}

/// The same rows as ours, with what a table that has been there for a while has: statistics.
fn fill_for_poller(ground: &mut Ground, payloads: &[String]) -> Outcome<()> {
    let sql = "insert into peer_outbox (sync_id, operation, payload)
               select 1, 'i', payload from unnest($1::text[]) with ordinality as ready (payload, number)
               order by number";
    ground.db.rows(sql, &[&payloads])?;
    ground.db.run("analyze peer_outbox")
}

/// Seconds until the stand-in answers for what it has stored just now: the distance comes after storing. Counted up
/// to there, because that is what the raw client sees, and because the way back is part of the distance.
fn answer_to_what_is_stored(start: Instant, distance: Distance) -> f64 {
    (start.elapsed() + distance.delay()).as_secs_f64()
}

/// The server with all its processes, and this program.
fn everybody_else(ground: &mut Ground) -> Outcome<Vec<i32>> {
    let mut others = processes(ground, "true")?;
    let file = ground.cluster.folder().join("data/postmaster.pid");
    let first = fs::read_to_string(file).doing("read the server's process id")?;
    let postmaster = first.lines().next().and_then(|line| line.trim().parse().ok());
    others.push(postmaster.ok_or_else(|| Failure::new("the server's process id is not understood"))?);
    others.push(process::id().cast_signed());
    Ok(others)
}

/// Those that write what others have changed.
fn background_processes(ground: &mut Ground) -> Outcome<Vec<i32>> {
    processes(ground, "backend_type in ('walwriter', 'background writer', 'checkpointer')")
}

fn processes(ground: &mut Ground, which: &str) -> Outcome<Vec<i32>> {
    let rows = ground.db.rows(&format!("select pid from pg_stat_activity where {which}"), &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Processor time of those involved, from its start on.
struct Meter {
    stand_in: [i32; 1],
    client: [i32; 1],
    server: Vec<i32>,
    before: [f64; 3],
}

impl Meter {
    fn start(ground: &Ground, client: i32, server: Vec<i32>) -> Outcome<Self> {
        let mut meter =
            Self { stand_in: [ground.lago.process()], client: [client], server, before: [0.0; 3] };
        meter.before = meter.read()?;
        Ok(meter)
    }

    fn read(&self) -> Outcome<[f64; 3]> {
        let used = used_by;
        Ok([used(&self.stand_in)?, used(&self.client)?, used(&self.server)?])
    }

    fn stop(&self, run: Run) -> Outcome<Run> {
        let after = self.read()?;
        let [by_stand_in, by_client, by_server] = std::array::from_fn(|at| after[at] - self.before[at]);
        Ok(Run { by_stand_in, by_client, by_server, ..run })
    }
}
