//! Syncs: what is refused, in which words, and the life of one from draft to drop.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, TEMPLATE, failure, refuses, run, text, texts};
    use pgrx::prelude::*;

    fn create(arguments: &str) -> String {
        format!("select lago_push.create_sync({arguments})")
    }

    /// A definition that is right but for `options`.
    fn create_with(options: &str) -> String {
        create(&format!("'calls', 'public.calls', '{TEMPLATE}', {options}"))
    }

    #[pg_test]
    fn a_sync_needs_a_name() {
        stage::set();
        for name in ["null", "''"] {
            refuses(
                &create(&format!("{name}, 'public.calls', '{TEMPLATE}'")),
                ["22023", "a sync needs a name", "", ""],
            );
        }
    }

    #[pg_test]
    fn a_sync_needs_a_source_and_a_template() {
        stage::set();
        refuses(
            &create(&format!("'calls', null, '{TEMPLATE}'")),
            [
                "22004",
                "sync \"calls\" needs a source",
                "",
                "Give the table: source => 'public.my_table'; or, for what is none, a query: query => 'select …', key => '{id}'.",
            ],
        );
        refuses(
            &create("'calls', 'public.calls', null"),
            [
                "22004",
                "sync \"calls\" needs a template",
                "",
                "select example from lago_push.endpoints shows one; lago_push.suggest_template() drafts one from the table's columns.",
            ],
        );
    }

    #[pg_test]
    fn a_sync_name_is_given_once() {
        stage::set();
        stage::draft("calls", "");
        run("create table public.other (like public.calls)");
        refuses(
            &create(&format!("'calls', 'public.other', '{TEMPLATE}', operations => '{{delete}}'")),
            [
                "42710",
                "sync \"calls\" already exists",
                "",
                "Change it with lago_push.alter_sync(), drop it with lago_push.drop_sync(), or choose another name.",
            ],
        );
    }

    #[pg_test]
    fn an_unknown_sync_is_refused_with_the_names_there_are() {
        stage::set();
        let calls =
            ["activate('cals')", "pause('cals')", "resume('cals')", "drop_sync('cals')", "flush('cals')"];
        for call in calls {
            refuses(
                &format!("select lago_push.{call}"),
                ["42704", "sync \"cals\" does not exist", "", "Create one with lago_push.create_sync()."],
            );
        }
        stage::draft("calls", "");
        stage::draft("More calls", "");
        for call in calls {
            refuses(
                &format!("select lago_push.{call}"),
                ["42704", "sync \"cals\" does not exist", "", "Syncs: \"More calls\", calls."],
            );
        }
        for call in ["activate(null)", "pause(null)", "resume(null)", "drop_sync(null)"] {
            refuses(
                &format!("select lago_push.{call}"),
                ["42704", "sync \"\" does not exist", "", "Syncs: \"More calls\", calls."],
            );
        }
    }

    #[pg_test]
    fn a_sync_with_no_destination_to_go_to_is_refused() {
        stage::set();
        run("select lago_push.drop_destination('lago')");
        refuses(
            &create_with("destination => null"),
            [
                "22023",
                "sync \"calls\" needs a destination",
                "There is none yet.",
                "Create one with lago_push.create_destination().",
            ],
        );
    }

    #[pg_test]
    fn a_sync_with_several_destinations_to_go_to_names_one() {
        stage::set();
        run("select lago_push.create_destination('Second One', 'https://lago.example/api/v1')");
        refuses(
            &create_with("destination => null"),
            [
                "22023",
                "sync \"calls\" needs a destination",
                "There are several: \"Second One\", lago.",
                "Name one: destination => '…'.",
            ],
        );
        stage::draft("calls", ", destination => 'Second One'");
        assert_eq!(text("select destination from lago_push.status"), "Second One");
    }

    #[pg_test]
    fn an_unknown_endpoint_is_refused_with_the_names_there_are() {
        stage::set();
        let names = texts("select name from lago_push.endpoints").join(", ");
        for endpoint in ["events", "Event", ""] {
            refuses(
                &create_with(&format!("endpoint => '{endpoint}'")),
                [
                    "22023",
                    &format!("endpoint \"{endpoint}\" is not known"),
                    "",
                    &format!(
                        "Endpoints: {names}; see lago_push.endpoints. Any other call of Lago: give path, and method and root if need be."
                    ),
                ],
            );
        }
        run(&create_with("endpoint => null"));
        assert_eq!(text("select endpoint from lago_push.sync"), "event");
    }

    #[pg_test]
    fn operations_that_are_none_are_refused() {
        stage::set();
        for operations in [
            "'{}'",
            "null",
            "'{null}'",
            "'{insert,null}'",
            "'{INSERT}'",
            "'{upsert}'",
            "'{insert,truncate}'",
            "'{\"\"}'",
        ] {
            refuses(
                &create_with(&format!("operations => {operations}")),
                [
                    "22023",
                    "operations must be some of insert, update, delete",
                    "",
                    "For example: operations => '{insert,update}'.",
                ],
            );
        }
    }

    #[pg_test]
    fn an_operation_named_twice_is_refused_or_taken_once() {
        stage::set();
        // What is accepted as a draft can be activated.
        run(&create_with("operations => '{insert,insert}'"));
        run("select lago_push.activate('calls')");
    }

    #[pg_test]
    fn columns_are_for_updates() {
        stage::set();
        for operations in ["{insert}", "{insert,delete}"] {
            refuses(
                &create_with(&format!("operations => '{operations}', columns => '{{bytes}}'")),
                [
                    "22023",
                    "columns is given, but the sync does not capture updates",
                    "",
                    "Add update to operations, or leave columns out.",
                ],
            );
        }
    }

    #[pg_test]
    fn columns_that_do_not_exist_are_refused() {
        stage::set();
        run("alter table public.calls add gone text; alter table public.calls drop gone");
        for (columns, unknown) in [
            ("{bytes,nothing}", "nothing"),
            ("{Bytes}", "Bytes"),
            ("{gone}", "gone"),
            ("{ctid}", "ctid"),
            ("{}", ""),
        ] {
            refuses(
                &create_with(&format!("operations => '{{update}}', columns => '{columns}'")),
                [
                    "42703",
                    &format!("column \"{unknown}\" of table public.calls does not exist"),
                    "",
                    "columns lists the columns whose update is captured.",
                ],
            );
        }
    }

    #[pg_test]
    fn a_column_that_is_null_is_refused() {
        stage::set();
        let [sqlstate, ..] = failure(&create_with("operations => '{update}', columns => '{bytes,null}'"));
        assert_eq!(sqlstate, "42703");
        let [sqlstate, ..] = failure(&create_with("operations => '{update}', columns => '{null}'"));
        assert_eq!(sqlstate, "42703");
    }

    #[pg_test]
    fn a_filter_with_a_mistake_is_refused_with_the_mistake() {
        stage::set();
        let refuses = |filter: &str, sqlstate: &str, message: &str| {
            let [code, said, ..] = failure(&create_with(&format!("filter => $f${filter}$f$")));
            assert_eq!((&*code, &*said), (sqlstate, message), "{filter}");
        };
        refuses("new.bytes >", "42601", "syntax error at end of input");
        refuses("new.nothing > 0", "42703", "column new.nothing does not exist");
        refuses("nothing > 0", "42703", "column \"nothing\" does not exist");
        refuses("new.bytes + 1", "42804", "argument of WHEN must be type boolean, not type numeric");
        refuses("no_such_function(new.bytes)", "42883", "function no_such_function(numeric) does not exist");
        refuses("row.bytes > 0", "42P01", "missing FROM-clause entry for table \"row\"");
        refuses("count(*) > 0", "42803", "aggregate functions are not allowed in trigger WHEN conditions");
    }

    #[pg_test]
    fn a_filter_with_a_subquery_is_refused_with_the_draft() {
        stage::set();
        for filter in ["exists (select)", "new.bytes > (select 1)"] {
            failure(&create_with(&format!("filter => '{filter}'")));
        }
    }

    #[pg_test]
    fn a_filter_that_asks_for_a_row_there_is_not_is_refused_with_the_draft() {
        stage::set();
        // An inserted row has no older version, a deleted one no newer.
        failure(&create_with("filter => 'old.bytes > 0'"));
        failure(&create_with("filter => 'new.bytes > 0', operations => '{delete}'"));
        failure(&create_with("filter => 'new.bytes > 0', operations => '{insert,delete}'"));
    }

    #[pg_test]
    fn a_filter_without_new_or_old_is_refused_with_the_draft() {
        stage::set();
        // Both name the same columns, so this is ambiguous; a trigger would not know it at all.
        failure(&create_with("filter => 'bytes > 0'"));
    }

    #[pg_test]
    fn a_filter_is_one_expression_and_nothing_after_it() {
        stage::set();
        for filter in [
            "true /*",
            "true) --",
            "true)",
            "true) limit 0; drop table public.calls; --",
            "true); select (true",
        ] {
            failure(&create_with(&format!("filter => '{filter}'")));
        }
    }

    #[pg_test]
    fn batch_sizes_lago_does_not_take_are_refused() {
        stage::set();
        for size in ["0", "101", "-1", "2147483647"] {
            refuses(
                &create_with(&format!("batch_size => {size}")),
                [
                    "22023",
                    "batch_size must be between 1 and 100",
                    "Lago takes at most 100 events in one request.",
                    "",
                ],
            );
        }
        for (number, size) in ["1", "100", "null"].into_iter().enumerate() {
            stage::draft(&format!("calls {number}"), &format!(", batch_size => {size}"));
        }
        assert_eq!(
            texts("select s.batch_size::text from lago_push.sync s order by s.name"),
            ["1", "100", "100"]
        );
    }

    #[pg_test]
    fn an_unknown_way_to_treat_errors_is_refused() {
        stage::set();
        for on_error in ["'ignore'", "null", "''"] {
            refuses(
                &create_with(&format!("on_error => {on_error}")),
                [
                    "22023",
                    "on_error must be dead_letter or raise",
                    "dead_letter lets the write go through and keeps the row; raise refuses the write.",
                    "",
                ],
            );
        }
    }

    #[pg_test]
    fn a_source_without_row_triggers_is_refused() {
        stage::set();
        run("create view public.a_view as select * from public.calls;
             create materialized view public.a_matview as select * from public.calls;
             create sequence public.a_sequence;
             create type public.a_type as (id integer)");
        for (source, may_be_queried) in [
            ("a_view", true),
            ("a_matview", true),
            ("a_sequence", false),
            ("a_type", false),
            ("calls_pkey", false),
        ] {
            let or_query = if may_be_queried {
                format!(
                    ", or have a query run on a schedule: query => 'table public.{source}', key => '{{…}}'."
                )
            } else {
                ".".into()
            };
            refuses(
                &create(&format!("'calls', 'public.{source}', '{TEMPLATE}'")),
                [
                    "42809",
                    &format!("\"public.{source}\" is not a table"),
                    "Rows are captured by a row trigger, which only tables and partitioned tables can have.",
                    &format!("Name the table the rows are written to{or_query}"),
                ],
            );
        }
    }

    #[pg_test]
    fn a_temporary_source_is_refused() {
        stage::set();
        run("create temporary table passing (like public.calls)");
        refuses(
            &create(&format!("'calls', 'pg_temp.passing', '{TEMPLATE}'")),
            [
                "42809",
                &format!("\"{}\" is a temporary table", text("select 'passing'::regclass::text")),
                "It is visible to one session only and gone when that ends.",
                "Use a permanent table.",
            ],
        );
    }

    #[pg_test]
    fn the_tables_of_the_server_and_of_lago_push_are_refused() {
        stage::set();
        for (source, shown, schema) in [
            ("pg_catalog.pg_class", "pg_class", "pg_catalog"),
            ("information_schema.sql_features", "information_schema.sql_features", "information_schema"),
            ("lago_push.message", "lago_push.message", "lago_push"),
            ("lago_push.api_key", "lago_push.api_key", "lago_push"),
        ] {
            refuses(
                &create(&format!("'calls', '{source}', '{TEMPLATE}'")),
                [
                    "42809",
                    &format!("\"{shown}\" cannot be a source"),
                    &format!("The tables in schema {schema} belong to the server or to lago_push."),
                    "",
                ],
            );
        }
    }

    #[pg_test]
    fn a_source_that_does_not_exist_is_refused() {
        stage::set();
        refuses(
            &create(&format!("'calls', 'public.nothing', '{TEMPLATE}'")),
            ["42P01", "relation \"public.nothing\" does not exist", "", ""],
        );
        refuses(
            &create(&format!("'calls', 4294967295::oid::regclass, '{TEMPLATE}'")),
            [
                "42P01",
                "the source table does not exist",
                "",
                "Give an existing table: source => 'public.my_table'.",
            ],
        );
    }

    fn state() -> String {
        text("select state from lago_push.status")
    }

    #[pg_test]
    fn a_sync_goes_from_draft_to_active_to_paused_and_back() {
        stage::set();
        stage::draft("calls", "");
        assert_eq!(state(), "draft");
        run("select lago_push.activate('calls')");
        assert_eq!(state(), "active");
        run("select lago_push.activate('calls')");
        run("select lago_push.resume('calls')");
        assert_eq!(state(), "active");
        run("select lago_push.pause('calls')");
        run("select lago_push.pause('calls')");
        assert_eq!(state(), "paused");
        run("select lago_push.resume('calls')");
        assert_eq!(state(), "active");
        assert_eq!(
            texts("select tgname::text from pg_trigger where tgrelid = 'public.calls'::regclass"),
            ["lago_push_calls"]
        );
    }

    #[pg_test]
    fn a_draft_is_neither_paused_nor_resumed() {
        stage::set();
        stage::draft("calls", "");
        refuses(
            "select lago_push.pause('calls')",
            [
                "55000",
                "sync \"calls\" is a draft",
                "",
                "It captures nothing yet; start it with lago_push.activate().",
            ],
        );
        refuses(
            "select lago_push.resume('calls')",
            ["55000", "sync \"calls\" is a draft", "", "Start it with lago_push.activate()."],
        );
    }

    #[pg_test]
    fn a_paused_sync_is_resumed_and_not_activated() {
        stage::set();
        stage::activate("calls", "");
        run("select lago_push.pause('calls')");
        refuses(
            "select lago_push.activate('calls')",
            ["55000", "sync \"calls\" is paused", "", "Start deliveries again with lago_push.resume()."],
        );
    }

    #[pg_test]
    fn a_draft_whose_table_has_changed_is_checked_again() {
        stage::set();
        stage::draft("calls", "");
        run("alter table public.calls rename region to area");
        let [sqlstate, message, ..] = failure("select lago_push.activate('calls')");
        assert_eq!(
            (&*sqlstate, &*message),
            ("42703", "template, line 6, column 55: table public.calls has no column \"region\"")
        );
        run("drop table public.calls");
        refuses(
            "select lago_push.activate('calls')",
            [
                "42P01",
                "the source table does not exist",
                "",
                "Give an existing table: source => 'public.my_table'.",
            ],
        );
        run("select lago_push.drop_sync('calls')");
    }

    #[pg_test]
    fn a_sync_with_messages_is_dropped_only_when_told_to() {
        stage::set();
        stage::activate("calls", "");
        run(stage::INSERT);
        run("insert into public.calls (id) values (2), (3)");
        stage::reach_the_end();
        let hint = "Wait for them with lago_push.flush('calls'), or give them up with lago_push.drop_sync('calls', discard => true).";
        let words = |detail| ["55000", "sync \"calls\" still has messages", detail, hint];
        refuses("select lago_push.drop_sync('calls')", words("1 pending, 2 dead letters."));
        refuses("select lago_push.drop_sync('calls', discard => null)", words("1 pending, 2 dead letters."));
        run("delete from lago_push.message");
        refuses("select lago_push.drop_sync('calls')", words("0 pending, 2 dead letters."));
        run("select lago_push.drop_sync('calls', discard => true)");
        assert_eq!(
            texts(
                "select 'message' from lago_push.message union all select 'letter' from lago_push.dead_letter union all
                 select 'sync' from lago_push.sync union all select 'account' from lago_push.account union all
                 select tgname::text from pg_trigger where tgrelid = 'public.calls'::regclass"
            ),
            <[String; 0]>::default()
        );
    }

    #[pg_test]
    fn rows_captured_in_the_same_transaction_keep_a_sync_from_being_dropped() {
        stage::set();
        stage::activate("calls", "");
        run(stage::INSERT);
        refuses(
            "select lago_push.drop_sync('calls')",
            [
                "55000",
                "sync \"calls\" cannot be dropped here",
                "A savepoint was set after this transaction captured rows, so they become messages later, and there would be no sync to deliver them.",
                "Commit first, or release the savepoint.",
            ],
        );
    }

    #[pg_test]
    fn rows_captured_in_the_same_transaction_are_discarded_with_their_sync() {
        stage::set();
        stage::activate("calls", "");
        run(stage::INSERT);
        run("select lago_push.drop_sync('calls', discard => true)");
        assert_eq!(stage::payloads(), <[String; 0]>::default());
    }

    #[pg_test]
    fn a_dropped_sync_leaves_the_triggers_of_others() {
        stage::set();
        stage::activate("calls", "");
        stage::activate("calls2", "");
        run(
            "create trigger by_hand after delete on public.calls for each row execute function lago_push.capture('calls')",
        );
        run("select lago_push.drop_sync('calls')");
        assert_eq!(
            texts("select tgname::text from pg_trigger where tgrelid = 'public.calls'::regclass"),
            ["lago_push_calls2"]
        );
    }

    #[pg_test]
    fn flush_does_not_wait_for_rows_of_its_own_transaction() {
        stage::set();
        stage::activate("calls", "");
        assert_eq!(text("select lago_push.flush()::text"), "true", "nothing is pending");
        run(stage::INSERT);
        for call in ["flush()", "flush('calls')", "flush('no such sync')"] {
            refuses(
                &format!("select lago_push.{call}"),
                [
                    "55000",
                    "lago_push.flush() is called in a transaction that has billable rows of its own",
                    "They are delivered after commit, so waiting for them here would wait for ever.",
                    "Commit first.",
                ],
            );
        }
    }

    #[pg_test]
    fn flush_gives_up_at_its_timeout() {
        stage::set();
        stage::draft("calls", "");
        stage::draft("others", "");
        run("insert into lago_push.message (id, enqueued_at, sync_id, operation, payload)
             select nextval('lago_push.message_id'), now(), s.id, 'i', '{}' from lago_push.sync s where s.name = 'calls'");
        assert_eq!(text("select lago_push.flush(timeout => '10 ms')::text"), "false");
        assert_eq!(text("select lago_push.flush('calls', '0')::text"), "false");
        assert_eq!(text("select lago_push.flush('others', '0')::text"), "true");
    }
}
