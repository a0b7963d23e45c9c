//! The faults: what each begins and how it ends.

use crate::{
    coherence::chaos::world::World,
    support::proxy::{Proxy, Which},
};
use nix::sys::signal::Signal;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// One node.
    Node(usize),
    /// All of them.
    All,
}

/// Declares the kinds of faults with their names.
macro_rules! kinds {
    ($($kind:ident => $name:literal,)*) => {
        /// A fault, by its kind.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind { $($kind),* }

        impl Kind {
            /// All of them.
            pub(crate) const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The name in tables.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
        }
    };
}

kinds! {
    SlowCommands => "commands slower than the deadline",
    SlowReports => "reports 300 ms late",
    Stalls => "stalls of 80 ms",
    HeldCommands => "commands get no answer",
    HeldReports => "reports don't come",
    Held => "silent connections",
    Lost => "bytes vanish",
    Reset => "connections reset again and again",
    Cut => "connections cut within a message",
    HalfOpen => "half-open connections",
    Refused => "connections refused",
    RedisKilled => "Redis killed, back empty",
    RedisPaused => "Redis paused",
    Flushed => "FLUSHALL",
    Evicting => "eviction (allkeys-lru)",
    ReadOnly => "Redis takes no writes",
    Deleted => "version keys deleted",
    LogLost => "purge log deleted",
    LogSpoilt => "purge log of another type",
    NodePaused => "node paused",
    NodeRestarted => "node killed, a new one in its place",
    NodeAdded => "new node with slow reads",
}

/// One fault at one place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) whom: Whom,
}

impl Fault {
    /// Lets it begin.
    pub(crate) async fn begin(self, world: &Arc<World>) {
        let ms = Duration::from_millis;
        match self.kind {
            Kind::SlowCommands => self.on(world, |proxy| proxy.delay(Which::Commands, ms(0), ms(60))),
            Kind::SlowReports => self.on(world, |proxy| proxy.delay(Which::Reports, ms(0), ms(300))),
            Kind::Stalls => self.again(world, ms(200), move |proxy| async move {
                proxy.hold(Which::All);
                sleep(ms(80)).await;
                proxy.heal();
            }),
            Kind::HeldCommands => self.on(world, |proxy| proxy.hold(Which::Commands)),
            Kind::HeldReports => self.on(world, |proxy| proxy.hold(Which::Reports)),
            Kind::Held => self.on(world, |proxy| proxy.hold(Which::All)),
            Kind::Lost => self.on(world, |proxy| proxy.lose(Which::All)),
            Kind::Reset => self.again(world, ms(150), move |proxy| async move { proxy.reset(Which::All) }),
            Kind::Cut => self.again(world, ms(150), move |proxy| async move { proxy.cut(Which::All, 7) }),
            Kind::HalfOpen => self.on(world, |proxy| proxy.half_open(Which::All)),
            Kind::Refused => self.on(world, Proxy::refuse),
            Kind::RedisKilled => world.redis.lock().await.kill(),
            Kind::RedisPaused => world.redis.lock().await.pause(),
            Kind::Flushed => world.redis_again(ms(300), &[&["FLUSHALL"]]),
            Kind::Evicting => world.press_memory().await,
            Kind::ReadOnly => world.redis_once(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await,
            Kind::Deleted => {
                let keys = world.version_keys();
                let words: Vec<&str> =
                    std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
                world.redis_again(ms(100), &[&words]);
            }
            Kind::LogLost => world.redis_again(ms(200), &[&["DEL", World::LOG]]),
            Kind::LogSpoilt => {
                world.redis_once(&["DEL", World::LOG]).await;
                world.redis_once(&["SET", World::LOG, "nothing"]).await;
            }
            Kind::NodePaused => self.signal(world, Signal::SIGSTOP),
            Kind::NodeRestarted => {
                for node in self.nodes(world) {
                    world.restart(node);
                }
            }
            Kind::NodeAdded => {
                world.proxies[world.spare()].delay(Which::Commands, ms(0), ms(60));
                world.restart(world.spare());
            }
        }
    }

    /// Ends it.
    pub(crate) async fn end(self, world: &Arc<World>) {
        world.quiet();
        match self.kind {
            Kind::RedisKilled => world.redis.lock().await.restart().await,
            Kind::RedisPaused => world.redis.lock().await.resume(),
            Kind::Evicting => world.release_memory().await,
            Kind::ReadOnly => world.redis_once(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await,
            Kind::LogSpoilt => world.redis_once(&["DEL", World::LOG]).await,
            Kind::NodePaused => self.signal(world, Signal::SIGCONT),
            _ => {}
        }
        world.proxies.iter().for_each(|proxy| proxy.heal());
    }

    fn nodes(self, world: &World) -> std::ops::Range<usize> {
        match self.whom {
            Whom::Node(node) => node..node + 1,
            Whom::All => 0..world.spare(),
        }
    }

    fn on(self, world: &World, disturb: impl Fn(&Proxy)) {
        world.proxies[self.nodes(world)].iter().for_each(|proxy| disturb(proxy));
    }

    fn again<F>(
        self,
        world: &Arc<World>,
        pause: Duration,
        disturb: impl Fn(Arc<Proxy>) -> F + Send + Copy + 'static,
    ) where
        F: std::future::Future<Output = ()> + Send,
    {
        for proxy in &world.proxies[self.nodes(world)] {
            let proxy = proxy.clone();
            world.background(async move {
                loop {
                    disturb(proxy.clone()).await;
                    sleep(pause).await;
                }
            });
        }
    }

    fn signal(self, world: &World, signal: Signal) {
        for node in self.nodes(world) {
            world.signal(node, signal);
        }
    }
}
