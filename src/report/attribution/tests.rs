use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::os::Clock;
use crate::routes::{MethodLabel, Routes};
use crate::shard::PollInfo;
use crate::stall::Phase;
use crate::state::tests::new_state;
use crate::state::{DelayKind, DelayedBy};

const MILLI: u64 = 1_000_000;

/// An attribution on two workers, at a time at which all is over. Times are in milliseconds.
struct Driven {
    attribution: Attribution,
    monitor: Arc<MonitorState>,
}

impl Driven {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        let clock = Clock::Manual(Arc::new(AtomicU64::new(1_000 * MILLI)));
        let monitor = new_state(clock, &runtime.unwrap());
        Self { attribution: Attribution::new(Arc::clone(&monitor)), monitor }
    }

    fn route(&self, name: &str) -> RouteId {
        self.monitor.routes.id(MethodLabel::HEAD, name)
    }

    fn poll(&self, lane: Lane, route: RouteId, start: u64, end: u64, host: u64) {
        let [start, end, host] = [start, end, host].map(|time| time * MILLI);
        self.monitor.attribution.push_long_poll(LongPoll { lane, route, start, end, host });
    }

    /// Adds a stall that starved the I/O driver until then, or not at all.
    fn stall(&mut self, worker: usize, route: RouteId, start: u64, end: u64, starved: Option<u64>) {
        let poll =
            PollInfo { route, phase: Phase::Handler, start: start * MILLI, span: 0, stack_mark: 0 };
        let stall = StallMessage {
            id: PollId { shard: worker, start: start * MILLI },
            poll,
            ticks: (end - start) * MILLI,
            threshold: 25 * MILLI,
            worker: Some(worker),
            on_worker: true,
            in_flight: 0,
            io_starved: starved.is_some(),
            rescued_at: starved.map(|until| until * MILLI),
            breakdown: None,
        };
        self.attribution.add_stall(&stall, end * MILLI, &TimeSplit::default());
    }

    fn delay(&self, lane: Lane, route: RouteId, ready: u64, polled: u64, busy_since: u64) {
        let [ready, polled, busy_since] = [ready, polled, busy_since].map(|time| time * MILLI);
        self.monitor.attribution.push_delay(Delay {
            lane,
            route,
            ready,
            polled,
            in_socket: false,
            busy_since,
        });
    }

    /// Returns what a route has caused, and what it has suffered by each.
    fn totals(&mut self, route: RouteId) -> (u64, [u64; 4]) {
        let now = self.monitor.clock.now();
        self.attribution.update(now, None);
        let delays = self.monitor.history.lock().delays.of(route);
        (delays.caused / MILLI, delays.suffered.map(|ticks| ticks / MILLI))
    }
}

#[test]
fn the_long_poll_on_the_worker_is_to_blame_for_the_time_that_it_covers() {
    let mut driven = Driven::new();
    let [slow, victim, neutral] = ["/slow", "/victim", "/neutral"].map(|name| driven.route(name));
    driven.poll(Lane::Worker(0), slow, 100, 200, 0);
    driven.poll(Lane::Worker(1), neutral, 100, 300, 0);
    driven.delay(Lane::Worker(0), victim, 150, 250, 220);
    assert_eq!(driven.totals(victim), (0, [50, 30, 0, 20]));
    assert_eq!(driven.totals(slow), (50, [0; 4]));
    assert_eq!(driven.totals(neutral), (0, [0; 4]));
}

#[test]
fn the_time_that_the_host_adds_to_a_poll_is_put_down_to_the_host() {
    let mut driven = Driven::new();
    let [slow, victim] = ["/slow", "/victim"].map(|name| driven.route(name));
    driven.poll(Lane::Worker(0), slow, 100, 200, 75);
    driven.delay(Lane::Worker(0), victim, 120, 200, 200);
    assert_eq!(driven.totals(victim), (0, [20, 0, 60, 0]));
    driven.monitor.delays.record(DelayKind::RunQueue, 310 * MILLI, 340 * MILLI);
    driven.delay(Lane::Worker(0), victim, 300, 350, 300);
    assert_eq!(driven.totals(victim), (0, [20, 20, 90, 0]), "the watchdog was delayed");
}

#[test]
fn polls_on_all_workers_share_the_blame_if_the_worker_is_not_known() {
    let mut driven = Driven::new();
    let [one, other, victim] = ["/one", "/other", "/victim"].map(|name| driven.route(name));
    let unknown = Lane::UnknownWorker(7);
    driven.poll(Lane::Worker(0), one, 100, 200, 0);
    driven.delay(unknown, victim, 110, 120, 120);
    assert_eq!(driven.totals(victim), (0, [0, 0, 0, 10]), "the other worker was free");
    driven.poll(Lane::Worker(1), other, 150, 250, 0);
    driven.delay(unknown, victim, 140, 190, 190);
    assert_eq!(driven.totals(victim), (0, [40, 0, 0, 20]));
    assert_eq!((driven.totals(one).0, driven.totals(other).0), (20, 20));
}

#[test]
fn a_stall_that_starves_the_driver_is_to_blame_until_the_rescue() {
    let mut driven = Driven::new();
    let [slow, victim] = ["/slow", "/victim"].map(|name| driven.route(name));
    driven.stall(0, slow, 100, 200, Some(130));
    driven.delay(Lane::Worker(1), victim, 110, 150, 150);
    assert_eq!(driven.totals(victim), (0, [20, 0, 0, 20]));
    driven.stall(0, slow, 300, 400, None);
    driven.delay(Lane::Worker(1), victim, 310, 350, 350);
    assert_eq!(driven.totals(victim), (0, [20, 0, 0, 60]));
}

#[test]
fn a_delay_waits_until_all_polls_before_its_end_are_decided() {
    let mut driven = Driven::new();
    let [slow, victim] = ["/slow", "/victim"].map(|name| driven.route(name));
    driven.delay(Lane::Worker(0), victim, 100, 200, 200);
    let now = driven.monitor.clock.now();
    driven.attribution.update(now, Some(150 * MILLI));
    assert!(!driven.attribution.is_settled(200 * MILLI));
    driven.stall(0, slow, 90, 190, None);
    assert_eq!(driven.totals(victim), (0, [90, 0, 0, 10]));
    assert!(driven.attribution.is_settled(200 * MILLI));
    let delayed = driven.attribution.delayed_by(PollId { shard: 0, start: 90 * MILLI });
    assert_eq!((delayed.len(), delayed[0].requests()), (1, 1));
    assert_eq!([delayed[0].total(), delayed[0].longest()], [Duration::from_millis(90); 2]);
}

#[test]
fn of_too_many_delays_some_stand_for_the_others() {
    let mut driven = Driven::new();
    let [slow, victim] = ["/slow", "/victim"].map(|name| driven.route(name));
    driven.stall(0, slow, 100, 200, None);
    for _ in 0..10_000 {
        driven.delay(Lane::Worker(0), victim, 150, 200, 200);
    }
    let (caused, [by_stall, ..]) = (driven.totals(slow).0, driven.totals(victim).1);
    assert_eq!(caused, by_stall);
    assert!((499_000..=500_000).contains(&caused), "{caused} ms");
    let delayed = driven.attribution.delayed_by(PollId { shard: 0, start: 100 * MILLI });
    assert_eq!(delayed[0].requests(), 10_000);
}

proptest! {
    #[test]
    fn property_the_parts_add_up_and_what_is_caused_is_what_is_suffered(
        polls in prop::collection::vec((0..3_usize, 0..200_u64, 0..60_u64, 0..60_u64), 0..12),
        delays in prop::collection::vec((0..3_usize, 0..200_u64, 1..100_u64, 0..250_u64), 1..12),
    ) {
        let lane = |lane| if lane < 2 { Lane::Worker(lane) } else { Lane::UnknownWorker(9) };
        let mut driven = Driven::new();
        let [slow, victim] = ["/slow", "/victim"].map(|name| driven.route(name));
        for &(on, start, length, host) in &polls {
            let route = if start % 2 == 0 { slow } else { Routes::UNATTRIBUTED };
            driven.poll(lane(on), route, start, start + length, host.min(length));
        }
        for &(on, ready, length, busy_since) in &delays {
            driven.delay(lane(on), victim, ready, ready + length, busy_since);
        }
        driven.attribution.finish();
        let history = driven.monitor.history.lock();
        let suffered = history.delays.of(victim).suffered;
        let total: u64 = delays.iter().map(|&(_, _, length, _)| length * MILLI).sum();
        prop_assert_eq!(suffered.iter().sum::<u64>(), total);
        let caused = [slow, Routes::UNATTRIBUTED].map(|route| history.delays.of(route).caused);
        prop_assert_eq!(caused.iter().sum::<u64>(), suffered[DelayedBy::Stall as usize]);
    }
}
