//! Message: what the worker holds of one row of the outbox, from read to settle.
#![forbid(unsafe_code)]

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: i64,
    pub sync: i32,
    pub operation: u8,
    pub payload: String,
    /// The request's path, where the row decides it; such a message goes alone.
    pub path: Option<String>,
    /// Messages of a sync that have the same one go one after the other.
    pub key: Option<i64>,
    /// How many captured rows are counted with it.
    pub entered: i32,
    /// Attempts that failed by its own fault.
    pub attempts: u32,
    /// Waits so far that were nobody's fault.
    pub waits: u32,
    pub tried: Tried,
    /// Where its row was when it was read.
    pub tid: Tid,
}

/// The place of a row in its table, which PostgreSQL calls its tuple identifier. A row stays there until it is
/// changed, or its table is written anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tid {
    pub block: u32,
    /// Counts from 1.
    pub offset: u16,
}

/// What is known of earlier attempts, so that Lago's word "I have it already" can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It has not been sent before.
    Never,
    /// An earlier worker may have sent it, or Lago answered something that should mean that it took
    /// nothing.
    Perhaps,
    /// It was sent, and whether Lago took it was not to be known.
    Unanswered,
}

#[cfg(test)]
impl Message {
    /// An insert of sync 1 that was never sent.
    pub fn sample(id: i64, payload: &str) -> Message {
        Message {
            id,
            sync: 1,
            operation: b'i',
            payload: payload.into(),
            path: None,
            key: None,
            entered: 1,
            attempts: 0,
            waits: 0,
            tried: Tried::Never,
            tid: Tid::default(),
        }
    }
}
