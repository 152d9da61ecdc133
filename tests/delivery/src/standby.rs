//! Servers made from other servers, by the tools people use for it: physical copies, standbys that follow a
//! primary, and the ways in which one takes the other's place.
//!
//! It promises that a standby it returns is streaming, and that what it does to a server has ended when it
//! returns.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::cluster::{Cluster, Options};
use crate::scene::Scene;
use crate::wait::{PATIENCE, wait_until};

/// What a primary needs beyond the ordinary: durable writes, and a log that an old primary can be rewound by.
pub fn primary_options() -> Options {
    Options::durable()
        .with("wal_log_hints", "on")
        .with("wal_keep_size", "512MB")
        .with("synchronous_commit", "on")
        // A lost connection is to be noticed by its loss, and made again at once.
        .with("wal_retrieve_retry_interval", "200ms")
}

/// A copy made by pg_basebackup, not started: as it is, it would be a server of its own.
pub fn copy_of(origin: &Cluster) -> Cluster {
    let copy = Cluster::without_data(&Options::default());
    let mut backup = copy.server_program("pg_basebackup");
    backup.args(["--checkpoint=fast", "--no-sync", "-U", "postgres"]);
    run(backup.arg("-h").arg(origin.folder()).arg("-D").arg(copy.data()));
    copy.settle_in();
    copy
}

/// A copy of a stopped server's data directory, made as `cp` makes it, not started.
pub fn file_copy_of(origin: &Cluster) -> Cluster {
    let copy = Cluster::without_data(&Options::default());
    run(copy.server_program("/bin/cp").arg("-a").arg(origin.data()).arg(copy.data()));
    copy.settle_in();
    copy
}

/// A standby of `primary`, up and streaming.
pub fn standby_of(primary: &Cluster) -> Arc<Cluster> {
    let standby = copy_of(primary);
    standby.follow(primary);
    standby.start_again();
    standby.wait_until_it_follows(primary);
    Arc::new(standby)
}

/// From here on the scene looks at, and writes to, another server.
pub fn move_scene(scene: &mut Scene, to: &Arc<Cluster>) {
    scene.disconnect();
    scene.cluster = Arc::clone(to);
}

impl Cluster {
    /// Makes a stopped server a standby of `primary`.
    pub fn follow(&self, primary: &Cluster) {
        let conninfo = format!("host={} user=postgres", primary.folder().display());
        self.set(&[("primary_conninfo", conninfo)]);
        self.touch("standby.signal");
    }

    /// Makes a stopped server a standby that follows nobody.
    pub fn stand_by_alone(&self) {
        self.set(&[("primary_conninfo", String::new())]);
        self.touch("standby.signal");
    }

    /// Has a stopped server replay what lies in `archive` and then promote itself.
    pub fn recover_from(&self, archive: &str) {
        self.set(&[
            ("restore_command", format!("cp {archive}/%f %p")),
            ("recovery_target_timeline", "current".into()),
        ]);
        self.touch("recovery.signal");
    }

    /// Changes settings of a stopped server.
    pub fn reconfigure(&self, name: &str, value: &str) {
        self.set(&[(name, value.into())]);
    }

    /// Changes a setting of a running server.
    pub fn alter_system(&self, name: &str, value: &str) {
        let mut db = self.connect("postgres");
        db.batch_execute(&format!("alter system set {name} = '{value}'")).expect("the setting is known");
        db.batch_execute("select pg_reload_conf()").expect("the server reloads");
        let is_set = || {
            let row = self.connect("postgres").query_one("select current_setting($1)", &[&name]);
            row.is_ok_and(|row| row.get::<_, &str>(0) == value)
        };
        wait_until("the setting has taken effect", PATIENCE, is_set);
    }

    /// Promotes a standby, and waits until it may be written to.
    pub fn promote(&self) {
        let promoted = self.connect("postgres").query_one("select pg_promote(true, 60)", &[]);
        assert!(
            promoted.is_ok_and(|row| row.get(0)),
            "the standby is not promoted:\n{}",
            self.log_tail(None)
        );
    }

    pub fn is_in_recovery(&self) -> bool {
        let row = self.connect("postgres").query_one("select pg_is_in_recovery()", &[]);
        row.is_ok_and(|row| row.get(0))
    }

    /// Waits until this standby streams from `primary` and has replayed all that is there, the last of it
    /// streamed.
    pub fn wait_until_it_follows(&self, primary: &Cluster) {
        let holds = |sql: &str| {
            let row = self.connect("postgres").query_one(sql, &[]);
            row.is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
        };
        let streams = "select exists (select from pg_stat_wal_receiver where status = 'streaming')";
        wait_until("the standby streams", PATIENCE, || holds(streams));
        let end = primary.psql("postgres", "select pg_logical_emit_message(true, 'tests', 'here')");
        let has_all = format!("select pg_last_wal_replay_lsn() >= '{}'", end.trim());
        wait_until("the standby has all", PATIENCE, || holds(&has_all));
    }

    /// Turns a stopped old primary into a standby of the new one, by pg_rewind.
    pub fn rewind_to(&self, primary: &Cluster) {
        let source = format!("host={} user=postgres dbname=postgres", primary.folder().display());
        let mut rewind = self.server_program("pg_rewind");
        rewind.args(["--no-sync", "--source-server", &source]);
        run(rewind.arg("--target-pgdata").arg(self.data()));
        // It brought the configuration of its source along.
        self.settle_in();
        self.follow(primary);
    }

    /// Moves the data directory of a stopped server to another path, where it is found all the same.
    pub fn move_data(&self) {
        let elsewhere = self.folder().join("moved");
        let moved = fs::rename(self.data(), &elsewhere)
            .and_then(|()| std::os::unix::fs::symlink(&elsewhere, self.data()));
        moved.unwrap_or_else(|e| panic!("cannot move {}: {e}", self.data().display()));
    }

    /// Which of lago_push's processes there are.
    pub fn processes(&self) -> Vec<String> {
        let sql = "select backend_type from pg_stat_activity where backend_type like 'lago_push%' order by 1";
        let rows = self.connect("postgres").query(sql, &[]).unwrap_or_else(|e| panic!("{e:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// A folder beside the data directory that the server may write to.
    pub fn make_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder().join(name);
        run(self.server_program("/bin/mkdir").arg(&folder));
        folder
    }

    /// What a copied configuration says of its origin.
    fn settle_in(&self) {
        self.set(&[("unix_socket_directories", self.folder().display().to_string())]);
    }

    fn touch(&self, name: &str) {
        let path = self.data().join(name);
        File::create(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?} does not run: {e}"));
    assert!(out.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&out.stderr));
}
