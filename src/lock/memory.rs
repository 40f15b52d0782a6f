//! Counting in this process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Rate, Taken};

/// Keys remembered at the most. Addresses are among them, so strangers can fill the table: beyond it the keys that were idle
/// longest are forgotten, which lets their owners begin a new window.
const KEYS: usize = 100_000;
/// How many stay when room is made; not one less than all, or each new key would look through the whole table.
const KEPT: usize = KEYS / 10 * 9;

/// The times of what was taken, by key.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<String, Window>>);

/// One key's window.
#[derive(Debug, Default)]
struct Window {
    /// As long as whoever took last said.
    length: Duration,
    times: VecDeque<Instant>,
}

impl Memory {
    pub(super) fn take(&self, key: &str, rate: Rate) -> Taken {
        self.take_at(key, rate, Instant::now())
    }

    fn take_at(&self, key: &str, rate: Rate, now: Instant) -> Taken {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS && !keys.contains_key(key) {
            forget(&mut keys, now);
        }
        let Window { length, times } = keys.entry(key.to_owned()).or_default();
        *length = rate.window;
        while times.front().is_some_and(|first| now.duration_since(*first) >= rate.window) {
            times.pop_front();
        }
        let taken = u32::try_from(times.len()).unwrap_or(u32::MAX);
        if taken < rate.limit {
            times.push_back(now);
            return Taken::Allowed { left: rate.limit - taken - 1 };
        }
        let first = times.front().copied().unwrap_or(now);
        Taken::Later { after: (first + rate.window).duration_since(now).max(Duration::from_millis(1)) }
    }
}

/// Drops the keys whose own window is over and, while more than [`KEPT`] are left, those that were idle longest.
fn forget(keys: &mut BTreeMap<String, Window>, now: Instant) {
    keys.retain(|_, window| window.times.back().is_some_and(|last| now.duration_since(*last) < window.length));
    let Some(over) = keys.len().checked_sub(KEPT) else { return };
    let mut idle: Vec<(Option<Instant>, String)> =
        keys.iter().map(|(key, window)| (window.times.back().copied(), key.clone())).collect();
    idle.sort_unstable();
    for (_, key) in idle.iter().take(over) {
        keys.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whenever somebody comes, never more than the limit within any window, and never refused without need.
        #[test]
        fn never_more_than_the_limit_in_any_window(pauses in proptest::collection::vec(0u64..400, 1..200), limit in 1u32..8) {
            let (memory, start) = (Memory::default(), Instant::now());
            let rate = Rate { limit, window: Duration::from_secs(1) };
            let (mut now, mut allowed) = (0, Vec::<u64>::new());
            for pause in pauses {
                now += pause;
                let within = |at: &u64| now - at < 1000;
                let before = allowed.iter().filter(|at| within(at)).count();
                match memory.take_at("k", rate, start + Duration::from_millis(now)) {
                    Taken::Allowed { left } => {
                        allowed.push(now);
                        prop_assert_eq!(before + 1 + left as usize, limit as usize);
                    }
                    Taken::Later { after } => {
                        prop_assert_eq!(before, limit as usize);
                        let first = allowed.iter().find(|at| within(at)).unwrap();
                        prop_assert_eq!(u64::try_from(after.as_millis()).unwrap(), first + 1000 - now);
                    }
                }
            }
        }
    }

    #[test]
    fn the_table_has_an_end() {
        let memory = Memory::default();
        let rate = Rate { limit: 1, window: Duration::from_mins(1) };
        let now = Instant::now();
        for key in 0..KEYS + 10 {
            memory.take_at(&key.to_string(), rate, now);
        }
        assert!(memory.0.lock().unwrap().len() <= KEYS);
    }

    /// A crowd with a short window costs nobody a longer one that still runs.
    #[test]
    fn each_key_is_kept_for_its_own_window_and_the_idle_go_first() {
        let (memory, start) = (Memory::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let (hour, second) = (Duration::from_hours(1), Duration::from_secs(1));
        let once = |window| Rate { limit: 1, window };
        memory.take_at("idle", once(hour), at(0));
        for key in 0..KEYS - 2 {
            memory.take_at(&key.to_string(), once(second), at(1));
        }
        memory.take_at("long", once(hour), at(2));
        memory.take_at("new", once(second), at(1500));
        assert_eq!(memory.0.lock().unwrap().len(), 3, "what is over is forgotten");
        for key in ["idle", "long"] {
            assert!(matches!(memory.take_at(key, once(hour), at(1500)), Taken::Later { .. }), "{key}");
        }
        for key in 0..KEYS - 2 {
            memory.take_at(&key.to_string(), once(hour), at(1600));
        }
        assert!(matches!(memory.take_at("long", once(hour), at(1700)), Taken::Allowed { .. }), "it was idle longest");
        assert!(matches!(memory.take_at("99", once(hour), at(1700)), Taken::Later { .. }), "it came lately");
    }
}
