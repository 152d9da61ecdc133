//! The oracle: whether what was committed is what Lago bills, amount for amount.
//!
//! It compares the table, which is the truth, with fake-lago's bill, which reckons as Lago would, and looks
//! at what was sent: nothing twice on the bill, nothing that Lago would take and never bill, nothing left in
//! the outbox, and no event ever sent with two different bodies.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::scene::{METRIC, Scene};
use crate::wait::LONG_PATIENCE;

/// Count and exact sum of one subscription's usage.
type Usage = BTreeMap<String, (u64, String)>;

/// Waits until the outbox is empty, then checks that the rows of the table `usage` are billed, each once, and
/// that nothing else is.
#[track_caller]
pub fn assert_billed_exactly_once(scene: &Scene) {
    assert_billed(scene, "select subscription, amount from usage");
    let rows: i64 = scene.value("select count(*) from usage");
    let status = scene.status("usage");
    assert_eq!(
        (status.delivered, status.pending, status.dead),
        (rows, 0, 0),
        "delivered, pending and dead of {rows} rows: {status:?}"
    );
}

/// The same for any query of subscription and amount, one row for each event that should be billed.
#[track_caller]
pub fn assert_billed(scene: &Scene, query: &str) {
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    let wrong = differences(scene, query);
    assert!(wrong.is_empty(), "the bill is not what was committed:\n{wrong}");
}

/// What is wrong with the bill as it is now, one line each; nothing if it is right.
pub fn differences(scene: &Scene, query: &str) -> String {
    let committed = committed(scene, query);
    let bill = scene.lago.bill();
    let billed: Usage = bill
        .lines
        .iter()
        .map(|line| {
            (line.external_subscription_id.clone(), (line.events, line.sum.clone().unwrap_or_default()))
        })
        .collect();
    let mut wrong = String::new();
    for subscription in committed.keys().chain(billed.keys().filter(|name| !committed.contains_key(*name))) {
        let (should, is) = (committed.get(subscription), billed.get(subscription));
        if should != is {
            let _ = writeln!(wrong, "{subscription}: committed {should:?}, billed {is:?}");
        }
    }
    let _ =
        bill.lines.iter().filter(|line| line.code != METRIC).try_for_each(|line| writeln!(wrong, "{line:?}"));
    let mut few = |what: &str, count: usize, first: String| {
        if count > 0 {
            let _ = writeln!(wrong, "{count} events {what}, such as {first}");
        }
    };
    few("would never be billed", bill.never_billed.len(), format!("{:?}", bill.never_billed.first()));
    few("would be billed twice", bill.billed_twice.len(), format!("{:?}", bill.billed_twice.first()));
    let differing = scene.lago.sent_differently();
    let bodies = differing.first().map(|id| scene.lago.copies_of(id)).unwrap_or_default();
    let bodies: Vec<_> = bodies.iter().map(|copy| String::from_utf8_lossy(&copy.body).into_owned()).collect();
    few("were sent with different bodies", differing.len(), bodies.join(" and "));
    wrong
}

fn committed(scene: &Scene, query: &str) -> Usage {
    // Lago reckons with what was sent, which need not have as many trailing zeros as the sum of the column.
    let sql = format!(
        "select subscription::text, count(*), trim_scale(sum(amount))::text
         from ({query}) billed (subscription, amount) group by 1"
    );
    let usage = |row: &postgres::Row| {
        let count = u64::try_from(row.get::<_, i64>(1)).unwrap_or_default();
        (row.get(0), (count, row.get(2)))
    };
    scene.rows(&sql).iter().map(usage).collect()
}
