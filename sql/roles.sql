-- Roles: what one call grants to those who make syncs, run them, or decide where the data goes.
--
-- Each kind of access is a list of privileges on objects of this schema, and granting it is granting these: no
-- role is made, nothing outside the schema is touched, and a dump carries the grants like any others.

-- Purpose:    the privileges a kind of access consists of.
-- Returns:    the part of a GRANT between "grant" and "to".
create function lago_push._privileges(access text)
returns setof text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function lago_push._privileges(text) is 'Internal: the privileges a kind of access consists of.';

-- Purpose:    refuse a role that is none.
create function lago_push._check_role(role regrole)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from pg_roles r where r.oid = _check_role.role) then
        raise exception using errcode = 'invalid_parameter_value',
            message = 'access is granted to a role',
            hint = 'Name one: lago_push.grant_access(''billing_ops'', ''operator''). PUBLIC is none.';
    end if;
end
$$;
comment on function lago_push._check_role(regrole) is 'Internal: refuses what is no role.';

-- Purpose:    grant a role all it needs for what it is to do.
-- Parameters: access, maker, operator, admin or monitor. They add up.
-- Example:    select lago_push.grant_access('billing_ops', 'operator');
create function lago_push._grant_access(role regrole, access text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    privilege text;
begin
    perform lago_push._check_role(role);
    for privilege in select p from lago_push._privileges(access) p loop
        execute format('grant %s to %s', privilege, role);
    end loop;
end
$$;
comment on function lago_push._grant_access(regrole, text) is 'Internal: does lago_push.grant_access().';

-- Purpose:    take from a role everything it was granted in this schema, by grant_access() or by hand.
create function lago_push._revoke_access(role regrole)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    kind text;
begin
    perform lago_push._check_role(role);
    foreach kind in array array['tables', 'sequences', 'functions', 'procedures'] loop
        execute format('revoke all on all %s in schema lago_push from %s', kind, role);
    end loop;
    execute format('revoke all on schema lago_push from %s', role);
end
$$;
comment on function lago_push._revoke_access(regrole) is 'Internal: does lago_push.revoke_access().';
