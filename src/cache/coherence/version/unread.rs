//! The versions that have to be read again, found without a look at all of them each time.

use super::{VersionSlot, VersionTable};
use crate::cache::coherence::doubt::{CoherenceDoubt, CoherenceState};

use std::sync::Arc;

/// The unread versions of the partitions that are in doubt. All slots are visited once for each partition and
/// epoch; later ones report themselves ([`VersionSlot::touch`]).
#[derive(Debug, Default)]
pub struct UnreadSlots {
    /// The partitions whose slots were visited, with the epoch.
    scanned: Vec<ScannedEpoch>,
    /// The slots that could not be read.
    left: Vec<Arc<VersionSlot>>,
}

#[derive(Debug)]
struct ScannedEpoch {
    doubt: Arc<CoherenceDoubt>,
    epoch: u64,
    coherence: CoherenceState,
}

impl ScannedEpoch {
    fn of(doubt: &Arc<CoherenceDoubt>) -> Self {
        Self { doubt: doubt.clone(), epoch: doubt.epoch(), coherence: doubt.coherence() }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.doubt, &other.doubt)
            && (self.epoch, self.coherence) == (other.epoch, other.coherence)
    }
}

impl UnreadSlots {
    /// Takes the slots that have to be read; `doubtful` are those of the partitions `all` that are in doubt.
    pub fn take(
        &mut self,
        versions: &VersionTable,
        all: &[Arc<CoherenceDoubt>],
        doubtful: &[Arc<CoherenceDoubt>],
    ) -> Vec<Arc<VersionSlot>> {
        // Read first: a slot that becomes unread later is touched, or belongs to another epoch.
        let moments: Vec<_> = doubtful.iter().map(ScannedEpoch::of).collect();
        let is_scanned = |now: &&ScannedEpoch| self.scanned.iter().any(|before| before.is(now));
        let anew: Vec<_> =
            moments.iter().filter(|now| !is_scanned(now)).map(|now| now.doubt.clone()).collect();
        let mut slots = std::mem::take(&mut self.left);
        slots.append(&mut versions.take_touched(all));
        slots.retain(|slot| slot.is_unread() && slot.is_in(doubtful) && !slot.is_in(&anew));
        if !anew.is_empty() {
            slots.append(&mut versions.unread(&anew));
        }
        self.scanned = moments;
        slots
    }

    /// Returns slots that could not be read.
    pub fn leave(&mut self, slots: Vec<Arc<VersionSlot>>) {
        self.left = slots;
    }
}
