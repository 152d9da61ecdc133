//! Trouble: a request without a reply, in words, and whether Lago may have got it.
//!
//! Between transport and verdict. Pure. The words name no header, no body and no proxy's password; they
//! say which side of the connection to look at.
#![forbid(unsafe_code)]

use super::transport::Route;
use crate::verdict::Sent;
use rustls::{CertificateError, InvalidMessage};
use std::io::{self, ErrorKind};
use std::time::Duration;
use ureq::Timeout;

/// The time-outs of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the host's name; and again for the connection, TLS and the proxy's consent included.
    pub connect: Duration,
    /// Until the answer begins, and between any two pieces of it.
    pub read: Option<Duration>,
    /// For all of it.
    pub total: Duration,
}

impl Patience {
    /// Connecting ends before all does, so that an address which does not answer is told from a reply
    /// that does not come: the one was never sent anything.
    pub fn of(route: &Route) -> Patience {
        Patience {
            connect: route.connect_timeout.min(route.timeout.mul_f64(0.8)),
            read: route.read_timeout.filter(|read| *read < route.timeout),
            total: route.timeout,
        }
    }

    fn exceeded(&self, which: Timeout) -> String {
        let (what, after, setting) = match which {
            Timeout::Resolve => ("DNS did not answer", self.connect, "connect_timeout"),
            Timeout::Connect => ("no connection", self.connect, "connect_timeout"),
            Timeout::PerRead => ("nothing was heard", self.read.unwrap_or(self.total), "read_timeout"),
            _ => ("no whole answer", self.total, "timeout"),
        };
        format!("time-out: {what} within {} s ({setting})", after.as_secs_f64())
    }
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Lago,
    Proxy,
}

impl Peer {
    pub fn of(route: &Route) -> Peer {
        if route.proxy.is_some() { Peer::Proxy } else { Peer::Lago }
    }
}

/// What went wrong.
pub fn describe(error: &ureq::Error, patience: &Patience, peer: Peer) -> String {
    let reached = |what: &str| match peer {
        Peer::Lago => what.to_owned(),
        Peer::Proxy => format!("the proxy: {what}"),
    };
    if let Some(error) = tls(error) {
        return format!("TLS: {}", describe_tls(error));
    }
    match error {
        ureq::Error::Io(error) if is_unknown_host(error) => reached("the host name is not known"),
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => reached("connection refused"),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "connection reset".into(),
            ErrorKind::UnexpectedEof => "connection closed before an answer".into(),
            kind => kind.to_string(),
        },
        ureq::Error::Timeout(which) => patience.exceeded(*which),
        ureq::Error::HostNotFound => reached("the host name is not known"),
        ureq::Error::ConnectionFailed => reached("connection failed"),
        // It says which status the proxy answered, no more.
        ureq::Error::ConnectProxyFailed(why) if why.contains("407") => {
            "the proxy does not accept its user and password (407)".into()
        }
        ureq::Error::ConnectProxyFailed(why) => format!("the proxy makes no connection: {why}"),
        ureq::Error::Protocol(_) => "the answer is not HTTP".into(),
        other => other.to_string(),
    }
}

/// Whether a request that failed may have reached Lago. Only what can happen no later than while the
/// connection is made says that it has not.
pub fn sent(error: &ureq::Error) -> Sent {
    if let Some(error) = tls(error) {
        return match error {
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Sent::No,
            _ => Sent::Perhaps,
        };
    }
    match error {
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused || is_unknown_host(error) => {
            Sent::No
        }
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::Tls(_) => Sent::No,
        _ => Sent::Perhaps,
    }
}

/// The resolver's errors have no kind of their own.
fn is_unknown_host(error: &io::Error) -> bool {
    error.to_string().starts_with("failed to lookup address")
}

/// What TLS has to say, which comes wrapped when it is said while bytes are read or written.
fn tls(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn describe_tls(error: &rustls::Error) -> String {
    use CertificateError::*;
    let certificate = match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            return "the other side does not speak it; is the URL one of http?".into();
        }
        rustls::Error::InvalidCertificate(certificate) => certificate,
        other => return other.to_string(),
    };
    match certificate {
        // The signature is wrong where another authority has the issuer's name: one that was made anew.
        UnknownIssuer | BadSignature => {
            "the certificate is signed by nobody who is trusted here; name its authority in ca_file".into()
        }
        Expired | ExpiredContext { .. } => "the certificate has expired".into(),
        NotValidYet | NotValidYetContext { .. } => {
            "the certificate is not valid yet; is the clock of the database server right?".into()
        }
        NotValidForName | NotValidForNameContext { .. } => {
            "the certificate is for another host name than the URL's".into()
        }
        Revoked => "the certificate has been revoked".into(),
        Other(why) if why.to_string().contains("CaUsedAsEndEntity") => {
            "the certificate is an authority's own, which no server may show; have it sign one for the server"
                .into()
        }
        _ => format!("the certificate is not valid: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        connect: Duration::from_millis(1500),
        read: Some(Duration::from_secs(5)),
        total: Duration::from_secs(30),
    };

    fn words(error: ureq::Error) -> (String, Sent) {
        (describe(&error, &PATIENCE, Peer::Lago), sent(&error))
    }

    #[test]
    fn a_time_out_says_which_one_it_is() {
        for (which, text, reached) in [
            (Timeout::Resolve, "time-out: DNS did not answer within 1.5 s (connect_timeout)", Sent::No),
            (Timeout::Connect, "time-out: no connection within 1.5 s (connect_timeout)", Sent::No),
            (Timeout::PerRead, "time-out: nothing was heard within 5 s (read_timeout)", Sent::Perhaps),
            (Timeout::Global, "time-out: no whole answer within 30 s (timeout)", Sent::Perhaps),
        ] {
            assert_eq!(words(ureq::Error::Timeout(which)), (text.into(), reached));
        }
    }

    #[test]
    fn tls_is_understood_however_it_is_wrapped() {
        let error = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let io = io::Error::new(ErrorKind::InvalidData, error());
        for error in [ureq::Error::Rustls(error()), ureq::Error::Io(io)] {
            let (text, sent) = words(error);
            assert!(text.starts_with("TLS: the certificate is signed by nobody"), "{text}");
            assert_eq!(sent, Sent::No);
        }
        let late = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        assert_eq!(words(ureq::Error::Rustls(late)).1, Sent::Perhaps);
    }

    #[test]
    fn only_what_happens_before_the_request_says_it_was_not_sent() {
        let io = |kind: ErrorKind| words(ureq::Error::Io(kind.into()));
        assert_eq!(io(ErrorKind::ConnectionRefused), ("connection refused".into(), Sent::No));
        assert_eq!(io(ErrorKind::ConnectionReset), ("connection reset".into(), Sent::Perhaps));
        assert_eq!(io(ErrorKind::UnexpectedEof).1, Sent::Perhaps);
    }

    #[test]
    fn what_the_proxy_does_is_said_of_the_proxy() {
        let refused = ureq::Error::Io(ErrorKind::ConnectionRefused.into());
        assert_eq!(describe(&refused, &PATIENCE, Peer::Proxy), "the proxy: connection refused");
        let unknown = ureq::Error::ConnectProxyFailed("proxy server responded 407/407".into());
        assert_eq!(
            words(unknown),
            ("the proxy does not accept its user and password (407)".into(), Sent::No)
        );
    }
}
