-- Functions: what people type. They run with the owner's rights and a pinned search_path, and check
-- the caller's rights themselves; execution is granted to nobody (grants.sql).

-- ---------------------------------------------------------------------------------------------
-- Destinations
-- ---------------------------------------------------------------------------------------------

-- Purpose:    find a destination by name, or say which ones there are.
-- Parameters: destination, its name.
-- Returns:    its id.
create function lago_push._destination_id(destination text)
returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id integer;
begin
    select d.id into found_id from lago_push.destination d where d.name = destination;
    if found_id is null then
        raise exception using
            errcode = 'undefined_object',
            message = format('destination "%s" does not exist', coalesce(destination, '')),
            hint = coalesce(
                'Destinations: ' || (select string_agg(quote_ident(d.name), ', ' order by d.name) from lago_push.destination d) || '.',
                'Create one with lago_push.create_destination().');
    end if;
    return found_id;
end
$$;
comment on function lago_push._destination_id(text) is 'Internal: the id of a destination, or an error that lists the names there are.';

-- Purpose:    refuse what no destination can work with, before anything is stored.
create function lago_push._check_destination(
    url text, headers jsonb, rate_limit numeric, connections integer, timeout interval,
    api_key text, api_key_file text, ca_file text, proxy text, allow_http boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform lago_push._check_url(url, coalesce(allow_http, false));
    if proxy is not null then
        perform lago_push._check_proxy(proxy);
    end if;
    if api_key is not null and api_key_file is not null then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'api_key and api_key_file are both given',
            hint = 'Give one of them.';
    end if;
    if api_key is not null and api_key !~ '^[!-~]+$' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'the API key is empty or holds characters no HTTP header can carry',
            hint = 'Copy it from Lago''s developer page, without spaces or line breaks.';
    end if;
    if api_key_file is not null and api_key_file !~ '^/' or ca_file is not null and ca_file !~ '^/' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'api_key_file and ca_file must be absolute paths on the server';
    end if;
    if headers is not null and (jsonb_typeof(headers) <> 'object'
        or exists (select from jsonb_each(case jsonb_typeof(headers) when 'object' then headers else '{}' end) h
                    where jsonb_typeof(h.value) <> 'string' or h.key !~ '^[A-Za-z0-9-]+$' or h.value #>> '{}' !~ '^[ -~]*$')) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'headers must be a JSON object of header names and text',
            hint = 'For example: ''{"X-Tenant": "acme"}''.';
    end if;
    if exists (select from jsonb_object_keys(coalesce(headers, '{}')) h(name)
                where lower(h.name) in ('authorization', 'content-type', 'content-length', 'host', 'accept', 'user-agent', 'connection', 'transfer-encoding')) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'headers sets a header that lago_push sets itself',
            hint = 'The API key goes into api_key, never into headers: headers are readable.';
    end if;
    if rate_limit is not null and (rate_limit <= 0 or rate_limit > 1000000) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'rate_limit must be more than 0 and at most 1000000 requests per second',
            hint = 'Leave it out for no limit of your own.';
    end if;
    if connections not between 1 and 256 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'connections must be between 1 and 256';
    end if;
    if timeout not between '1 s' and '1 h' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'timeout must be between 1 second and 1 hour';
    end if;
end
$$;
comment on function lago_push._check_destination(text, jsonb, numeric, integer, interval, text, text, text, text, boolean) is 'Internal: checks what create_destination and alter_destination are given.';

-- Purpose:    add a destination.
-- Parameters: see the README; everything but name and url has a default.
-- Example:    select lago_push.create_destination('lago', url => 'https://api.getlago.com/api/v1', api_key => '…');
create function lago_push._create_destination(
    name text, url text, api_key text, api_key_file text,
    headers jsonb, rate_limit numeric, connections integer,
    timeout interval, ca_file text, proxy text,
    allow_http boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    new_id integer;
begin
    perform lago_push._hide_statement('lago_push.create_destination');
    if coalesce(name, '') = '' then
        raise exception using errcode = 'invalid_parameter_value', message = 'a destination needs a name';
    end if;
    perform lago_push._check_destination(url, headers, rate_limit, connections, timeout, api_key, api_key_file, ca_file, proxy, allow_http);
    insert into lago_push.destination (name, url, headers, rate_limit, connections, timeout, ca_file, proxy, allow_http, api_key_file)
    values (_create_destination.name, rtrim(_create_destination.url, '/'), coalesce(_create_destination.headers, '{}'),
            _create_destination.rate_limit, coalesce(_create_destination.connections, 16),
            coalesce(_create_destination.timeout, '30 s'), _create_destination.ca_file, _create_destination.proxy,
            coalesce(_create_destination.allow_http, false), _create_destination.api_key_file)
    on conflict on constraint destination_name_is_unique do nothing
    returning id into new_id;
    if new_id is null then
        raise exception using errcode = 'duplicate_object',
            message = format('destination "%s" already exists', _create_destination.name),
            hint = 'Change it with lago_push.alter_destination(), or choose another name.';
    end if;
    insert into lago_push.destination_health (destination_id) values (new_id);
    if _create_destination.api_key is not null then
        insert into lago_push.api_key (destination_id, api_key) values (new_id, _create_destination.api_key);
    end if;
    perform lago_push._wake();
end
$$;
comment on function lago_push._create_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean) is 'Internal: does lago_push.create_destination().';

-- Purpose:    change a destination; null leaves a setting as it is.
-- Example:    select lago_push.alter_destination('lago', rate_limit => 50);
create function lago_push._alter_destination(
    name text, url text, api_key text, api_key_file text,
    headers jsonb, rate_limit numeric, connections integer,
    timeout interval, ca_file text, proxy text,
    allow_http boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changed_id integer;
    changed lago_push.destination;
begin
    perform lago_push._hide_statement('lago_push.alter_destination');
    changed_id := lago_push._destination_id(_alter_destination.name);
    select d.* into changed from lago_push.destination d where d.id = changed_id for update;
    changed.url := coalesce(rtrim(_alter_destination.url, '/'), changed.url);
    changed.api_key_file := coalesce(_alter_destination.api_key_file, changed.api_key_file);
    changed.headers := coalesce(_alter_destination.headers, changed.headers);
    changed.rate_limit := coalesce(_alter_destination.rate_limit, changed.rate_limit);
    changed.connections := coalesce(_alter_destination.connections, changed.connections);
    changed.timeout := coalesce(_alter_destination.timeout, changed.timeout);
    changed.ca_file := coalesce(_alter_destination.ca_file, changed.ca_file);
    changed.proxy := coalesce(_alter_destination.proxy, changed.proxy);
    changed.allow_http := coalesce(_alter_destination.allow_http, changed.allow_http);
    perform lago_push._check_destination(changed.url, changed.headers, changed.rate_limit, changed.connections,
        changed.timeout, _alter_destination.api_key, _alter_destination.api_key_file, changed.ca_file, changed.proxy, changed.allow_http);
    update lago_push.destination d
       set url = changed.url, api_key_file = changed.api_key_file, headers = changed.headers,
           rate_limit = changed.rate_limit, connections = changed.connections, timeout = changed.timeout,
           ca_file = changed.ca_file, proxy = changed.proxy, allow_http = changed.allow_http
     where d.id = changed_id;
    if _alter_destination.api_key is not null then
        perform lago_push._store_api_key(changed_id, _alter_destination.api_key);
    elsif _alter_destination.api_key_file is not null then
        delete from lago_push.api_key k where k.destination_id = changed_id;
    end if;
    perform lago_push._wake();
end
$$;
comment on function lago_push._alter_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean) is 'Internal: does lago_push.alter_destination().';

create function lago_push._store_api_key(destination_id integer, api_key text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into lago_push.api_key (destination_id, api_key)
    values (_store_api_key.destination_id, _store_api_key.api_key)
    on conflict on constraint one_api_key_per_destination do update set api_key = excluded.api_key;
    update lago_push.destination d set api_key_file = null where d.id = _store_api_key.destination_id;
$$;
comment on function lago_push._store_api_key(integer, text) is 'Internal: stores a key in place of any other.';

-- Purpose:    replace a destination's API key; the worker uses it from its next request on.
create function lago_push._set_api_key(destination text, api_key text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform lago_push._hide_statement('lago_push.set_api_key');
    perform lago_push._alter_destination(_set_api_key.destination, null, coalesce(_set_api_key.api_key, ''), null, null, null, null, null, null, null, null);
end
$$;
comment on function lago_push._set_api_key(text, text) is 'Internal: does lago_push.set_api_key().';

-- Purpose:    stop all deliveries to a destination; capture goes on.
create function lago_push._hold(destination text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update lago_push.destination d
       set held_because = coalesce(d.held_because, format('by %s', lago_push._caller()))
     where d.id = lago_push._destination_id(_hold.destination);
    perform lago_push._wake();
end
$$;
comment on function lago_push._hold(text) is 'Internal: does lago_push.hold().';

-- Purpose:    start deliveries to a destination again, at once.
create function lago_push._release(destination text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update lago_push.destination d set held_because = null
     where d.id = lago_push._destination_id(_release.destination);
    update lago_push.destination_health h set next_attempt_at = null
     where h.destination_id = lago_push._destination_id(_release.destination);
    perform lago_push._wake();
end
$$;
comment on function lago_push._release(text) is 'Internal: does lago_push.release().';

-- Purpose:    remove a destination no sync uses.
create function lago_push._drop_destination(name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    dropped_id integer := lago_push._destination_id(_drop_destination.name);
    users text;
begin
    select string_agg(quote_ident(s.name), ', ' order by s.name) into users
      from lago_push.sync s where s.destination_id = dropped_id;
    if users is not null then
        raise exception using errcode = 'dependent_objects_still_exist',
            message = format('destination "%s" is in use', _drop_destination.name),
            detail = format('Syncs that deliver to it: %s.', users),
            hint = 'Drop them first with lago_push.drop_sync().';
    end if;
    delete from lago_push.destination d where d.id = dropped_id;
    perform lago_push._wake();
end
$$;
comment on function lago_push._drop_destination(text) is 'Internal: does lago_push.drop_destination().';

-- ---------------------------------------------------------------------------------------------
-- Syncs
-- ---------------------------------------------------------------------------------------------

-- Purpose:    run a command with the caller's rights and no others.
create function lago_push._as_caller(command text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select lago_push._execute_as_caller(convert_to(_as_caller.command, getdatabaseencoding()));
$$;
comment on function lago_push._as_caller(text) is 'Internal: runs a command with the rights of the role that called.';

-- Purpose:    find a sync by name, or say which ones there are; the caller must own its source.
create function lago_push._sync(sync text)
returns lago_push.sync
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync_named(_sync.sync);
begin
    perform from lago_push.sync s where s.id = wanted.id for update;
    -- Once more: it may have changed, or gone, while its lock was waited for.
    wanted := lago_push._sync_named(_sync.sync);
    if exists (select from pg_class c where c.oid = wanted.source) then
        perform lago_push._check_source(wanted.source);
    end if;
    return wanted;
end
$$;
comment on function lago_push._sync(text) is 'Internal: a sync, locked, or an error that lists the names there are.';

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
            hint = 'Name the table the rows are written to.';
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

-- Purpose:    define a sync; nothing is captured until lago_push.activate().
-- Parameters: see the README.
-- Example:    select lago_push.create_sync('api_calls', source => 'public.api_calls', template => '{…}');
create function lago_push._create_sync(
    name text, source regclass, template text, destination text,
    endpoint text, operations text[], columns name[],
    filter text, batch_size integer, on_error text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    target integer;
    new_id integer;
    wrong text;
begin
    if coalesce(name, '') = '' then
        raise exception using errcode = 'invalid_parameter_value', message = 'a sync needs a name';
    end if;
    if source is null then
        raise exception using errcode = 'null_value_not_allowed',
            message = format('sync "%s" needs a source', _create_sync.name),
            hint = 'Give the table: source => ''public.my_table''.';
    end if;
    if template is null then
        raise exception using errcode = 'null_value_not_allowed',
            message = format('sync "%s" needs a template', _create_sync.name),
            hint = 'select example from lago_push.endpoints shows one.';
    end if;
    perform lago_push._check_source(_create_sync.source);
    if destination is not null then
        target := lago_push._destination_id(_create_sync.destination);
    else
        select min(d.id) into target from lago_push.destination d having count(*) = 1;
        if target is null then
            raise exception using errcode = 'invalid_parameter_value',
                message = format('sync "%s" needs a destination', _create_sync.name),
                detail = case when exists (select from lago_push.destination)
                    then 'There are several: ' || (select string_agg(quote_ident(d.name), ', ' order by d.name) from lago_push.destination d) || '.'
                    else 'There is none yet.' end,
                hint = case when exists (select from lago_push.destination)
                    then 'Name one: destination => ''…''.'
                    else 'Create one with lago_push.create_destination().' end;
        end if;
    end if;
    if operations is null or operations = '{}' or array_position(operations, null) is not null
        or not operations <@ '{insert,update,delete}'::text[] then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'operations must be some of insert, update, delete',
            hint = 'For example: operations => ''{insert,update}''.';
    end if;
    if batch_size not between 1 and 100 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'batch_size must be between 1 and 100',
            detail = 'Lago takes at most 100 events in one request.';
    end if;
    if coalesce(on_error, '') not in ('dead_letter', 'raise') then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'on_error must be dead_letter or raise',
            detail = 'dead_letter lets the write go through and keeps the row; raise refuses the write.';
    end if;
    perform lago_push._check_template(convert_to(_create_sync.template, 'UTF8'), _create_sync.source, _create_sync.endpoint, _create_sync.operations);
    if columns is not null then
        if not 'update' = any (operations) then
            raise exception using errcode = 'invalid_parameter_value',
                message = 'columns is given, but the sync does not capture updates',
                hint = 'Add update to operations, or leave columns out.';
        end if;
        select c into wrong from unnest(_create_sync.columns) c
         where not exists (select from pg_attribute a where a.attrelid = _create_sync.source
                              and a.attname = c and a.attnum > 0 and not a.attisdropped)
         limit 1;
        if wrong is not null or columns = '{}' or array_position(columns, null) is not null then
            raise exception using errcode = 'undefined_column',
                message = format('column "%s" of table %s does not exist', coalesce(wrong, ''), _create_sync.source),
                hint = 'columns lists the columns whose update is captured.';
        end if;
    end if;
    insert into lago_push.sync (name, source, destination_id, endpoint, template, operations, columns, filter, batch_size, on_error)
    values (_create_sync.name, _create_sync.source, target, _create_sync.endpoint, _create_sync.template,
            array(select distinct o from unnest(_create_sync.operations) o), _create_sync.columns, _create_sync.filter, coalesce(_create_sync.batch_size, 100), _create_sync.on_error)
    on conflict on constraint sync_name_is_unique do nothing
    returning id into new_id;
    if new_id is null then
        raise exception using errcode = 'duplicate_object',
            message = format('sync "%s" already exists', _create_sync.name),
            hint = 'Drop it with lago_push.drop_sync(), or choose another name.';
    end if;
    insert into lago_push.account (sync_id) values (new_id);
    if _create_sync.filter is not null then
        -- Only making the trigger tells whether one can be made with this condition; it is undone.
        begin
            perform lago_push._attach(new_id);
            raise exception sqlstate 'LPTRY';
        exception when sqlstate 'LPTRY' then
            null;
        end;
    end if;
    perform lago_push._wake();
end
$$;
comment on function lago_push._create_sync(text, regclass, text, text, text, text[], name[], text, integer, text) is 'Internal: does lago_push.create_sync().';

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

-- Purpose:    make the trigger of a sync, with the caller's rights: the condition is the caller's SQL.
create function lago_push._attach(sync_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync;
    events text;
    trigger_name text;
begin
    select s.* into wanted from lago_push.sync s where s.id = _attach.sync_id;
    perform lago_push._check_filter(convert_to(wanted.filter, getdatabaseencoding()));
    select string_agg(case o when 'update' then 'update' || coalesce(' of ' ||
               (select string_agg(quote_ident(c), ', ') from unnest(wanted.columns) c), '') else o end, ' or ')
      into events from unnest(wanted.operations) o;
    -- A name is 63 bytes at most, and the server would cut two long ones to the same.
    trigger_name := 'lago_push_' || wanted.name;
    if octet_length(trigger_name) > 63 then
        while octet_length(trigger_name || '_' || wanted.id) > 63 loop
            trigger_name := left(trigger_name, -1);
        end loop;
        trigger_name := trigger_name || '_' || wanted.id;
    end if;
    perform lago_push._as_caller(format(
        'create trigger %I after %s on %s for each row%s execute function lago_push.capture(%L)',
        trigger_name, events, wanted.source, coalesce(' when (' || wanted.filter || E'\n)', ''), wanted.name));
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
begin
    if wanted.state = 'paused' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is paused', wanted.name),
            hint = 'Start deliveries again with lago_push.resume().';
    elsif wanted.state = 'active' then
        raise notice 'sync "%" is active already', wanted.name;
        return;
    end if;
    perform lago_push._check_source(wanted.source);
    perform lago_push._check_template(convert_to(wanted.template, 'UTF8'), wanted.source, wanted.endpoint, wanted.operations);
    update lago_push.sync s set state = 'active' where s.id = wanted.id;
    if not exists (select from lago_push._triggers(wanted.name)) then
        perform lago_push._attach(wanted.id);
    end if;
    perform lago_push._wake();
exception when lock_not_available then
    raise exception using errcode = 'lock_not_available',
        message = format('could not attach the trigger of sync "%s" within 5 seconds', _activate.sync),
        detail = 'Another session holds a lock on the source; waiting longer would make other writers wait behind this one.',
        hint = 'Try again when long transactions on the table have ended.';
end
$$;
comment on function lago_push._activate(text) is 'Internal: does lago_push.activate().';

-- Purpose:    go on capturing, stop delivering.
create function lago_push._pause(sync text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync(_pause.sync);
begin
    if wanted.state = 'draft' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is a draft', wanted.name),
            hint = 'It captures nothing yet; start it with lago_push.activate().';
    end if;
    update lago_push.sync s set state = 'paused' where s.id = wanted.id;
    perform lago_push._wake();
end
$$;
comment on function lago_push._pause(text) is 'Internal: does lago_push.pause().';

-- Purpose:    deliver again, oldest first.
create function lago_push._resume(sync text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync(_resume.sync);
begin
    if wanted.state = 'draft' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is a draft', wanted.name),
            hint = 'Start it with lago_push.activate().';
    end if;
    update lago_push.sync s set state = 'active' where s.id = wanted.id;
    perform lago_push._wake();
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

-- Purpose:    wait until what is pending now is delivered or dead.
-- Parameters: sync, one sync or all of them; timeout, how long to wait.
-- Returns:    true when it is, false when the time was up first.
create function lago_push._flush(sync text, timeout interval)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    deadline timestamptz := clock_timestamp() + coalesce(_flush.timeout, '30 s');
    only_sync integer;
    up_to bigint;
    from_id bigint := 0;
    pause double precision := 0.001;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = 'lago_push.flush() cannot see deliveries in this transaction',
            detail = format('Its isolation level is %s: it sees the outbox as it was when it began.', current_setting('transaction_isolation')),
            hint = 'Call it in a transaction of its own, with isolation level read committed.';
    end if;
    if lago_push._has_captured() then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = 'lago_push.flush() is called in a transaction that has billable rows of its own',
            detail = 'They are delivered after commit, so waiting for them here would wait for ever.',
            hint = 'Commit first.';
    end if;
    if _flush.sync is not null then
        select s.id into only_sync from lago_push._sync_named(_flush.sync) s;
    end if;
    select max(m.id) into up_to from lago_push.message m where only_sync is null or m.sync_id = only_sync;
    loop
        select m.id into from_id from lago_push.message m
         where m.id >= from_id and m.id <= up_to and (only_sync is null or m.sync_id = only_sync)
         order by m.id limit 1;
        if not found then
            return true;
        elsif clock_timestamp() >= deadline then
            return false;
        end if;
        perform pg_sleep(least(pause, extract(epoch from deadline - clock_timestamp())));
        pause := least(pause * 1.5, 0.1);
    end loop;
end
$$;
comment on function lago_push._flush(text, interval) is 'Internal: does lago_push.flush().';

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

-- ---------------------------------------------------------------------------------------------
-- Entry points
-- ---------------------------------------------------------------------------------------------
-- What people call. Each notes who calls and hands over to the function of the same name with an
-- underscore, which runs as the extension's owner. SECURITY DEFINER would not do: inside such a
-- function there is no telling whose rights the caller had, only who logged in.

create function lago_push.create_destination(
    name text, url text, api_key text default null, api_key_file text default null,
    headers jsonb default '{}', rate_limit numeric default null, connections integer default 16,
    timeout interval default '30 s', ca_file text default null, proxy text default null,
    allow_http boolean default false)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.create_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean) is 'Adds a destination: one Lago organization, its URL, API key and limits.';

create function lago_push.alter_destination(
    name text, url text default null, api_key text default null, api_key_file text default null,
    headers jsonb default null, rate_limit numeric default null, connections integer default null,
    timeout interval default null, ca_file text default null, proxy text default null,
    allow_http boolean default null)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.alter_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean) is 'Changes a destination; parameters left out or null stay as they are.';

create function lago_push.set_api_key(destination text, api_key text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.set_api_key(text, text) is 'Replaces a destination''s API key; used from the next request on.';

create function lago_push.hold(destination text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.hold(text) is 'Stops all deliveries to a destination until lago_push.release(); capture goes on.';

create function lago_push.release(destination text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.release(text) is 'Starts deliveries to a destination again, at once, whether held or backing off.';

create function lago_push.drop_destination(name text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.drop_destination(text) is 'Removes a destination; refuses while a sync uses it.';

create function lago_push.create_sync(
    name text, source regclass, template text, destination text default null,
    endpoint text default 'event', operations text[] default '{insert}', columns name[] default null,
    filter text default null, batch_size integer default 100, on_error text default 'dead_letter')
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.create_sync(text, regclass, text, text, text, text[], name[], text, integer, text) is 'Defines a sync as a draft, after checking everything that can be checked; nothing is captured until lago_push.activate().';

create function lago_push.activate(sync text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.activate(text) is 'Starts a draft: from the commit of this call on, every row the sync covers is captured and delivered.';

create function lago_push.pause(sync text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.pause(text) is 'Stops delivering a sync''s messages; rows are still captured, and wait.';

create function lago_push.resume(sync text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.resume(text) is 'Starts delivering a paused sync''s messages again.';

create function lago_push.drop_sync(sync text, discard boolean default false)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.drop_sync(text, boolean) is 'Detaches and removes a sync; refuses while it has pending messages or dead letters, unless discard.';

create function lago_push.flush(sync text default null, timeout interval default '30 s')
returns boolean
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.flush(text, interval) is 'Waits until what was pending at the call is delivered or dead: true; or until the timeout: false.';

comment on function lago_push._caller() is 'Internal: the role that called the entry point under way.';
comment on function lago_push._check_filter(bytea) is 'Internal: refuses a filter that is not one expression.';
comment on function lago_push._check_proxy(text) is 'Internal: refuses a proxy that cannot be used.';
comment on function lago_push._check_template(bytea, oid, text, text[]) is 'Internal: refuses a template that cannot be applied to its source, or that Lago would not bill.';
comment on function lago_push._check_url(text, boolean) is 'Internal: refuses a URL that cannot be Lago''s API.';
comment on function lago_push._endpoints() is 'Internal: source of the view endpoints.';
comment on function lago_push._execute_as_caller(bytea) is 'Internal: runs a command with the rights of the role that called.';
comment on function lago_push._has_captured() is 'Internal: whether the calling transaction has captured rows.';
comment on function lago_push._has_unwritten(integer) is 'Internal: whether the calling transaction has captured rows of a sync that it cannot write yet.';
comment on function lago_push._hide_statement(text) is 'Internal: replaces the running statement in pg_stat_activity.';
comment on function lago_push._in_flight() is 'Internal: requests under way, by destination.';
comment on function lago_push._wake() is 'Internal: makes changed definitions known when the transaction commits.';
comment on function lago_push._workers() is 'Internal: source of the view workers.';
