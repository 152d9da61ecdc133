//! Writes the SQL that brings a released version of lago_push to what `create extension` makes now. See
//! scripts/upgrade-sql.
#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use delivery::catalog;
use delivery::cluster::{Cluster, Options};

fn main() -> ExitCode {
    let Some(released) = env::args().nth(1) else {
        eprintln!("usage: upgrade-sql RELEASED_VERSION");
        return ExitCode::FAILURE;
    };
    let cluster = Cluster::start(&Options::default());
    let of = |database: &str, version: &str| {
        cluster.create_database(database);
        let mut db = cluster.connect(database);
        let sql = format!("create extension lago_push{version}");
        db.batch_execute(&sql).unwrap_or_else(|e| panic!("{e:?}"));
        catalog::facts(&mut db)
    };
    let old = of("old", &format!(" version '{released}'"));
    let new = of("new", "");
    print!("{}", catalog::update(&old, &new));
    ExitCode::SUCCESS
}
