//! The metrics and subscriptions the organization has.
//!
//! Lago does not look at them when it accepts an event (except for metrics with a custom expression);
//! they decide afterwards what is billed.

use std::collections::HashMap;
use std::time::SystemTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    Count,
    Sum,
    Max,
    /// The value of the event with the latest timestamp.
    Latest,
    /// The number of distinct values, which need not be numeric.
    UniqueCount,
}

impl Aggregation {
    pub fn from_name(name: &str) -> Option<Aggregation> {
        match name {
            "count" | "count_agg" => Some(Aggregation::Count),
            "sum" | "sum_agg" => Some(Aggregation::Sum),
            "max" | "max_agg" => Some(Aggregation::Max),
            "latest" | "latest_agg" => Some(Aggregation::Latest),
            "unique_count" | "unique_count_agg" => Some(Aggregation::UniqueCount),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Aggregation::Count => "count",
            Aggregation::Sum => "sum",
            Aggregation::Max => "max",
            Aggregation::Latest => "latest",
            Aggregation::UniqueCount => "unique_count",
        }
    }
}

/// A billable metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    pub code: String,
    pub aggregation: Aggregation,
    /// The property that is aggregated; a count needs none.
    pub field_name: Option<String>,
    /// Properties a custom expression reads. An event that lacks one is refused at ingestion, with
    /// details that are a string instead of an object.
    pub expression_variables: Vec<String>,
}

impl Metric {
    pub fn count(code: &str) -> Metric {
        Metric {
            code: code.to_owned(),
            aggregation: Aggregation::Count,
            field_name: None,
            expression_variables: Vec::new(),
        }
    }

    pub fn sum(code: &str, field_name: &str) -> Metric {
        Metric::over(Aggregation::Sum, code, field_name)
    }

    pub fn max(code: &str, field_name: &str) -> Metric {
        Metric::over(Aggregation::Max, code, field_name)
    }

    pub fn over(aggregation: Aggregation, code: &str, field_name: &str) -> Metric {
        Metric { aggregation, field_name: Some(field_name.to_owned()), ..Metric::count(code) }
    }

    /// The same metric with a custom expression that reads these properties.
    pub fn with_expression_over(mut self, variables: &[&str]) -> Metric {
        self.expression_variables = variables.iter().map(|name| (*name).to_owned()).collect();
        self
    }
}

/// One period during which events of `external_id` are billed. A subscription created again after its end
/// is a second one with the same `external_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub external_id: String,
    pub external_customer_id: String,
    pub started_at: SystemTime,
    pub ended_at: Option<SystemTime>,
}

impl Subscription {
    /// A subscription that started long ago and has not ended.
    pub fn always(external_id: &str, external_customer_id: &str) -> Subscription {
        Subscription {
            external_id: external_id.to_owned(),
            external_customer_id: external_customer_id.to_owned(),
            started_at: SystemTime::UNIX_EPOCH,
            ended_at: None,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    metrics: HashMap<String, Metric>,
    subscriptions: HashMap<String, Vec<Subscription>>,
}

impl Catalog {
    /// Adds a metric or replaces the one with the same code.
    pub fn define_metric(&mut self, metric: Metric) {
        self.metrics.insert(metric.code.clone(), metric);
    }

    /// Adds a subscription, or replaces the one with the same id and start.
    pub fn define_subscription(&mut self, subscription: Subscription) {
        let periods = self.subscriptions.entry(subscription.external_id.clone()).or_default();
        match periods.iter_mut().find(|known| known.started_at == subscription.started_at) {
            Some(known) => *known = subscription,
            None => periods.push(subscription),
        }
    }

    pub fn forget_metric(&mut self, code: &str) {
        self.metrics.remove(code);
    }

    pub fn metric(&self, code: &str) -> Option<&Metric> {
        self.metrics.get(code)
    }

    /// Every period of one subscription id; empty when it is unknown.
    pub fn subscriptions(&self, external_id: &str) -> &[Subscription] {
        self.subscriptions.get(external_id).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ending_a_subscription_replaces_its_open_period() {
        let mut catalog = Catalog::default();
        catalog.define_subscription(Subscription::always("s", "c"));
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        catalog.define_subscription(Subscription { ended_at: Some(end), ..Subscription::always("s", "c") });
        assert_eq!(catalog.subscriptions("s").len(), 1);
        assert_eq!(catalog.subscriptions("s")[0].ended_at, Some(end));
        assert!(catalog.subscriptions("t").is_empty());
    }

    #[test]
    fn aggregations_have_the_names_lago_uses() {
        for name in ["count_agg", "sum_agg", "max_agg", "latest_agg", "unique_count_agg"] {
            let aggregation = Aggregation::from_name(name).expect(name);
            assert_eq!(format!("{}_agg", aggregation.name()), name);
        }
        assert_eq!(Aggregation::from_name("custom_agg"), None);
    }
}
