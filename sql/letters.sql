-- Letters: giving dead letters another try.

-- Purpose:    put dead letters back into the outbox.
-- Parameters: filter, a condition over lago_push.dead_letters, evaluated with the caller's rights.
-- Returns:    how many. Those that still cannot be rendered stay, with their new reason.
-- Example:    select lago_push.redrive('api_calls', filter => 'reason like ''column %''');
create function lago_push._redrive(sync text, filter text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted lago_push.sync := lago_push._sync(_redrive.sync);
    page bigint[];
    letter lago_push.dead_letter;
    again record;
    from_id bigint := -1;
    redriven bigint := 0;
begin
    if _redrive.filter is not null then
        perform lago_push._check_filter(convert_to(_redrive.filter, getdatabaseencoding()));
    end if;
    -- Before the first id is drawn: the worker's account of late commits rests on this order.
    perform pg_current_xact_id();
    loop
        -- Some at a time: there may be millions.
        select array_agg(l.id) into page
          from (select l.id from lago_push.dead_letter l
                 where l.sync_id = wanted.id and l.id > from_id order by l.id limit 1000) l;
        exit when page is null;
        from_id := page[cardinality(page)];
        if _redrive.filter is not null then
            page := lago_push._filter_letters(
                convert_to(_redrive.filter, getdatabaseencoding()),
                (select convert_to(json_agg(d)::text, getdatabaseencoding()) from lago_push.dead_letters d where d.id = any (page)));
        end if;
        for letter in select l.* from lago_push.dead_letter l where l.id = any (page) order by l.id for update loop
            select letter.payload as payload, letter.path as path, letter.key as key, false as skipped, null::text as reason into again;
            if letter.payload is null then
                if letter.source_row is null then
                    continue;
                end if;
                if not exists (select from pg_class c where c.oid = wanted.source) then
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
            if not again.skipped then
                insert into lago_push.message (id, enqueued_at, sync_id, operation, payload, path, key)
                values (nextval('lago_push.message_id'), letter.enqueued_at, wanted.id, letter.operation, again.payload, again.path, again.key);
            end if;
            redriven := redriven + 1;
        end loop;
    end loop;
    if redriven > 0 then
        perform lago_push._wake_for_messages();
    end if;
    return redriven;
end
$$;
comment on function lago_push._redrive(text, text) is 'Internal: does lago_push.redrive().';
