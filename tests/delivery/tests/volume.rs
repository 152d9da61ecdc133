//! Much at once: a very large statement, and many sessions committing out of order, in both event stores.
#![forbid(unsafe_code)]

use delivery::oracle::assert_billed_exactly_once;
use delivery::random::Random;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::try_until;
use delivery::writers::{Writers, writing_time};
use fake_lago::Store;

fn one_statement_of_200_000_rows(store: Store) {
    let scene = Scene::with_store(store);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 200_000));
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 200_000);
}

#[test]
fn two_hundred_thousand_rows_of_one_statement_are_billed_by_the_postgres_store() {
    one_statement_of_200_000_rows(Store::Postgres);
}

#[test]
fn two_hundred_thousand_rows_of_one_statement_are_billed_by_the_clickhouse_store() {
    one_statement_of_200_000_rows(Store::ClickHouse);
}

fn eight_sessions(store: Store, seed: u64) {
    let scene = Scene::with_store(store);
    scene.billed_table("usage");
    let writers = Writers::start(&scene, "usage", 8, &mut Random::seeded(seed));
    // Nothing to wait for: the writing time itself is the point.
    let _ = try_until(writing_time(), || false);
    let commits = writers.stop();
    assert!(commits > 100, "only {commits} commits: the writers did not write");
    assert_billed_exactly_once(&scene);
}

#[test]
fn eight_sessions_committing_out_of_order_are_billed_by_the_postgres_store() {
    eight_sessions(Store::Postgres, 8);
}

#[test]
fn eight_sessions_committing_out_of_order_are_billed_by_the_clickhouse_store() {
    eight_sessions(Store::ClickHouse, 9);
}
