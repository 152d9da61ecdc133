//! docs/recipes, tried out: every page runs from top to bottom in a database of its own, shows what it shows,
//! and Lago has in the end what the page says it has.
//!
//! Each test compares the whole account of its Lago: what is billed, what never will be, every request that is
//! not of events, and the objects there are. [`delivery::markdown`] says how blocks are run and compared.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use delivery::cluster::{Cluster, Options};
use delivery::markdown::{Page, Stage, normal};
use delivery::scene::Scene;
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::{Effect, Fault, Kind, Metric, RequestLog, Store, Storing, Subscription};
use serde_json::Value;

/// The host of another database on the pages; in the tests, the folder of the same server's socket.
const HOST: &str = "shop.internal";

/// A folder of the server's machine on the pages; in the tests, one in which the server may write.
const FOLDER: &str = "/srv/sales";

/// Every recipe has these, in this order.
const HEADINGS: [&str; 3] = ["## What you have today", "## What it becomes", "## What to watch out for"];

/// A request of so many events has been filled, and did not just have company by chance.
const LARGE: usize = 10;

/// Wider lines are a nuisance in a terminal. Blocks show what they show.
const WIDEST: usize = 120;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes")
}

fn page(name: &str) -> Page {
    let path = folder().join(format!("{name}.md"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    Page { name: format!("{name}.md"), text }
}

/// A fresh database without anything, and a Lago that has the metrics and subscriptions a page takes for
/// granted.
fn scene(cluster: Arc<Cluster>, metrics: &[Metric], subscriptions: &[&str]) -> Scene {
    let scene = Scene::without_extension(cluster, Store::Postgres, "");
    for metric in metrics {
        scene.lago.define_metric(metric.clone());
    }
    for subscription in subscriptions {
        let customer = subscription.trim_start_matches("sub_");
        scene.lago.define_subscription(Subscription::always(subscription, customer));
    }
    scene
}

/// Runs the page, then compares what Lago has.
fn try_out(name: &str, scene: &Scene, expected: &str) {
    assert!(!expected.trim().is_empty(), "{name}: nothing is said of what Lago has in the end");
    let before = objects(scene);
    let here = scene.cluster.folder().display().to_string();
    let stage = Stage::new(scene).with(HOST, here.clone()).with(FOLDER, here);
    let tried = page(name).try_out(&stage, |_| {
        wait_for_replication(scene);
        wait_for_runs(scene);
    });
    assert!(tried.run >= 4, "{name}: only {} SQL blocks were found", tried.run);
    assert!(tried.compared >= 2, "{name}: only {} blocks with output were found", tried.compared);
    let account = account(scene, &before);
    assert_eq!(account, expected.trim(), "{name}: what Lago has in the end is\n{account}\n");
}

/// A person looks some time after a row was written on the other side.
fn wait_for_replication(scene: &Scene) {
    if scene.value("select exists (select from pg_subscription s where s.subdbid = (select d.oid from pg_database d where d.datname = current_database()))") {
        let written: String = scene.value("select pg_current_wal_lsn()::text");
        let applied = format!(
            "select exists (select from pg_stat_replication r where r.state = 'streaming' and r.replay_lsn >= '{written}')"
        );
        wait_until("replication has caught up", PATIENCE, || scene.value::<bool>(&applied));
    }
}

/// And some time after a run was asked for.
fn wait_for_runs(scene: &Scene) {
    if scene.value("select to_regclass('lago_push.run_request') is not null") {
        wait_until("every run that was asked for is over", PATIENCE, || {
            scene.value::<bool>("select not exists (select from lago_push.run_request)")
        });
    }
}

/// What Lago has got since there were these objects, as text without what differs from run to run.
fn account(scene: &Scene, before: &[String]) -> String {
    let (lago, bill) = (&scene.lago, scene.lago.bill());
    let mut lines: Vec<String> = Vec::new();
    for line in &bill.lines {
        let (subscription, code) = (&line.external_subscription_id, &line.code);
        let sum = line.sum.as_deref().unwrap_or("none");
        lines.push(format!("bill: {subscription} {code}: {} events, sum {sum}", line.events));
    }
    lines.extend(
        bill.never_billed
            .iter()
            .map(|event| format!("never billed: {} ({})", event.transaction_id, event.reason)),
    );
    lines.extend(bill.billed_twice.iter().map(|event| format!("billed twice: {}", event.transaction_id)));
    lines.extend(lago.sent_differently().iter().map(|id| format!("sent differently: {id}")));
    let largest = lago.requests().iter().map(|request| request.events).max().unwrap_or(0);
    if largest >= LARGE {
        lines.push(format!("largest request: {largest} events"));
    }
    let mut requests: Vec<String> = lago.requests().iter().filter_map(shown).collect();
    requests.sort();
    lines.extend(requests);
    lines.extend(objects(scene).into_iter().filter(|object| !before.contains(object)));
    normal(&lines.join("\n"))
}

fn objects(scene: &Scene) -> Vec<String> {
    let kinds = [Kind::Customer, Kind::Subscription, Kind::Wallet, Kind::WalletTransaction];
    let of = |kind: Kind| {
        let mut objects: Vec<String> = scene.lago.objects(kind).iter().map(plain).collect();
        objects.sort();
        objects.into_iter().map(move |object| format!("{}: {object}", kind.name()))
    };
    kinds.into_iter().flat_map(of).collect()
}

/// A request; none for events that were taken, which the bill shows, in however many requests they came.
fn shown(request: &RequestLog) -> Option<String> {
    let path = request.path.trim_start_matches("/api/v1");
    let taken = request.status == Some(200);
    if taken && matches!(path, "/events" | "/events/batch") {
        return None;
    }
    let status = request.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let path = path.split('?').next().unwrap_or_default();
    let body = request.body.as_deref().unwrap_or_default();
    Some(format!("{} {path}{query} {body} -> {status}", request.method))
}

/// An object without its ids, times and empty fields.
fn plain(object: &Value) -> String {
    let fields = object.as_object().expect("an object has fields");
    let telling = |(name, value): &(&String, &Value)| {
        !name.starts_with("lago_") && !name.ends_with("_at") && !value.is_null()
    };
    let fields = fields.iter().filter(telling).map(|(name, value)| match value {
        Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    });
    // Their order tells only which call came first.
    BTreeSet::from_iter(fields).into_iter().collect::<Vec<_>>().join(", ")
}

/// A test for each page: its name, where it begins, and what must hold in the end besides what Lago has, which
/// stands in a file of its own.
macro_rules! recipes {
    ($($test:ident, $page:literal, $begin:expr $(, $further:expr)?;)*) => {
        const RECIPES: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            let scene = $begin();
            try_out($page, &scene, include_str!(concat!("recipes/", $page, ".txt")));
            $($further(&scene);)?
        })*
    };
}

recipes! {
    from_hightouch, "from-hightouch",
        || scene(Cluster::shared(), &[Metric::sum("exports", "gb")], &["sub_acme"]);
    from_nexla, "from-nexla",
        || with_plan(scene(Cluster::shared(), &[Metric::sum("requests", "bytes")], &[]));
    from_segment, "from-segment",
        || scene(
            Cluster::shared(),
            &[Metric::sum("api_calls", "bytes"), Metric::sum("exports", "gb")],
            &["sub_acme", "sub_globex"],
        );
    usage_in_updates, "usage-in-updates",
        || scene(Cluster::shared(), &[Metric::sum("storage", "gb")], &["sub_acme", "sub_globex"]);
    soft_deletes, "soft-deletes",
        || with_plan(scene(Cluster::shared(), &[], &[]));
    prepaid_credits, "prepaid-credits", with_an_answer_lost;
    logical_replication, "logical-replication",
        || scene(
            Cluster::start(&Options::default().with("wal_level", "logical")),
            &[Metric::sum("api_calls", "bytes")],
            &["sub_acme"],
        );
    views, "views",
        || scene(Cluster::shared(), &[Metric::sum("traffic", "gb")], &["sub_acme", "sub_globex"]);
    materialized_views, "materialized-views",
        || scene(Cluster::shared(), &[Metric::sum("seats", "seats")], &["sub_acme"]);
    warehouses, "warehouses",
        || scene(Cluster::shared(), &[Metric::sum("facts", "gb")], &["sub_acme", "sub_globex"]);
    spreadsheets, "spreadsheets",
        || scene(Cluster::shared(), &[Metric::sum("support", "hours")], &["sub_acme", "sub_globex"]);
    partitioned_tables, "partitioned-tables",
        || scene(Cluster::shared(), &[Metric::sum("calls", "bytes")], &["sub_acme"]);
    foreign_tables, "foreign-tables",
        || scene(Cluster::shared(), &[Metric::sum("api_calls", "bytes")], &["sub_acme"]);
    write_back_lago_id, "write-back-lago-id", || scene(Cluster::shared(), &[], &[]), the_ids_are_lagos;
}

fn the_ids_are_lagos(scene: &Scene) {
    for row in scene.rows("select id, lago_id::text from customers") {
        let customer = scene.lago.customer(row.get(0)).expect("Lago has it");
        assert_eq!(customer["lago_id"].as_str(), row.get(1), "{}", row.get::<_, &str>(0));
    }
}

fn with_plan(scene: Scene) -> Scene {
    scene.lago.define_plan("standard");
    scene
}

/// The page has the answer to the third top-up lost.
fn with_an_answer_lost() -> Scene {
    let scene = scene(Cluster::shared(), &[], &[]);
    scene.lago.define_customer("acme");
    let lost = Fault::next(1, Effect::Reset(Storing::Done)).on_path("/wallet_transactions");
    scene.lago.fault(lost.on_body("insert:3\""));
    scene
}

#[test]
fn every_recipe_is_tried_out_and_in_the_index() {
    let names = fs::read_dir(folder()).expect("the folder can be read").map(|entry| {
        let name = entry.expect("the folder can be read").file_name();
        name.into_string().expect("names are text")
    });
    let there: BTreeSet<String> = names.filter(|name| name != "README.md").collect();
    let known: BTreeSet<String> = RECIPES.iter().map(|name| format!("{name}.md")).collect();
    assert_eq!(there, known, "the files, and those there is a test for");
    let index: BTreeSet<String> =
        page("README").links().into_iter().filter(|target| !target.starts_with("../")).collect();
    assert_eq!(index, known, "the index and the files");
}

#[test]
fn every_recipe_is_built_alike_and_its_links_lead_somewhere() {
    for name in RECIPES.iter().chain(&["README"]) {
        let page = page(name);
        page.check_blocks(&["sql", "text", "js", "json"]);
        for (number, line) in page.text.lines().enumerate() {
            let in_table = line.starts_with('|');
            let shown =
                page.blocks().iter().any(|block| block.language == "text" && block.text.contains(line));
            let wide = line.chars().count() > WIDEST && !in_table && !shown;
            assert!(!wide, "{name} line {}: wider than {WIDEST} characters", number + 1);
        }
        for target in page.links() {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() { format!("{name}.md") } else { file.to_owned() };
            let text = fs::read_to_string(folder().join(&file));
            let text = text.unwrap_or_else(|e| panic!("{name}: no file {file}: {e}"));
            let anchors = Page { name: file, text }.anchors();
            let leads_there = anchor.is_empty() || anchors.iter().any(|known| known == anchor);
            assert!(leads_there, "{name}: no heading {target}");
        }
        if *name == "README" {
            continue;
        }
        let prose = page.prose();
        let headings: Vec<&str> = prose.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, HEADINGS, "{name}");
    }
}
