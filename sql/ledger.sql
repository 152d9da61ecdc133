-- Ledger: whether every captured row is accounted for. One query, so that all figures are of one snapshot.
--
-- What was captured is counted where it is captured, once for all rows a write adds, and that count travels with
-- one of them: from message to dead letter and back, and at last into the account or the note of who gave it up.
-- What became of the rows is counted one by one. The two know nothing of each other, so what vanishes from one
-- side only shows.

create view lago_push.ledger as
select l.sync,
       l.captured,
       l.delivered,
       l.duplicate,
       l.dead,
       l.redriven,
       l.discarded,
       l.pending,
       l.captured = l.delivered + l.dead + l.discarded + l.pending as balanced
  from (select s.name as sync,
               coalesce(a.captured, 0) + coalesce(waiting.entered, 0) + coalesce(kept.entered, 0) + coalesce(done.captured, 0) as captured,
               coalesce(a.delivered, 0) as delivered,
               coalesce(a.duplicate, 0) as duplicate,
               coalesce(kept.letters, 0) as dead,
               coalesce(done.redriven, 0) as redriven,
               coalesce(done.discarded, 0) as discarded,
               coalesce(waiting.messages, 0) as pending
          from lago_push.sync s
          left join lago_push.account a on a.sync_id = s.id
          left join (select m.sync_id, pg_catalog.count(*) as messages, pg_catalog.sum(m.entered) as entered
                       from lago_push.message m
                      group by m.sync_id) waiting on waiting.sync_id = s.id
          left join (select d.sync_id, pg_catalog.count(*) as letters, pg_catalog.sum(d.entered) as entered
                       from lago_push.dead_letter d
                      group by d.sync_id) kept on kept.sync_id = s.id
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
comment on column lago_push.ledger.balanced is 'whether captured = delivered + dead + discarded + pending; false means that rows of lago_push''s tables are lost or were changed by hand';
