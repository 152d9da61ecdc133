-- Metrics: every figure in one shape, for any exporter that turns rows into metrics.
--
-- Names are as Prometheus wants them. Labels are few and their values come from a fixed set: syncs, destinations, and the words
-- written here. Whatever ends in _total only ever grows, across restarts and crashes too, because it is stored in the
-- transaction that it counts.

create view lago_push.metrics as
with figures as materialized (
    select f.* from lago_push._figures f
),
destinations as materialized (
    select d.* from lago_push.destinations d
),
-- Whose worker is that of this database.
worker as materialized (
    select w.pid is not null as connected, w.state, w.messages_per_second, w.wanted
      from lago_push._workers() w
     where w.database_id = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
)
select m.name, m.labels, m.value
  from (select v.name,
               pg_catalog.jsonb_build_object('sync', f.sync, 'destination', f.destination, 'source', coalesce(f.source::text, 'query')),
               v.value
          from figures f
          left join (select i.sync_id,
                            pg_catalog.sum(i.captured) as captured,
                            pg_catalog.sum(i.redriven) as redriven,
                            pg_catalog.sum(i.discarded) as discarded
                       from lago_push.intervention i
                      group by i.sync_id) done on done.sync_id = f.id
         cross join lateral (
               select f.captured + f.pending_entered + f.dead_entered + coalesce(done.captured, 0) as captured
         ) entered
         cross join lateral (values
               ('lago_push_pending', f.pending::double precision),
               ('lago_push_pending_bytes', f.bytes),
               ('lago_push_pending_bytes_per_second', f.bytes_per_second),
               ('lago_push_oldest_pending_seconds', coalesce(extract(epoch from pg_catalog.now() - f.oldest), 0)),
               ('lago_push_drain_seconds', f.drain_seconds),
               ('lago_push_retrying', f.retrying),
               ('lago_push_dead_letters', f.dead),
               ('lago_push_estimated', f.estimated::integer),
               ('lago_push_sync_active', (f.state = 'active')::integer),
               ('lago_push_sync_capturing', (f.has_trigger and f.state <> 'draft')::integer),
               ('lago_push_sync_at_cap', f.at_cap::integer),
               ('lago_push_captured_total', case when not f.captured_estimated then entered.captured end),
               ('lago_push_delivered_total', f.delivered),
               ('lago_push_duplicate_total', f.duplicate),
               ('lago_push_redriven_total', coalesce(done.redriven, 0)),
               ('lago_push_discarded_total', coalesce(done.discarded, 0)),
               ('lago_push_balanced',
                case when not f.captured_estimated
                     then (entered.captured = f.delivered + f.dead + coalesce(done.discarded, 0) + f.pending)::integer end),
               ('lago_push_last_delivered_timestamp_seconds', extract(epoch from f.last_delivered_at)),
               ('lago_push_runs_total', case when f.has_query then f.runs + f.run_failures end),
               ('lago_push_run_failures_total', case when f.has_query then f.run_failures end),
               ('lago_push_run_failing', case when f.has_query then (f.run_error_at is not null)::integer end),
               ('lago_push_last_run_timestamp_seconds', extract(epoch from f.last_run_at)),
               ('lago_push_last_run_seconds', f.last_run_seconds),
               ('lago_push_remembered_rows', case when f.has_query then f.remembered end)
         ) v(name, value)
        union all
        select v.name, pg_catalog.jsonb_build_object('destination', d.name), v.value
          from destinations d
         cross join lateral (values
               ('lago_push_requests_total', d.requests::double precision),
               ('lago_push_failures_total', d.failures),
               ('lago_push_in_flight', d.in_flight),
               ('lago_push_backing_off', (d.state = 'backing off')::integer),
               ('lago_push_destination_messages_per_second', d.messages_per_second)
         ) v(name, value)
        union all
        -- By whom, and not why: a sentence is no label.
        select 'lago_push_held' as name,
               pg_catalog.jsonb_build_object('destination', d.name, 'reason', by.reason),
               (d.state like 'held: %' and (by.reason = 'operator') = (d.state like 'held: by %'))::integer
          from destinations d
         cross join (values ('operator'), ('worker')) by(reason)
        union all
        select v.name, '{}' as labels, v.value
          from (select 1) one
          left join worker w on true
         cross join lateral (values
               ('lago_push_worker_up', coalesce(w.connected, false)::integer::double precision),
               ('lago_push_worker_working', coalesce(w.connected and w.state = 'working', false)::integer),
               -- Somebody asked for one, or something waits that nothing else holds back.
               ('lago_push_worker_wanted',
                (not coalesce(w.connected, false)
                 and (coalesce(w.wanted, false)
                      or exists (select from figures f
                                   join lago_push.sync s on s.id = f.id
                                   join destinations d on d.name = f.destination
                                  where f.pending > 0 and f.state = 'active' and (s.schedule is null or s.query is not null)
                                    and d.state not like 'held: %'))
                )::integer),
               ('lago_push_messages_per_second', coalesce(w.messages_per_second, 0)),
               ('lago_push_outbox_bytes',
                pg_catalog.pg_total_relation_size('lago_push.message'::pg_catalog.regclass))
         ) v(name, value)
        union all
        select 'lago_push_info' as name, pg_catalog.jsonb_build_object('version', e.extversion), 1
          from pg_catalog.pg_extension e
         where e.extname = 'lago_push') m(name, labels, value)
 where m.value is not null;
comment on view lago_push.metrics is 'One row per figure, named and labelled as Prometheus wants it.';
comment on column lago_push.metrics.name is 'name of the metric; the README says what each means';
comment on column lago_push.metrics.labels is 'what it is about: sync, destination, source, reason or version';
comment on column lago_push.metrics.value is 'the figure now';
