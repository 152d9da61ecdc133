-- Views: the stable way to look. Columns are documented in the README.

create view lago_push.status as
select f.sync,
       f.state,
       coalesce(f.source::text, 'query') as source,
       f.destination,
       f.pending,
       pg_catalog.now() - f.oldest as oldest_pending,
       f.retrying,
       f.delivered,
       f.dead,
       f.last_delivered_at,
       worst.error as last_error,
       worst.at as last_error_at,
       f.estimated,
       f.bytes as bytes_waiting,
       f.bytes_per_second,
       -- No interval holds more than some hundred thousand years.
       case when f.drain_seconds is not null
            then pg_catalog.make_interval(secs => least(f.drain_seconds, 1e12)) end as drains_in,
       f.has_trigger and f.state <> 'draft' as capturing,
       f.at_cap,
       f.last_run_at
  from lago_push._figures f
  left join lateral (select l.reason, l.died_at
                       from lago_push.dead_letter l
                      where l.sync_id = f.id
                      order by l.id desc
                      limit 1) latest on true
  left join lateral (select e.error, e.at
                       from (values (latest.reason, latest.died_at), (f.last_error, f.last_error_at), (f.run_error, f.run_error_at)) e(error, at)
                      where e.at is not null
                      order by e.at desc
                      limit 1) worst on true;
comment on view lago_push.status is 'One row per sync: its state and what became of its messages.';
comment on column lago_push.status.state is 'draft: captures nothing yet; active: captures and delivers; paused: captures, does not deliver';
comment on column lago_push.status.pending is 'messages in the outbox, not yet delivered or dead';
comment on column lago_push.status.oldest_pending is 'how long the oldest of them has waited';
comment on column lago_push.status.retrying is 'those of them that failed at least once by what may be their own fault';
comment on column lago_push.status.delivered is 'messages Lago has taken, ever';
comment on column lago_push.status.dead is 'dead letters now';
comment on column lago_push.status.estimated is 'whether pending, oldest_pending, retrying, dead and bytes_waiting are estimates, because there are too many to count';
comment on column lago_push.status.bytes_waiting is 'bytes of the payloads in the outbox';
comment on column lago_push.status.bytes_per_second is 'by how much that grows: what came in the last minute less what goes; below zero while it shrinks, 0 while nothing has waited for ten seconds';
comment on column lago_push.status.capturing is 'whether rows that are written are captured; false for a draft, and where the trigger is off or gone';
comment on column lago_push.status.at_cap is 'whether as many messages wait as max_pending lets; null: not known yet';
comment on column lago_push.status.drains_in is 'how long it takes until nothing waits, at the pace the destination was last seen to take and at what comes now; null: not known, or never';
comment on column lago_push.status.last_run_at is 'when the last run of its query began that came to an end; null for a table';
comment on column lago_push.status.last_error is 'what went wrong last, in a sentence; it stays after things went well again, so look at its time';

create view lago_push.runs as
select s.name as sync,
       case when r.state = 'running' and u.pid is null then 'interrupted' else r.state end as state,
       r.started_at,
       r.finished_at,
       coalesce(r.rows_read, u.rows_read) as rows_read,
       coalesce(r.added, u.added) as added,
       coalesce(r.changed, u.changed) as changed,
       coalesce(r.removed, u.removed) as removed,
       coalesce(r.unchanged, u.unchanged) as unchanged,
       r.error,
       r.remark,
       u.pid
  from lago_push.run r
  join lago_push.sync s on s.id = r.sync_id
  left join lago_push._runs_under_way() u on u.sync_id = r.sync_id and r.state = 'running';
comment on view lago_push.runs is 'One row per run of a query: what it found, or why it failed.';
comment on column lago_push.runs.sync is 'name of the sync';
comment on column lago_push.runs.state is 'running: under way; succeeded; failed: see error, nothing was captured; interrupted: its process or the server ended before it did, and it is begun again';
comment on column lago_push.runs.started_at is 'when it began';
comment on column lago_push.runs.finished_at is 'when it ended; null while it is under way';
comment on column lago_push.runs.rows_read is 'rows the query gave; of a run under way, so far, like those that follow';
comment on column lago_push.runs.added is 'those of them with a key that was not there before';
comment on column lago_push.runs.changed is 'those with a column that was otherwise before';
comment on column lago_push.runs.removed is 'rows that were there before and are gone';
comment on column lago_push.runs.unchanged is 'rows that are as they were';
comment on column lago_push.runs.error is 'why it failed, in a sentence';
comment on column lago_push.runs.remark is 'what is to be known of it beside that';
comment on column lago_push.runs.pid is 'its process, while it is under way';

create view lago_push.destinations as
select d.name,
       d.url,
       case when d.held_because is not null then 'held: ' || d.held_because
            when o.why is not null then 'held: ' || o.why
            when h.next_attempt_at > pg_catalog.clock_timestamp() then 'backing off'
            else 'open' end as state,
       coalesce(f.in_flight, 0) as in_flight,
       coalesce(h.requests, 0) as requests,
       coalesce(h.failures, 0) as failures,
       d.rate_limit,
       h.next_attempt_at,
       h.last_status,
       h.last_error,
       h.last_error_at,
       o.since as held_since,
       h.messages_per_second
  from lago_push.destination d
  left join lago_push.destination_health h on h.destination_id = d.id
  left join lago_push.destination_hold o on o.destination_id = d.id
  left join lago_push._in_flight() f on f.destination_id = d.id;
comment on view lago_push.destinations is 'One row per destination: whether it takes deliveries, and how it answered so far.';
comment on column lago_push.destinations.state is 'open; held: by whom, or why the worker holds it until lago_push.release() or a change; backing off: in trouble, next tried at next_attempt_at';
comment on column lago_push.destinations.in_flight is 'requests under way now';
comment on column lago_push.destinations.failures is 'requests that got no answer, or one that is neither an acceptance nor a refusal of single messages';

create view lago_push.outbox as
select m.id,
       s.name as sync,
       m.enqueued_at,
       coalesce(r.attempts, 0) as attempts,
       r.next_attempt_at,
       r.last_error,
       m.payload,
       m.path
  from lago_push.message m
  left join lago_push.sync s on s.id = m.sync_id
  left join lago_push.retry r on r.message_id = m.id
 where m.id >= coalesce((select o.id from lago_push.outbox_start o), 0);
comment on view lago_push.outbox is 'One row per message waiting for delivery.';
comment on column lago_push.outbox.payload is 'exactly the bytes that are or will be sent';

create view lago_push.dead_letters as
select l.id,
       l.sync_name as sync,
       case l.operation when 'i' then 'insert' when 'u' then 'update' else 'delete' end as operation,
       l.payload,
       l.source_row::jsonb as source_row,
       l.reason,
       l.reply_status,
       l.reply,
       l.attempts,
       l.died_at,
       l.path
  from lago_push.dead_letter l;
comment on view lago_push.dead_letters is 'One row per message that Lago rejected or row that could not be rendered, with the reason.';
comment on column lago_push.dead_letters.payload is 'what was sent, or what lago_push.correct() put in its place; null if the row could not be rendered';
comment on column lago_push.dead_letters.source_row is 'the row, if it could not be rendered';

create view lago_push.replies as
select r.id, r.sync, r.operation, r.payload, r.status, r.reply, r.replied_at
  from lago_push.reply r;
comment on view lago_push.replies is 'One row per kept answer of Lago: those of syncs with keep_replies.';

create view lago_push.workers as
select w.database::name as database,
       w.pid,
       w.state,
       w.started_at,
       w.last_activity,
       w.messages_per_second,
       w.activity
  from lago_push._workers() w;
comment on view lago_push.workers is 'One row per database that has, or had since the server started, a worker.';
comment on column lago_push.workers.state is 'working, idle, or asleep: not connected, a commit wakes it';
comment on column lago_push.workers.last_activity is 'when it last read, sent or settled something';

create view lago_push.endpoints as
select e.name, e.method, e.path, e.root, e.required, e.batch, e.idempotent, e.example
  from lago_push._endpoints() e;
comment on view lago_push.endpoints is 'One row per Lago call a sync can make.';
comment on column lago_push.endpoints.batch is 'how many messages one request may hold';
comment on column lago_push.endpoints.idempotent is 'whether repeating a call is harmless';
comment on column lago_push.status.sync is 'name of the sync';
comment on column lago_push.status.source is 'the table whose rows it captures, or query';
comment on column lago_push.status.destination is 'where its messages go';
comment on column lago_push.status.last_delivered_at is 'when Lago last took one';
comment on column lago_push.status.last_error_at is 'when that was';
comment on column lago_push.destinations.name is 'name of the destination';
comment on column lago_push.destinations.url is 'base URL of Lago''s API';
comment on column lago_push.destinations.requests is 'requests made, ever';
comment on column lago_push.destinations.rate_limit is 'requests per second it may get at most; null means no limit';
comment on column lago_push.destinations.next_attempt_at is 'when it is tried again, if it is in trouble';
comment on column lago_push.destinations.last_status is 'HTTP status of the last answer';
comment on column lago_push.destinations.last_error is 'what went wrong last, in a sentence';
comment on column lago_push.destinations.last_error_at is 'when that was';
comment on column lago_push.destinations.held_since is 'since when the worker holds it; null if it does not';
comment on column lago_push.outbox.id is 'number of the message, in the order of capture';
comment on column lago_push.outbox.sync is 'the sync it belongs to';
comment on column lago_push.outbox.enqueued_at is 'when it was written';
comment on column lago_push.outbox.attempts is 'attempts that failed by what may be its own fault';
comment on column lago_push.outbox.next_attempt_at is 'when it is tried again after such a failure';
comment on column lago_push.outbox.last_error is 'what that failure was';
comment on column lago_push.dead_letters.id is 'number of the message';
comment on column lago_push.dead_letters.sync is 'the sync it belongs to, as its trigger named it';
comment on column lago_push.dead_letters.operation is 'insert, update or delete';
comment on column lago_push.dead_letters.reason is 'why it cannot be delivered, in a sentence; where Lago may or may not have done it, the sentence begins: the outcome is unknown';
comment on column lago_push.dead_letters.reply_status is 'HTTP status with which Lago rejected it';
comment on column lago_push.dead_letters.reply is 'what Lago answered';
comment on column lago_push.dead_letters.attempts is 'how often it was sent';
comment on column lago_push.dead_letters.died_at is 'when it became a dead letter';
comment on column lago_push.workers.database is 'the database it works for';
comment on column lago_push.workers.pid is 'its process, if it is connected';
comment on column lago_push.workers.started_at is 'when it last connected';
comment on column lago_push.workers.messages_per_second is 'messages that left the outbox, over the last seconds';
comment on column lago_push.endpoints.name is 'the name to give as endpoint';
comment on column lago_push.endpoints.method is 'HTTP method';
comment on column lago_push.endpoints.path is 'path below the destination''s URL';
comment on column lago_push.endpoints.root is 'the key that wraps one object';
comment on column lago_push.endpoints.required is 'fields a template must give';
comment on column lago_push.endpoints.example is 'a template to begin with';
comment on column lago_push.outbox.path is 'the request''s path, where the row decides it; else null: the endpoint''s own';
comment on column lago_push.dead_letters.path is 'the request''s path, where the row decided it';
comment on column lago_push.replies.id is 'number of the message';
comment on column lago_push.replies.sync is 'name of the sync';
comment on column lago_push.replies.operation is 'what happened to the row: insert, update or delete';
comment on column lago_push.replies.payload is 'what was sent';
comment on column lago_push.replies.status is 'HTTP status of the answer';
comment on column lago_push.replies.reply is 'the answer; of a batch, this message''s part of it';
comment on column lago_push.replies.replied_at is 'when it was written down';
comment on column lago_push.destinations.messages_per_second is 'how many messages a second it took while more waited than could go, averaged over the last minutes; null: not known yet';
comment on column lago_push.workers.activity is 'what it does or waits for, as in pg_stat_activity; null when asleep';
