//! Limits on how often somebody may do something: an exact sliding window, in memory or in Redis.
//!
//! A token bucket with the same numbers lets nearly twice as many through in some window; here it is never more than the
//! limit within any window of its length. Where Redis does not answer, the limit goes on in this process alone, and says so.

mod memory;
mod redis;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use redis::{Asked, RedisConnection};

use memory::Memory;
use redis::Redis;

/// At most this many within any window of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub limit: u32,
    /// Within how long.
    pub window: Duration,
}

/// What the limiter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Go on; so many are left in this window.
    Allowed {
        /// How many more would be allowed now.
        left: u32,
    },
    /// Not now.
    Later {
        /// When the next one is allowed at the earliest.
        after: Duration,
    },
}

/// Why Redis cannot be used from the start.
#[derive(Debug, Clone, thiserror::Error)]
#[error("server.limiter: {0}")]
pub struct LimiterError(String);

/// Counts per key; clones share the counts.
#[derive(Debug, Clone)]
pub struct Limiter {
    memory: Arc<Memory>,
    redis: Option<Arc<Redis>>,
    degraded: Arc<AtomicBool>,
    /// Until when Redis is not asked, because it did not answer.
    away: Arc<Mutex<Option<Instant>>>,
}

/// How long Redis is left alone after it did not answer, so that not every request waits for it.
const AWAY: Duration = Duration::from_secs(2);

impl Limiter {
    /// Counts in this process.
    pub fn memory() -> Self {
        Self { memory: Arc::default(), redis: None, degraded: Arc::default(), away: Arc::default() }
    }

    /// Counts in Redis, shared by all replicas. It need not be up yet.
    pub fn redis(connection: RedisConnection) -> Result<Self, LimiterError> {
        let redis = Redis::open(connection)?;
        let redis = Some(Arc::new(redis));
        Ok(Self { memory: Arc::default(), redis, degraded: Arc::default(), away: Arc::default() })
    }

    /// Asks Redis once for a sign of life, for what is set wrong to be told at the start.
    pub async fn asked(connection: &RedisConnection) -> Result<(), Asked> {
        redis::ask(connection).await
    }

    /// Whether Redis may be asked now: one request finds out whether it is back, the others do not wait for it.
    fn may_ask(&self) -> bool {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match *away {
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                *away = Some(Instant::now() + AWAY);
                true
            }
            None => true,
        }
    }

    fn is_away(&self, until: Option<Instant>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Takes one from a key's window, if the rate allows it.
    pub async fn take(&self, key: &str, rate: Rate) -> Taken {
        let Some(redis) = self.redis.as_ref().filter(|_| self.may_ask()) else { return self.memory.take(key, rate) };
        match redis.take(key, rate).await {
            Ok(taken) => {
                self.is_away(None);
                if self.degraded.swap(false, Ordering::Relaxed) {
                    tracing::info!("the limiter counts in Redis again");
                }
                taken
            }
            Err(error) => {
                self.is_away(Some(Instant::now() + AWAY));
                if !self.degraded.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the limiter counts in this process alone: {error}");
                }
                self.memory.take(key, rate)
            }
        }
    }

    /// Whether it counts in this process alone although it should not.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Its kind, in a word.
    pub fn kind(&self) -> &'static str {
        if self.redis.is_some() { "redis" } else { "memory" }
    }
}
