-- Letters: giving dead letters another try, or giving them up.

-- Purpose:    the next of a sync's letters, and which of them a filter picks. Some at a time: there may be millions.
-- Parameters: sync_id, null for the letters under a name that belong to no sync; from_id, the last one seen.
-- Returns:    last_id, the last one looked at, null when there are no more; picked, in the order of capture.
create function lago_push._next_letters(sync_id integer, name text, from_id bigint, filter text, out last_id bigint, out picked bigint[])
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if sync_id is not null then
        select array_agg(l.id order by l.id) into picked
          from (select l.id from lago_push.dead_letter l
                 where l.sync_id = _next_letters.sync_id and l.id > from_id order by l.id limit 1000) l;
    else
        select array_agg(l.id order by l.id) into picked
          from (select l.id from lago_push.dead_letter l
                 where l.sync_name = _next_letters.name and l.id > from_id
                   and not exists (select from lago_push.sync s where s.id = l.sync_id)
                 order by l.id limit 1000) l;
    end if;
    last_id := picked[cardinality(picked)];
    if last_id is not null and _next_letters.filter is not null then
        picked := lago_push._filter_letters(
            convert_to(_next_letters.filter, getdatabaseencoding()),
            (select convert_to(json_agg(d)::text, getdatabaseencoding()) from lago_push.dead_letters d where d.id = any (picked)));
    end if;
end
$$;
comment on function lago_push._next_letters(integer, text, bigint, text) is 'Internal: the next of a sync''s dead letters, and which of them a filter picks.';

-- Purpose:    write down what a call did to a sync's letters. A new row each time: a total would have to be
--             updated, and whoever else moves it would wait until this transaction ends.
create function lago_push._note_intervention(sync_id integer, what text, captured bigint, redriven bigint, discarded bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into lago_push.intervention (sync_id, by, what, captured, redriven, discarded)
    values (_note_intervention.sync_id, lago_push._caller()::text, _note_intervention.what,
            _note_intervention.captured, _note_intervention.redriven, _note_intervention.discarded);
$$;
comment on function lago_push._note_intervention(integer, text, bigint, bigint, bigint) is 'Internal: writes down what was done to dead letters, and by whom.';

-- Purpose:    put dead letters back into the outbox.
-- Parameters: filter, a condition over lago_push.dead_letters, evaluated with the caller's rights.
-- Returns:    how many. Those that still cannot be rendered stay, with their new reason; those of which nothing is
--             sent any more are among the number, and in the ledger they are discarded.
-- Example:    select lago_push.redrive('api_calls', filter => 'reason like ''column %''');
create function lago_push._redrive(sync text, filter text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function lago_push._redrive(text, text) is 'Internal: does lago_push.redrive().';

-- Purpose:    give dead letters up.
-- Parameters: sync, or a name that letters bear and no sync has: those an operator discards;
--             filter, as of redrive.
-- Returns:    how many.
-- Example:    select lago_push.discard('api_calls', filter => 'died_at < now() - interval ''1 year''');
create function lago_push._discard(sync text, filter text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function lago_push._discard(text, text) is 'Internal: does lago_push.discard().';

-- Purpose:    delete letters.
-- Parameters: those of _next_letters.
-- Returns:    how many, and how many captured rows they had entered as.
create function lago_push._discard_letters(sync_id integer, name text, filter text, out letters bigint, out captured bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    page bigint[];
    from_id bigint := -1;
    of_page record;
begin
    letters := 0;
    captured := 0;
    loop
        select n.last_id, n.picked into from_id, page
          from lago_push._next_letters(_discard_letters.sync_id, _discard_letters.name, from_id, _discard_letters.filter) n;
        exit when from_id is null;
        with gone as (delete from lago_push.dead_letter l where l.id = any (page) returning l.entered)
        select count(*) as letters, coalesce(sum(g.entered), 0) as captured into of_page from gone g;
        letters := letters + of_page.letters;
        captured := captured + of_page.captured;
    end loop;
end
$$;
comment on function lago_push._discard_letters(integer, text, text) is 'Internal: deletes dead letters, and counts them.';
