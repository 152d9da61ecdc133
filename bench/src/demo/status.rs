//! What `lago_push.status` says, for the program and for the eye.

use delivery::cluster::Cluster;

use super::{DATABASE, unsigned};
use crate::failure::{Doing, Failure, Outcome};
use crate::session::Session;

pub struct Status {
    pub pending: u64,
    pub delivered: u64,
    pub dead: u64,
    pub last_error: Option<String>,
}

pub fn read(db: &mut Session) -> Outcome<Status> {
    let row = db.row("select pending, delivered, dead, last_error from lago_push.status")?;
    Ok(Status {
        pending: unsigned(row.get(0))?,
        delivered: unsigned(row.get(1))?,
        dead: unsigned(row.get(2))?,
        last_error: row.get(3),
    })
}

/// As psql shows it; one column to a line, because twelve beside each other are wider than a screen.
pub fn expanded(cluster: &Cluster) -> Outcome<String> {
    let mut psql = cluster.program("psql");
    psql.args(["-X", "-x", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, "-c", "select * from lago_push.status"]);
    let output = psql.output().doing("start psql")?;
    if !output.status.success() {
        return Err(Failure::new(format!("psql failed: {}", String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
