//! Messages leave the outbox from where they stood when they were read, and only if they still stand there.

#[pgrx::pg_schema]
mod tests {
    use crate::message::Tid;
    use crate::outbox::{self, Settlement, Span, Statements};
    use crate::tests::stage::{self, run, text, up_to_now};
    use pgrx::prelude::*;

    fn insert(rows: i32) {
        run(&format!(
            "insert into public.calls select n, 'acme', n, 'eu', 'epoch' from generate_series(1, {rows}) n"
        ));
        stage::reach_the_end();
    }

    fn three_messages() -> Statements {
        stage::set();
        stage::activate("calls", "");
        insert(3);
        Statements::prepare().expect("statements")
    }

    /// Where all messages stand, as the worker finds them.
    fn places(statements: &Statements) -> Vec<(i64, Tid)> {
        let page = up_to_now(|| outbox::read(statements, &Span::After(0), 1000)).expect("a page");
        page.found.iter().map(|found| (found.message.id, found.message.tid)).collect()
    }

    fn settle(statements: &Statements, gone: Vec<(i64, Tid)>) {
        up_to_now(|| outbox::settle(statements, Settlement { gone, ..Settlement::default() }))
            .expect("settled");
    }

    fn left() -> String {
        text(
            "select coalesce(string_agg(payload::json -> 'properties' ->> 'bytes', ' ' order by id), '') from lago_push.message",
        )
    }

    #[pg_test]
    fn settled_messages_leave_from_where_they_were_read() {
        let statements = three_messages();
        let places = places(&statements);
        settle(&statements, vec![places[2], places[0]]);
        assert_eq!(left(), "2");
    }

    #[pg_test]
    fn what_stands_where_another_stood_stays() {
        let statements = three_messages();
        let places = places(&statements);
        // As if the first had been deleted, and the second been put into its place.
        settle(&statements, vec![(places[0].0, places[1].1)]);
        assert_eq!(left(), "2 3");
    }

    #[pg_test]
    fn messages_that_moved_leave_from_where_they_are() {
        let statements = three_messages();
        let places = places(&statements);
        run("update lago_push.message set entered = entered");
        settle(&statements, places);
        assert_eq!(left(), "");
    }

    #[pg_test]
    fn places_the_table_does_not_have_are_no_trouble() {
        let statements = three_messages();
        let places = places(&statements);
        let elsewhere = |block, offset| Tid { block, offset };
        let block = places[0].1.block;
        settle(
            &statements,
            vec![
                (places[0].0, elsewhere(u32::MAX - 1, 1)),
                (places[1].0, elsewhere(block, 0)),
                (places[2].0, elsewhere(block, u16::MAX)),
            ],
        );
        assert_eq!(left(), "");
    }

    #[pg_test]
    fn messages_of_many_pages_leave_in_any_order() {
        stage::set();
        stage::activate("calls", "");
        insert(500);
        let statements = Statements::prepare().expect("statements");
        let mut places = places(&statements);
        assert!(places.last().expect("the last").1.block > places[0].1.block + 3);
        places.retain(|(id, _)| id % 7 != 0);
        places.sort_by_key(|(id, _)| (id % 5, *id));
        let expected = text("select count(*)::text from lago_push.message where id % 7 = 0");
        settle(&statements, places);
        assert_eq!(text("select count(*)::text from lago_push.message where id % 7 = 0"), expected);
        assert_eq!(text("select count(*)::text from lago_push.message"), expected);
    }
}
