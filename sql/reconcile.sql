-- Reconcile: what was captured, held against what Lago says it has.

-- Purpose:    find the events that Lago does not have and should, has and should not, or has otherwise.
-- Parameters: since, until, the time of the events: from the one to before the other; subscription, the events of
--             one only; resend, whether what is missing is captured once more.
-- Returns:    one row per event that something is wrong with.
-- Example:    select * from lago_push.reconcile('api_calls', since => '2025-06-01', until => '2025-07-01');
create function lago_push._reconcile(sync text, since timestamptz, until timestamptz, subscription text, resend boolean)
returns table (external_subscription_id text, transaction_id text, finding text, detail text, event_time timestamptz, resent boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
-- Capture sees every row, so a policy that hides some must be an error here.
set row_security = off
as $$
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
$$;
comment on function lago_push._reconcile(text, timestamptz, timestamptz, text, boolean) is 'Internal: does lago_push.reconcile().';

-- Purpose:    a moment in microseconds since 1970, within the years a calendar of four digits has.
create function lago_push._unix_micros(moment timestamptz)
returns bigint
language sql immutable strict
set search_path = pg_catalog, pg_temp
as $$
    select (extract(epoch from least(greatest(moment, '0001-01-01 00:00:00+00'::timestamptz), '9999-12-31 00:00:00+00'::timestamptz)) * 1000000)::bigint;
$$;
comment on function lago_push._unix_micros(timestamptz) is 'Internal: a moment in microseconds since 1970.';
