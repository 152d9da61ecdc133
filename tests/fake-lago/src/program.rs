//! The library behind a command line: for demos and benchmarks, and for tests that kill it.
//!
//! Prints one line when it listens, and then nothing unless asked to with `-v`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use crate::{Config, FakeLago, License, RateLimit, Store};

const HELP: &str = "\
A stand-in for Lago's HTTP API, as strict as the server.

Usage: fake-lago [OPTIONS]

  --listen ADDR        address and port to listen on (default 127.0.0.1:0, a free port)
  --store STORE        postgres (default) or clickhouse: how duplicates are treated
  --api-key KEY        the key clients must send (default fake-lago-key)
  --accept-any         treat unknown metrics (as counts) and unknown subscriptions as existing
  --premium            credit notes, manual payments and plan overrides are available
  --batch-limit N      the most events in a batch (default 100)
  --rate-limit N       requests per second, with X-RateLimit-* headers (default: no limit)
  --latency-ms N       added to every reply
  --data FILE          put every effect into this file before it is answered, and begin with what is in it;
                       settings and faults are not kept
  --discard-bodies     keep counters and uniqueness keys only, for benchmarks
  -v, --verbose        print one line per request
  -h, --help           print this

While it runs: GET /_fake/bill, /_fake/stats, /_fake/stored?limit=N, /_fake/sent_differently,
/_fake/sent_twice, /_fake/traffic?window_ms=N, /_fake/objects/KIND, /_fake/requests?limit=N; POST /_fake/fault,
/_fake/settings, /_fake/metrics, /_fake/subscriptions, /_fake/objects/KIND, /_fake/delete_events,
/_fake/lose_events, /_fake/alter_event, /_fake/add_event, /_fake/license, /_fake/accept_any, /_fake/latency, /_fake/reset; DELETE /_fake/fault.
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verbosity {
    Quiet,
    EachRequest,
}

#[derive(Debug)]
struct Options {
    config: Config,
    listen: SocketAddr,
    verbosity: Verbosity,
}

#[derive(Debug)]
enum Command {
    Run(Box<Options>),
    Help,
}

fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut options = Options {
        config: Config::default(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        verbosity: Verbosity::Quiet,
    };
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--listen" => options.listen = number(&name, &value()?)?,
            "--store" => {
                options.config.store = match value()?.as_str() {
                    "postgres" => Store::Postgres,
                    "clickhouse" => Store::ClickHouse,
                    other => return Err(format!("--store is postgres or clickhouse, not {other}")),
                }
            }
            "--api-key" => options.config.api_key = value()?,
            "--premium" => options.config.license = License::Premium,
            "--accept-any" => options.config.accept_any = true,
            "--batch-limit" => options.config.batch_limit = number(&name, &value()?)?,
            "--rate-limit" => {
                let requests = number(&name, &value()?)?;
                options.config.rate_limit = Some(RateLimit { requests, window_seconds: 1 });
            }
            "--latency-ms" => options.config.latency = Duration::from_millis(number(&name, &value()?)?),
            "--data" => options.config.data = Some(value()?.into()),
            "--discard-bodies" => options.config.keep_events = false,
            "-v" | "--verbose" => options.verbosity = Verbosity::EachRequest,
            "-h" | "--help" => return Ok(Command::Help),
            other => return Err(format!("unknown option {other}; --help lists them")),
        }
    }
    if options.config.data.is_some() && !options.config.keep_events {
        return Err("--data keeps what --discard-bodies discards: give one of them".to_owned());
    }
    Ok(Command::Run(Box::new(options)))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} cannot be {value:?}"))
}

fn run(options: Options) -> io::Result<()> {
    let server = FakeLago::start_at(options.config, options.listen)?;
    let mut out = io::stdout();
    writeln!(out, "fake-lago listening on {}", server.url())?;
    out.flush()?;
    let mut printed = 0;
    loop {
        if options.verbosity == Verbosity::Quiet {
            std::thread::park();
            continue;
        }
        let waited = server.wait_for("a request", Duration::from_secs(3600), |server| {
            !server.requests_after(printed).is_empty()
        });
        if waited.is_err() {
            continue;
        }
        for request in server.requests_after(printed) {
            let status = request.status.map_or("none".to_owned(), |status| status.to_string());
            writeln!(out, "{} {} {status} events={}", request.method, request.path, request.events)?;
            printed = printed.max(request.number);
        }
        out.flush()?;
    }
}

/// Runs until it is killed.
pub fn main(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let outcome = match parse(arguments) {
        Ok(Command::Run(options)) => run(*options).map_err(|error| error.to_string()),
        Ok(Command::Help) => io::stdout().write_all(HELP.as_bytes()).map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if the error stream is closed.
            let _ = writeln!(io::stderr(), "fake-lago: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        parse(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn options_reach_the_configuration() {
        let all = "--listen 127.0.0.1:4010 --store clickhouse --api-key k --accept-any --premium --batch-limit 7 \
                   --rate-limit 5 --latency-ms 3 --data f -v";
        let arguments: Vec<&str> = all.split_whitespace().collect();
        let Ok(Command::Run(options)) = parsed(&arguments) else { panic!("refused") };
        let config = &options.config;
        assert_eq!(options.listen.port(), 4010);
        assert_eq!((config.store, config.api_key.as_str(), config.batch_limit), (Store::ClickHouse, "k", 7));
        assert_eq!(config.rate_limit, Some(RateLimit { requests: 5, window_seconds: 1 }));
        assert_eq!(config.license, License::Premium);
        assert_eq!(config.latency, Duration::from_millis(3));
        assert!(config.accept_any && config.keep_events);
        assert_eq!(config.data.as_deref(), Some(std::path::Path::new("f")));
        assert_eq!(options.verbosity, Verbosity::EachRequest);
    }

    #[test]
    fn mistakes_are_explained() {
        for arguments in [
            &["--store"][..],
            &["--data", "f", "--discard-bodies"],
            &["--store", "x"],
            &["--what"],
            &["--listen", "x"],
            &["--batch-limit", "-1"],
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
        assert!(matches!(parsed(&["-v", "--help"]), Ok(Command::Help)));
    }
}
