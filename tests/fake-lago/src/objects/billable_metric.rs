//! What a metric made by a request means for events: it counts for the bill, and its expression for
//! ingestion.

use super::books::Books;
use super::table::{At, Fields, text};
use crate::catalog::{Aggregation, Metric};

pub const AGGREGATIONS: [&str; 7] =
    ["count_agg", "sum_agg", "max_agg", "unique_count_agg", "weighted_sum_agg", "latest_agg", "custom_agg"];

pub fn needs_a_field(fields: &Fields) -> bool {
    !matches!(text(fields, "aggregation_type"), "" | "count_agg" | "custom_agg")
}

/// The bill weighs nothing and runs no custom code: weighted sums are sums there, custom metrics counts.
pub fn of(fields: &Fields) -> Metric {
    let aggregation = match text(fields, "aggregation_type") {
        "weighted_sum_agg" => Aggregation::Sum,
        name => Aggregation::from_name(name).unwrap_or(Aggregation::Count),
    };
    let filled = |name: &str| Some(text(fields, name)).filter(|text| !text.is_empty()).map(str::to_owned);
    Metric {
        code: text(fields, "code").to_owned(),
        aggregation,
        field_name: filled("field_name"),
        expression_variables: variables(text(fields, "expression")),
    }
}

/// The properties an expression reads: `event.properties.name`.
fn variables(expression: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for after in expression.split("event.properties.").skip(1) {
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Tells the catalog, and takes what was under an earlier code out of it.
pub fn publish(books: &Books<'_>, at: At, earlier_code: Option<&str>) {
    let Some(metric) = books.objects.get(at).map(of) else { return };
    books.app.change_settings(|settings| {
        if let Some(code) = earlier_code {
            settings.catalog.forget_metric(code);
        }
        settings.catalog.define_metric(metric);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_expression_names_the_properties_it_reads() {
        assert_eq!(
            variables("round(event.properties.a_1 * event.properties.b) + event.properties.a_1"),
            ["a_1", "b"]
        );
        assert!(variables("event.timestamp").is_empty());
    }

    #[test]
    fn aggregations_the_bill_does_not_know_become_their_nearest() {
        let fields = |kind: &str| Fields::from_iter([("aggregation_type".to_owned(), json!(kind))]);
        assert_eq!(of(&fields("weighted_sum_agg")).aggregation, Aggregation::Sum);
        assert_eq!(of(&fields("custom_agg")).aggregation, Aggregation::Count);
        assert!(needs_a_field(&fields("max_agg")) && !needs_a_field(&fields("custom_agg")));
    }
}
