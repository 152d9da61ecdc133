//! When the events of one subscription arrived, for a benchmark that keeps no events.

use std::mem;
use std::time::SystemTime;

use crate::event::Event;

#[derive(Debug, Default)]
pub struct Arrivals {
    watched: Option<String>,
    seen: Vec<(String, SystemTime)>,
}

impl Arrivals {
    /// From now on, of this subscription and no other.
    pub fn watch(&mut self, subscription: &str) {
        *self = Self { watched: Some(subscription.to_owned()), seen: Vec::new() };
    }

    pub fn saw(&mut self, event: &Event, at: SystemTime) {
        if self.watched.is_some() && self.watched == event.external_subscription_id {
            self.seen.push((event.transaction_id.clone().unwrap_or_default(), at));
        }
    }

    /// Transaction ids in the order of acceptance.
    pub fn seen(&self) -> &[(String, SystemTime)] {
        &self.seen
    }

    /// The same subscription is watched, and nothing of it has been seen yet.
    pub fn begin_anew(&mut self) -> Self {
        Self { watched: mem::take(&mut self.watched), seen: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn event(transaction_id: &str, subscription: Option<&str>) -> Event {
        Event {
            transaction_id: Some(transaction_id.to_owned()),
            external_subscription_id: subscription.map(str::to_owned),
            code: None,
            timestamp: 0,
            precise_total_amount_cents: None,
            properties: Map::new(),
        }
    }

    #[test]
    fn only_the_watched_subscription_is_seen() {
        let at = SystemTime::UNIX_EPOCH;
        let mut arrivals = Arrivals::default();
        arrivals.saw(&event("before", Some("s")), at);
        arrivals.saw(&event("nobody's", None), at);
        assert!(arrivals.seen().is_empty());
        arrivals.watch("s");
        arrivals.saw(&event("ours", Some("s")), at);
        arrivals.saw(&event("another's", Some("t")), at);
        arrivals.saw(&event("nobody's", None), at);
        assert_eq!(arrivals.seen(), [("ours".to_owned(), at)]);
        let mut anew = arrivals.begin_anew();
        assert!(anew.seen().is_empty());
        anew.saw(&event("later", Some("s")), at);
        assert_eq!(anew.seen().len(), 1);
    }
}
