//! What went wrong, as one sentence for the person in front of the screen.

use std::any::Any;
use std::fmt::{self, Display};
use std::panic;

#[derive(Debug)]
pub struct Failure {
    sentence: String,
}

impl Failure {
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into() }
    }
}

impl Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.sentence)
    }
}

pub type Outcome<T> = Result<T, Failure>;

/// Says what was being done when an error came up.
pub trait Doing<T> {
    /// `what` completes the sentence "could not …".
    fn doing(self, what: &str) -> Outcome<T>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Outcome<T> {
        self.map_err(|error| Failure::new(format!("could not {what}: {error}")))
    }
}

/// The harness was made for tests and reports by panicking: here its message is all a person should see of
/// that, without the place in the source.
pub fn print_panics_as_sentences() {
    panic::set_hook(Box::new(|panic| eprintln!("\nIt ends here: {}", message(panic.payload()))));
}

fn message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("the reason is not known")
}
