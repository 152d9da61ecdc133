//! Roles: what grant_access() gives to each kind, and what operators may do without owning a table.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, failure, reasons, refuses, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    fn access(role: &str, kind: &str) {
        run(&format!("create role {role}; select lago_push.grant_access('{role}', '{kind}')"));
    }

    #[pg_test]
    fn an_operator_runs_syncs_of_tables_it_may_not_even_read() {
        stage::set();
        stage::activate("calls", "");
        run("create role owner_of_calls; alter table public.calls owner to owner_of_calls");
        run("insert into public.calls (id) values (1), (2), (3)");
        access("ops", "operator");
        run("set local role ops");
        run("select lago_push.hold('lago'); select lago_push.release('lago')");
        run("select lago_push.pause('calls'); select lago_push.resume('calls')");
        assert_eq!(
            texts("select source_row ->> 'id' from lago_push.dead_letters order by id"),
            ["1", "2", "3"]
        );
        assert_eq!(text("select lago_push.discard('calls', 'source_row ->> ''id'' = ''1''')::text"), "1");
        run(&format!(
            "select lago_push.correct((select min(id) from lago_push.dead_letters), $p${}$p$)",
            stage::PAYLOAD
        ));
        assert_eq!(text("select lago_push.redrive('calls')::text"), "1");
        assert_eq!(texts("select payload from lago_push.outbox"), [stage::PAYLOAD]);
        assert_eq!(
            reasons(),
            ["column \"subscription\" is null, and \"external_subscription_id\" needs a value"]
        );
        let [denied, ..] = failure("select * from public.calls");
        assert_eq!(denied, "42501");
        for call in [
            "alter_sync('calls')",
            "activate('calls')",
            "drop_sync('calls')",
            "preview('calls')",
            "send_test('calls')",
            "suggest_template('public.calls')",
            "set_api_key('lago', 'k')",
            "grant_access('ops', 'admin')",
        ] {
            let [sqlstate, message, ..] = failure(&format!("select lago_push.{call}"));
            assert_eq!(sqlstate, "42501", "{call}: {message}");
        }
        run("reset role");
        assert_eq!(
            texts("select by || ' ' || what from lago_push.intervention order by what"),
            ["ops discard", "ops redrive"]
        );
    }

    #[pg_test]
    fn a_row_is_rendered_again_for_an_operator_who_may_not_see_its_schema() {
        stage::set();
        run("create role owner_of_hidden; create schema hidden; grant usage on schema hidden to owner_of_hidden;
             create table hidden.calls (like public.calls); alter table hidden.calls owner to owner_of_hidden");
        run(&format!(
            "select lago_push.create_sync('hidden', 'hidden.calls', $t${}$t$); select lago_push.activate('hidden')",
            stage::TEMPLATE
        ));
        run("insert into hidden.calls values (1, null, 10, 'eu', '2024-03-14 13:09:00.123456+00')");
        stage::reach_the_end();
        run(
            "update lago_push.dead_letter set source_row = (source_row::jsonb || '{\"subscription\": \"acme\"}')::json",
        );
        access("ops", "operator");
        run("set local role ops");
        assert_eq!(text("select lago_push.redrive('hidden')::text"), "1");
        run("reset role");
        assert_eq!(reasons(), NOTHING);
        assert_eq!(stage::payloads(), [stage::PAYLOAD]);
    }

    #[pg_test]
    fn an_operator_discards_letters_of_no_sync() {
        stage::set();
        run("insert into lago_push.dead_letter (id, enqueued_at, died_at, attempts, operation, sync_name, reason)
             values (1, now(), now(), 0, 'i', 'nobody', 'no')");
        access("ops", "operator");
        run("set local role ops");
        assert_eq!(text("select lago_push.discard('nobody')::text"), "1");
        run("reset role");
    }

    #[pg_test]
    fn kinds_of_access_add_up_and_are_taken_away_together() {
        stage::set();
        let held = || {
            texts(
                "select distinct p.proname::text from pg_proc p cross join aclexplode(p.proacl) a
                  where p.pronamespace = 'lago_push'::regnamespace and a.grantee = to_regrole('clerk')
                    and p.proname in ('hold', 'create_sync', 'set_api_key', '_operate', '_workers') order by 1",
            )
        };
        access("clerk", "monitor");
        assert_eq!(held(), ["_workers"]);
        run("select lago_push.grant_access('clerk', 'maker')");
        assert_eq!(held(), ["_workers", "create_sync"]);
        run(
            "select lago_push.grant_access('clerk', 'operator'); select lago_push.grant_access('clerk', 'admin')",
        );
        assert_eq!(held(), ["_operate", "_workers", "create_sync", "hold", "set_api_key"]);
        run("select lago_push.revoke_access('clerk')");
        assert_eq!(held(), NOTHING);
        assert_eq!(
            text("select has_schema_privilege('clerk', 'lago_push', 'usage')::text"),
            "false",
            "nothing is left, so the role can be dropped"
        );
        run("drop role clerk");
    }

    #[pg_test]
    fn what_is_no_access_or_no_role_is_refused() {
        stage::set();
        run("create role clerk");
        refuses(
            "select lago_push.grant_access('clerk', 'root')",
            [
                "22023",
                "there is no access \"root\"",
                "maker makes syncs of its own tables, operator runs all syncs, admin has the destinations and their keys, monitor looks.",
                "For example: select lago_push.grant_access('billing_ops', 'operator').",
            ],
        );
        for call in
            ["grant_access('-', 'monitor')", "grant_access(null, 'monitor')", "revoke_access('4294967295')"]
        {
            refuses(
                &format!("select lago_push.{call}"),
                [
                    "22023",
                    "access is granted to a role",
                    "",
                    "Name one: lago_push.grant_access('billing_ops', 'operator'). PUBLIC is none.",
                ],
            );
        }
    }

    #[pg_test]
    fn a_role_with_an_odd_name_gets_access_like_any_other() {
        stage::set();
        run("create role \"Odd; role\"");
        run("select lago_push.grant_access('\"Odd; role\"', 'monitor')");
        assert_eq!(
            text("select has_table_privilege('Odd; role', 'lago_push.status', 'select')::text"),
            "true"
        );
        run("select lago_push.revoke_access('\"Odd; role\"')");
    }
}
