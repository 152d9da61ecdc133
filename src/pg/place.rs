//! Place: what the server is and where its data directory lies.
//!
//! Serves [`crate::instance`], which judges by it whether this is a copy.

use super::{compat, process};
use crate::instance::{Birth, Instance, Place, Testimony};
use pgrx::pg_sys;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Written by `initdb`, by what copies a data directory, and by nothing else: pg_rewind empties and fills
/// what it replaces, so the file stays the same one.
const WRITTEN_ONCE: &str = "PG_VERSION";

/// In the data directory, where a copy may bring another server's: it says whom it is about.
const TESTIMONY: &str = "lago_push.standby";

/// machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";

/// This server and database. Outside recovery.
pub fn here() -> io::Result<Instance> {
    Ok(Instance {
        system: system(),
        database: u32::from(process::own_database()),
        major_version: i32::try_from(pg_sys::PG_VERSION_NUM / 10_000).unwrap_or(i32::MAX),
        timeline: compat::own_timeline().cast_signed(),
        place: place()?,
    })
}

/// What was written down here while this server followed a primary, or what a copy brought.
pub fn testimony() -> Option<Testimony> {
    Testimony::parse(&fs::read_to_string(data_directory().join(TESTIMONY)).ok()?)
}

/// Writes down, for good, that this server follows a primary on that timeline.
pub fn testify(timeline: i32) -> io::Result<()> {
    let text = Testimony { system: system(), timeline, place: place()? }.to_string();
    let directory = data_directory();
    let (name, new_name) = (directory.join(TESTIMONY), directory.join(format!("{TESTIMONY}.new")));
    let mut file = File::create(&new_name)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new_name, &name)?;
    File::open(&directory)?.sync_all()
}

fn place() -> io::Result<Place> {
    let file = fs::metadata(data_directory().join(WRITTEN_ONCE))?;
    let born_at = file.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let birth = Birth { inode: file.ino(), born_at: born_at.map(|since| since.as_nanos()) };
    Ok(Place::new(&machine_id(), birth))
}

/// Empty where there is none, as in most containers.
fn machine_id() -> String {
    let text = fs::read_to_string(MACHINE_ID).unwrap_or_default();
    // Such an image gets its id when it is first started.
    Some(text.trim()).filter(|id| *id != "uninitialized").unwrap_or_default().to_owned()
}

fn data_directory() -> PathBuf {
    // SAFETY: a variable of the server, set before any library is loaded and never changed.
    let path = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())).to_owned()
}

fn system() -> i64 {
    // SAFETY: reads the copy of the control file in shared memory.
    unsafe { pg_sys::GetSystemIdentifier() }.cast_signed()
}
