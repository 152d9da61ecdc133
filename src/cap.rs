//! Cap: how many messages of a sync may wait, and what becomes of rows beyond.
