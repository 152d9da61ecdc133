-- Flush: waiting for deliveries.

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
$$;
comment on function lago_push._flush(text, interval) is 'Internal: does lago_push.flush().';
