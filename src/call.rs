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

/// What Lago counts requests by, where it limits them: the limits of the two differ by the factor ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    Events,
    Other,
}

impl Call {
    pub fn category(&self) -> Category {
        match (self.batch, self.path.as_str()) {
            (Batch::UpTo { .. }, _) | (_, "/events" | "/events/batch") => Category::Events,
            _ => Category::Other,
        }
    }

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
        let elsewhere = path.is_some_and(|path| path != endpoint.path);
        let otherwise = method.is_some_and(|method| method != own);
        let wrapped_otherwise = root.is_some() && root.as_deref() != endpoint.root;
        let method = method.unwrap_or(own);
        let path = path.unwrap_or(endpoint.path).to_owned();
        let repeat = match (elsewhere, otherwise) {
            (_, true) => repeat_of(method, &path),
            // The same call somewhere else, unless it is known to be another one.
            (true, false) => known(method, &path).unwrap_or(endpoint).repeat,
            (false, false) => endpoint.repeat,
        };
        let departs = elsewhere || otherwise || wrapped_otherwise;
        Some(Call {
            endpoint: Some(endpoint),
            method,
            path,
            root: root.or_else(|| endpoint.root.map(str::to_owned)),
            batch: if departs { Batch::One } else { endpoint.batch },
            repeat,
        })
    }

    /// What the catalogue or the sync calls it, for messages.
    pub fn name(&self) -> &str {
        self.endpoint.map_or(MANUAL, |endpoint| endpoint.name)
    }

    /// The keys a payload must have: what fills the path, and what the endpoint demands. A path of the
    /// sync's own relieves the template of the keys that would have filled the endpoint's.
    pub fn required(&self) -> Vec<&str> {
        let mut keys = keys_of_path(&self.path);
        if let Some(endpoint) = self.endpoint {
            let for_its_path = keys_of_path(endpoint.path);
            for key in endpoint.required {
                if !keys.contains(key) && !for_its_path.contains(key) {
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// Every key that has an effect, as far as is known; for a manual call only those of its path.
    pub fn known(&self) -> Vec<&str> {
        let mut keys = self.required();
        if let Some(endpoint) = self.endpoint {
            for key in endpoint.keys() {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// Whether parts of the payload belong into the path or the query string.
    pub fn takes_from_payload(&self) -> bool {
        !keys_of_path(&self.path).is_empty() || !self.query().is_empty()
    }

    /// The keys that go into the query string.
    pub fn query(&self) -> &'static [&'static str] {
        self.endpoint.map_or(&[], |endpoint| endpoint.query)
    }
}

impl From<&'static Endpoint> for Call {
    fn from(endpoint: &'static Endpoint) -> Call {
        Call {
            endpoint: Some(endpoint),
            // The catalogue's methods are words of this enum; a test holds it to that.
            method: Method::of(endpoint.method).unwrap_or(Method::Post),
            path: endpoint.path.to_owned(),
            root: endpoint.root.map(str::to_owned),
            batch: endpoint.batch,
            repeat: endpoint.repeat,
        }
    }
}

/// A piece of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPiece<'a> {
    /// To be sent as it stands; `{{ holes }}` are part of it.
    Text(&'a str),
    /// `{key}`, to be filled with the payload's value of that key.
    Key(&'a str),
}

/// A path in pieces. A brace that opens no `{key}` is text.
pub fn pieces_of_path(path: &str) -> Vec<PathPiece<'_>> {
    let mut pieces = Vec::new();
    let (mut text_from, mut at) = (0, 0);
    while let Some(brace) = path.get(at..).and_then(|rest| rest.find('{')).map(|offset| at + offset) {
        let (_, inside) = path.split_at(brace + 1);
        if inside.starts_with('{') {
            at = inside.find("}}").map_or(path.len(), |offset| brace + 1 + offset + 2);
            continue;
        }
        let length = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
        let (key, after) = inside.split_at(length);
        at = brace + 1 + length;
        if length > 0 && after.starts_with('}') {
            pieces.extend(path.get(text_from..brace).filter(|text| !text.is_empty()).map(PathPiece::Text));
            pieces.push(PathPiece::Key(key));
            at += 1;
            text_from = at;
        }
    }
    pieces.extend(path.get(text_from..).filter(|text| !text.is_empty()).map(PathPiece::Text));
    pieces
}

/// The keys a path asks for, in its order.
pub fn keys_of_path(path: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    for piece in pieces_of_path(path) {
        if let PathPiece::Key(key) = piece
            && !keys.contains(&key)
        {
            keys.push(key);
        }
    }
    keys
}

/// The catalogue's call with this method and path, whatever stands in the places of its keys.
fn known(method: Method, path: &str) -> Option<&'static Endpoint> {
    let path = without_holes(path);
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    CATALOGUE.iter().find(|endpoint| {
        endpoint.method == method.word()
            && endpoint.path.split('/').count() == path.split('/').count()
            && endpoint
                .path
                .split('/')
                .zip(path.split('/'))
                .all(|(pattern, segment)| pattern.starts_with('{') || pattern == segment)
    })
}

/// A path with every `{{ hole }}` replaced by one letter: what stands in a hole may hold slashes.
fn without_holes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, inside)) = rest.split_once("{{") {
        out.push_str(before);
        out.push('x');
        rest = inside.split_once("}}").map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

/// Whether a manual call may be repeated: as the catalogue says if it is one of its calls; else if
/// HTTP says so of its method.
fn repeat_of(method: Method, path: &str) -> Repeat {
    match (known(method, path), method) {
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
    fn naming_what_the_endpoint_has_anyway_changes_nothing() {
        assert_eq!(
            Call::of("event", Some("POST"), Some("/events"), Some("event")),
            Call::of("event", None, None, None)
        );
    }

    #[test]
    fn every_endpoint_makes_a_call() {
        for endpoint in CATALOGUE {
            assert_eq!(Call::of(endpoint.name, None, None, None), Some(Call::from(endpoint)));
            assert_eq!(Call::from(endpoint).method.word(), endpoint.method);
        }
    }

    #[test]
    fn a_call_that_departs_is_repeated_only_if_what_it_became_may_be() {
        let repeat = |name, method, path| Call::of(name, method, Some(path), None).map(|call| call.repeat);
        assert_eq!(repeat("event", None, "/ingest"), Some(Repeat::Safe));
        assert_eq!(repeat("customer", None, "/wallet_transactions"), Some(Repeat::Never));
        assert_eq!(repeat("customer", Some("PATCH"), "/customers"), Some(Repeat::Never));
        assert_eq!(repeat("wallet", None, "/customers/{{ row.id }}/wallets"), Some(Repeat::Never));
    }

    #[test]
    fn a_path_knows_its_keys_and_leaves_holes_alone() {
        use PathPiece::{Key, Text};
        assert_eq!(
            pieces_of_path("/customers/{external_id}/x/{{ row.a }}/{b}"),
            [Text("/customers/"), Key("external_id"), Text("/x/{{ row.a }}/"), Key("b")]
        );
        assert_eq!(pieces_of_path("{a}{a}"), [Key("a"), Key("a")]);
        assert_eq!(keys_of_path("{a}{a}"), ["a"]);
        for plain in ["/events", "/a{", "/a{}", "/{a b}", "/{{ row.x", "/{é}"] {
            assert_eq!(pieces_of_path(plain), [Text(plain)], "{plain}");
        }
        assert_eq!(pieces_of_path(""), []);
    }

    #[test]
    fn a_path_of_ones_own_brings_its_keys_and_drops_the_endpoints() {
        let own = |path| Call::of("subscription_update", None, Some(path), None).expect("known");
        assert_eq!(own("/subscriptions/{{ row.id }}").required(), Vec::<&str>::new());
        assert_eq!(own("/subscriptions/{external_id}").required(), ["external_id"]);
        assert_eq!(own("/tenants/{tenant}/x").required(), ["tenant"]);
        assert!(own("/tenants/{tenant}/x").known().contains(&"tenant"));
        assert_eq!(Call::of(MANUAL, None, Some("/x/{a}"), None).expect("known").required(), ["a"]);
    }

    #[test]
    fn a_manual_post_is_not_repeated_blindly_unless_it_is_known_to_be_safe() {
        let repeat = |method, path| Call::of(MANUAL, method, Some(path), None).map(|call| call.repeat);
        assert_eq!(repeat(None, "/things"), Some(Repeat::Never));
        assert_eq!(repeat(Some("POST"), "/events"), Some(Repeat::Safe));
        assert_eq!(repeat(Some("POST"), "/events/?x=1"), Some(Repeat::Safe));
        assert_eq!(repeat(Some("POST"), "/payments"), Some(Repeat::Never));
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
