-- Corrections: giving a dead letter another payload, by hand.

-- Purpose:    replace a dead letter's payload, or give one to a letter that could not be rendered. It is sent
--             by the next redrive.
-- Parameters: letter, its id in lago_push.dead_letters; payload, stored as it is given. Keys that belong into the
--             path are taken into it; without any of them the letter's path stays. Another transaction_id is
--             allowed: where two rows were given the same by mistake, only that repairs it. It is the caller's word
--             that Lago has not billed the row under the former one.
-- Example:    select lago_push.correct(7, '{"transaction_id": "call-7b", …}');
create function lago_push._correct(letter bigint, payload text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function lago_push._correct(bigint, text) is 'Internal: does lago_push.correct().';

-- Purpose:    find a dead letter, or say that there is none.
create function lago_push._letter(letter bigint)
returns lago_push.dead_letter
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    dead lago_push.dead_letter;
begin
    select l.* into dead from lago_push.dead_letter l where l.id = _letter.letter;
    if dead.id is null then
        raise exception using errcode = 'undefined_object',
            message = format('dead letter %s does not exist', coalesce(_letter.letter::text, 'null')),
            detail = 'It never did, or it has been redriven or discarded since.',
            hint = 'The view lago_push.dead_letters shows those there are.';
    end if;
    return dead;
end
$$;
comment on function lago_push._letter(bigint) is 'Internal: a dead letter by its number, or an error.';
