//! Several lanes that share one server's limit and know nothing of each other, in simulated time.

use super::flow::{Flow, Permit, Role};
use super::quota::{Admission, Quotas};
use crate::backoff::Dice;
use crate::call::Category;
use crate::verdict::{Allowance, Condition};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 16;

/// A lane with a backlog that never ends.
struct Client {
    quotas: Quotas,
    flow: Flow,
    unanswered: usize,
    round_trip: Duration,
    begins: Duration,
    taken: usize,
}

struct Flight {
    at: Instant,
    client: usize,
    role: Role,
    /// None on the way there.
    answer: Option<(Allowance, Admission)>,
}

struct World {
    clients: Vec<Client>,
    flights: Vec<Flight>,
    limit: u32,
    window_began: Instant,
    used: u32,
    refused: usize,
    requests: usize,
    dice: Dice,
}

impl World {
    /// A fixed window that begins with a request, and tells whole seconds, as in front of Lago.
    fn count(&mut self, client: usize, now: Instant) -> (Allowance, Admission) {
        if now - self.window_began >= WINDOW {
            (self.window_began, self.used) = (now, 0);
        }
        let admission = if self.used < self.limit { Admission::Taken } else { Admission::Refused };
        self.used += 1;
        self.requests += 1;
        match admission {
            Admission::Taken => self.clients[client].taken += 1,
            Admission::Refused => self.refused += 1,
        }
        let remaining = self.limit.saturating_sub(self.used);
        (Allowance { limit: Some(self.limit), remaining, reset: WINDOW }, admission)
    }

    fn fly(&mut self, client: usize, role: Role, answer: Option<(Allowance, Admission)>, now: Instant) {
        let half = self.clients[client].round_trip.mul_f64(0.4 + 0.2 * self.dice.throw());
        self.flights.push(Flight { at: now + half, client, role, answer });
    }

    fn land(&mut self, flight: Flight, now: Instant) {
        let Some((said, admission)) = flight.answer else {
            let answer = self.count(flight.client, now);
            return self.fly(flight.client, flight.role, Some(answer), now);
        };
        let client = &mut self.clients[flight.client];
        client.unanswered -= 1;
        let condition = match admission {
            Admission::Taken => Condition::Well,
            Admission::Refused => Condition::Trouble { why: String::new(), wait: Some(said.reset) },
        };
        let dice = &mut self.dice;
        client.quotas.observe(Category::Events, Some(said), admission, client.unanswered, now, dice);
        client.flow.observe(flight.role, 0, &condition, now, dice);
    }

    /// Has a client send what it may, and says when it may send more.
    fn send(&mut self, number: usize, now: Instant) -> Option<Instant> {
        loop {
            let client = &mut self.clients[number];
            let role = match client.flow.permit(client.unanswered, now) {
                Permit::Nothing(until) => return until,
                Permit::Probe { .. } => Role::Probe,
                Permit::Regular => Role::Regular,
            };
            if let Some(until) = client.quotas.wait(Category::Events, client.unanswered, now) {
                return Some(until);
            }
            client.quotas.take(Category::Events, client.unanswered, now);
            client.unanswered += 1;
            self.fly(number, role, None, now);
        }
    }
}

/// What became of it: the part that was refused, the part of the limit that was used, and what each one got.
fn share(limit: u32, clients: &[(u64, u64)], seconds: u32) -> (f64, f64, Vec<usize>) {
    let began = Instant::now();
    let client = |&(round_trip, begins): &(u64, u64)| Client {
        quotas: Quotas::default(),
        flow: Flow::new(CONNECTIONS),
        unanswered: 0,
        round_trip: Duration::from_millis(round_trip),
        begins: Duration::from_secs(begins),
        taken: 0,
    };
    let mut world = World {
        clients: clients.iter().map(client).collect(),
        flights: Vec::new(),
        limit,
        window_began: began,
        used: 0,
        refused: 0,
        requests: 0,
        dice: Dice::new(7),
    };
    let mut now = began;
    while now < began + WINDOW * seconds {
        while let Some(next) = world.flights.iter().position(|flight| flight.at <= now) {
            let flight = world.flights.swap_remove(next);
            world.land(flight, now);
        }
        let mut moments: Vec<Instant> = Vec::new();
        for number in 0..world.clients.len() {
            let begins = began + world.clients[number].begins;
            moments.extend(if begins > now { Some(begins) } else { world.send(number, now) });
        }
        moments.extend(world.flights.iter().map(|flight| flight.at));
        let next = moments.into_iter().min().unwrap_or(now);
        now = next.max(now + Duration::from_micros(50));
    }
    let taken: Vec<usize> = world.clients.iter().map(|client| client.taken).collect();
    let all = f64::from(limit) * f64::from(seconds);
    (world.refused as f64 / world.requests as f64, taken.iter().sum::<usize>() as f64 / all, taken)
}

#[test]
fn neighbours_use_the_whole_limit_in_like_parts_and_are_hardly_refused() {
    for limit in [50, 500] {
        for count in [2, 3, 5] {
            let clients: Vec<(u64, u64)> = (0..count).map(|number| (5 + number, 0)).collect();
            let (refused, used, taken) = share(limit, &clients, 20);
            let told = format!("{count} at {limit}: refused {refused:.3}, used {used:.2}, {taken:?}");
            assert!(refused < 0.02, "{told}");
            assert!(used > 0.9, "{told}");
            let (least, most) = (taken.iter().min().expect("some"), taken.iter().max().expect("some"));
            assert!(most < &(least * 2), "{told}");
        }
    }
}

#[test]
fn a_small_limit_is_shared_too() {
    let (refused, used, taken) = share(12, &[(5, 0), (6, 0), (7, 0)], 20);
    assert!(refused < 0.05 && used > 0.9, "refused {refused:.3}, used {used:.2}, {taken:?}");
    assert!(taken.iter().all(|taken| *taken >= 40), "{taken:?}");
}

#[test]
fn somebody_who_comes_later_gets_in() {
    for limit in [12, 50, 500] {
        let (refused, used, taken) = share(limit, &[(20, 0), (20, 0), (20, 10)], 40);
        let told = format!("{limit}: refused {refused:.3}, used {used:.2}, {taken:?}");
        assert!(refused < 0.05 && used > 0.9, "{told}");
        // A third of the thirty seconds it was there for would be ten times the limit.
        assert!(taken[2] >= limit as usize * 2, "{told}");
    }
}

#[test]
fn nobody_is_slower_for_being_alone() {
    for (limit, round_trip, at_least) in [(12, 5, 0.95), (50, 30, 0.95), (500, 30, 0.95)] {
        let (refused, used, _) = share(limit, &[(round_trip, 0)], 20);
        assert!(used >= at_least && refused < 0.03, "{limit}: refused {refused:.3}, used {used:.2}");
    }
}
