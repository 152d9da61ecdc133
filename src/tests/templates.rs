//! Templates: what `create_sync` refuses, with the place named.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, event, event_without, failure, refuses, run, text, texts};
    use pgrx::prelude::*;

    fn create(template: &str) -> String {
        format!("select lago_push.create_sync('calls', 'public.calls', $template${template}$template$)")
    }

    #[pg_test]
    fn the_events_these_tests_vary_are_good() {
        stage::set();
        run(&create(&event("")));
        run("select lago_push.drop_sync('calls')");
        run(&create(&event(r#""timestamp": "1710421740.5", "properties": {{ row.region }}"#)));
    }

    #[pg_test]
    fn every_example_of_the_catalogue_is_a_good_template() {
        stage::set();
        run("create function pg_temp.columns(example text) returns text language sql as $$
                 select string_agg(distinct format('%I text', m[1]), ', ') from regexp_matches(example, '(?:row|old)\\.(\\w+)', 'g') m $$");
        let endpoints = texts("select name from lago_push.endpoints");
        assert!(endpoints.len() > 20, "{endpoints:?}");
        for endpoint in endpoints {
            let of_it = format!("from lago_push.endpoints where name = '{endpoint}'");
            let columns = text(&format!("select coalesce(pg_temp.columns(example), 'id int') {of_it}"));
            run(&format!("create table public.sample ({columns})"));
            run(&format!(
                "select lago_push.create_sync('sample', 'public.sample', example, endpoint => name) {of_it};
                 select lago_push.drop_sync('sample')"
            ));
            run("drop table public.sample");
        }
    }

    #[pg_test]
    fn a_malformed_template_is_refused_with_line_and_column() {
        stage::set();
        let refuses = |template: &str, message: &str, hint: &str| {
            refuses(&create(template), ["22P02", message, "", hint])
        };
        refuses(
            "",
            "template, line 1, column 1: the template is empty",
            "write a JSON object with {{ row.column }} where a value belongs",
        );
        refuses(
            "{\n  \"code\": \"x\"\n  \"timestamp\": 0\n}",
            "template, line 3, column 3: a comma or a closing brace is expected here",
            "check the value before it, and the commas",
        );
        refuses(
            "{\"größe\": 'x'}",
            "template, line 1, column 11: JSON strings stand in double quotes",
            "write \" instead of '",
        );
        refuses(
            "{\n\t\"code\": \"{{ row.id }\"}",
            "template, line 2, column 11: a {{ is not closed",
            "add }}",
        );
        refuses(
            "{\"code\": \"{{ customer.name }}\"}",
            "template, line 1, column 11: \"customer\" names neither row, old nor op",
            "write row.customer for the column, or \"customer\" for the text",
        );
        refuses(
            "{\"code\": 1, \"code\": 2}",
            "template, line 1, column 13: the key \"code\" stands twice",
            "keep one of them",
        );
    }

    #[pg_test]
    fn an_unknown_column_is_refused_with_the_nearest_name() {
        stage::set();
        let refuses = |member: &str, message: &str, hint: &str| {
            refuses(&create(&event(member)), ["42703", message, "", hint])
        };
        refuses(
            r#""code": "{{ row.regoin }}""#,
            "template, line 2, column 12: table public.calls has no column \"regoin\"",
            "Perhaps you meant \"region\".",
        );
        refuses(
            r#""code": "{{ row.Region }}""#,
            "template, line 2, column 12: table public.calls has no column \"Region\"",
            "Perhaps you meant \"region\".",
        );
        refuses(
            r#""code": "{{ row.customer }}""#,
            "template, line 2, column 12: table public.calls has no column \"customer\"",
            "Columns: id, subscription, bytes, region, created_at.",
        );
        refuses(
            r#""code": "{{ row.ctid }}""#,
            "template, line 2, column 12: table public.calls has no column \"ctid\"",
            "Perhaps you meant \"id\".",
        );
    }

    #[pg_test]
    fn a_dropped_column_is_unknown() {
        stage::set();
        run("alter table public.calls drop region");
        let [sqlstate, message, _, hint] =
            failure(&create(&event(r#""properties": {"region": {{ row.region }}}"#)));
        assert_eq!(
            [&*sqlstate, &*message, &*hint],
            [
                "42703",
                "template, line 2, column 28: table public.calls has no column \"region\"",
                "Columns: id, subscription, bytes, created_at."
            ]
        );
    }

    #[pg_test]
    fn a_tag_or_filter_there_is_none_of_is_refused() {
        stage::set();
        for (code, sqlstate, message, hint) in [
            (
                "{{ row.region | shout }}",
                "22P02",
                "template, line 2, column 12: there is no filter \"shout\"",
                "did you mean sort?",
            ),
            (
                "{% render 'x' %}",
                "0A000",
                "template, line 2, column 12: the tag {% render %} is not supported",
                "there are if, unless, case, for, break, continue, assign, capture, comment and raw",
            ),
            (
                "{% elif row.id %}",
                "22P02",
                "template, line 2, column 12: there is no tag {% elif %}",
                "write {% elsif %}",
            ),
        ] {
            refuses(&create(&event(&format!("\"code\": \"{code}\""))), [sqlstate, message, "", hint]);
        }
    }

    #[pg_test]
    fn an_event_without_a_field_lago_bills_by_is_refused() {
        stage::set();
        for (key, hint) in [
            (
                "external_subscription_id",
                r#"Lago answers 200 to an event without a subscription and never bills it: "external_subscription_id": "{{ row.subscription }}""#,
            ),
            ("code", r#"it is the code of the billable metric: "code": "api_calls""#),
        ] {
            refuses(
                &create(&event_without(key)),
                ["22P02", &format!("template, line 1, column 1: the template has no \"{key}\""), "", hint],
            );
        }
    }

    #[pg_test]
    fn a_key_lago_does_not_read_is_refused() {
        stage::set();
        let refuses = |key: &str, hint: &str| {
            let message = format!(
                "template, line 2, column 3: Lago reads no key \"{key}\" in an event and drops it without a word"
            );
            refuses(&create(&event(&format!(r#""{key}": "x""#))), ["22P02", &message, "", hint]);
        };
        refuses("transactionId", "write \"transaction_id\"");
        refuses("externalSubscriptionId", "write \"external_subscription_id\"");
        refuses("Timestamp", "write \"timestamp\"");
        refuses(
            "external_customer_id",
            "name the subscription, not the customer: \"external_subscription_id\"",
        );
        refuses(
            "externalCustomerId",
            "name the subscription, not the customer: \"external_subscription_id\"",
        );
        refuses(
            "amount",
            "the keys are transaction_id, external_subscription_id, code, timestamp, properties, precise_total_amount_cents; values of your own go into \"properties\"",
        );
    }

    #[pg_test]
    fn a_time_lago_would_misread_is_refused() {
        stage::set();
        for time in
            ["\"2024-03-14T13:09:00Z\"", "\"2024-03-14\"", "1.71e9", "true", "\"\"", "\" 1710421740\""]
        {
            refuses(
                &create(&event(&format!("\"timestamp\": {time}"))),
                [
                    "22P02",
                    "template, line 2, column 3: \"timestamp\" is not a time in Unix seconds",
                    "",
                    "write {{ row.created_at }} (a timestamptz column becomes Unix seconds), or seconds, not milliseconds and not ISO 8601",
                ],
            );
        }
    }

    #[pg_test]
    fn milliseconds_are_refused_as_what_they_look_like() {
        stage::set();
        for time in ["1710421740123", "\"1710421740123\"", "100000000000"] {
            refuses(
                &create(&event(&format!("\"timestamp\": {time}"))),
                [
                    "22P02",
                    "template, line 2, column 3: \"timestamp\" is too large for Unix seconds: it looks like milliseconds",
                    "",
                    "write seconds: Lago answers 200 to milliseconds and never bills them",
                ],
            );
        }
    }

    #[pg_test]
    fn properties_that_are_no_object_are_refused() {
        stage::set();
        for properties in ["\"x\"", "[]", "1", "true", "\"{{ row.region }}\""] {
            refuses(
                &create(&event(&format!("\"properties\": {properties}"))),
                [
                    "22P02",
                    "template, line 2, column 3: \"properties\" is not an object, and Lago drops it without a word",
                    "",
                    "write \"properties\": {\"name\": \"{{ row.column }}\"}",
                ],
            );
        }
    }

    #[pg_test]
    fn a_transaction_id_that_never_changes_is_refused() {
        stage::set();
        for id in ["\"call\"", "1"] {
            refuses(
                &create(&event(&format!("\"transaction_id\": {id}"))),
                [
                    "22P02",
                    "template, line 2, column 3: \"transaction_id\" is the same for every row, so Lago would bill one row and take all others for repeats",
                    "",
                    "put the primary key into it: \"call-{{ row.id }}\"; or leave it out, and lago_push makes one",
                ],
            );
        }
    }

    #[pg_test]
    fn a_transaction_id_of_nothing_but_the_operation_is_refused() {
        stage::set();
        let [sqlstate, ..] = failure(&create(&event("\"transaction_id\": \"{{ op }}\"")));
        assert_eq!(sqlstate, "22P02");
    }

    #[pg_test]
    fn a_required_field_that_cannot_be_filled_is_refused() {
        stage::set();
        for (value, what) in [
            ("null", "needs text"),
            ("{}", "needs text"),
            ("[{{ row.region }}]", "needs text"),
            ("\"\"", "is empty"),
        ] {
            refuses(
                &create(&event(&format!("\"code\": {value}"))),
                [
                    "22P02",
                    &format!("template, line 2, column 3: \"code\" {what}"),
                    "",
                    "write \"code\": \"{{ row.column }}\"",
                ],
            );
        }
    }

    #[pg_test]
    fn a_template_that_is_no_object_is_refused_with_an_example() {
        stage::set();
        for template in ["[]", "\"x\"", "{{ row.id }}", "{% if row.id %}1{% endif %}"] {
            let [sqlstate, message, _, hint] = failure(&create(template));
            assert_eq!(
                [&*sqlstate, &*message],
                [
                    "22P02",
                    "template, line 1, column 1: a template for event is a JSON object with at least external_subscription_id, code"
                ]
            );
            assert!(hint.starts_with("for example: {"), "{hint}");
        }
    }

    #[pg_test]
    fn the_row_before_is_not_asked_of_a_sync_that_captures_only_inserts() {
        stage::set();
        let template = event(r#""properties": {"before": {{ old.bytes }}}"#);
        refuses(
            &create(&template),
            [
                "22023",
                "the template names old, but the sync captures inserts only",
                "An inserted row has no older version.",
                "Add update or delete to operations, or use row.",
            ],
        );
        let create = create(&template);
        run(&create.replace("$template$)", "$template$, operations => '{insert,update}')"));
    }
}
