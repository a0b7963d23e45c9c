//! Background tasks.

use std::future::Future;

/// Spawns a task whose panic is logged.
pub(super) fn spawn_watched(name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let task = tokio::spawn(work);
    // Ends with the task it watches, and can't panic itself.
    drop(tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(%error, name, "a background task failed");
        }
    }));
}
