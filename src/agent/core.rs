//! When what is due: no clock, no task, no I/O. The driver asks and obeys.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::id::CheckId;

/// Time since the agent started; a wall clock that jumps does not matter here.
pub(super) type Since = Duration;

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    /// Run this check.
    Check(CheckId),
    /// Write a heartbeat.
    Heartbeat,
}

/// The schedule of all checks and of the heartbeat.
#[derive(Debug)]
pub(super) struct Core {
    checks: BTreeMap<CheckId, Slot>,
    heartbeat_every: Duration,
    next_heartbeat: Since,
    jitter_percent: u8,
}

#[derive(Debug)]
struct Slot {
    every: Duration,
    next: Since,
    last: Since,
    running: bool,
}

impl Core {
    /// A schedule that starts its checks one after another in the first seconds, so that none is late and nothing is
    /// swamped.
    pub(super) fn new(
        checks: impl IntoIterator<Item = (CheckId, Duration)>,
        heartbeat_every: Duration,
        jitter_percent: u8,
    ) -> Self {
        let checks: BTreeMap<_, _> = checks
            .into_iter()
            .enumerate()
            .map(|(index, (id, every))| {
                let next = Duration::from_millis(200).saturating_mul(u32::try_from(index).unwrap_or(u32::MAX));
                (id, Slot { every, next, last: Since::ZERO, running: false })
            })
            .collect();
        // The first heartbeat waits for the first round, so that it has a posture to state.
        let next_heartbeat = heartbeat_every.min(Duration::from_mins(1));
        Self { checks, heartbeat_every, next_heartbeat, jitter_percent: jitter_percent.min(50) }
    }

    /// Everything due at `now`. A check that is still running is not started again; it is due when it ends.
    ///
    /// `chance` gives a number from 0 to 1 for each start.
    pub(super) fn poll(&mut self, now: Since, mut chance: impl FnMut() -> f64) -> Vec<Due> {
        let mut due = Vec::new();
        for (id, slot) in &mut self.checks {
            if !slot.running && slot.next <= now {
                slot.running = true;
                slot.last = now;
                slot.next = now + jittered(slot.every, self.jitter_percent, chance());
                due.push(Due::Check(id.clone()));
            }
        }
        if self.next_heartbeat <= now {
            self.next_heartbeat = now + self.heartbeat_every;
            due.push(Due::Heartbeat);
        }
        due
    }

    /// Brings a check forward: it runs again at the earliest `pause` after its last start.
    pub(super) fn hasten(&mut self, check: &CheckId, pause: Duration) {
        if let Some(slot) = self.checks.get_mut(check) {
            slot.next = slot.next.min(slot.last + pause);
        }
    }

    /// A check ended, however it went.
    pub(super) fn ended(&mut self, check: &CheckId) {
        if let Some(slot) = self.checks.get_mut(check) {
            slot.running = false;
        }
    }

    /// When to ask again.
    pub(super) fn next(&self) -> Since {
        let waiting = self.checks.values().filter(|slot| !slot.running).map(|slot| slot.next);
        waiting.chain([self.next_heartbeat]).min().unwrap_or(self.next_heartbeat)
    }
}

/// An interval that wanders by at most `percent` to either side; never zero, never negative.
fn jittered(every: Duration, percent: u8, chance: f64) -> Duration {
    let part = f64::from(percent) / 100.0 * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
    every.mul_f64(1.0 + part).max(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn core(checks: usize) -> Core {
        let checks = (0..checks).map(|n| (format!("RB-T{n}-001").parse().unwrap(), Duration::from_mins(1)));
        Core::new(checks, Duration::from_hours(1), 10)
    }

    #[test]
    fn a_slow_check_never_delays_another_and_is_not_doubled() {
        let mut core = core(2);
        let slow: CheckId = "RB-T0-001".parse().unwrap();
        let mut runs = BTreeMap::<CheckId, u32>::new();
        for second in 0..=600 {
            for due in core.poll(Duration::from_secs(second), || 0.5) {
                if let Due::Check(id) = due {
                    *runs.entry(id.clone()).or_default() += 1;
                    if id != slow {
                        core.ended(&id);
                    }
                }
            }
        }
        assert_eq!(runs.get(&slow), Some(&1));
        assert!(*runs.get(&"RB-T1-001".parse().unwrap()).unwrap() >= 10);
    }

    #[test]
    fn a_check_that_waits_for_something_is_brought_forward() {
        let every = Duration::from_hours(24);
        let id: CheckId = "RB-T0-001".parse().unwrap();
        let mut core = Core::new([(id.clone(), every)], Duration::from_hours(48), 0);
        let due = |core: &mut Core, now| core.poll(now, || 0.5).contains(&Due::Check("RB-T0-001".parse().unwrap()));
        assert!(due(&mut core, Duration::ZERO));
        core.ended(&id);
        core.hasten(&id, Duration::from_mins(5));
        assert!(!due(&mut core, Duration::from_mins(4)));
        assert!(due(&mut core, Duration::from_mins(5)));
        core.ended(&id);
        core.hasten(&id, Duration::ZERO);
        assert!(due(&mut core, Duration::from_mins(5)));
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds(every in 1u64..100_000, percent in 0u8..=50, chance in 0.0f64..=1.0) {
            let every = Duration::from_secs(every);
            let wandered = jittered(every, percent, chance);
            let most = every.mul_f64(f64::from(percent) / 100.0) + Duration::from_millis(1);
            prop_assert!(wandered >= Duration::from_secs(1));
            prop_assert!(wandered + most >= every && wandered <= every.max(Duration::from_secs(1)) + most);
        }

        /// Whatever happens, the next wake-up is never in the past for long and never lost.
        #[test]
        fn something_is_always_coming(steps in proptest::collection::vec((0u64..500, any::<bool>()), 1..50)) {
            let mut core = core(5);
            let mut now = Duration::ZERO;
            for (pause, end) in steps {
                now += Duration::from_secs(pause);
                for due in core.poll(now, || 0.1) {
                    if let (Due::Check(id), true) = (&due, end) { core.ended(id); }
                }
                prop_assert!(core.next() > now || core.next() + Duration::from_secs(1) > now);
                prop_assert!(core.next() <= now + Duration::from_hours(1));
            }
        }
    }
}
