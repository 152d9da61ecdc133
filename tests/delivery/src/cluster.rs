//! A throwaway PostgreSQL cluster whose postmaster is a child of the test.
//!
//! It promises its callers a server with `lago_push` preloaded on a Unix socket nobody else knows, the power
//! to stop or crash it, and that nothing of it is left afterwards: not when the test passes, not when it
//! panics, not when the whole test run is killed. It knows nothing of Lago.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, process, thread};

use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::wait::{PATIENCE, try_until, wait_until};

/// Where the server's programs are: this variable, else `pg_config` on the PATH.
pub const PG_CONFIG_VARIABLE: &str = "LAGO_PUSH_PG_CONFIG";

/// What a test may want different from the ordinary cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Preload the extension. Only the harness's own tests do without.
    pub preload: bool,
    /// Durable writes. Off for speed, on wherever the server is crashed: there the promise is about disks.
    pub fsync: bool,
    /// Further lines of postgresql.conf, as name and value.
    pub settings: Vec<(&'static str, String)>,
    /// Variables of the server's environment.
    pub environment: Vec<(&'static str, String)>,
    /// The folder of a PostgreSQL's programs, if not the one that the variable names.
    pub programs: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { preload: true, fsync: false, settings: Vec::new(), environment: Vec::new(), programs: None }
    }
}

impl Options {
    /// For tests that crash the server.
    pub fn durable() -> Self {
        Self { fsync: true, ..Self::default() }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn with_environment(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }
}

/// The ways to stop a server that the tests care about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Disconnect everybody, write a checkpoint, exit.
    Fast,
    /// Exit without cleaning up: what a crash leaves behind.
    Immediate,
    /// `kill -9`: its processes notice by themselves that it is gone.
    Kill,
}

pub struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
    postmaster: Mutex<Option<Child>>,
    /// Its end of file tells the guard that we are gone.
    guard: Mutex<Option<(Child, ChildStdin)>>,
    version: u32,
}

impl Cluster {
    /// Makes a cluster and waits until it accepts connections.
    pub fn start(options: &Options) -> Arc<Self> {
        let cluster = Self::prepare(options);
        cluster.start_again();
        cluster
    }

    /// Makes a cluster and does not start it.
    pub fn prepare(options: &Options) -> Arc<Self> {
        let cluster = Self::without_data(options);
        cluster.init();
        cluster.configure(options);
        Arc::new(cluster)
    }

    /// A folder and a guard; the data directory is for the caller to make.
    pub(crate) fn without_data(options: &Options) -> Self {
        let programs = options.programs.clone().unwrap_or_else(|| programs_of(&pg_config()));
        let folder = make_folder();
        let guard = start_guard(&folder);
        Self {
            version: major_version(&programs),
            programs,
            folder,
            environment: options.environment.clone(),
            postmaster: Mutex::new(None),
            guard: Mutex::new(Some(guard)),
        }
    }

    /// The cluster that all tests of one file share, each in a database of its own. It lives as long as the
    /// test process; its guard removes it after that.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Self::start(&Options::default())))
    }

    fn init(&self) {
        let mut initdb = self.server_program("initdb");
        initdb
            .arg("-D")
            .arg(self.data())
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"])
            .stdin(Stdio::null());
        // Of two that pg_upgrade brings together, both must have them or neither.
        if self.version >= 18 {
            initdb.arg("--no-data-checksums");
        }
        let out = initdb.output().unwrap_or_else(|e| panic!("initdb does not run: {e}"));
        assert!(out.status.success(), "initdb failed: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn configure(&self, options: &Options) {
        let on_off = |on| if on { "on" } else { "off" };
        let mut lines = vec![
            ("listen_addresses", String::new()),
            ("unix_socket_directories", self.folder.display().to_string()),
            ("shared_preload_libraries", if options.preload { "lago_push".into() } else { String::new() }),
            ("fsync", on_off(options.fsync).into()),
            ("full_page_writes", on_off(options.fsync).into()),
            ("max_prepared_transactions", "10".into()),
            ("max_worker_processes", "32".into()),
            ("max_wal_size", "2GB".into()),
            ("timezone", "UTC".into()),
            ("log_timezone", "UTC".into()),
            ("log_line_prefix", "%m [%p] %b %d: ".into()),
        ];
        lines.extend(options.settings.iter().cloned());
        self.set(&lines);
    }

    /// Adds lines to postgresql.conf, of which the last of a name counts.
    pub(crate) fn set(&self, lines: &[(&str, String)]) {
        let text: String =
            lines.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
        let path = self.data().join("postgresql.conf");
        let written =
            OpenOptions::new().append(true).open(&path).and_then(|mut f| f.write_all(text.as_bytes()));
        written.unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }

    /// Starts the stopped (or never started) server on the same data and waits until it accepts connections.
    pub fn start_again(&self) {
        self.start_as(self.server_program("postgres"));
    }

    /// The same, run by a program that becomes the postmaster: it is given these arguments, and then the server
    /// and its own.
    pub fn start_again_by(&self, program: &str, arguments: &[&str]) {
        let mut command = self.as_server(program);
        command.args(arguments).arg(self.programs.join("postgres"));
        self.start_as(command);
    }

    fn start_as(&self, mut command: Command) {
        {
            let mut postmaster = lock(&self.postmaster);
            assert!(postmaster.is_none(), "the server is already running");
            let log = OpenOptions::new().create(true).append(true).open(self.log_file());
            let log = log.unwrap_or_else(|e| panic!("cannot open the server's log: {e}"));
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
            command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            // A group of its own: Ctrl-C is for the test run, which then takes the server down in order.
            command.process_group(0);
            *postmaster = Some(command.spawn().unwrap_or_else(|e| panic!("postgres does not run: {e}")));
        }
        self.wait_until_ready();
    }

    /// Waits until the server accepts connections, after a start or while it recovers from a killed process.
    pub fn wait_until_ready(&self) {
        let ready = try_until(PATIENCE, || {
            if let Some(postmaster) = lock(&self.postmaster).as_mut()
                && let Ok(Some(status)) = postmaster.try_wait()
            {
                panic!("the server exited with {status}; its log ends:\n{}", self.log_tail(None));
            }
            self.try_connect("postgres").is_ok()
        });
        assert!(
            ready.is_some(),
            "the server does not accept connections; its log ends:\n{}",
            self.log_tail(None)
        );
    }

    /// Stops the server and waits until its processes are gone.
    pub fn stop(&self, how: Stop) {
        if let Some(mut postmaster) = lock(&self.postmaster).take() {
            let signal = match how {
                Stop::Fast => Signal::INT,
                Stop::Immediate => Signal::QUIT,
                Stop::Kill => Signal::KILL,
            };
            signal_child(&postmaster, signal);
            wait_until("the server has stopped", PATIENCE, || postmaster.try_wait().ok().flatten());
        }
    }

    /// Makes this cluster, of a later version and never started, what the other was when it was stopped.
    pub fn take_over(&self, old: &Self) {
        assert!(lock(&self.postmaster).is_none() && lock(&old.postmaster).is_none(), "both must be stopped");
        let mut upgrade = self.server_program("pg_upgrade");
        upgrade.arg("-b").arg(&old.programs).arg("-B").arg(&self.programs);
        upgrade.arg("-d").arg(old.data()).arg("-D").arg(self.data());
        upgrade.arg("-s").arg(&self.folder).args(["-U", "postgres"]).stdin(Stdio::null());
        let out = upgrade.output().unwrap_or_else(|e| panic!("pg_upgrade does not run: {e}"));
        // What went wrong is in one of its logs; its own output says in which.
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let named = said.split('"').find(|word| word.ends_with(".log")).map(fs::read_to_string);
        let log = named.and_then(Result::ok).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        assert!(out.status.success(), "pg_upgrade failed: {said}\n{}", tail.join("\n"));
    }

    /// Kills one process of this cluster the hard way, the way the kernel does when memory runs out.
    pub fn kill9(&self, pid: i32) {
        let ours = self.connect("postgres").query_opt("select from pg_stat_activity where pid = $1", &[&pid]);
        assert!(matches!(ours, Ok(Some(_))), "process {pid} is none of this cluster's");
        let pid = Pid::from_raw(pid).expect("a process id is positive");
        kill_process(pid, Signal::KILL).unwrap_or_else(|e| panic!("cannot kill process {pid:?}: {e}"));
    }

    /// Kills a process and waits until the server has noticed and recovered: losing any process that might have
    /// corrupted shared memory, it throws all others out and starts over.
    pub fn kill9_and_recover(&self, pid: i32) {
        let mut witness = self.connect("postgres");
        self.kill9(pid);
        wait_until("the server has noticed the death", PATIENCE, || {
            witness.simple_query("select 1").is_err()
        });
        self.wait_until_ready();
    }

    /// The worker that is connected to this database, if there is one.
    pub fn worker_pid(&self, database: &str) -> Option<i32> {
        let sql = "select pid from pg_stat_activity where datname = $1 and backend_type = 'lago_push worker'";
        let row = self.connect("postgres").query_opt(sql, &[&database]);
        row.unwrap_or_else(|e| panic!("more than one worker? {e}")).map(|row| row.get(0))
    }

    /// The launcher, which is connected to no database; none while it is restarted.
    pub fn launcher_pid(&self) -> Option<i32> {
        let sql = "select min(pid) from pg_stat_activity
                   where backend_type like 'lago_push%' and datname is null having count(*) = 1";
        let row = self.connect("postgres").query_opt(sql, &[]);
        row.unwrap_or_else(|e| panic!("{e:?}")).map(|row| row.get(0))
    }

    pub fn create_database(&self, name: &str) {
        self.create_database_with(name, "");
    }

    pub fn create_database_with(&self, name: &str, options: &str) {
        let sql = format!("create database \"{name}\" {options}");
        let done = self.connect("postgres").batch_execute(&sql);
        done.unwrap_or_else(|e| panic!("cannot create database {name}: {e}"));
    }

    pub fn try_connect(&self, database: &str) -> Result<Client, postgres::Error> {
        self.try_connect_as("postgres", database)
    }

    pub fn try_connect_as(&self, user: &str, database: &str) -> Result<Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host_path(&self.folder).port(PORT).user(user).dbname(database).connect(NoTls)
    }

    #[track_caller]
    pub fn connect(&self, database: &str) -> Client {
        self.try_connect(database).unwrap_or_else(|e| panic!("cannot connect to {database}: {e}"))
    }

    /// A client program (`psql`, `pg_dump`, `pgbench`) that finds this server by its environment.
    pub fn program(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.programs.join(name.as_ref()));
        command.env("PGHOST", &self.folder).env("PGPORT", PORT.to_string()).env("PGUSER", "postgres");
        command.stdin(Stdio::null());
        command
    }

    /// What psql prints for `sql`, unaligned and without headers; panics when the SQL fails.
    #[track_caller]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.program("psql");
        let out =
            psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]).output();
        let out = out.unwrap_or_else(|e| panic!("psql does not run: {e}"));
        assert!(out.status.success(), "psql: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a script as psql does, its meta-commands and inline data included; panics at its first error.
    #[track_caller]
    pub fn psql_script(&self, database: &str, script: &str) {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database]);
        psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut psql = psql.spawn().unwrap_or_else(|e| panic!("psql does not run: {e}"));
        let input = psql.stdin.take().expect("its input is a pipe");
        // A psql that has given up reads no more; what it says then is what matters.
        let _ = { input }.write_all(script.as_bytes());
        let out = psql.wait_with_output().unwrap_or_else(|e| panic!("psql does not end: {e}"));
        assert!(out.status.success(), "psql: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// The major version, such as 15.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Everything the server has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.log_file()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The end of the log, without the lines of other databases when one is named.
    pub fn log_tail(&self, database: Option<&str>) -> String {
        const LINES: usize = 60;
        let log = self.log();
        let foreign = |line: &str| {
            // "time zone [pid] type of process database: level: text"
            let name = line.split(": ").next().and_then(|prefix| prefix.rsplit(' ').next());
            line.contains(" client backend ") && database.is_some_and(|wanted| name != Some(wanted))
        };
        let lines: Vec<&str> = log.lines().filter(|line| !foreign(line)).collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// The folder that holds the socket, the log and the data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(crate) fn server_program(&self, name: &str) -> Command {
        self.as_server(self.programs.join(name))
    }

    /// A program that must not run as root: then it runs as the account that Debian's packages make.
    fn as_server(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("LC_ALL", "C");
        // The modules of the fetched PostgreSQLs look for it in a folder that was their maker's.
        let libraries = self.programs.join("../lib");
        if libraries.join("libpq.so.5").exists() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        if let Some((uid, gid)) = server_account() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
        // The guard removes the folder when it reads the end of file.
        if let Some((mut guard, pipe)) = lock(&self.guard).take() {
            drop(pipe);
            let _ = guard.wait();
        }
    }
}

/// Part of the socket's file name; nothing listens on it.
const PORT: u16 = 5432;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked while holding it must not hide its own message behind ours.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal_child(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id is positive");
    // The only failure is "no such process", and then there is nothing left to stop.
    let _ = kill_process(pid, signal);
}

fn pg_config() -> String {
    env::var(PG_CONFIG_VARIABLE).unwrap_or_else(|_| "pg_config".into())
}

/// The folder of the programs of the PostgreSQL that has this pg_config.
pub fn programs_of(pg_config: &str) -> PathBuf {
    let out = Command::new(pg_config).arg("--bindir").output();
    let out = out.unwrap_or_else(|e| panic!("{pg_config} does not run ({e}): set {PG_CONFIG_VARIABLE}"));
    assert!(out.status.success(), "{pg_config} --bindir failed");
    PathBuf::from(String::from_utf8_lossy(&out.stdout).trim())
}

fn major_version(programs: &Path) -> u32 {
    let out = Command::new(programs.join("postgres")).arg("--version").output();
    let out = out.unwrap_or_else(|e| panic!("there is no server in {}: {e}", programs.display()));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // "postgres (PostgreSQL) 15.14 (Debian …)"
    let number = text.split(") ").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    number.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no version in {text:?}"))
}

/// A folder with a short name, because the path of a Unix socket holds about a hundred bytes.
fn make_folder() -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = format!("lago-push-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let folder = env::temp_dir().join(name);
    let made = fs::create_dir(&folder).and_then(|()| {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        File::create(folder.join("log"))?;
        match server_account() {
            Some((uid, gid)) => chown(&folder, Some(uid), Some(gid)),
            None => Ok(()),
        }
    });
    made.unwrap_or_else(|e: io::Error| panic!("cannot make {}: {e}", folder.display()));
    folder
}

/// Who the server runs as when we are root, whom it refuses. None when we are an ordinary user.
fn server_account() -> Option<(u32, u32)> {
    static ACCOUNT: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *ACCOUNT.get_or_init(|| {
        if !geteuid().is_root() {
            return None;
        }
        let id = |flag: &str, user: &str| -> Option<u32> {
            let out = Command::new("id").args([flag, user]).stderr(Stdio::null()).output().ok()?;
            String::from_utf8_lossy(&out.stdout).trim().parse().ok()
        };
        let account = |user| Some((id("-u", user)?, id("-g", user)?));
        Some(account("postgres").or_else(|| account("nobody")).expect("an account that is not root"))
    })
}

/// A shell that waits for the end of its input, which comes when the cluster is dropped and also when the
/// test process dies in whatever way, and then makes sure that neither server nor files remain. Statics are
/// never dropped and a killed process drops nothing: this is what cleans up after those.
fn start_guard(folder: &Path) -> (Child, ChildStdin) {
    const SCRIPT: &str = r#"
        read -r _
        pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -s QUIT "$pid" 2>/dev/null
        tries=0
        while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do
            sleep 0.1
            tries=$((tries + 1))
        done
        rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "guard"]).arg(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut guard = command.spawn().unwrap_or_else(|e| panic!("sh does not run: {e}"));
    let pipe = guard.stdin.take().expect("its input is a pipe");
    (guard, pipe)
}

/// A name for a database that tells in the server's log which test it belongs to.
pub fn database_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    // The test runner names each test's thread after the test. PostgreSQL cuts names at 63 bytes.
    let thread = thread::current();
    let test = thread.name().unwrap_or("scene").rsplit("::").next().unwrap_or("scene").to_owned();
    let short: String = test.chars().take(50).collect();
    format!("{short}_{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}
