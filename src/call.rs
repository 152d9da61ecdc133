//! Call: what a sync asks of Lago for each of its messages, after its own method, path and root have
//! been put in place of the endpoint's.
//!
//! Serves the template step, which fills it, and the sender, which makes it. Promises both that a call
//! is never repeated blindly unless a second one is known to be harmless.
#![forbid(unsafe_code)]

use crate::endpoint::{self, Batch, CATALOGUE, Endpoint, Repeat};

/// The endpoint of a sync that names method and path itself.
pub const MANUAL: &str = "manual";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub fn of(word: &str) -> Option<Method> {
        [Method::Post, Method::Put, Method::Patch, Method::Delete]
            .into_iter()
            .find(|method| method.word() == word)
    }

    pub fn word(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What the payload is checked against; none for a manual call.
    pub endpoint: Option<&'static Endpoint>,
    pub method: Method,
    /// As the endpoint or the sync has it: `{key}` and `{{ hole }}` not filled.
    pub path: String,
    /// The key that wraps one object; none for a call whose body is the bare payload, or that has none.
    pub root: Option<String>,
    pub batch: Batch,
    pub repeat: Repeat,
}

impl Call {
    /// The call of a sync; none if its endpoint or method is unknown, or a manual call has no path.
    pub fn of(name: &str, method: Option<&str>, path: Option<&str>, root: Option<&str>) -> Option<Call> {
        let method = match method {
            Some(word) => Some(Method::of(word)?),
            None => None,
        };
        let root = root.map(str::to_owned);
        if name == MANUAL {
            let (method, path) = (method.unwrap_or(Method::Post), path?);
            let repeat = repeat_of(method, path);
            return Some(Call {
                endpoint: None,
                method,
                path: path.to_owned(),
                root,
                batch: Batch::One,
                repeat,
            });
        }
        let endpoint = endpoint::find(name)?;
        let own = Method::of(endpoint.method)?;
        let departs = method.is_some_and(|method| method != own)
            || path.is_some_and(|path| path != endpoint.path)
            || root.is_some();
        Some(Call {
            endpoint: Some(endpoint),
            method: method.unwrap_or(own),
            path: path.unwrap_or(endpoint.path).to_owned(),
            root: root.or_else(|| endpoint.root.map(str::to_owned)),
            batch: if departs { Batch::One } else { endpoint.batch },
            repeat: endpoint.repeat,
        })
    }
}

/// Whether a manual call may be repeated: as the catalogue says if it is one of its calls; else if
/// HTTP says so of its method.
fn repeat_of(method: Method, path: &str) -> Repeat {
    let known = CATALOGUE.iter().find(|endpoint| endpoint.method == method.word() && endpoint.path == path);
    match (known, method) {
        (Some(endpoint), _) => endpoint.repeat,
        (None, Method::Put | Method::Delete) => Repeat::Safe,
        (None, Method::Post | Method::Patch) => Repeat::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_call_is_its_own() {
        let call = Call::of("event", None, None, None).expect("in the catalogue");
        assert_eq!(
            (call.method, call.path.as_str(), call.root.as_deref()),
            (Method::Post, "/events", Some("event"))
        );
        assert!(matches!(call.batch, Batch::UpTo { most: 100, .. }));
        assert_eq!(call.repeat, Repeat::Safe);
    }

    #[test]
    fn a_call_with_a_path_of_its_own_goes_alone() {
        let call = Call::of("event", None, Some("/elsewhere"), None).expect("known");
        assert_eq!((call.path.as_str(), call.batch), ("/elsewhere", Batch::One));
    }

    #[test]
    fn a_manual_post_is_not_repeated_blindly_unless_it_is_known_to_be_safe() {
        let repeat = |method, path| Call::of(MANUAL, method, Some(path), None).map(|call| call.repeat);
        assert_eq!(repeat(None, "/things"), Some(Repeat::Never));
        assert_eq!(repeat(Some("POST"), "/events"), Some(Repeat::Safe));
        assert_eq!(repeat(Some("PATCH"), "/things/1"), Some(Repeat::Never));
        assert_eq!(repeat(Some("PUT"), "/things/1"), Some(Repeat::Safe));
        assert_eq!(repeat(Some("DELETE"), "/things/1"), Some(Repeat::Safe));
    }

    #[test]
    fn what_is_not_known_is_no_call() {
        assert_eq!(Call::of("invoicing", None, None, None), None);
        assert_eq!(Call::of(MANUAL, Some("GET"), Some("/events"), None), None);
        assert_eq!(Call::of(MANUAL, None, None, None), None);
    }
}
