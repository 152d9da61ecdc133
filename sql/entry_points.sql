-- Entry points: what people type. Execution is granted to nobody (grants.sql).
--
-- What people call. Each notes who calls and hands over to the function of the same name with an
-- underscore, which runs as the extension's owner. SECURITY DEFINER would not do: inside such a
-- function there is no telling whose rights the caller had, only who logged in.

create function lago_push.create_destination(
    name text, url text, api_key text default null, api_key_file text default null,
    headers jsonb default '{}', rate_limit numeric default null, connections integer default 16,
    timeout interval default '30 s', ca_file text default null, proxy text default null,
    allow_http boolean default false, connect_timeout interval default '10 s', read_timeout interval default null)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.create_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean, interval, interval) is 'Adds a destination: one Lago organization, its URL, API key and limits.';

create function lago_push.alter_destination(
    name text, url text default null, api_key text default null, api_key_file text default null,
    headers jsonb default null, rate_limit numeric default null, connections integer default null,
    timeout interval default null, ca_file text default null, proxy text default null,
    allow_http boolean default null, connect_timeout interval default null, read_timeout interval default null)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.alter_destination(text, text, text, text, jsonb, numeric, integer, interval, text, text, boolean, interval, interval) is 'Changes a destination; parameters left out or null stay as they are.';

create function lago_push.set_api_key(destination text, api_key text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.set_api_key(text, text) is 'Replaces a destination''s API key; used from the next request on.';

create function lago_push.hold(destination text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.hold(text) is 'Stops all deliveries to a destination until lago_push.release(); capture goes on.';

create function lago_push.release(destination text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.release(text) is 'Starts deliveries to a destination again, at once, whether held or backing off.';

create function lago_push.drop_destination(name text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.drop_destination(text) is 'Removes a destination; refuses while a sync uses it.';

create function lago_push.create_sync(
    name text, source regclass default null, template text default null, mapper regprocedure default null, destination text default null,
    endpoint text default 'event', operations text[] default '{insert}', columns name[] default null,
    filter text default null, exclude name[] default null, method text default null, path text default null,
    root text default null, headers jsonb default null, order_by text default null, batch_size integer default 100, schedule text default null,
    keep_replies interval default null, on_error text default 'dead_letter', unchanged text default 'send',
    max_pending bigint default null, when_full text default 'warn',
    query text default null, key name[] default null, cursor name default null, overlap text default null,
    max_removed double precision default 0.5, first_run text default 'send', time_limit interval default null)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.create_sync(text, regclass, text, regprocedure, text, text, text[], name[], text, name[], text, text, text, jsonb, text, integer, text, interval, text, text, bigint, text, text, name[], name, text, double precision, text, interval) is 'Defines a sync as a draft, after checking everything that can be checked; nothing is captured until lago_push.activate().';

create function lago_push.alter_sync(
    name text, source regclass default null, template text default null, mapper regprocedure default null, destination text default null,
    endpoint text default null, operations text[] default null, columns name[] default null,
    filter text default null, exclude name[] default null, method text default null, path text default null,
    root text default null, headers jsonb default null, order_by text default null, batch_size integer default null, schedule text default null,
    keep_replies interval default null, on_error text default null, unchanged text default null,
    max_pending bigint default null, when_full text default null,
    query text default null, key name[] default null, cursor name default null, overlap text default null,
    max_removed double precision default null, first_run text default null, time_limit interval default null)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.alter_sync(text, regclass, text, regprocedure, text, text, text[], name[], text, name[], text, text, text, jsonb, text, integer, text, interval, text, text, bigint, text, text, name[], name, text, double precision, text, interval) is 'Changes a sync; parameters left out or null stay as they are. Messages already captured keep their bytes.';

create function lago_push.activate(sync text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.activate(text) is 'Starts a draft: from the commit of this call on, every row the sync covers is captured and delivered.';

create function lago_push.pause(sync text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.pause(text) is 'Stops delivering a sync''s messages; rows are still captured, and wait.';

create function lago_push.resume(sync text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.resume(text) is 'Starts delivering a paused sync''s messages again.';

create function lago_push.drop_sync(sync text, discard boolean default false)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.drop_sync(text, boolean) is 'Detaches and removes a sync; refuses while it has pending messages or dead letters, unless discard.';

create function lago_push.run_now(sync text, removals text default 'limit')
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.run_now(text, text) is 'Runs a sync''s query at the next opportunity, whatever its schedule says.';

create function lago_push.flush(sync text default null, timeout interval default '30 s')
returns boolean
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.flush(text, interval) is 'Waits until what was pending at the call is delivered or dead: true; or until the timeout: false.';

create function lago_push.preview(sync text, rows integer default 5)
returns table (operation text, method text, url text, headers jsonb, body jsonb, warnings text[])
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.preview(text, integer) is 'Shows what would be sent for rows of the source, and everything that is doubtful about it. Sends nothing.';

create function lago_push.send_test(sync text, body jsonb default null)
returns table (status integer, reply jsonb, verdict text, message text, duration interval)
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.send_test(text, jsonb) is 'Sends one message, made of the source''s first row or of the body given, and shows what came back. Lago bills what it takes.';

create function lago_push.suggest_template(source regclass, endpoint text default 'event')
returns text
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.suggest_template(regclass, text) is 'Drafts a template for an endpoint from the columns of a table.';

create function lago_push.redrive(sync text, filter text default null)
returns bigint
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.redrive(text, text) is 'Puts dead letters back into the outbox, those that could not be rendered rendered anew; gives how many.';

create function lago_push.discard(sync text, filter text default null)
returns bigint
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.discard(text, text) is 'Gives dead letters up: deletes them, counted in lago_push.ledger; gives how many.';

create function lago_push.correct(letter bigint, payload text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.correct(bigint, text) is 'Replaces a dead letter''s payload, to be sent by lago_push.redrive().';

create function lago_push.reconcile(
    sync text, since timestamptz default null, until timestamptz default now(), subscription text default null, resend boolean default false)
returns table (external_subscription_id text, transaction_id text, finding text, detail text, event_time timestamptz, resent boolean)
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.reconcile(text, timestamptz, timestamptz, text, boolean) is 'Compares the events of a period with those Lago lists: shows what is missing there, unexpected or different, and sends what is missing again if asked to.';

create function lago_push.grant_access(role regrole, access text)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.grant_access(regrole, text) is 'Grants a role what it needs: as maker of syncs on its own tables, operator of all syncs, admin of destinations and keys, or monitor.';

create function lago_push.revoke_access(role regrole)
returns void
language c as 'MODULE_PATHNAME', 'lago_push_as_owner';
comment on function lago_push.revoke_access(regrole) is 'Takes from a role everything it was granted in lago_push.';

comment on function lago_push._capped() is 'Internal: how many messages wait of syncs with a cap, as far as it is known.';
-- Not handed over: it commits, which a function cannot. Its steps run as the owner, each in a transaction.
create procedure lago_push.backfill(sync text, filter text default null, chunk integer default 10000, restart boolean default false)
language c as 'MODULE_PATHNAME', 'lago_push_backfill';
comment on procedure lago_push.backfill(text, text, integer, boolean) is 'Sends the rows that are in a sync''s source already, through the same template, behind the live ones; goes on where it was when it is called again.';

comment on function lago_push._caller() is 'Internal: the role that called the entry point under way.';
comment on function lago_push._capture_rows(integer, bytea, integer) is 'Internal: captures existing rows of a sync''s source.';
comment on function lago_push._check_correction(bigint, integer, text, boolean, bytea) is 'Internal: refuses a payload Lago would not bill, and takes out of it what belongs into the path.';
comment on function lago_push._check_filter(bytea) is 'Internal: refuses a filter that is not one expression.';
comment on function lago_push._check_proxy(text) is 'Internal: refuses a proxy that cannot be used.';
comment on function lago_push._check_query_recipe(bytea, bytea, oid[], bytea, bytea, text, bytea, text, text[], bytea, bytea) is 'Internal: refuses a template, path or order that cannot be applied to a query''s columns, or that Lago would not bill.';
comment on function lago_push._check_recipe(bytea, oid, bytea, text, bytea, text, text[], bytea, boolean, bytea) is 'Internal: refuses a template, path or order that cannot be applied to its source, or that Lago would not bill.';
comment on function lago_push._check_schedule(text) is 'Internal: refuses a schedule that is neither an interval nor five cron fields.';
comment on function lago_push._check_url(text, boolean) is 'Internal: refuses a URL that cannot be Lago''s API.';
comment on function lago_push._count_written(integer, bigint) is 'Internal: counts messages written by a function, and wakes the worker for them.';
comment on function lago_push._endpoints() is 'Internal: source of the view endpoints.';
comment on function lago_push._estimate_rows(oid, bytea) is 'Internal: how many rows the planner expects of a query.';
comment on function lago_push._execute_as_caller(bytea) is 'Internal: runs a command with the rights of the role that called.';
comment on function lago_push._filter_letters(bytea, bytea) is 'Internal: which dead letters a filter picks, by the caller''s rights.';
comment on function lago_push._has_captured() is 'Internal: whether the calling transaction has captured rows.';
comment on function lago_push._has_unwritten(integer) is 'Internal: whether the calling transaction has captured rows of a sync that it cannot write yet.';
comment on function lago_push._hide_statement(text) is 'Internal: replaces the running statement in pg_stat_activity.';
comment on function lago_push._in_flight() is 'Internal: requests under way, by destination.';
comment on function lago_push._key_of_row(oid, bytea) is 'Internal: the key of the row a query gives.';
comment on function lago_push._query_columns(bytea, bytea, oid) is 'Internal: the columns of a query, which is run for a moment.';
comment on function lago_push._reconciled(integer, bigint, bigint, bytea, boolean, boolean) is 'Internal: compares a sync''s events with those Lago lists.';
comment on function lago_push._render_letter(integer, text, bytea, bytea, bigint, bigint) is 'Internal: renders the row of a dead letter again.';
comment on function lago_push._rendered(integer, integer) is 'Internal: rows of a sync''s source, rendered as they would be captured.';
comment on function lago_push._runs_under_way() is 'Internal: how far the runs under way are.';
comment on function lago_push._search_path() is 'Internal: where the caller looks for names.';
comment on function lago_push._send(integer, text, bytea, boolean) is 'Internal: makes one call of a sync and says what came back.';
comment on function lago_push._suggest(bytea, bytea, bytea, text[], bytea) is 'Internal: drafts a template.';
comment on function lago_push._user_agent() is 'Internal: what lago_push calls itself.';
comment on function lago_push._wake() is 'Internal: makes changed definitions known when the transaction commits.';
comment on function lago_push._wake_for_messages() is 'Internal: wakes the worker for messages written by a function.';
comment on function lago_push._end_run(integer) is 'Internal: ends the run of a sync that is under way.';
comment on function lago_push._wake_for_run() is 'Internal: has the worker look which queries are due when the transaction commits.';
comment on function lago_push._workers() is 'Internal: source of the view workers.';
