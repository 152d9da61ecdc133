//! Backfill: what can be seen of it inside one transaction, where it can only be refused.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, refuses};
    use pgrx::prelude::*;

    #[pg_test]
    fn backfill_in_a_block_that_catches_errors_says_that_it_commits() {
        stage::set();
        stage::activate("calls", "");
        refuses(
            "call lago_push.backfill('calls')",
            [
                "2D000",
                "lago_push.backfill() commits as it goes, and cannot do so here",
                "This is a transaction block, one of several statements sent as one, or a block that catches errors.",
                "Call it as a statement of its own, outside begin … commit: call lago_push.backfill('sync').",
            ],
        );
    }
}
