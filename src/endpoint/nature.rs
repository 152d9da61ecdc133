//! Nature: what kind of value Lago reads under a key, where it is particular about it.
//!
//! Used by the check of templates, the check of payloads and the drafting of templates, which so agree.
#![forbid(unsafe_code)]

use super::Endpoint;

/// The kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Any scalar, text as a rule.
    Plain,
    /// Unix seconds, as a number or as text.
    UnixSeconds,
    /// A moment as ISO 8601 text.
    Moment,
    /// A decimal number as text: Lago answers 422 to a JSON number.
    DecimalText,
    /// A decimal number as text, of at most 25 integer digits: Lago takes other text for 0.
    PreciseAmount,
    /// A number without a fraction.
    Whole,
    /// true or false.
    Flag,
    /// A currency's three capital letters.
    Currency,
    /// Text of at most so many characters.
    Short(usize),
    OneOf(&'static [&'static str]),
    Object,
    List,
    /// Some structure that differs between calls.
    Nested,
}

/// The longest reference of a payment Lago takes, in characters.
pub const LONGEST_REFERENCE: usize = 40;

const AGGREGATIONS: &[&str] =
    &["count_agg", "sum_agg", "max_agg", "unique_count_agg", "weighted_sum_agg", "latest_agg", "custom_agg"];

/// The nature of a key's value. Keys mean the same wherever Lago uses them, but for those named with
/// their endpoint.
pub fn nature(endpoint: &Endpoint, key: &str) -> Nature {
    match (endpoint.name, key) {
        ("event", "timestamp") => Nature::UnixSeconds,
        ("event", "precise_total_amount_cents") => Nature::PreciseAmount,
        ("event", "properties") => Nature::Object,
        ("wallet" | "wallet_transaction", "paid_credits" | "granted_credits" | "voided_credits") => {
            Nature::DecimalText
        }
        ("payment", "reference") => Nature::Short(LONGEST_REFERENCE),
        ("fee", "payment_status") => Nature::OneOf(&["pending", "succeeded", "failed", "refunded"]),
        ("invoice_update", "payment_status") => Nature::OneOf(&["pending", "succeeded", "failed"]),
        ("coupon" | "coupon_update", "expiration") => Nature::OneOf(&["no_expiration", "time_limit"]),
        (_, "interval") => Nature::OneOf(&["weekly", "monthly", "quarterly", "semiannual", "yearly"]),
        (_, "aggregation_type") => Nature::OneOf(AGGREGATIONS),
        (_, "billing_time") => Nature::OneOf(&["calendar", "anniversary"]),
        (_, "coupon_type") => Nature::OneOf(&["fixed_amount", "percentage"]),
        (_, "frequency") => Nature::OneOf(&["once", "recurring", "forever"]),
        (_, "on_termination_credit_note") => Nature::OneOf(&["credit", "skip", "refund", "offset"]),
        (_, "on_termination_invoice") => Nature::OneOf(&["generate", "skip"]),
        (_, "subscription_at" | "ending_at" | "expiration_at" | "paid_at") => Nature::Moment,
        (_, "currency" | "amount_currency") => Nature::Currency,
        (_, "priority" | "net_payment_term" | "frequency_duration" | "rounding_precision") => Nature::Whole,
        (_, key) if key.ends_with("_cents") => Nature::Whole,
        (
            _,
            "pay_in_advance"
            | "bill_charges_monthly"
            | "bill_fixed_charges_monthly"
            | "cascade_updates"
            | "recurring"
            | "reusable"
            | "applied_to_organization"
            | "consolidate_invoice"
            | "invoice_requires_successful_payment"
            | "ignore_paid_top_up_limits"
            | "ignore_paid_top_up_limits_on_creation"
            | "skip_invoice_custom_sections",
        ) => Nature::Flag,
        (
            _,
            "fees"
            | "items"
            | "charges"
            | "fixed_charges"
            | "usage_thresholds"
            | "tax_codes"
            | "filters"
            | "integration_customers"
            | "invoice_custom_section_codes"
            | "recurring_transaction_rules"
            | "activation_rules",
        ) => Nature::List,
        (
            _,
            "metadata"
            | "transaction_metadata"
            | "applies_to"
            | "billing_configuration"
            | "shipping_address"
            | "plan_overrides"
            | "invoice_custom_section"
            | "payment_method"
            | "minimum_commitment",
        ) => Nature::Nested,
        _ => Nature::Plain,
    }
}

impl Nature {
    /// Whether the value is an object or an array.
    pub fn is_structured(self) -> bool {
        matches!(self, Nature::Object | Nature::List | Nature::Nested)
    }
}

/// Whether text begins as a date of ISO 8601 does.
pub fn begins_with_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits =
        |from: usize, to: usize| bytes.get(from..to).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    digits(0, 4)
        && bytes.get(4) == Some(&b'-')
        && digits(5, 7)
        && bytes.get(7) == Some(&b'-')
        && digits(8, 10)
}

/// Whether text is three capital letters.
pub fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::find;

    fn of(endpoint: &str, key: &str) -> Nature {
        nature(find(endpoint).expect("in the catalogue"), key)
    }

    #[test]
    fn a_key_of_the_same_name_may_mean_another_thing_elsewhere() {
        assert_eq!(of("event", "precise_total_amount_cents"), Nature::PreciseAmount);
        assert_eq!(of("plan", "amount_cents"), Nature::Whole);
        assert_eq!(of("wallet_transaction", "paid_credits"), Nature::DecimalText);
        assert_eq!(of("wallet_update", "expiration_at"), Nature::Moment);
        assert_ne!(of("fee", "payment_status"), of("invoice_update", "payment_status"));
    }

    #[test]
    fn a_date_is_told_from_a_number() {
        for good in ["2026-01-31", "2026-01-31T10:00:00Z", "2026-01-31 10:00:00+02"] {
            assert!(begins_with_date(good), "{good}");
        }
        for bad in ["", "1710421740", "31.01.2026", "2026-1-31", "2026-01"] {
            assert!(!begins_with_date(bad), "{bad}");
        }
    }

    #[test]
    fn a_currency_is_three_capitals() {
        assert!(is_currency("EUR"));
        for bad in ["eur", "EURO", "€", ""] {
            assert!(!is_currency(bad), "{bad}");
        }
    }
}
