//! Destination: what the worker knows of where messages go, as stored, read anew when it changes.
//!
//! Serves the worker. Compared by value, so that a change of one destination leaves the connections
//! of all others alone.

use crate::lane::Limits;
use crate::outbox::Result;
use crate::pg::cell;
use crate::sender::{ApiKey, KeySource, Route};
use pgrx::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, PartialEq)]
pub struct Destination {
    pub name: String,
    pub route: Route,
    pub limits: Limits,
    pub gate: Gate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    Held,
}

/// Where a sync's messages go, and whether they do.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery {
    pub destination: i32,
    pub gate: Gate,
    pub batch_size: usize,
}

/// All destinations and syncs of a database, by number.
#[derive(Debug, Default, PartialEq)]
pub struct Directory {
    pub destinations: BTreeMap<i32, Destination>,
    pub syncs: BTreeMap<i32, Delivery>,
}

/// Reads the directory, in the current transaction.
pub fn read() -> Result<Directory> {
    Spi::connect(|client| {
        let mut directory = Directory::default();
        let syncs = client.select("select s.id, s.destination_id, s.state, s.batch_size from lago_push.sync s where s.state <> 'draft'", None, &[])?;
        for row in syncs {
            let (Some(id), Some(destination)) = (row.get::<i32>(1)?, row.get(2)?) else { continue };
            let gate =
                if row.get::<String>(3)?.as_deref() == Some("active") { Gate::Open } else { Gate::Held };
            let batch_size = usize::try_from(row.get::<i32>(4)?.unwrap_or(1)).unwrap_or(1);
            directory.syncs.insert(id, Delivery { destination, gate, batch_size });
        }
        let mut rows = client.select(
            "select d.id, d.name, d.url, d.headers::text, d.rate_limit::float8, d.connections,
                    extract(epoch from d.timeout)::float8, d.ca_file, d.proxy, d.api_key_file, k.api_key,
                    d.held_because is not null
               from lago_push.destination d
               left join lago_push.api_key k on k.destination_id = d.id",
            None,
            &[],
        )?;
        while let Some(row) = rows.next() {
            let text = |number| rows.get_datum_by_ordinal(number).map(|datum| datum.map(cell::text_as_utf8));
            let Some(id) = row.get::<i32>(1)? else { continue };
            let connections = usize::try_from(row.get::<i32>(6)?.unwrap_or(1)).unwrap_or(1);
            // A request holds what the least patient of its syncs allows; one lane serves them all.
            let batch_size = directory
                .syncs
                .values()
                .filter(|sync| sync.destination == id)
                .map(|sync| sync.batch_size)
                .min()
                .unwrap_or(100);
            let key = match (text(11)?, text(10)?) {
                (Some(key), _) => KeySource::Stored(ApiKey::new(key)),
                (None, Some(path)) => KeySource::File(path),
                (None, None) => KeySource::None,
            };
            let destination = Destination {
                name: text(2)?.unwrap_or_default(),
                route: Route {
                    url: text(3)?.unwrap_or_default(),
                    key,
                    headers: headers(text(4)?),
                    timeout: Duration::try_from_secs_f64(row.get(7)?.unwrap_or(30.0))
                        .unwrap_or(Duration::from_secs(30)),
                    connections,
                    ca_file: text(8)?,
                    proxy: text(9)?,
                },
                limits: Limits { connections, batch_size, rate: row.get(5)? },
                gate: if row.get(12)?.unwrap_or(false) { Gate::Held } else { Gate::Open },
            };
            directory.destinations.insert(id, destination);
        }
        Ok(directory)
    })
}

fn headers(json: Option<String>) -> Vec<(String, String)> {
    let parsed: Option<BTreeMap<String, String>> = json.and_then(|json| serde_json::from_str(&json).ok());
    parsed.unwrap_or_default().into_iter().collect()
}
