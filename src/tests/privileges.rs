//! Privileges: what each kind of role can do, and what a hostile one cannot make others do.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, INSERT, PAYLOAD, TEMPLATE, failure, run, text, texts};
    use pgrx::prelude::*;

    const DENIED: &str = "42501";
    const VIEWS: [&str; 9] = [
        "status",
        "destinations",
        "workers",
        "endpoints",
        "ledger",
        "metrics",
        "outbox",
        "dead_letters",
        "replies",
    ];
    const TABLES: [&str; 11] = [
        "destination",
        "api_key",
        "destination_health",
        "destination_hold",
        "intervention",
        "sync",
        "account",
        "message",
        "retry",
        "dead_letter",
        "reply",
    ];

    /// What `work` does is done by a new role.
    fn by_a_new_role(name: &str, grants: &str, work: impl FnOnce()) {
        run(&format!("create role {name}; {}", grants.replace("ROLE", name)));
        run(&format!("set local role {name}"));
        work();
        run("reset role");
    }

    fn denied(statement: &str) {
        let [sqlstate, message, ..] = failure(statement);
        assert!(
            sqlstate == DENIED && message.starts_with("permission denied"),
            "{sqlstate} {message}: {statement}"
        );
    }

    #[pg_test]
    fn the_monitor_sees_how_it_goes_and_no_payload() {
        stage::set();
        stage::activate("calls", "");
        run(INSERT);
        stage::reach_the_end();
        by_a_new_role("watcher", "grant pg_monitor to ROLE", || {
            assert_eq!(text("select concat_ws(' ', sync, pending) from lago_push.status"), "calls 1");
            assert_eq!(
                text("select concat_ws(' ', name, url, state, in_flight) from lago_push.destinations"),
                "lago https://lago.example/api/v1 open 0"
            );
            assert_eq!(text("select name from lago_push.endpoints where batch > 1"), "event");
            texts("select database::text from lago_push.workers");
            assert_eq!(
                text("select concat_ws(' ', captured, pending, balanced) from lago_push.ledger"),
                "1 1 t"
            );
            assert_eq!(
                texts(
                    "select name || ' ' || value from lago_push.metrics where name in ('lago_push_pending', 'lago_push_balanced') order by 1"
                ),
                ["lago_push_balanced 1", "lago_push_pending 1"]
            );
            denied("select * from lago_push._figures");
            denied("select * from lago_push.recount()");
            for relation in ["outbox", "dead_letters", "replies"].iter().chain(&TABLES) {
                denied(&format!("select * from lago_push.{relation}"));
            }
            denied("select nextval('lago_push.message_id')");
            denied("select lago_push.hold('lago')");
            denied("select lago_push.flush()");
            denied("select lago_push._check_url('', true)");
            denied("select * from lago_push.preview('calls')");
            denied("select * from lago_push._rendered(1, 1)");
            denied("select * from lago_push.send_test('calls')");
            denied("select * from lago_push.reconcile('calls')");
            denied("select * from lago_push._reconciled(1, 0, 1, null, false, false)");
            denied("select lago_push.redrive('calls')");
            denied("select lago_push.discard('calls')");
            denied("select lago_push.correct(1, '{}')");
            denied("select lago_push.suggest_template('public.calls')");
        });
    }

    #[pg_test]
    fn a_role_that_may_insert_is_billed_and_sees_nothing() {
        stage::set();
        stage::activate("calls", "");
        by_a_new_role("writer", "grant insert on public.calls to ROLE", || {
            run(INSERT);
            run("insert into public.calls (id) values (2)");
            stage::reach_the_end();
            for relation in VIEWS.iter().chain(&TABLES) {
                denied(&format!("select * from lago_push.{relation}"));
            }
            for function in [
                "activate('calls')",
                "capture()",
                "flush()",
                "_caller()",
                "_execute_as_caller('select 1')",
                "_hide_statement('')",
                "_workers()",
            ] {
                denied(&format!("select lago_push.{function}"));
            }
            denied("select * from public.calls");
        });
        assert_eq!(stage::payloads(), [PAYLOAD]);
        assert_eq!(
            text("select reason from lago_push.dead_letters"),
            "column \"subscription\" is null, and \"external_subscription_id\" needs a value"
        );
    }

    #[pg_test]
    fn a_role_that_may_use_the_schema_is_still_refused_each_thing_in_it() {
        stage::set();
        by_a_new_role("visitor", "grant usage on schema lago_push to ROLE", || {
            for relation in VIEWS.iter().chain(&TABLES) {
                denied(&format!("select * from lago_push.{relation}"));
            }
        });
        let functions = texts(
            "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'lago_push'::regnamespace",
        );
        assert!(functions.len() > 20);
        for function in functions {
            assert_eq!(
                text(&format!("select has_function_privilege('visitor', '{function}', 'execute')::text")),
                "false",
                "{function}"
            );
        }
    }

    #[pg_test]
    fn a_reader_of_all_data_reads_no_key() {
        stage::set();
        by_a_new_role("reader", "grant pg_read_all_data to ROLE", || {
            assert_eq!(texts("select name from lago_push.destination"), ["lago"]);
            assert_eq!(texts("select api_key from lago_push.api_key"), <[String; 0]>::default());
        });
        assert_eq!(text("select api_key from lago_push.api_key"), "secret", "its owner does");
    }

    #[pg_test]
    fn a_writer_whom_row_security_blinds_is_billed() {
        stage::set();
        stage::activate("calls", "");
        run("alter table public.calls enable row level security, force row level security");
        by_a_new_role(
            "blind",
            "grant insert on public.calls to ROLE; create policy write on public.calls for insert to ROLE with check (true)",
            || run(INSERT),
        );
        assert_eq!(stage::payloads(), [PAYLOAD]);
    }

    const MAKER: &str = "select lago_push.grant_access('ROLE', 'maker');
        grant usage, create on schema public to ROLE";

    #[pg_test]
    fn a_table_is_billed_by_its_owner_only() {
        stage::set();
        let words = |table: &str| {
            [
                DENIED.to_owned(),
                format!("must be owner of table {table}"),
                "A sync sends what the table holds to another system, so only its owner may make or change one.".to_owned(),
                format!("Ask the owner, or a role that is a member of \"{}\".", text("select current_user::regrole::text")),
            ]
        };
        let words = words("public.calls");
        stage::draft("calls", "");
        run("select lago_push.create_destination('second', 'https://lago.example/api/v1')");
        by_a_new_role("maker", &format!("{MAKER}; grant all on public.calls to ROLE"), || {
            for call in [
                &format!("create_sync('mine', 'public.calls', '{TEMPLATE}', destination => 'lago')"),
                // Told that it may not before it is told what the columns are called.
                "create_sync('mine', 'public.calls', '{')",
                "create_sync('mine', 'public.calls', mapper => 'pg_catalog.to_jsonb(anyelement)', schedule => '1 hour')",
                "alter_sync('calls')",
                "alter_sync('calls', template => '{')",
                "preview('calls')",
                "send_test('calls')",
                "send_test('calls', '{}')",
                "reconcile('calls')",
                "reconcile('calls', resend => true)",
                "redrive('calls')",
                "redrive('calls', 'no expression (')",
                "discard('calls')",
                "discard('calls', 'no expression (')",
                "suggest_template('public.calls')",
                "activate('calls')",
                "pause('calls')",
                "resume('calls')",
                "drop_sync('calls')",
            ] {
                assert_eq!(failure(&format!("select lago_push.{call}")), words, "{call}");
            }
        });
    }

    #[pg_test]
    fn an_owner_with_execute_makes_uses_and_drops_a_sync() {
        stage::set();
        let needed = "grant usage on schema lago_push to ROLE; grant usage, create on schema public to ROLE;
            grant execute on function lago_push.create_sync, lago_push.alter_sync, lago_push.activate, lago_push.pause,
                                      lago_push.resume, lago_push.drop_sync, lago_push.capture, lago_push.preview,
                                      lago_push.send_test, lago_push.suggest_template, lago_push.redrive,
                                      lago_push.discard to ROLE";
        by_a_new_role("maker", needed, || {
            run("create table public.mine (id int, at timestamptz)");
            run(
                r#"select lago_push.create_sync('mine', 'public.mine', $t${"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": {{ row.at }}}$t$, filter => 'new.id > 0')"#,
            );
            run("select lago_push.activate('mine')");
            run("insert into public.mine values (0, 'epoch'), (1, 'epoch')");
            run("select lago_push.pause('mine'); select lago_push.resume('mine')");
            run("select lago_push.alter_sync('mine', batch_size => 5, filter => 'new.id > 1')");
            run("insert into public.mine values (1, 'epoch'), (2, 'epoch'), (3, null)");
            stage::reach_the_end();
            assert_eq!(texts("select operation from lago_push.preview('mine')"), ["insert"; 2]);
            texts("select lago_push.suggest_template('public.mine')");
            assert_eq!(text("select lago_push.redrive('mine')::text"), "0");
            assert_eq!(text("select lago_push.discard('mine')::text"), "1");
        });
        assert_eq!(stage::payloads().len(), 2);
        assert_eq!(
            text("select tgrelid::regclass::text from pg_trigger where tgname = 'lago_push_mine'"),
            "mine"
        );
        run("set local role maker; select lago_push.drop_sync('mine', discard => true); reset role");
        assert_eq!(texts("select name from lago_push.sync"), <[String; 0]>::default());
    }

    #[pg_test]
    fn a_member_of_the_owner_is_an_owner() {
        stage::set();
        run("create role owners; alter table public.calls owner to owners");
        by_a_new_role("member", &format!("{MAKER}; grant owners to ROLE"), || {
            stage::activate("calls", "");
            run("select lago_push.drop_sync('calls')");
        });
    }

    /// What a hostile role wrote is run with no more rights than its own.
    const WHO: &str = "create table public.ran_as (who text);
        grant insert on public.ran_as to public;
        create function public.note() returns void language plpgsql volatile as $$
        begin insert into public.ran_as values (current_user); end $$;
        -- Planning already calls a function that says it is immutable.
        create function public.who() returns boolean language plpgsql immutable as $$
        begin perform public.note(); return true; end $$";

    fn ran_as() -> Vec<String> {
        texts("select distinct who from public.ran_as")
    }

    #[pg_test]
    fn a_filter_is_tried_with_the_rights_of_who_wrote_it() {
        stage::set();
        run(WHO);
        by_a_new_role("maker", MAKER, || {
            run(
                "create table public.mine (id int, at timestamptz); insert into public.mine values (1, now())",
            );
            run(
                r#"select lago_push.create_sync('mine', 'public.mine', $t${"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": 0}$t$, filter => 'public.who()')"#,
            );
            // DETAIL is a backtrace here, if the server runs with RUST_BACKTRACE.
            let [sqlstate, message, ..] = failure(
                r#"select lago_push.create_sync('spy', 'public.mine', $t${"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": 0}$t$,
                       filter => 'exists (select from lago_push.api_key)')"#,
            );
            assert_eq!([&*sqlstate, &*message], ["0A000", "cannot use subquery in trigger WHEN condition"]);
        });
        // Trying a filter does not run it.
        assert_eq!(ran_as(), <[String; 0]>::default());
    }

    /// A role's function that runs with the role's rights and makes a sync of what it is given.
    fn make_wrapper() {
        stage::set();
        run(WHO);
        run("create table public.not_mine (id int)");
        by_a_new_role("maker", MAKER, || {
            run("create table public.mine (id int)");
            run(
                r#"create function public.wrapper(source regclass, filter text) returns void language sql security definer
                   set search_path = pg_catalog as $f$
                     select lago_push.create_sync(source::text, source, $t${"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": 0}$t$, filter => filter) $f$"#,
            );
        });
    }

    // A superuser who calls a function that runs with its owner's rights lends it none of their own.

    #[pg_test]
    fn a_wrapper_owned_by_another_bills_no_table_of_its_callers() {
        make_wrapper();
        let [sqlstate, message, ..] = failure("select public.wrapper('public.not_mine', null)");
        assert_eq!([&*sqlstate, &*message], [DENIED, "must be owner of table public.not_mine"]);
    }

    #[pg_test]
    fn a_wrapper_owned_by_another_runs_nothing_with_its_callers_rights() {
        make_wrapper();
        run("select public.wrapper('public.mine', 'public.who()')");
        // Trying a filter does not run it.
        assert_eq!(ran_as(), <[String; 0]>::default());
    }

    #[pg_test]
    fn a_function_of_an_index_runs_nothing_with_the_rights_of_who_maintains_the_table() {
        stage::set();
        run(WHO);
        by_a_new_role("maker", MAKER, || {
            run("create table public.mine (id int); insert into public.mine values (1)");
            run(r#"create function public.sneak(int) returns int language plpgsql immutable as $f$
                   begin
                       if current_setting('tests.sneak', true) = 'on' then
                           perform lago_push.create_sync('mine', 'public.mine', $t${"transaction_id": "{{ row.id }}", "external_subscription_id": "s", "code": "c", "timestamp": 0}$t$, filter => 'public.who()');
                       end if;
                       return $1;
                   end $f$"#);
            run("create index on public.mine (public.sneak(id))");
        });
        // Autovacuum does this, too, and as a superuser.
        run("set local tests.sneak = 'on'");
        run("analyze public.mine");
        // Trying a filter does not run it.
        assert_eq!(ran_as(), <[String; 0]>::default());
    }

    /// Everything a careless function might find in place of what it meant, each of which says so.
    const EVIL: &str = "
        create schema evil;
        create function evil.shout() returns boolean language plpgsql as $$ begin raise exception 'evil ran'; end $$;
        create function evil.equal(text, text) returns boolean language sql as 'select evil.shout()';
        create function evil.equal(integer, integer) returns boolean language sql as 'select evil.shout()';
        create function evil.equal(bigint, bigint) returns boolean language sql as 'select evil.shout()';
        create function evil.equal(oid, oid) returns boolean language sql as 'select evil.shout()';
        create function evil.equal(\"char\", \"char\") returns boolean language sql as 'select evil.shout()';
        create operator evil.= (leftarg = text, rightarg = text, function = evil.equal);
        create operator evil.= (leftarg = integer, rightarg = integer, function = evil.equal);
        create operator evil.= (leftarg = bigint, rightarg = bigint, function = evil.equal);
        create operator evil.= (leftarg = oid, rightarg = oid, function = evil.equal);
        create operator evil.= (leftarg = \"char\", rightarg = \"char\", function = evil.equal);
        create operator evil.<> (leftarg = text, rightarg = text, function = evil.equal);
        create function evil.join(text, text) returns text language sql as 'select evil.shout()::text';
        create operator evil.|| (leftarg = text, rightarg = text, function = evil.join);
        create function evil.quote_ident(text) returns text language sql as 'select evil.shout()::text';
        create function evil.format(text, text) returns text language sql as 'select evil.shout()::text';
        create function evil.rtrim(text, text) returns text language sql as 'select evil.shout()::text';
        create function evil.lower(text) returns text language sql as 'select evil.shout()::text';
        create function evil.jsonb_typeof(jsonb) returns text language sql as 'select evil.shout()::text';
        create function evil.convert_to(text, name) returns bytea language sql as 'select evil.shout()::text::bytea';
        create function evil.clock_timestamp() returns timestamptz language sql as 'select evil.shout()::text::timestamptz';
        create function evil.now() returns timestamptz language sql as 'select evil.shout()::text::timestamptz';
        create function evil.pg_has_role(oid, oid, text) returns boolean language sql as 'select true';
        create table evil.pg_class (oid oid, relkind \"char\", relpersistence \"char\", relowner oid, relnamespace oid);
        create table evil.pg_trigger (oid oid);
        create temporary table pg_class (oid oid, relkind \"char\", relpersistence \"char\", relowner oid, relnamespace oid);
        create temporary table pg_attribute (attrelid oid);
        create temporary table sync (id integer, name text)";

    #[pg_test]
    fn a_hostile_search_path_changes_nothing() {
        stage::set();
        run(EVIL);
        let refused = failure("select lago_push.drop_destination('nothing')");
        run("create function pg_temp.loud() returns text language plpgsql as $$
             begin perform 'a' operator(evil.=) 'b'; return 'silent'; exception when raise_exception then return sqlerrm; end $$");
        assert_eq!(text("select pg_temp.loud()"), "evil ran", "the trap works");
        run("set local search_path = pg_temp, evil, public, pg_catalog");
        run(
            "select lago_push.create_destination('second', 'https://lago.example/api/v1/', api_key => 'hush', headers => '{\"X-Tenant\": \"a\"}', proxy => 'http://proxy:3128')",
        );
        run("select lago_push.alter_destination('second', rate_limit => 5)");
        run("select lago_push.set_api_key('second', 'hush')");
        run("select lago_push.hold('second'); select lago_push.release('second')");
        run("select lago_push.drop_destination('second')");
        let options =
            ", operations => '{insert,update}', columns => '{bytes}', filter => 'new.region = ''eu'''";
        run(&format!("select lago_push.create_sync('calls', 'public.calls', '{TEMPLATE}'{options})"));
        run(
            "select lago_push.alter_sync('calls', schedule => '1 hour', headers => '{\"a\": \"b\"}', keep_replies => '1 day', exclude => '{}')",
        );
        run("select lago_push.alter_sync('calls', filter => 'new.region = ''eu'' and true')");
        run("select lago_push.activate('calls')");
        run("select lago_push.flush('calls')");
        run("select * from lago_push.preview('calls'); select lago_push.suggest_template('public.calls')");
        run(INSERT);
        run("select lago_push.redrive('calls'); select lago_push.redrive('calls', filter => 'id > 0')");
        run("select lago_push.discard('calls'); select lago_push.discard('calls', filter => 'id > 0')");
        run("select lago_push.pause('calls'); select lago_push.resume('calls')");
        run("set local search_path = pg_catalog");
        assert_eq!(failure("select lago_push.drop_destination('nothing')"), refused);
        assert_eq!(stage::payloads(), [PAYLOAD]);
        run("set local search_path = pg_temp, evil, public, pg_catalog");
        for view in VIEWS {
            run(&format!("select * from lago_push.{view}"));
        }
        run("select lago_push.drop_sync('calls', discard => true)");
        run("set local search_path = pg_catalog");
        assert_eq!(
            texts("select tgname::text from pg_catalog.pg_trigger where tgrelid = 'public.calls'::regclass"),
            <[String; 0]>::default()
        );
    }
}
