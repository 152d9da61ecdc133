//! Rows that cannot be rendered: the write goes through and the row is kept, or the sync raises.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, activate, activate_for_value, reasons, refuses, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    /// The one column `v` of a table is an event's timestamp; which of the values die, and why.
    fn timestamps(column_type: &str, values: &str) -> (Vec<String>, Vec<String>) {
        run(&format!("create table public.times (v {column_type})"));
        run(
            r#"select lago_push.create_sync('times', 'public.times', $t${"transaction_id": "t-{{ row.v }}", "external_subscription_id": "s", "code": "c", "timestamp": {{ row.v }}}$t$);
               select lago_push.activate('times')"#,
        );
        run(&format!("insert into public.times select v::{column_type} from unnest('{values}'::text[]) v"));
        stage::reach_the_end();
        (texts("select payload::json ->> 'timestamp' from lago_push.message order by id"), reasons())
    }

    #[pg_test]
    fn a_row_without_a_subscription_is_kept_with_its_reason() {
        stage::set();
        activate("calls", "");
        run("insert into public.calls values (1, null, 10.50, 'eu', '2024-03-14 13:09:00+00')");
        run("insert into public.calls values (2, '', 10, 'eu', 'epoch')");
        assert_eq!(
            reasons(),
            [
                "column \"subscription\" is null, and \"external_subscription_id\" needs a value",
                "column \"subscription\" is empty, and \"external_subscription_id\" needs a value"
            ]
        );
        assert_eq!(text("select count(*)::text from public.calls"), "2");
        assert_eq!(stage::payloads(), NOTHING);
        assert_eq!(
            text("select concat_ws('|', sync, operation, payload, reply_status, reply, attempts, died_at between now() and clock_timestamp(), source_row - 'created_at')
                    from lago_push.dead_letters order by id limit 1"),
            r#"calls|insert|0|t|{"id": 1, "bytes": 10.50, "region": "eu", "subscription": null}"#
        );
        assert_eq!(
            text(
                "select ((source_row ->> 'created_at')::timestamptz = '2024-03-14 13:09:00+00')::text from lago_push.dead_letters order by id limit 1"
            ),
            "true"
        );
        assert_eq!(
            text(
                "select concat_ws(' ', pending, dead, last_error, last_error_at between now() and clock_timestamp()) from lago_push.status"
            ),
            "0 2 column \"subscription\" is empty, and \"external_subscription_id\" needs a value t"
        );
    }

    #[pg_test]
    fn a_row_without_a_key_or_time_is_kept() {
        stage::set();
        run("alter table public.calls drop constraint calls_pkey, alter id drop not null");
        activate("calls", "");
        run("insert into public.calls values (null, 'acme', 1, 'eu', 'epoch'), (1, 'acme', 1, 'eu', null)");
        assert_eq!(
            reasons(),
            [
                "column \"id\" is null, and \"transaction_id\" needs a value",
                "column \"created_at\" is null, and \"timestamp\" needs a value"
            ]
        );
    }

    #[pg_test]
    fn nulls_elsewhere_are_billed() {
        stage::set();
        activate("calls", "");
        run("insert into public.calls values (1, 'acme', null, null, 'epoch')");
        assert_eq!(reasons(), NOTHING);
        assert_eq!(
            text("select payload::json ->> 'properties' from lago_push.message"),
            r#"{"bytes":null,"region":""}"#
        );
    }

    #[pg_test]
    fn numbers_json_cannot_carry_are_kept() {
        stage::set();
        run("create table public.numbers (n numeric, f float8, r real)");
        activate_for_value("public.numbers", "[{{ row.n }}, {{ row.f }}, {{ row.r }}]", "");
        run(
            "insert into public.numbers values ('NaN', 0, 0), (0, 'NaN', 0), (0, '-Infinity', 0), (0, 0, 'Infinity'), (0, 0, 0)",
        );
        let reason =
            |column| format!("column \"{column}\" is infinite or not a number, which JSON cannot carry");
        assert_eq!(reasons(), [reason("n"), reason("f"), reason("f"), reason("r")]);
        assert_eq!(stage::captured_values(), ["[0,0,0]"]);
    }

    #[pg_test]
    fn numbers_json_cannot_carry_are_text_inside_a_string() {
        stage::set();
        run("create table public.numbers (n numeric, f float8)");
        activate_for_value("public.numbers", "\"{{ row.n }} {{ row.f }}\"", "");
        run("insert into public.numbers values ('NaN', '-Infinity')");
        assert_eq!(stage::captured_values(), ["\"NaN -Infinity\""]);
    }

    #[pg_test]
    fn moments_without_an_end_are_kept() {
        stage::set();
        let (billed, reasons) =
            timestamps("timestamptz", "{infinity,-infinity,epoch,1969-12-31 23:59:59.5+00}");
        assert_eq!(billed, ["0", "-0.500000"]);
        assert_eq!(reasons, vec!["column \"v\" is infinite or not a number, which JSON cannot carry"; 2]);
    }

    #[pg_test]
    fn dates_are_billed_at_midnight() {
        stage::set();
        let (billed, reasons) = timestamps("date", "{2024-03-14,infinity}");
        assert_eq!(billed, ["1710374400"]);
        assert_eq!(reasons, ["column \"v\" is infinite or not a number, which JSON cannot carry"]);
    }

    #[pg_test]
    fn moments_without_a_time_zone_are_billed_as_utc() {
        stage::set();
        run("set local timezone = 'Asia/Tokyo'");
        let (billed, reasons) = timestamps("timestamp", "{2024-03-14 13:09:00.000001}");
        assert_eq!((billed, reasons), (vec!["1710421740.000001".to_owned()], vec![]));
    }

    #[pg_test]
    fn milliseconds_are_kept_as_what_they_look_like() {
        stage::set();
        let (billed, reasons) = timestamps("bigint", "{1710421740,1710421740123}");
        assert_eq!(billed, ["1710421740"]);
        assert_eq!(reasons, ["column \"v\" is too large for Unix seconds: it looks like milliseconds"]);
    }

    #[pg_test]
    fn a_time_that_is_no_number_is_kept() {
        stage::set();
        let (billed, reasons) = timestamps("text", "{1710421740.5,2024-03-14T13:09:00Z,1.7e9,\"\",\" 1\"}");
        assert_eq!(billed, ["1710421740.5"]);
        assert_eq!(reasons, vec!["column \"v\" is not a time in Unix seconds"; 4]);
    }

    #[pg_test]
    fn a_column_that_is_gone_does_not_break_the_write() {
        stage::set();
        activate("calls", "");
        run("alter table public.calls rename region to area");
        run("insert into public.calls values (1, 'acme', 10, 'eu', 'epoch')");
        assert_eq!(reasons(), ["column \"region\" does not exist (any more)"]);
        assert_eq!(text("select source_row ->> 'area' from lago_push.dead_letters"), "eu");
        run("alter table public.calls rename area to region");
        run("insert into public.calls values (2, 'acme', 10, 'eu', 'epoch')");
        assert_eq!(stage::payloads().len(), 1);
    }

    #[pg_test]
    fn a_caught_error_is_known_by_its_sqlstate() {
        assert_eq!(crate::surface::sqlstate_of_a_division_by_zero().as_deref(), Some("22012"));
    }

    #[pg_test]
    fn a_type_that_cannot_be_written_does_not_break_the_write() {
        stage::set();
        run("create type public.odd as enum ('1', '2', '3');
             create function public.odd_to_json(public.odd) returns json language plpgsql as $$
             begin
                 if $1 = '2' then raise exception 'hush %', $1 using errcode = 'invalid_parameter_value'; end if;
                 return '\"fine\"';
             end $$;
             create cast (public.odd as json) with function public.odd_to_json(public.odd);
             create table public.odds (v public.odd)");
        activate_for_value("public.odds", "{{ row.v }}", "");
        run("insert into public.odds values ('1'), ('2'), ('3')");
        assert_eq!(stage::captured_values(), ["\"fine\"", "\"fine\""]);
        assert_eq!(
            reasons(),
            ["column \"v\" could not be converted: its type's function failed with SQLSTATE 22023"]
        );
        assert_eq!(text("select count(*)::text from public.odds"), "3");
        // The row as JSON fails by the same function.
        assert_eq!(text("select (source_row is null)::text from lago_push.dead_letters"), "true");
    }

    #[pg_test]
    fn a_trigger_of_no_sync_keeps_its_rows() {
        stage::set();
        run(
            "create trigger lost after insert or update or delete on public.calls for each row execute function lago_push.capture('no \"such\" sync')",
        );
        run(stage::INSERT);
        run("update public.calls set bytes = 11; delete from public.calls");
        let reason =
            "no sync is named \"no \"such\" sync\": the trigger's argument is wrong, or the sync was dropped";
        assert_eq!(reasons(), vec![reason; 3]);
        assert_eq!(
            texts(
                "select concat_ws('|', sync, operation, source_row ->> 'bytes') from lago_push.dead_letters order by id"
            ),
            ["no \"such\" sync|insert|10", "no \"such\" sync|update|11", "no \"such\" sync|delete|11"]
        );
    }

    #[pg_test]
    fn a_rolled_back_savepoint_takes_its_dead_letters_with_it() {
        stage::set();
        activate("calls", "");
        run("set local lago_push.capture_memory = '64kB'");
        run("do $$ begin
                 insert into public.calls (id) values (1);
                 begin
                     insert into public.calls (id, region) select n, repeat('x', 1000) from generate_series(100, 300) n;
                     assert exists (select from lago_push.dead_letter), 'nothing was written early';
                     raise exception 'no';
                 exception when raise_exception then end;
                 insert into public.calls (id) values (2);
             end $$");
        stage::reach_the_end();
        assert_eq!(texts("select source_row ->> 'id' from lago_push.dead_letters order by id"), ["1", "2"]);
    }

    #[pg_test]
    fn a_sync_that_raises_refuses_the_write_and_names_no_value() {
        stage::set();
        activate("calls", ", on_error => 'raise'");
        let hint = "Correct the row, or let such writes through: lago_push.alter_sync(…, on_error => 'dead_letter').";
        refuses(
            "insert into public.calls values (1, null, 10, 'hush', 'epoch')",
            [
                "22000",
                "sync \"calls\" cannot bill this row: column \"subscription\" is null, and \"external_subscription_id\" needs a value",
                "",
                hint,
            ],
        );
        run(stage::INSERT);
        assert_eq!(text("select count(*)::text from public.calls"), "1");
        assert_eq!((stage::payloads(), reasons()), (vec![stage::PAYLOAD.to_owned()], vec![]));
        run("alter table public.calls drop region");
        refuses(
            "insert into public.calls values (2, 'acme', 10, 'epoch')",
            [
                "22000",
                "sync \"calls\" cannot bill this row: column \"region\" does not exist (any more)",
                "",
                hint,
            ],
        );
    }

    #[pg_test]
    fn a_good_row_before_a_bad_one_of_a_refused_statement_is_not_billed() {
        stage::set();
        activate("calls", ", on_error => 'raise'");
        stage::failure(
            "insert into public.calls values (1, 'acme', 10, 'eu', 'epoch'), (2, null, 10, 'eu', 'epoch')",
        );
        assert_eq!((stage::payloads(), reasons()), (vec![], vec![]));
    }
}
