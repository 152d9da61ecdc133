//! Backfill: what can be seen of it inside one transaction, where it can only be refused.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, refuses};
    use pgrx::prelude::*;

    #[pg_test]
    fn backfill_in_a_function_says_that_it_commits() {
        stage::set();
        stage::activate("calls", "");
        refuses(
            "call lago_push.backfill('calls')",
            [
                "2D000",
                "lago_push.backfill() commits as it goes, and cannot do so here",
                "It is called by a function, or inside a block that catches errors, and these cannot commit.",
                "Call it as a statement of its own, outside begin … commit: call lago_push.backfill('sync').",
            ],
        );
    }
}
