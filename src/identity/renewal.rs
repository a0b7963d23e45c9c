//! Reads a key set again for a token: at once if its key is unknown, but so seldom that invented tokens put
//! no load on the issuer.
//!
//! Requests ask and wait; the keeper of the key set reads it. There is at least [`MIN_PAUSE`] between two
//! readings that tokens cause: a request within it doesn't wait, and has the set read when the pause is over.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::{
    sync::{watch, Notify},
    time::{sleep, timeout, Instant},
};

/// The least time between two readings that tokens cause.
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// The longest time that a request waits for a reading.
const WAIT_TIMEOUT: Duration = Duration::from_secs(3);

/// The state shared by requests and the keeper of a key set.
#[derive(Debug, Default)]
pub struct KeyRenewal {
    told: Notify,
    state: Mutex<RenewalState>,
    /// The number of readings that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct RenewalState {
    wanted: bool,
    reading: bool,
    /// The start of the last reading that a token caused.
    caused: Option<Instant>,
}

impl RenewalState {
    fn remaining_pause(&self) -> Duration {
        self.caused.map_or(Duration::ZERO, |caused| MIN_PAUSE.saturating_sub(caused.elapsed()))
    }
}

impl KeyRenewal {
    /// Requests a reading, and waits for it. Returns true if the set was read.
    pub(super) async fn renew(&self) -> bool {
        let mut ended = self.ended.subscribe();
        let waits = {
            let mut state = self.state.lock();
            if !state.reading && !state.wanted {
                state.wanted = true;
                self.told.notify_one();
            }
            state.reading || state.remaining_pause().is_zero()
        };
        waits && timeout(WAIT_TIMEOUT, ended.changed()).await.is_ok_and(|changed| changed.is_ok())
    }

    /// Waits until a token needs the set to be read, and the pause since the last such reading is over. The
    /// keeper then has to call [`Self::reading`].
    pub async fn asked(&self) {
        loop {
            let left = {
                let mut state = self.state.lock();
                let left = state.wanted.then(|| state.remaining_pause());
                if left.is_some_and(|left| left.is_zero()) {
                    // From here on, requests wait for this reading.
                    (state.reading, state.caused) = (true, Some(Instant::now()));
                    return;
                }
                left
            };
            match left {
                Some(left) => sleep(left).await,
                None => self.told.notified().await,
            }
        }
    }

    /// Marks the set as being read until the guard is dropped.
    pub fn reading(&self) -> KeyReading<'_> {
        let mut state = self.state.lock();
        (state.wanted, state.reading) = (false, true);
        drop(state);
        KeyReading(self)
    }
}

/// A reading under way.
#[derive(Debug)]
pub struct KeyReading<'r>(&'r KeyRenewal);

impl Drop for KeyReading<'_> {
    fn drop(&mut self) {
        self.0.state.lock().reading = false;
        self.0.ended.send_modify(|ended| *ended += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    };

    fn kept(readings: &Arc<AtomicUsize>) -> Arc<KeyRenewal> {
        let (renewal, readings) = (Arc::new(KeyRenewal::default()), readings.clone());
        let keeper = renewal.clone();
        tokio::spawn(async move {
            loop {
                keeper.asked().await;
                let reading = keeper.reading();
                readings.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(20)).await;
                drop(reading);
            }
        });
        renewal
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_who_ask_wait_for_one_reading_and_later_ones_for_none() {
        let readings = Arc::new(AtomicUsize::new(0));
        let renewal = kept(&readings);
        let (one, two) = tokio::join!(renewal.renew(), renewal.renew());
        assert_eq!((one, two, readings.load(Ordering::SeqCst)), (true, true, 1));
        for _ in 0..100 {
            let began = Instant::now();
            assert!(!renewal.renew().await);
            assert!(began.elapsed() < Duration::from_millis(1));
        }
        // A reading requested within the pause is done when it is over.
        sleep(MIN_PAUSE).await;
        assert_eq!(readings.load(Ordering::SeqCst), 2);
        sleep(2 * MIN_PAUSE).await;
        assert_eq!(readings.load(Ordering::SeqCst), 2);
        assert!(renewal.renew().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_cannot_be_read_keeps_nobody_for_long() {
        let renewal = KeyRenewal::default();
        let began = Instant::now();
        assert!(!renewal.renew().await);
        assert!(began.elapsed() <= WAIT_TIMEOUT);
    }
}
