//! Read: from the outbox into the lanes.
//!
//! First of the worker's three steps. It promises the lanes every committed message once, the lowest
//! ids first, and never more of them than memory allows; what there is no room for is passed over and
//! caught up with later.

use super::{Failure, News, Outbox, Worker, widen};
use crate::cursor::{Progress, Range};
use crate::destination::{self, Delivery, Directory, Gate};
use crate::lane::Lane;
use crate::outbox::{self, Found, Span};
use crate::pg::xact;
use crate::sender::Transport;
use crate::settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Messages read by one statement: the overhead of a statement is small against so many, and so is
/// their memory against any budget.
const PAGE: usize = 500;

impl Worker {
    pub(super) fn read(&mut self, news: News) -> Result<Outbox, Failure> {
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
    pub(super) fn wants_to_read(&self) -> bool {
        self.cursor.next_again().is_some()
            || !self.strangers.is_empty()
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

    pub(super) fn is_open(&self, sync: i32) -> bool {
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
            if old.is_none_or(|old| old.route != new.route) {
                self.transports.insert(*id, Arc::new(Transport::new(new.route.clone())));
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
        for (id, sync) in &directory.syncs {
            let old = self.directory.as_ref().and_then(|directory| directory.syncs.get(id));
            for flaw in sync.flaws.iter().filter(|flaw| old.is_none_or(|old| !old.flaws.contains(flaw))) {
                pgrx::warning!("lago_push cannot deliver sync \"{}\" as defined: {flaw}", sync.name);
            }
        }
        let open = |sync: i32| directory.syncs.get(&sync).is_some_and(|sync| sync.gate == Gate::Open);
        for lane in self.lanes.values_mut() {
            for message in lane.give_back(|sync| !open(sync)) {
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
            if let Some(lane) =
                directory.syncs.get(&sync).and_then(|sync| self.lanes.get_mut(&sync.destination))
            {
                lane.pass_over(range.from);
                lane.pass_over(range.to);
            }
        }
        self.directory = Some(directory);
    }
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
