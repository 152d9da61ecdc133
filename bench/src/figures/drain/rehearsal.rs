//! Before anything is measured: all contestants send the same events.

use std::time::Duration;

use fake_lago::{FakeLago, StoredEvent};
use serde_json::{Map, Value};

use super::super::ground::{BATCH, CONNECTIONS, Ground};
use super::super::raw;
use super::super::stand_in::API_KEY;
use super::super::witness::{Memory, with_witness};
use super::{Pollers, RUNNERS, Runner, fill, fill_for_poller};
use crate::failure::{Failure, Outcome};

/// More than one batch, and the last one not full.
const EVENTS: usize = 250;
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// What Lago understood of an event.
#[derive(Debug, PartialEq)]
struct Understood {
    transaction_id: String,
    subscription: Option<String>,
    code: String,
    timestamp_micros: i128,
    properties: Map<String, Value>,
}

/// Fails if one of them makes less, or something else, of the same outbox.
pub fn check(ground: &mut Ground, pollers: &mut Pollers) -> Outcome<()> {
    let payloads = fill(ground, EVENTS)?;
    with_witness(ground, Memory::Events, |ground, lago| {
        let requests = raw::batches(&payloads, BATCH, API_KEY);
        let mut first: Option<Vec<Understood>> = None;
        for runner in RUNNERS {
            lago.reset();
            match runner {
                Runner::Raw => {
                    raw::send_all(lago.addr(), &requests, CONNECTIONS)?;
                }
                Runner::Ours => ground.release()?,
                Runner::Poller(certificates) => {
                    let Some(poller) = pollers.of(certificates) else { continue };
                    fill_for_poller(ground, &payloads)?;
                    poller.begin(&format!("http://{}/", lago.addr()))?;
                    poller.finish()?;
                }
            }
            let all = |lago: &FakeLago| lago.stored_count() >= EVENTS as u64;
            lago.wait_for("the rehearsal's events", ARRIVES_WITHIN, all).map_err(Failure::new)?;
            let understood = understood(lago);
            if understood.len() != EVENTS || first.as_ref().is_some_and(|first| *first != understood) {
                return Err(Failure::new(format!("{runner:?} sends other events than the raw client")));
            }
            first.get_or_insert(understood);
        }
        Ok(())
    })
}

fn understood(lago: &FakeLago) -> Vec<Understood> {
    let events = lago.stored();
    let mut understood: Vec<Understood> = events.iter().map(of).collect();
    understood.sort_by(|one, other| one.transaction_id.cmp(&other.transaction_id));
    understood
}

fn of(event: &StoredEvent) -> Understood {
    Understood {
        transaction_id: event.transaction_id.clone(),
        subscription: event.external_subscription_id.clone(),
        code: event.code.clone(),
        timestamp_micros: event.timestamp_micros,
        properties: event.properties.clone(),
    }
}
