//! The source that both read, and what becomes of it.

/// How far the source has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is remembered of it.
    First,
    /// A hundredth has changed: a third of that is new, a third changed, a third gone.
    Changed,
    /// It is as it was.
    Same,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first run",
            Self::Changed => "1 % changed",
            Self::Same => "nothing changed",
        }
    }
}

/// What has to be remembered of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All of it: the event of a row that is gone is made of what it was.
    WholeRows,
    /// Enough to tell that it has changed: nothing is sent for rows that are gone.
    Digests,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::WholeRows => "whole rows",
            Self::Digests => "digests",
        }
    }

    pub fn operations(self) -> &'static str {
        match self {
            Self::WholeRows => "{insert,update,delete}",
            Self::Digests => "{insert,update}",
        }
    }

    pub fn figure(self, stage: Stage) -> &'static str {
        match (self, stage) {
            (Self::WholeRows, Stage::Changed) => "time of a run, 1 % of the rows new, changed or gone",
            (Self::WholeRows, Stage::Same) => "  nothing changed",
            (Self::WholeRows, Stage::First) => "  the first one",
            (Self::Digests, Stage::Changed) => "  1 % of the rows, without deletes",
            (Self::Digests, Stage::Same) => "  nothing changed, without deletes",
            (Self::Digests, Stage::First) => "  the first one, without deletes",
        }
    }
}

pub struct Source {
    pub rows: usize,
}

pub const TIDYING: &str = "drop table billed, peer_state";

/// One row of so many is new, one changed and one gone.
const ONE_OF: usize = 300;

impl Source {
    /// The source, and what plain SQL remembers of it.
    pub fn tables(&self) -> String {
        "create table billed (
             id bigint primary key,
             subscription text not null,
             amount numeric not null,
             created_at timestamptz not null);
         -- As wide as ours.
         create table peer_state (key text collate \"C\" primary key, digest uuid not null, row json)
             with (fillfactor = 90);"
            .to_owned()
    }

    pub fn fill(&self) -> String {
        format!("truncate billed, peer_state; {}", insert(1, self.rows))
    }

    pub fn change(&self) -> String {
        format!(
            "update billed set amount = amount + 1 where id % {ONE_OF} = 1;
             delete from billed where id % {ONE_OF} = 2;
             {}",
            insert(self.rows + 1, self.rows + self.share())
        )
    }

    /// As many rows as each kind of difference has.
    fn share(&self) -> usize {
        self.rows / ONE_OF
    }

    /// Rows that are new, changed and gone, and those that are as they were.
    pub fn differences(&self, stage: Stage) -> [usize; 4] {
        match stage {
            Stage::First => [self.rows, 0, 0, 0],
            Stage::Changed => {
                let gone = (1..=self.rows).filter(|id| id % ONE_OF == 2).count();
                let changed = (1..=self.rows).filter(|id| id % ONE_OF == 1).count();
                [self.share(), changed, gone, self.rows - changed - gone]
            }
            Stage::Same => {
                let [added, changed, _, unchanged] = self.differences(Stage::Changed);
                [0, 0, 0, added + changed + unchanged]
            }
        }
    }

    /// How many events are right.
    pub fn events(&self, state: State, stage: Stage) -> usize {
        let [added, changed, gone, _] = self.differences(stage);
        match state {
            State::WholeRows => added + changed + gone,
            State::Digests => added + changed,
        }
    }
}

fn insert(from: usize, to: usize) -> String {
    format!(
        "insert into billed
         select n, 'sub_' || n % 1000, n % 10000 * 0.01, timestamptz '2026-01-15 12:00:00+00' + n * interval '1 s'
         from generate_series({from}, {to}) n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_in_equal_parts_and_a_hundredth() {
        let source = Source { rows: 3000 };
        assert_eq!(source.differences(Stage::Changed), [10, 10, 10, 2980]);
        assert_eq!(source.differences(Stage::Same), [0, 0, 0, 3000]);
        assert_eq!(source.events(State::WholeRows, Stage::Changed), 30);
        assert_eq!(source.events(State::Digests, Stage::Changed), 20);
        assert_eq!(source.events(State::Digests, Stage::First), 3000);
    }
}
