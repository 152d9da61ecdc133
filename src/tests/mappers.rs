//! Mappers: a function of the user's own in the template's place.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, INSERT, properties, reasons, refuses, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];
    const ALL: &str = ", operations => '{insert,update,delete}'";

    /// `public.to_event` of some arguments, whose result has `value`, an SQL expression, as property `v`.
    fn define(arguments: &str, value: &str) {
        run(&format!(
            "create or replace function public.to_event({arguments}) returns jsonb language sql stable as $$
                 select jsonb_build_object('transaction_id', 'call-' || ($1).id, 'external_subscription_id', 's', 'code', 'c',
                                           'timestamp', 0, 'properties', jsonb_build_object('v', {value})) $$"
        ));
    }

    /// The same with a body in PL/pgSQL that returns what it likes.
    fn define_body(body: &str) {
        run(&format!(
            "create or replace function public.to_event(call public.calls) returns jsonb language plpgsql as $$ {body} $$"
        ));
    }

    const GOOD: &str =
        r#"return '{"transaction_id": "t", "external_subscription_id": "s", "code": "c", "timestamp": 0}';"#;

    fn activate(signature: &str, options: &str) {
        run(&format!(
            "select lago_push.create_sync('mapped', 'public.calls', mapper => 'public.to_event({signature})'{options});
             select lago_push.activate('mapped')"
        ));
    }

    #[pg_test]
    fn a_mapper_is_given_the_row() {
        stage::set();
        define("public.calls", "jsonb_build_array($1.bytes, $1.created_at, $1.region)");
        activate("public.calls", ALL);
        run("set local timezone = 'Asia/Tokyo'; set local extra_float_digits = -15");
        run(INSERT);
        run("update public.calls set bytes = 0.1000000000000000000000001; delete from public.calls");
        let moment = r#""2024-03-14T13:09:00.123456+00:00""#;
        assert_eq!(
            properties("v"),
            [
                format!(r#"[10, {moment}, "eu"]"#),
                format!(r#"[0.1000000000000000000000001, {moment}, "eu"]"#),
                format!(r#"[0.1000000000000000000000001, {moment}, "eu"]"#)
            ]
        );
        assert_eq!(stage::operations(), "iud");
        assert_eq!(text("select current_setting('timezone')"), "Asia/Tokyo");
    }

    #[pg_test]
    fn a_mapper_of_two_arguments_is_given_the_row_before_too() {
        stage::set();
        define("public.calls, public.calls", "jsonb_build_array($1.bytes, $2.bytes, $2 is null)");
        activate("public.calls, public.calls", ALL);
        run(INSERT);
        run("update public.calls set bytes = 11; delete from public.calls");
        assert_eq!(properties("v"), ["[10, null, true]", "[11, 10, false]", "[11, 11, false]"]);
    }

    #[pg_test]
    fn a_mapper_of_three_arguments_is_told_the_operation() {
        stage::set();
        define("public.calls, public.calls, text", "jsonb_build_array($3, $1.bytes, $2.bytes)");
        activate("public.calls, public.calls, text", ALL);
        run(INSERT);
        run("update public.calls set bytes = 11; delete from public.calls");
        assert_eq!(
            properties("v"),
            [r#"["insert", 10, null]"#, r#"["update", 11, 10]"#, r#"["delete", 11, 11]"#]
        );
    }

    #[pg_test]
    fn a_row_for_which_the_mapper_returns_null_is_not_sent() {
        stage::set();
        define_body(&format!("begin if call.region = 'test' then return null; end if; {GOOD} end"));
        activate("public.calls", "");
        run("insert into public.calls (id, region) values (1, 'eu'), (2, 'test'), (3, null)");
        assert_eq!(stage::operations(), "ii");
        assert_eq!(reasons(), NOTHING);
    }

    #[pg_test]
    fn a_mapper_that_fails_makes_a_dead_letter_and_the_write_goes_through() {
        stage::set();
        define_body(&format!(
            "begin
                 if call.region = 'bad' then raise exception 'hush %', call.id using errcode = '22P06'; end if;
                 if call.region = 'worse' then perform 1 / (call.id - call.id); end if;
                 {GOOD}
             end"
        ));
        activate("public.calls", "");
        run(
            "insert into public.calls (id, region) values (1, 'eu'), (2, 'bad'), (3, 'us'), (4, 'worse'), (5, 'eu')",
        );
        assert_eq!(stage::operations(), "iii");
        assert_eq!(
            reasons(),
            ["the mapper failed with SQLSTATE 22P06", "the mapper failed with SQLSTATE 22012"]
        );
        assert_eq!(
            texts("select source_row ->> 'id' from lago_push.dead_letters order by id"),
            ["2", "4"],
            "its row is kept"
        );
        assert_eq!(text("select count(*)::text from public.calls"), "5");
    }

    #[pg_test]
    fn a_mapper_that_fails_refuses_the_write_where_the_sync_raises() {
        stage::set();
        define_body("begin raise exception 'hush %', call.id using errcode = '22P06'; end");
        activate("public.calls", ", on_error => 'raise'");
        refuses(
            INSERT,
            [
                "22000",
                "sync \"mapped\" cannot bill this row: the mapper failed with SQLSTATE 22P06",
                "",
                "Correct the row, or let such writes through: lago_push.alter_sync(…, on_error => 'dead_letter').",
            ],
        );
        assert_eq!(text("select count(*)::text from public.calls"), "0");
    }

    #[pg_test]
    fn what_a_failing_mapper_wrote_is_undone_and_what_others_wrote_stays() {
        stage::set();
        run("create table public.log (id int)");
        define_body(&format!(
            "begin
                 insert into public.log values (call.id);
                 if call.id = 2 then raise exception 'no'; end if;
                 {GOOD}
             end"
        ));
        activate("public.calls", "");
        run("insert into public.calls (id) values (1), (2), (3)");
        assert_eq!(texts("select id::text from public.log order by id"), ["1", "3"]);
    }

    #[pg_test]
    fn a_payload_lago_would_not_bill_is_a_dead_letter_that_names_the_key() {
        stage::set();
        define_body("begin return call.region::jsonb; end");
        activate("public.calls", "");
        let good = r#""transaction_id": "t", "external_subscription_id": "s", "code": "c", "timestamp": 0"#;
        for (number, payload) in [
            format!("{{{good}}}"),
            r#"{"transaction_id": "t", "code": "c", "timestamp": 0}"#.to_owned(),
            format!("{{{}}}", good.replace("\"s\"", "null")),
            format!("{{{}}}", good.replace("\"t\"", "\"\"")),
            format!("{{{}}}", good.replace(": 0", ": 1710421740123")),
            format!("{{{}}}", good.replace(": 0", ": \"2024-03-14T13:09:00Z\"")),
            format!("{{{good}, \"externalCustomerId\": \"x\"}}"),
            format!("{{{good}, \"properties\": []}}"),
            format!("{{\"event\": {{{good}}}}}"),
            format!("[{{{good}}}]"),
            "7".to_owned(),
            "null".to_owned(),
        ]
        .iter()
        .enumerate()
        {
            run(&format!("insert into public.calls (id, region) values ({number}, $p${payload}$p$)"));
        }
        assert_eq!(stage::operations(), "i");
        let reasons = reasons();
        assert_eq!(reasons.len(), 11, "{reasons:?}");
        for (reason, begins) in reasons.iter().zip([
            "\"external_subscription_id\" is missing: Lago would answer 200 and never bill it",
            "\"external_subscription_id\" is null",
            "\"transaction_id\" is empty",
            "\"timestamp\" is not a time in Unix seconds: it looks like milliseconds",
            "\"timestamp\" is not a time in Unix seconds: it looks like ISO 8601",
            "Lago reads no key \"externalCustomerId\"",
            "\"properties\" is not an object",
            "\"event\" is the key that wraps what is sent",
            "the payload is not a JSON object",
            "the payload is not a JSON object",
            "the payload is not a JSON object",
        ]) {
            assert!(reason.starts_with(begins), "{reason} instead of {begins}");
        }
    }

    #[pg_test]
    fn a_writer_needs_no_right_to_the_mapper_nor_to_what_it_reads() {
        stage::set();
        run("create role owner_of_calls;
             create schema private;
             create table private.plans (region text, plan text); insert into private.plans values ('eu', 'gold');
             alter schema private owner to owner_of_calls; alter table private.plans owner to owner_of_calls;
             alter table public.calls owner to owner_of_calls;
             set local check_function_bodies = off;
             create function private.to_event(public.calls) returns jsonb language sql as $$
                 select jsonb_build_object('transaction_id', $1.id::text, 'external_subscription_id', p.plan, 'code', current_user::text, 'timestamp', 0)
                   from plans p where p.region = $1.region $$;
             alter function private.to_event(public.calls) owner to owner_of_calls;
             revoke execute on function private.to_event(public.calls) from public;
             create role writer; grant insert on public.calls to writer");
        run(
            "select lago_push.create_sync('mapped', 'public.calls', mapper => 'private.to_event(public.calls)');
             select lago_push.activate('mapped')",
        );
        run("set local role writer");
        run(INSERT);
        assert_eq!(text("select current_user::text"), "writer", "its rights are its own again");
        let [denied, ..] = stage::failure("select * from private.plans");
        assert_eq!(denied, "42501");
        run("insert into public.calls (id, region) values (2, 'nowhere')");
        run("reset role");
        // No plan, no payload: as if the function had returned null.
        assert_eq!(reasons(), NOTHING);
        assert_eq!(
            stage::payloads(),
            [
                r#"{"code": "owner_of_calls", "timestamp": 0, "transaction_id": "1", "external_subscription_id": "gold"}"#
            ]
        );
    }

    #[pg_test]
    fn a_mapper_that_fails_gives_the_writer_its_own_rights_back() {
        stage::set();
        define_body("begin perform 1 / (call.id - call.id); return null; end");
        activate("public.calls", "");
        run("create role writer; grant insert on public.calls to writer; set local role writer");
        run(INSERT);
        assert_eq!(text("select current_user::text"), "writer");
        let [denied, ..] = stage::failure("select * from public.calls");
        assert_eq!(denied, "42501");
        run("reset role");
        assert_eq!(reasons(), ["the mapper failed with SQLSTATE 22012"]);
    }

    #[pg_test]
    fn a_mapper_cannot_become_another_role() {
        stage::set();
        run("create role owner_of_calls; alter table public.calls owner to owner_of_calls");
        define_body(&format!("begin execute 'reset role'; execute 'set role none'; {GOOD} end"));
        activate("public.calls", "");
        run(INSERT);
        assert_eq!(reasons(), ["the mapper failed with SQLSTATE 42501"]);
    }

    #[pg_test]
    fn the_writers_search_path_does_not_change_the_payload() {
        stage::set();
        run("create table public.plans (plan text); insert into public.plans values ('gold');
             create function public.loud(text) returns text language sql as 'select upper($1)'");
        define(
            "public.calls",
            "jsonb_build_array((select plan from plans), loud($1.region), lower('X'), 'a' || 'b', current_setting('search_path'))",
        );
        activate("public.calls", "");
        run(INSERT);
        run("create schema evil;
             create table evil.plans (plan text); insert into evil.plans values ('free');
             create table pg_temp.plans (plan text); insert into pg_temp.plans values ('free');
             create function evil.loud(text) returns text language sql as $$ select 'evil'::text $$;
             create function evil.lower(text) returns text language sql as $$ select 'evil'::text $$;
             create function evil.join(text, text) returns text language sql as $$ select 'evil'::text $$;
             create operator evil.|| (leftarg = text, rightarg = text, function = evil.join)");
        run("set local search_path = pg_temp, evil, public, pg_catalog");
        run("insert into public.calls (id, region) values (2, 'eu')");
        let mine = text("select pg_catalog.current_setting('search_path')");
        run("set local search_path = pg_catalog");
        assert_eq!(mine, "pg_temp, evil, public, pg_catalog");
        let made = r#"["gold", "EU", "x", "ab", "pg_catalog, public, pg_temp"]"#;
        assert_eq!(properties("v"), [made, made]);
    }

    #[pg_test]
    fn a_mapper_that_is_replaced_is_followed() {
        stage::set();
        define("public.calls", "1");
        activate("public.calls", "");
        run("insert into public.calls (id) values (1)");
        define("public.calls", "2");
        run("insert into public.calls (id) values (2)");
        run(
            "create or replace function public.to_event(public.calls) returns jsonb language plpgsql as 'begin return null; end'",
        );
        run("insert into public.calls (id) values (3)");
        define("public.calls", "4");
        run("insert into public.calls (id) values (4)");
        assert_eq!(properties("v"), ["1", "2", "4"]);
    }

    #[pg_test]
    fn a_mapper_that_is_dropped_or_renamed_breaks_no_write() {
        stage::set();
        define("public.calls", "1");
        activate("public.calls", "");
        run("insert into public.calls (id) values (1)");
        run("alter function public.to_event(public.calls) rename to to_thing");
        run("insert into public.calls (id) values (2)");
        run("drop function public.to_thing(public.calls)");
        run("insert into public.calls (id) values (3)");
        // As a session sees it that never knew the function.
        run("alter table public.calls add more int");
        run("insert into public.calls (id) values (4)");
        let reasons = reasons();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert_eq!(reasons[2], "mapper public.to_event(public.calls) does not exist (any more)");
        for reason in &reasons[..2] {
            assert!(
                reason.starts_with("mapper public.to_event(public.calls) ")
                    || reason == "the mapper failed with SQLSTATE 42883",
                "{reason}"
            );
        }
        assert_eq!(properties("v"), ["1"]);
        define("public.calls", "5");
        run("insert into public.calls (id) values (5)");
        assert_eq!(properties("v"), ["1", "5"], "it is back");
        assert_eq!(text("select lago_push.redrive('mapped')::text"), "3");
        assert_eq!(properties("v"), ["1", "5", "5", "5", "5"]);
    }

    #[pg_test]
    fn a_renamed_table_breaks_no_write_and_its_mapper_is_given_anew() {
        stage::set();
        define("public.calls", "$1.bytes");
        activate("public.calls", "");
        run("alter table public.calls rename to usage");
        run("insert into public.usage (id, bytes) values (1, 10)");
        assert_eq!(text("select count(*)::text from public.usage"), "1");
        if let Some(reason) = reasons().first() {
            // The function is known by its arguments' types, and the type is called like the table.
            assert_eq!(reason, "mapper public.to_event(public.calls) does not exist (any more)");
            run("select lago_push.alter_sync('mapped', mapper => 'public.to_event(public.usage)')");
            assert_eq!(text("select lago_push.redrive('mapped')::text"), "1");
        }
        assert_eq!(properties("v"), ["10"]);
    }

    #[pg_test]
    fn rows_of_partitions_are_mapped_as_rows_of_their_table() {
        stage::set();
        run("create table public.parted (id int, gone int, region text, bytes numeric) partition by list (region);
             alter table public.parted drop gone;
             create table public.parted_eu partition of public.parted for values in ('eu');
             create table public.parted_us (bytes numeric, junk text, region text, also_gone int, id int);
             alter table public.parted_us drop junk, drop also_gone;
             alter table public.parted attach partition public.parted_us for values in ('us')");
        define(
            "public.parted, public.parted, text",
            "jsonb_build_array($3, $1.id, $1.region, $1.bytes, $2.bytes)",
        );
        run("select lago_push.create_sync('mapped', 'public.parted', operations => '{insert,update,delete}',
                                          mapper => 'public.to_event(public.parted, public.parted, text)');
             select lago_push.activate('mapped')");
        run("insert into public.parted (id, region, bytes) values (1, 'eu', 10), (2, 'us', 20);
             insert into public.parted_us (id, region, bytes) values (3, 'us', 30);
             update public.parted set bytes = bytes + 1 where id < 3;
             delete from public.parted where id = 3");
        assert_eq!(reasons(), NOTHING);
        assert_eq!(
            properties("v"),
            [
                r#"["insert", 1, "eu", 10, null]"#,
                r#"["insert", 2, "us", 20, null]"#,
                r#"["insert", 3, "us", 30, null]"#,
                r#"["update", 1, "eu", 11, 10]"#,
                r#"["update", 2, "us", 21, 20]"#,
                r#"["delete", 3, "us", 30, 30]"#,
            ]
        );
    }

    #[pg_test]
    fn a_mapper_may_write_rows_that_are_captured_themselves() {
        stage::set();
        run("create table public.audit (id bigint)");
        run(
            r#"select lago_push.create_sync('audit', 'public.audit', $t${"transaction_id": "audit-{{ row.id }}", "external_subscription_id": "s", "code": "audit", "timestamp": 0}$t$);
               select lago_push.activate('audit')"#,
        );
        define_body(&format!(
            "begin
                 insert into public.audit values (call.id);
                 if call.id = 2 then raise exception 'no'; end if;
                 {GOOD}
             end"
        ));
        activate("public.calls", "");
        run("insert into public.calls (id) values (1), (2), (3)");
        stage::reach_the_end();
        assert_eq!(
            texts(
                "select o.sync || ' ' || (o.payload::json ->> 'transaction_id') from lago_push.outbox o order by o.id"
            ),
            ["audit audit-1", "mapped t", "audit audit-3", "mapped t"]
        );
        assert_eq!(reasons(), ["the mapper failed with SQLSTATE P0001"]);
    }

    #[pg_test]
    fn a_mapper_that_writes_to_its_own_table_for_ever_breaks_no_write() {
        stage::set();
        run("alter table public.calls drop constraint calls_pkey");
        define_body(&format!("begin insert into public.calls (id) values (call.id + 1); {GOOD} end"));
        activate("public.calls", "");
        run("set local max_stack_depth = '500kB'");
        run(INSERT);
        assert!(reasons().contains(&"the mapper failed with SQLSTATE 54001".to_owned()));
    }

    #[pg_test]
    fn a_mapper_does_not_see_what_is_excluded() {
        stage::set();
        define(
            "public.calls, public.calls",
            "jsonb_build_array($1.region, $1.bytes, $2.region, to_jsonb($1) -> 'subscription')",
        );
        activate(
            "public.calls, public.calls",
            ", exclude => '{region,subscription}', operations => '{insert,update}'",
        );
        run(INSERT);
        run("update public.calls set bytes = 11");
        assert_eq!(properties("v"), ["[null, 10, null, null]", "[null, 11, null, null]"]);
    }

    #[pg_test]
    fn a_mapper_follows_the_columns_of_its_table() {
        stage::set();
        define("public.calls", "to_jsonb($1) - 'created_at'");
        activate("public.calls", "");
        run("insert into public.calls (id, region) values (1, 'eu')");
        run("alter table public.calls drop region, add added int default 7");
        run("insert into public.calls (id) values (2)");
        assert_eq!(
            properties("v"),
            [
                r#"{"id": 1, "bytes": null, "region": "eu", "subscription": null}"#,
                r#"{"id": 2, "added": 7, "bytes": null, "subscription": null}"#
            ]
        );
    }

    #[pg_test]
    fn a_mapper_fills_the_path_of_its_endpoint() {
        stage::set();
        define_body(
            "begin return jsonb_build_object('external_id', call.subscription, 'name', call.region); end",
        );
        activate("public.calls", ", endpoint => 'subscription_update'");
        run(
            "insert into public.calls (id, subscription, region) values (1, 'a/b', 'eu'), (2, '..', 'eu'), (3, null, 'eu')",
        );
        assert_eq!(stage::paths(), ["/subscriptions/a%2Fb"]);
        assert_eq!(stage::payloads(), [r#"{"name":"eu"}"#]);
        assert_eq!(reasons().len(), 2);
        assert!(reasons().iter().all(|reason| reason.contains("\"external_id\"")), "{:?}", reasons());
    }
}
