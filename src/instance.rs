//! Instance: whether this server and database are those that delivered so far, or a copy of them.
//!
//! Asked by the worker before it reads the outbox, so before the first request. What it promises the
//! lanes: a copy delivers nothing until somebody says that it shall. All here is decisions; what is
//! true of the server is found out in [`crate::pg::place`], and the mark is kept by the worker, in the
//! table `instance`, which no dump carries.
#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};
use std::fmt;

/// One server and one database in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Given to a cluster by `initdb`, and kept by everything that is copied from it.
    pub system: i64,
    pub database: u32,
    pub major_version: i32,
    /// Each promotion begins another.
    pub timeline: i32,
    pub place: Place,
}

/// Where a data directory is: what a copy of it does not have. Hashes, because machine-id(5) asks not to
/// show the machine's id to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    machine: String,
    directory: String,
}

/// What the file system says of a file of the data directory that is written once, by whatever made the
/// directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    pub inode: u64,
    /// Nanoseconds since 1970; none where the file system does not keep it.
    pub born_at: Option<u128>,
}

impl Place {
    pub fn new(machine_id: &str, birth: Birth) -> Place {
        let born_at = birth.born_at.map(|born_at| born_at.to_string()).unwrap_or_default();
        Place {
            machine: hash(&["machine", machine_id]),
            directory: hash(&["directory", &birth.inode.to_string(), &born_at]),
        }
    }

    pub fn parse(text: &str) -> Option<Place> {
        let (machine, directory) = text.split_once('/')?;
        Some(Place { machine: machine.into(), directory: directory.into() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.machine, self.directory)
    }
}

/// Half of this would do to tell the directories of one company apart.
const HASH_BYTES: usize = 8;

fn hash(parts: &[&str]) -> String {
    let digest = Sha256::digest(format!("lago_push {}", parts.join(" ")));
    digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// What was written down while this server followed a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    pub system: i64,
    /// The one that was being received.
    pub timeline: i32,
    pub place: Place,
}

/// How the lines of a testimony begin.
const SYSTEM: &str = "system";
const TIMELINE: &str = "timeline";
const PLACE: &str = "place";

impl Testimony {
    pub fn parse(text: &str) -> Option<Testimony> {
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::trim)
        };
        Some(Testimony {
            system: value(SYSTEM)?.parse().ok()?,
            timeline: value(TIMELINE)?.parse().ok()?,
            place: Place::parse(value(PLACE)?)?,
        })
    }

    /// Whether it is about this server: the file may have come with a copy, and be about another.
    fn speaks_for(&self, here: &Instance) -> bool {
        self.place == here.place && self.system == here.system && self.timeline < here.timeline
    }
}

impl fmt::Display for Testimony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{SYSTEM} {}", self.system)?;
        writeln!(f, "{TIMELINE} {}", self.timeline)?;
        writeln!(f, "{PLACE} {}", self.place)
    }
}

/// What to do when a server turns out to have been promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPromotion {
    /// A standby that streamed from its primary takes over, anything else is held.
    Auto,
    Deliver,
    Hold,
}

/// Whether any destination is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destinations {
    Defined,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// There is nothing yet that could be delivered, by anybody.
    TooEarly,
    Same,
    /// Another, and the one to deliver from here on.
    Successor(Succession),
    Copy(Sign),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    Promoted,
    Upgraded,
}

impl fmt::Display for Succession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Succession::Promoted => "this server was promoted",
            Succession::Upgraded => "this cluster was upgraded",
        })
    }
}

/// What shows that this is a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    NoMark,
    OtherDatabase,
    OtherDirectory,
    OtherMachine,
    NeverFollowed,
    HeldByPolicy,
    OtherCluster,
    UpgradedElsewhere,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sign::NoMark => "this database was restored from a dump",
            Sign::OtherDatabase => "this database is a copy of another one on its server",
            Sign::OtherDirectory => "this data directory is a copy of the one that delivered before",
            Sign::OtherMachine => "this data directory is not on the machine that delivered before",
            Sign::NeverFollowed => {
                "this server was promoted and was never seen streaming from a primary, as a failover standby would be"
            }
            Sign::HeldByPolicy => "this server was promoted and lago_push.on_promotion is hold",
            Sign::OtherCluster => "this data was delivered by another cluster before",
            Sign::UpgradedElsewhere => "this cluster was upgraded on another machine than the one that delivered before",
        })
    }
}

/// Whether `here` is whom the `mark` names.
pub fn judge(
    mark: Option<&Instance>,
    here: &Instance,
    destinations: Destinations,
    testimony: Option<&Testimony>,
    on_promotion: OnPromotion,
) -> Judgement {
    let Some(mark) = mark else {
        return match destinations {
            // A dump may be being restored: the mark is made with the first destination, not by us.
            Destinations::None => Judgement::TooEarly,
            Destinations::Defined => Judgement::Copy(Sign::NoMark),
        };
    };
    if mark == here {
        return Judgement::Same;
    }
    if mark.system != here.system {
        return match (here.major_version > mark.major_version, here.place.machine == mark.place.machine) {
            // pg_upgrade makes a new cluster, beside the old one.
            (true, true) => Judgement::Successor(Succession::Upgraded),
            (true, false) => Judgement::Copy(Sign::UpgradedElsewhere),
            (false, _) => Judgement::Copy(Sign::OtherCluster),
        };
    }
    if mark.database != here.database {
        return Judgement::Copy(Sign::OtherDatabase);
    }
    if mark.timeline != here.timeline {
        let followed = testimony.is_some_and(|testimony| testimony.speaks_for(here));
        return match on_promotion {
            OnPromotion::Hold => Judgement::Copy(Sign::HeldByPolicy),
            OnPromotion::Deliver => Judgement::Successor(Succession::Promoted),
            OnPromotion::Auto if followed || mark.place == here.place => {
                Judgement::Successor(Succession::Promoted)
            }
            OnPromotion::Auto => Judgement::Copy(Sign::NeverFollowed),
        };
    }
    match mark.place.machine == here.place.machine {
        true if mark.place.directory == here.place.directory => Judgement::Same,
        true => Judgement::Copy(Sign::OtherDirectory),
        false => Judgement::Copy(Sign::OtherMachine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(machine: &str, inode: u64) -> Place {
        Place::new(machine, Birth { inode, born_at: Some(1_700_000_000_123_456_789) })
    }

    /// What delivered so far.
    fn mark() -> Instance {
        Instance { system: 7, database: 16_384, major_version: 15, timeline: 3, place: place("a", 1) }
    }

    fn judged(here: &Instance) -> Judgement {
        judge(Some(&mark()), here, Destinations::Defined, None, OnPromotion::Auto)
    }

    fn promoted_elsewhere() -> Instance {
        Instance { timeline: 4, place: place("b", 2), ..mark() }
    }

    fn seen_following(server: &Instance) -> Testimony {
        Testimony { system: server.system, timeline: server.timeline - 1, place: server.place.clone() }
    }

    fn promoted(here: &Instance, testimony: Option<&Testimony>, on_promotion: OnPromotion) -> Judgement {
        judge(Some(&mark()), here, Destinations::Defined, testimony, on_promotion)
    }

    #[test]
    fn whoever_delivered_goes_on() {
        assert_eq!(judged(&mark()), Judgement::Same);
    }

    #[test]
    fn destinations_without_a_mark_came_with_a_dump() {
        let judged = |destinations| judge(None, &mark(), destinations, None, OnPromotion::Deliver);
        assert_eq!(judged(Destinations::Defined), Judgement::Copy(Sign::NoMark));
        assert_eq!(judged(Destinations::None), Judgement::TooEarly);
    }

    #[test]
    fn another_database_of_the_server_is_a_copy_even_after_a_promotion() {
        let copy = Instance { database: 16_999, ..mark() };
        assert_eq!(judged(&copy), Judgement::Copy(Sign::OtherDatabase));
        let copy = Instance { timeline: 4, ..copy };
        assert_eq!(promoted(&copy, None, OnPromotion::Deliver), Judgement::Copy(Sign::OtherDatabase));
    }

    #[test]
    fn another_directory_on_the_same_timeline_is_a_copy() {
        let here = Instance { place: place("a", 2), ..mark() };
        assert_eq!(judged(&here), Judgement::Copy(Sign::OtherDirectory));
        let here = Instance { place: place("b", 1), ..mark() };
        assert_eq!(judged(&here), Judgement::Copy(Sign::OtherMachine));
        // No promotion made it what it is.
        assert_eq!(promoted(&here, None, OnPromotion::Deliver), Judgement::Copy(Sign::OtherMachine));
    }

    #[test]
    fn a_standby_that_was_seen_following_takes_over() {
        let here = promoted_elsewhere();
        let seen = seen_following(&here);
        assert_eq!(
            promoted(&here, Some(&seen), OnPromotion::Auto),
            Judgement::Successor(Succession::Promoted)
        );
        assert_eq!(promoted(&here, None, OnPromotion::Auto), Judgement::Copy(Sign::NeverFollowed));
    }

    #[test]
    fn a_testimony_about_another_server_proves_nothing() {
        let here = promoted_elsewhere();
        for other in [
            Testimony { place: mark().place, ..seen_following(&here) },
            Testimony { system: 8, ..seen_following(&here) },
            // Written by what this server was copied from, later than the copy.
            Testimony { timeline: here.timeline, ..seen_following(&here) },
        ] {
            assert_eq!(
                promoted(&here, Some(&other), OnPromotion::Auto),
                Judgement::Copy(Sign::NeverFollowed),
                "{other}"
            );
        }
    }

    #[test]
    fn the_setting_decides_about_promotions_where_it_is_not_auto() {
        let here = promoted_elsewhere();
        let seen = seen_following(&here);
        assert_eq!(promoted(&here, Some(&seen), OnPromotion::Hold), Judgement::Copy(Sign::HeldByPolicy));
        assert_eq!(promoted(&here, None, OnPromotion::Deliver), Judgement::Successor(Succession::Promoted));
    }

    #[test]
    fn the_directory_that_delivered_may_be_promoted() {
        let here = Instance { timeline: 4, ..mark() };
        assert_eq!(judged(&here), Judgement::Successor(Succession::Promoted));
    }

    #[test]
    fn an_upgrade_on_the_same_machine_goes_on_and_any_other_cluster_is_a_copy() {
        let upgraded =
            Instance { system: 8, database: 5, major_version: 16, timeline: 1, place: place("a", 9) };
        assert_eq!(judged(&upgraded), Judgement::Successor(Succession::Upgraded));
        let elsewhere = Instance { place: place("b", 9), ..upgraded };
        assert_eq!(judged(&elsewhere), Judgement::Copy(Sign::UpgradedElsewhere));
        let renamed = Instance { system: 8, ..mark() };
        assert_eq!(judged(&renamed), Judgement::Copy(Sign::OtherCluster));
    }

    #[test]
    fn a_place_is_told_by_machine_inode_and_birth_and_shows_none_of_them() {
        let birth = Birth { inode: 1, born_at: Some(5) };
        let place = Place::new("3d12", birth);
        for other in [
            Place::new("3d13", birth),
            Place::new("3d12", Birth { inode: 2, ..birth }),
            Place::new("3d12", Birth { born_at: Some(6), ..birth }),
            Place::new("3d12", Birth { born_at: None, ..birth }),
        ] {
            assert_ne!(place, other);
        }
        assert!(!place.to_string().contains("3d12"));
        assert_eq!(Place::parse(&place.to_string()), Some(place));
    }

    #[test]
    fn a_testimony_survives_being_written_and_nonsense_is_none() {
        let seen = seen_following(&promoted_elsewhere());
        assert_eq!(Testimony::parse(&seen.to_string()), Some(seen));
        for nonsense in ["", "system 1\ntimeline x\nplace a/b", "system 1\ntimeline 2\nplace ab", "system"] {
            assert_eq!(Testimony::parse(nonsense), None, "{nonsense}");
        }
    }
}
