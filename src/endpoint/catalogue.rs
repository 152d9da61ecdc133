//! The write calls of Lago, one entry each: facts, and nothing that acts on them.
//!
//! They come from the routes and the accepted parameters of Lago's server, and from its API document where
//! the server was not read; hence most lists of keys are [`Listing::Open`].
#![forbid(unsafe_code)]

use super::{Batch, Endpoint, Listing, Repeat, Supplied};

/// What most calls have in common.
const CALL: Endpoint = Endpoint {
    name: "",
    method: "POST",
    path: "",
    root: None,
    required: &[],
    any_of: &[],
    optional: &[],
    query: &[],
    supplied: &[],
    listing: Listing::Open,
    batch: Batch::One,
    repeat: Repeat::Safe,
    example: "",
};

pub const CATALOGUE: &[Endpoint] = &[
    Endpoint {
        name: "event",
        path: "/events",
        root: Some("event"),
        required: &["transaction_id", "external_subscription_id", "code", "timestamp"],
        optional: &["properties", "precise_total_amount_cents"],
        supplied: &[Supplied::Identity, Supplied::Time],
        listing: Listing::Complete,
        batch: Batch::UpTo { most: 100, path: "/events/batch", root: "events" },
        example: r#"{
  "transaction_id": "call-{{ row.id }}",
  "external_subscription_id": "{{ row.subscription }}",
  "code": "api_calls",
  "timestamp": {{ row.created_at }},
  "properties": {"bytes": "{{ row.bytes }}"}
}"#,
        ..CALL
    },
    // Creates or updates: there is no PUT for customers.
    Endpoint {
        name: "customer",
        path: "/customers",
        root: Some("customer"),
        required: &["external_id"],
        optional: &[
            "account_type",
            "address_line1",
            "address_line2",
            "billing_configuration",
            "billing_entity_code",
            "city",
            "country",
            "currency",
            "customer_type",
            "email",
            "external_salesforce_id",
            "finalize_zero_amount_invoice",
            "firstname",
            "integration_customers",
            "invoice_custom_section_codes",
            "lastname",
            "legal_name",
            "legal_number",
            "logo_url",
            "metadata",
            "name",
            "net_payment_term",
            "phone",
            "shipping_address",
            "skip_invoice_custom_sections",
            "state",
            "tax_codes",
            "tax_identification_number",
            "timezone",
            "url",
            "zipcode",
        ],
        example: r#"{
  "external_id": "{{ row.id }}",
  "name": "{{ row.name }}",
  "email": "{{ row.email }}",
  "currency": "EUR"
}"#,
        ..CALL
    },
    Endpoint {
        name: "customer_delete",
        method: "DELETE",
        path: "/customers/{external_id}",
        required: &["external_id"],
        listing: Listing::Complete,
        example: r#"{"external_id": "{{ row.id }}"}"#,
        ..CALL
    },
    // Safe to repeat at once: Lago answers with the subscription there is. It is not safe to replay after
    // its termination: that starts a new one.
    Endpoint {
        name: "subscription",
        path: "/subscriptions",
        root: Some("subscription"),
        required: &["external_customer_id", "plan_code", "external_id"],
        optional: &[
            "activation_rules",
            "billing_entity_code",
            "billing_time",
            "consolidate_invoice",
            "ending_at",
            "invoice_custom_section",
            "name",
            "payment_method",
            "plan_overrides",
            "purchase_order_number",
            "subscription_at",
        ],
        example: r#"{
  "external_customer_id": "{{ row.customer_id }}",
  "external_id": "{{ row.id }}",
  "plan_code": "{{ row.plan }}",
  "name": "{{ row.name }}",
  "billing_time": "anniversary",
  "subscription_at": "{{ row.started_at }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "subscription_update",
        method: "PUT",
        path: "/subscriptions/{external_id}",
        root: Some("subscription"),
        required: &["external_id"],
        optional: &[
            "activation_rules",
            "billing_entity_code",
            "consolidate_invoice",
            "ending_at",
            "invoice_custom_section",
            "name",
            "payment_method",
            "plan_overrides",
            "purchase_order_number",
            "subscription_at",
        ],
        query: &["status"],
        example: r#"{
  "external_id": "{{ row.id }}",
  "name": "{{ row.name }}",
  "ending_at": {{ row.ending_at }}
}"#,
        ..CALL
    },
    Endpoint {
        name: "subscription_terminate",
        method: "DELETE",
        path: "/subscriptions/{external_id}",
        required: &["external_id"],
        query: &["on_termination_credit_note", "on_termination_invoice", "status"],
        listing: Listing::Complete,
        example: r#"{
  "external_id": "{{ row.id }}",
  "on_termination_credit_note": "credit",
  "on_termination_invoice": "generate"
}"#,
        ..CALL
    },
    // A reusable coupon is applied a second time.
    Endpoint {
        name: "applied_coupon",
        path: "/applied_coupons",
        root: Some("applied_coupon"),
        required: &["external_customer_id", "coupon_code"],
        optional: &["amount_cents", "amount_currency", "frequency", "frequency_duration", "percentage_rate"],
        repeat: Repeat::Never,
        example: r#"{
  "external_customer_id": "{{ row.customer_id }}",
  "coupon_code": "{{ row.coupon }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "applied_coupon_delete",
        method: "DELETE",
        path: "/customers/{external_customer_id}/applied_coupons/{lago_id}",
        required: &["external_customer_id", "lago_id"],
        listing: Listing::Complete,
        example: r#"{
  "external_customer_id": "{{ row.customer_id }}",
  "lago_id": "{{ row.lago_id }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "wallet",
        path: "/wallets",
        root: Some("wallet"),
        required: &["external_customer_id", "rate_amount", "currency"],
        optional: &[
            "applies_to",
            "billing_entity_code",
            "code",
            "expiration_at",
            "granted_credits",
            "ignore_paid_top_up_limits_on_creation",
            "invoice_custom_section",
            "invoice_requires_successful_payment",
            "metadata",
            "name",
            "paid_credits",
            "paid_top_up_max_amount_cents",
            "paid_top_up_min_amount_cents",
            "payment_method",
            "priority",
            "purchase_order_number",
            "recurring_transaction_rules",
            "transaction_metadata",
            "transaction_name",
        ],
        repeat: Repeat::Never,
        example: r#"{
  "external_customer_id": "{{ row.customer_id }}",
  "name": "{{ row.name }}",
  "rate_amount": "1.0",
  "currency": "EUR",
  "granted_credits": "{{ row.credits }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "wallet_update",
        method: "PUT",
        path: "/wallets/{lago_id}",
        root: Some("wallet"),
        required: &["lago_id"],
        optional: &[
            "applies_to",
            "billing_entity_code",
            "code",
            "expiration_at",
            "invoice_custom_section",
            "invoice_requires_successful_payment",
            "metadata",
            "name",
            "paid_top_up_max_amount_cents",
            "paid_top_up_min_amount_cents",
            "payment_method",
            "priority",
            "purchase_order_number",
            "recurring_transaction_rules",
        ],
        example: r#"{
  "lago_id": "{{ row.lago_id }}",
  "name": "{{ row.name }}",
  "expiration_at": {{ row.expires_at }}
}"#,
        ..CALL
    },
    Endpoint {
        name: "wallet_terminate",
        method: "DELETE",
        path: "/wallets/{lago_id}",
        required: &["lago_id"],
        listing: Listing::Complete,
        example: r#"{"lago_id": "{{ row.lago_id }}"}"#,
        ..CALL
    },
    Endpoint {
        name: "wallet_transaction",
        path: "/wallet_transactions",
        root: Some("wallet_transaction"),
        required: &["wallet_id"],
        any_of: &["paid_credits", "granted_credits", "voided_credits"],
        optional: &[
            "ignore_paid_top_up_limits",
            "invoice_custom_section",
            "invoice_requires_successful_payment",
            "metadata",
            "name",
            "payment_method",
            "purchase_order_number",
        ],
        supplied: &[Supplied::Label],
        repeat: Repeat::Never,
        example: r#"{
  "wallet_id": "{{ row.lago_wallet_id }}",
  "paid_credits": "{{ row.credits }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "invoice",
        path: "/invoices",
        root: Some("invoice"),
        required: &["external_customer_id", "fees"],
        optional: &["billing_entity_code", "currency", "invoice_custom_section", "payment_method"],
        repeat: Repeat::Never,
        example: r#"{
  "external_customer_id": "{{ row.customer_id }}",
  "currency": "EUR",
  "fees": [{"add_on_code": "{{ row.add_on }}", "units": "{{ row.quantity }}"}]
}"#,
        ..CALL
    },
    Endpoint {
        name: "invoice_update",
        method: "PUT",
        path: "/invoices/{lago_id}",
        root: Some("invoice"),
        required: &["lago_id"],
        optional: &["metadata", "payment_status"],
        example: r#"{
  "lago_id": "{{ row.lago_id }}",
  "payment_status": "succeeded"
}"#,
        ..CALL
    },
    // Fees cannot be created: this changes the status of one.
    Endpoint {
        name: "fee",
        method: "PUT",
        path: "/fees/{lago_id}",
        root: Some("fee"),
        required: &["lago_id", "payment_status"],
        example: r#"{
  "lago_id": "{{ row.lago_id }}",
  "payment_status": "{{ row.status }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "credit_note",
        path: "/credit_notes",
        root: Some("credit_note"),
        required: &["invoice_id", "items"],
        optional: &[
            "credit_amount_cents",
            "description",
            "metadata",
            "offset_amount_cents",
            "reason",
            "refund_amount_cents",
        ],
        repeat: Repeat::Never,
        example: r#"{
  "invoice_id": "{{ row.lago_invoice_id }}",
  "reason": "other",
  "credit_amount_cents": {{ row.cents }},
  "items": [{"fee_id": "{{ row.lago_fee_id }}", "amount_cents": {{ row.cents }}}]
}"#,
        ..CALL
    },
    Endpoint {
        name: "payment",
        path: "/payments",
        root: Some("payment"),
        required: &["invoice_id", "amount_cents", "reference"],
        optional: &["paid_at"],
        repeat: Repeat::Never,
        example: r#"{
  "invoice_id": "{{ row.lago_invoice_id }}",
  "amount_cents": {{ row.cents }},
  "reference": "{{ row.id }}",
  "paid_at": "{{ row.paid_at }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "billable_metric",
        path: "/billable_metrics",
        root: Some("billable_metric"),
        required: &["name", "code", "aggregation_type"],
        optional: &[
            "description",
            "expression",
            "field_name",
            "filters",
            "recurring",
            "rounding_function",
            "rounding_precision",
            "weighted_interval",
        ],
        example: r#"{
  "name": "{{ row.name }}",
  "code": "{{ row.code }}",
  "aggregation_type": "sum_agg",
  "field_name": "{{ row.property }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "billable_metric_update",
        method: "PUT",
        path: "/billable_metrics/{code}",
        root: Some("billable_metric"),
        required: &["code"],
        optional: &[
            "aggregation_type",
            "description",
            "expression",
            "field_name",
            "filters",
            "name",
            "recurring",
            "rounding_function",
            "rounding_precision",
            "weighted_interval",
        ],
        example: r#"{
  "code": "{{ row.code }}",
  "name": "{{ row.name }}",
  "description": "{{ row.description }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "plan",
        path: "/plans",
        root: Some("plan"),
        required: &["name", "code", "interval", "amount_cents", "amount_currency", "pay_in_advance"],
        optional: &[
            "bill_charges_monthly",
            "bill_fixed_charges_monthly",
            "charges",
            "description",
            "fixed_charges",
            "invoice_display_name",
            "metadata",
            "minimum_commitment",
            "tax_codes",
            "trial_period",
            "usage_thresholds",
        ],
        example: r#"{
  "name": "{{ row.name }}",
  "code": "{{ row.code }}",
  "interval": "monthly",
  "amount_cents": {{ row.cents }},
  "amount_currency": "EUR",
  "pay_in_advance": {{ row.in_advance }}
}"#,
        ..CALL
    },
    Endpoint {
        name: "plan_update",
        method: "PUT",
        path: "/plans/{code}",
        root: Some("plan"),
        required: &["code"],
        optional: &[
            "amount_cents",
            "amount_currency",
            "bill_charges_monthly",
            "bill_fixed_charges_monthly",
            "cascade_updates",
            "charges",
            "description",
            "fixed_charges",
            "interval",
            "invoice_display_name",
            "metadata",
            "minimum_commitment",
            "name",
            "pay_in_advance",
            "tax_codes",
            "trial_period",
            "usage_thresholds",
        ],
        example: r#"{
  "code": "{{ row.code }}",
  "name": "{{ row.name }}",
  "amount_cents": {{ row.cents }}
}"#,
        ..CALL
    },
    Endpoint {
        name: "add_on",
        path: "/add_ons",
        root: Some("add_on"),
        required: &["name", "code", "amount_cents", "amount_currency"],
        optional: &["description", "invoice_display_name", "tax_codes"],
        example: r#"{
  "name": "{{ row.name }}",
  "code": "{{ row.code }}",
  "amount_cents": {{ row.cents }},
  "amount_currency": "EUR"
}"#,
        ..CALL
    },
    Endpoint {
        name: "add_on_update",
        method: "PUT",
        path: "/add_ons/{code}",
        root: Some("add_on"),
        required: &["code"],
        optional: &[
            "amount_cents",
            "amount_currency",
            "description",
            "invoice_display_name",
            "name",
            "tax_codes",
        ],
        example: r#"{
  "code": "{{ row.code }}",
  "name": "{{ row.name }}",
  "amount_cents": {{ row.cents }}
}"#,
        ..CALL
    },
    Endpoint {
        name: "coupon",
        path: "/coupons",
        root: Some("coupon"),
        required: &["name", "code"],
        any_of: &["amount_cents", "percentage_rate"],
        optional: &[
            "amount_currency",
            "applies_to",
            "coupon_type",
            "description",
            "expiration",
            "expiration_at",
            "expiration_date",
            "frequency",
            "frequency_duration",
            "reusable",
        ],
        example: r#"{
  "name": "{{ row.name }}",
  "code": "{{ row.code }}",
  "coupon_type": "fixed_amount",
  "amount_cents": {{ row.cents }},
  "amount_currency": "EUR",
  "frequency": "once",
  "expiration": "no_expiration",
  "reusable": false
}"#,
        ..CALL
    },
    Endpoint {
        name: "coupon_update",
        method: "PUT",
        path: "/coupons/{code}",
        root: Some("coupon"),
        required: &["code"],
        optional: &[
            "amount_cents",
            "amount_currency",
            "applies_to",
            "coupon_type",
            "description",
            "expiration",
            "expiration_at",
            "expiration_date",
            "frequency",
            "frequency_duration",
            "name",
            "percentage_rate",
            "reusable",
        ],
        example: r#"{
  "code": "{{ row.code }}",
  "name": "{{ row.name }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "tax",
        path: "/taxes",
        root: Some("tax"),
        required: &["name", "code", "rate"],
        optional: &["applied_to_organization", "description"],
        example: r#"{
  "name": "{{ row.name }}",
  "code": "{{ row.code }}",
  "rate": "{{ row.percent }}"
}"#,
        ..CALL
    },
    Endpoint {
        name: "tax_update",
        method: "PUT",
        path: "/taxes/{code}",
        root: Some("tax"),
        required: &["code"],
        optional: &["applied_to_organization", "description", "name", "rate"],
        example: r#"{
  "code": "{{ row.code }}",
  "rate": "{{ row.percent }}"
}"#,
        ..CALL
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::find;

    #[test]
    fn every_write_call_of_lago_is_there() {
        let calls: Vec<(&str, &str, &str)> =
            CATALOGUE.iter().map(|endpoint| (endpoint.name, endpoint.method, endpoint.path)).collect();
        assert_eq!(
            calls,
            [
                ("event", "POST", "/events"),
                ("customer", "POST", "/customers"),
                ("customer_delete", "DELETE", "/customers/{external_id}"),
                ("subscription", "POST", "/subscriptions"),
                ("subscription_update", "PUT", "/subscriptions/{external_id}"),
                ("subscription_terminate", "DELETE", "/subscriptions/{external_id}"),
                ("applied_coupon", "POST", "/applied_coupons"),
                (
                    "applied_coupon_delete",
                    "DELETE",
                    "/customers/{external_customer_id}/applied_coupons/{lago_id}"
                ),
                ("wallet", "POST", "/wallets"),
                ("wallet_update", "PUT", "/wallets/{lago_id}"),
                ("wallet_terminate", "DELETE", "/wallets/{lago_id}"),
                ("wallet_transaction", "POST", "/wallet_transactions"),
                ("invoice", "POST", "/invoices"),
                ("invoice_update", "PUT", "/invoices/{lago_id}"),
                ("fee", "PUT", "/fees/{lago_id}"),
                ("credit_note", "POST", "/credit_notes"),
                ("payment", "POST", "/payments"),
                ("billable_metric", "POST", "/billable_metrics"),
                ("billable_metric_update", "PUT", "/billable_metrics/{code}"),
                ("plan", "POST", "/plans"),
                ("plan_update", "PUT", "/plans/{code}"),
                ("add_on", "POST", "/add_ons"),
                ("add_on_update", "PUT", "/add_ons/{code}"),
                ("coupon", "POST", "/coupons"),
                ("coupon_update", "PUT", "/coupons/{code}"),
                ("tax", "POST", "/taxes"),
                ("tax_update", "PUT", "/taxes/{code}"),
            ]
        );
    }

    #[test]
    fn what_would_be_done_twice_is_never_repeated_and_nothing_else_is_held_back() {
        let never: Vec<&str> = CATALOGUE
            .iter()
            .filter(|endpoint| endpoint.repeat == Repeat::Never)
            .map(|endpoint| endpoint.name)
            .collect();
        assert_eq!(
            never,
            ["applied_coupon", "wallet", "wallet_transaction", "invoice", "credit_note", "payment"]
        );
    }

    #[test]
    fn only_events_travel_together() {
        for endpoint in CATALOGUE {
            assert_eq!(endpoint.batch != Batch::One, endpoint.name == "event", "{}", endpoint.name);
        }
    }

    #[test]
    fn what_has_a_body_has_a_root_and_a_deletion_has_neither() {
        for endpoint in CATALOGUE {
            assert_eq!(endpoint.root.is_none(), endpoint.method == "DELETE", "{}", endpoint.name);
        }
    }

    #[test]
    fn no_key_is_listed_twice_and_every_key_of_a_path_is_required() {
        for endpoint in CATALOGUE {
            let mut keys: Vec<&str> = endpoint.keys().collect();
            keys.sort_unstable();
            let all = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), all, "{}", endpoint.name);
            for key in crate::call::keys_of_path(endpoint.path) {
                assert!(endpoint.required.contains(&key), "{}: {key}", endpoint.name);
            }
        }
    }

    #[test]
    fn an_endpoint_is_found_by_its_name_alone() {
        assert_eq!(find("wallet").map(|endpoint| endpoint.path), Some("/wallets"));
        assert_eq!(find(""), None);
        assert_eq!(find("Wallet"), None);
    }
}
