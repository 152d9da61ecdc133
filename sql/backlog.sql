-- Backlog: what waits, told without counting it: exactly where it is little, as a marked estimate where it is much.
--
-- One row per sync with every figure that status and metrics show, so that both show the same. Nothing here reads
-- more than a hundred thousand rows, and of millions only some ten thousand: messages and dead letters are counted
-- along an index up to a limit, and beyond it short stretches of ids stand for the rest (src/surface/backlog.rs). The planner is told
-- with "limit 1" that there is one row of each kind for a sync: believing in millions it would compile the query,
-- which takes a second.

comment on function lago_push._backlog(bigint, bigint) is 'Internal: what waits, by sync; estimated if it is more than so much.';
comment on function lago_push._letters(integer, bigint) is 'Internal: the dead letters of a sync; estimated if they are more than so many.';

alter function lago_push._backlog(bigint, bigint) rows 10;
alter function lago_push._letters(integer, bigint) rows 1;

create view lago_push._figures as
with waiting as materialized (
    select b.* from lago_push._backlog(coalesce((select o.id from lago_push.outbox_start o), 0), 100000) b
),
-- At most so many are looked up; where there are more, these stand for all.
retries as materialized (
    select r.message_id from lago_push.retry r limit 2000
),
overall as (
    select case when r.looked_up < 2000 then 1
                else greatest((select c.reltuples from pg_catalog.pg_class c
                                where c.oid = 'lago_push.retry'::pg_catalog.regclass), r.looked_up) / r.looked_up
           end as per_looked_up,
           w.estimated as backlog_estimated,
           w.estimated or r.looked_up >= 2000 as estimated
      from (select pg_catalog.count(*) as looked_up from retries) r
     cross join (select pg_catalog.bool_or(w.estimated) as estimated from waiting w) w
),
retrying as materialized (
    select m.sync_id, pg_catalog.count(*) as messages
      from retries r
     cross join lateral (select m.sync_id from lago_push.message m where m.id = r.message_id limit 1) m
     group by m.sync_id
),
sync as (
    select s.id,
           s.name as sync,
           s.state,
           s.source,
           s.destination_id,
           d.name as destination,
           coalesce(w.pending, 0) as pending,
           coalesce(w.entered, 0) as pending_entered,
           w.oldest,
           coalesce(w.bytes, 0) as bytes,
           coalesce(pg_catalog.round(r.messages * every.per_looked_up)::bigint, 0) as retrying,
           l.letters as dead,
           l.entered as dead_entered,
           coalesce(a.captured, 0) as captured,
           coalesce(a.delivered, 0) as delivered,
           coalesce(a.duplicate, 0) as duplicate,
           a.last_delivered_at,
           a.last_error,
           a.last_error_at,
           every.estimated or l.estimated as estimated,
           every.backlog_estimated or l.estimated as captured_estimated,
           -- How many a request holds.
           least(s.batch_size,
                 coalesce((select e.batch from lago_push._endpoints() e where e.name = s.endpoint limit 1), 1)) as batch,
           d.rate_limit,
           h.messages_per_second as pace,
           -- What goes now, in messages a second.
           case when h.paced_at > pg_catalog.clock_timestamp() - interval '10 s' then h.messages_per_second else 0 end as going,
           -- What comes, a second: over the last minute, or less if nothing has waited so long.
           coalesce(w.recent, 0) / spell.seconds as coming,
           coalesce(w.recent_bytes, 0) / spell.seconds as coming_bytes,
           -- What lago_push._triggers() finds, for whoever may look; and none that is switched off.
           s.query is not null or
           exists (select from pg_catalog.pg_trigger t
                    where t.tgfoid = 'lago_push.capture()'::pg_catalog.regprocedure
                      and t.tgparentid = 0
                      and t.tgenabled <> 'D'
                      and t.tgargs = pg_catalog.convert_to(s.name, pg_catalog.getdatabaseencoding()) || '\x00'::bytea) as has_trigger,
           case when s.max_pending is null then false else c.waiting >= s.max_pending end as at_cap,
           s.query is not null as has_query,
           ran.started_at as last_run_at,
           ran.seconds as last_run_seconds,
           case when ran.state = 'failed' then ran.error end as run_error,
           case when ran.state = 'failed' then ran.finished_at end as run_error_at,
           coalesce(m.runs, 0) as runs,
           coalesce(m.failures, 0) as run_failures,
           coalesce(m.row_count, 0) as remembered
      from lago_push.sync s
      join lago_push.destination d on d.id = s.destination_id
     cross join overall every
      left join lateral (
           select h.* from lago_push.destination_health h where h.destination_id = s.destination_id limit 1
      ) h on true
      left join lateral (select a.* from lago_push.account a where a.sync_id = s.id limit 1) a on true
      left join lateral (select w.* from waiting w where w.sync_id = s.id limit 1) w on true
      left join lateral (select r.* from retrying r where r.sync_id = s.id limit 1) r on true
     cross join lateral lago_push._letters(s.id, 100000) l
      left join lago_push._capped() c on c.sync_id = s.id
      left join lateral (select m.* from lago_push.memory m where m.sync_id = s.id limit 1) m on true
      left join lateral (select r.state, r.started_at, r.finished_at, r.error,
                                extract(epoch from r.finished_at - r.started_at)::double precision as seconds
                           from lago_push.run r
                          where r.sync_id = s.id and r.state in ('succeeded', 'failed')
                          order by r.id desc limit 1) ran on true
     cross join lateral (
           select least(greatest(extract(epoch from pg_catalog.clock_timestamp() - w.oldest), 10), 60)::double precision as seconds
     ) spell
)
select f.*,
       case when f.oldest is null or f.oldest > pg_catalog.clock_timestamp() - interval '10 s' then 0
            else pg_catalog.round(f.coming_bytes - coalesce(f.going * f.bytes / nullif(f.pending_there, 0), 0))::bigint
       end as bytes_per_second,
       case when f.pending = 0 then 0
            when f.load < 1 then f.work / (1 - f.load)
       end as drain_seconds
  from (select s.*,
               pg_catalog.sum(s.pending) over there as pending_there,
               -- Seconds of work that wait for the destination, and that come to it each second. A sync that is
               -- paused adds to its own only.
               greatest((pg_catalog.sum(case when s.state = 'active' then s.pending else 0 end) over there
                          + case when s.state = 'active' then 0 else s.pending end) / nullif(s.pace, 0),
                        (pg_catalog.sum(case when s.state = 'active' then s.pending else 0 end / s.batch) over there
                          + case when s.state = 'active' then 0 else s.pending end / s.batch) / s.rate_limit)::double precision as work,
               greatest(pg_catalog.sum(s.coming) over there / nullif(s.pace, 0),
                        pg_catalog.sum(s.coming / s.batch) over there / s.rate_limit::double precision) as load
          from sync s
        window there as (partition by s.destination_id)) f;
comment on view lago_push._figures is 'Internal: what status and metrics say of each sync.';
