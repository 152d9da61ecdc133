//! The harness itself: a server that starts, stops, crashes, comes back, and leaves nothing behind.
//! These need no extension.
#![forbid(unsafe_code)]

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::wait::{PATIENCE, try_until, wait_until};

const VICTIM_VARIABLE: &str = "LAGO_PUSH_TEST_VICTIM";
const FOLDER_PREFIX: &str = "cluster in ";

fn bare() -> Options {
    Options { preload: false, ..Options::default() }
}

#[test]
fn a_cluster_starts_answers_and_leaves_nothing_behind() {
    let cluster = Cluster::start(&bare());
    let folder = cluster.folder().to_owned();
    cluster.create_database("one");
    assert_eq!(cluster.psql("one", "select current_database()"), "one\n");
    let version: i32 = cluster
        .connect("one")
        .query_one("select current_setting('server_version_num')::int", &[])
        .unwrap()
        .get(0);
    assert_eq!(version / 10000, cluster.version().cast_signed());
    drop(cluster);
    assert!(!folder.exists(), "{} is still there", folder.display());
}

#[test]
fn committed_rows_survive_both_ways_of_stopping() {
    let cluster = Cluster::start(&Options { fsync: true, ..bare() });
    cluster.connect("postgres").batch_execute("create table kept (n int)").unwrap();
    for (n, how) in [Stop::Fast, Stop::Immediate].into_iter().enumerate() {
        cluster.connect("postgres").batch_execute("insert into kept values (1)").unwrap();
        cluster.stop(how);
        assert!(cluster.try_connect("postgres").is_err(), "stopped with {how:?} and still answering");
        cluster.start_again();
        let rows: i64 =
            cluster.connect("postgres").query_one("select count(*) from kept", &[]).unwrap().get(0);
        assert_eq!(rows, 1 + i64::try_from(n).unwrap(), "after {how:?}");
    }
}

#[test]
fn a_killed_process_brings_the_server_down_and_back() {
    let cluster = Cluster::start(&bare());
    let mut victim = cluster.connect("postgres");
    let pid: i32 = victim.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    cluster.kill9(pid);
    wait_until("the victim's connection is dead", PATIENCE, || victim.simple_query("select 1").is_err());
    cluster.wait_until_ready();
}

#[test]
fn the_log_tail_leaves_out_other_databases() {
    let cluster = Cluster::start(&bare());
    for name in ["mine", "other"] {
        cluster.create_database(name);
        let error = cluster.connect(name).batch_execute(&format!("select 1 from nothing_in_{name}"));
        assert!(error.is_err());
    }
    let tail = cluster.log_tail(Some("mine"));
    assert!(tail.contains("nothing_in_mine"), "{tail}");
    assert!(!tail.contains("nothing_in_other"), "{tail}");
}

#[test]
fn waiting_ends_with_the_fact_or_with_the_deadline() {
    let mut looks = 0;
    let seen = wait_until("the third look", PATIENCE, || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(seen, 3);
    assert_eq!(try_until(Duration::from_millis(30), || false), None);
}

/// Told to by the test below, in a process of its own: start a cluster, say where, and wait to be killed.
#[test]
fn a_test_run_that_can_be_killed() {
    if env::var_os(VICTIM_VARIABLE).is_some() {
        let cluster = Cluster::start(&bare());
        println!("{FOLDER_PREFIX}{}", cluster.folder().display());
        wait_until("somebody kills this process", PATIENCE, || false);
    }
}

#[test]
fn a_killed_test_run_leaves_nothing_behind() {
    let mut run = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_test_run_that_can_be_killed", "--nocapture"])
        .env(VICTIM_VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok);
    let folder = lines
        .filter_map(|line| line.split_once(FOLDER_PREFIX).map(|(_, folder)| PathBuf::from(folder)))
        .next();
    run.kill().unwrap();
    run.wait().unwrap();
    let folder = folder.expect("the run says where its cluster is");
    wait_until("the cluster of the killed run is gone", PATIENCE, || !folder.exists());
}
