//! Where the events go: the stand-in for Lago, or a real one named by the environment.
//!
//! The stand-in says what Lago would bill. A real Lago is asked how many events it has, and the demo says what
//! it cannot know beyond that.

use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fake_lago::{Config, FakeLago, Metric, Subscription};
use serde_json::Value;
use ureq::tls::{RootCerts, TlsConfig};

use super::{BRANCHES, METRIC};
use crate::failure::{Doing, Failure, Outcome};

pub const URL_VARIABLE: &str = "LAGO_URL";
pub const KEY_VARIABLE: &str = "LAGO_API_KEY";

/// A real Lago may show events a few seconds after it has accepted them.
const SHOWN_AFTER: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_FOR_AT_MOST: Duration = Duration::from_secs(30);

pub enum Place {
    StandIn { lago: FakeLago, api_key: String },
    Real { url: String, api_key: String, agent: ureq::Agent },
}

impl Place {
    pub fn from_environment() -> Outcome<Self> {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        match (set(URL_VARIABLE), set(KEY_VARIABLE)) {
            (None, None) => Self::stand_in(),
            (Some(url), Some(api_key)) => Ok(Self::real(url.trim_end_matches('/').to_owned(), api_key)),
            (Some(_), None) => Err(Failure::new(format!(
                "{URL_VARIABLE} is set and {KEY_VARIABLE} is not: set both, or none to use a stand-in for Lago"
            ))),
            (None, Some(_)) => Err(Failure::new(format!(
                "{KEY_VARIABLE} is set and {URL_VARIABLE} is not: set both (Lago Cloud is \
                 https://api.getlago.com/api/v1), or none to use a stand-in for Lago"
            ))),
        }
    }

    fn stand_in() -> Outcome<Self> {
        let api_key = "demo-key".to_owned();
        let lago = FakeLago::start(Config { api_key: api_key.clone(), ..Config::default() });
        let lago = lago.doing("start the stand-in for Lago")?;
        lago.define_metric(Metric::sum(METRIC, "delta"));
        for branch in 1..=BRANCHES {
            let subscription = Subscription::always(&subscription(branch), &format!("customer-{branch}"));
            lago.define_subscription(subscription);
        }
        Ok(Self::StandIn { lago, api_key })
    }

    fn real(url: String, api_key: String) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .timeout_global(Some(ASK_FOR_AT_MOST))
            .accept("application/json")
            .build()
            .new_agent();
        Self::Real { url, api_key, agent }
    }

    pub fn url(&self) -> String {
        match self {
            Self::StandIn { lago, .. } => lago.url(),
            Self::Real { url, .. } => url.clone(),
        }
    }

    pub fn api_key(&self) -> &str {
        match self {
            Self::StandIn { api_key, .. } | Self::Real { api_key, .. } => api_key,
        }
    }

    /// What transaction ids begin with. The stand-in is new each time; a real Lago remembers the last demo and
    /// would take the same ids for repetitions.
    pub fn id_prefix(&self) -> String {
        match self {
            Self::StandIn { .. } => "pgbench".to_owned(),
            Self::Real { .. } => {
                let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                format!("pgbench-{seconds}")
            }
        }
    }

    pub fn description(&self) -> String {
        match self {
            Self::StandIn { lago, .. } => {
                format!("fake-lago, a stand-in as strict as Lago, at {}", lago.url())
            }
            Self::Real { url, .. } => format!("{url}, the one {URL_VARIABLE} names"),
        }
    }

    /// What must be there before events are sent, as far as the demo cannot see to it.
    pub fn needs(&self) -> Option<String> {
        match self {
            Self::StandIn { .. } => None,
            Self::Real { .. } => Some(format!(
                "This Lago needs a billable metric with code \"{METRIC}\" (sum of the property \"delta\") and active\n\
                 subscriptions with external ids \"{}\" to \"{}\". Lago accepts events for subscriptions\n\
                 and metrics it does not know, and never bills them. For your own tests only: some ten thousand\n\
                 events will stay there.",
                subscription(1),
                subscription(BRANCHES)
            )),
        }
    }

    /// How many events of the metric a real Lago has before the demo sends any.
    pub fn count_before(&self) -> Outcome<u64> {
        match self {
            Self::StandIn { .. } => Ok(0),
            Self::Real { url, api_key, agent } => count(agent, url, api_key),
        }
    }

    /// How many events it has received since, as soon as it shows `expected`, or else after a while.
    pub fn count_since(&self, before: u64, expected: u64) -> Outcome<u64> {
        match self {
            Self::StandIn { lago, .. } => Ok(lago.stored_count()),
            Self::Real { url, api_key, agent } => {
                let give_up_at = Instant::now() + SHOWN_AFTER;
                loop {
                    let since = count(agent, url, api_key)?.saturating_sub(before);
                    if since >= expected || Instant::now() >= give_up_at {
                        return Ok(since);
                    }
                    thread::sleep(ASK_EVERY);
                }
            }
        }
    }
}

pub fn subscription(branch: impl std::fmt::Display) -> String {
    format!("branch-{branch}")
}

/// One event is asked for; the count comes with it.
fn count(agent: &ureq::Agent, url: &str, api_key: &str) -> Outcome<u64> {
    let what = format!("ask {url}/events how many events it has");
    let request = agent.get(format!("{url}/events")).query("code", METRIC).query("per_page", "1");
    let mut answer = request.header("authorization", format!("Bearer {api_key}")).call().doing(&what)?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().read_to_string().doing(&what)?;
    if status != 200 {
        let why = if status == 401 { format!(": it does not accept {KEY_VARIABLE}") } else { String::new() };
        return Err(Failure::new(format!("could not {what}: status {status}{why}")));
    }
    let body: Value = serde_json::from_str(&body).doing(&what)?;
    let total = body.pointer("/meta/total_count").and_then(Value::as_u64);
    total.ok_or_else(|| Failure::new(format!("could not {what}: its answer has no meta.total_count")))
}
