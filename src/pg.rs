//! The unsafe shims: every place where Rust meets PostgreSQL's C, each with the argument why it is
//! sound. The rest of the crate is written against these and stays free of `unsafe`.

pub mod array;
pub mod caller;
pub mod cell;
pub mod claim;
pub mod compat;
pub mod delete;
pub mod encoding;
pub mod heap;
pub mod hooks;
pub mod index;
pub mod insert;
pub mod jsonb;
pub mod mapper;
pub mod pages;
pub mod place;
pub mod process;
pub mod replication;
pub mod report;
pub mod rows;
pub mod shmem;
pub mod trigger;
pub mod walk;
pub mod xact;
