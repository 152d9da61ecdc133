//! The way to Lago: TLS and what may be wrong with a certificate, proxies, addresses, time-outs. What is true
//! of one request alone is tested beside the sender; here the settings come from SQL, the files are read by
//! the server, and what goes wrong is seen where a user looks.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use delivery::cluster::{Cluster, Options};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::{Config, Effect, FakeLago, Fault, Store, Storing};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// An authority that signs what it is asked to.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// What a server for `host` shows, until the end of `last_year`.
    fn server(&self, host: &str, last_year: i32) -> Arc<ServerConfig> {
        let mut parameters = CertificateParams::new([host.to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2001, 1, 1);
        parameters.not_after = date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        showing(&certificate, &key)
    }

    /// What a server shows whose certificate was made in one step, for itself.
    fn itself(&self) -> Arc<ServerConfig> {
        showing(&self.certificate, self.issuer.key())
    }

    /// Its certificate as a file the server can read.
    fn file(&self, scene: &Scene) -> String {
        file(scene, "ca.pem", &self.certificate.pem())
    }
}

fn showing(certificate: &Certificate, key: &KeyPair) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap())
}

const THIS_CENTURY: i32 = 2099;

fn file(scene: &Scene, name: &str, text: &str) -> String {
    let path: PathBuf = scene.cluster.folder().join(format!("{}-{name}", scene.database));
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Accepts connections on the loopback, each on a thread of its own, until the process ends.
fn listen(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Head and body of one message of HTTP; none at the end of the connection.
fn read_message(stream: &mut impl Read) -> Option<Vec<u8>> {
    let (mut message, mut byte) = (Vec::new(), [0]);
    while !message.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        message.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&message).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    message.append(&mut body);
    Some(message)
}

/// Puts TLS before a Lago that has none.
fn tls_before(lago: SocketAddr, config: Arc<ServerConfig>) -> SocketAddr {
    listen(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let (mut client, mut lago) = (StreamOwned::new(connection, stream), TcpStream::connect(lago)?);
        while let Some(request) = read_message(&mut client) {
            lago.write_all(&request)?;
            let Some(reply) = read_message(&mut lago) else { break };
            client.write_all(&reply)?;
            client.flush()?;
        }
        Ok(())
    })
}

/// A draft over a usage table with one row, delivered to `url`.
fn draft_to(scene: &Scene, url: &str, more: &str) {
    let sql = format!("select lago_push.create_destination('lago', url => $1, api_key => $2{more})");
    scene.run(&sql, &[&url, &scene.api_key()]);
    scene.usage_table("usage");
    scene.draft("usage", "");
    scene.sql(&insert_rows("usage", 1));
}

/// What `send_test` says.
fn message(scene: &Scene) -> String {
    scene.value("select message from lago_push.send_test('usage')")
}

fn plain_scene() -> Scene {
    Scene::without_destination(Cluster::shared(), Store::Postgres)
}

#[test]
fn a_certificate_of_ones_own_authority_is_trusted_by_its_file() {
    let (scene, authority) = (plain_scene(), Authority::new());
    let front = tls_before(scene.lago.addr(), authority.server("localhost", THIS_CENTURY));
    let url = format!("https://localhost:{}/api/v1", front.port());
    draft_to(&scene, &url, &format!(", ca_file => '{}'", authority.file(&scene)));
    scene.activate("usage");
    scene.sql(&insert_rows("usage", 250));
    wait_until("the events have arrived", PATIENCE, || scene.lago.stored_count() == 250);
    assert_eq!(scene.status("usage").dead, 0);
}

#[test]
fn a_certificate_of_an_authority_of_the_system_is_trusted() {
    let authority = Authority::new();
    // Where the library looks for the system's certificates, if it is set.
    let roots = std::env::temp_dir().join(format!("lago-push-roots-{}.pem", std::process::id()));
    fs::write(&roots, authority.certificate.pem()).unwrap();
    let options = Options::default().with_environment("SSL_CERT_FILE", roots.to_str().unwrap());
    let scene = Scene::without_destination(Cluster::start(&options), Store::Postgres);
    let front = tls_before(scene.lago.addr(), authority.server("localhost", THIS_CENTURY));
    draft_to(&scene, &format!("https://localhost:{}/api/v1", front.port()), "");
    let told = message(&scene);
    fs::remove_file(&roots).unwrap();
    assert_eq!((told.contains("taken"), scene.lago.stored_count()), (true, 1), "{told}");
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_and_nothing_is_sent() {
    let (scene, authority) = (plain_scene(), Authority::new());
    draft_to(&scene, "https://localhost:1/api/v1", "");
    let own = authority.file(&scene);
    let other = file(&scene, "other.pem", &Authority::new().certificate.pem());
    let told = |address: SocketAddr, ca_file: &str| {
        let url = format!("https://localhost:{}/api/v1", address.port());
        scene.run("select lago_push.alter_destination('lago', url => $1, ca_file => $2)", &[&url, &ca_file]);
        message(&scene)
    };
    let shows = |host, last_year| tls_before(scene.lago.addr(), authority.server(host, last_year));

    let unknown = "no reply from Lago: TLS: the certificate is signed by nobody who is trusted here; \
                   name its authority in ca_file";
    assert_eq!(told(shows("localhost", THIS_CENTURY), &other), unknown);
    assert_eq!(
        told(shows("lago.example", THIS_CENTURY), &own),
        "no reply from Lago: TLS: the certificate is for another host name than the URL's"
    );
    assert_eq!(told(shows("localhost", 2020), &own), "no reply from Lago: TLS: the certificate has expired");
    assert_eq!(
        told(scene.lago.addr(), &own),
        "no reply from Lago: TLS: the other side does not speak it; is the URL one of http?"
    );
    assert_eq!(
        told(tls_before(scene.lago.addr(), authority.itself()), &own),
        "no reply from Lago: TLS: the certificate is an authority's own, which no server may show; \
         have it sign one for the server"
    );
    let nothing = file(&scene, "nothing.pem", "-----BEGIN NOTHING-----\n");
    assert_eq!(
        told(scene.lago.addr(), &nothing),
        "the destination cannot be used: ca_file holds no certificate in PEM form"
    );
    assert_eq!(scene.lago.stored_count(), 0);

    scene.sql("update lago_push.destination set ca_file = null");
    let url = format!("https://localhost:{}/api/v1", shows("localhost", THIS_CENTURY).port());
    scene.run("select lago_push.alter_destination('lago', url => $1)", &[&url]);
    assert_eq!(message(&scene), unknown, "the system does not know it either");
    assert_eq!(scene.lago.stored_count(), 0);
}

/// A proxy that wants a password, and writes down what it is asked.
fn proxy(asked: &Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let asked = Arc::clone(asked);
    listen(move |mut client| {
        let Some(request) = read_message(&mut client) else { return Ok(()) };
        let request = String::from_utf8_lossy(&request).into_owned();
        asked.lock().unwrap().push(request.clone());
        // anna:sesame
        if !request.contains("Proxy-Authorization: Basic YW5uYTpzZXNhbWU=\r\n") {
            return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let mut lago = TcpStream::connect(target)?;
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        let (mut from, mut to) = (lago.try_clone()?, client.try_clone()?);
        thread::spawn(move || io::copy(&mut from, &mut to));
        io::copy(&mut client, &mut lago).map(|_| ())
    })
}

#[test]
fn a_proxy_carries_the_events_and_its_password_is_shown_nowhere() {
    let options = Options::default()
        .with("log_statement", "all")
        .with("log_min_messages", "debug2")
        .with("log_min_error_statement", "info");
    let scene = Scene::without_destination(Cluster::start(&options), Store::Postgres);
    let asked = Arc::default();
    let address = proxy(&asked);
    let good = format!(", proxy => 'http://anna:sesame@{address}'");
    draft_to(&scene, &scene.lago.url(), &good);
    scene.activate("usage");
    scene.sql(&insert_rows("usage", 20));
    wait_until("the events have arrived", PATIENCE, || scene.lago.stored_count() == 20);
    let requests = asked.lock().unwrap().clone();
    assert!(requests.iter().all(|request| request.starts_with("CONNECT ")), "{requests:?}");
    assert!(!requests.iter().any(|request| request.contains(&scene.api_key())), "the key went to the proxy");

    // One of a session that may not, one that is no URL, and one the proxy does not know.
    let errors = [
        scene.sql_error(
            "select lago_push.alter_destination('nobody', proxy => 'http://anna:sesame@localhost')",
        ),
        scene.sql_error("select lago_push.alter_destination('lago', proxy => 'ftp://anna:sesame@localhost')"),
    ];
    scene.sql(&format!(
        "select lago_push.alter_destination('lago', proxy => 'http://anna:sesame-no@{address}')"
    ));
    let told = message(&scene);
    assert_eq!(told, "no reply from Lago: the proxy does not accept its user and password (407)");
    scene.sql(&insert_rows("usage", 1));
    wait_until("the worker says so", PATIENCE, || scene.destination_error().as_deref() == Some(&told));

    let mut places = vec![("errors".to_owned(), errors.join("\n")), ("log".to_owned(), scene.cluster.log())];
    for view in scene.rows("select viewname::text from pg_views where schemaname = 'lago_push'") {
        let view: String = view.get(0);
        let rows = scene.rows(&format!("select v::text from lago_push.{view} v"));
        places.push((view, rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()));
    }
    let activity =
        scene.rows("select a::text from pg_stat_activity a where query not like '%pg_stat_activity%'");
    places.push(("activity".into(), activity.iter().map(|row| row.get::<_, String>(0) + "\n").collect()));
    let told: Vec<_> =
        places.iter().filter(|(_, text)| text.contains("sesame")).map(|(place, _)| place).collect();
    assert!(told.is_empty(), "the proxy's password is in {told:?}");
}

#[test]
fn a_lago_on_the_loopback_of_ipv6_is_reached_by_plain_http() {
    let scene = plain_scene();
    let config = Config { api_key: scene.api_key(), ..Config::default() };
    // A machine without IPv6 has nothing to test.
    let Ok(lago) = FakeLago::start_at(config, "[::1]:0".parse().unwrap()) else { return };
    draft_to(&scene, &format!("http://[::1]:{}/api/v1", lago.addr().port()), "");
    assert!(message(&scene).contains("taken"), "{}", message(&scene));
    assert_eq!(lago.stored_count(), 1);
    let error =
        scene.sql_error("select lago_push.alter_destination('lago', url => 'http://[fd00::1]/api/v1')");
    assert!(error.contains("plain http"), "{error}");
}

#[test]
fn a_time_out_says_which_setting_it_is_of() {
    let scene = plain_scene();
    draft_to(&scene, &scene.lago.url(), ", timeout => '10 s'");
    scene.sql("update lago_push.destination set read_timeout = '200 ms'");
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Skipped)));
    assert_eq!(
        message(&scene),
        "no reply from Lago: time-out: nothing was heard within 0.2 s (read_timeout)"
    );
    // It accepts, and does not speak TLS or anything else.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/api/v1", silent.local_addr().unwrap());
    scene.sql("update lago_push.destination set read_timeout = null, connect_timeout = '200 ms'");
    scene.run("select lago_push.alter_destination('lago', url => $1)", &[&url]);
    assert_eq!(message(&scene), "no reply from Lago: time-out: no connection within 0.2 s (connect_timeout)");
}

#[test]
fn lago_is_told_who_sends_as_preview_shows_it() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 1));
    assert_billed_exactly_once(&scene);
    let shown: String = scene.value("select headers ->> 'user-agent' from lago_push.preview('usage')");
    let version: String = scene.value("select extversion from pg_extension where extname = 'lago_push'");
    assert_eq!(shown, format!("lago_push/{version}"));
    assert_eq!(scene.lago.requests()[0].user_agent.as_deref(), Some(shown.as_str()));
}
