//! Alterations: a sync changed after it was made, and what that does to triggers and to messages.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{
        self, INSERT, PAYLOAD, activate, activate_for_value, event, properties, reasons, refuses, run, text,
        texts,
    };
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    fn alter(options: &str) {
        run(&format!("select lago_push.alter_sync('calls', {options})"));
    }

    /// One column of the sync's definition.
    fn stored(column: &str) -> String {
        text(&format!("select {column}::text from lago_push.sync where name = 'calls'"))
    }

    #[pg_test]
    fn every_parameter_is_changed_and_the_others_stay() {
        stage::set();
        run("create table public.others (like public.calls);
             create function public.map(public.others) returns jsonb language sql as 'select null::jsonb';
             select lago_push.create_destination('second', 'https://lago.example/api/v1')");
        run(&format!(
            "select lago_push.create_sync('calls', 'public.calls', $t${}$t$, destination => 'lago')",
            stage::TEMPLATE
        ));
        let all = "to_jsonb(s) - 'id' - 'name'";
        let whole = || {
            serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text(&format!(
                "select ({all})::text from lago_push.sync s where name = 'calls'"
            )))
            .expect("an object")
        };
        for (options, changed) in [
            ("source => 'public.others'", "source"),
            ("destination => 'second'", "destination_id"),
            ("operations => '{update,insert}'", "operations"),
            ("columns => '{bytes}'", "columns"),
            ("filter => 'new.bytes > 0'", "filter"),
            ("headers => '{\"X-Tenant\": \"a\"}'", "headers"),
            ("batch_size => 7", "batch_size"),
            ("schedule => '15 minutes'", "schedule"),
            ("keep_replies => '7 days'", "keep_replies"),
            ("on_error => 'raise'", "on_error"),
            ("unchanged => 'skip'", "unchanged"),
            ("exclude => '{}'", ""),
            (
                "template => '{\"external_id\": \"{{ row.id }}\"}', endpoint => 'customer'",
                "endpoint template",
            ),
            ("exclude => '{region}'", "exclude"),
            ("root => 'client'", "root"),
            ("path => '/clients'", "path"),
            ("method => 'put'", "method"),
            ("mapper => 'public.map(public.others)'", "mapper template"),
            ("template => '{\"external_id\": \"1\"}'", "mapper template"),
            ("columns => '{}'", "columns"),
            ("filter => ''", "filter"),
            ("exclude => '{}'", "exclude"),
            ("headers => '{}'", "headers"),
            ("schedule => ''", "schedule"),
            ("keep_replies => '0'", "keep_replies"),
            ("root => ''", "root"),
            ("path => ''", "path"),
            ("method => ''", "method"),
            ("unchanged => 'send'", "unchanged"),
            ("batch_size => null", ""),
        ] {
            let before = whole();
            alter(options);
            let after = whole();
            let mut differ: Vec<&str> = before
                .iter()
                .filter(|(key, value)| after.get(*key) != Some(*value))
                .map(|(key, _)| key.as_str())
                .collect();
            differ.sort_unstable();
            assert_eq!(differ.join(" "), changed, "{options}");
        }
        assert_eq!(
            text(
                "select concat_ws(' ', endpoint, method, path, root, headers, columns, exclude, filter, schedule, keep_replies, batch_size, on_error, unchanged) from lago_push.sync where name = 'calls'"
            ),
            "customer {} 7 raise send"
        );
    }

    #[pg_test]
    fn a_schedule_is_stored_in_one_form() {
        stage::set();
        stage::draft("calls", ", schedule => '1 hour 30 s'");
        assert_eq!(stored("schedule"), "every 3630 s");
        for (schedule, kept) in [
            ("every 5 minutes", "every 300 s"),
            ("*/5 * * * *", "*/5 * * * *"),
            ("  0 3 1 * * ", "0 3 1 * *"),
            ("366 days", "every 31622400 s"),
        ] {
            alter(&format!("schedule => '{schedule}'"));
            assert_eq!(stored("schedule"), kept, "{schedule}");
        }
        for schedule in
            ["0", "0.5 s", "-1 h", "367 days", "1 year", "60 * * * *", "* * * *", "* * * * * *", "infinity"]
        {
            let [sqlstate, message, ..] =
                stage::failure(&format!("select lago_push.alter_sync('calls', schedule => '{schedule}')"));
            assert_eq!(sqlstate, "22023", "{schedule}: {message}");
        }
    }

    #[pg_test]
    fn what_a_sync_cannot_do_without_is_not_taken_away() {
        stage::set();
        activate("calls", ", endpoint => 'manual', path => '/x'");
        for (options, sqlstate, message) in [
            ("operations => '{}'", "22023", "operations must be some of insert, update, delete"),
            ("operations => '{null}'", "22023", "operations must be some of insert, update, delete"),
            ("path => ''", "22023", "sync \"calls\" names no path"),
            ("endpoint => ''", "22023", "endpoint \"\" is not known"),
            ("on_error => ''", "22023", "on_error must be dead_letter or raise"),
            ("unchanged => ''", "22023", "unchanged must be send or skip"),
            ("batch_size => 0", "22023", "batch_size must be between 1 and 100"),
            ("destination => ''", "42704", "destination \"\" does not exist"),
        ] {
            let [code, said, ..] =
                stage::failure(&format!("select lago_push.alter_sync('calls', {options})"));
            assert_eq!((&*code, &*said), (sqlstate, message), "{options}");
        }
    }

    #[pg_test]
    fn altering_nothing_changes_nothing() {
        stage::set();
        activate("calls", ", filter => 'new.bytes > 0', exclude => '{}'");
        let before = text("select s::text from lago_push.sync s");
        run("select lago_push.alter_sync('calls')");
        assert_eq!(text("select s::text from lago_push.sync s"), before);
    }

    #[pg_test]
    fn messages_keep_the_bytes_they_were_captured_with() {
        stage::set();
        activate("calls", "");
        run(INSERT);
        stage::reach_the_end();
        let template = event(r#""code": "other""#);
        alter(&format!("template => $t${template}$t$"));
        run("insert into public.calls values (2, 'acme', 1, 'eu', 'epoch')");
        assert_eq!(
            stage::payloads(),
            [
                PAYLOAD,
                r#"{"code":"other","transaction_id":"call-2","external_subscription_id":"acme","timestamp":0}"#
            ]
        );
    }

    #[pg_test]
    fn a_change_that_is_rolled_back_was_none() {
        stage::set();
        activate_for_value("public.calls", "1", "");
        run("insert into public.calls (id) values (1)");
        run(r#"do $do$ begin
                 perform lago_push.alter_sync('values', template => '{"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": 0, "properties": {"v": 2}}');
                 insert into public.calls (id) values (2);
                 raise exception 'no';
             exception when raise_exception then end $do$"#);
        run("insert into public.calls (id) values (3)");
        assert_eq!(properties("v"), ["1", "1"]);
    }

    /// What pending messages were made for is not changed under them.
    fn is_refused_while_pending(options: &str) {
        refuses(
            &format!("select lago_push.alter_sync('calls', {options})"),
            [
                "55000",
                "sync \"calls\" has pending messages",
                "They were made for its present endpoint, method, path, root and destination.",
                "Wait for them with lago_push.flush('calls'), then change these.",
            ],
        );
    }

    #[pg_test]
    fn endpoint_method_path_root_and_destination_wait_for_pending_messages() {
        stage::set();
        activate("calls", ", destination => 'lago'");
        run("select lago_push.create_destination('second', 'https://lago.example/api/v1')");
        run(INSERT);
        let refused = [
            "endpoint => 'customer', template => '{\"external_id\": \"{{ row.id }}\"}'",
            "method => 'PUT'",
            "root => 'usage'",
            "destination => 'second'",
            "path => '/elsewhere'",
        ];
        for options in refused {
            is_refused_while_pending(options);
        }
        stage::reach_the_end();
        for options in refused {
            is_refused_while_pending(options);
        }
        alter(
            "batch_size => 1, on_error => 'raise', filter => 'new.bytes > 0', destination => 'lago', endpoint => 'event'",
        );
        run("delete from lago_push.message");
        alter("destination => 'second', root => 'usage', method => 'PUT'");
        run(INSERT.replace("(1,", "(2,").as_str());
        assert_eq!(stage::payloads().len(), 1);
    }

    fn triggers() -> Vec<String> {
        texts(
            "select t.oid || ' ' || pg_get_triggerdef(t.oid) from pg_trigger t where t.tgfoid = 'lago_push.capture()'::regprocedure order by t.tgname",
        )
    }

    #[pg_test]
    fn the_trigger_is_replaced_only_where_its_declaration_changes() {
        stage::set();
        run("create table public.others (like public.calls)");
        activate("calls", "");
        let mut before = triggers();
        for options in [
            "batch_size => 5",
            "template => '{\"external_id\": \"{{ row.id }}\"}', endpoint => 'customer'",
            "schedule => '1 min', keep_replies => '1 day', headers => '{\"a\": \"b\"}', on_error => 'raise'",
            "exclude => '{region}'",
            "operations => '{insert}'",
            "filter => ''",
            "source => 'public.calls'",
        ] {
            alter(options);
            assert_eq!(triggers(), before, "{options}");
        }
        for (options, declaration) in [
            (
                "filter => 'new.bytes > 0'",
                "AFTER INSERT ON public.calls FOR EACH ROW WHEN ((new.bytes > (0)::numeric))",
            ),
            ("operations => '{update,insert}'", "AFTER INSERT OR UPDATE ON public.calls"),
            ("columns => '{bytes,region}'", "AFTER INSERT OR UPDATE OF bytes, region ON public.calls"),
            ("columns => '{}', filter => ''", "AFTER INSERT OR UPDATE ON public.calls FOR EACH ROW EXECUTE"),
            ("source => 'public.others'", "AFTER INSERT OR UPDATE ON public.others FOR EACH ROW EXECUTE"),
        ] {
            alter(options);
            let after = triggers();
            assert_eq!(after.len(), 1, "{options}: {after:?}");
            assert!(after[0].contains(declaration), "{options}: {after:?}");
            assert_ne!(after, before, "{options}");
            before = after;
        }
    }

    #[pg_test]
    fn a_trigger_made_anew_fires_when_its_owner_said_it_should_on_every_partition() {
        stage::set();
        run("create table public.parted (id int, bytes int) partition by range (id);
             create table public.low partition of public.parted for values from (0) to (10)");
        activate_for_value("public.parted", "{{ row.bytes }}", "");
        for (said, kept) in
            [("enable always", "A"), ("enable replica", "R"), ("disable", "D"), ("enable", "O")]
        {
            run(&format!("alter table public.parted {said} trigger lago_push_values"));
            alter_values("filter => 'new.bytes > 0'");
            alter_values("filter => ''");
            run("create table public.high partition of public.parted for values from (10) to (20)");
            assert_eq!(fires("lago_push_values"), [kept; 3], "{said}");
            run("drop table public.high");
        }
    }

    #[pg_test]
    fn a_sync_that_moves_to_another_table_is_fired_there_as_before() {
        stage::set();
        run("create table public.others (like public.calls)");
        activate("calls", "");
        run("alter table public.calls enable always trigger lago_push_calls");
        alter("source => 'public.others'");
        assert_eq!(fires("lago_push_calls"), ["A"]);
        alter("filter => 'new.bytes > 0'");
        assert_eq!(fires("lago_push_calls"), ["A"]);
    }

    fn alter_values(options: &str) {
        run(&format!("select lago_push.alter_sync('values', {options})"));
    }

    /// When the triggers of a name fire, wherever they hang.
    fn fires(name: &str) -> Vec<String> {
        texts(&format!("select tgenabled::text from pg_trigger where tgname = '{name}'"))
    }

    #[pg_test]
    fn a_draft_has_no_trigger_whatever_is_altered() {
        stage::set();
        stage::draft("calls", "");
        alter("filter => 'new.bytes > 0', operations => '{insert,update}', columns => '{bytes}'");
        assert_eq!(triggers(), NOTHING);
        let [sqlstate, ..] = stage::failure("select lago_push.alter_sync('calls', filter => 'new.bytes >')");
        assert_eq!(sqlstate, "42601", "it is tried all the same");
    }

    #[pg_test]
    fn a_trigger_made_by_hand_is_left_alone() {
        stage::set();
        stage::draft("calls", "");
        run("create trigger by_hand after insert on public.calls for each row when (new.region = 'eu')
             execute function lago_push.capture('calls')");
        run("select lago_push.activate('calls')");
        let before = triggers();
        alter("filter => 'new.bytes > 0', operations => '{insert,update}'");
        assert_eq!(triggers(), before);
        run(INSERT);
        assert_eq!(stage::payloads(), [PAYLOAD]);
    }

    #[pg_test]
    fn a_paused_sync_captures_as_altered() {
        stage::set();
        activate_for_value("public.calls", "{{ row.id }}", "");
        run("select lago_push.pause('values')");
        run("select lago_push.alter_sync('values', filter => 'new.id > 1')");
        run("insert into public.calls (id) values (1), (2)");
        assert_eq!(properties("v"), ["2"]);
        assert_eq!(text("select state from lago_push.status"), "paused");
    }

    #[pg_test]
    fn only_the_owner_alters_and_its_own_table_only() {
        stage::set();
        stage::draft("calls", "");
        run("create role maker;
             grant usage on schema lago_push to maker; grant execute on all functions in schema lago_push to maker;
             create table public.mine (like public.calls); alter table public.mine owner to maker");
        let template = stage::TEMPLATE;
        run(&format!(
            "set local role maker; select lago_push.create_sync('mine', 'public.mine', $t${template}$t$); reset role"
        ));
        let denied = |sync: &str, options: &str| {
            let [sqlstate, message, ..] = stage::failure(&format!(
                "set local role maker; select lago_push.alter_sync('{sync}', {options})"
            ));
            assert_eq!(
                (&*sqlstate, &*message),
                ("42501", "must be owner of table public.calls"),
                "{sync}: {options}"
            );
        };
        denied("calls", "batch_size => 5");
        denied("calls", "source => 'public.mine'");
        denied("mine", "source => 'public.calls'");
        run("set local role maker; select lago_push.alter_sync('mine', batch_size => 5); reset role");
    }

    #[pg_test]
    fn a_renamed_column_costs_no_write_and_is_mended_by_alter_and_redrive() {
        stage::set();
        activate_for_value("public.calls", "\"{{ row.region }}\"", "");
        run("insert into public.calls (id, region) values (1, 'eu')");
        run("alter table public.calls rename region to area");
        run("insert into public.calls (id, area) values (2, 'us'), (3, 'jp')");
        assert_eq!(reasons(), ["column \"region\" does not exist (any more)"; 2]);
        assert_eq!(text("select count(*)::text from public.calls"), "3");
        assert_eq!(text("select lago_push.redrive('values')::text"), "0", "nothing has changed yet");
        run(
            r#"select lago_push.alter_sync('values', template => '{"transaction_id": "t-{{ op }}", "external_subscription_id": "s", "code": "c", "timestamp": 0, "properties": {"v": "{{ row.area }}"}}')"#,
        );
        assert_eq!(text("select lago_push.redrive('values')::text"), "2");
        assert_eq!(properties("v"), ["\"eu\"", "\"us\"", "\"jp\""]);
        assert_eq!(reasons(), NOTHING);
        run("insert into public.calls (id, area) values (4, 'br')");
        assert_eq!(properties("v").pop().as_deref(), Some("\"br\""));
    }

    #[pg_test]
    fn an_unknown_sync_is_not_altered() {
        stage::set();
        stage::draft("calls", "");
        for name in ["'cals'", "null"] {
            let [sqlstate, _, _, hint] =
                stage::failure(&format!("select lago_push.alter_sync({name}, batch_size => 5)"));
            assert_eq!((&*sqlstate, &*hint), ("42704", "Syncs: calls."), "{name}");
        }
    }
}
