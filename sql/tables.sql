-- Tables: what lago_push keeps. They are private; the views are what users read.
-- A dump carries configuration, waiting messages and accounts, but never an API key.

-- Whoever owns the schema, or may create in it, could lay functions beside those below that calls of the owner's
-- would take for them. A dump is restored into an empty schema of a superuser's.
do $$
declare
    own pg_catalog.pg_namespace;
begin
    select n.* into own from pg_catalog.pg_namespace n where n.nspname operator(pg_catalog.=) 'lago_push';
    if own.nspowner operator(pg_catalog.<>) (select r.oid from pg_catalog.pg_roles r where r.rolname operator(pg_catalog.=) current_user)
       and not (select r.rolsuper from pg_catalog.pg_roles r where r.oid operator(pg_catalog.=) own.nspowner)
       or exists (select from pg_catalog.aclexplode(own.nspacl) a
                   where a.grantee operator(pg_catalog.<>) own.nspowner and a.privilege_type operator(pg_catalog.=) 'CREATE')
       or exists (select from pg_catalog.pg_depend d
                   where d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
                     and d.refobjid operator(pg_catalog.=) own.oid and d.deptype operator(pg_catalog.=) 'n'
                     and d.classid operator(pg_catalog.<>) 'pg_catalog.pg_extension'::pg_catalog.regclass) then
        raise exception using errcode = 'invalid_schema_name',
            message = 'schema "lago_push" is there already and is not lago_push''s alone',
            detail = 'What others own or create in it would run with the rights of the extension''s owner.',
            hint = 'If nobody needs what is in it: drop schema lago_push cascade. Then create the extension again.';
    end if;
end
$$;

create table lago_push.destination (
    id           integer generated always as identity,
    name         text not null,
    url          text not null,
    headers      jsonb not null default '{}',
    rate_limit   numeric,
    connections  integer not null default 16,
    timeout      interval not null default '30 s',
    ca_file      text,
    proxy        text,
    allow_http   boolean not null default false,
    api_key_file text,
    held_because text,
    connect_timeout interval not null default '10 s',
    -- None: as long as the whole request may take.
    read_timeout    interval,
    constraint destination_is_numbered primary key (id),
    constraint destination_name_is_unique unique (name),
    constraint destination_has_a_name check (name <> ''),
    constraint headers_are_text_by_name check (jsonb_typeof(headers) = 'object'),
    constraint rate_limit_is_positive check (rate_limit > 0 and rate_limit <= 1000000),
    constraint connections_are_1_to_256 check (connections between 1 and 256),
    constraint timeout_is_1_s_to_1_h check (timeout between '1 s' and '1 h'),
    constraint connect_timeout_is_100_ms_to_1_h check (connect_timeout between '100 ms' and '1 h'),
    constraint read_timeout_is_100_ms_to_1_h check (read_timeout between '100 ms' and '1 h')
);
comment on table lago_push.destination is 'One Lago organization: where it is and how to talk to it. Private; read lago_push.destinations.';

-- Apart from lago_push.destination, so that a dump can carry the one and not the other.
create table lago_push.api_key (
    destination_id integer not null,
    api_key        text not null,
    constraint one_api_key_per_destination primary key (destination_id),
    constraint api_key_belongs_to_a_destination
        foreign key (destination_id) references lago_push.destination (id) on delete cascade,
    constraint api_key_is_not_empty check (api_key <> '')
);
-- No policy: rows are hidden from everybody but the owner and superusers, pg_read_all_data included.
alter table lago_push.api_key enable row level security;
-- Nor may statistics hold any: pg_read_all_data reads those of every table.
alter table lago_push.api_key alter column api_key set statistics 0;
comment on table lago_push.api_key is 'The API key of each destination. Readable by the extension''s owner only, and in no dump.';

create table lago_push.destination_health (
    destination_id  integer not null,
    requests        bigint not null default 0,
    failures        bigint not null default 0,
    next_attempt_at timestamptz,
    last_status     integer,
    last_error      text,
    last_error_at   timestamptz,
    -- What it took while there was enough to do, averaged over the last minutes; null: not known yet.
    messages_per_second double precision,
    -- When that was last seen.
    paced_at        timestamptz,
    constraint one_health_per_destination primary key (destination_id),
    constraint health_belongs_to_a_destination
        foreign key (destination_id) references lago_push.destination (id) on delete cascade
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table lago_push.destination_health is 'How each destination answered so far; written by the worker. Private; read lago_push.destinations.';

-- Apart from lago_push.destination, so that the worker never waits for a session that is changing one.
create table lago_push.destination_hold (
    destination_id integer not null,
    since          timestamptz not null default pg_catalog.clock_timestamp(),
    why            text not null,
    constraint one_hold_per_destination primary key (destination_id),
    constraint hold_belongs_to_a_destination
        foreign key (destination_id) references lago_push.destination (id) on delete cascade
);
comment on table lago_push.destination_hold is 'Destinations the worker has stopped delivering to, because only somebody can put right what is wrong. Private; read lago_push.destinations.';

create table lago_push.sync (
    id             integer generated always as identity,
    name           text not null,
    -- The table whose rows are captured; null where a query takes its place.
    source         regclass,
    destination_id integer not null,
    endpoint       text not null,
    -- What a message is made by: one of the two, or neither where the path alone says it all.
    template       text,
    -- Name and argument types, fully qualified. Not a regprocedure: pg_upgrade refuses such a column.
    mapper         text,
    operations     text[] not null,
    columns        name[],
    filter         text,
    exclude        name[],
    unchanged      text not null default 'send',
    -- Where the call departs from the endpoint's own.
    method         text,
    path           text,
    root           text,
    headers        jsonb not null default '{}',
    batch_size     integer not null default 100,
    schedule       text,
    keep_replies   interval,
    on_error       text not null default 'dead_letter',
    state          text not null default 'draft',
    order_by       text,
    -- How many messages may wait, and what becomes of rows beyond; null: any number.
    max_pending    bigint,
    when_full      text not null default 'warn',
    -- What gives the rows where there is no source: runs compare what it gives with what it gave before.
    query          text,
    -- The query's columns that tell its rows apart.
    key            name[],
    -- Its column that only grows, where not everything is read each time; and how far behind the highest value reading begins.
    cursor         name,
    overlap        text,
    -- The share of the rows that one run may take for removed.
    max_removed    double precision,
    -- What becomes of the rows that are there at the first run.
    first_run      text,
    -- How long a run may take; null: as long as it does.
    time_limit     interval,
    -- With whose rights the query runs, and where it looks for names.
    run_as         regrole,
    search_path    text,
    -- Its columns when it was checked last: an array of objects of name and type.
    query_columns  jsonb,
    constraint sync_is_numbered primary key (id),
    constraint sync_name_is_unique unique (name),
    constraint sync_has_a_name check (name <> ''),
    constraint sync_has_a_destination
        foreign key (destination_id) references lago_push.destination (id),
    constraint operations_are_known check (operations <@ '{insert,update,delete}' and operations <> '{}'),
    constraint template_or_mapper check (template is null or mapper is null),
    constraint template_or_mapper_or_path check (template is not null or mapper is not null or path is not null),
    constraint unchanged_is_known check (unchanged in ('send', 'skip')),
    constraint method_is_known check (method in ('POST', 'PUT', 'PATCH', 'DELETE')),
    constraint sync_headers_are_text_by_name check (jsonb_typeof(headers) = 'object'),
    constraint batch_size_is_1_to_100 check (batch_size between 1 and 100),
    constraint keep_replies_is_positive check (keep_replies > '0'),
    constraint on_error_is_known check (on_error in ('dead_letter', 'raise')),
    constraint state_is_known check (state in ('draft', 'active', 'paused')),
    constraint max_pending_is_positive check (max_pending > 0),
    constraint when_full_is_known check (when_full in ('warn', 'dead_letter', 'raise')),
    constraint source_or_query check ((source is null) <> (query is null)),
    constraint query_is_complete check (query is null or
        (key is not null and max_removed is not null and first_run is not null and run_as is not null
         and search_path is not null and query_columns is not null)),
    constraint max_removed_is_a_share check (max_removed between 0 and 1),
    constraint first_run_is_known check (first_run in ('send', 'remember')),
    constraint time_limit_is_positive check (time_limit > '0')
);
comment on table lago_push.sync is 'Source table or query, operations, template, endpoint and destination. Private; read lago_push.status.';

create table lago_push.account (
    sync_id           integer not null,
    -- Of what has left the outbox: what it entered as. The rest stands with what is still there.
    captured          bigint not null default 0,
    delivered         bigint not null default 0,
    duplicate         bigint not null default 0,
    last_delivered_at timestamptz,
    last_error        text,
    last_error_at     timestamptz,
    constraint one_account_per_sync primary key (sync_id),
    constraint account_belongs_to_a_sync
        foreign key (sync_id) references lago_push.sync (id) on delete cascade
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table lago_push.account is 'What became of each sync''s messages so far; moves in the transaction that settles them. Private; read lago_push.status.';

-- One row per call of a function, and no running total: the worker must not wait for a session that has
-- redriven letters and not committed.
create table lago_push.intervention (
    sync_id   integer not null,
    at        timestamptz not null default pg_catalog.clock_timestamp(),
    by        text not null,
    what      text not null,
    captured  bigint not null default 0,
    redriven  bigint not null default 0,
    discarded bigint not null default 0,
    constraint intervention_belongs_to_a_sync
        foreign key (sync_id) references lago_push.sync (id) on delete cascade
);
create index intervention_by_sync on lago_push.intervention (sync_id);
comment on table lago_push.intervention is 'What was done to dead letters, by whom. Private; lago_push.ledger sums it up.';

create sequence lago_push.message_id as bigint;
comment on sequence lago_push.message_id is 'Numbers messages in the order of capture. Gaps are normal: rolled-back transactions leave them.';

-- Inserted, then deleted, never updated. No foreign key: it would lock the sync's row for every
-- transaction that bills. Payloads stay in line up to a page: they are read once, soon.
create table lago_push.message (
    id          bigint not null,
    enqueued_at timestamptz not null,
    sync_id     integer not null,
    -- How many captured rows are counted with this message: all that one write added of its sync, or none.
    entered     integer not null default 1,
    operation   "char" not null,
    -- The request's body, or one element of it; empty where the call has none.
    payload     text not null,
    -- The request's path, where it depends on the row; else the endpoint's own.
    path        text,
    -- Messages of a sync that have the same one go one after the other.
    key         bigint,
    constraint message_is_numbered primary key (id)
) with (
    toast_tuple_target = 8160,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000
);
alter table lago_push.message alter column payload set storage external;
comment on table lago_push.message is 'The outbox: payloads frozen in the transaction that caused them, until they are settled. Private; read lago_push.outbox.';

-- Apart from every other table, because it is written in settlements and read by every look at the outbox.
create table lago_push.outbox_start (
    id bigint not null
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
create unique index one_outbox_start on lago_push.outbox_start ((true));
comment on table lago_push.outbox_start is 'An id below which the outbox has no message any more; noted by the worker now and then, so that views need not look there. In no dump. Private.';

create table lago_push.retry (
    message_id      bigint not null,
    attempts        integer not null,
    next_attempt_at timestamptz not null,
    last_error      text not null,
    constraint one_retry_per_message primary key (message_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table lago_push.retry is 'The messages that failed by what may be their own fault, and when each is tried again. Private; read lago_push.outbox.';

create table lago_push.dead_letter (
    id           bigint not null,
    enqueued_at  timestamptz not null,
    died_at      timestamptz not null,
    sync_id      integer,
    attempts     integer not null,
    reply_status integer,
    operation    "char" not null,
    sync_name    text not null,
    reason       text not null,
    payload      text,
    source_row   json,
    reply        text,
    path         text,
    -- The row before an update, so that what could not be rendered can be rendered again.
    old_row      json,
    entered      integer not null default 0,
    key          bigint,
    constraint dead_letter_is_numbered primary key (id)
);
alter table lago_push.dead_letter alter column payload set storage external;
create index dead_letter_by_sync on lago_push.dead_letter (sync_id, id);
comment on table lago_push.dead_letter is 'Messages that Lago rejected and rows that could not be rendered, each with its reason. Private; read lago_push.dead_letters.';

-- Public: users read it, and may put triggers on it. What a trigger does wrong is undone by itself
-- and costs the reply, never the delivery.
create table lago_push.reply (
    id         bigint not null,
    sync       text not null,
    operation  text not null,
    payload    jsonb,
    status     integer not null,
    reply      jsonb,
    replied_at timestamptz not null default pg_catalog.clock_timestamp(),
    keep_until timestamptz not null,
    constraint reply_is_numbered primary key (id)
);
create index reply_by_end on lago_push.reply (keep_until);
comment on table lago_push.reply is 'What Lago answered to the messages of syncs with keep_replies, until keep_until. Read lago_push.replies; put triggers here.';
comment on column lago_push.reply.id is 'number of the message';
comment on column lago_push.reply.sync is 'name of the sync';
comment on column lago_push.reply.operation is 'what happened to the row: insert, update or delete';
comment on column lago_push.reply.payload is 'what was sent';
comment on column lago_push.reply.status is 'HTTP status of the answer';
comment on column lago_push.reply.reply is 'the answer; of a batch, this message''s part of it';
comment on column lago_push.reply.replied_at is 'when it was written down';
comment on column lago_push.reply.keep_until is 'when it is removed';

-- What has become of the existing rows of a sync's source that somebody wanted sent.
create table lago_push.backfill (
    id             integer generated always as identity,
    sync_id        integer not null,
    filter         text,
    chunk          integer not null,
    by             text not null,
    -- The columns of the key it walks by, and that key of the last row looked at; null before the first.
    walked_by      text[] not null,
    position       text[],
    -- The last key there was when it began; null if there was no row. What came after was captured live.
    until          text[],
    rows_done      bigint not null default 0,
    rows_estimated bigint,
    -- Those that do not meet the filter included.
    rows_seen      bigint not null default 0,
    table_rows     bigint,
    started_at     timestamptz not null default pg_catalog.clock_timestamp(),
    moved_at       timestamptz not null default pg_catalog.clock_timestamp(),
    finished_at    timestamptz,
    -- The call that is at it, or was last, and how far it had come before.
    resumed_at     timestamptz not null default pg_catalog.clock_timestamp(),
    resumed_done   bigint not null default 0,
    resumed_seen   bigint not null default 0,
    constraint backfill_is_numbered primary key (id),
    constraint backfill_belongs_to_a_sync
        foreign key (sync_id) references lago_push.sync (id) on delete cascade,
    constraint chunk_is_1_to_100000 check (chunk between 1 and 100000)
);
create index backfill_by_sync on lago_push.backfill (sync_id);
create unique index one_unfinished_backfill_per_sync on lago_push.backfill (sync_id) where finished_at is null;
comment on table lago_push.backfill is 'How far each backfill has come; moves in the transaction that captures its rows. Private; read lago_push.backfills.';

-- Written twice: when a run begins, and in its own transaction when it ends, or in one more when it fails.
create table lago_push.run (
    id          bigint generated always as identity,
    sync_id     integer not null,
    state       text not null default 'running',
    started_at  timestamptz not null default pg_catalog.clock_timestamp(),
    finished_at timestamptz,
    rows_read   bigint,
    added       bigint,
    changed     bigint,
    removed     bigint,
    unchanged   bigint,
    error       text,
    remark      text,
    constraint run_is_numbered primary key (id),
    constraint run_state_is_known check (state in ('running', 'succeeded', 'failed', 'interrupted')),
    constraint run_belongs_to_a_sync
        foreign key (sync_id) references lago_push.sync (id) on delete cascade
);
create index run_by_sync on lago_push.run (sync_id, id);
comment on table lago_push.run is 'The runs of each query, for as long as lago_push.keep_runs says. Private; read lago_push.runs.';

-- A row for each asking, so that nobody who asks has to wait for a run, nor it for him.
create table lago_push.run_request (
    sync_id  integer not null,
    asked_at timestamptz not null default pg_catalog.clock_timestamp(),
    removals text not null,
    constraint run_request_belongs_to_a_sync
        foreign key (sync_id) references lago_push.sync (id) on delete cascade,
    constraint removals_are_known check (removals in ('limited', 'accepted'))
);
create index run_request_by_sync on lago_push.run_request (sync_id);
comment on table lago_push.run_request is 'Runs that were asked for with lago_push.run_now() and have not begun. Private.';

-- Moves in the transaction of each run, with the rows it remembers and the messages it makes.
create table lago_push.memory (
    sync_id    integer not null,
    activated_at timestamptz,
    -- How many runs have ended well; they are numbered by it, and so are the ids of what they send.
    runs       bigint not null default 0,
    failures   bigint not null default 0,
    row_count  bigint not null default 0,
    -- What was compared, and whether whole rows were kept: a change of either is no change of the rows.
    compared   text,
    whole_rows boolean not null default false,
    -- The highest value of the sync's cursor that was read.
    high_water text,
    constraint one_memory_per_sync primary key (sync_id),
    constraint memory_belongs_to_a_sync
        foreign key (sync_id) references lago_push.sync (id) on delete cascade
) with (fillfactor = 50);
comment on table lago_push.memory is 'What the runs of each query have come to. Private.';

-- No foreign key: it would look up the sync for each row of a source of millions.
create table lago_push.remembered (
    sync_id integer not null,
    key     text collate "C" not null,
    -- The first half of a SHA-256 of what is compared.
    digest  uuid not null,
    -- The whole row, where an update or a delete is made of it.
    row     json,
    constraint keys_are_remembered_once primary key (sync_id, key)
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.1);
comment on table lago_push.remembered is 'The rows each query gave when it ran last, by key. Private.';

-- Which server and database these tables were last served by. In no dump: who restores one is another.
create table lago_push.instance (
    system_identifier bigint not null,
    database          oid not null,
    major_version     integer not null,
    timeline          integer not null,
    -- What only this data directory on this machine has; see src/instance.rs.
    place             text not null,
    noted_at          timestamptz not null default pg_catalog.clock_timestamp()
);
create unique index one_instance on lago_push.instance ((true));
comment on table lago_push.instance is 'The server and database that deliver. A copy finds here that it is one. Private.';

select pg_catalog.pg_extension_config_dump('lago_push.destination', '');
select pg_catalog.pg_extension_config_dump('lago_push.destination_id_seq', '');
select pg_catalog.pg_extension_config_dump('lago_push.destination_health', '');
select pg_catalog.pg_extension_config_dump('lago_push.destination_hold', '');
select pg_catalog.pg_extension_config_dump('lago_push.sync', '');
select pg_catalog.pg_extension_config_dump('lago_push.sync_id_seq', '');
select pg_catalog.pg_extension_config_dump('lago_push.account', '');
select pg_catalog.pg_extension_config_dump('lago_push.intervention', '');
select pg_catalog.pg_extension_config_dump('lago_push.message_id', '');
select pg_catalog.pg_extension_config_dump('lago_push.message', '');
select pg_catalog.pg_extension_config_dump('lago_push.retry', '');
select pg_catalog.pg_extension_config_dump('lago_push.dead_letter', '');
select pg_catalog.pg_extension_config_dump('lago_push.reply', '');
select pg_catalog.pg_extension_config_dump('lago_push.backfill', '');
select pg_catalog.pg_extension_config_dump('lago_push.backfill_id_seq', '');
select pg_catalog.pg_extension_config_dump('lago_push.run', '');
select pg_catalog.pg_extension_config_dump('lago_push.run_id_seq', '');
select pg_catalog.pg_extension_config_dump('lago_push.run_request', '');
select pg_catalog.pg_extension_config_dump('lago_push.memory', '');
select pg_catalog.pg_extension_config_dump('lago_push.remembered', '');
