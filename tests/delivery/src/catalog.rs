//! What an extension has put into a database's catalog, as facts that can be compared.
//!
//! Two ways lead to a version of lago_push: making it, and updating an older one. Both must end in the same
//! catalog, down to the order of columns and what counts as the extension's own grants. Every fact comes with
//! the SQL that makes it so, so that what a test finds missing, or `scripts/upgrade-sql` writes, can be run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use postgres::Client;

/// One thing the extension has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What is made first has the lowest.
    rank: i32,
    /// Within a rank: the order in which the extension made it.
    place: i64,
    pub object: String,
    /// What is compared.
    pub definition: String,
    /// The SQL that makes it so.
    making: String,
    /// The table it is made together with, when that is missing as a whole.
    within: Option<String>,
}

/// Everything of the extension in this database.
pub fn facts(db: &mut Client) -> Vec<Fact> {
    // What is printed of definitions depends on it.
    db.batch_execute("set search_path to pg_catalog").unwrap_or_else(|e| panic!("{e:?}"));
    let rows = db.query(FACTS, &[]).unwrap_or_else(|e| panic!("{e:?}"));
    rows.iter()
        .map(|row| Fact {
            rank: row.get(0),
            place: row.get(1),
            object: row.get(2),
            definition: row.get(3),
            making: row.get(4),
            within: row.get(5),
        })
        .collect()
}

/// What `is` lacks to be like `wanted`, what it has in another form, and what it has too much; each with the SQL
/// that puts it right. Empty when the two are alike.
pub fn differences(is: &[Fact], wanted: &[Fact]) -> String {
    let (is, wanted) = (by_object(is), by_object(wanted));
    let mut text = String::new();
    for (object, fact) in &wanted {
        match is.get(object) {
            Some(found) if found.definition == fact.definition => {}
            Some(found) => {
                let _ = writeln!(
                    text,
                    "-- {object} differs. It is:\n{}\n-- It should be:\n{}\n-- Made so by:\n{}",
                    found.definition, fact.definition, fact.making
                );
            }
            None => {
                let _ = writeln!(text, "-- {object} is missing:\n{}", fact.making);
            }
        }
    }
    for (object, fact) in is.iter().filter(|(object, _)| !wanted.contains_key(*object)) {
        let _ = writeln!(text, "-- {object} is too much:\n{}", fact.definition);
    }
    text
}

/// The SQL that makes of `is` what `wanted` is, in an order in which it can be run.
pub fn update(is: &[Fact], wanted: &[Fact]) -> String {
    let (old, new) = (by_object(is), by_object(wanted));
    let missing: BTreeSet<&str> =
        wanted.iter().map(|fact| fact.object.as_str()).filter(|object| !old.contains_key(*object)).collect();
    let differs = |fact: &Fact| old.get(&fact.object).is_none_or(|found| found.definition != fact.definition);
    // Functions that give something else than before cannot be replaced, only made anew.
    let remade: Vec<&str> = wanted
        .iter()
        .filter(|fact| old.contains_key(&fact.object) && differs(fact))
        .filter_map(|fact| fact.object.strip_prefix("result of function "))
        .collect();
    let is_about_remade = |fact: &Fact| {
        remade.iter().any(|function| {
            let name = function.split('(').next().unwrap_or(function);
            let view_calls_it = fact.object.starts_with("view ") && fact.making.contains(&format!("{name}("));
            view_calls_it
                || ["function", "grants on function", "comment on function"]
                    .iter()
                    .any(|what| fact.object == format!("{what} {function}"))
        })
    };
    let mut todo: Vec<&Fact> = wanted
        .iter()
        .filter(|fact| differs(fact) || is_about_remade(fact))
        .filter(|fact| fact.within.as_deref().is_none_or(|table| !missing.contains(table)))
        .filter(|fact| !fact.making.is_empty())
        .collect();
    todo.sort_by_key(|fact| (fact.rank, fact.place));

    let mut text = String::new();
    let mut carried = String::new();
    let mut dropped = String::new();
    for function in &remade {
        let (name, parameters) = function.split_once('(').unwrap_or((function, ")"));
        let aside = format!("{name}_before({parameters}");
        let aside_name = name.split('.').next_back().unwrap_or(name);
        let _ = writeln!(text, "alter function {function} rename to {aside_name}_before;\n");
        let _ = writeln!(carried, "select lago_push._carry_grants_over('{aside}', '{function}');");
        let _ = writeln!(dropped, "drop function {aside};");
    }
    // A function with other parameters is another function: who might call the old one may call the new one.
    for gone in is.iter().filter(|fact| !new.contains_key(&fact.object)) {
        if let Some(function) = gone.object.strip_prefix("function ") {
            let name = function.split('(').next().unwrap_or(function);
            let successors = todo.iter().filter_map(|fact| fact.object.strip_prefix("function "));
            for successor in successors.filter(|successor| successor.split('(').next() == Some(name)) {
                let _ =
                    writeln!(carried, "select lago_push._carry_grants_over('{function}', '{successor}');");
            }
            let _ = writeln!(dropped, "drop function {function};");
        } else if gone.object.starts_with("view ") {
            let _ = writeln!(dropped, "drop {};", gone.object);
        }
    }
    for fact in &todo {
        let without_not_null =
            old.get(&fact.object).and_then(|before| before.definition.strip_suffix(" not null"));
        let column =
            fact.object.strip_prefix("column ").filter(|_| without_not_null == Some(&fact.definition));
        match column.and_then(|column| column.rsplit_once('.')) {
            Some((table, column)) => {
                let _ = writeln!(text, "alter table {table} alter column {column} drop not null;\n");
            }
            None => {
                let _ = writeln!(text, "{}\n", fact.making);
            }
        }
    }
    // Grants are carried over to what has its own already, and before what had them goes.
    for more in [carried, dropped].iter().filter(|more| !more.is_empty()) {
        let _ = writeln!(text, "{more}");
    }
    text
}

fn by_object(facts: &[Fact]) -> BTreeMap<String, Fact> {
    facts.iter().map(|fact| (fact.object.clone(), fact.clone())).collect()
}

/// Ranks: 1 tables and sequences, 2 columns, 3 constraints and indexes, 4 functions and views in the order in which
/// they were made, 5 comments, 6 grants, 7 what a dump carries. What has no SQL of its own follows from the rest.
const FACTS: &str = r#"
with extension as (
  select e.oid, e.extname, e.extconfig, e.extcondition from pg_extension e where e.extname = 'lago_push'
), member as (
  select d.classid, d.objid from pg_depend d, extension e
   where d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
), relation as (
  select c.*, format('%I.%I', n.nspname, c.relname) as name,
         case c.relkind when 'r' then 'table' when 'v' then 'view' when 'S' then 'sequence' else c.relkind::text end as kind
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join member m on m.classid = 'pg_class'::regclass and m.objid = c.oid
), col as (
  select r.name as relation, r.kind, r.oid as relid, a.*,
         format('%I %s%s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                case when a.attcollation <> t.typcollation then ' collate ' || a.attcollation::regcollation else '' end,
                case when a.attidentity <> '' then ' generated ' || case a.attidentity when 'a' then 'always' else 'by default' end || ' as identity' else '' end,
                case when a.attnotnull and a.attidentity = '' then ' not null' else '' end,
                coalesce(' default ' || pg_get_expr(f.adbin, f.adrelid), '')) as declared,
         case when a.attstorage = t.typstorage then ''
              else case a.attstorage when 'e' then 'external' when 'x' then 'extended' when 'm' then 'main' else 'plain' end end as storage,
         coalesce(nullif(a.attstattarget, -1)::text, '') as statistics
    from relation r
    join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
    left join pg_attrdef f on f.adrelid = a.attrelid and f.adnum = a.attnum
   where r.kind = 'table'
), con as (
  select r.name as relation, c.oid, c.conname, c.contype, pg_get_constraintdef(c.oid) as declared
    from relation r join pg_constraint c on c.conrelid = r.oid
   where r.kind = 'table'
), function as (
  select p.*, p.oid::regprocedure::text as name,
         case p.prokind when 'p' then 'procedure' else 'function' end as kind,
         rtrim(regexp_replace(replace(replace(pg_get_functiondef(p.oid), 'CREATE OR REPLACE FUNCTION', 'create or replace function'), 'CREATE OR REPLACE PROCEDURE', 'create or replace procedure'),
                              'AS ''lago_push'', \$function\$(.*)\$function\$', 'AS ''MODULE_PATHNAME'', ''\1'''), E'\n') || ';' as declared
    from pg_proc p join member m on m.classid = 'pg_proc'::regclass and m.objid = p.oid
), owned as (
  -- Everything with rights of its own: what to call it, its class, its rights now and by default.
  select r.kind || ' ' || r.name as object, 'pg_class'::regclass as classid, r.oid, r.relowner as owner,
         case r.kind when 'sequence' then 'sequence' else 'table' end as word, r.name,
         coalesce(r.relacl, acldefault(case r.kind when 'sequence' then 's'::"char" else 'r' end, r.relowner)) as acl, r.relacl is null as untouched
    from relation r where r.kind in ('table', 'view', 'sequence')
  union all
  select f.kind || ' ' || f.name, 'pg_proc'::regclass, f.oid, f.proowner, f.kind, f.name,
         coalesce(f.proacl, acldefault('f', f.proowner)), f.proacl is null
    from function f
  union all
  select 'schema lago_push', 'pg_namespace'::regclass, n.oid, n.nspowner, 'schema', 'lago_push',
         coalesce(n.nspacl, acldefault('n', n.nspowner)), n.nspacl is null
    from pg_namespace n where n.nspname = 'lago_push'
), granted as (
  select o.object, o.word, o.name, case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as grantee,
         string_agg(lower(x.privilege_type) || case when x.is_grantable then ' with grant option' else '' end, ', ' order by x.privilege_type) as rights
    from owned o, aclexplode(o.acl) x where x.grantee <> o.owner
   group by 1, 2, 3, 4
)
select 0 as rank, 0::bigint as place, 'member ' || i.type || ' ' || i.identity as object, '' as definition, '' as making, null::text as within
  from member m, pg_identify_object(m.classid, m.objid, 0) i
union all
select 0, 0, 'extension', e.extname || ' ' || n.nspname || ' ' || x.extrelocatable, '', null
  from extension e join pg_extension x on x.oid = e.oid join pg_namespace n on n.oid = x.extnamespace
-- relations
union all
select 1, r.oid::bigint, 'table ' || r.name,
       concat_ws(' ', r.relpersistence, r.relrowsecurity, r.relforcerowsecurity, r.relreplident, r.relowner::regrole, array_to_string(r.reloptions, ', '),
                 (select a.amname from pg_am a where a.oid = r.relam),
                 (select 'toast: ' || array_to_string(t.reloptions, ', ') from pg_class t where t.oid = r.reltoastrelid)),
       'create table ' || r.name || E' (\n    '
         || (select string_agg(c.declared, E',\n    ' order by c.attnum) from col c where c.relid = r.oid)
         || coalesce((select string_agg(E',\n    constraint ' || quote_ident(c.conname) || ' ' || c.declared, '' order by c.oid)
                        from con c where c.relation = r.name and c.contype <> 'n'), '')
         || E'\n)' || coalesce(' with (' || array_to_string(r.reloptions, ', ') || ')', '') || ';'
         || case when r.relrowsecurity then E'\nalter table ' || r.name || ' enable row level security;' else '' end, null
  from relation r where r.kind = 'table'
union all
select 1, r.oid::bigint, 'sequence ' || r.name,
       concat_ws(' ', format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle),
       -- That of an identity column is made with it.
       case when exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = r.oid and d.deptype = 'i') then ''
            else 'create sequence ' || r.name || ' as ' || format_type(s.seqtypid, null) || ';' end, null
  from relation r join pg_sequence s on s.seqrelid = r.oid
-- columns
union all
select 2, c.relid::bigint * 2000 + c.attnum, 'column ' || c.relation || '.' || c.attname, c.declared,
       'alter table ' || c.relation || ' add column ' || c.declared || ';', 'table ' || c.relation
  from col c
union all
select 2, c.relid::bigint * 2000 + c.attnum, 'place of column ' || c.relation || '.' || c.attname, c.attnum::text, '', 'table ' || c.relation
  from col c
union all
select 2, c.relid::bigint * 2000 + c.attnum, 'storage of column ' || c.relation || '.' || c.attname, concat_ws(' ', c.storage, c.attcompression, c.statistics, c.attcollation::regcollation),
       concat_ws(E'\n', case when c.storage <> '' then format('alter table %s alter column %I set storage %s;', c.relation, c.attname, c.storage) end,
                        case when c.statistics <> '' then format('alter table %s alter column %I set statistics %s;', c.relation, c.attname, c.statistics) end), null
  from col c
-- constraints and indexes
union all
select 3, c.oid::bigint, 'constraint ' || quote_ident(c.conname) || ' on ' || c.relation, c.declared,
       format('alter table %s add constraint %I %s;', c.relation, c.conname, c.declared), 'table ' || c.relation
  from con c
union all
select 3, i.indexrelid::bigint, 'index ' || i.indexrelid::regclass, pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid,
       case when exists (select from pg_constraint k where k.conindid = i.indexrelid) then ''
            else regexp_replace(replace(pg_get_indexdef(i.indexrelid), 'CREATE UNIQUE INDEX', 'create unique index'), '^CREATE INDEX', 'create index') || ';' end, null
  from relation r join pg_index i on i.indrelid = r.oid
union all
select 3, t.oid::bigint, 'trigger ' || t.tgname || ' on ' || r.name, pg_get_triggerdef(t.oid), pg_get_triggerdef(t.oid) || ';', null
  from relation r join pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
union all
select 3, p.oid::bigint, 'policy ' || p.polname || ' on ' || r.name,
       concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::text, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), '', null
  from relation r join pg_policy p on p.polrelid = r.oid
-- functions and views
union all
select 4, f.oid::bigint, f.kind || ' ' || f.name, f.declared, f.declared, null
  from function f
union all
select 4, f.oid::bigint, 'result of ' || f.kind || ' ' || f.name, coalesce(pg_get_function_result(f.oid), ''), '', null
  from function f
union all
select 4, r.oid::bigint, 'view ' || r.name, pg_get_viewdef(r.oid) || coalesce(' with ' || array_to_string(r.reloptions, ', '), '') || ' ' || r.relowner::regrole,
       'create or replace view ' || r.name || coalesce(' with (' || array_to_string(r.reloptions, ', ') || ')', '') || E' as\n' || pg_get_viewdef(r.oid), null
  from relation r where r.kind = 'view'
-- comments
union all
select 5, o.oid::bigint * 2000, 'comment on ' || o.object, d.description, format('comment on %s is %L;', o.object, d.description), null
  from owned o join pg_description d on d.classoid = o.classid and d.objoid = o.oid and d.objsubid = 0
union all
select 5, r.oid::bigint * 2000 + a.attnum, 'comment on column ' || r.name || '.' || a.attname, d.description,
       format('comment on column %s.%I is %L;', r.name, a.attname, d.description), null
  from relation r join pg_attribute a on a.attrelid = r.oid
  join pg_description d on d.classoid = 'pg_class'::regclass and d.objoid = r.oid and d.objsubid = a.attnum
-- grants: on what is new, never on what is there, or the grants of users would count as the extension's own
union all
select 6, o.oid::bigint, 'grants on ' || o.object,
       case when o.untouched then 'by default' else coalesce((select string_agg(g.grantee || ': ' || g.rights, '; ' order by g.grantee) from granted g where g.object = o.object), 'none') end,
       concat_ws(E'\n', format('select lago_push._close(%L, %L);', o.word, o.name),
                 (select string_agg(format('grant %s on %s %s to %s;', g.rights, o.word, o.name, g.grantee), E'\n' order by g.grantee) from granted g where g.object = o.object)), null
  from owned o
union all
select 6, o.oid::bigint, 'initial privileges of ' || o.object,
       coalesce((select string_agg(x.grantee::text || ' ' || x.privilege_type || ' ' || x.is_grantable, ', ' order by x.grantee, x.privilege_type)
                   from aclexplode(i.initprivs) x), 'none'), '', null
  from owned o left join pg_init_privs i on i.classoid = o.classid and i.objoid = o.oid and i.objsubid = 0
-- dumps
union all
select 7, c.place, 'dumped: ' || c.relation::regclass, e.extcondition[c.place],
       format('select pg_catalog.pg_extension_config_dump(%L, %L);', c.relation::regclass, e.extcondition[c.place]), null
  from extension e, unnest(e.extconfig) with ordinality c (relation, place)
order by 1, 2, 3
"#;
