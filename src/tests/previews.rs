//! Previews: what would be sent is shown with its doubts, and nothing is sent or left behind.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{
        self, INSERT, PAYLOAD, activate_for_value, event, failure, refuses, run, text, texts,
    };
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    fn preview(arguments: &str, columns: &str) -> Vec<String> {
        texts(&format!("select {columns} from lago_push.preview({arguments})"))
    }

    /// What a preview must leave as it was.
    fn stored() -> String {
        stage::reach_the_end();
        text(
            "select concat_ws('|', pg_temp.made(), (select count(*) from lago_push.message), (select count(*) from lago_push.dead_letter),
                               (select last_value || ' ' || is_called from lago_push.message_id))",
        )
    }

    #[pg_test]
    fn a_preview_shows_the_call_and_the_payload() {
        stage::set();
        run(
            "select lago_push.alter_destination('lago', headers => '{\"X-Region\": \"eu\", \"X-Tenant\": \"a\", \"X-Api-Key\": \"hush\"}')",
        );
        stage::draft("calls", ", headers => '{\"X-Tenant\": \"b\"}'");
        run(INSERT);
        let before = stored();
        assert_eq!(
            preview("'calls'", "concat_ws(' ', operation, method, url)"),
            ["insert POST https://lago.example/api/v1/events/batch"]
        );
        assert_eq!(preview("'calls'", &format!("(body = $p${PAYLOAD}$p$)::text")), ["true"]);
        assert_eq!(
            preview("'calls'", "(headers - 'user-agent')::text"),
            [
                r#"{"accept": "application/json", "X-Region": "eu", "X-Tenant": "b", "X-Api-Key": "***", "content-type": "application/json", "authorization": "Bearer ***"}"#
            ]
        );
        assert_eq!(preview("'calls'", "warnings::text"), ["{}"]);
        assert_eq!(stored(), before);
    }

    #[pg_test]
    fn a_preview_never_shows_the_key() {
        stage::set();
        stage::draft("calls", "");
        run(INSERT);
        assert!(preview("'calls'", "headers ->> 'user-agent'")[0].starts_with("lago_push/"));
        assert_eq!(
            texts("select (p::text like '%secret%')::text from lago_push.preview('calls') p"),
            ["false"]
        );
        run(
            "select lago_push.drop_sync('calls'); select lago_push.create_destination('open', 'https://lago.example/api/v1')",
        );
        stage::draft("calls", ", destination => 'open'");
        assert_eq!(preview("'calls'", "(headers ? 'authorization')::text"), ["false"]);
    }

    #[pg_test]
    fn rows_are_shown_for_each_operation_as_many_as_asked_for() {
        stage::set();
        activate_for_value(
            "public.calls",
            "[{{ row.id }}, {{ old.id }}, \"{{ op }}\"]",
            ", operations => '{insert,update,delete}'",
        );
        run("select lago_push.pause('values'); alter table public.calls disable trigger user");
        run("insert into public.calls (id) select n from generate_series(1, 9) n");
        let shown = |rows: &str| preview(rows, "operation || ' ' || (body -> 'properties' -> 'v')::text");
        let sorted = |mut rows: Vec<String>| {
            rows.sort();
            rows
        };
        assert_eq!(
            sorted(shown("'values', 1")),
            [r#"delete [1, 1, "delete"]"#, r#"insert [1, null, "insert"]"#, r#"update [1, 1, "update"]"#]
        );
        assert_eq!(shown("'values'").len(), 15);
        assert_eq!(shown("'values', rows => 1000").len(), 27);
        for rows in ["0", "-1", "1001", "null"] {
            refuses(
                &format!("select * from lago_push.preview('values', {rows})"),
                ["22023", "rows must be between 1 and 1000", "", ""],
            );
        }
    }

    #[pg_test]
    fn a_filter_chooses_the_rows_shown() {
        stage::set();
        stage::draft("calls", ", filter => 'new.bytes > 5 -- enough'");
        run(
            "insert into public.calls values (1, 's', 5, 'eu', now()), (2, 's', 6, 'eu', now()), (3, 's', null, 'eu', now())",
        );
        assert_eq!(preview("'calls'", "body ->> 'transaction_id'"), ["call-2"]);
        run("select lago_push.drop_sync('calls')");
        stage::draft("calls", ", operations => '{delete}', filter => 'old.bytes = 5'");
        assert_eq!(preview("'calls'", "body ->> 'transaction_id'"), ["call-1"]);
        run("select lago_push.drop_sync('calls')");
        // Before and after are the same in a row at rest, so this condition cannot be told.
        stage::draft("calls", ", operations => '{update}', filter => 'old.bytes is distinct from new.bytes'");
        assert_eq!(preview("'calls'", "body ->> 'transaction_id'").len(), 3);
    }

    #[pg_test]
    fn an_empty_table_has_nothing_to_show() {
        stage::set();
        stage::draft("calls", "");
        assert_eq!(preview("'calls'", "operation"), NOTHING);
        refuses(
            "select * from lago_push.send_test('calls')",
            [
                "P0002",
                "table public.calls has no row to send",
                "",
                "Insert one, or give a body: send_test(…, body => '{…}').",
            ],
        );
    }

    #[pg_test]
    fn a_row_that_would_be_a_dead_letter_is_shown_as_one() {
        stage::set();
        stage::draft("calls", "");
        run("insert into public.calls (id, created_at) values (1, now())");
        let before = stored();
        assert_eq!(
            preview("'calls'", "concat_ws('|', body, warnings)"),
            [
                r#"{"this row becomes a dead letter: column \"subscription\" is null, and \"external_subscription_id\" needs a value"}"#
            ]
        );
        assert_eq!(stored(), before);
        refuses(
            "select * from lago_push.send_test('calls')",
            [
                "22000",
                "sync \"calls\" cannot send the first row of public.calls",
                "this row becomes a dead letter: column \"subscription\" is null, and \"external_subscription_id\" needs a value",
                "lago_push.preview() shows more rows; correct the row or the sync, or give a body.",
            ],
        );
    }

    #[pg_test]
    fn a_row_the_mapper_skips_is_shown_as_skipped() {
        stage::set();
        run("create function public.map(public.calls) returns jsonb language sql as 'select null::jsonb';
             select lago_push.create_sync('calls', 'public.calls', mapper => 'public.map(public.calls)')");
        run(INSERT);
        assert_eq!(
            preview("'calls'", "concat_ws('|', body, warnings)"),
            ["{\"the mapper returns null for this row: nothing is sent\"}"]
        );
    }

    #[pg_test]
    fn each_doubt_about_a_payload_is_told_once() {
        stage::set();
        run("create function public.map(public.calls) returns jsonb language sql as 'select ($1).region::jsonb';
             select lago_push.create_sync('calls', 'public.calls', mapper => 'public.map(public.calls)')");
        let good = r#"{"transaction_id": "t-ID", "external_subscription_id": "s", "code": "c", "timestamp": TIME, "properties": PROPERTIES}"#;
        let time = text("select extract(epoch from now())::bigint::text");
        let with = |properties: &str| good.replace("TIME", &time).replace("PROPERTIES", properties);
        let at = |time: &str| good.replace("TIME", time).replace("PROPERTIES", "{}");
        let cases = [
            (with(r#"{"a": "10.5", "b": 3, "c": "eu"}"#), vec![]),
            (with(r#"{"a": 0.5}"#), vec!["may lose digits"]),
            (with(r#"{"a": 9007199254740993}"#), vec!["2^53", "more than 12 digits"]),
            (with(r#"{"a": "1e-07"}"#), vec!["does not count"]),
            (with(r#"{"a": "1234567890123.5"}"#), vec!["more than 12 digits"]),
            (with(r#"{"a": [1, null]}"#), vec!["array with null"]),
            (with("[]"), vec!["\"properties\" is not an object", "dead letter"]),
            (at("3600"), vec!["before the year 2000"]),
            (
                at(&format!("{time}000000")
                    .replace("000000", "")
                    .parse::<i64>()
                    .map(|t| (t + 86_400).to_string())
                    .unwrap_or_default()),
                vec!["in the future"],
            ),
            (at("1710421740123"), vec!["milliseconds", "dead letter"]),
            (at("\"2024-03-14T13:09:00Z\""), vec!["ISO 8601", "dead letter"]),
            (with("{}").replace("\"s\"", "\" s\""), vec!["white space"]),
            (with("{}").replace("t-ID", &format!("{}-ID", "x".repeat(2601))), vec!["longer than 2600 bytes"]),
            (with("{}").replace("\"s\"", "null"), vec!["never bill it", "dead letter"]),
            (
                with("{}").replace("\"code\"", "\"Code\""),
                vec!["reads no key \"Code\"", "\"code\" is missing", "dead letter"],
            ),
            (
                with(r#"{"a": 1}"#)
                    .replace("\"properties\"", "\"precise_total_amount_cents\": 1.5, \"properties\""),
                vec!["precise_total_amount_cents"],
            ),
            (with("{}").replace("t-ID", "t-0"), vec!["same transaction_id"]),
        ];
        for (number, (payload, _)) in cases.iter().enumerate() {
            run(&format!(
                "insert into public.calls (id, region) values ({number}, $p${}$p$)",
                payload.replace("ID", &number.to_string())
            ));
        }
        let before = stored();
        let shown = preview("'calls', 1000", "to_json(warnings)::text");
        assert_eq!(shown.len(), cases.len());
        for ((payload, wanted), warnings) in cases.iter().zip(shown) {
            let warnings: Vec<String> = serde_json::from_str(&warnings).expect("an array of text");
            for wanted in wanted {
                let told = warnings.iter().filter(|warning| warning.contains(wanted)).count();
                assert!(told >= 1, "{wanted} is not told of {payload}: {warnings:?}");
            }
            assert!(warnings.len() <= wanted.len(), "{payload}: {warnings:?}");
        }
        assert_eq!(stored(), before);
    }

    #[pg_test]
    fn a_preview_shows_what_would_be_captured() {
        stage::set();
        run(&format!(
            "select lago_push.create_sync('calls', 'public.calls', $t${}$t$); select lago_push.activate('calls')",
            event(
                r#""properties": {"a": "{{ row.region | upcase }}", "b": {% if row.bytes > 5 %}"many"{% else %}"few"{% endif %}, "c": {{ row.bytes }}}"#
            )
        ));
        run(
            "insert into public.calls values (1, 'acme', 10.50, 'eu', '2024-03-14 13:09:00.5+00'), (2, 'b', 1, null, '2024-03-14 13:09:00+00')",
        );
        let captured = stage::payloads();
        let shown = preview("'calls'", "body::text");
        assert_eq!(shown.len(), 2);
        for (captured, shown) in captured.iter().zip(shown) {
            assert_eq!(
                text(&format!("select ($p${captured}$p$::jsonb = $p${shown}$p$::jsonb)::text")),
                "true",
                "{captured} {shown}"
            );
        }
    }

    #[pg_test]
    fn a_preview_shows_path_and_body_apart() {
        stage::set();
        for (endpoint, operation, template, shown) in [
            (
                "subscription_update",
                "update",
                r#"{"external_id": "{{ row.subscription }}", "name": "{{ row.region }}"}"#,
                r#"update PUT https://lago.example/api/v1/subscriptions/user%40example%2Ecom {"name": "eu"} t"#,
            ),
            (
                "customer_delete",
                "delete",
                r#"{"external_id": "{{ row.subscription }}"}"#,
                "delete DELETE https://lago.example/api/v1/customers/user%40example%2Ecom f",
            ),
            (
                "customer",
                "insert",
                r#"{"external_id": "{{ row.subscription }}"}"#,
                r#"insert POST https://lago.example/api/v1/customers {"external_id": "user@example.com"} t"#,
            ),
        ] {
            run(&format!(
                "select lago_push.create_sync('{endpoint}', 'public.calls', $t${template}$t$, endpoint => '{endpoint}', operations => '{{{operation}}}')"
            ));
            run(
                "delete from public.calls; insert into public.calls values (1, 'user@example.com', 1, 'eu', now())",
            );
            assert_eq!(
                preview(
                    &format!("'{endpoint}'"),
                    "concat_ws(' ', operation, method, url, body, headers ? 'content-type')"
                ),
                [shown]
            );
        }
        run(
            "select lago_push.create_sync('own', 'public.calls', '{\"a\": {{ row.bytes }}}', path => '/x/{{ row.region }}', method => 'patch', root => 'thing')",
        );
        assert_eq!(
            preview("'own'", "concat_ws(' ', operation, method, url, body)"),
            [r#"insert PATCH https://lago.example/api/v1/x/eu {"a": 1}"#]
        );
    }

    #[pg_test]
    fn what_a_mapper_writes_while_it_is_previewed_is_undone() {
        stage::set();
        run("create table public.audit (id bigint)");
        run(
            r#"select lago_push.create_sync('audit', 'public.audit', $t${"transaction_id": "audit-{{ row.id }}", "external_subscription_id": "s", "code": "audit", "timestamp": 0}$t$);
               select lago_push.activate('audit')"#,
        );
        run(r#"create function public.map(public.calls) returns jsonb language plpgsql as $$ begin
                 insert into public.audit values (($1).id);
                 return '{"transaction_id": "t", "external_subscription_id": "s", "code": "c", "timestamp": 1710421740}';
             end $$;
             select lago_push.create_sync('calls', 'public.calls', mapper => 'public.map(public.calls)')"#);
        run(INSERT);
        assert_eq!(preview("'calls'", "body ->> 'transaction_id'"), ["t"]);
        assert_eq!(texts("select id::text from public.audit"), NOTHING);
        stage::reach_the_end();
        assert_eq!(texts("select payload from lago_push.message"), NOTHING);
        // What fails in a preview fails as it is.
        let [sqlstate, message, ..] = failure(
            "select lago_push.alter_sync('calls', filter => '1 / (new.bytes - new.bytes) > 0'); select * from lago_push.preview('calls')",
        );
        assert_eq!((&*sqlstate, &*message), ("22012", "division by zero"));
    }

    #[pg_test]
    fn a_preview_of_a_table_that_has_changed_says_what_to_mend() {
        stage::set();
        stage::draft("calls", "");
        run("alter table public.calls rename region to area");
        refuses(
            "select * from lago_push.preview('calls')",
            [
                "55000",
                "sync \"calls\" cannot be applied to its source",
                "column \"region\" does not exist (any more)",
                "Mend it with lago_push.alter_sync().",
            ],
        );
    }

    #[pg_test]
    fn only_the_owner_of_a_table_previews_it() {
        stage::set();
        stage::draft("calls", "");
        run(INSERT);
        run("create role maker;
             grant usage on schema lago_push to maker; grant execute on all functions in schema lago_push to maker;
             grant all on public.calls to maker");
        for call in [
            "* from lago_push.preview('calls')",
            "* from lago_push.send_test('calls')",
            "lago_push.suggest_template('public.calls')",
        ] {
            let [sqlstate, message, ..] = failure(&format!("set local role maker; select {call}"));
            assert_eq!((&*sqlstate, &*message), ("42501", "must be owner of table public.calls"), "{call}");
        }
        run("alter table public.calls owner to maker; set local role maker");
        assert_eq!(preview("'calls'", "operation"), ["insert"]);
        run("reset role");
    }

    #[pg_test]
    fn a_filter_is_previewed_with_the_rights_of_who_looks() {
        stage::set();
        run("create role maker;
             grant usage on schema lago_push to maker; grant execute on all functions in schema lago_push to maker;
             grant create, usage on schema public to maker;
             create table public.mine (like public.calls); insert into public.mine values (1, 's', 1, 'eu', now());
             alter table public.mine owner to maker;
             create sequence public.ran_as; grant update on public.ran_as to public");
        run(&format!(
            "set local role maker;
             create function public.who() returns boolean language plpgsql as 'begin perform setval(''public.ran_as'', length(current_user)); return true; end';
             select lago_push.create_sync('mine', 'public.mine', $t${}$t$, filter => 'public.who()');
             reset role",
            stage::TEMPLATE
        ));
        run("set local role maker");
        assert_eq!(preview("'mine'", "operation"), ["insert"]);
        run("reset role");
        // A sequence keeps what a preview takes back.
        assert_eq!(text("select last_value::text from public.ran_as"), "maker".len().to_string());
    }

    #[pg_test]
    fn a_test_of_a_destination_that_does_not_answer_says_so() {
        stage::set();
        run("select lago_push.create_destination('down', 'http://127.0.0.1:1/api/v1', timeout => '5 s')");
        stage::draft("calls", ", destination => 'down'");
        run(INSERT);
        let before = stored();
        for arguments in ["'calls'", "'calls', body => '{\"code\": \"x\"}'"] {
            assert_eq!(
                texts(&format!(
                    "select concat_ws('|', coalesce(status::text, 'none'), coalesce(reply::text, 'none'), verdict, message <> '', duration between '0' and '30 s')
                       from lago_push.send_test({arguments})"
                )),
                ["none|none|hold|t|t"],
                "{arguments}"
            );
        }
        assert_eq!(stored(), before);
    }

    #[pg_test]
    fn a_body_of_ones_own_needs_no_row_but_where_the_path_does() {
        stage::set();
        run("select lago_push.create_destination('down', 'http://127.0.0.1:1/api/v1')");
        stage::draft("calls", ", destination => 'down'");
        assert_eq!(texts("select verdict from lago_push.send_test('calls', '{}')"), ["hold"]);
        run(
            "select lago_push.create_sync('own', 'public.calls', '{}', path => '/x/{{ row.region }}', destination => 'down')",
        );
        refuses(
            "select * from lago_push.send_test('own', '{}')",
            [
                "P0002",
                "table public.calls has no row to send",
                "",
                "The sync's path is filled from a row: insert one.",
            ],
        );
    }

    #[pg_test]
    fn a_suggested_template_is_accepted_for_every_endpoint() {
        stage::set();
        run(r#"create type public.tier as enum ('gold');
             create domain public.cents as bigint;
             create table public.bare (n int);
             create table public.none ();
             create table public.odd ("Mixed Case" int primary key, "with ""quotes""" text, "größe" numeric, "a.b" int, "{{" int, "back\slash" text, "it's" int, "row" int);
             create table public.pair (a int, b text, amount_cents public.cents, tier public.tier, primary key (a, b));
             create table public.rich (id uuid primary key, external_id text, subscription_id text, customer_id text, created_at timestamptz, updated_at timestamp, day date,
                                       amount numeric, amount_cents bigint, currency char(3), name text, email text, metadata jsonb, flags text[], price float8, active boolean)"#);
        let endpoints = texts("select name from lago_push.endpoints");
        assert!(endpoints.len() >= 20, "{endpoints:?}");
        for table in ["calls", "bare", "none", "odd", "pair", "rich"] {
            for endpoint in &endpoints {
                let create = format!(
                    "select lago_push.create_sync('made', 'public.{table}', lago_push.suggest_template('public.{table}', '{endpoint}'), endpoint => '{endpoint}')"
                );
                let failed = text(&format!(
                    "select coalesce(array_to_string(pg_temp.failure($s${create}$s$), ' | '), '')"
                ));
                assert_eq!(
                    failed,
                    "",
                    "{table} {endpoint}: {}",
                    text(&format!("select lago_push.suggest_template('public.{table}', '{endpoint}')"))
                );
                run("select lago_push.drop_sync('made')");
            }
        }
    }

    #[pg_test]
    fn a_suggested_template_of_a_table_of_usage_can_be_billed_as_it_is() {
        stage::set();
        run(
            "select lago_push.create_sync('calls', 'public.calls', lago_push.suggest_template('public.calls')); select lago_push.activate('calls')",
        );
        run(INSERT);
        assert_eq!(stage::reasons(), NOTHING);
        let payload: serde_json::Value = serde_json::from_str(&stage::payloads()[0]).expect("JSON");
        assert!(payload["transaction_id"].as_str().is_some_and(|id| id.contains('1')), "{payload}");
        assert_eq!(payload["external_subscription_id"], "acme");
        assert_eq!(payload["timestamp"].to_string(), "1710421740.123456");
    }

    #[pg_test]
    fn a_suggestion_for_what_is_not_there_is_refused() {
        stage::set();
        let [sqlstate, message, ..] = failure("select lago_push.suggest_template('public.calls', 'evnt')");
        assert_eq!((&*sqlstate, &*message), ("22023", "endpoint \"evnt\" is not known"));
        refuses(
            "select lago_push.suggest_template(null)",
            [
                "22004",
                "suggest_template needs a source",
                "",
                "Give the table: lago_push.suggest_template('public.my_table').",
            ],
        );
    }
}
