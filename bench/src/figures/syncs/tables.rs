//! A hundred tables with a sync each, a hundred syncs on one table, and what is written into them.

pub const SYNCS: usize = 100;

/// Whether a row is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    None,
    Ours,
}

/// Where the rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Into one table, which has one sync if any.
    OneTable,
    /// Over as many tables as there are syncs.
    ManyTables,
    /// Into one table with as many syncs, of which each captures its kind of rows.
    Filters,
}

/// `{{ }}` are the template's own.
const PREPARATION: &str = r#"
create table kinds_plain (like usage_plain including all);
alter table kinds_plain add kind integer not null default 1;
create table kinds_ours (like kinds_plain including all);
create table one_plain (like kinds_plain including all);
create table one_ours (like kinds_plain including all);
do $$ begin
    for n in 1..SYNCS loop
        execute format('create table many_plain_%s (like kinds_plain including all)', n);
        execute format('create table many_ours_%s (like kinds_plain including all)', n);
    end loop;
end $$;
create function syncs_template(prefix text) returns text language sql as $$
    select format('{
        "transaction_id": "%s-{{ row.id }}",
        "external_subscription_id": "{{ row.subscription }}",
        "code": "usage",
        "timestamp": {{ row.created_at }},
        "properties": {"amount": "{{ row.amount }}"}}', prefix)
$$;
create table syncs_made (name text);
insert into syncs_made values ('one');
select lago_push.create_sync('one', source => 'one_ours', template => syncs_template('one'));
insert into syncs_made select 'many_' || n from generate_series(1, SYNCS) n;
select count(lago_push.create_sync('many_' || n, source => ('many_ours_' || n)::regclass,
    template => syncs_template('many-' || n))) from generate_series(1, SYNCS) n;
insert into syncs_made select 'kind_' || n from generate_series(1, SYNCS) n;
select count(lago_push.create_sync('kind_' || n, source => 'kinds_ours', filter => 'new.kind = ' || n,
    template => syncs_template('kinds'))) from generate_series(1, SYNCS) n;
select count(lago_push.activate(name)) from syncs_made;
"#;

const TIDYING: &str = "
select count(lago_push.drop_sync(name, discard => true)) from syncs_made;
do $$ begin
    for n in 1..SYNCS loop
        execute format('drop table many_plain_%s, many_ours_%s', n, n);
    end loop;
end $$;
drop table one_plain, one_ours, kinds_plain, kinds_ours, syncs_made;
drop function syncs_template(text);
";

pub fn preparation() -> String {
    PREPARATION.replace("SYNCS", &SYNCS.to_string())
}

pub fn tidying() -> String {
    TIDYING.replace("SYNCS", &SYNCS.to_string())
}

/// The tables of a spread, in their order.
pub fn tables(spread: Spread, capture: Capture) -> Vec<String> {
    let who = match capture {
        Capture::None => "plain",
        Capture::Ours => "ours",
    };
    match spread {
        Spread::OneTable => vec![format!("one_{who}")],
        Spread::ManyTables => (1..=SYNCS).map(|number| format!("many_{who}_{number}")).collect(),
        Spread::Filters => vec![format!("kinds_{who}")],
    }
}

/// Writes `rows` rows with as many statements as there are syncs, or `passes` times as many.
pub fn bulk(tables: &[String], rows: usize, passes: usize) -> String {
    let each = rows / (SYNCS * passes);
    let statement = |table: &String| {
        format!(
            "insert into {table} (subscription, amount, kind)
             select 'sub_' || n % 8, n % 1000 * 0.01, n % {SYNCS} + 1 from generate_series(1, {each}) n;"
        )
    };
    tables.iter().cycle().take(SYNCS * passes).map(statement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rows_are_written_whatever_they_are_spread_over() {
        for spread in [Spread::OneTable, Spread::ManyTables] {
            let statements = bulk(&tables(spread, Capture::Ours), 20_000, 2);
            assert_eq!(statements.matches("generate_series(1, 100)").count(), 200, "{spread:?}");
        }
    }

    #[test]
    fn every_table_of_many_has_a_name_of_its_own() {
        let mut names = tables(Spread::ManyTables, Capture::None);
        names.dedup();
        assert_eq!(names.len(), SYNCS);
    }
}
