//! Backlog: what the views need to know of it that SQL cannot tell.
