//! The masters of a cluster: one connection for commands, which finds the shard of a key, and a report connection to each.

use super::{client, listen_on, report_on, Commands, Link, OnPush, CONNECT};
use redis::{
    cluster::ClusterClient, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisResult, Value,
};
use std::{collections::BTreeSet, sync::Arc};

/// A link to every master of a cluster.
pub(super) async fn connect(
    seeds: &[String],
    prefixes: &[String],
    channel: &str,
    on_push: &OnPush,
) -> RedisResult<Link> {
    let connection = ClusterClient::builder(seeds.iter().map(String::as_str))
        .connection_timeout(CONNECT)
        .use_protocol(ProtocolVersion::RESP3)
        .retries(2)
        .build()?
        .get_async_connection()
        .await?;
    let mut commands = Commands::Cluster(connection);
    let masters = masters(&mut commands).await?;
    let settings = match seeds.first() {
        Some(seed) => seed.as_str().into_connection_info()?.redis_settings().clone(),
        None => RedisConnectionInfo::default(),
    };
    let scheme = seeds.first().and_then(|s| s.split("://").next()).unwrap_or("redis");
    let at = |master: &String| client(format!("{scheme}://{master}").as_str(), Some(settings.clone()));
    let mut reports = Vec::with_capacity(masters.len());
    for master in &masters {
        let client = at(master)?;
        reports.extend(report_on(&client, prefixes, on_push).await?);
    }
    // One master that doesn't report is one too many.
    let tracked = reports.len() == masters.len();
    // What is published on one server reaches them all.
    let channel = match masters.first() {
        Some(master) if !tracked => listen_on(&at(master)?, channel, on_push).await?,
        _ => None,
    };
    Ok(Link { commands, tracked, given_up: Arc::default(), reports, channel, masters, named_by: None })
}

/// `host:port` of every master of a cluster.
pub(super) async fn masters(commands: &mut Commands) -> RedisResult<BTreeSet<String>> {
    type Node = (String, u16);
    let slots: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(commands).await?;
    let mut masters = BTreeSet::new();
    for slot in slots {
        if let Some(Value::Array(node)) = slot.into_iter().nth(2) {
            let named = node.into_iter().take(2).collect();
            let (host, port): Node = redis::from_redis_value(Value::Array(named))?;
            masters.insert(format!("{host}:{port}"));
        }
    }
    Ok(masters)
}
