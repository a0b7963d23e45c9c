//! Rate limits that all nodes share: their buckets, kept by the store.
//!
//! One script decides on all limits of a request at once: either each lets it through, and each takes it, or none takes
//! it. It goes by the store's clock, so that those of the nodes need not agree. A bucket is one key, whose value is the
//! time at which it will be empty, in microseconds since 1970, and which expires then. See `limits::gcra` for the rule.
//! In a cluster the keys lie apart, and each is asked by itself: what one took is not given back where another refuses.

use super::Redis;
use crate::{
    name::Name,
    telemetry::labels::{StoreCall, StoreError},
};
use redis::{cmd, Cmd, ErrorKind, RedisResult, Script, ServerErrorKind};
use std::{sync::LazyLock, time::Duration};

/// For each key: whether it lets the request through, and for how many microseconds its bucket is not empty. What is kept
/// is rounded to whole ones, hence the one that a bucket holds more than it should.
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

/// Under which the store remembers [`TAKE`].
static DIGEST: LazyLock<String> = LazyLock::new(|| Script::new(TAKE).get_hash().to_owned());

/// A bucket, as the store has to know it.
#[derive(Debug, Clone)]
pub struct Bucket<'a> {
    /// The route that the limit belongs to.
    pub route: &'a Name,
    /// The limit's name on it.
    pub limit: &'a Name,
    /// Whose: made of characters that need no escaping.
    pub whose: &'a str,
    /// What one request pours in.
    pub interval: Duration,
    /// What it holds.
    pub capacity: Duration,
}

impl Redis {
    /// One more request. For each bucket: whether it lets the request through, and for how long it is not empty.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn take(&self, buckets: &[Bucket<'_>]) -> Result<Vec<(bool, Duration)>, StoreError> {
        let keys: Vec<String> = buckets.iter().map(|b| self.names.limit(b.route, b.limit, b.whose)).collect();
        let sizes: Vec<String> =
            buckets.iter().flat_map(|b| [b.interval, b.capacity]).map(microseconds).collect();
        // In a cluster each lies where it lies.
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
    commands: &mut super::Commands,
    keys: &[String],
    sizes: &[String],
) -> RedisResult<Vec<(bool, Duration)>> {
    let remembered = script("EVALSHA", &DIGEST, keys, sizes).query_async::<Vec<u64>>(commands).await;
    let told = match remembered {
        // A server that has just begun learns it with this call.
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

/// Of a bucket that takes many in a second an interval is a fraction.
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
