//! Several primaries that bill one Lago organization, each with its own lago_push: ids that must differ between
//! them, and a limit of requests that they share without knowing of each other.
#![forbid(unsafe_code)]

use delivery::cluster::{Cluster, Options};
use delivery::oracle::assert_billed;
use delivery::scene::{Scene, insert_rows, usage_template};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use fake_lago::{RateLimit, RequestLog, Store};

/// What a template without a `transaction_id` is left with.
const NO_ID: &str = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage",
    "timestamp": {{ row.created_at }}, "properties": {"amount": "{{ row.amount }}"}}"#;

/// So many servers, each with a table `usage`; all deliver to the Lago of the first.
fn shards(count: usize, store: Store) -> Vec<Scene> {
    let mut shards: Vec<Scene> = Vec::new();
    for _ in 0..count {
        let cluster = Cluster::start(&Options::default());
        let shard = Scene::without_destination(cluster, store);
        let first = shards.first().unwrap_or(&shard);
        let (url, key) = (first.lago.url(), first.api_key());
        shard.run("select lago_push.create_destination('lago', url => $1, api_key => $2)", &[&url, &key]);
        shard.usage_table("usage");
        shards.push(shard);
    }
    shards
}

fn bill_with(shard: &Scene, sync: &str, template: &str) {
    let sql = "select lago_push.create_sync($1, source => 'usage', template => $2)";
    shard.run(sql, &[&sync, &template]);
    shard.activate(sync);
}

/// A row with this number and time.
fn insert(shard: &Scene, id: i32, subscription: &str, amount: &str, created_at: &str) {
    shard.sql(&format!(
        "insert into usage overriding system value values ({id}, '{subscription}', {amount}, '{created_at}')"
    ));
}

// ---- ids ----------------------------------------------------------------------------------------

#[test]
fn the_same_sync_and_key_on_two_shards_is_an_id_collision_and_a_dead_letter() {
    let shards = shards(2, Store::Postgres);
    for shard in &shards {
        bill_with(shard, "usage", NO_ID);
    }
    insert(&shards[0], 1, "sub_1", "1.5", "2026-01-15 12:00");
    shards[0].wait_for_exactly(&["usage:insert:1"]);
    insert(&shards[1], 1, "sub_1", "2.5", "2026-01-15 13:00");
    wait_until("the second is a dead letter", PATIENCE, || shards[1].status("usage").dead == 1);
    let reason: String = shards[1].value("select reason from lago_push.dead_letters");
    assert!(reason.starts_with("id collision: "), "{reason}");
    let bill = shards[0].lago.bill();
    assert_eq!(bill.line("sub_1", "usage").map(|line| line.sum.clone()), Some(Some("1.5".into())));
}

#[test]
fn a_sync_named_after_its_shard_makes_ids_no_other_shard_makes() {
    let shards = shards(2, Store::Postgres);
    for (number, shard) in shards.iter().enumerate() {
        bill_with(shard, &format!("usage-{}", number + 1), NO_ID);
        insert(shard, 1, "sub_1", "1.5", "2026-01-15 12:00");
        shards[0].wait_for_event(&format!("usage-{}:insert:1", number + 1));
        shard.wait_until_outbox_is_empty(PATIENCE);
    }
    assert_billed(&shards[0], "values ('sub_1', 1.5), ('sub_1', 1.5)");
}

#[test]
fn a_template_that_names_the_shard_makes_ids_no_other_shard_makes_with_the_clickhouse_store_too() {
    let shards = shards(2, Store::ClickHouse);
    for (number, shard) in shards.iter().enumerate() {
        let prefixed = usage_template("usage").replace("usage-{{", &format!("eu{number}-{{{{"));
        bill_with(shard, "usage", &prefixed);
        insert(shard, 1, "sub_1", "1.5", "2026-01-15 12:00");
        shards[0].wait_for_event(&format!("eu{number}-1"));
        shard.wait_until_outbox_is_empty(PATIENCE);
    }
    assert_billed(&shards[0], "values ('sub_1', 1.5), ('sub_1', 1.5)");
}

// ---- one budget ---------------------------------------------------------------------------------

/// The header that tells whose a request is.
const SHARD: &str = "X-Shard";

/// Three shards with as large a backlog each, which they all begin to deliver at once.
fn drained_together(limit: RateLimit, rows: usize, more: &str) -> Vec<Scene> {
    let shards = shards(3, Store::Postgres);
    shards[0].lago.set_rate_limit(Some(limit));
    for (number, shard) in shards.iter().enumerate() {
        bill_with(shard, "usage", &usage_template("usage").replace("usage-{{", &format!("s{number}-{{{{")));
        shard.sql("select lago_push.hold('lago')");
        let header = format!("{{\"{SHARD}\": \"{number}\"}}");
        shard.sql(&format!("select lago_push.alter_destination('lago', headers => '{header}')"));
        shard.sql(&insert_rows("usage", rows));
        if !more.is_empty() {
            shard.sql(&format!("select lago_push.alter_destination('lago', {more})"));
        }
    }
    for shard in &shards {
        shard.sql("select lago_push.release('lago')");
    }
    for shard in &shards {
        shard.wait_until_outbox_is_empty(LONG_PATIENCE);
        assert_eq!(shard.status("usage").delivered, i64::try_from(rows).expect("few"));
    }
    shards
}

/// How many requests were refused, of how many, and for each shard how many of its requests were among the first
/// half of all that were taken.
fn account(shards: &[Scene]) -> (usize, usize, Vec<usize>) {
    let mut requests = shards[0].lago.requests();
    requests.sort_by_key(|request| request.at);
    let refused = requests.iter().filter(|request| request.status == Some(429)).count();
    let taken: Vec<&RequestLog> = requests.iter().filter(|request| request.status == Some(200)).collect();
    let half = &taken[..taken.len() / 2];
    let of = |n: usize| half.iter().filter(|request| request.header(SHARD) == Some(&n.to_string())).count();
    let shares = (0..shards.len()).map(of).collect();
    let span = taken.last().zip(taken.first()).map(|(last, first)| last.at.duration_since(first.at));
    eprintln!("{refused} of {} refused, shares of the first half {shares:?}, {span:?}", requests.len());
    (refused, requests.len(), shares)
}

#[test]
fn shards_share_what_lago_allows_without_being_told_of_each_other() {
    let shards = drained_together(RateLimit { requests: 12, window_seconds: 1 }, 4000, "");
    assert_billed(&shards[0], &union_of(&shards));
    let (refused, all, shares) = account(&shards);
    assert!(refused * 10 <= all, "{refused} of {all} requests were refused");
    assert!(shares.iter().all(|share| *share > 0), "each gets a share: {shares:?}");
}

#[test]
fn a_rate_divided_among_shards_is_kept_by_all_of_them_together() {
    let limit = RateLimit { requests: 15, window_seconds: 1 };
    let shards = drained_together(limit, 2000, "rate_limit => 4");
    assert_billed(&shards[0], &union_of(&shards));
    let (refused, _, _) = account(&shards);
    assert_eq!(refused, 0, "three times four a second, and a burst of one each");
}

/// All rows of all shards, which differ only in the number of times they are there.
fn union_of(shards: &[Scene]) -> String {
    let copies = shards.len();
    format!("select subscription, amount from usage, generate_series(1, {copies})")
}
