//! Instance, as far as it is called from SQL.
