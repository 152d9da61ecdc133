//! Liquid in the server: what values of every type become in filters, conditions and loops.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, activate_for_value, event, properties, reasons, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    /// What each expression makes of one value of a type; an error's reason where it makes nothing.
    fn made(column_type: &str, literal: &str, expressions: &[&str]) -> Vec<String> {
        run(&format!("create table public.one (v {column_type})"));
        let made = expressions
            .iter()
            .map(|expression| {
                activate_for_value("public.one", expression, "");
                run(&format!("insert into public.one values ({literal})"));
                let made = properties("v").pop().or_else(|| reasons().pop()).unwrap_or_default();
                run("select lago_push.drop_sync('values', discard => true)");
                made
            })
            .collect();
        run("drop table public.one");
        made
    }

    /// Fails with all that is amiss.
    fn expect(cases: &[(&str, &str, &[(&str, &str)])]) {
        stage::set();
        let mut amiss = Vec::new();
        for (column_type, literal, expressions) in cases {
            let asked: Vec<&str> = expressions.iter().map(|(expression, _)| *expression).collect();
            for (made, (expression, wanted)) in made(column_type, literal, &asked).iter().zip(*expressions) {
                if made != wanted {
                    amiss.push(format!("{column_type} {literal}, {expression}: {made} instead of {wanted}"));
                }
            }
        }
        assert!(amiss.is_empty(), "{}", amiss.join("\n"));
    }

    #[pg_test]
    fn numbers_stay_exact_through_filters() {
        expect(&[
            (
                "numeric",
                "0.1000000000000000000000001",
                &[
                    ("{{ row.v | plus: 0 }}", "0.1000000000000000000000001"),
                    ("{{ row.v | plus: 1 }}", "1.1000000000000000000000001"),
                    ("\"{{ row.v | minus: 0.1 }}\"", "\"0.0000000000000000000000001\""),
                    ("{{ row.v | times: -1 | abs }}", "0.1000000000000000000000001"),
                    ("{% if row.v > 0.1 %}1{% else %}2{% endif %}", "1"),
                    ("{% if row.v == 0.1 %}1{% else %}2{% endif %}", "2"),
                ],
            ),
            (
                "numeric",
                "12345678901234567890123456789.55",
                &[
                    ("{{ row.v | round }}", "12345678901234567890123456790"),
                    ("{{ row.v | round: 1 }}", "12345678901234567890123456789.6"),
                    ("{{ row.v | floor }}", "12345678901234567890123456789"),
                    ("{{ row.v | ceil }}", "12345678901234567890123456790"),
                    ("{{ row.v | times: 100 | round }}", "1234567890123456789012345678955"),
                    (
                        "{{ row.v | divided_by: 0 }}",
                        "filter divided_by at line 3, column 45: division by zero",
                    ),
                ],
            ),
            (
                "bigint",
                "9223372036854775807",
                &[
                    ("{{ row.v | plus: 1 }}", "9223372036854775808"),
                    ("{{ row.v | divided_by: 2 }}", "4611686018427387903"),
                    ("{{ row.v | modulo: 10 }}", "7"),
                    ("\"{{ row.v | append: '!' }}\"", "\"9223372036854775807!\""),
                    ("{% if row.v == 9223372036854775807 %}true{% else %}false{% endif %}", "true"),
                    ("{% if row.v == 9223372036854775806 %}true{% else %}false{% endif %}", "false"),
                ],
            ),
            ("smallint", "-7", &[("{{ row.v | abs }}", "7"), ("{{ row.v | at_least: 0 }}", "0")]),
            (
                "integer",
                "7",
                &[("{{ row.v | divided_by: 2 }}", "3"), ("{{ row.v | divided_by: 2.0 }}", "3.5")],
            ),
            (
                "double precision",
                "1e-7",
                &[("{{ row.v | times: 1 }}", "0.0000001"), ("\"{{ row.v | append: '' }}\"", "\"0.0000001\"")],
            ),
            ("double precision", "1e21", &[("{{ row.v | plus: 1 }}", "1000000000000000000001")]),
            (
                "real",
                "0.1",
                &[("{{ row.v | times: 10 | round: 3 }}", "1.000"), ("{{ row.v | plus: 0 }}", "0.1")],
            ),
            (
                "boolean",
                "false",
                &[
                    ("{% if row.v %}1{% else %}2{% endif %}", "2"),
                    ("{{ row.v | json }}", "false"),
                    ("\"{{ row.v | upcase }}\"", "\"FALSE\""),
                    ("{{ row.v | default: true }}", "true"),
                ],
            ),
            (
                "integer",
                "null",
                &[
                    ("{{ row.v | default: 0 }}", "0"),
                    ("{{ row.v | json }}", "null"),
                    ("\"{{ row.v | upcase }}\"", "\"\""),
                    ("{% if row.v == nil %}\"none\"{% endif %}", "\"none\""),
                    ("{% unless row.v %}0{% else %}1{% endunless %}", "0"),
                ],
            ),
        ]);
    }

    #[pg_test]
    fn numbers_json_cannot_carry_are_reasons_and_never_payloads() {
        stage::set();
        for (column_type, literal) in [
            ("numeric", "'NaN'"),
            ("double precision", "'NaN'"),
            ("double precision", "'Infinity'"),
            ("real", "'-Infinity'"),
        ] {
            for reason in made(
                column_type,
                literal,
                &[
                    "{{ row.v | plus: 1 }}",
                    "{{ row.v | json }}",
                    "[{% for x in (1..2) %}{{ row.v }}{% unless forloop.last %},{% endunless %}{% endfor %}]",
                ],
            ) {
                assert!(reason.contains("infinite or not a number"), "{column_type} {literal}: {reason}");
            }
        }
    }

    #[pg_test]
    fn moments_are_formatted_in_utc_whatever_the_session_says() {
        for setting in ["UTC", "Asia/Tokyo", "America/New_York"] {
            stage::set();
            run(&format!("set local timezone = '{setting}'; set local datestyle = 'German'"));
            for (column_type, literal, expression, wanted) in [
                (
                    "timestamptz",
                    "'2024-03-14 23:30:15.25+00'",
                    "{{ row.v | date: \"%Y-%m-%dT%H:%M:%S\" }}",
                    "\"2024-03-14T23:30:15\"",
                ),
                (
                    "timestamptz",
                    "'2024-03-14 23:30:15.25+00'",
                    "\"{{ row.v | date: '%s' }}\"",
                    "\"1710459015\"",
                ),
                (
                    "timestamptz",
                    "'2024-03-14 23:30:15.25+00'",
                    "\"{{ row.v | append: '' }}\"",
                    "\"2024-03-14T23:30:15.25+00:00\"",
                ),
                (
                    "timestamp",
                    "'2024-03-14 23:30:15'",
                    "\"{{ row.v | date: '%Y%m%d%H' }}\"",
                    "\"2024031423\"",
                ),
                ("date", "'2024-03-14'", "\"{{ row.v | date: '%Y-%m' }}\"", "\"2024-03\""),
                (
                    "timestamptz",
                    "'2024-03-14 23:30:15.25+00'",
                    "{% if row.v %}{{ row.v }}{% endif %}",
                    "\"2024-03-14T23:30:15.25+00:00\"",
                ),
            ] {
                assert_eq!(made(column_type, literal, &[expression]), [wanted], "{setting}: {expression}");
            }
            run(
                "drop table public.calls; select lago_push.drop_destination('lago'); drop function pg_temp.failure, pg_temp.made",
            );
        }
    }

    #[pg_test]
    fn a_moment_without_end_has_no_date() {
        stage::set();
        for literal in ["'infinity'", "'-infinity'"] {
            let [made] = &made("timestamptz", literal, &["{{ row.v | date: '%s' }}"])[..] else {
                panic!("one expression")
            };
            assert!(made.contains("not a time") || made.contains("infinite"), "{made}");
        }
    }

    #[pg_test]
    fn an_events_time_may_be_computed() {
        stage::set();
        run("create table public.times (id int, at timestamptz, ms bigint)");
        for (expression, billed) in [
            ("{{ row.at | date: '%s' }}", Some("\"1710421740\"")),
            ("{{ row.ms | divided_by: 1000 }}", Some("1710421740")),
            ("{{ row.ms | divided_by: 1000.0 }}", Some("1710421740.123")),
            ("{% if row.at %}{{ row.at }}{% else %}0{% endif %}", Some("1710421740.123456")),
            ("{{ row.at | default: 0 }}", Some("1710421740.123456")),
            ("{{ row.ms | plus: 1 }}", None),
            ("{{ row.at | date: '%Y' | append: '-x' }}", None),
            ("{% if row.id == 1 %}{{ row.ms }}{% else %}0{% endif %}", None),
            ("{{ row.ms | default: '' | remove: '1710421740123' }}", None),
        ] {
            run(&format!(
                "select lago_push.create_sync('times', 'public.times', $t${}$t$);
                 select lago_push.activate('times')",
                event(&format!("\"timestamp\": {expression}")).replace("{{ row.subscription }}", "s")
            ));
            run("insert into public.times values (1, '2024-03-14 13:09:00.123456+00', 1710421740123)");
            stage::reach_the_end();
            let made = texts("select (payload::json -> 'timestamp')::text from lago_push.message");
            match billed {
                Some(billed) => {
                    assert_eq!((made, reasons()), (vec![billed.to_owned()], vec![]), "{expression}")
                }
                None => {
                    assert_eq!(made, NOTHING, "{expression}");
                    assert_eq!(reasons().len(), 1, "{expression}");
                }
            }
            run("select lago_push.drop_sync('times', discard => true)");
        }
    }

    #[pg_test]
    fn text_of_every_kind_goes_through_filters() {
        expect(&[
            (
                "text",
                "'Größe'",
                &[
                    ("\"{{ row.v | upcase }}\"", "\"GRÖSSE\""),
                    ("{{ row.v | size }}", "5"),
                    ("\"{{ row.v | slice: 0, 3 }}\"", "\"Grö\""),
                    ("\"{{ row.v | replace: 'ö', 'oe' }}\"", "\"Groeße\""),
                    ("{% if row.v contains 'öß' %}1{% else %}0{% endif %}", "1"),
                ],
            ),
            ("varchar(10)", "'ab'", &[("\"{{ row.v | capitalize }}\"", "\"Ab\"")]),
            ("char(5)", "'ab'", &[("\"<{{ row.v | append: '>' }}\"", "\"<ab>\"")]),
            ("name", "'x'", &[("\"{{ row.v | upcase }}\"", "\"X\"")]),
            (
                "uuid",
                "'00000000-0000-0000-0000-0000000000ff'",
                &[("\"{{ row.v | slice: -2, 2 }}\"", "\"ff\"")],
            ),
            ("bytea", "'\\x00ff'", &[("\"{{ row.v | remove: '\\x' }}\"", "REFUSED")][..0]),
            (
                "bytea",
                "'\\x00ff'",
                &[("{{ row.v | size }}", "6"), ("\"{{ row.v | append: '' }}\"", r#""\\x00ff""#)],
            ),
            ("inet", "'10.0.0.1'", &[("\"{{ row.v | split: '.' | last }}\"", "\"1\"")]),
            ("interval", "'1 day 2 h'", &[("\"{{ row.v | upcase }}\"", "\"1 DAY 02:00:00\"")]),
        ]);
    }

    #[pg_test]
    fn values_of_users_types_go_through_filters() {
        stage::set();
        run("create type public.tier as enum ('gold', 'free');
             create domain public.cents as numeric(20, 2);
             create type public.place as (city text, area numeric)");
        for (column_type, literal, expression, wanted) in [
            (
                "public.tier",
                "'gold'",
                "{% case row.v %}{% when 'free' %}0{% when 'gold' %}1{% endcase %}",
                "1",
            ),
            ("public.tier", "'gold'", "\"{{ row.v | upcase }}\"", "\"GOLD\""),
            ("public.cents", "12.5", "{{ row.v | times: 100 | round }}", "1250"),
            ("public.place", "row('Köln', 405.02)", "\"{{ row.v.city | upcase }}\"", "\"KÖLN\""),
            ("public.place", "row('Köln', 405.02)", "{{ row.v.area | times: 2 }}", "810.04"),
            ("public.place", "row('Köln', 405.02)", "{{ row.v.mayor | default: \"none\" }}", "\"none\""),
            ("integer[]", "'{3,1,2}'", "{{ row.v | sort | first }}", "1"),
            (
                "integer[]",
                "'{3,1,2}'",
                "[{% for n in row.v reversed %}{{ n | times: 10 }}{% unless forloop.last %},{% endunless %}{% endfor %}]",
                "[20,10,30]",
            ),
            ("integer[]", "'{}'", "[{% for n in row.v %}{{ n }},{% else %}0{% endfor %}]", "[0]"),
            ("numeric[]", "'{0.1,0.2}'", "{{ row.v | sum }}", "0.3"),
            ("text[]", "'{a,b\\\"c}'", "\"{{ row.v | join: '-' }}\"", r#""a-b\"c""#),
            ("text[]", "'{a,b}'", "{{ row.v[1] }}", "\"b\""),
            ("text[]", "'{a,b}'", "{{ row.v[7] }}", "null"),
            (
                "public.place[]",
                "array[row('A', 1), row('B', 2)]::public.place[]",
                "{{ row.v | map: 'city' | join: '+' }}",
                "\"A+B\"",
            ),
        ] {
            assert_eq!(made(column_type, literal, &[expression]), [wanted], "{column_type} {expression}");
        }
    }

    #[pg_test]
    fn paths_lead_into_json() {
        stage::set();
        let document = r#"'{"a": {"b": [{"c": 1.50}, {"c": 12345678901234567890.123}]}, "Größe": "x", "s": "1 \"q\"", "n": null}'"#;
        for column_type in ["json", "jsonb"] {
            let asked = [
                ("{{ row.v.a.b[0].c }}", "1.50"),
                ("{{ row.v.a.b[1].c | plus: 0.001 }}", "12345678901234567890.124"),
                ("{{ row.v.a.b.last.c }}", "12345678901234567890.123"),
                ("{{ row.v.a.b.size }}", "2"),
                ("{{ row.v[\"Größe\"] }}", "\"x\""),
                ("\"{{ row.v.s }}\"", r#""1 \"q\"""#),
                ("{{ row.v.n }}", "null"),
                ("{{ row.v.n.deeper.still }}", "null"),
                ("{{ row.v.nowhere | default: 0 }}", "0"),
                (
                    "[{% for i in row.v.a.b %}{{ i.c }}{% unless forloop.last %},{% endunless %}{% endfor %}]",
                    "[1.50,12345678901234567890.123]",
                ),
            ];
            let expressions: Vec<&str> = asked.iter().map(|(expression, _)| *expression).collect();
            let wanted: Vec<&str> = asked.iter().map(|(_, wanted)| *wanted).collect();
            assert_eq!(made(column_type, document, &expressions), wanted, "{column_type}");
        }
    }

    #[pg_test]
    fn conditions_tell_operations_and_sides_apart() {
        stage::set();
        activate_for_value(
            "public.calls",
            "[{% if op == 'insert' %}\"new\"{% elsif op == 'delete' %}\"gone\"{% else %}{{ row.bytes | minus: old.bytes }}{% endif %}, {{ old.region | default: 'none' }}]",
            ", operations => '{insert,update,delete}'",
        );
        run(stage::INSERT);
        run("update public.calls set bytes = 11.25, region = 'us'; delete from public.calls");
        assert_eq!(properties("v"), [r#"["new","none"]"#, r#"[1.25,"eu"]"#, r#"["gone","us"]"#]);
    }

    #[pg_test]
    fn a_branch_decides_whether_a_key_is_there() {
        stage::set();
        run(&format!(
            "select lago_push.create_sync('calls', 'public.calls', $t${}$t$);
             select lago_push.activate('calls')",
            event("").replace(
                "\n}",
                "{% if row.region %}, \"properties\": {\"region\": \"{{ row.region }}\"}{% endif %}\n}"
            )
        ));
        run("insert into public.calls values (1, 's', 1, 'eu', 'epoch'), (2, 's', 1, null, 'epoch')");
        stage::reach_the_end();
        assert_eq!(
            texts(
                "select coalesce((payload::json -> 'properties')::text, 'none') from lago_push.message order by id"
            ),
            [r#"{"region":"eu"}"#, "none"]
        );
    }

    #[pg_test]
    fn a_branch_that_leaves_out_what_lago_bills_by_makes_a_dead_letter() {
        stage::set();
        run(&format!(
            "select lago_push.create_sync('calls', 'public.calls', $t${}$t$);
             select lago_push.activate('calls')",
            event(
                r#""external_subscription_id": {% if row.region == 'eu' %}"{{ row.subscription }}"{% else %}null{% endif %}"#
            )
        ));
        run(
            "insert into public.calls values (1, 's', 1, 'eu', 'epoch'), (2, 's', 1, 'us', 'epoch'), (3, null, 1, 'eu', 'epoch')",
        );
        assert_eq!(stage::operations(), "i");
        assert_eq!(
            reasons(),
            [
                "\"external_subscription_id\" is null: Lago would answer 200 and never bill it",
                "\"external_subscription_id\" is empty: Lago would answer 200 and never bill it"
            ]
        );
    }

    #[pg_test]
    fn two_values_never_become_one() {
        stage::set();
        run("create table public.pairs (a int, b int, l int[])");
        for place in [
            "{{ row.a }}{{ row.b }}",
            "{{ row.a }}{% if row.b %}{{ row.b }}{% endif %}",
            "{% if row.a %}1{% endif %}{% if row.b %}2{% endif %}",
            "[{% for n in row.l %}{{ n }}{% endfor %}]",
            "[{% for n in row.l %}{{ n }}{% unless forloop.first %},{% endunless %}{% endfor %}]",
            "{% if row.a %}{{ row.a }}{% endif %}{{ row.b }}",
            "{% for n in row.l %}{{ n }}{% endfor %}",
            "{% for n in row.l %}7{% endfor %}",
            "1{{ row.a }}",
            "{{ row.a }}5",
            "-{{ row.a }}",
            "{{ row.a }}.{{ row.b }}",
            "{{ row.a }}e{{ row.b }}",
            "{% if row.a %}{% endif %}",
        ] {
            let create = format!(
                r#"select lago_push.create_sync('pairs', 'public.pairs', $t${{"transaction_id": "t-{{{{ row.a }}}}", "external_subscription_id": "s", "code": "c", "timestamp": 0, "properties": {{"v": {place}}}}}$t$)"#
            );
            let refused = text(&format!("select coalesce((pg_temp.failure($s${create}$s$))[2], '')"));
            if refused.is_empty() {
                if texts("select name from lago_push.sync") == NOTHING {
                    run(&create);
                }
                run("select lago_push.activate('pairs'); insert into public.pairs values (1, 2, '{1,2}')");
                assert_eq!(stage::payloads(), NOTHING, "{place}");
                assert_eq!(reasons(), ["the template's branches made no valid JSON for this row"], "{place}");
                run("select lago_push.drop_sync('pairs', discard => true)");
            }
        }
    }

    #[pg_test]
    fn a_key_that_stands_in_a_branch_only_is_looked_for_in_each_payload() {
        stage::set();
        run(&format!(
            "select lago_push.create_sync('calls', 'public.calls', $t${}$t$);
             select lago_push.activate('calls')",
            event("").replace(
                "\"code\": \"api_calls\",",
                "{% if row.region == 'eu' %}\"code\": \"api_calls\",{% endif %}"
            )
        ));
        run("insert into public.calls values (1, 's', 1, 'eu', 'epoch'), (2, 's', 1, 'us', 'epoch')");
        assert_eq!(stage::operations(), "i");
        assert_eq!(reasons(), ["\"code\" is missing: Lago would refuse the call"]);
    }

    #[pg_test]
    fn documents_of_any_depth_break_no_write() {
        stage::set();
        run("create table public.deep (id int, j jsonb)");
        activate_for_value(
            "public.deep",
            "[{{ row.j | json }}, {% for x in row.j %}{{ x }},{% endfor %}0]",
            "",
        );
        for (id, depth) in [(1, 20), (2, 500), (3, 5000)] {
            run(&format!(
                "insert into public.deep values ({id}, (repeat('[', {depth}) || repeat(']', {depth}))::jsonb)"
            ));
        }
        assert_eq!(stage::operations(), "i");
        assert_eq!(reasons(), vec!["column \"j\" is nested too deeply"; 2]);
        assert_eq!(text("select count(*)::text from public.deep"), "3");
    }

    #[pg_test]
    fn a_filter_that_makes_nothing_of_a_required_value_makes_a_dead_letter() {
        stage::set();
        run(&format!(
            "select lago_push.create_sync('calls', 'public.calls', $t${}$t$);
             select lago_push.activate('calls')",
            event(r#""external_subscription_id": "{{ row.subscription | strip }}""#)
        ));
        run(
            "insert into public.calls values (1, ' s ', 1, 'eu', 'epoch'), (2, '  ', 1, 'us', 'epoch'), (3, null, 1, 'eu', 'epoch')",
        );
        stage::reach_the_end();
        assert_eq!(
            texts("select payload::json ->> 'external_subscription_id' from lago_push.message"),
            ["s"]
        );
        assert_eq!(reasons().len(), 2, "{:?}", reasons());
        assert!(
            reasons().iter().all(|reason| reason.contains("\"external_subscription_id\" needs a value")),
            "{:?}",
            reasons()
        );
    }

    #[pg_test]
    fn a_filter_that_cannot_work_makes_a_dead_letter_that_names_no_value() {
        stage::set();
        activate_for_value("public.calls", "{{ row.region | times: 2 }}", "");
        run("insert into public.calls (id, region) values (1, 'hush'), (2, '21'), (3, null)");
        assert_eq!(properties("v"), ["42"]);
        let reasons = reasons();
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        for reason in reasons {
            assert!(reason.contains("times") && !reason.contains("hush"), "{reason}");
        }
    }

    #[pg_test]
    fn a_template_that_would_run_for_ever_breaks_no_write() {
        stage::set();
        activate_for_value(
            "public.calls",
            "[{% for i in (1..1000000000) %}{% for j in (1..1000000000) %}{% endfor %}{% endfor %}]",
            "",
        );
        run(stage::INSERT);
        assert_eq!(reasons(), ["the template takes too many steps for this row"]);
        assert_eq!(text("select count(*)::text from public.calls"), "1");
    }

    #[pg_test]
    fn what_a_value_holds_stays_inside_its_place() {
        stage::set();
        run("create table public.texts (id int, v text, j jsonb)");
        run(r#"select lago_push.create_sync('texts', 'public.texts', $t${
                 "transaction_id": "t-{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": 0,
                 "properties": {
                   "plain": "{{ row.v }}", "value": {{ row.v }},
                   "filtered": "<{{ row.v | append: '' }}>", "made": {{ row.v | append: '' }},
                   "branch": "{% if row.id > 0 %}{{ row.v }}{% endif %}",
                   "taken": {% capture x %}{{ row.v }}{% endcapture %}{{ x }},
                   "key": {{ row.j }}, "inner": "{{ row.j.k }}"}}$t$);
               select lago_push.activate('texts')"#);
        let hostile = [
            r#"", "code": "x"#,
            r#""}}, "code": "x", "properties": {"a": {"b": "c"#,
            "\\\", \"code\": \"x",
            "back\\slash \\u0041 \\",
            "line\nbreak\ttab\rreturn\u{1}\u{1f}\u{7f}",
            "{{ row.id }} {% if x %} }} %}",
            "ü 😀 \u{2028} \u{feff} \u{fffd}",
            "null",
            "",
        ];
        for (id, value) in hostile.iter().enumerate() {
            run(&format!(
                "insert into public.texts values ({id} + 1, $v${value}$v$, jsonb_build_object('k', $v${value}$v$))"
            ));
        }
        assert_eq!(reasons(), NOTHING);
        let payloads = stage::payloads();
        assert_eq!(payloads.len(), hostile.len());
        for (payload, value) in payloads.iter().zip(hostile) {
            let payload: serde_json::Value = serde_json::from_str(payload).expect(payload);
            assert_eq!(payload["code"], "c");
            assert_eq!(payload.as_object().map(|members| members.len()), Some(5));
            let properties = &payload["properties"];
            assert_eq!(properties.as_object().map(|members| members.len()), Some(8));
            for key in ["plain", "value", "made", "branch", "taken", "inner"] {
                assert_eq!(properties[key], value, "{key}");
            }
            assert_eq!(properties["filtered"], format!("<{value}>"));
            assert_eq!(properties["key"]["k"], value);
        }
    }

    #[pg_test]
    fn filters_do_not_depend_on_the_writers_settings() {
        stage::set();
        run("create type public.pair as (at timestamptz, f float8, y bytea, i interval);
             create table public.typed (p public.pair, at timestamptz, f float8, m money, i interval, y bytea, d date)");
        activate_for_value(
            "public.typed",
            r#"["{{ row.p | json }}", {{ row.p.at | append: "" }}, {{ row.p.f | plus: 0 }}, "{{ row.at | date: '%c %s %Z' }}", {{ row.at | append: "x" }},
                {{ row.f | times: 3 }}, "{{ row.m | append: '' }}", "{{ row.i | append: '' }}", "{{ row.y | append: '' }}", {% if row.d %}"{{ row.d | date: '%x' }}"{% endif %}]"#,
            "",
        );
        let insert = "insert into public.typed values (row('2024-07-01 12:00+00', 0.1, '\\x01', '1 day 2 h'), '2024-07-01 12:00+00', 0.1, 1.5, '1 day 2 h', '\\x01ff', '2024-07-01')";
        run(insert);
        run("set local timezone = 'Asia/Tokyo'; set local datestyle = 'German'; set local intervalstyle = 'iso_8601';
             set local extra_float_digits = -15; set local bytea_output = 'escape'; set local search_path = public");
        run(insert);
        assert_eq!(reasons(), NOTHING);
        let values = properties("v");
        assert_eq!(values.len(), 2);
        assert_eq!(values[0], values[1]);
        assert!(values[0].contains("0.3,") || values[0].contains("0.3 ,"), "{}", values[0]);
    }

    /// Numbers that look random and are the same in every run (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % most as u64) as usize
        }

        fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
            things[self.below(things.len())]
        }
    }

    /// Numbers, text, JSON, moments and arrays, null among each.
    fn random_row(random: &mut Random) -> String {
        const FRAGMENTS: &[&str] = &[
            "\"",
            "\\",
            "\n",
            "{{",
            "}}",
            "{%",
            "%}",
            "', '",
            "$",
            "\", \"code\": \"x",
            "ü",
            "😀",
            "a b",
            "12",
            "-0.5",
            "\u{1}",
            "<b>",
            "&amp;",
        ];
        let text: String = (0..random.below(5)).map(|_| random.one_of(FRAGMENTS)).collect();
        let text = format!("$v${text}$v$");
        let text = if random.below(8) == 0 { "null".to_owned() } else { text };
        let number = random.one_of(&[
            "null",
            "0",
            "-1.50",
            "1e-20",
            "123456789012345678901234567890.5",
            "'NaN'",
            "99.995",
        ]);
        let float = random.one_of(&["null", "0", "1e300", "-1e-300", "0.1", "'Infinity'"]);
        let moment = random.one_of(&[
            "null",
            "'epoch'",
            "'infinity'",
            "'2024-02-29 12:00:00.000001+02'",
            "'0044-03-15 BC'",
        ]);
        let json = match random.below(4) {
            0 => "null".to_owned(),
            1 => format!("to_jsonb({text}::text)"),
            2 => format!("jsonb_build_object('k', jsonb_build_array({text}::text, {number}::numeric, null))"),
            _ => format!(
                "jsonb_build_array(jsonb_build_object({text}::text || 'x', 1), true, {number}::numeric)"
            )
            .replace("null::text", "'null'"),
        };
        let array = random.one_of(&["null", "'{}'", "'{a,NULL,\"b\\\"c\"}'", "'{{a,b},{c,d}}'"]);
        format!("{text}, {number}, {float}, {moment}, {json}, {array}")
    }

    #[pg_test]
    fn random_rows_in_random_templates_give_what_the_template_says_or_a_reason() {
        stage::set();
        run("create table public.random (t text, n numeric, f float8, m timestamptz, j jsonb, a text[])");
        let columns = ["t", "n", "f", "m", "j", "a"];
        let filters = [
            "upcase",
            "downcase",
            "size",
            "plus: 1",
            "times: 1.5",
            "divided_by: 3",
            "round: 2",
            "append: '\"'",
            "prepend: '{'",
            "default: 'd'",
            "json",
            "date: '%Y'",
            "split: '\"'",
            "join: '\"'",
            "first",
            "last",
            "reverse",
            "sort",
            "slice: 0, 2",
            "strip",
            "truncate: 4",
            "escape",
            "url_encode",
            "replace: '\"', '{{'",
            "capitalize",
            "uniq",
            "compact",
        ];
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut billed = 0;
        for _ in 0..60 {
            let expression = |random: &mut Random| {
                let mut expression = format!("row.{}", random.one_of(&columns));
                for _ in 0..random.below(3) {
                    expression.push_str(&format!(" | {}", random.one_of(&filters)));
                }
                expression
            };
            let place = |random: &mut Random| {
                let (one, two) = (expression(random), expression(random));
                let column = random.one_of(&columns);
                match random.below(6) {
                    0 => format!("{{{{ {one} }}}}"),
                    1 => format!("\"{{{{ {one} }}}} and {{{{ {two} }}}}\""),
                    2 => format!(
                        "{{% if row.{column} %}}{{{{ {one} }}}}{{% else %}}\"{{{{ {two} }}}}\"{{% endif %}}"
                    ),
                    3 => format!("[{{% for x in row.{column} %}}{{{{ x }}}},{{% endfor %}}{{{{ {one} }}}}]"),
                    4 => format!("{{% assign y = {one} %}}{{\"{{{{ y }}}}\": {{{{ y }}}}}}"),
                    _ => format!(
                        "{{% capture y %}}{{{{ {one} }}}}{{% endcapture %}}[{{{{ y }}}}, \"{{{{ y }}}}\"]"
                    ),
                }
            };
            let (first, second) = (place(&mut random), place(&mut random));
            let template = format!(
                r#"{{"transaction_id": "t{{{{ op }}}}-{{{{ row.n | json | size }}}}", "external_subscription_id": "s", "code": "c", "timestamp": 0,
                    "properties": {{"before": "a\"b\\", "first": {first}, "between": [1, {{"x": null}}], "second": {second}, "after": 2.50}}}}"#
            );
            run(&format!(
                "select lago_push.create_sync('random', 'public.random', $template${template}$template$);
                 select lago_push.activate('random')"
            ));
            let rows: Vec<String> = (0..12).map(|_| format!("({})", random_row(&mut random))).collect();
            run(&format!("insert into public.random values {}", rows.join(", ")));
            let payloads = stage::payloads();
            let reasons = reasons();
            assert_eq!(payloads.len() + reasons.len(), rows.len(), "{template}");
            billed += payloads.len();
            for payload in payloads {
                let Ok(value) = serde_json::from_str::<serde_json::Value>(&payload) else {
                    panic!("no JSON: {payload} of {template}")
                };
                let keys = |value: &serde_json::Value| {
                    value.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>().join(" "))
                };
                assert_eq!(
                    keys(&value).as_deref(),
                    Some("transaction_id external_subscription_id code timestamp properties"),
                    "{template}: {payload}"
                );
                let properties = &value["properties"];
                assert_eq!(
                    keys(properties).as_deref(),
                    Some("before first between second after"),
                    "{template}: {payload}"
                );
                assert_eq!(properties["before"], "a\"b\\", "{payload}");
                assert_eq!(properties["between"].to_string(), r#"[1,{"x":null}]"#, "{payload}");
                assert_eq!(properties["after"].to_string(), "2.50", "{payload}");
            }
            for reason in reasons {
                assert!(!reason.contains("a bug"), "{reason}: {template}");
                assert!(!reason.contains("no valid JSON"), "{reason}: {template}");
            }
            run("select lago_push.drop_sync('random', discard => true)");
        }
        assert!(billed > 200, "only {billed} of 720 rows");
    }
}
