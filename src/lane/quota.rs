//! Quota: how fast requests follow each other, by what the server says it still takes.
//!
//! Below the lane. It promises a server with a limit that it is not asked for more, and whoever shares the
//! limit, another lago_push on another server above all, that there is something left for them.
#![forbid(unsafe_code)]

use crate::backoff::Dice;
use crate::call::Category;
use crate::verdict::Allowance;
use std::time::{Duration, Instant};

/// No server is believed that wants to be left alone for longer: Lago's windows are seconds long.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// Requests that may go before anything at all was heard: several lago_push that start together would else meet
/// a small limit with all their connections.
const BEFORE_ANY_ANSWER: usize = 4;
/// When to look again for the first answer of a new window, if it does not come before.
const ANSWER_PAUSE: Duration = Duration::from_millis(50);
/// However many the others sent for each request of ours, who came late to a window must not take it that they go
/// on like that.
const MOST_OF_ALL_FOR_ONE: usize = 8;
/// More is left than there was, by more than this part of the limit: a new window has begun. Less may be answers
/// that come in another order.
const JUMP_PART: u32 = 4;

/// What the server said it still takes, of each category.
#[derive(Debug, Default)]
pub struct Quotas {
    events: Told,
    other: Told,
}

/// What became of a request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Taken,
    Refused,
}

/// Whether somebody else uses up the limit too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Company {
    #[default]
    Alone,
    Others,
}

/// Whether any answer has come yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Heard {
    #[default]
    Nothing,
    Something,
}

#[derive(Debug, Default)]
struct Told {
    heard: Heard,
    /// Of the window that has not ended.
    quota: Option<Quota>,
    /// How many requests a whole window takes, as far as it was ever said.
    limit: Option<u32>,
    /// In the last window that told.
    company: Company,
    /// The most requests that were under way at a time since that ended: so many answers may overtake one.
    most_under_way: usize,
}

#[derive(Debug)]
struct Quota {
    limit: Option<u32>,
    /// The least any answer of this window named: answers may come in another order than that in which
    /// the server counted.
    remaining: usize,
    resets_at: Instant,
    /// How much longer somebody waits who came when others had used up the window. Servers say whole seconds, so
    /// who wakes a second later comes too late again, and for ever, if not at another time.
    shift: Duration,
    /// When the next request keeps the rest spread over the window.
    next_at: Option<Instant>,
    /// Requests of ours among those the server has taken.
    ours: usize,
    company: Company,
}

impl Quota {
    fn new(said: Allowance, now: Instant) -> Quota {
        Quota {
            limit: said.limit,
            remaining: said.remaining as usize,
            resets_at: now + said.reset.min(LONGEST_WINDOW),
            shift: Duration::ZERO,
            next_at: None,
            ours: 0,
            company: Company::Alone,
        }
    }

    /// Takes note of a further answer of the same window.
    fn hear(&mut self, said: Allowance, now: Instant) {
        self.limit = said.limit.or(self.limit);
        self.remaining = self.remaining.min(said.remaining as usize);
        // An answer that was long on its way counts from when it was written, so the earliest end is nearest
        // to the truth.
        self.resets_at = self.resets_at.min(now + said.reset.min(LONGEST_WINDOW));
    }

    fn ends_at(&self) -> Instant {
        self.resets_at + self.shift
    }

    /// Requests everybody has sent in this window.
    fn used(&self) -> usize {
        self.limit.map_or(0, |limit| (limit as usize).saturating_sub(self.remaining))
    }

    /// Of them, so many for each one of ours.
    fn of_all_for_one(&self) -> usize {
        self.used().div_ceil(self.ours.max(1)).clamp(1, MOST_OF_ALL_FOR_ONE)
    }

    /// Whether an answer is of a later window than this.
    fn is_past(&self, said: Allowance, most_under_way: usize) -> bool {
        let reordered =
            most_under_way + said.limit.map_or(usize::MAX / 2, |limit| (limit / JUMP_PART) as usize);
        said.remaining as usize > self.remaining.saturating_add(reordered)
    }
}

impl Quotas {
    /// An answer came, which says what is left or does not; `unanswered` requests are still under way.
    pub fn observe(
        &mut self,
        category: Category,
        said: Option<Allowance>,
        admission: Admission,
        unanswered: usize,
        now: Instant,
        dice: &mut Dice,
    ) {
        let told = self.told(category, now);
        told.heard = Heard::Something;
        told.limit = said.and_then(|said| said.limit).or(told.limit);
        if let (Some(quota), Some(said)) = (&told.quota, said)
            && quota.is_past(said, told.most_under_way)
        {
            told.company = quota.company;
            told.most_under_way = unanswered + 1;
            told.quota = None;
        }
        let comes_first = told.quota.is_none();
        match (&mut told.quota, said) {
            (None, None) => return,
            (Some(quota), None) => quota.remaining = quota.remaining.saturating_sub(1),
            (None, Some(said)) => told.quota = Some(Quota::new(said, now)),
            (Some(quota), Some(said)) => quota.hear(said, now),
        }
        let Some(quota) = &mut told.quota else { return };
        match admission {
            Admission::Taken => quota.ours += 1,
            Admission::Refused => quota.company = Company::Others,
        }
        // What is under way may have been counted.
        if quota.used() > quota.ours + unanswered {
            quota.company = Company::Others;
        }
        if comes_first && quota.company == Company::Others && quota.remaining < quota.of_all_for_one() {
            quota.shift = quota.resets_at.saturating_duration_since(now).mul_f64(dice.throw());
        }
    }

    /// The moment to wait for, if no request of this category should go now. `unanswered` ones are
    /// under way: the server may or may not have counted them.
    pub fn wait(&mut self, category: Category, unanswered: usize, now: Instant) -> Option<Instant> {
        let told = self.told(category, now);
        let Some(quota) = &told.quota else {
            let most = match (told.heard, told.limit, told.company) {
                (Heard::Nothing, ..) => BEFORE_ANY_ANSWER,
                (Heard::Something, None, _) => return None,
                // A new window has begun, and what is left of it is not said yet. Not all of it, so that whoever is
                // new finds something; and where others have begun it too, one request tells.
                (Heard::Something, Some(limit), Company::Alone) => limit.div_ceil(2).max(1) as usize,
                (Heard::Something, Some(_), Company::Others) => 1,
            };
            return (unanswered >= most).then(|| now + ANSWER_PAUSE);
        };
        // While ours are under way, others send theirs, of which no answer has told yet.
        let of_all_for_one = match told.company_now() {
            Company::Alone => 1,
            Company::Others => quota.of_all_for_one(),
        };
        if quota.remaining < (unanswered + 1).saturating_mul(of_all_for_one) {
            return Some(quota.ends_at());
        }
        quota.next_at.filter(|next_at| *next_at > now)
    }

    /// A request goes; `unanswered` went before it.
    pub fn take(&mut self, category: Category, unanswered: usize, now: Instant) {
        let told = self.told(category, now);
        let company = told.company_now();
        told.most_under_way = told.most_under_way.max(unanswered + 1);
        let Some(quota) = &mut told.quota else { return };
        let left = quota.remaining.saturating_sub(unanswered).max(1);
        let scarce = quota.limit.is_none_or(|limit| left.saturating_mul(2) < limit as usize);
        let window = quota.resets_at.saturating_duration_since(now);
        let share = u32::try_from(left).unwrap_or(u32::MAX);
        // Who shares a limit spreads from the beginning: all that do so have equal parts, and what is left
        // shrinks without ever being overdrawn, as each answer makes everybody slower.
        quota.next_at = (scarce || company == Company::Others).then(|| now + window / share);
    }

    /// What is known of a category, without the window that has ended.
    fn told(&mut self, category: Category, now: Instant) -> &mut Told {
        let told = match category {
            Category::Events => &mut self.events,
            Category::Other => &mut self.other,
        };
        if let Some(ended) = told.quota.take_if(|quota| quota.ends_at() <= now) {
            told.company = ended.company;
            told.most_under_way = 0;
        }
        told
    }
}

impl Told {
    /// Who has been there in this window or the last one.
    fn company_now(&self) -> Company {
        match self.quota.as_ref().map(|quota| quota.company) {
            Some(Company::Others) => Company::Others,
            Some(Company::Alone) | None => self.company,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn hear(quotas: &mut Quotas, limit: u32, remaining: u32, admission: Admission, now: Instant) {
        let said = Allowance { limit: Some(limit), remaining, reset: SECOND };
        quotas.observe(Category::Events, Some(said), admission, 0, now, &mut Dice::new(1));
    }

    #[test]
    fn a_new_window_is_not_met_with_more_than_half_of_one_before_its_first_answer() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        for remaining in (0..10).rev() {
            hear(&mut quotas, 10, remaining, Admission::Taken, now);
        }
        assert_eq!(quotas.wait(Category::Events, 0, now), Some(now + SECOND));
        assert_eq!(quotas.wait(Category::Events, 4, now + SECOND), None);
        assert!(quotas.wait(Category::Events, 5, now + SECOND).is_some());
        assert_eq!(quotas.wait(Category::Other, 3, now + SECOND), None, "of those nothing was heard");
    }

    #[test]
    fn nothing_heard_yet_is_met_with_few_and_a_server_without_limits_with_all() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        assert_eq!(quotas.wait(Category::Events, BEFORE_ANY_ANSWER - 1, now), None);
        assert!(quotas.wait(Category::Events, BEFORE_ANY_ANSWER, now).is_some());
        quotas.observe(Category::Events, None, Admission::Taken, 0, now, &mut Dice::new(1));
        assert_eq!(quotas.wait(Category::Events, 99, now), None);
    }

    #[test]
    fn where_others_were_a_new_window_is_met_with_one_request() {
        for (remaining, admission) in [(5, Admission::Taken), (0, Admission::Refused)] {
            let (mut quotas, now) = (Quotas::default(), Instant::now());
            hear(&mut quotas, 10, remaining, admission, now);
            let later = now + SECOND * 3;
            assert_eq!(quotas.wait(Category::Events, 0, later), None);
            assert!(quotas.wait(Category::Events, 1, later).is_some(), "{admission:?}");
        }
    }

    #[test]
    fn what_others_send_for_each_of_ours_is_left_to_them() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        hear(&mut quotas, 100, 97, Admission::Taken, now);
        hear(&mut quotas, 100, 4, Admission::Taken, now);
        assert!(quotas.wait(Category::Events, 0, now).is_some(), "two of ninety-six were ours");
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        for remaining in [8, 6, 4, 2] {
            hear(&mut quotas, 10, remaining, Admission::Taken, now);
        }
        assert_eq!(quotas.wait(Category::Events, 0, now), None, "one is left for each of two");
        assert!(quotas.wait(Category::Events, 1, now).is_some());
    }

    #[test]
    fn who_finds_a_window_used_up_comes_to_the_next_at_another_time() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        hear(&mut quotas, 100, 0, Admission::Refused, now);
        let until = quotas.wait(Category::Events, 0, now).expect("nothing is left");
        assert!(until > now + SECOND && until <= now + SECOND * 2, "{:?}", until - now);
    }

    #[test]
    fn more_that_is_left_than_before_is_a_new_window_though_the_old_one_should_not_have_ended() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        hear(&mut quotas, 100, 1, Admission::Taken, now);
        assert!(quotas.wait(Category::Events, 1, now).is_some());
        hear(&mut quotas, 100, 20, Admission::Taken, now);
        assert!(quotas.wait(Category::Events, 1, now).is_some(), "answers in another order");
        hear(&mut quotas, 100, 99, Admission::Taken, now);
        assert_eq!(quotas.wait(Category::Events, 1, now), None);
    }

    #[test]
    fn an_answer_that_says_nothing_counts_as_one_request() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        for remaining in [3, 2, 1] {
            hear(&mut quotas, 4, remaining, Admission::Taken, now);
        }
        assert_eq!(quotas.wait(Category::Events, 0, now), None);
        quotas.observe(Category::Events, None, Admission::Taken, 0, now, &mut Dice::new(1));
        assert_eq!(quotas.wait(Category::Events, 0, now), Some(now + SECOND));
        assert_eq!(quotas.wait(Category::Other, 0, now), None);
    }
}
