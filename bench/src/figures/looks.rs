//! How long a look at the views takes, of the kind that monitoring takes every few seconds.

use crate::failure::Outcome;
use crate::session::Session;
use crate::spread::milliseconds;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Status,
    Metrics,
    Ledger,
    Destinations,
    Workers,
}

pub const VIEWS: [View; 5] = [View::Status, View::Metrics, View::Ledger, View::Destinations, View::Workers];

impl View {
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Metrics => "metrics",
            Self::Ledger => "ledger",
            Self::Destinations => "destinations",
            Self::Workers => "workers",
        }
    }
}

/// What each look at each view took, in milliseconds.
#[derive(Default)]
pub struct Looks {
    taken: Vec<(View, f64)>,
}

impl Looks {
    /// Looks at every view once.
    pub fn take(&mut self, db: &mut Session) -> Outcome<()> {
        for view in VIEWS {
            let took = db.timed(&format!("select * from lago_push.{}", view.name()))?;
            self.taken.push((view, milliseconds(took)));
        }
        Ok(())
    }

    pub fn of(&self, view: View) -> impl Iterator<Item = f64> {
        self.taken.iter().filter(move |(seen, _)| *seen == view).map(|(_, took)| *took)
    }
}

/// So many looks at every view, after one that is not counted: a session's first look fills its caches.
pub fn look(db: &mut Session, times: usize) -> Outcome<Looks> {
    Looks::default().take(db)?;
    let mut looks = Looks::default();
    for _ in 0..times {
        looks.take(db)?;
    }
    Ok(looks)
}
