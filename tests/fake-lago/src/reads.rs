//! `GET /events` and `GET /events/{transaction_id}`: what reconciliation can see.
//!
//! Filters look at the time of the event, not of its receipt. ClickHouse lists every copy.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::json;

use crate::app::{Call, lock};
use crate::config::Store;
use crate::http;
use crate::objects;
use crate::reply::{self, Identity, Reply};
use crate::store::StoredEvent;
use crate::time;

const DEFAULT_PAGE_LENGTH: usize = 100;

pub fn show_event(call: &Call<'_>, transaction_id: &str) -> Reply {
    let Some(event) = lock(&call.app.state).first_with_id(transaction_id) else {
        return reply::not_found("event");
    };
    let mut body = String::from("{\"event\":");
    push(&mut body, &event);
    body.push('}');
    Reply::json(200, body)
}

fn push(out: &mut String, event: &StoredEvent) {
    let created = time::micros_of(event.received_at);
    reply::push_event(out, &event.as_event(), Identity::Row { id: &event.lago_id, created });
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    external_subscription_id: Option<String>,
    code: Option<String>,
    from: Option<i128>,
    to: Option<i128>,
    from_started_at: bool,
    page: usize,
    per_page: usize,
}

impl Filter {
    /// Reads the query; the error is the field and code of a 422.
    fn read(query: &str) -> Result<Filter, (&'static str, &'static str)> {
        let mut filter = Filter { page: 1, per_page: DEFAULT_PAGE_LENGTH, ..Filter::default() };
        let positive = |text: &str, default| text.parse().ok().filter(|n| *n > 0).unwrap_or(default);
        for (name, value) in http::query_pairs(query).into_iter().filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "external_subscription_id" => filter.external_subscription_id = Some(value),
                "code" => filter.code = Some(value),
                "timestamp_from" => {
                    filter.from = Some(time::parse_iso(&value).ok_or(("timestamp_from", "invalid_date"))?);
                }
                "timestamp_to" => {
                    filter.to = Some(time::parse_iso(&value).ok_or(("timestamp_to", "invalid_date"))?);
                }
                "timestamp_from_started_at" => filter.from_started_at = value == "true",
                "page" => filter.page = positive(&value, 1),
                "per_page" => filter.per_page = positive(&value, DEFAULT_PAGE_LENGTH),
                _ => {}
            }
        }
        if filter.from_started_at && (filter.external_subscription_id.is_none() || filter.from.is_some()) {
            return Err(("timestamp_from_started_at", "value_is_invalid"));
        }
        Ok(filter)
    }

    fn takes(&self, event: &StoredEvent) -> bool {
        let subscription = self.external_subscription_id.as_deref();
        subscription.is_none_or(|id| event.external_subscription_id.as_deref() == Some(id))
            && self.code.as_deref().is_none_or(|code| event.code == code)
            && self.from.is_none_or(|from| from <= event.timestamp_micros)
            && self.to.is_none_or(|to| event.timestamp_micros <= to)
    }
}

pub fn list_events(call: &Call<'_>) -> Reply {
    let mut filter = match Filter::read(&call.request.query) {
        Ok(filter) => filter,
        Err((field, code)) => return reply::invalid(json!({field: [code]})),
    };
    if let (true, Some(id)) = (filter.from_started_at, &filter.external_subscription_id) {
        let periods = objects::periods(&lock(&call.app.state).objects, id);
        filter.from = periods.iter().map(|period| time::micros_of(period.started_at)).max();
    }
    let events = lock(&call.app.state).live_events_between(filter.from, filter.to);
    let matching: Vec<Arc<StoredEvent>> = events.into_iter().filter(|event| filter.takes(event)).collect();
    let total = matching.len();
    let page = newest_first(matching, call.settings.config.store, &filter);

    let pages = total.div_ceil(filter.per_page);
    let mut body = String::from("{\"events\":[");
    for (index, event) in page.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        push(&mut body, event);
    }
    let meta = json!({
        "current_page": filter.page,
        "next_page": (filter.page < pages).then(|| filter.page + 1),
        "prev_page": (filter.page > 1).then(|| filter.page - 1),
        "total_pages": pages,
        "total_count": total,
    });
    body.push_str("],\"meta\":");
    body.push_str(&meta.to_string());
    body.push('}');
    Reply::json(200, body)
}

/// Newest by the time of the event in Postgres, by receipt in ClickHouse.
fn newest_first(mut events: Vec<Arc<StoredEvent>>, store: Store, filter: &Filter) -> Vec<Arc<StoredEvent>> {
    events.reverse();
    if store == Store::Postgres {
        events.sort_by_key(|event| Reverse(event.timestamp_micros));
    }
    let skipped = (filter.page - 1).saturating_mul(filter.per_page);
    events.into_iter().skip(skipped).take(filter.per_page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_must_be_iso_8601() {
        assert_eq!(Filter::read("timestamp_from=1710421740"), Err(("timestamp_from", "invalid_date")));
        assert_eq!(Filter::read("timestamp_to=soon"), Err(("timestamp_to", "invalid_date")));
        let filter =
            Filter::read("timestamp_from=2024-03-14T13%3A09%3A00Z&per_page=0&page=x").expect("valid");
        assert_eq!((filter.from, filter.page), (Some(1_710_421_740_000_000), 1));
        assert_eq!(filter.per_page, DEFAULT_PAGE_LENGTH);
    }

    #[test]
    fn the_start_of_the_subscription_needs_a_subscription() {
        assert!(Filter::read("timestamp_from_started_at=true").is_err());
        assert!(Filter::read("timestamp_from_started_at=true&external_subscription_id=s").is_ok());
        let both = "timestamp_from_started_at=true&external_subscription_id=s&timestamp_from=2024-01-01";
        assert!(Filter::read(both).is_err());
    }
}
