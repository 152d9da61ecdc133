-- The figures of lago_push in Prometheus's text format, for node_exporter's textfile collector:
--   psql -XAtq -d app -f exposition.sql -o lago_push.prom
select '# HELP ' || figure.name || E' a figure of lago_push.metrics\n# TYPE ' || figure.name
       || case when figure.name like '%\_total' then ' counter' else ' gauge' end
       || pg_catalog.string_agg(E'\n' || figure.name || figure.labels || ' ' || figure.value, '' order by figure.labels)
  from (select m.name,
               '{' || pg_catalog.string_agg(
                   pg_catalog.format('%s="%s"', label.key, pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                       label.value, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n')),
                   ',' order by label.key) || '}' as labels,
               m.value
          from lago_push.metrics m,
               lateral (select l.key, l.value
                          from pg_catalog.jsonb_each_text(m.labels) l
                        union all
                        select 'database', pg_catalog.current_database()
                         where not m.labels ? 'database') label
         where m.value is not null
         group by m.name, m.labels, m.value) figure
 group by figure.name
 order by figure.name;
