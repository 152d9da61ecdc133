-- Syncs: their definitions, from draft to drop.

-- Purpose:    find a sync without locking it or asking who calls.
create function lago_push._sync_named(sync text)
returns lago_push.sync
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync;
begin
    select s.* into wanted from lago_push.sync s where s.name = _sync_named.sync;
    if wanted.id is null then
        raise exception using errcode = 'undefined_object',
            message = format('sync "%s" does not exist', _sync_named.sync),
            hint = coalesce(
                'Syncs: ' || (select string_agg(quote_ident(s.name), ', ' order by s.name) from lago_push.sync s) || '.',
                'Create one with lago_push.create_sync().');
    end if;
    return wanted;
end
$$;
comment on function lago_push._sync_named(text) is 'Internal: a sync by name, or an error that lists the names there are.';

-- Purpose:    run a command with the caller's rights and no others.
create function lago_push._as_caller(command text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select lago_push._execute_as_caller(convert_to(_as_caller.command, getdatabaseencoding()));
$$;
comment on function lago_push._as_caller(text) is 'Internal: runs a command with the rights of the role that called.';

-- Purpose:    find a sync by name, or say which ones there are, and lock it.
create function lago_push._locked_sync(sync text)
returns lago_push.sync
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync_named(_locked_sync.sync);
begin
    perform from lago_push.sync s where s.id = wanted.id for update;
    -- Once more: it may have changed, or gone, while its lock was waited for.
    return lago_push._sync_named(_locked_sync.sync);
end
$$;
comment on function lago_push._locked_sync(text) is 'Internal: a sync, locked, or an error that lists the names there are.';

-- Purpose:    find and lock a sync for what makes or changes it; the caller must own its source.
create function lago_push._sync(sync text)
returns lago_push.sync
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._locked_sync(_sync.sync);
begin
    if wanted.query is not null or exists (select from pg_class c where c.oid = wanted.source) then
        perform lago_push._check_rights(wanted);
    end if;
    return wanted;
end
$$;
comment on function lago_push._sync(text) is 'Internal: a sync, locked, whose source the caller owns.';

-- Purpose:    stand for the right to operate all syncs, whoever owns their sources. Nothing calls it: who may
--             execute it has the right.
create function lago_push._operate()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
$$;
comment on function lago_push._operate() is 'Internal: whoever may execute it may operate every sync. Granted by lago_push.grant_access().';

-- Purpose:    whether the caller may operate all syncs.
create function lago_push._is_operator()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select has_function_privilege(lago_push._caller(), 'lago_push._operate()', 'EXECUTE');
$$;
comment on function lago_push._is_operator() is 'Internal: whether the caller may operate every sync.';

-- Purpose:    find and lock a sync for what is done to its messages; for operators, and for who owns its source.
create function lago_push._operated_sync(sync text)
returns lago_push.sync
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if lago_push._is_operator() then
        return lago_push._locked_sync(_operated_sync.sync);
    end if;
    return lago_push._sync(_operated_sync.sync);
end
$$;
comment on function lago_push._operated_sync(text) is 'Internal: a sync, locked, that the caller may operate.';

-- Purpose:    refuse a source that cannot be billed, or that the caller does not own.
create function lago_push._check_source(source regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted record;
begin
    select c.relkind, c.relpersistence, c.relowner, c.relnamespace::regnamespace::text as schema into wanted
      from pg_class c where c.oid = _check_source.source;
    if wanted.relkind is null then
        raise exception using errcode = 'undefined_table', message = 'the source table does not exist',
            hint = 'Give an existing table: source => ''public.my_table''.';
    elsif wanted.relkind not in ('r', 'p') then
        raise exception using errcode = 'wrong_object_type',
            message = format('"%s" is not a table', _check_source.source),
            detail = 'Rows are captured by a row trigger, which only tables and partitioned tables can have.',
            hint = 'Name the table the rows are written to' || case when wanted.relkind in ('v', 'm', 'f')
                then format(', or have a query run on a schedule: query => ''table %s'', key => ''{…}''.', _check_source.source) else '.' end;
    elsif wanted.relpersistence = 't' then
        raise exception using errcode = 'wrong_object_type',
            message = format('"%s" is a temporary table', _check_source.source),
            detail = 'It is visible to one session only and gone when that ends.',
            hint = 'Use a permanent table.';
    elsif wanted.schema in ('lago_push', 'pg_catalog', 'information_schema', 'pg_toast') then
        raise exception using errcode = 'wrong_object_type',
            message = format('"%s" cannot be a source', _check_source.source),
            detail = format('The tables in schema %s belong to the server or to lago_push.', wanted.schema);
    elsif not pg_has_role(lago_push._caller(), wanted.relowner, 'USAGE') then
        raise exception using errcode = 'insufficient_privilege',
            message = format('must be owner of table %s', _check_source.source),
            detail = 'A sync sends what the table holds to another system, so only its owner may make or change one.',
            hint = format('Ask the owner, or a role that is a member of "%s".', wanted.relowner::regrole);
    end if;
end
$$;
comment on function lago_push._check_source(regclass) is 'Internal: checks that a table can be a source and that the caller owns it.';

-- Purpose:    refuse headers that are no headers, or that lago_push sets itself.
create function lago_push._check_headers(headers jsonb)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if headers is not null and (jsonb_typeof(headers) <> 'object'
        or exists (select from jsonb_each(case jsonb_typeof(headers) when 'object' then headers else '{}' end) h
                    where jsonb_typeof(h.value) <> 'string' or h.key !~ '^[A-Za-z0-9-]+$' or h.value #>> '{}' !~ '^[ -~]*$')) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'headers must be a JSON object of header names and text',
            hint = 'For example: ''{"X-Tenant": "acme"}''.';
    end if;
    if exists (select from jsonb_object_keys(coalesce(headers, '{}')) h(name)
                where lower(h.name) in ('authorization', 'proxy-authorization', 'content-type', 'content-length', 'content-encoding', 'host', 'accept', 'accept-encoding',
                    'user-agent', 'connection', 'transfer-encoding', 'te', 'expect')) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'headers sets a header that lago_push sets itself',
            hint = 'The API key goes into api_key, never into headers: headers are readable.';
    end if;
end
$$;
comment on function lago_push._check_headers(jsonb) is 'Internal: checks the headers of a destination or sync.';

-- Purpose:    the destination a sync names, or the only one there is.
create function lago_push._destination_of(sync text, destination text)
returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    target integer;
begin
    if destination is not null then
        return lago_push._destination_id(_destination_of.destination);
    end if;
    select min(d.id) into target from lago_push.destination d having count(*) = 1;
    if target is null then
        raise exception using errcode = 'invalid_parameter_value',
            message = format('sync "%s" needs a destination', _destination_of.sync),
            detail = case when exists (select from lago_push.destination)
                then 'There are several: ' || (select string_agg(quote_ident(d.name), ', ' order by d.name) from lago_push.destination d) || '.'
                else 'There is none yet.' end,
            hint = case when exists (select from lago_push.destination)
                then 'Name one: destination => ''…''.'
                else 'Create one with lago_push.create_destination().' end;
    end if;
    return target;
end
$$;
comment on function lago_push._destination_of(text, text) is 'Internal: the destination a sync names, or the only one there is.';

-- Purpose:    refuse a list of columns the source has not.
-- Parameters: parameter, which list it is; meant_for, what the list is for.
create function lago_push._check_columns(source regclass, parameter text, columns name[], meant_for text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    wrong text;
begin
    select c into wrong from unnest(_check_columns.columns) c
     where not exists (select from pg_attribute a where a.attrelid = _check_columns.source
                          and a.attname = c and a.attnum > 0 and not a.attisdropped)
     limit 1;
    if wrong is not null or columns = '{}' or array_position(columns, null) is not null then
        raise exception using errcode = 'undefined_column',
            message = format('column "%s" of table %s does not exist', coalesce(wrong, ''), _check_columns.source),
            hint = format('%s lists the columns %s.', parameter, meant_for);
    end if;
end
$$;
comment on function lago_push._check_columns(regclass, text, name[], text) is 'Internal: refuses a list of columns the source has not.';

-- Purpose:    refuse a mapper that cannot be called with the rows of the source.
create function lago_push._check_mapper(mapper text, source regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted record;
    row_type oid;
    owner oid;
begin
    select p.oid, p.prokind, p.proretset, p.prorettype, p.proargtypes::oid[] as arguments into wanted
      from pg_proc p where p.oid = to_regprocedure(_check_mapper.mapper);
    if wanted.oid is null then
        raise exception using errcode = 'undefined_function',
            message = format('mapper %s does not exist', _check_mapper.mapper),
            hint = 'Give a function by its name and argument types: mapper => ''public.to_event(public.api_calls)''.';
    end if;
    select c.reltype, c.relowner into row_type, owner from pg_class c where c.oid = _check_mapper.source;
    if wanted.prokind <> 'f' or wanted.proretset or wanted.prorettype <> 'jsonb'::regtype then
        raise exception using errcode = 'invalid_function_definition',
            message = format('mapper %s does not return one jsonb', _check_mapper.mapper),
            detail = format('It returns %s.', pg_get_function_result(wanted.oid)),
            hint = 'Declare it returns jsonb; null skips the row.';
    end if;
    if not (cardinality(wanted.arguments) between 1 and 3
            and wanted.arguments[0] = row_type
            and coalesce(wanted.arguments[1], row_type) = row_type
            and coalesce(wanted.arguments[2], 'text'::regtype) = 'text'::regtype) then
        raise exception using errcode = 'invalid_function_definition',
            message = format('mapper %s does not take rows of %s', _check_mapper.mapper, _check_mapper.source),
            hint = format('It takes the row, and if it likes the old row and the operation: (%1$s), (%1$s, %1$s) or (%1$s, %1$s, text).', _check_mapper.source);
    end if;
    -- It runs with the rights of the table's owner, so that whoever may write the table can be billed.
    if not has_function_privilege(owner, wanted.oid, 'EXECUTE') or not has_function_privilege(lago_push._caller(), wanted.oid, 'EXECUTE') then
        raise exception using errcode = 'insufficient_privilege',
            message = format('permission denied for mapper %s', _check_mapper.mapper),
            detail = 'It runs with the rights of the source''s owner, who must be allowed to execute it; so must you.';
    end if;
end
$$;
comment on function lago_push._check_mapper(text, regclass) is 'Internal: refuses a mapper that cannot be called with the rows of a source.';

-- Purpose:    a schedule in the form it is stored in: five cron fields, or "every N s".
create function lago_push._schedule(schedule text)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    trimmed text := trim(schedule);
    span interval;
begin
    if coalesce(trimmed, '') = '' then
        return null;
    end if;
    -- Told apart by their looks: as an interval, '*/5 * * * *' would be read as five seconds.
    if trimmed ~ '\*' or trimmed ~ '^[-0-9,/]+\s+[-0-9,/]+(\s|$)' then
        perform lago_push._check_schedule(trimmed);
        return trimmed;
    end if;
    begin
        span := regexp_replace(trimmed, '^every\s+', '', 'i')::interval;
    exception when others then
        perform lago_push._check_schedule(trimmed);
        return trimmed;
    end;
    if extract(year from span) <> 0 or extract(month from span) <> 0 or extract(epoch from span) not between 1 and 31622400
        or extract(epoch from span) % 1 <> 0 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'schedule as an interval must be whole seconds, at least one and at most 366 days',
            hint = 'For months write cron fields: ''0 3 1 * *'' is the first of each month at 3:00 UTC.';
    end if;
    return format('every %s s', extract(epoch from span)::bigint);
end
$$;
comment on function lago_push._schedule(text) is 'Internal: checks a schedule and gives it in the form it is stored in.';

-- Purpose:    refuse a definition that cannot work, before any of it is stored.
-- Parameters: wanted, the sync as it would be.
create function lago_push._check_sync(wanted lago_push.sync)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(wanted.name, '') = '' then
        raise exception using errcode = 'invalid_parameter_value', message = 'a sync needs a name';
    end if;
    perform lago_push._check_kind(wanted);
    perform lago_push._check_rights(wanted);
    if wanted.template is not null and wanted.mapper is not null then
        raise exception using errcode = 'invalid_parameter_value',
            message = format('sync "%s" has both a template and a mapper', wanted.name),
            hint = 'Give one of them.';
    end if;
    if wanted.template is null and wanted.mapper is null and wanted.path is null then
        raise exception using errcode = 'null_value_not_allowed',
            message = format('sync "%s" needs a template', wanted.name),
            hint = 'select example from lago_push.endpoints shows one; lago_push.suggest_template() drafts one from the table''s columns.';
    end if;
    if wanted.operations is null or wanted.operations = '{}' or array_position(wanted.operations, null) is not null
        or not wanted.operations <@ '{insert,update,delete}'::text[] then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'operations must be some of insert, update, delete',
            hint = 'For example: operations => ''{insert,update}''.';
    end if;
    if wanted.batch_size not between 1 and 100 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'batch_size must be between 1 and 100',
            detail = 'Lago takes at most 100 events in one request.';
    end if;
    if coalesce(wanted.on_error, '') not in ('dead_letter', 'raise') then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'on_error must be dead_letter or raise',
            detail = 'dead_letter lets the write go through and keeps the row; raise refuses the write.';
    end if;
    if wanted.max_pending < 1 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'max_pending must be at least 1',
            detail = 'It says how many messages of the sync may wait in the outbox.',
            hint = '0 takes it away: then any number may.';
    end if;
    if coalesce(wanted.when_full, '') not in ('warn', 'dead_letter', 'raise') then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'when_full must be warn, dead_letter or raise',
            detail = 'It says what becomes of rows when max_pending messages wait: warn captures them all the same, dead_letter keeps them as dead letters, raise refuses the write.';
    end if;
    if coalesce(wanted.unchanged, '') not in ('send', 'skip') then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'unchanged must be send or skip',
            detail = 'It says what is done with an update that changes no value the sync uses.';
    end if;
    if wanted.unchanged = 'skip' and not 'update' = any (wanted.operations) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'unchanged is skip, but the sync does not capture updates',
            hint = 'Add update to operations, or leave unchanged out.';
    end if;
    if wanted.method is not null and wanted.method not in ('POST', 'PUT', 'PATCH', 'DELETE') then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'method must be POST, PUT, PATCH or DELETE';
    end if;
    if wanted.endpoint = 'manual' and wanted.path is null then
        raise exception using errcode = 'invalid_parameter_value',
            message = format('sync "%s" names no path', wanted.name),
            hint = 'A manual call needs one: path => ''/customers/{{ row.external_id }}''.';
    end if;
    if wanted.path is not null and wanted.path !~ '^/[^\s?#]' and wanted.path !~ '^/\{\{' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'path must begin with a slash',
            detail = 'It follows the destination''s URL, which ends with /api/v1.',
            hint = 'For example: path => ''/customers/{{ row.external_id }}''.';
    end if;
    -- What is in the holes is encoded; what stands between them is sent as it is.
    if regexp_replace(wanted.path, '\{\{.*?\}\}', 'x', 'g') !~ '^[]A-Za-z0-9/._~%&=?+,:;@!$*''(){}[-]*$'
        or split_part(regexp_replace(wanted.path, '\{\{.*?\}\}', 'x', 'g'), '?', 1) ~ '/\.\.?(/|$)' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'path holds what no path of Lago''s API does',
            detail = 'It may hold letters, digits and punctuation of a URL, and no /./ or /../.',
            hint = 'Write other characters percent-encoded: %20 for a space.';
    end if;
    if wanted.root is not null and wanted.root !~ '^[A-Za-z_][A-Za-z0-9_]*$' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'root must be one key',
            detail = 'It wraps the payload: root => ''customer'' sends {"customer": …}.';
    end if;
    perform lago_push._check_headers(wanted.headers);
    if wanted.keep_replies is not null and wanted.keep_replies not between '1 s' and '10 years' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'keep_replies must be between 1 second and 10 years';
    end if;
    if wanted.query is not null then
        if wanted.columns is not null and not 'update' = any (wanted.operations) then
            raise exception using errcode = 'invalid_parameter_value',
                message = 'columns is given, but the sync does not capture updates',
                hint = 'Add update to operations, or leave columns out.';
        end if;
        perform lago_push._check_query(wanted);
        return;
    end if;
    if wanted.exclude is not null then
        perform lago_push._check_columns(wanted.source, 'exclude', wanted.exclude, 'the sync may not see');
    end if;
    perform lago_push._check_recipe(
        convert_to(wanted.template, 'UTF8'), wanted.source, convert_to(wanted.endpoint, 'UTF8'), wanted.method,
        convert_to(wanted.path, 'UTF8'), wanted.root, wanted.operations,
        convert_to(to_json(wanted.exclude)::text, 'UTF8'), wanted.mapper is not null, convert_to(wanted.order_by, 'UTF8'));
    if wanted.mapper is not null then
        perform lago_push._check_mapper(wanted.mapper, wanted.source);
    end if;
    if wanted.columns is not null then
        if not 'update' = any (wanted.operations) then
            raise exception using errcode = 'invalid_parameter_value',
                message = 'columns is given, but the sync does not capture updates',
                hint = 'Add update to operations, or leave columns out.';
        end if;
        perform lago_push._check_columns(wanted.source, 'columns', wanted.columns, 'whose update is captured');
    end if;
end
$$;
comment on function lago_push._check_sync(lago_push.sync) is 'Internal: refuses a definition that cannot work.';

-- Purpose:    make the trigger of a sync and undo it: only that tells whether one can be made.
create function lago_push._try_to_attach(sync_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform lago_push._attach(_try_to_attach.sync_id);
    raise exception sqlstate 'LPTRY';
exception when sqlstate 'LPTRY' then
    null;
end
$$;
comment on function lago_push._try_to_attach(integer) is 'Internal: checks that the trigger of a sync can be made.';

-- Purpose:    define a sync; nothing is captured until lago_push.activate().
-- Parameters: see the README.
-- Example:    select lago_push.create_sync('api_calls', source => 'public.api_calls', template => '{…}');
create function lago_push._create_sync(
    name text, source regclass, template text, mapper regprocedure, destination text,
    endpoint text, operations text[], columns name[],
    filter text, exclude name[], method text, path text, root text, headers jsonb, order_by text,
    batch_size integer, schedule text, keep_replies interval, on_error text, unchanged text,
    max_pending bigint, when_full text,
    query text, key name[], cursor name, overlap text, max_removed double precision, first_run text, time_limit interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    wanted lago_push.sync;
begin
    wanted.name := _create_sync.name;
    wanted.source := _create_sync.source;
    wanted.query := lago_push._query(_create_sync.query);
    wanted.key := nullif(_create_sync.key, '{}');
    wanted.cursor := nullif(_create_sync.cursor, '');
    wanted.overlap := nullif(_create_sync.overlap, '');
    wanted.time_limit := _create_sync.time_limit;
    wanted.template := _create_sync.template;
    wanted.mapper := _create_sync.mapper::text;
    -- A path of its own makes the call the user's, not one of usage events.
    wanted.endpoint := case when coalesce(_create_sync.endpoint, 'event') = 'event' and nullif(_create_sync.path, '') is not null
        then 'manual' else coalesce(_create_sync.endpoint, 'event') end;
    wanted.operations := array(select distinct o from unnest(_create_sync.operations) o);
    wanted.columns := _create_sync.columns;
    wanted.filter := nullif(_create_sync.filter, '');
    wanted.exclude := nullif(_create_sync.exclude, '{}');
    wanted.method := upper(nullif(_create_sync.method, ''));
    wanted.path := nullif(_create_sync.path, '');
    wanted.root := nullif(_create_sync.root, '');
    wanted.headers := coalesce(_create_sync.headers, '{}');
    wanted.order_by := nullif(_create_sync.order_by, '');
    wanted.batch_size := coalesce(_create_sync.batch_size, 100);
    wanted.schedule := lago_push._schedule(_create_sync.schedule);
    wanted.keep_replies := _create_sync.keep_replies;
    wanted.on_error := _create_sync.on_error;
    wanted.unchanged := _create_sync.unchanged;
    wanted.max_pending := nullif(_create_sync.max_pending, 0);
    wanted.when_full := _create_sync.when_full;
    wanted.state := 'draft';
    if wanted.query is not null then
        wanted.max_removed := _create_sync.max_removed;
        wanted.first_run := _create_sync.first_run;
        wanted.run_as := lago_push._caller();
        wanted.search_path := convert_from(lago_push._search_path(), 'UTF8');
        perform lago_push._check_kind(wanted);
        wanted.query_columns := lago_push._columns_of(wanted);
        wanted.overlap := coalesce(wanted.overlap, lago_push._default_overlap(wanted));
    end if;
    perform lago_push._check_sync(wanted);
    wanted.destination_id := lago_push._destination_of(wanted.name, _create_sync.destination);
    wanted.id := nextval('lago_push.sync_id_seq');
    insert into lago_push.sync overriding system value select wanted.*
    on conflict on constraint sync_name_is_unique do nothing;
    if not found then
        raise exception using errcode = 'duplicate_object',
            message = format('sync "%s" already exists', wanted.name),
            hint = 'Change it with lago_push.alter_sync(), drop it with lago_push.drop_sync(), or choose another name.';
    end if;
    insert into lago_push.account (sync_id) values (wanted.id);
    if wanted.query is not null then
        insert into lago_push.memory (sync_id) values (wanted.id);
    end if;
    if wanted.filter is not null then
        perform lago_push._try_to_attach(wanted.id);
    end if;
    perform lago_push._wake();
end
$$;
comment on function lago_push._create_sync(text, regclass, text, regprocedure, text, text, text[], name[], text, name[], text, text, text, jsonb, text, integer, text, interval, text, text, bigint, text, text, name[], name, text, double precision, text, interval) is 'Internal: does lago_push.create_sync().';

-- Purpose:    change a sync. Null leaves a parameter as it is; an empty text, array or interval, or 0, takes it away.
-- Locks:      where the trigger changes, SHARE ROW EXCLUSIVE on the source until commit; gives up after 5 seconds of waiting for it.
-- Example:    select lago_push.alter_sync('api_calls', filter => 'new.bytes > 0');
create function lago_push._alter_sync(
    name text, source regclass, template text, mapper regprocedure, destination text,
    endpoint text, operations text[], columns name[],
    filter text, exclude name[], method text, path text, root text, headers jsonb, order_by text,
    batch_size integer, schedule text, keep_replies interval, on_error text, unchanged text,
    max_pending bigint, when_full text,
    query text, key name[], cursor name, overlap text, max_removed double precision, first_run text, time_limit interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    old lago_push.sync := lago_push._sync(_alter_sync.name);
    wanted lago_push.sync := old;
    was_attached boolean;
    fires "char";
begin
    if template is not null and mapper is not null then
        raise exception using errcode = 'invalid_parameter_value',
            message = format('sync "%s" has both a template and a mapper', wanted.name),
            hint = 'Give one of them.';
    end if;
    wanted.source := coalesce(_alter_sync.source, wanted.source);
    wanted.query := coalesce(lago_push._query(_alter_sync.query), wanted.query);
    if (wanted.query is null) <> (old.query is null) or (wanted.source is null) <> (old.source is null) then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" has a %s, which cannot become a %s', wanted.name,
                             case when old.query is null then 'source' else 'query' end,
                             case when old.query is null then 'query' else 'source' end),
            detail = 'What is captured at each write, and what at each run, is told apart by other ids.',
            hint = 'Make another sync, and drop this one.';
    end if;
    wanted.key := coalesce(nullif(_alter_sync.key, '{}'), wanted.key);
    if wanted.key <> old.key and exists (select from lago_push.remembered r where r.sync_id = old.id) then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('the key of sync "%s" cannot be changed', wanted.name),
            detail = 'Its runs remember rows by that key; by another one all of them would be gone, and as many new.',
            hint = 'Make another sync with first_run => ''remember'', and drop this one.';
    end if;
    wanted.cursor := nullif(coalesce(_alter_sync.cursor, wanted.cursor), '');
    wanted.overlap := nullif(coalesce(_alter_sync.overlap, case when wanted.cursor is not distinct from old.cursor then wanted.overlap end), '');
    wanted.max_removed := case when wanted.query is not null then coalesce(_alter_sync.max_removed, wanted.max_removed) end;
    wanted.first_run := case when wanted.query is not null then coalesce(_alter_sync.first_run, wanted.first_run) end;
    wanted.time_limit := nullif(coalesce(_alter_sync.time_limit, wanted.time_limit), '0');
    if _alter_sync.query is not null then
        wanted.search_path := convert_from(lago_push._search_path(), 'UTF8');
        wanted.query_columns := lago_push._columns_of(wanted);
    end if;
    if wanted.cursor is not null then
        wanted.overlap := coalesce(wanted.overlap, lago_push._default_overlap(wanted));
    end if;
    if template is not null or mapper is not null then
        wanted.template := nullif(_alter_sync.template, '');
        wanted.mapper := _alter_sync.mapper::text;
    end if;
    wanted.endpoint := coalesce(_alter_sync.endpoint, wanted.endpoint);
    if _alter_sync.operations is not null then
        wanted.operations := array(select distinct o from unnest(_alter_sync.operations) o);
    end if;
    wanted.columns := nullif(coalesce(_alter_sync.columns, wanted.columns), '{}');
    wanted.filter := nullif(coalesce(_alter_sync.filter, wanted.filter), '');
    wanted.exclude := nullif(coalesce(_alter_sync.exclude, wanted.exclude), '{}');
    wanted.method := upper(nullif(coalesce(_alter_sync.method, wanted.method), ''));
    wanted.path := nullif(coalesce(_alter_sync.path, wanted.path), '');
    wanted.root := nullif(coalesce(_alter_sync.root, wanted.root), '');
    if wanted.endpoint = 'event' and wanted.path is not null then
        wanted.endpoint := 'manual';
    end if;
    wanted.headers := coalesce(_alter_sync.headers, wanted.headers);
    -- Messages that wait keep the place in line they have.
    wanted.order_by := nullif(coalesce(_alter_sync.order_by, wanted.order_by), '');
    wanted.batch_size := coalesce(_alter_sync.batch_size, wanted.batch_size);
    wanted.schedule := lago_push._schedule(coalesce(_alter_sync.schedule, wanted.schedule));
    wanted.keep_replies := nullif(coalesce(_alter_sync.keep_replies, wanted.keep_replies), '0');
    wanted.on_error := coalesce(_alter_sync.on_error, wanted.on_error);
    wanted.unchanged := coalesce(_alter_sync.unchanged, wanted.unchanged);
    wanted.max_pending := nullif(coalesce(_alter_sync.max_pending, wanted.max_pending), 0);
    wanted.when_full := coalesce(_alter_sync.when_full, wanted.when_full);
    perform lago_push._check_sync(wanted);
    if destination is not null then
        wanted.destination_id := lago_push._destination_id(_alter_sync.destination);
    end if;
    -- What is pending was rendered for the call as it was.
    if (wanted.endpoint, wanted.method, wanted.path, wanted.root, wanted.destination_id)
        is distinct from (old.endpoint, old.method, old.path, old.root, old.destination_id)
        and (lago_push._has_unwritten(old.id) or exists (select from lago_push.message m where m.sync_id = old.id)) then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" has pending messages', wanted.name),
            detail = 'They were made for its present endpoint, method, path, root and destination.',
            hint = format('Wait for them with lago_push.flush(%L), then change these.', wanted.name);
    end if;
    update lago_push.sync s
       set (source, destination_id, endpoint, template, mapper, operations, columns, filter, exclude, unchanged,
            method, path, root, headers, order_by, batch_size, schedule, keep_replies, on_error, max_pending, when_full,
            query, key, cursor, overlap, max_removed, first_run, time_limit, search_path, query_columns)
         = (wanted.source, wanted.destination_id, wanted.endpoint, wanted.template, wanted.mapper, wanted.operations,
            wanted.columns, wanted.filter, wanted.exclude, wanted.unchanged, wanted.method, wanted.path, wanted.root,
            wanted.headers, wanted.order_by, wanted.batch_size, wanted.schedule, wanted.keep_replies, wanted.on_error,
            wanted.max_pending, wanted.when_full,
            wanted.query, wanted.key, wanted.cursor, wanted.overlap, wanted.max_removed, wanted.first_run, wanted.time_limit,
            wanted.search_path, wanted.query_columns)
     where s.id = old.id;
    if wanted.cursor is distinct from old.cursor then
        -- What was read by one column says nothing about another.
        update lago_push.memory m set high_water = null where m.sync_id = old.id;
    end if;
    if wanted.source is null then
        perform lago_push._wake();
        return;
    end if;
    if (wanted.source::oid, wanted.columns, wanted.filter) is distinct from (old.source::oid, old.columns, old.filter)
        or not (wanted.operations <@ old.operations and old.operations <@ wanted.operations) then
        fires := lago_push._fires(old);
        was_attached := lago_push._detach(old);
        if was_attached then
            perform lago_push._attach(old.id);
            perform lago_push._set_fires(wanted, fires);
        elsif wanted.filter is not null then
            perform lago_push._try_to_attach(old.id);
        end if;
    end if;
    perform lago_push._wake();
exception when lock_not_available then
    raise exception using errcode = 'lock_not_available',
        message = format('could not change the trigger of sync "%s" within 5 seconds', _alter_sync.name),
        detail = 'Another session holds a lock on the source; waiting longer would make other writers wait behind this one.',
        hint = 'Try again when long transactions on the table have ended.';
end
$$;
comment on function lago_push._alter_sync(text, regclass, text, regprocedure, text, text, text[], name[], text, name[], text, text, text, jsonb, text, integer, text, interval, text, text, bigint, text, text, name[], name, text, double precision, text, interval) is 'Internal: does lago_push.alter_sync().';

-- Purpose:    remove the trigger that activate() made. One attached by hand stays: it is the user's.
-- Returns:    whether there was one.
create function lago_push._detach(sync lago_push.sync)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    hanging record;
    found_one boolean := false;
begin
    for hanging in select * from lago_push._triggers(sync.name) t where t.trigger = lago_push._trigger_name(sync) loop
        perform lago_push._as_caller(format('drop trigger %I on %s', hanging.trigger, hanging.relation));
        found_one := true;
    end loop;
    return found_one;
end
$$;
comment on function lago_push._detach(lago_push.sync) is 'Internal: removes the trigger that activate() made.';

-- Purpose:    the capture() triggers of a sync, wherever they hang; clones on partitions follow their parent.
create function lago_push._triggers(sync text)
returns table (relation regclass, trigger name)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select t.tgrelid::regclass, t.tgname
      from pg_trigger t
     where t.tgfoid = 'lago_push.capture()'::regprocedure
       and t.tgparentid = 0
       and t.tgargs = convert_to(_triggers.sync, getdatabaseencoding()) || '\x00'::bytea;
$$;
comment on function lago_push._triggers(text) is 'Internal: the triggers that capture for a sync.';

-- Purpose:    the name of the trigger that activate() makes.
create function lago_push._trigger_name(sync lago_push.sync)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    trigger_name text := 'lago_push_' || sync.name;
begin
    -- A name is 63 bytes at most, and the server would cut two long ones to the same.
    if octet_length(trigger_name) > 63 then
        while octet_length(trigger_name || '_' || sync.id) > 63 loop
            trigger_name := left(trigger_name, -1);
        end loop;
        trigger_name := trigger_name || '_' || sync.id;
    end if;
    return trigger_name;
end
$$;
comment on function lago_push._trigger_name(lago_push.sync) is 'Internal: the name of the trigger that activate() makes for a sync.';

-- Purpose:    when the trigger that activate() made fires, as its owner may have said with alter table … enable trigger.
-- Returns:    pg_trigger's tgenabled; null where there is no such trigger.
create function lago_push._fires(sync lago_push.sync)
returns "char"
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select t.tgenabled
      from lago_push._triggers(sync.name) h
      join pg_trigger t on t.tgrelid = h.relation and t.tgname = h.trigger
     where h.trigger = lago_push._trigger_name(sync);
$$;
comment on function lago_push._fires(lago_push.sync) is 'Internal: when the trigger that activate() made fires: origin, replica, always or disabled.';

-- Purpose:    have a trigger that was made anew fire when the one before it did.
create function lago_push._set_fires(sync lago_push.sync, fires "char")
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A new trigger fires for what is written here, which is 'O'.
    if fires <> 'O' then
        perform lago_push._as_caller(format('alter table %s %s trigger %I', sync.source,
            case fires when 'A' then 'enable always' when 'R' then 'enable replica' else 'disable' end,
            lago_push._trigger_name(sync)));
    end if;
end
$$;
comment on function lago_push._set_fires(lago_push.sync, "char") is 'Internal: has a trigger that was made anew fire when the one before it did.';

-- Purpose:    subscriptions of logical replication that fill the source, or a partition of it, past the sync's triggers.
-- Returns:    one sentence for each, with the command that mends it.
create function lago_push._unheard(sync lago_push.sync)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('subscription "%s" fills the table, and rows that replication applies do not fire the sync''s trigger: alter table %s enable always trigger %I',
               u.subname, coalesce(h.relation, sync.source), coalesce(h.trigger, lago_push._trigger_name(sync)))
      from pg_subscription u
      left join (select t.relation, t.trigger from lago_push._triggers(sync.name) t limit 1) h on true
     where exists (select from pg_subscription_rel r
                    where r.srsubid = u.oid
                      and (r.srrelid = sync.source
                           or r.srrelid in (select p.relid from pg_partition_tree(sync.source) p)))
       and not exists (select from lago_push._triggers(sync.name) n
                         join pg_trigger t on t.tgrelid = n.relation and t.tgname = n.trigger
                        where t.tgenabled in ('A', 'R'));
$$;
comment on function lago_push._unheard(lago_push.sync) is 'Internal: subscriptions that fill a source past the triggers of its sync.';

-- Purpose:    make the trigger of a sync, with the caller's rights: the condition is the caller's SQL.
create function lago_push._attach(sync_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync;
    events text;
begin
    select s.* into wanted from lago_push.sync s where s.id = _attach.sync_id;
    perform lago_push._check_filter(convert_to(wanted.filter, getdatabaseencoding()));
    select string_agg(case o when 'update' then 'update' || coalesce(' of ' ||
               (select string_agg(quote_ident(c), ', ') from unnest(wanted.columns) c), '') else o end, ' or ')
      into events from unnest(wanted.operations) o;
    perform lago_push._as_caller(format(
        'create trigger %I after %s on %s for each row%s execute function lago_push.capture(%L)',
        lago_push._trigger_name(wanted), events, wanted.source, coalesce(' when (' || wanted.filter || E'\n)', ''), wanted.name));
end
$$;
comment on function lago_push._attach(integer) is 'Internal: makes the trigger that captures for a sync.';

-- Purpose:    start a draft: attach its trigger, unless one was attached by hand, and capture.
-- Locks:      SHARE ROW EXCLUSIVE on the source until commit; gives up after 5 seconds of waiting for it.
create function lago_push._activate(sync text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    wanted lago_push.sync := lago_push._sync(_activate.sync);
    doubt text;
begin
    if wanted.state = 'paused' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is paused', wanted.name),
            hint = 'Start deliveries again with lago_push.resume().';
    elsif wanted.state = 'active' and (wanted.query is not null or exists (select from lago_push._triggers(wanted.name))) then
        raise notice 'sync "%" is active already', wanted.name;
        return;
    elsif wanted.state = 'active' then
        -- Dropped by hand, or together with a column of its condition.
        raise notice 'the trigger of sync "%" was gone: it is made again, and rows written meanwhile were not captured', wanted.name;
    end if;
    perform lago_push._check_sync(wanted);
    update lago_push.sync s set state = 'active' where s.id = wanted.id;
    if wanted.query is not null then
        if lago_push._columns_of(wanted) <> wanted.query_columns then
            raise exception using errcode = 'object_not_in_prerequisite_state',
                message = format('the query of sync "%s" has other columns than when it was checked', wanted.name),
                hint = format('If that is meant, give it again: lago_push.alter_sync(%L, query => …).', wanted.name);
        end if;
        update lago_push.memory m set activated_at = clock_timestamp() where m.sync_id = wanted.id;
        perform lago_push._wake();
        return;
    end if;
    if not exists (select from lago_push._triggers(wanted.name)) then
        perform lago_push._attach(wanted.id);
    end if;
    for doubt in select * from lago_push._unheard(wanted) loop
        raise warning '%', doubt;
    end loop;
    perform lago_push._wake();
exception when lock_not_available then
    raise exception using errcode = 'lock_not_available',
        message = format('could not attach the trigger of sync "%s" within 5 seconds', _activate.sync),
        detail = 'Another session holds a lock on the source; waiting longer would make other writers wait behind this one.',
        hint = 'Try again when long transactions on the table have ended.';
end
$$;
comment on function lago_push._activate(text) is 'Internal: does lago_push.activate().';

-- Purpose:    give a sync that has been started another state.
-- Parameters: state, the new one; advice, the hint if it has not been started.
create function lago_push._set_state(sync text, state text, advice text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._operated_sync(_set_state.sync);
begin
    if wanted.state = 'draft' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is a draft', wanted.name),
            hint = advice;
    end if;
    update lago_push.sync s set state = _set_state.state where s.id = wanted.id;
    perform lago_push._wake();
end
$$;
comment on function lago_push._set_state(text, text, text) is 'Internal: gives a sync that has been started another state.';

-- Purpose:    go on capturing, stop delivering.
create function lago_push._pause(sync text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform lago_push._set_state(_pause.sync, 'paused', 'It captures nothing yet; start it with lago_push.activate().');
end
$$;
comment on function lago_push._pause(text) is 'Internal: does lago_push.pause().';

-- Purpose:    deliver again, oldest first.
create function lago_push._resume(sync text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform lago_push._set_state(_resume.sync, 'active', 'Start it with lago_push.activate().');
end
$$;
comment on function lago_push._resume(text) is 'Internal: does lago_push.resume().';

-- Purpose:    detach and remove a sync.
-- Parameters: discard, whether to throw away messages that were never delivered.
create function lago_push._drop_sync(sync text, discard boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    wanted lago_push.sync := lago_push._sync(_drop_sync.sync);
    hanging record;
    pending bigint;
    dead bigint;
begin
    if lago_push._has_unwritten(wanted.id) then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" cannot be dropped here', wanted.name),
            detail = 'A savepoint was set after this transaction captured rows, so they become messages later, and there would be no sync to deliver them.',
            hint = 'Commit first, or release the savepoint.';
    end if;
    if wanted.query is not null then
        perform lago_push._end_run(wanted.id);
    end if;
    for hanging in select * from lago_push._triggers(wanted.name) loop
        perform lago_push._as_caller(format('drop trigger %I on %s', hanging.trigger, hanging.relation));
    end loop;
    select count(*) into pending from lago_push.message m where m.sync_id = wanted.id;
    select count(*) into dead from lago_push.dead_letter l where l.sync_id = wanted.id;
    if pending + dead > 0 and not coalesce(discard, false) then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" still has messages', wanted.name),
            detail = format('%s pending, %s dead letters.', pending, dead),
            hint = format('Wait for them with lago_push.flush(%L), or give them up with lago_push.drop_sync(%L, discard => true).', wanted.name, wanted.name);
    end if;
    delete from lago_push.retry r using lago_push.message m where m.id = r.message_id and m.sync_id = wanted.id;
    delete from lago_push.message m where m.sync_id = wanted.id;
    delete from lago_push.dead_letter l where l.sync_id = wanted.id;
    delete from lago_push.remembered r where r.sync_id = wanted.id;
    delete from lago_push.sync s where s.id = wanted.id;
    perform lago_push._wake();
exception when lock_not_available then
    raise exception using errcode = 'lock_not_available',
        message = format('could not detach the trigger of sync "%s" within 5 seconds', _drop_sync.sync),
        detail = 'Another session holds a lock on the source; waiting longer would make other writers wait behind this one.',
        hint = 'Try again when long transactions on the table have ended; lago_push.pause() needs no such lock.';
end
$$;
comment on function lago_push._drop_sync(text, boolean) is 'Internal: does lago_push.drop_sync().';
