//! What systemd is told where it started the gateway (`sd_notify(3)`): when it is ready, reloads, stops, and, where
//! `WatchdogSec` is set, that it is alive. Elsewhere this does nothing.

use sd_notify::NotifyState;

/// How far the gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It answers, by the configuration that it has.
    Ready,
    /// It reads its configuration anew.
    Reloading,
    /// It drains.
    Stopping,
}

/// Tells the service manager.
pub fn tell(stage: Stage) {
    let told = match stage {
        Stage::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Stage::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        Stage::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager was not told");
    }
}

/// Tells the service manager that the gateway is alive, twice as often as it wants to hear it. Returns at once where it
/// doesn't want to.
pub(super) async fn keep_alive() {
    let Some(wanted) = sd_notify::watchdog_enabled() else { return };
    let mut pace = tokio::time::interval(wanted / 2);
    loop {
        pace.tick().await;
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            tracing::warn!(%error, "the watchdog was not told");
        }
    }
}
