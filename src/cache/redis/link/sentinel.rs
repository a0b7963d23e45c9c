//! The master that sentinels watch.

use crate::config;
use redis::{
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
    Client, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisResult,
};

/// The server that the sentinels name.
pub(super) async fn master(target: &config::Redis) -> RedisResult<Client> {
    let config::Redis::Sentinel { sentinels, master, db, credentials } = target else {
        return Err((ErrorKind::InvalidClientConfig, "no sentinel").into());
    };
    let mut settings = RedisConnectionInfo::default().set_db(*db).set_protocol(ProtocolVersion::RESP3);
    if let Some(user) = &credentials.0 {
        settings = settings.set_username(user);
    }
    if let Some(password) = &credentials.1 {
        settings = settings.set_password(password);
    }
    let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
    let sentinels = sentinels.iter().map(String::as_str).collect();
    let mut client = SentinelClient::build(sentinels, master, Some(node), SentinelServerType::Master)?;
    client.async_get_client().await
}
