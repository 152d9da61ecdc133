//! Backfill: how fast existing rows follow the live ones, and what would bill them a second time.
//!
//! Serves `lago_push.backfill()`, between table and capture. Promises a live row that what a backfill
//! has put before it is gone in about a second, and the customer that no event is billed twice for
//! having been captured live as well.
#![forbid(unsafe_code)]

use crate::call::{Call, Category};
use crate::endpoint::Repeat;
use serde_json::Value;
use std::time::Duration;

/// Rows of the first transaction, before it is known how fast they leave.
const FIRST_ROWS: i32 = 1000;
/// Fewer would cost more in transactions than they save in waiting.
const FEWEST_ROWS: i32 = 100;
/// What left sooner than this may be more the next time.
const QUICK: Duration = Duration::from_millis(500);
/// What took longer than this was more than a live row should wait for.
const SLOW: Duration = Duration::from_secs(2);

/// How many rows go into one transaction: as many as leave the outbox in about a second.
#[derive(Debug)]
pub struct Pace {
    most: i32,
    rows: i32,
}

impl Pace {
    /// `most` is what the caller allows.
    pub fn new(most: i32) -> Pace {
        Pace { most, rows: most.min(FIRST_ROWS) }
    }

    pub fn rows(&self) -> i32 {
        self.rows
    }

    /// What was written last made room for more after `drained`.
    pub fn adapt(&mut self, drained: Duration) {
        if drained < QUICK {
            self.rows = self.rows.saturating_mul(2).min(self.most);
        } else if drained > SLOW {
            self.rows = (self.rows / 2).max(FEWEST_ROWS).min(self.most);
        }
    }
}

/// Between two looks at first, so that the worker is not kept waiting for more.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// And after a while, so that a backfill that waits for hours costs nothing.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long to wait before the next look.
#[derive(Debug)]
pub struct Patience(Duration);

impl Patience {
    pub fn new() -> Patience {
        Patience(FIRST_PAUSE)
    }

    /// The next pause, each a little longer than the one before.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 3 / 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Why a call's rows cannot be sent a second time without harm: what, why, and what to do instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfit {
    pub what: String,
    pub why: &'static str,
    pub advice: &'static str,
}

/// Whether a row may be sent that was perhaps captured live as well.
pub fn unfit(call: &Call) -> Option<Unfit> {
    (call.repeat == Repeat::Never).then(|| Unfit {
        what: format!("a call of endpoint {} that is made twice does its work twice", call.name()),
        why: "Which rows were captured when they were written cannot be told from the table, and Lago would not recognize the second call.",
        advice: "Insert the rows that are still to be sent into a table of their own, with a sync on it.",
    })
}

/// Whether Lago tells a call's objects apart by what the payload says, and bills each.
pub fn is_billed(call: &Call) -> bool {
    call.category() == Category::Events
}

/// What Lago tells events by, of both its stores together: two payloads that agree in it are billed once.
pub fn billed_as(call: &Call, payload: &Value) -> Value {
    match call.endpoint {
        Some(_) => ["transaction_id", "external_subscription_id", "code", "timestamp"]
            .into_iter()
            .map(|key| payload.get(key).cloned().unwrap_or(Value::Null))
            .collect(),
        // A call of the sync's own may wrap it.
        None => payload.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn call(name: &str) -> Call {
        Call::of(name, None, None, None).expect("in the catalogue")
    }

    #[test]
    fn what_leaves_quickly_is_followed_by_more_up_to_what_is_allowed() {
        let mut pace = Pace::new(10_000);
        let rows: Vec<i32> = (0..5)
            .map(|_| {
                pace.adapt(Duration::from_millis(20));
                pace.rows()
            })
            .collect();
        assert_eq!(rows, [2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn what_leaves_slowly_is_followed_by_less_but_not_by_next_to_nothing() {
        let mut pace = Pace::new(10_000);
        for expected in [500, 250, 125, 100, 100] {
            pace.adapt(Duration::from_secs(5));
            assert_eq!(pace.rows(), expected);
        }
        pace.adapt(Duration::from_secs(1));
        assert_eq!(pace.rows(), 100, "what takes about a second is right");
    }

    proptest! {
        #[test]
        fn a_transaction_never_holds_more_rows_than_allowed(
            most in 1i32..100_000, drains in prop::collection::vec(0u64..10_000, 0..50)
        ) {
            let mut pace = Pace::new(most);
            for milliseconds in drains {
                pace.adapt(Duration::from_millis(milliseconds));
                prop_assert!((1..=most).contains(&pace.rows()));
            }
        }
    }

    #[test]
    fn pauses_grow_to_half_a_second() {
        let mut patience = Patience::new();
        assert_eq!(patience.pause(), Duration::from_millis(5));
        assert!((0..20).map(|_| patience.pause()).all(|pause| pause <= Duration::from_millis(500)));
        assert_eq!(patience.pause(), Duration::from_millis(500));
    }

    #[test]
    fn calls_that_add_are_not_made_for_rows_that_may_have_been_sent() {
        for name in ["wallet_transaction", "invoice", "payment", "applied_coupon", "wallet", "credit_note"] {
            assert!(unfit(&call(name)).is_some_and(|unfit| unfit.what.contains(name)), "{name}");
        }
        for name in ["event", "customer", "subscription", "plan"] {
            assert_eq!(unfit(&call(name)), None, "{name}");
        }
    }

    #[test]
    fn events_are_billed_once_for_each_id_subscription_code_and_time() {
        let event = call("event");
        let of = |payload: Value| billed_as(&event, &payload);
        let one = json!({"transaction_id": "a", "timestamp": 1, "code": "c", "external_subscription_id": "s", "properties": {"n": 1}});
        let mut other = one.clone();
        other["properties"] = json!({"n": 2});
        assert_eq!(of(one.clone()), of(other));
        for key in ["transaction_id", "timestamp", "code", "external_subscription_id"] {
            let mut other = one.clone();
            other[key] = json!("else");
            assert_ne!(of(one.clone()), of(other), "{key}");
        }
        let own = Call::of("manual", None, Some("/events"), None).expect("a call");
        assert!(is_billed(&event) && is_billed(&own) && !is_billed(&call("customer")));
        assert_ne!(billed_as(&own, &json!({"event": 1})), billed_as(&own, &json!({"event": 2})));
    }
}
