//! Read: from the outbox into the lanes.
//!
//! First of the worker's three steps. It promises the lanes every committed message once, the lowest
//! ids first, and never more of them than memory allows; what there is no room for is passed over and
//! caught up with later.

use super::{Failure, News, Outbox, Worker, widen};
use crate::cursor::{Progress, Range};
use crate::destination::{self, Delivery, Directory, Gate};
use crate::guard::{self, Guard};
use crate::lane::Lane;
use crate::lookup;
use crate::message::{Message, Tried};
use crate::outbox::{self, Dead, Earlier, Found, Settlement, Span, Statements};
use crate::pg::{process, xact};
use crate::schedule::UnixMicros;
use crate::sender::Transport;
use crate::settings;
use crate::version;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Messages read by one statement: the overhead of a statement is small against so many, and so is
/// their memory against any budget.
const PAGE: usize = 500;
/// Pages read before what was found is sent: rows that wait for their tick are only passed over, and
/// a long row of them must not hold up what follows.
const PAGES_AT_A_TIME: usize = 4;

/// Why a call that was begun and not settled is not made again.
const LOST: &str = "the outcome is unknown: the worker ended while the call was under way; a second call might do it twice, so look it up in Lago before sending it again";

impl Worker {
    pub(super) fn read(&mut self, news: News) -> Result<Outbox, Failure> {
        // Asked before any snapshot is taken: whoever sets the flag has committed, so what is read then
        // shows what it stands for.
        let redefined = self.slot.take_redefined() || self.directory.is_none() || !self.strangers.is_empty();
        if redefined && self.learn()? == Outbox::Gone {
            return Ok(Outbox::Gone);
        }
        let asked_at = now_unix();
        self.caps.look();
        // Nothing is written in this transaction, so all it reads is of one snapshot: who sees a message
        // sees all that were committed before it, and of one key they are admitted in that order.
        xact::in_transaction(|| {
            self.cursor.observe(&xact::running_in_snapshot());
            self.more |= news == News::Yes;
            let before = self.known.len();
            self.read_again()?;
            self.read_due()?;
            self.catch_up()?;
            self.read_on()?;
            if news == News::Yes && !self.more && self.cursor.next_again().is_none() {
                self.complete_at = asked_at;
            }
            // What was committed before a tick may be found after it.
            self.come_to_now();
            if self.known.len() > before {
                // Visible is not yet durable, where synchronous_commit is off; what Lago bills must
                // not be undone here by a crash.
                let end = xact::flush_log();
                self.await_standbys(end);
            }
            Ok::<_, Failure>(())
        })?;
        self.bury_lost()?;
        Ok(Outbox::Here)
    }

    /// Reads destinations and syncs anew.
    fn learn(&mut self) -> Result<Outbox, Failure> {
        xact::in_transaction(|| {
            if outbox::tables() != self.tables {
                return Ok(Outbox::Gone);
            }
            let version = version::installed()?;
            if version != self.version {
                // The extension was updated: there may be columns now that were not there.
                self.statements = Statements::prepare()?;
                self.version = version;
            }
            if self.guard == Guard::Asking {
                self.guard = guard::look()?;
            }
            let mut directory = destination::read()?;
            let rerouted = self.rerouted(&directory);
            if !rerouted.is_empty() {
                // An answer to what went the old way may have come after the change and before this.
                outbox::end_holds(&self.statements, rerouted)?;
                directory = destination::read()?;
            }
            self.bury_strangers(&directory)?;
            self.adopt(directory);
            self.learn_runs()?;
            outbox::end_pauses(&self.statements)?;
            Ok(Outbox::Here)
        })
    }

    /// The destinations that are reached another way than before.
    fn rerouted(&self, directory: &Directory) -> Vec<i32> {
        let Some(old) = &self.directory else { return Vec::new() };
        let is_new = |(id, new): (&i32, &destination::Destination)| {
            old.destinations.get(id).filter(|old| old.route != new.route).map(|_| *id)
        };
        directory.destinations.iter().filter_map(is_new).collect()
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

    /// What had its tick. It takes half of a lane's room, so that syncs without a schedule do not wait
    /// behind it; and a page at every read where there is any room, so that it does not wait behind them.
    fn read_due(&mut self) -> Result<(), Failure> {
        let syncs: Vec<i32> = self.ticks.due_syncs().collect();
        for sync in syncs {
            let mut share = Share::Whole;
            while let Some(range) = self.ticks.due(sync).filter(|_| self.has_room_for_due(sync, share)) {
                let page = outbox::read(&self.statements, &Span::Of(range, &[sync]), PAGE)?;
                self.ticks.read(sync, progress(&page.found, PAGE));
                self.admit(page.found, Reader::CatchUp);
                share = Share::Half;
            }
        }
        Ok(())
    }

    fn has_room_for_due(&self, sync: i32, share: Share) -> bool {
        let whole = self.budget().bytes;
        let budget = Budget {
            bytes: match share {
                Share::Whole => whole,
                Share::Half => whole / 2,
            },
        };
        let Some(delivery) = self.sync(sync).filter(|delivery| delivery.gate == Gate::Open) else {
            return false;
        };
        self.gate(delivery.destination) == Gate::Open
            && self.lanes.get(&delivery.destination).is_some_and(|lane| budget.has_room(lane))
    }

    /// What is behind the cursor.
    fn read_on(&mut self) -> Result<(), Failure> {
        for _ in 0..PAGES_AT_A_TIME {
            if !self.can_read_on() {
                break;
            }
            let page = outbox::read(&self.statements, &Span::After(self.cursor.last()), PAGE)?;
            self.more = page.found.len() == PAGE;
            self.cursor.advance(page.found.iter().map(|found| found.message.id), &page.running);
            self.admit(page.found, Reader::Cursor);
        }
        Ok(())
    }

    /// Whether there may be something to read that could be taken in.
    pub(super) fn wants_to_read(&self) -> bool {
        // Reading settles first, and that waits for more.
        if !self.settlement.is_empty() {
            return false;
        }
        self.cursor.next_again().is_some()
            || !self.strangers.is_empty()
            || self.can_read_on()
            || self.lanes_with_room().any(|lane| lane.behind.is_some())
            || self.ticks.due_syncs().any(|sync| self.has_room_for_due(sync, Share::Half))
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

    /// Those without a schedule: the others are read when they are due.
    fn open_syncs(&self, destination: i32) -> impl Iterator<Item = i32> {
        self.directory
            .iter()
            .flat_map(|directory| &directory.syncs)
            .filter(move |(_, sync)| {
                sync.destination == destination && sync.gate == Gate::Open && sync.schedule.is_none()
            })
            .map(|(id, _)| *id)
    }

    pub(super) fn sync(&self, sync: i32) -> Option<&Delivery> {
        self.directory.as_ref()?.syncs.get(&sync)
    }

    pub(super) fn is_open(&self, sync: i32) -> bool {
        self.sync(sync).is_some_and(|sync| sync.gate == Gate::Open)
    }

    fn admit(&mut self, found: Vec<Found>, reader: Reader) {
        let (now, budget) = (Instant::now(), self.budget());
        for Found { mut message, earlier, enqueued_at } in found {
            // Nobody but this worker can have sent it.
            if enqueued_at > self.untried_since {
                message.tried = Tried::Never;
            }
            let id = message.id;
            if self.known.contains(&id) {
                continue;
            }
            // What an earlier, complete look did not show was not committed then.
            let since = unix(enqueued_at).max(self.complete_at);
            let delivery = self.directory.as_ref().and_then(|directory| directory.syncs.get(&message.sync));
            let Some(Delivery { destination, gate, schedule, .. }) = delivery else {
                widen(&mut self.paused, message.sync, id);
                let newest = self.strangers.entry(message.sync).or_insert(since);
                *newest = since.max(*newest);
                continue;
            };
            // Where Lago can be asked what became of its call, it is.
            let look = (earlier == Earlier::Begun).then(|| {
                delivery.and_then(|delivery| lookup::after_loss(&delivery.shape.as_ref()?.call, &message))
            });
            if look == Some(None) {
                self.lost.push(message);
                continue;
            }
            if let (Some(schedule), Reader::Cursor) = (schedule, reader) {
                self.ticks.wait(message.sync, schedule, Range { from: id, to: id }, since);
                continue;
            }
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
                let wait = match earlier {
                    Earlier::Failed(wait) => wait,
                    Earlier::Nothing | Earlier::Begun => None,
                };
                match look.flatten() {
                    Some(look) => lane.admit_look_up(message, look, now),
                    None => lane.admit(message, wait.map(|wait| now + wait), now),
                }
            } else {
                lane.pass_over(id);
            }
        }
    }

    /// A message may name a sync newer than the directory; then the directory just read has it. Or one
    /// dropped while the message was in a prepared transaction: nobody will ever deliver it, so it
    /// becomes a dead letter, for somebody to see.
    fn bury_strangers(&mut self, directory: &Directory) -> Result<(), Failure> {
        for (sync, since) in std::mem::take(&mut self.strangers) {
            match directory.syncs.get(&sync) {
                Some(Delivery { schedule: Some(schedule), .. }) => {
                    if let Some(range) = self.paused.remove(&sync) {
                        self.ticks.wait(sync, schedule, range, since);
                    }
                }
                Some(_) => {}
                None => {
                    self.paused.remove(&sync);
                    outbox::bury_all(&self.statements, sync)?;
                }
            }
        }
        Ok(())
    }

    /// Calls that were begun by a worker that did not live to see their end, and must not be repeated.
    fn bury_lost(&mut self) -> Result<(), Failure> {
        let mut settlement = Settlement::default();
        for Message { id, sync, entered, tid, .. } in std::mem::take(&mut self.lost) {
            let account = settlement.accounts.entry(sync).or_default();
            account.captured += i64::from(entered);
            account.left += 1;
            account.last_error = Some(LOST.into());
            let reason = LOST.into();
            settlement.dead.push(Dead { id, attempts: 1, reason, reply_status: None, reply: None });
            settlement.gone.push((id, tid));
            settlement.forgotten_retries.push(id);
        }
        if !settlement.is_empty() {
            let left = settlement.left_by_sync();
            xact::in_transaction(|| outbox::settle(&self.statements, settlement))?;
            left.into_iter().for_each(|(sync, messages)| self.caps.left(sync, messages));
        }
        Ok(())
    }

    /// Takes over changed definitions.
    fn adopt(&mut self, directory: Directory) {
        for (id, new) in &directory.destinations {
            let old = self.directory.as_ref().and_then(|directory| directory.destinations.get(id));
            if old.is_none_or(|old| old.route != new.route) {
                self.transports.insert(*id, Arc::new(Transport::new(new.route.clone())));
            }
            let lane = self.lanes.entry(*id).or_insert_with(|| Lane::new(new.limits));
            lane.set_limits(new.limits, Instant::now());
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
        self.adopt_schedules(&directory);
        self.caps.keep(|sync| directory.syncs.contains_key(&sync));
        for (id, sync) in &directory.syncs {
            let old = self.directory.as_ref().and_then(|directory| directory.syncs.get(id));
            for flaw in sync.flaws.iter().filter(|flaw| old.is_none_or(|old| !old.flaws.contains(flaw))) {
                pgrx::warning!("lago_push cannot deliver sync \"{}\" as defined: {flaw}", sync.name);
            }
        }
        self.leave_behind(&directory);
        let moved = self.follow_moves(&directory);
        let open = |sync: i32| directory.syncs.get(&sync).is_some_and(|sync| sync.gate == Gate::Open);
        for lane in self.lanes.values_mut() {
            for message in lane.give_back(|sync| !open(sync) || moved.contains(&sync)) {
                self.known.remove(&message.id);
                widen(&mut self.paused, message.sync, message.id);
            }
        }
        let now = Instant::now();
        for (id, lane) in &mut self.lanes {
            if let Some(destination) = directory.destinations.get(id) {
                lane.regroup(&destination.grouping, now);
            }
        }
        let (resumed, still_paused): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.paused).into_iter().partition(|(sync, _)| open(*sync));
        self.paused = still_paused;
        for (sync, range) in resumed {
            let Some(delivery) = directory.syncs.get(&sync) else { continue };
            if delivery.schedule.is_some() {
                // It was in a lane before, so it had its tick.
                self.ticks.put_due(sync, range);
            } else if let Some(lane) = self.lanes.get_mut(&delivery.destination) {
                lane.pass_over(range.from);
                lane.pass_over(range.to);
            }
        }
        self.no_replies_until = None;
        self.directory = Some(directory);
    }

    /// What waits for a tick follows a changed schedule.
    fn adopt_schedules(&mut self, directory: &Directory) {
        self.ticks.retain(|sync| directory.syncs.contains_key(&sync));
        for (id, new) in &directory.syncs {
            let Some(old) = self.sync(*id).filter(|old| old.schedule != new.schedule) else { continue };
            let behind = self.lanes.get(&old.destination).and_then(|lane| lane.behind);
            // What a lane had no room for would have gone at once.
            if let (None, Some(range)) = (&old.schedule, behind) {
                self.ticks.put_due(*id, range);
            }
            self.ticks.reschedule(*id, new.schedule.as_ref(), now_unix());
        }
    }

    /// What a lane had no room for may be of a sync that is no longer open; the lane will not read that.
    fn leave_behind(&mut self, directory: &Directory) {
        let Some(old) = &self.directory else { return };
        for (id, old) in &old.syncs {
            let closes = old.gate == Gate::Open
                && directory
                    .syncs
                    .get(id)
                    .is_some_and(|new| new.gate == Gate::Held && new.schedule.is_none());
            let behind = self.lanes.get(&old.destination).and_then(|lane| lane.behind);
            if let Some(range) = behind.filter(|_| closes) {
                widen(&mut self.paused, *id, range.from);
                widen(&mut self.paused, *id, range.to);
            }
        }
    }

    /// The syncs whose messages now go to another destination. What their old lane had no room for is
    /// left to the new one.
    fn follow_moves(&mut self, directory: &Directory) -> Vec<i32> {
        let Some(old) = &self.directory else { return Vec::new() };
        let moved = |(id, new): (&i32, &Delivery)| {
            let from = old.syncs.get(id)?.destination;
            (from != new.destination).then_some((*id, from, new.destination))
        };
        let moves: Vec<(i32, i32, i32)> = directory.syncs.iter().filter_map(moved).collect();
        for (_, from, to) in &moves {
            let behind = self.lanes.get(from).and_then(|lane| lane.behind);
            if let (Some(range), Some(lane)) = (behind, self.lanes.get_mut(to)) {
                lane.pass_over(range.from);
                lane.pass_over(range.to);
            }
        }
        moves.into_iter().map(|(id, ..)| id).collect()
    }
}

/// PostgreSQL's clock begins in 2000.
const UNIX_SECONDS_IN_2000: i64 = 946_684_800;

pub(super) fn unix(since_2000: i64) -> UnixMicros {
    since_2000.saturating_add(UNIX_SECONDS_IN_2000 * 1_000_000)
}

pub(super) fn since_2000(unix: UnixMicros) -> i64 {
    unix.saturating_sub(UNIX_SECONDS_IN_2000 * 1_000_000)
}

pub(super) fn now_unix() -> UnixMicros {
    unix(process::now())
}

fn progress(found: &[Found], most: usize) -> Progress {
    match found.last() {
        Some(last) if found.len() == most => Progress::UpTo(last.message.id),
        _ => Progress::Complete,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Cursor,
    CatchUp,
}

/// How much of a lane's room is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Whole,
    Half,
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
