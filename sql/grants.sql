-- Grants: closed by default. What is granted here holds no payload and no secret.

-- Default privileges of this database may have granted something on what has just been made.
do $$
declare
    granted record;
begin
    for granted in
        select distinct case a.grantee when 0 then 'public' else a.grantee::pg_catalog.regrole::text end as grantee, o.kind, o.object
          from (select case c.relkind when 'S' then 'sequence' else 'table' end as kind, c.oid::pg_catalog.regclass::text as object,
                       c.relacl as acl, c.relowner as owner
                  from pg_catalog.pg_class c where c.relnamespace = 'lago_push'::pg_catalog.regnamespace and c.relkind in ('r', 'v', 'S')
                union all
                select case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::pg_catalog.regprocedure::text,
                       p.proacl, p.proowner
                  from pg_catalog.pg_proc p where p.pronamespace = 'lago_push'::pg_catalog.regnamespace
                union all
                select 'schema', 'lago_push', n.nspacl, n.nspowner
                  from pg_catalog.pg_namespace n where n.nspname = 'lago_push') o
         cross join pg_catalog.aclexplode(o.acl) a
         where a.grantee <> o.owner
    loop
        execute pg_catalog.format('revoke all on %s %s from %s', granted.kind, granted.object, granted.grantee);
    end loop;
end
$$;

revoke all on schema lago_push from public;
revoke all on all tables in schema lago_push from public;
revoke all on all sequences in schema lago_push from public;
revoke all on all functions in schema lago_push from public;
revoke all on all procedures in schema lago_push from public;

grant usage on schema lago_push to pg_monitor;
grant execute on function lago_push._workers(), lago_push._in_flight(), lago_push._capped(), lago_push._endpoints(),
    lago_push._runs_under_way(),
    lago_push._backlog(bigint, bigint), lago_push._letters(integer, bigint) to pg_monitor;
grant select on lago_push.status, lago_push.destinations, lago_push.workers, lago_push.endpoints, lago_push.ledger,
    lago_push.metrics, lago_push.backfills, lago_push.runs to pg_monitor;
