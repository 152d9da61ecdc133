//! Identity: what lago_push makes where a template gives no id, no time, no label.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{
        self, event_without, failure, payloads, reach_the_end, reasons, run, text, texts,
    };
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    /// A sync on `table` whose template names neither an id nor a time.
    fn activate(name: &str, table: &str, options: &str) {
        run(&format!(
            r#"select lago_push.create_sync('{name}', '{table}', '{{"external_subscription_id": "s", "code": "c"}}'{options});
               select lago_push.activate('{name}')"#
        ));
    }

    fn ids() -> Vec<String> {
        reach_the_end();
        texts("select m.payload::json ->> 'transaction_id' from lago_push.message m order by m.id")
    }

    fn all_differ(ids: &[String]) -> bool {
        let different: std::collections::HashSet<_> = ids.iter().collect();
        different.len() == ids.len()
    }

    #[pg_test]
    fn an_id_and_a_time_are_made_and_frozen_with_the_rest() {
        stage::set();
        activate("calls", "public.calls", "");
        run("set local timezone = 'Asia/Tokyo'; set local datestyle = 'German'");
        run(stage::INSERT);
        let now = text("select to_char(extract(epoch from now()), 'FM9999999999.000000')");
        let now = now.trim_end_matches(".000000");
        assert_eq!(
            payloads(),
            [format!(
                r#"{{"external_subscription_id":"s","code":"c","transaction_id":"calls:insert:1","timestamp":{now}}}"#
            )]
        );
    }

    #[pg_test]
    fn each_operation_of_a_row_has_an_id_of_its_own() {
        stage::set();
        activate("calls", "public.calls", ", operations => '{insert,update,delete}'");
        run(stage::INSERT);
        run("update public.calls set bytes = 1; update public.calls set bytes = 2");
        run("update public.calls set bytes = 3");
        run("delete from public.calls");
        let ids = ids();
        assert_eq!([ids[0].as_str(), ids[4].as_str()], ["calls:insert:1", "calls:delete:1"]);
        assert!(ids[1..4].iter().all(|id| id.starts_with("calls:update:1:")), "{ids:?}");
        assert!(all_differ(&ids), "{ids:?}");
    }

    #[pg_test]
    fn updates_whose_triggers_fire_late_differ_too() {
        stage::set();
        activate("other", "public.calls", ", operations => '{insert}'");
        run(
            r#"select lago_push.create_sync('calls', 'public.calls', '{"external_subscription_id": "s", "code": "c"}', operations => '{update}');
               create constraint trigger late after update on public.calls deferrable initially deferred
                   for each row execute function lago_push.capture('calls');
               select lago_push.activate('calls')"#,
        );
        run(stage::INSERT);
        let mut commands = Vec::new();
        for bytes in 0..5 {
            run(&format!("update public.calls set bytes = {bytes}"));
            // Later its place in the row's header is taken by the command that overwrites the row.
            commands.push(text("select to_hex(cmin::text::bigint) from public.calls"));
        }
        run("set constraints all immediate");
        let ids: Vec<String> = ids().into_iter().filter(|id| id.starts_with("calls:")).collect();
        let told: Vec<&str> = ids.iter().filter_map(|id| id.split('-').nth(1)).collect();
        assert_eq!(told, commands, "{ids:?}");
        assert!(all_differ(&ids), "{ids:?}");
    }

    #[pg_test]
    fn two_triggers_of_a_sync_take_one_update_for_one() {
        stage::set();
        run(stage::INSERT);
        run(
            r#"select lago_push.create_sync('calls', 'public.calls', '{"external_subscription_id": "s", "code": "c"}', operations => '{update}');
               create trigger one after update on public.calls for each row execute function lago_push.capture('calls');
               create trigger two after update on public.calls for each row execute function lago_push.capture('calls');
               select lago_push.activate('calls');
               update public.calls set bytes = 3"#,
        );
        let ids = ids();
        assert_eq!(ids.len(), 2);
        assert_eq!(ids[0], ids[1]);
    }

    #[pg_test]
    fn an_update_of_the_key_goes_by_the_new_one() {
        stage::set();
        run(stage::INSERT);
        activate("calls", "public.calls", ", operations => '{update}'");
        run("update public.calls set id = 7");
        assert!(ids()[0].starts_with("calls:update:7:"), "{:?}", ids());
    }

    #[pg_test]
    fn composite_and_text_keys_cannot_be_mistaken_for_others() {
        stage::set();
        run("create table public.pairs (a text, b text, primary key (b, a))");
        activate("pairs", "public.pairs", "");
        activate("pairs:insert", "public.pairs", "");
        run(
            r#"insert into public.pairs (b, a) values ('x:y', 'z'), ('x', 'y:z'), ('x%3Ay', 'z'), ('', 'x:y:z'), ('"\', e'\n')"#,
        );
        let ids = ids();
        assert_eq!(ids.len(), 10);
        assert!(all_differ(&ids), "{ids:?}");
        assert_eq!(ids[0], "pairs:insert:x%3Ay:z", "the key's own order");
        assert!(ids.contains(&"pairs:insert:\"\\:\n".to_owned()), "{ids:?}");
    }

    #[pg_test]
    fn a_key_is_written_alike_whatever_the_session_has_set() {
        stage::set();
        run("create table public.moments (at timestamptz, f float8, b bytea, i interval, primary key (at, f, b, i));
             insert into public.moments values ('2024-03-14 13:09:00+00', 0.1, '\\x01', '1 day 2 hours')");
        activate("moments", "public.moments", ", operations => '{delete}'");
        run("set local timezone = 'Asia/Tokyo'; set local datestyle = 'German'; set local extra_float_digits = -10;
             set local bytea_output = 'escape'; set local intervalstyle = 'iso_8601'");
        run("delete from public.moments");
        assert_eq!(ids(), ["moments:delete:2024-03-14T13%3A09%3A00+00%3A00:0.1:\\x01:1 day 02%3A00%3A00"]);
    }

    #[pg_test]
    fn a_long_key_gives_a_short_id_that_still_tells_rows_apart() {
        stage::set();
        run("create table public.long (k text primary key)");
        activate("long", "public.long", "");
        run("insert into public.long select repeat('ä', 1000) || n from generate_series(1, 3) n");
        let ids = ids();
        assert!(ids.iter().all(|id| id.starts_with("long:insert:~") && id.len() <= 100), "{ids:?}");
        assert!(all_differ(&ids), "{ids:?}");
    }

    #[pg_test]
    fn rows_of_partitions_have_the_keys_of_the_whole() {
        stage::set();
        run(
            "create table public.parts (a int, dropped int, b int, primary key (b, a)) partition by list (b);
             create table public.part (b int not null, a int not null);
             alter table public.parts drop column dropped;
             alter table public.parts attach partition public.part for values in (2)",
        );
        activate("parts", "public.parts", "");
        run("insert into public.parts (a, b) values (1, 2)");
        run("insert into public.part (a, b) values (3, 2)");
        assert_eq!(ids(), ["parts:insert:2:1", "parts:insert:2:3"]);
    }

    #[pg_test]
    fn a_template_that_names_its_keys_is_left_alone() {
        stage::set();
        stage::activate("calls", "");
        run(stage::INSERT);
        assert_eq!(payloads(), [stage::PAYLOAD]);
        run("insert into public.calls (id, subscription, bytes, region) values (2, 's', 1, 'eu')");
        assert_eq!(reasons(), ["column \"created_at\" is null, and \"timestamp\" needs a value"]);
    }

    #[pg_test]
    fn one_of_the_two_may_be_left_out() {
        stage::set();
        for (name, left_out) in [("no_id", "transaction_id"), ("no_time", "timestamp")] {
            run(&format!(
                "select lago_push.create_sync('{name}', 'public.calls', '{}'); select lago_push.activate('{name}')",
                event_without(left_out)
            ));
        }
        run(stage::INSERT);
        assert_eq!(ids(), ["no_id:insert:1", "call-1"]);
        let times = texts("select payload::json ->> 'timestamp' from lago_push.message order by id");
        assert_eq!(times[0], "1710421740.123456");
        assert_eq!(text(&format!("select ({} = extract(epoch from now()))::text", times[1])), "true");
    }

    #[pg_test]
    fn a_table_without_key_needs_an_id_of_the_templates() {
        stage::set();
        run("create table public.keyless (n int)");
        let statement = r#"select lago_push.create_sync('keyless', 'public.keyless', '{"external_subscription_id": "s", "code": "c"}')"#;
        let [sqlstate, message, _, hint] = failure(statement);
        assert_eq!(
            (sqlstate.as_str(), message.as_str()),
            (
                "22P02",
                "template, line 1, column 1: the template has no \"transaction_id\", and the table has no primary key to make one of"
            )
        );
        assert!(hint.contains("primary key") && hint.contains("\"transaction_id\": "), "{hint}");
        run(
            r#"select lago_push.create_sync('keyless', 'public.keyless', '{"transaction_id": "n-{{ row.n }}", "external_subscription_id": "s", "code": "c"}');
               select lago_push.activate('keyless'); insert into public.keyless values (1)"#,
        );
        assert_eq!(ids(), ["n-1"]);
    }

    #[pg_test]
    fn a_key_the_sync_may_not_see_is_none() {
        stage::set();
        let [_, message, ..] = failure(
            r#"select lago_push.create_sync('calls', 'public.calls', '{"external_subscription_id": "s", "code": "c"}', exclude => '{id}')"#,
        );
        assert!(
            message.ends_with("column \"id\" of the primary key is excluded, so none can be made of it"),
            "{message}"
        );
    }

    #[pg_test]
    fn a_key_dropped_later_makes_dead_letters_and_lets_the_write_through() {
        stage::set();
        activate("calls", "public.calls", "");
        run("alter table public.calls drop constraint calls_pkey");
        run(stage::INSERT);
        assert_eq!(
            reasons(),
            ["the template has no \"transaction_id\", and the table has no primary key to make one of"]
        );
        run("alter table public.calls add primary key (id)");
        run("update public.calls set id = 2; insert into public.calls (id) values (3)");
        assert_eq!(ids(), ["calls:insert:3"]);
    }

    #[pg_test]
    fn programs_and_mappers_get_what_they_leave_out_before_they_are_checked() {
        stage::set();
        run(r#"create function public.mapped(public.calls) returns jsonb language sql
                   return jsonb_build_object('external_subscription_id', 's', 'code', 'c') || coalesce($1.region::jsonb, '{}');
               select lago_push.create_sync('mapped', 'public.calls', mapper => 'public.mapped(public.calls)');
               select lago_push.activate('mapped');
               select lago_push.create_sync('program', 'public.calls',
                   e'{ {% if row.region %}"transaction_id": {{ row.region }}, {% endif %}\n"external_subscription_id": "s", "code": "c" }\n');
               select lago_push.activate('program')"#);
        run("insert into public.calls (id) values (1)");
        assert_eq!(ids(), ["mapped:insert:1", "program:insert:1"]);
        run(r#"insert into public.calls (id, region) values (2, '{"transaction_id": null}')"#);
        assert_eq!(reasons().len(), 1, "what a payload names is its own affair: {:?}", reasons());
        assert!(reasons()[0].starts_with("\"transaction_id\" is null"), "{:?}", reasons());
        run("alter table public.calls drop constraint calls_pkey");
        run("insert into public.calls (id) values (3)");
        let mapped = &reasons()[1];
        assert_eq!(
            mapped,
            "the payload has no \"transaction_id\", and the table has no primary key to make one of"
        );
        run(r#"insert into public.calls (id, region) values (4, '{"transaction_id": "own"}')"#);
        assert!(ids().contains(&"own".to_owned()), "{:?}", ids());
    }

    #[pg_test]
    fn a_preview_shows_the_id_the_insert_had_and_none_that_an_update_will_have() {
        stage::set();
        activate("calls", "public.calls", ", operations => '{insert,update}'");
        run(stage::INSERT);
        let captured = payloads();
        let shown = texts("select body::text from lago_push.preview('calls')");
        let same = text(&format!("select ('{}'::jsonb = '{}'::jsonb)::text", captured[0], shown[0]));
        assert_eq!(same, "true", "{captured:?} {shown:?}");
        assert!(shown[1].contains("calls:update:1:look-"), "{shown:?}");
        assert_eq!(texts("select array_to_string(warnings, ';') from lago_push.preview('calls')"), ["", ""]);
    }

    #[pg_test]
    fn a_letter_rendered_again_has_the_id_and_time_its_row_had() {
        stage::set();
        run(r#"select lago_push.create_sync('calls', 'public.calls',
                 '{"external_subscription_id": "{{ row.subscription }}", "code": "c"}', operations => '{insert,update}');
               select lago_push.activate('calls')"#);
        run("insert into public.calls (id) values (1)");
        run("update public.calls set bytes = 1");
        reach_the_end();
        assert_eq!(reasons().len(), 2);
        run("update lago_push.dead_letter set enqueued_at = '2024-03-14 13:09:00.5+00'");
        let letter = texts("select id::text from lago_push.dead_letter order by id");
        run(
            r#"select lago_push.alter_sync('calls', template => '{"external_subscription_id": "s", "code": "c"}');
               select lago_push.redrive('calls')"#,
        );
        assert_eq!(ids(), ["calls:insert:1".to_owned(), format!("calls:update:1:letter-{}", letter[1])]);
        assert_eq!(
            texts("select payload::json ->> 'timestamp' from lago_push.message"),
            ["1710421740.500000", "1710421740.500000"]
        );
    }

    #[pg_test]
    fn a_top_up_is_labelled_with_its_id_if_there_is_a_key() {
        stage::set();
        run(
            "create table public.top_ups (id int primary key, credits numeric); create table public.keyless (credits numeric)",
        );
        for (name, table, more) in [
            ("top_ups", "top_ups", ""),
            ("own", "top_ups", r#", "metadata": [{"key": "lago_push", "value": "mine"}]"#),
            ("keyless", "keyless", ""),
        ] {
            run(&format!(
                r#"select lago_push.create_sync('{name}', 'public.{table}',
                     '{{"wallet_id": "w", "paid_credits": "{{{{ row.credits }}}}"{more}}}', endpoint => 'wallet_transaction');
                   select lago_push.activate('{name}')"#
            ));
        }
        run("insert into public.top_ups values (5, 1.50); insert into public.keyless values (2)");
        let mut found = payloads();
        found.sort();
        assert_eq!(
            found,
            [
                r#"{"wallet_id":"w","paid_credits":"1.50","metadata":[{"key":"lago_push","value":"mine"}]}"#,
                r#"{"wallet_id":"w","paid_credits":"1.50","metadata":[{"key":"lago_push","value":"top_ups:insert:5"}]}"#,
                r#"{"wallet_id":"w","paid_credits":"2"}"#,
            ]
        );
        assert_eq!(reasons(), NOTHING);
    }
}
