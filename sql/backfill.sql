-- Backfill: the rows that were there before a sync was activated, through the same template.

-- Purpose:    an operator of a b-tree, as it is written where no search_path shall decide which one it is.
-- Parameters: strategy, 2 for "not after", 5 for "after".
create function lago_push._operator(family oid, type oid, strategy integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('operator(%I.%s)', n.nspname, o.oprname)
      from pg_amop s join pg_operator o on o.oid = s.amopopr join pg_namespace n on n.oid = o.oprnamespace
     where s.amopfamily = _operator.family and s.amopstrategy = _operator.strategy
       and s.amoplefttype = _operator.type and s.amoprighttype = _operator.type;
$$;
comment on function lago_push._operator(oid, oid, integer) is 'Internal: an operator of a b-tree, with its schema.';

-- Purpose:    the columns by which a table can be walked, each row once: its primary key, else any unique key
--             without nulls. Columns, their types, and the operators that say "after" and "not after".
create function lago_push._walking_key(source regclass, out columns text[], out types text[], out after text[], out until text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select k.columns, k.types, k.after, k.until
      from (select array_agg(a.attname::text order by p.place) as columns,
                   array_agg(format_type(a.atttypid, a.atttypmod) order by p.place) as types,
                   array_agg(lago_push._operator(c.opcfamily, c.opcintype, 5) order by p.place) as after,
                   min(lago_push._operator(c.opcfamily, c.opcintype, 2)) filter (where p.place = 1) as until,
                   bool_and(a.attnotnull and c.opcdefault and i.indcollation[p.place - 1] = a.attcollation
                            and not exists (select from pg_constraint v
                                             where v.conrelid = a.attrelid and v.contype = 'n' and not v.convalidated
                                               and v.conkey = array[a.attnum])) as complete,
                   count(*) as found, i.indnkeyatts as wanted, i.indisprimary, i.indexrelid
              from pg_index i
              join pg_class x on x.oid = i.indexrelid
              join pg_am m on m.oid = x.relam and m.amname = 'btree'
             cross join generate_series(1, i.indnkeyatts::integer) p(place)
              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[p.place - 1]
              join pg_opclass c on c.oid = i.indclass[p.place - 1]
             where i.indrelid = _walking_key.source and i.indisunique and i.indisvalid and i.indpred is null
             group by i.indexrelid, i.indnkeyatts, i.indisprimary) k
     where k.complete and k.found = k.wanted
     order by k.indisprimary desc, k.wanted, k.indexrelid
     limit 1;
$$;
comment on function lago_push._walking_key(regclass) is 'Internal: the columns by which a table can be walked.';

-- Purpose:    the table as a query names it. What hangs below it by inheritance is not captured through it;
--             what is a partition of it is.
create function lago_push._walked_table(source regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%s%I.%I as new', case c.relkind when 'p' then '' else 'only ' end, n.nspname, c.relname)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = _walked_table.source;
$$;
comment on function lago_push._walked_table(regclass) is 'Internal: a table as the query of a backfill names it.';

-- Purpose:    what a row must meet: the sync's own filter and the caller's.
create function lago_push._backfill_condition(sync lago_push.sync, filter text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce('(' || (sync).filter || E'\n)', 'true') || coalesce(' and (' || _backfill_condition.filter || E'\n)', '');
$$;
comment on function lago_push._backfill_condition(lago_push.sync, text) is 'Internal: what a row must meet to be sent by a backfill.';

-- Purpose:    the condition that a row comes after a key.
-- Parameters: names, the columns; operators, one for each, that say "after"; key, literals.
create function lago_push._after_key(names text[], operators text[], key text[])
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    condition text := '';
begin
    if cardinality(array(select distinct o from unnest(operators) o)) = 1 then
        return format('row(%s) %s row(%s)', array_to_string(names, ', '), operators[1], array_to_string(key, ', '));
    end if;
    -- Operators of several schemas: column by column, from the last one outwards.
    for place in reverse cardinality(names) .. 1 loop
        condition := case when condition = '' then format('%s %s %s', names[place], operators[place], key[place])
            else format('not (%2$s %3$s %1$s) and (%1$s %3$s %2$s or (%4$s))', names[place], key[place], operators[place], condition) end;
    end loop;
    return '(' || condition || ')';
end
$$;
comment on function lago_push._after_key(text[], text[], text[]) is 'Internal: the condition that a row comes after a key.';

-- Purpose:    a key as literals of its types.
create function lago_push._key_literals(key text[], types text[])
returns text[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select array(select format('%L::%s', c.value, c.type) from unnest(_key_literals.key, types) with ordinality c(value, type, place) order by c.place);
$$;
comment on function lago_push._key_literals(text[], text[]) is 'Internal: a key as literals of its types.';

-- Purpose:    the query for the rows after a position, in the order of the key.
-- Parameters: after and until, keys; none where the table begins or ends; most, how many rows to look at. The filter is
--             not among the conditions: if few rows met it, one transaction would look for them for hours.
-- Locks:      the rows, unless they are events and nothing else: else a newer version might be sent before the older one,
--             or the row's end before its beginning.
create function lago_push._backfill_query(sync lago_push.sync, filter text, after text[], until text[], most bigint)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    key record;
    names text[];
    ending text[];
    bounds text := 'true';
begin
    select k.* into key from lago_push._walking_key((sync).source) k;
    names := array(select format('new.%I', c.name) from unnest(key.columns) with ordinality c(name, place) order by c.place);
    if after is not null then
        bounds := bounds || ' and ' || lago_push._after_key(names, key.after, lago_push._key_literals(after, key.types));
    end if;
    if until is not null then
        ending := lago_push._key_literals(until, key.types);
        -- The first column once more by itself, so that an index is left where it ends.
        bounds := bounds || format(' and %s %s %s and not ', names[1], key.until, ending[1])
            || lago_push._after_key(names, key.after, ending);
    end if;
    return format('select case when %s then new end, %s from %s where %s order by %s limit %s%s',
        lago_push._backfill_condition(sync, _backfill_query.filter), array_to_string(names, ', '),
        lago_push._walked_table((sync).source), bounds, array_to_string(names, ', '), most,
        case when (sync).endpoint = 'event' and (sync).operations <@ '{insert}' then '' else ' for share' end);
end
$$;
comment on function lago_push._backfill_query(lago_push.sync, text, text[], text[], bigint) is 'Internal: the query for the next rows of a backfill.';

-- Purpose:    the last key of a table, by the rows its owner may see; null if there is none.
create function lago_push._last_key(source regclass)
returns text[]
language sql
set search_path = pg_catalog, pg_temp
as $$
    select nullif(array(
        select convert_from(l.value, getdatabaseencoding())
          from lago_push._walking_key(_last_key.source) k
         cross join unnest(lago_push._key_of_row(_last_key.source, convert_to(format('select null, %s from %s order by %s limit 1',
                   (select string_agg(format('new.%I', c.name), ', ' order by c.place) from unnest(k.columns) with ordinality c(name, place)),
                   lago_push._walked_table(_last_key.source),
                   (select string_agg(format('new.%I desc', c.name), ', ' order by c.place) from unnest(k.columns) with ordinality c(name, place))),
                   getdatabaseencoding()))) with ordinality l(value, place)
         order by l.place), '{}');
$$;
comment on function lago_push._last_key(regclass) is 'Internal: the last key of a table.';

-- Purpose:    how many rows one statement looks at, for so many that meet the filter.
create function lago_push._backfill_reach(rows integer)
returns bigint
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select greatest(10 * rows::bigint, 10000);
$$;
comment on function lago_push._backfill_reach(integer) is 'Internal: how many rows one transaction of a backfill looks at.';

-- Purpose:    the process that is at a sync's backfill; null if there is none. The numbers are those of src/pg/claim.rs.
create function lago_push._backfill_runner(sync_id integer)
returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select l.pid from pg_locks l
     where l.locktype = 'advisory' and l.classid = 52467875 and l.objid = sync_id::oid and l.objsubid = 3 and l.granted
       and l.database = (select d.oid from pg_database d where d.datname = current_database());
$$;
comment on function lago_push._backfill_runner(integer) is 'Internal: the process that is at a sync''s backfill.';

-- Purpose:    check what is asked for, before anything is written.
-- Parameters: sync and filter in the database's encoding.
-- Returns:    command, the query for the first rows.
create function lago_push._backfill_open(sync bytea, filter bytea, chunk integer, out sync_id integer, out command bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync_named(convert_from(_backfill_open.sync, getdatabaseencoding()));
    condition text := nullif(convert_from(_backfill_open.filter, getdatabaseencoding()), '');
begin
    perform lago_push._refuse_query(wanted, 'backfilled');
    perform lago_push._check_source(wanted.source);
    if coalesce(chunk, 0) not between 1 and 100000 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'chunk must be between 1 and 100000',
            detail = 'It says how many rows are captured in one transaction at most.';
    end if;
    if wanted.state = 'draft' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is a draft', wanted.name),
            detail = 'Rows that are written meanwhile would be missed.',
            hint = format('Start it first: lago_push.activate(%L).', wanted.name);
    elsif not 'insert' = any (wanted.operations) then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" does not capture inserts', wanted.name),
            detail = 'Existing rows are sent as if they had just been inserted.',
            hint = 'Make another sync on the table that captures inserts, or add insert to operations.';
    elsif (select k.columns from lago_push._walking_key(wanted.source) k) is null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('table %s has no key to walk it by', wanted.source),
            detail = 'Rows are captured in the order of the primary key or a unique one without nulls, so that a backfill can go on where it was.',
            hint = format('alter table %s add primary key (…)', wanted.source);
    end if;
    if condition is not null then
        perform lago_push._check_filter(convert_to(condition, getdatabaseencoding()));
    end if;
    -- The rows are read with the owner's rights.
    if exists (select from pg_class c join pg_roles r on r.oid = c.relowner
                where c.oid = wanted.source and c.relrowsecurity and c.relforcerowsecurity and not r.rolsuper and not r.rolbypassrls) then
        raise warning using
            message = format('row-level security applies to %s, and rows it hides from the owner are not sent', wanted.source),
            hint = format('alter table %s no force row level security', wanted.source);
    end if;
    sync_id := wanted.id;
    command := convert_to(lago_push._backfill_query(wanted, condition, null, null, lago_push._backfill_reach(1)), getdatabaseencoding());
end
$$;
comment on function lago_push._backfill_open(bytea, bytea, integer) is 'Internal: checks what lago_push.backfill() is asked for.';

-- Purpose:    write a backfill down, or find the unfinished one to go on with. The session has claimed the sync's
--             backfill before, so there is no other one to meet.
-- Parameters: filter in the database's encoding; restart, whether to give up one that is not finished.
create function lago_push._backfill_begin(sync_id integer, filter bytea, chunk integer, restart boolean, out id integer, out most integer)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync;
    condition text := nullif(convert_from(_backfill_begin.filter, getdatabaseencoding()), '');
    unfinished lago_push.backfill;
    walked_by text[];
    expected bigint;
    in_table bigint;
begin
    select s.* into wanted from lago_push.sync s where s.id = _backfill_begin.sync_id for key share;
    if wanted.id is null then
        raise exception using errcode = 'undefined_object', message = 'the sync was dropped';
    end if;
    select k.columns into walked_by from lago_push._walking_key(wanted.source) k;
    select b.* into unfinished from lago_push.backfill b where b.sync_id = wanted.id and b.finished_at is null;
    if unfinished.id is not null and coalesce(restart, false) then
        delete from lago_push.backfill b where b.id = unfinished.id;
        unfinished := null;
    end if;
    if unfinished.id is null then
        expected := lago_push._estimate_rows(wanted.source, convert_to(format('select from %s where %s', lago_push._walked_table(wanted.source),
            lago_push._backfill_condition(wanted, condition)), getdatabaseencoding()));
        in_table := lago_push._estimate_rows(wanted.source, convert_to('select from ' || lago_push._walked_table(wanted.source), getdatabaseencoding()));
        insert into lago_push.backfill (sync_id, filter, chunk, by, walked_by, until, rows_estimated, table_rows)
        values (wanted.id, condition, _backfill_begin.chunk, lago_push._caller()::text, walked_by,
                lago_push._last_key(wanted.source), expected, in_table)
        returning backfill.id into _backfill_begin.id;
    elsif unfinished.filter is distinct from condition then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" has an unfinished backfill with another filter', wanted.name),
            detail = format('It has sent %s rows.', unfinished.rows_done),
            hint = 'Call it with that filter to go on, or with restart => true to give it up.';
    else
        update lago_push.backfill b
           set chunk = _backfill_begin.chunk, by = lago_push._caller()::text,
               resumed_at = clock_timestamp(), resumed_done = b.rows_done, resumed_seen = b.rows_seen
         where b.id = unfinished.id;
        id := unfinished.id;
    end if;
    most := _backfill_begin.chunk;
end
$$;
comment on function lago_push._backfill_begin(integer, bytea, integer, boolean) is 'Internal: writes a backfill down, or finds the one to go on with.';

-- Purpose:    how many messages a live row of the same destination would have to wait behind, up to a number.
-- Parameters: from_id, the lowest id that was waiting at the last look: below it are only rows that are gone.
-- Returns:    lowest, the lowest id waiting now, for the next look.
create function lago_push._waiting_before(sync lago_push.sync, from_id bigint, most bigint, out waiting bigint, out lowest bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select count(*), coalesce(min(w.id), from_id)
      from (select m.id from lago_push.message m
             where m.id >= from_id
               -- What is paused, or waits for its tick, holds up nobody.
               and m.sync_id in (select s.id from lago_push.sync s
                                  where s.destination_id = (sync).destination_id and s.state = 'active' and (s.schedule is null or s.query is not null))
             order by m.id
             limit most) w;
$$;
comment on function lago_push._waiting_before(lago_push.sync, bigint, bigint) is 'Internal: how many messages a live row would have to wait behind.';

-- Purpose:    capture the next rows of a backfill and note how far it has come, in one transaction.
-- Parameters: most, how many rows; from_id, see _waiting_before.
-- Returns:    state: captured; done; full, if too much waits already; obstructed, if nothing can be delivered.
create function lago_push._backfill_step(backfill_id integer, most integer, from_id bigint, out state text, out lowest bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync;
    at lago_push.backfill;
    walked_by text[];
    waiting bigint;
    own bigint;
    room integer := most;
    reach bigint;
    went record;
begin
    lowest := from_id;
    -- First without a lock: a transaction that only looks and waits writes nothing.
    select b.* into at from lago_push.backfill b where b.id = backfill_id;
    select s.* into wanted from lago_push.sync s where s.id = at.sync_id;
    if wanted.id is null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = 'the backfill cannot go on',
            detail = 'The sync was dropped meanwhile.';
    end if;
    if exists (select from lago_push.backfills v where v.sync = wanted.name and v.finished_at is null and v.state like 'waiting: %') then
        state := 'obstructed';
        return;
    end if;
    select w.waiting, w.lowest into waiting, lowest from lago_push._waiting_before(wanted, from_id, most) w;
    if waiting > most / 2 then
        state := 'full';
        return;
    end if;
    if wanted.max_pending is not null then
        -- Half of it is left to live rows.
        select count(*) into own
          from (select from lago_push.message m where m.sync_id = wanted.id limit wanted.max_pending) m;
        room := least(room, greatest(wanted.max_pending / 2, 1) - own);
        if room < 1 then
            state := 'full';
            return;
        end if;
    end if;
    -- Whoever drops the sync, or changes it, waits until these rows are in the outbox.
    select s.* into wanted from lago_push.sync s where s.id = at.sync_id for key share;
    perform lago_push._check_source(wanted.source);
    if wanted.state = 'draft' or not 'insert' = any (wanted.operations) then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('the backfill of sync "%s" cannot go on', wanted.name),
            detail = 'The sync does not capture inserts any more.';
    end if;
    select k.columns into walked_by from lago_push._walking_key(wanted.source) k;
    if walked_by is distinct from at.walked_by then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('the backfill of sync "%s" cannot go on', wanted.name),
            detail = format('It walks %s by the key (%s), which is no more.', wanted.source, array_to_string(at.walked_by, ', ')),
            hint = 'Begin anew with restart => true. What has been sent is not billed again.';
    end if;
    if at.until is null then
        update lago_push.backfill b set finished_at = clock_timestamp() where b.id = backfill_id;
        state := 'done';
        return;
    end if;
    reach := lago_push._backfill_reach(room);
    select r.* into went from lago_push._capture_rows(wanted.id,
        convert_to(lago_push._backfill_query(wanted, at.filter, at.position, at.until, reach), getdatabaseencoding()), room) r;
    state := case when went.captured < room and went.seen < reach then 'done' else 'captured' end;
    update lago_push.backfill b
       set position = case when went.seen = 0 then b.position else array(
               select convert_from(l.value, getdatabaseencoding()) from unnest(went.last) with ordinality l(value, place) order by l.place) end,
           rows_done = b.rows_done + went.captured,
           rows_seen = b.rows_seen + went.seen,
           moved_at = clock_timestamp(),
           finished_at = case when _backfill_step.state = 'done' then clock_timestamp() end
     where b.id = backfill_id;
end
$$;
comment on function lago_push._backfill_step(integer, integer, bigint) is 'Internal: captures the next rows of a backfill.';

create view lago_push.backfills as
select s.name as sync,
       case when b.finished_at is not null then 'done'
            when l.pid is null then 'interrupted'
            when s.state = 'paused' then 'waiting: the sync is paused'
            when d.held_because is not null then 'waiting: the destination is held: ' || d.held_because
            when o.why is not null then 'waiting: the destination is held: ' || o.why
            when h.next_attempt_at > pg_catalog.clock_timestamp() then 'waiting: the destination is backing off'
            else 'running' end as state,
       b.rows_done,
       case when b.finished_at is not null then b.rows_done
            else greatest(b.rows_estimated, b.rows_done) end as rows_estimated,
       b.started_at,
       b.finished_at,
       (b.rows_done - b.resumed_done) / nullif(t.seconds, 0) as rate,
       case when b.finished_at is null and l.pid is not null
            then pg_catalog.make_interval(secs =>
                greatest(b.table_rows - b.rows_seen, 0) * t.seconds / nullif(b.rows_seen - b.resumed_seen, 0)) end as eta,
       b.moved_at
  from lago_push.backfill b
  join lago_push.sync s on s.id = b.sync_id
  join lago_push.destination d on d.id = s.destination_id
  left join lago_push.destination_health h on h.destination_id = d.id
  left join lago_push.destination_hold o on o.destination_id = d.id
  left join pg_catalog.pg_locks l
         on l.locktype = 'advisory' and l.classid = 52467875 and l.objid = s.id::oid and l.objsubid = 3 and l.granted
        and l.database = (select c.oid from pg_catalog.pg_database c where c.datname = pg_catalog.current_database())
        and b.finished_at is null
 cross join lateral (select extract(epoch from
                        case when l.pid is null then b.moved_at else pg_catalog.clock_timestamp() end - b.resumed_at)::double precision) t(seconds);
comment on view lago_push.backfills is 'One row per call of lago_push.backfill() that was not resumed: how far it has come.';
comment on column lago_push.backfills.sync is 'name of the sync';
comment on column lago_push.backfills.state is 'running; waiting: why nothing is sent for the moment; interrupted: its session has ended, and the same call goes on where it was; done';
comment on column lago_push.backfills.rows_done is 'rows that met the filter and were captured, dead letters included';
comment on column lago_push.backfills.rows_estimated is 'how many the planner expected at the start; when done, how many they were';
comment on column lago_push.backfills.started_at is 'when it was called first';
comment on column lago_push.backfills.finished_at is 'when its last rows were captured; they may still wait in the outbox';
comment on column lago_push.backfills.rate is 'rows per second since it was called last';
comment on column lago_push.backfills.eta is 'how long the rest of the table will take at that rate';
comment on column lago_push.backfills.moved_at is 'when it last captured rows';
