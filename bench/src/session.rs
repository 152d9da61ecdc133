//! A database session whose errors name the statement that failed.

use std::time::{Duration, Instant};

use delivery::cluster::Cluster;
use delivery::scene::error_text;
use postgres::types::{FromSqlOwned, ToSql};
use postgres::{Client, Row};

use crate::failure::{Doing, Failure, Outcome};

pub struct Session {
    client: Client,
}

impl Session {
    pub fn open(cluster: &Cluster, database: &str) -> Outcome<Self> {
        let client = cluster.try_connect(database).doing(&format!("connect to database {database}"))?;
        Ok(Self { client })
    }

    /// Runs statements without parameters.
    pub fn run(&mut self, statements: &str) -> Outcome<()> {
        self.client.batch_execute(statements).map_err(|error| explain(&error, statements))
    }

    /// The same, and how long the server took over it, commit included.
    pub fn timed(&mut self, statement: &str) -> Outcome<Duration> {
        let start = Instant::now();
        self.run(statement)?;
        Ok(start.elapsed())
    }

    pub fn rows(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Outcome<Vec<Row>> {
        self.client.query(sql, parameters).map_err(|error| explain(&error, sql))
    }

    /// The only row of a query.
    pub fn row(&mut self, sql: &str) -> Outcome<Row> {
        self.client.query_one(sql, &[]).map_err(|error| explain(&error, sql))
    }

    /// The only value of a query's only row.
    pub fn value<T: FromSqlOwned>(&mut self, sql: &str) -> Outcome<T> {
        let what = format!("read the answer to: {}", head(sql));
        self.row(sql)?.try_get(0).doing(&what)
    }

    /// Executes a statement planned before, so that only its execution is in the way.
    pub fn prepared(&mut self, sql: &str) -> Outcome<Prepared<'_>> {
        let statement = self.client.prepare(sql).map_err(|error| explain(&error, sql))?;
        Ok(Prepared { client: &mut self.client, statement, sql: sql.to_owned() })
    }
}

pub struct Prepared<'a> {
    client: &'a mut Client,
    statement: postgres::Statement,
    sql: String,
}

impl Prepared<'_> {
    pub fn execute(&mut self, parameters: &[&(dyn ToSql + Sync)]) -> Outcome<()> {
        let done = self.client.execute(&self.statement, parameters);
        done.map(drop).map_err(|error| explain(&error, &self.sql))
    }

    /// The only value of what it returns.
    pub fn value<T: FromSqlOwned>(&mut self, parameters: &[&(dyn ToSql + Sync)]) -> Outcome<T> {
        let row = self.client.query_one(&self.statement, parameters);
        let row = row.map_err(|error| explain(&error, &self.sql))?;
        row.try_get(0).doing(&format!("read what this returns: {}", head(&self.sql)))
    }
}

fn explain(error: &postgres::Error, sql: &str) -> Failure {
    Failure::new(format!("{}\nin: {}", error_text(error), head(sql)))
}

fn head(sql: &str) -> &str {
    const MOST_SHOWN: usize = 400;
    // A cut inside a character shows everything, which is better than nothing.
    sql.get(..MOST_SHOWN).unwrap_or(sql)
}
