-- Instance: whether this database is the one that delivered so far, or a copy of it. The worker compares
-- (src/worker/guard.rs); here is how the first mark is made.

-- Purpose:    leave the mark of who delivers, where nobody has yet. For whoever defines the first destination,
--             and for the upgrade of a version that left none.
create function lago_push._note_instance()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into lago_push.instance (system_identifier, database, major_version, timeline, place)
    select i.system_identifier, i.database, i.major_version, i.timeline, i.place from lago_push._this_instance() i
    on conflict do nothing;
$$;
comment on function lago_push._note_instance() is 'Internal: notes that this server and database are those that deliver, unless others are noted.';

comment on function lago_push._this_instance() is 'Internal: this server and database, as a mark names them.';
comment on function lago_push._look() is 'Internal: holds all destinations if this is a copy of the database and the worker has not noticed yet.';
