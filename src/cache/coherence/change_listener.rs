//! Who is told at once when answers may have ended: whatever keeps watched entries up to date.

use crate::name::{Namespace, Tenant};
use std::sync::{Arc, OnceLock};

/// Told of changes, under locks of the tables: it must not block, nor call them.
pub trait ChangeListener: Send + Sync {
    /// The version of this namespace and tenant has changed, or a change of it was reported.
    fn version_changed(&self, namespace: &Namespace, tenant: &Tenant);

    /// Something was purged.
    fn purged(&self);

    /// Any version may have changed.
    fn all_changed(&self);
}

/// A place for the listener, which is set once.
#[derive(Default)]
pub(super) struct ListenerSlot(OnceLock<Arc<dyn ChangeListener>>);

impl ListenerSlot {
    pub(super) fn set(&self, listener: Arc<dyn ChangeListener>) {
        drop(self.0.set(listener));
    }

    pub(super) fn get(&self) -> Option<&dyn ChangeListener> {
        self.0.get().map(AsRef::as_ref)
    }
}
