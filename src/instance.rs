//! Instance: whether this server and database are those that delivered so far, or a copy of them.
