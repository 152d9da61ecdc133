//! Reconcile: what was captured, held against what Lago says it has.
