//! Counting in this process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Rate, Taken};

/// Keys remembered at the most. Beyond it the ones that were idle longest are forgotten, which lets their owners through
/// once more; keys come from identities, not from what anybody writes, so they are few.
const KEYS: usize = 100_000;

/// The times of what was taken, by key.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<String, VecDeque<Instant>>>);

impl Memory {
    pub(super) fn take(&self, key: &str, rate: Rate) -> Taken {
        self.take_at(key, rate, Instant::now())
    }

    fn take_at(&self, key: &str, rate: Rate, now: Instant) -> Taken {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS && !keys.contains_key(key) {
            forget(&mut keys, now, rate.window);
        }
        let times = keys.entry(key.to_owned()).or_default();
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

/// Drops keys whose window is over; if there is none, all of them: a table that only grows would be the worse end.
fn forget(keys: &mut BTreeMap<String, VecDeque<Instant>>, now: Instant, window: Duration) {
    let before = keys.len();
    keys.retain(|_, times| times.back().is_some_and(|last| now.duration_since(*last) < window));
    if keys.len() == before {
        keys.clear();
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
}
