//! Ordering: what a sync's messages are put in line by.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, activate, draft, reach_the_end, refuses, run, text, texts};
    use pgrx::prelude::*;

    fn keys() -> Vec<String> {
        reach_the_end();
        texts("select m.key::text from lago_push.message m order by m.id")
    }

    fn insert(id: i32, subscription: &str, region: &str) {
        run(&format!(
            "insert into public.calls (id, subscription, bytes, region, created_at) values ({id}, {subscription}, 1, {region}, now())"
        ));
    }

    #[pg_test]
    fn rows_alike_in_the_column_have_one_number_and_others_another() {
        stage::set();
        activate("calls", ", order_by => 'subscription'");
        activate("free", "");
        for (id, subscription) in [(1, "'acme'"), (2, "'beta'"), (3, "'acme'")] {
            insert(id, subscription, "'eu'");
        }
        let keys = keys();
        let (ordered, free): (Vec<_>, Vec<_>) = keys.iter().partition(|key| *key != "null");
        assert_eq!((ordered.len(), free.len()), (3, 3), "{keys:?}");
        assert_eq!(ordered[0], ordered[2]);
        assert_ne!(ordered[0], ordered[1]);
        // As the server itself hashes it: a mark, the length, the text.
        assert_eq!(
            *ordered[0],
            text(
                "select ('x' || encode(substr(sha256('\\x010000000000000004'::bytea || 'acme'::bytea), 1, 8), 'hex'))::bit(64)::bigint::text"
            )
        );
    }

    #[pg_test]
    fn rows_without_a_value_are_in_line_among_themselves() {
        stage::set();
        activate("calls", ", order_by => 'region, bytes'");
        for (id, region) in [(1, "null"), (2, "null"), (3, "''"), (4, "'null'")] {
            insert(id, "'s'", region);
        }
        let keys = keys();
        assert_eq!(keys[0], keys[1]);
        assert!(keys[0] != keys[2] && keys[0] != keys[3] && keys[2] != keys[3], "{keys:?}");
        assert!(!keys.contains(&"null".to_owned()), "{keys:?}");
    }

    #[pg_test]
    fn holes_compute_what_is_ordered_by() {
        stage::set();
        activate("calls", ", order_by => '{{ row.subscription | downcase }}/{{ row.region }}'");
        for (id, subscription, region) in
            [(1, "'ACME'", "'eu'"), (2, "'acme'", "'eu'"), (3, "'acme'", "null"), (4, "'acme'", "'us'")]
        {
            insert(id, subscription, region);
        }
        let keys = keys();
        assert_eq!(keys[0], keys[1]);
        assert!(keys[1] != keys[2] && keys[2] != keys[3] && keys[1] != keys[3], "{keys:?}");
    }

    #[pg_test]
    fn an_update_goes_by_the_new_row_and_a_deletion_by_the_row_that_goes() {
        stage::set();
        activate("calls", ", order_by => 'subscription', operations => '{insert,update,delete}'");
        insert(1, "'acme'", "'eu'");
        run("update public.calls set subscription = 'beta'");
        run("delete from public.calls");
        let keys = keys();
        assert_ne!(keys[0], keys[1]);
        assert_eq!(keys[1], keys[2]);
    }

    #[pg_test]
    fn a_row_that_cannot_be_rendered_keeps_its_place_and_comes_back_to_it() {
        stage::set();
        activate("calls", ", order_by => 'subscription'");
        insert(1, "'acme'", "'eu'");
        run("insert into public.calls (id, subscription) values (2, 'acme')");
        let expected = keys()[0].clone();
        assert_eq!(text("select key::text from lago_push.dead_letter"), expected);
        run("select lago_push.alter_sync('calls', template => replace((select template from lago_push.sync), '{{ row.created_at }}', '0'));
             select lago_push.redrive('calls')");
        assert_eq!(keys(), [expected.clone(), expected]);
    }

    #[pg_test]
    fn another_order_is_for_what_comes_after() {
        stage::set();
        activate("calls", ", order_by => 'subscription'");
        insert(1, "'acme'", "'eu'");
        reach_the_end();
        run("select lago_push.alter_sync('calls', order_by => 'region')");
        insert(2, "'acme'", "'eu'");
        run("select lago_push.alter_sync('calls', batch_size => 10)");
        insert(3, "'beta'", "'eu'");
        run("select lago_push.alter_sync('calls', order_by => '')");
        insert(4, "'acme'", "'eu'");
        let keys = keys();
        assert!(keys[0] != keys[1] && keys[1] == keys[2] && keys[3] == "null", "{keys:?}");
    }

    #[pg_test]
    fn what_is_ordered_by_does_not_make_an_update_count() {
        stage::set();
        insert(1, "'acme'", "'eu'");
        run(
            r#"select lago_push.create_sync('calls', 'public.calls', '{"external_subscription_id": "{{ row.subscription }}", "code": "c"}',
                 order_by => 'region', operations => '{update}', unchanged => 'skip');
               select lago_push.activate('calls');
               update public.calls set region = 'us'; update public.calls set subscription = 'beta'"#,
        );
        assert_eq!(keys().len(), 1);
    }

    #[pg_test]
    fn a_column_dropped_later_makes_dead_letters() {
        stage::set();
        activate("calls", ", order_by => 'bytes'");
        run("select lago_push.alter_sync('calls', template => replace((select template from lago_push.sync), '{{ row.bytes }}', '0'));
             alter table public.calls drop column bytes;
             insert into public.calls (id, subscription, region, created_at) values (1, 's', 'eu', now())");
        assert_eq!(stage::reasons(), ["column \"bytes\" does not exist (any more)"]);
    }

    #[pg_test]
    fn what_cannot_be_ordered_by_is_refused_with_its_place() {
        stage::set();
        let create = |order_by: &str, more: &str| {
            format!(
                "select lago_push.create_sync('calls', 'public.calls', '{}', order_by => '{order_by}'{more})",
                stage::TEMPLATE
            )
        };
        refuses(
            &create("id, subscribtion", ""),
            [
                "42703",
                "order_by, line 1, column 5: table public.calls has no column \"subscribtion\"",
                "",
                "Perhaps you meant \"subscription\".",
            ],
        );
        refuses(
            &create("{{ row.subscribtion }}", ""),
            [
                "42703",
                "order_by, line 1, column 4: table public.calls has no column \"subscribtion\"",
                "",
                "Perhaps you meant \"subscription\".",
            ],
        );
        let hidden = format!(
            "select lago_push.create_sync('calls', 'public.calls', '{}', order_by => 'region', exclude => '{{region}}')",
            stage::event("")
        );
        refuses(
            &hidden,
            [
                "22023",
                "order_by, line 1, column 1: column \"region\" is excluded",
                "The parameter exclude names it, so the sync may not see it.",
                "Take it out of one of the two.",
            ],
        );
        for (order_by, message) in [
            ("{{ row.region", "order_by, line 1, column 1:"),
            ("{% if row.region %}x{% endif %}", "order_by, line 1, column 1: order_by takes no tags"),
            ("{{ old.region }}", "order_by, line 1, column 4: order_by names old"),
            ("a,", "order_by, line 1, column 3: the name of a column is expected here"),
        ] {
            let [_, said, _, hint] = stage::failure(&create(order_by, ""));
            assert!(said.starts_with(message) && !hint.is_empty(), "{order_by}: {said} {hint}");
        }
        draft("calls", ", order_by => ''");
        assert_eq!(text("select coalesce(order_by, 'none') from lago_push.sync"), "none");
    }
}
