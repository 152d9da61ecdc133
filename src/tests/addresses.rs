//! Addresses: calls whose path is made of the row, and calls without a body.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, paths, payloads, reasons, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    /// The paths and reasons of rows with these ids, for a sync that fills its path from them.
    fn addressed(definition: &str, ids: &[&str]) -> (Vec<String>, Vec<String>) {
        stage::set();
        run("create table public.people (id text, name text)");
        run(&format!(
            "select lago_push.create_sync('people', 'public.people', {definition}); select lago_push.activate('people')"
        ));
        for id in ids {
            run(&format!("insert into public.people values ({id}, 'x')"));
        }
        (paths(), reasons())
    }

    const AWKWARD: &[&str] =
        &["'user@example.com'", "'a/b'", "'ünïcode'", "'a b?c=d#e&f%2F'", "'{{ x }}'", "'-_~'", "'..a'"];
    const ENCODED: &[&str] = &[
        "user%40example%2Ecom",
        "a%2Fb",
        "%C3%BCn%C3%AFcode",
        "a%20b%3Fc%3Dd%23e%26f%252F",
        "%7B%7B%20x%20%7D%7D",
        "-_~",
        "%2E%2Ea",
    ];
    const NO_SEGMENT: &[&str] = &["''", "'.'", "'..'", "null"];

    #[pg_test]
    fn what_fills_a_hole_in_a_path_is_one_segment() {
        let (paths, reasons) = addressed(
            "$t${\"name\": \"{{ row.name }}\"}$t$, path => '/customers/{{ row.id }}/wallets'",
            AWKWARD,
        );
        assert_eq!(paths, ENCODED.iter().map(|id| format!("/customers/{id}/wallets")).collect::<Vec<_>>());
        assert_eq!(reasons, NOTHING);
        assert_eq!(payloads()[0], r#"{"name":"x"}"#, "the payload is whole");
    }

    #[pg_test]
    fn what_fills_a_key_in_a_path_is_one_segment() {
        let (paths, reasons) =
            addressed("$t${\"external_id\": \"{{ row.id }}\"}$t$, endpoint => 'customer_delete'", AWKWARD);
        assert_eq!(paths, ENCODED.iter().map(|id| format!("/customers/{id}")).collect::<Vec<_>>());
        assert_eq!(reasons, NOTHING);
        assert!(payloads().iter().all(String::is_empty), "no body");
    }

    #[pg_test]
    fn what_would_name_another_object_or_all_of_them_is_a_dead_letter() {
        let (paths, reasons) = addressed("path => '/customers/{{ row.id }}', method => 'DELETE'", NO_SEGMENT);
        assert_eq!(paths, NOTHING);
        assert_eq!(reasons.len(), NO_SEGMENT.len());
        assert!(reasons.iter().all(|reason| reason.contains("path")), "{reasons:?}");
    }

    #[pg_test]
    fn a_key_that_would_name_another_object_is_a_dead_letter() {
        let (paths, reasons) =
            addressed("$t${\"external_id\": \"{{ row.id }}\"}$t$, endpoint => 'customer_delete'", NO_SEGMENT);
        assert_eq!(paths, NOTHING);
        assert_eq!(reasons.len(), NO_SEGMENT.len());
        assert!(
            reasons.iter().all(|reason| reason.contains("\"external_id\"") || reason.contains("\"id\"")),
            "{reasons:?}"
        );
    }

    #[pg_test]
    fn a_path_no_request_can_carry_is_refused() {
        stage::set();
        for path in [
            "/a b",
            "/a\tb",
            "/a\nHost: x",
            "/ü",
            "/a#b",
            "/a\"b",
            "/a<b>",
            "/a\\\\b",
            "/../admin",
            "/a/./b",
            "/a/..",
            "/a/{{ row.id }}/../b",
        ] {
            let [sqlstate, message, ..] = stage::failure(&format!(
                "select lago_push.create_sync('calls', 'public.calls', '{{}}', path => $p${path}$p$)"
            ));
            assert_eq!(
                (&*sqlstate, &*message),
                ("22023", "path holds what no path of Lago's API does"),
                "{path}"
            );
        }
        for path in [
            "/a-b/c.d~e/%20",
            "/a?x={{ row.id }}&y=1",
            "/..a/b..",
            "/{{ row.region | append: \" #\" }}/x",
            "/a/{{ row[\"region\"] }}",
        ] {
            run(&format!(
                "select lago_push.create_sync('calls', 'public.calls', '{{}}', path => $p${path}$p$)"
            ));
            run("select lago_push.drop_sync('calls')");
        }
    }

    #[pg_test]
    fn a_hole_in_a_path_takes_filters() {
        let (paths, reasons) = addressed(
            "$t${\"name\": \"x\"}$t$, path => '/customers/{{ row.id | strip | downcase }}/{{ row.name | append: \"/y\" }}', method => 'put'",
            &["' ACME '", "'  '"],
        );
        assert_eq!(paths, ["/customers/acme/x%2Fy"]);
        assert_eq!(reasons.len(), 1);
    }

    #[pg_test]
    fn a_path_without_holes_is_not_repeated_in_every_message() {
        let (paths, reasons) =
            addressed("$t${\"a\": \"{{ row.id }}\"}$t$, path => '/ingest'", &["'1'", "'2'"]);
        assert_eq!((paths, reasons), (vec!["null".to_owned(); 2], vec![]));
    }

    #[pg_test]
    fn the_keys_of_a_path_are_no_part_of_the_body() {
        let (paths, _) = addressed(
            r#"$t${"external_id": "{{ row.id }}", "name": "{{ row.name }}", "status": "pending"}$t$, endpoint => 'subscription_update'"#,
            &["'a.b'"],
        );
        assert_eq!(paths, ["/subscriptions/a%2Eb?status=pending"]);
        assert_eq!(payloads(), [r#"{"name":"x"}"#]);
        assert_eq!(
            text("select o.path || ' ' || o.payload from lago_push.outbox o"),
            r#"/subscriptions/a%2Eb?status=pending {"name":"x"}"#
        );
    }

    #[pg_test]
    fn a_path_of_ones_own_may_name_keys_of_the_payload() {
        let (paths, _) = addressed(
            r#"$t${"tenant": {{ row.id }}, "n": 7.50}$t$, path => '/tenants/{tenant}/{{ row.name }}', root => 'thing'"#,
            &["'1'"],
        );
        assert_eq!(paths, ["/tenants/1/x"]);
        assert_eq!(payloads(), [r#"{"n":7.50}"#]);
    }

    #[pg_test]
    fn a_deletion_needs_no_template() {
        let (paths, reasons) = addressed("path => '/customers/{{ row.id }}', method => 'DELETE'", &["'a'"]);
        assert_eq!((paths, reasons), (vec!["/customers/a".to_owned()], vec![]));
        assert_eq!(payloads(), [""]);
        assert_eq!(texts("select endpoint || ' ' || method from lago_push.sync"), ["manual DELETE"]);
    }

    #[pg_test]
    fn a_row_deleted_is_the_row_whose_id_fills_the_path() {
        stage::set();
        run(
            "select lago_push.create_sync('calls', 'public.calls', path => '/customers/{{ row.subscription }}/{{ old.id }}', method => 'delete',
                                          operations => '{delete}');
             select lago_push.activate('calls')",
        );
        run(stage::INSERT);
        run("delete from public.calls");
        assert_eq!(paths(), ["/customers/acme/1"]);
    }

    #[pg_test]
    fn a_dead_letter_of_an_address_keeps_its_row() {
        let (_, reasons) = addressed("path => '/customers/{{ row.id }}', method => 'DELETE'", &["'..'"]);
        assert_eq!(reasons.len(), 1);
        assert_eq!(
            text("select source_row::text from lago_push.dead_letters"),
            r#"{"id": "..", "name": "x"}"#
        );
    }
}
