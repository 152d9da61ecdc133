-- Queries: syncs without a table, and their runs.

-- Purpose:    whether a sync's rows come from a query.
create function lago_push._refuse_query(sync lago_push.sync, what text)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if sync.query is not null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" has a query and no source table, so it cannot be %s', sync.name, what),
            detail = 'All rows the query gives are captured by its runs, those that were there before too.',
            hint = format('To run it now: select lago_push.run_now(%L).', sync.name);
    end if;
end
$$;
comment on function lago_push._refuse_query(lago_push.sync, text) is 'Internal: refuses a sync that has a query.';

-- Purpose:    refuse a sync that the caller may not make or change: whose table he does not own, or whose query runs
--             with the rights of a role he is no member of.
create function lago_push._check_rights(sync lago_push.sync)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if sync.query is null then
        perform lago_push._check_source(sync.source);
    elsif not exists (select from pg_roles r where r.oid = sync.run_as) then
        if not (select r.rolsuper from pg_roles r where r.oid = lago_push._caller()) then
            raise exception using errcode = 'insufficient_privilege',
                message = format('the role of sync "%s" does not exist (any more)', sync.name),
                detail = 'Its query ran with the rights of that role.',
                hint = 'A superuser may drop it.';
        end if;
    elsif not pg_has_role(lago_push._caller(), sync.run_as, 'USAGE') then
        raise exception using errcode = 'insufficient_privilege',
            message = format('must be a member of role "%s"', sync.run_as),
            detail = format('The query of sync "%s" runs with the rights of that role.', sync.name);
    end if;
end
$$;
comment on function lago_push._check_rights(lago_push.sync) is 'Internal: refuses a sync the caller may not make or change.';

-- Purpose:    the columns of a sync's query as they are now: an array of objects of name and type. Runs it for a moment.
create function lago_push._columns_of(sync lago_push.sync)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
    select convert_from(lago_push._query_columns(
        convert_to((sync).query, 'UTF8'), convert_to((sync).search_path, 'UTF8'), (sync).run_as::oid), 'UTF8')::jsonb;
$$;
comment on function lago_push._columns_of(lago_push.sync) is 'Internal: the columns of a sync''s query as they are now.';

-- Purpose:    a query in the form it is stored in: without the semicolon that people end statements with.
create function lago_push._query(query text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(regexp_replace(query, '\s*;?\s*$', ''), '');
$$;
comment on function lago_push._query(text) is 'Internal: a query in the form it is stored in.';

-- Purpose:    refuse what only a query can have, or only a table.
create function lago_push._check_kind(wanted lago_push.sync)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if wanted.source is not null and wanted.query is not null then
        raise exception using errcode = 'invalid_parameter_value',
            message = format('sync "%s" has both a source and a query', wanted.name),
            detail = 'The rows of a table are captured when they are written; those of a query when it runs.',
            hint = 'Give one of them.';
    elsif wanted.source is null and wanted.query is null then
        raise exception using errcode = 'null_value_not_allowed',
            message = format('sync "%s" needs a source', wanted.name),
            hint = 'Give the table: source => ''public.my_table''; or, for what is none, a query: query => ''select …'', key => ''{id}''.';
    elsif wanted.query is null then
        if wanted.key is not null or wanted.cursor is not null or wanted.overlap is not null or wanted.time_limit is not null then
            raise exception using errcode = 'invalid_parameter_value',
                message = format('sync "%s" has no query, and key, cursor, overlap and time_limit are of one', wanted.name),
                hint = 'Leave them out, or give a query in the place of the source.';
        end if;
        return;
    end if;
    if wanted.mapper is not null then
        raise exception using errcode = 'feature_not_supported',
            message = format('sync "%s" has both a query and a mapper', wanted.name),
            detail = 'A mapper takes rows of a table.',
            hint = 'Compute in the query what the template is to send.';
    elsif wanted.filter is not null then
        raise exception using errcode = 'feature_not_supported',
            message = format('sync "%s" has both a query and a filter', wanted.name),
            detail = 'A filter is the condition of a table''s trigger.',
            hint = 'Write it into the query, after where.';
    elsif wanted.unchanged <> 'send' then
        raise exception using errcode = 'feature_not_supported',
            message = format('sync "%s" has a query, and unchanged is %s', wanted.name, wanted.unchanged),
            detail = 'Of a query''s row an update is sent only if a column has changed.',
            hint = 'Name the columns whose change counts: columns => ''{amount}''.';
    end if;
    if cardinality(wanted.key) > 0 and array_position(wanted.key, null) is null then
        return;
    end if;
    raise exception using errcode = 'null_value_not_allowed',
        message = format('sync "%s" needs a key', wanted.name),
        detail = 'Runs tell by it which rows are new, changed or gone.',
        hint = 'Name the columns of the query that tell its rows apart: key => ''{id}''.';
end
$$;
comment on function lago_push._check_kind(lago_push.sync) is 'Internal: refuses what only a query can have, or only a table.';

-- Purpose:    refuse a query that cannot run, or whose key or cursor is none, against its columns.
create function lago_push._check_query(wanted lago_push.sync)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text;
    cursor_type text;
    names text[] := array(select c ->> 'name' from jsonb_array_elements(wanted.query_columns) c);
begin
    select k into missing from unnest(wanted.key) k where k::text <> all (names) limit 1;
    if missing is not null then
        raise exception using errcode = 'undefined_column',
            message = format('column "%s" of the key is none of the query', missing),
            hint = format('Columns: %s.', array_to_string(names, ', '));
    end if;
    select k into missing from unnest(wanted.columns || wanted.exclude) k where k::text <> all (names) limit 1;
    if missing is not null then
        raise exception using errcode = 'undefined_column',
            message = format('column "%s" is none of the query', missing),
            detail = 'columns lists those whose change counts, exclude those the sync may not see.',
            hint = format('Columns: %s.', array_to_string(names, ', '));
    end if;
    if coalesce(wanted.first_run, '') not in ('send', 'remember') then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'first_run must be send or remember',
            detail = 'It says what becomes of the rows that are there at the first run: send captures them as new, remember takes them for known.';
    elsif coalesce(wanted.max_removed, -1) not between 0 and 1 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'max_removed must be between 0 and 1',
            detail = 'It is the share of the rows that one run may take for removed; a run that finds more gone stops.',
            hint = '1 lets any number go.';
    elsif wanted.time_limit <= '0' then
        raise exception using errcode = 'invalid_parameter_value', message = 'time_limit must be more than nothing';
    end if;
    if wanted.cursor is null then
        if wanted.overlap is not null then
            raise exception using errcode = 'invalid_parameter_value',
                message = format('sync "%s" has an overlap and no cursor', wanted.name),
                hint = 'Without a cursor all rows are read each time.';
        end if;
    else
        -- Without schema and modifier: timestamptz(3) is a time, too.
        select format_type((c ->> 'type')::regtype, null) into cursor_type from jsonb_array_elements(wanted.query_columns) c where c ->> 'name' = wanted.cursor::text;
        if cursor_type is null then
            raise exception using errcode = 'undefined_column',
                message = format('the cursor "%s" is no column of the query', wanted.cursor),
                hint = format('Columns: %s.', array_to_string(names, ', '));
        elsif cursor_type not in ('smallint', 'integer', 'bigint', 'date', 'timestamp without time zone', 'timestamp with time zone') then
            raise exception using errcode = 'datatype_mismatch',
                message = format('the cursor "%s" is of type %s', wanted.cursor, cursor_type),
                detail = 'A cursor is a column that only grows: a number, or a time.',
                hint = 'Cast it in the query to bigint, date, timestamp or timestamptz.';
        elsif 'delete' = any (wanted.operations) then
            raise exception using errcode = 'invalid_parameter_value',
                message = format('sync "%s" has a cursor and captures deletes', wanted.name),
                detail = 'With a cursor only new rows are read, so those that are gone are not missed.',
                hint = 'Leave one of them out.';
        end if;
        begin
            if cursor_type in ('smallint', 'integer', 'bigint') then
                if wanted.overlap::numeric < 0 then raise data_exception; end if;
            elsif wanted.overlap::interval < '0' then
                raise data_exception;
            end if;
        exception when data_exception then
            raise exception using errcode = 'invalid_parameter_value',
                message = format('overlap is no stretch of a cursor of type %s', cursor_type),
                detail = 'It says how far behind the highest value of before reading begins, for rows that came late.',
                hint = case when cursor_type in ('smallint', 'integer', 'bigint')
                    then 'Give a number: overlap => ''1000''.' else 'Give an interval: overlap => ''1 hour''.' end;
        end;
    end if;
    perform lago_push._check_query_recipe(
        convert_to(wanted.template, 'UTF8'),
        convert_to(to_json(names)::text, 'UTF8'),
        array(select (c ->> 'type')::regtype::oid from jsonb_array_elements(wanted.query_columns) c),
        convert_to(to_json(wanted.key)::text, 'UTF8'),
        convert_to(wanted.endpoint, 'UTF8'), wanted.method, convert_to(wanted.path, 'UTF8'), wanted.root, wanted.operations,
        convert_to(to_json(wanted.exclude)::text, 'UTF8'), convert_to(wanted.order_by, 'UTF8'));
end
$$;
comment on function lago_push._check_query(lago_push.sync) is 'Internal: refuses a query that cannot be compared or rendered.';

-- Purpose:    how far behind its highest value a cursor reads, where nobody says.
create function lago_push._default_overlap(sync lago_push.sync)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when c ->> 'type' in ('smallint', 'integer', 'bigint') then '1000' else '5 minutes' end
      from jsonb_array_elements((sync).query_columns) c where c ->> 'name' = (sync).cursor::text;
$$;
comment on function lago_push._default_overlap(lago_push.sync) is 'Internal: how far behind its highest value a cursor reads, where nobody says.';

-- Purpose:    run a query at the next opportunity, whatever its schedule says.
-- Parameters: removals, 'accept' if any number of rows may be gone this time.
-- Example:    select lago_push.run_now('invoices', removals => 'accept');
create function lago_push._run_now(sync text, removals text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync_named(_run_now.sync);
begin
    if not lago_push._is_operator() then
        perform lago_push._check_rights(wanted);
    end if;
    if wanted.query is null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" has a source table, and no query to run', wanted.name),
            detail = 'Its rows are captured when they are written.';
    elsif wanted.state = 'draft' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is a draft', wanted.name),
            hint = format('Start it first: lago_push.activate(%L).', wanted.name);
    elsif coalesce(removals, '') not in ('limit', 'accept') then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'removals must be limit or accept',
            detail = 'limit stops a run that finds more rows gone than max_removed allows; accept takes them for removed this once.';
    end if;
    insert into lago_push.run_request (sync_id, removals)
    values (wanted.id, case removals when 'accept' then 'accepted' else 'limited' end);
    perform lago_push._wake_for_run();
end
$$;
comment on function lago_push._run_now(text, text) is 'Internal: does lago_push.run_now().';
