//! How lago_push comes to where it is used: the Debian package, installed into a PostgreSQL of its own and taken out
//! again; what PGXN and Docker are given; and that all of them, the changelog and the README are of one version.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use delivery::cluster::{Cluster, Options, PG_CONFIG_VARIABLE};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, insert_rows};
use fake_lago::Store;
use rustix::process::geteuid;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout is there")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

/// Runs a program and returns what it prints; panics with what it says when it fails.
fn run(command: &mut Command) -> String {
    let out = command.output();
    let out = out.unwrap_or_else(|e| panic!("{} does not run: {e}", command.get_program().display()));
    let (printed, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}\n{printed}{said}");
    printed.into_owned()
}

/// A program of a Debian package that scripts/prerequisites installs, where it can.
fn program(name: &str, package: &str) -> Command {
    let found =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(name).exists());
    assert!(found, "there is no {name} on the PATH: install {package} (so it is called in Debian)");
    Command::new(name)
}

fn pg_config() -> String {
    env::var(PG_CONFIG_VARIABLE).unwrap_or_else(|_| "pg_config".into())
}

/// The major version of the PostgreSQL under test.
fn major() -> String {
    let version = run(Command::new(pg_config()).arg("--version"));
    let digits: String =
        version.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    assert!(!digits.is_empty(), "no version in {version}");
    digits
}

/// A folder that the user who runs test servers can read, too.
fn folder() -> PathBuf {
    let cache = run(&mut Command::new(root().join("scripts/cache-folder")));
    let folder = Path::new(cache.trim()).join("packages");
    fs::create_dir_all(&folder).unwrap();
    folder
}

// --- one version --------------------------------------------------------------------------------------------

/// The text between two others.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let found = text.split_once(from).and_then(|(_, rest)| rest.split_once(to));
    found.unwrap_or_else(|| panic!("no {from}…{to}")).0
}

fn version() -> String {
    between(&read("Cargo.toml"), "\nversion = \"", "\"").to_owned()
}

/// The versions with a heading in the changelog, the newest first.
fn versions_of_the_changelog() -> Vec<String> {
    let changelog = read("CHANGELOG.md");
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let names = headings.filter_map(|heading| heading.split(' ').next()).filter(|name| *name != "Unreleased");
    names.map(str::to_owned).collect()
}

#[test]
fn everything_that_names_a_version_names_the_same() {
    let version = version();
    let meta = meta();
    assert_eq!(meta["version"], *version, "META.json");
    assert_eq!(meta["provides"]["lago_push"]["version"], *version, "META.json");
    assert_eq!(versions_of_the_changelog().first(), Some(&version), "CHANGELOG.md");
    assert_eq!(between(&read("debian/changelog"), "lago-push (", ")"), version, "debian/changelog");
    assert!(read("README.md").contains(&format!("\nPostgreSQL 14 to 18. Version {version}.\n")), "README.md");
    let file = format!("/postgresql-15-lago-push_{version}_amd64.deb\n");
    assert!(read("README.md").contains(&file), "the name of the Debian package in README.md");
    assert_eq!(between(&read("lago_push.control"), "default_version = '", "'"), "@CARGO_VERSION@");
    let installed = Cluster::shared()
        .connect("postgres")
        .query_one("select default_version from pg_available_extensions where name = 'lago_push'", &[])
        .expect("the extension is installed");
    assert_eq!(installed.get::<_, String>(0), version, "the installed control file");
}

/// What `sql/lago_push--A--B.sql` are there, as A and B.
fn upgrades() -> Vec<(String, String)> {
    let files = fs::read_dir(root().join("sql")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().expect("names are UTF-8"));
    let steps = names.filter_map(|name| {
        let (from, to) = name.strip_prefix("lago_push--")?.strip_suffix(".sql")?.split_once("--")?;
        Some((from.to_owned(), to.to_owned()))
    });
    steps.collect()
}

#[test]
fn every_released_version_can_be_brought_to_this_one() {
    let (version, steps) = (version(), upgrades());
    let released: Vec<String> =
        versions_of_the_changelog().into_iter().filter(|one| *one != version).collect();
    assert!(released.contains(&"0.1.0".to_owned()), "{released:?}");
    for old in released {
        let kept = root().join(format!("tests/delivery/released/lago_push--{old}.sql"));
        assert!(kept.exists(), "tests cannot install {old}: there is no {}", kept.display());
        let mut reached = BTreeSet::from([old.clone()]);
        loop {
            let next: Vec<String> =
                steps.iter().filter(|(from, _)| reached.contains(from)).map(|(_, to)| to.clone()).collect();
            let before = reached.len();
            reached.extend(next);
            if reached.len() == before {
                break;
            }
        }
        assert!(reached.contains(&version), "no sql/lago_push--{old}--….sql leads to {version}: {steps:?}");
    }
}

// --- Debian -------------------------------------------------------------------------------------------------

/// Packs what scripts/with-extension has installed. `make deb` does the same with a release build.
fn make_package(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let mut script = Command::new(root().join("scripts/deb"));
    script.arg(major()).arg(folder).env(PG_CONFIG_VARIABLE, absolute(&pg_config()));
    // It is read once, on this machine.
    let path = run(script.env("DPKG_DEB_COMPRESSOR_LEVEL", "1"));
    PathBuf::from(path.trim())
}

/// As `which` says it, if it is only a name.
fn absolute(program: &str) -> PathBuf {
    if program.contains('/') {
        return program.into();
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("there is no {program} on the PATH"))
}

fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| make_package(&folder().join("one")))
}

fn package_name() -> String {
    format!("postgresql-{}-lago-push", major())
}

fn field(name: &str) -> String {
    run(program("dpkg-deb", "dpkg").arg("--field").arg(package()).arg(name)).trim().to_owned()
}

#[test]
fn the_package_holds_the_extension_and_nobody_but_root_owns_it() {
    let listing = run(program("dpkg-deb", "dpkg").arg("--contents").arg(package()));
    let (major, version) = (major(), version());
    let mut wanted = vec![
        format!("./usr/lib/postgresql/{major}/lib/lago_push.so"),
        format!("./usr/share/postgresql/{major}/extension/lago_push.control"),
        format!("./usr/share/postgresql/{major}/extension/lago_push--{version}.sql"),
    ];
    wanted.extend(
        upgrades().iter().map(|(from, to)| {
            format!("./usr/share/postgresql/{major}/extension/lago_push--{from}--{to}.sql")
        }),
    );
    for page in ["copyright", "changelog.gz", "README.md", "CHANGELOG.md", "docs/monitoring/alerts.yml"] {
        wanted.push(format!("./usr/share/doc/{}/{page}", package_name()));
    }
    let mut paths = BTreeSet::new();
    for line in listing.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, .., path] = cells.as_slice() else { panic!("not a line of a listing: {line}") };
        assert_eq!(*owner, "root/root", "{line}");
        assert!(["drwxr-xr-x", "-rw-r--r--"].contains(mode), "{line}");
        paths.insert(path.to_string());
    }
    for path in wanted {
        assert!(paths.contains(&path), "{path} is not in\n{listing}");
    }
    let programs: Vec<&String> = paths.iter().filter(|path| path.contains("/bin/")).collect();
    assert!(programs.is_empty(), "{programs:?}");

    assert_eq!(field("Package"), package_name());
    assert_eq!(field("Version"), version);
    let depends = field("Depends");
    assert!(depends.split(", ").any(|one| one == format!("postgresql-{major}")), "{depends}");
    assert!(depends.contains("libc6 (>= "), "{depends}");
}

#[test]
fn the_package_is_the_same_whenever_it_is_made() {
    let again = make_package(&folder().join("two"));
    let same = fs::read(package()).unwrap() == fs::read(&again).unwrap();
    assert!(same, "{} and {} differ: diffoscope shows in what", package().display(), again.display());
}

#[test]
fn lintian_has_nothing_to_say_about_the_package() {
    let mut lintian = program("lintian", "lintian");
    // Root is who tests in a container.
    lintian.args(["--allow-root", "--fail-on", "error,warning,info"]);
    // Spelling mistakes of libraries, and checks of C's that Rust has no use for.
    lintian.args(["--suppress-tags", "spelling-error-in-binary,hardening-no-fortify-functions"]);
    let said = run(lintian.arg("--display-info").arg(package()));
    assert_eq!(said, "");
}

#[test]
fn installed_from_the_package_it_delivers_and_taken_out_it_leaves_nothing() {
    let major = major();
    // In Debian's layout, a copy of PostgreSQL's programs takes the package where Debian's own would.
    let programs = format!("usr/lib/postgresql/{major}/bin");
    let pg_config = absolute(&pg_config());
    let Some(scratch) =
        pg_config.to_str().and_then(|path| path.strip_suffix(&format!("/{programs}/pg_config")))
    else {
        eprintln!("not tried: PostgreSQL {major} is not Debian's here, and the package is for Debian's");
        return;
    };
    let machine = folder().join("machine");
    run(Command::new("rm").arg("-rf").arg(&machine));
    run(Command::new("cp").arg("-a").arg(scratch).arg(&machine));
    let files_of_ours = || {
        let found = run(Command::new("find").arg(&machine).args([
            "-name",
            "*lago[_-]push*",
            "-not",
            "-path",
            "*/dpkg/*",
        ]));
        found.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for file in files_of_ours() {
        run(Command::new("rm").arg("-r").arg(file));
    }

    // dpkg knows there what it knows here of the packages that ours depends on, and so checks their versions.
    let known = machine.join("var/lib/dpkg");
    for folder in ["updates", "info", "triggers"] {
        fs::create_dir_all(known.join(folder)).unwrap();
    }
    let depends = field("Depends");
    let names: Vec<&str> = depends.split(", ").filter_map(|one| one.split(' ').next()).collect();
    let status = run(program("dpkg-query", "dpkg").arg("--status").args(&names));
    fs::write(known.join("status"), status).unwrap();
    let dpkg = || {
        let mut dpkg =
            if geteuid().is_root() { program("dpkg", "dpkg") } else { program("fakeroot", "fakeroot") };
        if !geteuid().is_root() {
            dpkg.arg("dpkg");
        }
        dpkg.arg("--force-not-root").arg(format!("--root={}", machine.display()));
        dpkg
    };
    run(dpkg().arg("--install").arg(package()));
    let state = run(program("dpkg-query", "dpkg")
        .args(["--show", "--showformat=${Status}"])
        .arg(format!("--admindir={}", known.display()))
        .arg(package_name()));
    assert_eq!(state, "install ok installed");

    let options = Options { programs: Some(machine.join(&programs)), ..Options::default() };
    let scene = Scene::on(Cluster::start(&options), Store::Postgres);
    let installed: String = scene.value("select extversion from pg_extension where extname = 'lago_push'");
    assert_eq!(installed, version());
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 25));
    assert_billed_exactly_once(&scene);
    drop(scene);

    run(dpkg().arg("--remove").arg(package_name()));
    assert_eq!(files_of_ours(), Vec::<String>::new());
    run(Command::new("rm").arg("-rf").arg(&machine));
}

// --- PGXN ---------------------------------------------------------------------------------------------------

fn meta() -> Value {
    serde_json::from_str(&read("META.json")).expect("META.json is JSON")
}

/// https://pgxn.org/spec/: what must be there, and of what kind the rest is.
#[test]
fn what_pgxn_is_told_keeps_to_its_specification() {
    let meta = meta();
    for key in ["name", "version", "abstract", "maintainer", "license"] {
        assert!(meta[key].as_str().is_some_and(|text| !text.is_empty()), "{key} is not there");
    }
    let known = [
        "name",
        "version",
        "abstract",
        "maintainer",
        "license",
        "provides",
        "meta-spec",
        "description",
        "generated_by",
        "no_index",
        "prereqs",
        "release_status",
        "resources",
        "tags",
    ];
    for key in meta.as_object().expect("an object").keys() {
        assert!(
            known.contains(&key.as_str()) || key.to_lowercase().starts_with("x_"),
            "{key} is unknown to PGXN"
        );
    }
    assert_eq!(meta["name"], "lago_push");
    assert_eq!(meta["license"], "postgresql");
    assert!(["stable", "testing", "unstable"].iter().any(|status| meta["release_status"] == *status));
    assert_eq!(meta["meta-spec"]["version"], "1.0.0");
    assert_eq!(meta["meta-spec"]["url"], "https://pgxn.org/meta/spec.txt");
    // Three numbers without leading zeros.
    let semantic = |text: &str| {
        let number = |part: &str| part.parse::<u32>().is_ok_and(|number| number.to_string() == part);
        text.split('.').count() == 3 && text.split('.').all(number)
    };
    assert!(meta["version"].as_str().is_some_and(semantic));

    let provided = meta["provides"].as_object().expect("provides is an object");
    assert_eq!(provided.keys().collect::<Vec<_>>(), ["lago_push"]);
    for key in ["file", "docfile"] {
        let file = provided["lago_push"][key].as_str().expect("a file");
        assert!(root().join(file).exists(), "there is no {file}");
    }
    let needed = meta["prereqs"]["runtime"]["requires"].as_object().expect("requirements");
    assert_eq!(needed["PostgreSQL"], "14.0.0", "the oldest version that is tested");
    assert!(read("scripts/postgres").contains("supported=(14 "), "the oldest version that is tested");
    for (name, version) in needed {
        assert!(*version == 0 || version.as_str().is_some_and(semantic), "{name} {version}");
    }
    let tags = meta["tags"].as_array().expect("tags");
    for tag in tags {
        let tag = tag.as_str().expect("a tag is a text");
        assert!((1..256).contains(&tag.len()) && !tag.contains(['/', '\\']), "{tag:?}");
    }
    for left_out in meta["no_index"]["directory"].as_array().expect("folders") {
        assert!(root().join(left_out.as_str().unwrap()).is_dir(), "there is no folder {left_out}");
    }
}

// --- Docker -------------------------------------------------------------------------------------------------

#[test]
fn hadolint_has_nothing_to_say_about_the_dockerfile() {
    let tool = run(Command::new(root().join("scripts/tool")).arg("hadolint"));
    assert_eq!(run(Command::new(tool.trim()).current_dir(root()).arg("Dockerfile")), "");
}

/// No image can be built where there is no registry, so what can be wrong in it is looked at piece by piece.
#[test]
fn the_dockerfile_names_what_is_there() {
    let (dockerfile, toolchain) = (read("Dockerfile"), read("rust-toolchain.toml"));
    assert_eq!(between(&dockerfile, "ARG RUST=", "\n"), between(&toolchain, "channel = \"", "\""));
    let ignored = read(".dockerignore");
    let ignored: Vec<&str> =
        ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for needed in
        ["Cargo.toml", "Cargo.lock", "lago_push.control", "rust-toolchain.toml", "scripts", "sql", "src"]
    {
        assert!(root().join(needed).exists(), "there is no {needed}");
        assert!(!ignored.contains(&needed), "{needed} is not sent to the builder");
    }
    // A member that is missing is an error of cargo's, whatever is built.
    for member in
        between(&read("Cargo.toml"), "members = [", "]").split(", ").map(|name| name.trim_matches('"'))
    {
        assert!(
            !ignored.contains(&member) && !ignored.contains(&member.split('/').next().unwrap()),
            "{member}"
        );
    }
    for secret in [".git", "target", ".cache"] {
        assert!(ignored.contains(&secret), "{secret} is sent to the builder");
    }
    let copied = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from"));
    for copy in copied {
        let mut paths: Vec<&str> = copy.split(' ').collect();
        paths.pop();
        for path in paths {
            assert!(root().join(path).exists(), "there is no {path}: COPY {copy}");
        }
    }
    let run_scripts = dockerfile.lines().filter_map(|line| line.strip_prefix("RUN scripts/"));
    let run_scripts: Vec<&str> = run_scripts.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(run_scripts, ["prerequisites", "install"]);
}
