//! What the worker reads of messages, and of the retries noted for them.

#[pgrx::pg_schema]
mod tests {
    use crate::cursor::Range;
    use crate::outbox::{self, Earlier, Found, Span, Statements};
    use crate::tests::stage::{self, run, text, up_to_now};
    use pgrx::prelude::*;

    fn read(span: &Span<'_>, most: usize) -> Vec<Found> {
        let statements = Statements::prepare().expect("statements");
        up_to_now(|| outbox::read(&statements, span, most)).expect("a page").found
    }

    fn ids(found: &[Found]) -> Vec<i64> {
        found.iter().map(|found| found.message.id).collect()
    }

    /// Messages of two syncs in turn, ids from 1, then each `step` further.
    fn messages(number: i64, step: i64) {
        stage::set();
        stage::activate("calls", "");
        run(&format!(
            "insert into lago_push.message (id, enqueued_at, sync_id, operation, payload)
             select 1 + n * {step}, 'epoch', 1 + n % 2, 'i', 'p' || n from generate_series(0, {number} - 1) n"
        ));
    }

    fn note_retry_of(id: i64) {
        run(&format!(
            "insert into lago_push.retry (message_id, attempts, next_attempt_at, last_error)
             values ({id}, 3, clock_timestamp() + interval '1 hour', 'why')"
        ));
    }

    fn attempts(found: &[Found]) -> Vec<(u32, bool)> {
        let failed = |found: &Found| matches!(found.earlier, Earlier::Failed(Some(wait)) if !wait.is_zero());
        found.iter().map(|found| (found.message.attempts, failed(found))).collect()
    }

    #[pg_test]
    fn messages_come_by_id_as_many_as_asked_for() {
        messages(10, 1);
        assert_eq!(ids(&read(&Span::After(3), 4)), [4, 5, 6, 7]);
        assert_eq!(ids(&read(&Span::After(8), 4)), [9, 10]);
        assert_eq!(ids(&read(&Span::Between(Range { from: 2, to: 4 }), 9)), [2, 3, 4]);
        assert_eq!(ids(&read(&Span::Of(Range { from: 2, to: 9 }, &[2]), 3)), [2, 4, 6]);
        assert_eq!(ids(&read(&Span::After(10), 4)), [0; 0]);
    }

    #[pg_test]
    fn a_message_is_read_whole() {
        stage::set();
        stage::activate("calls", "");
        let long = "ä".repeat(300_000);
        run(&format!(
            "insert into lago_push.message values
                 (1, '2000-01-01 00:00:01+00', 7, 3, 'u', '{long}', '/a/b', -5),
                 (2, '2000-01-01 00:00:00+00', 8, 0, 'd', '', null, null)"
        ));
        let found = read(&Span::After(0), 10);
        let (first, second) = (&found[0].message, &found[1].message);
        assert_eq!((first.sync, first.entered, first.operation, first.key), (7, 3, b'u', Some(-5)));
        assert_eq!((first.payload == long, first.path.as_deref()), (true, Some("/a/b")));
        assert_eq!((found[0].enqueued_at, found[1].enqueued_at), (1_000_000, 0));
        assert_eq!((second.payload.as_str(), &second.path, second.key), ("", &None, None));
        let place = text("select ctid::text from lago_push.message where id = 2");
        assert_eq!(format!("({},{})", second.tid.block, second.tid.offset), place);
    }

    #[pg_test]
    fn retries_are_found_where_messages_stand_close_together() {
        messages(5, 1);
        note_retry_of(3);
        let none = (0, false);
        assert_eq!(attempts(&read(&Span::After(0), 10)), [none, none, (3, true), none, none]);
    }

    #[pg_test]
    fn retries_are_found_where_messages_stand_far_apart() {
        messages(5, 1000);
        note_retry_of(2001);
        note_retry_of(2002);
        let none = (0, false);
        assert_eq!(attempts(&read(&Span::After(0), 10)), [none, none, (3, true), none, none]);
    }
}
