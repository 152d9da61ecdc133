//! README.md and its pages in docs/, tried out: their SQL runs and shows what they show, their commands exist,
//! and whatever a user can meet (settings, functions, views, endpoints, filters, tags, warnings, sentences) has
//! its place in them. [`delivery::markdown`] says how blocks are run and compared.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use delivery::cluster::{Cluster, Options};
use delivery::markdown::{Block, Page, Stage};
use delivery::scene::Scene;
use fake_lago::{Metric, Store, Subscription};

/// Commands of the README that no test can run, and why.
const NOT_RUN: [(&str, &str); 3] = [
    ("sudo systemctl restart postgresql", "restarts a service of the machine, which tests leave alone"),
    (
        "sudo apt install ./target/deb/postgresql-15-lago-push_0.2.0_amd64.deb",
        "installs on the machine; packages.rs installs the package elsewhere",
    ),
    ("docker build --build-arg PG_MAJOR=15 -t postgres-lago_push .", "needs a registry; packages.rs lints"),
];

/// String literals of the sources below that read like sentences and are none an operator sees.
const NO_SENTENCES: [(&str, &str); 11] = [
    ("Bearer {key}", "a header"),
    ("lago_push sender", "the name of a thread"),
    ("failed to lookup address", "what the resolver says; shown as: the host name is not known"),
    ("there is none, and {} needs \"{key}\"", "a mistake create_sync reports"),
    ("one row of five columns", "a word to clippy"),
    ("(extract(epoch from {of}) * 1000000)::bigint", "a piece of a statement"),
    (
        "(select min(q.asked_at) from lago_push.run_request q where q.sync_id = s.id)",
        "a piece of a statement",
    ),
    ("the sync is gone", "cannot be: redrive holds the sync's lock"),
    ("there is no message", "cannot be: a question is asked about a message"),
    (
        "give the table a primary key the sync may see, or name what tells its rows apart: \"{key}\": \"call-{{{{ row.id }}}}\"",
        "a hint of create_sync",
    ),
    (
        "write {{\"{key}\": \"{{{{ row.column }}}}\"}}, or a path with {{{{ row.column }}}} in it",
        "a hint of create_sync",
    ),
];

/// The pages beside the README that are tried out here; docs/recipes has a test of its own, and what runs on
/// several servers is in scaling.rs.
const PAGES: [&str; 5] =
    ["docs/templates.md", "docs/queries.md", "docs/endpoints.md", "docs/verdicts.md", "docs/scaling.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

fn readme() -> String {
    read("README.md")
}

fn page(name: &str) -> Page {
    Page { name: name.into(), text: read(name) }
}

/// The README and its pages.
fn pages() -> impl Iterator<Item = Page> {
    std::iter::once("README.md").chain(PAGES).map(page)
}

fn blocks(page: &str) -> Vec<Block> {
    Page { name: "README.md".into(), text: page.into() }.blocks()
}

/// The part of the page under a heading, up to the next one of the same or a higher rank.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let from = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")) + 1;
    let rank = heading.len() - heading.trim_start_matches('#').len();
    let after = from + heading.len();
    let to = (1..=rank).filter_map(|rank| page[after..].find(&format!("\n{} ", "#".repeat(rank)))).min();
    &page[from..to.map_or(page.len(), |to| after + to)]
}

/// The cells of the table rows of `part`.
fn rows(part: &str) -> impl Iterator<Item = Vec<String>> {
    let rows = part.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// The cells of the table row of `part` whose first cell is the code `name`.
fn row(part: &str, name: &str) -> Option<Vec<String>> {
    rows(part).find(|cells| cells[0] == format!("`{name}`"))
}

/// What stands between backquotes.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_sql_block_runs_and_shows_what_the_page_shows() {
    let scene = Scene::without_extension(Cluster::start(&Options::default()), Store::Postgres, "");
    scene.lago.define_subscription(Subscription::always("sub_acme", "acme"));
    for (metric, property) in [
        ("api_calls", "bytes"),
        ("seats", "seats"),
        ("exports", "gb"),
        ("uploads", "mb"),
        ("members", "members"),
    ] {
        scene.lago.define_metric(Metric::sum(metric, property));
    }
    let billed =
        |metric: &str| scene.lago.bill().line("sub_acme", metric).map(|line| (line.events, line.sum.clone()));

    let mut seen = false;
    let tried = page("README.md").try_out(&Stage::new(&scene), |block| {
        if block.text.contains("(2, 'sub_acme', 820.5") {
            assert_eq!(billed("api_calls"), Some((3, Some("2384.5".into()))), "the sum the page names");
            seen = true;
        }
    });
    assert!(seen, "the rows whose sum the page names");
    assert!(tried.run >= 35, "only {} SQL blocks were found", tried.run);
    assert!(tried.compared >= 22, "only {} blocks with output were found", tried.compared);
    assert!(tried.failed_on_purpose >= 3, "only {} blocks with an error were found", tried.failed_on_purpose);
    assert_eq!(billed("api_calls"), Some((12, Some("2454.5".into()))));
    assert_eq!(billed("seats").map(|(events, _)| events), Some(2));
    assert_eq!(billed("exports"), Some((1, Some("2.5".into()))), "the dead letter that was sent again");
    assert_eq!(billed("uploads"), Some((2501, Some("3751.5".into()))), "existing rows, each once");
    assert_eq!(billed("members"), Some((2, Some("5".into()))), "what two runs of a query found");
    let bill = scene.lago.bill();
    assert!(bill.never_billed.is_empty() && bill.billed_twice.is_empty(), "{bill:?}");
    assert_eq!(calls(&scene), ["POST /customers", "POST /customers"]);
}

/// The requests that were not about events.
fn calls(scene: &Scene) -> Vec<String> {
    let requests = scene
        .lago
        .requests()
        .into_iter()
        .map(|request| format!("{} {}", request.method, request.path.trim_start_matches("/api/v1")));
    requests.filter(|call| !call.contains("/events")).collect()
}

#[test]
fn every_sql_block_of_the_page_on_templates_runs_and_shows_what_the_page_shows() {
    let scene = Scene::new();
    let tried = page("docs/templates.md").try_out(&Stage::new(&scene), |_| {});
    assert!(tried.run >= 4 && tried.compared >= 4 && tried.failed_on_purpose >= 1, "{tried:?}");
    assert_eq!(scene.lago.request_count(), 0, "a preview sends nothing");
}

#[test]
fn every_sql_block_of_the_page_on_queries_runs_and_shows_what_the_page_shows() {
    let scene = Scene::new();
    let tried = page("docs/queries.md").try_out(&Stage::new(&scene), |_| {});
    assert!(tried.run >= 12 && tried.compared >= 6, "{tried:?}");
    let ids: BTreeSet<String> = scene.arrived().into_iter().collect();
    let of_runs = [
        "insert:sub_acme:1",
        "insert:sub_ben:1",
        "update:sub_acme:2",
        "delete:sub_ben:2",
        "delete:sub_acme:3",
    ];
    let of_calls = ["calls:insert:1999999:2".to_owned()];
    assert_eq!(ids, of_runs.map(|id| format!("teams:{id}")).into_iter().chain(of_calls).collect());
}

#[test]
fn every_sql_block_of_the_page_on_endpoints_runs_and_shows_what_the_page_shows() {
    let scene = Scene::new();
    let tried = page("docs/endpoints.md").try_out(&Stage::new(&scene), |_| {});
    assert!(tried.run >= 4 && tried.compared >= 3, "{tried:?}");
    // Two calls for one customer may meet, and the second go again: that is no other call.
    let calls: BTreeSet<String> = calls(&scene).into_iter().collect();
    let gone = "DELETE /customers/anna%40example%2Ecom".to_owned();
    assert_eq!(calls, BTreeSet::from([gone, "POST /customers".to_owned()]));
}

#[test]
fn every_block_is_of_a_known_kind_and_every_output_follows_its_sql() {
    pages().for_each(|page| page.check_blocks(&["sql", "text", "sh", "ini", ""]));
}

fn make_targets() -> BTreeSet<String> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let makefile = read("Makefile");
    let heads = makefile.lines().filter_map(|line| line.split_once(':')).map(|(head, _)| head);
    heads.filter(|head| is_name(head)).map(str::to_owned).collect()
}

#[test]
fn every_command_exists() {
    let (page, targets, makefile) = (readme(), make_targets(), read("Makefile"));
    assert!(targets.contains("demo"), "{targets:?}");
    let check_make = |command: &str| {
        let mut words = command.split_whitespace().skip_while(|word| *word != "make").skip(1);
        if let Some(target) = words.next() {
            assert!(targets.contains(target), "make knows no {target}: {command}");
        }
        for (variable, _) in words.filter_map(|word| word.split_once('=')) {
            assert!(makefile.contains(variable), "the Makefile knows no {variable}: {command}");
        }
    };
    let mut commands = 0;
    for block in blocks(&page).iter().filter(|block| block.language == "sh") {
        for command in block.text.lines().filter(|line| !line.is_empty()) {
            commands += 1;
            if command.starts_with("make ") {
                check_make(command);
            } else {
                let listed = NOT_RUN.iter().any(|(listed, _)| *listed == command);
                assert!(listed, "{command} is neither run nor on the list of what cannot be");
            }
        }
    }
    assert!(commands >= 4, "only {commands} commands were found");
    // And those in running text.
    let inline: Vec<&str> =
        page.split('`').skip(1).step_by(2).filter(|code| code.starts_with("make ")).collect();
    assert!(inline.len() >= 3, "{inline:?}");
    inline.into_iter().for_each(check_make);
}

#[test]
fn every_line_for_the_configuration_file_is_one_the_server_knows() {
    let cluster = Cluster::start(&Options::default());
    let mut lines = 0;
    for block in blocks(&readme()).iter().filter(|block| block.language == "ini") {
        for line in block.text.lines() {
            let (name, value) = line.split_once(" = ").unwrap_or_else(|| panic!("no setting: {line}"));
            let set = cluster.psql("postgres", &format!("show {name}"));
            assert_eq!(format!("'{}'", set.trim()), value, "the test's server runs with another {name}");
            lines += 1;
        }
    }
    assert!(lines >= 1);
}

#[test]
fn every_setting_is_described_as_it_is() {
    let page = readme();
    let described = section(&page, "## Settings");
    let cluster = Cluster::start(&Options::default());
    let sql = "select name, boot_val, case vartype when 'enum' then 'word' else unit end,
                      min_val || ' to ' || max_val, array_to_string(enumvals, ', ')
                 from pg_settings where name like 'lago_push.%'";
    let settings = cluster.connect("postgres").query(sql, &[]).unwrap();
    let in_source = read("src/settings.rs").matches("c\"lago_push.").count();
    assert_eq!(settings.len(), in_source, "settings of the server and of the source");
    for setting in settings {
        let text = |n: usize| setting.get::<_, &str>(n);
        let unit = match setting.get::<_, Option<&str>>(2) {
            Some("s") => "seconds",
            Some("ms") => "milliseconds",
            Some(other) => other,
            None if text(0).ends_with("_attempts") => "attempts",
            None if text(0).ends_with("_runs") => "runs",
            None => panic!("{} has no unit", text(0)),
        };
        let cells = row(described, text(0)).unwrap_or_else(|| panic!("{} is not described", text(0)));
        let range: Option<&str> = setting.get::<_, Option<&str>>(3).or_else(|| setting.get(4));
        assert_eq!(cells[1..4], [text(1), unit, range.unwrap_or_default()], "{}", text(0));
    }
}

#[test]
fn every_function_and_every_parameter_is_described_as_it_is() {
    let page = readme();
    let scene = Scene::new();
    let functions = scene.rows(
        "select p.proname::text, coalesce(p.proargnames[:p.pronargs], '{}'),
                pg_get_function_arguments(p.oid), coalesce(p.proargnames[p.pronargs + 1:], '{}')
           from pg_proc p where p.pronamespace = 'lago_push'::regnamespace and p.proname not like '\\_%'",
    );
    assert!(functions.len() >= 18, "only {} functions", functions.len());
    for function in functions {
        let (name, parameters, signature): (&str, Vec<String>, &str) =
            (function.get(0), function.get(1), function.get(2));
        for column in function.get::<_, Vec<String>>(3) {
            let part =
                section(&page, if name == "reconcile" { RECONCILIATION } else { "## Before it counts" });
            let listed = rows(part).any(|cells| code(&cells[0]).any(|name| *name == column));
            assert!(listed, "{name} gives a column {column}");
        }
        let part = match name {
            "create_destination" | "alter_destination" => section(&page, "## Destinations"),
            "create_sync" | "alter_sync" => section(&page, "## Syncs"),
            "reconcile" => section(&page, RECONCILIATION),
            _ => &page,
        };
        assert!(
            page.contains(&format!("`{name}(")) || page.contains(&format!("`lago_push.{name}(")),
            "{name}"
        );
        let listed = page.lines().find(|line| line.starts_with(&format!("| `{name}("))).unwrap_or_default();
        for parameter in &parameters {
            match row(part, parameter).filter(|_| parameters.len() > 2) {
                Some(cells) if !name.starts_with("alter_") => {
                    let default = default_of(signature, parameter);
                    let said = cells[1].replace('`', "");
                    assert!(default.is_none_or(|default| default == said), "{name}, {parameter}: {said}");
                }
                Some(_) => {}
                None => assert!(
                    listed.contains(parameter.as_str()),
                    "{name} has a parameter {parameter}: {listed}"
                ),
            }
        }
    }
}

/// The default of a parameter as the page writes it; none if it has none or null.
fn default_of(signature: &str, parameter: &str) -> Option<String> {
    let declared = signature.split(", ").find(|part| part.split(' ').next() == Some(parameter))?;
    let default = declared.split_once(" DEFAULT ")?.1.split("::").next()?.trim_matches('\'');
    match default {
        "NULL" => None,
        "00:00:30" => Some("30 s".into()),
        "00:00:10" => Some("10 s".into()),
        other => Some(other.into()),
    }
}

#[test]
fn every_column_of_every_view_is_described() {
    let page = readme();
    let columns = Scene::new().rows(
        "select c.relname::text, a.attname::text
           from pg_class c join pg_attribute a on a.attrelid = c.oid
          where c.relnamespace = 'lago_push'::regnamespace and c.relkind = 'v' and c.relname not like '\\_%'
            and a.attnum > 0",
    );
    assert!(columns.len() >= 50, "only {} columns", columns.len());
    for column in columns {
        let (view, column): (&str, &str) = (column.get(0), column.get(1));
        let described = section(&page, &format!("### {view}"));
        let cells =
            described.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
        let mut names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        assert!(names.any(|name| name == column), "{view}.{column} is not described");
    }
}

#[test]
fn every_metric_is_described_and_no_other() {
    let page = readme();
    let metrics = rows(section(&page, "### metrics")).filter(|cells| cells[0].starts_with("`lago_push_"));
    let described: BTreeMap<String, String> =
        metrics.map(|cells| (cells[0].trim_matches('`').to_owned(), cells[1].clone())).collect();
    let source = read("sql/metrics.sql");
    let named = source.split('\'').skip(1).step_by(2).filter(|text| text.starts_with("lago_push_"));
    let named: BTreeSet<&str> = named.collect();
    assert!(named.len() >= 28, "{named:?}");
    assert_eq!(described.keys().map(String::as_str).collect::<BTreeSet<_>>(), named);

    let scene = Scene::new();
    scene.billed_table("usage");
    let shown = scene.rows(
        "select m.name, array(select k from jsonb_object_keys(m.labels) k), count(*) over (partition by m.name, m.labels)
           from lago_push.metrics m",
    );
    assert!(shown.len() >= 25, "only {} figures", shown.len());
    for figure in shown {
        let (name, labels): (&str, BTreeSet<String>) =
            (figure.get(0), figure.get::<_, Vec<String>>(1).into_iter().collect());
        let told = described[name].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        assert_eq!(labels, told, "{name}");
        assert_eq!(figure.get::<_, i64>(2), 1, "{name} is there twice");
    }
}

#[test]
fn every_wait_event_is_described_and_no_other() {
    let page = readme();
    let described: BTreeSet<String> = rows(section(&page, "### workers"))
        .map(|cells| cells[0].trim_matches('`').to_owned())
        .filter(|name| name.starts_with("LagoPush"))
        .collect();
    let named = literals_of_c(&read("src/pg/process.rs"), "LagoPush");
    assert!(named.len() >= 6, "{named:?}");
    assert_eq!(described, named);
}

/// The C literals of a source that begin so.
fn literals_of_c(source: &str, beginning: &str) -> BTreeSet<String> {
    let literals = source.split("c\"").skip(1).filter_map(|rest| rest.split_once('"'));
    literals.map(|(text, _)| text.to_owned()).filter(|text| text.starts_with(beginning)).collect()
}

/// The string literals of Rust source, without those of its tests, of bytes and of C.
fn literals(source: &str) -> Vec<String> {
    let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
    // A quote as a character is not the beginning of a literal.
    let code = code.replace("'\"'", "''");
    let mut literals = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find('"') {
        let other_kind = rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let mut literal = String::new();
        let mut characters = rest[at + 1..].char_indices();
        let end = loop {
            match characters.next() {
                Some((_, '\\')) => literal.extend(characters.next().map(|(_, escaped)| escaped)),
                Some((end, '"')) => break end,
                Some((_, other)) => literal.push(other),
                None => panic!("a literal is not closed: {literal}"),
            }
        };
        if !other_kind {
            literals.push(literal);
        }
        rest = &rest[at + 1 + end + 1..];
    }
    literals
}

/// The Rust files of the extension, without its tests.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    let paths = paths.filter(|path| !path.ends_with("tests") && !path.ends_with("tests.rs"));
    paths
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Whether a literal says what is wrong with a payload. What to do about it, which stands beside it and begins
/// with a capital letter, is shown to whoever meets it.
fn is_finding(literal: &str) -> bool {
    let is_advice = literal.starts_with(char::is_uppercase) && !literal.starts_with("Lago ");
    literal.trim().contains(' ') && !is_advice
}

/// Whether a literal is SQL: a statement, or a piece of one, told by a parameter, which no sentence has.
fn is_statement(literal: &str) -> bool {
    let verbs = [
        "select ",
        "insert into ",
        "update ",
        "delete from ",
        "with ",
        "set constraints ",
        "lock table ",
        " union all ",
    ];
    let has_parameter = literal.split('$').skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    has_parameter || verbs.iter().any(|verb| literal.starts_with(verb))
}

/// What a format string says between its values.
fn fixed_parts(format: &str) -> Vec<String> {
    let parts = format
        .split('{')
        .enumerate()
        .map(|(n, part)| if n == 0 { part } else { part.split_once('}').map_or("", |(_, rest)| rest) });
    parts.map(|part| part.trim().to_owned()).filter(|part| part.chars().any(char::is_alphabetic)).collect()
}

const RECONCILIATION: &str = "## Reconciliation";

/// Where sentences an operator meets are made: about rows that cannot be rendered, about requests without a
/// reply, about replies, and about what the worker does.
const SOURCES: [&str; 35] = [
    "src/cap.rs",
    "src/defaults.rs",
    "src/guard.rs",
    "src/instance.rs",
    "src/liquid/filter.rs",
    "src/liquid/library.rs",
    "src/liquid/lists.rs",
    "src/liquid/run.rs",
    "src/liquid/value.rs",
    "src/lookup.rs",
    "src/lookup/event.rs",
    "src/outbox.rs",
    "src/payload/faults.rs",
    "src/payload/request.rs",
    "src/recipe.rs",
    "src/render.rs",
    "src/run.rs",
    "src/run/capture.rs",
    "src/run/memory.rs",
    "src/run/words.rs",
    "src/sender.rs",
    "src/sender/connections.rs",
    "src/sender/key.rs",
    "src/sender/transport.rs",
    "src/sender/trouble.rs",
    "src/surface/letters.rs",
    "src/sync.rs",
    "src/verdict.rs",
    "src/verdict/any.rs",
    "src/verdict/events.rs",
    "src/verdict/single.rs",
    "src/worker/read.rs",
    "src/worker/settle.rs",
    "src/version.rs",
    "sql/letters.sql",
];

/// Files beside them that make no sentence; one that begins to is noticed.
const SILENT: [&str; 3] = ["src/lookup/top_up.rs", "src/sender/headers.rs", "src/verdict/answer.rs"];

/// The README's tables of what one sees, and the page on verdicts.
fn tables_of_sentences() -> String {
    section(&readme(), "## If you see this, do that").to_owned() + &read("docs/verdicts.md")
}

/// The sentences of one of [`SOURCES`].
fn sentences_of(file: &str) -> Vec<String> {
    let source = read(file);
    if file.ends_with(".sql") {
        let reasons = source.split("set reason = '").skip(1).filter_map(|rest| rest.split_once("' where"));
        return reasons.map(|(reason, _)| reason.replace("''", "'")).collect();
    }
    let said = literals(&source);
    // A reason that is written by the statement itself.
    let in_statements = said.iter().filter(|literal| is_statement(literal));
    let in_statements = in_statements.flat_map(|sql| sql.split('\'').skip(1).step_by(2));
    let in_statements = in_statements.filter(|text| text.matches(' ').count() > 3).map(str::to_owned);
    let plain = said.iter().filter(|literal| is_finding(literal) && !is_statement(literal));
    let plain = plain.filter(|literal| NO_SENTENCES.iter().all(|(none, _)| none != literal));
    plain.cloned().chain(in_statements).collect()
}

/// What the launcher and the workers log.
fn logged() -> Vec<(String, String)> {
    let mut logged = Vec::new();
    for file in rust_files(&root().join("src")) {
        let source = fs::read_to_string(&file).unwrap();
        for call in ["pgrx::warning!(", "pgrx::log!(", "pgrx::error!("] {
            for after in source.split(call).skip(1) {
                let arguments = literals(after.split(");").next().unwrap_or_default());
                let first = arguments.into_iter().take(1);
                logged.extend(first.map(|sentence| (file.display().to_string(), sentence)));
            }
        }
    }
    logged
}

#[test]
fn every_sentence_an_operator_can_meet_has_its_row() {
    let tables = tables_of_sentences();
    let mut sentences = logged();
    for file in SOURCES {
        let found = sentences_of(file);
        assert!(!found.is_empty(), "{file}: none");
        sentences.extend(found.into_iter().map(|sentence| (file.to_owned(), sentence)));
    }
    assert!(sentences.len() >= 190, "only {} sentences were found", sentences.len());
    for file in SILENT {
        let said = sentences_of(file).iter().flat_map(|sentence| fixed_parts(sentence)).next();
        assert_eq!(said, None, "{file} belongs to the sources of sentences");
    }
    let missing: Vec<String> = sentences
        .iter()
        .flat_map(|(file, sentence)| fixed_parts(sentence).into_iter().map(move |part| (file, part)))
        .filter(|(_, part)| !tables.contains(part.as_str()))
        .map(|(file, part)| format!("{file}: {part}"))
        .collect();
    assert!(missing.is_empty(), "not in \"If you see this, do that\":\n{}", missing.join("\n"));
}

/// What is left of a sentence of a page without what the program says: the words nobody says.
fn unsaid(sentence: &str, said: &[String]) -> String {
    let of_part = |part: &str| {
        if said.iter().any(|said| said.contains(part)) {
            return String::new();
        }
        said.iter().fold(part.to_owned(), |rest, said| rest.replace(said.as_str(), "…"))
    };
    sentence.split('…').map(of_part).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_row_is_about_a_sentence_that_is_said() {
    let files = rust_files(&root().join("src"));
    let files = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let mut said: Vec<String> = files.flat_map(|source| literals(&source)).collect();
    said.extend(SOURCES.iter().flat_map(|file| sentences_of(file)));
    let words: BTreeSet<String> = said.iter().filter(|said| !said.contains(' ')).cloned().collect();
    // Longest first, lest a short one leaves a rest of a long one.
    let mut said: Vec<String> = said
        .iter()
        .flat_map(|literal| literal.split('{').map(|part| part.rsplit('}').next().unwrap_or_default()))
        .filter(|part| part.contains(' ') && part.contains(char::is_alphabetic))
        .map(str::to_owned)
        .collect();
    said.sort_by_key(|part| std::cmp::Reverse(part.len()));
    let (readme, verdicts) = (readme(), read("docs/verdicts.md"));
    let mut shown: Vec<String> = Vec::new();
    for heading in
        ["### last_error", "### The reason of a dead letter", "### What a run says", "### In the server log"]
    {
        for cells in rows(section(&readme, heading)).filter(|cells| cells[0].starts_with('`')) {
            shown.extend(code(&cells[0]).map(str::to_owned));
        }
    }
    for cells in rows(&verdicts).filter(|cells| cells.len() == 4) {
        shown.extend(code(&cells[2]).map(str::to_owned));
    }
    assert!(shown.len() >= 150, "only {} sentences are shown", shown.len());
    // Those with an underscore are Lago's.
    let is_unsaid = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        word.len() > 2 && word.contains(char::is_alphabetic) && !word.contains('_') && !words.contains(word)
    };
    let nobody_says: Vec<String> = shown
        .iter()
        .map(|sentence| (sentence, unsaid(sentence, &said)))
        .filter(|(_, rest)| rest.split([' ', '…']).any(is_unsaid))
        .map(|(sentence, rest)| format!("{sentence}\n    {}", rest.trim()))
        .collect();
    assert!(nobody_says.is_empty(), "no code says:\n{}", nobody_says.join("\n"));
}

#[test]
fn every_state_has_its_row() {
    let page = readme();
    let table = section(&page, "### States");
    let quoted =
        |line: &str| -> Vec<String> { line.split('\'').skip(1).step_by(2).map(str::to_owned).collect() };
    let tables = read("sql/tables.sql");
    let of_syncs = tables
        .lines()
        .find(|line| line.contains("constraint state_is_known"))
        .map(quoted)
        .unwrap_or_default();
    let views = read("sql/views.sql");
    let of_destinations =
        views.split("select d.name").nth(1).and_then(|view| view.split(" as state").next()).map(quoted);
    let states = of_syncs.into_iter().chain(of_destinations.unwrap_or_default());
    let states: Vec<String> = states.chain(["working", "idle", "asleep"].map(str::to_owned)).collect();
    assert!(states.len() >= 9, "{states:?}");
    for state in states {
        assert!(table.contains(&format!("`{}", state.trim_end())), "no row for the state {state}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let folder = Path::new(&page.name).parent().unwrap_or(Path::new(""));
        for target in page.links() {
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() { PathBuf::from(&page.name) } else { folder.join(file) };
            assert!(root().join(&file).exists(), "{}: no file {}", page.name, file.display());
            if !anchor.is_empty() {
                let text = read(&file.display().to_string());
                let anchors = Page { name: String::new(), text }.anchors();
                assert!(anchors.iter().any(|known| known == anchor), "{}: no heading {target}", page.name);
            }
        }
    }
    assert!(links >= 60, "only {links} links");
}

#[test]
fn prose_fits_a_terminal() {
    for page in pages() {
        for line in page.prose().lines().filter(|line| !line.starts_with('|')) {
            assert!(line.chars().count() <= 120, "{}: {line}", page.name);
        }
    }
}

#[test]
fn every_endpoint_is_described_as_it_is() {
    let (page, readme) = (read("docs/endpoints.md"), readme());
    let described = section(&page, "## The catalogue");
    let queries = section(&page, "## Path, query and body");
    let overview = section(&readme, "## Endpoints");
    let endpoints = Scene::new().rows(
        "select name, method || ' ' || path, root, required, idempotent, example from lago_push.endpoints",
    );
    assert!(endpoints.len() >= 27, "only {} endpoints", endpoints.len());
    for endpoint in &endpoints {
        let (name, call): (&str, &str) = (endpoint.get(0), endpoint.get(1));
        let root = endpoint.get::<_, Option<&str>>(2).map_or("no body".into(), |root| format!("`{root}`"));
        let required: Vec<String> = endpoint.get(3);
        let required: Vec<String> = required.iter().map(|key| format!("`{key}`")).collect();
        let safe = if endpoint.get(4) { "yes" } else { "no" };
        let cells = row(described, name).unwrap_or_else(|| panic!("{name} is not described"));
        let keys = cells[3].split("; one of ").next().unwrap_or_default();
        let expected = [format!("`{call}`"), root, required.join(", "), safe.into()];
        assert_eq!(
            [&*cells[1], &cells[2], keys, &cells[4]],
            expected.each_ref().map(String::as_str),
            "{name}"
        );
        assert!(code(overview).any(|known| known == name), "{name} is not in the README");
    }
    let rows_of_the_table = rows(described).filter(|cells| cells[0].starts_with('`')).count();
    assert_eq!(rows_of_the_table, endpoints.len(), "rows and endpoints");

    // What the view does not show.
    let source = read("src/endpoint/catalogue.rs");
    let entries: Vec<&str> =
        source.split("#[cfg(test)]").next().unwrap_or_default().split("Endpoint {").collect();
    let mut looked_at = 0;
    for entry in entries {
        let list = |field: &str| -> Vec<String> {
            let listed = entry
                .split_once(&format!("\n        {field}: &["))
                .and_then(|(_, rest)| rest.split_once(']'));
            listed.map(|(list, _)| literals(list)).unwrap_or_default()
        };
        let Some(name) = entry.split_once("name: \"").and_then(|(_, rest)| rest.split_once('"')) else {
            continue;
        };
        let name = name.0;
        for (field, part, cell) in [("any_of", described, 3), ("query", queries, 1)] {
            let keys = list(field);
            if keys.is_empty() {
                continue;
            }
            looked_at += 1;
            let cells = row(part, name).unwrap_or_else(|| panic!("{name} has {field} and no row"));
            let told = cells[cell].split("one of ").last().unwrap_or_default();
            assert_eq!(code(told).collect::<Vec<_>>(), keys, "{name}: {field}");
        }
    }
    assert!(looked_at >= 4, "only {looked_at} lists");
}

#[test]
fn every_filter_is_described_and_no_other() {
    let page = read("docs/templates.md");
    let described: BTreeSet<String> = rows(section(&page, "## Filters"))
        .flat_map(|cells| code(&cells[0]).map(str::to_owned).collect::<Vec<_>>())
        .map(|code| code.split(':').next().unwrap_or_default().to_owned())
        .collect();
    let source = read("src/liquid/filter.rs");
    let table =
        source.split_once("FILTERS: ").and_then(|(_, rest)| rest.split_once("];")).expect("the table").0;
    let known: BTreeSet<String> = literals(table).into_iter().collect();
    assert!(known.len() >= 50, "{known:?}");
    assert_eq!(described, known);
}

#[test]
fn every_tag_is_described_and_no_other() {
    let page = read("docs/templates.md");
    let described: BTreeSet<String> = section(&page, "## Tags")
        .lines()
        .filter_map(|line| line.strip_prefix("| `{% "))
        .flat_map(|line| {
            line.split("` |").next().unwrap_or_default().split("`{% ").map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|tag| tag.split_whitespace().next().map(str::to_owned))
        .collect();
    let source = read("src/liquid/program.rs");
    let matched = source
        .split_once("match tag.name {")
        .and_then(|(_, rest)| rest.split_once("name =>"))
        .expect("the tags")
        .0;
    let arms = matched.lines().filter_map(|line| line.split_once("=>")).map(|(pattern, _)| pattern);
    let known: BTreeSet<String> = arms.flat_map(literals).filter(|tag| !tag.is_empty()).collect();
    assert!(known.len() >= 11, "{known:?}");
    assert_eq!(described, known);
    // Those within other tags, and what a loop knows.
    let inner = ["elsif", "else", "when", "limit", "offset", "reversed"].map(str::to_owned);
    let source = read("src/liquid/value.rs");
    let names = source.split_once("LOOP_NAMES").and_then(|(_, rest)| rest.split_once("];")).expect("names").0;
    for word in literals(names).into_iter().chain(inner) {
        assert!(section(&page, "## Tags").contains(&word), "{word} is not described");
    }
}

#[test]
fn every_warning_has_its_row() {
    let page = readme();
    let table = section(&page, "### Warnings");
    let mut missing = Vec::new();
    let mut found = 0;
    for file in ["src/payload/cautions.rs", "src/surface/trying.rs"] {
        let source = read(file);
        let warnings = match file {
            "src/surface/trying.rs" => {
                source.split_once("fn show(").and_then(|(_, rest)| rest.split_once("\n}\n"))
            }
            _ => None,
        };
        let warnings = literals(warnings.map_or(&*source, |(shown, _)| shown));
        for sentence in warnings.into_iter().filter(|literal| is_finding(literal)) {
            found += 1;
            missing.extend(fixed_parts(&sentence).into_iter().filter(|part| !table.contains(part.as_str())));
        }
    }
    assert!(found >= 25, "only {found} warnings were found");
    assert!(missing.is_empty(), "not in \"Warnings\":\n{}", missing.join("\n"));
}
