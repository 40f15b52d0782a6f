//! How much of large bodies is in memory at a time, of one appliance and of all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::counted::{Counted, One};
use super::problem::Problem;
use super::router::BODY;

/// Bytes of large bodies at a time. Verifying one takes a few times its size.
const BUDGET: usize = 64 * 1024 * 1024;
/// Large bodies of one caller at a time: the one being taken in, and the next.
const OF_ONE: usize = 2;
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(3);
/// One permit stands for so many bytes.
const UNIT: usize = 1024;

/// The room there is.
#[derive(Debug)]
pub(super) struct Bodies {
    budget: Arc<Semaphore>,
    held: Counted<String>,
}

/// Room for one body, until this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _budget: OwnedSemaphorePermit,
    _one: One<String>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { budget: Arc::new(Semaphore::new(BUDGET / UNIT)), held: Counted::default() }
    }
}

impl Bodies {
    /// Room for a body of so many bytes, before any of it is read; small ones need none.
    pub(super) async fn room(&self, who: &str, bytes: usize) -> Result<Option<Box<Room>>, Problem> {
        if bytes <= BODY {
            return Ok(None);
        }
        let two = || Problem::later("two bodies of yours are being taken in already", 2);
        let one = self.held.take(who.to_owned(), OF_ONE).ok_or_else(two)?;
        let units = u32::try_from(bytes.min(BUDGET).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.budget).acquire_many_owned(units);
        let full = || Problem::later("too much is being taken in just now", 2);
        let budget = tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| full())?.map_err(|_| full())?;
        Ok(Some(Box::new(Room { _budget: budget, _one: one })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_two_and_all_have_the_budget() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let bodies = Bodies::default();
            let large = BUDGET / 8;
            let mut rooms = Vec::new();
            for who in ["a", "a", "b", "b", "c", "c", "d"] {
                rooms.push(bodies.room(who, large).await.unwrap());
            }
            let refused = bodies.room("a", large).await.unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.retry_after), (503, Some(2)));
            rooms.push(bodies.room("e", large).await.unwrap());
            let refused = bodies.room("f", large).await.unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.retry_after), (503, Some(2)));
            assert!(bodies.room("a", BODY).await.unwrap().is_none(), "small ones need no room");
            rooms.remove(0);
            assert!(bodies.room("f", large).await.unwrap().is_some());
            drop(rooms);
            assert!(bodies.held.is_empty());
            assert_eq!(bodies.budget.available_permits(), BUDGET / UNIT);
        });
    }
}
