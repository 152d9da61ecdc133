-- Destinations: what is done to them. As all implementations, these run with the owner's rights and a
-- pinned search_path, and check the caller's rights themselves; entry_points.sql says how they are called.

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
    api_key text, api_key_file text, ca_file text, proxy text, allow_http boolean,
    connect_timeout interval, read_timeout interval)
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
    -- Else whoever may make a destination could have any file of the server's sent to a URL of theirs.
    if (api_key_file is not null or ca_file is not null)
        and not pg_has_role(lago_push._caller()::oid, 'pg_read_server_files', 'MEMBER') then
        raise exception using errcode = 'insufficient_privilege',
            message = 'api_key_file and ca_file name files of the server, which this role may not read',
            detail = format('Role %s is no member of pg_read_server_files.', lago_push._caller()),
            hint = 'Give the key with api_key, or have a superuser: grant pg_read_server_files to ….';
    end if;
    perform lago_push._check_headers(headers);
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
    if connect_timeout not between '100 ms' and '1 h' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'connect_timeout must be between 100 milliseconds and 1 hour';
    end if;
    if read_timeout not between '100 ms' and '1 h' then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'read_timeout must be between 100 milliseconds and 1 hour';
    end if;
end
$$;
comment on function lago_push._check_destination(text, jsonb, numeric, integer, interval, text, text, text, text, boolean, interval, interval) is 'Internal: checks what create_destination and alter_destination are given.';

-- Purpose:    add a destination.
-- Parameters: see the README; everything but name and url has a default.
-- Example:    select lago_push.create_destination('lago', url => 'https://api.getlago.com/api/v1', api_key => '…');
create function lago_push._create_destination(
    name text, url text, api_key text, api_key_file text,
    headers jsonb, rate_limit numeric, connections integer,
    timeout interval, ca_file text, proxy text,
    allow_http boolean, connect_timeout interval, read_timeout interval)
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
    perform lago_push._check_destination(url, headers, rate_limit, connections, timeout, api_key, api_key_file, ca_file, proxy,
        allow_http, connect_timeout, read_timeout);
    insert into lago_push.destination (name, url, headers, rate_limit, connections, timeout, ca_file, proxy, allow_http, api_key_file,
                                       connect_timeout, read_timeout)
    values (_create_destination.name, rtrim(_create_destination.url, '/'), coalesce(_create_destination.headers, '{}'),
            _create_destination.rate_limit, coalesce(_create_destination.connections, 16),
            coalesce(_create_destination.timeout, '30 s'), _create_destination.ca_file, _create_destination.proxy,
            coalesce(_create_destination.allow_http, false), _create_destination.api_key_file,
            coalesce(_create_destination.connect_timeout, '10 s'), _create_destination.read_timeout)
    on conflict on constraint destination_name_is_unique do nothing
    returning id into new_id;
    if new_id is null then
        raise exception using errcode = 'duplicate_object',
            message = format('destination "%s" already exists', _create_destination.name),
            hint = 'Change it with lago_push.alter_destination(), or choose another name.';
    end if;
    insert into lago_push.destination_health (destination_id) values (new_id);
    -- Destinations that are there already came from here, or with a dump, which is for the worker to find out.
    if not exists (select from lago_push.destination d where d.id <> new_id) then
        perform lago_push._note_instance();
    end if;
    if _create_destination.api_key is not null then
        insert into lago_push.api_key (destination_id, api_key) values (new_id, _create_destination.api_key);
    end if;
    perform lago_push._wake();
end
$$;
comment on function lago_push._create_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean, interval, interval) is 'Internal: does lago_push.create_destination().';

-- Purpose:    change a destination; null leaves a setting as it is.
-- Example:    select lago_push.alter_destination('lago', rate_limit => 50);
create function lago_push._alter_destination(
    name text, url text, api_key text, api_key_file text,
    headers jsonb, rate_limit numeric, connections integer,
    timeout interval, ca_file text, proxy text,
    allow_http boolean, connect_timeout interval, read_timeout interval)
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
    -- No stronger: a hold the worker writes down refers to this row, and must not wait for this transaction.
    select d.* into changed from lago_push.destination d where d.id = changed_id for no key update;
    changed.url := coalesce(rtrim(_alter_destination.url, '/'), changed.url);
    changed.api_key_file := coalesce(_alter_destination.api_key_file, changed.api_key_file);
    changed.headers := coalesce(_alter_destination.headers, changed.headers);
    changed.rate_limit := coalesce(_alter_destination.rate_limit, changed.rate_limit);
    changed.connections := coalesce(_alter_destination.connections, changed.connections);
    changed.timeout := coalesce(_alter_destination.timeout, changed.timeout);
    changed.ca_file := coalesce(_alter_destination.ca_file, changed.ca_file);
    changed.proxy := coalesce(_alter_destination.proxy, changed.proxy);
    changed.allow_http := coalesce(_alter_destination.allow_http, changed.allow_http);
    changed.connect_timeout := coalesce(_alter_destination.connect_timeout, changed.connect_timeout);
    changed.read_timeout := coalesce(_alter_destination.read_timeout, changed.read_timeout);
    perform lago_push._check_destination(changed.url, changed.headers, changed.rate_limit, changed.connections,
        changed.timeout, _alter_destination.api_key, _alter_destination.api_key_file, _alter_destination.ca_file, changed.proxy, changed.allow_http,
        changed.connect_timeout, changed.read_timeout);
    update lago_push.destination d
       set url = changed.url, api_key_file = changed.api_key_file, headers = changed.headers,
           rate_limit = changed.rate_limit, connections = changed.connections, timeout = changed.timeout,
           ca_file = changed.ca_file, proxy = changed.proxy, allow_http = changed.allow_http,
           connect_timeout = changed.connect_timeout, read_timeout = changed.read_timeout
     where d.id = changed_id;
    -- On a copy that the worker has not met yet, this releases one destination, and holds the others.
    perform lago_push._look();
    -- Whatever the worker held it for may have been put right by this.
    delete from lago_push.destination_hold h where h.destination_id = changed_id;
    if _alter_destination.api_key is not null then
        perform lago_push._store_api_key(changed_id, _alter_destination.api_key);
    elsif _alter_destination.api_key_file is not null then
        delete from lago_push.api_key k where k.destination_id = changed_id;
    end if;
    perform lago_push._wake();
end
$$;
comment on function lago_push._alter_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean, interval, interval) is 'Internal: does lago_push.alter_destination().';

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
    perform lago_push._alter_destination(_set_api_key.destination, null, coalesce(_set_api_key.api_key, ''), null, null, null, null, null, null, null, null, null, null);
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

-- Purpose:    start deliveries to a destination again, at once, whoever held it.
create function lago_push._release(destination text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    released_id integer := lago_push._destination_id(_release.destination);
begin
    -- On a copy that the worker has not met yet, this releases one destination, and holds the others.
    perform lago_push._look();
    update lago_push.destination d set held_because = null where d.id = released_id;
    delete from lago_push.destination_hold h where h.destination_id = released_id;
    -- A pause after trouble ends when the worker takes notice: its rows are not touched here.
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
