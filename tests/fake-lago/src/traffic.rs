//! How much was asked for at once: what a client must be judged by that promises a rate and a number of
//! connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Lago limits the ingestion of events and everything else separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// `POST /events` and `POST /events/batch`.
    Events,
    EverythingElse,
}

impl Category {
    /// By method and path, with or without a query.
    pub fn of(method: &str, path: &str) -> Category {
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        match (method, path) {
            ("POST", "/api/v1/events" | "/api/v1/events/batch") => Category::Events,
            _ => Category::EverythingElse,
        }
    }
}

/// One category's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    /// Read, and not answered yet.
    pub under_way: u64,
    pub most_under_way: u64,
    /// The most requests that arrived within one window, wherever it begins. Of the remembered requests.
    pub busiest_window: u64,
}

#[derive(Debug, Default)]
struct Gauge {
    now: AtomicU64,
    most: AtomicU64,
}

#[derive(Debug, Default)]
pub struct Gauges {
    events: Gauge,
    everything_else: Gauge,
}

/// One request under way; it ends when this is dropped.
pub struct UnderWay<'a>(&'a Gauge);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gauges {
    fn of(&self, category: Category) -> &Gauge {
        match category {
            Category::Events => &self.events,
            Category::EverythingElse => &self.everything_else,
        }
    }

    pub fn enter(&self, category: Category) -> UnderWay<'_> {
        let gauge = self.of(category);
        let now = gauge.now.fetch_add(1, Ordering::Relaxed) + 1;
        gauge.most.fetch_max(now, Ordering::Relaxed);
        UnderWay(gauge)
    }

    /// The number under way now, and the largest so far.
    pub fn read(&self, category: Category) -> (u64, u64) {
        let gauge = self.of(category);
        (gauge.now.load(Ordering::Relaxed), gauge.most.load(Ordering::Relaxed))
    }

    /// Forgets the largest numbers.
    pub fn reset(&self) {
        for gauge in [&self.events, &self.everything_else] {
            gauge.most.store(gauge.now.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// The most arrivals in any stretch of this length.
pub fn busiest_window(mut arrivals: Vec<SystemTime>, window: Duration) -> u64 {
    arrivals.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (last, at) in arrivals.iter().enumerate() {
        while arrivals.get(first).is_some_and(|from| *from + window <= *at) {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    u64::try_from(most).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_a_category_and_the_rest_is_another() {
        for path in ["/api/v1/events", "/api/v1/events/batch", "/api/v1/events/batch?a=b"] {
            assert_eq!(Category::of("POST", path), Category::Events);
            assert_eq!(Category::of("GET", path), Category::EverythingElse);
        }
        assert_eq!(Category::of("POST", "/api/v1/events/estimate_fees"), Category::EverythingElse);
    }

    #[test]
    fn the_largest_number_under_way_is_remembered() {
        let gauges = Gauges::default();
        let first = gauges.enter(Category::Events);
        drop((gauges.enter(Category::Events), gauges.enter(Category::EverythingElse)));
        assert_eq!(gauges.read(Category::Events), (1, 2));
        assert_eq!(gauges.read(Category::EverythingElse), (0, 1));
        gauges.reset();
        assert_eq!(gauges.read(Category::Events), (1, 1));
        drop(first);
        assert_eq!(gauges.read(Category::Events), (0, 1));
    }

    #[test]
    fn the_busiest_window_may_begin_anywhere() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let arrivals = || [0, 900, 1000, 1100, 1899, 1900].map(at).to_vec();
        assert_eq!(busiest_window(arrivals(), Duration::from_secs(1)), 4);
        assert_eq!(busiest_window(arrivals(), Duration::from_millis(1)), 1);
        assert_eq!(busiest_window(Vec::new(), Duration::from_secs(1)), 0);
    }
}
