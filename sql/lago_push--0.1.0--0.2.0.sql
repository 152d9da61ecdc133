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

-- Written by scripts/upgrade-sql from here

create table lago_push.backfill (
    id integer generated always as identity,
    sync_id integer not null,
    filter text,
    chunk integer not null,
    by text not null,
    "position" text[],
    rows_done bigint not null default 0,
    rows_estimated bigint,
    started_at timestamp with time zone not null default clock_timestamp(),
    moved_at timestamp with time zone not null default clock_timestamp(),
    finished_at timestamp with time zone,
    constraint chunk_is_1_to_100000 CHECK (((chunk >= 1) AND (chunk <= 100000))),
    constraint backfill_is_numbered PRIMARY KEY (id),
    constraint backfill_belongs_to_a_sync FOREIGN KEY (sync_id) REFERENCES lago_push.sync(id) ON DELETE CASCADE
);

create table lago_push.instance (
    system_identifier bigint not null,
    database oid not null,
    major_version integer not null,
    timeline integer not null,
    place text not null,
    noted_at timestamp with time zone not null default clock_timestamp()
);

alter table lago_push.destination_health add column messages_per_second double precision;

alter table lago_push.sync add column max_pending bigint;

alter table lago_push.sync add column when_full text not null default 'warn'::text;

alter table lago_push.sync add constraint max_pending_is_positive CHECK ((max_pending > 0));

alter table lago_push.sync add constraint when_full_is_known CHECK ((when_full = ANY (ARRAY['warn'::text, 'dead_letter'::text, 'raise'::text])));

CREATE INDEX backfill_by_sync ON lago_push.backfill USING btree (sync_id);

CREATE UNIQUE INDEX one_instance ON lago_push.instance USING btree ((true));

comment on table lago_push.backfill is 'How far each backfill has come; moves in the transaction that captures its rows. Private; read lago_push.backfills.';

comment on table lago_push.instance is 'The server and database that deliver. A copy finds here that it is one. Private.';

revoke all on sequence lago_push.backfill_id_seq from public;

revoke all on table lago_push.backfill from public;

revoke all on table lago_push.instance from public;

select pg_catalog.pg_extension_config_dump('lago_push.backfill', '');

select pg_catalog.pg_extension_config_dump('lago_push.backfill_id_seq', '');

-- to here.

drop function lago_push._carry_grants_over(regprocedure, regprocedure);

-- A worker that is at work gets to know what has changed when this commits.
select lago_push._wake();
