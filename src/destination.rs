//! Destination: what the worker knows of where messages go, as stored, read anew when it changes.
//!
//! Serves the worker. Compared by value, so that a change of one destination leaves the connections
//! of all others alone.

use crate::call::Call;
use crate::lane::{Grouping, Limits};
use crate::outbox::Result;
use crate::pg::cell;
use crate::request::Shape;
use crate::schedule::Schedule;
use crate::sender::{ApiKey, KeySource, Route};
use pgrx::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, PartialEq)]
pub struct Destination {
    pub name: String,
    pub route: Route,
    pub limits: Limits,
    /// Which syncs' messages may share a request: those of one shape.
    pub grouping: Grouping,
    pub gate: Gate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    Held,
}

/// Where a sync's messages go, how, and when.
#[derive(Debug, PartialEq)]
pub struct Delivery {
    pub name: String,
    pub destination: i32,
    pub gate: Gate,
    pub batch_size: usize,
    /// None if the sync asks for a call that cannot be made; then its gate is held.
    pub shape: Option<Arc<Shape>>,
    pub schedule: Option<Schedule>,
    pub replies: Replies,
    /// What of its definition cannot be followed, each in a sentence.
    pub flaws: Vec<String>,
}

/// Whether a sync's replies are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    Kept,
    Forgotten,
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
        read_syncs(client, &mut directory)?;
        let mut rows = client.select(
            "select d.id, d.name, d.url, d.headers::text, d.rate_limit::float8, d.connections,
                    extract(epoch from d.timeout)::float8, d.ca_file, d.proxy, d.api_key_file, k.api_key,
                    d.held_because is not null or h.destination_id is not null,
                    extract(epoch from d.connect_timeout)::float8, extract(epoch from d.read_timeout)::float8
               from lago_push.destination d
               left join lago_push.destination_hold h on h.destination_id = d.id
               left join lago_push.api_key k on k.destination_id = d.id",
            None,
            &[],
        )?;
        while let Some(row) = rows.next() {
            let text = |number| rows.get_datum_by_ordinal(number).map(|datum| datum.map(cell::text_as_utf8));
            let Some(id) = row.get::<i32>(1)? else { continue };
            let connections = usize::try_from(row.get::<i32>(6)?.unwrap_or(1)).unwrap_or(1);
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
                    timeout: duration(row.get(7)?).unwrap_or(Duration::from_secs(30)),
                    connect_timeout: duration(row.get(13)?).unwrap_or(Duration::from_secs(10)),
                    read_timeout: duration(row.get(14)?),
                    connections,
                    ca_file: text(8)?,
                    proxy: text(9)?,
                },
                limits: Limits { connections, rate: row.get(5)? },
                grouping: group(directory.syncs.iter().filter(|(_, sync)| sync.destination == id)),
                gate: if row.get(12)?.unwrap_or(false) { Gate::Held } else { Gate::Open },
            };
            directory.destinations.insert(id, destination);
        }
        Ok(directory)
    })
}

fn read_syncs(client: &spi::SpiClient<'_>, directory: &mut Directory) -> Result<()> {
    let mut rows = client.select(
        "select s.id, s.destination_id, s.state, s.batch_size, s.name, s.endpoint, s.method, s.path, s.root,
                s.headers::text,
                -- A query's is that of its runs.
                case when to_jsonb(s) ->> 'query' is null then s.schedule end, s.keep_replies is not null
           from lago_push.sync s where s.state <> 'draft'",
        None,
        &[],
    )?;
    while let Some(row) = rows.next() {
        let text = |number| rows.get_datum_by_ordinal(number).map(|datum| datum.map(cell::text_as_utf8));
        let (Some(id), Some(destination)) = (row.get::<i32>(1)?, row.get(2)?) else { continue };
        let mut flaws = Vec::new();
        let endpoint = text(6)?.unwrap_or_default();
        let call = Call::of(&endpoint, text(7)?.as_deref(), text(8)?.as_deref(), text(9)?.as_deref());
        if call.is_none() {
            flaws.push(format!(
                "its endpoint {endpoint}, method and path make no call; its messages wait until lago_push.alter_sync() has put that right"
            ));
        }
        let schedule = text(11)?.and_then(|text| match Schedule::parse(&text) {
            Ok(schedule) => Some(schedule),
            Err(why) => {
                flaws.push(format!("its schedule is not followed: {why}"));
                None
            }
        });
        let headers = headers(text(10)?);
        let is_active = text(3)?.as_deref() == Some("active");
        let delivery = Delivery {
            name: text(5)?.unwrap_or_default(),
            destination,
            gate: if is_active && call.is_some() { Gate::Open } else { Gate::Held },
            batch_size: usize::try_from(row.get::<i32>(4)?.unwrap_or(1)).unwrap_or(1),
            shape: call.map(|call| Arc::new(Shape { call, headers })),
            schedule,
            replies: if row.get(12)?.unwrap_or(false) { Replies::Kept } else { Replies::Forgotten },
            flaws,
        };
        directory.syncs.insert(id, delivery);
    }
    Ok(())
}

/// Groups syncs by the shape of their requests. A request holds what the least patient of its syncs
/// allows.
fn group<'a>(syncs: impl Iterator<Item = (&'a i32, &'a Delivery)>) -> Grouping {
    let mut shapes: Vec<&Shape> = Vec::new();
    let mut grouping = Grouping::default();
    for (id, sync) in syncs {
        let Some(shape) = sync.shape.as_deref() else { continue };
        let most = sync.batch_size.min(shape.most());
        let known = shapes.iter().position(|known| *known == shape);
        let group = known.unwrap_or(shapes.len());
        match grouping.most.get_mut(group) {
            Some(least) => *least = most.min(*least),
            None => {
                shapes.push(shape);
                grouping.categories.push(shape.call.category());
                grouping.most.push(most);
            }
        }
        grouping.group_of.insert(*id, group);
    }
    grouping
}

fn duration(seconds: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds?).ok()
}

pub fn headers(json: Option<String>) -> Vec<(String, String)> {
    let parsed: Option<BTreeMap<String, String>> = json.and_then(|json| serde_json::from_str(&json).ok());
    parsed.unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(endpoint: &str, path: Option<&str>, headers: &[(&str, &str)], batch_size: usize) -> Delivery {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let call = Call::of(endpoint, None, path, None);
        Delivery {
            name: String::new(),
            destination: 1,
            gate: Gate::Open,
            batch_size,
            shape: call.map(|call| Arc::new(Shape { call, headers })),
            schedule: None,
            replies: Replies::Forgotten,
            flaws: Vec::new(),
        }
    }

    #[test]
    fn syncs_whose_requests_look_alike_share_them_at_the_smallest_batch_size() {
        let syncs = BTreeMap::from([
            (1, sync("event", None, &[], 100)),
            (2, sync("event", None, &[], 20)),
            (3, sync("event", None, &[("X-Tenant", "a")], 50)),
            (4, sync("manual", Some("/things"), &[], 50)),
            (5, sync("event", None, &[], 70)),
            (6, sync("nonsense", None, &[], 5)),
        ]);
        let grouping = group(syncs.iter());
        assert_eq!(grouping.most, [20, 50, 1], "a call that takes one object goes alone");
        assert_eq!(grouping.group_of, BTreeMap::from([(1, 0), (2, 0), (3, 1), (4, 2), (5, 0)]));
    }
}
