//! Queries in the place of tables: what a definition may be, with whose rights it is looked at, and what such a sync
//! has not. What its runs do is seen from outside, in tests/delivery/tests/runs.rs.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, event, failure, refuses, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];
    const IN_TRANSACTION: &str = "25001";
    const SYNTAX: &str = "42601";
    const UNSUPPORTED: &str = "0A000";
    const INVALID: &str = "22023";
    const NULL: &str = "22004";
    const STATE: &str = "55000";
    const NO_COLUMN: &str = "42703";
    const DENIED: &str = "42501";
    const READ_ONLY: &str = "25006";

    const ALL_ROWS: &str = "select * from public.calls";

    /// A call that makes a sync of a query, with further arguments, each after a comma.
    fn create(name: &str, query: &str, options: &str) -> String {
        let template = event("");
        format!(
            "select lago_push.create_sync('{name}', query => $q${query}$q$, template => $t${template}$t${options})"
        )
    }

    fn of(query: &str) -> String {
        create("wrong", query, ", key => '{id}'")
    }

    fn with(options: &str) -> String {
        create("wrong", ALL_ROWS, &format!(", key => '{{id}}', {options}"))
    }

    /// A table with a row, so that a query on it runs for a moment, and a sync of a query on it.
    fn set() {
        stage::set();
        run(stage::INSERT);
        run(&create("queried", ALL_ROWS, ", key => '{id}'"));
    }

    fn queries() -> Vec<String> {
        texts("select concat_ws(' ', s.name, s.query) from lago_push.sync s order by s.name")
    }

    #[pg_test]
    fn a_semicolon_at_the_end_is_left_out() {
        set();
        run(&of("select * from public.calls ;\n"));
        assert!(queries().contains(&"wrong select * from public.calls".to_owned()), "{:?}", queries());
    }

    #[pg_test]
    fn what_is_not_one_query_is_refused() {
        set();
        let not_one = [
            SYNTAX,
            "the query is not one SELECT",
            "It is run on a schedule, and may read only.",
            "Give one statement, without a semicolon: query => $$select id, amount from public.invoices$$.",
        ];
        for query in [
            "select 1 as id; select 2 as id",
            "insert into public.calls (id) values (2) returning id",
            "update public.calls set id = 3",
            "select * into public.copy from public.calls",
            "create table public.copy as select 1 as id",
            "-- nothing",
        ] {
            refuses(&of(query), not_one);
        }
        for (query, at) in [
            ("selec 1", "selec"),
            // What would close the brackets the query is put into.
            ("select 1 as id) q; select (1", ")"),
        ] {
            let [sqlstate, message, ..] = failure(&of(query));
            assert_eq!([sqlstate, message], [SYNTAX.into(), format!("syntax error at or near \"{at}\"")]);
        }
        // A comment at its end is no matter.
        run(&create("commented", "select * from public.calls -- all", ", key => '{id}'"));
    }

    #[pg_test]
    fn a_query_that_writes_is_refused_and_nothing_of_it_stays() {
        set();
        run("create table public.written (id bigint);
             create sequence public.drawn;
             create function public.write() returns bigint language sql as 'insert into public.written values (1) returning id';
             create function public.hide() returns bigint language plpgsql as $$
                 begin perform set_config('transaction_read_only', 'off', true); insert into public.written values (1); return 1; end $$;
             create function public.keep() returns bigint language plpgsql as $$
                 begin create temp table kept (); return 1; end $$");
        refuses(
            &of("with w as (insert into public.written values (1) returning id) select * from w"),
            [
                UNSUPPORTED,
                "WITH clause containing a data-modifying statement must be at the top level",
                "",
                "",
            ],
        );
        for (query, sqlstate, message) in [
            (
                "select id, public.write() from public.calls",
                READ_ONLY,
                "cannot execute INSERT in a read-only transaction",
            ),
            (
                "select id, public.hide() from public.calls",
                IN_TRANSACTION,
                "cannot set transaction read-write mode inside a read-only transaction",
            ),
            (
                "select id, nextval('public.drawn') from public.calls",
                READ_ONLY,
                "cannot execute nextval() in a read-only transaction",
            ),
            (
                "select id from public.calls for update",
                UNSUPPORTED,
                "SELECT FOR UPDATE is not allowed in a non-volatile function",
            ),
        ] {
            let [code, said, ..] = failure(&of(query));
            assert_eq!([code.as_str(), said.as_str()], [sqlstate, message], "{query}");
        }
        let [sqlstate, message, ..] = failure(&of("select id, public.keep() from public.calls"));
        assert_eq!(
            [sqlstate.as_str(), message.as_str()],
            [READ_ONLY, "cannot execute CREATE TABLE in a read-only transaction"]
        );
        assert_eq!(texts("select id::text from public.written"), NOTHING);
        assert_eq!(text("select is_called::text from public.drawn"), "false");
        assert_eq!(
            text("select current_setting('transaction_read_only')"),
            "off",
            "what the caller does next may write"
        );
    }

    #[pg_test]
    fn a_query_whose_function_begins_to_write_is_not_shown() {
        set();
        run("create table public.written (id bigint);
             create function public.price() returns bigint language sql as 'select 1::bigint'");
        run(&create("priced", "select *, public.price() from public.calls", ", key => '{id}'"));
        run(
            "create or replace function public.price() returns bigint language sql as 'insert into public.written values (1) returning id'",
        );
        let [sqlstate, ..] = failure("select * from lago_push.preview('priced')");
        assert_eq!(sqlstate, READ_ONLY);
        assert_eq!(texts("select id::text from public.written"), NOTHING);
    }

    #[pg_test]
    fn a_source_and_a_query_exclude_each_other() {
        set();
        refuses(
            &with("source => 'public.calls'"),
            [
                INVALID,
                "sync \"wrong\" has both a source and a query",
                "The rows of a table are captured when they are written; those of a query when it runs.",
                "Give one of them.",
            ],
        );
        refuses(
            "select lago_push.create_sync('wrong', template => '{}')",
            [
                NULL,
                "sync \"wrong\" needs a source",
                "",
                "Give the table: source => 'public.my_table'; or, for what is none, a query: query => 'select …', key => '{id}'.",
            ],
        );
        for option in ["key => '{id}'", "cursor => 'id'", "overlap => '1'", "time_limit => '1 s'"] {
            refuses(
                &format!(
                    "select lago_push.create_sync('wrong', 'public.calls', $t${}$t$, {option})",
                    stage::TEMPLATE
                ),
                [
                    INVALID,
                    "sync \"wrong\" has no query, and key, cursor, overlap and time_limit are of one",
                    "",
                    "Leave them out, or give a query in the place of the source.",
                ],
            );
        }
    }

    #[pg_test]
    fn a_query_has_neither_mapper_nor_filter() {
        set();
        run(
            "create function public.to_event(public.calls) returns jsonb language sql as 'select null::jsonb'",
        );
        refuses(
            "select lago_push.create_sync('wrong', query => 'select 1 as id', key => '{id}', mapper => 'public.to_event(public.calls)')",
            [
                UNSUPPORTED,
                "sync \"wrong\" has both a query and a mapper",
                "A mapper takes rows of a table.",
                "Compute in the query what the template is to send.",
            ],
        );
        refuses(
            &with("filter => 'new.id > 1'"),
            [
                UNSUPPORTED,
                "sync \"wrong\" has both a query and a filter",
                "A filter is the condition of a table's trigger.",
                "Write it into the query, after where.",
            ],
        );
        refuses(
            &with("operations => '{update}', unchanged => 'skip'"),
            [
                UNSUPPORTED,
                "sync \"wrong\" has a query, and unchanged is skip",
                "Of a query's row an update is sent only if a column has changed.",
                "Name the columns whose change counts: columns => '{amount}'.",
            ],
        );
    }

    #[pg_test]
    fn a_key_names_columns_of_the_query() {
        set();
        let none = [
            NULL,
            "sync \"wrong\" needs a key",
            "Runs tell by it which rows are new, changed or gone.",
            "Name the columns of the query that tell its rows apart: key => '{id}'.",
        ];
        for options in ["", ", key => null", ", key => '{}'", ", key => '{id,null}'"] {
            refuses(&create("wrong", ALL_ROWS, options), none);
        }
        refuses(
            &create("wrong", "select id, region from public.calls", ", key => '{id,regoin}'"),
            [NO_COLUMN, "column \"regoin\" of the key is none of the query", "", "Columns: id, region."],
        );
        refuses(
            &of("select id, bytes as id from public.calls"),
            [
                "42701",
                "the query has two columns \"id\"",
                "A template could not tell them apart.",
                "Give one of them another name: select …, b.id as other_id.",
            ],
        );
    }

    #[pg_test]
    fn what_the_template_and_the_lists_name_is_of_the_query() {
        set();
        refuses(
            &of("select id, subscription, created_at as at from public.calls"),
            [
                NO_COLUMN,
                "template, line 5, column 16: the query has no column \"created_at\"",
                "",
                "Columns: id, subscription, at.",
            ],
        );
        for list in ["columns", "exclude"] {
            refuses(
                &create(
                    "wrong",
                    "select id, subscription, created_at from public.calls",
                    &format!(", key => '{{id}}', operations => '{{insert,update}}', {list} => '{{bytes}}'"),
                ),
                [
                    NO_COLUMN,
                    "column \"bytes\" is none of the query",
                    "columns lists those whose change counts, exclude those the sync may not see.",
                    "Columns: id, subscription, created_at.",
                ],
            );
        }
        refuses(
            &with("columns => '{bytes}'"),
            [
                INVALID,
                "columns is given, but the sync does not capture updates",
                "",
                "Add update to operations, or leave columns out.",
            ],
        );
        let old = event(r#""properties": {"was": {{ old.bytes }}}"#);
        refuses(
            &format!(
                "select lago_push.create_sync('wrong', query => '{ALL_ROWS}', key => '{{id}}', template => $t${old}$t$)"
            ),
            [
                INVALID,
                "the template names old, but the sync captures inserts only",
                "An inserted row has no older version.",
                "Add update or delete to operations, or use row.",
            ],
        );
    }

    #[pg_test]
    fn a_cursor_is_a_column_that_can_only_grow() {
        set();
        refuses(
            &with("cursor => 'changed_at'"),
            [
                NO_COLUMN,
                "the cursor \"changed_at\" is no column of the query",
                "",
                "Columns: id, subscription, bytes, region, created_at.",
            ],
        );
        for (column, type_name) in [("region", "text"), ("bytes", "numeric")] {
            let message = format!("the cursor \"{column}\" is of type {type_name}");
            let said = failure(&with(&format!("cursor => '{column}'")));
            assert_eq!(
                said,
                [
                    "42804",
                    &message,
                    "A cursor is a column that only grows: a number, or a time.",
                    "Cast it in the query to bigint, date, timestamp or timestamptz.",
                ]
            );
        }
        refuses(
            &with("cursor => 'created_at', operations => '{insert,delete}'"),
            [
                INVALID,
                "sync \"wrong\" has a cursor and captures deletes",
                "With a cursor only new rows are read, so those that are gone are not missed.",
                "Leave one of them out.",
            ],
        );
        for column in
            ["id", "created_at", "created_at::date", "created_at::timestamp", "created_at::timestamptz(0)"]
        {
            let name = format!("by {column}");
            let query = format!("select *, {column} as place from public.calls");
            run(&create(&name, &query, ", key => '{id}', cursor => 'place'"));
        }
        assert_eq!(
            texts("select name || ': ' || overlap from lago_push.sync where cursor is not null order by id"),
            [
                "by id: 1000",
                "by created_at: 5 minutes",
                "by created_at::date: 5 minutes",
                "by created_at::timestamp: 5 minutes",
                "by created_at::timestamptz(0): 5 minutes"
            ]
        );
    }

    #[pg_test]
    fn an_overlap_is_a_stretch_of_its_cursor() {
        set();
        refuses(
            &with("overlap => '1 hour'"),
            [
                INVALID,
                "sync \"wrong\" has an overlap and no cursor",
                "",
                "Without a cursor all rows are read each time.",
            ],
        );
        let detail =
            "It says how far behind the highest value of before reading begins, for rows that came late.";
        for overlap in ["soon", "-5", "1 hour"] {
            refuses(
                &with(&format!("cursor => 'id', overlap => '{overlap}'")),
                [
                    INVALID,
                    "overlap is no stretch of a cursor of type bigint",
                    detail,
                    "Give a number: overlap => '1000'.",
                ],
            );
        }
        for overlap in ["soon", "-1 hour"] {
            refuses(
                &with(&format!("cursor => 'created_at', overlap => '{overlap}'")),
                [
                    INVALID,
                    "overlap is no stretch of a cursor of type timestamp with time zone",
                    detail,
                    "Give an interval: overlap => '1 hour'.",
                ],
            );
        }
    }

    #[pg_test]
    fn the_bounds_of_a_run_are_checked() {
        set();
        for share in ["1.5", "-0.1", "null", "'NaN'"] {
            refuses(
                &with(&format!("max_removed => {share}")),
                [
                    INVALID,
                    "max_removed must be between 0 and 1",
                    "It is the share of the rows that one run may take for removed; a run that finds more gone stops.",
                    "1 lets any number go.",
                ],
            );
        }
        for first_run in ["'all'", "null"] {
            refuses(
                &with(&format!("first_run => {first_run}")),
                [
                    INVALID,
                    "first_run must be send or remember",
                    "It says what becomes of the rows that are there at the first run: send captures them as new, remember takes them for known.",
                    "",
                ],
            );
        }
        for limit in ["0", "-1 s"] {
            refuses(
                &with(&format!("time_limit => '{limit}'")),
                [INVALID, "time_limit must be more than nothing", "", ""],
            );
        }
        let [sqlstate, message, ..] = failure(&with("schedule => 'at noon'"));
        assert_eq!(
            [sqlstate.as_str(), message.as_str()],
            [INVALID, "schedule is neither an interval nor five cron fields"]
        );
    }

    #[pg_test]
    fn a_query_reads_with_the_rights_of_whoever_makes_the_sync() {
        set();
        run("create role poor; select lago_push.grant_access('poor', 'maker');
             create role rich in role poor; grant select on public.calls to rich");
        run("set local role poor");
        let [sqlstate, message, ..] = failure(&of(ALL_ROWS));
        assert_eq!([sqlstate.as_str(), message.as_str()], [DENIED, "permission denied for table calls"]);
        run("set local role rich");
        run(&create("riches", ALL_ROWS, ", key => '{id}'"));
        assert_eq!(text("select count(*)::text from lago_push.preview('riches')"), "1");
        // What it could read then it may not read for ever.
        run("reset role; revoke select on public.calls from rich; set local role rich");
        let [sqlstate, message, ..] = failure("select * from lago_push.preview('riches')");
        assert_eq!([sqlstate.as_str(), message.as_str()], [DENIED, "permission denied for table calls"]);
        run("reset role");
    }

    #[pg_test]
    fn only_members_of_its_role_have_to_do_with_a_query() {
        set();
        run("create role billing; select lago_push.grant_access('billing', 'maker'); grant select on public.calls to billing;
             create role clerk in role billing;
             create role stranger; select lago_push.grant_access('stranger', 'maker'); grant select on public.calls to stranger;
             create role ops; select lago_push.grant_access('ops', 'operator')");
        run("set local role billing");
        run(&create("theirs", ALL_ROWS, ", key => '{id}'"));
        run("set local role stranger");
        for call in [
            "select lago_push.alter_sync('theirs', query => 'select 1 as id')",
            "select lago_push.activate('theirs')",
            "select lago_push.drop_sync('theirs')",
            "select lago_push.run_now('theirs')",
            "select lago_push.pause('theirs')",
            "select * from lago_push.preview('theirs')",
            "select * from lago_push.send_test('theirs')",
            "select lago_push.redrive('theirs')",
        ] {
            refuses(
                call,
                [
                    DENIED,
                    "must be a member of role \"billing\"",
                    "The query of sync \"theirs\" runs with the rights of that role.",
                    "",
                ],
            );
        }
        run("set local role clerk");
        run("select lago_push.alter_sync('theirs', query => 'select * from public.calls where id > 0')");
        assert_eq!(text("select count(*)::text from lago_push.preview('theirs')"), "1");
        run("select lago_push.activate('theirs'); select lago_push.run_now('theirs')");
        run("set local role ops");
        run(
            "select lago_push.run_now('theirs'); select lago_push.pause('theirs'); select lago_push.resume('theirs')",
        );
        let [sqlstate, ..] = failure("select * from lago_push.preview('theirs')");
        assert_eq!(sqlstate, DENIED, "an operator does not read what others query");
        run("reset role");
        // Whoever changes it, it runs as the role that made it.
        assert_eq!(text("select run_as::text from lago_push.sync where name = 'theirs'"), "billing");
    }

    #[pg_test]
    fn names_are_looked_up_where_the_maker_of_a_query_looks() {
        set();
        run("create schema shop; create table shop.orders as select 1 as id, 'acme' as subscription, now() as created_at;
             create schema trap; create table trap.orders as select 2 as id, 'evil' as subscription, now() as created_at");
        run("set local search_path = shop, public");
        run(&create("orders", "select * from orders", ", key => '{id}'"));
        let shown = || text("select body ->> 'external_subscription_id' from lago_push.preview('orders')");
        run("set local search_path = trap");
        assert_eq!(shown(), "acme");
        run("select lago_push.alter_sync('orders', batch_size => 10)");
        assert_eq!(shown(), "acme");
        // Only who gives the query anew says anew where its names are.
        run("select lago_push.alter_sync('orders', query => 'select * from orders')");
        run("set local search_path = shop");
        assert_eq!(shown(), "evil");
    }

    #[pg_test]
    fn what_a_query_gives_does_not_depend_on_the_session() {
        set();
        run(&create(
            "worded",
            "select c.*, to_char(created_at, 'HH24:MI') || ' ' || current_setting('TimeZone') as region2 from public.calls c",
            ", key => '{id}'",
        ));
        run("set local TimeZone = 'Asia/Tokyo'; set local DateStyle = 'German'");
        run(
            r#"select lago_push.alter_sync('worded', template => '{"transaction_id": "{{ row.id }}", "external_subscription_id": "{{ row.subscription }}",
              "code": "c", "timestamp": {{ row.created_at }}, "properties": {"at": "{{ row.region2 }}"}}')"#,
        );
        assert_eq!(
            text("select body -> 'properties' ->> 'at' from lago_push.preview('worded')"),
            "13:09 UTC"
        );
    }

    #[pg_test]
    fn a_preview_shows_the_ids_of_the_next_run() {
        set();
        let template = stage::event_without("transaction_id");
        run(&format!(
            "select lago_push.create_sync('made', query => '{ALL_ROWS}', key => '{{id,region}}', template => $t${template}$t$,
                 operations => '{{insert,update,delete}}')"
        ));
        let ids = || texts("select body ->> 'transaction_id' from lago_push.preview('made')");
        assert_eq!(ids(), ["made:insert:1:eu:1", "made:update:1:eu:1", "made:delete:1:eu:1"]);
        run(
            "update lago_push.memory set runs = 41 where sync_id = (select id from lago_push.sync where name = 'made')",
        );
        assert_eq!(ids()[0], "made:insert:1:eu:42");
    }

    #[pg_test]
    fn what_cannot_be_shown_or_sent_says_why() {
        set();
        run("delete from public.calls");
        assert_eq!(texts("select operation from lago_push.preview('queried')"), NOTHING);
        refuses(
            "select * from lago_push.send_test('queried')",
            [
                "P0002",
                "the query of sync \"queried\" gives no row to send",
                "",
                "Give a body: send_test(…, body => '{…}').",
            ],
        );
        run("insert into public.calls (id) values (1)");
        refuses(
            "select * from lago_push.send_test('queried')",
            [
                "22000",
                "sync \"queried\" cannot send the first row of its query",
                "this row becomes a dead letter: column \"subscription\" is null, and \"external_subscription_id\" needs a value",
                "lago_push.preview() shows more rows; correct the row or the sync, or give a body.",
            ],
        );
        run("alter table public.calls rename subscription to subscriber");
        for call in ["preview", "send_test"] {
            refuses(
                &format!("select * from lago_push.{call}('queried')"),
                [
                    STATE,
                    "sync \"queried\" cannot be applied to its source",
                    "column \"subscription\" does not exist (any more)",
                    "Mend it with lago_push.alter_sync().",
                ],
            );
        }
        refuses(
            "select lago_push.activate('queried')",
            [
                STATE,
                "the query of sync \"queried\" has other columns than when it was checked",
                "",
                "If that is meant, give it again: lago_push.alter_sync('queried', query => …).",
            ],
        );
    }

    #[pg_test]
    fn a_query_cannot_become_a_table_nor_a_table_a_query() {
        set();
        stage::draft("tabled", "");
        let detail = "What is captured at each write, and what at each run, is told apart by other ids.";
        let hint = "Make another sync, and drop this one.";
        refuses(
            "select lago_push.alter_sync('queried', source => 'public.calls')",
            [STATE, "sync \"queried\" has a query, which cannot become a source", detail, hint],
        );
        refuses(
            "select lago_push.alter_sync('tabled', query => 'select 1 as id')",
            [STATE, "sync \"tabled\" has a source, which cannot become a query", detail, hint],
        );
        let kept = queries();
        run("select lago_push.alter_sync('queried', query => '')");
        assert_eq!(queries(), kept, "a query cannot be taken away");
    }

    #[pg_test]
    fn a_key_by_which_rows_are_remembered_stays() {
        set();
        run("select lago_push.alter_sync('queried', key => '{id,region}')");
        run(
            "insert into lago_push.remembered (sync_id, key, digest) select id, '1:eu', gen_random_uuid() from lago_push.sync",
        );
        refuses(
            "select lago_push.alter_sync('queried', key => '{id}')",
            [
                STATE,
                "the key of sync \"queried\" cannot be changed",
                "Its runs remember rows by that key; by another one all of them would be gone, and as many new.",
                "Make another sync with first_run => 'remember', and drop this one.",
            ],
        );
        run("select lago_push.alter_sync('queried', key => '{id,region}')");
        refuses(
            "select lago_push.alter_sync('queried', query => 'select id, subscription, created_at from public.calls')",
            [
                NO_COLUMN,
                "column \"region\" of the key is none of the query",
                "",
                "Columns: id, subscription, created_at.",
            ],
        );
    }

    #[pg_test]
    fn another_cursor_begins_at_the_beginning() {
        set();
        run("select lago_push.alter_sync('queried', cursor => 'id', overlap => '7')");
        run("update lago_push.memory set high_water = '99'");
        let stands = || {
            text(
                "select concat_ws(' ', s.cursor, s.overlap, m.high_water) from lago_push.sync s join lago_push.memory m on m.sync_id = s.id",
            )
        };
        run("select lago_push.alter_sync('queried', batch_size => 10)");
        assert_eq!(stands(), "id 7 99");
        run("select lago_push.alter_sync('queried', cursor => 'created_at')");
        assert_eq!(stands(), "created_at 5 minutes");
        run("select lago_push.alter_sync('queried', cursor => '')");
        assert_eq!(stands(), "");
    }

    #[pg_test]
    fn a_dropped_sync_leaves_nothing_that_was_remembered() {
        set();
        run("insert into lago_push.remembered (sync_id, key, digest) select id, '1', gen_random_uuid() from lago_push.sync;
             insert into lago_push.run (sync_id) select id from lago_push.sync;
             select lago_push.activate('queried'); select lago_push.run_now('queried');
             select lago_push.drop_sync('queried')");
        let left = text(
            "select concat_ws(' ', (select count(*) from lago_push.remembered), (select count(*) from lago_push.memory),
                 (select count(*) from lago_push.run), (select count(*) from lago_push.run_request))",
        );
        assert_eq!(left, "0 0 0 0");
    }

    #[pg_test]
    fn only_a_query_that_was_started_can_be_run() {
        set();
        stage::activate("tabled", "");
        refuses(
            "select lago_push.run_now('queried')",
            [STATE, "sync \"queried\" is a draft", "", "Start it first: lago_push.activate('queried')."],
        );
        refuses(
            "select lago_push.run_now('tabled')",
            [
                STATE,
                "sync \"tabled\" has a source table, and no query to run",
                "Its rows are captured when they are written.",
                "",
            ],
        );
        run("select lago_push.activate('queried')");
        for removals in ["'all'", "null"] {
            refuses(
                &format!("select lago_push.run_now('queried', removals => {removals})"),
                [
                    INVALID,
                    "removals must be limit or accept",
                    "limit stops a run that finds more rows gone than max_removed allows; accept takes them for removed this once.",
                    "",
                ],
            );
        }
        run("select lago_push.run_now('queried'); select lago_push.run_now('queried', 'accept')");
        assert_eq!(
            texts("select removals from lago_push.run_request order by removals"),
            ["accepted", "limited"]
        );
    }

    #[pg_test]
    fn a_query_is_neither_backfilled_nor_reconciled() {
        set();
        run("select lago_push.activate('queried')");
        let refused = |what: &str| {
            [
                STATE.to_owned(),
                format!("sync \"queried\" has a query and no source table, so it cannot be {what}"),
                "All rows the query gives are captured by its runs, those that were there before too.".into(),
                "To run it now: select lago_push.run_now('queried').".into(),
            ]
        };
        assert_eq!(failure("select lago_push._backfill_open('queried', null, 1000)"), refused("backfilled"));
        assert_eq!(failure("select * from lago_push.reconcile('queried')"), refused("reconciled"));
    }

    #[pg_test]
    fn a_sync_of_a_query_has_no_trigger_and_shows_as_one() {
        set();
        run("select lago_push.activate('queried')");
        assert_eq!(
            text("select concat_ws(' ', source, state, capturing) from lago_push.status"),
            "query active t"
        );
        assert_eq!(
            text("select count(*)::text from pg_trigger where tgfoid = 'lago_push.capture()'::regprocedure"),
            "0"
        );
        run("insert into public.calls (id) values (2)");
        assert_eq!(stage::payloads(), NOTHING, "a write captures nothing");
    }
}
