//! Whether what was committed is what is billed: row for row, and to the last unit of `delta`.

use std::collections::BTreeMap;

use fake_lago::Bill;

use super::place::{Place, subscription};
use super::{METRIC, say, unsigned};
use crate::failure::{Doing, Failure, Outcome};
use crate::session::Session;
use crate::text::{counted, grouped};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Table,
    OnlyDifferences,
}

/// What one branch used, on one of the two sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    events: u64,
    delta: i128,
}

type Usages = BTreeMap<String, Usage>;

/// Compares the table with the bill; the error lists every difference. `before` is how many events a real
/// Lago had when the demo began.
pub fn check(db: &mut Session, place: &Place, before: u64, show: Show) -> Outcome<()> {
    let committed = committed(db)?;
    match place {
        Place::StandIn { lago, .. } => compare(&committed, &lago.bill(), &lago.sent_differently(), show),
        Place::Real { .. } => compare_count(&committed, place, before, show),
    }
}

fn committed(db: &mut Session) -> Outcome<Usages> {
    let sql = "select bid::text, count(*), sum(delta)::text from pgbench_history group by bid";
    let usage = |row: &postgres::Row| {
        let delta = row.get::<_, String>(2).parse().doing("read a sum of delta")?;
        Ok((subscription(row.get::<_, String>(0)), Usage { events: unsigned(row.get(1))?, delta }))
    };
    db.rows(sql, &[])?.iter().map(usage).collect()
}

fn billed(bill: &Bill) -> Outcome<Usages> {
    let usage = |line: &fake_lago::BillLine| {
        let sum = line.sum.as_deref().unwrap_or("0");
        let delta = sum.parse().doing(&format!("read the sum {sum} of a bill as a whole number"))?;
        Ok((line.external_subscription_id.clone(), Usage { events: line.events, delta }))
    };
    bill.lines.iter().filter(|line| line.code == METRIC).map(usage).collect()
}

fn total(usages: &Usages) -> Usage {
    usages.values().fold(Usage::default(), |sum, usage| Usage {
        events: sum.events + usage.events,
        delta: sum.delta + usage.delta,
    })
}

fn row(what: &str, left: impl Into<String>, right: impl Into<String>) {
    say(&format!("{what:<34}{:>16}{:>18}", left.into(), right.into()));
}

fn compare(committed: &Usages, bill: &Bill, differing: &[String], show: Show) -> Outcome<()> {
    let billed = billed(bill)?;
    let mut wrong = differences(committed, &billed);
    let reasons = reasons(bill);
    if !bill.never_billed.is_empty() {
        wrong.push(format!("Lago accepted events that it would never bill: {reasons}"));
    }
    if let Some(twice) = bill.billed_twice.first() {
        let events = counted(bill.billed_twice.len() as u64, "event", "events");
        wrong.push(format!("{events} would be billed twice, such as {}", twice.transaction_id));
    }
    if let Some(id) = differing.first() {
        let events = counted(differing.len() as u64, "event was", "events were");
        wrong.push(format!("{events} sent with more than one text, such as {id}"));
    }
    if show == Show::Table {
        let (left, right) = (total(committed), total(&billed));
        row("", "in PostgreSQL", "on Lago's bill");
        row("transactions, events billed", grouped(left.events), grouped(right.events));
        row("sum of delta", grouped(left.delta), grouped(right.delta));
        row("branches, subscriptions billed", committed.len().to_string(), billed.len().to_string());
        row("accepted, but never billed", "", grouped(bill.never_billed.len()));
        if !bill.never_billed.is_empty() {
            say(&reasons);
        }
        row("billed twice", "", grouped(bill.billed_twice.len()));
        if wrong.is_empty() {
            say("\nEvery transaction is billed once, and each branch's sum is exact.");
        }
    }
    verdict(&wrong)
}

/// A real Lago tells how many events it has taken, and little more at once.
fn compare_count(committed: &Usages, place: &Place, before: u64, show: Show) -> Outcome<()> {
    let sent = total(committed);
    let received = place.count_since(before, sent.events)?;
    if show == Show::Table {
        row("", "in PostgreSQL", "new in Lago");
        row(&format!("transactions, events \"{METRIC}\""), grouped(sent.events), grouped(received));
        row("sum of delta", grouped(sent.delta), "not asked");
        say("\nLago's list of events was counted. It does not tell what is billed: see the usage of the\n\
             subscriptions in Lago. If it is less, a subscription or the metric is missing. Anybody else's\n\
             events of this metric since the demo began are counted too.");
    }
    let mut wrong = Vec::new();
    if received != sent.events {
        wrong.push(format!("{} committed, {} received", grouped(sent.events), grouped(received)));
    }
    verdict(&wrong)
}

fn differences(committed: &Usages, billed: &Usages) -> Vec<String> {
    let only_billed = billed.keys().filter(|name| !committed.contains_key(*name));
    let differing = committed.keys().chain(only_billed).filter_map(|name| {
        let usage = |side: &Usages| side.get(name).copied().unwrap_or_default();
        let (is, should) = (usage(billed), usage(committed));
        (is != should).then(|| {
            format!(
                "{name}: {} with a sum of {} committed, {} with {} on the bill",
                counted(should.events, "transaction", "transactions"),
                grouped(should.delta),
                counted(is.events, "event", "events"),
                grouped(is.delta)
            )
        })
    });
    differing.collect()
}

fn reasons(bill: &Bill) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &bill.never_billed {
        *counts.entry(event.reason.name()).or_default() += 1;
    }
    let each: Vec<String> =
        counts.iter().map(|(reason, count)| format!("{} for {reason}", grouped(count))).collect();
    each.join(", ")
}

fn verdict(wrong: &[String]) -> Outcome<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("the bill is not what was committed:\n  {}", wrong.join("\n  "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(of: &[(&str, u64, i128)]) -> Usages {
        of.iter()
            .map(|(name, events, delta)| ((*name).to_owned(), Usage { events: *events, delta: *delta }))
            .collect()
    }

    #[test]
    fn equal_totals_do_not_hide_a_difference_between_branches() {
        let committed = usages(&[("branch-1", 2, 10), ("branch-2", 2, 20)]);
        let swapped = usages(&[("branch-1", 2, 20), ("branch-2", 2, 10)]);
        assert!(differences(&committed, &committed).is_empty());
        assert_eq!(total(&committed), total(&swapped));
        assert_eq!(differences(&committed, &swapped).len(), 2);
    }

    #[test]
    fn a_branch_on_one_side_only_is_a_difference() {
        let (some, none) = (usages(&[("branch-1", 1, -5)]), Usages::new());
        let missing = "branch-1: 1 transaction with a sum of -5 committed, 0 events with 0 on the bill";
        assert_eq!(differences(&some, &none), [missing]);
        assert_eq!(differences(&none, &some).len(), 1);
    }
}
