-- From 0.1.0 to 0.2.0, in a database that keeps its destinations, syncs, messages and grants.
--
-- No lock is taken on anybody's tables. lago_push's own are locked until the update commits; the worker has left
-- by then, and a writer waits only if its session meets a sync for the first time, or anew.

-- A function with other parameters is another function: who was granted the old one gets the new one too. What
-- a script of an extension grants counts as the extension's own, and no dump would carry it; a user's grant must
-- not become such a one.
create function lago_push._carry_grants_over(old regprocedure, new regprocedure) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $body$
declare
    own     aclitem[] := (select i.initprivs from pg_init_privs i
                           where i.classoid = 'pg_proc'::regclass and i.objoid = new and i.objsubid = 0);
    granted record;
begin
    for granted in
        select x.grantee, x.is_grantable
          from pg_proc p, aclexplode(p.proacl) x
         where p.oid = old and x.grantee <> p.proowner
    loop
        execute format('grant execute on routine %s to %s%s', new,
                       case granted.grantee when 0 then 'public' else granted.grantee::regrole::text end,
                       case when granted.is_grantable then ' with grant option' else '' end);
        -- From PostgreSQL 17 on, such a grant of the extension's own would keep the role from being dropped.
        delete from pg_shdepend d
         where d.dbid = (select b.oid from pg_database b where b.datname = current_database())
           and d.classid = 'pg_proc'::regclass and d.objid = new and d.refobjid = granted.grantee and d.deptype = 'i';
    end loop;
    update pg_init_privs i set initprivs = own
     where i.classoid = 'pg_proc'::regclass and i.objoid = new and i.objsubid = 0;
end $body$;

-- What is new is closed to everybody, whatever default privileges this database has.
create function lago_push._close(kind text, object text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $body$
declare
    grantee text;
begin
    execute format('revoke all on %s %s from public', kind, object);
    for grantee in
        select distinct x.grantee::regrole::text
          from (select c.relacl, c.relowner from pg_class c where kind in ('table', 'sequence') and c.oid = to_regclass(object)
                union all
                select p.proacl, p.proowner from pg_proc p where kind in ('function', 'procedure') and p.oid = to_regprocedure(object)
               ) o (acl, owner), aclexplode(o.acl) x
         where x.grantee <> o.owner
    loop
        execute format('revoke all on %s %s from %s', kind, object, grantee);
    end loop;
end $body$;

-- Written by scripts/upgrade-sql from here

alter function lago_push._workers() rename to _workers_before;

create table lago_push.outbox_start (
    id bigint not null
) with (fillfactor=10, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500);

create table lago_push.backfill (
    id integer generated always as identity,
    sync_id integer not null,
    filter text,
    chunk integer not null,
    by text not null,
    walked_by text[] not null,
    "position" text[],
    until text[],
    rows_done bigint not null default 0,
    rows_estimated bigint,
    rows_seen bigint not null default 0,
    table_rows bigint,
    started_at timestamp with time zone not null default clock_timestamp(),
    moved_at timestamp with time zone not null default clock_timestamp(),
    finished_at timestamp with time zone,
    resumed_at timestamp with time zone not null default clock_timestamp(),
    resumed_done bigint not null default 0,
    resumed_seen bigint not null default 0,
    constraint chunk_is_1_to_100000 CHECK (((chunk >= 1) AND (chunk <= 100000))),
    constraint backfill_is_numbered PRIMARY KEY (id),
    constraint backfill_belongs_to_a_sync FOREIGN KEY (sync_id) REFERENCES lago_push.sync(id) ON DELETE CASCADE
);

create table lago_push.run (
    id bigint generated always as identity,
    sync_id integer not null,
    state text not null default 'running'::text,
    started_at timestamp with time zone not null default clock_timestamp(),
    finished_at timestamp with time zone,
    rows_read bigint,
    added bigint,
    changed bigint,
    removed bigint,
    unchanged bigint,
    error text,
    remark text,
    constraint run_state_is_known CHECK ((state = ANY (ARRAY['running'::text, 'succeeded'::text, 'failed'::text, 'interrupted'::text]))),
    constraint run_is_numbered PRIMARY KEY (id),
    constraint run_belongs_to_a_sync FOREIGN KEY (sync_id) REFERENCES lago_push.sync(id) ON DELETE CASCADE
);

create table lago_push.run_request (
    sync_id integer not null,
    asked_at timestamp with time zone not null default clock_timestamp(),
    removals text not null,
    constraint removals_are_known CHECK ((removals = ANY (ARRAY['limited'::text, 'accepted'::text]))),
    constraint run_request_belongs_to_a_sync FOREIGN KEY (sync_id) REFERENCES lago_push.sync(id) ON DELETE CASCADE
);

create table lago_push.memory (
    sync_id integer not null,
    activated_at timestamp with time zone,
    runs bigint not null default 0,
    failures bigint not null default 0,
    row_count bigint not null default 0,
    compared text,
    whole_rows boolean not null default false,
    high_water text,
    constraint one_memory_per_sync PRIMARY KEY (sync_id),
    constraint memory_belongs_to_a_sync FOREIGN KEY (sync_id) REFERENCES lago_push.sync(id) ON DELETE CASCADE
) with (fillfactor=50);

create table lago_push.remembered (
    sync_id integer not null,
    key text collate "C" not null,
    digest uuid not null,
    "row" json,
    constraint keys_are_remembered_once PRIMARY KEY (sync_id, key)
) with (fillfactor=90, autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.1);

create table lago_push.instance (
    system_identifier bigint not null,
    database oid not null,
    major_version integer not null,
    timeline integer not null,
    place text not null,
    noted_at timestamp with time zone not null default clock_timestamp()
);

alter table lago_push.destination_health add column messages_per_second double precision;

alter table lago_push.destination_health add column paced_at timestamp with time zone;

alter table lago_push.sync alter column source drop not null;

alter table lago_push.sync add column max_pending bigint;

alter table lago_push.sync add column when_full text not null default 'warn'::text;

alter table lago_push.sync add column query text;

alter table lago_push.sync add column key name[];

alter table lago_push.sync add column cursor name;

alter table lago_push.sync add column overlap text;

alter table lago_push.sync add column max_removed double precision;

alter table lago_push.sync add column first_run text;

alter table lago_push.sync add column time_limit interval;

alter table lago_push.sync add column run_as regrole;

alter table lago_push.sync add column search_path text;

alter table lago_push.sync add column query_columns jsonb;

alter table lago_push.sync add constraint max_pending_is_positive CHECK ((max_pending > 0));

alter table lago_push.sync add constraint when_full_is_known CHECK ((when_full = ANY (ARRAY['warn'::text, 'dead_letter'::text, 'raise'::text])));

alter table lago_push.sync add constraint source_or_query CHECK (((source IS NULL) <> (query IS NULL)));

alter table lago_push.sync add constraint query_is_complete CHECK (((query IS NULL) OR ((key IS NOT NULL) AND (max_removed IS NOT NULL) AND (first_run IS NOT NULL) AND (run_as IS NOT NULL) AND (search_path IS NOT NULL) AND (query_columns IS NOT NULL))));

alter table lago_push.sync add constraint max_removed_is_a_share CHECK (((max_removed >= (0)::double precision) AND (max_removed <= (1)::double precision)));

alter table lago_push.sync add constraint first_run_is_known CHECK ((first_run = ANY (ARRAY['send'::text, 'remember'::text])));

alter table lago_push.sync add constraint time_limit_is_positive CHECK ((time_limit > '00:00:00'::interval));

create unique index one_outbox_start ON lago_push.outbox_start USING btree ((true));

create index backfill_by_sync ON lago_push.backfill USING btree (sync_id);

create unique index one_unfinished_backfill_per_sync ON lago_push.backfill USING btree (sync_id) WHERE (finished_at IS NULL);

create index run_by_sync ON lago_push.run USING btree (sync_id, id);

create index run_request_by_sync ON lago_push.run_request USING btree (sync_id);

create unique index one_instance ON lago_push.instance USING btree ((true));

create or replace function lago_push._backlog(first bigint, exact_up_to bigint)
 RETURNS TABLE(sync_id integer, pending bigint, entered bigint, oldest timestamp with time zone, bytes bigint, recent bigint, recent_bytes bigint, estimated boolean)
 LANGUAGE c
 STRICT ROWS 10
AS 'MODULE_PATHNAME', 'backlog_wrapper';

create or replace function lago_push._capped()
 RETURNS TABLE(sync_id integer, waiting bigint)
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'capped_wrapper';

create or replace function lago_push._capture_rows(sync_id integer, command bytea, most integer)
 RETURNS TABLE(seen bigint, captured bigint, last bytea[])
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'capture_rows_wrapper';

create or replace function lago_push._check_query_recipe(template bytea, columns bytea, types oid[], key bytea, endpoint bytea, method text, path bytea, root text, operations text[], exclude bytea, order_by bytea)
 RETURNS void
 LANGUAGE c
AS 'MODULE_PATHNAME', 'check_query_recipe_wrapper';

create or replace function lago_push._count_written(sync_id integer, messages bigint)
 RETURNS void
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'count_written_wrapper';

create or replace function lago_push._end_run(sync_id integer)
 RETURNS void
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'end_run_wrapper';

create or replace function lago_push._estimate_rows(source oid, command bytea)
 RETURNS bigint
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'estimate_rows_wrapper';

create or replace function lago_push._key_of_row(source oid, command bytea)
 RETURNS bytea[]
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'key_of_row_wrapper';

create or replace function lago_push._letters(sync_id integer, exact_up_to bigint)
 RETURNS TABLE(letters bigint, entered bigint, estimated boolean)
 LANGUAGE c
 STRICT ROWS 1
AS 'MODULE_PATHNAME', 'letters_wrapper';

create or replace view lago_push._figures as
 WITH waiting AS MATERIALIZED (
         SELECT b.sync_id,
            b.pending,
            b.entered,
            b.oldest,
            b.bytes,
            b.recent,
            b.recent_bytes,
            b.estimated
           FROM lago_push._backlog(COALESCE(( SELECT o.id
                   FROM lago_push.outbox_start o), (0)::bigint), (100000)::bigint) b(sync_id, pending, entered, oldest, bytes, recent, recent_bytes, estimated)
        ), retries AS MATERIALIZED (
         SELECT r.message_id
           FROM lago_push.retry r
         LIMIT 2000
        ), overall AS (
         SELECT
                CASE
                    WHEN (r.looked_up < 2000) THEN (1)::double precision
                    ELSE (GREATEST(( SELECT c.reltuples
                       FROM pg_class c
                      WHERE (c.oid = ('lago_push.retry'::regclass)::oid)), (r.looked_up)::real) / (r.looked_up)::double precision)
                END AS per_looked_up,
            w.estimated AS backlog_estimated,
            (w.estimated OR (r.looked_up >= 2000)) AS estimated
           FROM (( SELECT count(*) AS looked_up
                   FROM retries) r
             CROSS JOIN ( SELECT bool_or(w_1.estimated) AS estimated
                   FROM waiting w_1) w)
        ), retrying AS MATERIALIZED (
         SELECT m.sync_id,
            count(*) AS messages
           FROM (retries r
             CROSS JOIN LATERAL ( SELECT m_1.sync_id
                   FROM lago_push.message m_1
                  WHERE (m_1.id = r.message_id)
                 LIMIT 1) m)
          GROUP BY m.sync_id
        ), sync AS (
         SELECT s.id,
            s.name AS sync,
            s.state,
            s.source,
            s.destination_id,
            d.name AS destination,
            COALESCE(w.pending, (0)::bigint) AS pending,
            COALESCE(w.entered, (0)::bigint) AS pending_entered,
            w.oldest,
            COALESCE(w.bytes, (0)::bigint) AS bytes,
            COALESCE((round(((r.messages)::double precision * every.per_looked_up)))::bigint, (0)::bigint) AS retrying,
            l.letters AS dead,
            l.entered AS dead_entered,
            COALESCE(a.captured, (0)::bigint) AS captured,
            COALESCE(a.delivered, (0)::bigint) AS delivered,
            COALESCE(a.duplicate, (0)::bigint) AS duplicate,
            a.last_delivered_at,
            a.last_error,
            a.last_error_at,
            (every.estimated OR l.estimated) AS estimated,
            (every.backlog_estimated OR l.estimated) AS captured_estimated,
            LEAST(s.batch_size, COALESCE(( SELECT e.batch
                   FROM lago_push._endpoints() e(name, method, path, root, required, batch, idempotent, example)
                  WHERE (e.name = s.endpoint)
                 LIMIT 1), 1)) AS batch,
            d.rate_limit,
            h.messages_per_second AS pace,
                CASE
                    WHEN (h.paced_at > (clock_timestamp() - '00:00:10'::interval)) THEN h.messages_per_second
                    ELSE (0)::double precision
                END AS going,
            ((COALESCE(w.recent, (0)::bigint))::double precision / spell.seconds) AS coming,
            ((COALESCE(w.recent_bytes, (0)::bigint))::double precision / spell.seconds) AS coming_bytes,
            ((s.query IS NOT NULL) OR (EXISTS ( SELECT
                   FROM pg_trigger t
                  WHERE ((t.tgfoid = ('lago_push.capture()'::regprocedure)::oid) AND (t.tgparentid = (0)::oid) AND (t.tgenabled <> 'D'::"char") AND (t.tgargs = (convert_to(s.name, getdatabaseencoding()) || '\x00'::bytea)))))) AS has_trigger,
                CASE
                    WHEN (s.max_pending IS NULL) THEN false
                    ELSE (c.waiting >= s.max_pending)
                END AS at_cap,
            (s.query IS NOT NULL) AS has_query,
            ran.started_at AS last_run_at,
            ran.seconds AS last_run_seconds,
                CASE
                    WHEN (ran.state = 'failed'::text) THEN ran.error
                    ELSE NULL::text
                END AS run_error,
                CASE
                    WHEN (ran.state = 'failed'::text) THEN ran.finished_at
                    ELSE NULL::timestamp with time zone
                END AS run_error_at,
            COALESCE(m.runs, (0)::bigint) AS runs,
            COALESCE(m.failures, (0)::bigint) AS run_failures,
            COALESCE(m.row_count, (0)::bigint) AS remembered
           FROM (((((((((((lago_push.sync s
             JOIN lago_push.destination d ON ((d.id = s.destination_id)))
             CROSS JOIN overall every)
             LEFT JOIN LATERAL ( SELECT h_1.destination_id,
                    h_1.requests,
                    h_1.failures,
                    h_1.next_attempt_at,
                    h_1.last_status,
                    h_1.last_error,
                    h_1.last_error_at,
                    h_1.messages_per_second,
                    h_1.paced_at
                   FROM lago_push.destination_health h_1
                  WHERE (h_1.destination_id = s.destination_id)
                 LIMIT 1) h ON (true))
             LEFT JOIN LATERAL ( SELECT a_1.sync_id,
                    a_1.captured,
                    a_1.delivered,
                    a_1.duplicate,
                    a_1.last_delivered_at,
                    a_1.last_error,
                    a_1.last_error_at
                   FROM lago_push.account a_1
                  WHERE (a_1.sync_id = s.id)
                 LIMIT 1) a ON (true))
             LEFT JOIN LATERAL ( SELECT w_1.sync_id,
                    w_1.pending,
                    w_1.entered,
                    w_1.oldest,
                    w_1.bytes,
                    w_1.recent,
                    w_1.recent_bytes,
                    w_1.estimated
                   FROM waiting w_1
                  WHERE (w_1.sync_id = s.id)
                 LIMIT 1) w ON (true))
             LEFT JOIN LATERAL ( SELECT r_1.sync_id,
                    r_1.messages
                   FROM retrying r_1
                  WHERE (r_1.sync_id = s.id)
                 LIMIT 1) r ON (true))
             CROSS JOIN LATERAL lago_push._letters(s.id, (100000)::bigint) l(letters, entered, estimated))
             LEFT JOIN lago_push._capped() c(sync_id, waiting) ON ((c.sync_id = s.id)))
             LEFT JOIN LATERAL ( SELECT m_1.sync_id,
                    m_1.activated_at,
                    m_1.runs,
                    m_1.failures,
                    m_1.row_count,
                    m_1.compared,
                    m_1.whole_rows,
                    m_1.high_water
                   FROM lago_push.memory m_1
                  WHERE (m_1.sync_id = s.id)
                 LIMIT 1) m ON (true))
             LEFT JOIN LATERAL ( SELECT r_1.state,
                    r_1.started_at,
                    r_1.finished_at,
                    r_1.error,
                    (EXTRACT(epoch FROM (r_1.finished_at - r_1.started_at)))::double precision AS seconds
                   FROM lago_push.run r_1
                  WHERE ((r_1.sync_id = s.id) AND (r_1.state = ANY (ARRAY['succeeded'::text, 'failed'::text])))
                  ORDER BY r_1.id DESC
                 LIMIT 1) ran ON (true))
             CROSS JOIN LATERAL ( SELECT (LEAST(GREATEST(EXTRACT(epoch FROM (clock_timestamp() - w.oldest)), (10)::numeric), (60)::numeric))::double precision AS seconds) spell)
        )
 SELECT f.id,
    f.sync,
    f.state,
    f.source,
    f.destination_id,
    f.destination,
    f.pending,
    f.pending_entered,
    f.oldest,
    f.bytes,
    f.retrying,
    f.dead,
    f.dead_entered,
    f.captured,
    f.delivered,
    f.duplicate,
    f.last_delivered_at,
    f.last_error,
    f.last_error_at,
    f.estimated,
    f.captured_estimated,
    f.batch,
    f.rate_limit,
    f.pace,
    f.going,
    f.coming,
    f.coming_bytes,
    f.has_trigger,
    f.at_cap,
    f.has_query,
    f.last_run_at,
    f.last_run_seconds,
    f.run_error,
    f.run_error_at,
    f.runs,
    f.run_failures,
    f.remembered,
    f.pending_there,
    f.work,
    f.load,
        CASE
            WHEN ((f.oldest IS NULL) OR (f.oldest > (clock_timestamp() - '00:00:10'::interval))) THEN (0)::bigint
            ELSE (round((f.coming_bytes - COALESCE(((f.going * (f.bytes)::double precision) / (NULLIF(f.pending_there, (0)::numeric))::double precision), (0)::double precision))))::bigint
        END AS bytes_per_second,
        CASE
            WHEN (f.pending = 0) THEN (0)::double precision
            WHEN (f.load < (1)::double precision) THEN (f.work / ((1)::double precision - f.load))
            ELSE NULL::double precision
        END AS drain_seconds
   FROM ( SELECT s.id,
            s.sync,
            s.state,
            s.source,
            s.destination_id,
            s.destination,
            s.pending,
            s.pending_entered,
            s.oldest,
            s.bytes,
            s.retrying,
            s.dead,
            s.dead_entered,
            s.captured,
            s.delivered,
            s.duplicate,
            s.last_delivered_at,
            s.last_error,
            s.last_error_at,
            s.estimated,
            s.captured_estimated,
            s.batch,
            s.rate_limit,
            s.pace,
            s.going,
            s.coming,
            s.coming_bytes,
            s.has_trigger,
            s.at_cap,
            s.has_query,
            s.last_run_at,
            s.last_run_seconds,
            s.run_error,
            s.run_error_at,
            s.runs,
            s.run_failures,
            s.remembered,
            sum(s.pending) OVER there AS pending_there,
            GREATEST((((sum(
                CASE
                    WHEN (s.state = 'active'::text) THEN s.pending
                    ELSE (0)::bigint
                END) OVER there + (
                CASE
                    WHEN (s.state = 'active'::text) THEN (0)::bigint
                    ELSE s.pending
                END)::numeric))::double precision / NULLIF(s.pace, (0)::double precision)), (((sum((
                CASE
                    WHEN (s.state = 'active'::text) THEN s.pending
                    ELSE (0)::bigint
                END / s.batch)) OVER there + ((
                CASE
                    WHEN (s.state = 'active'::text) THEN (0)::bigint
                    ELSE s.pending
                END / s.batch))::numeric) / s.rate_limit))::double precision) AS work,
            GREATEST((sum(s.coming) OVER there / NULLIF(s.pace, (0)::double precision)), (sum((s.coming / (s.batch)::double precision)) OVER there / (s.rate_limit)::double precision)) AS load
           FROM sync s
          WINDOW there AS (PARTITION BY s.destination_id)) f;

create or replace function lago_push._look()
 RETURNS void
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'look_wrapper';

create or replace function lago_push._query_columns(query bytea, search_path bytea, run_as oid)
 RETURNS bytea
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'query_columns_wrapper';

create or replace function lago_push._reconciled(sync_id integer, since_unix_micros bigint, until_unix_micros bigint, subscription bytea, replies_cover boolean, resend boolean)
 RETURNS TABLE(external_subscription_id text, transaction_id text, finding text, detail text, event_time timestamp with time zone, resent boolean)
 LANGUAGE c
AS 'MODULE_PATHNAME', 'reconciled_wrapper';

create or replace function lago_push._runs_under_way()
 RETURNS TABLE(sync_id integer, pid integer, rows_read bigint, added bigint, changed bigint, removed bigint, unchanged bigint)
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'runs_under_way_wrapper';

create or replace function lago_push._search_path()
 RETURNS bytea
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'search_path_wrapper';

create or replace function lago_push._this_instance()
 RETURNS TABLE(system_identifier bigint, database oid, major_version integer, timeline integer, place text)
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'this_instance_wrapper';

create or replace function lago_push._note_instance()
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    insert into lago_push.instance (system_identifier, database, major_version, timeline, place)
    select i.system_identifier, i.database, i.major_version, i.timeline, i.place from lago_push._this_instance() i
    on conflict do nothing;
$function$;

create or replace function lago_push._create_destination(name text, url text, api_key text, api_key_file text, headers jsonb, rate_limit numeric, connections integer, timeout interval, ca_file text, proxy text, allow_http boolean, connect_timeout interval, read_timeout interval)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._alter_destination(name text, url text, api_key text, api_key_file text, headers jsonb, rate_limit numeric, connections integer, timeout interval, ca_file text, proxy text, allow_http boolean, connect_timeout interval, read_timeout interval)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._release(destination text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._locked_sync(sync text)
 RETURNS lago_push.sync
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    wanted lago_push.sync := lago_push._sync_named(_locked_sync.sync);
begin
    perform from lago_push.sync s where s.id = wanted.id for update;
    -- Once more: it may have changed, or gone, while its lock was waited for.
    return lago_push._sync_named(_locked_sync.sync);
end
$function$;

create or replace function lago_push._sync(sync text)
 RETURNS lago_push.sync
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    wanted lago_push.sync := lago_push._locked_sync(_sync.sync);
begin
    if wanted.query is not null or exists (select from pg_class c where c.oid = wanted.source) then
        perform lago_push._check_rights(wanted);
    end if;
    return wanted;
end
$function$;

create or replace function lago_push._operate()
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
$function$;

create or replace function lago_push._is_operator()
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select has_function_privilege(lago_push._caller(), 'lago_push._operate()', 'EXECUTE');
$function$;

create or replace function lago_push._operated_sync(sync text)
 RETURNS lago_push.sync
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
    if lago_push._is_operator() then
        return lago_push._locked_sync(_operated_sync.sync);
    end if;
    return lago_push._sync(_operated_sync.sync);
end
$function$;

create or replace function lago_push._check_source(source regclass)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._check_sync(wanted lago_push.sync)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._create_sync(name text, source regclass, template text, mapper regprocedure, destination text, endpoint text, operations text[], columns name[], filter text, exclude name[], method text, path text, root text, headers jsonb, order_by text, batch_size integer, schedule text, keep_replies interval, on_error text, unchanged text, max_pending bigint, when_full text, query text, key name[], cursor name, overlap text, max_removed double precision, first_run text, time_limit interval)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '5s'
AS $function$
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
$function$;

create or replace function lago_push._alter_sync(name text, source regclass, template text, mapper regprocedure, destination text, endpoint text, operations text[], columns name[], filter text, exclude name[], method text, path text, root text, headers jsonb, order_by text, batch_size integer, schedule text, keep_replies interval, on_error text, unchanged text, max_pending bigint, when_full text, query text, key name[], cursor name, overlap text, max_removed double precision, first_run text, time_limit interval)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '5s'
AS $function$
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
$function$;

create or replace function lago_push._fires(sync lago_push.sync)
 RETURNS "char"
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select t.tgenabled
      from lago_push._triggers(sync.name) h
      join pg_trigger t on t.tgrelid = h.relation and t.tgname = h.trigger
     where h.trigger = lago_push._trigger_name(sync);
$function$;

create or replace function lago_push._set_fires(sync lago_push.sync, fires "char")
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
    -- A new trigger fires for what is written here, which is 'O'.
    if fires <> 'O' then
        perform lago_push._as_caller(format('alter table %s %s trigger %I', sync.source,
            case fires when 'A' then 'enable always' when 'R' then 'enable replica' else 'disable' end,
            lago_push._trigger_name(sync)));
    end if;
end
$function$;

create or replace function lago_push._unheard(sync lago_push.sync)
 RETURNS SETOF text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._activate(sync text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '5s'
AS $function$
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
$function$;

create or replace function lago_push._set_state(sync text, state text, advice text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._drop_sync(sync text, discard boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '5s'
AS $function$
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
$function$;

create or replace function lago_push._operator(family oid, type oid, strategy integer)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select format('operator(%I.%s)', n.nspname, o.oprname)
      from pg_amop s join pg_operator o on o.oid = s.amopopr join pg_namespace n on n.oid = o.oprnamespace
     where s.amopfamily = _operator.family and s.amopstrategy = _operator.strategy
       and s.amoplefttype = _operator.type and s.amoprighttype = _operator.type;
$function$;

create or replace function lago_push._walking_key(source regclass, OUT columns text[], OUT types text[], OUT after text[], OUT until text)
 RETURNS record
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._walked_table(source regclass)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select format('%s%I.%I as new', case c.relkind when 'p' then '' else 'only ' end, n.nspname, c.relname)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = _walked_table.source;
$function$;

create or replace function lago_push._backfill_condition(sync lago_push.sync, filter text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select coalesce('(' || (sync).filter || E'\n)', 'true') || coalesce(' and (' || _backfill_condition.filter || E'\n)', '');
$function$;

create or replace function lago_push._after_key(names text[], operators text[], key text[])
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._key_literals(key text[], types text[])
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select array(select format('%L::%s', c.value, c.type) from unnest(_key_literals.key, types) with ordinality c(value, type, place) order by c.place);
$function$;

create or replace function lago_push._backfill_query(sync lago_push.sync, filter text, after text[], until text[], most bigint)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._last_key(source regclass)
 RETURNS text[]
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select nullif(array(
        select convert_from(l.value, getdatabaseencoding())
          from lago_push._walking_key(_last_key.source) k
         cross join unnest(lago_push._key_of_row(_last_key.source, convert_to(format('select null, %s from %s order by %s limit 1',
                   (select string_agg(format('new.%I', c.name), ', ' order by c.place) from unnest(k.columns) with ordinality c(name, place)),
                   lago_push._walked_table(_last_key.source),
                   (select string_agg(format('new.%I desc', c.name), ', ' order by c.place) from unnest(k.columns) with ordinality c(name, place))),
                   getdatabaseencoding()))) with ordinality l(value, place)
         order by l.place), '{}');
$function$;

create or replace function lago_push._backfill_reach(rows integer)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select greatest(10 * rows::bigint, 10000);
$function$;

create or replace function lago_push._backfill_runner(sync_id integer)
 RETURNS integer
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select l.pid from pg_locks l
     where l.locktype = 'advisory' and l.classid = 52467875 and l.objid = sync_id::oid and l.objsubid = 3 and l.granted
       and l.database = (select d.oid from pg_database d where d.datname = current_database());
$function$;

create or replace function lago_push._backfill_open(sync bytea, filter bytea, chunk integer, OUT sync_id integer, OUT command bytea)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._backfill_begin(sync_id integer, filter bytea, chunk integer, restart boolean, OUT id integer, OUT most integer)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._waiting_before(sync lago_push.sync, from_id bigint, most bigint, OUT waiting bigint, OUT lowest bigint)
 RETURNS record
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select count(*), coalesce(min(w.id), from_id)
      from (select m.id from lago_push.message m
             where m.id >= from_id
               -- What is paused, or waits for its tick, holds up nobody.
               and m.sync_id in (select s.id from lago_push.sync s
                                  where s.destination_id = (sync).destination_id and s.state = 'active' and (s.schedule is null or s.query is not null))
             order by m.id
             limit most) w;
$function$;

create or replace function lago_push._backfill_step(backfill_id integer, most integer, from_id bigint, OUT state text, OUT lowest bigint)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace view lago_push.backfills as
 SELECT s.name AS sync,
        CASE
            WHEN (b.finished_at IS NOT NULL) THEN 'done'::text
            WHEN (l.pid IS NULL) THEN 'interrupted'::text
            WHEN (s.state = 'paused'::text) THEN 'waiting: the sync is paused'::text
            WHEN (d.held_because IS NOT NULL) THEN ('waiting: the destination is held: '::text || d.held_because)
            WHEN (o.why IS NOT NULL) THEN ('waiting: the destination is held: '::text || o.why)
            WHEN (h.next_attempt_at > clock_timestamp()) THEN 'waiting: the destination is backing off'::text
            ELSE 'running'::text
        END AS state,
    b.rows_done,
        CASE
            WHEN (b.finished_at IS NOT NULL) THEN b.rows_done
            ELSE GREATEST(b.rows_estimated, b.rows_done)
        END AS rows_estimated,
    b.started_at,
    b.finished_at,
    (((b.rows_done - b.resumed_done))::double precision / NULLIF(t.seconds, (0)::double precision)) AS rate,
        CASE
            WHEN ((b.finished_at IS NULL) AND (l.pid IS NOT NULL)) THEN make_interval(secs => (((GREATEST((b.table_rows - b.rows_seen), (0)::bigint))::double precision * t.seconds) / (NULLIF((b.rows_seen - b.resumed_seen), 0))::double precision))
            ELSE NULL::interval
        END AS eta,
    b.moved_at
   FROM ((((((lago_push.backfill b
     JOIN lago_push.sync s ON ((s.id = b.sync_id)))
     JOIN lago_push.destination d ON ((d.id = s.destination_id)))
     LEFT JOIN lago_push.destination_health h ON ((h.destination_id = d.id)))
     LEFT JOIN lago_push.destination_hold o ON ((o.destination_id = d.id)))
     LEFT JOIN pg_locks l ON (((l.locktype = 'advisory'::text) AND (l.classid = (52467875)::oid) AND (l.objid = (s.id)::oid) AND (l.objsubid = 3) AND l.granted AND (l.database = ( SELECT c.oid
           FROM pg_database c
          WHERE (c.datname = current_database()))) AND (b.finished_at IS NULL))))
     CROSS JOIN LATERAL ( SELECT (EXTRACT(epoch FROM (
                CASE
                    WHEN (l.pid IS NULL) THEN b.moved_at
                    ELSE clock_timestamp()
                END - b.resumed_at)))::double precision AS "extract") t(seconds));

create or replace function lago_push._reconcile(sync text, since timestamp with time zone, until timestamp with time zone, subscription text, resend boolean)
 RETURNS TABLE(external_subscription_id text, transaction_id text, finding text, detail text, event_time timestamp with time zone, resent boolean)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET row_security TO 'off'
AS $function$
declare
    wanted lago_push.sync := lago_push._sync_named(_reconcile.sync);
    period_end timestamptz := coalesce(_reconcile.until, clock_timestamp());
    period_begin timestamptz := coalesce(_reconcile.since, period_end - interval '1 day');
begin
    perform lago_push._refuse_query(wanted, 'reconciled');
    perform lago_push._check_source(wanted.source);
    if wanted.state = 'draft' then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" is a draft', wanted.name),
            detail = 'It has captured nothing yet that Lago could have.',
            hint = format('Start it with lago_push.activate(%L).', wanted.name);
    elsif period_begin >= period_end then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'since must be before until',
            hint = 'Give the period of the events: since => now() - interval ''1 day'', until => now().';
    end if;
    if exists (select from lago_push._triggers(wanted.name) t
                 join pg_trigger p on p.tgrelid = t.relation and p.tgname = t.trigger
                where p.tgqual is not null and t.trigger <> lago_push._trigger_name(wanted)) then
        if _reconcile.resend then
            raise exception using errcode = 'object_not_in_prerequisite_state',
                message = format('what sync "%s" has missed cannot be told from what it was meant to miss', wanted.name),
                detail = 'A trigger written by hand captures for it, with a condition that lago_push does not know.',
                hint = 'Make the condition the sync''s filter, or write the rows again that are missing.';
        end if;
        raise notice 'rows that the condition of a hand-written trigger passes over are shown as missing'
            using hint = 'Make the condition the sync''s filter.';
    end if;
    return query
        select r.external_subscription_id, r.transaction_id, r.finding, r.detail, r.event_time, r.resent
          from lago_push._reconciled(
              wanted.id, lago_push._unix_micros(period_begin), lago_push._unix_micros(period_end),
              convert_to(_reconcile.subscription, getdatabaseencoding()),
              coalesce(period_begin >= clock_timestamp() - wanted.keep_replies, false),
              coalesce(_reconcile.resend, false)) r;
end
$function$;

create or replace function lago_push._unix_micros(moment timestamp with time zone)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE STRICT
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select (extract(epoch from least(greatest(moment, '0001-01-01 00:00:00+00'::timestamptz), '9999-12-31 00:00:00+00'::timestamptz)) * 1000000)::bigint;
$function$;

create or replace function lago_push._preview(sync text, rows integer)
 RETURNS TABLE(operation text, method text, url text, headers jsonb, body jsonb, warnings text[])
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._send_test(sync text, body jsonb)
 RETURNS TABLE(status integer, reply jsonb, verdict text, message text, duration interval)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._correct(letter bigint, payload text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    dead lago_push.dead_letter := lago_push._letter(_correct.letter);
    wanted lago_push.sync;
    checked record;
begin
    select s.* into wanted from lago_push.sync s where s.id = dead.sync_id;
    if wanted.id is null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('dead letter %s belongs to no sync', dead.id),
            detail = format('It stands under the name "%s", and no sync would deliver it.', dead.sync_name),
            hint = format('Write its row again when the table''s trigger names a sync, and give it up with lago_push.discard(%L).', dead.sync_name);
    end if;
    wanted := lago_push._operated_sync(wanted.name);
    -- Once more: it may have been redriven or discarded while the sync's lock was waited for.
    dead := lago_push._letter(_correct.letter);
    if _correct.payload is null then
        raise exception using errcode = 'null_value_not_allowed',
            message = format('dead letter %s needs a payload', dead.id),
            hint = 'Give it as text; lago_push.discard() gives letters up.';
    end if;
    select c.* into checked
      from lago_push._check_correction(
          dead.id, wanted.id, dead.path, wanted.template is not null or wanted.mapper is not null,
          convert_to(_correct.payload, getdatabaseencoding())) c;
    update lago_push.dead_letter l
       set payload = coalesce(convert_from(checked.payload, getdatabaseencoding()), _correct.payload),
           path = checked.path,
           reason = regexp_replace(l.reason, '^(.*); corrected by .*$', '\1') || format('; corrected by %s', lago_push._caller())
     where l.id = dead.id;
end
$function$;

create or replace function lago_push._flush(sync text, timeout interval)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    deadline timestamptz := clock_timestamp() + coalesce(_flush.timeout, '30 s');
    only_sync integer;
    up_to bigint;
    from_id bigint := coalesce((select o.id from lago_push.outbox_start o), 0);
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
    select max(m.id) into up_to from lago_push.message m
     where m.id >= from_id and (only_sync is null or m.sync_id = only_sync);
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
$function$;

create or replace function lago_push._redrive(sync text, filter text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    wanted lago_push.sync := lago_push._operated_sync(_redrive.sync);
    page bigint[];
    letter lago_push.dead_letter;
    again record;
    from_id bigint := -1;
    redriven bigint := 0;
    skipped bigint := 0;
    captured bigint := 0;
    path_of_each_row constant boolean := coalesce(wanted.path, (select e.path from lago_push.endpoints e where e.name = wanted.endpoint), '') ~ '\{';
begin
    if _redrive.filter is not null then
        perform lago_push._check_filter(convert_to(_redrive.filter, getdatabaseencoding()));
    end if;
    -- Before the first id is drawn: the worker's account of late commits rests on this order.
    perform pg_current_xact_id();
    loop
        select n.last_id, n.picked into from_id, page from lago_push._next_letters(wanted.id, null, from_id, _redrive.filter) n;
        exit when from_id is null;
        for letter in select l.* from lago_push.dead_letter l where l.id = any (page) order by l.id for update loop
            select letter.payload as payload, letter.path as path, letter.key as key, false as skipped, null::text as reason into again;
            if letter.payload is not null and letter.path is null and path_of_each_row then
                update lago_push.dead_letter l set reason = 'the sync''s path is made of each row by now, and this message has none of its own' where l.id = letter.id;
                continue;
            end if;
            if letter.payload is null then
                if letter.source_row is null then
                    continue;
                end if;
                if wanted.query is null and not exists (select from pg_class c where c.oid = wanted.source) then
                    update lago_push.dead_letter l set reason = 'the sync''s source does not exist (any more)' where l.id = letter.id;
                    continue;
                end if;
                select convert_from(r.payload, getdatabaseencoding()) as payload, r.path, r.key, r.skipped,
                       convert_from(r.reason, getdatabaseencoding()) as reason into again
                  from lago_push._render_letter(
                      wanted.id, letter.operation::text, convert_to(letter.source_row::text, getdatabaseencoding()),
                      convert_to(letter.old_row::text, getdatabaseencoding()),
                      letter.id, (extract(epoch from letter.enqueued_at) * 1000000)::bigint) r;
            end if;
            if again.reason is not null then
                update lago_push.dead_letter l set reason = again.reason where l.id = letter.id;
                continue;
            end if;
            delete from lago_push.dead_letter l where l.id = letter.id;
            if again.skipped then
                captured := captured + letter.entered;
                skipped := skipped + 1;
                continue;
            end if;
            -- What it entered as goes along, so that the ledger adds up to what it did; so does its place among
            -- those that go one after the other.
            insert into lago_push.message (id, enqueued_at, sync_id, entered, operation, payload, path, key)
            values (nextval('lago_push.message_id'), letter.enqueued_at, wanted.id, letter.entered, letter.operation,
                    again.payload, again.path, again.key);
            redriven := redriven + 1;
        end loop;
    end loop;
    if redriven + skipped > 0 then
        perform lago_push._note_intervention(wanted.id, 'redrive', captured, redriven, skipped);
    end if;
    if redriven > 0 then
        perform lago_push._count_written(wanted.id, redriven);
    end if;
    return redriven + skipped;
end
$function$;

create or replace function lago_push._discard(sync text, filter text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    by_operator boolean := lago_push._is_operator();
    wanted integer;
    of_none bigint := 0;
    discarded bigint;
    captured bigint;
begin
    if exists (select from lago_push.sync s where s.name = _discard.sync) or not by_operator
       or not exists (select from lago_push.dead_letter l where l.sync_name = _discard.sync) then
        select s.id into wanted from lago_push._operated_sync(_discard.sync) s;
    end if;
    if _discard.filter is not null then
        perform lago_push._check_filter(convert_to(_discard.filter, getdatabaseencoding()));
    end if;
    if by_operator then
        select d.letters into of_none from lago_push._discard_letters(null, _discard.sync, _discard.filter) d;
    end if;
    if wanted is null then
        return of_none;
    end if;
    select d.letters, d.captured into discarded, captured from lago_push._discard_letters(wanted, null, _discard.filter) d;
    if discarded > 0 then
        perform lago_push._note_intervention(wanted, 'discard', captured, 0, discarded);
    end if;
    return discarded + of_none;
end
$function$;

create or replace function lago_push._wake_for_run()
 RETURNS void
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'wake_for_run_wrapper';

create or replace function lago_push._refuse_query(sync lago_push.sync, what text)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
    if sync.query is not null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = format('sync "%s" has a query and no source table, so it cannot be %s', sync.name, what),
            detail = 'All rows the query gives are captured by its runs, those that were there before too.',
            hint = format('To run it now: select lago_push.run_now(%L).', sync.name);
    end if;
end
$function$;

create or replace function lago_push._check_rights(sync lago_push.sync)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._columns_of(sync lago_push.sync)
 RETURNS jsonb
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select convert_from(lago_push._query_columns(
        convert_to((sync).query, 'UTF8'), convert_to((sync).search_path, 'UTF8'), (sync).run_as::oid), 'UTF8')::jsonb;
$function$;

create or replace function lago_push._query(query text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select nullif(regexp_replace(query, '\s*;?\s*$', ''), '');
$function$;

create or replace function lago_push._check_kind(wanted lago_push.sync)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._check_query(wanted lago_push.sync)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._default_overlap(sync lago_push.sync)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select case when c ->> 'type' in ('smallint', 'integer', 'bigint') then '1000' else '5 minutes' end
      from jsonb_array_elements((sync).query_columns) c where c ->> 'name' = (sync).cursor::text;
$function$;

create or replace function lago_push._run_now(sync text, removals text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$;

create or replace function lago_push._workers()
 RETURNS TABLE(database_id oid, database text, pid integer, state text, started_at timestamp with time zone, last_activity timestamp with time zone, messages_per_second double precision, activity text, wanted boolean)
 LANGUAGE c
 STRICT
AS 'MODULE_PATHNAME', 'workers_and_activities_wrapper';

create or replace function lago_push.create_sync(name text, source regclass DEFAULT NULL::regclass, template text DEFAULT NULL::text, mapper regprocedure DEFAULT NULL::regprocedure, destination text DEFAULT NULL::text, endpoint text DEFAULT 'event'::text, operations text[] DEFAULT '{insert}'::text[], columns name[] DEFAULT NULL::name[], filter text DEFAULT NULL::text, exclude name[] DEFAULT NULL::name[], method text DEFAULT NULL::text, path text DEFAULT NULL::text, root text DEFAULT NULL::text, headers jsonb DEFAULT NULL::jsonb, order_by text DEFAULT NULL::text, batch_size integer DEFAULT 100, schedule text DEFAULT NULL::text, keep_replies interval DEFAULT NULL::interval, on_error text DEFAULT 'dead_letter'::text, unchanged text DEFAULT 'send'::text, max_pending bigint DEFAULT NULL::bigint, when_full text DEFAULT 'warn'::text, query text DEFAULT NULL::text, key name[] DEFAULT NULL::name[], cursor name DEFAULT NULL::name, overlap text DEFAULT NULL::text, max_removed double precision DEFAULT 0.5, first_run text DEFAULT 'send'::text, time_limit interval DEFAULT NULL::interval)
 RETURNS void
 LANGUAGE c
AS 'MODULE_PATHNAME', 'lago_push_as_owner';

create or replace function lago_push.alter_sync(name text, source regclass DEFAULT NULL::regclass, template text DEFAULT NULL::text, mapper regprocedure DEFAULT NULL::regprocedure, destination text DEFAULT NULL::text, endpoint text DEFAULT NULL::text, operations text[] DEFAULT NULL::text[], columns name[] DEFAULT NULL::name[], filter text DEFAULT NULL::text, exclude name[] DEFAULT NULL::name[], method text DEFAULT NULL::text, path text DEFAULT NULL::text, root text DEFAULT NULL::text, headers jsonb DEFAULT NULL::jsonb, order_by text DEFAULT NULL::text, batch_size integer DEFAULT NULL::integer, schedule text DEFAULT NULL::text, keep_replies interval DEFAULT NULL::interval, on_error text DEFAULT NULL::text, unchanged text DEFAULT NULL::text, max_pending bigint DEFAULT NULL::bigint, when_full text DEFAULT NULL::text, query text DEFAULT NULL::text, key name[] DEFAULT NULL::name[], cursor name DEFAULT NULL::name, overlap text DEFAULT NULL::text, max_removed double precision DEFAULT NULL::double precision, first_run text DEFAULT NULL::text, time_limit interval DEFAULT NULL::interval)
 RETURNS void
 LANGUAGE c
AS 'MODULE_PATHNAME', 'lago_push_as_owner';

create or replace function lago_push.run_now(sync text, removals text DEFAULT 'limit'::text)
 RETURNS void
 LANGUAGE c
AS 'MODULE_PATHNAME', 'lago_push_as_owner';

create or replace function lago_push.reconcile(sync text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT now(), subscription text DEFAULT NULL::text, resend boolean DEFAULT false)
 RETURNS TABLE(external_subscription_id text, transaction_id text, finding text, detail text, event_time timestamp with time zone, resent boolean)
 LANGUAGE c
AS 'MODULE_PATHNAME', 'lago_push_as_owner';

create or replace function lago_push.grant_access(role regrole, access text)
 RETURNS void
 LANGUAGE c
AS 'MODULE_PATHNAME', 'lago_push_as_owner';

create or replace function lago_push.revoke_access(role regrole)
 RETURNS void
 LANGUAGE c
AS 'MODULE_PATHNAME', 'lago_push_as_owner';

create or replace procedure lago_push.backfill(IN sync text, IN filter text DEFAULT NULL::text, IN chunk integer DEFAULT 10000, IN restart boolean DEFAULT false)
 LANGUAGE c
AS 'lago_push', $procedure$lago_push_backfill$procedure$;

create or replace view lago_push.status as
 SELECT f.sync,
    f.state,
    COALESCE((f.source)::text, 'query'::text) AS source,
    f.destination,
    f.pending,
    (now() - f.oldest) AS oldest_pending,
    f.retrying,
    f.delivered,
    f.dead,
    f.last_delivered_at,
    worst.error AS last_error,
    worst.at AS last_error_at,
    f.estimated,
    f.bytes AS bytes_waiting,
    f.bytes_per_second,
        CASE
            WHEN (f.drain_seconds IS NOT NULL) THEN make_interval(secs => LEAST(f.drain_seconds, ('1000000000000'::numeric)::double precision))
            ELSE NULL::interval
        END AS drains_in,
    (f.has_trigger AND (f.state <> 'draft'::text)) AS capturing,
    f.at_cap,
    f.last_run_at
   FROM ((lago_push._figures f
     LEFT JOIN LATERAL ( SELECT l.reason,
            l.died_at
           FROM lago_push.dead_letter l
          WHERE (l.sync_id = f.id)
          ORDER BY l.id DESC
         LIMIT 1) latest ON (true))
     LEFT JOIN LATERAL ( SELECT e.error,
            e.at
           FROM ( VALUES (latest.reason,latest.died_at), (f.last_error,f.last_error_at), (f.run_error,f.run_error_at)) e(error, at)
          WHERE (e.at IS NOT NULL)
          ORDER BY e.at DESC
         LIMIT 1) worst ON (true));

create or replace view lago_push.runs as
 SELECT s.name AS sync,
        CASE
            WHEN ((r.state = 'running'::text) AND (u.pid IS NULL)) THEN 'interrupted'::text
            ELSE r.state
        END AS state,
    r.started_at,
    r.finished_at,
    COALESCE(r.rows_read, u.rows_read) AS rows_read,
    COALESCE(r.added, u.added) AS added,
    COALESCE(r.changed, u.changed) AS changed,
    COALESCE(r.removed, u.removed) AS removed,
    COALESCE(r.unchanged, u.unchanged) AS unchanged,
    r.error,
    r.remark,
    u.pid
   FROM ((lago_push.run r
     JOIN lago_push.sync s ON ((s.id = r.sync_id)))
     LEFT JOIN lago_push._runs_under_way() u(sync_id, pid, rows_read, added, changed, removed, unchanged) ON (((u.sync_id = r.sync_id) AND (r.state = 'running'::text))));

create or replace view lago_push.destinations as
 SELECT d.name,
    d.url,
        CASE
            WHEN (d.held_because IS NOT NULL) THEN ('held: '::text || d.held_because)
            WHEN (o.why IS NOT NULL) THEN ('held: '::text || o.why)
            WHEN (h.next_attempt_at > clock_timestamp()) THEN 'backing off'::text
            ELSE 'open'::text
        END AS state,
    COALESCE(f.in_flight, 0) AS in_flight,
    COALESCE(h.requests, (0)::bigint) AS requests,
    COALESCE(h.failures, (0)::bigint) AS failures,
    d.rate_limit,
    h.next_attempt_at,
    h.last_status,
    h.last_error,
    h.last_error_at,
    o.since AS held_since,
    h.messages_per_second
   FROM (((lago_push.destination d
     LEFT JOIN lago_push.destination_health h ON ((h.destination_id = d.id)))
     LEFT JOIN lago_push.destination_hold o ON ((o.destination_id = d.id)))
     LEFT JOIN lago_push._in_flight() f(destination_id, in_flight) ON ((f.destination_id = d.id)));

create or replace view lago_push.outbox as
 SELECT m.id,
    s.name AS sync,
    m.enqueued_at,
    COALESCE(r.attempts, 0) AS attempts,
    r.next_attempt_at,
    r.last_error,
    m.payload,
    m.path
   FROM ((lago_push.message m
     LEFT JOIN lago_push.sync s ON ((s.id = m.sync_id)))
     LEFT JOIN lago_push.retry r ON ((r.message_id = m.id)))
  WHERE (m.id >= COALESCE(( SELECT o.id
           FROM lago_push.outbox_start o), (0)::bigint));

create or replace view lago_push.workers as
 SELECT (w.database)::name AS database,
    w.pid,
    w.state,
    w.started_at,
    w.last_activity,
    w.messages_per_second,
    w.activity
   FROM lago_push._workers() w(database_id, database, pid, state, started_at, last_activity, messages_per_second, activity, wanted);

create or replace view lago_push.ledger as
 WITH waiting AS MATERIALIZED (
         SELECT b.sync_id,
            b.pending,
            b.entered,
            b.oldest,
            b.bytes,
            b.recent,
            b.recent_bytes,
            b.estimated
           FROM lago_push._backlog(COALESCE(( SELECT o.id
                   FROM lago_push.outbox_start o), (0)::bigint), (1000000)::bigint) b(sync_id, pending, entered, oldest, bytes, recent, recent_bytes, estimated)
        )
 SELECT l.sync,
        CASE
            WHEN l.estimated THEN (((l.delivered + l.dead) + l.discarded) + l.pending)
            ELSE l.captured
        END AS captured,
    l.delivered,
    l.duplicate,
    l.dead,
    l.redriven,
    l.discarded,
    l.pending,
        CASE
            WHEN (NOT l.estimated) THEN (l.captured = (((l.delivered + l.dead) + l.discarded) + l.pending))
            ELSE NULL::boolean
        END AS balanced,
    l.estimated
   FROM ( SELECT s.name AS sync,
            (((COALESCE(a.captured, (0)::bigint) + COALESCE(w.entered, (0)::bigint)) + kept.entered) + COALESCE(done.captured, (0)::bigint)) AS captured,
            COALESCE(a.delivered, (0)::bigint) AS delivered,
            COALESCE(a.duplicate, (0)::bigint) AS duplicate,
            kept.letters AS dead,
            COALESCE(done.redriven, (0)::bigint) AS redriven,
            COALESCE(done.discarded, (0)::bigint) AS discarded,
            COALESCE(w.pending, (0)::bigint) AS pending,
            (t.estimated OR kept.estimated) AS estimated
           FROM (((((lago_push.sync s
             CROSS JOIN ( SELECT bool_or(w_1.estimated) AS estimated
                   FROM waiting w_1) t)
             LEFT JOIN LATERAL ( SELECT a_1.sync_id,
                    a_1.captured,
                    a_1.delivered,
                    a_1.duplicate,
                    a_1.last_delivered_at,
                    a_1.last_error,
                    a_1.last_error_at
                   FROM lago_push.account a_1
                  WHERE (a_1.sync_id = s.id)
                 LIMIT 1) a ON (true))
             LEFT JOIN LATERAL ( SELECT w_1.sync_id,
                    w_1.pending,
                    w_1.entered,
                    w_1.oldest,
                    w_1.bytes,
                    w_1.recent,
                    w_1.recent_bytes,
                    w_1.estimated
                   FROM waiting w_1
                  WHERE (w_1.sync_id = s.id)
                 LIMIT 1) w ON (true))
             CROSS JOIN LATERAL lago_push._letters(s.id, (1000000)::bigint) kept(letters, entered, estimated))
             LEFT JOIN ( SELECT i.sync_id,
                    (sum(i.captured))::bigint AS captured,
                    (sum(i.redriven))::bigint AS redriven,
                    (sum(i.discarded))::bigint AS discarded
                   FROM lago_push.intervention i
                  GROUP BY i.sync_id) done ON ((done.sync_id = s.id)))) l;

create or replace function lago_push._recount(sync text)
 RETURNS SETOF lago_push.ledger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    only_sync integer;
begin
    if _recount.sync is not null then
        select s.id into only_sync from lago_push._sync_named(_recount.sync) s;
    end if;
    -- One query, so that all figures are of one snapshot.
    return query
    select l.sync, l.captured, l.delivered, l.duplicate, l.dead, l.redriven, l.discarded, l.pending,
           l.captured = l.delivered + l.dead + l.discarded + l.pending,
           false
      from (select s.name as sync,
                   coalesce(a.captured, 0) + coalesce(waiting.entered, 0) + coalesce(kept.entered, 0)
                       + coalesce(done.captured, 0) as captured,
                   coalesce(a.delivered, 0) as delivered,
                   coalesce(a.duplicate, 0) as duplicate,
                   coalesce(kept.letters, 0) as dead,
                   coalesce(done.redriven, 0) as redriven,
                   coalesce(done.discarded, 0) as discarded,
                   coalesce(waiting.messages, 0) as pending
              from lago_push.sync s
              left join lago_push.account a on a.sync_id = s.id
              left join (select m.sync_id, count(*) as messages, sum(m.entered)::bigint as entered
                           from lago_push.message m
                          where only_sync is null or m.sync_id = only_sync
                          group by m.sync_id) waiting on waiting.sync_id = s.id
              left join (select d.sync_id, count(*) as letters, sum(d.entered)::bigint as entered
                           from lago_push.dead_letter d
                          where only_sync is null or d.sync_id = only_sync
                          group by d.sync_id) kept on kept.sync_id = s.id
              left join (select i.sync_id, sum(i.captured)::bigint as captured, sum(i.redriven)::bigint as redriven,
                                sum(i.discarded)::bigint as discarded
                           from lago_push.intervention i
                          group by i.sync_id) done on done.sync_id = s.id
             where only_sync is null or s.id = only_sync) l;
end
$function$;

create or replace function lago_push.recount(sync text DEFAULT NULL::text)
 RETURNS SETOF lago_push.ledger
 LANGUAGE c
AS 'MODULE_PATHNAME', 'lago_push_as_owner';

create or replace view lago_push.metrics as
 WITH figures AS MATERIALIZED (
         SELECT f.id,
            f.sync,
            f.state,
            f.source,
            f.destination_id,
            f.destination,
            f.pending,
            f.pending_entered,
            f.oldest,
            f.bytes,
            f.retrying,
            f.dead,
            f.dead_entered,
            f.captured,
            f.delivered,
            f.duplicate,
            f.last_delivered_at,
            f.last_error,
            f.last_error_at,
            f.estimated,
            f.captured_estimated,
            f.batch,
            f.rate_limit,
            f.pace,
            f.going,
            f.coming,
            f.coming_bytes,
            f.has_trigger,
            f.at_cap,
            f.has_query,
            f.last_run_at,
            f.last_run_seconds,
            f.run_error,
            f.run_error_at,
            f.runs,
            f.run_failures,
            f.remembered,
            f.pending_there,
            f.work,
            f.load,
            f.bytes_per_second,
            f.drain_seconds
           FROM lago_push._figures f
        ), destinations AS MATERIALIZED (
         SELECT d.name,
            d.url,
            d.state,
            d.in_flight,
            d.requests,
            d.failures,
            d.rate_limit,
            d.next_attempt_at,
            d.last_status,
            d.last_error,
            d.last_error_at,
            d.held_since,
            d.messages_per_second
           FROM lago_push.destinations d
        ), worker AS MATERIALIZED (
         SELECT (w.pid IS NOT NULL) AS connected,
            w.state,
            w.messages_per_second,
            w.wanted
           FROM lago_push._workers() w(database_id, database, pid, state, started_at, last_activity, messages_per_second, activity, wanted)
          WHERE (w.database_id = ( SELECT d.oid
                   FROM pg_database d
                  WHERE (d.datname = current_database())))
        )
 SELECT m.name,
    m.labels,
    m.value
   FROM ( SELECT v.name,
            jsonb_build_object('sync', f.sync, 'destination', f.destination, 'source', COALESCE((f.source)::text, 'query'::text)) AS jsonb_build_object,
            v.value
           FROM (((figures f
             LEFT JOIN ( SELECT i.sync_id,
                    sum(i.captured) AS captured,
                    sum(i.redriven) AS redriven,
                    sum(i.discarded) AS discarded
                   FROM lago_push.intervention i
                  GROUP BY i.sync_id) done ON ((done.sync_id = f.id)))
             CROSS JOIN LATERAL ( SELECT ((((f.captured + f.pending_entered) + f.dead_entered))::numeric + COALESCE(done.captured, (0)::numeric)) AS captured) entered)
             CROSS JOIN LATERAL ( VALUES ('lago_push_pending'::text,(f.pending)::double precision), ('lago_push_pending_bytes'::text,f.bytes), ('lago_push_pending_bytes_per_second'::text,f.bytes_per_second), ('lago_push_oldest_pending_seconds'::text,COALESCE(EXTRACT(epoch FROM (now() - f.oldest)), (0)::numeric)), ('lago_push_drain_seconds'::text,f.drain_seconds), ('lago_push_retrying'::text,f.retrying), ('lago_push_dead_letters'::text,f.dead), ('lago_push_estimated'::text,(f.estimated)::integer), ('lago_push_sync_active'::text,((f.state = 'active'::text))::integer), ('lago_push_sync_capturing'::text,((f.has_trigger AND (f.state <> 'draft'::text)))::integer), ('lago_push_sync_at_cap'::text,(f.at_cap)::integer), ('lago_push_captured_total'::text,
                        CASE
                            WHEN (NOT f.captured_estimated) THEN entered.captured
                            ELSE NULL::numeric
                        END), ('lago_push_delivered_total'::text,f.delivered), ('lago_push_duplicate_total'::text,f.duplicate), ('lago_push_redriven_total'::text,COALESCE(done.redriven, (0)::numeric)), ('lago_push_discarded_total'::text,COALESCE(done.discarded, (0)::numeric)), ('lago_push_balanced'::text,
                        CASE
                            WHEN (NOT f.captured_estimated) THEN ((entered.captured = ((((f.delivered + f.dead))::numeric + COALESCE(done.discarded, (0)::numeric)) + (f.pending)::numeric)))::integer
                            ELSE NULL::integer
                        END), ('lago_push_last_delivered_timestamp_seconds'::text,EXTRACT(epoch FROM f.last_delivered_at)), ('lago_push_runs_total'::text,
                        CASE
                            WHEN f.has_query THEN (f.runs + f.run_failures)
                            ELSE NULL::bigint
                        END), ('lago_push_run_failures_total'::text,
                        CASE
                            WHEN f.has_query THEN f.run_failures
                            ELSE NULL::bigint
                        END), ('lago_push_run_failing'::text,
                        CASE
                            WHEN f.has_query THEN ((f.run_error_at IS NOT NULL))::integer
                            ELSE NULL::integer
                        END), ('lago_push_last_run_timestamp_seconds'::text,EXTRACT(epoch FROM f.last_run_at)), ('lago_push_last_run_seconds'::text,f.last_run_seconds), ('lago_push_remembered_rows'::text,
                        CASE
                            WHEN f.has_query THEN f.remembered
                            ELSE NULL::bigint
                        END)) v(name, value))
        UNION ALL
         SELECT v.name,
            jsonb_build_object('destination', d.name) AS jsonb_build_object,
            v.value
           FROM (destinations d
             CROSS JOIN LATERAL ( VALUES ('lago_push_requests_total'::text,(d.requests)::double precision), ('lago_push_failures_total'::text,d.failures), ('lago_push_in_flight'::text,d.in_flight), ('lago_push_backing_off'::text,((d.state = 'backing off'::text))::integer), ('lago_push_destination_messages_per_second'::text,d.messages_per_second)) v(name, value))
        UNION ALL
         SELECT 'lago_push_held'::text AS name,
            jsonb_build_object('destination', d.name, 'reason', by.reason) AS jsonb_build_object,
            (((d.state ~~ 'held: %'::text) AND ((by.reason = 'operator'::text) = (d.state ~~ 'held: by %'::text))))::integer AS int4
           FROM (destinations d
             CROSS JOIN ( VALUES ('operator'::text), ('worker'::text)) by(reason))
        UNION ALL
         SELECT v.name,
            '{}'::jsonb AS labels,
            v.value
           FROM ((( SELECT 1 AS "?column?") one
             LEFT JOIN worker w ON (true))
             CROSS JOIN LATERAL ( VALUES ('lago_push_worker_up'::text,((COALESCE(w.connected, false))::integer)::double precision), ('lago_push_worker_working'::text,(COALESCE((w.connected AND (w.state = 'working'::text)), false))::integer), ('lago_push_worker_wanted'::text,(((NOT COALESCE(w.connected, false)) AND (COALESCE(w.wanted, false) OR (EXISTS ( SELECT
                           FROM ((figures f
                             JOIN lago_push.sync s ON ((s.id = f.id)))
                             JOIN destinations d ON ((d.name = f.destination)))
                          WHERE ((f.pending > 0) AND (f.state = 'active'::text) AND ((s.schedule IS NULL) OR (s.query IS NOT NULL)) AND (d.state !~~ 'held: %'::text)))))))::integer), ('lago_push_messages_per_second'::text,COALESCE(w.messages_per_second, (0)::double precision)), ('lago_push_outbox_bytes'::text,pg_total_relation_size('lago_push.message'::regclass))) v(name, value))
        UNION ALL
         SELECT 'lago_push_info'::text AS name,
            jsonb_build_object('version', e.extversion) AS jsonb_build_object,
            1
           FROM pg_extension e
          WHERE (e.extname = 'lago_push'::name)) m(name, labels, value)
  WHERE (m.value IS NOT NULL);

create or replace function lago_push._privileges(access text)
 RETURNS SETOF text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    functions text[];
    relations text[] := '{}';
begin
    case access
        when 'monitor' then
            functions := '{}';
        when 'maker' then
            functions := '{create_sync,alter_sync,activate,drop_sync,capture,preview,send_test,suggest_template,
                           pause,resume,redrive,discard,correct,flush,reconcile,backfill,run_now}';
        when 'operator' then
            functions := '{_operate,hold,release,pause,resume,redrive,discard,correct,flush,recount,run_now}';
            relations := '{outbox,dead_letters,replies}';
        when 'admin' then
            functions := '{create_destination,alter_destination,set_api_key,drop_destination,hold,release,flush}';
        else
            raise exception using errcode = 'invalid_parameter_value',
                message = format('there is no access "%s"', coalesce(access, '')),
                detail = 'maker makes syncs of its own tables, operator runs all syncs, admin has the destinations and their keys, monitor looks.',
                hint = 'For example: select lago_push.grant_access(''billing_ops'', ''operator'').';
    end case;
    return next 'usage on schema lago_push';
    return query
        select format('execute on %s %s', case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure)
          from pg_proc p
         where p.pronamespace = 'lago_push'::regnamespace and p.proname::text = any (functions)
         order by p.oid::regprocedure::text;
    return query
        select format('select on %s', c.oid::regclass)
          from pg_class c
         where c.relnamespace = 'lago_push'::regnamespace and c.relname::text = any (relations)
         order by c.relname;
    -- Whoever has any access may look, too: what pg_monitor has.
    return query
        select format('%s on %s', lower(a.privilege_type), c.oid::regclass)
          from pg_class c cross join aclexplode(c.relacl) a
         where c.relnamespace = 'lago_push'::regnamespace and a.grantee = 'pg_monitor'::regrole
        union
        select format('%s on function %s', lower(a.privilege_type), p.oid::regprocedure)
          from pg_proc p cross join aclexplode(p.proacl) a
         where p.pronamespace = 'lago_push'::regnamespace and a.grantee = 'pg_monitor'::regrole
         order by 1;
end
$function$;

create or replace function lago_push._check_role(role regrole)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
    if not exists (select from pg_roles r where r.oid = _check_role.role) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'access is granted to a role',
            hint = 'Name one: lago_push.grant_access(''billing_ops'', ''operator''). PUBLIC is none.';
    end if;
end
$function$;

create or replace function lago_push._grant_access(role regrole, access text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    privilege text;
begin
    perform lago_push._check_role(role);
    for privilege in select p from lago_push._privileges(access) p loop
        execute format('grant %s to %s', privilege, role);
    end loop;
end
$function$;

create or replace function lago_push._revoke_access(role regrole)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    kind text;
begin
    perform lago_push._check_role(role);
    foreach kind in array array['tables', 'sequences', 'functions', 'procedures'] loop
        execute format('revoke all on all %s in schema lago_push from %s', kind, role);
    end loop;
    execute format('revoke all on schema lago_push from %s', role);
end
$function$;

comment on table lago_push.sync is 'Source table or query, operations, template, endpoint and destination. Private; read lago_push.status.';

comment on table lago_push.outbox_start is 'An id below which the outbox has no message any more; noted by the worker now and then, so that views need not look there. In no dump. Private.';

comment on table lago_push.backfill is 'How far each backfill has come; moves in the transaction that captures its rows. Private; read lago_push.backfills.';

comment on table lago_push.run is 'The runs of each query, for as long as lago_push.keep_runs says. Private; read lago_push.runs.';

comment on table lago_push.run_request is 'Runs that were asked for with lago_push.run_now() and have not begun. Private.';

comment on table lago_push.memory is 'What the runs of each query have come to. Private.';

comment on table lago_push.remembered is 'The rows each query gave when it ran last, by key. Private.';

comment on table lago_push.instance is 'The server and database that deliver. A copy finds here that it is one. Private.';

comment on function lago_push._backlog(bigint,bigint) is 'Internal: what waits, by sync; estimated if it is more than so much.';

comment on function lago_push._capped() is 'Internal: how many messages wait of syncs with a cap, as far as it is known.';

comment on function lago_push._capture_rows(integer,bytea,integer) is 'Internal: captures existing rows of a sync''s source.';

comment on function lago_push._check_query_recipe(bytea,bytea,oid[],bytea,bytea,text,bytea,text,text[],bytea,bytea) is 'Internal: refuses a template, path or order that cannot be applied to a query''s columns, or that Lago would not bill.';

comment on function lago_push._count_written(integer,bigint) is 'Internal: counts messages written by a function, and wakes the worker for them.';

comment on function lago_push._end_run(integer) is 'Internal: ends the run of a sync that is under way.';

comment on function lago_push._estimate_rows(oid,bytea) is 'Internal: how many rows the planner expects of a query.';

comment on function lago_push._key_of_row(oid,bytea) is 'Internal: the key of the row a query gives.';

comment on function lago_push._letters(integer,bigint) is 'Internal: the dead letters of a sync; estimated if they are more than so many.';

comment on view lago_push._figures is 'Internal: what status and metrics say of each sync.';

comment on function lago_push._look() is 'Internal: holds all destinations if this is a copy of the database and the worker has not noticed yet.';

comment on function lago_push._query_columns(bytea,bytea,oid) is 'Internal: the columns of a query, which is run for a moment.';

comment on function lago_push._reconciled(integer,bigint,bigint,bytea,boolean,boolean) is 'Internal: compares a sync''s events with those Lago lists.';

comment on function lago_push._runs_under_way() is 'Internal: how far the runs under way are.';

comment on function lago_push._search_path() is 'Internal: where the caller looks for names.';

comment on function lago_push._this_instance() is 'Internal: this server and database, as a mark names them.';

comment on function lago_push._note_instance() is 'Internal: notes that this server and database are those that deliver, unless others are noted.';

comment on function lago_push._locked_sync(text) is 'Internal: a sync, locked, or an error that lists the names there are.';

comment on function lago_push._sync(text) is 'Internal: a sync, locked, whose source the caller owns.';

comment on function lago_push._operate() is 'Internal: whoever may execute it may operate every sync. Granted by lago_push.grant_access().';

comment on function lago_push._is_operator() is 'Internal: whether the caller may operate every sync.';

comment on function lago_push._operated_sync(text) is 'Internal: a sync, locked, that the caller may operate.';

comment on function lago_push._create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval) is 'Internal: does lago_push.create_sync().';

comment on function lago_push._alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval) is 'Internal: does lago_push.alter_sync().';

comment on function lago_push._fires(lago_push.sync) is 'Internal: when the trigger that activate() made fires: origin, replica, always or disabled.';

comment on function lago_push._set_fires(lago_push.sync,"char") is 'Internal: has a trigger that was made anew fire when the one before it did.';

comment on function lago_push._unheard(lago_push.sync) is 'Internal: subscriptions that fill a source past the triggers of its sync.';

comment on function lago_push._operator(oid,oid,integer) is 'Internal: an operator of a b-tree, with its schema.';

comment on function lago_push._walking_key(regclass) is 'Internal: the columns by which a table can be walked.';

comment on function lago_push._walked_table(regclass) is 'Internal: a table as the query of a backfill names it.';

comment on function lago_push._backfill_condition(lago_push.sync,text) is 'Internal: what a row must meet to be sent by a backfill.';

comment on function lago_push._after_key(text[],text[],text[]) is 'Internal: the condition that a row comes after a key.';

comment on function lago_push._key_literals(text[],text[]) is 'Internal: a key as literals of its types.';

comment on function lago_push._backfill_query(lago_push.sync,text,text[],text[],bigint) is 'Internal: the query for the next rows of a backfill.';

comment on function lago_push._last_key(regclass) is 'Internal: the last key of a table.';

comment on function lago_push._backfill_reach(integer) is 'Internal: how many rows one transaction of a backfill looks at.';

comment on function lago_push._backfill_runner(integer) is 'Internal: the process that is at a sync''s backfill.';

comment on function lago_push._backfill_open(bytea,bytea,integer) is 'Internal: checks what lago_push.backfill() is asked for.';

comment on function lago_push._backfill_begin(integer,bytea,integer,boolean) is 'Internal: writes a backfill down, or finds the one to go on with.';

comment on function lago_push._waiting_before(lago_push.sync,bigint,bigint) is 'Internal: how many messages a live row would have to wait behind.';

comment on function lago_push._backfill_step(integer,integer,bigint) is 'Internal: captures the next rows of a backfill.';

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

comment on function lago_push._reconcile(text,timestamp with time zone,timestamp with time zone,text,boolean) is 'Internal: does lago_push.reconcile().';

comment on function lago_push._unix_micros(timestamp with time zone) is 'Internal: a moment in microseconds since 1970.';

comment on function lago_push._wake_for_run() is 'Internal: has the worker look which queries are due when the transaction commits.';

comment on function lago_push._refuse_query(lago_push.sync,text) is 'Internal: refuses a sync that has a query.';

comment on function lago_push._check_rights(lago_push.sync) is 'Internal: refuses a sync the caller may not make or change.';

comment on function lago_push._columns_of(lago_push.sync) is 'Internal: the columns of a sync''s query as they are now.';

comment on function lago_push._query(text) is 'Internal: a query in the form it is stored in.';

comment on function lago_push._check_kind(lago_push.sync) is 'Internal: refuses what only a query can have, or only a table.';

comment on function lago_push._check_query(lago_push.sync) is 'Internal: refuses a query that cannot be compared or rendered.';

comment on function lago_push._default_overlap(lago_push.sync) is 'Internal: how far behind its highest value a cursor reads, where nobody says.';

comment on function lago_push._run_now(text,text) is 'Internal: does lago_push.run_now().';

comment on function lago_push._workers() is 'Internal: source of the view workers.';

comment on function lago_push.create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval) is 'Defines a sync as a draft, after checking everything that can be checked; nothing is captured until lago_push.activate().';

comment on function lago_push.alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval) is 'Changes a sync; parameters left out or null stay as they are. Messages already captured keep their bytes.';

comment on function lago_push.run_now(text,text) is 'Runs a sync''s query at the next opportunity, whatever its schedule says.';

comment on function lago_push.reconcile(text,timestamp with time zone,timestamp with time zone,text,boolean) is 'Compares the events of a period with those Lago lists: shows what is missing there, unexpected or different, and sends what is missing again if asked to.';

comment on function lago_push.grant_access(regrole,text) is 'Grants a role what it needs: as maker of syncs on its own tables, operator of all syncs, admin of destinations and keys, or monitor.';

comment on function lago_push.revoke_access(regrole) is 'Takes from a role everything it was granted in lago_push.';

comment on procedure lago_push.backfill(text,text,integer,boolean) is 'Sends the rows that are in a sync''s source already, through the same template, behind the live ones; goes on where it was when it is called again.';

comment on column lago_push.status.source is 'the table whose rows it captures, or query';

comment on column lago_push.status.estimated is 'whether pending, oldest_pending, retrying, dead and bytes_waiting are estimates, because there are too many to count';

comment on column lago_push.status.bytes_waiting is 'bytes of the payloads in the outbox';

comment on column lago_push.status.bytes_per_second is 'by how much that grows: what came in the last minute less what goes; below zero while it shrinks, 0 while nothing has waited for ten seconds';

comment on column lago_push.status.drains_in is 'how long it takes until nothing waits, at the pace the destination was last seen to take and at what comes now; null: not known, or never';

comment on column lago_push.status.capturing is 'whether rows that are written are captured; false for a draft, and where the trigger is off or gone';

comment on column lago_push.status.at_cap is 'whether as many messages wait as max_pending lets; null: not known yet';

comment on column lago_push.status.last_run_at is 'when the last run of its query began that came to an end; null for a table';

comment on view lago_push.runs is 'One row per run of a query: what it found, or why it failed.';

comment on column lago_push.runs.sync is 'name of the sync';

comment on column lago_push.runs.state is 'running: under way; succeeded; failed: see error, nothing was captured; interrupted: its process or the server ended before it did, and it is begun again';

comment on column lago_push.runs.started_at is 'when it began';

comment on column lago_push.runs.finished_at is 'when it ended; null while it is under way';

comment on column lago_push.runs.rows_read is 'rows the query gave; of a run under way, so far, like those that follow';

comment on column lago_push.runs.added is 'those of them with a key that was not there before';

comment on column lago_push.runs.changed is 'those with a column that was otherwise before';

comment on column lago_push.runs.removed is 'rows that were there before and are gone';

comment on column lago_push.runs.unchanged is 'rows that are as they were';

comment on column lago_push.runs.error is 'why it failed, in a sentence';

comment on column lago_push.runs.remark is 'what is to be known of it beside that';

comment on column lago_push.runs.pid is 'its process, while it is under way';

comment on column lago_push.destinations.messages_per_second is 'how many messages a second it took while more waited than could go, averaged over the last minutes; null: not known yet';

comment on column lago_push.workers.activity is 'what it does or waits for, as in pg_stat_activity; null when asleep';

comment on column lago_push.ledger.balanced is 'whether captured = delivered + dead + discarded + pending; false means that rows of lago_push''s tables are lost or were changed by hand; null where they are estimated: see lago_push.recount()';

comment on column lago_push.ledger.estimated is 'whether captured, pending or dead are estimates, because there are more than a million to count';

comment on function lago_push._recount(text) is 'Internal: does lago_push.recount().';

comment on function lago_push.recount(text) is 'The ledger, counted however many messages there are.';

comment on view lago_push.metrics is 'One row per figure, named and labelled as Prometheus wants it.';

comment on column lago_push.metrics.name is 'name of the metric; the README says what each means';

comment on column lago_push.metrics.labels is 'what it is about: sync, destination, source, reason or version';

comment on column lago_push.metrics.value is 'the figure now';

comment on function lago_push._privileges(text) is 'Internal: the privileges a kind of access consists of.';

comment on function lago_push._check_role(regrole) is 'Internal: refuses what is no role.';

comment on function lago_push._grant_access(regrole,text) is 'Internal: does lago_push.grant_access().';

comment on function lago_push._revoke_access(regrole) is 'Internal: does lago_push.revoke_access().';

select lago_push._close('table', 'lago_push.outbox_start');

select lago_push._close('sequence', 'lago_push.backfill_id_seq');

select lago_push._close('table', 'lago_push.backfill');

select lago_push._close('sequence', 'lago_push.run_id_seq');

select lago_push._close('table', 'lago_push.run');

select lago_push._close('table', 'lago_push.run_request');

select lago_push._close('table', 'lago_push.memory');

select lago_push._close('table', 'lago_push.remembered');

select lago_push._close('table', 'lago_push.instance');

select lago_push._close('function', 'lago_push._backlog(bigint,bigint)');
grant execute on function lago_push._backlog(bigint,bigint) to pg_monitor;

select lago_push._close('function', 'lago_push._capped()');
grant execute on function lago_push._capped() to pg_monitor;

select lago_push._close('function', 'lago_push._capture_rows(integer,bytea,integer)');

select lago_push._close('function', 'lago_push._check_query_recipe(bytea,bytea,oid[],bytea,bytea,text,bytea,text,text[],bytea,bytea)');

select lago_push._close('function', 'lago_push._count_written(integer,bigint)');

select lago_push._close('function', 'lago_push._end_run(integer)');

select lago_push._close('function', 'lago_push._estimate_rows(oid,bytea)');

select lago_push._close('function', 'lago_push._key_of_row(oid,bytea)');

select lago_push._close('function', 'lago_push._letters(integer,bigint)');
grant execute on function lago_push._letters(integer,bigint) to pg_monitor;

select lago_push._close('table', 'lago_push._figures');

select lago_push._close('function', 'lago_push._look()');

select lago_push._close('function', 'lago_push._query_columns(bytea,bytea,oid)');

select lago_push._close('function', 'lago_push._reconciled(integer,bigint,bigint,bytea,boolean,boolean)');

select lago_push._close('function', 'lago_push._runs_under_way()');
grant execute on function lago_push._runs_under_way() to pg_monitor;

select lago_push._close('function', 'lago_push._search_path()');

select lago_push._close('function', 'lago_push._this_instance()');

select lago_push._close('function', 'lago_push._note_instance()');

select lago_push._close('function', 'lago_push._locked_sync(text)');

select lago_push._close('function', 'lago_push._operate()');

select lago_push._close('function', 'lago_push._is_operator()');

select lago_push._close('function', 'lago_push._operated_sync(text)');

select lago_push._close('function', 'lago_push._create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');

select lago_push._close('function', 'lago_push._alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');

select lago_push._close('function', 'lago_push._fires(lago_push.sync)');

select lago_push._close('function', 'lago_push._set_fires(lago_push.sync,"char")');

select lago_push._close('function', 'lago_push._unheard(lago_push.sync)');

select lago_push._close('function', 'lago_push._operator(oid,oid,integer)');

select lago_push._close('function', 'lago_push._walking_key(regclass)');

select lago_push._close('function', 'lago_push._walked_table(regclass)');

select lago_push._close('function', 'lago_push._backfill_condition(lago_push.sync,text)');

select lago_push._close('function', 'lago_push._after_key(text[],text[],text[])');

select lago_push._close('function', 'lago_push._key_literals(text[],text[])');

select lago_push._close('function', 'lago_push._backfill_query(lago_push.sync,text,text[],text[],bigint)');

select lago_push._close('function', 'lago_push._last_key(regclass)');

select lago_push._close('function', 'lago_push._backfill_reach(integer)');

select lago_push._close('function', 'lago_push._backfill_runner(integer)');

select lago_push._close('function', 'lago_push._backfill_open(bytea,bytea,integer)');

select lago_push._close('function', 'lago_push._backfill_begin(integer,bytea,integer,boolean)');

select lago_push._close('function', 'lago_push._waiting_before(lago_push.sync,bigint,bigint)');

select lago_push._close('function', 'lago_push._backfill_step(integer,integer,bigint)');

select lago_push._close('table', 'lago_push.backfills');
grant select on table lago_push.backfills to pg_monitor;

select lago_push._close('function', 'lago_push._reconcile(text,timestamp with time zone,timestamp with time zone,text,boolean)');

select lago_push._close('function', 'lago_push._unix_micros(timestamp with time zone)');

select lago_push._close('function', 'lago_push._wake_for_run()');

select lago_push._close('function', 'lago_push._refuse_query(lago_push.sync,text)');

select lago_push._close('function', 'lago_push._check_rights(lago_push.sync)');

select lago_push._close('function', 'lago_push._columns_of(lago_push.sync)');

select lago_push._close('function', 'lago_push._query(text)');

select lago_push._close('function', 'lago_push._check_kind(lago_push.sync)');

select lago_push._close('function', 'lago_push._check_query(lago_push.sync)');

select lago_push._close('function', 'lago_push._default_overlap(lago_push.sync)');

select lago_push._close('function', 'lago_push._run_now(text,text)');

select lago_push._close('function', 'lago_push._workers()');
grant execute on function lago_push._workers() to pg_monitor;

select lago_push._close('function', 'lago_push.create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');

select lago_push._close('function', 'lago_push.alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');

select lago_push._close('function', 'lago_push.run_now(text,text)');

select lago_push._close('function', 'lago_push.reconcile(text,timestamp with time zone,timestamp with time zone,text,boolean)');

select lago_push._close('function', 'lago_push.grant_access(regrole,text)');

select lago_push._close('function', 'lago_push.revoke_access(regrole)');

select lago_push._close('procedure', 'lago_push.backfill(text,text,integer,boolean)');

select lago_push._close('table', 'lago_push.runs');
grant select on table lago_push.runs to pg_monitor;

select lago_push._close('function', 'lago_push._recount(text)');

select lago_push._close('function', 'lago_push.recount(text)');

select lago_push._close('table', 'lago_push.metrics');
grant select on table lago_push.metrics to pg_monitor;

select lago_push._close('function', 'lago_push._privileges(text)');

select lago_push._close('function', 'lago_push._check_role(regrole)');

select lago_push._close('function', 'lago_push._grant_access(regrole,text)');

select lago_push._close('function', 'lago_push._revoke_access(regrole)');

select pg_catalog.pg_extension_config_dump('lago_push.backfill', '');

select pg_catalog.pg_extension_config_dump('lago_push.backfill_id_seq', '');

select pg_catalog.pg_extension_config_dump('lago_push.run', '');

select pg_catalog.pg_extension_config_dump('lago_push.run_id_seq', '');

select pg_catalog.pg_extension_config_dump('lago_push.run_request', '');

select pg_catalog.pg_extension_config_dump('lago_push.memory', '');

select pg_catalog.pg_extension_config_dump('lago_push.remembered', '');

select lago_push._carry_grants_over('lago_push._workers_before()', 'lago_push._workers()');
select lago_push._carry_grants_over('lago_push._create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text)', 'lago_push._create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');
select lago_push._carry_grants_over('lago_push._alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text)', 'lago_push._alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');
select lago_push._carry_grants_over('lago_push.create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text)', 'lago_push.create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');
select lago_push._carry_grants_over('lago_push.alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text)', 'lago_push.alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)');

drop function lago_push._workers_before();
drop function lago_push._create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text);
drop function lago_push._alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text);
drop function lago_push.create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text);
drop function lago_push.alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text);

-- to here.

drop function lago_push._carry_grants_over(regprocedure, regprocedure);
drop function lago_push._close(text, text);

-- Who has delivered so far goes on: without a mark, destinations are taken for a dump's.
select lago_push._note_instance() where exists (select from lago_push.destination);

-- A worker that is at work gets to know what has changed when this commits.
select lago_push._wake();
