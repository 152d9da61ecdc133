//! The harness of the delivery tests: everything between a test and the three processes it watches, the
//! PostgreSQL server, lago_push's worker inside it, and fake-lago.
//!
//! - [`wait`]: the one way to wait for something
//! - [`cluster`]: a throwaway server that can be stopped, crashed and started again
//! - [`scene`]: a database with the extension, a fake Lago, and a destination between them
//! - [`catalog`]: what the extension has put into a database, comparable, with the SQL that makes it
//! - [`markdown`]: a page of documentation, whose SQL is run and whose output is compared
//! - [`standby`]: servers made from other servers: copies, and standbys that follow
//! - [`oracle`]: whether what was committed is what will be billed
//! - [`publisher`]: a primary without the extension, and who subscribes to it
//! - [`writers`]: sessions that write as applications do, all at once
//! - [`random`]: chance that can be repeated
//! - [`runs`]: runs of queries, asked for and waited for
//! - [`soak`]: everything that can go wrong, all at once
#![forbid(unsafe_code)]

pub mod catalog;
pub mod cluster;
pub mod markdown;
pub mod oracle;
pub mod publisher;
pub mod random;
pub mod runs;
pub mod scene;
pub mod soak;
pub mod standby;
pub mod wait;
pub mod writers;
