//! Capture, seen through the outbox: which rows, which bytes, and what a savepoint takes back.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{
        self, INSERT, PAYLOAD, activate, activate_for_value, captured_values, run, text, texts,
    };
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];
    const ALL: &str = ", operations => '{insert,update,delete}'";

    #[pg_test]
    fn a_row_becomes_the_payload_its_template_says() {
        stage::set();
        activate("calls", "");
        run(INSERT);
        assert_eq!(stage::payloads(), [PAYLOAD]);
        assert_eq!(
            text(
                "select concat_ws(' ', sync, attempts, next_attempt_at, last_error, payload) from lago_push.outbox"
            ),
            format!("calls 0 {PAYLOAD}")
        );
        assert_eq!(
            text(
                "select concat_ws(' ', sync, state, source, destination, pending, retrying, delivered, dead) from lago_push.status"
            ),
            "calls active calls lago 1 0 0 0"
        );
    }

    #[pg_test]
    fn every_row_of_a_statement_is_captured_in_its_order() {
        stage::set();
        activate_for_value("public.calls", "{{ row.id }}", "");
        run("insert into public.calls (id) select n from generate_series(1, 500) n");
        assert_eq!(captured_values(), (1..=500).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[pg_test]
    fn each_operation_is_captured_if_the_sync_covers_it() {
        for (number, (operations, captured)) in [
            ("insert", "i"),
            ("update", "u"),
            ("delete", "d"),
            ("insert,delete", "id"),
            ("insert,update,delete", "iud"),
        ]
        .iter()
        .enumerate()
        {
            if number == 0 {
                stage::set();
            }
            activate("calls", &format!(", operations => '{{{operations}}}'"));
            run(INSERT);
            run("update public.calls set bytes = 11; delete from public.calls");
            assert_eq!(stage::operations(), *captured, "{operations}");
            run("select lago_push.drop_sync('calls', discard => true)");
        }
    }

    #[pg_test]
    fn an_update_knows_the_row_before_and_after() {
        stage::set();
        activate_for_value(
            "public.calls",
            r#"["{{ op }}", {{ op }}, {{ old.bytes }}, {{ row.bytes }}]"#,
            ALL,
        );
        run(INSERT);
        run("update public.calls set bytes = 11.50; delete from public.calls");
        assert_eq!(
            captured_values(),
            [
                r#"["insert","insert",null,10]"#,
                r#"["update","update",10,11.50]"#,
                r#"["delete","delete",11.50,11.50]"#
            ]
        );
    }

    #[pg_test]
    fn a_filter_chooses_the_rows() {
        stage::set();
        activate_for_value(
            "public.calls",
            "{{ row.id }}",
            ", filter => 'new.bytes > 5 and new.region is distinct from ''test'''",
        );
        run(
            "insert into public.calls (id, bytes, region) values (1, 5, 'eu'), (2, 6, 'eu'), (3, 7, 'test'), (4, null, 'eu'), (5, 8, null)",
        );
        assert_eq!(captured_values(), ["2", "5"]);
    }

    #[pg_test]
    fn a_filter_of_updates_compares_before_and_after() {
        stage::set();
        activate_for_value(
            "public.calls",
            "{{ row.id }}",
            ", operations => '{update}', filter => 'old.bytes is distinct from new.bytes'",
        );
        run("insert into public.calls (id, bytes) values (1, 5), (2, 6)");
        run("update public.calls set bytes = 6");
        assert_eq!(captured_values(), ["1"]);
    }

    #[pg_test]
    fn columns_choose_the_updates_that_set_them() {
        stage::set();
        activate_for_value(
            "public.calls",
            "{{ row.bytes }}",
            ", operations => '{insert,update}', columns => '{bytes}'",
        );
        run(INSERT);
        run("update public.calls set region = 'us'");
        run("update public.calls set bytes = 11, region = 'eu'");
        assert_eq!(captured_values(), ["10", "11"]);
    }

    #[pg_test]
    fn column_names_need_not_be_words() {
        stage::set();
        run(
            r#"create table public."Odd Table" ("Mixed Case" int, "with ""quotes""" int, "größe" int, "select" int, "a.b" int, "{{" int)"#,
        );
        activate_for_value(
            r#"public."Odd Table""#,
            r#"[{{ row["Mixed Case"] }}, {{ row['with "quotes"'] }}, {{ row.größe }}, {{ row.select }}, "{{row['a.b']}}", {{ row["{{"] }}]"#,
            "",
        );
        run(r#"insert into public."Odd Table" values (1, 2, 3, 4, 5, 6)"#);
        assert_eq!(captured_values(), [r#"[1,2,3,4,"5",6]"#]);
        assert_eq!(text("select source from lago_push.status"), r#""Odd Table""#);
    }

    #[pg_test]
    fn generated_columns_are_computed_first() {
        stage::set();
        run("alter table public.calls add twice numeric generated always as (bytes * 2) stored");
        activate_for_value("public.calls", "[{{ old.twice }}, {{ row.twice }}]", ALL);
        run(INSERT);
        run("update public.calls set bytes = 3; delete from public.calls");
        assert_eq!(captured_values(), ["[null,20]", "[20,6]", "[6,6]"]);
    }

    #[pg_test]
    fn what_other_triggers_change_is_what_is_billed() {
        stage::set();
        run("create function pg_temp.shout() returns trigger language plpgsql as 'begin new.region := upper(new.region); return new; end';
             create trigger shout before insert on public.calls for each row execute function pg_temp.shout()");
        activate_for_value("public.calls", "{{ row.region }}", "");
        run(INSERT);
        assert_eq!(captured_values(), [r#""EU""#]);
    }

    #[pg_test]
    fn a_domain_is_written_as_the_type_it_stands_on() {
        stage::set();
        run(
            "create domain public.amount as numeric(20, 4) check (value >= 0);
             create domain public.dear_amount as public.amount;
             create domain public.moment as timestamptz;
             create domain public.word as varchar(10);
             create table public.domains (amount public.dear_amount, moment public.moment, word public.word)",
        );
        run(
            r#"select lago_push.create_sync('domains', 'public.domains', '{"transaction_id": "{{ row.word }}", "external_subscription_id": {{ row.word }}, "code": "c", "timestamp": {{ row.moment }}, "properties": {"amount": {{ row.amount }}, "moment": {{ row.moment }}}}');
               select lago_push.activate('domains')"#,
        );
        run("insert into public.domains values (12345678901234.5, '2024-03-14 13:09:00+00', 'w')");
        assert_eq!(
            stage::payloads(),
            [
                r#"{"transaction_id":"w","external_subscription_id":"w","code":"c","timestamp":1710421740,"properties":{"amount":12345678901234.5000,"moment":"2024-03-14T13:09:00+00:00"}}"#
            ]
        );
    }

    #[pg_test]
    fn values_keep_every_digit_and_every_character() {
        stage::set();
        run("create table public.typed (v8 bigint, n numeric, f float8, r real, b boolean, t text, c char(5), j json, jb jsonb,
                                        u uuid, y bytea, a text[], d date, nothing text)");
        activate_for_value(
            "public.typed",
            r#"[{{ row.v8 }}, {{ row.n }}, {{ row.f }}, {{ row.r }}, {{ row.b }}, {{ row.t }}, {{ row.c }}, {{ row.j }}, {{ row.jb }},
                {{ row.u }}, {{ row.y }}, {{ row.a }}, {{ row.d }}, {{ row.nothing }}, "<{{ row.nothing }}>", "<{{ row.t }}>", "<{{ row.jb }}>"]"#,
            "",
        );
        run(
            r#"insert into public.typed values (9223372036854775807, 0.1000000000000000000000001, 1e-7, 0.1, true,
                   e'a "quote", \\ and\nline \u0001 ü 😀', 'ab', '{ "x" : 1.50 }', '{"x": 1.50}',
                   '00000000-0000-0000-0000-0000000000ff', '\x00ff', '{a,NULL,"b c"}', '2024-02-29', null)"#,
        );
        let t = r#"a \"quote\", \\ and\nline \u0001 ü 😀"#;
        assert_eq!(
            captured_values(),
            [format!(
                r#"[9223372036854775807,0.1000000000000000000000001,0.0000001,0.1,true,"{t}","ab",{{ "x" : 1.50 }},{{"x": 1.50}},"00000000-0000-0000-0000-0000000000ff","\\x00ff",["a",null,"b c"],"2024-02-29",null,"<>","<{t}>","<{{\"x\": 1.50}}>"]"#
            )]
        );
        assert_eq!(text("select json_typeof(payload::json) from lago_push.message"), "object");
    }

    #[pg_test]
    fn bytes_do_not_depend_on_the_writers_settings() {
        stage::set();
        run("create type public.pair as (at timestamptz, f float8, y bytea, i interval);
             create table public.typed (p public.pair, at timestamptz, m money, i interval, q regclass)");
        activate_for_value(
            "public.typed",
            r#"[{{ row.p }}, {{ row.at }}, "{{ row.p }}", "{{ row.at }}", {{ row.i }}, "{{ row.i }}", "{{ row.q }}"]"#,
            "",
        );
        let insert = "insert into public.typed values (row('2024-07-01 12:00+00', 0.1, '\\x01', '1 day 2 h'), '2024-07-01 12:00+00', 1.5, '1 day 2 h', 'public.calls')";
        run(insert);
        run("set local timezone = 'Asia/Tokyo'; set local datestyle = 'German'; set local intervalstyle = 'iso_8601';
             set local extra_float_digits = -15; set local bytea_output = 'escape'; set local search_path = public");
        run(insert);
        assert_eq!(
            text("select current_setting('timezone') || current_setting('search_path')"),
            "Asia/Tokyopublic"
        );
        let values = captured_values();
        assert_eq!(values.len(), 2);
        assert_eq!(values[0], values[1]);
        assert!(
            values[0].contains("2024-07-01T12:00:00+00:00") && values[0].contains("public.calls"),
            "{}",
            values[0]
        );
    }

    #[pg_test]
    fn partitions_of_another_column_order_are_captured_alike() {
        stage::set();
        run("create table public.parted (id int, gone int, region text, bytes numeric) partition by list (region);
             alter table public.parted drop gone;
             create table public.parted_eu partition of public.parted for values in ('eu');
             create table public.parted_us (bytes numeric, junk text, region text, also_gone int, id int);
             alter table public.parted_us drop junk, drop also_gone;
             alter table public.parted attach partition public.parted_us for values in ('us')");
        activate_for_value(
            "public.parted",
            r#"["{{ op }}", {{ row.id }}, {{ row.region }}, {{ row.bytes }}, {{ old.bytes }}]"#,
            ALL,
        );
        run("create table public.parted_rest (region text, bytes numeric, id int);
             alter table public.parted attach partition public.parted_rest default");
        run(
            "insert into public.parted (id, region, bytes) values (1, 'eu', 10), (2, 'us', 20), (3, 'jp', 30)",
        );
        run("insert into public.parted_us (id, region, bytes) values (4, 'us', 40)");
        run("update public.parted set bytes = bytes + 1 where id <= 3");
        run("update public.parted set region = 'us' where id = 1");
        run("delete from public.parted_rest");
        assert_eq!(
            captured_values(),
            [
                r#"["insert",1,"eu",10,null]"#,
                r#"["insert",2,"us",20,null]"#,
                r#"["insert",3,"jp",30,null]"#,
                r#"["insert",4,"us",40,null]"#,
                r#"["update",1,"eu",11,10]"#,
                r#"["update",2,"us",21,20]"#,
                r#"["update",3,"jp",31,30]"#,
                // A row that moves is deleted there and inserted here.
                r#"["delete",1,"eu",11,11]"#,
                r#"["insert",1,"us",11,null]"#,
                r#"["delete",3,"jp",31,31]"#,
            ]
        );
        run("select lago_push.drop_sync('values', discard => true)");
        assert_eq!(
            texts("select tgname::text from pg_trigger where tgfoid = 'lago_push.capture()'::regprocedure"),
            NOTHING
        );
    }

    #[pg_test]
    fn a_changed_table_is_followed_within_the_transaction() {
        stage::set();
        activate_for_value("public.calls", "[{{ row.id }}, {{ row.bytes }}, {{ row.created_at }}]", "");
        run("insert into public.calls (id, bytes) values (1, 10)");
        run("alter table public.calls drop subscription, add more text default 'x'");
        run("insert into public.calls (id, bytes) values (2, 20)");
        run("alter table public.calls alter bytes type text");
        run("insert into public.calls (id, bytes) values (3, '30')");
        run("alter table public.calls drop bytes, add bytes int");
        run("insert into public.calls (id, bytes) values (4, 40)");
        assert_eq!(captured_values(), ["[1,10,null]", "[2,20,null]", r#"[3,"30",null]"#, "[4,40,null]"]);
    }

    #[pg_test]
    fn a_change_that_is_rolled_back_is_forgotten() {
        stage::set();
        activate_for_value("public.calls", "{{ row.bytes }}", "");
        for change in [
            "alter table public.calls drop bytes",
            "alter table public.calls drop subscription, alter bytes type text",
            "update lago_push.sync set template = replace(template, 'row.bytes', 'row.id')",
        ] {
            run(&format!(
                "do $do$ begin
                     execute $change${change}$change$;
                     insert into public.calls (id) values (0);
                     raise exception 'no';
                 exception when raise_exception then end $do$"
            ));
            run("insert into public.calls (id, bytes) values (1, 10); delete from public.calls");
        }
        assert_eq!(captured_values(), ["10"; 3]);
        assert_eq!(texts("select reason from lago_push.dead_letters"), NOTHING);
    }

    /// PostgreSQL 18 computes these when they are read, and a trigger does not read them.
    #[cfg(feature = "pg18")]
    #[pg_test]
    fn a_virtual_generated_column_is_refused_or_computed() {
        stage::set();
        run("alter table public.calls add twice numeric generated always as (bytes * 2) virtual");
        let create = r#"select lago_push.create_sync('values', 'public.calls', $t${"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": 0, "properties": {"v": {{ row.twice }}}}$t$)"#;
        if text(&format!("select coalesce((pg_temp.failure($s${create}$s$))[1], 'accepted')")) == "accepted" {
            run("select lago_push.activate('values')");
            run(INSERT);
            assert_eq!(captured_values(), ["20"]);
        }
    }

    #[pg_test]
    fn a_paused_sync_captures_and_a_dropped_one_does_not() {
        stage::set();
        activate_for_value("public.calls", "{{ row.id }}", "");
        run("insert into public.calls (id) values (1)");
        run("select lago_push.pause('values')");
        run("insert into public.calls (id) values (2)");
        run("select lago_push.resume('values')");
        run("insert into public.calls (id) values (3)");
        assert_eq!(captured_values(), ["1", "2", "3"]);
        run("select lago_push.drop_sync('values', discard => true)");
        run("insert into public.calls (id) values (4)");
        assert_eq!(stage::payloads(), NOTHING);
        assert_eq!(texts("select reason from lago_push.dead_letters"), NOTHING);
    }

    #[pg_test]
    fn two_syncs_of_a_table_capture_each_its_own() {
        stage::set();
        activate("calls", "");
        activate_for_value("public.calls", "{{ row.id }}", "");
        run(INSERT);
        stage::reach_the_end();
        assert_eq!(
            texts(
                "select o.sync || ' ' || (o.payload = $p$__$p$)::text from lago_push.outbox o order by o.id"
                    .replace("__", PAYLOAD)
                    .as_str()
            ),
            ["calls true", "values false"]
        );
    }

    #[pg_test]
    fn an_upsert_is_captured_as_what_it_did() {
        stage::set();
        activate_for_value("public.calls", r#"["{{ op }}", {{ row.id }}, {{ row.bytes }}]"#, ALL);
        run("insert into public.calls (id, bytes) values (1, 10)");
        run(
            "insert into public.calls (id, bytes) values (1, 11), (2, 20) on conflict (id) do update set bytes = excluded.bytes",
        );
        run("insert into public.calls (id, bytes) values (1, 12), (3, 30) on conflict do nothing");
        assert_eq!(
            captured_values(),
            [r#"["insert",1,10]"#, r#"["update",1,11]"#, r#"["insert",2,20]"#, r#"["insert",3,30]"#]
        );
    }

    #[pg_test]
    fn what_a_foreign_key_deletes_is_captured() {
        stage::set();
        run("create table public.parts (id int, call bigint references public.calls on delete cascade)");
        activate_for_value("public.parts", "{{ old.id }}", ", operations => '{delete}'");
        run(
            "insert into public.calls (id) values (1), (2); insert into public.parts values (10, 1), (11, 2), (12, 1)",
        );
        run("delete from public.calls where id = 1");
        assert_eq!(captured_values(), ["10", "12"]);
    }

    #[pg_test]
    fn a_deferred_trigger_captures_when_it_fires() {
        stage::set();
        stage::draft("calls", "");
        run("create constraint trigger late after insert on public.calls deferrable initially deferred for each row
             execute function lago_push.capture('calls')");
        run("select lago_push.activate('calls')");
        run(INSERT);
        assert!(!crate::capture::has_captured());
        // PostgreSQL does this at commit, before it announces the end.
        run("set constraints all immediate");
        assert_eq!(stage::payloads(), [PAYLOAD]);
    }

    #[pg_test]
    fn what_is_captured_after_the_last_chance_to_write_is_written_at_once() {
        stage::set();
        activate_for_value("public.calls", "{{ row.id }}", "");
        run("insert into public.calls (id) values (1)");
        stage::reach_the_end();
        run("insert into public.calls (id) values (2)");
        assert_eq!(waiting(), "2");
    }

    #[pg_test]
    fn the_first_row_captured_after_the_last_chance_to_write_is_written_at_once() {
        stage::set();
        activate_for_value("public.calls", "{{ row.id }}", "");
        // Another extension may write rows at the end of a transaction that had none.
        stage::reach_the_end();
        run("insert into public.calls (id) values (1)");
        assert_eq!(waiting(), "1");
    }

    fn waiting() -> String {
        text("select count(*)::text from lago_push.message")
    }

    #[pg_test]
    fn rows_are_written_when_they_are_many_and_not_before() {
        stage::set();
        activate_for_value("public.calls", "{{ row.region }}", "");
        run(
            "insert into public.calls (id, region) select n, repeat('x', 1000) from generate_series(1, 50) n",
        );
        assert_eq!(waiting(), "0");
        run("set local lago_push.capture_memory = '64kB'");
        run(
            "insert into public.calls (id, region) select n, repeat('x', 1000) from generate_series(51, 1000) n",
        );
        let early: usize = waiting().parse().expect("a number");
        assert!((900..1000).contains(&early), "{early}");
        assert_eq!(captured_values().len(), 1000);
    }

    /// The values captured once the statements have run, by a backend that holds as little as it may.
    fn after(statements: &str) -> String {
        stage::set();
        activate_for_value("public.calls", "{{ row.id }}, \"of\": {{ row.region }}", "");
        run("set local lago_push.capture_memory = '64kB'");
        run("create function pg_temp.add(number int) returns void language sql as $$
                 insert into public.calls (id) values (number) $$;
             create function pg_temp.add_big(number int) returns void language sql as $$
                 insert into public.calls (id, region) values (number, repeat('x', 100000)) $$;
             create function pg_temp.waiting() returns bigint language sql security definer as $$
                 select count(*) from lago_push.message $$");
        run(&format!("do $do$ begin {statements} end $do$"));
        let ids = |value: String| value.split(',').next().map(str::to_owned);
        captured_values().into_iter().filter_map(ids).collect::<Vec<_>>().join(" ")
    }

    #[pg_test]
    fn a_rolled_back_savepoint_takes_its_rows_with_it() {
        let statements = "perform pg_temp.add(1);
            begin perform pg_temp.add(2); raise exception 'no'; exception when others then end;
            begin perform pg_temp.add(3); exception when others then end;
            perform pg_temp.add(4);";
        assert_eq!(after(statements), "1 3 4");
    }

    #[pg_test]
    fn a_rolled_back_savepoint_takes_rows_already_written_with_it() {
        let statements = "perform pg_temp.add(1);
            begin
                perform pg_temp.add(2);
                perform pg_temp.add_big(3);
                assert pg_temp.waiting() > 0, 'nothing was written early';
                raise exception 'no';
            exception when raise_exception then end;
            perform pg_temp.add(4);";
        assert_eq!(after(statements), "1 4");
    }

    #[pg_test]
    fn rows_of_the_parent_survive_a_child_that_wrote_and_was_rolled_back() {
        let statements = "
            begin
                perform pg_temp.add(1);
                begin
                    perform pg_temp.add_big(2);
                    begin perform pg_temp.add_big(3); exception when others then end;
                    raise exception 'no';
                exception when raise_exception then end;
                perform pg_temp.add(4);
            exception when others then end;
            perform pg_temp.add(5);";
        assert_eq!(after(statements), "1 4 5");
    }

    #[pg_test]
    fn a_child_released_into_a_parent_that_is_rolled_back_is_gone() {
        let statements = "perform pg_temp.add(1);
            begin
                begin perform pg_temp.add_big(2); exception when others then end;
                begin perform pg_temp.add(3); exception when others then end;
                raise exception 'no';
            exception when raise_exception then end;
            perform pg_temp.add(4);";
        assert_eq!(after(statements), "1 4");
    }

    #[pg_test]
    fn ids_follow_the_order_of_capture_though_children_write_first() {
        let statements = "perform pg_temp.add(1);
            begin perform pg_temp.add_big(2); exception when others then end;
            perform pg_temp.add(3);
            begin perform pg_temp.add_big(4); exception when others then end;
            perform pg_temp.add(5);";
        assert_eq!(after(statements), "1 2 3 4 5");
    }

    #[pg_test]
    fn a_statement_that_fails_is_not_billed() {
        stage::set();
        activate_for_value("public.calls", "{{ row.id }}", "");
        run("insert into public.calls (id) values (1)");
        let [sqlstate, ..] = stage::failure("insert into public.calls (id) values (2), (3), (1)");
        assert_eq!(sqlstate, "23505");
        assert_eq!(captured_values(), ["1"]);
    }

    #[pg_test]
    fn a_long_payload_is_kept_whole() {
        stage::set();
        activate_for_value("public.calls", "{{ row.region }}", "");
        run(
            "insert into public.calls (id, region) select 1, string_agg(md5(n::text), '') from generate_series(1, 30000) n",
        );
        assert_eq!(waiting(), "0");
        run("set local lago_push.capture_memory = '64kB'");
        run("insert into public.calls (id, region) select 2, region from public.calls");
        assert_eq!(waiting(), "2");
        assert_eq!(
            text(
                "select count(*)::text from lago_push.message m join public.calls c on m.payload::json #>> '{properties,v}' = c.region"
            ),
            "4"
        );
    }

    #[pg_test]
    fn a_row_written_by_a_types_own_function_is_captured_too() {
        stage::set();
        run("create table public.seen (id int);
             create type public.odd as enum ('5');
             create function public.odd_to_json(public.odd) returns json language plpgsql as $$
             begin insert into public.seen values ($1::text::int); return '\"odd\"'; end $$;
             create cast (public.odd as json) with function public.odd_to_json(public.odd);
             create table public.odds (v public.odd)");
        activate_for_value("public.odds", "{{ row.v }}", "");
        run(
            r#"select lago_push.create_sync('seen', 'public.seen', $t${"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "seen", "timestamp": 0}$t$);
               select lago_push.activate('seen')"#,
        );
        run("insert into public.odds values ('5')");
        stage::reach_the_end();
        let syncs = texts("select o.sync from lago_push.outbox o order by o.sync");
        assert_eq!(syncs, ["seen", "values"]);
        assert_eq!(
            text(
                "select m.payload::json ->> 'transaction_id' from lago_push.message m where m.payload like '%seen%'"
            ),
            "5"
        );
    }
}
