//! What the demo and the benchmark are made of.
//!
//! - [`demo`]: pgbench's standard workload, billed while it runs, for a person to watch
//! - [`figures`]: what capture and delivery cost, as ratios against peers
//! - [`failure`], [`session`], [`pgbench`], [`spread`], [`text`]: what both need
//!
//! The server and the stand-in for Lago come from the harness of the delivery tests.
#![forbid(unsafe_code)]

pub mod demo;
pub mod failure;
pub mod figures;
pub mod pgbench;
pub mod session;
pub mod spread;
pub mod text;
