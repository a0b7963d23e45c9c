//! The masters of a cluster, and the hash slots of each.

use super::protocol::{client, is_refusal, silent, CONNECT};
use futures_util::future::join_all;
use redis::{
    aio::ConnectionLike, cmd, AsyncConnectionConfig, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    RedisResult, Value,
};
use std::time::Duration;

/// The time in which a node must list the masters.
const LIST: Duration = Duration::from_millis(250);

/// The state of a cluster according to one of its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::cache::redis) struct ClusterTopology {
    /// First and last hash slot, and the `host:port` of their master; sorted.
    pub(in crate::cache::redis) ranges: Vec<(u16, u16, String)>,
    /// The newest configuration epoch; 0 if the node doesn't report it.
    pub(in crate::cache::redis) epoch: u64,
    /// The node does not reach most of the masters: a failover may have happened without it.
    pub(in crate::cache::redis) is_cut_off: bool,
}

/// The nodes that a configuration names, and the way to connect to each node.
#[derive(Debug, Clone)]
pub(in crate::cache::redis) struct ClusterSeeds {
    urls: Vec<String>,
    scheme: String,
    settings: RedisConnectionInfo,
}

impl ClusterSeeds {
    /// The nodes at these URLs: the user and the scheme of the first are used for all nodes.
    pub(in crate::cache::redis) fn new(urls: Vec<String>) -> Self {
        let first = urls.first().map_or("", String::as_str);
        let settings =
            first.into_connection_info().map(|info| info.redis_settings().clone()).unwrap_or_default();
        let scheme = first.split("://").next().unwrap_or("redis").to_owned();
        Self { urls, scheme, settings }
    }

    /// The URL of the node at `host:port`, and the user there.
    pub(in crate::cache::redis) fn node(&self, address: &str) -> (String, RedisConnectionInfo) {
        (format!("{}://{address}", self.scheme), self.settings.clone())
    }

    /// Returns the answers of the seeds and these nodes, each over a new connection.
    ///
    /// # Errors
    /// If none of them answers.
    pub(in crate::cache::redis) async fn ask(
        &self,
        addresses: Vec<String>,
    ) -> RedisResult<Vec<ClusterTopology>> {
        let of_seed = |url: &String| (url.clone(), self.settings.clone());
        let nodes = self.urls.iter().map(of_seed).chain(addresses.iter().map(|address| self.node(address)));
        let said = join_all(nodes.map(|(url, settings)| async move {
            let client = client(url.as_str(), Some(settings))?;
            let host = client.get_connection_info().addr().to_string();
            let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT));
            list_masters(&client.get_multiplexed_async_connection_with_config(&config).await?, &host).await
        }))
        .await;
        let (heard, failed): (Vec<_>, Vec<_>) = said.into_iter().partition(Result::is_ok);
        match (heard.is_empty(), failed.into_iter().find_map(Result::err)) {
            (true, Some(error)) => Err(error),
            _ => Ok(heard.into_iter().flatten().collect()),
        }
    }
}

/// The topology to use, from the answers of several nodes: the newest of those that reach most masters.
pub(in crate::cache::redis) fn newest_topology(
    said: impl IntoIterator<Item = ClusterTopology>,
) -> Option<ClusterTopology> {
    let believed = said.into_iter().filter(|topology| !topology.is_cut_off && !topology.ranges.is_empty());
    // Of equals the first.
    believed.reduce(|best, other| if other.epoch > best.epoch { other } else { best })
}

/// Returns the topology according to the node at `address` (`host:port`).
///
/// # Errors
/// If it doesn't answer.
pub(in crate::cache::redis) async fn list_masters<C: ConnectionLike + Clone>(
    connection: &C,
    address: &str,
) -> RedisResult<ClusterTopology> {
    let (mut first, mut second) = (connection.clone(), connection.clone());
    let (mut slots, mut nodes) = (cmd("CLUSTER"), cmd("CLUSTER"));
    slots.arg("SLOTS");
    nodes.arg("NODES");
    let both = async {
        tokio::join!(
            slots.query_async::<Vec<Vec<Value>>>(&mut first),
            nodes.query_async::<String>(&mut second)
        )
    };
    let (slots, nodes) = tokio::time::timeout(LIST, both).await.map_err(|_| silent())?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let mut ranges =
        slots?.into_iter().map(|range| read_range(range, host)).collect::<RedisResult<Vec<_>>>()?;
    ranges.sort();
    let (epoch, is_cut_off) = match nodes {
        Ok(nodes) => read_nodes(&nodes),
        // The user lacks the permission.
        Err(error) if is_refusal(&error) => (0, false),
        Err(error) => return Err(error),
    };
    Ok(ClusterTopology { ranges, epoch, is_cut_off })
}

/// Parses first slot, last slot, the master as host, port and more, then its replicas. A missing host means
/// the node that was asked.
fn read_range(range: Vec<Value>, asked: &str) -> RedisResult<(u16, u16, String)> {
    let bad = || RedisError::from((redis::ErrorKind::UnexpectedReturnType, "CLUSTER SLOTS"));
    let mut parts = range.into_iter();
    let mut number = || redis::from_redis_value::<u16>(parts.next().unwrap_or(Value::Nil));
    let (first, last) = (number()?, number()?);
    let Some(Value::Array(master)) = parts.next() else { return Err(bad()) };
    let mut master = master.into_iter();
    let host: Option<String> = redis::from_redis_value(master.next().unwrap_or(Value::Nil))?;
    let port: u16 = redis::from_redis_value(master.next().unwrap_or(Value::Nil))?;
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.to_owned());
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    Ok((first, last, format!("{host}:{port}")))
}

/// The newest epoch, and true if half of the masters or more can't be reached: from lines of id, address,
/// flags, master, ping, pong, epoch, link and slots.
fn read_nodes(text: &str) -> (u64, bool) {
    let (mut epoch, mut masters, mut failing) = (0, 0, 0);
    for line in text.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, _, flags, _, _, _, of_node, _, slots @ ..] = &fields[..] else { continue };
        epoch = of_node.parse().unwrap_or(0).max(epoch);
        let has = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
        if has("master") && !slots.is_empty() {
            masters += 1;
            failing += usize::from(has("fail") || has("fail?"));
        }
    }
    (epoch, failing * 2 >= masters && failing > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_tell_the_epoch_and_whether_most_are_reached() {
        let line = |flags: &str, epoch: u64, slots: &str| {
            format!("id 127.0.0.1:1@2 {flags} - 0 0 {epoch} connected {slots}\n")
        };
        let [well, away, failed] =
            ["master", "master,fail?", "master,fail"].map(|flags| line(flags, 3, "0-99"));
        let replica = line("slave,fail", 9, "");
        let spare = line("master,fail?", 0, "");
        for (text, epoch, is_cut_off) in [
            (format!("{well}{well}{well}"), 3, false),
            (format!("{well}{well}{failed}{replica}{spare}"), 9, false),
            (format!("{well}{away}{failed}"), 3, true),
            (format!("{well}{away}"), 3, true),
            (line("myself,master", 4, "0-5 [7->-x]"), 4, false),
            ("nonsense".to_owned(), 0, false),
            (String::new(), 0, false),
        ] {
            assert_eq!(read_nodes(&text), (epoch, is_cut_off), "{text}");
        }
    }

    #[test]
    fn the_newest_view_of_a_majority_counts() {
        let said = |port: u16, epoch, is_cut_off| ClusterTopology {
            ranges: vec![(0, 9, format!("127.0.0.1:{port}"))],
            epoch,
            is_cut_off,
        };
        let found =
            newest_topology([said(1, 3, false), said(2, 5, false), said(3, 9, true), said(4, 5, false)]);
        assert_eq!(found, Some(said(2, 5, false)));
        assert_eq!(newest_topology([said(3, 9, true), ClusterTopology::default()]), None);
    }

    #[test]
    fn a_master_without_a_host_is_the_one_that_was_asked() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |host: Value| {
            let master = Value::Array(vec![host, Value::Int(7001), text("id")]);
            read_range(vec![Value::Int(0), Value::Int(99), master], "10.0.0.5")
        };
        for (host, address) in [
            (text("10.0.0.7"), "10.0.0.7:7001"),
            (text("::1"), "[::1]:7001"),
            (text(""), "10.0.0.5:7001"),
            (Value::Nil, "10.0.0.5:7001"),
        ] {
            assert_eq!(range(host).unwrap(), (0, 99, address.to_owned()));
        }
        assert!(read_range(vec![Value::Int(0), Value::Int(99)], "a").is_err());
    }
}
