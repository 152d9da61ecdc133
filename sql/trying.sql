-- Trying: what a sync would send, and sending one, before it counts.

-- Purpose:    text as jsonb; null where it is none, or holds what jsonb cannot (U+0000).
create function lago_push._as_jsonb(content text)
returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return content::jsonb;
exception when data_exception then
    return null;
end
$$;
comment on function lago_push._as_jsonb(text) is 'Internal: text as jsonb, or null where it is none.';

-- Purpose:    show what would be sent for rows of the source.
-- Parameters: rows, how many rows are shown for each operation of the sync.
-- Returns:    body, the payload as the template makes it; Lago gets it inside the endpoint's root key.
create function lago_push._preview(sync text, rows integer)
returns table (operation text, method text, url text, headers jsonb, body jsonb, warnings text[])
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync_named(_preview.sync);
    target lago_push.destination;
    sent jsonb;
begin
    perform lago_push._check_rights(wanted);
    if coalesce(rows, 0) not between 1 and 1000 then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'rows must be between 1 and 1000';
    end if;
    select d.* into target from lago_push.destination d where d.id = wanted.destination_id;
    sent := jsonb_build_object('accept', 'application/json', 'user-agent', lago_push._user_agent())
        || case when target.api_key_file is not null or exists (select from lago_push.api_key k where k.destination_id = target.id)
                then '{"authorization": "Bearer ***"}'::jsonb else '{}' end
        || (select coalesce(jsonb_object_agg(h.key, case when h.key ~* 'auth|key|token|secret|cookie|password|signature' then '***' else h.value end), '{}')
              from jsonb_each_text(target.headers || wanted.headers) h);
    return query
        select r.operation, r.method, target.url || r.path,
               sent || case when r.payload = '' then '{}'::jsonb else '{"content-type": "application/json"}' end,
               lago_push._as_jsonb(nullif(convert_from(r.payload, getdatabaseencoding()), '')),
               r.warnings || array(select lago_push._unheard(wanted) where wanted.query is null)
          from lago_push._rendered(wanted.id, _preview.rows) r;
    if not found then
        if wanted.query is not null then
            raise notice 'the query of sync "%" gives no row to show', wanted.name;
        else
            raise notice 'table % has no row to show', wanted.source
                using hint = 'Insert one in a transaction, look, and roll back.';
        end if;
    end if;
end
$$;
comment on function lago_push._preview(text, integer) is 'Internal: does lago_push.preview().';

-- Purpose:    send one message and show what came back. It is a real one: Lago bills what it takes.
-- Parameters: body, what is sent in place of the first row's payload.
create function lago_push._send_test(sync text, body jsonb)
returns table (status integer, reply jsonb, verdict text, message text, duration interval)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync_named(_send_test.sync);
    first_path text;
    first_payload text;
    doubts text[];
begin
    perform lago_push._check_rights(wanted);
    -- A body of the caller's needs a row only where the path does.
    if body is null or wanted.path like '%{{%' then
        select r.path, convert_from(r.payload, getdatabaseencoding()), r.warnings
          into first_path, first_payload, doubts
          from lago_push._rendered(wanted.id, 1) r limit 1;
        if not found then
            raise exception using errcode = 'no_data_found',
                message = case when wanted.query is null then format('table %s has no row to send', wanted.source)
                    else format('the query of sync "%s" gives no row to send', wanted.name) end,
                hint = case when wanted.query is not null and coalesce(wanted.path, '') not like '%{{%'
                    then 'Give a body: send_test(…, body => ''{…}'').'
                    when wanted.path like '%{{%'
                    then 'The sync''s path is filled from a row: insert one.'
                    else 'Insert one, or give a body: send_test(…, body => ''{…}'').' end;
        elsif body is null and first_payload is null then
            raise exception using errcode = 'data_exception',
                message = format('sync "%s" cannot send the first row of %s', wanted.name, coalesce(wanted.source::text, 'its query')),
                detail = coalesce(doubts[1], ''),
                hint = 'lago_push.preview() shows more rows; correct the row or the sync, or give a body.';
        end if;
    end if;
    return query
        select s.status, coalesce(lago_push._as_jsonb(s.reply), to_jsonb(nullif(s.reply, ''))), s.verdict, s.message,
               s.seconds * interval '1 s'
          from lago_push._send(wanted.id, first_path, convert_to(coalesce(body::text, first_payload), 'UTF8'), body is not null) s;
end
$$;
comment on function lago_push._send_test(text, jsonb) is 'Internal: does lago_push.send_test().';

-- Purpose:    draft a template for an endpoint from the columns of a table.
create function lago_push._suggest_template(source regclass, endpoint text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if source is null then
        raise exception using errcode = 'null_value_not_allowed', message = 'suggest_template needs a source',
            hint = 'Give the table: lago_push.suggest_template(''public.my_table'').';
    end if;
    perform lago_push._check_source(_suggest_template.source);
    return convert_from(lago_push._suggest(
        convert_to(coalesce(endpoint, 'event'), 'UTF8'),
        (select convert_to(c.relname, 'UTF8') from pg_class c where c.oid = _suggest_template.source),
        (select convert_to(json_agg(a.attname order by a.attnum)::text, 'UTF8') from pg_attribute a
          where a.attrelid = _suggest_template.source and a.attnum > 0 and not a.attisdropped),
        array(select case
                  when t.typname in ('text', 'varchar', 'bpchar', 'name', 'uuid', 'citext') then 'text'
                  when t.typname in ('int2', 'int4', 'int8') then 'integer'
                  when t.typname = 'numeric' then 'decimal'
                  when t.typname in ('float4', 'float8') then 'float'
                  when t.typname = 'bool' then 'boolean'
                  when t.typname in ('date', 'timestamp', 'timestamptz') then 'moment'
                  when t.typname in ('json', 'jsonb') then 'json'
                  else 'other' end
                from pg_attribute a join pg_type b on b.oid = a.atttypid
                join pg_type t on t.oid = case when b.typbasetype <> 0 then b.typbasetype else b.oid end
               where a.attrelid = _suggest_template.source and a.attnum > 0 and not a.attisdropped order by a.attnum),
        (select convert_to(json_agg(a.attname order by k.place)::text, 'UTF8') from pg_index i
           join unnest(i.indkey) with ordinality k(number, place) on true
           join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
          where i.indrelid = _suggest_template.source and i.indisprimary)), 'UTF8');
end
$$;
comment on function lago_push._suggest_template(regclass, text) is 'Internal: does lago_push.suggest_template().';
