//! The catalog: exactly what is published is there, each with its comment, its rights and its place in dumps.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    /// What belongs to the extension, these tests aside.
    const OBJECTS: &str = "
        (select o.type, replace(o.identity, 'pg_catalog.', '') as identity, o.schema, d.classid, d.objid
           from pg_depend d
           join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and e.extname = 'lago_push'
          cross join pg_identify_object(d.classid, d.objid, 0) o
          where d.deptype = 'e' and coalesce(o.schema, o.name) <> 'tests'
            -- PostgreSQL 18 counts row types and their arrays in.
            and not (d.classid = 'pg_type'::regclass
                     and exists (select from pg_type t left join pg_type e on e.oid = t.typelem
                                  where t.oid = d.objid and (t.typrelid <> 0 or e.typrelid <> 0))))";

    #[pg_test]
    fn the_extension_consists_of_what_is_listed_here() {
        // What people type, and its signature, is a contract; what begins with an underscore is not, but
        // must not appear unnoticed either.
        const LISTED: &[&str] = &[
            "function lago_push._activate(text)",
            "function lago_push._after_key(text[],text[],text[])",
            "function lago_push._alter_destination(text,text,text,text,jsonb,numeric,integer,interval,text,text,boolean,interval,interval)",
            "function lago_push._alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)",
            "function lago_push._as_caller(text)",
            "function lago_push._as_jsonb(text)",
            "function lago_push._backlog(bigint,bigint)",
            "function lago_push._letters(integer,bigint)",
            "function lago_push._recount(text)",
            "function lago_push.recount(text)",
            "table lago_push.outbox_start",
            "view lago_push._figures",
            "view lago_push.metrics",
            "function lago_push._attach(integer)",
            "function lago_push._backfill_begin(integer,bytea,integer,boolean)",
            "function lago_push._backfill_condition(lago_push.sync,text)",
            "function lago_push._backfill_open(bytea,bytea,integer)",
            "function lago_push._backfill_query(lago_push.sync,text,text[],text[],bigint)",
            "function lago_push._backfill_reach(integer)",
            "function lago_push._backfill_runner(integer)",
            "function lago_push._backfill_step(integer,integer,bigint)",
            "function lago_push._caller()",
            "function lago_push._capped()",
            "function lago_push._capture_rows(integer,bytea,integer)",
            "function lago_push._check_columns(regclass,text,name[],text)",
            "function lago_push._check_correction(bigint,integer,text,boolean,bytea)",
            "function lago_push._check_destination(text,jsonb,numeric,integer,interval,text,text,text,text,boolean,interval,interval)",
            "function lago_push._check_filter(bytea)",
            "function lago_push._check_headers(jsonb)",
            "function lago_push._check_kind(lago_push.sync)",
            "function lago_push._check_mapper(text,regclass)",
            "function lago_push._check_proxy(text)",
            "function lago_push._check_query(lago_push.sync)",
            "function lago_push._check_query_recipe(bytea,bytea,oid[],bytea,bytea,text,bytea,text,text[],bytea,bytea)",
            "function lago_push._check_recipe(bytea,oid,bytea,text,bytea,text,text[],bytea,boolean,bytea)",
            "function lago_push._check_rights(lago_push.sync)",
            "function lago_push._check_role(regrole)",
            "function lago_push._check_schedule(text)",
            "function lago_push._check_source(regclass)",
            "function lago_push._check_sync(lago_push.sync)",
            "function lago_push._check_url(text,boolean)",
            "function lago_push._columns_of(lago_push.sync)",
            "function lago_push._correct(bigint,text)",
            "function lago_push._count_written(integer,bigint)",
            "function lago_push._create_destination(text,text,text,text,jsonb,numeric,integer,interval,text,text,boolean,interval,interval)",
            "function lago_push._create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)",
            "function lago_push._default_overlap(lago_push.sync)",
            "function lago_push._destination_id(text)",
            "function lago_push._destination_of(text,text)",
            "function lago_push._detach(lago_push.sync)",
            "function lago_push._discard(text,text)",
            "function lago_push._discard_letters(integer,text,text)",
            "function lago_push._drop_destination(text)",
            "function lago_push._drop_sync(text,boolean)",
            "function lago_push._endpoints()",
            "function lago_push._end_run(integer)",
            "function lago_push._estimate_rows(oid,bytea)",
            "function lago_push._execute_as_caller(bytea)",
            "function lago_push._filter_letters(bytea,bytea)",
            "function lago_push._fires(lago_push.sync)",
            "function lago_push._flush(text,interval)",
            "function lago_push._grant_access(regrole,text)",
            "function lago_push._has_captured()",
            "function lago_push._has_unwritten(integer)",
            "function lago_push._hide_statement(text)",
            "function lago_push._hold(text)",
            "function lago_push._in_flight()",
            "function lago_push._is_operator()",
            "function lago_push._key_literals(text[],text[])",
            "function lago_push._key_of_row(oid,bytea)",
            "function lago_push._last_key(regclass)",
            "function lago_push._letter(bigint)",
            "function lago_push._locked_sync(text)",
            "function lago_push._look()",
            "function lago_push._next_letters(integer,text,bigint,text)",
            "function lago_push._note_instance()",
            "function lago_push._note_intervention(integer,text,bigint,bigint,bigint)",
            "function lago_push._operate()",
            "function lago_push._operated_sync(text)",
            "function lago_push._operator(oid,oid,integer)",
            "function lago_push._pause(text)",
            "function lago_push._preview(text,integer)",
            "function lago_push._privileges(text)",
            "function lago_push._query(text)",
            "function lago_push._query_columns(bytea,bytea,oid)",
            "function lago_push._reconcile(text,timestamp with time zone,timestamp with time zone,text,boolean)",
            "function lago_push._reconciled(integer,bigint,bigint,bytea,boolean,boolean)",
            "function lago_push._redrive(text,text)",
            "function lago_push._refuse_query(lago_push.sync,text)",
            "function lago_push._release(text)",
            "function lago_push._render_letter(integer,text,bytea,bytea,bigint,bigint)",
            "function lago_push._rendered(integer,integer)",
            "function lago_push._resume(text)",
            "function lago_push._revoke_access(regrole)",
            "function lago_push._run_now(text,text)",
            "function lago_push._runs_under_way()",
            "function lago_push._schedule(text)",
            "function lago_push._search_path()",
            "function lago_push._send(integer,text,bytea,boolean)",
            "function lago_push._send_test(text,jsonb)",
            "function lago_push._set_api_key(text,text)",
            "function lago_push._set_fires(lago_push.sync,\"char\")",
            "function lago_push._set_state(text,text,text)",
            "function lago_push._store_api_key(integer,text)",
            "function lago_push._suggest(bytea,bytea,bytea,text[],bytea)",
            "function lago_push._suggest_template(regclass,text)",
            "function lago_push._sync(text)",
            "function lago_push._sync_named(text)",
            "function lago_push._this_instance()",
            "function lago_push._trigger_name(lago_push.sync)",
            "function lago_push._triggers(text)",
            "function lago_push._try_to_attach(integer)",
            "function lago_push._unix_micros(timestamp with time zone)",
            "function lago_push._user_agent()",
            "function lago_push._waiting_before(lago_push.sync,bigint,bigint)",
            "function lago_push._unheard(lago_push.sync)",
            "function lago_push._wake()",
            "function lago_push._wake_for_messages()",
            "function lago_push._wake_for_run()",
            "function lago_push._walked_table(regclass)",
            "function lago_push._walking_key(regclass)",
            "function lago_push._workers()",
            "function lago_push.activate(text)",
            "function lago_push.alter_destination(text,text,text,text,jsonb,numeric,integer,interval,text,text,boolean,interval,interval)",
            "function lago_push.alter_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)",
            "function lago_push.capture()",
            "function lago_push.correct(bigint,text)",
            "function lago_push.create_destination(text,text,text,text,jsonb,numeric,integer,interval,text,text,boolean,interval,interval)",
            "function lago_push.create_sync(text,regclass,text,regprocedure,text,text,text[],name[],text,name[],text,text,text,jsonb,text,integer,text,interval,text,text,bigint,text,text,name[],name,text,double precision,text,interval)",
            "function lago_push.discard(text,text)",
            "function lago_push.drop_destination(text)",
            "function lago_push.drop_sync(text,boolean)",
            "function lago_push.flush(text,interval)",
            "function lago_push.grant_access(regrole,text)",
            "function lago_push.hold(text)",
            "function lago_push.pause(text)",
            "function lago_push.preview(text,integer)",
            "function lago_push.reconcile(text,timestamp with time zone,timestamp with time zone,text,boolean)",
            "function lago_push.redrive(text,text)",
            "function lago_push.release(text)",
            "function lago_push.resume(text)",
            "function lago_push.revoke_access(regrole)",
            "function lago_push.run_now(text,text)",
            "function lago_push.send_test(text,jsonb)",
            "function lago_push.set_api_key(text,text)",
            "function lago_push.suggest_template(regclass,text)",
            "procedure lago_push.backfill(text,text,integer,boolean)",
            "sequence lago_push.backfill_id_seq",
            "sequence lago_push.destination_id_seq",
            "sequence lago_push.message_id",
            "sequence lago_push.run_id_seq",
            "sequence lago_push.sync_id_seq",
            "table lago_push.account",
            "table lago_push.api_key",
            "table lago_push.backfill",
            "table lago_push.dead_letter",
            "table lago_push.destination",
            "table lago_push.destination_health",
            "table lago_push.destination_hold",
            "table lago_push.instance",
            "table lago_push.intervention",
            "table lago_push.memory",
            "table lago_push.message",
            "table lago_push.remembered",
            "table lago_push.reply",
            "table lago_push.retry",
            "table lago_push.run",
            "table lago_push.run_request",
            "table lago_push.sync",
            "view lago_push.backfills",
            "view lago_push.dead_letters",
            "view lago_push.destinations",
            "view lago_push.endpoints",
            "view lago_push.ledger",
            "view lago_push.outbox",
            "view lago_push.replies",
            "view lago_push.runs",
            "view lago_push.status",
            "view lago_push.workers",
        ];
        let found = texts(&format!("select o.type || ' ' || o.identity from {OBJECTS} o"));
        let unlisted: Vec<_> = found.iter().filter(|object| !LISTED.contains(&object.as_str())).collect();
        let missing: Vec<_> =
            LISTED.iter().filter(|listed| !found.iter().any(|object| object == *listed)).collect();
        assert!(unlisted.is_empty() && missing.is_empty(), "unlisted: {unlisted:?}, missing: {missing:?}");
    }

    #[pg_test]
    fn nothing_in_the_schema_belongs_to_somebody_else() {
        let strays = texts(&format!(
            "select c.oid::regclass::text from pg_class c
              where c.relnamespace = 'lago_push'::regnamespace and c.relkind not in ('i', 't')
                and c.oid not in (select o.objid from {OBJECTS} o where o.classid = 'pg_class'::regclass)
             union all
             select p.oid::regprocedure::text from pg_proc p
              where p.pronamespace = 'lago_push'::regnamespace
                and p.oid not in (select o.objid from {OBJECTS} o where o.classid = 'pg_proc'::regclass)"
        ));
        assert_eq!(strays, NOTHING);
    }

    #[pg_test]
    fn every_parameter_people_type_keeps_its_name() {
        let parameters = |function: &str| {
            text(&format!("select pg_get_function_arguments('lago_push.{function}'::regproc)"))
        };
        let destination = "name text, url text, api_key text DEFAULT NULL::text, api_key_file text DEFAULT NULL::text, \
            headers jsonb DEFAULT '{}'::jsonb, rate_limit numeric DEFAULT NULL::numeric, connections integer DEFAULT 16, \
            timeout interval DEFAULT '00:00:30'::interval, ca_file text DEFAULT NULL::text, proxy text DEFAULT NULL::text, \
            allow_http boolean DEFAULT false, connect_timeout interval DEFAULT '00:00:10'::interval, read_timeout interval DEFAULT NULL::interval";
        let destination = destination.replace(", timeout interval", ", \"timeout\" interval");
        assert_eq!(
            parameters("create_destination").replace(", timeout interval", ", \"timeout\" interval"),
            destination
        );
        assert_eq!(
            parameters("create_sync"),
            "name text, source regclass DEFAULT NULL::regclass, template text DEFAULT NULL::text, mapper regprocedure DEFAULT NULL::regprocedure, \
             destination text DEFAULT NULL::text, endpoint text DEFAULT 'event'::text, operations text[] DEFAULT '{insert}'::text[], \
             columns name[] DEFAULT NULL::name[], filter text DEFAULT NULL::text, exclude name[] DEFAULT NULL::name[], \
             method text DEFAULT NULL::text, path text DEFAULT NULL::text, root text DEFAULT NULL::text, headers jsonb DEFAULT NULL::jsonb, \
             order_by text DEFAULT NULL::text, batch_size integer DEFAULT 100, schedule text DEFAULT NULL::text, keep_replies interval DEFAULT NULL::interval, \
             on_error text DEFAULT 'dead_letter'::text, unchanged text DEFAULT 'send'::text, \
             max_pending bigint DEFAULT NULL::bigint, when_full text DEFAULT 'warn'::text, \
             query text DEFAULT NULL::text, key name[] DEFAULT NULL::name[], cursor name DEFAULT NULL::name, overlap text DEFAULT NULL::text, \
             max_removed double precision DEFAULT 0.5, first_run text DEFAULT 'send'::text, time_limit interval DEFAULT NULL::interval"
        );
        for (function, expected) in [
            ("set_api_key", "destination text, api_key text"),
            ("hold", "destination text"),
            ("release", "destination text"),
            ("drop_destination", "name text"),
            ("activate", "sync text"),
            ("pause", "sync text"),
            ("resume", "sync text"),
            ("drop_sync", "sync text, discard boolean DEFAULT false"),
            ("run_now", "sync text, removals text DEFAULT 'limit'::text"),
            ("preview", "sync text, rows integer DEFAULT 5"),
            ("send_test", "sync text, body jsonb DEFAULT NULL::jsonb"),
            ("suggest_template", "source regclass, endpoint text DEFAULT 'event'::text"),
            (
                "reconcile",
                "sync text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, \
                 until timestamp with time zone DEFAULT now(), subscription text DEFAULT NULL::text, resend boolean DEFAULT false",
            ),
            ("redrive", "sync text, filter text DEFAULT NULL::text"),
            ("discard", "sync text, filter text DEFAULT NULL::text"),
            ("correct", "letter bigint, payload text"),
            (
                "backfill",
                "IN sync text, IN filter text DEFAULT NULL::text, IN chunk integer DEFAULT 10000, IN restart boolean DEFAULT false",
            ),
            ("recount", "sync text DEFAULT NULL::text"),
            ("grant_access", "role regrole, access text"),
            ("revoke_access", "role regrole"),
        ] {
            assert_eq!(parameters(function), expected, "{function}");
        }
        for (function, expected) in [
            (
                "preview",
                "TABLE(operation text, method text, url text, headers jsonb, body jsonb, warnings text[])",
            ),
            (
                "send_test",
                "TABLE(status integer, reply jsonb, verdict text, message text, duration interval)",
            ),
            (
                "reconcile",
                "TABLE(external_subscription_id text, transaction_id text, finding text, detail text, \
                 event_time timestamp with time zone, resent boolean)",
            ),
            ("suggest_template", "text"),
            ("redrive", "bigint"),
            ("discard", "bigint"),
            ("correct", "void"),
            ("flush", "boolean"),
            ("recount", "SETOF lago_push.ledger"),
        ] {
            let result = text(&format!("select pg_get_function_result('lago_push.{function}'::regproc)"));
            assert_eq!(result, expected, "{function}");
        }
        for of in ["destination", "sync"] {
            let names = |verb| {
                texts(&format!(
                    "select unnest(p.proargnames) from pg_proc p where p.oid = 'lago_push.{verb}_{of}'::regproc"
                ))
            };
            assert_eq!(names("alter"), names("create"));
            let required = text(&format!(
                "select (p.pronargs - p.pronargdefaults)::text from pg_proc p where p.oid = 'lago_push.alter_{of}'::regproc"
            ));
            assert_eq!(required, "1", "alter_{of}");
        }
    }

    #[pg_test]
    fn every_view_has_the_columns_it_promises() {
        for (view, columns) in [
            (
                "status",
                "sync state source destination pending oldest_pending retrying delivered dead last_delivered_at last_error last_error_at estimated bytes_waiting bytes_per_second drains_in capturing at_cap last_run_at",
            ),
            (
                "destinations",
                "name url state in_flight requests failures rate_limit next_attempt_at last_status last_error last_error_at held_since messages_per_second",
            ),
            ("outbox", "id sync enqueued_at attempts next_attempt_at last_error payload path"),
            ("replies", "id sync operation payload status reply replied_at"),
            (
                "dead_letters",
                "id sync operation payload source_row reason reply_status reply attempts died_at path",
            ),
            ("workers", "database pid state started_at last_activity messages_per_second activity"),
            ("endpoints", "name method path root required batch idempotent example"),
            ("backfills", "sync state rows_done rows_estimated started_at finished_at rate eta moved_at"),
            (
                "ledger",
                "sync captured delivered duplicate dead redriven discarded pending balanced estimated",
            ),
            ("metrics", "name labels value"),
            (
                "runs",
                "sync state started_at finished_at rows_read added changed removed unchanged error remark pid",
            ),
        ] {
            let found = texts(&format!(
                "select a.attname::text from pg_attribute a
                  where a.attrelid = 'lago_push.{view}'::regclass and a.attnum > 0 order by a.attnum"
            ));
            let promised: Vec<&str> = columns.split(' ').collect();
            // More may follow; what is there keeps its place.
            assert_eq!(found[..promised.len()], promised, "{view}");
        }
        let type_of = |view: &str, column: &str| {
            text(&format!(
                "select format_type(a.atttypid, a.atttypmod) from pg_attribute a
                  where a.attrelid = 'lago_push.{view}'::regclass and a.attname = '{column}'"
            ))
        };
        for (view, column, promised) in [
            ("status", "oldest_pending", "interval"),
            ("status", "pending", "bigint"),
            ("status", "last_error_at", "timestamp with time zone"),
            ("dead_letters", "source_row", "jsonb"),
            ("outbox", "payload", "text"),
            ("endpoints", "required", "text[]"),
            ("endpoints", "idempotent", "boolean"),
            ("ledger", "captured", "bigint"),
            ("ledger", "redriven", "bigint"),
            ("ledger", "discarded", "bigint"),
            ("ledger", "balanced", "boolean"),
            ("backfills", "rows_done", "bigint"),
            ("backfills", "rate", "double precision"),
            ("backfills", "eta", "interval"),
            ("status", "estimated", "boolean"),
            ("status", "bytes_waiting", "bigint"),
            ("status", "bytes_per_second", "bigint"),
            ("status", "drains_in", "interval"),
            ("status", "capturing", "boolean"),
            ("status", "at_cap", "boolean"),
            ("status", "last_run_at", "timestamp with time zone"),
            ("runs", "started_at", "timestamp with time zone"),
            ("runs", "removed", "bigint"),
            ("metrics", "labels", "jsonb"),
            ("metrics", "value", "double precision"),
            ("replies", "payload", "jsonb"),
            ("replies", "reply", "jsonb"),
            ("replies", "status", "integer"),
        ] {
            assert_eq!(type_of(view, column), promised, "{view}.{column}");
        }
    }

    #[pg_test]
    fn every_object_has_a_comment() {
        let silent = texts(&format!(
            "select o.type || ' ' || o.identity from {OBJECTS} o
              where coalesce(obj_description(o.objid, (select relname from pg_class where oid = o.classid)), '') = ''
                and not exists (select from pg_depend i where i.classid = o.classid and i.objid = o.objid and i.deptype = 'i')
              order by 1"
        ));
        assert_eq!(silent, NOTHING);
    }

    #[pg_test]
    fn every_column_of_a_view_has_a_comment() {
        let silent = texts(
            "select c.relname || '.' || a.attname from pg_class c
               join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
              where c.relnamespace = 'lago_push'::regnamespace and c.relkind = 'v' and c.relname not like '\\_%'
                and coalesce(col_description(c.oid, a.attnum), '') = ''
              order by c.relname, a.attnum",
        );
        assert_eq!(silent, NOTHING);
    }

    #[pg_test]
    fn functions_with_their_owners_rights_have_a_search_path_of_their_own() {
        let loose = texts(
            "select p.oid::regprocedure::text from pg_proc p
              where p.pronamespace = 'lago_push'::regnamespace and (p.prosecdef or p.prolang <> (select oid from pg_language where lanname = 'c'))
                and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)",
        );
        assert_eq!(loose, NOTHING);
        // Inside SECURITY DEFINER there is no telling who called, so nothing is.
        let owners_rights = texts(
            "select p.proname::text from pg_proc p where p.pronamespace = 'lago_push'::regnamespace and p.prosecdef",
        );
        assert_eq!(owners_rights, NOTHING);
        // Each entry point has a function to hand over to, with the same arguments.
        let without_one = texts(
            "select p.oid::regprocedure::text from pg_proc p
              where p.prosrc = 'lago_push_as_owner'
                and not exists (select from pg_proc i where i.pronamespace = p.pronamespace
                                   and i.proname = '_' || p.proname and i.proargtypes = p.proargtypes)",
        );
        assert_eq!(without_one, NOTHING);
    }

    #[pg_test]
    fn nothing_is_granted_to_anybody_but_the_monitor() {
        let granted = texts(
            "select format('%s %s %s', case a.grantee when 0 then 'public' else a.grantee::regrole::text end, a.privilege_type, o.name)
               from (select 'schema ' || n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner)), n.nspowner
                       from pg_namespace n where n.nspname = 'lago_push'
                     union all
                     select c.relname, coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's'::\"char\" else 'r' end, c.relowner)), c.relowner
                       from pg_class c where c.relnamespace = 'lago_push'::regnamespace and c.relkind not in ('i', 't')
                     union all
                     select p.proname, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
                       from pg_proc p where p.pronamespace = 'lago_push'::regnamespace
                     union all
                     select c.relname || '.' || t.attname, t.attacl, c.relowner
                       from pg_class c join pg_attribute t on t.attrelid = c.oid and t.attacl is not null
                      where c.relnamespace = 'lago_push'::regnamespace) o(name, acl, owner)
              cross join aclexplode(o.acl) a
              where a.grantee <> o.owner
              order by 1",
        );
        assert_eq!(
            granted,
            [
                "pg_monitor EXECUTE _backlog",
                "pg_monitor EXECUTE _capped",
                "pg_monitor EXECUTE _endpoints",
                "pg_monitor EXECUTE _in_flight",
                "pg_monitor EXECUTE _letters",
                "pg_monitor EXECUTE _runs_under_way",
                "pg_monitor EXECUTE _workers",
                "pg_monitor SELECT backfills",
                "pg_monitor SELECT destinations",
                "pg_monitor SELECT endpoints",
                "pg_monitor SELECT ledger",
                "pg_monitor SELECT metrics",
                "pg_monitor SELECT runs",
                "pg_monitor SELECT status",
                "pg_monitor SELECT workers",
                "pg_monitor USAGE schema lago_push"
            ]
        );
    }

    #[pg_test]
    fn a_dump_carries_every_table_but_the_keys_and_the_mark() {
        let dumped = texts(
            "select c.oid::regclass::text from pg_extension e cross join unnest(e.extconfig) d(id) join pg_class c on c.oid = d.id
              where e.extname = 'lago_push'",
        );
        let kept = texts(
            "select c.oid::regclass::text from pg_class c where c.relnamespace = 'lago_push'::regnamespace and c.relkind in ('r', 'S')",
        );
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(
            sorted(dumped),
            sorted(
                kept.into_iter()
                    .filter(|name| {
                        !["lago_push.api_key", "lago_push.instance", "lago_push.outbox_start"]
                            .contains(&name.as_str())
                    })
                    .collect()
            )
        );
        assert_eq!(
            text(
                "select coalesce(string_agg(c, ''), '') from pg_extension e cross join unnest(e.extcondition) c where e.extname = 'lago_push'"
            ),
            "",
            "whole tables"
        );
    }

    #[pg_test]
    fn constraints_are_named_for_the_rule_they_state() {
        let nameless = texts(
            "select c.conname::text from pg_constraint c
              where c.connamespace = 'lago_push'::regnamespace and c.contype <> 'n'
                and c.conname ~ '_(pkey|fkey|key|check|excl)[0-9]*$'",
        );
        assert_eq!(nameless, NOTHING);
    }

    #[pg_test]
    fn the_endpoints_are_those_of_the_catalogue() {
        stage::set();
        assert_eq!(
            texts(
                "select concat_ws(' ', name, method, path, root, required, batch, idempotent) from lago_push.endpoints"
            ),
            [
                "event POST /events event {transaction_id,external_subscription_id,code,timestamp} 100 t",
                "customer POST /customers customer {external_id} 1 t",
                "customer_delete DELETE /customers/{external_id} {external_id} 1 t",
                "subscription POST /subscriptions subscription {external_customer_id,plan_code,external_id} 1 t",
                "subscription_update PUT /subscriptions/{external_id} subscription {external_id} 1 t",
                "subscription_terminate DELETE /subscriptions/{external_id} {external_id} 1 t",
                "applied_coupon POST /applied_coupons applied_coupon {external_customer_id,coupon_code} 1 f",
                "applied_coupon_delete DELETE /customers/{external_customer_id}/applied_coupons/{lago_id} {external_customer_id,lago_id} 1 t",
                "wallet POST /wallets wallet {external_customer_id,rate_amount,currency} 1 f",
                "wallet_update PUT /wallets/{lago_id} wallet {lago_id} 1 t",
                "wallet_terminate DELETE /wallets/{lago_id} {lago_id} 1 t",
                "wallet_transaction POST /wallet_transactions wallet_transaction {wallet_id} 1 f",
                "invoice POST /invoices invoice {external_customer_id,fees} 1 f",
                "invoice_update PUT /invoices/{lago_id} invoice {lago_id} 1 t",
                "fee PUT /fees/{lago_id} fee {lago_id,payment_status} 1 t",
                "credit_note POST /credit_notes credit_note {invoice_id,items} 1 f",
                "payment POST /payments payment {invoice_id,amount_cents,reference} 1 f",
                "billable_metric POST /billable_metrics billable_metric {name,code,aggregation_type} 1 t",
                "billable_metric_update PUT /billable_metrics/{code} billable_metric {code} 1 t",
                "plan POST /plans plan {name,code,interval,amount_cents,amount_currency,pay_in_advance} 1 t",
                "plan_update PUT /plans/{code} plan {code} 1 t",
                "add_on POST /add_ons add_on {name,code,amount_cents,amount_currency} 1 t",
                "add_on_update PUT /add_ons/{code} add_on {code} 1 t",
                "coupon POST /coupons coupon {name,code} 1 t",
                "coupon_update PUT /coupons/{code} coupon {code} 1 t",
                "tax POST /taxes tax {name,code,rate} 1 t",
                "tax_update PUT /taxes/{code} tax {code} 1 t",
            ]
        );
    }
}
