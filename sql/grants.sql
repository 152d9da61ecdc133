-- Grants: closed by default. What is granted here holds no payload and no secret.

revoke all on schema lago_push from public;
revoke all on all tables in schema lago_push from public;
revoke all on all sequences in schema lago_push from public;
revoke all on all functions in schema lago_push from public;
revoke all on all procedures in schema lago_push from public;

grant usage on schema lago_push to pg_monitor;
grant select on lago_push.status, lago_push.destinations, lago_push.workers, lago_push.endpoints, lago_push.ledger,
    lago_push.metrics to pg_monitor;
grant execute on function lago_push._workers(), lago_push._in_flight(), lago_push._endpoints(),
    lago_push._backlog(bigint, bigint), lago_push._letters(integer, bigint) to pg_monitor;
