//! Counting in Redis: one script, the server's clock, one member for each that was taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ReconnectPolicy, TlsConnector};
use fred::types::scripts::Script;
use fred::types::{Builder, Value};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::{ClientConfig, RootCertStore};

use super::{LimiterError, Rate, Taken};

/// How long an answer may take: nobody waits longer for being counted.
const PATIENCE: Duration = Duration::from_millis(300);

/// Keys: the window. Arguments: length in ms, limit, a member nobody else has. Answer: allowed, left, ms until the next.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local taken = redis.call('ZCARD', KEYS[1])
if taken < limit then
  redis.call('ZADD', KEYS[1], now, ARGV[3])
  redis.call('PEXPIRE', KEYS[1], window)
  return {1, limit - taken - 1, 0}
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {0, 0, math.max(1, first[2] + window - now)}
";

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisConnection {
    /// `redis://` or `rediss://`, without a password.
    pub url: String,
    /// The password.
    pub password: Option<String>,
    /// Roots that the server's certificate is held to, for `rediss://`.
    pub roots: Option<RootCertStore>,
}

/// A client that reconnects by itself.
pub(super) struct Redis {
    client: Client,
    script: Script,
    /// Tells this process' members from those of others.
    mark: String,
    count: AtomicU64,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Redis")
    }
}

/// Why a first question to Redis got no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The password is wrong or missing.
    Password(String),
    /// Its certificate is not trusted, or it speaks no TLS.
    Tls(String),
    /// It says no for another reason.
    Other(String),
    /// It does not answer; it may later.
    Away(String),
}

/// Connects once and asks for a sign of life.
pub(super) async fn ask(to: &RedisConnection) -> Result<(), Asked> {
    let mut config = config(to.clone()).map_err(|error| Asked::Other(error.to_string()))?;
    config.fail_fast = true;
    let client = builder(config).build().map_err(|error| Asked::Other(error.to_string()))?;
    let asking = async {
        let connection = client.init().await?;
        let answer = client.ping::<()>(None).await;
        connection.abort();
        answer
    };
    match tokio::time::timeout(Duration::from_secs(4), asking).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(why(&error)),
        Err(_) => Err(Asked::Away("it gave no answer within 4 s".to_owned())),
    }
}

fn why(error: &fred::error::Error) -> Asked {
    use fred::error::ErrorKind;
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Auth => Asked::Password(text),
        ErrorKind::Tls => Asked::Tls(text),
        // rustls speaks through an error of input and output.
        ErrorKind::IO if ["InvalidData", "InvalidCertificate"].iter().any(|word| text.contains(word)) => {
            Asked::Tls(text)
        }
        ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Routing | ErrorKind::Unknown => {
            Asked::Away(text)
        }
        ErrorKind::Config
        | ErrorKind::InvalidCommand
        | ErrorKind::InvalidArgument
        | ErrorKind::Url
        | ErrorKind::Protocol
        | ErrorKind::Cluster
        | ErrorKind::Parse
        | ErrorKind::Sentinel
        | ErrorKind::NotFound
        | ErrorKind::Backpressure => Asked::Other(text),
    }
}

fn builder(config: Config) -> Builder {
    let mut builder = Builder::from_config(config);
    builder
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(3);
            connection.unresponsive.max_timeout = Some(Duration::from_secs(3));
            connection.max_command_attempts = 1;
        })
        .with_performance_config(|performance| performance.default_command_timeout = PATIENCE);
    builder
}

fn config(to: RedisConnection) -> Result<Config, LimiterError> {
    let wrong = |why: &dyn std::fmt::Display| LimiterError(why.to_string());
    if !to.url.starts_with("redis://") && !to.url.starts_with("rediss://") {
        return Err(wrong(&"the URL must begin with redis:// or rediss://"));
    }
    let mut config = Config::from_url(&to.url).map_err(|error| wrong(&error))?;
    config.fail_fast = false;
    if to.password.is_some() {
        config.password = to.password;
    }
    if let Some(roots) = to.roots {
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.tls = Some(TlsConnector::from(tls).into());
    }
    Ok(config)
}

impl Redis {
    pub(super) fn open(to: RedisConnection) -> Result<Self, LimiterError> {
        let wrong = |why: &dyn std::fmt::Display| LimiterError(why.to_string());
        let client = builder(config(to)?)
            .set_policy(ReconnectPolicy::new_exponential(0, 50, 2000, 2))
            .build()
            .map_err(|error| wrong(&error))?;
        client.connect();
        let mut random = [0_u8; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| wrong(&"the system gave no randomness"))?;
        let mark = format!("{:016x}", u64::from_be_bytes(random));
        Ok(Self { client, script: Script::from_lua(TAKE), mark, count: AtomicU64::new(0) })
    }

    pub(super) async fn take(&self, key: &str, rate: Rate) -> Result<Taken, fred::error::Error> {
        let member = format!("{}-{}", self.mark, self.count.fetch_add(1, Ordering::Relaxed));
        let window = u64::try_from(rate.window.as_millis()).unwrap_or(u64::MAX);
        let arguments: Vec<String> = vec![window.to_string(), rate.limit.to_string(), member];
        let keys: Vec<String> = vec![format!("malachor:limit:{key}")];
        let asked = self.script.evalsha_with_reload(&self.client, keys, arguments);
        let timeout = || fred::error::Error::new(fred::error::ErrorKind::Timeout, "no answer");
        let answer: Vec<Value> = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| timeout())??;
        let number = |index: usize| answer.get(index).and_then(Value::as_i64).unwrap_or(0);
        Ok(match number(0) {
            1 => Taken::Allowed { left: u32::try_from(number(1)).unwrap_or(0) },
            _ => Taken::Later { after: Duration::from_millis(u64::try_from(number(2)).unwrap_or(1).max(1)) },
        })
    }
}
