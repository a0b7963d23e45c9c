//! Rate limits that all nodes share: their buckets, kept in the store.
//!
//! One script decides on all limits of a request at once: either each allows it and counts it, or none counts
//! it. It uses the store's clock, so that those of the nodes need not agree. A bucket is one key, whose value
//! is the time at which it will be empty, in microseconds since 1970, and which expires then. See
//! `limits::gcra` for the rule. In a cluster each key is asked by itself: a limit that counted the request
//! keeps the count if another refuses it.

use super::RedisStore;
use crate::{
    name::Name,
    telemetry::labels::{StoreCall, StoreError},
};

use redis::{cmd, Cmd, ErrorKind, RedisResult, Script, ServerErrorKind};
use std::{sync::LazyLock, time::Duration};

/// Returns for each key: 1 if it allows the request, and the microseconds until its bucket is empty. Stored
/// values are rounded to whole ones, so a bucket may hold one microsecond more than its capacity.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local busy, passes, all = {}, {}, true
for i, key in ipairs(KEYS) do
  local interval, capacity = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local empty = tonumber(redis.call('GET', key)) or 0
  busy[i] = math.min(math.max(empty - now, 0), capacity)
  passes[i] = busy[i] + interval <= capacity + 1
  all = all and passes[i]
end
local told = {}
for i, key in ipairs(KEYS) do
  if all then
    busy[i] = busy[i] + tonumber(ARGV[2 * i - 1])
    redis.call('SET', key, string.format('%.0f', now + busy[i]), 'PX', math.ceil(busy[i] / 1000))
  end
  told[2 * i - 1] = passes[i] and 1 or 0
  told[2 * i] = math.floor(busy[i])
end
return told
";

/// The digest under which the store caches [`TAKE`].
static DIGEST: LazyLock<String> = LazyLock::new(|| Script::new(TAKE).get_hash().to_owned());

/// A bucket, for the store.
#[derive(Debug, Clone)]
pub struct StoreBucket<'a> {
    /// The route that the limit belongs to.
    pub route: &'a Name,
    /// The limit's name on it.
    pub limit: &'a Name,
    /// The client, in characters that need no escaping.
    pub whose: &'a str,
    /// The amount that one request adds.
    pub interval: Duration,
    /// Its capacity.
    pub capacity: Duration,
}

impl RedisStore {
    /// Counts one more request. Returns for each bucket: true if it allows the request, and the time until it
    /// is empty.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn take(&self, buckets: &[StoreBucket<'_>]) -> Result<Vec<(bool, Duration)>, StoreError> {
        let keys: Vec<String> = buckets.iter().map(|b| self.names.limit(b.route, b.limit, b.whose)).collect();
        let sizes: Vec<String> =
            buckets.iter().flat_map(|b| [b.interval, b.capacity]).map(microseconds).collect();
        // In a cluster each key has its own server.
        let at_once = if self.shards.is_one() { keys.len() } else { 1 };
        let mut told = Vec::with_capacity(keys.len());
        for (keys, sizes) in keys.chunks(at_once.max(1)).zip(sizes.chunks(2 * at_once.max(1))) {
            let Some(first) = keys.first() else { continue };
            let take = |mut commands| async move { take(&mut commands, keys, sizes).await };
            told.extend(self.call(StoreCall::Limit, first, take).await?);
        }
        Ok(told)
    }
}

async fn take(
    commands: &mut super::CommandConnection,
    keys: &[String],
    sizes: &[String],
) -> RedisResult<Vec<(bool, Duration)>> {
    let remembered = script("EVALSHA", &DIGEST, keys, sizes).query_async::<Vec<u64>>(commands).await;
    let told = match remembered {
        // A restarted server learns the script with this call.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script("EVAL", TAKE, keys, sizes).query_async(commands).await?
        }
        remembered => remembered?,
    };
    if told.len() != 2 * keys.len() {
        return Err((ErrorKind::UnexpectedReturnType, "limits").into());
    }
    Ok(told.chunks_exact(2).map(|pair| (pair[0] == 1, Duration::from_micros(pair[1]))).collect())
}

fn script(how: &str, what: &str, keys: &[String], sizes: &[String]) -> Cmd {
    let mut script = cmd(how);
    script.arg(what).arg(keys.len()).arg(keys).arg(sizes);
    script
}

/// Formats microseconds: for a bucket with a high rate an interval is a fraction of one.
fn microseconds(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    format!("{}.{:03}", nanoseconds / 1_000, nanoseconds % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_kept() {
        let of = |nanoseconds| microseconds(Duration::from_nanos(nanoseconds));
        assert_eq!(of(1), "0.001");
        assert_eq!(of(1_500), "1.500");
        assert_eq!(of(60_000_000_000), "60000000.000");
    }
}
