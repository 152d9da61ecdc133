//! What the lane does, step by step.

use super::queue::{LINGER, MOST_BYTES};
use super::*;
use crate::backoff;

const LIMITS: Limits = Limits { connections: 4, rate: None };

fn message(id: i64) -> Message {
    Message::sample(id, &format!("{{\"transaction_id\":\"{id}\"}}"))
}

fn of_sync(sync: i32, id: i64) -> Message {
    Message { sync, ..message(id) }
}

fn of_key(key: i64, id: i64) -> Message {
    Message { key: Some(key), ..message(id) }
}

/// Syncs 1 and 2 make requests of up to three messages together, sync 3 single ones.
fn new_lane(limits: Limits, now: Instant) -> Lane {
    let mut lane = Lane::new(limits);
    let group_of = BTreeMap::from([(1, 0), (2, 0), (3, 1)]);
    lane.regroup(
        &Grouping { group_of, most: vec![3, 1], categories: vec![Category::Events, Category::Other] },
        now,
    );
    lane
}

fn lane_with(limits: Limits, ids: std::ops::Range<i64>, now: Instant) -> Lane {
    let mut lane = new_lane(limits, now);
    for id in ids {
        lane.admit(message(id), None, now);
    }
    lane
}

fn batch(next: Next) -> Vec<Message> {
    match next {
        Next::Send(batch) => batch,
        Next::LookUp(..) | Next::Wait(_) => Vec::new(),
    }
}

fn sent(next: Next) -> Vec<i64> {
    batch(next).iter().map(|message| message.id).collect()
}

/// What goes out while each request returns at once.
fn all_sent(lane: &mut Lane, now: Instant) -> Vec<Vec<i64>> {
    std::iter::from_fn(|| {
        let batch = batch(lane.next(now));
        lane.returned(&batch);
        Some(batch.iter().map(|message| message.id).collect::<Vec<_>>()).filter(|ids| !ids.is_empty())
    })
    .collect()
}

/// A request comes back with what is known of the destination.
fn answer(lane: &mut Lane, sent: &[Message], condition: &Condition, now: Instant) -> Option<Duration> {
    let flight = lane.returned(sent);
    lane.observe(flight, condition, None, now, &mut Dice::new(1))
}

/// It comes back, and all it carried is done with.
fn deliver(lane: &mut Lane, sent: &[Message], now: Instant) {
    answer(lane, sent, &Condition::Well, now);
    for message in sent {
        lane.settled(message);
    }
}

fn trouble() -> Condition {
    Condition::Trouble { why: "down".into(), wait: None }
}

fn doubt() -> Condition {
    Condition::Doubtful { why: "500".into() }
}

#[test]
fn a_lone_message_goes_at_once_and_the_next_waits_briefly_for_company() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..2, now);
    assert_eq!(sent(lane.next(now)), [1]);
    lane.admit(message(2), None, now);
    assert_eq!(lane.next(now), Next::Wait(Some(now + LINGER)));
    lane.admit(message(3), None, now);
    lane.admit(message(4), None, now);
    assert_eq!(sent(lane.next(now)), [2, 3, 4], "a full batch does not wait");
    lane.admit(message(5), None, now);
    assert_eq!(sent(lane.next(now + LINGER)), [5]);
}

#[test]
fn no_more_requests_are_under_way_than_connections() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let batches: Vec<_> =
        std::iter::from_fn(|| Some(sent(lane.next(now))).filter(|batch| !batch.is_empty())).collect();
    assert_eq!(batches.len(), 4);
    assert!(batches.iter().all(|batch| batch.len() == 3));
    lane.returned(&[message(4)]);
    assert_eq!(sent(lane.next(now)), [13, 14, 15]);
}

#[test]
fn a_destination_in_trouble_is_probed_by_one_small_request() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let (first, second) = (batch(lane.next(now)), batch(lane.next(now)));
    let pause = answer(&mut lane, &first, &trouble(), now).expect("a pause");
    for message in first.into_iter().rev() {
        lane.resend(message, now);
    }
    let over = now + pause;
    assert_eq!(lane.next(now), Next::Wait(Some(over)));
    assert_eq!(lane.next(over), Next::Wait(None), "what was under way may still come back");
    assert_eq!(answer(&mut lane, &second, &trouble(), over), None, "the same outage is not counted twice");
    let probe = batch(lane.next(over));
    assert_eq!(probe, [message(1)], "in its old place");
    assert_eq!(lane.next(over), Next::Wait(None), "one probe only");
    deliver(&mut lane, &probe, over);
    assert_eq!(sent(lane.next(over)), [2, 3, 7]);
}

#[test]
fn a_recovered_destination_gets_few_connections_first_and_one_more_with_each_success() {
    let now = Instant::now();
    let mut lane = lane_with(Limits { connections: 8, rate: None }, 1..200, now);
    let first = batch(lane.next(now));
    let over = now + answer(&mut lane, &first, &trouble(), now).expect("a pause");
    let probe = batch(lane.next(over));
    deliver(&mut lane, &probe, over);
    for window in 2..=8 {
        let mut flights: Vec<Vec<Message>> = Vec::new();
        while let Some(flight) = Some(batch(lane.next(over))).filter(|flight| !flight.is_empty()) {
            flights.push(flight);
        }
        assert_eq!(flights.len(), window);
        for flight in flights.iter().skip(1) {
            lane.returned(flight);
        }
        deliver(&mut lane, &flights[0], over);
    }
}

#[test]
fn each_pause_halves_what_a_destination_gets_after_it() {
    let now = Instant::now();
    let mut lane = lane_with(Limits { connections: 16, rate: None }, 1..200, now);
    let mut at = now;
    for _ in 0..3 {
        let sent = batch(lane.next(at));
        at += answer(&mut lane, &sent, &trouble(), at).expect("a pause");
    }
    let probe = batch(lane.next(at));
    deliver(&mut lane, &probe, at);
    let count = std::iter::from_fn(|| Some(sent(lane.next(at))).filter(|ids| !ids.is_empty())).count();
    assert_eq!(count, 2, "16, 8, 4, 2");
}

#[test]
fn probes_take_turns_so_that_one_message_cannot_keep_a_destination_closed() {
    let mut now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..4, now);
    let poison = 1;
    let mut failed = Vec::new();
    while failed.len() < 3 {
        let sent = batch(lane.next(now));
        if sent.iter().all(|message| message.id != poison) {
            deliver(&mut lane, &sent, now);
            break;
        }
        failed.push(sent.len());
        now += answer(&mut lane, &sent, &trouble(), now).expect("a pause");
        for message in sent {
            lane.resend(message, now);
        }
    }
    assert_eq!(failed, [3, 1], "the batch, the poison alone, and then another");
    assert_eq!(lane.load().0, 2);
}

#[test]
fn the_pause_the_server_asks_for_is_kept() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let (first, second) = (batch(lane.next(now)), batch(lane.next(now)));
    let asks = |seconds| Condition::Trouble { why: "429".into(), wait: Some(Duration::from_secs(seconds)) };
    assert_eq!(answer(&mut lane, &first, &asks(7), now), Some(Duration::from_secs(7)));
    assert_eq!(answer(&mut lane, &second, &asks(9), now), Some(Duration::from_secs(9)), "the longer one");
    assert_eq!(lane.next(now), Next::Wait(Some(now + Duration::from_secs(9))));
    let probe = batch(lane.next(now + Duration::from_secs(9)));
    let pause = answer(&mut lane, &probe, &asks(0), now + Duration::from_secs(9)).expect("a pause");
    assert!(pause > Duration::from_millis(30), "no time at all is not believed");
}

#[test]
fn a_success_that_was_under_way_when_trouble_began_opens_nothing() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let (first, second) = (batch(lane.next(now)), batch(lane.next(now)));
    let pause = answer(&mut lane, &first, &trouble(), now).expect("a pause");
    deliver(&mut lane, &second, now);
    assert_eq!(lane.next(now), Next::Wait(Some(now + pause)));
}

#[test]
fn pauses_grow_while_trouble_lasts() {
    let mut now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..2, now);
    for failures in 1..20 {
        let sent = batch(lane.next(now));
        let pause = answer(&mut lane, &sent, &trouble(), now).expect("a pause");
        assert!(pause <= backoff::ceiling(failures) && pause >= backoff::ceiling(failures).mul_f64(0.09));
        now += pause;
        lane.resend(message(1), now);
    }
}

#[test]
fn unexpected_answers_close_a_destination_when_three_come_in_a_row() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let mut answers = |condition| {
        let sent = batch(lane.next(now));
        answer(&mut lane, &sent, &condition, now).is_some()
    };
    let row = [doubt(), doubt(), Condition::Well, doubt(), doubt(), doubt()];
    assert_eq!(row.map(&mut answers), [false, false, false, false, false, true]);
}

#[test]
fn a_held_destination_gets_nothing_until_somebody_acts_and_then_one_probe() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let (first, second) = (batch(lane.next(now)), batch(lane.next(now)));
    assert_eq!(answer(&mut lane, &first, &Condition::Hold { why: "401".into() }, now), None);
    deliver(&mut lane, &second, now);
    let day = Duration::from_secs(86_400);
    assert_eq!(lane.next(now + day), Next::Wait(None));
    lane.reopen();
    let probe = batch(lane.next(now + day));
    assert_eq!(probe.len(), 1);
    assert_eq!(lane.next(now + day), Next::Wait(None));
    deliver(&mut lane, &probe, now + day);
    assert_eq!(sent(lane.next(now + day)).len(), 3);
}

#[test]
fn an_open_destination_is_not_throttled_by_a_change_elsewhere() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    lane.reopen();
    assert_eq!(std::iter::from_fn(|| Some(sent(lane.next(now))).filter(|ids| !ids.is_empty())).count(), 4);
}

#[test]
fn what_has_failed_by_its_own_fault_goes_alone() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..3, now);
    let sent = batch(lane.next(now));
    lane.returned(&sent);
    for message in sent {
        lane.retry(Message { attempts: 1, ..message }, now, Duration::from_secs(1));
    }
    assert_eq!(lane.next(now), Next::Wait(Some(now + Duration::from_secs(1))));
    assert_eq!(all_sent(&mut lane, now + Duration::from_secs(1)), [[1], [2]]);
}

#[test]
fn a_rate_limit_spaces_requests() {
    let now = Instant::now();
    let mut lane = lane_with(Limits { rate: Some(10.0), ..LIMITS }, 1..100, now);
    assert!(!sent(lane.next(now)).is_empty());
    assert_eq!(lane.next(now), Next::Wait(Some(now + Duration::from_millis(100))));
    assert!(!sent(lane.next(now + Duration::from_millis(100))).is_empty());
}

#[test]
fn a_body_stays_below_what_proxies_take() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    for id in 1..4 {
        lane.admit(Message { payload: "x".repeat(MOST_BYTES / 2), ..message(id) }, None, now);
    }
    lane.admit(Message { payload: "x".repeat(MOST_BYTES * 2), ..message(4) }, None, now);
    assert_eq!(sent(lane.next(now)), [1, 2]);
    assert_eq!(sent(lane.next(now + LINGER)), [3]);
    assert_eq!(sent(lane.next(now + LINGER * 2)), [4], "alone, however large");
}

#[test]
fn a_paused_sync_gives_its_messages_back() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..4, now);
    lane.admit(Message { sync: 2, ..message(9) }, None, now);
    assert_eq!(lane.give_back(|sync| sync == 1).len(), 3);
    assert_eq!(lane.load().0, 1);
    assert_eq!(sent(lane.next(now)), [9]);
}

#[test]
fn a_request_holds_messages_of_one_group_and_groups_take_turns() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    for (sync, id) in [(3, 1), (3, 2), (3, 3), (1, 4), (2, 5), (1, 6), (2, 7)] {
        lane.admit(of_sync(sync, id), None, now);
    }
    assert_eq!(all_sent(&mut lane, now), [vec![4, 5, 6], vec![1], vec![7], vec![2], vec![3]]);
}

#[test]
fn a_group_that_lingers_holds_up_no_other() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    lane.admit(of_sync(3, 1), None, now);
    assert_eq!(sent(lane.next(now)), [1]);
    lane.admit(of_sync(1, 2), None, now);
    assert_eq!(lane.next(now), Next::Wait(Some(now + LINGER)));
    lane.admit(of_sync(3, 3), None, now);
    assert_eq!(sent(lane.next(now)), [3], "a single call has no company to wait for");
    assert_eq!(sent(lane.next(now + LINGER)), [2]);
}

#[test]
fn a_message_with_a_path_of_its_own_goes_alone() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    lane.admit(Message { path: Some("/a/1".into()), ..message(1) }, None, now);
    lane.admit(message(2), None, now);
    lane.admit(Message { path: Some("/a/3".into()), ..message(3) }, None, now);
    assert_eq!(all_sent(&mut lane, now), [[1], [2], [3]]);
}

#[test]
fn changed_groups_hold_for_what_waits_already_oldest_first() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    for (sync, id) in [(1, 1), (3, 2), (1, 3), (3, 4)] {
        lane.admit(of_sync(sync, id), None, now);
    }
    lane.regroup(
        &Grouping {
            group_of: BTreeMap::from([(1, 0), (3, 0)]),
            most: vec![2],
            categories: vec![Category::Events],
        },
        now,
    );
    assert_eq!(all_sent(&mut lane, now), [[1, 2], [3, 4]]);
}

#[test]
fn a_message_of_an_unknown_group_is_not_kept_back() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    lane.admit(of_sync(9, 1), None, now);
    lane.admit(of_sync(8, 2), None, now);
    assert_eq!(all_sent(&mut lane, now), [[1], [2]]);
}

#[test]
fn of_one_key_one_message_goes_at_a_time_in_order_and_others_go_on() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    for message in [of_key(7, 2), of_key(7, 3), of_key(8, 4), message(5), of_key(7, 6)] {
        lane.admit(message, None, now);
    }
    let first = batch(lane.next(now));
    assert_eq!(first, [of_key(7, 2), of_key(8, 4), message(5)]);
    assert_eq!(lane.next(now), Next::Wait(None), "3 and 6 wait for 2, whose end is no moment in time");
    assert_eq!((lane.load().0, lane.ids().collect::<Vec<_>>()), (5, vec![3, 6]));
    deliver(&mut lane, &first, now);
    let second = batch(lane.next(now));
    assert_eq!(second, [of_key(7, 3)]);
    deliver(&mut lane, &second, now);
    let third = batch(lane.next(now));
    assert_eq!(third, [of_key(7, 6)]);
    deliver(&mut lane, &third, now);
    assert!(lane.is_idle() && lane.order.is_empty(), "nothing is left of a key");
}

#[test]
fn the_same_key_of_two_syncs_is_two_keys() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    lane.admit(of_key(7, 1), None, now);
    lane.admit(Message { sync: 2, ..of_key(7, 2) }, None, now);
    assert_eq!(sent(lane.next(now)), [1, 2]);
}

#[test]
fn a_late_commit_goes_before_what_waits_but_not_before_what_is_under_way() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    lane.admit(of_key(7, 8), None, now);
    lane.admit(of_key(7, 9), None, now);
    lane.admit(of_key(7, 5), None, now);
    let under_way = batch(lane.next(now));
    assert_eq!(under_way, [of_key(7, 5)], "nothing was under way");
    lane.admit(of_key(7, 4), None, now);
    assert_eq!(lane.next(now), Next::Wait(None));
    deliver(&mut lane, &under_way, now);
    assert_eq!(all_sent(&mut lane, now), [[4]]);
    for (gone, next) in [(4, 8), (8, 9)] {
        lane.settled(&of_key(7, gone));
        assert_eq!(all_sent(&mut lane, now), [[next]]);
    }
}

#[test]
fn a_late_commit_goes_before_a_retry_but_not_before_a_question() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    let wait = Duration::from_secs(5);
    lane.admit(of_key(7, 5), None, now);
    let tried = batch(lane.next(now));
    lane.returned(&tried);
    lane.retry(of_key(7, 5), now, wait);
    lane.admit(of_key(7, 4), None, now);
    let asked = batch(lane.next(now));
    assert_eq!(asked, [of_key(7, 4)]);
    lane.returned(&asked);
    lane.look_up(of_key(7, 4), question(wait), now);
    lane.admit(of_key(7, 3), None, now);
    assert_eq!(lane.next(now), Next::Wait(Some(now + wait)));
    assert_eq!(lane.next(now + wait), Next::LookUp(of_key(7, 4), question(wait)));
    lane.returned(&asked);
    lane.settled(&of_key(7, 4));
    assert_eq!(all_sent(&mut lane, now + wait), [[3]]);
    lane.settled(&of_key(7, 3));
    assert_eq!(all_sent(&mut lane, now + wait), [[5]]);
}

#[test]
fn a_key_stays_occupied_while_its_message_goes_again() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    lane.admit(of_key(7, 1), None, now);
    lane.admit(of_key(7, 2), None, now);
    let again: [fn(&mut Lane, Instant); 3] = [
        |lane, now| lane.resend(of_key(7, 1), now),
        |lane, now| lane.resend_set(vec![of_key(7, 1)], now),
        |lane, now| lane.retry(of_key(7, 1), now, Duration::ZERO),
    ];
    for again in again {
        assert_eq!(all_sent(&mut lane, now), [[1]]);
        again(&mut lane, now);
    }
}

#[test]
fn a_key_given_back_while_under_way_is_free_when_that_one_has_come_back() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    for id in 1..4 {
        lane.admit(of_key(7, id), None, now);
    }
    let under_way = batch(lane.next(now));
    let given: Vec<i64> = lane.give_back(|_| true).iter().map(|message| message.id).collect();
    assert_eq!((given, lane.load().0), (vec![2, 3], 1));
    lane.admit(of_key(7, 2), None, now);
    assert_eq!(lane.next(now), Next::Wait(None));
    lane.returned(&under_way);
    lane.settled(&under_way[0]);
    assert_eq!(all_sent(&mut lane, now), [[2]]);
    lane.resend(of_key(7, 2), now);
    assert_eq!(lane.give_back(|_| true).len(), 1);
    assert!(lane.is_idle() && lane.order.is_empty());
}

fn question(wait: Duration) -> LookUp {
    let mut look = LookUp::health("500".into());
    look.wait = wait;
    look
}

#[test]
fn questions_go_before_deliveries_and_take_turns_with_them() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..5, now);
    let first = batch(lane.next(now));
    lane.returned(&first);
    for message in first {
        lane.look_up(message, question(Duration::from_millis(10)), now);
    }
    assert_eq!(all_sent(&mut lane, now), [[4]], "not before their time");
    lane.admit(message(9), None, now);
    lane.admit(message(10), None, now);
    let then = now + Duration::from_millis(10);
    let mut asked = Vec::new();
    for _ in 0..4 {
        match lane.next(then) {
            Next::LookUp(message, _) => asked.push(-message.id),
            Next::Send(batch) => asked.extend(batch.iter().map(|message| message.id)),
            Next::Wait(_) => {}
        }
    }
    assert_eq!(asked, [-1, 9, 10, -2, -3]);
}

#[test]
fn sets_stay_as_they_are_and_take_turns_with_batches() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..13, now);
    let split: Vec<Message> = [batch(lane.next(now)), batch(lane.next(now))].concat();
    lane.returned(&split[..3]);
    lane.returned(&split[3..]);
    for half in split.chunks(2).rev() {
        lane.resend_set(half.to_vec(), now);
    }
    assert_eq!(
        all_sent(&mut lane, now),
        [vec![1, 2], vec![7, 8, 9], vec![3, 4], vec![10, 11, 12], vec![5, 6]]
    );
}

#[test]
fn a_set_loses_what_is_given_back_and_is_parted_where_groups_are() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    let set = [of_sync(1, 1), of_sync(2, 2), of_sync(1, 3)];
    for message in set.clone() {
        lane.admit(message, None, now);
    }
    let under_way = batch(lane.next(now));
    lane.returned(&under_way);
    lane.regroup(
        &Grouping {
            group_of: BTreeMap::from([(1, 0), (2, 1)]),
            most: vec![3, 3],
            categories: vec![Category::Events; 2],
        },
        now,
    );
    lane.resend_set(under_way, now);
    lane.admit(of_sync(1, 4), None, now);
    assert_eq!(all_sent(&mut lane, now), [vec![1, 3], vec![2], vec![4]]);
    lane.resend_set(vec![of_sync(1, 1), of_sync(1, 3)], now);
    lane.resend_set(vec![of_sync(2, 2)], now);
    assert_eq!(lane.give_back(|sync| sync == 1).len(), 2);
    assert_eq!(all_sent(&mut lane, now), [[2]]);
}

#[test]
fn a_group_that_shrank_stays_so_until_it_is_defined_anew() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..7, now);
    let grouping = lane.grouping.clone();
    lane.shrink(1, 2);
    lane.regroup(&grouping, now);
    assert_eq!(sent(lane.next(now)), [1, 2]);
    lane.regroup(&Grouping { most: vec![4, 1], ..grouping }, now);
    assert_eq!(sent(lane.next(now)), [3, 4, 5, 6]);
}

#[test]
fn more_connections_are_used_at_once_by_a_lane_that_used_all() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let first = batch(lane.next(now));
    deliver(&mut lane, &first, now);
    let count = |lane: &mut Lane| {
        std::iter::from_fn(|| Some(sent(lane.next(now))).filter(|ids| !ids.is_empty())).count()
    };
    assert_eq!(count(&mut lane), 4);
    lane.set_limits(Limits { connections: 6, rate: None }, now);
    assert_eq!(count(&mut lane), 2);
    lane.set_limits(Limits { connections: 1, rate: None }, now);
    lane.returned(&[message(4)]);
    assert_eq!(count(&mut lane), 0);
}

/// An answer that tells how many requests are left.
fn told(lane: &mut Lane, sent: &[Message], limit: Option<u32>, remaining: u32, now: Instant) {
    let flight = lane.returned(sent);
    let allowance = Allowance { limit, remaining, reset: Duration::from_secs(10) };
    lane.observe(flight, &Condition::Well, Some(allowance), now, &mut Dice::new(1));
}

#[test]
fn nothing_goes_when_nothing_is_left_but_the_other_category_does() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..10, now);
    let first = batch(lane.next(now));
    told(&mut lane, &first, None, 0, now);
    let reset = now + Duration::from_secs(10);
    assert_eq!(lane.next(now), Next::Wait(Some(reset)));
    lane.admit(of_sync(3, 20), None, now);
    assert_eq!(sent(lane.next(now)), [20]);
    assert_eq!(lane.next(now), Next::Wait(Some(reset)));
    assert_eq!(sent(lane.next(reset)), [4, 5, 6]);
    assert_eq!(sent(lane.next(reset)), [7, 8, 9], "all is free until the next answer");
}

#[test]
fn what_is_left_is_counted_with_what_is_under_way_and_an_older_answer_raises_nothing() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..100, now);
    let flights: Vec<_> = (0..4).map(|_| batch(lane.next(now))).collect();
    told(&mut lane, &flights[0], Some(4), 3, now);
    let reset = now + Duration::from_secs(10);
    assert_eq!(lane.next(now), Next::Wait(Some(reset)), "three are left, three are under way");
    told(&mut lane, &flights[1], Some(4), 1, now);
    told(&mut lane, &flights[2], Some(4), 2, now);
    assert_eq!(lane.next(now), Next::Wait(Some(reset)), "one is left, one is under way");
    told(&mut lane, &flights[3], Some(4), 4, now);
    assert_eq!(sent(lane.next(now)).len(), 3);
    assert_eq!(lane.next(now), Next::Wait(Some(reset)));
}

#[test]
fn the_last_of_an_allowance_are_spread_over_what_is_left_of_its_window() {
    let seconds_between = |limit: Option<u32>, left: u32| {
        let now = Instant::now();
        let resets_at = now + Duration::from_secs(10);
        let mut lane = lane_with(LIMITS, 1..100, now);
        let mut sent = batch(lane.next(now));
        let (mut at, mut pauses) = (now, Vec::new());
        for remaining in (1..=left).rev() {
            let allowance = Allowance { limit, remaining, reset: resets_at - at };
            let flight = lane.returned(&sent);
            lane.observe(flight, &Condition::Well, Some(allowance), at, &mut Dice::new(1));
            let before = at;
            let mut next = lane.next(at);
            if let Next::Wait(Some(until)) = next {
                at = until;
                next = lane.next(at);
            }
            sent = batch(next);
            pauses.push((at - before).as_secs());
        }
        pauses
    };
    assert_eq!(seconds_between(None, 5), [0, 2, 2, 2, 2]);
    assert_eq!(seconds_between(Some(8), 7), [0, 0, 0, 0, 0, 3, 3], "it begins below half of the limit");
}

#[test]
fn no_server_is_believed_that_stops_deliveries_for_long() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..10, now);
    let first = batch(lane.next(now));
    let flight = lane.returned(&first);
    let allowance = Allowance { limit: None, remaining: 0, reset: Duration::from_secs(86_400) };
    lane.observe(flight, &Condition::Well, Some(allowance), now, &mut Dice::new(1));
    assert_eq!(lane.next(now), Next::Wait(Some(now + Duration::from_secs(60))));
}

#[test]
fn a_late_commit_goes_before_what_has_to_go_again() {
    let now = Instant::now();
    let again: [fn(&mut Lane, Message, Instant); 3] = [
        |lane, message, now| lane.resend(message, now),
        |lane, message, now| lane.resend_set(vec![message], now),
        |lane, message, now| lane.retry(message, now, Duration::ZERO),
    ];
    for again in again {
        let mut lane = new_lane(LIMITS, now);
        lane.admit(of_key(7, 5), None, now);
        let under_way = batch(lane.next(now));
        lane.admit(of_key(7, 4), None, now);
        lane.returned(&under_way);
        again(&mut lane, of_key(7, 5), now);
        assert_eq!(all_sent(&mut lane, now), [[4]]);
        lane.settled(&of_key(7, 4));
        assert_eq!(all_sent(&mut lane, now), [[5]]);
    }
}

#[test]
fn a_message_that_always_looks_like_an_outage_does_not_keep_back_the_others() {
    let (start, poison, most) = (Instant::now(), 5, 300);
    let mut lane = lane_with(Limits { connections: 1, rate: None }, 1..most, start);
    let (mut now, mut requests) = (start, 0);
    while lane.load().0 > 1 {
        requests += 1;
        let sent = match lane.next(now) {
            Next::Send(sent) => sent,
            Next::Wait(Some(until)) => {
                now = until;
                continue;
            }
            other => panic!("{other:?}"),
        };
        if sent.iter().any(|message| message.id == poison) {
            answer(&mut lane, &sent, &trouble(), now);
            for message in sent.into_iter().rev() {
                lane.resend(message, now);
            }
        } else {
            deliver(&mut lane, &sent, now);
        }
    }
    assert!(requests < 130, "about as many as there are batches: {requests}");
    assert!(now - start < Duration::from_secs(2), "{:?}", now - start);
}

#[test]
fn a_throttled_destination_accuses_no_message() {
    let mut now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..10, now);
    let asks = Condition::Trouble { why: "429".into(), wait: Some(Duration::from_secs(1)) };
    for _ in 0..5 {
        let sent = batch(lane.next(now));
        assert_eq!(sent.len(), 3);
        answer(&mut lane, &sent, &asks, now);
        for message in sent {
            lane.resend(message, now);
        }
        now += Duration::from_secs(1);
        let probe = batch(lane.next(now));
        answer(&mut lane, &probe, &Condition::Well, now);
        for message in probe {
            lane.resend(message, now);
        }
    }
}

#[test]
fn a_late_commit_displaces_a_message_of_a_set_and_leaves_the_others() {
    let now = Instant::now();
    let mut lane = new_lane(LIMITS, now);
    let set = [of_key(7, 5), of_key(8, 6)];
    for message in set.clone() {
        lane.admit(message, None, now);
    }
    let under_way = batch(lane.next(now));
    lane.returned(&under_way);
    lane.resend_set(under_way, now);
    lane.admit(of_key(7, 4), None, now);
    assert_eq!(all_sent(&mut lane, now), [[6], [4]]);
    lane.settled(&of_key(7, 4));
    assert_eq!(all_sent(&mut lane, now), [[5]]);
}

#[test]
fn a_message_with_a_path_of_its_own_has_no_company_to_wait_for() {
    let now = Instant::now();
    let mut lane = lane_with(LIMITS, 1..2, now);
    assert_eq!(sent(lane.next(now)), [1]);
    lane.admit(Message { path: Some("/a/2".into()), ..message(2) }, None, now);
    assert_eq!(sent(lane.next(now)), [2]);
}

#[test]
fn a_slow_rate_saves_nothing_up_while_there_is_nothing_to_send() {
    let now = Instant::now();
    let mut lane = lane_with(Limits { rate: Some(0.5), ..LIMITS }, 1..5, now);
    assert_eq!(sent(lane.next(now)), [1, 2, 3]);
    assert_eq!(lane.next(now), Next::Wait(Some(now + Duration::from_secs(2))));
    lane.give_back(|_| true);
    assert_eq!(lane.next(now), Next::Wait(None));
    let later = now + Duration::from_secs(60);
    for id in 6..12 {
        lane.admit(message(id), None, later);
    }
    assert_eq!(sent(lane.next(later)), [6, 7, 8]);
    assert_eq!(lane.next(later), Next::Wait(Some(later + Duration::from_secs(2))));
}
