-- Ledger: whether every captured row is accounted for. One query, so that all figures are of one snapshot.
--
-- What was captured is counted where it is captured, once for all rows a write adds, and that count travels with
-- one of them: from message to dead letter and back, and at last into the account or the note of who gave it up.
-- What became of the rows is counted one by one. The two know nothing of each other, so what vanishes from one
-- side only shows. Beyond a million messages they are estimated, and nothing is held against anything;
-- lago_push.recount() counts any number.

create view lago_push.ledger as
with waiting as materialized (
    select b.* from lago_push._backlog(coalesce((select o.id from lago_push.outbox_start o), 0), 1000000) b
)
select l.sync,
       -- A number that one message bears for a thousand cannot be estimated from a few of them.
       case when l.estimated then l.delivered + l.dead + l.discarded + l.pending else l.captured end as captured,
       l.delivered,
       l.duplicate,
       l.dead,
       l.redriven,
       l.discarded,
       l.pending,
       case when not l.estimated then l.captured = l.delivered + l.dead + l.discarded + l.pending end as balanced,
       l.estimated
  from (select s.name as sync,
               coalesce(a.captured, 0) + coalesce(w.entered, 0) + kept.entered + coalesce(done.captured, 0) as captured,
               coalesce(a.delivered, 0) as delivered,
               coalesce(a.duplicate, 0) as duplicate,
               kept.letters as dead,
               coalesce(done.redriven, 0) as redriven,
               coalesce(done.discarded, 0) as discarded,
               coalesce(w.pending, 0) as pending,
               t.estimated or kept.estimated as estimated
          from lago_push.sync s
         cross join (select pg_catalog.bool_or(w.estimated) as estimated from waiting w) t
          left join lateral (select a.* from lago_push.account a where a.sync_id = s.id limit 1) a on true
          left join lateral (select w.* from waiting w where w.sync_id = s.id limit 1) w on true
         cross join lateral lago_push._letters(s.id, 1000000) kept
          left join (select i.sync_id,
                            pg_catalog.sum(i.captured)::bigint as captured,
                            pg_catalog.sum(i.redriven)::bigint as redriven,
                            pg_catalog.sum(i.discarded)::bigint as discarded
                       from lago_push.intervention i
                      group by i.sync_id) done on done.sync_id = s.id) l;
comment on view lago_push.ledger is 'One row per sync: what was captured, and what became of it.';
comment on column lago_push.ledger.sync is 'name of the sync';
comment on column lago_push.ledger.captured is 'messages and unrenderable rows, ever';
comment on column lago_push.ledger.delivered is 'messages Lago has taken, ever';
comment on column lago_push.ledger.duplicate is 'those of them that Lago had already';
comment on column lago_push.ledger.dead is 'dead letters now';
comment on column lago_push.ledger.redriven is 'how often one was put back into the outbox';
comment on column lago_push.ledger.discarded is 'dead letters given up: by lago_push.discard(), or found by lago_push.redrive() to have nothing to send any more';
comment on column lago_push.ledger.pending is 'messages in the outbox now';
comment on column lago_push.ledger.balanced is 'whether captured = delivered + dead + discarded + pending; false means that rows of lago_push''s tables are lost or were changed by hand; null where they are estimated: see lago_push.recount()';
comment on column lago_push.ledger.estimated is 'whether captured, pending or dead are estimates, because there are more than a million to count';

-- Purpose:    the ledger, counted whatever it costs.
-- Parameters: sync, one sync or all of them.
-- Returns:    as the view.
create function lago_push._recount(sync text)
returns setof lago_push.ledger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function lago_push._recount(text) is 'Internal: does lago_push.recount().';

-- An entry point (sql/entry_points.sql), here because it gives what the view gives.
create function lago_push.recount(sync text default null)
returns setof lago_push.ledger
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.recount(text) is 'The ledger, counted however many messages there are.';
