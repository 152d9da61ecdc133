//! Hijack: code of people without rights, run by people with rights. Whatever it is and whoever makes it run, it
//! runs with its author's rights, and leaves nothing behind that runs later with others'.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, failure, reasons, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    /// A trap counts how often it is sprung, and how often by a superuser. Sequences keep what is rolled back.
    const TRAP: &str = "
        create sequence public.sprung; create sequence public.sprung_by_superuser;
        grant usage on sequence public.sprung, public.sprung_by_superuser to public;
        create function public.trap() returns boolean language plpgsql volatile as $$
        begin
            perform pg_catalog.nextval('public.sprung');
            if (select r.rolsuper from pg_catalog.pg_roles r where r.rolname operator(pg_catalog.=) current_user) then
                perform pg_catalog.nextval('public.sprung_by_superuser');
            end if;
            return true;
        end $$";

    #[track_caller]
    fn sprung_harmlessly() {
        let count = |sequence: &str| {
            text(&format!(
                "select case when s.is_called then s.last_value else 0 end::text from public.{sequence} s"
            ))
        };
        assert_ne!(count("sprung"), "0", "the trap was sprung");
        assert_eq!(count("sprung_by_superuser"), "0", "by a superuser");
    }

    /// The superuser has set things up; the attacker owns a table and may make syncs of it.
    fn attacker(sql: &str) {
        stage::set();
        run(TRAP);
        run("create role attacker; select lago_push.grant_access('attacker', 'maker');
             grant usage, create on schema public to attacker; set local role attacker");
        run("create table public.bait (id int primary key, subscription text, at timestamptz)");
        run(sql);
    }

    fn sync(options: &str) -> String {
        format!(
            r#"select lago_push.create_sync('bait', 'public.bait', template => $t${{"transaction_id": "{{{{ row.id }}}}", "external_subscription_id": "{{{{ row.subscription }}}}", "code": "c", "timestamp": 0}}$t${options});"#
        )
    }

    const MAPPED: &str =
        "select lago_push.create_sync('bait', 'public.bait', mapper => 'public.to_event(public.bait)');";

    /// A mapper of the attacker's that does something on the way.
    fn mapper(doing: &str) -> String {
        format!(
            "create function public.to_event(public.bait) returns jsonb language plpgsql as $f$
             begin
                 {doing};
                 return jsonb_build_object('transaction_id', $1.id::text, 'external_subscription_id', $1.subscription, 'code', 'c', 'timestamp', 0);
             end $f$;"
        )
    }

    /// A dead letter of the attacker's sync that has its row and no payload.
    fn letter() {
        run("reset role");
        run("insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason, source_row)
             select 1, now(), now(), s.id, 0, 'i', 'bait', 'no', '{\"id\": 1, \"subscription\": \"s\", \"at\": null}' from lago_push.sync s where s.name = 'bait'");
    }

    #[pg_test]
    fn the_trap_notices_a_superuser() {
        attacker("");
        run("reset role; select public.trap()");
        assert_eq!(text("select last_value::text from public.sprung_by_superuser"), "1");
    }

    #[pg_test]
    fn a_domains_check_runs_as_the_tables_owner_when_a_superuser_redrives() {
        attacker(
            "create domain public.checked as text check (public.trap());
                  alter table public.bait alter subscription type public.checked",
        );
        run(&sync(""));
        letter();
        assert_eq!(text("select lago_push.redrive('bait')::text"), "1");
        sprung_harmlessly();
    }

    #[pg_test]
    fn a_mapper_runs_as_the_tables_owner_when_a_superuser_redrives() {
        attacker(&mapper("perform public.trap()"));
        run(MAPPED);
        letter();
        assert_eq!(text("select lago_push.redrive('bait')::text"), "1");
        sprung_harmlessly();
    }

    #[pg_test]
    fn a_filter_and_a_mapper_run_as_the_tables_owner_when_a_superuser_previews() {
        attacker(&mapper("perform public.trap()"));
        run("insert into public.bait values (1, 's', now())");
        run(&MAPPED.replace("bait)')", "bait)', filter => 'public.trap()')"));
        run("reset role");
        assert_eq!(texts("select operation from lago_push.preview('bait')"), ["insert"]);
        sprung_harmlessly();
    }

    #[pg_test]
    fn a_row_policy_runs_as_the_tables_owner_when_a_superuser_previews() {
        attacker(
            "insert into public.bait values (1, 's', now());
                  alter table public.bait enable row level security, force row level security;
                  create policy seen on public.bait using (public.trap())",
        );
        run(&sync(""));
        run("reset role");
        assert_eq!(texts("select operation from lago_push.preview('bait')"), ["insert"]);
        sprung_harmlessly();
    }

    const DEFERRED: &str = "create table public.later (n int);
        create function public.spring() returns trigger language plpgsql as 'begin perform public.trap(); return null; end';
        create constraint trigger later after insert on public.later deferrable initially deferred
            for each row execute function public.spring();";

    #[pg_test]
    fn what_a_mapper_would_have_run_at_commit_does_not_run_as_the_superuser_who_redrives() {
        attacker(&format!("{DEFERRED} {}", mapper("insert into public.later values (1)")));
        run(MAPPED);
        letter();
        assert_eq!(text("select lago_push.redrive('bait')::text"), "0");
        assert_eq!(reasons(), ["the mapper failed with SQLSTATE 42501"]);
        run("set constraints all immediate");
        assert_eq!(text("select is_called::text from public.sprung"), "false");
    }

    #[pg_test]
    fn what_a_mapper_runs_at_commit_is_its_owners_own_affair_when_the_owner_redrives() {
        attacker(&format!("{DEFERRED} {}", mapper("insert into public.later values (1)")));
        run(MAPPED);
        letter();
        run("set local role attacker");
        assert_eq!(text("select lago_push.redrive('bait')::text"), "1");
        run("set constraints all immediate; reset role");
        sprung_harmlessly();
    }

    /// Functions and operators that come before the server's own where `search_path` names their schema first.
    const POISON: &str = "
        create schema poison;
        grant usage on schema poison to public;
        create function poison.equal(bigint, bigint) returns boolean language plpgsql as 'begin return public.trap(); end';
        create function poison.equal(integer, integer) returns boolean language plpgsql as 'begin return public.trap(); end';
        create function poison.equal(text, text) returns boolean language plpgsql as 'begin return public.trap(); end';
        create operator poison.= (leftarg = bigint, rightarg = bigint, function = poison.equal);
        create operator poison.= (leftarg = integer, rightarg = integer, function = poison.equal);
        create operator poison.= (leftarg = text, rightarg = text, function = poison.equal);
        create operator poison.> (leftarg = bigint, rightarg = bigint, function = poison.equal);
        create function poison.convert_to(text, name) returns bytea language plpgsql as 'begin perform public.trap(); return '''' ; end';
        create function poison.nextval(regclass) returns bigint language plpgsql as 'begin perform public.trap(); return 1; end';
        create function poison.pg_has_role(oid, oid, text) returns boolean language plpgsql as 'begin return public.trap(); end';
        create function poison.has_function_privilege(oid, text, text) returns boolean language plpgsql as 'begin return public.trap(); end';
        create function poison.format(text, variadic \"any\") returns text language internal as 'text_format';
        create function public.poisoned() returns boolean language plpgsql as $$
        begin
            perform pg_catalog.nextval('public.sprung');
            perform pg_catalog.set_config('search_path', 'poison, pg_catalog', false);
            return true;
        end $$";

    #[pg_test]
    fn a_filter_that_sets_search_path_changes_nothing_for_what_runs_after_it() {
        attacker("");
        run(&sync(""));
        letter();
        // As somebody with the right to create schemas.
        run(POISON);
        run("set local role attacker");
        for call in ["redrive('bait', 'public.poisoned()')", "discard('bait', 'public.poisoned()')"] {
            assert_eq!(text(&format!("select lago_push.{call}::text")), "1", "{call}");
            assert_ne!(text("select pg_catalog.current_setting('search_path')"), "poison, pg_catalog");
            run("reset role; delete from lago_push.message");
            letter();
            run("set local role attacker");
        }
        run("reset role");
        sprung_harmlessly();
    }

    #[pg_test]
    fn a_mapper_that_sets_search_path_changes_nothing_for_what_runs_after_it() {
        attacker(&mapper("perform pg_catalog.set_config('search_path', 'poison, pg_catalog', false)"));
        run(MAPPED);
        run("select lago_push.activate('bait')");
        letter();
        run(POISON);
        let before = text("select current_setting('search_path')");
        run("insert into public.bait values (2, 's', now())");
        assert_eq!(text("select pg_catalog.current_setting('search_path')"), before);
        run("select lago_push.redrive('bait'); select * from lago_push.preview('bait')");
        assert_eq!(text("select pg_catalog.current_setting('search_path')"), before);
        assert_eq!(text("select is_called::text from public.sprung"), "false");
    }

    #[pg_test]
    fn a_session_that_reads_backslashes_its_own_way_does_not_change_what_is_checked() {
        stage::set();
        stage::activate("calls", "");
        run("set local standard_conforming_strings = off; set local escape_string_warning = off;
             set local array_nulls = off; set local transform_null_equals = on");
        let path = r"select lago_push.alter_sync('calls', endpoint => 'manual', path => E'/a\nb')";
        let [sqlstate, message, ..] = failure(path);
        assert_eq!((&*sqlstate, &*message), ("22023", "path holds what no path of Lago's API does"));
        run("select lago_push.alter_sync('calls', schedule => '*/5 * * * *')");
        run("select lago_push.drop_sync('calls')");
        assert_eq!(
            texts("select tgname::text from pg_trigger where tgrelid = 'public.calls'::regclass"),
            NOTHING,
            "the trigger was found"
        );
    }
}
