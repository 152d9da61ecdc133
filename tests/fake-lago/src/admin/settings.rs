//! `POST /_fake/settings`: what can be changed while the server runs; only the keys that are there change.

use std::time::Duration;

use serde_json::Value;

use crate::app::{App, lock};
use crate::config::{Access, Denied, RateLimit, Store};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    store: Option<Store>,
    api_key: Option<String>,
    batch_limit: Option<usize>,
    denied: Option<Vec<Denied>>,
    legacy_partial_batch: Option<bool>,
    rate_limit: Option<Option<RateLimit>>,
    rate_limit_of_others: Option<Option<RateLimit>>,
    latency: Option<Duration>,
    seed: Option<u64>,
}

impl Change {
    pub fn read(value: &Value) -> Result<Change, String> {
        let fields = value.as_object().ok_or("the body is an object")?;
        let mut change = Change::default();
        for (name, value) in fields {
            let number = || value.as_u64().ok_or_else(|| format!("{name} is a whole number"));
            match name.as_str() {
                "store" => change.store = Some(store(value)?),
                "api_key" => change.api_key = Some(value.as_str().ok_or("api_key is a text")?.to_owned()),
                "batch_limit" => change.batch_limit = usize::try_from(number()?).ok(),
                "denied" => {
                    let denied = value.as_array().ok_or("denied is an array")?;
                    change.denied = Some(denied.iter().map(permission).collect::<Result<_, _>>()?);
                }
                "legacy_partial_batch" => {
                    let legacy = value.as_bool().ok_or("legacy_partial_batch is true or false")?;
                    change.legacy_partial_batch = Some(legacy);
                }
                "rate_limit" => change.rate_limit = Some(rate_limit(value)?),
                "rate_limit_of_others" => change.rate_limit_of_others = Some(rate_limit(value)?),
                "latency_ms" => change.latency = Some(Duration::from_millis(number()?)),
                "seed" => change.seed = Some(number()?),
                other => return Err(format!("there is no setting {other:?}")),
            }
        }
        Ok(change)
    }

    pub fn apply(self, app: &App) {
        let limited = self.rate_limit.is_some() || self.rate_limit_of_others.is_some();
        app.change_settings(|settings| {
            let config = &mut settings.config;
            replace(&mut config.store, self.store);
            replace(&mut config.api_key, self.api_key);
            replace(&mut config.batch_limit, self.batch_limit);
            replace(&mut config.denied, self.denied);
            replace(&mut config.legacy_partial_batch, self.legacy_partial_batch);
            replace(&mut config.rate_limit, self.rate_limit);
            replace(&mut config.rate_limit_of_others, self.rate_limit_of_others);
            replace(&mut config.latency, self.latency);
        });
        if limited {
            app.restart_windows();
        }
        if let Some(seed) = self.seed {
            lock(&app.faults).seed(seed);
        }
    }
}

fn replace<T>(old: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *old = new;
    }
}

fn store(value: &Value) -> Result<Store, String> {
    match value.as_str() {
        Some("postgres") => Ok(Store::Postgres),
        Some("clickhouse") => Ok(Store::ClickHouse),
        _ => Err("store is \"postgres\" or \"clickhouse\"".to_owned()),
    }
}

/// Such as `"write event"` or `"read wallet_transaction"`.
fn permission(value: &Value) -> Result<Denied, String> {
    let (access, resource) = value.as_str().and_then(|text| text.split_once(' ')).unwrap_or_default();
    let access = match access {
        "read" => Access::Read,
        "write" => Access::Write,
        _ => return Err("denied holds texts such as \"write event\"".to_owned()),
    };
    Ok(Denied { access, resource: resource.to_owned() })
}

/// `{"requests": 500, "seconds": 1}`, or null for no limit.
fn rate_limit(value: &Value) -> Result<Option<RateLimit>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let requests = value.get("requests").and_then(Value::as_u64).ok_or("a rate limit has requests")?;
    let window_seconds = value.get("seconds").and_then(Value::as_u64).unwrap_or(1);
    Ok(Some(RateLimit { requests, window_seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_keys_that_are_there_change() {
        assert_eq!(Change::read(&json!({})), Ok(Change::default()));
        let change = Change::read(&json!({
            "api_key": "k", "denied": ["write event"], "legacy_partial_batch": true, "rate_limit": {"requests": 5}, "rate_limit_of_others": null,
        }));
        let expected = Change {
            api_key: Some("k".to_owned()),
            denied: Some(vec![Denied::write("event")]),
            legacy_partial_batch: Some(true),
            rate_limit: Some(Some(RateLimit { requests: 5, window_seconds: 1 })),
            rate_limit_of_others: Some(None),
            ..Change::default()
        };
        assert_eq!(change, Ok(expected));
        for wrong in [json!([]), json!({"colour": 1}), json!({"denied": ["event"]}), json!({"store": "x"})] {
            assert!(Change::read(&wrong).is_err(), "{wrong}");
        }
    }
}
