//! Worker: one process per database that moves messages from the outbox to Lago.
//!
//! Three separate steps, never two at once: read in a short transaction; send with none open; settle
//! in a short transaction. What is in flight is known in this process's memory only, and vanishes
//! with it: after a crash the messages are still in the outbox and go out again, byte for byte, and
//! Lago recognizes them. Any error therefore simply ends the process; the launcher starts another.

use crate::backoff::{self, Dice};
use crate::cursor::{Cursor, Progress, Range};
use crate::destination::{self, Delivery, Directory, Gate};
use crate::endpoint::{self, Batch};
use crate::lane::{Company, Lane, Message, Next};
use crate::outbox::{self, Again, Dead, Found, Settlement, Span, Statements};
use crate::pg::process::{self, Continue};
use crate::pg::{compat, xact};
use crate::sender::{Done, Job, Senders, Transport};
use crate::settings;
use crate::shared::{self, Slot, State};
use crate::verdict::{Condition, Fate, Outcome, Verdict, judge};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const PROCESS_TYPE: &str = "lago_push worker";

/// Messages read by one statement: the overhead of a statement is small against so many, and so is
/// their memory against any budget.
const PAGE: usize = 500;
/// A reply kept with a dead letter is cut to this: enough for any error Lago explains.
const MOST_KEPT_REPLY: usize = 16 * 1024;

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
    if !process::become_the_only_worker() {
        return;
    }
    let Some(slot) = shared::own_slot() else { return };
    OWN_SLOT.set(Some(slot));
    process::at_exit(farewell);
    slot.enter();
    pgrx::log!("lago_push worker started");
    match Worker::new(slot).map(Worker::run) {
        Ok(Ok(())) => slot.ends_well(),
        Ok(Err(error)) => pgrx::error!("lago_push worker ends: {error}"),
        Err(error) => pgrx::error!("lago_push worker cannot start: {error}"),
    }
    pgrx::log!("lago_push worker stopped");
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
    statements: Statements,
    senders: Senders,
    /// None until the first read.
    directory: Option<Directory>,
    lanes: BTreeMap<i32, Lane>,
    transports: BTreeMap<i32, Arc<Transport>>,
    cursor: Cursor,
    /// The outbox may hold more behind the cursor than was read.
    more: bool,
    /// Ids held in any lane.
    known: HashSet<i64>,
    /// Ids the cursor passed because their sync is paused, or not known yet.
    paused: BTreeMap<i32, Range>,
    /// Syncs that messages name and the directory does not.
    strangers: BTreeSet<i32>,
    dice: Dice,
    speed: Speed,
}

impl Worker {
    fn new(slot: &'static Slot) -> Result<Worker, Failure> {
        Ok(Worker {
            slot,
            tables: xact::in_transaction(outbox::tables),
            statements: xact::in_transaction(Statements::prepare)?,
            senders: Senders::new()?,
            directory: None,
            lanes: BTreeMap::new(),
            transports: BTreeMap::new(),
            cursor: Cursor::default(),
            more: true,
            known: HashSet::new(),
            paused: BTreeMap::new(),
            strangers: BTreeSet::new(),
            dice: Dice::new(u64::from(process::own_pid().unsigned_abs()) << 32 ^ process::now() as u64),
            speed: Speed::new(Instant::now()),
        })
    }

    fn run(mut self) -> Result<(), Failure> {
        let mut news = true;
        let called = self.slot.is_wanted();
        let mut first_round = true;
        loop {
            if self.slot.keep_out_microseconds() > 0 {
                return Ok(());
            }
            news |= self.slot.take_wanted();
            if news || self.wants_to_read() || !self.strangers.is_empty() {
                self.set_busy("reading the outbox");
                if self.read(if news { News::Yes } else { News::No })? == Outbox::Gone {
                    return Ok(());
                }
                news = false;
            }
            self.settle_done()?;
            let due = self.dispatch();
            if self.wants_to_read() || !self.strangers.is_empty() {
                if process::wait(Some(Duration::ZERO), None) == Continue::No {
                    return Ok(());
                }
                continue;
            }
            let at_rest = self
                .lanes
                .iter()
                .all(|(id, lane)| lane.is_idle() || self.gate(*id) == Gate::Held && lane.in_flight() == 0);
            if first_round && at_rest && !called {
                return Ok(());
            }
            first_round = false;
            let now = Instant::now();
            let timeout = match due {
                Some(due) => Some(due.saturating_duration_since(now)),
                None if at_rest => Some(settings::idle_timeout()),
                None => None,
            };
            if at_rest {
                self.slot.set_state(State::Idle);
                self.slot.set_rate(0.0);
                process::show_idle();
            } else {
                self.slot.set_rate(self.speed.per_second(now));
                process::show(&format!("waiting for Lago: {} requests under way", self.in_flight()));
            }
            if process::wait(timeout, Some(self.senders.descriptor())) == Continue::No {
                return Ok(());
            }
            let rested = at_rest && due.is_none() && now.elapsed() >= settings::idle_timeout();
            if rested && !self.slot.is_wanted() {
                return Ok(());
            }
        }
    }

    fn set_busy(&self, what: &str) {
        self.slot.set_state(State::Working);
        self.slot.note_activity();
        process::show(what);
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

    // ---- read ----------------------------------------------------------------------------------

    fn read(&mut self, news: News) -> Result<Outbox, Failure> {
        // Asked before the snapshot is taken: whoever sets the flag has committed, so this snapshot
        // sees what it stands for.
        let redefined = self.slot.take_redefined() || self.directory.is_none() || !self.strangers.is_empty();
        xact::in_transaction(|| {
            if redefined {
                if outbox::tables() != self.tables {
                    return Ok(Outbox::Gone);
                }
                let directory = destination::read()?;
                self.bury_strangers(&directory)?;
                self.adopt(directory);
            }
            if news == News::Yes {
                self.cursor.observe(&xact::running_in_snapshot());
                self.more = true;
            }
            let before = self.known.len();
            self.read_again()?;
            self.catch_up()?;
            self.read_on()?;
            if self.known.len() > before {
                // Visible is not yet durable, where synchronous_commit is off; what Lago bills must
                // not be undone here by a crash.
                xact::flush_log();
            }
            Ok(Outbox::Here)
        })
    }

    /// Ranges in which a late commit may have filled a hole.
    fn read_again(&mut self) -> Result<(), Failure> {
        // Whatever there is no room for is passed over and caught up with later.
        while let Some(range) = self.cursor.next_again() {
            let page = outbox::read(&self.statements, &Span::Between(range), PAGE)?;
            self.cursor.read_again(progress(&page.found, PAGE));
            self.admit(page.found, Reader::Cursor);
        }
        Ok(())
    }

    /// What lanes had no room for when the cursor passed.
    fn catch_up(&mut self) -> Result<(), Failure> {
        let budget = self.budget();
        let behind: Vec<i32> =
            self.lanes.iter().filter(|(_, lane)| lane.behind.is_some()).map(|(id, _)| *id).collect();
        for destination in behind {
            let syncs: Vec<i32> = self.open_syncs(destination).collect();
            while let Some((range, lane)) =
                self.lanes.get(&destination).and_then(|lane| Some((lane.behind?, lane)))
            {
                if self.gate(destination) == Gate::Held || !budget.has_room(lane) {
                    break;
                }
                let page = outbox::read(&self.statements, &Span::Of(range, &syncs), PAGE)?;
                let progress = progress(&page.found, PAGE);
                if let Some(lane) = self.lanes.get_mut(&destination) {
                    lane.behind = match progress {
                        Progress::UpTo(last) if last < range.to => {
                            Some(Range { from: last + 1, to: range.to })
                        }
                        _ => None,
                    };
                }
                self.admit(page.found, Reader::CatchUp);
            }
        }
        Ok(())
    }

    /// What is behind the cursor.
    fn read_on(&mut self) -> Result<(), Failure> {
        while self.can_read_on() {
            let page = outbox::read(&self.statements, &Span::After(self.cursor.last()), PAGE)?;
            self.more = page.found.len() == PAGE;
            self.cursor.advance(page.found.iter().map(|found| found.message.id), &page.running);
            self.admit(page.found, Reader::Cursor);
        }
        Ok(())
    }

    /// Whether there may be something to read that could be taken in.
    fn wants_to_read(&self) -> bool {
        self.cursor.next_again().is_some()
            || self.can_read_on()
            || self.lanes_with_room().any(|lane| lane.behind.is_some())
    }

    /// Whether moving the cursor could give any lane something to do. Where none can take messages it
    /// stays, and nothing has to be read a second time.
    fn can_read_on(&self) -> bool {
        self.more && self.lanes_with_room().any(|lane| lane.behind.is_none())
    }

    fn lanes_with_room(&self) -> impl Iterator<Item = &Lane> {
        let budget = self.budget();
        self.lanes
            .iter()
            .filter(move |(id, lane)| self.gate(**id) == Gate::Open && budget.has_room(lane))
            .map(|(_, lane)| lane)
    }

    fn budget(&self) -> Budget {
        Budget { bytes: settings::worker_memory_bytes() / self.lanes.len().max(1) }
    }

    fn open_syncs(&self, destination: i32) -> impl Iterator<Item = i32> {
        self.directory
            .iter()
            .flat_map(|directory| &directory.syncs)
            .filter(move |(_, sync)| sync.destination == destination && sync.gate == Gate::Open)
            .map(|(id, _)| *id)
    }

    fn sync(&self, sync: i32) -> Option<&Delivery> {
        self.directory.as_ref()?.syncs.get(&sync)
    }

    fn is_open(&self, sync: i32) -> bool {
        self.sync(sync).is_some_and(|sync| sync.gate == Gate::Open)
    }

    fn admit(&mut self, found: Vec<Found>, reader: Reader) {
        let (now, budget) = (Instant::now(), self.budget());
        for Found { message, wait } in found {
            let id = message.id;
            if self.known.contains(&id) {
                continue;
            }
            let Some(Delivery { destination, gate, .. }) = self.sync(message.sync) else {
                widen(&mut self.paused, message.sync, id);
                self.strangers.insert(message.sync);
                continue;
            };
            if *gate == Gate::Held {
                widen(&mut self.paused, message.sync, id);
                continue;
            }
            let (destination, gate) = (*destination, self.gate(*destination));
            let Some(lane) = self.lanes.get_mut(&destination) else { continue };
            let takes = match reader {
                Reader::Cursor => gate == Gate::Open && lane.behind.is_none() && budget.has_room(lane),
                Reader::CatchUp => true,
            };
            if takes {
                self.known.insert(id);
                lane.admit(message, wait.map(|wait| now + wait), now);
            } else {
                lane.pass_over(id);
            }
        }
    }

    /// A message may name a sync newer than the directory; then the directory just read has it. Or one
    /// dropped while the message was in a prepared transaction: nobody will ever deliver it, so it
    /// becomes a dead letter, for somebody to see.
    fn bury_strangers(&mut self, directory: &Directory) -> Result<(), Failure> {
        for sync in std::mem::take(&mut self.strangers) {
            if !directory.syncs.contains_key(&sync) {
                self.paused.remove(&sync);
                outbox::bury_all(&self.statements, sync)?;
            }
        }
        Ok(())
    }

    /// Takes over changed definitions.
    fn adopt(&mut self, directory: Directory) {
        for (id, new) in &directory.destinations {
            let old = self.directory.as_ref().and_then(|directory| directory.destinations.get(id));
            if old.is_none_or(|old| old.route != new.route) || !self.transports.contains_key(id) {
                self.transports.remove(id);
                match Transport::new(new.route.clone()) {
                    Ok(transport) => drop(self.transports.insert(*id, Arc::new(transport))),
                    Err(why) => pgrx::warning!("destination \"{}\" cannot be used: {why}", new.name),
                }
            }
            let lane = self.lanes.entry(*id).or_insert_with(|| Lane::new(new.limits));
            lane.limits = new.limits;
            // Whoever changed something or released it wants to see it tried now.
            lane.reopen();
        }
        // A destination is dropped only after its syncs, and these with their messages.
        self.lanes.retain(|id, lane| {
            let stays = directory.destinations.contains_key(id);
            if !stays {
                for id in lane.ids() {
                    self.known.remove(&id);
                }
            }
            stays
        });
        self.transports.retain(|id, _| directory.destinations.contains_key(id));
        let open = |sync: i32| directory.syncs.get(&sync).is_some_and(|sync| sync.gate == Gate::Open);
        for lane in self.lanes.values_mut() {
            for message in lane.give_back(|sync| !open(sync)) {
                self.known.remove(&message.id);
                widen(&mut self.paused, message.sync, message.id);
            }
        }
        let (resumed, still_paused): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.paused).into_iter().partition(|(sync, _)| open(*sync));
        self.paused = still_paused;
        for (sync, range) in resumed {
            if let Some(lane) =
                directory.syncs.get(&sync).and_then(|sync| self.lanes.get_mut(&sync.destination))
            {
                lane.pass_over(range.from);
                lane.pass_over(range.to);
            }
        }
        self.directory = Some(directory);
    }

    // ---- send ----------------------------------------------------------------------------------

    /// Sends what may go. Gives the next moment at which something may.
    fn dispatch(&mut self) -> Option<Instant> {
        let Some(Batch::UpTo { path, root, .. }) = endpoint::find("event").map(|endpoint| endpoint.batch)
        else {
            return None;
        };
        let mut next_due: Option<Instant> = None;
        for (id, lane) in &mut self.lanes {
            let Some(transport) = self.transports.get(id) else { continue };
            let destination = self.directory.as_ref().and_then(|directory| directory.destinations.get(id));
            if destination.is_none_or(|destination| destination.gate == Gate::Held) {
                continue;
            }
            let before = lane.in_flight();
            loop {
                match lane.next(Instant::now()) {
                    Next::Send(messages) => {
                        let job = Job { lane: *id, transport: Arc::clone(transport), path, root, messages };
                        if let Err(job) = self.senders.send(job) {
                            // No thread could be started: the machine is out of them for now.
                            lane.returned();
                            for message in job.messages.into_iter().rev() {
                                lane.resend(message, Instant::now());
                            }
                            next_due = Some(Instant::now() + Duration::from_secs(1));
                            break;
                        }
                    }
                    Next::Wait(due) => {
                        next_due = [next_due, due].into_iter().flatten().min();
                        break;
                    }
                }
            }
            if lane.in_flight() != before {
                shared::publish_in_flight(*id, lane.in_flight());
            }
        }
        next_due
    }

    // ---- settle --------------------------------------------------------------------------------

    /// Judges all replies that have come, and writes down in one transaction what follows.
    fn settle_done(&mut self) -> Result<(), Failure> {
        let mut settlement = Settlement::default();
        let mut touched = Vec::new();
        while let Some(done) = self.senders.take_done() {
            touched.push(done.lane);
            self.apply(done, &mut settlement);
        }
        for id in touched {
            shared::publish_in_flight(id, self.lanes.get(&id).map_or(0, Lane::in_flight));
        }
        if settlement.is_empty() {
            return Ok(());
        }
        self.set_busy("settling");
        self.speed.count(settlement.gone.len(), Instant::now());
        xact::in_transaction(|| outbox::settle(&self.statements, settlement))?;
        Ok(())
    }

    fn apply(&mut self, done: Done, settlement: &mut Settlement) {
        let now = Instant::now();
        let Verdict { fates, condition } = {
            let sent: Vec<&str> = done.messages.iter().map(|message| message.payload.as_str()).collect();
            judge(&done.outcome, &sent)
        };
        let Some(lane) = self.lanes.get_mut(&done.lane) else {
            for message in &done.messages {
                self.known.remove(&message.id);
            }
            return;
        };
        lane.returned();
        let pause = lane.observe(&condition, now, &mut self.dice);
        let health = settlement.health.entry(done.lane).or_default();
        health.requests += 1;
        if let Outcome::Reply(reply) = &done.outcome {
            health.last_status = Some(reply.status);
        }
        let why = match condition {
            Condition::Well => None,
            Condition::Doubtful { why } | Condition::Trouble { why, .. } => Some(why),
        };
        if why.is_some() {
            health.failures += 1;
            health.last_error.clone_from(&why);
        }
        health.pause = pause.or(health.pause);
        let throw = self.dice.throw();
        // In reverse, because what goes again goes to the front.
        let open: Vec<bool> = done.messages.iter().map(|message| self.is_open(message.sync)).collect();
        let Some(lane) = self.lanes.get_mut(&done.lane) else { return };
        for ((message, fate), open) in done.messages.into_iter().zip(fates).zip(open).rev() {
            let account = settlement.accounts.entry(message.sync).or_default();
            match fate {
                Fate::Delivered | Fate::Duplicate => {
                    account.delivered += 1;
                    account.duplicate += i64::from(fate == Fate::Duplicate);
                    self.known.remove(&message.id);
                    lane.settled(message.payload.len());
                    leave(&message, settlement);
                }
                Fate::Rejected { reason } => {
                    account.rejected += 1;
                    account.last_error = Some(reason.clone());
                    self.known.remove(&message.id);
                    lane.settled(message.payload.len());
                    let (reply_status, reply) = kept_reply(&done.outcome);
                    settlement.dead.push(Dead {
                        id: message.id,
                        attempts: message.attempts + 1,
                        reason,
                        reply_status,
                        reply,
                    });
                    leave(&message, settlement);
                }
                _ if !open => {
                    // Paused or dropped while under way.
                    self.known.remove(&message.id);
                    lane.settled(message.payload.len());
                    widen(&mut self.paused, message.sync, message.id);
                }
                Fate::Resend => lane.resend(message, now),
                Fate::ResendAlone => lane.resend(Message { company: Company::Alone, ..message }, now),
                Fate::Return => {
                    account.last_error.clone_from(&why);
                    lane.resend(message, now);
                }
                Fate::Retry { reason } => {
                    let wait = backoff::wait(message.attempts + 1, throw);
                    account.last_error = Some(reason.clone());
                    settlement.retries.push(Again {
                        id: message.id,
                        attempts: message.attempts + 1,
                        wait,
                        why: reason,
                    });
                    lane.retry(message, now, wait);
                }
            }
        }
    }
}

fn leave(message: &Message, settlement: &mut Settlement) {
    settlement.gone.push(message.id);
    if message.attempts > 0 {
        settlement.gone_after_retry.push(message.id);
    }
}

fn kept_reply(outcome: &Outcome) -> (Option<u16>, Option<String>) {
    match outcome {
        Outcome::Reply(reply) => {
            let body = &reply.body[..reply.body.len().min(MOST_KEPT_REPLY)];
            (Some(reply.status), Some(String::from_utf8_lossy(body).into_owned()))
        }
        Outcome::Failed(_) => (None, None),
    }
}

fn widen(ranges: &mut BTreeMap<i32, Range>, sync: i32, id: i64) {
    let range = ranges.entry(sync).or_insert(Range { from: id, to: id });
    range.from = range.from.min(id);
    range.to = range.to.max(id);
}

fn progress(found: &[Found], most: usize) -> Progress {
    match found.last() {
        Some(last) if found.len() == most => Progress::UpTo(last.message.id),
        _ => Progress::Complete,
    }
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Cursor,
    CatchUp,
}

/// What one lane may hold.
struct Budget {
    bytes: usize,
}

/// What a message costs beyond its payload.
const MESSAGE_OVERHEAD: usize = 160;

impl Budget {
    fn has_room(&self, lane: &Lane) -> bool {
        let (messages, bytes) = lane.load();
        bytes + messages * MESSAGE_OVERHEAD < self.bytes
    }
}

/// Messages settled per second, over the last few seconds.
struct Speed {
    since: Instant,
    count: usize,
    last: f64,
}

impl Speed {
    const WINDOW: Duration = Duration::from_secs(2);

    fn new(now: Instant) -> Speed {
        Speed { since: now, count: 0, last: 0.0 }
    }

    fn count(&mut self, messages: usize, now: Instant) {
        self.count += messages;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= Self::WINDOW {
            self.last = self.count as f64 / elapsed.as_secs_f64();
            (self.since, self.count) = (now, 0);
        }
    }

    fn per_second(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed > Self::WINDOW * 2 { self.count as f64 / elapsed.as_secs_f64() } else { self.last }
    }
}
