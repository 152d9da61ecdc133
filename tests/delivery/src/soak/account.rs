//! What must be true when the trouble is over: each promise, one by one, against the tables' own memory of what was
//! committed.
//!
//! A message is accounted for if Lago has it, or if somebody can see why not: it is a dead letter, it was
//! discarded, or it waits, if the run may end with some that wait. What Lago has is billed amount for amount, and nothing else is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::stage::{SYNCS, Stage, USAGE};

/// One row of the tables' memory.
struct Written {
    sync: String,
    name: String,
    key: String,
}

/// What Lago has of usage: names in the order in which they were first stored, and how often each was.
struct Stored {
    order: Vec<String>,
    times: HashMap<String, u64>,
}

/// Checks everything and notes on the stage what is wrong; gives a short account.
pub fn settle(stage: &Stage) -> String {
    let written = written(stage);
    let stored = stored(stage);
    let forgiven = forgiven(stage);
    check_log(stage);
    check_deaths(stage);
    check_ledger(stage);
    check_usage(stage, &written, &stored, &forgiven);
    check_bill(stage, &stored);
    check_order(stage, &written, &stored);
    check_customers(stage, &written, &forgiven);
    let top_ups = check_top_ups(stage, &forgiven);
    for sent in stage.lago.ask_all("sent_twice") {
        stage.wrong(format!("sent with two bodies: {sent}"));
    }
    if written.is_empty() || stored.order.is_empty() {
        stage.wrong(format!("{} rows committed and {} stored", written.len(), stored.order.len()));
    }
    format!(
        "{} rows, {} events in Lago, {top_ups}, {} dead, discarded or waiting",
        written.len(),
        stored.order.len(),
        forgiven.len()
    )
}

fn written(stage: &Stage) -> Vec<Written> {
    let rows = stage.rows("select sync, name, key from truth order by seq");
    rows.iter().map(|row| Written { sync: row.get(0), name: row.get(1), key: row.get(2) }).collect()
}

fn stored(stage: &Stage) -> Stored {
    let mut stored = Stored { order: Vec::new(), times: HashMap::new() };
    let events = stage.lago.ask("stored?limit=100000000");
    for event in events["events"].as_array().into_iter().flatten() {
        let name = event["transaction_id"].as_str().unwrap_or_default();
        let times = stored.times.entry(name.to_owned()).or_default();
        *times += 1;
        if *times == 1 {
            stored.order.push(name.to_owned());
        }
    }
    stored
}

/// The names of what is visibly not delivered, with the reason.
fn forgiven(stage: &Stage) -> BTreeMap<String, String> {
    let rows = stage.rows(
        "select coalesce(name_of(sync, payload::jsonb), ''), reason from lago_push.dead_letters
         union all select name, 'discarded' from discarded
         union all select name_of(sync, payload::jsonb), 'waiting: ' || last_error from lago_push.outbox",
    );
    let mut forgiven = BTreeMap::new();
    for row in rows {
        let (name, reason): (String, String) = (row.get(0), row.get(1));
        if name.is_empty() {
            stage.wrong(format!("a row was not rendered: {reason}"));
        }
        forgiven.insert(name, reason);
    }
    forgiven
}

/// No process of the server ended in a way that nobody chose: the troubles kill with signal 9 alone.
fn check_log(stage: &Stage) {
    let signs = ["PANIC:", "panicked at", "signal 4", "signal 6", "signal 7", "signal 11"];
    let log = stage.cluster.log();
    for line in log.lines().filter(|line| signs.iter().any(|sign| line.contains(sign))) {
        stage.wrong(format!("in the server's log: {line}"));
    }
}

/// A message dies of nothing but what was wrong with itself, or because nobody can know whether a top-up was
/// done: no outage, no refused key and no lost answer may kill one.
fn check_deaths(stage: &Stage) {
    for row in stage.rows(
        "select l.sync || ' ' || coalesce(l.name, 'nameless') || ': ' || l.reason
         from (select sync, name_of(sync, payload::jsonb) as name, reason from lago_push.dead_letters
               union all select sync, name, reason from discarded) l
         left join truth t on t.name = l.name
         where (t.code = 'weighed' and l.reason like '%expression_evaluation_failed%') is not true
           and not (l.sync = 'top_ups' and l.reason like '%outcome is unknown%')
           and not exists (select from poisoned p where p.name = l.name)",
    ) {
        stage.wrong(format!("died of what was not its own: {}", row.get::<_, String>(0)));
    }
}

/// In the end what the ledger calls captured is what the writers committed.
fn check_ledger(stage: &Stage) {
    for row in stage.rows(
        "select l::text from lago_push.ledger l
         where not balanced
            or pending <> (select count(*) from lago_push.outbox o where o.sync = l.sync)
            or captured <> (select count(*) from truth t where t.sync = l.sync)
            or dead <> (select count(*) from lago_push.dead_letters d where d.sync = l.sync)
            or discarded <> (select count(*) from discarded d where d.sync = l.sync)
            or redriven <> (select count(*) from redriven r where r.sync = l.sync)",
    ) {
        stage.wrong(format!("the ledger is not what happened: {}", row.get::<_, String>(0)));
    }
    for row in stage.rows("select sync || ': ' || count(*) from truth group by sync") {
        let line: String = row.get(0);
        if !SYNCS.iter().any(|sync| line.starts_with(sync)) {
            stage.wrong(format!("a stranger wrote: {line}"));
        }
    }
}

/// Every committed row of usage is in Lago or forgiven, and nothing else is in Lago.
fn check_usage(stage: &Stage, written: &[Written], stored: &Stored, forgiven: &BTreeMap<String, String>) {
    let usage = written.iter().filter(|row| USAGE.contains(&row.sync.as_str()));
    let mut names = HashSet::new();
    for row in usage {
        names.insert(row.name.as_str());
        if !stored.times.contains_key(&row.name) && !forgiven.contains_key(&row.name) {
            stage.wrong(format!("lost: {} was committed, and is neither in Lago nor dead", row.name));
        }
    }
    for name in stored.times.keys().filter(|name| !names.contains(name.as_str())) {
        stage.wrong(format!("invented: {name} is in Lago and was never committed"));
    }
    if stage.store == "postgres" {
        for (name, times) in stored.times.iter().filter(|(_, times)| **times > 1) {
            stage.wrong(format!("{name} is stored {times} times"));
        }
    }
}

/// Subscription by subscription the bill is the sum of what was committed, of the events that Lago has.
fn check_bill(stage: &Stage, stored: &Stored) {
    let bill = stage.lago.ask("bill");
    for list in ["never_billed", "billed_twice"] {
        for event in bill[list].as_array().into_iter().flatten() {
            stage.wrong(format!("{list}: {event}"));
        }
    }
    let names: Vec<&str> = stored.times.keys().map(String::as_str).collect();
    let sql = "select key || ' ' || code || ': ' || count(*) || ' events, ' || trim_scale(sum(amount))
               from truth where name = any ($1) group by key, code order by 1";
    let mut db = stage.cluster.connect("soak");
    let rows = db.query(sql, &[&names]).unwrap_or_else(|e| panic!("{e:?}"));
    let committed: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let billed: BTreeSet<String> = bill["lines"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {}: {} events, {}",
                text("external_subscription_id"),
                text("code"),
                line["events"],
                text("sum")
            )
        })
        .collect();
    for line in committed.difference(&billed) {
        stage.wrong(format!("committed and not billed so: {line}"));
    }
    for line in billed.difference(&committed) {
        stage.wrong(format!("billed and not committed so: {line}"));
    }
}

/// For each order key, what was first stored first was committed first. A letter that was redriven comes late.
fn check_order(stage: &Stage, written: &[Written], stored: &Stored) {
    let redriven: HashSet<String> = stage.texts("select name from redriven").into_iter().collect();
    let committed: HashMap<&str, (usize, &str)> = written
        .iter()
        .enumerate()
        .filter(|(_, row)| row.sync == "jobs" && !redriven.contains(&row.name))
        .map(|(at, row)| (row.name.as_str(), (at, row.key.as_str())))
        .collect();
    let mut latest: HashMap<&str, (usize, &str)> = HashMap::new();
    for name in &stored.order {
        let Some((at, key)) = committed.get(name.as_str()) else { continue };
        match latest.get(key) {
            Some((before, earlier)) if before > at => {
                stage.wrong(format!("out of order for {key}: {name} was stored after {earlier}"));
            }
            _ => {
                latest.insert(key, (*at, name));
            }
        }
    }
}

/// Every customer and subscription is in Lago; a customer as it was written last.
fn check_customers(stage: &Stage, written: &[Written], forgiven: &BTreeMap<String, String>) {
    let redriven: HashSet<String> = stage.texts("select name from redriven").into_iter().collect();
    for (sync, kind) in [("customers", "objects/customers"), ("subscriptions", "objects/subscriptions")] {
        let objects = stage.lago.ask_all(kind);
        let mut last: BTreeMap<&str, &str> = BTreeMap::new();
        let mut delivered: BTreeSet<&str> = BTreeSet::new();
        for row in written.iter().filter(|row| row.sync == sync) {
            last.insert(&row.key, &row.name);
            if !forgiven.contains_key(&row.name) {
                delivered.insert(&row.key);
            }
        }
        for (key, name) in last {
            let found: Vec<&Value> = objects.iter().filter(|object| object["external_id"] == key).collect();
            match found.as_slice() {
                [] if delivered.contains(key) => stage.wrong(format!("lost: {key} is not in Lago")),
                [] => {}
                [object] => {
                    let known = object.pointer("/metadata/0/value").and_then(Value::as_str);
                    let settled = !forgiven.contains_key(name)
                        && !written.iter().any(|row| row.key == key && redriven.contains(&row.name));
                    if sync == "customers" && settled && known != Some(name) {
                        stage.wrong(format!("{key} is as {known:?} wrote it, not {name}"));
                    }
                }
                several => stage.wrong(format!("{key} is there {} times", several.len())),
            }
        }
    }
}

/// No top-up twice; each was done, or died because nobody could know whether it was.
fn check_top_ups(stage: &Stage, forgiven: &BTreeMap<String, String>) -> String {
    let mut times: HashMap<String, u64> = HashMap::new();
    for transaction in stage.lago.ask_all("objects/wallet_transactions") {
        let name = transaction.pointer("/metadata/0/value").and_then(Value::as_str).unwrap_or_default();
        *times.entry(name.to_owned()).or_default() += 1;
    }
    let mut unknown = 0;
    let written = stage.texts("select name from truth where sync = 'top_ups'");
    for name in &written {
        let reason = forgiven.get(name).map(String::as_str);
        unknown += u64::from(reason.is_some());
        match (times.remove(name).unwrap_or_default(), reason) {
            (1, _) => {}
            (0, Some(_)) => {}
            (0, None) => stage.wrong(format!("lost: {name} was committed, and is neither done nor dead")),
            (more, _) => stage.wrong(format!("{name} was done {more} times")),
        }
    }
    for name in times.keys() {
        stage.wrong(format!("invented: {name} was done and never committed"));
    }
    format!("{} top-ups ({unknown} of them dead or waiting)", written.len())
}
