//! Choices: which rows a sync sends, which columns it sees, and several syncs side by side.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{
        self, INSERT, activate_for_value, event, properties, reasons, refuses, run, text, texts,
    };
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    #[pg_test]
    fn an_excluded_column_is_in_no_payload() {
        stage::set();
        run("alter table public.calls add email text default 'hush@example.com'");
        activate_for_value(
            "public.calls",
            "[{% for c in row %}\"{{ c[0] }}\"{% unless forloop.last %},{% endunless %}{% endfor %}, {{ row | json }}]",
            ", exclude => '{email,created_at}'",
        );
        run(INSERT);
        assert_eq!(
            properties("v"),
            [
                r#"["id","subscription","bytes","region",{"id":1,"subscription":"acme","bytes":10,"region":"eu"}]"#
            ]
        );
    }

    #[pg_test]
    fn an_excluded_column_is_not_kept_with_a_dead_letter() {
        stage::set();
        run("alter table public.calls add email text default 'hush@example.com'");
        stage::activate("calls", ", exclude => '{email}', operations => '{insert,update}'");
        run("insert into public.calls (id) values (1); update public.calls set bytes = 1");
        assert_eq!(reasons().len(), 2);
        assert_eq!(
            texts(
                "select l.source_row::text || l.old_row::text from lago_push.dead_letter l where l::text like '%hush%'"
            ),
            NOTHING,
            "what a sync may not see is not stored for it either"
        );
    }

    #[pg_test]
    fn an_excluded_column_that_reaches_the_payload_by_a_path_is_refused() {
        stage::set();
        refuses(
            "select lago_push.create_sync('calls', 'public.calls', '{}', path => '/customers/{{ row.subscription }}', exclude => '{subscription}')",
            [
                "22023",
                "path, line 1, column 15: column \"subscription\" is excluded",
                "The parameter exclude names it, so the sync may not see it.",
                "Take it out of one of the two.",
            ],
        );
    }

    const SKIPPING: &str = ", operations => '{insert,update}', unchanged => 'skip'";

    #[pg_test]
    fn an_update_that_changes_nothing_the_template_uses_is_skipped() {
        stage::set();
        activate_for_value("public.calls", "[{{ row.bytes }}, {{ row.region | upcase }}]", SKIPPING);
        run(INSERT);
        for change in [
            "bytes = bytes",
            "subscription = 'other'",
            "created_at = now()",
            "bytes = 11",
            "region = 'us', bytes = 11",
            "region = null",
            "region = null",
            "region = ''",
        ] {
            run(&format!("update public.calls set {change}"));
        }
        assert_eq!(
            properties("v"),
            // A filter makes empty text of null, so the last two look alike and are two changes all the same.
            [r#"[10,"EU"]"#, r#"[11,"EU"]"#, r#"[11,"US"]"#, r#"[11,""]"#, r#"[11,""]"#]
        );
    }

    #[pg_test]
    fn an_insert_or_delete_is_never_skipped() {
        stage::set();
        activate_for_value(
            "public.calls",
            "{{ row.bytes }}",
            ", operations => '{insert,update,delete}', unchanged => 'skip'",
        );
        run(INSERT);
        run("update public.calls set region = 'us'; delete from public.calls");
        assert_eq!(stage::operations(), "id");
    }

    #[pg_test]
    fn columns_say_which_changes_count_when_unchanged_updates_are_skipped() {
        stage::set();
        activate_for_value(
            "public.calls",
            "[{{ row.bytes }}, {{ row.region }}]",
            ", operations => '{update}', unchanged => 'skip', columns => '{bytes}'",
        );
        run(INSERT);
        run("update public.calls set region = 'us'");
        run("update public.calls set bytes = 10, region = 'jp'");
        run("update public.calls set bytes = 11");
        assert_eq!(properties("v"), [r#"[11,"jp"]"#]);
    }

    #[pg_test]
    fn a_path_and_a_whole_row_count_as_use() {
        stage::set();
        run(
            "select lago_push.create_sync('path', 'public.calls', '{\"name\": \"x\"}', path => '/customers/{{ row.region }}',
                                          method => 'PUT', operations => '{update}', unchanged => 'skip');
             select lago_push.activate('path')",
        );
        activate_for_value(
            "public.calls",
            "{{ row | json }}",
            ", operations => '{update}', unchanged => 'skip'",
        );
        run(INSERT);
        run("update public.calls set bytes = 10");
        run("update public.calls set bytes = 11");
        run("update public.calls set region = 'us'");
        stage::reach_the_end();
        assert_eq!(
            texts("select o.sync from lago_push.outbox o order by o.id"),
            ["values", "path", "values"].map(str::to_owned),
        );
    }

    #[pg_test]
    fn a_mapper_uses_every_column_it_may_see() {
        stage::set();
        run("create function public.map(public.calls) returns jsonb language sql as $$
                 select jsonb_build_object('transaction_id', $1.id::text, 'external_subscription_id', 's', 'code', 'c', 'timestamp', 0) $$;
             select lago_push.create_sync('mapped', 'public.calls', mapper => 'public.map(public.calls)', exclude => '{created_at}',
                                          operations => '{update}', unchanged => 'skip');
             select lago_push.activate('mapped')");
        run(INSERT);
        run("update public.calls set bytes = 10");
        run("update public.calls set created_at = 'epoch'");
        assert_eq!(stage::operations(), "");
        run("update public.calls set region = 'us'");
        assert_eq!(stage::operations(), "u");
    }

    #[pg_test]
    fn values_of_every_size_and_kind_are_told_apart() {
        stage::set();
        run(
            "create table public.wide (id int, t text, n numeric, j jsonb, a int[], f float8, b bytea, gone int, o oid)",
        );
        run("alter table public.wide drop gone; alter table public.wide alter t set storage external");
        activate_for_value("public.wide", "{{ row | json }}", SKIPPING);
        run(
            "insert into public.wide select 1, string_agg(md5(n::text), ''), 1.50, '{\"a\": 1}', '{1}', 1.5, '\\x00', 7
               from generate_series(1, 1000) n",
        );
        for same in [
            "t = t || ''",
            "j = '{ \"a\":1 }'",
            "a = a",
            "f = 1.5",
            "o = 7",
            "t = (select t from public.wide)",
        ] {
            run(&format!("update public.wide set {same}"));
        }
        assert_eq!(stage::operations(), "i");
        for other in [
            "t = t || 'x'",
            "n = 2",
            "j = '{\"a\": 2}'",
            "a = '{1,null}'",
            "f = 2",
            "b = '\\x01'",
            "o = null",
        ] {
            run(&format!("update public.wide set {other}"));
        }
        assert_eq!(stage::operations(), "iuuuuuuu");
    }

    #[pg_test]
    fn rows_of_partitions_are_compared_too() {
        stage::set();
        run("create table public.parted (id int, gone int, region text, bytes numeric) partition by list (region);
             alter table public.parted drop gone;
             create table public.parted_us (bytes numeric, junk text, region text, also_gone int, id int);
             alter table public.parted_us drop junk, drop also_gone;
             alter table public.parted attach partition public.parted_us for values in ('us')");
        activate_for_value("public.parted", "{{ row.bytes }}", SKIPPING);
        run(
            "insert into public.parted values (1, 'us', 10); update public.parted set id = 2; update public.parted set bytes = 11",
        );
        assert_eq!(properties("v"), ["10", "11"]);
    }

    #[pg_test]
    fn unchanged_updates_are_sent_unless_told_otherwise() {
        stage::set();
        activate_for_value("public.calls", "{{ row.bytes }}", ", operations => '{update}'");
        run(INSERT);
        run("update public.calls set bytes = bytes");
        assert_eq!(properties("v"), ["10"]);
    }

    #[pg_test]
    fn filter_columns_and_unchanged_all_have_to_agree() {
        stage::set();
        activate_for_value(
            "public.calls",
            "{{ row.bytes }}",
            ", operations => '{update}', unchanged => 'skip', columns => '{bytes}', filter => 'new.region = ''eu'' and new.bytes > 10'",
        );
        run(INSERT);
        for change in [
            "bytes = 5",
            "bytes = 11",
            "bytes = 11",
            "bytes = 12, region = 'us'",
            "bytes = 13",
            "region = 'eu'",
            "bytes = 14",
        ] {
            run(&format!("update public.calls set {change}"));
        }
        assert_eq!(properties("v"), ["11", "14"]);
    }

    #[pg_test]
    fn several_syncs_of_a_table_each_take_what_is_theirs() {
        stage::set();
        run("create role owner_of_calls");
        for (name, endpoint, template, options) in [
            (
                "born",
                "customer",
                r#"{"external_id": "{{ row.subscription }}", "name": "{{ row.region }}"}"#,
                "operations => '{insert}'",
            ),
            (
                "moved",
                "subscription_update",
                r#"{"external_id": "{{ row.subscription }}", "name": "{{ row.region }}"}"#,
                "operations => '{update}', columns => '{region}'",
            ),
            (
                "gone",
                "customer_delete",
                r#"{"external_id": "{{ row.subscription }}"}"#,
                "operations => '{delete}', filter => 'old.region <> ''test'''",
            ),
        ] {
            run(&format!(
                "select lago_push.create_sync('{name}', 'public.calls', $t${template}$t$, endpoint => '{endpoint}', {options});
                 select lago_push.activate('{name}')"
            ));
        }
        stage::activate("usage", ", operations => '{insert,update}'");
        run("insert into public.calls values (1, 'a', 1, 'eu', 'epoch'), (2, 'b', 1, 'test', 'epoch');
             update public.calls set region = 'us' where id = 1;
             update public.calls set bytes = 2 where id = 1;
             delete from public.calls");
        stage::reach_the_end();
        assert_eq!(reasons(), NOTHING);
        assert_eq!(
            texts("select concat_ws(' ', s.name, m.operation, m.path, length(m.payload) > 0) from lago_push.message m join lago_push.sync s on s.id = m.sync_id
                   where s.name <> 'usage' order by m.id"),
            ["born i t", "born i t", "moved u /subscriptions/a t", "gone d /customers/a f"]
        );
        assert_eq!(text("select count(*)::text from lago_push.outbox where sync = 'usage'"), "4");
    }

    #[pg_test]
    fn a_template_may_tell_a_syncs_operations_apart() {
        stage::set();
        run(&format!(
            "select lago_push.create_sync('calls', 'public.calls', $t${}$t$, operations => '{{insert,update,delete}}');
             select lago_push.activate('calls')",
            event(r#""transaction_id": "{{ op }}-{{ row.id }}-{{ row.bytes }}", "properties": {"delta": "{% if op == 'update' %}{{ row.bytes | minus: old.bytes }}{% elsif op == 'delete' %}-{{ old.bytes }}{% else %}{{ row.bytes }}{% endif %}"}"#)
        ));
        run(INSERT);
        run("update public.calls set bytes = 12.5; delete from public.calls");
        assert_eq!(properties("delta"), ["\"10\"", "\"2.5\"", "\"-12.5\""]);
        assert_eq!(
            texts("select payload::json ->> 'transaction_id' from lago_push.message order by id"),
            ["insert-1-10", "update-1-12.5", "delete-1-12.5"]
        );
    }
}
