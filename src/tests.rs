//! In-server tests: the SQL surface and capture, seen through SPI, in transactions rolled back after.
//!
//! Each file is a chapter; [`stage`] is what they share. pgrx wants every test in a module named
//! `tests` and puts all of them into one SQL schema, so a test's name must be new in all chapters.

mod addresses;
mod alterations;
mod backfill;
mod backlog;
mod caps;
mod capture;
mod catalog;
mod choices;
mod corrections;
mod dead_letters;
mod definitions;
mod deleting;
mod destinations;
mod hijack;
mod identity;
mod ledger;
mod letters;
mod liquids;
mod mappers;
mod ordering;
mod paths;
mod previews;
mod privileges;
mod queries;
mod reading;
mod reconcile;
mod roles;
mod stage;
mod syncs;
mod templates;
mod triggers;
