//! Backfill: existing rows of a source, captured as if they had just been inserted.
