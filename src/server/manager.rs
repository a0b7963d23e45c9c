//! Notifications for systemd (`sd_notify(3)`): ready, reloading, stopping, and, if `WatchdogSec` is set, a
//! regular sign of life. Without systemd this does nothing.

use sd_notify::NotifyState;

/// The state of the gateway, as systemd is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceStage {
    /// It serves requests with its current configuration.
    Ready,
    /// It reads its configuration again.
    Reloading,
    /// It drains connections.
    Stopping,
}

/// Notifies the service manager.
pub(crate) fn notify_manager(stage: ServiceStage) {
    let told = match stage {
        ServiceStage::Ready => sd_notify::notify(&[NotifyState::Ready]),
        ServiceStage::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        ServiceStage::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = told {
        tracing::warn!(%error, "the notification of the service manager failed");
    }
}

/// Sends a sign of life to the service manager, twice per watchdog interval. Returns at once without a
/// watchdog.
pub(super) async fn notify_watchdog() {
    let Some(wanted) = sd_notify::watchdog_enabled() else { return };
    let mut pace = tokio::time::interval(wanted / 2);
    loop {
        pace.tick().await;
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            tracing::warn!(%error, "the notification of the watchdog failed");
        }
    }
}
