//! Signs of life of the stores, asked for at most every two seconds whoever asks.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::state::State;

/// How long a store may take: whoever asks decides within seconds where to send people.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(2);

/// Which stores are up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Up {
    pub(super) store: bool,
    pub(super) worm: bool,
}

/// The last answer.
#[derive(Debug, Default)]
pub(super) struct Signs(Mutex<Option<(Instant, Up)>>);

impl Signs {
    pub(super) async fn up(&self, state: &State) -> Up {
        // Held while asking: the others wait for the same answer.
        let mut last = self.0.lock().await;
        if let Some((_, up)) = last.filter(|(at, _)| at.elapsed() < FRESH) {
            return up;
        }
        let (store, worm) = tokio::join!(
            in_time(async { state.fleet.ping().await.map_err(|error| error.to_string()) }),
            in_time(async { state.worm.ping().await.map_err(|error| error.to_string()) })
        );
        let up = Up { store, worm };
        *last = Some((Instant::now(), up));
        up
    }
}

async fn in_time(sign: impl Future<Output = Result<(), String>>) -> bool {
    match tokio::time::timeout(PATIENCE, sign).await {
        Ok(Ok(())) => true,
        Ok(Err(why)) => {
            tracing::warn!("a store does not answer: {why}");
            false
        }
        Err(_) => false,
    }
}
