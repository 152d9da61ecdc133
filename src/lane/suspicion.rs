//! Suspicion: which messages seem to bring a destination into trouble each time they go.
//!
//! Below the lane. A proxy in front of Lago may answer one particular body with a 502, or never, which
//! looks like an outage and costs no attempt. It promises that such a message is cornered in ever
//! smaller requests, and then goes seldom, so that it cannot keep back what comes after it.
#![forbid(unsafe_code)]

use crate::backoff;
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Suspicion {
    suspects: Option<Suspects>,
}

/// Messages that were in each of the requests that last closed the destination, and maybe others with
/// ids between theirs.
#[derive(Debug)]
struct Suspects {
    from: i64,
    to: i64,
    /// The most of them one request holds.
    most: usize,
    /// How often one that was alone has closed it.
    alone: u32,
}

/// How a request was composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub first: i64,
    pub last: i64,
    pub messages: usize,
}

impl Suspicion {
    /// A request closed a destination that was open. The first time proves nothing: that is how every
    /// outage begins.
    pub fn strike(&mut self, load: Load) {
        let again = self.suspects.take().filter(|before| load.first <= before.to && before.from <= load.last);
        self.suspects = Some(match again {
            None => Suspects { from: load.first, to: load.last, most: load.messages, alone: 0 },
            Some(before) => Suspects {
                from: before.from.max(load.first),
                to: before.to.min(load.last),
                most: (load.messages / 2).max(1),
                alone: before.alone.saturating_add(u32::from(load.messages == 1)),
            },
        });
    }

    /// The most messages a request holds that begins with this one, if that is limited.
    pub fn most_from(&self, id: i64) -> Option<usize> {
        let suspects =
            self.suspects.as_ref().filter(|suspects| (suspects.from..=suspects.to).contains(&id))?;
        Some(suspects.most)
    }

    /// How long a message that has to go again waits: one that was alone leaves the others time.
    pub fn wait(&self, id: i64) -> Option<Duration> {
        let culprit = self.suspects.as_ref().filter(|suspects| suspects.from == id && suspects.to == id)?;
        (culprit.alone > 0).then(|| backoff::ceiling(culprit.alone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(first: i64, last: i64) -> Load {
        Load { first, last, messages: (last - first + 1) as usize }
    }

    #[test]
    fn what_closes_a_destination_again_and_again_goes_in_ever_smaller_requests() {
        let mut suspicion = Suspicion::default();
        suspicion.strike(load(1, 8));
        assert_eq!(suspicion.most_from(1), Some(8), "the first time is no reason");
        suspicion.strike(load(1, 8));
        assert_eq!((suspicion.most_from(1), suspicion.most_from(9)), (Some(4), None));
        suspicion.strike(load(5, 8));
        assert_eq!((suspicion.most_from(4), suspicion.most_from(5)), (None, Some(2)));
        suspicion.strike(load(5, 6));
        assert_eq!((suspicion.most_from(5), suspicion.wait(5)), (Some(1), None));
        for alone in 1..4 {
            suspicion.strike(load(6, 6));
            assert_eq!(suspicion.wait(6), Some(backoff::ceiling(alone)));
        }
    }

    #[test]
    fn trouble_that_has_nothing_in_common_with_the_last_is_a_new_one() {
        let mut suspicion = Suspicion::default();
        suspicion.strike(load(1, 8));
        suspicion.strike(load(1, 8));
        suspicion.strike(load(9, 9));
        assert_eq!((suspicion.most_from(1), suspicion.most_from(9)), (None, Some(1)));
        assert_eq!(suspicion.wait(9), None);
    }
}
