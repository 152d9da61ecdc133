//! The ledger, looked at all the time by a session that does nothing else: it must balance at every instant.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::stage::Stage;
use crate::wait::try_until;

/// Between two looks: the looks themselves must not become the load.
const PAUSE: Duration = Duration::from_millis(10);

/// The lines that do not balance, all of one snapshot.
const LOOK: &str = "select l::text from lago_push.ledger l where balanced is not true";

/// Looks until told to stop; gives how often it looked.
pub fn watch(stage: &Stage, stop: &AtomicBool) -> u64 {
    let mut looks = 0;
    let stopped = || stop.load(Ordering::Relaxed);
    while !stopped() {
        let Some(mut session) = stage.connect() else { break };
        while !stopped() {
            match session.query(LOOK, &[]) {
                Ok(rows) => {
                    looks += 1;
                    for row in rows {
                        stage.wrong(format!(
                            "look {looks}, the ledger does not balance: {}",
                            row.get::<_, String>(0)
                        ));
                    }
                }
                Err(error) => {
                    stage.excuse("the watcher", &error);
                    break;
                }
            }
            let _ = try_until(PAUSE, stopped);
        }
    }
    looks
}
