//! A query's runs against a model: ten thousand rows, edited at random between two hundred runs, and during some of
//! them; runs, worker and server are killed in between. What Lago has in the end is what the model says was added,
//! changed and removed: each once, with the values of then.
//!
//! The model is two maps, the source and what the last run that ended well has read. What differs between them is what
//! a run has to find.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::random::Random;
use delivery::scene::{SUBSCRIPTIONS, Scene};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use fake_lago::Store;
use postgres::Client;

const RUNS: u64 = 200;
const ROWS: usize = 10_000;

/// Rows are numbered below this: about one number in six is not there, so that rows come back.
const NUMBERS: u64 = 12_000;

/// The first part of the key. What a key is made of must not matter to it.
const REGIONS: [&str; 4] = ["eu", "eu:1", "50%", "Zürich"];

const NOTES: [Option<&str>; 4] = [None, Some(""), Some("late"), Some("say \"when\", \\ and ü")];

const TEMPLATE: &str = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage",
    "timestamp": 1760000000,
    "properties": {"amount": "{{ row.amount }}", "note": "{{ row.note }}", "was": "{{ old.amount }}"}}"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    cents: u64,
    note: Option<&'static str>,
}

impl Row {
    fn random(random: &mut Random) -> Row {
        let note = NOTES[random.below(NOTES.len() as u64) as usize];
        Row { cents: random.below(1000), note }
    }

    fn amount(self) -> String {
        format!("{}.{:02}", self.cents / 100, self.cents % 100)
    }

    /// As SQL.
    fn values(self) -> String {
        let note = self.note.map_or_else(|| "null".into(), |note| format!("'{note}'"));
        format!("{}, {note}", self.amount())
    }
}

fn region(number: u64) -> &'static str {
    REGIONS[(number % REGIONS.len() as u64) as usize]
}

/// The key of a row, as it is remembered and stands in ids.
fn key(number: u64) -> String {
    format!("{}:{number}", region(number).replace('%', "%25").replace(':', "%3A"))
}

/// What a run finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    rows_read: usize,
    added: usize,
    changed: usize,
    removed: usize,
    unchanged: usize,
}

#[derive(Default)]
struct Model {
    source: BTreeMap<u64, Row>,
    /// What the source was for the last run that ended well.
    remembered: BTreeMap<u64, Row>,
    runs: u64,
    /// The properties of every event there is to be, by its id.
    events: BTreeMap<String, String>,
}

impl Model {
    /// Edits random rows, and gives the same in SQL.
    fn edit(&mut self, random: &mut Random, edits: u64) -> String {
        let mut sql = String::new();
        for _ in 0..edits {
            let (number, row) = (random.below(NUMBERS), Row::random(random));
            match self.source.get(&number).copied() {
                None => sql.push_str(&self.insert(number, row)),
                Some(_) if random.chance(20) => {
                    self.source.remove(&number);
                    let _ = writeln!(sql, "delete from source where id = {number};");
                }
                Some(before) => {
                    // Some updates change nothing, and some no more than nothing to an empty text.
                    let row = match random.below(10) {
                        0 => before,
                        1..4 => Row { cents: before.cents, ..row },
                        _ => row,
                    };
                    self.source.insert(number, row);
                    let _ = writeln!(
                        sql,
                        "update source set (amount, note) = ({}) where id = {number};",
                        row.values()
                    );
                }
            }
        }
        sql
    }

    fn insert(&mut self, number: u64, row: Row) -> String {
        self.source.insert(number, row);
        let (region, subscription) = (region(number), number % SUBSCRIPTIONS as u64);
        format!("insert into source values ('{region}', {number}, 'sub_{subscription}', {});\n", row.values())
    }

    /// Inserts rows until there are as many as at first.
    fn fill(&mut self, random: &mut Random) -> String {
        let mut sql = String::new();
        while self.source.len() < ROWS {
            let number = random.below(NUMBERS);
            if !self.source.contains_key(&number) {
                sql.push_str(&self.insert(number, Row::random(random)));
            }
        }
        sql
    }

    /// Deletes two rows in three.
    fn thin_out(&mut self) -> String {
        self.source.retain(|number, _| number % 3 == 0);
        "delete from source where id % 3 <> 0;".into()
    }

    /// A row that the next run is to change or remove, if there is one.
    fn to_be_rewritten(&self) -> Option<u64> {
        let differs = |(number, row): &(&u64, &Row)| self.source.get(number) != Some(row);
        self.remembered.iter().find(differs).map(|(number, _)| *number)
    }

    /// A run has read the source as it is, and has ended well.
    fn run(&mut self) -> Found {
        self.runs += 1;
        let mut found = Found { rows_read: self.source.len(), ..Found::default() };
        let mut events = Vec::new();
        for (number, row) in &self.source {
            match self.remembered.get(number) {
                None => {
                    found.added += 1;
                    events.push(("insert", *number, *row, None));
                }
                Some(before) if before != row => {
                    found.changed += 1;
                    events.push(("update", *number, *row, Some(*before)));
                }
                Some(_) => found.unchanged += 1,
            }
        }
        for (number, row) in self.remembered.iter().filter(|(number, _)| !self.source.contains_key(number)) {
            found.removed += 1;
            events.push(("delete", *number, *row, Some(*row)));
        }
        for (operation, number, row, was) in events {
            let id = format!("calls:{operation}:{}:{}", key(number), self.runs);
            let was = was.map(Row::amount).unwrap_or_default();
            let shown = shown(
                &format!("sub_{}", number % SUBSCRIPTIONS as u64),
                [&row.amount(), row.note.unwrap_or_default(), &was],
            );
            self.events.insert(id, shown);
        }
        self.remembered.clone_from(&self.source);
        found
    }
}

/// An event but for its id.
fn shown(subscription: &str, [amount, note, was]: [&str; 3]) -> String {
    format!("{subscription} amount {amount} note {note} was {was}")
}

/// Something a run has to write, held by another session: the run waits there.
struct Gate {
    session: Client,
}

impl Gate {
    /// At the last thing a run writes.
    fn at_the_end(scene: &Scene) -> Gate {
        Gate::at(scene, "select from lago_push.memory for update")
    }

    /// Between the rows it writes.
    fn at_row(scene: &Scene, number: u64) -> Gate {
        Gate::at(scene, &format!("select from lago_push.remembered where key = '{}' for update", key(number)))
    }

    fn at(scene: &Scene, lock: &str) -> Gate {
        let mut session = scene.db();
        session.batch_execute(&format!("begin; {lock}")).expect("the row can be locked");
        Gate { session }
    }

    /// Waits until a run stands before it, and gives its process.
    fn wait_for_run(&self, scene: &Scene) -> i32 {
        wait_until("the run waits for what is locked", PATIENCE, || {
            scene.value::<Option<i32>>(
                "select max(pid) from pg_stat_activity
                  where datname = current_database() and backend_type = 'lago_push run' and wait_event_type = 'Lock'",
            )
        })
    }

    /// What was locked is free again, unless the session has gone down with the server.
    fn open(mut self) {
        let _ = self.session.batch_execute("rollback");
    }
}

/// What happens to a run, or beside it.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Nothing,
    /// It is told to end when it has read so many rows, if it has not ended by then.
    ToldToEndAfter(i64),
    /// The source is edited while it is at work.
    Edits,
    /// It ends before it is done, and so may all others.
    Ends(Ending),
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The run's process is told to end.
    Told,
    /// It is killed: the server throws all others out and starts over.
    Killed,
    WorkerKilled,
    ServerStopped(Stop),
}

impl Happening {
    fn random(random: &mut Random) -> Happening {
        match random.below(100) {
            0..62 => Happening::Nothing,
            62..75 => Happening::ToldToEndAfter(random.below(ROWS as u64) as i64),
            75..84 => Happening::Edits,
            _ => Happening::Ends(Ending::Told),
        }
    }
}

/// Rare, since the server starts anew after each: one of them every so many runs.
const HARD_ENDINGS: [Ending; 5] = [
    Ending::Killed,
    Ending::WorkerKilled,
    Ending::ServerStopped(Stop::Fast),
    Ending::ServerStopped(Stop::Immediate),
    Ending::ServerStopped(Stop::Kill),
];
const RUNS_BETWEEN_HARD_ENDINGS: u64 = 20;

struct Story {
    scene: Scene,
    random: Random,
    model: Model,
    /// Runs that were ended for certain.
    ended: i64,
}

/// Runs that came to an end of their own.
const DONE: &str = "select count(*) from lago_push.runs where state in ('succeeded', 'failed')";

impl Story {
    fn begin(seed: u64) -> Story {
        let scene = Scene::on(Cluster::start(&Options::durable()), Store::Postgres);
        scene.sql(
            "create table source (region text, id bigint primary key, subscription text, amount numeric, note text)",
        );
        scene.run(
            "select lago_push.create_sync('calls', query => 'select * from source', key => '{region,id}',
                operations => '{insert,update,delete}', template => $1)",
            &[&TEMPLATE],
        );
        scene.activate("calls");
        let mut story = Story { scene, random: Random::seeded(seed), model: Model::default(), ended: 0 };
        let filled = story.model.fill(&mut story.random);
        story.scene.sql(&filled);
        story
    }

    fn edit(&mut self, edits: u64) {
        let sql = self.model.edit(&mut self.random, edits);
        self.scene.sql(&sql);
    }

    /// A run, whatever happens to it. It must find what the model finds.
    fn run(&mut self, happening: Happening, removals: &str) {
        let before: i64 = self.scene.value(DONE);
        let gate = self.gate(happening);
        self.scene.run("select lago_push.run_now('calls', removals => $1)", &[&removals]);
        let mut read = None;
        if let Some(gate) = gate {
            let pid = gate.wait_for_run(&self.scene);
            if let Happening::Ends(ending) = happening {
                // It is not the run that has read the source already that will read it.
                self.edit(5);
                self.end(pid, ending);
                self.ended += 1;
            } else {
                read = Some(self.model.run());
                self.edit(20);
            }
            gate.open();
        } else if let Happening::ToldToEndAfter(rows) = happening {
            let told = format!(
                "select count(pg_terminate_backend(pid)) > 0 from lago_push.runs where pid is not null and rows_read >= {rows}"
            );
            wait_until("the run is told to end, or has ended", PATIENCE, || {
                self.scene.value::<bool>(&told) || self.scene.value::<i64>(DONE) > before
            });
        }
        wait_until("the run is over", PATIENCE, || self.scene.value::<i64>(DONE) > before);
        let read = read.unwrap_or_else(|| self.model.run());
        assert_eq!(self.last_run(), ("succeeded".into(), read), "run {}, {happening:?}", self.model.runs);
    }

    /// Where a run is to wait for what happens.
    fn gate(&mut self, happening: Happening) -> Option<Gate> {
        match (happening, self.model.to_be_rewritten()) {
            (Happening::Nothing | Happening::ToldToEndAfter(_), _) => None,
            (_, Some(number)) if self.random.chance(50) => Some(Gate::at_row(&self.scene, number)),
            _ => Some(Gate::at_the_end(&self.scene)),
        }
    }

    fn end(&self, run: i32, ending: Ending) {
        let cluster = &self.scene.cluster;
        match ending {
            Ending::Told => {
                let told: bool = self.scene.value(&format!("select pg_terminate_backend({run})"));
                assert!(told, "the run is there");
            }
            Ending::Killed => cluster.kill9_and_recover(run),
            Ending::WorkerKilled => cluster.kill9_and_recover(self.scene.wait_for_worker()),
            Ending::ServerStopped(how) => {
                cluster.stop(how);
                cluster.start_again();
            }
        }
    }

    /// A run that would remove more than it may fails, and changes nothing.
    fn fail(&self) {
        let before: i64 = self.scene.value(DONE);
        self.scene.sql("select lago_push.run_now('calls')");
        wait_until("the run is over", PATIENCE, || self.scene.value::<i64>(DONE) > before);
        assert_eq!(self.last_run().0, "failed");
    }

    fn last_run(&self) -> (String, Found) {
        let row = self.scene.rows(
            "select state, rows_read, added, changed, removed, unchanged from lago_push.runs
              where state in ('succeeded', 'failed') order by started_at desc limit 1",
        );
        let count =
            |column| row[0].get::<_, Option<i64>>(column).map(|count| count as usize).unwrap_or_default();
        let found = Found {
            rows_read: count(1),
            added: count(2),
            changed: count(3),
            removed: count(4),
            unchanged: count(5),
        };
        (row[0].get(0), found)
    }

    /// Lago has what the model says it has, and has been sent nothing else.
    fn compare(&self) {
        self.scene.wait_until_outbox_is_empty(LONG_PATIENCE);
        let property = |event: &fake_lago::StoredEvent, name: &str| {
            event.properties.get(name).and_then(|value| value.as_str()).unwrap_or("none").to_owned()
        };
        let mut wrong = Vec::new();
        let mut arrived = BTreeSet::new();
        for event in self.scene.lago.stored() {
            let id = &event.transaction_id;
            let subscription = event.external_subscription_id.as_deref().unwrap_or("none");
            let [amount, note, was] = ["amount", "note", "was"].map(|name| property(&event, name));
            let is = shown(subscription, [&amount, &note, &was]);
            match self.model.events.get(id) {
                Some(should) if *should == is => {}
                Some(should) => wrong.push(format!("{id} is {is}, and should be {should}")),
                None => wrong.push(format!("{id} should not be there: {is}")),
            }
            if !arrived.insert(id.clone()) {
                wrong.push(format!("{id} is there twice"));
            }
        }
        let missing = self.model.events.keys().filter(|id| !arrived.contains(*id));
        wrong.extend(missing.map(|id| format!("{id} is missing")));
        let sent = self.scene.lago.copies();
        let unmeant = sent.keys().filter(|id| !self.model.events.contains_key(*id));
        wrong.extend(unmeant.map(|id| format!("{id} was sent and should not have been")));
        wrong
            .extend(self.scene.lago.sent_differently().iter().map(|id| format!("{id} was sent differently")));
        assert!(
            wrong.is_empty(),
            "{} of {} events are wrong, such as\n{}",
            wrong.len(),
            self.model.events.len(),
            wrong[..wrong.len().min(10)].join("\n")
        );
        assert_eq!(self.scene.status("calls").dead, 0);
    }
}

/// How many rows are edited before a run: none, about one in a hundred, or very many.
fn edits(random: &mut Random) -> u64 {
    match random.below(100) {
        0..10 => 0,
        10..80 => random.below(100),
        80..97 => random.below(400),
        _ => random.below(3000),
    }
}

#[test]
fn two_hundred_runs_with_kills_in_between_send_what_the_model_says_and_nothing_else() {
    let mut story = Story::begin(20_260);
    for number in 0..RUNS {
        let happening = match number % RUNS_BETWEEN_HARD_ENDINGS {
            0 if number > 0 => Happening::Ends(
                HARD_ENDINGS[(number / RUNS_BETWEEN_HARD_ENDINGS) as usize % HARD_ENDINGS.len()],
            ),
            _ => Happening::random(&mut story.random),
        };
        match number {
            70 | 140 => {
                let sql = story.model.thin_out();
                story.scene.sql(&sql);
                story.fail();
                story.run(happening, "accept");
                continue;
            }
            71 | 141 => {
                let sql = story.model.fill(&mut story.random);
                story.scene.sql(&sql);
            }
            0 => {}
            _ => {
                let edits = edits(&mut story.random);
                story.edit(edits);
            }
        }
        story.run(happening, "limit");
    }
    story.compare();
    let interrupted: i64 =
        story.scene.value("select count(*) from lago_push.runs where state = 'interrupted'");
    assert!(
        story.ended >= 10 && interrupted >= story.ended,
        "{interrupted} of {} were interrupted",
        story.ended
    );
}
