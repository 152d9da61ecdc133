//! Look-up: what is asked of Lago about a single message when its answer to the call itself does not
//! tell enough.
//!
//! Beside the verdict. Pure. It promises that nothing counts as delivered that Lago was not seen to
//! have, and that no message is given up for what is the destination's trouble.
#![forbid(unsafe_code)]

use crate::call::Call;
use crate::message::Message;
use crate::verdict::{Outcome, Verdict};

/// A question, and what raised it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    pub question: Question,
    /// What Lago answered to the call itself, in a sentence.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether the event that Lago has under this id is this one.
    SameEvent,
    /// The same, among the events of its subscription: an id may be used once in each.
    SameEventOfSubscription,
    /// Whether a top-up took place.
    TopUp,
    /// Whether Lago is well, so that it is this message it fails at.
    Health,
}

impl LookUp {
    /// Path and query below the destination's URL, of a `GET`.
    pub fn path(&self, _call: &Call, _message: &Message) -> String {
        "/events/lago_push".into()
    }

    /// Judges what came back.
    pub fn judge(&self, outcome: &Outcome, call: &Call, message: &Message) -> Verdict {
        crate::verdict::judge(outcome, call, std::slice::from_ref(message))
    }
}
