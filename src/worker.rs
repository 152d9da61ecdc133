//! Worker: one process per database that moves messages from the outbox to Lago.
//!
//! Three separate steps, never two at once: read in a short transaction; send with none open; settle
//! in a short transaction. What is in flight is known in this process's memory only, and vanishes
//! with it: after a crash the messages are still in the outbox and go out again, byte for byte, and
//! Lago recognizes them. Any error therefore simply ends the process; the launcher starts another.

mod backed;
mod read;
mod replies;
mod runs;
mod settle;
mod speed;
mod start;
mod ticks;

use self::backed::Unbacked;
use self::read::{now_unix, since_2000};
use self::runs::Runs;
use self::speed::{Pace, Speed};
use self::ticks::Ticks;
use crate::backoff::Dice;
use crate::cap::Watch;
use crate::cursor::{Cursor, Range};
use crate::destination::{Directory, Gate};
use crate::endpoint::Repeat;
use crate::guard::Guard;
use crate::lane::{Lane, Next, Pressure};
use crate::message::Message;
use crate::outbox::{self, Settlement, Statements};
use crate::pg::claim::{self, Claim};
use crate::pg::process::{self, Continue, Wait};
use crate::pg::{compat, xact};
use crate::request::Shape;
use crate::schedule::UnixMicros;
use crate::sender::{Errand, Job, Senders, Transport};
use crate::settings;
use crate::shared::{self, Activity, Slot, State};
use crate::version;
use pgrx::pg_sys;
use pgrx::prelude::*;
use rustc_hash::FxHashSet;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const PROCESS_TYPE: &str = "lago_push worker";

/// How long a busy worker leaves new messages to gather before it looks again: well below the time
/// in which a batch that is not full goes out anyway.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// How long a worker that is sent away waits for answers: `DROP DATABASE` gives up after five seconds.
const KEPT_OUT_PATIENCE: Duration = Duration::from_secs(2);

/// How often expired replies are removed at most.
const EXPIRY_PAUSE: Duration = Duration::from_secs(60);

thread_local! {
    /// The slot to leave when this process ends.
    static OWN_SLOT: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

/// Entry point of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn lago_push_worker(database: pg_sys::Datum) {
    let database = pg_sys::Oid::from(database.value() as u32);
    process::begin(Some(database));
    // What a database or role sets for its users must not decide how money is delivered.
    let settings = [
        ("search_path", "pg_catalog, pg_temp"),
        ("default_transaction_read_only", "off"),
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("row_security", "off"),
        // A settlement lost in a crash is repeated: Lago recognizes what it has.
        ("synchronous_commit", "off"),
        ("application_name", "lago_push"),
    ];
    for (name, value) in settings.iter().chain(compat::EXTRA_WORKER_SETTINGS) {
        process::set_for_worker(name, value);
    }
    // Where the extension is not installed, or somebody else's schema bears its name, there is nothing to do.
    if xact::in_transaction(outbox::tables).is_none() {
        shared::nothing_to_do_here();
        return;
    }
    if claim::claim_worker() == Claim::AnotherSessions {
        return;
    }
    let Some(slot) = shared::own_slot() else { return };
    OWN_SLOT.set(Some(slot));
    process::at_exit(farewell);
    slot.enter();
    pgrx::log!("lago_push worker started");
    remark_on_version();
    match Worker::new(slot).map(Worker::run) {
        Ok(Ok(())) => slot.ends_well(),
        Ok(Err(error)) => pgrx::error!("lago_push worker ends: {error}"),
        Err(error) => pgrx::error!("lago_push worker cannot start: {error}"),
    }
    pgrx::log!("lago_push worker stopped");
}

/// Once for each start of a worker, and never while it works: it goes on by what is there.
fn remark_on_version() {
    let remark = xact::in_transaction(|| {
        let installed = version::installed().ok().flatten()?;
        version::remark(&process::database_name(process::own_database())?, &installed)
    });
    if let Some(remark) = remark {
        pgrx::log!("{remark}");
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn farewell(_code: core::ffi::c_int, _argument: pg_sys::Datum) {
    shared::forget_in_flight();
    if let Some(slot) = OWN_SLOT.take() {
        slot.leave();
    }
}

type Failure = Box<dyn std::error::Error>;

struct Worker {
    slot: &'static Slot,
    tables: Option<outbox::Tables>,
    /// Of the SQL its statements were prepared for.
    version: Option<String>,
    guard: Guard,
    statements: Statements,
    senders: Senders,
    /// None until the first read.
    directory: Option<Directory>,
    lanes: BTreeMap<i32, Lane>,
    transports: BTreeMap<i32, Arc<Transport>>,
    cursor: Cursor,
    /// The outbox may hold more behind the cursor than was read.
    more: bool,
    /// When the outbox was last read.
    looked_at: Option<Instant>,
    /// What follows from replies and is not written down yet.
    settlement: Settlement,
    unsettled_since: Option<Instant>,
    /// Ids held in any lane.
    known: FxHashSet<i64>,
    /// Ids the cursor passed because their sync is paused, or not known yet.
    paused: BTreeMap<i32, Range>,
    /// Syncs that messages name and the directory does not; and since when, at the latest, the messages
    /// may have been committed.
    strangers: BTreeMap<i32, UnixMicros>,
    /// What was read and waits for standbys; nothing more is read meanwhile.
    unbacked: Option<Unbacked>,
    /// What waits for the clock.
    ticks: Ticks,
    /// Queries that run, or wait for the clock too.
    runs: Runs,
    /// Messages whose call was begun by an earlier worker.
    lost: Vec<Message>,
    /// What was enqueued later can only have been sent by requests this worker still knows of.
    /// Microseconds since 2000.
    untried_since: i64,
    /// A trigger on them took too long.
    no_replies_until: Option<Instant>,
    /// When expired replies were last removed.
    expired_at: Option<Instant>,
    /// Whatever was committed by then has been seen.
    complete_at: UnixMicros,
    dice: Dice,
    speed: Speed,
    /// How fast each destination takes messages.
    paces: BTreeMap<i32, Pace>,
    /// Below this id there is no message any more, as it was noted last.
    start: i64,
    /// When that was looked at last.
    start_looked_at: Option<Instant>,
    /// What it knows of the counters of syncs with a cap.
    caps: Watch,
}

impl Worker {
    fn new(slot: &'static Slot) -> Result<Worker, Failure> {
        let statements = xact::in_transaction(Statements::prepare)?;
        let start = xact::in_transaction(|| outbox::start(&statements))?;
        Ok(Worker {
            slot,
            tables: xact::in_transaction(outbox::tables),
            statements,
            version: xact::in_transaction(version::installed)?,
            guard: Guard::Asking,
            senders: Senders::new()?,
            directory: None,
            lanes: BTreeMap::new(),
            transports: BTreeMap::new(),
            cursor: Cursor::default(),
            more: true,
            looked_at: None,
            settlement: Settlement::default(),
            unsettled_since: None,
            known: FxHashSet::default(),
            paused: BTreeMap::new(),
            strangers: BTreeMap::new(),
            unbacked: None,
            ticks: Ticks::default(),
            runs: Runs::default(),
            lost: Vec::new(),
            untried_since: process::now(),
            no_replies_until: None,
            expired_at: None,
            complete_at: UnixMicros::MIN,
            dice: Dice::new(u64::from(process::own_pid().unsigned_abs()) << 32 ^ process::now() as u64),
            speed: Speed::new(Instant::now()),
            paces: BTreeMap::new(),
            start,
            start_looked_at: None,
            caps: Watch::default(),
        })
    }

    fn run(mut self) -> Result<(), Failure> {
        if self.work()? == Outbox::Gone {
            return Ok(());
        }
        self.await_answers()?;
        // Nobody has to be connected just to wait: the launcher looks at the clock.
        let tick = self.ticks.next(|sync| self.is_open(sync)).into_iter().chain(self.next_run()).min();
        self.slot.set_tick(tick.map(since_2000));
        if self.lanes.iter().any(|(id, lane)| !lane.is_idle() && self.gate(*id) == Gate::Open) {
            // It was sent away in the middle of its work, which no commit will announce.
            self.slot.want_again();
        }
        Ok(())
    }

    /// Reads, sends and settles until there is nothing to do, or somebody asks it to leave.
    fn work(&mut self) -> Result<Outbox, Failure> {
        let mut news = true;
        let called = self.slot.is_wanted();
        let mut first_round = true;
        loop {
            if self.slot.keep_out_microseconds() > 0 {
                return Ok(Outbox::Here);
            }
            self.take_in();
            // First of all, connections that have become free get something to do, unless somebody has paused or
            // changed something: who did is told that it is so.
            let mut due = if self.slot.is_redefined() { None } else { self.dispatch()? };
            if self.settles_at().is_none_or(|settles_at| settles_at <= Instant::now()) {
                self.settle()?;
            }
            self.come_to_now();
            self.expire_replies();
            // While it is left set, commits set no latch: neither when nothing can be delivered, nor
            // between two looks at an outbox that is being written to all the time.
            let look_at = self.next_look();
            let is_backed = self.unbacked_pause().is_none();
            if self.can_deliver() && look_at.is_none() && is_backed {
                news |= self.slot.take_wanted();
            }
            if is_backed && (news || self.wants_to_read()) || self.slot.is_redefined() {
                // What has been delivered must not be found again.
                self.settle()?;
                self.set_busy(Activity::Reading);
                if self.read(if news { News::Yes } else { News::No })? == Outbox::Gone {
                    return Ok(Outbox::Gone);
                }
                news = false;
                self.looked_at = Some(Instant::now());
                if self.slot.is_redefined() {
                    // After the definitions were read: what was found may have been written later still.
                    continue;
                }
                due = self.dispatch()?;
            }
            self.hear_of_runs()?;
            self.start_runs();
            // A flag left set would not be seen again: nobody sets the latch for it.
            let may_read = self.wants_to_read()
                || self.slot.is_wanted() && self.can_deliver() && self.next_look().is_none();
            if may_read && self.unbacked.is_none() {
                if process::wait(Wait::Reply, Some(Duration::ZERO), None) == Continue::No {
                    return Ok(Outbox::Here);
                }
                continue;
            }
            let at_rest = self
                .lanes
                .iter()
                .all(|(id, lane)| lane.is_idle() || self.gate(*id) == Gate::Held && lane.in_flight() == 0);
            if first_round && at_rest && !called {
                self.put_caps_right();
                return Ok(Outbox::Here);
            }
            first_round = false;
            let now = Instant::now();
            let look_at = self.next_look().filter(|_| self.slot.is_wanted());
            let until_work = due
                .into_iter()
                .chain(look_at)
                .chain(self.settles_at())
                .min()
                .map(|due| due.saturating_duration_since(now));
            let until_leave = settings::idle_timeout();
            let until_leave = (at_rest && until_work.is_none()).then_some(until_leave);
            let timeout = [until_work, until_leave, self.until_tick()].into_iter().flatten().min();
            let wait = if at_rest {
                self.put_caps_right();
                self.slot.set_state(State::Idle);
                self.slot.set_activity(Activity::Idle);
                self.slot.set_rate(0.0);
                process::show_idle();
                Wait::Idle
            } else {
                self.slot.set_rate(self.speed.per_second(now));
                self.show_wait()
            };
            if process::wait(wait, timeout, Some(self.senders.descriptor())) == Continue::No {
                return Ok(Outbox::Here);
            }
            let rested = at_rest && due.is_none() && now.elapsed() >= settings::idle_timeout();
            if rested && !self.can_deliver() {
                // What waits here waits for an operator, who sets the other flag.
                self.slot.take_wanted();
            }
            if rested && !self.slot.is_wanted() && !self.slot.is_redefined() && !self.slot.has_news_of_runs()
            {
                return Ok(Outbox::Here);
            }
        }
    }

    /// Corrects the counters of syncs of which nothing waits: all that is committed has been seen, and
    /// neither a lane nor a tick nor a pause keeps anything back.
    fn put_caps_right(&mut self) {
        if self.more || self.cursor.next_again().is_some() {
            return;
        }
        let Self { caps, directory, lanes, paused, ticks, .. } = self;
        caps.put_right(|sync| {
            let delivery = directory.as_ref().and_then(|directory| directory.syncs.get(&sync));
            let lane = delivery.and_then(|delivery| lanes.get(&delivery.destination));
            lane.is_some_and(|lane| lane.is_idle() && lane.behind.is_none())
                && !paused.contains_key(&sync)
                && !ticks.holds(sync)
        });
    }

    /// Takes in the answers to what is under way, as long as there is patience for them: what is
    /// answered need not go again, and of a call that must not be repeated the outcome stays known.
    fn await_answers(&mut self) -> Result<(), Failure> {
        let patience = match self.slot.keep_out_microseconds() {
            0 => settings::shutdown_patience(),
            // Somebody waits for the database, and not for long.
            _ => settings::shutdown_patience().min(KEPT_OUT_PATIENCE),
        };
        let deadline = Instant::now() + patience;
        loop {
            self.take_in();
            self.settle()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if self.in_flight() == 0 || left.is_zero() {
                return Ok(());
            }
            self.slot.set_activity(Activity::Leaving);
            process::show(Activity::Leaving.words());
            process::wait(Wait::Reply, Some(left), Some(self.senders.descriptor()));
        }
    }

    /// Removes replies whose time is over, now and then while there is work anyway.
    fn expire_replies(&mut self) {
        let now = Instant::now();
        if self.expired_at.is_none_or(|expired_at| now - expired_at >= EXPIRY_PAUSE) {
            self.expired_at = Some(now);
            xact::in_transaction(|| outbox::expire_replies(&self.statements));
        }
    }

    /// Lets go what has had its tick.
    fn come_to_now(&mut self) {
        let syncs = self.directory.as_ref().map(|directory| &directory.syncs);
        self.ticks.come_to(now_unix(), |sync| {
            syncs.and_then(|syncs| syncs.get(&sync)).is_some_and(|sync| sync.gate == Gate::Open)
        });
    }

    fn until_tick(&self) -> Option<Duration> {
        let tick = self.ticks.next(|sync| self.is_open(sync)).into_iter().chain(self.next_run()).min()?;
        Some(Duration::from_micros(u64::try_from(tick.saturating_sub(now_unix())).unwrap_or(0)))
    }

    /// Whether any destination takes deliveries.
    fn can_deliver(&self) -> bool {
        self.directory.as_ref().is_none_or(|directory| {
            directory.destinations.values().any(|destination| destination.gate == Gate::Open)
        })
    }

    /// The next moment to look for new messages, if that is not now. An idle worker looks at once; one
    /// that has requests under way looks now and then, since what it finds would wait for company
    /// anyway, and every look costs the writers' machine a snapshot and two switches of process.
    fn next_look(&self) -> Option<Instant> {
        if self.in_flight() == 0 {
            return None;
        }
        self.looked_at.map(|looked_at| looked_at + LOOK_PAUSE).filter(|look_at| *look_at > Instant::now())
    }

    fn set_busy(&self, what: Activity) {
        self.slot.set_state(State::Working);
        self.slot.set_activity(what);
        self.slot.note_activity();
        process::show(what.words());
    }

    /// Shows what a worker that is not at rest waits for.
    fn show_wait(&self) -> Wait {
        let in_flight = self.in_flight();
        let (activity, wait) = match in_flight {
            0 if self.unbacked.is_some() => (Activity::Backing, Wait::Standby),
            0 => (Activity::Pausing, Wait::Pause),
            _ => (Activity::Waiting, Wait::Reply),
        };
        self.slot.set_activity(activity);
        match activity {
            Activity::Waiting => {
                process::show(&format!("{}: {in_flight} requests under way", activity.words()))
            }
            _ => process::show(activity.words()),
        }
        wait
    }

    fn in_flight(&self) -> usize {
        self.lanes.values().map(Lane::in_flight).sum()
    }

    fn gate(&self, destination: i32) -> Gate {
        self.directory
            .as_ref()
            .and_then(|directory| directory.destinations.get(&destination))
            .map_or(Gate::Held, |destination| destination.gate)
    }

    /// Sends what may go. Gives the next moment at which something may.
    fn dispatch(&mut self) -> Result<Option<Instant>, Failure> {
        if let Some(pause) = self.unbacked_pause() {
            return Ok(Some(Instant::now() + pause));
        }
        let mut next_due: Option<Instant> = None;
        let mut jobs = Vec::new();
        for (id, lane) in &mut self.lanes {
            let Some(transport) = self.transports.get(id) else { continue };
            let destination = self.directory.as_ref().and_then(|directory| directory.destinations.get(id));
            if destination.is_none_or(|destination| destination.gate == Gate::Held) {
                continue;
            }
            loop {
                let (messages, errand) = match lane.next(Instant::now()) {
                    Next::Send(messages) => (messages, Errand::Deliver),
                    Next::LookUp(message, look) => (vec![message], Errand::LookUp(look)),
                    Next::Wait(due) => {
                        next_due = [next_due, due].into_iter().flatten().min();
                        break;
                    }
                };
                let Some(shape) = shape_of(self.directory.as_ref(), &messages) else {
                    // Its sync went while it waited here: the next read finds it again.
                    lane.returned(&messages);
                    for message in messages {
                        lane.settled(&message);
                        self.known.remove(&message.id);
                        widen(&mut self.paused, message.sync, message.id);
                    }
                    continue;
                };
                jobs.push(Job { lane: *id, transport: Arc::clone(transport), shape, messages, errand });
            }
        }
        self.note_pressure();
        let noted = self.note_begun(&jobs)?;
        let touched: BTreeSet<i32> = jobs.iter().map(|job| job.lane).collect();
        for job in jobs {
            // No thread can be started, if the machine is out of them for now.
            let unsent = match noted {
                Continue::Yes => self.senders.send(job).err(),
                Continue::No => Some(Box::new(job)),
            };
            if let Some(job) = unsent
                && let Some(lane) = self.lanes.get_mut(&job.lane)
            {
                lane.returned(&job.messages);
                for message in job.messages.into_iter().rev() {
                    match &job.errand {
                        Errand::Deliver => lane.resend(message, Instant::now()),
                        Errand::LookUp(look) => lane.look_up(message, look.clone(), Instant::now()),
                        // About no message.
                        Errand::Ask(_) => {}
                    }
                }
                next_due = Some(Instant::now() + Duration::from_secs(1));
            }
        }
        for id in touched {
            shared::publish_in_flight(id, self.lanes.get(&id).map_or(0, Lane::in_flight));
        }
        Ok(next_due)
    }

    /// Only what a destination takes while there is enough to do says how fast it is.
    fn note_pressure(&mut self) {
        let now = Instant::now();
        for (id, lane) in &self.lanes {
            let pace = self.paces.entry(*id).or_default();
            let gate = self.directory.as_ref().and_then(|directory| directory.destinations.get(id));
            match lane.pressure() {
                Pressure::Full if gate.is_some_and(|known| known.gate == Gate::Open) => pace.press(now),
                Pressure::Full | Pressure::None => pace.rest(now),
            }
        }
        self.paces.retain(|id, _| self.lanes.contains_key(id));
    }

    /// Writes down, on disk and on synchronous standbys, which calls begin that must not be made twice:
    /// should this process or the server die before they are settled, nobody would know otherwise. Says
    /// whether they may begin.
    fn note_begun(&self, jobs: &[Job]) -> Result<Continue, Failure> {
        let begun: Vec<i64> = jobs
            .iter()
            .filter(|job| job.shape.call.repeat == Repeat::Never && job.errand == Errand::Deliver)
            .flat_map(|job| job.messages.iter().map(|message| message.id))
            .collect();
        if begun.is_empty() {
            return Ok(Continue::Yes);
        }
        xact::in_transaction(|| outbox::begin_calls(&self.statements, &begun))?;
        // That commit too: it did not wait for the disk.
        let end = xact::in_transaction(xact::flush_log);
        let go_on = self.wait_for_standbys(end);
        if go_on == Continue::No {
            xact::in_transaction(|| outbox::take_back_calls(&self.statements, &begun))?;
        }
        Ok(go_on)
    }
}

/// What a request of these messages looks like; they are all of one group.
fn shape_of(directory: Option<&Directory>, messages: &[Message]) -> Option<Arc<Shape>> {
    directory?.syncs.get(&messages.first()?.sync)?.shape.clone()
}

fn widen(ranges: &mut BTreeMap<i32, Range>, sync: i32, id: i64) {
    let range = ranges.entry(sync).or_insert(Range { from: id, to: id });
    range.from = range.from.min(id);
    range.to = range.to.max(id);
}

/// Whether the extension is still the one this worker was started for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outbox {
    Here,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    Yes,
    No,
}
