//! Buffer, between template and outbox: the messages a transaction has captured and not yet written.
//!
//! Writing them together just before commit is what makes a bulk load cheap. What the outbox is
//! promised: a message captured in a subtransaction that rolled back is gone; a message is only
//! ever handed over for writing under the subtransaction it belongs to (or an ancestor it was
//! merged into); and ids, once given out, follow the order of capture even when a child's messages
//! are written before its parent's.
#![forbid(unsafe_code)]

/// A subtransaction, by PostgreSQL's number within the transaction; the top level is 1.
pub type Subtransaction = u32;

/// Room for a varlena header in front of each payload, so that it can be stored without a copy.
pub const HEADER: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

impl Operation {
    /// As stored in the outbox.
    pub fn letter(self) -> u8 {
        match self {
            Operation::Insert => b'i',
            Operation::Update => b'u',
            Operation::Delete => b'd',
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
        }
    }
}

/// A captured message, not yet written.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub sync: i32,
    pub operation: Operation,
    /// The request's path, where it depends on the row. Percent-encoded, so ASCII in every encoding.
    pub path: Option<Box<str>>,
    /// Messages of a sync that have the same one go one after the other.
    pub key: Option<i64>,
    /// Given out at the first write after capture; 0 until then.
    pub id: i64,
    pub body: Body,
    owner: Subtransaction,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// Where in the arena the payload stands, its header first.
    Payload { from: usize, length: usize },
    /// A row that could not be rendered: a dead letter from birth.
    Dead(Box<StillBorn>),
}

/// What is kept of a row that could not be rendered.
#[derive(Debug, PartialEq, Eq)]
pub struct StillBorn {
    /// The sync's name as the trigger spelled it; `Entry::sync` is 0 when there is no such sync.
    pub sync_name: String,
    pub reason: String,
    /// The row as JSON text, in the database's encoding; absent if not even that could be made.
    pub source_row: Option<Vec<u8>>,
    /// The same of the row before an update.
    pub old_row: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub struct Buffer {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    /// Entries before this index have their ids.
    numbered: usize,
    /// What entries hold outside the arena.
    other_bytes: usize,
    /// How many of the entries are payloads, by sync.
    payloads: Vec<(i32, i64)>,
}

impl Buffer {
    pub fn push_payload(
        &mut self,
        owner: Subtransaction,
        sync: i32,
        operation: Operation,
        path: Option<Box<str>>,
        key: Option<i64>,
        payload: &[u8],
    ) {
        let from = self.arena.len();
        self.arena.extend_from_slice(&[0; HEADER]);
        self.arena.extend_from_slice(payload);
        // Keeps the next header aligned.
        self.arena.resize(self.arena.len().next_multiple_of(HEADER), 0);
        let body = Body::Payload { from, length: payload.len() };
        self.other_bytes += path.as_ref().map_or(0, |path| path.len());
        self.entries.push(Entry { sync, operation, path, key, id: 0, body, owner });
        match self.payloads.iter_mut().find(|(counted, _)| *counted == sync) {
            Some((_, count)) => *count += 1,
            None => self.payloads.push((sync, 1)),
        }
    }

    pub fn push_dead(
        &mut self,
        owner: Subtransaction,
        sync: i32,
        operation: Operation,
        key: Option<i64>,
        dead: StillBorn,
    ) {
        self.other_bytes += dead.size();
        self.entries.push(Entry {
            sync,
            operation,
            path: None,
            key,
            id: 0,
            body: Body::Dead(Box::new(dead)),
            owner,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is anything of a sync.
    pub fn holds(&self, sync: i32) -> bool {
        self.entries.iter().any(|entry| entry.sync == sync)
    }

    /// How many payloads of a sync there are.
    pub fn payloads(&self, sync: i32) -> i64 {
        self.payloads.iter().find(|(counted, _)| *counted == sync).map_or(0, |(_, count)| *count)
    }

    /// Bytes held, roughly.
    pub fn size(&self) -> usize {
        self.arena.len() + self.other_bytes + self.entries.len() * size_of::<Entry>()
    }

    /// A subtransaction committed: what it captured now belongs to its parent.
    pub fn merge(&mut self, child: Subtransaction, parent: Subtransaction) {
        for entry in self.entries.iter_mut().rev().take_while(|entry| entry.owner == child) {
            entry.owner = parent;
        }
    }

    /// A subtransaction rolled back: what it captured never happened.
    pub fn forget(&mut self, aborted: Subtransaction) {
        let from = self.first_of(aborted);
        self.truncate(from);
    }

    /// Gives an id to every message that has none yet, in the order of capture.
    pub fn number(&mut self, mut next_id: impl FnMut() -> i64) {
        for entry in &mut self.entries[self.numbered..] {
            entry.id = next_id();
        }
        self.numbered = self.entries.len();
    }

    /// The messages that may be written under `current`, and the arena their payloads stand in.
    pub fn writable(&mut self, current: Subtransaction) -> (&[Entry], &mut [u8]) {
        let from = self.first_of(current);
        (&self.entries[from..], &mut self.arena)
    }

    /// Drops the messages of `current`: they are written.
    pub fn written(&mut self, current: Subtransaction) {
        self.forget(current);
    }

    /// The transaction is over, one way or the other.
    pub fn clear(&mut self) {
        self.truncate(0);
        // A bulk load should not leave every backend with its peak memory for ever.
        self.arena.shrink_to(64 * 1024);
        self.entries.shrink_to(1024);
    }

    /// Messages form a stack by owner: while a child is open its parent captures nothing.
    fn first_of(&self, owner: Subtransaction) -> usize {
        self.entries.iter().rposition(|entry| entry.owner != owner).map_or(0, |index| index + 1)
    }

    fn truncate(&mut self, from: usize) {
        let first_payload = self.entries[from..].iter().find_map(|entry| match entry.body {
            Body::Payload { from, .. } => Some(from),
            Body::Dead(_) => None,
        });
        if let Some(arena_from) = first_payload {
            self.arena.truncate(arena_from);
        }
        for entry in &self.entries[from..] {
            self.other_bytes -= entry.path.as_ref().map_or(0, |path| path.len());
            match &entry.body {
                Body::Dead(dead) => self.other_bytes -= dead.size(),
                Body::Payload { .. } => {
                    if let Some((_, count)) =
                        self.payloads.iter_mut().find(|(counted, _)| *counted == entry.sync)
                    {
                        *count -= 1;
                    }
                }
            }
        }
        self.entries.truncate(from);
        self.numbered = self.numbered.min(from);
        if self.entries.is_empty() {
            self.payloads.clear();
        }
    }
}

impl StillBorn {
    fn size(&self) -> usize {
        let row = |row: &Option<Vec<u8>>| row.as_ref().map_or(0, Vec::len);
        self.reason.len() + self.sync_name.len() + row(&self.source_row) + row(&self.old_row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push(buffer: &mut Buffer, owner: Subtransaction, payload: &str) {
        let path = payload.ends_with('7').then(|| payload.into());
        buffer.push_payload(owner, 1, Operation::Insert, path, None, payload.as_bytes());
    }

    fn write(buffer: &mut Buffer, current: Subtransaction) -> Vec<(i64, String)> {
        let (entries, arena) = buffer.writable(current);
        let written = entries
            .iter()
            .map(|entry| match entry.body {
                Body::Payload { from, length } => {
                    let payload = &arena[from + HEADER..from + HEADER + length];
                    (entry.id, String::from_utf8_lossy(payload).into_owned())
                }
                Body::Dead(_) => (entry.id, "dead".into()),
            })
            .collect();
        buffer.written(current);
        written
    }

    #[test]
    fn a_rolled_back_subtransaction_leaves_only_what_was_before_it() {
        let mut buffer = Buffer::default();
        push(&mut buffer, 1, "kept");
        push(&mut buffer, 2, "lost");
        push(&mut buffer, 3, "also lost");
        buffer.merge(3, 2);
        assert_eq!((buffer.payloads(1), buffer.payloads(2)), (3, 0));
        buffer.forget(2);
        assert_eq!(buffer.payloads(1), 1);
        buffer.number(|| 7);
        assert_eq!(write(&mut buffer, 1), [(7, "kept".to_owned())]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_child_written_early_keeps_ids_in_the_order_of_capture() {
        let (mut buffer, mut ids) = (Buffer::default(), 0);
        let mut next = || {
            ids += 1;
            ids
        };
        push(&mut buffer, 1, "first");
        push(&mut buffer, 2, "second");
        buffer.number(&mut next);
        assert_eq!(write(&mut buffer, 2), [(2, "second".to_owned())]);
        push(&mut buffer, 1, "third");
        buffer.number(&mut next);
        assert_eq!(write(&mut buffer, 1), [(1, "first".to_owned()), (3, "third".to_owned())]);
    }

    /// An open subtransaction: its number, what it captured, what was written under it.
    type Open = (Subtransaction, Vec<String>, Vec<(i64, String)>);

    /// What a transaction may do, in a form a random test can draw.
    #[derive(Clone, Debug)]
    enum Step {
        Capture,
        Begin,
        Commit,
        Abort,
        Write,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![4 => Just(Step::Capture), 2 => Just(Step::Begin), 2 => Just(Step::Commit), 1 => Just(Step::Abort), 1 => Just(Step::Write)];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn what_ends_up_committed_is_what_a_stack_of_sets_says(steps in steps()) {
            let mut buffer = Buffer::default();
            // The model: one list per open subtransaction. The database: rows written under it.
            let mut open: Vec<Open> = vec![(1, vec![], vec![])];
            let (mut last_subtransaction, mut captured, mut ids) = (1, 0, 0);
            let mut number = |buffer: &mut Buffer| buffer.number(|| { ids += 1; ids });
            for step in steps {
                let current = open.last().map_or(1, |level| level.0);
                match step {
                    Step::Capture => {
                        captured += 1;
                        let payload = format!("{captured:06}");
                        push(&mut buffer, current, &payload);
                        open.last_mut().expect("open").1.push(payload);
                    }
                    Step::Begin => {
                        last_subtransaction += 1;
                        open.push((last_subtransaction, vec![], vec![]));
                    }
                    Step::Commit if open.len() > 1 => {
                        let (child, model, rows) = open.pop().expect("open");
                        let parent = open.last_mut().expect("open");
                        buffer.merge(child, parent.0);
                        parent.1.extend(model);
                        parent.2.extend(rows);
                    }
                    Step::Abort if open.len() > 1 => {
                        let (child, ..) = open.pop().expect("open");
                        buffer.forget(child);
                    }
                    Step::Write => {
                        number(&mut buffer);
                        let rows = write(&mut buffer, current);
                        open.last_mut().expect("open").2.extend(rows);
                    }
                    Step::Commit | Step::Abort => {}
                }
            }
            while open.len() > 1 {
                let (child, model, rows) = open.pop().expect("open");
                let parent = open.last_mut().expect("open");
                buffer.merge(child, parent.0);
                parent.1.extend(model);
                parent.2.extend(rows);
            }
            number(&mut buffer);
            let rest = write(&mut buffer, 1);
            let (_, model, mut rows) = open.pop().expect("open");
            rows.extend(rest);
            rows.sort();
            let by_id: Vec<String> = rows.into_iter().map(|(_, payload)| payload).collect();
            prop_assert_eq!(by_id, model);
            prop_assert!(buffer.is_empty() && buffer.other_bytes == 0 && buffer.payloads.is_empty());
        }
    }
}
