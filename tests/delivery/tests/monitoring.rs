//! docs/monitoring, tried out: what an exporter shows, what psql prints for a text file and what Prometheus stores is
//! what `lago_push.metrics` says; the rules stand their unit tests; rules and dashboard ask for figures that exist.
//! The programs are Debian's, see scripts/tool.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use delivery::cluster::{Cluster, Options};
use delivery::markdown::{Page, Stage};
use delivery::scene::{Scene, usage_template};
use delivery::wait::{PATIENCE, try_until, wait_until};
use fake_lago::Store;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn folder() -> PathBuf {
    root().join("docs/monitoring")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name))
        .unwrap_or_else(|e| panic!("cannot read docs/monitoring/{name}: {e}"))
}

fn page() -> Page {
    Page { name: "docs/monitoring/README.md".into(), text: read("README.md") }
}

/// The path of a program this machine has, or that is fetched now.
fn tool(name: &str) -> PathBuf {
    let out = Command::new(root().join("scripts/tool")).arg(name).output();
    let out = out.unwrap_or_else(|e| panic!("scripts/tool does not run: {e}"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8_lossy(&out.stdout).trim())
}

/// Runs promtool in docs/monitoring, with this input, and returns what it says if it is content.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut promtool = Command::new(tool("promtool"));
    promtool.args(arguments).current_dir(folder());
    promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap_or_else(|e| panic!("promtool does not run: {e}"));
    promtool.stdin.take().expect("its input is a pipe").write_all(input.as_bytes()).unwrap();
    let out = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "promtool {}: {said}", arguments.join(" "));
    said.into_owned()
}

// --- the scene: something delivered, something dead, and something that waits behind a hold -----------------

/// A server of its own, because the page makes a role, and roles belong to the server.
fn scene() -> Scene {
    let scene = Scene::on(Cluster::start(&Options::default()), Store::Postgres);
    let tried = page().try_out(&Stage::new(&scene), |_| {});
    assert!(tried.run >= 1, "the page makes no role");
    scene.billed_table("calls");
    // A name that every format in between has to escape.
    scene.usage_table(r#""quo""te\d""#);
    scene.run(
        r#"select lago_push.create_sync('odd', source => '"quo""te\d"', template => $1::text)"#,
        &[&usage_template("odd")],
    );
    scene.activate("odd");
    let insert = |table: &str, subscription: &str| {
        scene.sql(&format!("insert into {table} (subscription, amount) values ('{subscription}', 1.5)"));
    };
    insert("calls", "sub_1");
    insert("calls", "sub_2");
    insert(r#""quo""te\d""#, "sub_3");
    scene.wait_for_exactly(&["calls-1", "calls-2", "odd-1"]);
    // Nothing can be rendered of it: a dead letter.
    insert("calls", "");
    scene.sql("select lago_push.hold('lago')");
    insert("calls", "sub_4");
    wait_until("a dead letter is there and a message waits", PATIENCE, || {
        let status = scene.status("calls");
        (status.dead, status.pending, status.delivered) == (1, 1, 2)
    });
    scene
}

// --- figures ------------------------------------------------------------------------------------------------

type Labels = BTreeMap<String, String>;
type Figures = BTreeMap<(String, Labels), f64>;

/// What an exporter or Prometheus adds to the labels of the view, of whose database there is but one here.
const ADDED: [&str; 9] =
    ["col", "database", "driver", "host", "instance", "job", "server", "sql_job", "user"];

fn figure(name: &str, mut labels: Labels, value: f64) -> ((String, Labels), f64) {
    // To Prometheus an empty label is none.
    labels.retain(|name, value| !value.is_empty() && !ADDED.contains(&name.as_str()));
    ((name.to_owned(), labels), value)
}

fn in_the_view(scene: &Scene) -> Figures {
    let rows = scene.rows("select name, labels::text, value from lago_push.metrics where value is not null");
    let figures = rows.iter().map(|row| {
        let labels: BTreeMap<String, Value> = serde_json::from_str(row.get(1)).expect("labels are an object");
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let labels = labels.into_iter().map(|(name, value)| (name, text(value))).collect();
        figure(row.get(0), labels, row.get(2))
    });
    let (count, figures): (_, Figures) = (rows.len(), figures.collect());
    assert_eq!(figures.len(), count, "two rows of the view are one figure");
    figures
}

/// Prometheus's text format, of which only names that begin as ours do are wanted.
fn in_text(text: &str) -> Vec<(String, Labels, f64)> {
    let ours = ["lago_push", "sql_lago_push"];
    let lines = text.lines().filter(|line| ours.iter().any(|name| line.starts_with(name)));
    lines.map(|line| line_of_text(line).unwrap_or_else(|| panic!("not the text format: {line}"))).collect()
}

fn line_of_text(line: &str) -> Option<(String, Labels, f64)> {
    let mut labels = Labels::new();
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some((name.into(), labels, value.parse().ok()?));
    };
    while let Some((label, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut letters = after.chars();
        loop {
            match letters.next()? {
                '"' => break,
                '\\' => value.push(match letters.next()? {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        labels.insert(label.trim_start_matches(',').into(), value);
        rest = letters.as_str();
    }
    Some((name.into(), labels, rest.strip_prefix("} ")?.parse().ok()?))
}

/// The exporters put a figure's name into a label.
fn in_an_exporter(text: &str) -> Figures {
    let figures = in_text(text).into_iter().map(|(_, mut labels, value)| {
        let name = labels.remove("metric").unwrap_or_else(|| panic!("no label metric in {labels:?}"));
        figure(&name, labels, value)
    });
    figures.collect()
}

/// Whether what is shown was asked for just now, or some time ago.
#[derive(Clone, Copy)]
enum Age {
    Fresh,
    Kept,
}

/// What is wrong with `shown`, given what the view said before and after.
fn difference(before: &Figures, shown: &Figures, after: &Figures, age: Age) -> Option<String> {
    let names = |figures: &Figures| figures.keys().cloned().collect::<BTreeSet<_>>();
    let (wanted, got) = (names(after), names(shown));
    if wanted != got {
        return Some(format!(
            "not shown: {:?}\nnot in the view: {:?}",
            wanted.difference(&got).collect::<Vec<_>>(),
            got.difference(&wanted).collect::<Vec<_>>()
        ));
    }
    let wrong = after.iter().find(|(key, after)| {
        let before = before.get(key).unwrap_or(after);
        let shown = shown[key];
        match age {
            Age::Kept if before != *after => false,
            _ => shown < before.min(**after) || shown > before.max(**after),
        }
    });
    wrong.map(|(key, value)| format!("{key:?} is {value} in the view and {} there", shown[key]))
}

/// Waits until what is shown agrees with the view, and checks that the view has something to show.
#[track_caller]
fn assert_shows_the_view(scene: &Scene, age: Age, mut shown: impl FnMut() -> Option<Figures>) {
    let mut last = String::new();
    let agrees = try_until(PATIENCE, || {
        let before = in_the_view(scene);
        let Some(shown) = shown() else {
            last = "nothing is shown".into();
            return false;
        };
        match difference(&before, &shown, &in_the_view(scene), age) {
            None => true,
            Some(wrong) => {
                last = wrong;
                false
            }
        }
    });
    assert!(agrees.is_some(), "{last}");

    let view = in_the_view(scene);
    let of = |name: &str, label: &str, value: &str| {
        let found =
            view.iter().find(|((n, labels), _)| n == name && labels.get(label).is_some_and(|v| v == value));
        found.map(|(_, value)| *value)
    };
    assert_eq!(of("lago_push_pending", "sync", "calls"), Some(1.0), "{view:?}");
    assert_eq!(of("lago_push_delivered_total", "sync", "calls"), Some(2.0), "{view:?}");
    assert_eq!(of("lago_push_dead_letters", "sync", "calls"), Some(1.0), "{view:?}");
    assert_eq!(of("lago_push_held", "reason", "operator"), Some(1.0), "{view:?}");
    assert_eq!(of("lago_push_held", "reason", "worker"), Some(0.0), "{view:?}");
    assert_eq!(of("lago_push_delivered_total", "source", r#""quo""te\d""#), Some(1.0), "{view:?}");
    let version: String = scene.value("select extversion from pg_extension where extname = 'lago_push'");
    assert_eq!(of("lago_push_info", "version", &version), Some(1.0), "{view:?}");
}

// --- programs -----------------------------------------------------------------------------------------------

/// A server of somebody else's making on a port of its own, which ends with the test however that ends.
struct Program {
    port: u16,
    log: PathBuf,
    guard: Option<(Child, ChildStdin)>,
}

/// The programs cannot be told to choose a port and say which. Below those that the kernel gives to connections, so
/// that none takes it in between.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Program {
    /// The arguments are made of the port.
    fn start(
        scene: &Scene,
        name: &str,
        environment: &[(&str, &str)],
        arguments: impl Fn(u16) -> Vec<String>,
    ) -> Self {
        let port = free_port();
        let log = scene.cluster.folder().join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        // The end of its input, which also comes when the test is killed, ends the program.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", r#""$@" & read -r _; kill -s KILL "$!""#, "sh"])
            .arg(tool(name))
            .args(arguments(port));
        shell.envs(environment.iter().copied()).current_dir(scene.cluster.folder());
        shell.stdin(Stdio::piped()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut guard = shell.spawn().unwrap_or_else(|e| panic!("sh does not run: {e}"));
        let input = guard.stdin.take().expect("its input is a pipe");
        Self { port, log, guard: Some((guard, input)) }
    }

    /// The body of a good answer. HTTP/1.0, so that it comes in one piece.
    fn get(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
    }

    fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.get(path)?).ok()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("── {}\n{log}", self.log.display());
        }
        if let Some((mut guard, input)) = self.guard.take() {
            drop(input);
            let _ = guard.wait();
        }
    }
}

/// A file of docs/monitoring with this server's places for the page's, put where the server's folder is.
fn adapted(scene: &Scene, name: &str, replacements: &[(&str, &str)]) -> PathBuf {
    let mut text = read(name);
    for (from, to) in replacements {
        assert!(text.contains(from), "{name} does not contain {from}");
        text = text.replace(from, to);
    }
    let path = scene.cluster.folder().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// prometheus-postgres-exporter, configured as the page says, and with these arguments more.
fn postgres_exporter(scene: &Scene, more: &[&str]) -> Program {
    let page = page();
    let source = page.text.split("DATA_SOURCE_NAME='").nth(1).and_then(|rest| rest.split('\'').next());
    let source = source.expect("the page says what the exporter connects to");
    assert!(source.contains("/run/postgresql") && source.ends_with("dbname=app"), "{source}");
    let source = source.replace("/run/postgresql", &scene.cluster.folder().display().to_string());
    let source = source.replace("dbname=app", &format!("dbname={}", scene.database));
    let queries = folder().join("postgres-exporter.yaml").display().to_string();
    assert!(page.text.contains("ARGS='--extend.query-path="), "the page says how it gets its queries");
    Program::start(scene, "prometheus-postgres-exporter", &[("DATA_SOURCE_NAME", &source)], |port| {
        let mut arguments: Vec<String> = more.iter().map(ToString::to_string).collect();
        arguments.push(format!("--extend.query-path={queries}"));
        arguments.push(format!("--web.listen-address=127.0.0.1:{port}"));
        arguments
    })
}

#[test]
fn postgres_exporter_shows_what_the_view_says() {
    let scene = scene();
    let exporter = postgres_exporter(&scene, &[]);
    assert_shows_the_view(&scene, Age::Fresh, || exporter.get("/metrics").map(|text| in_an_exporter(&text)));
}

#[test]
fn postgres_exporter_tells_databases_of_one_server_apart() {
    let scene = scene();
    let other = Scene::on(Arc::clone(&scene.cluster), Store::Postgres);
    let page = page();
    let argument = |name: &str| {
        let found = page.text.split_whitespace().find_map(|word| word.find(name).map(|at| &word[at..]));
        found.unwrap_or_else(|| panic!("the page does not name {name}"))
    };
    let include = argument("--include-databases=");
    assert_eq!(include, "--include-databases=app,shop");
    let include = include.replace("app,shop", &format!("{},{}", scene.database, other.database));
    let exporter = postgres_exporter(&scene, &[argument("--auto-discover-databases"), &include]);
    let wanted = BTreeSet::from([scene.database.clone(), other.database.clone()]);
    wait_until("both databases are shown", PATIENCE, || {
        let figures = in_text(&exporter.get("/metrics")?);
        let infos = figures.into_iter().filter(|(_, labels, _)| labels["metric"] == "lago_push_info");
        let databases: BTreeSet<String> = infos.map(|(_, labels, _)| labels["database"].clone()).collect();
        (databases == wanted).then_some(())
    });
}

#[test]
fn sql_exporter_shows_what_the_view_says() {
    let scene = scene();
    let config = adapted(
        &scene,
        "sql-exporter.yml",
        &[
            ("@/app?", &format!("@/{}?", scene.database)),
            ("/run/postgresql", &scene.cluster.folder().display().to_string()),
            ("interval: 15s", "interval: 1s"),
        ],
    );
    let exporter = Program::start(&scene, "prometheus-sql-exporter", &[], |port| {
        let listen = format!("127.0.0.1:{port}");
        vec!["-config.file".into(), config.display().to_string(), "-web.listen-address".into(), listen]
    });
    assert_shows_the_view(&scene, Age::Kept, || exporter.get("/metrics").map(|text| in_an_exporter(&text)));
}

#[test]
fn psql_prints_what_the_view_says_as_a_text_file_for_prometheus() {
    let scene = scene();
    let print = || {
        let mut psql = scene.cluster.program("psql");
        psql.env("PGUSER", "prometheus").args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &scene.database,
            "-f",
        ]);
        let out = psql.arg(folder().join("exposition.sql")).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let figures = || in_text(&print()).into_iter().map(|(name, labels, value)| figure(&name, labels, value));
    assert_shows_the_view(&scene, Age::Fresh, || Some(figures().collect()));
    promtool(&["check", "metrics"], &print());
}

#[test]
fn prometheus_stores_each_figure_under_its_own_name_and_raises_the_alarms() {
    let scene = scene();
    let exporter = postgres_exporter(&scene, &[]);
    let config = adapted(
        &scene,
        "prometheus.yml",
        &[("localhost:9187", &format!("127.0.0.1:{}", exporter.port)), ("interval: 15s", "interval: 1s")],
    );
    fs::write(scene.cluster.folder().join("lago_push-alerts.yml"), read("alerts.yml")).unwrap();
    let storage = scene.cluster.folder().join("prometheus");
    let prometheus = Program::start(&scene, "prometheus", &[], |port| {
        vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", storage.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ]
    });

    // {__name__=~"lago_push_.+"}
    let query = "/api/v1/query?query=%7B__name__%3D~%22lago_push_.%2B%22%7D";
    assert_shows_the_view(&scene, Age::Kept, || {
        let answer = prometheus.json(query)?;
        let series = answer["data"]["result"].as_array()?.iter();
        let figures = series.map(|series| {
            let mut labels: Labels =
                serde_json::from_value(series["metric"].clone()).expect("labels are texts");
            let name = labels.remove("__name__").expect("a series has a name");
            let value = series["value"][1].as_str().expect("a value is a text").parse().expect("of a number");
            figure(&name, labels, value)
        });
        Some(figures.collect())
    });

    let alarm = |name: &str, label: &str, value: &str| {
        let what = format!("the alarm {name} is there for {value}");
        wait_until(&what, PATIENCE, || {
            let answer = prometheus.json("/api/v1/alerts")?;
            let mut alerts = answer["data"]["alerts"].as_array()?.iter();
            let ours =
                |alert: &&Value| alert["labels"]["alertname"] == name && alert["labels"][label] == value;
            alerts.find(ours).map(|alert| alert["state"].clone())
        })
    };
    // Not fired yet: it has two hours.
    assert_eq!(alarm("LagoPushHoldForgotten", "destination", "lago"), "pending");
    assert_eq!(alarm("LagoPushDeadLettersGrow", "sync", "calls"), "firing");
}

// --- rules, dashboard, page ---------------------------------------------------------------------------------

fn alerts() -> BTreeSet<String> {
    let rules = read("alerts.yml");
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn the_rules_stand_their_unit_tests_and_each_rule_has_some() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts-test.yml"], "");
    let (tests, page) = (read("alerts-test.yml"), read("README.md"));
    assert!(alerts().len() >= 6, "{:?}", alerts());
    for alert in alerts() {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "no test in which {alert} fires");
        let quiet = format!("alertname: {alert}, eval_time: ");
        let quiet = tests.lines().any(|line| line.contains(&quiet) && line.ends_with("exp_alerts: []}"));
        assert!(quiet, "no test in which {alert} does not fire");
        assert!(page.contains(&format!("| `{alert}` |")), "the page does not say when {alert} fires");
    }
}

#[test]
fn each_rule_names_a_section_of_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let anchors = Page { name: "README.md".into(), text: readme }.anchors();
    let rules = read("alerts.yml");
    let named: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("see: README.md#")).collect();
    assert_eq!(named.len(), alerts().len());
    for anchor in named {
        assert!(anchors.iter().any(|known| known == anchor), "the README has no section {anchor}");
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana.json")).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().expect("the dashboard has panels")
}

/// Every expression of the dashboard, as Grafana would send it.
fn expressions(dashboard: &Value) -> Vec<String> {
    let targets =
        panels(dashboard).iter().flat_map(|panel| panel["targets"].as_array().expect("a panel asks"));
    let expressions = targets.map(|target| target["expr"].as_str().expect("for an expression"));
    expressions.map(|expression| expression.replace("$__rate_interval", "1m")).collect()
}

#[test]
fn every_expression_of_the_dashboard_is_one_prometheus_parses() {
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() >= 15, "{expressions:?}");
    let rules = expressions.iter().enumerate().map(
        |(number, expression)| serde_json::json!({"record": format!("panel:{number}"), "expr": expression}),
    );
    // JSON is YAML.
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules.collect::<Vec<_>>()}]});
    promtool(&["check", "rules", "/dev/stdin"], &rules.to_string());
}

#[test]
fn the_dashboard_can_be_imported_and_its_panels_do_not_overlap() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null(), "an id would overwrite another dashboard");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: BTreeSet<&str> =
        variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert!(variables.contains("datasource"), "{variables:?}");
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64()), "{title} has the id of another panel");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let place =
            |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("{title} has no {name}"));
        assert!(place("x") + place("w") <= 24, "{title} is wider than the page");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{title} covers another panel");
            }
        }
    }
    for expression in expressions(&dashboard) {
        for variable in expression.split("\"$").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(variables.contains(variable), "no variable {variable}: {expression}");
        }
    }
}

/// The names of figures in a text.
fn figures_named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("lago_push_")).collect()
}

#[test]
fn rules_and_dashboard_name_figures_of_the_view() {
    let scene = scene();
    // Out of the view's own text, because a figure that cannot be told yet has no row.
    let view: String = scene.value("select pg_catalog.pg_get_viewdef('lago_push.metrics')");
    let known = figures_named(&view);
    let shown = in_the_view(&scene);
    let shown: BTreeSet<&str> = shown.keys().map(|(name, _)| name.as_str()).collect();
    assert!(shown.len() >= 15 && shown.is_subset(&known), "{shown:?} and {known:?}");
    let (dashboard, rules, page) = (dashboard(), read("alerts.yml"), read("README.md"));
    let mut used = 0;
    for text in expressions(&dashboard).iter().chain([&rules]) {
        for name in figures_named(text) {
            assert!(known.contains(name), "there is no figure {name}: {known:?}");
            used += 1;
        }
    }
    assert!(used >= 20, "only {used} names were found");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let query = variable["definition"].as_str().unwrap();
        let name = figures_named(query).into_iter().next().unwrap_or_else(|| panic!("no figure in {query}"));
        assert!(known.contains(name), "there is no figure {name}: {query}");
    }
    for name in figures_named(&page).into_iter().filter(|name| *name != "lago_push_value") {
        assert!(known.contains(name), "there is no figure {name}, which the page names");
    }
}

#[test]
fn the_page_links_every_file_of_its_folder_and_none_that_is_not_there() {
    let page = page();
    page.check_blocks(&["sql", "sh", "ini"]);
    let links = page.links();
    for link in &links {
        let path = link.split('#').next().unwrap_or_default();
        assert!(folder().join(path).exists(), "there is no {link}");
    }
    for file in fs::read_dir(folder()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || links.contains(&name), "the page does not name {name}");
    }
}
