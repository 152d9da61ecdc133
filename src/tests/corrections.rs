//! Corrections: a dead letter's payload, replaced by hand.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, failure, refuses, run, text, texts};
    use pgrx::prelude::*;

    const GOOD: &str =
        r#"{ "transaction_id": "call-1b", "external_subscription_id": "s", "code": "c", "timestamp": 1.50 }"#;
    const LOOKS_LIKE: &str = "lago_push.preview() shows what payloads of the sync look like.";

    /// A letter of `public.calls`; `rest` are values of payload and path.
    fn letter(number: i32, sync: &str, rest: &str) {
        run(&format!(
            "insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason, payload, path)
             select {number}, '2024-03-14 13:09:00+00', now(), s.id, 1, 'i', s.name, 'Lago said no', {rest}
               from lago_push.sync s where s.name = '{sync}'"
        ));
    }

    fn correct(number: i32, payload: &str) -> String {
        format!("select lago_push.correct({number}, $payload${payload}$payload$)")
    }

    fn stored() -> Vec<String> {
        texts(
            "select concat_ws('|', payload, coalesce(path, 'null')) from lago_push.dead_letters order by dead_letters.id",
        )
    }

    #[pg_test]
    fn a_corrected_letter_is_sent_as_it_was_given() {
        stage::set();
        stage::draft("calls", "");
        letter(1, "calls", "'{}', null");
        letter(2, "calls", "'{}', null");
        run(&correct(1, GOOD));
        assert_eq!(stored(), [format!("{GOOD}|null"), "{}|null".into()]);
        assert_eq!(text("select lago_push.redrive('calls', 'reason like ''%; corrected by %''')::text"), "1");
        assert_eq!(stage::payloads(), [GOOD]);
        assert_eq!(
            text("select (enqueued_at = '2024-03-14 13:09:00+00')::text from lago_push.message"),
            "true"
        );
    }

    #[pg_test]
    fn a_letter_that_could_not_be_rendered_is_given_a_payload() {
        stage::set();
        stage::activate("calls", "");
        run("insert into public.calls (id) values (1)");
        stage::reach_the_end();
        let number = text("select id::text from lago_push.dead_letters").parse().expect("a number");
        run(&correct(number, GOOD));
        assert_eq!(text("select (source_row ->> 'id') from lago_push.dead_letters"), "1", "its row is kept");
        assert_eq!(text("select lago_push.redrive('calls')::text"), "1");
        assert_eq!(stage::payloads(), [GOOD]);
    }

    #[pg_test]
    fn the_reason_stays_and_names_who_corrected_it_once() {
        stage::set();
        stage::draft("calls", "");
        letter(1, "calls", "'{}', null");
        let reason = || text("select reason from lago_push.dead_letters");
        let me = text("select current_user::regrole::text");
        run(&correct(1, GOOD));
        run(&correct(1, GOOD));
        assert_eq!(reason(), format!("Lago said no; corrected by {me}"));
        run("create role \"The Clerk\"; grant usage on schema lago_push to \"The Clerk\";
             grant execute on function lago_push.correct to \"The Clerk\"; alter table public.calls owner to \"The Clerk\"");
        run(&format!("set local role \"The Clerk\"; {}; reset role", correct(1, GOOD)));
        assert_eq!(reason(), "Lago said no; corrected by \"The Clerk\"");
    }

    #[pg_test]
    fn what_lago_would_not_bill_is_no_correction() {
        stage::set();
        stage::draft("calls", "");
        letter(1, "calls", "'{}', null");
        let message = "dead letter 1 cannot be given this payload";
        for (payload, why) in [
            ("[]", "the payload is not a JSON object"),
            ("7", "the payload is not a JSON object"),
            (
                r#"{"transaction_id": "t", "external_customer_id": "s", "code": "c", "timestamp": 0}"#,
                "\"external_subscription_id\" is missing: Lago would answer 200 and never bill it",
            ),
            (
                r#"{"transaction_id": "t", "external_subscription_id": "s", "code": "c", "timestamp": 1710421740123}"#,
                "\"timestamp\" is not a time in Unix seconds: it looks like milliseconds, and Lago would answer 200 and never bill it",
            ),
        ] {
            refuses(&correct(1, payload), ["22023", message, why, LOOKS_LIKE]);
        }
        refuses(
            &correct(1, "{'hush': 1}"),
            [
                "22P02",
                message,
                "It is no JSON: key must be a string at line 1 column 2.",
                "Begin with what lago_push.dead_letters or lago_push.preview() shows.",
            ],
        );
        refuses(
            "select lago_push.correct(1, null)",
            [
                "22004",
                "dead letter 1 needs a payload",
                "",
                "Give it as text; lago_push.discard() gives letters up.",
            ],
        );
        assert_eq!(stored(), ["{}|null"]);
        assert_eq!(text("select reason from lago_push.dead_letters"), "Lago said no");
    }

    #[pg_test]
    fn a_letter_that_is_not_there_cannot_be_corrected() {
        stage::set();
        stage::draft("calls", "");
        letter(1, "calls", "'{}', null");
        run("select lago_push.redrive('calls')");
        let detail = "It never did, or it has been redriven or discarded since.";
        let hint = "The view lago_push.dead_letters shows those there are.";
        refuses(&correct(1, GOOD), ["42704", "dead letter 1 does not exist", detail, hint]);
        refuses(
            "select lago_push.correct(null, '{}')",
            ["42704", "dead letter null does not exist", detail, hint],
        );
    }

    #[pg_test]
    fn a_letter_of_no_sync_cannot_be_corrected() {
        stage::set();
        run("insert into lago_push.dead_letter (id, enqueued_at, died_at, attempts, operation, sync_name, reason, source_row)
             values (1, now(), now(), 0, 'i', 'cal''s', 'no sync', '{}')");
        refuses(
            &correct(1, GOOD),
            [
                "55000",
                "dead letter 1 belongs to no sync",
                "It stands under the name \"cal's\", and no sync would deliver it.",
                "Write its row again when the table's trigger names a sync, and give it up with lago_push.discard('cal''s').",
            ],
        );
    }

    #[pg_test]
    fn only_the_owner_of_a_table_corrects_its_letters() {
        stage::set();
        stage::draft("calls", "");
        letter(1, "calls", "'{}', null");
        run(
            "create role maker; select lago_push.grant_access('maker', 'maker'); grant all on public.calls to maker",
        );
        run("set local role maker");
        let [sqlstate, message, ..] = failure(&correct(1, GOOD));
        assert_eq!((&*sqlstate, &*message), ("42501", "must be owner of table public.calls"));
        let [sqlstate, ..] = failure(&correct(1, "nonsense"));
        assert_eq!(sqlstate, "42501", "told that it may not before it is told what is wrong");
        run("reset role");
        assert_eq!(stored(), ["{}|null"]);
    }

    #[pg_test]
    fn what_belongs_into_the_path_is_put_there() {
        stage::set();
        run(
            r#"select lago_push.create_sync('plans', 'public.calls', '{"external_id": "{{ row.id }}", "name": "{{ row.region }}"}',
                                            endpoint => 'subscription_update')"#,
        );
        letter(1, "plans", "'{\"name\": \"eu\"}', '/subscriptions/1'");
        run(&correct(1, r#"{ "name": "us" }"#));
        assert_eq!(stored(), [r#"{ "name": "us" }|/subscriptions/1"#]);
        run(&correct(1, r#"{ "name": "us", "external_id": "a.b" }"#));
        assert_eq!(stored(), [r#"{"name":"us"}|/subscriptions/a%2Eb"#]);
        run("select lago_push.redrive('plans')");
        assert_eq!(
            text("select payload || path from lago_push.message"),
            r#"{"name":"us"}/subscriptions/a%2Eb"#
        );
    }

    #[pg_test]
    fn a_call_without_a_body_needs_no_payload() {
        stage::set();
        run(
            "select lago_push.create_sync('gone', 'public.calls', path => '/customers/{{ row.id }}', method => 'DELETE')",
        );
        letter(1, "gone", "'', '/customers/1'");
        run(&correct(1, ""));
        assert_eq!(stored(), ["|/customers/1"]);
        letter(2, "gone", "null, null");
        refuses(
            &correct(2, ""),
            [
                "22023",
                "dead letter 2 cannot be given this payload",
                "the call's path is made of the row, and this letter has none yet",
                LOOKS_LIKE,
            ],
        );
    }
}
