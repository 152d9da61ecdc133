//! Letters: dead letters given another try.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{
        self, activate, activate_for_value, failure, payloads, properties, reasons, run, text, texts,
    };
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    fn redrive(arguments: &str) -> String {
        text(&format!("select lago_push.redrive({arguments})::text"))
    }

    /// A letter that Lago rejected.
    fn rejected(number: i32, sync: &str, payload: &str, reason: &str) {
        run(&format!(
            "insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, reply_status, operation, sync_name, reason, payload, reply, path)
             select {number}, '2024-03-14 13:09:00+00', now(), s.id, 1, 422, 'i', s.name, '{reason}', $p${payload}$p$, '{{}}', '/x/{number}'
               from lago_push.sync s where s.name = '{sync}'"
        ));
    }

    fn dead() -> Vec<String> {
        texts("select id::text from lago_push.dead_letters order by id")
    }

    #[pg_test]
    fn a_rejected_message_goes_back_as_it_was() {
        stage::set();
        stage::draft("calls", "");
        rejected(7, "calls", r#"{ "frozen" : 1.50 }"#, "no");
        assert_eq!(redrive("'calls'"), "1");
        assert_eq!(
            text(
                "select concat_ws('|', payload, path, operation, enqueued_at = '2024-03-14 13:09:00+00', id > 7 or id = 1) from lago_push.message"
            ),
            r#"{ "frozen" : 1.50 }|/x/7|i|t|t"#
        );
        assert_eq!(text("select concat_ws(' ', attempts, last_error) from lago_push.outbox"), "0");
        assert_eq!(dead(), NOTHING);
        assert_eq!(redrive("'calls'"), "0");
    }

    #[pg_test]
    fn letters_go_back_in_the_order_of_capture_and_only_those_of_the_sync() {
        stage::set();
        stage::draft("calls", "");
        stage::draft("others", "");
        for number in [3, 1, 2] {
            rejected(number, "calls", &number.to_string(), "no");
        }
        rejected(4, "others", "4", "no");
        assert_eq!(redrive("'calls'"), "3");
        assert_eq!(payloads(), ["1", "2", "3"]);
        assert_eq!(dead(), ["4"]);
    }

    #[pg_test]
    fn a_filter_chooses_the_letters() {
        stage::set();
        stage::draft("calls", "");
        for (number, reason) in [(1, "column x"), (2, "code"), (3, "column y")] {
            rejected(number, "calls", &number.to_string(), reason);
        }
        assert_eq!(redrive("'calls', filter => 'reason like ''column %'' and id > 1'"), "1");
        assert_eq!(redrive("'calls', 'false'"), "0");
        assert_eq!(redrive("'calls', 'null'"), "0");
        assert_eq!(
            redrive(
                "'calls', 'dead_letters.reply_status = 422 and operation = ''insert'' and sync = ''calls'' and path = ''/x/2'' -- so'"
            ),
            "1"
        );
        assert_eq!(dead(), ["1"]);
        assert_eq!(
            redrive(
                "'calls', 'died_at <= now() and attempts = 1 and payload = ''1'' and reply = ''{}'' and source_row is null'"
            ),
            "1"
        );
        assert_eq!(payloads(), ["3", "2", "1"]);
    }

    #[pg_test]
    fn thousands_of_letters_are_all_visited() {
        stage::set();
        stage::draft("calls", "");
        run("insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason, payload)
             select n, now(), now(), s.id, 1, 'i', 'calls', case n % 2 when 0 then 'even' else 'odd' end, n::text
               from lago_push.sync s, generate_series(1, 2500) n");
        assert_eq!(redrive("'calls', 'reason = ''odd'''"), "1250");
        assert_eq!(redrive("'calls'"), "1250");
        assert_eq!(
            text(
                "select (array_agg(payload::int order by id) = array(select n from generate_series(1, 2499, 2) n) || array(select n from generate_series(2, 2500, 2) n))::text from lago_push.message"
            ),
            "true"
        );
    }

    #[pg_test]
    fn a_filter_that_is_no_expression_is_refused() {
        stage::set();
        stage::draft("calls", "");
        rejected(1, "calls", "1", "no");
        for (filter, sqlstate) in [
            ("", "42601"),
            ("id =", "42601"),
            ("true) or (true", "42601"),
            ("true); delete from lago_push.dead_letter; --", "42601"),
            ("true; select 1", "42601"),
            ("nothing = 1", "42703"),
            ("id", "42804"),
            ("keep_until is null", "42703"),
            ("id = any (array(delete from lago_push.dead_letter returning id))", "42601"),
        ] {
            let [code, message, ..] = failure(&format!("select lago_push.redrive('calls', $f${filter}$f$)"));
            assert_eq!(code, sqlstate, "{filter}: {message}");
            assert_eq!(dead(), ["1"]);
        }
    }

    /// A role that owns a table, may do everything with its sync, and owns nothing else.
    fn by_the_maker(work: impl FnOnce()) {
        stage::set();
        run("create role maker;
             select lago_push.grant_access('maker', 'maker');
             create table public.mine (like public.calls); alter table public.mine owner to maker");
        stage::draft("calls", "");
        run(&format!("select lago_push.create_sync('mine', 'public.mine', $t${}$t$)", stage::TEMPLATE));
        rejected(1, "mine", "1", "no");
        rejected(2, "calls", "2", "hush");
        run("set local role maker");
        work();
        run("reset role");
    }

    #[pg_test]
    fn a_filter_runs_with_the_rights_of_who_wrote_it() {
        by_the_maker(|| {
            for filter in [
                "exists (select from lago_push.api_key)",
                "exists (select from public.calls)",
                "exists (select from lago_push.dead_letter)",
                "exists (select from lago_push.dead_letters where reason = 'hush')",
                "nextval('lago_push.message_id') > 0",
            ] {
                let [sqlstate, message, ..] =
                    failure(&format!("select lago_push.redrive('mine', $f${filter}$f$)"));
                assert_eq!(sqlstate, "42501", "{filter}: {message}");
            }
            assert_eq!(
                redrive("'mine', 'exists (select from public.mine) or current_user = ''maker'''"),
                "1"
            );
        });
        assert_eq!(dead(), ["2"]);
    }

    #[pg_test]
    fn a_message_without_a_path_stays_dead_where_each_row_makes_its_own_by_now() {
        stage::set();
        run("create table leavers (id int primary key);
             select lago_push.create_sync('leavers', source => 'leavers', endpoint => 'manual', method => 'DELETE',
                 path => '/customers/{{ row.id }}')");
        rejected(7, "leavers", "", "no");
        run("update lago_push.dead_letter set path = null");
        assert_eq!(redrive("'leavers'"), "0");
        assert!(reasons()[0].contains("the sync's path is made of each row by now"), "{:?}", reasons());
        run("update lago_push.dead_letter set path = '/customers/7'");
        assert_eq!(redrive("'leavers'"), "1");
    }

    #[pg_test]
    fn only_the_owner_of_a_table_redrives_its_letters() {
        by_the_maker(|| {
            let [sqlstate, message, ..] = failure("select lago_push.redrive('calls')");
            assert_eq!((&*sqlstate, &*message), ("42501", "must be owner of table public.calls"));
        });
        assert_eq!(dead(), ["1", "2"]);
    }

    #[pg_test]
    fn a_callers_search_path_does_not_change_what_a_filter_reads() {
        stage::set();
        stage::draft("calls", "");
        rejected(1, "calls", "1", "no");
        run("create schema evil;
             create table pg_temp.dead_letters (id bigint, reason text); insert into pg_temp.dead_letters values (1, 'yes');
             create function evil.json_to_recordset(json) returns setof record language sql as 'select 1'");
        run("set local search_path = pg_temp, evil, public, pg_catalog");
        assert_eq!(redrive("'calls', 'reason = ''yes'''"), "0");
        assert_eq!(redrive("'calls', 'reason = ''no'''"), "1");
    }

    #[pg_test]
    fn what_could_not_be_rendered_is_rendered_again() {
        stage::set();
        run("create function public.map(call public.calls, was public.calls, op text) returns jsonb language plpgsql as $$
             begin
                 if current_setting('tests.mend', true) is distinct from 'on' then raise exception 'no'; end if;
                 if call.region = 'none' then return null; end if;
                 return jsonb_build_object('transaction_id', op || '-' || call.id, 'external_subscription_id', call.subscription, 'code', 'c', 'timestamp', 0,
                                           'properties', jsonb_build_object('v', jsonb_build_array(call.bytes, was.bytes)));
             end $$;
             select lago_push.create_sync('calls', 'public.calls', mapper => 'public.map(public.calls, public.calls, text)',
                                          operations => '{insert,update,delete}');
             select lago_push.activate('calls')");
        run(
            "insert into public.calls values (1, 's', 10, 'eu', 'epoch'), (2, 's', 1, 'none', 'epoch'), (3, null, 1, 'eu', 'epoch');
             update public.calls set bytes = 11.50 where id = 1;
             delete from public.calls where id = 1",
        );
        assert_eq!(reasons().len(), 5);
        run("set local tests.mend = 'on'");
        assert_eq!(redrive("'calls'"), "4", "one of them is to be skipped, and one is no better than it was");
        assert_eq!(
            reasons(),
            ["\"external_subscription_id\" is null: Lago would answer 200 and never bill it"],
            "with its new reason"
        );
        assert_eq!(properties("v"), ["[10, null]", "[11.50, 10]", "[11.50, 11.50]"]);
        assert_eq!(stage::operations(), "iud");
    }

    #[pg_test]
    fn a_template_gives_a_row_rendered_again_the_bytes_it_would_have_had() {
        stage::set();
        run("create table public.typed (id int, n numeric, f float8, r real, b boolean, t text, c char(5), j json, jb jsonb, u uuid, y bytea,
                                        a text[], d date, at timestamptz, plain timestamp, i interval, big bigint, e int4range)");
        let columns = "[{{ row.n }}, {{ row.f }}, {{ row.r }}, {{ row.b }}, {{ row.t }}, {{ row.c }}, {{ row.j }}, {{ row.jb }}, {{ row.u }}, {{ row.y }},
                        {{ row.a }}, {{ row.d }}, {{ row.at }}, {{ row.plain }}, {{ row.i }}, {{ row.big }}, {{ row.e }}, \"{{ row.t | upcase }}\"]";
        activate_for_value("public.typed", columns, "");
        run("create function pg_temp.row() returns void language sql as $f$
             insert into public.typed values (1, 0.1000000000000000000000001, 0.1, 1.1, true, e'a \"quote\", \\\\ and\\nline ü 😀', 'ab', '{ \"x\" : 1.50 }', '{\"x\": 1.50}',
                 '00000000-0000-0000-0000-0000000000ff', '\\x00ff', '{a,NULL,\"b c\"}', '2024-02-29', '2024-07-01 12:00:00.000001+02', '2024-07-01 12:00', '1 day 2 h',
                 9223372036854775807, '[1,5)') $f$");
        run("select pg_temp.row()");
        let wanted = properties("v").pop().expect("a payload");
        run("delete from lago_push.message");
        // Broken, and mended after.
        run(
            "alter table public.typed rename n to m; set local timezone = 'Asia/Tokyo'; set local datestyle = 'German'; set local extra_float_digits = -15; set local intervalstyle = 'iso_8601'; set local bytea_output = 'escape'",
        );
        run("select pg_temp.row()");
        assert_eq!(reasons(), ["column \"n\" does not exist (any more)"]);
        run(&format!(
            r#"select lago_push.alter_sync('values', template => $template${{"transaction_id": "t", "external_subscription_id": "s", "code": "c", "timestamp": 0, "properties": {{"v": {}}}}}$template$)"#,
            columns.replace("row.n ", "row.m ")
        ).replace("\"transaction_id\": \"t\"", "\"transaction_id\": \"t-{{ op }}\""));
        assert_eq!(redrive("'values'"), "1");
        assert_eq!(properties("v"), [wanted]);
    }

    #[pg_test]
    fn a_letter_written_before_its_column_was_renamed_is_not_billed_without_it() {
        stage::set();
        activate_for_value(
            "public.calls",
            "[\"{{ row.subscription | upcase }}\", {{ row.bytes | times: 1 }}]",
            "",
        );
        run("alter table public.calls rename subscription to customer");
        run("insert into public.calls (id, customer, bytes) values (1, 'acme', 10)");
        assert_eq!(reasons().len(), 1);
        run("alter table public.calls rename customer to client");
        run(
            r#"select lago_push.alter_sync('values', template => '{"transaction_id": "t-{{ op }}", "external_subscription_id": "s", "code": "c", "timestamp": 0, "properties": {"v": "{{ row.client }}"}}')"#,
        );
        // Its row has a customer and no client: what the row does not say is not made up.
        assert_eq!(redrive("'values'"), "0", "{:?}", payloads());
        assert_eq!(reasons(), ["the kept row has no column \"client\""]);
    }

    #[pg_test]
    fn a_letter_whose_row_was_not_kept_stays() {
        stage::set();
        stage::draft("calls", "");
        run("insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason)
             select 1, now(), now(), s.id, 0, 'i', 'calls', 'why' from lago_push.sync s");
        assert_eq!(redrive("'calls'"), "0");
        assert_eq!(reasons(), ["why"]);
    }

    #[pg_test]
    fn a_row_that_no_longer_fits_its_table_stays_with_the_reason() {
        stage::set();
        activate("calls", "");
        run("insert into public.calls (id, bytes, region, created_at) values (1, 5, 'eu', 'epoch')");
        assert_eq!(reasons().len(), 1);
        run("update lago_push.dead_letter set source_row = (source_row::jsonb || '{\"id\": \"one\"}')::json");
        assert_eq!(redrive("'calls'"), "0");
        assert_eq!(reasons(), ["the kept row no longer fits the table: SQLSTATE 22P02"]);
    }

    #[pg_test]
    fn letters_of_a_table_that_is_gone_stay_and_rejected_ones_go_back() {
        stage::set();
        activate("calls", "");
        run("insert into public.calls (id) values (1)");
        stage::reach_the_end();
        rejected(100_000, "calls", "{}", "no");
        run("drop table public.calls");
        assert_eq!(redrive("'calls'"), "1");
        assert_eq!(reasons(), ["the sync's source does not exist (any more)"]);
        assert_eq!(payloads(), ["{}"]);
    }

    #[pg_test]
    fn an_unknown_sync_has_no_letters() {
        stage::set();
        let [sqlstate, message, _, hint] = failure("select lago_push.redrive('cals')");
        assert_eq!(
            [&*sqlstate, &*message, &*hint],
            ["42704", "sync \"cals\" does not exist", "Create one with lago_push.create_sync()."]
        );
    }

    #[pg_test]
    fn the_letters_of_a_trigger_that_names_no_sync_belong_to_none() {
        stage::set();
        stage::draft("calls", "");
        run(
            "create trigger lost after insert on public.calls for each row execute function lago_push.capture('no such sync')",
        );
        run(stage::INSERT);
        assert_eq!(reasons().len(), 1);
        assert_eq!(redrive("'calls'"), "0");
        assert_eq!(reasons().len(), 1);
    }

    fn discard(arguments: &str) -> String {
        text(&format!("select lago_push.discard({arguments})::text"))
    }

    #[pg_test]
    fn discarded_letters_are_those_of_the_sync_that_the_filter_picks() {
        stage::set();
        stage::draft("calls", "");
        stage::draft("others", "");
        for (number, reason) in [(1, "column x"), (2, "code"), (3, "column y")] {
            rejected(number, "calls", "{}", reason);
        }
        rejected(4, "others", "{}", "column x");
        assert_eq!(discard("'calls', filter => 'reason like ''column %'' and id > 1'"), "1");
        assert_eq!(dead(), ["1", "2", "4"]);
        assert_eq!(discard("'calls', 'false'"), "0");
        assert_eq!(discard("'calls'"), "2");
        assert_eq!(dead(), ["4"]);
        assert_eq!(payloads(), NOTHING);
    }

    #[pg_test]
    fn thousands_of_letters_are_all_discarded() {
        stage::set();
        stage::draft("calls", "");
        run("insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason, payload)
             select n, now(), now(), s.id, 1, 'i', 'calls', case n % 2 when 0 then 'even' else 'odd' end, n::text
               from lago_push.sync s, generate_series(1, 2500) n");
        assert_eq!(discard("'calls', 'reason = ''odd'''"), "1250");
        assert_eq!(discard("'calls'"), "1250");
    }

    #[pg_test]
    fn what_is_no_filter_discards_nothing() {
        stage::set();
        stage::draft("calls", "");
        rejected(1, "calls", "{}", "no");
        for (filter, sqlstate) in
            [("", "42601"), ("true) or (true", "42601"), ("nothing = 1", "42703"), ("id", "42804")]
        {
            let [code, message, ..] = failure(&format!("select lago_push.discard('calls', $f${filter}$f$)"));
            assert_eq!(code, sqlstate, "{filter}: {message}");
        }
        assert_eq!(dead(), ["1"]);
    }

    #[pg_test]
    fn only_the_owner_of_a_table_discards_its_letters() {
        by_the_maker(|| {
            let [sqlstate, message, ..] = failure("select lago_push.discard('calls')");
            assert_eq!((&*sqlstate, &*message), ("42501", "must be owner of table public.calls"));
            let [sqlstate, message, ..] =
                failure("select lago_push.discard('mine', 'exists (select from lago_push.dead_letters)')");
            assert_eq!(sqlstate, "42501", "{message}");
            assert_eq!(discard("'mine'"), "1");
        });
        assert_eq!(dead(), ["2"]);
    }

    /// A letter of a trigger that names no sync.
    fn stray(number: i32, name: &str) {
        run(&format!(
            "insert into lago_push.dead_letter (id, enqueued_at, died_at, attempts, operation, sync_name, reason, source_row)
             values ({number}, now(), now(), 0, 'i', '{name}', 'no sync', '{{}}')"
        ));
    }

    #[pg_test]
    fn letters_of_no_sync_are_seen_and_discarded_by_their_name() {
        stage::set();
        stage::draft("calls", "");
        rejected(1, "calls", "{}", "no");
        stray(2, "cals");
        stray(3, "cals");
        stray(4, "other");
        let seen = texts("select sync from lago_push.dead_letters order by id");
        assert_eq!(seen, ["calls", "cals", "cals", "other"]);
        assert_eq!(discard("'cals', 'id = 2'"), "1");
        assert_eq!(discard("'cals'"), "1");
        assert_eq!(dead(), ["1", "4"]);
        let [sqlstate, message, _, hint] = failure("select lago_push.discard('cals')");
        assert_eq!(
            [&*sqlstate, &*message, &*hint],
            ["42704", "sync \"cals\" does not exist", "Syncs: calls."]
        );
    }

    #[pg_test]
    fn letters_of_no_sync_do_not_outlive_a_sync_made_under_their_name() {
        stage::set();
        stray(1, "calls");
        stage::draft("calls", "");
        rejected(2, "calls", "{}", "no");
        assert_eq!(redrive("'calls'"), "1", "it would be billed as a row of another table");
        rejected(3, "calls", "{}", "no");
        assert_eq!(discard("'calls'"), "2");
        assert_eq!(dead(), NOTHING);
        assert_eq!(text("select discarded::text from lago_push.ledger"), "1");
    }

    #[pg_test]
    fn letters_of_no_sync_are_the_extension_owners() {
        by_the_maker(|| {
            run("reset role");
            stray(3, "nobody");
            stray(4, "mine");
            run("set local role maker");
            let [sqlstate, message, ..] = failure("select lago_push.discard('nobody')");
            assert_eq!((&*sqlstate, &*message), ("42704", "sync \"nobody\" does not exist"));
            assert_eq!(discard("'mine'"), "1");
        });
        assert_eq!(dead(), ["2", "3", "4"]);
    }
}
