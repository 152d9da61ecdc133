//! The only place in these tests where time passes.
//!
//! A test never sleeps for "long enough": it names the fact it is waiting for and how long that fact may
//! take at most. It goes on the moment the fact is there, and a test that fails says which fact never came.

use std::thread;
use std::time::{Duration, Instant};

/// How long a fact may take that normally takes milliseconds. Generous, because a debug build on two busy
/// cores is slow and a passing test never waits it out.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For what moves hundreds of thousands of rows.
pub const LONG_PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at first: a fact that is nearly there is seen at once.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// And after a while, so that a long wait does not disturb what is being watched.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What a look can answer: `bool`, or `Option` when the fact carries a value.
pub trait Look {
    type Seen;
    fn seen(self) -> Option<Self::Seen>;
}

impl Look for bool {
    type Seen = ();
    fn seen(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Look for Option<T> {
    type Seen = T;
    fn seen(self) -> Option<T> {
        self
    }
}

/// Looks until `look` sees the fact called `what`, and returns what it saw. Panics after `deadline`.
#[track_caller]
pub fn wait_until<L: Look>(what: &str, deadline: Duration, look: impl FnMut() -> L) -> L::Seen {
    match try_until(deadline, look) {
        Some(seen) => seen,
        None => panic!("waited {} s in vain until {what}", deadline.as_secs_f32()),
    }
}

/// The same for a caller that wants to add its own findings to the failure.
pub fn try_until<L: Look>(deadline: Duration, mut look: impl FnMut() -> L) -> Option<L::Seen> {
    let give_up_at = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(seen) = look().seen() {
            return Some(seen);
        }
        if Instant::now() >= give_up_at {
            return None;
        }
        thread::sleep(pause);
        pause = LONGEST_PAUSE.min(pause * 5 / 4);
    }
}
