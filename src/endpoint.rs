//! What each of Lago's write calls is and demands.
//!
//! Serves the template step: [`check()`] refuses, when a sync is defined, what Lago would refuse
//! later or, worse, accept with 200 and never bill. Facts are Lago's server behaviour, not its
//! documentation: the server drops unknown keys without a word, bills nothing that names no
//! subscription, and reads every timestamp as seconds.
#![forbid(unsafe_code)]

mod catalogue;
mod check;
mod nature;

pub use catalogue::CATALOGUE;
pub use check::{check, meant};
pub use nature::{Nature, begins_with_date, is_currency, nature};

use crate::template::Shape;

/// One write call of Lago.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub name: &'static str,
    pub method: &'static str,
    /// Relative to the destination's base URL. `{key}` is filled with the payload's value of that key,
    /// which then is no part of the body.
    pub path: &'static str,
    /// The key that wraps one object; none for a call without a body.
    pub root: Option<&'static str>,
    /// Those that fill the path among them.
    pub required: &'static [&'static str],
    /// Keys of which a payload needs one.
    pub any_of: &'static [&'static str],
    /// Further keys the server reads.
    pub optional: &'static [&'static str],
    /// Further keys, which go into the query string and not into the body.
    pub query: &'static [&'static str],
    /// What lago_push makes where a payload leaves it out.
    pub supplied: &'static [Supplied],
    pub listing: Listing,
    pub batch: Batch,
    pub repeat: Repeat,
    pub example: &'static str,
}

impl Endpoint {
    /// Every key that has an effect, as far as is known.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.required.iter().chain(self.any_of).chain(self.optional).chain(self.query).copied()
    }

    /// Whether lago_push makes a key where a payload leaves it out.
    pub fn supplies(&self, key: &str) -> bool {
        self.supplied.iter().any(|supplied| supplied.key() == key)
    }
}

/// What lago_push can make for a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supplied {
    /// An id of the change, made of the primary key: without it there is no event.
    Identity,
    /// When the transaction that changed the row began.
    Time,
    /// The id among a top-up's metadata, by which it can be found after a reply that never came.
    Label,
}

impl Supplied {
    pub fn key(self) -> &'static str {
        match self {
            Supplied::Identity => "transaction_id",
            Supplied::Time => "timestamp",
            Supplied::Label => "metadata",
        }
    }
}

/// Whether an endpoint's keys are all that the server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// The server drops all others without a word.
    Complete,
    /// Some version of Lago may read others.
    Open,
}

/// Whether several objects fit into one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// One object per request.
    One,
    UpTo {
        most: usize,
        path: &'static str,
        root: &'static str,
    },
}

/// Whether a second identical call is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Safe,
    /// It would do the same thing twice: after a call of unknown outcome somebody has to look first.
    Never,
}

pub fn find(name: &str) -> Option<&'static Endpoint> {
    CATALOGUE.iter().find(|endpoint| endpoint.name == name)
}

/// What a hole's value has to satisfy beyond being valid JSON, because of the key it stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    None,
    /// The hole is a part of a text that must tell objects apart.
    NotNull,
    /// The hole is all there is of a value that must not be empty.
    NotEmpty,
    /// Unix seconds.
    Timestamp,
}

/// The demand on a hole under the outermost key `key`, whose value has the shape `shape`.
pub fn demand(endpoint: &Endpoint, key: &str, shape: &Shape) -> Demand {
    match (nature(endpoint, key), shape) {
        (Nature::UnixSeconds, Shape::HoleText | Shape::HoleValue) => Demand::Timestamp,
        _ if !endpoint.required.contains(&key) => Demand::None,
        (_, Shape::HoleText | Shape::HoleValue) => Demand::NotEmpty,
        // What is nested in a required list may well be null.
        (nature, Shape::Object | Shape::Array) if nature.is_structured() => Demand::None,
        _ => Demand::NotNull,
    }
}

/// Seconds later than this (the year 5138) are milliseconds by mistake: Lago stores them as a date
/// tens of thousands of years ahead, answers 200, and never bills them.
pub const LATEST_PLAUSIBLE_SECONDS: f64 = 1e11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_held_to_what_its_key_demands() {
        let of = |name, key, shape: Shape| demand(find(name).expect("in the catalogue"), key, &shape);
        assert_eq!(of("event", "timestamp", Shape::HoleValue), Demand::Timestamp);
        assert_eq!(of("event", "transaction_id", Shape::MixedText), Demand::NotNull);
        assert_eq!(of("event", "code", Shape::HoleText), Demand::NotEmpty);
        assert_eq!(of("event", "properties", Shape::Object), Demand::None);
        assert_eq!(of("plan", "amount_cents", Shape::HoleValue), Demand::NotEmpty);
        assert_eq!(of("invoice", "fees", Shape::HoleValue), Demand::NotEmpty);
        assert_eq!(of("invoice", "fees", Shape::Array), Demand::None);
        assert_eq!(of("customer", "email", Shape::HoleText), Demand::None);
    }
}
