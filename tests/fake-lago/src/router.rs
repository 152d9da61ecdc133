//! Which endpoint a method and path name.
//!
//! One table; what is not in it does not exist, and Lago answers 404 without looking at the key.

use crate::http::percent_decode;
use crate::objects::{self, Operation};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Health,
    Ready,
    CreateEvent,
    CreateEvents,
    ListEvents,
    ShowEvent {
        transaction_id: String,
    },
    /// A write (or a listing) of something else than events.
    Object(Operation),
    /// The server's own administration, below `/_fake/`.
    Admin {
        path: String,
    },
    Unknown,
}

/// Resolves a request. HEAD is GET without a body, a trailing slash does not matter, and a wrong verb is as
/// unknown as a wrong path.
pub fn route(method: &str, path: &str) -> Route {
    let method = if method == "HEAD" { "GET" } else { method };
    if let Some(rest) = path.strip_prefix("/_fake/") {
        return Route::Admin { path: rest.trim_end_matches('/').to_owned() };
    }
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let segments: [Option<&str>; 7] = std::array::from_fn(|_| segments.next());
    match (method, segments) {
        ("GET", [Some("health"), None, ..]) => Route::Health,
        ("GET", [Some("ready"), None, ..]) => Route::Ready,
        (method, [Some("api"), Some("v1"), path @ .., None]) => match (method, path) {
            ("POST", [Some("events"), None, ..]) => Route::CreateEvent,
            ("POST", [Some("events"), Some("batch"), None, _]) => Route::CreateEvents,
            ("GET", [Some("events"), None, ..]) => Route::ListEvents,
            ("GET", [Some("events"), Some(id), None, _]) => {
                Route::ShowEvent { transaction_id: percent_decode(id) }
            }
            (method, path) => objects::operation(method, path).map_or(Route::Unknown, Route::Object),
        },
        _ => Route::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_their_verbs_and_paths() {
        assert_eq!(route("POST", "/api/v1/events"), Route::CreateEvent);
        assert_eq!(route("POST", "/api/v1/events/"), Route::CreateEvent);
        assert_eq!(route("POST", "/api/v1/events/batch"), Route::CreateEvents);
        assert_eq!(route("GET", "/api/v1/events"), Route::ListEvents);
        assert_eq!(route("HEAD", "/health"), Route::Health);
        assert_eq!(route("GET", "/_fake/bill"), Route::Admin { path: "bill".to_owned() });
        let id = "a/b.c".to_owned();
        assert_eq!(route("GET", "/api/v1/events/a%2Fb.c"), Route::ShowEvent { transaction_id: id });
    }

    #[test]
    fn everything_else_is_unknown() {
        for (method, path) in [
            ("PUT", "/api/v1/events"),
            ("GET", "/events"),
            ("POST", "/events"),
            ("POST", "/api/v1/events/batch/x"),
            ("POST", "/api/v2/events"),
            ("POST", "/health"),
            ("GET", "/api/v1/health"),
            ("GET", "/"),
            ("post", "/api/v1/events"),
        ] {
            assert_eq!(route(method, path), Route::Unknown, "{method} {path}");
        }
    }
}
